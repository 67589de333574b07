//! Elections: pre-vote, vote, and what a candidate counts (paper, section 5.2 and 5.4.1; thesis, sections 4.2.3 and
//! 9.6).

use crate::limits::MAX_TERM;
use crate::membership::Voter;
use crate::peer::Ballot;
use crate::quorum::Poll;
use crate::raft::{Raft, Role};
use crate::{Effects, LogIndex, Message, Term};

/// This node's candidacy in the current term. It outlasts its timeout: asking for pre-votes again changes nothing, and
/// a vote that comes late, of a voter whose disk is slow, still counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Campaign {
    /// The vote for itself is durable: it counts, and the others may be asked.
    voted: bool,
    /// Every voter answered, some of them recovering, and this log is the greatest. Such a candidate needs the vote of
    /// all: each voter then says for itself, at the time of its vote, that it holds nothing this log lacks.
    all_answered: bool,
}

impl Campaign {
    /// Whether the others were asked: it stands, and its own vote is durable.
    pub(crate) fn is_asking(&self) -> bool {
        self.voted
    }
}

impl Raft {
    /// Whether an election that this node starts could end well: it is a voter, its disk answers, its terms are not used
    /// up, and its log holds what its state machine has applied. (If no log in the cluster holds it any more, that is an operator's
    /// to decide.)
    pub(crate) fn may_ask_for_votes(&self) -> bool {
        self.membership.counts(self.config.id)
            && !self.needs_base
            && self.installing.is_none()
            && self.disk_is_prompt()
            && self.hard.term.0 < MAX_TERM
            && self.holds_what_is_committed(self.log.last(), self.log.last_term())
    }

    /// The election timeout ran out: asks who would vote for it, changing nothing yet. A candidate that got no answer
    /// asks again the same way, in the same term: a partitioned node does not drive its term up (hazard H11).
    pub(crate) fn ask_for_pre_votes(&mut self, fx: &mut Effects) {
        self.role = Role::PreCandidate;
        self.leader = None;
        self.announce(fx);
        for peer in &mut self.peers {
            peer.ballot = None;
        }
        for peer in 0..self.peers.len() {
            self.ask_for_vote(peer, fx);
        }
        self.count_pre_votes(fx);
    }

    /// Asks one peer for what this node's role wants of it.
    pub(crate) fn ask_for_vote(&mut self, peer: usize, fx: &mut Effects) {
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        let message = match self.role {
            Role::PreCandidate => Message::PreVote { term: Term(self.hard.term.0 + 1), last_index, last_term },
            Role::Candidate if self.campaign.voted => {
                Message::Vote { term: self.hard.term, last_index, last_term, all_answered: self.campaign.all_answered }
            }
            _ => return,
        };
        self.send(peer, message, fx);
    }

    /// A voter's answer to the pre-vote under way: this node itself would vote for itself.
    fn ballot(&self, voter: &Voter) -> Option<Ballot> {
        self.value_of(voter, Some(Ballot::Granted), |peer| peer.ballot)
    }

    fn count_pre_votes(&mut self, fx: &mut Effects) {
        let granted = self.membership.poll(|voter| self.ballot(voter).map(|ballot| ballot == Ballot::Granted));
        if !self.hard.recovering && granted == Poll::Won {
            return self.campaign(false, fx);
        }
        // The exception: every voter has answered, none that is whole refuses, and of those that recover none has more.
        let harmless = self.membership.all(|voter| match self.ballot(voter) {
            Some(Ballot::Granted) => true,
            Some(Ballot::Recovering { last_term, last_index }) => (last_term, last_index) <= (self.log.last_term(), self.log.last()),
            Some(Ballot::Refused) | None => false,
        });
        if harmless {
            self.campaign(true, fx);
        }
    }

    /// Enters the next term and votes for itself; the others are asked once that is durable.
    fn campaign(&mut self, all_answered: bool, fx: &mut Effects) {
        self.role = Role::Candidate;
        self.hard.enter(Term(self.hard.term.0 + 1));
        self.hard.vote_for(self.config.id);
        self.campaign = Campaign { voted: false, all_answered };
        self.following = crate::follower::Following::new(self.commit_here(), self.now);
        for peer in &mut self.peers {
            peer.voted = false;
        }
        self.wait_for_election();
        self.announce(fx);
        self.persist(fx);
    }

    /// The newest hard state is durable; a candidate's is its vote for itself.
    pub(crate) fn self_vote_durable(&mut self, fx: &mut Effects) {
        if self.role != Role::Candidate || self.campaign.voted {
            return;
        }
        self.campaign.voted = true;
        for peer in 0..self.peers.len() {
            self.ask_for_vote(peer, fx);
        }
        self.count_votes(fx);
    }

    fn count_votes(&mut self, fx: &mut Effects) {
        let voted = |voter: &Voter| self.value_of(voter, self.campaign.voted, |peer| peer.voted);
        let won = match self.campaign.all_answered {
            true => self.membership.all(voted),
            false => self.membership.poll(|voter| voted(voter).then_some(true)) == Poll::Won,
        };
        // Others' votes can only be there after its own, which is durable before they are asked.
        if won && self.campaign.voted {
            self.become_leader(fx);
        }
    }

    /// Whether every candidate is refused for now: this node leads, or heard from a leader a moment ago, or started
    /// a moment ago and may have heard from one before.
    fn is_sticky(&self) -> bool {
        self.role == Role::Leader || self.now < self.sticky_until
    }

    /// Whether an election is under way that another one would only be in the way of: this node's term or vote is on
    /// its way to the disk; or, where disks are slow, it has voted, not for this peer, and does not wait for the
    /// outcome in vain yet.
    fn is_awaiting_an_election(&self, peer: usize) -> bool {
        let other = self.hard.vote.is_some() && self.hard.vote != self.peers.get(peer).map(|peer| peer.id);
        let waits = other && self.leader.is_none() && self.role != Role::PreCandidate && self.now < self.election_at;
        !self.hard.is_durable() || self.is_disk_slow() && waits
    }

    /// Whether nothing in this node's hard state and log speaks against a vote in `term`, which is not below its own.
    fn could_vote(&self, peer: usize, term: Term, last_index: LogIndex, last_term: Term) -> bool {
        let candidate = self.peers.get(peer).map(|peer| peer.id);
        let free = term > self.hard.term || (self.leader.is_none() && (self.hard.vote.is_none() || self.hard.vote == candidate));
        free && self.holds_what_is_committed(last_index, last_term) && self.log.is_covered_by(last_term, last_index)
    }

    /// Whether a log that ends with (`last`, `last_term`) can hold all that this node knows to be committed. Where this one's own log
    /// lost some of it, its state machine still knows better: whoever led without it would put other entries where
    /// that has already been.
    fn holds_what_is_committed(&self, last: LogIndex, last_term: Term) -> bool {
        self.commit <= last && self.applied.term <= last_term
    }

    /// "Would you vote for me?"
    pub(crate) fn pre_vote(&mut self, peer: usize, term: Term, last_index: LogIndex, last_term: Term, fx: &mut Effects) {
        if !self.credible_term(term) {
            return;
        }
        let free = !self.is_sticky() && !self.is_awaiting_an_election(peer) && !self.hard.recovering;
        let granted = free && term >= self.hard.term && self.could_vote(peer, term, last_index, last_term);
        let reply = Message::PreVoteReply {
            // A refusal tells a node that is behind the term to ask in (hazard H09).
            term: if granted { term } else { self.hard.term },
            granted,
            last_index: self.log.last(),
            last_term: self.log.last_term(),
            // A recovering node that would not vote for this log even if all had answered says so: it refuses.
            recovering: self.hard.recovering && !self.needs_base && self.holds_what_is_committed(last_index, last_term),
        };
        self.answer(peer, reply, fx);
    }

    /// The answer to a pre-vote.
    pub(crate) fn pre_vote_reply(
        &mut self,
        peer: usize,
        term: Term,
        granted: bool,
        last_index: LogIndex,
        last_term: Term,
        recovering: bool,
        fx: &mut Effects,
    ) {
        if !granted && term > self.hard.term {
            if self.believes(term, fx) {
                self.follow(term, None, fx);
            }
            return;
        }
        // A late answer finds no pre-candidate, or one that asks in another term (hazard H17).
        if self.role != Role::PreCandidate || (granted && term.0 != self.hard.term.0 + 1) {
            return;
        }
        let ballot = match (granted, recovering) {
            (true, _) => Ballot::Granted,
            (false, true) => Ballot::Recovering { last_term, last_index },
            (false, false) => Ballot::Refused,
        };
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.ballot = Some(ballot);
        }
        self.count_pre_votes(fx);
    }

    /// RequestVote.
    pub(crate) fn vote(&mut self, peer: usize, term: Term, last_index: LogIndex, last_term: Term, all_answered: bool, fx: &mut Effects) {
        if !self.credible_term(term) {
            return;
        }
        let heard = term >= self.hard.term && !self.is_sticky();
        if heard && term > self.hard.term {
            self.follow(term, None, fx);
        }
        // A vote rests on term, vote and where the log ends. Nothing of that is lost with what the log presupposes, unless it is in
        // doubt as well: a majority whose snapshots are gone elects whoever has one.
        let settled = !self.hard.recovering || all_answered && !self.needs_base;
        let granted = heard && settled && self.could_vote(peer, term, last_index, last_term);
        if granted && let Some(candidate) = self.peers.get(peer) {
            self.hard.vote_for(candidate.id);
            self.wait_for_election();
        }
        let reply = Message::VoteReply { term: self.hard.term, granted };
        self.answer(peer, reply, fx);
    }

    /// The answer to a vote request.
    pub(crate) fn vote_reply(&mut self, peer: usize, term: Term, granted: bool, fx: &mut Effects) {
        if term > self.hard.term {
            if self.believes(term, fx) {
                self.follow(term, None, fx);
            }
            return;
        }
        // Only its own candidacy in this term can have led to it, unless that has ended: this node follows, or leads.
        let stands = self.campaign.is_asking() && matches!(self.role, Role::Candidate | Role::PreCandidate);
        if stands && granted && term == self.hard.term {
            if let Some(peer) = self.peers.get_mut(peer) {
                peer.voted = true;
            }
            self.count_votes(fx);
        }
    }
}

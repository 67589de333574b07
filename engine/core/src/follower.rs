//! What a follower owes its leader: heartbeat answers, acknowledgements, signs of life while the disk works.

use crate::limits::MAX_INDEX;
use crate::raft::{Raft, Role};
use crate::{Effects, LogIndex, Message, Term, Time};

/// What a follower knows of the leader of its term, and owes it. Begins anew with every term.
#[derive(Clone, Debug, Default)]
pub(crate) struct Following {
    /// Highest index known to equal this leader's log. Commit never passes it (hazard H24).
    pub(crate) verified: LogIndex,
    /// Highest commit index that this leader named.
    pub(crate) leader_commit: LogIndex,
    /// First entry of the leader's own term, zero until it named one in this session.
    pub(crate) term_start: LogIndex,
    /// What the leader named as its commit index when this session opened.
    pub(crate) session_commit: LogIndex,
    /// An acknowledgement is owed.
    acknowledge: bool,
    /// A refused frame is to be reported: the `prev` that did not fit.
    pub(crate) rejected: Option<LogIndex>,
    /// A frame was dropped as too many await the disk: its `prev`, to be reported once there is room.
    pub(crate) crowded: Option<LogIndex>,
    /// The highest round heard from this leader in this session: what every answer echoes.
    round: u64,
    /// When the leader last got a sign of life.
    answered_at: Time,
}

impl Following {
    /// A follower of a term whose leader is not known: what is committed equals every leader's log.
    pub(crate) fn new(committed: LogIndex, now: Time) -> Following {
        Following { verified: committed, answered_at: now, ..Following::default() }
    }

    /// The leader's session is a new one: what it named in the old one is void.
    pub(crate) fn session_changed(&mut self) {
        self.term_start = LogIndex(0);
        self.session_commit = LogIndex(0);
        self.round = 0;
        self.rejected = None;
        self.crowded = None;
    }

    /// Owes the leader an acknowledgement at the next flush.
    pub(crate) fn acknowledge(&mut self) {
        self.acknowledge = true;
    }
}

impl Raft {
    /// A peer speaks as the leader of `term`, in its `round`. Returns whether it is to be listened to.
    pub(crate) fn hear_leader(&mut self, peer: usize, term: Term, round: u64, fx: &mut Effects) -> bool {
        if !self.believes(term, fx) {
            return false;
        }
        let Some(speaker) = self.peers.get_mut(peer) else { return false };
        let id = speaker.id;
        if term < self.hard.term {
            speaker.outdated = true;
            self.any_outdated = true;
            return false;
        }
        let rival = term == self.hard.term && (self.role == Role::Leader || self.leader.is_some_and(|leader| leader != id));
        if rival {
            self.refuse();
            return false;
        }
        if term > self.hard.term || self.role != Role::Follower || self.leader.is_none() {
            self.follow(term, Some(id), fx);
        }
        self.wait_for_election();
        self.sticky_until = self.now.plus_ns(self.config.election_min_ns);
        self.excused = false;
        self.following.round = self.following.round.max(round);
        true
    }

    /// The leader lives.
    pub(crate) fn heartbeat(
        &mut self,
        peer: usize,
        term: Term,
        commit: LogIndex,
        round: u64,
        term_start: LogIndex,
        session_commit: LogIndex,
        fx: &mut Effects,
    ) {
        if term_start.0 > MAX_INDEX || session_commit.0 > MAX_INDEX {
            return self.refuse();
        }
        if !self.hear_leader(peer, term, round, fx) {
            return;
        }
        self.hear_commit(commit);
        let following = &mut self.following;
        following.term_start = term_start;
        following.session_commit = session_commit;
        // Round zero only brings a commit index: nobody waits for its answer.
        if round > 0 {
            self.following.answered_at = self.now;
            self.answer(peer, self.heartbeat_answer(), fx);
        }
    }

    /// The leader names its commit index. What lies past the end of this log is not remembered: whatever brings more of
    /// the log names it again, and what was never true must not hold for entries to come.
    pub(crate) fn hear_commit(&mut self, commit: LogIndex) {
        self.following.leader_commit = self.following.leader_commit.max(commit.min(self.log.last()));
    }

    fn heartbeat_answer(&self) -> Message {
        Message::HeartbeatReply {
            term: self.hard.term,
            round: self.following.round,
            recovering: self.hard.recovering,
            needs_base: self.needs_base,
            last_index: if self.needs_base { self.log.base().index } else { self.log.last() },
        }
    }

    /// Tells those that spoke as leaders of an older term of the newer one, once a turn.
    pub(crate) fn tell_outdated(&mut self, fx: &mut Effects) {
        if !core::mem::take(&mut self.any_outdated) {
            return;
        }
        for at in 0..self.peers.len() {
            let told = self.peers.get_mut(at).is_some_and(|peer| core::mem::take(&mut peer.outdated));
            if told {
                self.answer(at, self.heartbeat_answer(), fx);
            }
        }
    }

    /// What of this log is durable and known to equal the leader's.
    pub(crate) fn acceptable(&self) -> LogIndex {
        self.following.verified.min(self.log.durable())
    }

    /// The follower's part of a flush: at most one answer of each kind.
    pub(crate) fn answer_leader(&mut self, fx: &mut Effects) {
        if self.role != Role::Follower {
            return;
        }
        let Some(peer) = self.leader.and_then(|leader| self.peer_at(leader)) else { return };
        let (term, round) = (self.hard.term, self.following.round);
        // What its log presupposes is lost: it vouches for nothing behind that.
        if !self.needs_base && core::mem::take(&mut self.following.acknowledge) {
            self.following.answered_at = self.now;
            self.answer(peer, Message::Accepted { term, round, matched: self.acceptable() }, fx);
        }
        if self.log.has_room() {
            let crowded = self.following.crowded.take();
            self.following.rejected = self.following.rejected.or(crowded);
        }
        if let Some(prev) = self.following.rejected.take() {
            self.answer(peer, self.rejection(prev), fx);
        }
        if self.received_due().is_some_and(|due| due <= self.now) {
            self.following.answered_at = self.now;
            let index = self.following.verified.min(self.log.last());
            self.answer(peer, Message::Received { term, round, index }, fx);
        }
    }

    /// Follower: when the leader next needs a sign of life, if frames await the disk.
    pub(crate) fn received_due(&self) -> Option<Time> {
        let leader = self.peer_at(self.leader?)?;
        let open = self.peers.get(leader).is_some_and(|peer| peer.session.is_some());
        let waiting = open && self.role == Role::Follower && self.log.is_writing();
        waiting.then(|| self.following.answered_at.plus_ns(self.config.heartbeat_ns))
    }

    /// The report of a frame that did not fit, with the term run to skip (paper, section 5.3).
    fn rejection(&self, prev: LogIndex) -> Message {
        let last_index = self.log.last();
        let at = prev.min(last_index);
        let (conflict_term, conflict_first) = match self.log.term(at) {
            crate::log::EntryTerm::Known(term) => (term, self.log.run_start(at)),
            // Not known: what is committed fits for certain.
            _ => (Term(0), self.commit_here().next()),
        };
        Message::Rejected { term: self.hard.term, round: self.following.round, prev, last_index, conflict_term, conflict_first }
    }
}

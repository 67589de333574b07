//! Leading: taking office, the no-op, sealed batches, heartbeats.

use crate::raft::{Raft, Role};
use crate::{Effect, Effects, FrameMeta, LogIndex, Message, Term, Time};

/// What a leader keeps for its term.
#[derive(Clone, Debug)]
pub(crate) struct Leading {
    /// When it took office.
    pub(crate) since: Time,
    /// Silence counts from here: when it took office, or was last excused.
    pub(crate) floor: Time,
    /// Its no-op, the first entry of its term; zero until it stands in the log.
    pub(crate) term_start: LogIndex,
    /// More has become durable, here or at a follower, since the commit index was last moved: nothing else moves it.
    pub(crate) durable_news: bool,
    /// The no-op asked for and not yet sealed.
    noop: Option<FrameMeta>,
    /// The present round (see `round.rs`).
    round: u64,
}

impl Leading {
    pub(crate) fn new(now: Time) -> Leading {
        Leading { since: now, floor: now, term_start: LogIndex(0), durable_news: false, noop: None, round: 0 }
    }

    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// The round that the next heartbeat begins.
    pub(crate) fn next_round(&self) -> u64 {
        self.round + 1
    }
}

impl Raft {
    /// A candidate with enough votes, its own durable, takes office.
    pub(crate) fn become_leader(&mut self, fx: &mut Effects) {
        assert!(self.campaign.is_asking() && self.hard.vote == Some(self.config.id), "only a candidate wins");
        assert!(self.commit <= self.log.last(), "a leader's log holds all that is committed (leader completeness)");
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.leading = Leading::new(self.now);
        let (next, now, commit) = (self.log.last().next(), self.now, self.commit);
        for peer in &mut self.peers {
            peer.progress.restart(next, now);
            peer.session_commit = commit;
            peer.heartbeat_at = None;
            peer.needs_base = false;
            peer.offered_at = None;
        }
        self.announce(fx);
        self.want_noop(fx);
    }

    /// Asks for the no-op that lets earlier terms' entries commit (paper, section 8), once there is room for it.
    fn want_noop(&mut self, fx: &mut Effects) {
        if self.leading.term_start.0 == 0
            && self.leading.noop.is_none()
            && let Some(frame) = self.frame_of(1)
        {
            self.leading.noop = Some(frame);
            fx.push(Effect::SealNoop { frame });
        }
    }

    /// The node sealed a batch. One of a term that is over gets no effect: it is void.
    ///
    /// # Panics
    /// If it is of this term and not what was said: two payloads could take one place (hazard H35).
    pub(crate) fn sealed(&mut self, frame: FrameMeta, fx: &mut Effects) {
        if self.role != Role::Leader || frame.term != self.hard.term {
            return;
        }
        assert_eq!(self.frame_of(frame.count), Some(frame), "a batch is sealed as next_frame or SealNoop said, and when it said so");
        if self.leading.term_start.0 == 0 {
            assert_eq!(self.leading.noop.take(), Some(frame), "the no-op comes first");
            self.leading.term_start = frame.first;
        }
        let write = self.next_write();
        self.log.append(write, frame.range(), frame.term, self.now);
        fx.push(Effect::AppendFrame { write, range: frame.range() });
    }

    /// The leader's part of a flush: the no-op if it still lacks, frames, then heartbeats for whom no frames go.
    pub(crate) fn lead(&mut self, fx: &mut Effects) {
        self.want_noop(fx);
        let round = self.leading.next_round();
        for peer in 0..self.peers.len() {
            self.replicate(peer, fx);
            self.send_heartbeat(peer, round, fx);
        }
    }

    fn send_heartbeat(&mut self, at: usize, round: u64, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(at).filter(|peer| peer.session.is_some()) else { return };
        let due = peer.heartbeat_due(self.heartbeat_ns) <= self.now;
        let commit = self.commit.min(peer.progress.matched());
        // Commit moved on and no frame carries the news. Under load the next frame will; a message of its own, before each
        // frame, would cost a wake-up on both sides. So it is told if none came for a while, and nobody waits for an
        // answer.
        if commit <= peer.progress.told_commit || peer.progress.sending.is_some() {
            peer.news_at = None;
        } else {
            peer.news_at.get_or_insert(self.now);
        }
        let news = peer.news_due(self.config.news_ns).is_some_and(|at| at <= self.now);
        if !due && !news {
            return;
        }
        peer.news_at = None;
        peer.progress.told_commit = peer.progress.told_commit.max(commit);
        if due {
            peer.heartbeat_at = Some(self.now);
            self.leading.round = round;
        }
        let session_commit = peer.session_commit;
        let message = Message::Heartbeat {
            term: self.hard.term,
            commit,
            round: if due { round } else { 0 },
            term_start: self.leading.term_start,
            session_commit,
        };
        self.send(at, message, fx);
    }

    /// An answer of a follower, which echoes `round`. Returns whether it is one to this leader, in its term; a greater
    /// term ends it.
    pub(crate) fn follower_answers(&mut self, peer: usize, term: Term, round: u64, fx: &mut Effects) -> bool {
        if term > self.hard.term {
            if self.believes(term, fx) {
                self.follow(term, None, fx);
            }
            return false;
        }
        let counts = self.role == Role::Leader && term == self.hard.term;
        if counts && let Some(peer) = self.peers.get_mut(peer) {
            peer.heard = self.now;
            self.excused = false;
            if round <= self.leading.round {
                peer.progress.echoed = peer.progress.echoed.max(round);
            } else {
                // Not begun yet: of its answer nothing else is in doubt.
                self.refuse();
            }
        }
        counts
    }
}

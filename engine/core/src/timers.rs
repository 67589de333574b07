//! Deadlines: when the core wants to be ticked, and what has run out by then.

use crate::limits::HUNG_DISK_TIMEOUTS;
use crate::peer::Peer;
use crate::raft::{Raft, Role};
use crate::{Effect, Effects, Time};

impl Raft {
    /// Draws a fresh election timeout from now.
    pub(crate) fn wait_for_election(&mut self) {
        let (min_ns, max_ns) = self.election_timeouts_ns();
        let timeout_ns = self.rng.between(min_ns, max_ns);
        self.waits_since = self.now;
        self.election_at = self.now.plus_ns(timeout_ns);
    }

    /// Lets heartbeats be no further apart than `interval_ns`, whatever the configuration says: a follower with a short
    /// election timeout would not stay one. The last call holds; `u64::MAX` lets the configuration be.
    pub fn limit_heartbeat(&mut self, interval_ns: u64) {
        self.heartbeat_ns = self.config.heartbeat_ns.min(interval_ns.max(1));
    }

    /// The earliest of all deadlines.
    pub(crate) fn next_deadline(&self) -> Time {
        if self.role == Role::Leader {
            let heartbeats = self.peers.iter().filter(|peer| peer.session.is_some());
            let due = |peer: &Peer| {
                let (heartbeat, news) = (peer.heartbeat_due(self.heartbeat_ns), peer.news_due(self.config.news_ns));
                heartbeat.min(news.unwrap_or(heartbeat))
            };
            let heartbeat = heartbeats.map(due).min();
            heartbeat.unwrap_or(Time(u64::MAX)).min(self.condemned_at())
        } else {
            let received = self.received_due().unwrap_or(Time(u64::MAX));
            received.min(self.condemned_at())
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, fx: &mut Effects) {
        let due = self.condemned_at();
        let disk_hung = self.role == Role::Leader && self.disk_hung_at().is_some_and(|at| at <= self.now);
        if self.now < due || (!disk_hung && self.excuse_lateness(due)) {
            return;
        }
        self.excused = false;
        if self.role == Role::Leader {
            self.follow(self.hard.term, None, fx);
            return;
        }
        self.wait_for_election();
        self.look_up_installed(fx);
        if self.may_ask_for_votes() && self.log_holds_what_was_applied(fx) {
            self.ask_for_pre_votes(fx);
        }
    }

    /// Whether the entry that the state machine had applied last when the node started stands in this log, as far as it
    /// can be looked up. Where another one does, a leader's log may put that right, so the node waits for one; unless it
    /// is the only voter: nobody else can.
    fn log_holds_what_was_applied(&mut self, fx: &mut Effects) -> bool {
        let applied = self.applied;
        if applied.index <= self.log.base().index {
            return true;
        }
        match self.term_or_ask(applied.index, fx) {
            Some(term) if term == applied.term => true,
            Some(term) => {
                if self.is_alone() {
                    fx.push(Effect::Diverged { applied, term });
                }
                false
            }
            None => false,
        }
    }

    /// When silence has a consequence: a leader steps down, anyone else starts an election. Not while this node's own
    /// term and vote are on their way to the disk: it is this one then that is silent.
    fn condemned_at(&self) -> Time {
        if self.role == Role::Leader {
            let never = Time(u64::MAX);
            self.quorum_lost_at().unwrap_or(never).min(self.disk_hung_at().unwrap_or(never))
        } else if self.hard.is_saving() {
            Time(u64::MAX)
        } else {
            self.election_at
        }
    }

    /// A tick that comes late by more than a heartbeat says that this node was not running: what the others sent
    /// meanwhile may still be queued, so it waits once more (hazard H96). Once: a node that is always late still
    /// elects and steps down.
    fn excuse_lateness(&mut self, due: Time) -> bool {
        if self.excused || self.is_alone() || self.now.since(due) <= self.config.heartbeat_ns {
            return false;
        }
        self.excused = true;
        self.leading.floor = self.now;
        self.wait_for_election();
        true
    }

    /// Leader: when it will have gone a whole election timeout without a quorum (check-quorum; thesis, section 6.2).
    /// `None` where it is the quorum.
    fn quorum_lost_at(&self) -> Option<Time> {
        if self.is_alone() {
            return None;
        }
        let quorum = self.reached_by_quorum(self.now, |peer| peer.heard).unwrap_or(self.now);
        Some(quorum.max(self.leading.floor).plus_ns(self.election_max_ns()))
    }

    /// Leader: when its oldest write will have been outstanding for too long to go on leading (hazard H97). `None`
    /// where nothing can be committed without this disk, whoever leads: to step down would only tell callers that
    /// the outcome is unknown.
    fn disk_hung_at(&self) -> Option<Time> {
        // A leader whose log has no room even for its no-op cannot lead either; another one may have room.
        let speechless = self.leading.term_start.0 == 0;
        let since = if speechless { self.leading.since } else { self.log.writing_since()?.max(self.leading.since) };
        if self.membership.needs(self.config.id) {
            return None;
        }
        Some(since.plus_ns(HUNG_DISK_TIMEOUTS.saturating_mul(self.election_max_ns())))
    }

    /// Whether this node's disk answers well enough to stand for election.
    pub(crate) fn disk_is_prompt(&self) -> bool {
        let oldest = self.log.writing_since();
        self.hard.is_durable() && oldest.is_none_or(|since| self.now.since(since) < self.election_max_ns())
    }
}

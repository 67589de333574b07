//! The commit index: how a leader moves it, and how far a follower believes it.

use heapless::Vec;

use crate::limits::MAX_VOTERS;
use crate::quorum;
use crate::raft::{Raft, Role};
use crate::{Effect, Effects, LogIndex};

impl Raft {
    /// Moves the commit index as far as it goes and tells the node.
    pub(crate) fn advance_commit(&mut self, fx: &mut Effects) {
        let reached = match self.role {
            Role::Leader => self.committed_by_quorum(),
            _ => self.committed_by_leader(),
        };
        if reached > self.commit {
            assert!(reached <= self.log.last(), "only entries that stand are committed");
            self.commit = reached;
            fx.push(Effect::Committed { index: reached });
        }
    }

    /// What a majority holds durably, this node counted by its own disk alone (hazard H36): only once that reaches an
    /// entry of the leader's own term (paper, section 5.4.2; hazard H01).
    fn committed_by_quorum(&self) -> LogIndex {
        let followers = self.peers.iter().map(|peer| peer.progress.matched());
        let mut durable: Vec<LogIndex, MAX_VOTERS> = followers.chain([self.log.durable()]).collect();
        let reached = quorum::reached_by_majority(&mut durable).unwrap_or_default();
        let term_start = self.leading.term_start;
        if term_start.0 > 0 && reached >= term_start { reached } else { LogIndex(0) }
    }

    /// What the leader named, as far as this log is known to equal the leader's and is durable here (hazards H24, H25).
    /// Not before the leader's term is durable here: what was applied in a term that is forgotten would be measured
    /// by the leader of an older one.
    fn committed_by_leader(&self) -> LogIndex {
        if !self.hard.is_durable() {
            return LogIndex(0);
        }
        self.following.leader_commit.min(self.acceptable())
    }
}

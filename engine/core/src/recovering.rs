//! Recovering: a node whose log may have lost what it once acknowledged neither campaigns nor votes until it holds
//! it again. It heals by ordinary replication.

use crate::raft::{Raft, Role};

impl Raft {
    /// Ends the recovering state where its end is reached.
    ///
    /// A follower: its durable log, equal to the leader's, holds the leader's first entry of its term, hence all that
    /// was committed in terms before, and the commit index that the leader named when this incarnation's session
    /// opened, hence all that the leader may have counted an older acknowledgement of this node for. A leader (which
    /// it became by the exception, with every voter's vote): its first entry is committed.
    pub(crate) fn finish_recovering(&mut self) {
        if !self.hard.recovering || self.needs_base {
            return;
        }
        let recovered = match self.role {
            Role::Leader => {
                let start = self.leading.term_start;
                start.0 > 0 && start <= self.commit && start <= self.log.durable()
            }
            Role::Follower => {
                let (start, named) = (self.following.term_start, self.following.session_commit);
                // What it has applied lies below the leader's first entry; but a leader of a term that is over might be the one.
                start.0 > 0 && start.max(named).max(self.commit) <= self.acceptable()
            }
            Role::PreCandidate | Role::Candidate => false,
        };
        if recovered {
            self.hard.recovered();
        }
    }
}

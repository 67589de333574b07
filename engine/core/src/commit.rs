//! The commit index: how a leader moves it, and how far a follower believes it.

use crate::membership::{Place, Voter};
use crate::peer::Peer;
use crate::raft::{Raft, Role};
use crate::{Effect, Effects, LogIndex};

impl Raft {
    /// Moves the commit index as far as it goes and tells the node.
    pub(crate) fn advance_commit(&mut self, fx: &mut Effects) {
        let reached = match self.role {
            Role::Leader if core::mem::take(&mut self.leading.durable_news) => self.committed_by_quorum(),
            Role::Leader => return,
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
        let durable = self.log.durable();
        let reached = self.reached_by_quorum(durable, |peer| peer.progress.matched()).unwrap_or_default();
        let term_start = self.leading.term_start;
        if term_start.0 > 0 && reached >= term_start { reached } else { LogIndex(0) }
    }

    /// The greatest value that a majority of the voters has reached: this node's is `own`.
    pub(crate) fn reached_by_quorum<T: Ord + Copy + Default>(&self, own: T, of: impl Fn(&Peer) -> T) -> Option<T> {
        self.membership.reached(|voter| self.value_of(voter, own, &of))
    }

    /// A voter's value: this node's is `own`; the default of one that has no slot.
    pub(crate) fn value_of<T: Default>(&self, voter: &Voter, own: T, of: impl Fn(&Peer) -> T) -> T {
        match voter.place {
            Place::Own => own,
            Place::Slot(at) => self.peers.get(usize::from(at)).map(of).unwrap_or_default(),
        }
    }

    /// What the leader named, as far as this log is known to equal the leader's and is durable here (hazards H24, H25).
    /// Not before the leader's term is durable here: what was applied in a term that is forgotten would be measured
    /// by the leader of an older one.
    fn committed_by_leader(&self) -> LogIndex {
        // What its log presupposes has to be applied first; where a snapshot is needed, that is nowhere.
        if !self.hard.is_durable() || self.needs_base {
            return LogIndex(0);
        }
        self.following.leader_commit.min(self.acceptable())
    }
}

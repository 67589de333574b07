//! Term, vote and the recovering mark: durable before any answer that rests on them (paper, figure 2).

use crate::raft::Raft;
use crate::{Effect, Effects, NodeId, Term, WriteId};

/// The hard state in memory, and how far the disk is behind it.
#[derive(Clone, Debug)]
pub(crate) struct HardState {
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    pub(crate) recovering: bool,
    /// Changed since the last write was asked for.
    changed: bool,
    /// The newest write asked for, until it is durable. A newer one covers all older ones: whatever an older one
    /// promised holds in the newer state too.
    outstanding: Option<WriteId>,
}

impl HardState {
    pub(crate) fn new(term: Term, vote: Option<NodeId>, recovering: bool) -> HardState {
        HardState { term, vote, recovering, changed: false, outstanding: None }
    }

    /// Enters a greater term, in which nobody has the vote yet.
    pub(crate) fn enter(&mut self, term: Term) {
        assert!(term > self.term, "terms only grow");
        self.term = term;
        self.vote = None;
        self.changed = true;
    }

    /// Votes, for good, in the current term.
    pub(crate) fn vote_for(&mut self, node: NodeId) {
        assert!(self.vote.is_none_or(|vote| vote == node), "one vote a term");
        self.changed |= self.vote.is_none();
        self.vote = Some(node);
    }

    /// The node has recovered.
    pub(crate) fn recovered(&mut self) {
        self.changed |= self.recovering;
        self.recovering = false;
    }

    /// The write that an answer has to wait for.
    pub(crate) fn outstanding(&self) -> Option<WriteId> {
        self.outstanding
    }

    /// Whether the state in memory is durable.
    pub(crate) fn is_durable(&self) -> bool {
        !self.changed && self.outstanding.is_none()
    }
}

impl Raft {
    /// Asks for what changed in the hard state to be made durable, in one record.
    pub(crate) fn persist(&mut self, fx: &mut Effects) {
        if !self.hard.changed {
            return;
        }
        let write = self.next_write();
        self.hard.changed = false;
        self.hard.outstanding = Some(write);
        fx.push(Effect::PersistHardState { write, term: self.hard.term, vote: self.hard.vote, recovering: self.hard.recovering });
    }

    /// A hard-state write is durable.
    pub(crate) fn hard_state_durable(&mut self, write: WriteId, fx: &mut Effects) {
        if self.hard.outstanding.is_some_and(|newest| newest <= write) {
            self.hard.outstanding = None;
            self.self_vote_durable(fx);
        }
    }
}

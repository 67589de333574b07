//! Term, vote and the recovering mark: durable before any answer that rests on them (paper, figure 2).

use crate::raft::Raft;
use crate::{Effect, Effects, NodeId, Term, Time, WriteId};

/// The hard state in memory, and how far the disk is behind it.
#[derive(Clone, Debug)]
pub(crate) struct HardState {
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    pub(crate) recovering: bool,
    /// Changed since the last write was asked for.
    changed: bool,
    /// Term or vote did: others may be told nothing that rests on them.
    binding: bool,
    /// The newest write asked for that has a new term or vote, until it is durable. A newer one covers all older ones:
    /// whatever an older one promised holds in the newer state too.
    outstanding: Option<WriteId>,
    /// Since when there has been one.
    saving_since: Time,
}

impl HardState {
    pub(crate) fn new(term: Term, vote: Option<NodeId>, recovering: bool) -> HardState {
        HardState { term, vote, recovering, changed: false, binding: false, outstanding: None, saving_since: Time(0) }
    }

    /// Enters a greater term, in which nobody has the vote yet.
    pub(crate) fn enter(&mut self, term: Term) {
        assert!(term > self.term, "terms only grow");
        self.term = term;
        self.vote = None;
        (self.changed, self.binding) = (true, true);
    }

    /// Votes, for good, in the current term.
    pub(crate) fn vote_for(&mut self, node: NodeId) {
        assert!(self.vote.is_none_or(|vote| vote == node), "one vote a term");
        self.binding |= self.vote.is_none();
        self.changed |= self.binding;
        self.vote = Some(node);
    }

    /// The node has recovered. Nothing that it says waits for the disk to know: if that forgets it, the node recovers
    /// once more.
    pub(crate) fn recovered(&mut self) {
        self.changed |= self.recovering;
        self.recovering = false;
    }

    /// The write that an answer has to wait for.
    pub(crate) fn outstanding(&self) -> Option<WriteId> {
        self.outstanding
    }

    /// Whether term and vote as they are in memory are durable.
    pub(crate) fn is_durable(&self) -> bool {
        !self.binding && self.outstanding.is_none()
    }

    /// Whether a term or vote is on its way to the disk.
    pub(crate) fn is_saving(&self) -> bool {
        self.outstanding.is_some()
    }

    /// A write is durable. Since when a term or vote was on its way to the disk, if one was.
    pub(crate) fn written(&mut self, write: WriteId) -> Option<Time> {
        let newest = self.outstanding?;
        self.outstanding = self.outstanding.filter(|_| newest > write);
        Some(self.saving_since)
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
        if core::mem::take(&mut self.hard.binding) {
            if self.hard.outstanding.is_none() {
                self.hard.saving_since = self.now;
            }
            self.hard.outstanding = Some(write);
        }
        fx.push(Effect::PersistHardState { write, term: self.hard.term, vote: self.hard.vote, recovering: self.hard.recovering });
    }
}

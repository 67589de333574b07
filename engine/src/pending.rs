//! The leader's sealed batches whose callers still wait: which ticket belongs to which index.

use std::collections::VecDeque;

use kontiki_core::{FrameMeta, IndexRange, LogIndex, Time};
use kontiki_mem::{Batch, Outcome, Resolver};

use crate::limits::MAX_PENDING_BATCHES;

#[derive(Debug)]
struct PendingBatch {
    meta: FrameMeta,
    sealed: Time,
    /// Entries from here on are committed already, or their tickets are resolved.
    tickets: Batch,
}

/// Oldest first; indexes ascend.
#[derive(Debug)]
pub(crate) struct Pending {
    batches: VecDeque<PendingBatch>,
}

impl Pending {
    pub(crate) fn new() -> Pending {
        Pending { batches: VecDeque::with_capacity(MAX_PENDING_BATCHES) }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.batches.len() < MAX_PENDING_BATCHES
    }

    pub(crate) fn push(&mut self, meta: FrameMeta, sealed: Time, tickets: Batch) {
        self.batches.push_back(PendingBatch { meta, sealed, tickets });
    }

    /// The oldest batch, if it begins in `range`; `None` if the frame's proposals were not taken here, or
    /// their callers have their answer.
    pub(crate) fn first_in(&self, range: IndexRange) -> Option<FrameMeta> {
        self.batches.front().map(|b| b.meta).filter(|m| m.first >= range.from && m.first <= range.to)
    }

    /// Takes the oldest batch: its tickets and when it was sealed.
    pub(crate) fn pop(&mut self) -> Option<(Batch, Time)> {
        self.batches.pop_front().map(|b| (b.tickets, b.sealed))
    }

    /// Leadership is lost: every caller whose entry is past `commit` learns that its outcome is unknown.
    /// Batches wholly committed stay, for apply to answer.
    pub(crate) fn lose(&mut self, commit: LogIndex, resolver: &mut Resolver) {
        while self.batches.back().is_some_and(|b| b.meta.last() > commit) {
            let Some(batch) = self.batches.pop_back() else { break };
            let known = (commit.0 + 1).saturating_sub(batch.meta.first.0) as usize;
            for &ticket in batch.tickets.tickets().iter().skip(known) {
                resolver.resolve(ticket, Outcome::Unknown, &[]);
            }
            if known > 0 {
                self.batches.push_back(batch);
                break;
            }
        }
        resolver.flush();
    }
}

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

    /// A snapshot takes the place of everything up to `upto`: nobody will know what these proposals came to.
    pub(crate) fn skip(&mut self, upto: LogIndex, resolver: &mut Resolver) {
        while self.batches.front().is_some_and(|b| b.meta.first <= upto) {
            let Some(mut batch) = self.batches.pop_front() else { break };
            for entry in 0..batch.tickets.len() {
                resolver.resolve_one(&mut batch.tickets, entry, Outcome::Unknown, &[]);
            }
        }
        resolver.flush();
    }

    /// Leadership is lost: every caller whose entry is past `commit` learns that its outcome is unknown.
    /// Batches wholly committed stay, for apply to answer.
    pub(crate) fn lose(&mut self, commit: LogIndex, resolver: &mut Resolver) {
        while self.batches.back().is_some_and(|b| b.meta.last() > commit) {
            let Some(mut batch) = self.batches.pop_back() else { break };
            let known = (commit.0 + 1).saturating_sub(batch.meta.first.0) as usize;
            for entry in known..batch.tickets.len() {
                resolver.resolve_one(&mut batch.tickets, entry, Outcome::Unknown, &[]);
            }
            if known > 0 {
                self.batches.push_back(batch);
                break;
            }
        }
        resolver.flush();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use kontiki_core::Term;
    use kontiki_mem::{Hold, OpenBatch, Ring, Ticket, Tickets};

    /// Batches of two entries each, from index 1 on, and all their callers' tickets.
    fn pending(batches: u64, slots: usize) -> (Pending, Vec<Ticket>) {
        let (batch, mut ring) =
            (OpenBatch::new(Tickets::new(slots, 64), 64, 4096 - 64, 4, MAX_PENDING_BATCHES), Ring::new(1 << 16, 16).unwrap());
        let holder = Hold::new((), batch.records());
        let (mut pending, mut all) = (Pending::new(), Vec::new());
        for n in 0..batches {
            batch.open(ring.reserve(4096).unwrap()).unwrap();
            for _ in 0..2 {
                let mut ticket = holder.take().unwrap();
                batch.propose(&[], b"x", &mut ticket);
                all.push(ticket);
            }
            assert!(batch.seal());
            let (_, side) = batch.poll_sealed().unwrap();
            assert!(pending.has_room());
            let meta = FrameMeta { term: Term(1), first: LogIndex(2 * n + 1), count: 2, prev_term: Term(1) };
            pending.push(meta, Time(n), side);
        }
        (pending, all)
    }

    fn range(from: u64, to: u64) -> IndexRange {
        IndexRange { from: LogIndex(from), to: LogIndex(to) }
    }

    /// Who waits for an entry past the commit index learns that nobody knows; who waits for one before it hears from
    /// apply.
    #[test]
    fn lost_leadership() {
        for commit in 0..=6 {
            let (mut pending, all) = pending(3, 16);
            pending.lose(LogIndex(commit), &mut Resolver::new());
            for (at, ticket) in all.iter().enumerate() {
                let unknown = at as u64 + 1 > commit;
                assert_eq!(ticket.poll_outcome(), unknown.then_some(Outcome::Unknown), "index {} of {commit}", at + 1);
            }
            let kept = std::iter::from_fn(|| pending.pop()).count() as u64;
            assert_eq!(kept, commit.div_ceil(2), "batches with a committed entry stay");
        }
    }

    #[test]
    fn the_oldest_first() {
        let (mut pending, all) = pending(2, 16);
        let first = |pending: &Pending, from, to| pending.first_in(range(from, to)).map(|meta| meta.first.0);
        assert_eq!([(1, 1), (1, 9), (2, 9)].map(|(from, to)| first(&pending, from, to)), [Some(1), Some(1), None]);
        let (mut batch, sealed) = pending.pop().unwrap();
        assert_eq!((batch.len(), sealed), (2, Time(0)));
        Resolver::new().resolve_one(&mut batch, 1, Outcome::Unknown, &[]);
        assert_eq!([&all[0], &all[1]].map(|ticket| ticket.poll_outcome()), [None, Some(Outcome::Unknown)]);
        assert_eq!([(1, 2), (1, 3), (3, 3), (4, 9)].map(|(from, to)| first(&pending, from, to)), [None, Some(3), Some(3), None]);
    }

    #[test]
    fn as_many_as_there_may_be() {
        let (mut pending, _tickets) = pending(MAX_PENDING_BATCHES as u64, 2 * MAX_PENDING_BATCHES);
        assert!(!pending.has_room());
        assert!(pending.pop().is_some() && pending.has_room());
    }
}

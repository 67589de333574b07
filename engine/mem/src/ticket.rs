//! One ticket, as its caller holds it: waited for, polled or awaited; and how a batch comes to know it.
//!
//! It looks for its outcome in its own slot first ([`tickets`](crate::tickets)), then in the record of its batch
//! ([`records`](crate::records)).

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
#[cfg(not(loom))]
use std::time::{Duration, Instant};

use crate::hold::Hold;
use crate::park;
use crate::records::{Place, Placed, Records, Tables};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::tickets::{Outcome, Slab, TicketId, flag};

/// One proposal's outcome to come: wait for it, poll it, or await it. One thread at a time uses it (`Send`, not
/// `Sync`), since it holds the waker of one. Dropping it unresolved gives the slot back once it is resolved; at once,
/// if it belongs to batches and was put into none.
///
/// What it rests on is chosen where its [`Hold`] is made, and is no caller's to give (E0432: there is no such trait):
///
/// ```compile_fail,E0432
/// use kontiki_mem::Holder;
/// ```
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<kontiki_mem::Ticket>();
/// ```
pub struct Ticket<T = ()> {
    hold: Hold<T>,
    id: TicketId,
    /// Where, once it was put into a batch.
    placed: Placed,
    not_sync: PhantomData<Cell<()>>,
}

impl<T> Hold<T> {
    /// Takes a slot; `None` at the bound (Busy), or after the engine's end. Never allocates, never blocks.
    #[inline]
    pub fn take(&self) -> Option<Ticket<T>> {
        let slot = self.kept().slab().free.pop()?;
        Some(Ticket::at(self.clone(), slot))
    }

    /// Takes up to `most` slots at once, and appends their tickets; how many there were. Allocates only if `tickets`
    /// must grow.
    pub fn take_many<K: From<Ticket<T>>>(&self, most: usize, tickets: &mut Vec<K>) -> usize {
        let slab = self.kept().slab();
        let most = most.min(slab.slots.len());
        tickets.reserve(most);
        let mut holds = self.more(most);
        slab.free.pop_many(most, |slot| {
            if let Some(hold) = holds.one() {
                tickets.push(Ticket::at(hold, slot).into());
            }
        })
    }
}

impl<T> Ticket<T> {
    #[inline]
    fn at(hold: Hold<T>, slot: u32) -> Ticket<T> {
        // Relaxed: `pop` acquired what `free` stored before it pushed the slot.
        let state = hold.kept().slab().slots[slot as usize].state.load(Ordering::Relaxed);
        Ticket { id: TicketId::new(flag::generation(state), slot), hold, placed: Placed::NOWHERE, not_sync: PhantomData }
    }

    /// Where its batch's outcome stands.
    #[inline]
    fn record(&self) -> Option<(&Records, Place)> {
        self.hold.kept().records().zip(self.placed.get())
    }

    /// The log index, if the batch as a whole was applied, and this ticket was not resolved by itself.
    #[inline]
    fn index(&self) -> Option<u64> {
        let (records, place) = self.record()?;
        let index = records.index(place)?;
        // If it was resolved by itself, its reference to the record was let go, and that may tell of another batch by now. Then
        // what was acquired with the word there includes the outcome in the slot.
        let state = self.state().load(Ordering::Relaxed);
        (state & (flag::DONE | flag::ABANDONED) != flag::DONE).then_some(index)
    }

    /// The value that is kept together with the slab.
    pub fn holder(&self) -> &T {
        &self.hold
    }

    pub(crate) fn hold(&self) -> &Hold<T> {
        &self.hold
    }

    /// Its place and its log index, if its outcome stands there, and nowhere else, and no waker was left in its slot.
    #[inline]
    pub(crate) fn found(&self) -> Option<(Place, u64)> {
        // Relaxed: its own thread is the one that sets it.
        let waited = self.state().load(Ordering::Relaxed) & flag::WAITING != 0;
        let place = self.placed.get().filter(|_| !waited)?;
        self.index().map(|index| (place, index))
    }

    #[inline]
    pub(crate) fn slab(&self) -> &Slab {
        self.hold.kept().slab()
    }

    /// It is noted at `place` of `tables`, and will look there for its outcome; false if it cannot, since they are not
    /// of its slab's batches, or it was noted before.
    #[inline]
    pub(crate) fn place(&mut self, tables: &Arc<Tables>, place: Place) -> bool {
        let here = self.placed.get().is_none() && self.hold.kept().records().is_some_and(|records| records.are_of(tables));
        if here {
            self.placed = place.into();
        }
        here
    }

    fn state(&self) -> &AtomicU64 {
        &self.slab().slots[self.id.slot() as usize].state
    }

    /// The ticket's name, for the engine to resolve it by.
    pub fn id(&self) -> TicketId {
        self.id
    }

    /// Gives back a ticket whose proposal was never written (so that nobody will resolve it). One that was put into a
    /// batch is no more than dropped.
    pub fn cancel(self) {
        if self.placed.get().is_none() {
            self.settle();
        }
    }

    /// Nobody else resolves it: the drop that follows frees the slot.
    fn settle(&self) {
        let _ = Slab::settle(&self.slab().slots[self.id.slot() as usize], self.id, 0, flag::DONE);
    }

    /// The outcome; `None` while unresolved.
    #[inline]
    pub fn poll_outcome(&self) -> Option<Outcome> {
        if let Some((outcome, _)) = self.slab().outcome(self.id.slot()) {
            return Some(outcome);
        }
        if let Some(index) = self.index() {
            return Some(Outcome::Applied { index });
        }
        // Acquire, and looked at once more: it may have been resolved since, or the engine be gone.
        let state = self.state().load(Ordering::Acquire);
        match state & (flag::DONE | flag::ABANDONED) {
            0 => None,
            flag::DONE => self.slab().outcome(self.id.slot()).map(|(outcome, _)| outcome),
            _ => Some(Outcome::Unknown),
        }
    }

    /// The outcome, or else leaves `waker` to be woken by it.
    fn poll_or_leave(&self, waker: &Waker) -> Option<Outcome> {
        if let Some(outcome) = self.poll_outcome() {
            return Some(outcome);
        }
        let slot = self.id.slot();
        if !self.slab().waker(slot).as_ref().is_some_and(|left| left.will_wake(waker)) {
            // Outside the lock: a waker's clone is foreign code, and so is its drop.
            let mine = waker.clone();
            let replaced = self.slab().waker(slot).replace(mine);
            drop(replaced);
        }
        // Release: a resolver that sees the flag finds the waker. One that does not has set `DONE` before, which is
        // seen below.
        self.state().fetch_or(flag::WAITING, Ordering::Release);
        if let Some((records, place)) = self.record() {
            records.wait(place, slot);
        }
        self.poll_outcome()
    }

    /// Blocks the thread until resolved. Allocates on a thread's first wait, never after.
    pub fn wait(&self) -> Outcome {
        if let Some(outcome) = self.poll_outcome() {
            return outcome;
        }
        park::with_waker(|waker| {
            loop {
                if let Some(outcome) = self.poll_or_leave(waker) {
                    return outcome;
                }
                park::park();
            }
        })
    }

    /// Blocks the thread until resolved, but for `limit` at most; `None` if it is unresolved then.
    #[cfg(not(loom))]
    pub fn wait_timeout(&self, limit: Duration) -> Option<Outcome> {
        if let Some(outcome) = self.poll_outcome() {
            return Some(outcome);
        }
        let Some(deadline) = Instant::now().checked_add(limit) else { return Some(self.wait()) };
        park::with_waker(|waker| {
            loop {
                if let Some(outcome) = self.poll_or_leave(waker) {
                    return Some(outcome);
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                std::thread::park_timeout(left);
            }
        })
    }

    /// The reply's bytes; empty until applied.
    pub fn reply(&self) -> &[u8] {
        let slab = self.slab();
        if let Some((_, len)) = slab.outcome(self.id.slot()) {
            if len == 0 {
                return &[];
            }
            slab.witness[self.id.slot() as usize].shared();
            // SAFETY: `DONE` is set, so the reply is written and will not be again before the slot is free, which this
            // ticket prevents as long as it lives.
            return unsafe { slab.replies.slice(self.id.slot() as usize * slab.reply_stride, len) };
        }
        if self.index().is_none() {
            return &[];
        }
        let Some((records, place)) = self.record() else { return &[] };
        // SAFETY: the batch has an outcome and this ticket none of its own: it has its reference, and lets go of it in its
        // drop.
        unsafe { records.reply(place) }
    }
}

impl<T> AsMut<Ticket<T>> for Ticket<T> {
    fn as_mut(&mut self) -> &mut Ticket<T> {
        self
    }
}

impl<T> Future for Ticket<T> {
    type Output = Outcome;

    /// Once ready, ready for ever.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.poll_or_leave(cx.waker()) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Ticket<T> {
    #[inline]
    fn drop(&mut self) {
        // Acquire: the resolver's part comes before the slot's reuse. (A reply is read only once done, and then it is this
        // thread that frees the slot.) Once `DONE` is set nobody else changes the state.
        let mut before = self.state().load(Ordering::Acquire);
        if before & flag::DONE == 0 {
            match self.record() {
                Some((records, place)) => {
                    if self.index().is_some() {
                        records.release(place.table, 1);
                        return drop(self.slab().free(self.id, before));
                    }
                    before = self.state().fetch_or(flag::DROPPED, Ordering::AcqRel);
                    if before & flag::DONE == 0 && records.dropped(place) {
                        // The batch's outcome came just now, and its resolver has not seen that this was dropped.
                        if self.slab().resolve(self.id, Outcome::Unknown, &[]).0 {
                            records.release(place.table, 1);
                        }
                    }
                }
                // Only a batch answers its like, and this is in none.
                None if self.hold.kept().records().is_some() => {
                    self.settle();
                    before |= flag::DONE;
                }
                None => before = self.state().fetch_or(flag::DROPPED, Ordering::AcqRel),
            }
        }
        if before & flag::DONE != 0 {
            // Last of all: to drop a waker is foreign code.
            drop(self.slab().free(self.id, before));
        }
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).field("outcome", &self.poll_outcome()).finish()
    }
}

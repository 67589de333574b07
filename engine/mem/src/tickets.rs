//! The ticket slab: one slot per proposal in flight, taken by a caller, resolved exactly once by the engine.
//!
//! A slot's state is one atomic word: a generation, and flags that are only ever set.
//!
//! ```text
//! free ----take----> owned ----settle----> DONE ----drop----> free, next generation
//!                      \----drop (DROPPED)----> settle ----> free, next generation
//! ```
//!
//! Whoever sets the second of `DONE` and `DROPPED` frees the slot. A ticket's id names slot and generation, so a
//! stale id never resolves a newer ticket. A free slot is ready to be resolved already: taking it is taking its
//! number off the free list, no more. (An id that nobody was given yet must not be made up.)
//!
//! Most tickets are resolved by none of this: their batch was applied as a whole, and the outcome stands in its record
//! ([`records`](crate::records)), where they look once their own slot has none. Then the slot is the caller's alone.
//!
//! What every proposal touches is dense, sixteen bytes a slot: the resolver and the callers are on different processors, and a line
//! that goes from one to the other serves four tickets. Wakers and replies lie elsewhere, and are touched where there are any.

use std::fmt;
use std::task::Waker;

use crate::copy::copy_payload;
use crate::free_list::FreeList;
use crate::memory::Memory;
use crate::records::Batch;
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError, Witness};

/// The bit of a slot's number, in the id that a batch notes, that says: this ticket finds its outcome with the batch's.
const MARK: u32 = 1 << 31;

/// Names one ticket, for ever: `generation << 32 | slot`. The default names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct TicketId(pub u64);

impl TicketId {
    pub(crate) fn new(generation: u32, slot: u32) -> TicketId {
        TicketId(u64::from(generation) << 32 | u64::from(slot))
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn slot(self) -> u32 {
        self.0 as u32 & !MARK
    }

    /// As it is noted of a ticket that knows its place.
    pub(crate) fn marked(self) -> TicketId {
        TicketId(self.0 | u64::from(MARK))
    }

    pub(crate) fn is_marked(self) -> bool {
        self.0 as u32 & MARK != 0
    }
}

/// How a proposal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Applied; the reply is in the ticket.
    Applied {
        /// The entry's log index.
        index: u64,
    },
    /// Definitely not applied, never will be.
    NotApplied {
        /// The leader's id, or zero.
        hint: u64,
    },
    /// Leadership or the node was lost before the outcome was known.
    Unknown,
}

/// A slot's state: `generation (32) | reply length (24) | kind (2) | flags`. Only the generation set: free, or owned and unresolved.
pub(crate) mod flag {
    /// Someone is about to write the reply and then the outcome, and nobody else will.
    pub(crate) const CLAIMED: u64 = 1;
    /// The outcome and reply stand.
    pub(crate) const DONE: u64 = 2;
    /// A waker was left.
    pub(crate) const WAITING: u64 = 4;
    /// The ticket was dropped.
    pub(crate) const DROPPED: u64 = 8;
    /// An [`Outcome::Applied`](super::Outcome::Applied).
    pub(crate) const APPLIED: u64 = 16;
    /// An [`Outcome::NotApplied`](super::Outcome::NotApplied).
    pub(crate) const NOT_APPLIED: u64 = 32;
    /// Not resolved by the engine: it is gone. Where the batch has an outcome, that counts.
    pub(crate) const ABANDONED: u64 = 64;
    /// Where the reply's length begins.
    pub(crate) const LENGTH_SHIFT: u32 = 8;
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: AtomicU64,
    /// The outcome's number. Published by `DONE`.
    value: AtomicU64,
}

pub(crate) struct Slab {
    pub(crate) slots: Box<[Slot]>,
    wakers: Box<[Mutex<Option<Waker>>]>,
    pub(crate) replies: Memory,
    reply_bytes: usize,
    pub(crate) reply_stride: usize,
    pub(crate) witness: Box<[Witness]>,
    pub(crate) free: FreeList,
}

impl Slab {
    pub(crate) fn waker(&self, slot: u32) -> MutexGuard<'_, Option<Waker>> {
        self.wakers[slot as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets `flags` in the state of `id`. The state before; `None` if the id is stale, or someone else settles it.
    #[inline]
    pub(crate) fn settle(slot: &Slot, id: TicketId, mine: u64, flags: u64) -> Option<u64> {
        let mut state = slot.state.load(Ordering::Relaxed);
        loop {
            if state >> 32 != u64::from(id.generation()) || state & (flag::CLAIMED | flag::DONE) != mine {
                return None;
            }
            // Release: outcome and reply come first. Acquire: pairs with the store in `free` (the last owner is done reading the
            // reply), and with whoever left a waker, or dropped the ticket.
            match slot.state.compare_exchange_weak(state, state | flags, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(before) => return Some(before),
                Err(now) => state = now,
            }
        }
    }

    /// Resolves `id`, if it is still to be resolved. Whoever waits for it is to be woken by the caller.
    pub(crate) fn resolve(&self, id: TicketId, outcome: Outcome, reply: &[u8]) -> (bool, Option<Waker>) {
        assert!(reply.len() <= self.reply_bytes, "a reply of {} bytes: tickets have room for {}", reply.len(), self.reply_bytes);
        let Some(slot) = self.slots.get(id.slot() as usize) else { return (false, None) };
        let mut mine = 0;
        if !reply.is_empty() {
            if Slab::settle(slot, id, 0, flag::CLAIMED).is_none() {
                return (false, None);
            }
            mine = flag::CLAIMED;
            self.witness[id.slot() as usize].exclusive();
            // SAFETY: the claim is ours alone and `DONE` is not set, so no owner of this generation reads the
            // reply yet; the last generation's owner is gone. Other slots' replies are other ranges.
            let room = unsafe { self.replies.slice_mut(id.slot() as usize * self.reply_stride, reply.len()) };
            copy_payload(room, reply);
        }
        let (kind, value) = match outcome {
            Outcome::Unknown => (0, None),
            Outcome::Applied { index } => (flag::APPLIED, Some(index)),
            Outcome::NotApplied { hint } => (flag::NOT_APPLIED, Some(hint)),
        };
        if let Some(value) = value {
            let state = slot.state.load(Ordering::Relaxed);
            if mine == 0 && (state >> 32 != u64::from(id.generation()) || state & (flag::CLAIMED | flag::DONE) != 0) {
                return (false, None);
            }
            // One batch holds the id, so nobody else has a number for it; where another way of ending wins, it has none, and
            // this is not read.
            slot.value.store(value, Ordering::Relaxed);
        }
        let length = (reply.len() as u64) << flag::LENGTH_SHIFT;
        self.end(slot, id, mine, kind | length)
    }

    /// The last step of resolving: sets `DONE`, with `flags`.
    #[inline]
    fn end(&self, slot: &Slot, id: TicketId, mine: u64, flags: u64) -> (bool, Option<Waker>) {
        let Some(before) = Slab::settle(slot, id, mine, flag::DONE | flags) else { return (false, None) };
        if before & flag::DROPPED != 0 {
            self.free(id, before);
            return (true, None);
        }
        // The owner may be gone by now and the slot be someone else's: then this takes the newcomer's waker, who is
        // woken for nothing, finds nothing, and leaves its waker again. A waker that is taken is always woken.
        let waker = if before & flag::WAITING != 0 { self.waker(id.slot()).take() } else { None };
        (true, waker)
    }

    /// Puts a slot back that is both done and dropped.
    pub(crate) fn free(&self, id: TicketId, flags: u64) {
        self.renew(id, flags);
        self.free.push(id.slot());
    }

    /// Makes a slot ready for whoever takes it next.
    pub(crate) fn renew(&self, id: TicketId, flags: u64) {
        if flags & flag::WAITING != 0 {
            let left = self.waker(id.slot()).take();
            drop(left);
        }
        // Never zero, so that the default id names none.
        let generation = id.generation().wrapping_add(1).max(1);
        // Release: pairs with the next `settle`. A plain store: nobody else has a right to this slot.
        self.slots[id.slot() as usize].state.store(u64::from(generation) << 32, Ordering::Release);
    }

    /// The outcome that stands in a slot, and the length of the reply.
    #[inline]
    pub(crate) fn outcome(&self, slot: u32) -> Option<(Outcome, usize)> {
        let slot = &self.slots[slot as usize];
        // Acquire: pairs with `DONE`'s Release.
        let state = slot.state.load(Ordering::Acquire);
        if state & (flag::DONE | flag::ABANDONED) != flag::DONE {
            return None;
        }
        let value = slot.value.load(Ordering::Relaxed);
        let outcome = match state & (flag::APPLIED | flag::NOT_APPLIED) {
            flag::APPLIED => Outcome::Applied { index: value },
            flag::NOT_APPLIED => Outcome::NotApplied { hint: value },
            _ => Outcome::Unknown,
        };
        Some((outcome, (state as u32 >> flag::LENGTH_SHIFT) as usize))
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").field("slots", &self.slots.len()).field("reply_bytes", &self.reply_bytes).finish_non_exhaustive()
    }
}

/// Handle to the slab; clone freely. Tickets are taken through a [`Hold`](crate::Hold) of it, or of something that has it.
#[derive(Debug, Clone)]
pub struct Tickets {
    pub(crate) slab: Arc<Slab>,
}

impl Tickets {
    /// `slots` tickets at once, each with room for a reply of `reply_bytes`.
    ///
    /// # Panics
    /// If all replies together exceed the address space, there are 2^31 slots or more, or a reply may be of 16 MiB or more.
    pub fn new(slots: usize, reply_bytes: usize) -> Tickets {
        assert!(slots < MARK as usize, "{slots} tickets: must be below 2^31");
        assert!(reply_bytes < 1 << (32 - flag::LENGTH_SHIFT), "a reply of {reply_bytes} bytes: must be below 16 MiB");
        // Dense, as the slots are: replies are mostly a number.
        let reply_stride = reply_bytes.next_multiple_of(8);
        let Some(bytes) = reply_stride.checked_mul(slots) else {
            panic!("{slots} replies of {reply_bytes} bytes exceed the address space");
        };
        let slot = |_| Slot { state: AtomicU64::new(1 << 32), value: AtomicU64::new(0) };
        let slab = Slab {
            slots: (0..slots).map(slot).collect(),
            wakers: (0..slots).map(|_| Mutex::new(None)).collect(),
            witness: (0..slots).map(|_| Witness::default()).collect(),
            replies: Memory::zeroed(bytes),
            reply_bytes,
            reply_stride,
            free: FreeList::full(slots),
        };
        Tickets { slab: Arc::new(slab) }
    }

    /// Tickets taken whose slot is not free again; out of date at once. Counts them one by one. Means nothing after
    /// [`Tickets::abandon`].
    pub fn in_flight(&self) -> usize {
        self.slab.slots.len() - self.slab.free.len()
    }

    /// The engine's side: one for each thread that resolves.
    pub fn resolver(&self) -> Resolver {
        Resolver { slab: self.slab.clone(), wakers: Vec::with_capacity(WAKERS) }
    }

    /// Most bytes of a reply.
    pub fn reply_bytes(&self) -> usize {
        self.slab.reply_bytes
    }

    /// The engine is gone: no ticket will be taken any more, and every one that is unresolved ends as
    /// [`Outcome::Unknown`] now, its waiter woken. For good.
    pub fn abandon(&self) {
        self.slab.free.close();
        // Whatever was taken was taken before the close, and is seen here as it was then or later. Slots that are
        // free are settled too; nobody will ever take them.
        let mut resolver = self.resolver();
        for (number, slot) in (0..).zip(self.slab.slots.iter()) {
            let id = TicketId::new((slot.state.load(Ordering::Relaxed) >> 32) as u32, number);
            let (_, waker) = self.slab.end(slot, id, 0, flag::ABANDONED);
            waker.into_iter().for_each(|waker| resolver.gather(waker));
        }
    }

    /// How often a slot went back: its generation, which begins with 1.
    #[cfg(all(test, loom))]
    pub(crate) fn times_freed(&self, slot: usize) -> u64 {
        (self.slab.slots[slot].state.load(Ordering::Relaxed) >> 32) - 1
    }

    /// True after [`Tickets::abandon`].
    pub fn is_abandoned(&self) -> bool {
        self.slab.free.is_closed()
    }
}

/// How many different wakers a resolver gathers before it fires them.
const WAKERS: usize = 64;

/// Resolves tickets. Wakes each waiting caller once per batch: wakers are gathered in a table of fixed size,
/// equal ones once, and fired by [`Resolver::flush`], when the table is full, and on drop.
pub struct Resolver {
    slab: Arc<Slab>,
    /// Never grows over `WAKERS`.
    wakers: Vec<Waker>,
}

impl Resolver {
    /// Resolves a ticket. False if the id is stale or already resolved. Cheap if nobody waits.
    ///
    /// # Panics
    /// If `reply` is longer than [`Tickets::reply_bytes`].
    pub fn resolve(&mut self, id: TicketId, outcome: Outcome, reply: &[u8]) -> bool {
        let (resolved, waker) = self.slab.resolve(id, outcome, reply);
        if let Some(waker) = waker {
            self.gather(waker);
        }
        resolved
    }

    /// Resolves one ticket of a batch by itself: not all of the batch ends so, or its reply is long.
    ///
    /// # Panics
    /// If the batch has no such entry, or `reply` is longer than [`Tickets::reply_bytes`].
    pub fn resolve_one(&mut self, batch: &Batch, ordinal: usize, outcome: Outcome, reply: &[u8]) -> bool {
        assert!(batch.is_open(), "the whole batch has its outcome");
        self.resolve_of(batch, batch.tickets()[ordinal], outcome, reply)
    }

    /// `id` is one of `batch`.
    fn resolve_of(&mut self, batch: &Batch, id: TicketId, outcome: Outcome, reply: &[u8]) -> bool {
        let resolved = self.resolve(id, outcome, reply);
        if resolved {
            // It has its outcome, and looks for none in the record.
            batch.let_go(id);
        }
        resolved
    }

    /// All of a batch is applied, from index `first` on, and its replies are noted ([`Batch::reply`]): resolves its tickets, but for those that
    /// were resolved by themselves. Costs the same for many as for one, unless some were dropped, or many wait.
    pub fn complete(&mut self, batch: &mut Batch, first: u64) {
        let Some(found) = batch.publish(first) else { return };
        if found.crowded || found.dropped {
            for (&id, index) in batch.tickets().iter().zip(first..) {
                let Some(slot) = self.slab.slots.get(id.slot() as usize) else { continue };
                let state = slot.state.load(Ordering::Acquire);
                if state & flag::DROPPED != 0 {
                    // Nobody will look: the slot goes back. (Its owner may be doing the same just now.)
                    self.resolve_of(batch, id, Outcome::Applied { index }, &[]);
                } else if state & flag::WAITING != 0 {
                    self.gather_of(id.slot());
                }
            }
        } else if found.waited {
            for slot in batch.waiters() {
                self.gather_of(slot);
            }
        }
    }

    /// Takes the waker that a slot has. It may be someone else's by now, who is then woken for nothing, finds nothing, and leaves it again.
    fn gather_of(&mut self, slot: u32) {
        let waker = self.slab.waker(slot).take();
        waker.into_iter().for_each(|waker| self.gather(waker));
    }

    fn gather(&mut self, waker: Waker) {
        if self.wakers.iter().any(|known| known.will_wake(&waker)) {
            return;
        }
        if self.wakers.len() == WAKERS {
            self.flush();
        }
        self.wakers.push(waker);
    }

    /// Wakes all whose tickets were resolved since the last flush.
    pub fn flush(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("wakers", &self.wakers.len()).finish_non_exhaustive()
    }
}

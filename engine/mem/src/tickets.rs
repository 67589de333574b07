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
//! number off the free list, no more. (An id that is made up may resolve a ticket ahead of its time. That is no race.)
//!
//! A slab is one of two kinds, for good. Tickets of the one are resolved by id. The other belongs to an
//! [`OpenBatch`](crate::OpenBatch), which takes it over whole: its tickets are resolved through their batch alone, and
//! nobody can do so by id. Most of these are resolved by none of the above: their batch was applied as a whole, and the
//! outcome stands in its record ([`records`](crate::records)), where they look once their own slot has none. Then the
//! slot is the caller's alone, who takes no compare-exchange to give it back; that is sound because nobody else can
//! settle it any more.
//!
//! What every proposal touches is dense, sixteen bytes a slot: the resolver and the callers are on different
//! processors, and a line that goes from one to the other serves four tickets. Wakers and replies lie elsewhere, and
//! are touched where there are any.

use std::fmt;
use std::task::Waker;

use crate::copy::copy_payload;
use crate::foreign::quietly;
use crate::free_list::{FreeList, SLOT_BITS};
use crate::limits;
use crate::memory::Memory;
use crate::records::Batch;
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError, Witness};

/// Names one ticket: `generation (40) | slot (24)`. The default names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct TicketId(pub u64);

impl TicketId {
    pub(crate) fn new(generation: u64, slot: u32) -> TicketId {
        TicketId(generation << SLOT_BITS | u64::from(slot))
    }

    fn generation(self) -> u64 {
        self.0 >> SLOT_BITS
    }

    pub(crate) fn slot(self) -> u32 {
        self.0 as u32 & ((1 << SLOT_BITS) - 1)
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
    /// Applied; the reply was too long to be kept.
    Unanswered {
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

/// A slot's state: `generation (40) | reply length (17) | kind (2) | flags (5)`. Only the generation set: free, or
/// owned and unresolved.
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
    /// An [`Outcome::NotApplied`](super::Outcome::NotApplied); both of them, an
    /// [`Outcome::Unanswered`](super::Outcome::Unanswered).
    pub(crate) const NOT_APPLIED: u64 = 32;
    /// Not resolved by the engine: it is gone. Where the batch has an outcome, that counts.
    pub(crate) const ABANDONED: u64 = 64;
    /// Where the reply's length begins.
    pub(super) const LENGTH_SHIFT: u32 = 7;
    /// Where the generation begins.
    pub(super) const GENERATION_SHIFT: u32 = super::SLOT_BITS;

    /// The generation in a state.
    #[inline]
    pub(crate) fn generation(state: u64) -> u64 {
        state >> GENERATION_SHIFT
    }

    /// The reply's length in a state.
    #[inline]
    pub(super) fn length(state: u64) -> usize {
        (state >> LENGTH_SHIFT & (super::LONGEST_REPLY as u64)) as usize
    }
}

/// Longest reply that a slab can have room for, in bytes.
pub(crate) const LONGEST_REPLY: usize = (1 << (flag::GENERATION_SHIFT - flag::LENGTH_SHIFT)) - 1;

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
            if flag::generation(state) != id.generation() || state & (flag::CLAIMED | flag::DONE) != mine {
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
            Outcome::Unanswered { index } => (flag::APPLIED | flag::NOT_APPLIED, Some(index)),
        };
        if let Some(value) = value {
            let state = slot.state.load(Ordering::Relaxed);
            if mine == 0 && (flag::generation(state) != id.generation() || state & (flag::CLAIMED | flag::DONE) != 0) {
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
            if let Some(left) = self.free(id, before) {
                quietly(|| drop(left));
            }
            return (true, None);
        }
        // The owner may be gone by now and the slot be someone else's: then this takes the newcomer's waker, who is
        // woken for nothing, finds nothing, and leaves its waker again. A waker that is taken is always woken.
        let waker = if before & flag::WAITING != 0 { self.waker(id.slot()).take() } else { None };
        (true, waker)
    }

    /// Puts a slot back that is both done and dropped. The waker that it still had, to be dropped now that nothing
    /// hangs on it.
    #[must_use]
    #[inline]
    pub(crate) fn free(&self, id: TicketId, flags: u64) -> Option<Waker> {
        let left = if flags & flag::WAITING != 0 { self.waker(id.slot()).take() } else { None };
        self.renew(id);
        self.free.push(id.slot());
        left
    }

    /// Makes a slot, which has no waker, ready for whoever takes it next.
    #[inline]
    pub(crate) fn renew(&self, id: TicketId) {
        // Never zero, so that the default id names none. (The shift drops what overflows.)
        let generation = ((id.generation() + 1) << flag::GENERATION_SHIFT).max(1 << flag::GENERATION_SHIFT);
        // Release: pairs with the next `settle`. A plain store: nobody else has a right to this slot.
        self.slots[id.slot() as usize].state.store(generation, Ordering::Release);
    }

    /// The engine is gone: no slot is taken any more, and every ticket that is unresolved ends as [`Outcome::Unknown`]
    /// now.
    pub(crate) fn abandon(&self) {
        self.free.close();
        // Whatever was taken was taken before the close, and is seen here as it was then or later. Slots that are
        // free are settled too; nobody will ever take them.
        let mut resolver = Resolver::new();
        for (number, slot) in (0..).zip(self.slots.iter()) {
            let id = TicketId::new(flag::generation(slot.state.load(Ordering::Relaxed)), number);
            let (_, waker) = self.end(slot, id, 0, flag::ABANDONED);
            resolver.gather(waker);
        }
    }

    /// Slots that are not free; counts them one by one.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn reply_bytes(&self) -> usize {
        self.reply_bytes
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
            0 => Outcome::Unknown,
            _ => Outcome::Unanswered { index: value },
        };
        Some((outcome, flag::length(state)))
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").field("slots", &self.slots.len()).field("reply_bytes", &self.reply_bytes).finish_non_exhaustive()
    }
}

/// A slab of tickets, which are taken through a [`Hold`](crate::Hold). There is one handle to it: whoever gives it to
/// an [`OpenBatch`](crate::OpenBatch) resolves none of its tickets by id any more.
///
/// ```compile_fail,E0382
/// let tickets = kontiki_mem::Tickets::new(1, 0);
/// let open = kontiki_mem::OpenBatch::new(tickets, 64, 4096 - 64, 4, 2);
/// kontiki_mem::Resolver::new().resolve(&tickets, kontiki_mem::TicketId(1 << 24), kontiki_mem::Outcome::Unknown, &[]);
/// ```
///
/// ```compile_fail,E0599
/// let tickets = kontiki_mem::Tickets::new(1, 0);
/// let another = tickets.clone();
/// ```
#[derive(Debug)]
pub struct Tickets {
    slab: Arc<Slab>,
}

impl Tickets {
    /// `slots` tickets at once, each with room for a reply of `reply_bytes`.
    ///
    /// # Panics
    /// If all replies together exceed the address space, there are more than
    /// [`MAX_TICKETS`](crate::limits::MAX_TICKETS) slots, or a reply may be longer than
    /// [`MAX_REPLY_BYTES`](crate::limits::MAX_REPLY_BYTES).
    pub fn new(slots: usize, reply_bytes: usize) -> Tickets {
        assert!(slots <= limits::MAX_TICKETS, "{slots} tickets: must be at most {}", limits::MAX_TICKETS);
        assert!(reply_bytes <= limits::MAX_REPLY_BYTES, "a reply of {reply_bytes} bytes: must be at most {}", limits::MAX_REPLY_BYTES);
        // Dense, as the slots are: replies are mostly a number.
        let reply_stride = reply_bytes.next_multiple_of(8);
        let Some(bytes) = reply_stride.checked_mul(slots) else {
            panic!("{slots} replies of {reply_bytes} bytes exceed the address space");
        };
        let slot = |_| Slot { state: AtomicU64::new(1 << flag::GENERATION_SHIFT), value: AtomicU64::new(0) };
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

    pub(crate) fn slab(&self) -> Arc<Slab> {
        Arc::clone(&self.slab)
    }

    /// Tickets taken whose slot is not free again; out of date at once. Counts them one by one. Means nothing after
    /// [`Tickets::abandon`].
    pub fn in_flight(&self) -> usize {
        self.slab.in_flight()
    }

    /// Most bytes of a reply.
    pub fn reply_bytes(&self) -> usize {
        self.slab.reply_bytes()
    }

    /// The engine is gone: no ticket will be taken any more, and every one that is unresolved ends as
    /// [`Outcome::Unknown`] now, its waiter woken. For good.
    pub fn abandon(&self) {
        self.slab.abandon();
    }

    /// How often a slot went back: its generation, which begins with 1.
    #[cfg(all(test, loom))]
    pub(crate) fn times_freed(&self, slot: usize) -> u64 {
        flag::generation(self.slab.slots[slot].state.load(Ordering::Relaxed)) - 1
    }

    /// True after [`Tickets::abandon`].
    pub fn is_abandoned(&self) -> bool {
        self.slab.free.is_closed()
    }
}

const _: () = assert!(limits::MAX_TICKETS < crate::free_list::MAX_SLOTS && limits::MAX_REPLY_BYTES <= LONGEST_REPLY);

/// How many different wakers a resolver gathers before it fires them.
const WAKERS: usize = 64;

/// Resolves tickets: one for each thread that does. Wakes each waiting caller once per batch: wakers are gathered in a
/// table of fixed size, equal ones once, and fired by [`Resolver::flush`], when the table is full, and on drop. A waker
/// that panics is its caller's matter: all others are woken.
///
/// It has no slab of its own. A batch knows the slab of its tickets, so a ticket is never resolved in another's place;
/// and while the tickets of a batch are looked at, none of them is forgotten:
///
/// ```compile_fail,E0502
/// fn both(resolver: &mut kontiki_mem::Resolver, batch: &mut kontiki_mem::Batch) {
///     let ids = batch.tickets();
///     resolver.resolve_one(batch, 0, kontiki_mem::Outcome::Unknown, &[]);
///     println!("{ids:?}");
/// }
/// ```
pub struct Resolver {
    /// Never grows over `WAKERS`.
    wakers: Vec<Waker>,
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver::new()
    }
}

impl Resolver {
    /// One that has nobody to wake yet.
    pub fn new() -> Resolver {
        Resolver { wakers: Vec::with_capacity(WAKERS) }
    }

    /// Resolves a ticket of a slab that belongs to no batches. False if the id is stale or already resolved. Cheap if
    /// nobody waits.
    ///
    /// # Panics
    /// If `reply` is longer than [`Tickets::reply_bytes`].
    pub fn resolve(&mut self, tickets: &Tickets, id: TicketId, outcome: Outcome, reply: &[u8]) -> bool {
        let (resolved, waker) = tickets.slab.resolve(id, outcome, reply);
        self.gather(waker);
        resolved
    }

    /// Resolves one ticket of a batch by itself: not all of the batch ends so, or its reply is long. False if it has
    /// its outcome already, or nobody waits for that entry.
    ///
    /// # Panics
    /// If the batch has no such entry, all of it was [completed](Resolver::complete), or `reply` is longer than
    /// [`Records::reply_bytes`](crate::Records::reply_bytes).
    pub fn resolve_one(&mut self, batch: &mut Batch, ordinal: usize, outcome: Outcome, reply: &[u8]) -> bool {
        let Some(id) = batch.unresolved(ordinal) else { return false };
        let (resolved, waker) = batch.slab().resolve(id, outcome, reply);
        if resolved {
            // It has its outcome, and looks for none in the record.
            batch.let_go(ordinal);
        }
        self.gather(waker);
        resolved
    }

    /// All of a batch is applied, from index `first` on, and its replies are noted ([`Batch::reply`]): resolves its
    /// tickets, but for those that were resolved by themselves. Costs the same for many as for one, unless some
    /// were dropped, or many wait.
    pub fn complete(&mut self, batch: &mut Batch, first: u64) {
        let Some(found) = batch.publish(first) else { return };
        if found.crowded || found.dropped {
            for (ordinal, index) in (0..batch.len()).zip(first..) {
                let Some((id, state)) = batch.look(ordinal) else { continue };
                if state & flag::DROPPED != 0 {
                    // Nobody will look: the slot goes back. (Its owner may be doing the same just now.)
                    let (resolved, waker) = batch.slab().resolve(id, Outcome::Applied { index }, &[]);
                    if resolved {
                        batch.let_go(ordinal);
                    }
                    self.gather(waker);
                } else if state & flag::WAITING != 0 {
                    self.gather(batch.slab().waker(id.slot()).take());
                }
            }
        } else if found.waited {
            // A waker may be someone else's by now, who is then woken for nothing, finds nothing, and leaves it again.
            for slot in batch.waiters() {
                self.gather(batch.slab().waker(slot).take());
            }
        }
    }

    #[inline]
    pub(crate) fn gather(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.add(waker);
        }
    }

    fn add(&mut self, waker: Waker) {
        if self.wakers.iter().any(|known| known.will_wake(&waker)) {
            return quietly(|| drop(waker));
        }
        if self.wakers.len() == WAKERS {
            self.flush();
        }
        self.wakers.push(waker);
    }

    /// Wakes all whose tickets were resolved since the last flush.
    pub fn flush(&mut self) {
        if self.wakers.is_empty() {
            return;
        }
        for waker in self.wakers.drain(..) {
            quietly(|| waker.wake());
        }
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

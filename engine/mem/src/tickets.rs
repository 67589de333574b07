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
//! What every proposal touches is dense, 24 bytes a slot: the resolver and the callers are on different processors, and a line
//! that goes from one to the other serves several tickets. A reply of up to eight bytes, a count or a position, stands among them.
//! Longer replies, and wakers, lie elsewhere, and are touched where there are any.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
#[cfg(not(loom))]
use std::time::{Duration, Instant};

use crate::copy::copy_payload;
use crate::free_list::FreeList;
use crate::memory::Memory;
use crate::park;
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError, Witness};

/// Names one ticket, for ever: `generation << 32 | slot`. The default names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct TicketId(pub u64);

impl TicketId {
    fn new(generation: u32, slot: u32) -> TicketId {
        TicketId(u64::from(generation) << 32 | u64::from(slot))
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn slot(self) -> u32 {
        self.0 as u32
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
mod flag {
    /// Someone is about to write the reply and then the outcome, and nobody else will.
    pub(super) const CLAIMED: u64 = 1;
    /// The outcome and reply stand.
    pub(super) const DONE: u64 = 2;
    /// A waker was left.
    pub(super) const WAITING: u64 = 4;
    /// The ticket was dropped.
    pub(super) const DROPPED: u64 = 8;
    /// An [`Outcome::Applied`](super::Outcome::Applied).
    pub(super) const APPLIED: u64 = 16;
    /// An [`Outcome::NotApplied`](super::Outcome::NotApplied).
    pub(super) const NOT_APPLIED: u64 = 32;
    /// Where the reply's length begins.
    pub(super) const LENGTH_SHIFT: u32 = 8;
}

#[derive(Debug)]
struct Slot {
    state: AtomicU64,
    /// The outcome's number. Published by `DONE`.
    value: AtomicU64,
    /// A reply of at most [`SMALL`] bytes. Published by `DONE`.
    small: AtomicU64,
}

/// The longest reply that stands in its slot.
const SMALL: usize = 8;

pub(crate) struct Slab {
    slots: Box<[Slot]>,
    wakers: Box<[Mutex<Option<Waker>>]>,
    replies: Memory,
    reply_bytes: usize,
    reply_stride: usize,
    witness: Box<[Witness]>,
    free: FreeList,
}

impl Slab {
    fn waker(&self, slot: u32) -> MutexGuard<'_, Option<Waker>> {
        self.wakers[slot as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets `flags` in the state of `id`. The state before; `None` if the id is stale, or someone else settles it.
    #[inline]
    fn settle(slot: &Slot, id: TicketId, mine: u64, flags: u64) -> Option<u64> {
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
        if reply.len() > SMALL {
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
            Outcome::Unknown => (0, 0),
            Outcome::Applied { index } => (flag::APPLIED, index),
            Outcome::NotApplied { hint } => (flag::NOT_APPLIED, hint),
        };
        let small = (1..=SMALL).contains(&reply.len());
        if kind != 0 || small {
            let state = slot.state.load(Ordering::Relaxed);
            if mine == 0 && (state >> 32 != u64::from(id.generation()) || state & (flag::CLAIMED | flag::DONE) != 0) {
                return (false, None);
            }
            // One batch holds the id, so nobody else has a number or a reply for it; where another way of ending wins, it has none, and
            // these are not read.
            slot.value.store(value, Ordering::Relaxed);
            if small {
                let mut bytes = [0; SMALL];
                copy_payload(&mut bytes[..reply.len()], reply);
                slot.small.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            }
        }
        let length = (reply.len() as u64) << flag::LENGTH_SHIFT;
        let Some(before) = Slab::settle(slot, id, mine, flag::DONE | kind | length) else { return (false, None) };
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
    fn free(&self, id: TicketId, flags: u64) {
        if flags & flag::WAITING != 0 {
            let left = self.waker(id.slot()).take();
            drop(left);
        }
        // Never zero, so that the default id names none.
        let generation = id.generation().wrapping_add(1).max(1);
        // Release: pairs with the next `settle`. A plain store: nobody else has a right to this slot.
        self.slots[id.slot() as usize].state.store(u64::from(generation) << 32, Ordering::Release);
        self.free.push(id.slot());
    }

    fn outcome(&self, slot: u32) -> Option<(Outcome, usize)> {
        let slot = &self.slots[slot as usize];
        // Acquire: pairs with `DONE`'s Release.
        let state = slot.state.load(Ordering::Acquire);
        if state & flag::DONE == 0 {
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

/// Handle to the slab; clone freely.
#[derive(Debug, Clone)]
pub struct Tickets {
    slab: Arc<Slab>,
}

impl Tickets {
    /// `slots` tickets at once, each with room for a reply of `reply_bytes`.
    ///
    /// # Panics
    /// If all replies together exceed the address space, there are 2^32 slots or more, or a reply may be of 16 MiB or more.
    pub fn new(slots: usize, reply_bytes: usize) -> Tickets {
        assert!(reply_bytes < 1 << (32 - flag::LENGTH_SHIFT), "a reply of {reply_bytes} bytes: must be below 16 MiB");
        // Dense, as the slots are: replies are mostly a number.
        let reply_stride = reply_bytes.next_multiple_of(8);
        let Some(bytes) = reply_stride.checked_mul(slots) else {
            panic!("{slots} replies of {reply_bytes} bytes exceed the address space");
        };
        let slot = |_| Slot { state: AtomicU64::new(1 << 32), value: AtomicU64::new(0), small: AtomicU64::new(0) };
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

    /// Takes a slot; `None` at the bound (Busy), or after [`Tickets::abandon`]. Never allocates, never blocks.
    pub fn take(&self) -> Option<Ticket> {
        Ticket::take(self.clone())
    }

    /// Tickets taken whose slot is not free again; out of date at once. Counts them one by one. Means nothing after
    /// [`Tickets::abandon`].
    pub fn in_flight(&self) -> usize {
        self.slab.slots.len() - self.slab.free.len()
    }

    /// The engine's side: one for each thread that resolves.
    pub fn resolver(&self) -> Resolver {
        Resolver { slab: self.slab.clone(), wakers: Vec::with_capacity(WAKERS), resolved: 0 }
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
        for (slot, state) in self.slab.slots.iter().enumerate() {
            let generation = (state.state.load(Ordering::Relaxed) >> 32) as u32;
            resolver.resolve(TicketId::new(generation, slot as u32), Outcome::Unknown, &[]);
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

/// After so many tickets of a batch whoever waits is woken, once: the first caller comes to itself while the rest is resolved.
const EARLY: u32 = 64;

/// Resolves tickets. Wakes each waiting caller once per batch: wakers are gathered in a table of fixed size,
/// equal ones once, and fired by [`Resolver::flush`], when the table is full, and on drop.
pub struct Resolver {
    slab: Arc<Slab>,
    /// Never grows over `WAKERS`.
    wakers: Vec<Waker>,
    /// Tickets resolved since the last flush; `EARLY` and more: woken early already.
    resolved: u32,
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
        self.resolved += 1;
        if self.resolved == EARLY {
            self.wake();
        }
        resolved
    }

    fn gather(&mut self, waker: Waker) {
        if self.wakers.iter().any(|known| known.will_wake(&waker)) {
            return;
        }
        if self.wakers.len() == WAKERS {
            self.wake();
        }
        self.wakers.push(waker);
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// Wakes all whose tickets were resolved since the last flush.
    pub fn flush(&mut self) {
        self.resolved = 0;
        self.wake();
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

/// What a ticket holds on to: the slab itself, or something that keeps it.
pub trait Holder {
    /// The slab.
    fn tickets(&self) -> &Tickets;
}

impl Holder for Tickets {
    fn tickets(&self) -> &Tickets {
        self
    }
}

/// One proposal's outcome to come: wait for it, poll it, or await it. One thread at a time uses it (`Send`, not
/// `Sync`), since it holds the waker of one. Dropping it unresolved gives the slot back once it is resolved.
pub struct Ticket<H: Holder = Tickets> {
    holder: H,
    id: TicketId,
    /// A short reply, once it was looked at.
    small: OnceCell<[u8; SMALL]>,
    not_sync: PhantomData<Cell<()>>,
}

impl<H: Holder> Ticket<H> {
    /// As [`Tickets::take`], for a holder of its own.
    #[inline]
    pub fn take(holder: H) -> Option<Ticket<H>> {
        let slot = holder.tickets().slab.free.pop()?;
        Some(Ticket::at(holder, slot))
    }

    /// Takes up to `most` slots at once, and gives each ticket to `each`.
    pub fn take_many(holder: &H, most: usize, mut each: impl FnMut(Ticket<H>))
    where
        H: Clone,
    {
        let slab = &holder.tickets().slab;
        slab.free.pop_many(most, |slot| each(Ticket::at(holder.clone(), slot)));
    }

    #[inline]
    fn at(holder: H, slot: u32) -> Ticket<H> {
        // Relaxed: `pop` acquired what `free` stored before it pushed the slot.
        let generation = (holder.tickets().slab.slots[slot as usize].state.load(Ordering::Relaxed) >> 32) as u32;
        Ticket { id: TicketId::new(generation, slot), holder, small: OnceCell::new(), not_sync: PhantomData }
    }

    /// What it holds on to.
    pub fn holder(&self) -> &H {
        &self.holder
    }

    fn slab(&self) -> &Slab {
        &self.holder.tickets().slab
    }

    fn state(&self) -> &AtomicU64 {
        &self.slab().slots[self.id.slot() as usize].state
    }

    /// The ticket's name, for the engine to resolve it by.
    pub fn id(&self) -> TicketId {
        self.id
    }

    /// Gives back a ticket whose proposal was never written (so that nobody will resolve it).
    pub fn cancel(self) {
        // The drop that follows frees the slot.
        let slab = self.slab();
        let _ = Slab::settle(&slab.slots[self.id.slot() as usize], self.id, 0, flag::DONE);
    }

    /// The outcome; `None` while unresolved.
    #[inline]
    pub fn poll_outcome(&self) -> Option<Outcome> {
        self.slab().outcome(self.id.slot()).map(|(outcome, _)| outcome)
    }

    /// The outcome, or else leaves `waker` to be woken by it.
    fn poll_or_leave(&self, waker: &Waker) -> Option<Outcome> {
        if let Some(outcome) = self.poll_outcome() {
            return Some(outcome);
        }
        let mut place = self.slab().waker(self.id.slot());
        let known = place.as_ref().is_some_and(|left| left.will_wake(waker));
        let replaced = if known { None } else { place.replace(waker.clone()) };
        drop(place);
        // Outside the lock: a waker's drop is foreign code.
        drop(replaced);
        // Release: a resolver that sees the flag finds the waker. One that does not has set `DONE` before, which is
        // seen below.
        self.state().fetch_or(flag::WAITING, Ordering::Release);
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
        let len = match slab.outcome(self.id.slot()) {
            None | Some((_, 0)) => return &[],
            Some((_, len)) => len,
        };
        if len <= SMALL {
            let small = self.small.get_or_init(|| slab.slots[self.id.slot() as usize].small.load(Ordering::Relaxed).to_le_bytes());
            return &small[..len];
        }
        slab.witness[self.id.slot() as usize].shared();
        // SAFETY: `DONE` is set, so the reply is written and will not be again before the slot is free, which this
        // ticket prevents as long as it lives.
        unsafe { slab.replies.slice(self.id.slot() as usize * slab.reply_stride, len) }
    }
}

impl<H: Holder + Unpin> Future for Ticket<H> {
    type Output = Outcome;

    /// Once ready, ready for ever.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.poll_or_leave(cx.waker()) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl<H: Holder> Drop for Ticket<H> {
    #[inline]
    fn drop(&mut self) {
        // Acquire: the resolver's part comes before the slot's reuse. (A reply is read only once done, and then it is this thread
        // that frees the slot.) Once `DONE` is set nobody else changes the state.
        let mut before = self.state().load(Ordering::Acquire);
        if before & flag::DONE == 0 {
            before = self.state().fetch_or(flag::DROPPED, Ordering::AcqRel);
        }
        if before & flag::DONE != 0 {
            self.slab().free(self.id, before);
        }
    }
}

impl<H: Holder> fmt::Debug for Ticket<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).field("outcome", &self.poll_outcome()).finish()
    }
}

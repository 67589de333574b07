//! What becomes of a batch as a whole: its tickets by ordinal, and one outcome for all of them.
//!
//! Tickets of a batch that is applied whole are not resolved one by one: the resolver writes replies in a row and then
//! one word, and each ticket, which knows its *place* (table and ordinal), finds its outcome there. So the slots of
//! tickets stay with the callers' processor, and the resolver touches nothing of theirs.
//!
//! ```text
//! free --open--> callers note tickets --sealed--> Batch --complete (DONE)--> outcomes are read --last reference--> free
//! ```
//!
//! A table stays as long as a ticket finds its outcome there: one reference each, and one of the [`Batch`]. A ticket
//! that is resolved by itself (part of a batch, a long reply, a lost leadership) has its outcome in its own slot, and
//! the resolver lets its reference go. So that tickets which a caller keeps for long do not keep all tables, batches
//! are resolved one by one once few tables are free.
//!
//! The tables of an open batch, and the slab that its tickets are from, are one thing: what is noted in a table is
//! always a ticket of that slab, which knows that place as its own.

use std::fmt;

use crate::TicketId;
use crate::copy::copy_payload;
use crate::free_list::FreeList;
use crate::memory::Memory;
use crate::sync::{Arc, AtomicU32, AtomicU64, Ordering, Witness};
use crate::ticket::Ticket;
use crate::tickets::{Slab, Tickets};

/// Where the outcome of a proposal stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) table: u32,
    pub(crate) ordinal: u32,
}

/// A place, or none yet, in one word.
#[derive(Clone, Copy)]
pub(crate) struct Placed(u64);

impl Placed {
    pub(crate) const NOWHERE: Placed = Placed(u64::MAX);

    #[inline]
    pub(crate) fn get(self) -> Option<Place> {
        let place = Place { table: (self.0 >> 32) as u32, ordinal: self.0 as u32 };
        (self.0 != u64::MAX).then_some(place)
    }
}

impl From<Place> for Placed {
    #[inline]
    fn from(place: Place) -> Placed {
        // Never `NOWHERE`: a batch has less than 2^32 entries.
        Placed(u64::from(place.table) << 32 | u64::from(place.ordinal))
    }
}

/// Longest reply that stands in a table, in bytes: a count, or a position.
pub(crate) const SMALL_REPLY: usize = 8;

mod flag {
    /// The outcomes stand.
    pub(super) const DONE: u32 = 1;
    /// The engine is gone: they never will.
    pub(super) const CLOSED: u32 = 2;
    /// A caller waits: its slot is among the waiters.
    pub(super) const WAITED: u32 = 4;
    /// More callers wait than there are places for.
    pub(super) const CROWDED: u32 = 8;
    /// A ticket was dropped before.
    pub(super) const DROPPED: u32 = 16;
}

/// Callers of one batch that are remembered by slot; mostly there is one, who waits on its oldest ticket.
const WAITERS: usize = 4;
/// References of a table whose batch is not sealed: more than it can have entries.
const OPEN: u32 = 1 << 31;

const _: () = assert!(crate::limits::MAX_BATCH_ENTRIES < OPEN as usize);

/// One table's word of what became of its batch.
#[derive(Debug)]
struct Record {
    flags: AtomicU32,
    /// Slots, plus one.
    waiters: [AtomicU32; WAITERS],
    /// Log index of the first entry. Published by `DONE`.
    first: AtomicU64,
    references: References,
    /// Replies and their lengths: written before `DONE`, by the batch's one owner, read after it.
    replies: Witness,
}

/// What callers hammer on, apart from what they only read.
#[derive(Debug)]
#[repr(align(128))]
struct References(AtomicU32);

/// All tables, in one region each: ticket ids, replies and their lengths, by table and ordinal.
#[derive(Debug)]
pub(crate) struct Tables {
    /// That of all tickets that are noted here.
    slab: Arc<Slab>,
    ids: Memory,
    replies: Memory,
    lengths: Memory,
    entries: usize,
    free: FreeList,
    /// How many are in use.
    used: AtomicU32,
    records: Box<[Record]>,
    witness: Box<[Witness]>,
}

impl Tables {
    /// Takes the slab over: nobody has a handle by which to resolve its tickets by id.
    #[allow(clippy::needless_pass_by_value, reason = "that there is no other handle is the point")]
    pub(crate) fn new(tickets: Tickets, entries: usize, tables: usize) -> Arc<Tables> {
        assert!(tables > 0, "a batch needs a side table");
        let Some(all) = entries.checked_mul(tables).filter(|all| all.checked_mul(size_of::<TicketId>()).is_some()) else {
            panic!("{tables} side tables of {entries} entries exceed the address space");
        };
        let record = |_| Record {
            flags: AtomicU32::new(0),
            waiters: std::array::from_fn(|_| AtomicU32::new(0)),
            first: AtomicU64::new(0),
            references: References(AtomicU32::new(0)),
            replies: Witness::default(),
        };
        Arc::new(Tables {
            slab: tickets.slab(),
            ids: Memory::zeroed(all * size_of::<TicketId>()),
            replies: Memory::zeroed(all * SMALL_REPLY),
            lengths: Memory::zeroed(all),
            entries,
            free: FreeList::full(tables),
            used: AtomicU32::new(0),
            records: (0..tables).map(record).collect(),
            witness: (0..tables).map(|_| Witness::default()).collect(),
        })
    }

    fn at(&self, table: u32, ordinal: u32) -> usize {
        assert!((ordinal as usize) < self.entries && (table as usize) < self.records.len(), "outside the side tables");
        table as usize * self.entries + ordinal as usize
    }

    fn id_at(&self, table: u32, ordinal: u32) -> *mut TicketId {
        self.ids.at(self.at(table, ordinal) * size_of::<TicketId>()).cast()
    }

    /// A table for a batch that opens.
    pub(crate) fn open(&self) -> Option<u32> {
        let table = self.free.pop()?;
        self.used.fetch_add(1, Ordering::Relaxed);
        self.witness[table as usize].exclusive();
        let record = &self.records[table as usize];
        // Relaxed: published with the batch. A late word from the table's last life (a ticket that was dropped just as it was
        // resolved by itself) may still set `DROPPED`: that costs a look, no more.
        record.flags.fetch_and(flag::CLOSED, Ordering::Relaxed);
        record.waiters.iter().for_each(|waiter| waiter.store(0, Ordering::Relaxed));
        record.references.0.store(OPEN, Ordering::Relaxed);
        Some(table)
    }

    /// A table of a batch that was never sealed, and is empty.
    pub(crate) fn give_back(&self, table: u32) {
        self.used.fetch_sub(1, Ordering::Relaxed);
        self.free.push(table);
    }

    /// The batch of `table`, which has `count` entries and whose writers have finished.
    pub(crate) fn sealed(this: &Arc<Tables>, table: u32, count: u32) -> Batch {
        // Some tickets may be gone by now. One reference is the batch's own.
        this.records[table as usize].references.0.fetch_sub(OPEN - count - 1, Ordering::Relaxed);
        Batch { tables: Arc::clone(this), table, count, published: false }
    }

    /// Lets `n` references go.
    fn release(&self, table: u32, n: u32) {
        // Release and Acquire: whoever lets the last one go hands the table on, after all others are done with it.
        if self.records[table as usize].references.0.fetch_sub(n, Ordering::AcqRel) == n {
            self.give_back(table);
        }
    }

    /// Notes one ticket, and tells it where. One that is not of this slab, or that was noted before, is not noted:
    /// nobody waits for that entry.
    ///
    /// # Safety
    /// The table is that of a batch in which the caller reserved the ordinal and has not finished, and of this and
    /// [`Tables::enlist_nobody`] one is called, once, for it.
    #[inline]
    pub(crate) unsafe fn enlist<T>(this: &Arc<Tables>, place: Place, ticket: &mut Ticket<T>) {
        if !ticket.place(this, place) {
            // SAFETY: by the caller's promise.
            return unsafe { this.enlist_nobody(place) };
        }
        this.witness[place.table as usize].shared();
        // SAFETY: in bounds and aligned (`at`; the region is aligned to a block); nobody else accesses this ordinal
        // before the caller finished.
        unsafe { this.id_at(place.table, place.ordinal).write(ticket.id()) }
    }

    /// Notes that nobody waits for an entry.
    ///
    /// # Safety
    /// As for [`Tables::enlist`].
    #[cold]
    pub(crate) unsafe fn enlist_nobody(&self, place: Place) {
        self.witness[place.table as usize].shared();
        // SAFETY: as in `enlist`.
        unsafe { self.id_at(place.table, place.ordinal).write(TicketId::default()) }
        // Its reference. Never the last one: the batch is not sealed.
        self.release(place.table, 1);
    }
}

/// A sealed batch's tickets, by ordinal, and what becomes of them. Of fixed size; its table goes back on drop, from
/// whatever thread, once its tickets are gone.
pub struct Batch {
    tables: Arc<Tables>,
    table: u32,
    count: u32,
    /// Its outcome stands.
    published: bool,
}

impl Batch {
    /// The tickets of the batch's entries, in the entries' order; the default where nobody waits, or the ticket was
    /// resolved by itself.
    pub fn tickets(&self) -> &[TicketId] {
        self.tables.witness[self.table as usize].shared();
        assert!(self.count as usize <= self.tables.entries, "more tickets than a side table has");
        // SAFETY: in bounds by the assertion, aligned, initialised (zeroed when made, any bits are a `TicketId`). All writers
        // of the batch have finished (`poll_sealed` saw so before it made this handle), and the table is not reused
        // before this handle's drop.
        unsafe { std::slice::from_raw_parts(self.tables.id_at(self.table, 0), self.count as usize) }
    }

    /// Entries of the batch.
    #[allow(clippy::len_without_is_empty)] // It never is.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether so few tables are free that tickets are better resolved one by one, so that those which are kept keep no
    /// table.
    pub fn is_scarce(&self) -> bool {
        2 * self.tables.used.load(Ordering::Relaxed) as usize > self.tables.records.len()
    }

    /// Notes the reply to entry `ordinal`; false if it is too long for that. To be followed, for all of the batch, by
    /// [`Resolver::complete`](crate::Resolver::complete).
    ///
    /// # Panics
    /// If the batch has no such entry.
    #[inline]
    pub fn reply(&mut self, ordinal: usize, reply: &[u8]) -> bool {
        assert!(ordinal < self.count as usize && !self.published, "a reply to an entry that the batch does not have, or too late");
        if reply.len() > SMALL_REPLY {
            return false;
        }
        let at = self.tables.at(self.table, ordinal as u32);
        self.tables.records[self.table as usize].replies.exclusive();
        // SAFETY: in bounds (`at`). Nobody else writes replies of this batch (`&mut self`, and there is one `Batch` to a
        // table), and nobody reads them before `DONE`, which `complete` sets, once.
        unsafe {
            self.tables.lengths.at(at).write(reply.len() as u8);
            if !reply.is_empty() {
                copy_payload(self.tables.replies.slice_mut(at * SMALL_REPLY, reply.len()), reply);
            }
        }
        true
    }

    /// The outcomes stand: entry `n` is applied at `first + n`. What else there is to do, by flags; `None` if the
    /// engine is gone, or it was said before.
    pub(crate) fn publish(&mut self, first: u64) -> Option<Completed> {
        let record = &self.tables.records[self.table as usize];
        self.published = true;
        let mut now = record.flags.load(Ordering::Relaxed);
        if now & flag::DONE == 0 {
            record.first.store(first, Ordering::Relaxed);
        }
        while now & (flag::DONE | flag::CLOSED) == 0 {
            // Release: replies and index come first. Acquire: pairs with whoever left a waker, or dropped a ticket.
            match record.flags.compare_exchange_weak(now, now | flag::DONE, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    return Some(Completed {
                        crowded: now & flag::CROWDED != 0,
                        waited: now & flag::WAITED != 0,
                        dropped: now & flag::DROPPED != 0,
                    });
                }
                Err(changed) => now = changed,
            }
        }
        None
    }

    /// The slots of those who wait.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = u32> + '_ {
        let waiters = &self.tables.records[self.table as usize].waiters;
        // Relaxed: acquired with the flags.
        waiters.iter().filter_map(|waiter| waiter.load(Ordering::Relaxed).checked_sub(1))
    }

    /// The slab of its tickets.
    pub(crate) fn slab(&self) -> &Slab {
        &self.tables.slab
    }

    /// The ticket of entry `ordinal`, to be resolved by itself, if somebody waits for it and it was not yet.
    pub(crate) fn unresolved(&self, ordinal: usize) -> Option<TicketId> {
        assert!(!self.published, "the whole batch has its outcome");
        Some(self.tickets()[ordinal]).filter(|&id| id != TicketId::default())
    }

    /// The same of a batch that was published, and the state of its slot.
    pub(crate) fn look(&self, ordinal: usize) -> Option<(TicketId, u64)> {
        let id = self.tickets()[ordinal];
        let slot = self.tables.slab.slots.get(id.slot() as usize).filter(|_| id != TicketId::default())?;
        Some((id, slot.state.load(Ordering::Acquire)))
    }

    /// The ticket of entry `ordinal` was resolved by itself just now, and will not look here. It is forgotten: what it
    /// is called may be another's name one day.
    pub(crate) fn let_go(&mut self, ordinal: usize) {
        assert!(ordinal < self.count as usize, "an entry that the batch does not have");
        self.tables.witness[self.table as usize].exclusive();
        // SAFETY: in bounds and aligned (`id_at`). All writers of the batch have finished, there is one `Batch` to a table, and
        // what reads it borrows the batch.
        unsafe { self.tables.id_at(self.table, ordinal as u32).write(TicketId::default()) }
        self.tables.release(self.table, 1);
    }
}

/// What [`Batch::publish`] found.
pub(crate) struct Completed {
    pub(crate) waited: bool,
    pub(crate) crowded: bool,
    pub(crate) dropped: bool,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.tables.release(self.table, 1);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("count", &self.count).finish_non_exhaustive()
    }
}

/// An open batch as its tickets know it: the slab that they are from, and where the outcomes of batches stand. Clone it
/// freely.
#[derive(Debug, Clone)]
pub struct Records {
    tables: Arc<Tables>,
}

impl Records {
    pub(crate) fn new(tables: &Arc<Tables>) -> Records {
        Records { tables: Arc::clone(tables) }
    }

    pub(crate) fn slab(&self) -> Arc<Slab> {
        Arc::clone(&self.tables.slab)
    }

    /// Tickets taken whose slot is not free again; out of date at once. Counts them one by one. Means nothing after
    /// [`Records::end`].
    pub fn in_flight(&self) -> usize {
        self.tables.slab.in_flight()
    }

    /// Most bytes of a reply.
    pub fn reply_bytes(&self) -> usize {
        self.tables.slab.reply_bytes()
    }

    /// Whether these are the records of `tables`.
    pub(crate) fn are_of(&self, tables: &Arc<Tables>) -> bool {
        Arc::ptr_eq(&self.tables, tables)
    }

    fn record(&self, place: Place) -> &Record {
        &self.tables.records[place.table as usize]
    }

    /// The log index of a ticket whose batch was applied.
    #[inline]
    pub(crate) fn index(&self, place: Place) -> Option<u64> {
        let record = self.record(place);
        // Acquire: pairs with `DONE`'s Release.
        let done = record.flags.load(Ordering::Acquire) & flag::DONE != 0;
        done.then(|| record.first.load(Ordering::Relaxed) + u64::from(place.ordinal))
    }

    /// The reply to a ticket.
    ///
    /// # Safety
    /// [`Records::index`] has found one, and the ticket has its reference as long as the slice lives.
    pub(crate) unsafe fn reply(&self, place: Place) -> &[u8] {
        let at = self.tables.at(place.table, place.ordinal);
        self.record(place).replies.shared();
        // SAFETY: in bounds (`at`; a length is at most that of a place). After `DONE` nobody writes before the table is used
        // again, which the ticket's reference prevents.
        unsafe {
            let length = self.tables.lengths.at(at).read();
            self.tables.replies.slice(at * SMALL_REPLY, length.into())
        }
    }

    /// Slot `slot` left a waker. True if the outcome stands already: nobody will look.
    pub(crate) fn wait(&self, place: Place, slot: u32) -> bool {
        let record = self.record(place);
        let free = |waiter: &AtomicU32| waiter.compare_exchange(0, slot + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let known = |waiter: &AtomicU32| waiter.load(Ordering::Relaxed) == slot + 1;
        let flags = if record.waiters.iter().any(|w| known(w) || free(w)) { flag::WAITED } else { flag::WAITED | flag::CROWDED };
        // Release: the waker, and the slot among the waiters, come first. Acquire: pairs with `DONE`.
        record.flags.fetch_or(flags, Ordering::AcqRel) & flag::DONE != 0
    }

    /// A ticket is dropped that is not resolved: its slot says so. True if the outcome stands by now.
    pub(crate) fn dropped(&self, place: Place) -> bool {
        self.record(place).flags.fetch_or(flag::DROPPED, Ordering::AcqRel) & flag::DONE != 0
    }

    /// So many tickets that found their outcome in a table need it no more.
    #[inline]
    pub(crate) fn release(&self, table: u32, tickets: u32) {
        self.tables.release(table, tickets);
    }

    /// The engine is gone: no batch's outcome will come any more, no ticket is taken, and every one that is unresolved
    /// ends as [`Outcome::Unknown`](crate::Outcome::Unknown) now, its waiter woken. For good.
    pub fn end(&self) {
        for record in &self.tables.records {
            record.flags.fetch_or(flag::CLOSED, Ordering::AcqRel);
        }
        self.tables.slab.abandon();
    }
}

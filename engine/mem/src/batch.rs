//! The open batch: where callers of any thread copy their proposals, once, straight into frame memory.
//!
//! ```text
//!            open                     seal                    poll_sealed
//! BlockMut --------> room for callers -----> writers finish --------------> Sealed + Batch
//!    \                    ^    \                  ^
//!     \ open              | seal or roll over     | roll over
//!      ------> spare -----/      ----------------/
//! ```
//!
//! A caller reserves room by one compare-exchange on a state word, writes its entry into what it reserved,
//! notes its ticket in the side table at the entry's ordinal, and counts itself finished. The reactor seals by
//! a compare-exchange on the same word, which fixes the count; when as many have finished, the memory is its own
//! again. Nobody ever waits for anybody: the reactor polls, and the last writer of a sealed batch is told to ring.
//!
//! The reactor may open further batches behind the first, as spares. A caller that finds the first full rolls over
//! to the next, which seals the full one by the same step: under load nobody waits for the reactor to come round.
//!
//! All that a caller needs in order to decide stands in the state word: phase, entry count, remaining room, lane,
//! and how many spares stand behind. (All bodies are of one size.) So it does not matter whether a word that compares
//! equal is still the one it looked at, or that of a later batch in the same state: either way the reservation is
//! good. Everything else about the batch is read after the reservation, which keeps the batch in place.

use std::mem::ManuallyDrop;

use crate::copy::copy_payload;
use crate::records::{Batch, Place, Records, Tables};
use crate::sync::{Arc, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError, Witness};
use crate::ticket::Ticket;
use crate::tickets::Tickets;
use crate::{BlockMut, limits};

/// Bytes of an entry's length field, little-endian: what it counts follows it.
const LENGTH_BYTES: usize = 4;

/// What [`OpenBatch::propose`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Copied.
    Written {
        /// Entries in the batch before it: none, and the bell is to be rung, so that the reactor seals.
        before: u32,
        /// A batch is sealed, and its last writer finished by this: ring the bell, so that the reactor takes it.
        completed: bool,
    },
    /// No batch is open, or none has room: try again after the reactor opened the next. An entry larger
    /// than a whole batch never fits: its size is the caller's to check.
    Full,
    /// Not accepting (not leader).
    Closed,
}

/// A sealed batch, handed to the reactor: unique memory with the header's bytes free at the front.
#[derive(Debug)]
pub struct Sealed {
    /// The memory, exactly as opened.
    pub block: BlockMut,
    /// Bytes of entries after the header.
    pub body_bytes: usize,
    /// Number of entries, at least 1.
    pub count: u32,
}

const LANES: usize = limits::OPEN_BATCHES;

/// Shared by all callers and the reactor. Its lanes are used in a circle: first those that are sealed, then the open
/// one, then spares, then free ones.
#[derive(Debug)]
pub struct OpenBatch {
    word: Line<AtomicU64>,
    lanes: [Line<Lane>; LANES],
    tables: Arc<Tables>,
    /// The reactor's side. Locked per batch, never by a caller that proposes.
    desk: Mutex<Desk>,
    header_bytes: usize,
    body_bytes: usize,
    /// Bytes at the end of each body that are left free, unless a first entry needs them.
    beyond: AtomicUsize,
    max_entries: u32,
}

/// Keeps what callers hammer on apart from what they only read.
#[derive(Debug)]
#[repr(align(128))]
struct Line<T>(T);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No batch, not accepting.
    Closed = 0,
    /// No batch now; the next is to come.
    Idle = 1,
    /// Callers may reserve.
    Open = 2,
}

/// The state word, unpacked: `phase (2) | lane (2) | spares (2) | count (26) | room (32)`.
#[derive(Debug, Clone, Copy)]
struct Word {
    phase: Phase,
    lane: usize,
    /// Batches that stand open behind this one.
    spares: usize,
    /// Entries reserved so far.
    count: u32,
    /// Bytes of the body not reserved yet.
    room: usize,
}

const COUNT_BITS: u32 = 26;
const _: () = assert!(LANES <= 1 << 2);
const _: () = assert!(limits::MAX_BATCH_ENTRIES < 1 << COUNT_BITS);
const _: () = assert!(limits::MAX_RING_BYTES as u64 <= u32::MAX as u64);

impl Word {
    const CLOSED: Word = Word { phase: Phase::Closed, lane: 0, spares: 0, count: 0, room: 0 };
    const IDLE: Word = Word { phase: Phase::Idle, ..Word::CLOSED };

    fn pack(self) -> u64 {
        let place = (self.phase as u64) << 4 | (self.lane as u64) << 2 | self.spares as u64;
        place << 58 | u64::from(self.count) << 32 | self.room as u64
    }

    fn unpack(word: u64) -> Word {
        let phase = match word >> 62 {
            0 => Phase::Closed,
            1 => Phase::Idle,
            _ => Phase::Open,
        };
        Word {
            phase,
            lane: (word >> 60 & 3) as usize,
            spares: (word >> 58 & 3) as usize,
            count: (word >> 32) as u32 & ((1 << COUNT_BITS) - 1),
            room: word as u32 as usize,
        }
    }
}

fn after(lane: usize) -> usize {
    (lane + 1) % LANES
}

/// What writers need to know of their batch, after they reserved.
#[derive(Debug)]
struct Lane {
    /// Where the body starts.
    body: AtomicPtr<u8>,
    /// Room that was left when it was sealed. Published by `finished`.
    left: AtomicUsize,
    table: AtomicU32,
    /// `entries reserved, once sealed (32) | entries finished (32)`.
    finished: Line<AtomicU64>,
    memory: Witness,
}

/// True if a lane's `finished`, with some entries finished, says that the batch is sealed and all its writers are
/// done: a batch that is not sealed has zero for the entries reserved.
fn complete(finished: u64) -> bool {
    finished >> 32 == finished & u64::from(u32::MAX)
}

/// The reactor's view of the lanes.
#[derive(Debug)]
struct Desk {
    held: [Option<Held>; LANES],
    /// The lane whose batch comes out next.
    oldest: usize,
    /// The lane that is opened next.
    next: usize,
}

#[derive(Debug)]
struct Held {
    block: BlockMut,
    table: u32,
}

/// Room that a caller reserved.
struct Reservation {
    lane: usize,
    /// Room that was left before it.
    room: usize,
    bytes: usize,
    ordinal: u32,
    entries: u32,
    /// It sealed the batch before, whose writers are done.
    completed: bool,
}

/// Entries of a reservation that are written; their tickets are to be noted. Those that are not, by the time this goes,
/// have none.
struct Enlisting<'a> {
    tables: &'a Arc<Tables>,
    table: u32,
    ordinal: u32,
    left: u32,
}

impl Enlisting<'_> {
    fn next(&mut self) -> Option<Place> {
        self.left = self.left.checked_sub(1)?;
        let place = Place { table: self.table, ordinal: self.ordinal };
        self.ordinal += 1;
        Some(place)
    }

    #[inline]
    fn note<T>(&mut self, ticket: &mut Ticket<T>) {
        if let Some(place) = self.next() {
            // SAFETY: the ordinal is one of the reservation's, which is not finished while this lives, and each comes up once.
            unsafe { Tables::enlist(self.tables, place, ticket) }
        }
    }
}

impl Drop for Enlisting<'_> {
    fn drop(&mut self) {
        while let Some(place) = self.next() {
            // SAFETY: as in `note`.
            unsafe { self.tables.enlist_nobody(place) }
        }
    }
}

/// A reservation whose entries are written: it is finished however its maker goes on.
struct Unfinished<'a> {
    batch: &'a OpenBatch,
    reservation: Reservation,
}

impl Unfinished<'_> {
    fn finish(self) -> Slot {
        let this = ManuallyDrop::new(self);
        this.batch.finish(&this.reservation)
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.batch.finish(&self.reservation);
    }
}

impl OpenBatch {
    /// `tickets` are what callers wait with: the batch takes the slab over. `header_bytes` are left free at the front
    /// of each block, and `body_bytes` are what it has behind them; at most `max_entries` per batch; `side_tables`
    /// batches may be alive (open, or sealed and not yet dropped) at once. Closed at first.
    ///
    /// # Panics
    /// If a number is zero or over its bound in [`limits`], or all side tables together exceed the address space.
    pub fn new(tickets: Tickets, header_bytes: usize, body_bytes: usize, max_entries: usize, side_tables: usize) -> OpenBatch {
        assert!(
            (1..=limits::MAX_BATCH_ENTRIES).contains(&max_entries),
            "{max_entries} entries in a batch: must be 1 to {}",
            limits::MAX_BATCH_ENTRIES
        );
        assert!(
            (1..=limits::MAX_RING_BYTES).contains(&body_bytes),
            "a batch of {body_bytes} bytes: must be 1 to {}",
            limits::MAX_RING_BYTES
        );
        let lane = || {
            Line(Lane {
                body: AtomicPtr::new(std::ptr::null_mut()),
                left: AtomicUsize::new(0),
                table: AtomicU32::new(0),
                finished: Line(AtomicU64::new(0)),
                memory: Witness::default(),
            })
        };
        OpenBatch {
            word: Line(AtomicU64::new(Word::CLOSED.pack())),
            lanes: std::array::from_fn(|_| lane()),
            tables: Tables::new(tickets, max_entries, side_tables),
            desk: Mutex::new(Desk { held: [const { None }; LANES], oldest: 0, next: 0 }),
            header_bytes,
            body_bytes,
            beyond: AtomicUsize::new(0),
            max_entries: max_entries as u32,
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reactor: opens a batch over `block`; behind one that is open, as a spare.
    ///
    /// # Errors
    /// Gives the block back if no lane or no side table is free.
    ///
    /// # Panics
    /// If the block is not of the size of header and body.
    pub fn open(&self, mut block: BlockMut) -> Result<(), BlockMut> {
        let (header, body) = (self.header_bytes, self.body_bytes);
        assert!(block.len() == header + body, "a block of {} bytes for a header of {header} and a body of {body}", block.len());
        let mut desk = self.desk();
        let lane = desk.next;
        if desk.held[lane].is_some() {
            return Err(block);
        }
        let Some(table) = self.tables.open() else { return Err(block) };

        let here = &self.lanes[lane].0;
        here.memory.exclusive();
        // Relaxed: published by the word below. Nobody reads them now, all writers of this lane's last batch
        // have finished.
        // In bounds: the block has more than the header.
        let start = block.as_mut_ptr().wrapping_add(header);
        here.body.store(start, Ordering::Relaxed);
        here.table.store(table, Ordering::Relaxed);
        here.finished.0.store(0, Ordering::Relaxed);
        desk.held[lane] = Some(Held { block, table });
        desk.next = after(lane);
        let mut now = self.word.0.load(Ordering::Relaxed);
        loop {
            let word = Word::unpack(now);
            let next = match word.phase {
                // Never more than there are lanes: each has one that is held.
                Phase::Open => Word { spares: word.spares + 1, ..word },
                Phase::Idle | Phase::Closed => Word { phase: Phase::Open, lane, spares: 0, count: 0, room: body },
            };
            // Release: pairs with the Acquire of each reservation; those between are read-modify-writes.
            match self.word.0.compare_exchange_weak(now, next.pack(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(changed) => now = changed,
            }
        }
    }

    /// Any thread: writes one entry. `prefix` (none, or 16 bytes: session, sequence) goes before the payload;
    /// the length field counts prefix and payload. Lock-free, allocates nothing. A ticket of another slab, or one that
    /// was put into a batch before, is not put into this one.
    pub fn propose<T>(&self, prefix: &[u8], payload: &[u8], ticket: &mut Ticket<T>) -> Slot {
        let need = LENGTH_BYTES.saturating_add(prefix.len()).saturating_add(payload.len());
        let reserved = self.reserve(|room, _, _| if need <= room { (need, 1) } else { (0, 0) });
        let reservation = match reserved {
            Ok(reservation) => reservation,
            Err(slot) => return slot,
        };
        let (room, table) = self.reserved(&reservation);
        write_entry(room, prefix, payload);
        // SAFETY: the ordinal is this reservation's.
        unsafe { Tables::enlist(&self.tables, Place { table, ordinal: reservation.ordinal }, ticket) };
        self.finish(&reservation)
    }

    /// Any thread: writes many entries in one reservation, as many as fit; each has its ticket in `tickets`.
    /// Returns how many were written (a prefix of `payloads`), and what became of them; `Full` or `Closed` only
    /// if none was. Lock-free, allocates nothing. If a ticket's `as_mut` panics the entries are in the batch all the
    /// same, and nobody waits for those from there on.
    ///
    /// # Panics
    /// If there are fewer tickets than payloads.
    pub fn propose_many<K, T>(&self, payloads: &[&[u8]], tickets: &mut [K]) -> (usize, Slot)
    where
        K: AsMut<Ticket<T>>,
    {
        assert!(payloads.len() <= tickets.len(), "every payload has a ticket");
        if payloads.is_empty() {
            return (0, Slot::Written { before: 0, completed: false });
        }
        let reserved = self.reserve(|room, kept, most| {
            let (mut bytes, mut entries) = (0, 0);
            for payload in payloads.iter().take(most as usize) {
                let need = LENGTH_BYTES.saturating_add(payload.len());
                if need > room - bytes || (entries > 0 && need > kept.saturating_sub(bytes)) {
                    break;
                }
                bytes += need;
                entries += 1;
            }
            (bytes, entries)
        });
        let reservation = match reserved {
            Ok(reservation) => reservation,
            Err(slot) => return (0, slot),
        };
        let written = reservation.entries as usize;
        let (mut room, table) = self.reserved(&reservation);
        for payload in payloads.iter().take(written) {
            room = write_entry(room, &[], payload);
        }
        // From here on a caller's code is called.
        let (ordinal, left) = (reservation.ordinal, reservation.entries);
        let unfinished = Unfinished { batch: self, reservation };
        // (Goes first of the two: nothing of the lane is touched once its entries are finished.)
        let mut enlisting = Enlisting { tables: &self.tables, table, ordinal, left };
        for ticket in tickets.iter_mut().take(written) {
            enlisting.note(ticket.as_mut());
        }
        drop(enlisting);
        (written, unfinished.finish())
    }

    /// Reserves what `fit` says, which is given the room for the next entry in bytes, the room for those behind it, and
    /// the entries that may still come, and answers with bytes and entries to take; none if it does not fit.
    #[inline]
    fn reserve(&self, fit: impl Fn(usize, usize, u32) -> (usize, u32)) -> Result<Reservation, Slot> {
        let beyond = self.beyond.load(Ordering::Relaxed);
        let fit = |word: Word, most: u32| {
            let kept = word.room.saturating_sub(beyond);
            fit(if word.count == 0 { word.room } else { kept }, kept, most)
        };
        let mut now = self.word.0.load(Ordering::Relaxed);
        loop {
            let word = Word::unpack(now);
            match word.phase {
                Phase::Closed => return Err(Slot::Closed),
                Phase::Idle => return Err(Slot::Full),
                Phase::Open => {}
            }
            let most = self.max_entries - word.count;
            let (mut bytes, mut entries) = if most > 0 { fit(word, most) } else { (0, 0) };
            let mut from = word;
            if entries == 0 {
                let Some(next) = self.next_lane(word).filter(|_| word.spares > 0) else { return Err(Slot::Full) };
                (bytes, entries) = fit(next, self.max_entries);
                if entries == 0 {
                    return Err(Slot::Full);
                }
                from = next;
            }
            let next = Word { count: from.count + entries, room: from.room - bytes, ..from }.pack();
            // Acquire: pairs with the store that opened the batch (the reservations between are read-modify-writes).
            match self.word.0.compare_exchange_weak(now, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    let completed = from.lane != word.lane && self.sealed(word);
                    let Word { lane, room, count: ordinal, .. } = from;
                    return Ok(Reservation { lane, room, bytes, ordinal, entries, completed });
                }
                Err(changed) => now = changed,
            }
        }
    }

    /// The word once the batch of `word` is sealed, if anything is in it.
    fn next_lane(&self, word: Word) -> Option<Word> {
        let spare = Word { lane: after(word.lane), spares: word.spares.wrapping_sub(1), count: 0, room: self.body_bytes, ..word };
        (word.count > 0).then_some(if word.spares > 0 { spare } else { Word::IDLE })
    }

    /// The memory that `reservation` is about, and the number of its side table. Called once for each.
    #[inline]
    #[allow(clippy::mut_from_ref)] // The reservation is what makes it exclusive.
    fn reserved(&self, reservation: &Reservation) -> (&mut [u8], u32) {
        let lane = &self.lanes[reservation.lane].0;
        lane.memory.shared();
        assert!(reservation.bytes <= reservation.room && reservation.room <= self.body_bytes);
        // SAFETY: the batch of this lane stays until our entries are counted finished, so `body` is the start of
        // `body_bytes` bytes of a block that the desk holds and nobody touches but by reservation. Reservations are
        // disjoint: each takes its bytes off the room in one atomic step. The slice is derived from the block's raw
        // base, so it invalidates no other writer's.
        let room = unsafe {
            let start = lane.body.load(Ordering::Relaxed).add(self.body_bytes - reservation.room);
            std::slice::from_raw_parts_mut(start, reservation.bytes)
        };
        (room, lane.table.load(Ordering::Relaxed))
    }

    /// The reserved entries are written. Nothing of the lane is touched after this.
    #[inline]
    fn finish(&self, reservation: &Reservation) -> Slot {
        let entries = u64::from(reservation.entries);
        // Release: what was written comes before the count that `poll_sealed` acquires.
        let before = self.lanes[reservation.lane].0.finished.0.fetch_add(entries, Ordering::Release);
        Slot::Written { before: reservation.ordinal, completed: reservation.completed || complete(before + entries) }
    }

    /// Reactor: lets no batch hold more than `body_bytes` of entries from now on, but for one that a single entry makes
    /// longer. What is written already stays.
    pub fn keep_to(&self, body_bytes: usize) {
        self.beyond.store(self.body_bytes.saturating_sub(body_bytes), Ordering::Relaxed);
    }

    /// Entries and bytes waiting in the open batch; zero if there is none.
    pub fn waiting(&self) -> (u32, usize) {
        let word = Word::unpack(self.word.0.load(Ordering::Relaxed));
        if word.phase == Phase::Open { (word.count, self.body_bytes - word.room) } else { (0, 0) }
    }

    /// Batches that stand open behind the open one.
    pub fn spares(&self) -> usize {
        Word::unpack(self.word.0.load(Ordering::Relaxed)).spares
    }

    /// Reactor: no newcomers into the open batch from now on; a spare takes them. False if nothing is open or it is
    /// empty (then it stays open).
    pub fn seal(&self) -> bool {
        let mut now = self.word.0.load(Ordering::Relaxed);
        loop {
            let word = Word::unpack(now);
            let next = match word.phase {
                Phase::Open => self.next_lane(word),
                Phase::Idle | Phase::Closed => None,
            };
            let Some(next) = next else { return false };
            match self.word.0.compare_exchange_weak(now, next.pack(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    self.sealed(word);
                    return true;
                }
                Err(changed) => now = changed,
            }
        }
    }

    /// The batch whose last word was `word` takes no more reservations. Called once, by whoever took the word on. True
    /// if all its writers have finished: nobody else will say so.
    fn sealed(&self, word: Word) -> bool {
        let lane = &self.lanes[word.lane].0;
        lane.left.store(word.room, Ordering::Relaxed);
        let target = u64::from(word.count) << 32;
        // Release: publishes what is left of the room. As a read-modify-write it keeps what writers released.
        let before = lane.finished.0.fetch_add(target, Ordering::Release);
        complete(before + target)
    }

    /// Reactor: the oldest sealed batch, once its writers are done.
    pub fn poll_sealed(&self) -> Option<(Sealed, Batch)> {
        let mut desk = self.desk();
        let at = desk.oldest;
        desk.held[at].as_ref()?;
        let lane = &self.lanes[at].0;
        // Acquire: pairs with each writer's `finish`, and with `sealed`.
        let finished = lane.finished.0.load(Ordering::Acquire);
        let count = (finished >> 32) as u32;
        if count == 0 || !complete(finished) {
            return None;
        }
        lane.memory.exclusive();
        let body_bytes = self.body_bytes - lane.left.load(Ordering::Relaxed);
        let Held { block, table } = desk.held[at].take()?;
        desk.oldest = after(at);
        let batch = Tables::sealed(&self.tables, table, count);
        Some((Sealed { block, body_bytes, count }, batch))
    }

    /// Reactor: leadership lost: closed to newcomers. What was in the open batch comes out through
    /// [`OpenBatch::poll_sealed`] (to fail its tickets); memory of an empty one, and of spares, is dropped.
    pub fn close(&self) {
        let mut desk = self.desk();
        // Relaxed: as in `seal`.
        let word = Word::unpack(self.word.0.swap(Word::CLOSED.pack(), Ordering::Relaxed));
        if word.phase != Phase::Open {
            return;
        }
        let mut empty = 1 + word.spares;
        if word.count > 0 {
            self.sealed(word);
            empty -= 1;
        }
        for _ in 0..empty {
            desk.next = (desk.next + LANES - 1) % LANES;
            let last = desk.next;
            if let Some(held) = desk.held[last].take() {
                self.tables.give_back(held.table);
            }
        }
    }

    /// Where tickets are taken from ([`Hold::new`](crate::Hold::new)), and where the outcomes of batches stand.
    pub fn records(&self) -> Records {
        Records::new(&self.tables)
    }

    /// Whether a batch is open to callers.
    pub fn is_open(&self) -> bool {
        Word::unpack(self.word.0.load(Ordering::Relaxed)).phase == Phase::Open
    }

    /// True between `close` and the next `open`, and before the first.
    pub fn is_closed(&self) -> bool {
        Word::unpack(self.word.0.load(Ordering::Relaxed)).phase == Phase::Closed
    }
}

/// Writes one entry at the start of `room`; what is left of it.
#[inline]
fn write_entry<'a>(room: &'a mut [u8], prefix: &[u8], payload: &[u8]) -> &'a mut [u8] {
    let counted = prefix.len() + payload.len();
    let (entry, rest) = room.split_at_mut(LENGTH_BYTES + counted);
    let (length, body) = entry.split_at_mut(LENGTH_BYTES);
    // Lossless: the entry fits a batch, whose room fits 32 bits.
    length.copy_from_slice(&(counted as u32).to_le_bytes());
    let (before, body) = body.split_at_mut(prefix.len());
    before.copy_from_slice(prefix);
    copy_payload(body, payload);
    rest
}

//! The frame ring: memory given out at the tail and taken back in order at the head.

use std::collections::VecDeque;
use std::fmt;

use crate::block::{BlockMut, NO_SLOT};
use crate::memory::{MIRRORED, Memory};
use crate::references::References;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::{BLOCK_BYTES, limits};

/// Why a ring could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The size is not one that a ring can have.
    #[error("ring of {bytes} bytes: must be a power of two, at least {}", limits::MIN_RING_BYTES)]
    Size {
        /// The size asked for.
        bytes: usize,
    },
    /// The block table's size is not one that a ring can have.
    #[error("ring with {blocks} blocks: must be 1 to {}", limits::MAX_RING_BLOCKS)]
    Blocks {
        /// The number asked for.
        blocks: usize,
    },
    /// The kernel refused the memory: set a smaller ring, or a higher limit for the process.
    #[error("ring of {bytes} bytes could not be mapped: {source}")]
    Map {
        /// The size asked for.
        bytes: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A byte ring mapped twice, so that no block ever wraps. Single owner (the reactor).
///
/// Blocks are reserved at the tail. An extent of the ring is free again once no handle to it is left and either
/// nothing older or nothing newer is held: so the ring is reclaimed in order, and a newest block that is dropped
/// gives its memory back at once. Pages become resident by use; an empty ring starts over at its first byte, so
/// that light use stays in few pages.
#[derive(Debug)]
pub struct Ring {
    shared: Arc<Shared>,
}

impl Ring {
    /// A ring of `bytes` (a power of two, at least 65,536) that can hold `max_blocks` blocks at once.
    ///
    /// # Errors
    /// If a size is out of range or the kernel refuses the memory.
    pub fn new(bytes: usize, max_blocks: usize) -> Result<Ring, RingError> {
        if !bytes.is_power_of_two() || !(limits::MIN_RING_BYTES..=limits::MAX_RING_BYTES).contains(&bytes) {
            return Err(RingError::Size { bytes });
        }
        if !(1..=limits::MAX_RING_BLOCKS).contains(&max_blocks) {
            return Err(RingError::Blocks { blocks: max_blocks });
        }
        let memory = Memory::mirrored(bytes).map_err(|source| RingError::Map { bytes, source })?;
        let shared = Shared {
            memory,
            capacity: bytes,
            references: (0..max_blocks).map(|_| References::free()).collect(),
            table: Mutex::new(Table::new(max_blocks)),
        };
        Ok(Ring { shared: Arc::new(shared) })
    }

    /// A block of `len` bytes at the tail. `None`: no room now (the oldest block is still held, or the block
    /// table is full). Contents are whatever was there: not zeroed. Never allocates.
    ///
    /// # Panics
    /// If `len` is zero or not a multiple of [`BLOCK_BYTES`].
    pub fn reserve(&mut self, len: usize) -> Option<BlockMut> {
        assert!(len > 0 && len.is_multiple_of(BLOCK_BYTES), "reserve {len} bytes: must be a positive multiple of {BLOCK_BYTES}");
        let mut table = self.shared.table();
        table.reclaim(&self.shared.references);
        if len > self.shared.capacity - table.held() {
            return None;
        }
        let slot = table.idle.pop()?;
        let start = table.tail();
        table.extents.push_back(Extent { start, end: start + len as u64, slot });
        self.shared.references[slot as usize].first();
        drop(table);
        Some(BlockMut::new(self.shared.clone(), start, len, slot))
    }

    /// Grows `block` in place by `more` bytes at its end, if it is the newest block of this ring and there is
    /// room. An empty block becomes a fresh one at the tail.
    ///
    /// # Panics
    /// If `more` is not a multiple of [`BLOCK_BYTES`].
    pub fn extend(&mut self, block: &mut BlockMut, more: usize) -> bool {
        assert!(more.is_multiple_of(BLOCK_BYTES), "extend by {more} bytes: must be a multiple of {BLOCK_BYTES}");
        if !block.lies_in(&self.shared) {
            return false;
        }
        if more == 0 {
            return true;
        }
        if block.is_empty() {
            return self.reserve(more).map(|fresh| *block = fresh).is_some();
        }
        let mut table = self.shared.table();
        table.reclaim(&self.shared.references);
        // The second can only happen in plain memory, without a mirror.
        if more > self.shared.capacity - table.held() || more > block.beyond() {
            return false;
        }
        match table.extents.back_mut() {
            Some(newest) if newest.start == block.start() => newest.end += more as u64,
            _ => return false,
        }
        drop(table);
        block.set_len(block.len() + more);
        true
    }

    /// Bytes that `reserve` could give now, in one block.
    pub fn free(&mut self) -> usize {
        let mut table = self.shared.table();
        table.reclaim(&self.shared.references);
        if table.idle.is_empty() { 0 } else { self.shared.capacity - table.held() }
    }

    /// The ring's size, in bytes.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// Bytes between the oldest held block's start and the tail: what is not free.
    pub fn held(&mut self) -> usize {
        let mut table = self.shared.table();
        table.reclaim(&self.shared.references);
        table.held()
    }

    /// Base address and length in bytes, for registration with io_uring: the first copy, and of the second what blocks
    /// that run over the end mostly need ([`limits::REGISTERED_OVERLAP`]), since what is registered is resident,
    /// twice over. Valid while the ring or any of its blocks lives; to be read and written only through blocks.
    pub fn registration(&self) -> (*mut u8, usize) {
        (self.shared.memory.at(0), self.shared.capacity + self.shared.capacity.min(limits::REGISTERED_OVERLAP))
    }
}

/// What the ring and all its blocks share.
pub(crate) struct Shared {
    memory: Memory,
    capacity: usize,
    references: Box<[References]>,
    /// Taken per frame, not per entry, and never held over a system call.
    table: Mutex<Table>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Where position `start` lies in the region: always in the first copy.
    pub(crate) fn offset(&self, start: u64) -> usize {
        (start & (self.capacity as u64 - 1)) as usize
    }

    /// The offset `by` bytes on from `offset`, not more than the capacity. In plain memory (see [`MIRRORED`]) bytes
    /// stay where they are, in the second half if need be.
    pub(crate) fn step(&self, offset: usize, by: usize) -> usize {
        if MIRRORED { (offset + by) & (self.capacity - 1) } else { offset + by }
    }

    /// The handles to `slot`; `None` for an empty block's.
    pub(crate) fn references(&self, slot: u32) -> Option<&References> {
        if slot == NO_SLOT { None } else { self.references.get(slot as usize) }
    }

    /// Splits the held extent at `start` after `len` bytes, less than it has. The front part's new slot, with its
    /// first reference; `None` if the table is full.
    pub(crate) fn split(&self, start: u64, len: usize) -> Option<u32> {
        let mut table = self.table();
        table.reclaim(&self.references);
        let slot = table.idle.pop()?;
        let at = table.find(start);
        let middle = start + len as u64;
        let rest = &mut table.extents[at];
        assert!(middle < rest.end, "a split leaves something on both sides");
        rest.start = middle;
        table.extents.insert(at, Extent { start, end: middle, slot });
        self.references[slot as usize].first();
        Some(slot)
    }

    /// Shortens the held extent at `start` to `len` bytes, not zero.
    pub(crate) fn truncate(&self, start: u64, len: usize) {
        let mut table = self.table();
        let at = table.find(start);
        let end = start + len as u64;
        let extent = &mut table.extents[at];
        assert!(start < end && end <= extent.end, "truncation shortens");
        extent.end = end;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Which parts of the ring are given out. Positions number the ring's bytes endlessly; extents are in ascending
/// order, disjoint, never empty, and span at most the capacity. A truncated extent leaves a gap behind it.
struct Table {
    extents: VecDeque<Extent>,
    /// Slots without an extent.
    idle: Vec<u32>,
}

struct Extent {
    start: u64,
    end: u64,
    slot: u32,
}

impl Table {
    fn new(max_blocks: usize) -> Table {
        Table { extents: VecDeque::with_capacity(max_blocks), idle: (0..max_blocks as u32).rev().collect() }
    }

    fn tail(&self) -> u64 {
        self.extents.back().map_or(0, |newest| newest.end)
    }

    fn held(&self) -> usize {
        self.extents.front().map_or(0, |oldest| (self.tail() - oldest.start) as usize)
    }

    /// Drops extents without handles from both ends.
    fn reclaim(&mut self, references: &[References]) {
        let free = |extent: &Extent| references[extent.slot as usize].is_free();
        while self.extents.front().is_some_and(free) {
            self.idle.extend(self.extents.pop_front().map(|oldest| oldest.slot));
        }
        while self.extents.back().is_some_and(free) {
            self.idle.extend(self.extents.pop_back().map(|newest| newest.slot));
        }
    }

    /// Which extent starts at `start`, where a live handle says one does.
    fn find(&self, start: u64) -> usize {
        match self.extents.binary_search_by_key(&start, |extent| extent.start) {
            Ok(at) => at,
            Err(_) => unreachable!("a live block has an extent"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Block;

    const B: usize = BLOCK_BYTES;
    const RING: usize = limits::MIN_RING_BYTES;

    fn filled(ring: &mut Ring, blocks: usize, value: u8) -> BlockMut {
        let mut block = ring.reserve(blocks * B).unwrap();
        block.bytes_mut().fill(value);
        block
    }

    fn holds(bytes: &[u8], value: u8) -> bool {
        !bytes.is_empty() && bytes.iter().all(|&b| b == value)
    }

    #[test]
    fn sizes_are_checked() {
        for bytes in [0, 1, 4096, RING - 1, RING + B, 3 * RING, 2 * limits::MAX_RING_BYTES] {
            assert!(matches!(Ring::new(bytes, 4), Err(RingError::Size { .. })), "{bytes}");
        }
        assert!(matches!(Ring::new(RING, 0), Err(RingError::Blocks { blocks: 0 })));
        assert!(matches!(Ring::new(RING, limits::MAX_RING_BLOCKS + 1), Err(RingError::Blocks { .. })));
        let ring = Ring::new(RING, 4).unwrap();
        assert_eq!(ring.capacity(), RING);
        let (base, len) = ring.registration();
        assert_eq!((base as usize % B, len), (0, 2 * RING));
    }

    #[test]
    fn a_block_that_runs_over_the_end_is_contiguous() {
        let mut ring = Ring::new(RING, 8).unwrap();
        let first = filled(&mut ring, 10, 1);
        let second = filled(&mut ring, 4, 2).freeze();
        drop(first);
        // Six blocks: two at the end of the ring, four at its start.
        let third = filled(&mut ring, 6, 3).freeze();
        assert!(holds(second.bytes(), 2) && holds(third.bytes(), 3));
        assert_eq!(ring.held(), 10 * B);
        let fourth = filled(&mut ring, 6, 4);
        assert_eq!(ring.free(), 0);
        assert!(ring.reserve(B).is_none());
        assert!(holds(second.bytes(), 2) && holds(third.bytes(), 3) && holds(fourth.bytes(), 4));
    }

    #[cfg(not(miri))]
    #[test]
    fn both_copies_show_the_same_bytes() {
        let mut ring = Ring::new(RING, 8).unwrap();
        let pin = filled(&mut ring, 15, 1);
        let held = filled(&mut ring, 1, 9);
        drop(pin);
        let mut wrapped = ring.reserve(15 * B).unwrap();
        wrapped.bytes_mut().fill(7);
        let (base, _) = ring.registration();
        drop((wrapped, held));
        // All of the ring but its last block was written through positions past the end.
        let first_copy = ring.reserve(RING).unwrap();
        assert_eq!(first_copy.bytes().as_ptr(), base.cast_const());
        assert!(holds(&first_copy.bytes()[..15 * B], 7) && holds(&first_copy.bytes()[15 * B..], 9));
    }

    #[test]
    fn the_ring_is_reclaimed_in_order() {
        let mut ring = Ring::new(RING, 8).unwrap();
        let blocks: Vec<_> = (0..4).map(|n| filled(&mut ring, 4, n).freeze()).collect();
        let [a, b, c, d]: [Block; 4] = blocks.try_into().unwrap();
        assert_eq!(ring.free(), 0);
        drop(b);
        drop(c);
        assert_eq!(ring.free(), 0, "the oldest pins those after it");
        drop(a);
        assert_eq!(ring.free(), 12 * B);
        let again = d.clone();
        drop(d);
        assert_eq!(ring.held(), 4 * B);
        assert!(holds(again.bytes(), 3));
        drop(again);
        assert_eq!(ring.free(), RING);
    }

    #[test]
    fn a_dropped_newest_block_is_reused_at_once() {
        let mut ring = Ring::new(RING, 8).unwrap();
        let a = filled(&mut ring, 4, 1);
        let b = filled(&mut ring, 4, 2);
        let address = b.bytes().as_ptr();
        drop(b);
        assert_eq!(ring.held(), 4 * B);
        let c = filled(&mut ring, 12, 3);
        assert_eq!(c.bytes().as_ptr(), address);
        assert!(holds(a.bytes(), 1));
    }

    #[test]
    fn the_block_table_is_a_bound() {
        let mut ring = Ring::new(RING, 2).unwrap();
        let a = ring.reserve(B).unwrap();
        let mut b = ring.reserve(2 * B).unwrap();
        assert!(ring.reserve(B).is_none());
        assert_eq!(ring.free(), 0);
        assert!(b.split_to(B).is_none());
        assert_eq!(b.len(), 2 * B);
        drop(a);
        assert!(b.split_to(B).is_some());
        assert!(ring.reserve(B).is_some());
    }

    #[test]
    fn truncation_gives_the_tail_back() {
        let mut ring = Ring::new(RING, 8).unwrap();
        let mut a = filled(&mut ring, 16, 1);
        a.truncate(3 * B);
        assert_eq!((a.len(), ring.free()), (3 * B, 13 * B));
        let mut b = filled(&mut ring, 13, 2);
        a.truncate(B);
        assert_eq!(ring.free(), 0, "no longer the newest");
        assert!(holds(a.bytes(), 1) && holds(b.bytes(), 2));
        b.truncate(0);
        assert!(b.is_empty() && b.bytes().is_empty());
        assert_eq!(ring.free(), 15 * B);
        drop(b);
        assert!(holds(a.freeze().bytes(), 1));
        assert_eq!(ring.free(), RING);
    }

    #[test]
    fn extension_is_in_place_and_for_the_newest_alone() {
        let mut ring = Ring::new(RING, 8).unwrap();
        let mut a = filled(&mut ring, 2, 1);
        assert!(ring.extend(&mut a, 2 * B));
        assert_eq!(a.len(), 4 * B);
        assert!(holds(&a.bytes()[..2 * B], 1));
        let mut b = filled(&mut ring, 1, 2);
        assert!(!ring.extend(&mut a, B));
        assert!(!ring.extend(&mut b, 12 * B));
        assert!(ring.extend(&mut b, 11 * B));
        drop(b);
        assert!(ring.extend(&mut a, 12 * B), "newest again");
        assert_eq!(ring.free(), 0);
        a.truncate(0);
        assert!(ring.extend(&mut a, B), "an empty block starts afresh");
        let mut other = Ring::new(RING, 8).unwrap();
        assert!(!other.extend(&mut a, B));
    }

    #[test]
    fn split_parts_are_reclaimed_front_first() {
        let mut ring = Ring::new(RING, 8).unwrap();
        let mut rest = ring.reserve(8 * B).unwrap();
        for (n, part) in rest.bytes_mut().chunks_mut(B).enumerate() {
            part.fill(n as u8);
        }
        let one = rest.split_to(B).unwrap();
        let three = rest.split_to(3 * B).unwrap();
        assert_eq!((one.len(), three.len(), rest.len()), (B, 3 * B, 4 * B));
        assert!(holds(one.bytes(), 0) && holds(&three.bytes()[2 * B..], 3));
        assert!(holds(&rest.bytes()[..B], 4));
        drop(three);
        assert_eq!(ring.held(), 8 * B);
        drop(one);
        assert_eq!(ring.held(), 4 * B);
        assert!(ring.extend(&mut rest, B), "the rest is still the newest");
        let nothing = rest.split_to(0).unwrap();
        assert!(nothing.is_empty());
        let all = rest.split_to(5 * B).unwrap();
        assert!(rest.is_empty() && rest.split_to(0).unwrap().is_empty());
        drop((rest, nothing));
        assert_eq!(ring.held(), 5 * B);
        drop(all);
        assert_eq!(ring.held(), 0);
    }

    #[test]
    fn blocks_outlive_their_ring() {
        let mut ring = Ring::new(RING, 8).unwrap();
        let mut a = filled(&mut ring, 2, 1);
        let b = filled(&mut ring, 2, 2).freeze();
        drop(ring);
        let front = a.split_to(B).unwrap();
        a.bytes_mut().fill(5);
        let c = b.clone();
        drop(b);
        let reader = std::thread::spawn(move || holds(c.bytes(), 2));
        assert!(reader.join().unwrap());
        assert!(holds(front.bytes(), 1) && holds(a.bytes(), 5));
    }

    #[test]
    fn empty_blocks_freeze_and_clone() {
        let mut ring = Ring::new(RING, 1).unwrap();
        let mut a = ring.reserve(B).unwrap();
        a.truncate(0);
        let frozen = a.freeze();
        assert!(frozen.clone().is_empty() && frozen.in_ring());
        assert_eq!(ring.free(), RING);
    }
}

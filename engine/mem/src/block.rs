//! Handles to memory: a block is either unique and writable, or frozen and shared. Never both.

use std::fmt;

use crate::memory::Memory;
use crate::references::References;
use crate::ring;
use crate::sync::Arc;
use crate::{BLOCK_BYTES, pool};

/// The slot of an empty block, which occupies none.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// A unique, writable block of ring memory. Dropping it gives the memory back, from whatever thread and even
/// after its ring.
pub struct BlockMut {
    /// Taken by `freeze` alone.
    ring: Option<Arc<ring::Shared>>,
    /// Position in the ring's endless numbering of bytes.
    start: u64,
    /// Where that is in the ring's memory.
    offset: usize,
    len: usize,
    /// In the ring's table; [`NO_SLOT`] if and only if `len` is zero.
    slot: u32,
}

impl BlockMut {
    /// The only handle to `slot`, which the ring just gave its first reference.
    pub(crate) fn new(ring: Arc<ring::Shared>, start: u64, len: usize, slot: u32) -> BlockMut {
        let offset = ring.offset(start);
        BlockMut { ring: Some(ring), start, offset, len, slot }
    }

    fn ring(&self) -> &Arc<ring::Shared> {
        match &self.ring {
            Some(ring) => ring,
            None => unreachable!("a frozen block is gone"),
        }
    }

    pub(crate) fn lies_in(&self, ring: &Arc<ring::Shared>) -> bool {
        Arc::ptr_eq(self.ring(), ring)
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Bytes from the block's end to the end of the region: room to run on.
    pub(crate) fn beyond(&self) -> usize {
        self.ring().memory().bytes() - self.offset - self.len
    }

    /// The ring lengthened this block's extent to `len`.
    pub(crate) fn set_len(&mut self, len: usize) {
        self.len = len;
    }

    /// Length in bytes, a multiple of [`BLOCK_BYTES`].
    pub fn len(&self) -> usize {
        self.len
    }

    /// True after everything was split or truncated away. An empty block holds no memory.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        let ring = self.ring();
        if let Some(references) = ring.references(self.slot) {
            references.reading();
        }
        // SAFETY: the ring gave `start..start + len` to this handle alone and reclaims it only after the handle's
        // drop; the borrow of `self` keeps `bytes_mut` away.
        unsafe { ring.memory().slice(self.offset, self.len) }
    }

    /// The contents, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let ring = self.ring();
        if let Some(references) = ring.references(self.slot) {
            references.writing();
        }
        // SAFETY: the ring gave `start..start + len` to this handle alone and reclaims it only after the handle's
        // drop, mirror image included; the exclusive borrow of `self` keeps every other slice away.
        unsafe { ring.memory().slice_mut(self.offset, self.len) }
    }

    /// The first `len` bytes leave as a block of their own, which the ring reclaims before the rest. `None` if the
    /// ring's block table is full. Splitting off everything leaves this block empty.
    ///
    /// # Panics
    /// If `len` is not a multiple of [`BLOCK_BYTES`], or more than this block's length.
    pub fn split_to(&mut self, len: usize) -> Option<BlockMut> {
        assert!(
            len.is_multiple_of(BLOCK_BYTES) && len <= self.len,
            "split at {len} of a block of {} bytes: must be a multiple of {BLOCK_BYTES} within it",
            self.len
        );
        let ring = self.ring().clone();
        let front_slot = if len == 0 {
            NO_SLOT
        } else if len == self.len {
            std::mem::replace(&mut self.slot, NO_SLOT)
        } else {
            ring.split(self.start, len)?
        };
        let next = ring.step(self.offset, len);
        let (start, offset) = (self.start, std::mem::replace(&mut self.offset, next));
        let front = BlockMut { ring: Some(ring), start, offset, len, slot: front_slot };
        self.start += len as u64;
        self.len -= len;
        Some(front)
    }

    /// Shortens the block to its first `len` bytes. The ring reuses the rest at once if this is its newest
    /// block, else when its turn comes.
    ///
    /// # Panics
    /// If `len` is not a multiple of [`BLOCK_BYTES`], or more than this block's length.
    pub fn truncate(&mut self, len: usize) {
        assert!(
            len.is_multiple_of(BLOCK_BYTES) && len <= self.len,
            "truncate to {len} a block of {} bytes: must be a multiple of {BLOCK_BYTES} within it",
            self.len
        );
        if len == self.len {
            return;
        }
        if len == 0 {
            self.release();
            self.slot = NO_SLOT;
        } else {
            self.ring().truncate(self.start, len);
        }
        self.len = len;
    }

    /// No more writes: a shared handle.
    pub fn freeze(mut self) -> Block {
        let Some(ring) = self.ring.take() else { unreachable!("a block is frozen once") };
        Block::new(Home::Ring(ring), self.start, self.offset, self.len, self.slot)
    }

    /// The first byte's address, valid for the block's length while this handle lives: for kontiki-io, which
    /// keeps the handle until the kernel is done.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        let ring = self.ring();
        if let Some(references) = ring.references(self.slot) {
            references.writing();
        }
        ring.memory().at(self.offset)
    }

    /// Gives the memory back, if this handle still has some.
    fn release(&self) {
        if let Some(references) = self.ring.as_ref().and_then(|ring| ring.references(self.slot)) {
            let last = references.release();
            assert!(last, "a writable block had a second handle");
        }
    }
}

impl Drop for BlockMut {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for BlockMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockMut").field("start", &self.start).field("len", &self.len).finish_non_exhaustive()
    }
}

/// Where a frozen block's memory is, and goes back to.
#[derive(Clone)]
pub(crate) enum Home {
    Ring(Arc<ring::Shared>),
    Pool(Arc<pool::Shared>),
}

/// A frozen, shared block of ring or pool memory. A clone is a reference count and never allocates. The memory
/// outlives its ring or pool as long as a handle does.
pub struct Block {
    home: Home,
    /// Position in the ring's endless numbering of bytes; zero in a pool.
    start: u64,
    /// Where that is in the memory of ring or pool.
    offset: usize,
    len: usize,
    slot: u32,
}

impl Block {
    /// Takes over the only handle to `slot`.
    pub(crate) fn new(home: Home, start: u64, offset: usize, len: usize, slot: u32) -> Block {
        Block { home, start, offset, len, slot }
    }

    fn references(&self) -> Option<&References> {
        match &self.home {
            Home::Ring(ring) => ring.references(self.slot),
            Home::Pool(pool) => Some(pool.references(self.slot)),
        }
    }

    fn memory(&self) -> &Memory {
        match &self.home {
            Home::Ring(ring) => ring.memory(),
            Home::Pool(pool) => pool.memory(),
        }
    }

    /// Bytes from this block's start over `len` bytes.
    ///
    /// # Safety
    /// The caller keeps handles that rule out the reuse of all of the range while the slice lives.
    pub(crate) unsafe fn range(&self, len: usize) -> &[u8] {
        if let Some(references) = self.references() {
            references.reading();
        }
        // SAFETY: frozen memory is never written, and by the caller's promise not reused either.
        unsafe { self.memory().slice(self.offset, len) }
    }

    /// True if `next` lies in the same ring and starts `len` bytes after this block's start.
    pub(crate) fn is_followed_by(&self, len: usize, next: &Block) -> bool {
        let (Home::Ring(ring), Home::Ring(other)) = (&self.home, &next.home) else { return false };
        Arc::ptr_eq(ring, other) && next.start == self.start + len as u64 && next.offset == ring.step(self.offset, len)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The contents, which never change while a handle lives.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: this handle keeps its own block from being reused.
        unsafe { self.range(self.len) }
    }

    /// A handle to `len` bytes from `from` on, which keeps the whole block's memory.
    ///
    /// # Panics
    /// If the block has no such bytes.
    pub fn slice(&self, from: usize, len: usize) -> Block {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "a slice of {len} from {from} in a block of {}", self.len);
        let mut part = self.clone();
        part.start += from as u64;
        part.offset = match &self.home {
            Home::Ring(ring) => ring.step(self.offset, from),
            Home::Pool(_) => self.offset + from,
        };
        part.len = len;
        part
    }

    /// True if it lies in a ring (registered memory) rather than in a pool.
    pub fn in_ring(&self) -> bool {
        matches!(self.home, Home::Ring(_))
    }

    /// The first byte's address, valid for reads of the block's length while a handle lives.
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }
}

impl Clone for Block {
    fn clone(&self) -> Block {
        if let Some(references) = self.references() {
            references.another();
        }
        Block { home: self.home.clone(), start: self.start, offset: self.offset, len: self.len, slot: self.slot }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match &self.home {
            Home::Ring(ring) => {
                if let Some(references) = ring.references(self.slot) {
                    references.release();
                }
            }
            Home::Pool(pool) => pool.release(self.slot),
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("in_ring", &self.in_ring())
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

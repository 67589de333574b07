//! SIGNATURES ONLY (bodies being written). The frame ring: memory given out and taken back in FIFO order.
#![allow(missing_docs, unused_variables, clippy::todo)]

/// Why a ring could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("ring of {bytes} bytes: must be a power of two, at least 65536")]
    Size { bytes: usize },
    #[error("ring of {bytes} bytes could not be mapped: {source}")]
    Map { bytes: usize, source: std::io::Error },
}

/// A byte ring mapped twice (memfd), so that no block ever wraps. Single owner (the reactor).
/// Blocks are reserved at the tail and reclaimed strictly in order at the head, once every handle to the oldest is gone.
#[derive(Debug)]
pub struct Ring {}
impl Ring {
    /// `bytes`: power of two. `max_blocks`: bound on blocks alive at once.
    pub fn new(bytes: usize, max_blocks: usize) -> Result<Ring, RingError> { todo!() }
    /// `len` a multiple of BLOCK_BYTES. None: no room now (oldest block still held, or block table full).
    /// Contents are whatever was there: not zeroed.
    pub fn reserve(&mut self, len: usize) -> Option<BlockMut> { todo!() }
    /// Grows `block` in place at its end, if it is the newest block of this ring and there is room.
    pub fn extend(&mut self, block: &mut BlockMut, more: usize) -> bool { todo!() }
    /// Bytes that `reserve` could give now.
    pub fn free(&mut self) -> usize { todo!() }
    pub fn capacity(&self) -> usize { todo!() }
    /// Bytes between the oldest held block's start and the tail.
    pub fn held(&mut self) -> usize { todo!() }
    /// Base address and length (twice the capacity) for registration with io_uring.
    pub fn registration(&self) -> (*mut u8, usize) { todo!() }
}

/// A unique, writable block. `Send`. Dropping it gives the memory back.
#[derive(Debug)]
pub struct BlockMut {}
impl BlockMut {
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
    pub fn bytes(&self) -> &[u8] { todo!() }
    pub fn bytes_mut(&mut self) -> &mut [u8] { todo!() }
    /// The first `len` bytes (multiple of BLOCK_BYTES) leave as a block of their own. None if the block table is full.
    pub fn split_to(&mut self, len: usize) -> Option<BlockMut> { todo!() }
    /// Shortens the block; the ring reuses the rest at once if this is the newest block.
    pub fn truncate(&mut self, len: usize) { todo!() }
    /// No more writes: a shared handle.
    pub fn freeze(self) -> Block { todo!() }
    /// A kernel-visible pointer range, for kontiki-io alone.
    pub fn as_mut_ptr(&mut self) -> *mut u8 { todo!() }
}

/// A frozen, shared block of ring or pool memory. Clone is a reference count; never allocates. `Send + Sync`.
#[derive(Debug, Clone)]
pub struct Block {}
impl Block {
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
    pub fn bytes(&self) -> &[u8] { todo!() }
    /// True if it lies in a ring (registered memory) rather than in a pool.
    pub fn in_ring(&self) -> bool { todo!() }
    pub fn as_ptr(&self) -> *const u8 { todo!() }
}

/// Several frozen blocks that lie one after the other, as one range: what one coalesced write takes.
/// Holding the oldest pins all, since a ring is reclaimed in order.
#[derive(Debug, Clone)]
pub struct Span {}
impl Span {
    pub fn one(block: Block) -> Span { todo!() }
    /// Appends `next` if it starts where this ends, in the same ring. Gives it back otherwise.
    pub fn push(&mut self, next: Block) -> Result<(), Block> { todo!() }
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
    pub fn bytes(&self) -> &[u8] { todo!() }
    pub fn in_ring(&self) -> bool { todo!() }
    pub fn as_ptr(&self) -> *const u8 { todo!() }
}

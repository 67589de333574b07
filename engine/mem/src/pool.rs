//! Pools of aligned buffers of one size.

use std::fmt;

use crate::BLOCK_BYTES;
use crate::block::{Block, Home};
use crate::free_list::FreeList;
use crate::memory::Memory;
use crate::references::References;
use crate::sync::{Arc, AtomicUsize, Ordering};

/// A fixed number of buffers of one size, aligned to [`BLOCK_BYTES`]. A cheap handle: clone it freely, use it
/// from any thread. The memory lives until the last handle and the last buffer are gone.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// What all handles, buffers and frozen blocks of a pool share.
pub(crate) struct Shared {
    memory: Memory,
    buffer_bytes: usize,
    /// Distance of one buffer's start to the next one's.
    stride: usize,
    references: Box<[References]>,
    free: FreeList,
    available: AtomicUsize,
}

impl Shared {
    fn start(&self, slot: u32) -> usize {
        slot as usize * self.stride
    }

    /// Takes a buffer that nobody refers to back.
    fn put(&self, slot: u32) {
        // Counted before it can be taken, so that the count never falls below zero.
        self.available.fetch_add(1, Ordering::Relaxed);
        self.free.push(slot);
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn references(&self, slot: u32) -> &References {
        &self.references[slot as usize]
    }

    /// One handle to the frozen buffer `slot` less.
    pub(crate) fn release(&self, slot: u32) {
        let references = self.references(slot);
        if references.release() {
            // The last handle sees all uses through the others before it lets anyone else have the buffer.
            assert!(references.is_free(), "a buffer came back while it was in use");
            self.put(slot);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("buffers", &self.references.len())
            .field("buffer_bytes", &self.buffer_bytes)
            .field("available", &self.available)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// `count` buffers of `bytes` each. Memory is set aside now and touched by use.
    ///
    /// # Panics
    /// If `bytes` is zero or not a multiple of 64, or all buffers together exceed the address space.
    pub fn new(count: usize, bytes: usize) -> Pool {
        assert!(bytes > 0 && bytes.is_multiple_of(64), "buffers of {bytes} bytes: must be a positive multiple of 64");
        let stride = bytes.next_multiple_of(BLOCK_BYTES);
        let Some(total) = stride.checked_mul(count) else {
            panic!("{count} buffers of {bytes} bytes exceed the address space");
        };
        let shared = Shared {
            memory: Memory::zeroed(total),
            buffer_bytes: bytes,
            stride,
            references: (0..count).map(|_| References::free()).collect(),
            free: FreeList::full(count),
            available: AtomicUsize::new(count),
        };
        Pool { shared: Arc::new(shared) }
    }

    /// A buffer of the pool's size; `None` if all are out. Never allocates, never blocks. Contents are zero at
    /// first and whatever the last user left later on.
    pub fn take(&self) -> Option<PoolBuf> {
        let slot = self.shared.free.pop()?;
        self.shared.available.fetch_sub(1, Ordering::Relaxed);
        self.shared.references(slot).first();
        Some(PoolBuf { pool: Some(self.shared.clone()), slot })
    }

    /// Buffers that could be taken now; out of date at once if other threads use the pool.
    pub fn available(&self) -> usize {
        self.shared.available.load(Ordering::Relaxed)
    }

    /// Size of each buffer, in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes
    }

    /// Base address and length in bytes of all buffers together, for registration with io_uring. Valid while the
    /// pool or any of its buffers lives; to be read and written only through buffers.
    pub fn registration(&self) -> (*mut u8, usize) {
        (self.shared.memory.at(0), self.shared.memory.bytes())
    }
}

/// A unique buffer; returns to its pool on drop, from whatever thread. Its length is the pool's.
#[derive(Debug)]
pub struct PoolBuf {
    /// Taken by `freeze` alone.
    pool: Option<Arc<Shared>>,
    slot: u32,
}

impl PoolBuf {
    fn pool(&self) -> &Shared {
        match &self.pool {
            Some(pool) => pool,
            None => unreachable!("a frozen buffer is gone"),
        }
    }

    /// Length in bytes: the pool's buffer size.
    pub fn len(&self) -> usize {
        self.pool().buffer_bytes
    }

    /// False: a pool's buffers are never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        let pool = self.pool();
        pool.references(self.slot).reading();
        // SAFETY: the slot is ours alone while this handle lives (it left the free list for it), and the borrow of
        // `self` keeps `bytes_mut` away.
        unsafe { pool.memory.slice(pool.start(self.slot), pool.buffer_bytes) }
    }

    /// The contents, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let pool = self.pool();
        pool.references(self.slot).writing();
        // SAFETY: the slot is ours alone while this handle lives, and the exclusive borrow of `self` keeps every
        // other slice of it away.
        unsafe { pool.memory.slice_mut(pool.start(self.slot), pool.buffer_bytes) }
    }

    /// No more writes: a shared handle. The buffer returns to its pool with the last one.
    pub fn freeze(mut self) -> Block {
        let (len, start) = (self.len(), self.pool().start(self.slot));
        let Some(pool) = self.pool.take() else { unreachable!("a buffer is frozen once") };
        Block::new(Home::Pool(pool), 0, start, len, self.slot)
    }

    /// The first byte's address, valid for the buffer's length while this handle lives: for kontiki-io, which
    /// keeps the handle until the kernel is done.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        let pool = self.pool();
        pool.references(self.slot).writing();
        pool.memory.at(pool.start(self.slot))
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.release(self.slot);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn buffers_are_aligned_distinct_and_come_back() {
        let pool = Pool::new(3, 4160);
        assert_eq!((pool.available(), pool.buffer_bytes()), (3, 4160));
        let mut bufs: Vec<PoolBuf> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert!(pool.take().is_none());
        assert_eq!(pool.available(), 0);
        for (n, buf) in bufs.iter_mut().enumerate() {
            assert_eq!(buf.as_mut_ptr() as usize % BLOCK_BYTES, 0);
            assert_eq!((buf.len(), buf.is_empty()), (4160, false));
            buf.bytes_mut().fill(n as u8);
        }
        for (n, buf) in bufs.iter().enumerate() {
            assert!(buf.bytes().iter().all(|&b| b == n as u8));
        }
        bufs.pop();
        assert_eq!(pool.available(), 1);
        assert!(pool.take().is_some());
    }

    #[test]
    fn a_frozen_buffer_returns_with_its_last_handle_from_any_thread() {
        let pool = Pool::new(1, 64);
        let mut buf = pool.take().unwrap();
        buf.bytes_mut().fill(7);
        let block = buf.freeze();
        assert!(!block.in_ring());
        let copy = block.clone();
        drop(block);
        assert!(pool.take().is_none());
        std::thread::spawn(move || assert_eq!(copy.bytes(), [7; 64])).join().unwrap();
        assert_eq!(pool.available(), 1);
        assert!(pool.take().is_some());
    }

    #[test]
    fn a_slice_keeps_the_whole_buffer() {
        let pool = Pool::new(2, 64);
        let _first = pool.take().unwrap();
        let mut buf = pool.take().unwrap();
        (0..64).for_each(|n| buf.bytes_mut()[n] = n as u8);
        let part = buf.freeze().slice(10, 50).slice(2, 3);
        assert_eq!(part.bytes(), [12, 13, 14]);
        assert!(pool.take().is_none());
        drop(part);
        assert!(pool.take().is_some());
    }

    #[test]
    fn buffers_outlive_their_pool() {
        let pool = Pool::new(2, 128);
        let mut a = pool.take().unwrap();
        let b = pool.take().unwrap().freeze();
        drop(pool);
        a.bytes_mut().fill(3);
        assert_eq!((a.bytes(), b.bytes()), (&[3; 128][..], &[0; 128][..]));
    }

    #[test]
    fn an_empty_pool_has_nothing() {
        assert!(Pool::new(0, 64).take().is_none());
    }

    #[test]
    #[should_panic(expected = "multiple of 64")]
    fn odd_sizes_are_refused() {
        Pool::new(1, 100);
    }

    #[test]
    fn threads_never_share_a_buffer() {
        let pool = Pool::new(3, 64);
        std::thread::scope(|scope| {
            for n in 0..4_u8 {
                let pool = &pool;
                scope.spawn(move || {
                    for _ in 0..if cfg!(miri) { 50 } else { 20_000 } {
                        let Some(mut buf) = pool.take() else { continue };
                        buf.bytes_mut().fill(n);
                        assert!(buf.bytes().iter().all(|&b| b == n));
                    }
                });
            }
        });
        assert_eq!(pool.available(), 3);
    }
}

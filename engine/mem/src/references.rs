//! The reference count of one block: who may write it, who may read it, and when it is free again.

use crate::sync::{AtomicU32, Ordering, Witness};

/// More handles to one block than any sane engine holds: past it the count is taken for a leak.
const MAX_HANDLES: u32 = 1 << 30;

/// Handles to one block: none (free), one (unique or shared) or more (shared).
#[derive(Debug)]
pub(crate) struct References {
    count: AtomicU32,
    memory: Witness,
}

impl References {
    /// A free block.
    pub(crate) fn free() -> References {
        References { count: AtomicU32::new(0), memory: Witness::default() }
    }

    /// The first handle to a free block. The caller alone decides who gets it.
    pub(crate) fn first(&self) {
        self.memory.exclusive();
        // Relaxed: whoever gets the handle gets it from this thread.
        self.count.store(1, Ordering::Relaxed);
    }

    /// One handle more, made from an existing one.
    pub(crate) fn another(&self) {
        // Relaxed: the handle this one is made from keeps the block alive, as in `Arc`.
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        // As `Arc` does. A panic would leave the count as it is, and could be caught and repeated until it wraps.
        if before >= MAX_HANDLES {
            std::process::abort();
        }
        assert!(0 < before, "block handles were used after the last was dropped");
    }

    /// One handle less. True for the last.
    pub(crate) fn release(&self) -> bool {
        self.memory.shared();
        // Release: all uses through this handle come before the block is found free.
        let before = self.count.fetch_sub(1, Ordering::Release);
        assert!(before > 0, "a block handle was dropped twice");
        before == 1
    }

    /// True if no handle is left; then all their uses are over.
    pub(crate) fn is_free(&self) -> bool {
        // Acquire: pairs with every `release` (each is a read-modify-write, so all are in the release sequence).
        self.count.load(Ordering::Acquire) == 0
    }

    /// The block is about to be read.
    #[inline]
    pub(crate) fn reading(&self) {
        self.memory.shared();
    }

    /// The block is about to be written through its only handle.
    #[inline]
    pub(crate) fn writing(&self) {
        self.memory.exclusive();
    }
}

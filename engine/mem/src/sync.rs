//! The synchronisation primitives of this crate: the standard ones, or loom's under `--cfg loom`.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
pub(crate) use std::sync::PoisonError;
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

/// Stands for memory that loom cannot see: an unordered pair of accesses, one of them a write, fails a model.
/// Nothing at all outside models.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    #[cfg(loom)]
    cell: loom::cell::UnsafeCell<()>,
}

impl Witness {
    /// The memory is read, or written where nobody else accesses it.
    #[inline]
    pub(crate) fn shared(&self) {
        #[cfg(loom)]
        self.cell.with(|_| ());
    }

    /// The memory is accessed as a whole, by its only user.
    #[inline]
    pub(crate) fn exclusive(&self) {
        #[cfg(loom)]
        self.cell.with_mut(|_| ());
    }
}

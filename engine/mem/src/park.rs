//! Blocking a thread on a [`Waker`]: one waker per thread, made once.

use std::sync::Arc;
use std::task::{Wake, Waker};

#[cfg(loom)]
pub(crate) use loom::thread::park;
#[cfg(loom)]
use loom::thread::{Thread, current};
#[cfg(not(loom))]
pub(crate) use std::thread::park;
#[cfg(not(loom))]
use std::thread::{Thread, current};

/// Wakes the thread that made it.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

fn waker() -> Waker {
    Arc::new(Unpark(current())).into()
}

/// Calls `f` with the waker that unparks this thread. Allocates on a thread's first call only.
#[cfg(not(loom))]
pub(crate) fn with_waker<T>(mut f: impl FnMut(&Waker) -> T) -> T {
    thread_local!(static WAKER: Waker = waker());
    match WAKER.try_with(&mut f) {
        Ok(result) => result,
        // The thread is ending and its locals are gone.
        Err(_) => f(&waker()),
    }
}

/// Calls `f` with the waker that unparks this thread.
#[cfg(loom)]
pub(crate) fn with_waker<T>(mut f: impl FnMut(&Waker) -> T) -> T {
    f(&waker())
}

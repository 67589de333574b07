//! Calling what is not ours: a caller's code may panic, and that is its own matter, nobody else's.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls foreign code. If it panics, the panic ends here: the hook has told of it, and others wait for their turn.
pub fn quietly(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        // What it threw is foreign, too, and so is what its drop throws.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            mem::forget(again);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Throws more of the same when it is dropped.
    struct Thrower;

    impl Drop for Thrower {
        fn drop(&mut self) {
            std::panic::panic_any(Thrower);
        }
    }

    #[test]
    fn a_panic_ends_here() {
        let mut calls = 0;
        quietly(|| calls += 1);
        quietly(|| panic!("a caller's"));
        quietly(|| std::panic::panic_any(Thrower));
        assert_eq!(calls, 1);
    }
}

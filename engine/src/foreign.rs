//! Calling the product's code: it may panic, and that ends what was asked of it, nothing else; and it may not wait for
//! the very node that called it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a call of foreign code gives, or what its panic said.
pub(crate) fn call<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| {
        let text = panic_text(&*panic);
        // What it threw is foreign, too, and so is what its drop throws.
        kontiki_mem::quietly(|| drop(panic));
        text
    })
}

/// Where a thread is, as a node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is none of this node's: it may wait.
    Outside,
    /// It does this node's work: whatever it calls (a waker, a subscriber) must return before that goes on.
    AtWork,
    /// Likewise, and is in the node's state machine: a panic ends the node.
    InMachine,
}

thread_local! {
    /// The apply stage of the node that this thread works for, zero for none; and whether it is in its state machine.
    static WORKS_FOR: Cell<(usize, bool)> = const { Cell::new((0, false)) };
}

/// Does the work of the node of `stage`.
pub(crate) fn at_work<T>(stage: usize, code: impl FnOnce() -> T) -> T {
    noted((stage, false), code)
}

/// Calls the state machine of `stage`.
pub(crate) fn in_machine<T>(stage: usize, code: impl FnOnce() -> T) -> T {
    noted((stage, true), code)
}

fn noted<T>(what: (usize, bool), code: impl FnOnce() -> T) -> T {
    /// However it ends.
    struct Before((usize, bool));
    impl Drop for Before {
        fn drop(&mut self) {
            WORKS_FOR.set(self.0);
        }
    }
    let _before = Before(WORKS_FOR.replace(what));
    code()
}

/// Where this thread is, as the node of `stage` sees it.
pub(crate) fn place(stage: usize) -> Place {
    match WORKS_FOR.get() {
        (at, _) if at != stage || stage == 0 => Place::Outside,
        (_, true) => Place::InMachine,
        (_, false) => Place::AtWork,
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

    /// Throws more of the same when it is dropped.
    struct Thrower;

    impl Drop for Thrower {
        fn drop(&mut self) {
            panic_any(Thrower);
        }
    }

    #[test]
    fn a_panic_is_a_text() {
        assert_eq!(call(|| 7), Ok(7));
        assert_eq!(call(|| -> u8 { panic!("why") }), Err("why".to_owned()));
        assert_eq!(call(|| -> u8 { panic!("{}", 1 + 1) }), Err("2".to_owned()));
        assert_eq!(call(|| -> u8 { panic_any(Thrower) }), Err("no message".to_owned()));
    }
}

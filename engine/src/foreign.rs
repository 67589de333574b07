//! Calling the product's code: it may panic, and that ends what was asked of it, nothing else.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a call of foreign code gives, or what its panic said.
pub(crate) fn call<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| {
        let text = panic_text(&*panic);
        // What it threw is foreign, too, and so is what its drop throws.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
        text
    })
}

thread_local! {
    /// The apply stage whose state machine this thread is in; zero for none.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// Calls the state machine of `stage`.
pub(crate) fn inside<T>(stage: usize, code: impl FnOnce() -> T) -> T {
    /// However it ends.
    struct Before(usize);
    impl Drop for Before {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }
    let _before = Before(INSIDE.replace(stage));
    code()
}

/// Whether this thread is in the state machine of `stage`.
pub(crate) fn is_inside(stage: usize) -> bool {
    stage != 0 && INSIDE.get() == stage
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

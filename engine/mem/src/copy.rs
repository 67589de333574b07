//! The one place that copies payload bytes, and counts them.
//!
//! The count is per process and split into stripes, one cache line each: a thread has one for itself, so that counting
//! is a load and a store and no locked operation, which would wait for the very bytes just written. A clippy list
//! forbids `copy_from_slice` elsewhere in the engine: what is copied is copied here, and a test can state how often a
//! proposal's bytes move.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const STRIPES: usize = 64;
/// The stripe of all threads that came when no other was left: counted with locked operations.
const COMMON: usize = STRIPES - 1;

/// A counter that has its cache line (two, where lines are fetched in pairs) to itself.
#[repr(align(128))]
struct Stripe(AtomicU64);

static COPIED: [Stripe; STRIPES] = [const { Stripe(AtomicU64::new(0)) }; STRIPES];
static NEXT_STRIPE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread's stripe; `STRIPES` until it first copies.
    static STRIPE: Cell<usize> = const { Cell::new(STRIPES) };
}

/// Payload bytes copied by the engine in this process so far.
pub fn copied_bytes() -> u64 {
    COPIED.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
}

/// Copies all of `from` to the start of `to`, and counts it: the engine's only way to move payload bytes.
///
/// # Panics
/// If `to` is shorter than `from`.
#[inline]
pub fn copy_payload(to: &mut [u8], from: &[u8]) {
    to[..from.len()].copy_from_slice(from);
    let (at, bytes) = (stripe(), from.len() as u64);
    let count = &COPIED[at].0;
    if at == COMMON {
        count.fetch_add(bytes, Ordering::Relaxed);
    } else {
        // Nobody else changes it.
        count.store(count.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
    }
}

#[inline]
fn stripe() -> usize {
    STRIPE.with(|mine| {
        if mine.get() == STRIPES {
            mine.set(NEXT_STRIPE.fetch_add(1, Ordering::Relaxed).min(COMMON));
        }
        mine.get()
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_over_all_threads() {
        let before = copied_bytes();
        // More than have a stripe for themselves.
        let threads: Vec<_> = (0..100)
            .map(|n| {
                std::thread::spawn(move || {
                    let mut to = [0; 100];
                    copy_payload(&mut to, &[n; 70]);
                    assert!(to[..70].iter().all(|&b| b == n) && to[70..].iter().all(|&b| b == 0));
                })
            })
            .collect();
        for thread in threads {
            assert!(thread.join().is_ok());
        }
        // Other tests of this process copy too.
        assert!(copied_bytes() >= before + 100 * 70);
    }

    #[test]
    #[should_panic(expected = "range end index 3")]
    fn a_short_target_is_a_bug() {
        copy_payload(&mut [0; 2], &[0; 3]);
    }
}

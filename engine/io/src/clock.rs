//! The time: monotonic for decisions, wall clock for people.

use kontiki_core::Time;

/// Nanoseconds of the clock that also counts while the machine is suspended: a lease must not survive a nap
/// that the other nodes did not take.
pub(crate) fn now() -> Time {
    Time(read(libc::CLOCK_BOOTTIME))
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn wall_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call fills in.
    let failed = unsafe { libc::clock_gettime(clock, &mut time) } != 0;
    // Both clocks exist on every kernel since 2.6.39.
    assert!(!failed, "clock_gettime({clock}) failed");
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_does_not_go_back() {
        let mut last = super::now();
        for _ in 0..10_000 {
            let now = super::now();
            assert!(now >= last);
            last = now;
        }
    }
}

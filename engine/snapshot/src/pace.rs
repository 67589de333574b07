//! How fast a snapshot may use the disk: never faster than it is allowed to, behind the log while that is busy, and all
//! the same a least share of the time, so that it ends.

use kontiki_core::Time;

use crate::limits::{FIRST_SYNC_BYTES, LEAST_SHARE, MAX_SYNC_BYTES, MIN_SYNC_BYTES, QUICK_SYNC_NS, SLOW_SYNC_NS};

/// When the next operation may begin.
#[derive(Debug)]
pub(crate) struct Pace {
    /// No cap if zero.
    bytes_per_s: u64,
    /// Before this nothing may begin, whatever the log does.
    capped_until: Time,
    began: Time,
    /// Before this nothing begins while the log is busy.
    yields_until: Time,
    /// So much is written before a flush.
    sync_bytes: u64,
}

impl Pace {
    pub(crate) fn new(bytes_per_s: u64) -> Pace {
        let never = Time(0);
        Pace { bytes_per_s, capped_until: never, began: never, yields_until: never, sync_bytes: FIRST_SYNC_BYTES }
    }

    pub(crate) fn set_cap(&mut self, bytes_per_s: u64) {
        self.bytes_per_s = bytes_per_s;
    }

    /// From when on an operation may begin.
    pub(crate) fn due(&self, log_is_busy: bool) -> Time {
        if log_is_busy { self.capped_until.max(self.yields_until) } else { self.capped_until }
    }

    /// An operation of so many bytes begins.
    pub(crate) fn begin(&mut self, now: Time, bytes: u64) {
        self.began = now;
        if self.bytes_per_s > 0 {
            let ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s);
            self.capped_until = self.capped_until.max(now).plus_ns(u64::try_from(ns).unwrap_or(u64::MAX));
        }
    }

    /// How much may be written before it is flushed.
    pub(crate) fn sync_bytes(&self) -> u64 {
        self.sync_bytes
    }

    /// It has ended; `flush`: it was one.
    pub(crate) fn end(&mut self, now: Time, flush: bool) {
        let took = now.since(self.began);
        if flush && took < QUICK_SYNC_NS {
            self.sync_bytes = (2 * self.sync_bytes).min(MAX_SYNC_BYTES);
        } else if flush && took > SLOW_SYNC_NS {
            self.sync_bytes = (self.sync_bytes / 2).max(MIN_SYNC_BYTES);
        }
        self.yields_until = now.plus_ns(took.saturating_mul(LEAST_SHARE - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_kept_over_any_time() {
        let mut pace = Pace::new(1_000_000);
        let mut now = Time(0);
        for _ in 0..100 {
            now = now.max(pace.due(false));
            pace.begin(now, 250_000);
            now = now.plus_ns(1000);
            pace.end(now, false);
        }
        // 25 MB at 1 MB/s, the first of them at once.
        assert!(now.0 >= 24_750_000_000 && now.0 < 25_000_000_000, "{now}");
    }

    /// No flush is so long that the log waits for it, and none so short that it is nothing but flushes.
    #[test]
    fn flushes_are_as_long_as_they_may_be() {
        let after = |took_ns, flushes| {
            let mut pace = Pace::new(0);
            for _ in 0..flushes {
                pace.begin(Time(5), 0);
                pace.end(Time(5 + took_ns), true);
            }
            pace.sync_bytes()
        };
        assert_eq!(after(QUICK_SYNC_NS - 1, 9), MAX_SYNC_BYTES);
        assert_eq!(after(SLOW_SYNC_NS, 9), FIRST_SYNC_BYTES);
        assert_eq!(after(SLOW_SYNC_NS + 1, 1), FIRST_SYNC_BYTES / 2);
        assert_eq!(after(SLOW_SYNC_NS + 1, 9), MIN_SYNC_BYTES);
    }

    #[test]
    fn behind_a_busy_log_it_has_a_least_share() {
        let mut pace = Pace::new(0);
        let (mut now, mut used) = (Time(0), 0);
        for _ in 0..100 {
            now = now.max(pace.due(true));
            pace.begin(now, 1);
            now = now.plus_ns(500);
            used += 500;
            pace.end(now, false);
        }
        assert!(used * (LEAST_SHARE + 1) > now.0 && used * (LEAST_SHARE - 1) < now.0, "{used} of {now}");
        assert!(pace.due(false) <= now, "an idle log leaves it the disk");
    }
}

//! How fast a snapshot may use the disk: never faster than it is allowed to, behind the log while that is busy, and all
//! the same a least share of the time, so that it ends.

use kontiki_core::Time;

use crate::limits::LEAST_SHARE;

/// When the next operation may begin.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// No cap if zero.
    bytes_per_s: u64,
    /// Before this nothing may begin, whatever the log does.
    capped_until: Time,
    began: Time,
    /// Before this nothing begins while the log is busy.
    yields_until: Time,
}

impl Pace {
    pub(crate) fn new(bytes_per_s: u64) -> Pace {
        Pace { bytes_per_s, ..Pace::default() }
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

    /// It has ended.
    pub(crate) fn end(&mut self, now: Time) {
        self.yields_until = now.plus_ns(now.since(self.began).saturating_mul(LEAST_SHARE - 1));
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
            pace.end(now);
        }
        // 25 MB at 1 MB/s, the first of them at once.
        assert!(now.0 >= 24_750_000_000 && now.0 < 25_000_000_000, "{now}");
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
            pace.end(now);
        }
        assert!(used * (LEAST_SHARE + 1) > now.0 && used * (LEAST_SHARE - 1) < now.0, "{used} of {now}");
        assert!(pace.due(false) <= now, "an idle log leaves it the disk");
    }
}

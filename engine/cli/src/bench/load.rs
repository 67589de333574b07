//! The load, as it is asked for on the command line and passed on to the processes that carry it out.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

/// Entries that a caller proposes with one call, where it has so many.
pub(crate) const DEFAULT_RUN: u32 = 64;

/// The load.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Load {
    /// Size of an entry, in bytes; with --to of a put with its key, from about 12 to about 4100
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) entry_bytes: u32,
    /// Proposals in flight, over all callers; with --rate at most so many
    #[arg(long, value_name = "M", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) in_flight: u32,
    /// How long to measure, in seconds
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = crate::demo::seconds)]
    pub(crate) seconds: f64,
    /// How long to run before that, in seconds
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = crate::demo::seconds)]
    pub(crate) warmup: f64,
    /// Threads that propose; with --to, clients with a connection each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) callers: u32,
    /// Propose so many entries with one call, at most, where so many are due; 1: each by itself
    #[arg(long, value_name = "N", default_value_t = DEFAULT_RUN, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) run: u32,
    /// Propose so many entries per second, over all callers, instead of one for each that is answered. Latency is then
    /// from when an entry was due, so that a stall counts for all that it held up. Not with --to
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) rate: Option<u64>,
}

impl Load {
    /// As arguments again.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut pairs = vec![
            ("--entry-bytes", self.entry_bytes.to_string()),
            ("--in-flight", self.in_flight.to_string()),
            ("--seconds", self.seconds.to_string()),
            ("--warmup", self.warmup.to_string()),
            ("--callers", self.callers.to_string()),
            ("--run", self.run.to_string()),
        ];
        pairs.extend(self.rate.map(|rate| ("--rate", rate.to_string())));
        pairs.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect()
    }

    /// Part `n` of `parts` (at least one, and not more than there are in flight).
    pub(crate) fn part(&self, n: u32, parts: u32) -> Load {
        let share = |whole: u64| whole / u64::from(parts) + u64::from(u64::from(n) < whole % u64::from(parts));
        Load { in_flight: share(self.in_flight.into()) as u32, rate: self.rate.map(|rate| share(rate).max(1)), callers: 1, ..self.clone() }
    }

    /// How many callers have something to do.
    pub(crate) fn callers(&self) -> u32 {
        self.callers.clamp(1, self.in_flight)
    }

    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }

    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// When each entry of a fixed rate is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    begun: Instant,
    rate: u64,
}

impl Pace {
    pub(crate) fn new(begun: Instant, rate: u64) -> Pace {
        Pace { begun, rate: rate.max(1) }
    }

    /// When entry `number` is due, from zero.
    pub(crate) fn due(&self, number: u64) -> Instant {
        let ns = u128::from(number) * 1_000_000_000 / u128::from(self.rate);
        self.begun + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// Entries due before `at`.
    pub(crate) fn due_before(&self, at: Instant) -> u64 {
        let entries = at.saturating_duration_since(self.begun).as_nanos() * u128::from(self.rate);
        u64::try_from(entries.div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
    }

    /// Lets this thread sleep to the microsecond, not to the 50 that the kernel rounds to.
    pub(crate) fn sharpen() {
        // Refused, it costs some accuracy, which shows as latency.
        _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1_000));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_up_the_whole() {
        let load = Load { entry_bytes: 16, in_flight: 10, seconds: 1.0, warmup: 1.0, callers: 3, run: 1, rate: Some(100) };
        let parts: Vec<Load> = (0..3).map(|n| load.part(n, 3)).collect();
        assert_eq!(parts.iter().map(|p| p.in_flight).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!(parts.iter().filter_map(|p| p.rate).sum::<u64>(), 100);
    }

    #[test]
    fn a_pace_is_even() {
        let begun = Instant::now();
        let pace = Pace::new(begun, 4);
        assert_eq!(pace.due(6), begun + Duration::from_millis(1500));
        assert_eq!(pace.due_before(begun), 0);
        assert_eq!(pace.due_before(begun + Duration::from_millis(1500)), 6, "the seventh is due just then");
        assert_eq!(pace.due_before(begun + Duration::from_millis(1501)), 7);
    }
}

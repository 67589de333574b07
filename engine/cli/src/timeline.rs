//! Latencies over a run: as a whole, and by slots of time for the plot.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency told apart, in microseconds: a minute. Longer ones count as that.
const MAX_US: u64 = 60_000_000;

/// A histogram of microseconds with so many significant digits.
fn histogram<T: hdrhistogram::Counter>(digits: u8) -> Histogram<T> {
    // The bounds and digits are constants of this file that the histogram accepts; the fallback grows by itself.
    Histogram::new_with_bounds(1, MAX_US, digits).unwrap_or_else(|_| unreachable!("1 to {MAX_US} with {digits} digits is valid"))
}

/// A run may last so many times longer than planned before its end falls into one slot.
const MAX_STRETCH: usize = 8;

/// Latencies of a run.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    slot: Duration,
    most_slots: usize,
    slots: Vec<Histogram<u32>>,
    all: Histogram<u64>,
}

impl Timeline {
    /// For a run of about `length`, in `slots` slots; it grows if the run lasts longer.
    pub(crate) fn new(length: Duration, slots: u32) -> Timeline {
        let slots = slots.max(1);
        let slot = (length / slots).max(Duration::from_millis(1));
        Timeline { slot, most_slots: slots as usize * MAX_STRETCH, slots: (0..slots).map(|_| histogram(2)).collect(), all: histogram(3) }
    }

    /// An empty one with the same bounds.
    pub(crate) fn clone_empty(&self) -> Timeline {
        Timeline { slots: Vec::new(), all: histogram(3), ..*self }
    }

    /// A request that was answered at `at` (since the start of the run), `latency` after it was sent.
    pub(crate) fn record(&mut self, at: Duration, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(MAX_US);
        self.all.saturating_record(us);
        let slot = usize::try_from(at.as_nanos() / self.slot.as_nanos()).unwrap_or(usize::MAX);
        let slot = slot.min(self.most_slots - 1);
        self.reach(slot + 1);
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.saturating_record(us);
        }
    }

    /// Makes sure that there are so many slots.
    fn reach(&mut self, slots: usize) {
        if self.slots.len() < slots {
            self.slots.resize_with(slots, || histogram(2));
        }
    }

    /// Adds what another proposer of the same run recorded.
    pub(crate) fn add(&mut self, other: &Timeline) {
        let same = "timelines of one run have the same bounds";
        assert!(self.slot == other.slot, "{same}");
        assert!(self.all.add(&other.all).is_ok(), "{same}");
        self.reach(other.slots.len());
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            assert!(mine.add(theirs).is_ok(), "{same}");
        }
    }

    /// How many were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.all.len()
    }

    /// The latency that the part `q` (0 to 1) of all stayed within, in microseconds.
    pub(crate) fn quantile_us(&self, q: f64) -> u64 {
        if self.all.is_empty() { 0 } else { self.all.value_at_quantile(q) }
    }

    /// The longest, in microseconds.
    pub(crate) fn max_us(&self) -> u64 {
        self.all.max()
    }

    /// All slots, in order.
    pub(crate) fn points(&self) -> impl Iterator<Item = Point> + '_ {
        let slot = self.slot;
        (0u32..).zip(&self.slots).map(move |(n, h)| Point {
            at: slot * n + slot / 2,
            per_second: h.len() as f64 / slot.as_secs_f64(),
            latency_us: (!h.is_empty()).then(|| [h.value_at_quantile(0.5), h.value_at_quantile(0.99), h.max()]),
        })
    }
}

/// One slot of a timeline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Its middle, since the start of the run.
    pub(crate) at: Duration,
    /// Answers per second in it.
    pub(crate) per_second: f64,
    /// p50, p99 and longest latency in it, in microseconds, if anything ended in it.
    pub(crate) latency_us: Option<[u64; 3]>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_fall_into_their_slots() {
        let ms = Duration::from_millis;
        let mut a = Timeline::new(ms(100), 10);
        a.record(ms(5), Duration::from_micros(100));
        a.record(ms(15), Duration::from_micros(300));
        let mut b = Timeline::new(ms(100), 10);
        b.record(ms(15), Duration::from_micros(500));
        b.record(ms(5000), Duration::from_secs(3600));
        a.add(&b);
        let points: Vec<Point> = a.points().collect();
        assert_eq!(points.len(), 80, "what ends far too late falls into one slot");
        assert_eq!(points[0].latency_us.unwrap(), [100, 100, 100]);
        assert_eq!(points[1].per_second, 200.0);
        assert_eq!(points[2].latency_us, None);
        assert!(points[79].latency_us.is_some());
        assert_eq!(a.count(), 4);
        assert_eq!(a.quantile_us(0.5), 300);
        assert!(a.max_us() >= MAX_US);
    }
}

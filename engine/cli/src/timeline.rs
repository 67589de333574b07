//! Latencies over a run: as a whole, and by slots of time for the plot.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency told apart, in nanoseconds: a minute. Longer ones count as that.
const MAX_NS: u64 = 60_000_000_000;
/// Latencies below this are not told apart, in nanoseconds: finer than any clock is good for, and it keeps the
/// histograms small.
const LEAST_NS: u64 = 64;

/// A histogram of nanoseconds with so many significant digits.
fn histogram<T: hdrhistogram::Counter>(digits: u8) -> Histogram<T> {
    // The bounds and digits are constants of this file that the histogram accepts; the fallback grows by itself.
    Histogram::new_with_bounds(LEAST_NS, MAX_NS, digits)
        .unwrap_or_else(|_| unreachable!("{LEAST_NS} to {MAX_NS} with {digits} digits is valid"))
}

/// A run may last so many times longer than planned before its end falls into one slot.
const MAX_STRETCH: usize = 8;

/// Latencies of a run. It travels between processes as values and their counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Counts", into = "Counts")]
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
        self.record_n(at, latency, 1);
    }

    /// So many requests at once, all sent and all answered together.
    pub(crate) fn record_n(&mut self, at: Duration, latency: Duration, count: u64) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(MAX_NS);
        self.all.saturating_record_n(ns, count);
        let slot = usize::try_from(at.as_nanos() / self.slot.as_nanos()).unwrap_or(usize::MAX);
        let slot = slot.min(self.most_slots - 1);
        self.reach(slot + 1);
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.saturating_record_n(ns, u32::try_from(count).unwrap_or(u32::MAX));
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

    /// The latency that the part `q` (0 to 1) of all stayed within.
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        if self.all.is_empty() { Duration::ZERO } else { Duration::from_nanos(self.all.value_at_quantile(q)) }
    }

    /// The longest.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_nanos(self.all.max())
    }

    /// All slots, in order.
    pub(crate) fn points(&self) -> impl Iterator<Item = Point> + '_ {
        let slot = self.slot;
        (0u32..).zip(&self.slots).map(move |(n, h)| Point {
            at: slot * n + slot / 2,
            per_second: h.len() as f64 / slot.as_secs_f64(),
            latency_us: (!h.is_empty()).then(|| [h.value_at_quantile(0.5), h.value_at_quantile(0.99), h.max()].map(|ns| ns / 1000)),
        })
    }
}

/// A timeline as it travels: pairs of a latency in nanoseconds and how many had it.
#[derive(Serialize, Deserialize)]
struct Counts {
    slot_ns: u64,
    most_slots: usize,
    all: Vec<(u64, u64)>,
    slots: Vec<Vec<(u64, u32)>>,
}

impl From<Timeline> for Counts {
    fn from(timeline: Timeline) -> Counts {
        Counts {
            slot_ns: u64::try_from(timeline.slot.as_nanos()).unwrap_or(u64::MAX),
            most_slots: timeline.most_slots,
            all: pairs(&timeline.all),
            slots: timeline.slots.iter().map(pairs).collect(),
        }
    }
}

impl From<Counts> for Timeline {
    fn from(counts: Counts) -> Timeline {
        let mut all = histogram(3);
        counts.all.iter().for_each(|&(ns, count)| all.saturating_record_n(ns, count));
        let slot = |pairs: &Vec<(u64, u32)>| {
            let mut slot = histogram(2);
            pairs.iter().for_each(|&(ns, count)| slot.saturating_record_n(ns, count));
            slot
        };
        let slots = counts.slots.iter().map(slot).collect();
        Timeline { slot: Duration::from_nanos(counts.slot_ns.max(1)), most_slots: counts.most_slots.max(1), slots, all }
    }
}

fn pairs<T: hdrhistogram::Counter>(h: &Histogram<T>) -> Vec<(u64, T)> {
    h.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

/// One slot of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
        a.record_n(ms(15), Duration::from_micros(300), 1);
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
        assert_eq!(a.quantile(0.5).as_micros(), 300);
        assert!(a.longest().as_nanos() >= u128::from(MAX_NS));
    }

    #[test]
    fn it_arrives_as_it_was_sent() {
        let ms = Duration::from_millis;
        let mut sent = Timeline::new(ms(100), 10);
        for n in 1..500 {
            sent.record_n(ms(n % 100), Duration::from_nanos(n * 1_237), n);
        }
        let text = serde_json::to_string(&sent).unwrap();
        let got: Timeline = serde_json::from_str(&text).unwrap();
        assert_eq!(got.count(), sent.count());
        for q in [0.1, 0.5, 0.99, 1.0] {
            assert_eq!(got.quantile(q), sent.quantile(q), "{q}");
        }
        assert!(got.points().eq(sent.points()));
    }
}

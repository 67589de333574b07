//! What one caller sees while it is measured.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::load::Load;
use crate::timeline::Timeline;

/// Length of a slot of the time series.
const SLOT: Duration = Duration::from_millis(100);

/// What the processes with the load measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Latencies of what was proposed after the warm-up.
    pub(crate) timeline: Timeline,
    /// From the end of the warm-up to the last answer.
    pub(crate) seconds: f64,
    /// Proposals refused because a bound was reached, and made again.
    pub(crate) busy: u64,
    /// Entries that were due before the end and were not even proposed by then.
    pub(crate) missed: u64,
    /// What the floor's leader counted of itself.
    pub(crate) counted: Option<kontiki_benches::floor::Counted>,
}

impl Measured {
    /// Adds what another caller saw in the same time.
    pub(crate) fn add(&mut self, other: &Measured) {
        self.timeline.add(&other.timeline);
        self.seconds = self.seconds.max(other.seconds);
        self.busy += other.busy;
        self.missed += other.missed;
        self.counted = self.counted.take().or_else(|| other.counted.clone());
    }
}

/// Records the answers of one caller.
#[derive(Debug)]
pub(crate) struct Recorder {
    measure_from: Instant,
    end: Instant,
    last: Instant,
    measured: Measured,
}

impl Recorder {
    /// From now on, after the warm-up.
    pub(crate) fn new(begun: Instant, load: &Load) -> Recorder {
        let measure_from = begun + load.warmup();
        let slots = u32::try_from(load.length().as_millis().div_ceil(SLOT.as_millis())).unwrap_or(u32::MAX);
        Recorder {
            measure_from,
            end: measure_from + load.length(),
            last: measure_from,
            measured: Measured { timeline: Timeline::new(load.length(), slots), seconds: 0.0, busy: 0, missed: 0, counted: None },
        }
    }

    /// When to stop proposing.
    pub(crate) fn end(&self) -> Instant {
        self.end
    }

    /// So many entries, proposed (or due) at `since`, are answered.
    pub(crate) fn answered(&mut self, now: Instant, since: Instant, count: u64) {
        if since >= self.measure_from {
            self.last = now;
            self.measured.timeline.record_n(now.saturating_duration_since(self.measure_from), now.saturating_duration_since(since), count);
        }
    }

    /// A proposal was refused because a bound is reached.
    pub(crate) fn busy(&mut self) {
        self.measured.busy += 1;
    }

    /// So many entries were due and were never proposed.
    pub(crate) fn missed(&mut self, count: u64) {
        self.measured.missed += count;
    }

    /// What came of it.
    pub(crate) fn finish(mut self) -> Measured {
        self.measured.seconds = self.last.saturating_duration_since(self.measure_from).as_secs_f64();
        self.measured
    }
}

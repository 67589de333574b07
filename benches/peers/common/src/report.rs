//! The line that a run prints.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What was measured at the leader.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Entries applied within the window.
    pub entries: u64,
    /// Length of the window.
    pub seconds: f64,
    /// From propose to applied, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Processor time of all three processes within the window, in microseconds.
    pub cpu_us: f64,
    /// Resident memory of the largest process at its end.
    pub rss_bytes: u64,
    /// `fdatasync` calls of the leader within the window.
    pub flushes: u64,
    /// Entries applied at the leader since it started.
    pub applied: u64,
}

/// One run, as one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Name of the engine.
    pub peer: String,
    /// Its version.
    pub version: String,
    /// Size of an entry.
    pub entry_bytes: usize,
    /// Proposals in flight.
    pub in_flight: usize,
    /// Seconds measured.
    pub seconds: f64,
    /// Entries applied per second.
    pub per_s: f64,
    /// Median from propose to applied, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 stayed within.
    pub p99_us: f64,
    /// 999 of 1000 stayed within.
    pub p999_us: f64,
    /// Processor time of the three processes per entry, in microseconds.
    pub cpu_us_per_entry: f64,
    /// Resident memory of the largest process.
    pub rss_bytes: u64,
    /// Flushes of the leader's log within the window.
    pub flushes: Option<u64>,
    /// Entries applied at the leader since it started.
    pub applied: Option<u64>,
    /// Replicas on whose disk all entries applied were found; see `--check-durable`.
    pub durable_on: Option<usize>,
}

impl Measured {
    /// The line for a run.
    pub fn report(&self, peer: &str, version: &str, entry_bytes: usize, in_flight: usize) -> Report {
        let us = |quantile| (self.latency.value_at_quantile(quantile) as f64 / 100.0).round() / 10.0;
        Report {
            peer: peer.into(),
            version: version.into(),
            entry_bytes,
            in_flight,
            seconds: self.seconds,
            per_s: (self.entries as f64 / self.seconds.max(1e-9)).round(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            cpu_us_per_entry: self.cpu_us / self.entries.max(1) as f64,
            rss_bytes: self.rss_bytes,
            flushes: Some(self.flushes),
            applied: Some(self.applied),
            durable_on: None,
        }
    }
}

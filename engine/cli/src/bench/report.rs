//! What a bench found: one line of JSON for programs, a table for people.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::table::{Pairs, bytes, count};

/// Latencies from propose to answer, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// Half of all stayed within.
    pub(crate) p50_us: f64,
    /// 99 of 100.
    pub(crate) p99_us: f64,
    /// 999 of 1000.
    pub(crate) p999_us: f64,
    /// All.
    pub(crate) max_us: f64,
}

impl Latencies {
    /// From a histogram of nanoseconds.
    pub(crate) fn of_ns(h: &Histogram<u64>) -> Latencies {
        if h.is_empty() {
            return Latencies::default();
        }
        // A tenth of a microsecond is more than the clock is good for.
        let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
        Latencies {
            p50_us: us(h.value_at_quantile(0.5)),
            p99_us: us(h.value_at_quantile(0.99)),
            p999_us: us(h.value_at_quantile(0.999)),
            max_us: us(h.max()),
        }
    }
}

/// What the process with the load measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Entries answered, of those proposed after the warm-up.
    pub(crate) entries: u64,
    /// From the end of the warm-up to the last of them.
    pub(crate) seconds: f64,
    /// Latencies.
    pub(crate) latency: Latencies,
    /// Proposals refused because a bound was reached, and made again.
    pub(crate) busy: u64,
    /// Flushes of the leader per 1000 entries.
    pub(crate) leader_flushes_per_1000: f64,
    /// Entries per batch.
    pub(crate) entries_per_frame: f64,
    /// The leader's backend for input and output.
    pub(crate) backend: String,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Entries per second.
    pub(crate) entries_per_s: f64,
    /// Latencies.
    #[serde(flatten)]
    pub(crate) latency: Latencies,
    /// Processor time of all replicas, with the load inside one of them, per entry; absent for a cluster elsewhere.
    pub(crate) cpu_us_per_entry: Option<f64>,
    /// Resident memory of the largest replica at the end; absent for a cluster elsewhere.
    pub(crate) rss_bytes: Option<u64>,
    /// Entries answered.
    pub(crate) entries: u64,
    /// Seconds measured.
    pub(crate) seconds: f64,
    /// Size of an entry.
    pub(crate) entry_bytes: u32,
    /// In flight.
    pub(crate) in_flight: u32,
    /// Threads that propose.
    pub(crate) callers: u32,
    /// Replicas.
    pub(crate) replicas: usize,
    /// Proposals refused because a bound was reached.
    pub(crate) busy: u64,
    /// Flushes of the leader per 1000 entries; absent for a cluster elsewhere.
    pub(crate) leader_flushes_per_1000: Option<f64>,
    /// Entries per batch; absent for a cluster elsewhere.
    pub(crate) entries_per_frame: Option<f64>,
    /// The leader's backend.
    pub(crate) backend: String,
    /// How long a halted virtual processor polls before it sleeps: the operator's to set, and worth much at low load.
    pub(crate) guest_halt_poll_ns: Option<u64>,
}

impl Report {
    /// As one line of JSON.
    pub(crate) fn json(&self) -> String {
        // Numbers, text and options always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As a table.
    pub(crate) fn table(&self) -> String {
        let mut rows = Pairs::new("bench");
        rows.row("replicas", self.replicas);
        rows.row("entry size", bytes(self.entry_bytes.into()));
        rows.row("in flight", format!("{} from {}", count(self.in_flight.into()), self.callers));
        rows.row("entries", format!("{} in {:.2} s", count(self.entries), self.seconds));
        rows.row("throughput", format!("{}/s", count(self.entries_per_s as u64)));
        rows.row("payload", format!("{}/s", bytes((self.entries_per_s * f64::from(self.entry_bytes)) as u64)));
        rows.row("latency p50", format!("{} us", self.latency.p50_us));
        rows.row("latency p99", format!("{} us", self.latency.p99_us));
        rows.row("latency p99.9", format!("{} us", self.latency.p999_us));
        rows.row("latency, longest", format!("{} us", self.latency.max_us));
        if let Some(us) = self.cpu_us_per_entry {
            rows.row("processor time per entry, all replicas", format!("{us:.3} us"));
        }
        if let Some(rss) = self.rss_bytes {
            rows.row("memory of the largest replica", bytes(rss));
        }
        if let Some(flushes) = self.leader_flushes_per_1000 {
            rows.row("flushes of the leader per 1000 entries", format!("{flushes:.2}"));
        }
        if let Some(entries) = self.entries_per_frame {
            rows.row("entries per batch", format!("{entries:.1}"));
        }
        rows.row("proposals told to wait (Busy)", count(self.busy));
        rows.row("input and output", &self.backend);
        if let Some(ns) = self.guest_halt_poll_ns {
            rows.row("halt polling of this virtual machine", format!("{} us", ns / 1000));
        }
        rows.to_string()
    }
}

/// The setting of the haltpoll module, if it governs this machine.
pub(crate) fn guest_halt_poll_ns() -> Option<u64> {
    let driver = std::fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver").ok()?;
    let ns = std::fs::read_to_string("/sys/module/haltpoll/parameters/guest_halt_poll_ns").ok()?;
    if driver.trim() == "haltpoll" { ns.trim().parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn json_has_the_promised_keys() {
        let mut h = Histogram::<u64>::new(3).unwrap();
        h.record_n(150_000, 999).unwrap();
        h.record(2_000_000).unwrap();
        let report = Report {
            entries_per_s: 1e6,
            latency: Latencies::of_ns(&h),
            cpu_us_per_entry: Some(0.5),
            rss_bytes: Some(1 << 25),
            entries: 1000,
            seconds: 0.001,
            entry_bytes: 16,
            in_flight: 64,
            callers: 1,
            replicas: 3,
            busy: 0,
            leader_flushes_per_1000: None,
            entries_per_frame: None,
            backend: "test".into(),
            guest_halt_poll_ns: None,
        };
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for key in ["entries_per_s", "p50_us", "p99_us", "p999_us", "cpu_us_per_entry", "rss_bytes"] {
            assert!(json[key].is_number(), "{key}");
        }
        assert!(!report.json().contains('\n'));
        let p50 = json["p50_us"].as_f64().unwrap();
        assert!((149.9..151.0).contains(&p50), "{p50}");
        assert!(report.table().contains("1,000,000/s"));
    }
}

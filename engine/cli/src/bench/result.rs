//! What one run of a bench found: one line of JSON for programs, a table for people.

use kontiki_benches::floor::Counted;
use serde::Serialize;

use super::recorder::Measured;
use super::watch::ProcessUse;
use super::{Apply, Setup};
use crate::table::{Pairs, bytes, count};
use crate::timeline::Timeline;

/// Latencies from propose to answer, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
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
    fn of(timeline: &Timeline) -> Latencies {
        // A tenth of a microsecond is more than the clock is good for.
        let us = |latency: std::time::Duration| (latency.as_nanos() as f64 / 100.0).round() / 10.0;
        Latencies {
            p50_us: us(timeline.quantile(0.5)),
            p99_us: us(timeline.quantile(0.99)),
            p999_us: us(timeline.quantile(0.999)),
            max_us: us(timeline.longest()),
        }
    }
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Entries per second.
    pub(crate) entries_per_s: f64,
    /// Latencies.
    #[serde(flatten)]
    pub(crate) latency: Latencies,
    /// Processor time of all processes, callers and clients among them, per entry; absent for a cluster elsewhere.
    pub(crate) cpu_us_per_entry: Option<f64>,
    /// Most resident memory of any replica under load; absent for a cluster elsewhere. It counts the frame ring twice.
    pub(crate) rss_bytes: Option<u64>,
    /// Bytes written to a medium per byte of payload committed, by the kernel's count, averaged over the replicas.
    pub(crate) written_per_payload_byte: Option<f64>,
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
    /// Entries per second that were to be proposed; absent for a closed loop.
    pub(crate) rate: Option<u64>,
    /// Entries due and not even proposed by the end.
    pub(crate) missed: u64,
    /// Client processes outside of the leader.
    pub(crate) clients: u32,
    /// Where the state machine ran; absent for the floor and for a cluster elsewhere.
    pub(crate) apply: Option<Apply>,
    /// Whether this is the floor.
    pub(crate) floor: bool,
    /// Replicas.
    pub(crate) replicas: usize,
    /// Replicas that fell behind what the log retains and so took no part in all of it: the figures are then of fewer
    /// replicas.
    pub(crate) behind: usize,
    /// Proposals refused because a bound was reached.
    pub(crate) busy: u64,
    /// Flushes of the leader per 1000 entries; absent for a cluster elsewhere.
    pub(crate) leader_flushes_per_1000: Option<f64>,
    /// Bytes the leader wrote to its files per byte of payload, by its own count, over the whole run.
    pub(crate) leader_written_per_payload_byte: Option<f64>,
    /// Entries per batch; absent for a cluster elsewhere.
    pub(crate) entries_per_frame: Option<f64>,
    /// The leader's backend.
    pub(crate) backend: String,
    /// How long a halted virtual processor polls before it sleeps: the operator's to set, and worth much at low load.
    pub(crate) guest_halt_poll_ns: Option<u64>,
    /// Each process: the replicas, then clients.
    pub(crate) processes: Vec<ProcessUse>,
    /// All latencies, for plots.
    #[serde(skip)]
    pub(crate) timeline: Timeline,
}

impl Report {
    /// Of a run of `setup`; `leader` is what its leader counted over the whole run, with nothing in it if nobody knows.
    pub(super) fn new(setup: &Setup, measured: &Measured, leader: Counted, processes: Vec<ProcessUse>) -> Report {
        let entries = measured.timeline.count();
        let replicas = processes.iter().take(setup.replicas.into());
        let mean = |of: &dyn Fn(&ProcessUse) -> Option<f64>| {
            let all: Option<Vec<f64>> = replicas.clone().map(of).collect();
            all.filter(|all| !all.is_empty()).map(|all| all.iter().sum::<f64>() / all.len() as f64)
        };
        let cpu: Option<f64> = processes.iter().map(|p| p.cpu_us_per_entry).sum();
        let known = |value: f64| (leader.entries > 0).then_some(value);
        Report {
            entries_per_s: entries as f64 / measured.seconds.max(1e-9),
            latency: Latencies::of(&measured.timeline),
            cpu_us_per_entry: cpu.filter(|_| !processes.is_empty()),
            rss_bytes: replicas.clone().map(|p| p.rss_under_load_bytes).max(),
            written_per_payload_byte: mean(&|p| p.written_per_payload_byte),
            entries,
            seconds: measured.seconds,
            entry_bytes: setup.load.entry_bytes,
            in_flight: setup.load.in_flight,
            callers: setup.load.callers,
            rate: setup.load.rate,
            missed: measured.missed,
            clients: setup.clients,
            apply: (!setup.floor).then_some(setup.apply),
            floor: setup.floor,
            replicas: setup.replicas.into(),
            behind: 0,
            busy: measured.busy,
            leader_flushes_per_1000: known(leader.flushes as f64 * 1000.0 / leader.entries.max(1) as f64),
            leader_written_per_payload_byte: known(
                leader.bytes_written as f64 / leader.entries.max(1) as f64 / f64::from(setup.load.entry_bytes),
            ),
            entries_per_frame: known(leader.entries as f64 / leader.batches.max(1) as f64),
            backend: leader.backend,
            guest_halt_poll_ns: kontiki_benches::guest_halt_poll_ns(),
            processes,
            timeline: measured.timeline.clone(),
        }
    }

    /// As one line of JSON.
    pub(crate) fn json(&self) -> String {
        // Numbers, text and options always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As a table.
    pub(crate) fn table(&self) -> String {
        let mut rows = Pairs::new(if self.floor { "floor" } else { "bench" });
        rows.row("replicas", self.replicas);
        rows.row("entry size", bytes(self.entry_bytes.into()));
        let who = if self.clients > 0 { format!("{} clients", self.clients) } else { self.callers.to_string() };
        rows.row("in flight", format!("{} from {who}", count(self.in_flight.into())));
        if let Some(rate) = self.rate {
            rows.row("asked for", format!("{}/s", count(rate)));
            rows.row("due and not proposed by the end", count(self.missed));
        }
        if self.behind > 0 {
            rows.row("replicas that fell behind the log", self.behind);
        }
        rows.row("entries", format!("{} in {:.2} s", count(self.entries), self.seconds));
        rows.row("throughput", format!("{}/s", count(self.entries_per_s as u64)));
        rows.row("payload", format!("{}/s", bytes((self.entries_per_s * f64::from(self.entry_bytes)) as u64)));
        rows.row("latency p50", format!("{:.1} us", self.latency.p50_us));
        rows.row("latency p99", format!("{:.1} us", self.latency.p99_us));
        rows.row("latency p99.9", format!("{:.1} us", self.latency.p999_us));
        rows.row("latency, longest", format!("{:.1} us", self.latency.max_us));
        if let Some(us) = self.cpu_us_per_entry {
            rows.row("processor time per entry, all processes", format!("{us:.3} us"));
        }
        for process in &self.processes {
            let pss = process.memory.pss_bytes.map(|pss| format!(", {} if the ring counts once", bytes(pss))).unwrap_or_default();
            rows.row(&format!("memory of {}", process.name), format!("{}{pss}", bytes(process.rss_under_load_bytes)));
        }
        if let Some(ratio) = self.written_per_payload_byte {
            rows.row("written to disk per byte of payload", format!("{ratio:.2}"));
        }
        if let Some(flushes) = self.leader_flushes_per_1000 {
            rows.row("flushes of the leader per 1000 entries", format!("{flushes:.2}"));
        }
        if let Some(entries) = self.entries_per_frame {
            rows.row("entries per batch", format!("{entries:.1}"));
        }
        if !self.floor {
            rows.row("proposals told to wait (Busy)", count(self.busy));
        }
        rows.row("input and output", &self.backend);
        if let Some(ns) = self.guest_halt_poll_ns {
            rows.row("halt polling of this virtual machine", format!("{} us", ns / 1000));
        }
        rows.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn json_has_the_promised_keys() {
        let mut timeline = Timeline::new(Duration::from_secs(1), 10);
        timeline.record_n(Duration::ZERO, Duration::from_micros(150), 999);
        timeline.record_n(Duration::ZERO, Duration::from_millis(2), 1);
        let measured = Measured { timeline, seconds: 0.001, busy: 0, missed: 0, counted: None };
        let memory = crate::usage::Memory { rss_bytes: 1 << 25, peak_rss_bytes: 1 << 26, pss_bytes: None };
        let process = |name: &str| ProcessUse {
            name: name.into(),
            cpu_us_per_entry: Some(0.25),
            written_per_payload_byte: Some(1.5),
            rss_under_load_bytes: 1 << 25,
            memory,
        };
        let setup = Setup { replicas: 2, ..Setup::default() };
        let leader = Counted { entries: 1000, batches: 10, flushes: 20, bytes_written: 256_000, backend: "test".into() };
        let report = Report::new(&setup, &measured, leader, vec![process("a"), process("b"), process("client")]);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for key in ["entries_per_s", "p50_us", "p99_us", "p999_us", "cpu_us_per_entry", "rss_bytes", "written_per_payload_byte"] {
            assert!(json[key].is_number(), "{key}");
        }
        assert!(!report.json().contains('\n'));
        assert!((149.9..151.0).contains(&json["p50_us"].as_f64().unwrap()));
        assert_eq!(report.cpu_us_per_entry, Some(0.75), "clients count");
        assert_eq!((report.leader_flushes_per_1000, report.entries_per_frame), (Some(20.0), Some(100.0)));
        assert_eq!(report.leader_written_per_payload_byte, Some(2.0));
        assert!(report.table().contains("1,000,000/s"));
    }
}

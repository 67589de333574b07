//! What the processes of a bench use while it is measured.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::recorder::Measured;
use crate::usage::{self, Memory};

/// How often memory is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// What one process used, from the end of the warm-up to the last answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProcessUse {
    /// Which.
    pub(crate) name: String,
    /// Processor time per entry.
    pub(crate) cpu_us_per_entry: Option<f64>,
    /// Bytes it caused to be written to a medium, by the kernel's count, per byte of payload committed.
    pub(crate) written_per_payload_byte: Option<f64>,
    /// The most resident memory seen meanwhile (`VmRSS`).
    pub(crate) rss_under_load_bytes: u64,
    /// Memory at the end.
    #[serde(flatten)]
    pub(crate) memory: Memory,
}

#[derive(Debug)]
struct Watched {
    name: String,
    pid: u32,
    cpu_ns: Option<u64>,
    written: Option<u64>,
    rss_bytes: u64,
}

/// The watch.
#[derive(Debug)]
pub(super) struct Watch {
    all: Vec<Watched>,
    started: bool,
    looked: Instant,
}

impl Watch {
    pub(super) fn new(pids: Vec<(String, u32)>) -> Watch {
        let watched = |(name, pid)| Watched { name, pid, cpu_ns: None, written: None, rss_bytes: 0 };
        Watch { all: pids.into_iter().map(watched).collect(), started: false, looked: Instant::now() }
    }

    /// The warm-up is over. Of several that say so, the first counts.
    pub(super) fn start(&mut self) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        for process in &mut self.all {
            process.cpu_ns = usage::cpu_ns(process.pid);
            process.written = usage::written_bytes(process.pid);
        }
    }

    /// Looks at the memory, if it is time.
    pub(super) fn look(&mut self) {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            for process in &mut self.all {
                process.rss_bytes = process.rss_bytes.max(usage::rss_bytes(process.pid).unwrap_or(0));
            }
        }
    }

    /// The load is over: what each used.
    pub(super) fn finish(self, measured: &Measured, entry_bytes: u32) -> Vec<ProcessUse> {
        let entries = measured.timeline.count().max(1) as f64;
        // Times first: looking at memory costs time.
        let after: Vec<_> = self.all.iter().map(|p| (usage::cpu_ns(p.pid), usage::written_bytes(p.pid))).collect();
        let since = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?) as f64);
        let used = |(process, (cpu_ns, written)): (Watched, _)| {
            let memory = usage::memory(process.pid).unwrap_or_default();
            ProcessUse {
                cpu_us_per_entry: since(process.cpu_ns, cpu_ns).map(|ns| ns / 1000.0 / entries),
                written_per_payload_byte: since(process.written, written).map(|bytes| bytes / entries / f64::from(entry_bytes)),
                rss_under_load_bytes: process.rss_bytes.max(memory.rss_bytes),
                memory,
                name: process.name,
            }
        };
        self.all.into_iter().zip(after).map(used).collect()
    }
}

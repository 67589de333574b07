//! A bench of a cluster that runs already: puts over TCP.

use std::net::SocketAddr;
use std::time::Duration;

use super::callers::Load as Wanted;
use super::report::{Latencies, Report};
use crate::cluster::{POLL, STATUS_LIMIT};
use crate::error::Error;
use crate::kv::Command;
use crate::load::{Load, Plan};
use crate::signals::StopFlag;
use crate::status;

/// Keys that are put.
const KEYS: u64 = 1000;

/// Runs the load.
///
/// # Errors
/// The entries are too small for a put, nobody leads, or nothing was acknowledged.
pub(crate) fn run(addrs: &[SocketAddr], wanted: &Wanted, stop: &StopFlag) -> Result<Report, Error> {
    let entry_bytes = wanted.entry_bytes as usize;
    let smallest = put(0, 0).len();
    let value = entry_bytes.checked_sub(smallest).filter(|&v| v <= crate::kv::MAX_VALUE_BYTES).ok_or_else(|| {
        Error::Usage(format!(
            "--entry-bytes {entry_bytes}: with --to it must be {smallest} to {}, the size of a put",
            smallest + crate::kv::MAX_VALUE_BYTES
        ))
    })?;
    let heard: Vec<_> = addrs.iter().map(|&addr| (addr, status::fetch(addr, STATUS_LIMIT))).collect();
    let Some(leader) = heard.iter().filter_map(|(_, v)| v.as_ref().ok()).find(|v| v.leads()) else {
        let said: Vec<String> =
            heard.iter().map(|(addr, v)| format!("{addr}: {}", v.as_ref().map_or_else(Clone::clone, |v| v.role.to_lowercase()))).collect();
        return Err(Error::Unreachable(format!("none of --to leads ({})", said.join("; "))));
    };
    let (warmup, length) = (Duration::from_secs_f64(wanted.warmup), Duration::from_secs_f64(wanted.seconds));
    let plan = Plan {
        addrs: addrs.to_vec(),
        clients: wanted.callers,
        in_flight: wanted.in_flight as usize,
        length: warmup + length,
        slots: 1,
        record_from: warmup,
    };
    let load = Load::start(&plan, &move |_| Box::new(move |number, buffer| buffer.extend(put(number, value))))?;
    let pulse = load.pulse();
    while pulse.start().elapsed() < warmup + length {
        stop.check()?;
        std::thread::sleep(POLL);
    }
    let done = load.finish()?;
    let entries = done.timeline.count();
    if entries == 0 {
        return Err(Error::Finding(format!(
            "not one write was acknowledged{}",
            done.complaint.map_or(String::new(), |c| format!(": {c}"))
        )));
    }
    let seconds = done.length.saturating_sub(warmup).as_secs_f64();
    let us = |q| done.timeline.quantile_us(q) as f64;
    Ok(Report {
        entries_per_s: entries as f64 / seconds.max(1e-9),
        latency: Latencies { p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999), max_us: done.timeline.max_us() as f64 },
        cpu_us_per_entry: None,
        rss_bytes: None,
        entries,
        seconds,
        entry_bytes: wanted.entry_bytes,
        in_flight: wanted.in_flight,
        callers: wanted.callers,
        replicas: leader.peers.len() + 1,
        busy: done.outcomes.values().map(|o| o.tally().refused).sum(),
        leader_flushes_per_1000: None,
        entries_per_frame: None,
        backend: leader.backend.clone(),
        guest_halt_poll_ns: super::report::guest_halt_poll_ns(),
    })
}

/// A put with a value of so many bytes; always of one length for one length of value.
fn put(number: u64, value_bytes: usize) -> Vec<u8> {
    let key = format!("bench-{:03}", number % KEYS);
    Command::Put { key: key.as_bytes(), value: &vec![b'x'; value_bytes] }.encode().unwrap_or_default()
}

//! The load inside the leader's process: threads that call the library as a product would.
//!
//! Each caller keeps its share of tickets in a ring and waits on the oldest. Nothing is allocated while it
//! runs. Time is read once per run of proposals and once per run of answers, not per entry: at ten million
//! entries a second the clock itself would be a good part of what is measured.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use kontiki::{Node, ProposeError, Proposer, Ticket};

use super::report::{Latencies, Measured};

/// Longest latency told apart, in nanoseconds: a minute.
const MAX_NS: u64 = 60_000_000_000;
/// Proposals between two readings of the clock.
const RUN: usize = 32;
/// The pause when the node is busy and nothing is in flight: it waits for its disk.
const BUSY_PAUSE: Duration = Duration::from_micros(50);

/// The load.
#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    /// Size of an entry, in bytes
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=256 << 10))]
    pub(crate) entry_bytes: u32,
    /// Proposals in flight, over all callers
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
}

/// What one caller saw while it was measured.
struct Seen {
    latencies: Histogram<u64>,
    busy: u64,
    /// From the first measured answer's run to the last.
    seconds: f64,
}

/// Runs the load on a node that leads. `started` is called when the warm-up is over.
///
/// # Errors
/// The node lost its leadership, or stopped: a sentence.
pub(crate) fn run(node: &Node, load: &Load, started: &(dyn Fn() + Sync)) -> Result<Measured, String> {
    let callers = load.callers.clamp(1, load.in_flight);
    let start = Barrier::new(callers as usize + 1);
    let before = node.status();
    let seen: Vec<Result<Seen, String>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|n| {
                let share = load.in_flight / callers + u32::from(n < load.in_flight % callers);
                let caller = Caller::new(node.proposer(), share as usize, load);
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    caller.run(load)
                })
            })
            .collect();
        start.wait();
        thread::sleep(Duration::from_secs_f64(load.warmup));
        started();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a caller panicked".into()))).collect()
    });
    let after = node.status();

    let mut all = histogram();
    let (mut busy, mut seconds) = (0, 0f64);
    for seen in seen {
        let seen = seen?;
        all.add(&seen.latencies).map_err(|e| e.to_string())?;
        busy += seen.busy;
        seconds = seconds.max(seen.seconds);
    }
    let (flushes, frames, proposed) = match (&before, &after) {
        (Some(b), Some(a)) => {
            let (b, a) = (&b.counters, &a.counters);
            (a.flushes - b.flushes, a.frames_sealed - b.frames_sealed, a.entries_proposed - b.entries_proposed)
        }
        _ => (0, 0, 0),
    };
    Ok(Measured {
        entries: all.len(),
        seconds,
        latency: Latencies::of_ns(&all),
        busy,
        leader_flushes_per_1000: flushes as f64 * 1000.0 / proposed.max(1) as f64,
        entries_per_frame: proposed as f64 / frames.max(1) as f64,
        backend: after.map(|s| s.backend).unwrap_or_default(),
    })
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_NS, 3).unwrap_or_else(|_| unreachable!("1 to {MAX_NS} with 3 digits is valid"))
}

/// One thread that proposes.
struct Caller {
    proposer: Proposer,
    ring: VecDeque<(Ticket, Instant)>,
    share: usize,
    payload: Vec<u8>,
    count: u64,
    seen: Seen,
}

impl Caller {
    fn new(proposer: Proposer, share: usize, load: &Load) -> Caller {
        Caller {
            proposer,
            ring: VecDeque::with_capacity(share),
            share,
            payload: vec![0x5a; load.entry_bytes as usize],
            count: 0,
            seen: Seen { latencies: histogram(), busy: 0, seconds: 0.0 },
        }
    }

    fn run(mut self, load: &Load) -> Result<Seen, String> {
        let begun = Instant::now();
        let measure_from = begun + Duration::from_secs_f64(load.warmup);
        let end = measure_from + Duration::from_secs_f64(load.seconds);
        let mut last = measure_from;
        loop {
            let now = self.propose()?;
            if now >= end {
                break;
            }
            last = self.answers(measure_from)?.unwrap_or(last);
        }
        // What is in flight now is not measured, and must not be cut off.
        for (ticket, _) in self.ring.drain(..) {
            ticket.wait().map_err(|e| e.to_string())?;
        }
        self.seen.seconds = last.saturating_duration_since(measure_from).as_secs_f64();
        Ok(self.seen)
    }

    /// Fills the ring as far as the node takes more.
    fn propose(&mut self) -> Result<Instant, String> {
        let mut now = Instant::now();
        let mut run = 0;
        while self.ring.len() < self.share {
            if run == RUN {
                (run, now) = (0, Instant::now());
            }
            // Each entry is another, as far as it has room for a number.
            self.count += 1;
            if let Some(number) = self.payload.first_chunk_mut::<8>() {
                *number = self.count.to_le_bytes();
            }
            match self.proposer.propose(&self.payload) {
                Ok(ticket) => self.ring.push_back((ticket, now)),
                Err(ProposeError::Busy) => {
                    self.seen.busy += 1;
                    if self.ring.is_empty() {
                        thread::sleep(BUSY_PAUSE);
                    }
                    break;
                }
                Err(error) => return Err(error.to_string()),
            }
            run += 1;
        }
        Ok(now)
    }

    /// Waits for the oldest, takes all that are done, and records those proposed from `measure_from` on.
    fn answers(&mut self, measure_from: Instant) -> Result<Option<Instant>, String> {
        let Some((ticket, proposed)) = self.ring.pop_front() else { return Ok(None) };
        ticket.wait().map_err(|e| e.to_string())?;
        drop(ticket);
        let now = Instant::now();
        // Most of a run were proposed at one reading of the clock: record them together.
        let (mut since, mut equal) = (proposed, 1);
        while let Some((ticket, proposed)) = self.ring.front() {
            let proposed = *proposed;
            match ticket.poll() {
                None => break,
                Some(outcome) => outcome.map_err(|e| e.to_string())?,
            };
            if proposed != since {
                self.record(now, since, equal, measure_from);
                (since, equal) = (proposed, 0);
            }
            equal += 1;
            self.ring.pop_front();
        }
        self.record(now, since, equal, measure_from);
        Ok(Some(now))
    }

    fn record(&mut self, now: Instant, proposed: Instant, count: u64, measure_from: Instant) {
        if proposed >= measure_from {
            let ns = u64::try_from(now.saturating_duration_since(proposed).as_nanos()).unwrap_or(MAX_NS);
            self.seen.latencies.saturating_record_n(ns, count);
        }
    }
}

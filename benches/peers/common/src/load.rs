//! The load: a closed loop that keeps a number of proposals in flight, in the leader's process.
//!
//! After the warm-up a window opens; what is applied within it counts. The clock is read once per batch of
//! proposals and once per batch of answers, not per entry.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::cluster::Followers;
use crate::log;
use crate::payload::{Payload, Pool};
use crate::report::Measured;

/// Longest latency told apart, in nanoseconds: a minute.
const MAX_NS: u64 = 60_000_000_000;

/// What to run on the leader, once it leads.
pub struct Load {
    /// Proposals in flight.
    pub in_flight: usize,
    /// Where entries come from.
    pub pool: Pool,
    /// What takes the measurements.
    pub meter: Meter,
}

/// Counts and times what is applied.
pub struct Meter {
    warmup: Duration,
    length: Duration,
    followers: Followers,
    latency: Histogram<u64>,
    applied: u64,
    state: State,
}

enum State {
    Idle,
    Warming { until: Instant },
    Measuring { since: Instant, cpu: Duration, flushes: u64 },
    Over(Result<Measured>),
}

impl Meter {
    pub(crate) fn new(warmup: Duration, length: Duration, followers: Followers) -> Meter {
        // 1 ns to a minute with three digits is always valid.
        let latency = Histogram::new_with_bounds(1, MAX_NS, 3).unwrap_or_else(|e| unreachable!("{e}"));
        Meter { warmup, length, followers, latency, applied: 0, state: State::Idle }
    }

    /// The load begins: so does the warm-up.
    pub fn begin(&mut self, now: Instant) {
        self.state = State::Warming { until: now + self.warmup };
    }

    /// `count` entries that were proposed at `since` have been applied.
    pub fn applied(&mut self, count: u64, since: Instant, now: Instant) {
        self.applied += count;
        match &self.state {
            State::Warming { until } if now >= *until => {
                self.state = match self.followers.cpu() {
                    Ok(cpu) => State::Measuring { since: now, cpu, flushes: log::flushes() },
                    Err(error) => State::Over(Err(error)),
                }
            }
            State::Measuring { since: begun, cpu, flushes } => {
                let ns = u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(MAX_NS);
                self.latency.saturating_record_n(ns.max(1), count);
                let passed = now.saturating_duration_since(*begun);
                if passed >= self.length {
                    self.state = State::Over(self.measured(passed, *cpu, *flushes));
                }
            }
            State::Idle | State::Warming { .. } | State::Over(_) => {}
        }
    }

    fn measured(&self, passed: Duration, cpu: Duration, flushes: u64) -> Result<Measured> {
        Ok(Measured {
            entries: self.latency.len(),
            seconds: passed.as_secs_f64(),
            latency: self.latency.clone(),
            cpu_us: self.followers.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6,
            rss_bytes: self.followers.rss_bytes()?,
            flushes: log::flushes() - flushes,
            applied: self.applied,
        })
    }

    /// What was measured, when the window is over.
    pub fn take(&mut self) -> Option<Result<Measured>> {
        match self.state {
            State::Over(_) => match std::mem::replace(&mut self.state, State::Idle) {
                State::Over(measured) => Some(measured),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The load for an engine that answers in the order of the proposals, on one thread.
pub struct ClosedLoop {
    load: Load,
    /// Runs of entries proposed at one reading of the clock, oldest first.
    runs: VecDeque<(Instant, usize)>,
    flying: usize,
    begun: bool,
}

impl ClosedLoop {
    /// Nothing is proposed yet.
    pub fn new(load: Load) -> ClosedLoop {
        ClosedLoop { load, runs: VecDeque::new(), flying: 0, begun: false }
    }

    /// Entries to propose now, so that the number in flight is reached; they count as proposed.
    pub fn propose(&mut self) -> impl ExactSizeIterator<Item = Payload> {
        let free = self.load.in_flight - self.flying;
        if free > 0 {
            let now = Instant::now();
            if !self.begun {
                self.begun = true;
                self.load.meter.begin(now);
            }
            self.runs.push_back((now, free));
            self.flying += free;
        }
        let pool = &mut self.load.pool;
        (0..free).map(|_| pool.entry())
    }

    /// The oldest `count` have been applied.
    pub fn applied(&mut self, mut count: usize) {
        let now = Instant::now();
        while count > 0 {
            let Some((since, left)) = self.runs.front_mut() else { return };
            let n = count.min(*left);
            self.load.meter.applied(n as u64, *since, now);
            count -= n;
            *left -= n;
            self.flying -= n;
            if *left == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// What was measured, when the window is over.
    pub fn take(&mut self) -> Option<Result<Measured>> {
        self.load.meter.take()
    }
}

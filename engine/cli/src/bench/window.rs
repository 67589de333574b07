//! The proposals of one caller within the leader's process, as a product would make them: tickets in a ring, oldest
//! first.
//!
//! Where several are due they are proposed in runs, with one call each, as whoever has several would (`--run`). Nothing
//! is allocated while it runs. Time is read once per run of proposals and once per run of answers, not per
//! entry: at ten million entries a second the clock itself would be a good part of what is measured.

use std::collections::VecDeque;
use std::time::Instant;

use kontiki::{ProposeError, Proposer, Ticket};

use super::load::{Load, Pace};
use super::recorder::{Measured, Recorder};

/// What one caller has in flight.
pub(super) struct Window {
    proposer: Proposer,
    /// In flight, oldest first.
    ring: VecDeque<Ticket>,
    /// Since when their entries count, and how many in a row since then.
    runs: VecDeque<(Instant, usize)>,
    share: usize,
    /// The payloads of one run, when each counts from, and the tickets it gave.
    payloads: Vec<Vec<u8>>,
    since: Vec<Instant>,
    tickets: Vec<Ticket>,
    proposed: u64,
    pace: Option<Pace>,
    recorder: Recorder,
}

impl Window {
    /// For a caller that begins now, with `load` for itself.
    pub(super) fn new(proposer: Proposer, load: &Load) -> Window {
        let (begun, run) = (Instant::now(), load.run as usize);
        Window {
            proposer,
            ring: VecDeque::with_capacity(load.in_flight as usize),
            runs: VecDeque::with_capacity(load.in_flight as usize),
            share: load.in_flight as usize,
            payloads: vec![vec![0x5a; load.entry_bytes as usize]; run],
            since: Vec::with_capacity(run),
            tickets: Vec::with_capacity(run),
            proposed: 0,
            pace: load.rate.map(|rate| Pace::new(begun, rate)),
            recorder: Recorder::new(begun, load),
        }
    }

    /// Proposes what there is room for, and, at a fixed rate, what is due: the time then.
    pub(super) fn propose(&mut self) -> Result<Instant, String> {
        loop {
            let now = Instant::now();
            self.since.clear();
            while self.since.len() < self.payloads.len() && self.ring.len() + self.since.len() < self.share {
                let number = self.proposed + self.since.len() as u64;
                let since = self.pace.map_or(now, |pace| pace.due(number));
                if since > now {
                    break;
                }
                // Each entry is another, as far as it has room for a number.
                if let Some(bytes) = self.payloads.get_mut(self.since.len()).and_then(|payload| payload.first_chunk_mut::<8>()) {
                    *bytes = number.to_le_bytes();
                }
                self.since.push(since);
            }
            if self.since.is_empty() {
                return Ok(now);
            }
            let run = self.payloads.get(..self.since.len()).unwrap_or(&[]);
            match propose(&self.proposer, run, &mut self.tickets) {
                Ok(()) => {}
                Err(ProposeError::Busy | ProposeError::DiskFull | ProposeError::LogFull | ProposeError::Shortage) => {
                    self.recorder.busy();
                    return Ok(now);
                }
                Err(error) => return Err(error.to_string()),
            }
            self.proposed += self.tickets.len() as u64;
            for since in self.since.iter().take(self.tickets.len()) {
                match self.runs.back_mut() {
                    Some((same, count)) if same == since => *count += 1,
                    _ => self.runs.push_back((*since, 1)),
                }
            }
            self.ring.extend(self.tickets.drain(..));
        }
    }

    /// The oldest in flight.
    pub(super) fn oldest(&self) -> Option<&Ticket> {
        self.ring.front()
    }

    /// When to propose next although nothing is answered.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pace.filter(|_| self.ring.len() < self.share).map(|pace| pace.due(self.proposed))
    }

    /// Takes all that are answered from the front, and records them.
    pub(super) fn take(&mut self) -> Result<(), String> {
        let (now, mut lost) = (Instant::now(), None);
        let mut taken = Ticket::reap(&mut self.ring, |outcome, _| lost = lost.take().or(outcome.err()));
        // Most of a run count from one reading of the clock: they are recorded together.
        while taken > 0
            && let Some((since, count)) = self.runs.front_mut()
        {
            let of_these = taken.min(*count);
            self.recorder.answered(now, *since, of_these as u64);
            (taken, *count) = (taken - of_these, *count - of_these);
            if *count == 0 {
                self.runs.pop_front();
            }
        }
        lost.map_or(Ok(()), |lost| Err(lost.to_string()))
    }

    /// Whether to stop proposing.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.recorder.end()
    }

    /// What came of it. What is in flight must have been taken.
    pub(super) fn finish(mut self) -> Measured {
        if let Some(pace) = self.pace {
            self.recorder.missed(pace.due_before(self.recorder.end()).saturating_sub(self.proposed));
        }
        self.recorder.finish()
    }
}

/// Proposes a run: as much of it as there is room for now.
fn propose(proposer: &Proposer, run: &[Vec<u8>], tickets: &mut Vec<Ticket>) -> Result<(), ProposeError> {
    if let [payload] = run {
        tickets.push(proposer.propose(payload)?);
        return Ok(());
    }
    proposer.propose_many(run, tickets)?;
    Ok(())
}

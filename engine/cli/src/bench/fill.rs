//! Filling the log before anything is measured. A log grows until it holds what it retains, and each new segment is
//! filled with zeros once; from then on segments are recycled, for as long as the product lives. That is what a bench
//! is about.

use std::collections::VecDeque;

use kontiki::{Config, ProposeError, Proposer, Ticket};

/// Entries in flight meanwhile.
const IN_FLIGHT: usize = 32;
/// One step of it, in bytes. Between two steps the slowest replica catches up: nobody must fall behind what the log
/// retains.
pub(super) const STEP_BYTES: u64 = 16 << 20;
/// Most steps: whoever sets a huge retention measures a log that grows.
const MOST_STEPS: u64 = 16;

/// Steps until a log has come round.
pub(super) fn steps(config: &Config) -> u64 {
    (config.retention_bytes + 3 * config.segment_bytes).div_ceil(STEP_BYTES).min(MOST_STEPS)
}

/// Proposes one step. `pause` is called between, with the oldest ticket if there is one: it waits or turns.
///
/// # Errors
/// The node lost its leadership, or stopped: a sentence.
pub(super) fn fill(
    config: &Config,
    proposer: &Proposer,
    mut pause: impl FnMut(Option<&Ticket>) -> Result<(), String>,
) -> Result<(), String> {
    let payload = vec![0; config.max_entry_bytes];
    let mut left = STEP_BYTES.div_ceil(payload.len() as u64);
    let mut tickets = VecDeque::with_capacity(IN_FLIGHT);
    while left > 0 || !tickets.is_empty() {
        while left > 0 && tickets.len() < IN_FLIGHT {
            match proposer.propose(&payload) {
                Ok(ticket) => tickets.push_back(ticket),
                Err(ProposeError::Busy | ProposeError::DiskFull | ProposeError::LogFull | ProposeError::Shortage) => break,
                Err(error) => return Err(error.to_string()),
            }
            left -= 1;
        }
        pause(tickets.front())?;
        while let Some(outcome) = tickets.front().and_then(Ticket::poll) {
            outcome.map_err(|e| e.to_string())?;
            tickets.pop_front();
        }
    }
    Ok(())
}

//! The floor: the least that a durable log on several machines must do, and nothing else.
//!
//! No terms, no elections, no catch-up, no clients, no state machine: one leader, `replicas - 1` followers, each one
//! thread over the [`Io`](kontiki_io::Io) of the engine. The leader keeps a number of entries of its own in flight;
//! whatever waits when a write slot is free becomes one batch, sealed with one checksum, and goes from where it lies in
//! the ring to the leader's log and to each follower. A follower checks the batch, writes it from where it was
//! received, and answers with the position up to which it is durable. What a majority has is committed, and each
//! committed entry is replaced by a new one.
//!
//! The log is one that has run for a while: a row of segments whose blocks were all written before, used round and
//! round.
//!
//! It is a reference to hold a consensus engine against on the same machine at the same time, not a bound that is
//! proved: it shares the engine's backend and memory, and leaves open how processes are placed on processors.

mod follower;
mod frame;
mod leader;
mod log;

use std::path::PathBuf;

use kontiki_io::Token;

pub use follower::follow;
pub use leader::{Committed, Counted, lead};

use crate::world::{Failed, failed};

/// How a floor is set up; the same for leader and followers.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of an entry, in bytes, at least 8: each carries its number.
    pub entry_bytes: usize,
    /// Entries in flight.
    pub in_flight: u64,
    /// A directory of this process's own, for its segments.
    pub dir: PathBuf,
    /// Size of a segment, in bytes, a multiple of 4,096.
    pub segment_bytes: u64,
    /// Segments, used in turn.
    pub segments: u32,
    /// Most bytes of a batch.
    pub max_batch_bytes: usize,
    /// Most bytes of one write to the log.
    pub max_write_bytes: usize,
    /// Writes to the log in flight at once.
    pub writes_in_flight: usize,
    /// Memory for batches, in bytes, a power of two.
    pub ring_bytes: usize,
}

impl Options {
    /// The engine's own defaults, with a log of as many segments as the engine keeps in a bench.
    pub fn new(entry_bytes: usize, in_flight: u64, dir: PathBuf) -> Options {
        let max_batch_bytes = (256 << 10).max(frame::bytes(4, entry_bytes));
        Options {
            entry_bytes,
            in_flight,
            dir,
            segment_bytes: 16 << 20,
            segments: 7,
            max_batch_bytes,
            max_write_bytes: (1 << 20).max(max_batch_bytes),
            writes_in_flight: 2,
            ring_bytes: (8usize << 20).max((8 * max_batch_bytes).next_power_of_two()),
        }
    }

    fn check(&self) -> Result<(), Failed> {
        let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(failed("floor", what)) };
        need(self.entry_bytes >= frame::NUMBER_BYTES, "an entry has at least 8 bytes")?;
        need(self.in_flight > 0 && self.writes_in_flight > 0, "something must be in flight")?;
        need(self.max_batch_bytes >= frame::bytes(1, self.entry_bytes), "a batch holds at least one entry")?;
        need(self.max_write_bytes >= self.max_batch_bytes, "a write holds at least one batch")?;
        need(self.ring_bytes >= 8 * self.max_batch_bytes, "the ring holds at least eight batches")?;
        let block = kontiki_mem::BLOCK_BYTES as u64;
        need(
            self.segments > 0 && self.segment_bytes >= self.max_write_bytes as u64 && self.segment_bytes.is_multiple_of(block),
            "a segment holds at least one write, in whole blocks",
        )
    }
}

/// What a completion is of: the top byte of its token.
const WRITE: u64 = 1 << 56;
/// A send; the rest is the connection's place.
const SEND: u64 = 2 << 56;
/// A receive; the rest is the connection's place.
const RECEIVE: u64 = 3 << 56;

/// Kind and rest of a token.
const fn split(token: Token) -> (u64, u64) {
    let kind = 0xff << 56;
    (token.0 & kind, token.0 & !kind)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    /// Runs a floor in threads of this process; entries committed, and what the leader counted.
    fn run(replicas: usize, in_flight: u64, entry_bytes: usize) -> (u64, Counted) {
        let dir = tempfile::tempdir().unwrap();
        let options = |n: usize| Options {
            segment_bytes: 2 << 20,
            segments: 2,
            ..Options::new(entry_bytes, in_flight, dir.path().join(n.to_string()))
        };
        std::thread::scope(|scope| {
            let (sender, addresses) = mpsc::channel();
            for n in 1..replicas {
                let (options, sender) = (options(n), sender.clone());
                scope.spawn(move || follow(&options, &mut |addr| sender.send(addr).unwrap()).unwrap());
            }
            drop(sender);
            let followers: Vec<_> = addresses.iter().take(replicas - 1).collect();
            let mut entries = 0;
            let counted = lead(&options(0), &followers, Duration::from_millis(300), &mut |committed| entries += committed.entries).unwrap();
            (entries, counted)
        })
    }

    #[test]
    fn what_is_committed_was_written_everywhere() {
        for (replicas, in_flight, entry_bytes) in [(1, 1, 8), (3, 1, 128), (3, 500, 100), (5, 64, 70_000)] {
            let (entries, counted) = run(replicas, in_flight, entry_bytes);
            assert!(entries >= in_flight, "{entries}");
            assert_eq!(counted.entries, entries, "every entry is committed at the end, and each once");
            assert!(counted.bytes_written >= entries * entry_bytes as u64 && counted.flushes > 0 && counted.batches <= entries);
        }
    }

    #[test]
    fn bad_options_are_named() {
        let good = Options::new(128, 1, PathBuf::new());
        good.check().unwrap();
        for bad in [
            Options { entry_bytes: 7, ..good.clone() },
            Options { in_flight: 0, ..good.clone() },
            Options { segment_bytes: 4096, ..good.clone() },
            Options { ring_bytes: 1 << 20, ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}

//! Opening a log again, against only reading it with a checksum.

use std::path::Path;

use kontiki_benches::{StoredLog, scan};
use kontiki_io::Backend;
use serde::Serialize;

use super::spread::Spread;
use crate::error::Error;

/// Frames of the log, in bytes: what a busy leader seals.
const FRAME_BYTES: usize = 64 << 10;
/// Frames under way while it is written.
const DEPTH: u64 = 32;

/// One size of log.
#[derive(Debug, Serialize)]
pub(super) struct Recovered {
    /// Bytes of its frames.
    pub(super) bytes: u64,
    /// Seconds to open it, each round.
    pub(super) open_s: Vec<f64>,
    /// Seconds to read the same bytes with a checksum, each round.
    pub(super) read_s: Vec<f64>,
    /// What recovery said it found.
    pub(super) found: String,
}

impl Recovered {
    pub(super) fn open(&self) -> Option<Spread> {
        Spread::of(self.open_s.iter().copied())
    }

    pub(super) fn read(&self) -> Option<Spread> {
        Spread::of(self.read_s.iter().copied())
    }

    /// How much faster than reading: recovery's speed as a part of it, round by round.
    pub(super) fn ratio(&self) -> Option<Spread> {
        Spread::of(self.open_s.iter().zip(&self.read_s).map(|(open, read)| read / open))
    }
}

/// Writes a log of about `bytes` below `dir`, and opens and reads it in turns.
///
/// # Errors
/// The log cannot be written or read; the disk is too small, perhaps.
pub(super) fn measure(dir: &Path, bytes: u64, rounds: u32) -> Result<Recovered, Error> {
    let failed = |error: kontiki_benches::Failed| Error::Finding(format!("recovery of {} MiB: {error}", bytes >> 20));
    let dir = tempfile::Builder::new().prefix("log-").tempdir_in(dir).map_err(Error::file("cannot make a directory in", dir))?;
    let (mut log, _) = StoredLog::open(dir.path(), Backend::Auto, 2, true).map_err(failed)?;
    log.run(FRAME_BYTES, DEPTH, bytes / FRAME_BYTES as u64).map_err(failed)?;
    drop(log);
    let mut recovered = Recovered { bytes: 0, open_s: Vec::new(), read_s: Vec::new(), found: String::new() };
    for round in 0..rounds {
        // Whoever comes second may find a warmer drive: in turns. (The first time, only opening says how long the log is.)
        let early = if round % 2 == 1 { Some(scan(dir.path(), Backend::Auto, recovered.bytes).map_err(failed)?) } else { None };
        let (log, recovery) = StoredLog::open(dir.path(), Backend::Auto, 2, true).map_err(failed)?;
        drop(log);
        let read = early.map_or_else(|| scan(dir.path(), Backend::Auto, recovery.bytes), Ok).map_err(failed)?;
        recovered.open_s.push(recovery.took.as_secs_f64());
        recovered.read_s.push(read.took.as_secs_f64());
        (recovered.bytes, recovered.found) = (recovery.bytes, recovery.report);
    }
    Ok(recovered)
}

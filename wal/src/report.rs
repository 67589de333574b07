//! What opening a log found, for the operator and for tests.

use core::fmt;

use kontiki_core::{Base, LogIndex, Term};

use crate::Damage;

/// What a chain of segments begins with: the snapshot that the log behind it goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The snapshot's base.
    pub base: Base,
    /// The snapshot's digest.
    pub digest: u128,
}

/// What recovery found. Its `Display` is one line for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments that are part of the log.
    pub segments: usize,
    /// Frames in them.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Length of the longest of them, in bytes: what a buffer must hold to read any of the log.
    pub longest_frame: usize,
    /// What the log begins with, if it does with a chain's first segment.
    pub chain: Option<Chain>,
    /// What the log presupposes.
    pub base: Base,
    /// First index of the log.
    pub first: LogIndex,
    /// Last index of the log; one before `first` if it is empty.
    pub last: LogIndex,
    /// Term of that entry.
    pub last_term: Term,
    /// Where the log ends, as a position in bytes.
    pub end: u64,
    /// Position up to which frames say that the log was durable.
    pub watermark: u64,
    /// Bytes past the end that had been written and are not part of the log: a torn tail, or what lies behind damage.
    pub dropped_tail_bytes: u64,
    /// Acknowledged data that is gone.
    pub damage: Option<Damage>,
    /// The tail's last frames may have been acknowledged and lost: the medium is lossy, and at the end stands what is
    /// neither a frame nor zeros.
    pub uncertain: bool,
    /// The machine has not been off since the last start, nor the medium away: whatever ended that run lost nothing
    /// that it had written.
    pub same_boot: bool,
    /// This start's boot of the machine, or the place of its directory, cannot be known: the next start takes whatever
    /// ends this run for a power cut.
    pub place_unknown: bool,
    /// A copy of the hard state was damaged or one update behind, and was rewritten.
    pub hard_state_repaired: bool,
    /// Spare segments found ready.
    pub spares: usize,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecoveryReport { segments, frames, bytes, first, last, end, .. } = self;
        write!(f, "{segments} segments, {frames} frames, {bytes} bytes, entries {first} to {last}, end at position {end}")?;
        if let Some(chain) = &self.chain {
            write!(f, ", behind a snapshot of {}", chain.base)?;
        }
        if self.dropped_tail_bytes > 0 {
            write!(f, ", {} bytes behind the end dropped", self.dropped_tail_bytes)?;
        }
        if self.hard_state_repaired {
            write!(f, ", hard state repaired from its other copy")?;
        }
        if let Some(damage) = &self.damage {
            write!(f, ", {damage}")?;
        }
        if self.uncertain {
            write!(
                f,
                ", what was written last may have been acknowledged and lost: behind the end stand no zeros, and the medium is lossy"
            )?;
        }
        Ok(())
    }
}

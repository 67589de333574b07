//! What a log is told.

use std::path::PathBuf;

use kontiki_core::{ClusterId, GroupId, LogIndex, NodeId};
use kontiki_frame::{BLOCK_BYTES, MAX_FRAME_BYTES};

use crate::WalError;
use crate::limits::{KEPT_SEGMENTS, MAX_SEGMENT_BYTES, MAX_SPARE_SEGMENTS, MAX_WRITES_IN_FLIGHT, MIN_SEGMENT_BYTES};

/// What the medium may do to flushed data when the power fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// What was flushed stays. A bad frame past the last known watermark was torn, and is dropped.
    Safe,
    /// What was flushed may be lost. A bad frame past the last known watermark may have been acknowledged: the node
    /// starts *recovering*.
    #[default]
    Lossy,
}

/// Where the log lies and how it behaves. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The data directory; made if it is missing.
    pub dir: PathBuf,
    /// The cluster this node belongs to.
    pub cluster: ClusterId,
    /// This node; not zero.
    pub node: NodeId,
    /// The group whose log this is.
    pub group: GroupId,
    /// Size of each segment file: a multiple of 4096, room for at least one longest frame. Fixed at first start.
    pub segment_bytes: u64,
    /// Segments prepared ahead of use, at least 1, beside those that are kept ([`crate::limits::KEPT_SEGMENTS`]).
    pub spare_segments: usize,
    /// Released log that is kept all the same, for followers that were away.
    pub retention_bytes: u64,
    /// Log writes in flight at once, 1 to 32.
    pub writes_in_flight: usize,
    /// Longest write that gathers several frames; a longer frame is a write of its own.
    pub max_write_bytes: usize,
    /// What the medium may do.
    pub medium: Medium,
    /// Longest frame that is appended, padding included. Longer ones, from before it was lowered, are still read.
    pub max_frame_bytes: usize,
    /// Whether this node is its group's only voter: then nobody could give it back what damage took, and it stops.
    pub sole_voter: bool,
    /// Last index that the state machine has applied, as it starts. A log whose beginning was lost is of use only to a
    /// machine that has what it held.
    pub applied: LogIndex,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            dir: PathBuf::new(),
            cluster: ClusterId(0),
            node: NodeId(0),
            group: GroupId(0),
            segment_bytes: 16 << 20,
            spare_segments: 1,
            retention_bytes: 256 << 20,
            writes_in_flight: 2,
            max_write_bytes: 1 << 20,
            medium: Medium::default(),
            max_frame_bytes: MAX_FRAME_BYTES,
            sole_voter: false,
            applied: LogIndex(0),
        }
    }
}

impl Options {
    /// Checks every value.
    ///
    /// # Errors
    /// [`WalError::Options`], naming the first value that cannot be.
    pub fn check(&self) -> Result<(), WalError> {
        let block = BLOCK_BYTES as u64;
        let problem = if self.cluster.0 == 0 {
            "cluster must not be zero"
        } else if self.node.0 == 0 {
            "node must not be zero"
        } else if !self.segment_bytes.is_multiple_of(block) || !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes) {
            "segment_bytes must be a multiple of 4096 from 64 KiB to 1 GiB"
        } else if !self.max_frame_bytes.is_multiple_of(BLOCK_BYTES) || !(BLOCK_BYTES..=MAX_FRAME_BYTES).contains(&self.max_frame_bytes) {
            "max_frame_bytes must be a multiple of 4096 from 4 KiB to 2 MiB"
        } else if self.max_frame_bytes as u64 + block > self.segment_bytes {
            "segment_bytes must hold a 4 KiB header and one longest frame"
        } else if !(1..=MAX_SPARE_SEGMENTS).contains(&self.spare_segments) {
            "spare_segments must be 1 to 16"
        } else if !(1..=MAX_WRITES_IN_FLIGHT).contains(&self.writes_in_flight) {
            "writes_in_flight must be 1 to 32"
        } else if self.max_write_bytes < BLOCK_BYTES {
            "max_write_bytes must be at least 4096"
        } else {
            return Ok(());
        };
        Err(WalError::Options { problem })
    }

    /// Segments that are to be prepared: the spares, and those that are kept.
    pub(crate) fn prepared(&self) -> usize {
        self.spare_segments + KEPT_SEGMENTS
    }

    /// Most operations that the log has outstanding at once, opening and running: what to count with in `Io::capacity`.
    pub fn max_operations(&self) -> usize {
        self.writes_in_flight + crate::limits::OTHER_OPERATIONS
    }
}

//! The stamps: what each holder of a frame says of it, in the 64 bytes before the sealed part.

use kontiki_core::{Incarnation, IndexRange, LogIndex, NodeId, SessionId, Term};

use crate::fields::{field, put, u32_at, u64_at};
use crate::header::stored_checksum;
use crate::{FrameError, STAMP_BYTES};

const DISK_MAGIC: [u8; 4] = *b"KtkD";
const WIRE_MAGIC: [u8; 4] = *b"KtkW";

// Both stamps: magic, checksum, then seven 8-byte fields.
const AT_MAGIC: usize = 0;
const AT_CHECKSUM: usize = 4;
const AT_FIELDS: usize = 8;
const FIELDS: usize = (STAMP_BYTES - AT_FIELDS) / 8;

/// This node's stamp on a frame in its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskStamp {
    /// Absolute position of this frame in the node's log, in bytes.
    pub position: u64,
    /// How often the segment file was recycled.
    pub generation: u64,
    /// The boot that wrote it.
    pub boot: Incarnation,
    /// What counts of the frame.
    pub range: IndexRange,
    /// Position up to which this node's log was known durable when the frame was stamped, in bytes.
    pub watermark: u64,
    /// The node whose log it is.
    pub node: NodeId,
}

/// The sender's stamp on a frame that travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireStamp {
    /// The session it was sent in.
    pub session: SessionId,
    /// Number of the frame within the session and direction.
    pub sequence: u64,
    /// The sender's current term, as the leader who sends this (not the term of the entries).
    pub leader_term: Term,
    /// The sender's commit index.
    pub commit: LogIndex,
    /// What counts of the frame.
    pub range: IndexRange,
    /// The leader's round of confirmation when it stamped the frame.
    pub round: u64,
}

/// The stamp's checksum: its fields, and the header checksum behind it, so that a stamp fits one sealed frame only.
fn checksum(stamp: &[u8], sealed: [u8; 4]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&stamp[..AT_CHECKSUM]);
    crc.update(&stamp[AT_FIELDS..STAMP_BYTES]);
    crc.update(&sealed);
    crc.finalize()
}

fn write(stamp: &mut [u8], magic: [u8; 4], fields: [u64; FIELDS], sealed: [u8; 4]) {
    put(stamp, AT_MAGIC, &magic);
    for (i, value) in fields.iter().enumerate() {
        put(stamp, AT_FIELDS + 8 * i, &value.to_le_bytes());
    }
    let crc = checksum(stamp, sealed);
    put(stamp, AT_CHECKSUM, &crc.to_le_bytes());
}

fn parse(frame: &[u8], magic: [u8; 4]) -> Result<[u64; FIELDS], FrameError> {
    if frame.len() < crate::BODY_OFFSET {
        return Err(FrameError::Length { expected: crate::BODY_OFFSET, found: frame.len() });
    }
    if field::<4>(frame, AT_MAGIC) != magic {
        return Err(FrameError::StampMagic);
    }
    if checksum(&frame[..STAMP_BYTES], stored_checksum(frame)) != u32_at(frame, AT_CHECKSUM) {
        return Err(FrameError::StampChecksum);
    }
    Ok(core::array::from_fn(|i| u64_at(frame, AT_FIELDS + 8 * i)))
}

/// A stamp's range: not empty, not from index zero. Whether it lies in the frame is [`crate::Header::check_range`]'s to
/// say.
fn range(from: u64, to: u64) -> Result<IndexRange, FrameError> {
    if from == 0 || from > to {
        return Err(FrameError::Range);
    }
    Ok(IndexRange { from: LogIndex(from), to: LogIndex(to) })
}

impl DiskStamp {
    /// Writes the stamp before the sealed part of `frame`, over whatever stamp stood there. Its checksum also covers
    /// the header checksum behind it, so that a stamp belongs to one sealed frame only.
    ///
    /// # Panics
    /// If `frame` is shorter than stamp and header: a bug of the caller.
    pub fn write(&self, frame: &mut [u8]) {
        assert!(frame.len() >= crate::BODY_OFFSET, "a stamp goes before a sealed frame");
        let sealed = stored_checksum(frame);
        let fields = [self.position, self.generation, self.boot.0, self.range.from.0, self.range.to.0, self.watermark, self.node.0];
        write(frame, DISK_MAGIC, fields, sealed);
    }

    /// Reads the stamp of a frame as it lies on disk. Checks the stamp alone: the header needs [`crate::parse_header`]
    /// or [`crate::verify`].
    ///
    /// # Errors
    /// [`FrameError::Length`], [`FrameError::StampMagic`], [`FrameError::StampChecksum`] or [`FrameError::Range`].
    pub fn parse(frame: &[u8]) -> Result<DiskStamp, FrameError> {
        let [position, generation, boot, from, to, watermark, node] = parse(frame, DISK_MAGIC)?;
        Ok(DiskStamp { position, generation, boot: Incarnation(boot), range: range(from, to)?, watermark, node: NodeId(node) })
    }
}

impl WireStamp {
    /// Writes the stamp that goes before the sealed part of `frame` into `out`; `frame` itself stays as it is.
    ///
    /// # Panics
    /// If `frame` is shorter than stamp and header: a bug of the caller.
    pub fn write(&self, out: &mut [u8; STAMP_BYTES], frame: &[u8]) {
        assert!(frame.len() >= crate::BODY_OFFSET, "a stamp goes before a sealed frame");
        let fields = [self.session.0, self.sequence, self.leader_term.0, self.commit.0, self.range.from.0, self.range.to.0, self.round];
        write(out, WIRE_MAGIC, fields, stored_checksum(frame));
    }

    /// Reads the stamp of a frame as received: wire stamp, then sealed part. Checks the stamp alone.
    ///
    /// # Errors
    /// As [`DiskStamp::parse`].
    pub fn parse(frame: &[u8]) -> Result<WireStamp, FrameError> {
        let [session, sequence, leader_term, commit, from, to, round] = parse(frame, WIRE_MAGIC)?;
        Ok(WireStamp {
            session: SessionId(session),
            sequence,
            leader_term: Term(leader_term),
            commit: LogIndex(commit),
            range: range(from, to)?,
            round,
        })
    }
}

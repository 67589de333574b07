//! The one frame format, in memory, on the wire and on disk. SIGNATURES ONLY: bodies being written.
//!
//! ```text
//! 0    64      192                     192+body_bytes   frame_bytes (multiple of 4096)
//! | stamp | header | entries ............ | zero padding |
//!         |<------ sealed: never changes ------------->|
//! ```
#![allow(missing_docs, unused_variables, clippy::todo)]
use kontiki_core::{ClusterId, FrameMeta, GroupId, IndexRange, LogIndex, SessionId, Term, Incarnation};

pub const STAMP_BYTES: usize = 64;
pub const HEADER_BYTES: usize = 128;
/// Where the entries start.
pub const BODY_OFFSET: usize = STAMP_BYTES + HEADER_BYTES;
/// Frames are padded to this.
pub const BLOCK_BYTES: usize = 4096;
/// Largest frame, padding included: a constant of the format; configuration may only set less.
pub const MAX_FRAME_BYTES: usize = 2 << 20;
/// Bytes before each entry's payload (length), and of a session prefix where the flag is set.
pub const ENTRY_LENGTH_BYTES: usize = 4;
pub const SESSION_PREFIX_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind { /// proposals
    Entries = 1, /// the leader's no-op at the start of its term: one empty entry
    Noop = 2, /// a configuration, alone in its frame
    Configuration = 3 }

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// each entry carries client session and sequence (16 bytes) before its payload
    pub sessions: bool,
    pub cluster: ClusterId,
    pub group: GroupId,
    pub meta: FrameMeta,
    /// the leader's clock at sealing, ns since the Unix epoch: for people and state machines, never for decisions of ours
    pub proposed_ns: u64,
    pub body_bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskStamp { /// absolute position of this frame in the node's log, bytes
    pub position: u64, /// how often the segment file was recycled
    pub generation: u64, pub boot: Incarnation, pub range: IndexRange,
    /// position up to which this node's log was known durable when the frame was stamped
    pub watermark: u64 }

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireStamp { pub session: SessionId, pub sequence: u64, pub leader_term: Term, pub commit: LogIndex, pub range: IndexRange }

/// Typed: what was wrong, where. (Magic, Version, Kind, Length{..}, HeaderChecksum, BodyChecksum, StampChecksum, Range, Entry...)
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError { #[error("not a frame")] Magic }

/// Size of a frame with such a body, padded.
pub const fn frame_bytes(body_bytes: usize) -> usize { (BODY_OFFSET + body_bytes).div_ceil(BLOCK_BYTES) * BLOCK_BYTES }
/// Seals `frame` (exactly frame_bytes long): entries already stand at BODY_OFFSET; writes header and both checksums, zeroes the padding. The stamp area is left alone.
pub fn seal(frame: &mut [u8], header: &Header) { todo!() }
/// Writes one empty entry (the no-op's body) and seals.
pub fn seal_noop(frame: &mut [u8], cluster: ClusterId, group: GroupId, meta: FrameMeta, proposed_ns: u64) { todo!() }
/// Checks the header alone (magic, version, kind, reserved bits, lengths, count/first overflow, header checksum). `bytes`: the start of a frame, at least BODY_OFFSET.
pub fn parse_header(bytes: &[u8]) -> Result<Header, FrameError> { todo!() }
/// Checks everything: header, length of `frame` against it, body checksum, and that the entries tile the body exactly.
pub fn verify(frame: &[u8]) -> Result<Header, FrameError> { todo!() }
impl DiskStamp {
    /// Writes the stamp into the first 64 bytes; its checksum also covers the header checksum behind it, so that a stamp belongs to one sealed frame only.
    pub fn write(&self, frame: &mut [u8]) { todo!() }
    pub fn parse(frame: &[u8]) -> Result<DiskStamp, FrameError> { todo!() }
}
impl WireStamp {
    /// Writes the stamp that goes before the sealed part of `frame` into `out`.
    pub fn write(&self, out: &mut [u8; STAMP_BYTES], frame: &[u8]) { todo!() }
    /// `frame` as received: wire stamp, then sealed part.
    pub fn parse(frame: &[u8]) -> Result<WireStamp, FrameError> { todo!() }
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> { pub index: LogIndex, pub term: Term, pub session: Option<(u64, u64)>, pub payload: &'a [u8] }
/// The entries of a verified frame that lie in `range`, in order. Allocation-free.
pub fn entries<'a>(frame: &'a [u8], header: &Header, range: IndexRange) -> impl Iterator<Item = Entry<'a>> + use<'a> { core::iter::empty() }

//! The one frame format, in memory, on the wire and on disk.
//!
//! ```text
//! 0       64       192                    192 + body_bytes   frame bytes (a multiple of 4096)
//! | stamp | header | entries ............ | zero padding ... |
//!         |<------- sealed: never changes, same on every replica ------->|
//! ```
//!
//! A leader [`seal`]s a frame once. Each holder then puts its own 64-byte stamp before the sealed part:
//! a [`WireStamp`] while the frame travels, a [`DiskStamp`] when it is stored. The exact offsets are in
//! `docs/format.md` and pinned by `tests/golden.rs`.
//!
//! Everything that reads takes its bytes for hostile: lengths are checked before they are used, and no
//! input panics. What writes asserts, since only our own code calls it.
//!
//! ```
//! use kontiki_core::{ClusterId, FrameMeta, GroupId, LogIndex, Subterm, Term};
//! use kontiki_frame::{BODY_OFFSET, Header, Kind, entries, frame_bytes, put_entry, seal, verify};
//!
//! let mut frame = vec![0; frame_bytes(4 + 5)];
//! let end = put_entry(&mut frame, BODY_OFFSET, None, b"hello").expect("room");
//! let header = Header {
//!     kind: Kind::Entries,
//!     sessions: false,
//!     cluster: ClusterId(7),
//!     group: GroupId(0),
//!     meta: FrameMeta { term: Term(2), first: LogIndex(10), count: 1, prev_term: Term(1) },
//!     subterm: Subterm(0),
//!     cluster_ns: 0,
//!     proposed_ns: 0,
//!     body_bytes: (end - BODY_OFFSET) as u32,
//! };
//! seal(&mut frame, &header);
//! assert_eq!(verify(&frame), Ok(header));
//! let entry = entries(&frame, &header, header.meta.range()).next().expect("one");
//! assert_eq!((entry.index, entry.payload), (LogIndex(10), &b"hello"[..]));
//! ```
#![forbid(unsafe_code)]

mod entries;
mod error;
pub mod fields;
mod header;
mod stamp;

pub use entries::{Entries, Entry, entries, put_entry};
pub use error::FrameError;
pub use header::{Header, Kind, parse_header, seal, seal_noop, verify, was_cut_short};
pub use stamp::{DiskStamp, WireStamp};

/// Bytes of a stamp, at the very start of a frame.
pub const STAMP_BYTES: usize = 64;
/// Bytes of the sealed header, behind the stamp.
pub const HEADER_BYTES: usize = 128;
/// Where the entries start.
pub const BODY_OFFSET: usize = STAMP_BYTES + HEADER_BYTES;
/// Frames are padded to this, in bytes.
pub const BLOCK_BYTES: usize = 4096;
/// What a disk writes whole or not at all, at least, in bytes.
pub const SECTOR_BYTES: usize = 512;
/// Largest frame, padding included: a constant of the format; configuration may only set less.
pub const MAX_FRAME_BYTES: usize = 2 << 20;
/// Largest body, in bytes.
pub const MAX_BODY_BYTES: usize = MAX_FRAME_BYTES - BODY_OFFSET;
/// Bytes before each entry: its length.
pub const ENTRY_LENGTH_BYTES: usize = 4;
/// Bytes of the session prefix, where the header's flag is set.
pub const SESSION_PREFIX_BYTES: usize = 16;
/// Version of the sealed header that this code writes, and the newest that it reads.
pub const VERSION: u16 = 1;

const _: () = assert!(BODY_OFFSET < BLOCK_BYTES && MAX_FRAME_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(MAX_FRAME_BYTES <= u32::MAX as usize);

/// Size of a frame with such a body, padded, in bytes. `body_bytes` is at most [`MAX_BODY_BYTES`].
pub const fn frame_bytes(body_bytes: usize) -> usize {
    (BODY_OFFSET + body_bytes).div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

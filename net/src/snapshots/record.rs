//! What is said on a snapshot's connection: records of 96 bytes; behind one that announces a chunk, the chunk.
//!
//! ```text
//! 0 magic u32 | 4 version u8 | 5 kind u8 | 6 code u16 | 8 length u32 | 12 crc32 u32 | 16 session u64 | 24 sequence u64
//! 32 source u64 | 40 index u64 | 48 term u64 | 56 digest u128 | 72 offset u64 | 80 held u64 | 88 count u32 | 92 zero u32
//! ```
//!
//! The length is that of the chunk behind the record, which the checksum does not cover: a chunk has its own. What a
//! kind does not use is zero.

use kontiki_core::SessionId;
use kontiki_frame::fields::checksum_around;

use crate::limits::{MAX_WANT_CHUNKS, PROTOCOL_VERSION, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use crate::snapshots::offer::{SnapshotId, is_length};
use crate::wire::{Reader, Writer};

const MAGIC: u32 = u32::from_le_bytes(*b"KTKs");
const VERSION: u8 = PROTOCOL_VERSION as u8;
const CRC_AT: usize = 12;
const CHUNK: u64 = SNAPSHOT_CHUNK_BYTES as u64;

/// Which part of a snapshot its receiver wants next: see [`Net::want_snapshot`](crate::Net::want_snapshot).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotWant {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// Where it begins in the file, in bytes: a multiple of [`SNAPSHOT_CHUNK_BYTES`].
    pub offset: u64,
    /// How many chunks: 1 to [`MAX_WANT_CHUNKS`].
    pub chunks: u32,
    /// Up to where the receiver holds the file durably, in bytes: from there it goes on after a failure of any kind.
    pub held: u64,
}

/// Why a source does not send what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRefusal {
    /// It has no such snapshot, or not any more.
    #[error("the node has no such snapshot (any more)")]
    Gone,
    /// It has too much else to do.
    #[error("the node sends to as many as it can: try again later")]
    Busy,
    /// Its file could not be read.
    #[error("the node cannot read its snapshot")]
    Unreadable,
    /// There is none, and its machine makes none.
    #[error("the node has no snapshot to give: its machine is durable by itself, or none was made yet")]
    None,
    /// One was asked for, and could not be made.
    #[error("the node could not make a snapshot: its messages say why")]
    NotMade,
    /// A reason that this version does not know.
    #[error("refused for reason {code}, unknown to this version")]
    Other {
        /// The code on the wire.
        code: u16,
    },
}

impl SnapshotRefusal {
    fn to_wire(self) -> u16 {
        match self {
            Self::Gone => 1,
            Self::Busy => 2,
            Self::Unreadable => 3,
            Self::None => 4,
            Self::NotMade => 5,
            Self::Other { code } => code,
        }
    }

    fn from_wire(code: u16) -> Self {
        match code {
            1 => Self::Gone,
            2 => Self::Busy,
            3 => Self::Unreadable,
            4 => Self::None,
            5 => Self::NotMade,
            code => Self::Other { code },
        }
    }
}

/// What a record says. A receiver, be it a node or a program, sends `Which` and `Want`; a source the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotSays {
    /// A program asks which snapshot there is, as nobody offers it one.
    Which {
        /// Whether one is to be made first, of what the node has applied by now.
        now: bool,
    },
    /// The answer to that.
    This {
        /// Which it is.
        id: SnapshotId,
        /// Length of its file, in bytes.
        bytes: u64,
    },
    /// The receiver wants this.
    Want(SnapshotWant),
    /// A chunk follows, of [`SNAPSHOT_CHUNK_BYTES`].
    Chunk {
        /// Of which snapshot.
        id: SnapshotId,
        /// Where it stands in the file, in bytes.
        offset: u64,
    },
    /// The source sends nothing more over this connection.
    Refused(SnapshotRefusal),
}

/// One record.
///
/// ```
/// use kontiki_core::{LogIndex, NodeId, SessionId, Term};
/// use kontiki_net::limits::SNAPSHOT_RECORD_BYTES;
/// use kontiki_net::{SnapshotId, SnapshotRecord, SnapshotSays, SnapshotWant, SnapshotWireError};
///
/// let id = SnapshotId { source: NodeId(2), index: LogIndex(1000), term: Term(3), digest: 0x1234 };
/// let says = SnapshotSays::Want(SnapshotWant { id, offset: 0, chunks: 4, held: 0 });
/// let record = SnapshotRecord { session: SessionId(8), sequence: 1, says };
/// let mut bytes = [0; SNAPSHOT_RECORD_BYTES];
/// record.encode(&mut bytes);
/// assert_eq!(SnapshotRecord::decode(&bytes), Ok(record));
/// bytes[40] ^= 1;
/// assert_eq!(SnapshotRecord::decode(&bytes), Err(SnapshotWireError::Checksum));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The session that the connection belongs to.
    pub session: SessionId,
    /// Counts the records of one direction of one connection, from 1.
    pub sequence: u64,
    /// What it says.
    pub says: SnapshotSays,
}

/// Why bytes are not such a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotWireError {
    /// It does not begin like one.
    #[error("not a snapshot's record")]
    Magic,
    /// Another version of the protocol.
    #[error("snapshot's record of version {theirs}, ours is {VERSION}")]
    Version {
        /// The sender's version.
        theirs: u8,
    },
    /// A kind that this version does not know.
    #[error("snapshot's record of unknown kind {kind}")]
    Kind {
        /// The kind.
        kind: u8,
    },
    /// Damaged on the way.
    #[error("snapshot's record damaged (checksum)")]
    Checksum,
    /// A field holds what no sender writes.
    #[error("snapshot's record with a field out of range")]
    Field,
    /// What it says is not its sender's to say.
    #[error("snapshot's record of kind {kind} from the wrong side, or where it makes no sense")]
    Order {
        /// The kind.
        kind: u8,
    },
    /// A chunk that was not asked for, or not next.
    #[error("a chunk that was not asked for, or not next")]
    NotWanted,
}

impl SnapshotSays {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            SnapshotSays::Which { .. } => 1,
            SnapshotSays::This { .. } => 2,
            SnapshotSays::Want(_) => 3,
            SnapshotSays::Chunk { .. } => 4,
            SnapshotSays::Refused(_) => 5,
        }
    }
}

impl SnapshotRecord {
    /// Writes the record. What nobody can mean is written all the same; no receiver takes it.
    pub fn encode(&self, out: &mut [u8; SNAPSHOT_RECORD_BYTES]) {
        let none = SnapshotId::default();
        let (code, length, id, offset, held, count) = match self.says {
            SnapshotSays::Which { now } => (0, 0, none, 0, 0, now.into()),
            SnapshotSays::This { id, bytes } => (0, 0, id, bytes, 0, 0),
            SnapshotSays::Want(want) => (0, 0, want.id, want.offset, want.held, want.chunks),
            SnapshotSays::Chunk { id, offset } => (0, SNAPSHOT_CHUNK_BYTES as u32, id, offset, 0, 0),
            SnapshotSays::Refused(refusal) => (refusal.to_wire(), 0, none, 0, 0, 0),
        };
        let mut w = Writer::new(out);
        w.u32(MAGIC).u8(VERSION).u8(self.says.kind()).u16(code).u32(length).u32(0).u64(self.session.0).u64(self.sequence);
        id.encode(&mut w);
        w.u64(offset).u64(held).u32(count).u32(0);
        assert_eq!(w.len(), SNAPSHOT_RECORD_BYTES, "the layout is what it says");
        Writer::seal(out, CRC_AT);
    }

    /// Reads a record. Whether it is the next one, and its sender's to say, is for the caller to check.
    ///
    /// # Errors
    /// What is wrong with it. [`SnapshotWireError::Order`] and [`SnapshotWireError::NotWanted`] are not among it.
    pub fn decode(bytes: &[u8; SNAPSHOT_RECORD_BYTES]) -> Result<SnapshotRecord, SnapshotWireError> {
        let field = SnapshotWireError::Field;
        let mut r = Reader(bytes);
        if r.u32() != Some(MAGIC) {
            return Err(SnapshotWireError::Magic);
        }
        let theirs = r.u8().ok_or(field)?;
        if theirs != VERSION {
            return Err(SnapshotWireError::Version { theirs });
        }
        let kind = r.u8().ok_or(field)?;
        let code = r.u16().ok_or(field)?;
        let length = r.u32().ok_or(field)?;
        if r.u32().ok_or(field)? != checksum_around(bytes, CRC_AT) {
            return Err(SnapshotWireError::Checksum);
        }
        let (session, sequence) = (SessionId(r.u64().ok_or(field)?), r.u64().ok_or(field)?);
        let id = SnapshotId::decode(&mut r).ok_or(field)?;
        let (offset, held) = (r.u64().ok_or(field)?, r.u64().ok_or(field)?);
        let (count, zero) = (r.u32().ok_or(field)?, r.u32().ok_or(field)?);
        let says = match kind {
            1 => SnapshotSays::Which { now: count == 1 },
            2 => SnapshotSays::This { id, bytes: offset },
            3 => SnapshotSays::Want(SnapshotWant { id, offset, chunks: count, held }),
            4 => SnapshotSays::Chunk { id, offset },
            5 => SnapshotSays::Refused(SnapshotRefusal::from_wire(code)),
            kind => return Err(SnapshotWireError::Kind { kind }),
        };
        let record = SnapshotRecord { session, sequence, says };
        let payload = if kind == 4 { SNAPSHOT_CHUNK_BYTES as u32 } else { 0 };
        let uses = |used: bool, value: u64| used || value == 0;
        let sound = says.is_sound()
            && length == payload
            && zero == 0
            && uses(kind == 5, code.into())
            && uses(kind == 3, held)
            && uses(kind == 3 || kind == 1 && count == 1, count.into())
            && uses(matches!(kind, 2..=4), offset)
            && (matches!(kind, 2..=4) || id == SnapshotId::default());
        if sound { Ok(record) } else { Err(field) }
    }

    /// What the next record of a direction says: of this session, and with the next sequence number.
    ///
    /// # Errors
    /// As [`SnapshotRecord::decode`]; [`SnapshotWireError::Field`] also if it is not the next one.
    pub(crate) fn decode_next(
        bytes: &[u8; SNAPSHOT_RECORD_BYTES],
        session: SessionId,
        sequence: u64,
    ) -> Result<SnapshotSays, SnapshotWireError> {
        let record = SnapshotRecord::decode(bytes)?;
        if (record.session, record.sequence) == (session, sequence) { Ok(record.says) } else { Err(SnapshotWireError::Field) }
    }
}

impl SnapshotSays {
    /// Whether it can be meant: of something, at a chunk's place, and within the longest of files.
    fn is_sound(&self) -> bool {
        let exists = |id: &SnapshotId| id.source.0 > 0 && id.index.0 > 0 && id.term.0 > 0;
        match self {
            SnapshotSays::Which { .. } => true,
            SnapshotSays::This { id, bytes } => exists(id) && is_length(*bytes),
            SnapshotSays::Want(want) => {
                let chunks = u64::from(want.chunks);
                exists(&want.id)
                    && want.offset.is_multiple_of(CHUNK)
                    && (1..=u64::from(MAX_WANT_CHUNKS)).contains(&chunks)
                    && want.offset.checked_add(chunks * CHUNK).is_some_and(is_length)
                    && (want.held == 0 || is_length(want.held))
            }
            SnapshotSays::Chunk { id, offset } => {
                exists(id) && offset.is_multiple_of(CHUNK) && offset.checked_add(CHUNK).is_some_and(is_length)
            }
            SnapshotSays::Refused(refusal) => refusal.to_wire() > 0,
        }
    }
}

impl SnapshotWant {
    /// Whether it can be sent.
    pub(crate) fn is_sound(&self) -> bool {
        SnapshotSays::Want(*self).is_sound()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kontiki_core::{LogIndex, NodeId, Term};
    use proptest::prelude::*;

    use super::*;
    use crate::limits::MAX_SNAPSHOT_BYTES;

    const ID: SnapshotId = SnapshotId { source: NodeId(3), index: LogIndex(77), term: Term(5), digest: u128::MAX / 3 };

    fn samples() -> [SnapshotSays; 7] {
        [
            SnapshotSays::Which { now: false },
            SnapshotSays::Which { now: true },
            SnapshotSays::This { id: ID, bytes: 9 * CHUNK },
            SnapshotSays::Want(SnapshotWant { id: ID, offset: 3 * CHUNK, chunks: MAX_WANT_CHUNKS, held: 2 * CHUNK }),
            SnapshotSays::Want(SnapshotWant { id: ID, offset: 0, chunks: 1, held: 0 }),
            SnapshotSays::Chunk { id: ID, offset: 4 * CHUNK },
            SnapshotSays::Refused(SnapshotRefusal::Other { code: 9 }),
        ]
    }

    fn encoded(says: SnapshotSays) -> [u8; SNAPSHOT_RECORD_BYTES] {
        let mut bytes = [0xee; SNAPSHOT_RECORD_BYTES];
        SnapshotRecord { session: SessionId(8), sequence: 9, says }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn comes_back_as_sent_and_any_flipped_bit_is_seen() {
        for says in samples() {
            let mut bytes = encoded(says);
            assert_eq!(SnapshotRecord::decode(&bytes), Ok(SnapshotRecord { session: SessionId(8), sequence: 9, says }));
            for bit in 0..SNAPSHOT_RECORD_BYTES * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(SnapshotRecord::decode(&bytes).is_err(), "{says:?}, bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn every_refusal_comes_back() {
        for code in 1..10 {
            let refusal = SnapshotRefusal::from_wire(code);
            assert_eq!(refusal.to_wire(), code);
        }
    }

    #[test]
    fn what_nobody_can_mean_is_refused() {
        let want = SnapshotWant { id: ID, offset: 0, chunks: 1, held: 0 };
        for bad in [
            SnapshotSays::Want(SnapshotWant { offset: 1, ..want }),
            SnapshotSays::Want(SnapshotWant { offset: u64::MAX - CHUNK + 1, ..want }),
            SnapshotSays::Want(SnapshotWant { offset: MAX_SNAPSHOT_BYTES, ..want }),
            SnapshotSays::Want(SnapshotWant { chunks: 0, ..want }),
            SnapshotSays::Want(SnapshotWant { chunks: MAX_WANT_CHUNKS + 1, ..want }),
            SnapshotSays::Want(SnapshotWant { chunks: u32::MAX, ..want }),
            SnapshotSays::Want(SnapshotWant { held: 7, ..want }),
            SnapshotSays::Want(SnapshotWant { id: SnapshotId { source: NodeId(0), ..ID }, ..want }),
            SnapshotSays::This { id: ID, bytes: 0 },
            SnapshotSays::This { id: SnapshotId::default(), bytes: CHUNK },
            SnapshotSays::Chunk { id: ID, offset: MAX_SNAPSHOT_BYTES },
            SnapshotSays::Refused(SnapshotRefusal::Other { code: 0 }),
        ] {
            assert_eq!(SnapshotRecord::decode(&encoded(bad)), Err(SnapshotWireError::Field), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn sealed_nonsense_never_panics(bytes in prop::collection::vec(any::<u8>(), SNAPSHOT_RECORD_BYTES), kind in 0..8u8) {
            let mut bytes: [u8; SNAPSHOT_RECORD_BYTES] = bytes.try_into().unwrap();
            Writer::new(&mut bytes).u32(MAGIC).u8(VERSION).u8(kind);
            Writer::seal(&mut bytes, CRC_AT);
            if let Ok(record) = SnapshotRecord::decode(&bytes) {
                let mut again = [0; SNAPSHOT_RECORD_BYTES];
                record.encode(&mut again);
                prop_assert_eq!(bytes, again);
            }
        }
    }
}

//! A chunk: 64 KiB of a snapshot, with a checksum under which the snapshot's identity and the chunk's number lie.

use kontiki_frame::fields::{all_zero, checksum_around, field, put, u16_at, u32_at, u64_at, u128_at};

use crate::flaw::Flaw;
use crate::limits::{CHUNK_BYTES, CHUNK_HEADER_BYTES, DATA_BYTES};
use crate::{Digest, VERSION};

const MAGIC: [u8; 4] = *b"KtkN";
const AT_CHECKSUM: usize = 4;
const AT_VERSION: usize = 8;
const AT_PART: usize = 10;
const AT_BYTES: usize = 12;
const AT_NUMBER: usize = 16;
const AT_IDENTITY: usize = 24;
const AT_RESERVED: usize = 40;

/// What a chunk belongs to: the sections of a file, in their order, between its head and its foot.
///
/// Chunks of a section follow each other; all but its last are full. A section that is empty has no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The head: the first chunk.
    Head = 1,
    /// The configuration.
    Configuration = 2,
    /// The clients' sessions.
    Sessions = 3,
    /// The machine's own stream.
    Machine = 4,
    /// The foot: the last chunk.
    Foot = 5,
}

impl Part {
    fn of(number: u8) -> Option<Part> {
        Some(match number {
            1 => Part::Head,
            2 => Part::Configuration,
            3 => Part::Sessions,
            4 => Part::Machine,
            5 => Part::Foot,
            _ => return None,
        })
    }
}

/// An intact chunk: one of the pieces of [`CHUNK_BYTES`] that a snapshot's file consists of.
///
/// ```
/// use kontiki_snapshot::limits::CHUNK_BYTES;
/// use kontiki_snapshot::{Chunk, Flaw, Head, Part, encode};
///
/// let mut file = encode(Head { full: true, ..Head::default() }, &[(Part::Machine, b"state")]);
/// let second = &mut file[CHUNK_BYTES..2 * CHUNK_BYTES];
/// let chunk = Chunk::parse(second).unwrap();
/// assert_eq!((chunk.part, chunk.number, chunk.data), (Part::Machine, 1, &b"state"[..]));
/// second[100] ^= 1;
/// assert_eq!(Chunk::parse(second), Err(Flaw::Damaged));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// What it belongs to.
    pub part: Part,
    /// Its place in the file, in chunks from 0.
    pub number: u64,
    /// Of which snapshot: the digest of its head.
    pub identity: Digest,
    /// What it holds: 1 to [`DATA_BYTES`] bytes.
    pub data: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Reads a chunk of exactly [`CHUNK_BYTES`]. Whether it is the right one is for the caller to say: see
    /// [`Check`](crate::Check).
    ///
    /// # Errors
    /// What is wrong with it: [`Flaw::CutOff`] for any other length, [`Flaw::Damaged`] if its checksum does not fit,
    /// [`Flaw::NewerFormat`], or [`Flaw::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Chunk<'a>, Flaw> {
        if bytes.len() != CHUNK_BYTES {
            return Err(Flaw::CutOff);
        }
        if field::<4>(bytes, 0) != MAGIC || checksum_around(bytes, AT_CHECKSUM) != u32_at(bytes, AT_CHECKSUM) {
            return Err(Flaw::Damaged);
        }
        let version = u16_at(bytes, AT_VERSION);
        if version > VERSION {
            return Err(Flaw::NewerFormat { found: version });
        }
        let length = u32_at(bytes, AT_BYTES) as usize;
        let (header, rest) = bytes.split_at(CHUNK_HEADER_BYTES);
        let (data, padding) = rest.split_at(length.min(DATA_BYTES));
        let (Some(part), true) = (Part::of(bytes[AT_PART]), version == VERSION && bytes[AT_PART + 1] == 0) else {
            return Err(Flaw::Malformed);
        };
        if length == 0 || length > DATA_BYTES || !all_zero(&header[AT_RESERVED..]) || !all_zero(padding) {
            return Err(Flaw::Malformed);
        }
        Ok(Chunk { part, number: u64_at(bytes, AT_NUMBER), identity: Digest(u128_at(bytes, AT_IDENTITY)), data })
    }
}

/// Makes a chunk of the `length` bytes of data that stand in it already.
pub(crate) fn seal(chunk: &mut [u8], part: Part, number: u64, identity: Digest, length: usize) {
    assert!(chunk.len() == CHUNK_BYTES && (1..=DATA_BYTES).contains(&length), "{length} bytes in a chunk of {}", chunk.len());
    chunk[..CHUNK_HEADER_BYTES].fill(0);
    chunk[CHUNK_HEADER_BYTES + length..].fill(0);
    put(chunk, 0, &MAGIC);
    put(chunk, AT_VERSION, &VERSION.to_le_bytes());
    chunk[AT_PART] = part as u8;
    put(chunk, AT_BYTES, &(length as u32).to_le_bytes());
    put(chunk, AT_NUMBER, &number.to_le_bytes());
    put(chunk, AT_IDENTITY, &identity.0.to_le_bytes());
    let crc = checksum_around(chunk, AT_CHECKSUM);
    put(chunk, AT_CHECKSUM, &crc.to_le_bytes());
}

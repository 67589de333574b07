//! The sealed part: header, checksums, padding.

use kontiki_core::{ClusterId, FrameMeta, GroupId, IndexRange, LogIndex, Subterm, Term};

use crate::fields::{all_zero, checksum_around, field, put, u16_at, u32_at, u64_at, u128_at};
use crate::{
    BODY_OFFSET, ENTRY_LENGTH_BYTES, FrameError, HEADER_BYTES, MAX_BODY_BYTES, SECTOR_BYTES, STAMP_BYTES, VERSION, entries, frame_bytes,
};

const MAGIC: [u8; 4] = *b"KtkF";

// Offsets within the header. Magic, checksum and version stay where they are in every later version, so
// that a newer frame is told from a damaged one.
const AT_MAGIC: usize = 0;
const AT_CHECKSUM: usize = 4;
const AT_VERSION: usize = 8;
const AT_KIND: usize = 10;
const AT_FLAGS: usize = 11;
const AT_BODY_CHECKSUM: usize = 12;
const AT_BODY_BYTES: usize = 16;
const AT_COUNT: usize = 20;
const AT_TERM: usize = 24;
const AT_FIRST: usize = 32;
const AT_PREV_TERM: usize = 40;
const AT_PROPOSED_NS: usize = 48;
const AT_GROUP: usize = 56;
const AT_CLUSTER: usize = 64;
const AT_FILLED: usize = 80;
const AT_CLUSTER_NS: usize = 88;
const AT_SUBTERM: usize = 96;
const AT_RESERVED: usize = 100;

const FLAG_SESSIONS: u8 = 1;

const _: () = assert!(AT_RESERVED < HEADER_BYTES);

// Stamp and header stand in one sector: who can read one has the other.
const _: () = assert!(BODY_OFFSET <= SECTOR_BYTES);

/// What a frame holds. One kind a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Proposals.
    Entries = 1,
    /// The leader's no-op at the start of its term (thesis, section 6.4): one empty entry.
    Noop = 2,
    /// A configuration, alone in its frame.
    Configuration = 3,
}

/// The sealed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the entries are.
    pub kind: Kind,
    /// Each entry carries client session and sequence (16 bytes) before its payload.
    pub sessions: bool,
    /// The cluster it was made in.
    pub cluster: ClusterId,
    /// The group it was made in.
    pub group: GroupId,
    /// Term, indexes and number of entries.
    pub meta: FrameMeta,
    /// Subterm of every entry; zero as long as there are no witnesses.
    pub subterm: Subterm,
    /// The cluster's time at sealing, in ns; zero as long as nobody keeps it.
    pub cluster_ns: u64,
    /// The leader's wall clock at sealing, ns since the Unix epoch: for people and state machines, never for decisions
    /// of ours.
    pub proposed_ns: u64,
    /// Bytes of entries behind the header, length prefixes included.
    pub body_bytes: u32,
}

impl Header {
    /// Bytes of the whole frame: stamp, header, entries and padding.
    pub const fn frame_bytes(&self) -> usize {
        frame_bytes(self.body_bytes as usize)
    }

    /// Checks that a stamp's range lies inside this frame.
    ///
    /// # Errors
    /// [`FrameError::Range`].
    pub fn check_range(&self, range: IndexRange) -> Result<(), FrameError> {
        if range.from >= self.meta.first && range.from <= range.to && range.to <= self.meta.last() {
            Ok(())
        } else {
            Err(FrameError::Range)
        }
    }

    /// Checks what a header says against itself, in writing and in reading alike.
    fn check(&self) -> Result<(), FrameError> {
        let FrameMeta { term, first, count, prev_term } = self.meta;
        // The last index stays below the greatest, so that "the next index" always exists.
        let end = first.0.checked_add(u64::from(count));
        if first.0 == 0 || count == 0 || term.0 == 0 || prev_term > term || end.is_none() {
            return Err(FrameError::Meta);
        }
        let body = self.body_bytes as usize;
        let prefix = ENTRY_LENGTH_BYTES + if self.sessions { crate::SESSION_PREFIX_BYTES } else { 0 };
        if body > MAX_BODY_BYTES {
            return Err(FrameError::Length { expected: MAX_BODY_BYTES, found: body });
        }
        if (count as usize).checked_mul(prefix).is_none_or(|least| least > body) {
            return Err(FrameError::Meta);
        }
        match self.kind {
            Kind::Entries => Ok(()),
            Kind::Configuration if count == 1 => Ok(()),
            Kind::Noop if count == 1 && !self.sessions && body == ENTRY_LENGTH_BYTES => Ok(()),
            Kind::Configuration | Kind::Noop => Err(FrameError::Meta),
        }
    }
}

/// The checksum stored in the header of `frame`; what a stamp binds itself to. It covers the body's checksum too.
pub(crate) fn stored_checksum(frame: &[u8]) -> [u8; 4] {
    field(frame, STAMP_BYTES + AT_CHECKSUM)
}

/// The pieces of a frame that are not padding alone, at most 64: whole sectors each.
fn pieces(frame: &[u8], body_bytes: usize) -> impl Iterator<Item = &[u8]> {
    let piece = frame.len().div_ceil(64).next_multiple_of(SECTOR_BYTES);
    frame[..(BODY_OFFSET + body_bytes).next_multiple_of(SECTOR_BYTES)].chunks(piece)
}

/// A bit for each piece: set if each of its sectors begins with something other than zeros, as nearly all do. The first
/// sector counts as such: the stamp, of which this is made before, and the header stand there.
fn filled(frame: &[u8], body_bytes: usize) -> u64 {
    let begins = |sector: &[u8]| sector.first_chunk::<8>() != Some(&[0; 8]);
    let of = |(n, piece): (usize, &[u8])| {
        let from = if n == 0 { SECTOR_BYTES } else { 0 };
        u64::from(piece[from..].chunks_exact(SECTOR_BYTES).all(begins)) << n
    };
    pieces(frame, body_bytes).enumerate().map(of).fold(0, |bits, bit| bits | bit)
}

/// Of a frame whose header is intact and whose body is not: whether a part of it was never written. A sector of zeros
/// stands where the header says that the frame has none. On a medium on which what is lost reads as something else,
/// such a frame was not written to its end, and nobody can have been told that it was.
///
/// `frame` is as long as `header` says.
pub fn was_cut_short(frame: &[u8], header: &Header) -> bool {
    let bits = u64_at(frame, STAMP_BYTES + AT_FILLED);
    let pieces = pieces(frame, header.body_bytes as usize).enumerate();
    pieces.filter(|(n, _)| bits & (1 << n) != 0).any(|(_, piece)| piece.chunks_exact(SECTOR_BYTES).any(all_zero))
}

/// Seals `frame`, which is exactly [`frame_bytes`] long and whose entries stand at [`BODY_OFFSET`]: writes the
/// header with both checksums and zeroes the padding. The stamp's place is left alone.
///
/// # Panics
/// If the header contradicts itself or `frame` has another length: a bug of the caller.
pub fn seal(frame: &mut [u8], header: &Header) {
    assert_eq!(header.check(), Ok(()), "sealing {header:?}");
    assert_eq!(frame.len(), header.frame_bytes(), "a frame is exactly as long as its header says");
    let body_end = BODY_OFFSET + header.body_bytes as usize;
    frame[body_end..].fill(0);
    let body_checksum = crc32fast::hash(&frame[BODY_OFFSET..body_end]);
    let filled = filled(frame, header.body_bytes as usize);

    let out = &mut frame[STAMP_BYTES..BODY_OFFSET];
    out.fill(0);
    put(out, AT_MAGIC, &MAGIC);
    put(out, AT_VERSION, &VERSION.to_le_bytes());
    put(out, AT_KIND, &[header.kind as u8]);
    put(out, AT_FLAGS, &[if header.sessions { FLAG_SESSIONS } else { 0 }]);
    put(out, AT_BODY_CHECKSUM, &body_checksum.to_le_bytes());
    put(out, AT_BODY_BYTES, &header.body_bytes.to_le_bytes());
    put(out, AT_COUNT, &header.meta.count.to_le_bytes());
    put(out, AT_TERM, &header.meta.term.0.to_le_bytes());
    put(out, AT_FIRST, &header.meta.first.0.to_le_bytes());
    put(out, AT_PREV_TERM, &header.meta.prev_term.0.to_le_bytes());
    put(out, AT_PROPOSED_NS, &header.proposed_ns.to_le_bytes());
    put(out, AT_GROUP, &header.group.0.to_le_bytes());
    put(out, AT_CLUSTER, &header.cluster.0.to_le_bytes());
    put(out, AT_FILLED, &filled.to_le_bytes());
    put(out, AT_CLUSTER_NS, &header.cluster_ns.to_le_bytes());
    put(out, AT_SUBTERM, &header.subterm.0.to_le_bytes());
    let crc = checksum_around(out, AT_CHECKSUM);
    put(out, AT_CHECKSUM, &crc.to_le_bytes());
}

/// Writes one empty entry, the no-op's body, and seals. `frame` is one block long and `meta.count` is 1.
///
/// # Panics
/// As [`seal`].
pub fn seal_noop(frame: &mut [u8], cluster: ClusterId, group: GroupId, meta: FrameMeta, proposed_ns: u64) {
    frame[BODY_OFFSET..BODY_OFFSET + ENTRY_LENGTH_BYTES].fill(0);
    let header = Header {
        kind: Kind::Noop,
        sessions: false,
        cluster,
        group,
        meta,
        subterm: Subterm(0),
        cluster_ns: 0,
        proposed_ns,
        body_bytes: ENTRY_LENGTH_BYTES as u32,
    };
    seal(frame, &header);
}

/// Checks the header alone: magic, checksum, version, kind, reserved bits, lengths, terms and indexes.
/// `bytes` is the start of a frame, at least [`BODY_OFFSET`] of it.
///
/// # Errors
/// What is wrong with it; [`FrameError::Length`] if `bytes` is too short to hold a header.
pub fn parse_header(bytes: &[u8]) -> Result<Header, FrameError> {
    let Some(bytes) = bytes.get(STAMP_BYTES..BODY_OFFSET) else {
        return Err(FrameError::Length { expected: BODY_OFFSET, found: bytes.len() });
    };
    if field::<4>(bytes, AT_MAGIC) != MAGIC {
        return Err(FrameError::Magic);
    }
    if checksum_around(bytes, AT_CHECKSUM) != u32_at(bytes, AT_CHECKSUM) {
        return Err(FrameError::HeaderChecksum);
    }
    let version = u16_at(bytes, AT_VERSION);
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    let kind = match bytes[AT_KIND] {
        1 => Kind::Entries,
        2 => Kind::Noop,
        3 => Kind::Configuration,
        found => return Err(FrameError::Kind { found }),
    };
    let flags = bytes[AT_FLAGS];
    if flags & !FLAG_SESSIONS != 0 || bytes[AT_RESERVED..] != [0; HEADER_BYTES - AT_RESERVED] {
        return Err(FrameError::Reserved);
    }
    let header = Header {
        kind,
        sessions: flags & FLAG_SESSIONS != 0,
        cluster: ClusterId(u128_at(bytes, AT_CLUSTER)),
        group: GroupId(u64_at(bytes, AT_GROUP)),
        meta: FrameMeta {
            term: Term(u64_at(bytes, AT_TERM)),
            first: LogIndex(u64_at(bytes, AT_FIRST)),
            count: u32_at(bytes, AT_COUNT),
            prev_term: Term(u64_at(bytes, AT_PREV_TERM)),
        },
        subterm: Subterm(u32_at(bytes, AT_SUBTERM)),
        cluster_ns: u64_at(bytes, AT_CLUSTER_NS),
        proposed_ns: u64_at(bytes, AT_PROPOSED_NS),
        body_bytes: u32_at(bytes, AT_BODY_BYTES),
    };
    header.check()?;
    Ok(header)
}

/// Checks everything: the header, the length of `frame` against it, the body's checksum, that the entries tile
/// the body exactly, and that the padding is zero.
///
/// # Errors
/// What is wrong with it.
pub fn verify(frame: &[u8]) -> Result<Header, FrameError> {
    let header = parse_header(frame)?;
    if frame.len() != header.frame_bytes() {
        return Err(FrameError::Length { expected: header.frame_bytes(), found: frame.len() });
    }
    let (body, padding) = frame[BODY_OFFSET..].split_at(header.body_bytes as usize);
    if crc32fast::hash(body) != u32_at(frame, STAMP_BYTES + AT_BODY_CHECKSUM) {
        return Err(FrameError::BodyChecksum);
    }
    if !all_zero(padding) {
        return Err(FrameError::Padding);
    }
    if filled(frame, body.len()) != u64_at(frame, STAMP_BYTES + AT_FILLED) {
        return Err(FrameError::Filled);
    }
    entries::check_tiling(body, &header)?;
    Ok(header)
}

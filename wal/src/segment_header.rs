//! The first block of a segment file: whose it is, and how it continues the log.

use kontiki_core::{Base, ClusterId, GroupId, Incarnation, LogIndex, NodeId, Subterm, Term};
use kontiki_frame::BLOCK_BYTES;
use kontiki_frame::fields::{all_zero, field, put, u16_at, u32_at, u64_at, u128_at};
use kontiki_io::Name;

use crate::hard_state::{VERSION, check_version};
use crate::layout::{AT_CHECKSUM, AT_VERSION, checksum};
use crate::{WalError, names};

const MAGIC: [u8; 4] = *b"KtkS";

const AT_FLAGS: usize = 10;
const AT_UNUSED: usize = 12;
const AT_NUMBER: usize = 16;
const AT_GENERATION: usize = 24;
const AT_BOOT: usize = 32;
const AT_SEGMENT_BYTES: usize = 40;
const AT_PREV_END: usize = 48;
const AT_PREV_INDEX: usize = 56;
const AT_PREV_TERM: usize = 64;
const AT_NODE: usize = 72;
const AT_GROUP: usize = 80;
const AT_CLUSTER: usize = 88;
const AT_PREV_SUBTERM: usize = 104;
const AT_DIGEST: usize = 108;
const AT_RESERVED: usize = 124;

const FLAG_BASE: u16 = 1;

/// Whose files these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
}

impl Identity {
    /// Checks that what a file says of itself is what we are.
    pub(crate) fn check(&self, found: &Identity, name: Name) -> Result<(), WalError> {
        if found.cluster != self.cluster {
            Err(WalError::WrongCluster { name, found: found.cluster, expected: self.cluster })
        } else if found.node != self.node {
            Err(WalError::WrongNode { name, found: found.node, expected: self.node })
        } else if found.group != self.group {
            Err(WalError::WrongGroup { name })
        } else {
            Ok(())
        }
    }
}

/// What a segment's first block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number: positions `number * segment_bytes` and up are in it.
    pub number: u64,
    /// How often the file was recycled.
    pub generation: u64,
    /// The boot that opened the segment.
    pub boot: Incarnation,
    /// Size of each segment of this log, in bytes.
    pub segment_bytes: u64,
    /// Position where the log ended when this segment was opened: what links it to its predecessor.
    pub prev_end: u64,
    /// What this segment goes on behind: the log's last entry then, or of a *base segment* the snapshot's.
    pub prev: Base,
    /// Of a base segment, with which a new chain begins: the digest of the snapshot that the log behind it goes on from.
    pub digest: Option<u128>,
}

/// What the first block of a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This very segment's.
    Own(SegmentHeader),
    /// Nothing yet, or the header of the file's former life: a prepared segment, of this generation when opened.
    /// `former` is the number that the file had then; zero if it holds zeros.
    Unused { generation: u64, former: u64 },
    /// Neither.
    Damaged,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, identity: &Identity, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "the header fills one block");
        block.fill(0);
        put(block, 0, &MAGIC);
        put(block, AT_VERSION, &VERSION.to_le_bytes());
        let flags = if self.digest.is_some() { FLAG_BASE } else { 0 };
        put(block, AT_FLAGS, &flags.to_le_bytes());
        put(block, AT_NUMBER, &self.number.to_le_bytes());
        put(block, AT_GENERATION, &self.generation.to_le_bytes());
        put(block, AT_BOOT, &self.boot.0.to_le_bytes());
        put(block, AT_SEGMENT_BYTES, &self.segment_bytes.to_le_bytes());
        put(block, AT_PREV_END, &self.prev_end.to_le_bytes());
        put(block, AT_PREV_INDEX, &self.prev.index.0.to_le_bytes());
        put(block, AT_PREV_TERM, &self.prev.term.0.to_le_bytes());
        put(block, AT_PREV_SUBTERM, &self.prev.subterm.0.to_le_bytes());
        put(block, AT_DIGEST, &self.digest.unwrap_or(0).to_le_bytes());
        put(block, AT_NODE, &identity.node.0.to_le_bytes());
        put(block, AT_GROUP, &identity.group.0.to_le_bytes());
        put(block, AT_CLUSTER, &identity.cluster.0.to_le_bytes());
        let crc = checksum(block);
        put(block, AT_CHECKSUM, &crc.to_le_bytes());
    }

    /// Reads a header; `None` if it is not intact.
    pub(crate) fn parse(block: &[u8], name: &Name) -> Result<Option<(SegmentHeader, Identity)>, WalError> {
        if block.len() != BLOCK_BYTES || field::<4>(block, 0) != MAGIC || checksum(block) != u32_at(block, AT_CHECKSUM) {
            return Ok(None);
        }
        let version = u16_at(block, AT_VERSION);
        check_version(version, name.clone())?;
        let (flags, digest) = (u16_at(block, AT_FLAGS), u128_at(block, AT_DIGEST));
        let reserved = block.get(AT_RESERVED..).unwrap_or_default();
        let unused = field::<4>(block, AT_UNUSED) == [0; 4] && all_zero(reserved);
        if version == 0 || flags & !FLAG_BASE != 0 || flags == 0 && digest != 0 || !unused {
            return Ok(None);
        }
        let header = SegmentHeader {
            number: u64_at(block, AT_NUMBER),
            generation: u64_at(block, AT_GENERATION),
            boot: Incarnation(u64_at(block, AT_BOOT)),
            segment_bytes: u64_at(block, AT_SEGMENT_BYTES),
            prev_end: u64_at(block, AT_PREV_END),
            prev: Base {
                index: LogIndex(u64_at(block, AT_PREV_INDEX)),
                term: Term(u64_at(block, AT_PREV_TERM)),
                subterm: Subterm(u32_at(block, AT_PREV_SUBTERM)),
            },
            digest: (flags == FLAG_BASE).then_some(digest),
        };
        let identity = Identity {
            node: NodeId(u64_at(block, AT_NODE)),
            group: GroupId(u64_at(block, AT_GROUP)),
            cluster: ClusterId(u128_at(block, AT_CLUSTER)),
        };
        // Indexes stay below the greatest, so that the next one always exists.
        if header.generation == u64::MAX || header.prev.index.0 == u64::MAX {
            return Ok(None);
        }
        Ok(Some((header, identity)))
    }

    /// What the first block of the file of segment `number` is. `None` stands for a block that could not be read.
    ///
    /// # Errors
    /// Intact headers that stop the node: of a newer format, another node, or another segment size.
    pub(crate) fn find(block: Option<&[u8]>, number: u64, segment_bytes: u64, identity: &Identity) -> Result<Found, WalError> {
        let Some(block) = block else { return Ok(Found::Damaged) };
        if block.len() == BLOCK_BYTES && all_zero(block) {
            return Ok(Found::Unused { generation: 0, former: 0 });
        }
        let name = names::segment(number);
        let Some((header, found)) = SegmentHeader::parse(block, &name)? else { return Ok(Found::Damaged) };
        identity.check(&found, name)?;
        if header.segment_bytes != segment_bytes {
            return Err(WalError::SegmentBytes { found: header.segment_bytes, expected: segment_bytes });
        }
        Ok(if header.number == number {
            Found::Own(header)
        } else {
            Found::Unused { generation: header.generation + 1, former: header.number }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SEGMENT_BYTES: u64 = 1 << 20;

    fn identity() -> Identity {
        Identity { cluster: ClusterId(0xabc), node: NodeId(2), group: GroupId(0) }
    }

    fn header() -> SegmentHeader {
        SegmentHeader {
            number: 5,
            generation: 3,
            boot: Incarnation(4),
            segment_bytes: SEGMENT_BYTES,
            prev_end: 4096,
            prev: Base { index: LogIndex(6), term: Term(7), subterm: Subterm(8) },
            digest: None,
        }
    }

    /// What the block turns out to be with `bytes` at `at` and a right checksum.
    fn changed(at: usize, bytes: &[u8]) -> Result<Found, WalError> {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&identity(), &mut block);
        put(&mut block, at, bytes);
        let crc = checksum(&block);
        put(&mut block, AT_CHECKSUM, &crc.to_le_bytes());
        SegmentHeader::find(Some(&block), 5, SEGMENT_BYTES, &identity())
    }

    #[test]
    fn whose_it_is() {
        assert_eq!(changed(0, b"KtkS"), Ok(Found::Own(header())));
        assert_eq!(changed(AT_FLAGS, &[1]), Ok(Found::Own(SegmentHeader { digest: Some(0), ..header() })), "a chain's first");
        assert_eq!(changed(AT_NUMBER, &[4]), Ok(Found::Unused { generation: 4, former: 4 }), "a recycled file's former life");
        assert!(matches!(changed(AT_VERSION, &[3]), Err(WalError::NewerFormat { found: 3, known: 2, .. })));
        assert!(matches!(changed(AT_VERSION, &[1]), Err(WalError::OlderFormat { found: 1, known: 2, .. })));
        assert!(matches!(changed(AT_NODE, &[3]), Err(WalError::WrongNode { .. })));
        assert!(matches!(changed(AT_SEGMENT_BYTES, &[1]), Err(WalError::SegmentBytes { .. })));
    }

    /// Intact blocks that no version of this file has held.
    #[test]
    fn of_no_version() {
        let changes: [(&str, usize, &[u8]); 8] = [
            ("another file's magic", 0, b"KtkH"),
            ("version zero", AT_VERSION, &[0]),
            ("something reserved", BLOCK_BYTES - 1, &[1]),
            ("something unused", AT_NUMBER - 1, &[1]),
            ("an unknown flag", AT_FLAGS, &[2]),
            ("a digest of no base", AT_DIGEST, &[1]),
            ("the last generation", AT_GENERATION, &[0xff; 8]),
            ("the last index", AT_PREV_INDEX, &[0xff; 8]),
        ];
        for (what, at, bytes) in changes {
            assert_eq!(changed(at, bytes), Ok(Found::Damaged), "{what}");
        }
    }
}

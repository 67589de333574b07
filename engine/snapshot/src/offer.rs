//! What a leader offers to a node that its log cannot serve; and the note of it in a fetch that is under way.

use std::fmt;

use kontiki_core::{Base, LogIndex, NodeId, Subterm, Term};
use kontiki_frame::fields::{all_zero, checksum_around, field, put, u16_at, u32_at, u64_at, u128_at};
use kontiki_mem::BLOCK_BYTES;

use crate::limits::{CHUNK_BYTES, MAX_BYTES};
use crate::{Digest, VERSION};

const MAGIC: [u8; 4] = *b"KtkP";
const AT_CHECKSUM: usize = 4;
const AT_VERSION: usize = 8;

/// A snapshot that can be fetched. A fetch goes on where it stopped for the very same offer only.
///
/// ```
/// use kontiki_core::{Base, LogIndex, NodeId, Term};
/// use kontiki_snapshot::limits::CHUNK_BYTES;
/// use kontiki_snapshot::{Digest, Offer};
///
/// let base = Base { index: LogIndex(9), term: Term(2), ..Base::default() };
/// let offer = Offer { source: NodeId(3), base, digest: Digest(0xab), bytes: 4 * CHUNK_BYTES as u64, ..Offer::default() };
/// assert_eq!(offer.unfit(), None);
/// assert_eq!(Offer { bytes: 100, ..offer }.unfit(), Some("length"), "a file is of whole chunks");
/// assert_eq!(Offer { base: Base::default(), ..offer }.unfit(), Some("entry"));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The node that offers it.
    pub source: NodeId,
    /// The last entry whose effects it holds.
    pub base: Base,
    /// The cluster's lineage; zero until there are configurations.
    pub lineage: u128,
    /// Digest of the whole: see [`Info::digest`](crate::Info::digest).
    pub digest: Digest,
    /// Length of the file, in bytes: whole chunks, two at least.
    pub bytes: u64,
}

impl Offer {
    /// Why there can be no such snapshot, in a word for [`Refused::Unfit`](crate::Refused::Unfit): its `length`, or its
    /// `entry`. `None` if there can.
    pub fn unfit(&self) -> Option<&'static str> {
        let chunk = CHUNK_BYTES as u64;
        if self.bytes < 2 * chunk || self.bytes > MAX_BYTES || !self.bytes.is_multiple_of(chunk) {
            Some("length")
        } else if self.base.index.0 == 0 || self.base.term.0 == 0 {
            Some("entry")
        } else {
            None
        }
    }

    /// Where its last chunk, the foot, lies.
    pub(crate) fn foot_at(&self) -> u64 {
        self.bytes - CHUNK_BYTES as u64
    }

    /// The note of it: one block.
    pub(crate) fn note(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "a note is a block");
        block.fill(0);
        put(block, 0, &MAGIC);
        put(block, AT_VERSION, &VERSION.to_le_bytes());
        put(block, 16, &self.source.0.to_le_bytes());
        put(block, 24, &self.base.index.0.to_le_bytes());
        put(block, 32, &self.base.term.0.to_le_bytes());
        put(block, 40, &self.base.subterm.0.to_le_bytes());
        put(block, 48, &self.lineage.to_le_bytes());
        put(block, 64, &self.digest.0.to_le_bytes());
        put(block, 80, &self.bytes.to_le_bytes());
        let crc = checksum_around(block, AT_CHECKSUM);
        put(block, AT_CHECKSUM, &crc.to_le_bytes());
    }

    /// Reads a note; none if it is not intact.
    pub(crate) fn parse_note(block: &[u8]) -> Option<Offer> {
        let block = block.get(..BLOCK_BYTES)?;
        let intact = field::<4>(block, 0) == MAGIC && checksum_around(block, AT_CHECKSUM) == u32_at(block, AT_CHECKSUM);
        if !intact || u16_at(block, AT_VERSION) != VERSION || !all_zero(&block[88..]) {
            return None;
        }
        let offer = Offer {
            source: NodeId(u64_at(block, 16)),
            base: Base { index: LogIndex(u64_at(block, 24)), term: Term(u64_at(block, 32)), subterm: Subterm(u32_at(block, 40)) },
            lineage: u128_at(block, 48),
            digest: Digest(u128_at(block, 64)),
            bytes: u64_at(block, 80),
        };
        offer.unfit().is_none().then_some(offer)
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot as of {} of node {}, {} bytes, digest {}", self.base, self.source, self.bytes, self.digest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_note_is_read_back() {
        let offer = Offer {
            source: NodeId(3),
            base: Base { index: LogIndex(9), term: Term(2), subterm: Subterm(1) },
            lineage: 7,
            digest: Digest(1 << 100),
            bytes: 3 * CHUNK_BYTES as u64,
        };
        let mut block = vec![7; BLOCK_BYTES];
        offer.note(&mut block);
        assert_eq!(Offer::parse_note(&block), Some(offer));
        block[20] ^= 1;
        assert_eq!(Offer::parse_note(&block), None);
        for bytes in [0, CHUNK_BYTES as u64, 2 * CHUNK_BYTES as u64 + 1, u64::MAX] {
            assert_eq!(Offer { bytes, ..offer }.unfit(), Some("length"), "{bytes}");
        }
    }
}

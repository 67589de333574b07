//! Which snapshot there is: its identity, and what its source tells of it over the control channel.
//!
//! An offer is a list of fields as [`crate::Parameters`] are: what a later version tells besides (the configuration) is
//! passed over.

use kontiki_core::{Base, LogIndex, NodeId, Subterm, Term};

use crate::limits::{MAX_SNAPSHOT_BYTES, SNAPSHOT_CHUNK_BYTES};
use crate::wire::{FIELD_HEADER_BYTES, Reader, Writer, next_field};

/// Names one snapshot: two with the same identity are the same, byte by byte. A fetch that was broken off goes on only
/// with the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SnapshotId {
    /// The node whose file it is.
    pub source: NodeId,
    /// The last entry whose effects it holds.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// Digest of the whole file.
    pub digest: u128,
}

/// What a node offers to one that its log cannot serve.
///
/// ```
/// use kontiki_core::{LogIndex, NodeId, Term};
/// use kontiki_net::limits::SNAPSHOT_CHUNK_BYTES;
/// use kontiki_net::{SnapshotId, SnapshotOffer};
///
/// let id = SnapshotId { source: NodeId(2), index: LogIndex(1000), term: Term(3), digest: 0x1234 };
/// let offer = SnapshotOffer { id, bytes: 7 * SNAPSHOT_CHUNK_BYTES as u64, ..SnapshotOffer::default() };
/// assert_eq!(offer.base().to_string(), "entry 1000 of term 3");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// Which snapshot.
    pub id: SnapshotId,
    /// The subterm of its last entry.
    pub subterm: Subterm,
    /// The lineage of the cluster; zero while there are none.
    pub lineage: u128,
    /// Length of the file, in bytes: a multiple of [`SNAPSHOT_CHUNK_BYTES`].
    pub bytes: u64,
}

const ID: u16 = 1;
const ID_BYTES: usize = 40;
const SUBTERM: u16 = 2;
const LINEAGE: u16 = 3;
const LENGTH: u16 = 4;

impl SnapshotId {
    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.source.0).u64(self.index.0).u64(self.term.0).u128(self.digest);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Option<SnapshotId> {
        Some(SnapshotId { source: NodeId(r.u64()?), index: LogIndex(r.u64()?), term: Term(r.u64()?), digest: r.u128()? })
    }
}

impl SnapshotOffer {
    /// Bytes of the fields as this version writes them.
    pub(crate) const BYTES: usize = 4 * FIELD_HEADER_BYTES + ID_BYTES + 4 + 16 + 8;

    /// What the log behind it presupposes.
    pub fn base(&self) -> Base {
        Base { index: self.id.index, term: self.id.term, subterm: self.subterm }
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u16(ID).u16(ID_BYTES as u16);
        self.id.encode(w);
        w.u16(SUBTERM).u16(4).u32(self.subterm.0);
        w.u16(LINEAGE).u16(16).u128(self.lineage);
        w.u16(LENGTH).u16(8).u64(self.bytes);
    }

    /// Reads all fields. `None` if they do not fill the bytes, one has another length than it must, or what they say
    /// is no snapshot: of no entry, from nobody, or of a length that none has.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Option<SnapshotOffer> {
        let mut offer = SnapshotOffer::default();
        while let Some(field) = next_field(r) {
            let (tag, mut value) = field?;
            match tag {
                ID => {
                    offer.id = SnapshotId::decode(&mut value)?;
                    if !value.0.is_empty() {
                        return None;
                    }
                }
                SUBTERM => offer.subterm = Subterm(value.only_u32()?),
                LINEAGE => offer.lineage = value.only_u128()?,
                LENGTH => offer.bytes = value.only_u64()?,
                _ => {}
            }
        }
        let of_something = offer.id.source.0 > 0 && offer.id.index.0 > 0 && offer.id.term.0 > 0;
        (of_something && is_length(offer.bytes)).then_some(offer)
    }
}

/// Whether a snapshot's file may be so long.
pub(crate) fn is_length(bytes: u64) -> bool {
    bytes > 0 && bytes <= MAX_SNAPSHOT_BYTES && bytes.is_multiple_of(SNAPSHOT_CHUNK_BYTES as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn sample() -> SnapshotOffer {
        let id = SnapshotId { source: NodeId(2), index: LogIndex(1000), term: Term(3), digest: 0x1234 };
        SnapshotOffer { id, subterm: Subterm(4), lineage: 5, bytes: 7 * SNAPSHOT_CHUNK_BYTES as u64 }
    }

    fn encoded(offer: &SnapshotOffer) -> Vec<u8> {
        let mut bytes = vec![0; SnapshotOffer::BYTES];
        let mut w = Writer::new(&mut bytes);
        offer.encode(&mut w);
        assert_eq!(w.len(), SnapshotOffer::BYTES);
        bytes
    }

    #[test]
    fn comes_back_as_sent_and_a_later_versions_fields_are_passed_over() {
        let mut bytes = encoded(&sample());
        assert_eq!(SnapshotOffer::decode(&mut Reader(&bytes)), Some(sample()));
        bytes.extend([99, 0, 3, 0, 1, 2, 3]);
        assert_eq!(SnapshotOffer::decode(&mut Reader(&bytes)), Some(sample()));
    }

    #[test]
    fn what_is_no_snapshot_is_no_offer() {
        let chunk = SNAPSHOT_CHUNK_BYTES as u64;
        for bytes in [0, 1, chunk - 1, chunk + 4096, MAX_SNAPSHOT_BYTES + chunk, u64::MAX] {
            let offer = SnapshotOffer { bytes, ..sample() };
            assert_eq!(SnapshotOffer::decode(&mut Reader(&encoded(&offer))), None, "{bytes} bytes");
        }
        let id = sample().id;
        for id in [SnapshotId { source: NodeId(0), ..id }, SnapshotId { index: LogIndex(0), ..id }, SnapshotId { term: Term(0), ..id }] {
            assert_eq!(SnapshotOffer::decode(&mut Reader(&encoded(&SnapshotOffer { id, ..sample() }))), None, "{id:?}");
        }
        assert_eq!(SnapshotOffer::decode(&mut Reader(&[])), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SnapshotOffer::decode(&mut Reader(&bytes));
        }
    }
}

//! Term, vote and boot number: one checksummed record in two copies.
//!
//! An update writes the first copy durably, then the second, then is answered. So the copies are equal, or the first is
//! one update ahead: an update that a crash tore and nobody was answered. The newer one is taken then: its vote and
//! its *recovering* mark may be needlessly strict, never too lax. If one copy is unreadable the other one is at least
//! as new as the last answered update, and repairs it. Any other pair means that a flushed write was lost: the node
//! stops. (All this holds of what is durable. So the file is flushed before the copies are read at open: what a killed
//! process left in a drive's cache must not be taken for a step that was completed.)

use kontiki_core::{ClusterId, GroupId, Incarnation, NodeId, Term};
use kontiki_frame::BLOCK_BYTES;
use kontiki_frame::fields::{all_zero, field, put, u16_at, u32_at, u64_at, u128_at};
use kontiki_io::Name;

use crate::layout::{AT_CHECKSUM, AT_VERSION, checksum};
use crate::segment_header::Identity;
use crate::{WalError, names};

/// Counts and positions stay far below the end of their range, so that no sum with them overflows.
pub(crate) const MAX_NUMBER: u64 = 1 << 62;

const MAGIC: [u8; 4] = *b"KtkH";
/// Format version of a data directory: of the hard state, of segment headers and of all that hangs on them.
pub(crate) const VERSION: u16 = 2;

const AT_FLAGS: usize = 10;
const AT_SEQUENCE: usize = 16;
const AT_INCARNATION: usize = 24;
const AT_TERM: usize = 32;
const AT_VOTE: usize = 40;
const AT_SEGMENT_BYTES: usize = 48;
const AT_NODE: usize = 56;
const AT_GROUP: usize = 64;
const AT_CLUSTER: usize = 72;
const AT_CLEAN_END: usize = 88;
const AT_OLDEST: usize = 96;
const AT_NEWEST: usize = 104;
const AT_NEWEST_GENERATION: usize = 112;
const AT_WATERMARK: usize = 120;
const AT_BOOT_ID: usize = 128;
const AT_PLACE: usize = 144;
const AT_SOURCE: usize = 160;
const AT_BEGAN: usize = 168;
const AT_RESERVED: usize = 176;

const FLAG_RECOVERING: u16 = 1;
const FLAG_INITIALISED: u16 = 2;

/// What a node must remember besides its log (paper, figure 2: persistent state), and that it is recovering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Current term.
    pub term: Term,
    /// Vote in that term.
    pub vote: Option<NodeId>,
    /// Whether the node is recovering: it neither campaigns nor votes.
    pub recovering: bool,
}

/// Which segment files the log may lie in. What the files themselves cannot vouch for, since the file that would say so
/// may be the one that is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentSpan {
    /// Number of the segment that the log begins in. Files below it are let go of.
    pub(crate) oldest: u64,
    /// Number of the newest segment that frames may be in; zero before there is one.
    pub(crate) newest: u64,
    /// How often that segment's file was recycled.
    pub(crate) generation: u64,
    /// Number of the segment that the file is made of: until it is renamed, that is its name. Zero for a new file.
    pub(crate) source: u64,
}

/// One copy of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) sequence: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) state: HardState,
    pub(crate) segment_bytes: u64,
    /// Whether a first start was finished: only then may a missing log be taken for a lost one.
    pub(crate) initialised: bool,
    /// Where the log ended when it was closed in order; zero while it is open.
    pub(crate) clean_end: u64,
    pub(crate) span: SegmentSpan,
    /// Position up to which the log was durable when this was written.
    pub(crate) watermark: u64,
    /// Where the log ended at the last start: what stands there and behind was written since, or is a dead process's.
    pub(crate) began: u64,
    /// Where the last start took place: within one boot of the machine, with the same medium in its place, a process
    /// that is killed loses nothing that it wrote.
    pub(crate) place: kontiki_io::Identity,
}

/// Why a copy cannot be read as ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Not intact.
    Damaged,
    /// Intact, and not for us: this stops the node whatever the other copy says.
    Stop(WalError),
}

impl Record {
    /// Before a first start, and where nothing is known.
    pub(crate) fn first(segment_bytes: u64) -> Record {
        Record {
            sequence: 1,
            incarnation: Incarnation(0),
            state: HardState::default(),
            segment_bytes,
            initialised: false,
            clean_end: 0,
            span: SegmentSpan { oldest: 1, newest: 0, generation: 0, source: 0 },
            watermark: 0,
            began: 0,
            place: kontiki_io::Identity::default(),
        }
    }

    pub(crate) fn encode(&self, identity: &Identity, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES, "the record fills one block");
        block.fill(0);
        put(block, 0, &MAGIC);
        put(block, AT_VERSION, &VERSION.to_le_bytes());
        let recovering = if self.state.recovering { FLAG_RECOVERING } else { 0 };
        let initialised = if self.initialised { FLAG_INITIALISED } else { 0 };
        put(block, AT_FLAGS, &(recovering | initialised).to_le_bytes());
        put(block, AT_SEQUENCE, &self.sequence.to_le_bytes());
        put(block, AT_INCARNATION, &self.incarnation.0.to_le_bytes());
        put(block, AT_TERM, &self.state.term.0.to_le_bytes());
        put(block, AT_VOTE, &self.state.vote.map_or(0, |id| id.0).to_le_bytes());
        put(block, AT_SEGMENT_BYTES, &self.segment_bytes.to_le_bytes());
        put(block, AT_NODE, &identity.node.0.to_le_bytes());
        put(block, AT_GROUP, &identity.group.0.to_le_bytes());
        put(block, AT_CLUSTER, &identity.cluster.0.to_le_bytes());
        put(block, AT_CLEAN_END, &self.clean_end.to_le_bytes());
        put(block, AT_OLDEST, &self.span.oldest.to_le_bytes());
        put(block, AT_NEWEST, &self.span.newest.to_le_bytes());
        put(block, AT_NEWEST_GENERATION, &self.span.generation.to_le_bytes());
        put(block, AT_WATERMARK, &self.watermark.to_le_bytes());
        put(block, AT_BOOT_ID, &self.place.boot.to_le_bytes());
        put(block, AT_PLACE, &self.place.place.to_le_bytes());
        put(block, AT_SOURCE, &self.span.source.to_le_bytes());
        put(block, AT_BEGAN, &self.began.to_le_bytes());
        let crc = checksum(block);
        put(block, AT_CHECKSUM, &crc.to_le_bytes());
    }

    /// Reads a copy. Whose it is comes with it.
    pub(crate) fn parse(block: &[u8]) -> Result<(Record, Identity), Unfit> {
        if block.len() != BLOCK_BYTES || field::<4>(block, 0) != MAGIC || checksum(block) != u32_at(block, AT_CHECKSUM) {
            return Err(Unfit::Damaged);
        }
        let version = u16_at(block, AT_VERSION);
        check_version(version, names::plain(names::HARD_STATE)).map_err(Unfit::Stop)?;
        let flags = u16_at(block, AT_FLAGS);
        let known = FLAG_RECOVERING | FLAG_INITIALISED;
        let reserved = block.get(AT_RESERVED..).unwrap_or_default();
        if version == 0 || flags & !known != 0 || !all_zero(reserved) {
            return Err(Unfit::Damaged);
        }
        let vote = u64_at(block, AT_VOTE);
        let record = Record {
            sequence: u64_at(block, AT_SEQUENCE),
            incarnation: Incarnation(u64_at(block, AT_INCARNATION)),
            state: HardState {
                term: Term(u64_at(block, AT_TERM)),
                vote: (vote != 0).then_some(NodeId(vote)),
                recovering: flags & FLAG_RECOVERING != 0,
            },
            segment_bytes: u64_at(block, AT_SEGMENT_BYTES),
            initialised: flags & FLAG_INITIALISED != 0,
            clean_end: u64_at(block, AT_CLEAN_END),
            span: SegmentSpan {
                oldest: u64_at(block, AT_OLDEST),
                newest: u64_at(block, AT_NEWEST),
                generation: u64_at(block, AT_NEWEST_GENERATION),
                source: u64_at(block, AT_SOURCE),
            },
            watermark: u64_at(block, AT_WATERMARK),
            began: u64_at(block, AT_BEGAN),
            place: kontiki_io::Identity { boot: u128_at(block, AT_BOOT_ID), place: u128_at(block, AT_PLACE) },
        };
        let identity = Identity {
            node: NodeId(u64_at(block, AT_NODE)),
            group: GroupId(u64_at(block, AT_GROUP)),
            cluster: ClusterId(u128_at(block, AT_CLUSTER)),
        };
        Ok((record, identity))
    }

    /// Whether the next one of every count exists.
    pub(crate) fn check_counts(&self) -> Result<(), WalError> {
        let SegmentSpan { oldest, newest, .. } = self.span;
        let positions = MAX_NUMBER / self.segment_bytes.max(1);
        if self.sequence >= MAX_NUMBER || self.incarnation.0 >= MAX_NUMBER || oldest.max(newest) > positions {
            return Err(WalError::Exhausted { name: names::plain(names::HARD_STATE) });
        }
        Ok(())
    }

    fn parse_ours(block: &[u8], identity: &Identity) -> Result<Record, Unfit> {
        let (record, found) = Record::parse(block)?;
        identity.check(&found, names::plain(names::HARD_STATE)).map_err(Unfit::Stop)?;
        Ok(record)
    }
}

/// Whether an intact block of this version is ours to read. Zero is no version: such a block is damaged, and not
/// refused here.
pub(crate) fn check_version(found: u16, name: Name) -> Result<(), WalError> {
    match found {
        0 | VERSION => Ok(()),
        1..VERSION => Err(WalError::OlderFormat { name, found, known: VERSION }),
        _ => Err(WalError::NewerFormat { name, found, known: VERSION }),
    }
}

/// Which copy of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    First,
    Second,
}

impl Copy {
    pub(crate) const fn offset(self) -> u64 {
        match self {
            Copy::First => 0,
            Copy::Second => crate::limits::HARD_STATE_COPY_OFFSET,
        }
    }
}

/// What the two copies amount to: the record in force, and the copy that is to be rewritten with it before anything
/// else. `None` stands for a copy that could not be read.
pub(crate) fn judge(first: Option<&[u8]>, second: Option<&[u8]>, identity: &Identity) -> Result<(Record, Option<Copy>), WalError> {
    let read = |block: Option<&[u8]>| match Record::parse_ours(block.unwrap_or_default(), identity) {
        Ok(record) => Ok(Some(record)),
        Err(Unfit::Damaged) => Ok(None),
        Err(Unfit::Stop(error)) => Err(error),
    };
    match (read(first)?, read(second)?) {
        (Some(a), Some(b)) if a == b => Ok((a, None)),
        (Some(a), Some(b)) if b.sequence.checked_add(1) == Some(a.sequence) => Ok((a, Some(Copy::Second))),
        (Some(a), Some(b)) => Err(WalError::HardStateDisagrees { first: a.sequence, second: b.sequence }),
        (Some(a), None) => Ok((a, Some(Copy::Second))),
        (None, Some(b)) => Ok((b, Some(Copy::First))),
        (None, None) => Err(WalError::HardStateLost),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn identity() -> Identity {
        Identity { cluster: ClusterId(0xabc), node: NodeId(2), group: GroupId(0) }
    }

    fn record(sequence: u64) -> Record {
        let state = HardState { term: Term(sequence + 3), vote: Some(NodeId(9)), recovering: true };
        Record {
            sequence,
            incarnation: Incarnation(4),
            state,
            segment_bytes: 1 << 20,
            initialised: true,
            clean_end: 12288,
            span: SegmentSpan { oldest: 2, newest: 7, generation: 3, source: 4 },
            watermark: 8192,
            began: 4096,
            place: kontiki_io::Identity { boot: 1 << 100, place: 5 },
        }
    }

    fn block(sequence: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        record(sequence).encode(&identity(), &mut block);
        block
    }

    #[test]
    fn read_back() {
        assert_eq!(Record::parse(&block(7)), Ok((record(7), identity())));
    }

    #[test]
    fn the_pair() {
        let judge = |a: Option<u64>, b: Option<u64>| {
            let (a, b) = (a.map(block), b.map(block));
            judge(a.as_deref(), b.as_deref(), &identity()).map(|(record, repair)| (record.sequence, repair))
        };
        assert_eq!(judge(Some(5), Some(5)), Ok((5, None)));
        assert_eq!(judge(Some(6), Some(5)), Ok((6, Some(Copy::Second))), "a torn update: the newer");
        assert_eq!(judge(Some(5), Some(6)), Err(WalError::HardStateDisagrees { first: 5, second: 6 }), "never written in this order");
        assert_eq!(judge(Some(7), Some(5)), Err(WalError::HardStateDisagrees { first: 7, second: 5 }));
        assert_eq!(judge(None, Some(5)), Ok((5, Some(Copy::First))));
        assert_eq!(judge(Some(5), None), Ok((5, Some(Copy::Second))));
        assert_eq!(judge(None, None), Err(WalError::HardStateLost));
    }

    /// H91, the record's half.
    #[test]
    fn every_flipped_bit_is_found() {
        let mut block = block(3);
        for bit in 0..BLOCK_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::parse(&block), Err(Unfit::Damaged), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn not_for_us() {
        let stop = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut changed = block(3);
            change(&mut changed);
            let crc = checksum(&changed);
            put(&mut changed, AT_CHECKSUM, &crc.to_le_bytes());
            // The other copy is fine; the verdict must stand all the same.
            super::judge(Some(&changed), Some(&block(3)), &identity()).unwrap_err()
        };
        assert!(matches!(stop(&|b| put(b, AT_VERSION, &3u16.to_le_bytes())), WalError::NewerFormat { found: 3, known: 2, .. }));
        assert!(matches!(stop(&|b| put(b, AT_VERSION, &1u16.to_le_bytes())), WalError::OlderFormat { found: 1, known: 2, .. }));
        assert!(matches!(stop(&|b| put(b, AT_NODE, &[3])), WalError::WrongNode { found: NodeId(3), .. }));
        assert!(matches!(stop(&|b| put(b, AT_CLUSTER, &[1])), WalError::WrongCluster { .. }));
        assert!(matches!(stop(&|b| put(b, AT_GROUP, &[1])), WalError::WrongGroup { .. }));
    }

    /// Intact blocks that no version of this file has held: their checksum is right.
    #[test]
    fn of_no_version() {
        let changes: [(&str, usize, &[u8]); 4] = [
            ("another file's magic", 0, b"KtkS"),
            ("version zero", AT_VERSION, &[0, 0]),
            ("an unknown flag", AT_FLAGS, &[4]),
            ("something reserved", BLOCK_BYTES - 1, &[1]),
        ];
        for (what, at, bytes) in changes {
            let mut block = block(3);
            put(&mut block, at, bytes);
            let crc = checksum(&block);
            put(&mut block, AT_CHECKSUM, &crc.to_le_bytes());
            assert_eq!(Record::parse(&block), Err(Unfit::Damaged), "{what}");
        }
    }
}

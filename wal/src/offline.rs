//! Reading the log of a node that is not running: for `kontiki wal verify` and `kontiki wal dump`.
//!
//! The same recovery as at a start, over files that the caller reads; nothing is changed. A log of a running node must
//! not be examined: take its lock file first.

use kontiki_core::{Base, ClusterId, GroupId, Incarnation, LogIndex, NodeId};
use kontiki_frame::{BLOCK_BYTES, DiskStamp, Header};
use kontiki_io::Name;

use crate::hard_state::{Copy, Record, Unfit};
use crate::layout::whole_blocks;
use crate::limits::{MAX_SEGMENT_BYTES, MAX_SEGMENTS, MIN_SEGMENT_BYTES, RECOVERY_READ_BYTES};
use crate::recovery::{Flow, Recovery, SegmentFile};
pub use crate::segment_header::SegmentHeader;
use crate::segment_header::{Found, Identity};
use crate::{Damage, HardState, Reach, RecoveryReport, WalError, names};

/// What a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Part of the log.
    Log,
    /// Ready for the next frames, or to be made so: zeros, the leftovers of a former use, or of the log before a snapshot
    /// took its place.
    Spare,
    /// Not part of the log, but written to: behind a torn tail or damage.
    Aside,
}

/// A segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The file's name.
    pub name: Name,
    /// Its number.
    pub number: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its header, if it has an intact one of its own.
    pub header: Option<SegmentHeader>,
    /// What it is.
    pub part: Part,
}

/// A frame of the log, as the walk comes to it.
#[derive(Clone, Copy, Debug)]
pub struct FrameInfo<'a> {
    /// Number of its segment.
    pub segment: u64,
    /// Offset in the segment's file, in bytes.
    pub offset: u64,
    /// Position, generation, boot, range and watermark.
    pub stamp: DiskStamp,
    /// Its sealed header.
    pub header: Header,
    /// The whole frame, verified: [`kontiki_frame::entries`] reads it.
    pub frame: &'a [u8],
}

/// A copy of the hard state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyInfo {
    /// Intact.
    Intact {
        /// Number of the update.
        sequence: u64,
        /// Boot number.
        incarnation: Incarnation,
        /// Term, vote and the *recovering* mark.
        state: HardState,
    },
    /// Not intact, or not there.
    Damaged,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The cluster whose log it is.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The node.
    pub node: NodeId,
    /// Both copies of the hard state.
    pub hard_state: [CopyInfo; 2],
    /// Why a start would refuse the hard state, if it would.
    pub hard_state_error: Option<WalError>,
    /// Where and in which boot of the machine the last start took place, as the hard state says; nothing known without
    /// one.
    pub place: kontiki_io::Identity,
    /// What the log's beginning rests on, of the snapshots that there are. (What a state machine has is not known here:
    /// where it says [`Reach::Nothing`], one that has applied what is presupposed may do.)
    pub reaches: Reach,
    /// The segment files, by number.
    pub segments: Vec<SegmentInfo>,
    /// The log. `uncertain` says that something unreadable stands at its end: torn on a safe medium; on a lossy one
    /// perhaps lost, if the power was off or the medium away since the last start ([`Verdict::end`] tells).
    pub report: RecoveryReport,
}

/// What the next start makes of the end of a log that has no damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The log was closed in order, or its end can be recognised: nothing is missing.
    Whole,
    /// Something unreadable stands there, and the power was on all the while: it was never acknowledged, and is
    /// dropped.
    Killed,
    /// Something unreadable stands there, and the power was off, or the medium away: dropped on a safe medium. On a
    /// lossy one it may have been acknowledged, and the node recovers from the others.
    PowerCut,
    /// The same, for it cannot be known whether the power was off.
    Unknown,
}

impl Verdict {
    /// The first damage of acknowledged data.
    pub fn damage(&self) -> Option<&Damage> {
        self.report.damage.as_ref()
    }

    /// What a start would make of the log's end, `here` and in this boot of the machine ([`kontiki_io::Identity::of`]
    /// the directory).
    pub fn end(&self, here: &kontiki_io::Identity) -> End {
        if !self.report.uncertain {
            End::Whole
        } else if self.place.is_same(here) {
            End::Killed
        } else if self.place.is_known() && here.is_known() {
            End::PowerCut
        } else {
            End::Unknown
        }
    }

    /// Whether a start would find nothing to complain of.
    pub fn intact(&self) -> bool {
        self.damage().is_none() && self.hard_state_error.is_none() && self.hard_state.iter().all(|copy| *copy != CopyInfo::Damaged)
    }
}

/// Why a directory cannot be examined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfflineError<E> {
    /// The caller could not read.
    #[error("cannot read {name}: {error}")]
    Read {
        /// The file.
        name: Name,
        /// What the caller said.
        error: E,
    },
    /// No intact block says whose log this is.
    #[error("not a log: no hard state and no segment header can be read")]
    NotALog,
    /// The files are not of one log, or of a newer program.
    #[error("{0}")]
    Log(#[from] WalError),
}

/// Fills a buffer from an offset of a file, and says how many bytes there were.
pub type ReadAt<'a, E> = dyn FnMut(&Name, u64, &mut [u8]) -> Result<usize, E> + 'a;

/// Walks the log in a directory. `files` are the directory's files with their lengths in bytes, in any order; `snapshots`
/// are the bases of the intact snapshots there; `visit` sees every frame of the log in order.
///
/// # Errors
/// What keeps the walk from being made; damage is not an error but a [`Verdict`].
pub fn examine<E>(
    files: &[(Name, u64)],
    snapshots: &[Base],
    read: &mut ReadAt<'_, E>,
    visit: &mut dyn FnMut(FrameInfo<'_>),
) -> Result<Verdict, OfflineError<E>> {
    let mut block = |name: &Name, offset: u64| -> Result<Option<Vec<u8>>, OfflineError<E>> {
        let mut block = vec![0; BLOCK_BYTES];
        let whole = read(name, offset, &mut block).map_err(|error| OfflineError::Read { name: name.clone(), error })? == BLOCK_BYTES;
        Ok(whole.then_some(block))
    };
    let hard_state = names::plain(names::HARD_STATE);
    let mut copies = [None, None];
    if files.iter().any(|(name, _)| *name == hard_state) {
        for (copy, at) in copies.iter_mut().zip([Copy::First, Copy::Second]) {
            *copy = block(&hard_state, at.offset())?;
        }
    }
    let mut numbers: Vec<(u64, u64)> = files.iter().filter_map(|(name, bytes)| Some((names::segment_number(name)?, *bytes))).collect();
    numbers.retain(|(number, _)| *number > 0);
    numbers.sort_unstable();
    if numbers.len() > MAX_SEGMENTS {
        return Err(WalError::TooManySegments { found: numbers.len(), known: MAX_SEGMENTS }.into());
    }
    let mut blocks = Vec::with_capacity(numbers.len());
    for (number, _) in &numbers {
        blocks.push(block(&names::segment(*number), 0)?);
    }

    let records: Vec<Option<(Record, Identity)>> = copies
        .iter()
        .map(|copy| match Record::parse(copy.as_deref().unwrap_or_default()) {
            Ok(found) => Ok(Some(found)),
            Err(Unfit::Damaged) => Ok(None),
            Err(Unfit::Stop(error)) => Err(error),
        })
        .collect::<Result<_, _>>()?;
    let (identity, segment_bytes) = whose(&records, &numbers, &blocks)?;
    if !segment_bytes.is_multiple_of(BLOCK_BYTES as u64) || !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes) {
        return Err(OfflineError::NotALog);
    }
    if numbers.last().is_some_and(|(number, _)| number.checked_add(1).and_then(|n| n.checked_mul(segment_bytes)).is_none()) {
        return Err(OfflineError::NotALog);
    }
    let judged = crate::hard_state::judge(copies[0].as_deref(), copies[1].as_deref(), &identity);

    let mut found = Vec::with_capacity(numbers.len());
    for ((number, bytes), block) in numbers.iter().zip(&blocks) {
        let first = SegmentHeader::find(block.as_deref(), *number, segment_bytes, &identity)?;
        found.push(SegmentFile { number: *number, bytes: *bytes, found: first, linked: false, evidence: false });
    }
    // Without a hard state nothing is known but what the segments say.
    let unknown = Record::first(segment_bytes);
    let known = judged.as_ref().map_or(&unknown, |(record, _)| record);
    known.check_counts()?;
    let mut recovery = Recovery::new(identity, segment_bytes, found, known);
    let mut buffer = vec![0; RECOVERY_READ_BYTES];
    while let Some(want) = recovery.want() {
        let Some(file) = recovery.files().get(want.file) else { break };
        let name = names::segment(file.number);
        let end = whole_blocks(file.bytes.min(segment_bytes));
        let bytes = end.saturating_sub(want.offset).min(buffer.len() as u64) as usize;
        let buffer = buffer.get_mut(..bytes).unwrap_or_default();
        let read =
            if buffer.is_empty() { 0 } else { read(&name, want.offset, buffer).map_err(|error| OfflineError::Read { name, error })? };
        let whole = buffer.get(..whole_blocks(read as u64) as usize).unwrap_or_default();
        let flow = recovery.feed(whole, &mut |taken| {
            let position = taken.stamp.position;
            visit(FrameInfo {
                segment: position / segment_bytes,
                offset: position % segment_bytes,
                stamp: taken.stamp,
                header: taken.header,
                frame: taken.bytes,
            });
        });
        if flow == Flow::Continue && whole.len() < bytes || bytes == 0 {
            recovery.end_of_file();
        }
    }
    // What the state machine has is not known here: as if it had all.
    let recovered = recovery.finish(known, LogIndex(u64::MAX), snapshots);
    let reaches = Reach::of(&recovered.log, LogIndex(0), snapshots);
    // What lies below a base segment is no part of the log, whether the hard state says so already or not.
    let oldest = if recovered.chain.is_some() { recovered.log.oldest_segment().unwrap_or(0) } else { known.span.oldest };
    let clean_end = known.clean_end;
    let written = recovered.files.iter().filter(|file| file.linked || file.evidence).map(|file| file.number).max().unwrap_or(0);
    let segments = recovered.files.iter().map(|file| SegmentInfo {
        name: names::segment(file.number),
        number: file.number,
        bytes: file.bytes,
        header: if let Found::Own(header) = file.found { Some(header) } else { None },
        part: match file.found {
            _ if file.linked => Part::Log,
            Found::Unused { .. } if !file.evidence && (file.number > written || file.number < oldest) => Part::Spare,
            Found::Own(_) if file.number < oldest => Part::Spare,
            _ => Part::Aside,
        },
    });
    let segments: Vec<SegmentInfo> = segments.collect();
    let copy = |record: &Option<(Record, Identity)>| match record {
        Some((record, _)) => CopyInfo::Intact { sequence: record.sequence, incarnation: record.incarnation, state: record.state },
        None => CopyInfo::Damaged,
    };
    let [first, second] = [0, 1].map(|at| records.get(at).map_or(CopyInfo::Damaged, copy));
    let mut hard_state_error = judged.as_ref().err().cloned();
    if let Ok((record, _)) = &judged
        && recovered.newest_boot > record.incarnation
    {
        hard_state_error = Some(WalError::HardStateOld { found: recovered.newest_boot, known: record.incarnation });
    }
    if let Ok((record, _)) = &judged
        && hard_state_error.is_none()
        && record.initialised
        && recovered.newest_written > record.span.newest
    {
        hard_state_error = Some(WalError::HardStateBehind { found: recovered.newest_written, known: record.span.newest });
    }
    let report = RecoveryReport {
        segments: segments.iter().filter(|segment| segment.part == Part::Log).count(),
        uncertain: recovered.damage.is_none() && clean_end != recovered.end && !recovered.marked,
        hard_state_repaired: false,
        spares: segments.iter().filter(|segment| segment.part == Part::Spare).count(),
        ..recovered.report()
    };
    let place = known.place;
    let Identity { cluster, group, node } = identity;
    Ok(Verdict { cluster, group, node, hard_state: [first, second], hard_state_error, place, reaches, segments, report })
}

/// Whose log it is, and how long its segments are: from the first intact block that says so.
fn whose<E>(
    records: &[Option<(Record, Identity)>],
    numbers: &[(u64, u64)],
    blocks: &[Option<Vec<u8>>],
) -> Result<(Identity, u64), OfflineError<E>> {
    if let Some((record, identity)) = records.iter().flatten().next() {
        return Ok((*identity, record.segment_bytes));
    }
    for ((number, _), block) in numbers.iter().zip(blocks) {
        if let Some((header, identity)) = SegmentHeader::parse(block.as_deref().unwrap_or_default(), &names::segment(*number))? {
            return Ok((identity, header.segment_bytes));
        }
    }
    Err(OfflineError::NotALog)
}

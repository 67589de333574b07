//! The verdict: what walk and search, and what the hard state says there must be, amount to.

use kontiki_core::{Base, Incarnation, LogIndex};

use super::{Mode, Recovery, SegmentFile};
use crate::hard_state::{Record, SegmentSpan};
use crate::index::LiveLog;
use crate::report::Chain;
use crate::segment_header::Found;
use crate::{Cause, Damage, Reach, RecoveryReport};

/// What recovery found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) log: LiveLog,
    /// What it begins with, if that is a base segment.
    pub(crate) chain: Option<Chain>,
    pub(crate) files: Vec<SegmentFile>,
    /// Where the log ends.
    pub(crate) end: u64,
    pub(crate) watermark: u64,
    pub(crate) damage: Option<Damage>,
    /// Traces of writes past the end.
    pub(crate) evidence: bool,
    /// What lies between the end and this position is zeros.
    pub(crate) blank_to: u64,
    /// Nothing was ever written behind the end but what had not been acknowledged: there is a block of zeros, or no
    /// place for a block, or a frame of which a sector was never written; and no segment after it whose header was
    /// lost.
    pub(crate) marked: bool,
    pub(crate) frames: u64,
    pub(crate) frame_bytes: u64,
    pub(crate) longest_frame: usize,
    pub(crate) dropped_bytes: u64,
    pub(crate) newest_boot: Incarnation,
    /// Number of the newest segment that something of this log stands in.
    pub(crate) newest_written: u64,
    pub(crate) cause: Cause,
}

impl Recovery {
    /// The verdict, by what the hard state says: whether a first start was finished, so that there must be a log; where
    /// it ended when it was closed in order, all of it durable; which segments there must be. `applied` is the last
    /// entry that the state machine has, and `snapshots` are the intact ones.
    pub(crate) fn finish(mut self, record: &Record, applied: LogIndex, snapshots: &[Base]) -> Recovered {
        assert_eq!(self.mode, Mode::Done, "every file was read");
        self.watermark = self.watermark.max(record.clean_end).max(record.watermark);
        let begin = self.oldest;
        let begins = !record.initialised || self.anew || self.file_of(begin).is_some();
        let strange = self.strange.or_else(|| self.wrong_file(record));
        let cause = if !begins {
            Some(Cause::SegmentMissing { number: begin })
        } else if let Some(number) = self.missing(record) {
            Some(Cause::SegmentMissing { number })
        } else if let Some((_, cause)) = strange {
            Some(cause)
        } else {
            (self.end < self.watermark).then_some(self.cause)
        };
        let whole = self.end >= self.watermark && strange.is_none() && !self.files.iter().any(|file| file.evidence);
        let usable = whole && Reach::of(&self.log, applied, snapshots) != Reach::Nothing;
        if !begins && !usable {
            self.give_up_beginning();
        }
        let position = match (cause, strange) {
            (Some(found), Some((position, cause))) if found == cause => position,
            (Some(Cause::SegmentMissing { number }), _) => number * self.segment_bytes,
            _ => self.end,
        };
        let damage = cause.map(|cause| Damage {
            segment: position / self.segment_bytes,
            offset: position % self.segment_bytes,
            position,
            end: self.end,
            watermark: self.watermark,
            cause,
        });
        let evidence = self.files.iter().any(|file| file.evidence);
        let full = self.log.limit().is_none_or(|limit| self.end >= limit);
        let header_lost = self.files.iter().any(|file| self.tail().is_none_or(|tail| file.number > tail) && file.found == Found::Damaged);
        let marked = (full || self.blank_to > self.end || self.cut_short) && !header_lost;
        Recovered {
            log: self.log,
            chain: self.chain,
            files: self.files,
            end: self.end,
            watermark: self.watermark,
            damage,
            evidence,
            blank_to: self.blank_to,
            marked,
            frames: self.frames,
            frame_bytes: self.frame_bytes,
            longest_frame: self.longest_frame,
            dropped_bytes: self.dropped_bytes,
            newest_boot: self.seen_boot,
            newest_written: self.seen_segment,
            cause: self.cause,
        }
    }

    /// The first segment behind the log's end that must be there and is not: numbers have no gaps there, up to the
    /// newest that the hard state names. A released file that was to become the newest is still there under its old
    /// name, if a crash came before its new one.
    pub(super) fn missing(&self, record: &Record) -> Option<u64> {
        let SegmentSpan { newest, source, .. } = record.span;
        let from = self.tail().map_or(self.oldest, |tail| tail + 1);
        let number = (from..=newest).find(|&number| self.file_of(number).is_none())?;
        (number < newest || self.file_of(source).is_none()).then_some(number)
    }

    /// A file behind the log's end that is not the one that was prepared: every one has a segment's length from before
    /// it has its name, and of the newest the hard state knows how often it was used.
    pub(super) fn wrong_file(&self, record: &Record) -> Option<(u64, Cause)> {
        if !record.initialised {
            return None;
        }
        let from = self.tail().unwrap_or(self.oldest);
        let behind = self.files.iter().filter(|file| file.number >= from);
        let wrong = behind.filter_map(|file| {
            let (generation, former) = match file.found {
                Found::Own(header) => (Some(header.generation), None),
                Found::Unused { generation, former } => (Some(generation), Some(former)),
                Found::Damaged => (None, None),
            };
            let position = file.number * self.segment_bytes;
            let is_other = generation.is_some_and(|found| found != record.span.generation);
            let made_of_other = former.is_some_and(|former| ![0, former].contains(&record.span.source));
            if file.bytes < self.segment_bytes {
                Some((position, Cause::FileLength { found: file.bytes, expected: self.segment_bytes }))
            } else if file.number == record.span.newest && (is_other || made_of_other) {
                Some((position, Cause::OtherFile))
            } else {
                None
            }
        });
        wrong.min_by_key(|(position, _)| *position)
    }

    /// Of a log whose beginning is missing nothing can be taken if its end is not whole: what the first file that is
    /// left says of the entry before it may have been superseded by what is gone. Nor if nothing
    /// reaches it, neither a snapshot nor the state machine: peers give it all.
    pub(super) fn give_up_beginning(&mut self) {
        for file in self.files.iter_mut().filter(|file| file.number >= self.oldest) {
            file.evidence |= file.linked;
            file.linked = false;
        }
        self.log = LiveLog::new(self.segment_bytes, Base::default());
        (self.frames, self.frame_bytes) = (0, 0);
        self.end = self.oldest * self.segment_bytes;
        self.cause = Cause::SegmentMissing { number: self.oldest };
    }
}

impl Recovered {
    /// The part of the report that is the walk's.
    pub(crate) fn report(&self) -> RecoveryReport {
        RecoveryReport {
            segments: self.files.iter().filter(|file| file.linked).count(),
            frames: self.frames,
            bytes: self.frame_bytes,
            longest_frame: self.longest_frame,
            chain: self.chain,
            base: self.log.base(),
            first: self.log.first(),
            last: self.log.last(),
            last_term: self.log.tip().term,
            end: self.end,
            watermark: self.watermark,
            dropped_tail_bytes: self.dropped_bytes,
            damage: self.damage,
            ..RecoveryReport::default()
        }
    }
}

//! The verdict, and what follows from it: nothing was written to the log before, and from here on the start is made
//! durable.

use kontiki_core::Incarnation;
use kontiki_frame::BLOCK_BYTES;
use kontiki_io::{Op, tell};

use super::{Opening, Step, Then};
use crate::hard_state::{Copy, SegmentSpan};
use crate::limits::MARGIN_BYTES;
use crate::prepare::Preparer;
use crate::recovery::Recovered;
use crate::segment_header::Found;
use crate::{Cause, Damage, Medium, RecoveryReport, WalError};

impl Opening {
    /// What to make of what was found: stop, or go on with a boot number more and perhaps *recovering*.
    pub(super) fn judge_log(&mut self, recovered: Recovered) -> Result<Then, WalError> {
        if recovered.newest_boot > self.record.incarnation {
            return Err(WalError::HardStateOld { found: recovered.newest_boot, known: self.record.incarnation });
        }
        if recovered.newest_written > self.record.span.newest && self.record.initialised {
            return Err(WalError::HardStateBehind { found: recovered.newest_written, known: self.record.span.newest });
        }
        let lossy = self.options.medium == Medium::Lossy;
        // A log that was closed in order and ends where it ended then is whole, whatever lies behind.
        let clean = self.record.clean_end == recovered.end;
        // Nor is anything of it lost if a process was killed and the power stayed on: all that was written is there, on the
        // medium or in a cache that is flushed below, and nothing of the dead process is still on its way once its lock
        // is free.
        let killed = self.record.place.is_same(&self.place);
        let uncertain = recovered.damage.is_none() && lossy && !clean && !killed && !recovered.marked;
        self.report = RecoveryReport {
            uncertain,
            same_boot: killed,
            place_unknown: !self.place.is_known(),
            hard_state_repaired: self.report.hard_state_repaired,
            ..recovered.report()
        };
        if lossy && !self.place.is_known() && !self.options.sole_voter {
            let what = if self.place.boot == 0 { "which boot of the machine this is" } else { "which medium the data directory is on" };
            tell!(
                warn,
                "it cannot be known here {what}: a killed process is taken for a power cut, and on a lossy medium its node may then need the others to say what it wrote last"
            );
        }
        if let Some(damage) = recovered.damage {
            tell!(error, %damage, cause = %recovered.cause, "acknowledged log is damaged");
            if self.options.sole_voter {
                return Err(WalError::Damaged(damage));
            }
        }
        // A sole voter has nobody to recover from; every voter there is has answered.
        let recovering = recovered.damage.is_some() || uncertain && !self.options.sole_voter;
        self.record.sequence += 1;
        self.record.incarnation.0 += 1;
        self.record.state.recovering |= recovering;
        self.record.initialised = true;
        self.record.place = self.place;
        self.record.clean_end = 0;
        self.record.watermark = recovered.end;
        self.record.began = recovered.end;
        self.record.span = self.span(&recovered);
        self.recovered = Some(Box::new(recovered));
        self.preparer = Some(Preparer::new(self.dir, self.options.segment_bytes, lossy));
        Ok(self.mark_end().unwrap_or_else(|| self.sync_segment(0)))
    }

    /// The segments that there are, to be named by this start. A segment that is missing stays named until there is a
    /// newer one.
    pub(super) fn span(&self, recovered: &Recovered) -> SegmentSpan {
        let SegmentSpan { oldest, newest, generation, source } = self.record.span;
        let oldest = recovered.log.oldest_segment().unwrap_or(oldest);
        let file = recovered.files.last().filter(|file| file.number >= oldest);
        let missing = matches!(recovered.damage, Some(Damage { cause: Cause::SegmentMissing { .. }, .. }));
        match file {
            Some(file) if file.number >= newest || !missing => {
                let (generation, source) = match file.found {
                    Found::Own(header) => (header.generation, 0),
                    Found::Unused { generation, former } => (generation, former),
                    Found::Damaged => (generation, 0),
                };
                SegmentSpan { oldest, newest: file.number, generation, source }
            }
            _ => SegmentSpan { oldest, newest, generation, source },
        }
    }

    /// The file that a log ends in which is known to be whole: its place in the list.
    pub(super) fn tail(&self) -> Option<usize> {
        let recovered = self.recovered.as_ref()?;
        let tail = recovered.files.iter().rposition(|file| file.linked)?;
        let whole = recovered.damage.is_none() && !self.report.uncertain;
        (whole && recovered.files.get(tail)?.bytes == self.options.segment_bytes).then_some(tail)
    }

    /// A log that was closed in order, or whose process was killed, may end where no zeros follow. They are written
    /// before anything says that this start has found it whole: from then on they tell where it ends. Of what a kill
    /// has torn there they take the first block: it was never acknowledged, and the log goes on in another segment.
    pub(super) fn mark_end(&mut self) -> Option<Then> {
        let tail = self.tail()?;
        let (recovered, preparer) = (self.recovered.as_mut()?, self.preparer.as_ref()?);
        let (file, &handle) = (recovered.files.get(tail)?, self.segment_handles.get(tail)?);
        let limit = (file.number + 1) * self.options.segment_bytes;
        if self.options.medium == Medium::Safe || recovered.blank_to > recovered.end || recovered.end >= limit {
            return None;
        }
        let zeros = if recovered.evidence { BLOCK_BYTES } else { MARGIN_BYTES };
        recovered.blank_to = limit.min(recovered.end + zeros as u64);
        let offset = recovered.end - file.number * self.options.segment_bytes;
        let data = preparer.zeros((recovered.blank_to - recovered.end) as usize);
        Some(Then::Op(Step::MarkEnd, Op::Write { file: handle, offset, data, durable: true }))
    }

    /// Flushes every segment that may hold frames past the watermark: what was read may have come from the drive's
    /// cache, and counts as durable from now on.
    pub(super) fn sync_segment(&mut self, from: usize) -> Then {
        if let Some(recovered) = &self.recovered {
            for (at, file) in recovered.files.iter().enumerate().skip(from) {
                let reaches = (file.number + 1) * self.options.segment_bytes > recovered.watermark;
                // What is put aside counts too: the hard state is to name these very files, by what their headers say.
                if (file.linked && reaches || file.evidence)
                    && let Some(&file) = self.segment_handles.get(at)
                {
                    return Then::Op(Step::SyncSegment(at), Op::Sync { file });
                }
            }
        }
        self.sync_dir()
    }

    pub(super) fn sync_dir(&self) -> Then {
        Then::Op(Step::SyncDir, Op::SyncDir { dir: self.dir })
    }

    /// A first start is finished only once there is a segment to write to.
    pub(super) fn prepare_or_save(&mut self) -> Then {
        if self.record.incarnation == Incarnation(1)
            && self.listed.is_empty()
            && let Some(preparer) = &mut self.preparer
        {
            return Then::Op(Step::Prepare, preparer.create(1));
        }
        self.write_record(Step::Save(Copy::First), Copy::First)
    }
}

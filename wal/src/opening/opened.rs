//! The end of a start: the log, as the node has it from now on.

use kontiki_core::{Incarnation, Restored};
use kontiki_io::tell;

use super::Opening;
use crate::recovery::{Recovered, SegmentFile};
use crate::saver::Saver;
use crate::segment_header::Found;
use crate::segments::{Segment, Segments};
use crate::wal::Parts;
use crate::{HardState, Reach, RecoveryReport, Wal};

/// An opened log, and what the node needs to know to take part.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub wal: Wal,
    /// Term, vote and the *recovering* mark, as they are durable now.
    pub hard_state: HardState,
    /// This start's boot number: durable, and greater than every earlier one.
    pub incarnation: Incarnation,
    /// The same and the log's bounds and terms, for the core. `applied` is zero: the state machine knows.
    pub restored: Restored,
    /// What the log's beginning rests on. [`Reach::Nothing`]: a base is needed before anything of it can be applied.
    pub reaches: Reach,
    /// What recovery found.
    pub report: RecoveryReport,
}

impl Opening {
    pub(super) fn opened(&mut self) -> Opened {
        let (Some(recovered), Some(preparer)) = (self.recovered.take(), self.preparer.take()) else { panic!("everything was found") };
        let Recovered { log, files, end, blank_to, damage, evidence, .. } = *recovered;
        let mut segments = Segments::none();
        let whole = |file: &SegmentFile| file.bytes == self.options.segment_bytes;
        // A spare lies above everything that was ever written to: numbers grow along the log. Behind damage nobody knows what
        // was written to.
        let written = files.iter().filter(|file| file.linked || file.evidence).map(|file| file.number).max().unwrap_or(0);
        let mut tail_whole = true;
        for (file, &handle) in files.iter().zip(&self.segment_handles) {
            let (generation, own) = match file.found {
                Found::Own(header) => (header.generation, true),
                Found::Unused { generation, .. } => (generation, false),
                Found::Damaged => (0, false),
            };
            // A file that was never used holds zeros, or there would be evidence. Of a recycled one that is not known.
            let zeros = if matches!(file.found, Found::Unused { generation: 0, .. }) { self.options.segment_bytes } else { 0 };
            let mut segment = Segment { number: file.number, file: handle, generation, whole: whole(file), readers: 0, blank_to: zeros };
            segments.next_number = file.number + 1;
            if file.number < self.record.span.oldest {
                // Released, and not recycled or removed before the last run ended.
                segment.whole &= own;
                segments.retired.push_back(segment);
            } else if file.linked {
                tail_whole = segment.whole;
                segments.linked.push_back(segment);
            } else if damage.is_none() && !own && !file.evidence && segment.whole && file.number > written {
                segments.prepared.push_back(segment);
            } else {
                // Only a file whose old header tells its generation can be used again.
                segment.whole &= own;
                segments.aside.push(segment);
            }
        }
        if let Some(first) = self.first_segment.take() {
            segments.next_number = first.number + 1;
            segments.prepared.push_back(first);
        }
        segments.next_number = segments.next_number.max(self.record.span.newest + 1);
        self.report.spares = segments.prepared.len();
        let fresh = damage.is_some() || evidence || self.report.uncertain || !tail_whole || segments.linked.is_empty();
        let state = self.record.state;
        let reaches = Reach::of(&log, self.options.applied, &self.bases);
        let restored = Restored {
            term: state.term,
            vote: state.vote,
            recovering: state.recovering,
            base: log.base(),
            runs: log.runs().to_vec(),
            last: log.last(),
            ..Restored::default()
        };
        let handles = std::mem::take(&mut self.handles);
        let Some(&lock) = handles.first() else { panic!("the directory is locked") };
        let wal = Wal::new(Parts {
            options: self.options.clone(),
            identity: self.identity,
            dir: self.dir,
            lock,
            saver: Saver::new(self.hard_state, self.identity, self.record, self.blocks.clone()),
            log,
            segments,
            preparer,
            boot: self.record.incarnation,
            end,
            fresh,
            blank_to,
        });
        tell!(info, boot = self.record.incarnation.0, "log open");
        Opened { wal, hard_state: state, incarnation: self.record.incarnation, restored, reaches, report: self.report.clone() }
    }
}

//! The walk: frame after frame, from segment to segment, as long as each continues what is before it.

use kontiki_frame::{DiskStamp, Header, parse_header};

use super::{BLOCK, Flow, Mode, Recovery, SegmentFile};
use crate::Cause;
use crate::segment_header::Found;

impl Recovery {
    /// The segment that continues a log which ends at `self.end`.
    pub(super) fn successor(&self) -> Option<usize> {
        let from = if self.log.end().is_some() { self.file + 1 } else { self.first() };
        let continues = |file: &SegmentFile| match file.found {
            // A base segment begins another chain.
            Found::Own(header) if header.digest.is_none() => {
                let tip = self.log.tip();
                header.prev_end == self.end && header.prev.id() == tip.id() && header.boot >= self.boot
            }
            _ => false,
        };
        // The newest, should an older one have been left behind by a start that was cut short.
        (from..self.files.len()).rev().find(|&at| self.files.get(at).is_some_and(continues))
    }

    pub(super) fn enter(&mut self, file: usize) {
        let Some(SegmentFile { number, found: Found::Own(header), linked, .. }) = self.files.get_mut(file) else { return };
        *linked = true;
        self.boot = self.boot.max(header.boot);
        self.seen_boot = self.seen_boot.max(header.boot);
        self.seen_segment = self.seen_segment.max(*number);
        self.log.open_segment(*number);
        self.file = file;
        self.at = *number * self.segment_bytes + BLOCK;
        self.mode = Mode::Walk;
    }

    /// Checks the first block of a frame: everything but the body.
    pub(super) fn measure(&mut self, block: &[u8]) -> Result<(usize, DiskStamp, Header), Cause> {
        let stamp = DiskStamp::parse(block)?;
        let Some(SegmentFile { number, found: Found::Own(segment), bytes, .. }) = self.files.get(self.file) else {
            return Err(Cause::SegmentHeader);
        };
        if stamp.position != self.at || stamp.generation != segment.generation {
            return Err(Cause::Stale);
        }
        if stamp.boot < self.boot {
            return Err(Cause::BootFell { before: self.boot, found: stamp.boot });
        }
        if stamp.watermark > stamp.position {
            return Err(Cause::Watermark);
        }
        let header = parse_header(block)?;
        if header.cluster != self.identity.cluster || header.group != self.identity.group || stamp.node != self.identity.node {
            return Err(Cause::Foreign);
        }
        header.check_range(stamp.range)?;
        let length = header.frame_bytes();
        let room = self.segment_bytes.min(*bytes).saturating_sub(self.at - number * self.segment_bytes);
        if length as u64 > room {
            return Err(Cause::TooLong);
        }
        self.log.admits(&header.meta, stamp.range)?;
        if !self.log.fits(length as u64, stamp.range) {
            return Err(Cause::TooLong);
        }
        Ok((length, stamp, header))
    }

    /// Whether a frame stands where nothing stood at the last start, and was written by a process before that. The lock
    /// keeps the writes of a dead process from coming so late. Where it could not, whatever the last process wrote
    /// there is gone.
    pub(super) fn is_of_the_dead(&self, stamp: &DiskStamp) -> bool {
        let (boot, end) = self.last_start;
        stamp.position >= end && stamp.boot < boot
    }

    pub(super) fn take(&mut self, stamp: DiskStamp, header: Header, length: usize) {
        self.log.push(self.at, length as u64, &header.meta, stamp.range);
        self.boot = stamp.boot;
        self.seen_boot = self.seen_boot.max(stamp.boot);
        self.watermark = self.watermark.max(stamp.watermark);
        self.frames += 1;
        self.frame_bytes += length as u64;
        self.longest_frame = self.longest_frame.max(length);
        self.at += length as u64;
    }

    /// The frames of this segment end at `self.at`: on to the segment that continues them, or to the search.
    pub(super) fn ends(&mut self, cause: Cause) -> Flow {
        self.end = self.at;
        self.cause = cause;
        self.pending = None;
        match self.successor() {
            Some(next) => {
                self.partial.clear();
                self.enter(next);
                Flow::Moved
            }
            None => {
                self.mode = Mode::Search;
                self.traces = (self.end, self.end);
                // The end may lie in a frame of a former life. The block at the end is looked at whatever it may be.
                self.inside = u64::MAX;
                self.blank_to = self.end;
                Flow::Continue
            }
        }
    }
}

//! The search: behind the log's end, block by block, for what was written to this log.

use kontiki_frame::fields::all_zero;
use kontiki_frame::{BLOCK_BYTES, DiskStamp, parse_header};

use super::{BLOCK, Mode, Recovery, SegmentFile};
use crate::Cause;
use crate::segment_header::Found;

impl Recovery {
    /// Looks for traces in `file` from its first frame on.
    pub(super) fn search(&mut self, file: usize) {
        self.mode = Mode::Done;
        self.file = file;
        let Some(SegmentFile { number, found, .. }) = self.files.get(file).cloned() else { return };
        self.mode = Mode::Search;
        self.at = number * self.segment_bytes + BLOCK;
        (self.traces, self.inside) = ((self.at, self.at), self.at);
        let evidence = match found {
            Found::Own(header) => {
                self.seen_boot = self.seen_boot.max(header.boot);
                self.seen_segment = self.seen_segment.max(number);
                true
            }
            Found::Unused { former, .. } if former != 0 && !self.was_released(former, number) => {
                let of = former.saturating_mul(self.segment_bytes);
                self.strange.get_or_insert((number * self.segment_bytes, Cause::Displaced { of }));
                true
            }
            Found::Unused { .. } => false,
            Found::Damaged => true,
        };
        if let Some(file) = self.files.get_mut(file) {
            file.evidence |= evidence;
        }
    }

    /// Whether the file of segment `number` may have been that of segment `former` before. A file is recycled once the
    /// log has gone on durably behind it, to a number that was not used yet, and leaves none of its own number.
    pub(super) fn was_released(&self, former: u64, number: u64) -> bool {
        former < number && self.tail().is_none_or(|tail| former < tail) && self.file_of(former).is_none()
    }

    pub(super) fn search_next(&mut self) {
        self.count_traces();
        self.search(self.file + 1);
    }

    pub(super) fn count_traces(&mut self) {
        let (from, to) = std::mem::take(&mut self.traces);
        self.dropped_bytes += to - from;
    }

    pub(super) fn search_blocks(&mut self, bytes: &[u8]) {
        for block in bytes.chunks_exact(BLOCK_BYTES) {
            self.search_block(block);
            self.at += BLOCK;
        }
    }

    /// Is there a trace of this log in the block at `self.at`, or something that never was written here?
    pub(super) fn search_block(&mut self, block: &[u8]) {
        let Some(file) = self.files.get(self.file) else { return };
        let blank = all_zero(block);
        if blank && self.at == self.blank_to {
            self.blank_to += BLOCK;
        }
        if blank {
            return;
        }
        let generation = match file.found {
            Found::Own(header) => Some(header.generation),
            Found::Unused { generation, .. } => Some(generation),
            Found::Damaged => None,
        };
        // Before its first use a file holds zeros, so whatever else stands there was written to this log.
        let mut trace = (generation == Some(0)).then_some(BLOCK);
        if let Ok(stamp) = DiskStamp::parse(block)
            && let Ok(header) = parse_header(block)
        {
            let bytes = header.frame_bytes() as u64;
            let ours = header.cluster == self.identity.cluster && header.group == self.identity.group && stamp.node == self.identity.node;
            let released = ours
                && stamp.position % self.segment_bytes == self.at % self.segment_bytes
                && self.was_released(stamp.position / self.segment_bytes, file.number)
                && generation.is_none_or(|generation| stamp.generation < generation);
            if ours && stamp.position == self.at {
                // The stamp is intact, and so was written when its watermark was true; the body may be torn.
                if stamp.watermark <= stamp.position {
                    self.watermark = self.watermark.max(stamp.watermark);
                }
                self.seen_boot = self.seen_boot.max(stamp.boot);
                self.seen_segment = self.seen_segment.max(file.number);
                trace = Some(bytes);
            } else if !released && (self.at == self.end || self.at >= self.inside) {
                let cause = if ours { Cause::Displaced { of: stamp.position } } else { Cause::Foreign };
                self.strange.get_or_insert((self.at, cause));
                trace = Some(bytes);
            }
            if self.at >= self.inside || self.inside == u64::MAX {
                self.inside = self.at + bytes;
            }
        }
        if let Some(bytes) = trace
            && let Some(file) = self.files.get_mut(self.file)
        {
            file.evidence = true;
            let limit = (file.number + 1) * self.segment_bytes;
            self.traces.1 = self.traces.1.max((self.at + bytes).min(limit));
        }
    }
}

//! Finding the log in what the disk gives back. Pure: bytes go in, [`Recovery::want`] says which ones next.
//!
//! The walk starts at the oldest segment and follows the frames; where they end, the segment whose header names that very
//! position (`prev_end`) continues the log. Where none does, the log ends, and everything behind is searched, block by
//! block, for stamps of this log: they tell how far it had been durable (the *watermark*), and thereby a torn tail from damage.

use kontiki_core::{Incarnation, LogIndex, Term};
use kontiki_frame::{BLOCK_BYTES, DiskStamp, Header, parse_header, verify};

use crate::index::LiveLog;
use crate::layout::all_zero;
use crate::segment_header::{Found, Identity};
use crate::{Cause, Damage, RecoveryReport};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A segment file, as listed and by its first block.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) number: u64,
    /// Length of the file in bytes.
    pub(crate) bytes: u64,
    pub(crate) found: Found,
    /// Part of the log.
    pub(crate) linked: bool,
    /// Holds traces of writes to this log that are not part of it: never to be written again while the log before it lives.
    pub(crate) evidence: bool,
}

/// Whether the reader of the files is to go on where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The next bytes of the same file, please.
    Continue,
    /// Ask [`Recovery::want`].
    Moved,
}

/// A frame that the walk took, for those who list them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken<'a> {
    pub(crate) stamp: DiskStamp,
    pub(crate) header: Header,
    pub(crate) bytes: &'a [u8],
}

/// Where to read from: a file, and an offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) file: usize,
    pub(crate) offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Following frames.
    Walk,
    /// Past the end, looking for stamps.
    Search,
    Done,
}

#[derive(Debug)]
pub(crate) struct Recovery {
    identity: Identity,
    segment_bytes: u64,
    files: Vec<SegmentFile>,
    mode: Mode,
    file: usize,
    /// Position of the next byte fed, or of the frame being gathered.
    at: u64,
    /// A frame of which not all was fed yet.
    partial: Vec<u8>,
    /// Its length in bytes, and what its first block said.
    pending: Option<(usize, DiskStamp, Header)>,
    log: LiveLog,
    boot: Incarnation,
    /// Newest boot number seen in anything of this log.
    seen_boot: Incarnation,
    watermark: u64,
    end: u64,
    cause: Cause,
    /// Whether the block at the log's end is all zeros, or there is none.
    blank_end: bool,
    frames: u64,
    frame_bytes: u64,
    dropped_bytes: u64,
    /// Where the search of the current file began, and up to where it found traces.
    traces: (u64, u64),
}

/// What recovery found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) log: LiveLog,
    pub(crate) files: Vec<SegmentFile>,
    /// Where the log ends.
    pub(crate) end: u64,
    pub(crate) watermark: u64,
    pub(crate) damage: Option<Damage>,
    /// Traces of writes past the end.
    pub(crate) evidence: bool,
    /// Nothing at all stands at the end.
    pub(crate) blank_end: bool,
    pub(crate) frames: u64,
    pub(crate) frame_bytes: u64,
    pub(crate) dropped_bytes: u64,
    pub(crate) newest_boot: Incarnation,
    pub(crate) cause: Cause,
}

impl Recovery {
    /// `files` by ascending number.
    pub(crate) fn new(identity: Identity, segment_bytes: u64, files: Vec<SegmentFile>) -> Recovery {
        assert!(files.is_sorted_by_key(|file| file.number), "segments are walked in order");
        let mut recovery = Recovery {
            identity,
            segment_bytes,
            mode: Mode::Search,
            file: 0,
            at: 0,
            partial: Vec::new(),
            pending: None,
            log: LiveLog::new(segment_bytes, LogIndex(0), Term(0)),
            boot: Incarnation(0),
            seen_boot: Incarnation(0),
            watermark: 0,
            end: segment_bytes,
            cause: Cause::SegmentEnd,
            blank_end: true,
            frames: 0,
            frame_bytes: 0,
            dropped_bytes: 0,
            traces: (0, 0),
            files,
        };
        recovery.begin();
        recovery
    }

    fn begin(&mut self) {
        let Some(oldest) = self.files.first() else {
            self.mode = Mode::Done;
            return;
        };
        if let Found::Own(header) = oldest.found {
            self.log = LiveLog::new(self.segment_bytes, header.prev_index, header.prev_term);
            self.enter(0);
            return;
        }
        self.end = oldest.number * self.segment_bytes;
        self.cause = Cause::SegmentHeader;
        match self.successor() {
            Some(next) => self.enter(next),
            None => self.search(0),
        }
    }

    /// What to read next; `None` when all is found.
    pub(crate) fn want(&self) -> Option<Want> {
        let number = self.files.get(self.file)?.number;
        (self.mode != Mode::Done).then(|| Want { file: self.file, offset: self.read_to() - number * self.segment_bytes })
    }

    /// Position of the next byte to be fed.
    fn read_to(&self) -> u64 {
        self.at + self.partial.len() as u64
    }

    pub(crate) fn files(&self) -> &[SegmentFile] {
        &self.files
    }

    /// The segment that continues a log which ends at `self.end`.
    fn successor(&self) -> Option<usize> {
        let from = if self.log.end().is_some() { self.file + 1 } else { 0 };
        let continues = |file: &SegmentFile| match file.found {
            Found::Own(header) => {
                header.prev_end == self.end
                    && header.prev_index == self.log.last()
                    && header.prev_term == self.log.last_term()
                    && header.boot >= self.boot
            }
            _ => false,
        };
        // The newest, should an older one have been left behind by a start that was cut short.
        (from..self.files.len()).rev().find(|&at| self.files.get(at).is_some_and(continues))
    }

    fn enter(&mut self, file: usize) {
        let Some(SegmentFile { number, found: Found::Own(header), linked, .. }) = self.files.get_mut(file) else { return };
        *linked = true;
        self.boot = self.boot.max(header.boot);
        self.seen_boot = self.seen_boot.max(header.boot);
        self.log.open_segment(*number);
        self.file = file;
        self.at = *number * self.segment_bytes + BLOCK;
        self.mode = Mode::Walk;
    }

    /// Looks for traces in `file` from its first frame on.
    fn search(&mut self, file: usize) {
        self.mode = Mode::Done;
        self.file = file;
        let Some(found) = self.files.get_mut(file) else { return };
        self.mode = Mode::Search;
        self.at = found.number * self.segment_bytes + BLOCK;
        self.traces = (self.at, self.at);
        if !matches!(found.found, Found::Unused { .. }) {
            found.evidence = true;
        }
        if let Found::Own(header) = found.found {
            self.seen_boot = self.seen_boot.max(header.boot);
        }
    }

    /// The next bytes of the file that [`Recovery::want`] named, whole blocks. `taken` sees every frame that becomes part of the log.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], taken: &mut dyn FnMut(Taken<'_>)) -> Flow {
        assert!(bytes.len().is_multiple_of(BLOCK_BYTES), "whole blocks are fed");
        while !bytes.is_empty() {
            match self.mode {
                Mode::Done => return Flow::Moved,
                Mode::Search => {
                    self.search_blocks(bytes);
                    return Flow::Continue;
                }
                Mode::Walk => {
                    if self.pending.is_none() {
                        match self.measure(bytes) {
                            Ok(pending) => self.pending = Some(pending),
                            Err(cause) => match self.ends(cause) {
                                Flow::Moved => return Flow::Moved,
                                Flow::Continue => continue,
                            },
                        }
                    }
                    let Some((length, stamp, header)) = self.pending else { continue };
                    let missing = length - self.partial.len();
                    let (part, rest) = bytes.split_at(missing.min(bytes.len()));
                    if !self.partial.is_empty() || part.len() < length {
                        self.partial.extend_from_slice(part);
                    }
                    bytes = rest;
                    if part.len() < missing {
                        continue;
                    }
                    self.pending = None;
                    let gathered = std::mem::take(&mut self.partial);
                    let frame = if gathered.is_empty() { part } else { &gathered };
                    let flow = match verify(frame) {
                        Ok(_) => {
                            taken(Taken { stamp, header, bytes: frame });
                            self.take(stamp, header, frame.len());
                            Flow::Continue
                        }
                        Err(error) => {
                            let flow = self.ends(error.into());
                            if flow == Flow::Continue {
                                self.search_blocks(frame);
                            }
                            flow
                        }
                    };
                    self.partial = gathered;
                    self.partial.clear();
                    if flow == Flow::Moved {
                        return flow;
                    }
                }
            }
        }
        Flow::Continue
    }

    /// The file ended, or the reader reached the end of the segment.
    pub(crate) fn end_of_file(&mut self) -> Flow {
        match self.mode {
            Mode::Done => {}
            Mode::Search => self.search_next(),
            Mode::Walk => {
                self.pending = None;
                let gathered = std::mem::take(&mut self.partial);
                let cause = if gathered.is_empty() { Cause::SegmentEnd } else { Cause::TooLong };
                if self.ends(cause) == Flow::Continue {
                    self.search_blocks(&gathered);
                    self.search_next();
                }
                self.partial = gathered;
                self.partial.clear();
            }
        }
        Flow::Moved
    }

    fn search_next(&mut self) {
        self.count_traces();
        self.search(self.file + 1);
    }

    fn count_traces(&mut self) {
        let (from, to) = std::mem::take(&mut self.traces);
        self.dropped_bytes += to - from;
    }

    /// Checks the first block of a frame: everything but the body.
    fn measure(&mut self, block: &[u8]) -> Result<(usize, DiskStamp, Header), Cause> {
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

    fn take(&mut self, stamp: DiskStamp, header: Header, length: usize) {
        self.log.push(self.at, length as u64, &header.meta, stamp.range);
        self.boot = stamp.boot;
        self.seen_boot = self.seen_boot.max(stamp.boot);
        self.watermark = self.watermark.max(stamp.watermark);
        self.frames += 1;
        self.frame_bytes += length as u64;
        self.at += length as u64;
    }

    /// The frames of this segment end at `self.at`: on to the segment that continues them, or to the search.
    fn ends(&mut self, cause: Cause) -> Flow {
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
                Flow::Continue
            }
        }
    }

    fn search_blocks(&mut self, bytes: &[u8]) {
        for block in bytes.chunks_exact(BLOCK_BYTES) {
            self.search_block(block);
            self.at += BLOCK;
        }
    }

    /// Is there a trace of this log in the block at `self.at`?
    fn search_block(&mut self, block: &[u8]) {
        let Some(file) = self.files.get_mut(self.file) else { return };
        let blank = all_zero(block);
        if self.at == self.end {
            self.blank_end = blank;
        }
        let generation = match file.found {
            Found::Own(header) => Some(header.generation),
            Found::Unused { generation } => Some(generation),
            Found::Damaged => None,
        };
        if blank {
            return;
        }
        // Before its first use a file holds zeros, so whatever else stands there was written to this log.
        let mut trace = (generation == Some(0)).then_some(BLOCK);
        if let Ok(stamp) = DiskStamp::parse(block)
            && stamp.position == self.at
            && generation.is_none_or(|generation| stamp.generation == generation)
            && let Ok(header) = parse_header(block)
            && header.cluster == self.identity.cluster
            && header.group == self.identity.group
        {
            // The stamp is intact, and so was written when its watermark was true; the body may be torn.
            if stamp.watermark <= stamp.position {
                self.watermark = self.watermark.max(stamp.watermark);
            }
            self.seen_boot = self.seen_boot.max(stamp.boot);
            trace = Some(header.frame_bytes() as u64);
        }
        if let Some(bytes) = trace {
            file.evidence = true;
            let limit = (file.number + 1) * self.segment_bytes;
            self.traces.1 = self.traces.1.max((self.at + bytes).min(limit));
        }
    }

    /// The verdict. `initialised`: a first start was finished, so there must be a log. `clean_end`: where it ended when it was closed in
    /// order: all of it was durable then.
    pub(crate) fn finish(mut self, initialised: bool, clean_end: u64) -> Recovered {
        self.watermark = self.watermark.max(clean_end);
        assert_eq!(self.mode, Mode::Done, "every file was read");
        let tail = self.log.end().map_or(0, |end| (end - 1) / self.segment_bytes);
        let there = |number: u64| self.files.binary_search_by_key(&number, |file| file.number).is_ok();
        let missing = self.files.iter().filter(|file| file.number > tail).find_map(|file| match file.found {
            Found::Own(header) => {
                let before = header.prev_end.saturating_sub(1) / self.segment_bytes;
                (before >= tail && !there(before)).then_some(before)
            }
            _ => None,
        });
        // The first segment's file is durable before a first start is finished, and the newest is never released.
        let lost = match self.files.first() {
            None => initialised.then_some(1),
            Some(oldest) => {
                (self.log.end().is_none() && oldest.number > 1 && matches!(oldest.found, Found::Unused { .. })).then(|| oldest.number - 1)
            }
        };
        let cause = match missing.or(lost) {
            Some(number) => Some(Cause::SegmentMissing { number }),
            None => (self.end < self.watermark).then_some(self.cause),
        };
        let damage = cause.map(|cause| Damage {
            segment: self.end / self.segment_bytes,
            offset: self.end % self.segment_bytes,
            position: self.end,
            watermark: self.watermark,
            cause,
        });
        let evidence = self.files.iter().any(|file| file.evidence);
        Recovered {
            log: self.log,
            files: self.files,
            end: self.end,
            watermark: self.watermark,
            damage,
            evidence,
            blank_end: self.blank_end,
            frames: self.frames,
            frame_bytes: self.frame_bytes,
            dropped_bytes: self.dropped_bytes,
            newest_boot: self.seen_boot,
            cause: self.cause,
        }
    }
}

impl Recovered {
    /// The part of the report that is the walk's.
    pub(crate) fn report(&self) -> RecoveryReport {
        RecoveryReport {
            segments: self.files.iter().filter(|file| file.linked).count(),
            frames: self.frames,
            bytes: self.frame_bytes,
            first: self.log.first(),
            last: self.log.last(),
            last_term: self.log.last_term(),
            end: self.end,
            watermark: self.watermark,
            dropped_tail_bytes: self.dropped_bytes,
            damage: self.damage,
            ..RecoveryReport::default()
        }
    }
}

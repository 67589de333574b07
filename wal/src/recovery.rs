//! Finding the log in what the disk gives back. Pure: bytes go in, [`Recovery::want`] says which ones next.
//!
//! The walk starts at the oldest segment and follows the frames; where they end, the segment whose header names that very
//! position (`prev_end`) continues the log. Where none does, the log ends, and everything behind is searched, block by
//! block, for stamps of this log: they tell how far it had been durable (the *watermark*), and thereby a torn tail from damage.
//! What no stamp can tell, because the file that it stood in is gone, the hard state does: which segments there must be, and how far the log
//! was durable when it was written.

use kontiki_core::{Incarnation, LogIndex, Term};
use kontiki_frame::{BLOCK_BYTES, DiskStamp, Header, parse_header, verify};

use crate::hard_state::{Record, SegmentSpan};
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
    /// Number of the segment that the log begins in. What lies below was released.
    oldest: u64,
    /// The last start, and where the log ended then.
    last_start: (Incarnation, u64),
    /// That segment was lost before this start, and the log begun anew.
    anew: bool,
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
    /// Newest segment that anything of this log was seen in, at its own place.
    seen_segment: u64,
    watermark: u64,
    end: u64,
    cause: Cause,
    /// What lies between the log's end and this position is zeros.
    blank_to: u64,
    frames: u64,
    frame_bytes: u64,
    longest_frame: usize,
    dropped_bytes: u64,
    /// The first thing found behind the end that never was written to where it stands.
    strange: Option<(u64, Cause)>,
    /// In the search: up to here blocks may be the inside of a frame, whose entries may look like anything.
    inside: u64,
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
    /// What lies between the end and this position is zeros.
    pub(crate) blank_to: u64,
    /// Nothing was ever written behind the end but what had not been acknowledged: there is a block of zeros, or no place for a block; and no
    /// segment after it whose header was lost.
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
    /// `files` by ascending number. The log begins where the hard state says; files below that are left alone.
    pub(crate) fn new(identity: Identity, segment_bytes: u64, files: Vec<SegmentFile>, record: &Record) -> Recovery {
        assert!(files.is_sorted_by_key(|file| file.number), "segments are walked in order");
        let mut recovery = Recovery {
            identity,
            segment_bytes,
            oldest: record.span.oldest,
            last_start: (record.incarnation, record.began),
            anew: false,
            mode: Mode::Search,
            file: 0,
            at: 0,
            partial: Vec::new(),
            pending: None,
            log: LiveLog::new(segment_bytes, LogIndex(0), Term(0)),
            boot: Incarnation(0),
            seen_boot: Incarnation(0),
            seen_segment: 0,
            watermark: 0,
            end: segment_bytes,
            cause: Cause::SegmentEnd,
            blank_to: 0,
            frames: 0,
            frame_bytes: 0,
            longest_frame: 0,
            dropped_bytes: 0,
            strange: None,
            inside: 0,
            traces: (0, 0),
            files,
        };
        recovery.begin();
        recovery
    }

    fn begin(&mut self) {
        let first = self.first();
        self.end = self.oldest * self.segment_bytes;
        self.cause = Cause::SegmentHeader;
        let begins = self.file_of(self.oldest).is_some_and(|file| matches!(file.found, Found::Own(_)));
        if !begins && let Some(next) = self.successor() {
            // What it began with was lost before, and it was begun anew.
            self.anew = true;
            return self.enter(next);
        }
        let Some(oldest) = self.files.get(first) else {
            self.mode = Mode::Done;
            return;
        };
        self.end = oldest.number * self.segment_bytes;
        if let Found::Own(header) = oldest.found {
            self.log = LiveLog::new(self.segment_bytes, header.prev_index, header.prev_term);
            self.enter(first);
        } else {
            self.search(first);
        }
    }

    /// The first file that is not released.
    fn first(&self) -> usize {
        self.files.partition_point(|file| file.number < self.oldest)
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
        let from = if self.log.end().is_some() { self.file + 1 } else { self.first() };
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
        self.seen_segment = self.seen_segment.max(*number);
        self.log.open_segment(*number);
        self.file = file;
        self.at = *number * self.segment_bytes + BLOCK;
        self.mode = Mode::Walk;
    }

    /// Looks for traces in `file` from its first frame on.
    fn search(&mut self, file: usize) {
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

    /// Whether the file of segment `number` may have been that of segment `former` before. A file is recycled once the log has gone on
    /// durably behind it, to a number that was not used yet, and leaves none of its own number.
    fn was_released(&self, former: u64, number: u64) -> bool {
        former < number && self.tail().is_none_or(|tail| former < tail) && self.file_of(former).is_none()
    }

    /// Number of the segment that the log ends in.
    fn tail(&self) -> Option<u64> {
        self.log.end().map(|end| (end - 1) / self.segment_bytes)
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
                        Ok(_) if self.is_of_the_dead(&stamp) => {
                            let cause = Cause::BootFell { before: self.last_start.0, found: stamp.boot };
                            let flow = self.ends(cause);
                            if flow == Flow::Continue {
                                self.strange.get_or_insert((self.at, cause));
                                self.search_blocks(frame);
                            }
                            flow
                        }
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

    /// Whether a frame stands where nothing stood at the last start, and was written by a process before that. The lock keeps the writes of a
    /// dead process from coming so late. Where it could not, whatever the last process wrote there is gone.
    fn is_of_the_dead(&self, stamp: &DiskStamp) -> bool {
        let (boot, end) = self.last_start;
        stamp.position >= end && stamp.boot < boot
    }

    fn take(&mut self, stamp: DiskStamp, header: Header, length: usize) {
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
                // The end may lie in a frame of a former life. The block at the end is looked at whatever it may be.
                self.inside = u64::MAX;
                self.blank_to = self.end;
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

    /// Is there a trace of this log in the block at `self.at`, or something that never was written here?
    fn search_block(&mut self, block: &[u8]) {
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

    /// The verdict, by what the hard state says: whether a first start was finished, so that there must be a log; where it ended when it was
    /// closed in order, all of it durable; which segments there must be. `applied` is the last entry that the state machine has.
    pub(crate) fn finish(mut self, record: &Record, applied: LogIndex) -> Recovered {
        assert_eq!(self.mode, Mode::Done, "every file was read");
        self.watermark = self.watermark.max(record.clean_end).max(record.watermark);
        let begin = record.span.oldest;
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
        let usable = whole && self.is_of_use(applied);
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
        let marked = (full || self.blank_to > self.end) && !header_lost;
        Recovered {
            log: self.log,
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
}

impl Recovery {
    fn file_of(&self, number: u64) -> Option<&SegmentFile> {
        self.files.binary_search_by_key(&number, |file| file.number).ok().and_then(|at| self.files.get(at))
    }

    /// The first segment behind the log's end that must be there and is not: numbers have no gaps there, up to the newest that the hard state
    /// names. A released file that was to become the newest is still there under its old name, if a crash came before its new one.
    fn missing(&self, record: &Record) -> Option<u64> {
        let SegmentSpan { oldest, newest, source, .. } = record.span;
        let from = self.tail().map_or(oldest, |tail| tail + 1);
        let number = (from..=newest).find(|&number| self.file_of(number).is_none())?;
        (number < newest || self.file_of(source).is_none()).then_some(number)
    }

    /// A file behind the log's end that is not the one that was prepared: every one has a segment's length from before it has its name, and
    /// of the newest the hard state knows how often it was used.
    fn wrong_file(&self, record: &Record) -> Option<(u64, Cause)> {
        if !record.initialised {
            return None;
        }
        let from = self.tail().unwrap_or(record.span.oldest);
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

    /// Whether what is left of the log goes on where the state machine is: it could never be given what is missing before it.
    fn is_of_use(&self, applied: LogIndex) -> bool {
        self.log.first().0 <= applied.0.saturating_add(1)
    }

    /// Of a log whose beginning is missing nothing can be taken if its end is not whole: what the first file that is left says of the entry
    /// before it may have been superseded by what is gone. Nor if the state machine lacks entries from before: peers give it all of them.
    fn give_up_beginning(&mut self) {
        for file in self.files.iter_mut().filter(|file| file.number >= self.oldest) {
            file.evidence |= file.linked;
            file.linked = false;
        }
        self.log = LiveLog::new(self.segment_bytes, LogIndex(0), Term(0));
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

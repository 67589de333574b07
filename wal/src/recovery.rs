//! Finding the log in what the disk gives back. Pure: bytes go in, [`Recovery::want`] says which ones next.
//!
//! The walk starts at the oldest segment and follows the frames; where they end, the segment whose header names that
//! very position (`prev_end`) continues the log. Where none does, the log ends, and everything behind is searched,
//! block by block, for stamps of this log: they tell how far it had been durable (the *watermark*), and thereby a torn
//! tail from damage. What no stamp can tell, because the file that it stood in is gone, the hard state does: which
//! segments there must be, and how far the log was durable when it was written.

mod search;
mod verdict;
mod walk;

pub(crate) use verdict::Recovered;

use kontiki_core::{Base, Incarnation};
use kontiki_frame::fields::all_zero;
use kontiki_frame::{BLOCK_BYTES, DiskStamp, Header, SECTOR_BYTES, verify, was_cut_short};

use crate::Cause;
use crate::hard_state::Record;
use crate::index::LiveLog;
use crate::report::Chain;
use crate::segment_header::{Found, Identity, SegmentHeader};

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
    /// Holds traces of writes to this log that are not part of it: never to be written again while the log before it
    /// lives.
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
    /// Number of the segment that the log begins in. What lies below was released, or is another chain.
    oldest: u64,
    /// What it begins with, if that is a base segment.
    chain: Option<Chain>,
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
    /// What stands at the log's end was never written whole: a sector is still zeros that would not be.
    cut_short: bool,
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

impl Recovery {
    /// `files` by ascending number. The log begins where the hard state says; files below that are left alone.
    pub(crate) fn new(identity: Identity, segment_bytes: u64, files: Vec<SegmentFile>, record: &Record) -> Recovery {
        assert!(files.is_sorted_by_key(|file| file.number), "segments are walked in order");
        let mut recovery = Recovery {
            identity,
            segment_bytes,
            oldest: record.span.oldest,
            chain: None,
            last_start: (record.incarnation, record.began),
            anew: false,
            mode: Mode::Search,
            file: 0,
            at: 0,
            partial: Vec::new(),
            pending: None,
            log: LiveLog::new(segment_bytes, Base::default()),
            boot: Incarnation(0),
            seen_boot: Incarnation(0),
            seen_segment: 0,
            watermark: 0,
            end: segment_bytes,
            cause: Cause::SegmentEnd,
            blank_to: 0,
            cut_short: false,
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
        if let Some((at, header, digest)) = self.newest_base() {
            return self.begin_chain(at, header, digest);
        }
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
            self.log = LiveLog::new(self.segment_bytes, header.prev);
            self.enter(first);
        } else {
            self.search(first);
        }
    }

    /// The newest intact base segment that is not released. It was made when the snapshot that it goes on from was
    /// durable, and the hard state names it before it holds a frame: so what lies below it counts no more, whether the
    /// hard state says so already or not.
    fn newest_base(&self) -> Option<(usize, SegmentHeader, u128)> {
        let base = |(at, file): (usize, &SegmentFile)| match file.found {
            Found::Own(header) => Some((at, header, header.digest?)),
            _ => None,
        };
        self.files.iter().enumerate().skip(self.first()).rev().find_map(base)
    }

    fn begin_chain(&mut self, at: usize, header: SegmentHeader, digest: u128) {
        let (boot, end) = self.last_start;
        let position = header.number * self.segment_bytes;
        if position >= end && header.boot < boot {
            // The last start found another log, and whatever went on from there is gone.
            self.strange = Some((position, Cause::BootFell { before: boot, found: header.boot }));
        }
        self.oldest = header.number;
        self.chain = Some(Chain { base: header.prev, digest });
        self.log = LiveLog::new(self.segment_bytes, header.prev);
        self.enter(at);
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

    /// Number of the segment that the log ends in.
    fn tail(&self) -> Option<u64> {
        self.log.end().map(|end| (end - 1) / self.segment_bytes)
    }

    /// The next bytes of the file that [`Recovery::want`] named, whole blocks. `taken` sees every frame that becomes
    /// part of the log.
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
                                Flow::Continue => {
                                    // No stamp begins with a sector of zeros.
                                    self.cut_short = bytes.get(..SECTOR_BYTES).is_some_and(all_zero);
                                    continue;
                                }
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
                                self.cut_short = was_cut_short(frame, &header);
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

    fn file_of(&self, number: u64) -> Option<&SegmentFile> {
        self.files.binary_search_by_key(&number, |file| file.number).ok().and_then(|at| self.files.get(at))
    }
}

//! Reading the log back: whole frames for followers and apply, terms of old entries for the core.
//!
//! A read starts at an extent (or where the last sequential read ended) and goes forward frame by frame. What it finds
//! is checked like everything that comes from a disk, and narrowed to what is alive when the read completes.

use std::collections::VecDeque;

use kontiki_core::{FrameMeta, IndexRange, LogIndex, Term};
use kontiki_frame::{BLOCK_BYTES, DiskStamp, Header, parse_header, verify};
use kontiki_io::{Io, IoBuf, IoError, IoErrorKind, Op, Output};
use kontiki_mem::{Pool, PoolBuf};

use crate::index::{KnownTerm, LiveLog, Place};
use crate::limits::{LOOKUP_BUFFERS, LOOKUP_BYTES, MAX_FRAME_READS, MAX_FRAMES_PER_READ, MAX_PLACES, MAX_READS};
use crate::segment_header::Identity;
use crate::segments::Segments;
use crate::token::Purpose;
use crate::{Cause, Damage};

/// A frame in the buffer of a read: stamp, sealed header, entries and padding, as [`kontiki_frame::verify`] accepted
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameAt {
    /// Where in the buffer it starts, in bytes: a multiple of 4096.
    pub offset: usize,
    /// How long it is, in bytes: a multiple of 4096.
    pub bytes: usize,
    /// Its sealed header's terms and indexes.
    pub meta: FrameMeta,
    /// What of it is alive and was asked for. Less than its stamp says, if a later frame superseded a part.
    pub range: IndexRange,
}

/// What a read found, in the order of the log: ranges without a gap, the first from the index asked for.
pub type Frames = heapless::Vec<FrameAt, MAX_FRAMES_PER_READ>;

/// Why a read found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The log begins later.
    #[error("the log begins at index {first}")]
    Gone {
        /// Its first index.
        first: LogIndex,
    },
    /// Not in the log, or not durable yet: newer frames are in memory only.
    #[error("not durable yet")]
    NotDurable,
    /// One frame is longer than the buffer.
    #[error("a frame of {needed} bytes in a buffer of {given}")]
    BufferTooSmall {
        /// Length of the frame in bytes.
        needed: usize,
        /// Length of the buffer in bytes.
        given: usize,
    },
    /// What was durable is not what was written.
    #[error("{0}")]
    Damaged(Damage),
    /// The device failed.
    #[error("cannot read the log: {0}")]
    Io(IoError),
}

/// A finished read or lookup.
#[derive(Debug)]
pub(crate) enum Finished {
    Frames { tag: u64, buf: PoolBuf, result: Result<Frames, ReadError> },
    Term { tag: u64, index: LogIndex, result: Result<Option<Term>, ReadError> },
}

#[derive(Clone, Copy, Debug)]
enum Sought {
    Frames { tag: u64, from: LogIndex, upto: LogIndex },
    Term { tag: u64, index: LogIndex },
}

impl Sought {
    fn from(&self) -> LogIndex {
        match *self {
            Sought::Frames { from, .. } => from,
            Sought::Term { index, .. } => index,
        }
    }
}

/// A read in progress.
#[derive(Clone, Copy, Debug)]
struct Reading {
    sought: Sought,
    /// Where the search began.
    began: Place,
    /// What the operation under way reads.
    position: u64,
    bytes: usize,
    /// Where what may be read ended then.
    stop: u64,
}

/// What reads need to know of the log.
pub(crate) struct Context<'a> {
    pub(crate) log: &'a LiveLog,
    pub(crate) segments: &'a mut Segments,
    pub(crate) durable: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) identity: &'a Identity,
    pub(crate) io: &'a mut dyn Io,
}

#[derive(Debug)]
pub(crate) struct Reads {
    slots: [Option<Reading>; MAX_READS],
    /// Buffers of those among them that the system lacked something for: nothing is outstanding, and they are to be
    /// tried again.
    waiting: [Option<PoolBuf>; MAX_READS],
    /// Lookups that wait for a slot and a buffer.
    lookups: VecDeque<(u64, LogIndex)>,
    buffers: Pool,
    /// Where sequential readers go on: the entry, and a frame that is not behind it. A hint: it may lead nowhere when
    /// entries were superseded or released since, and then the read starts at its extent.
    places: VecDeque<(LogIndex, Place)>,
    finished: VecDeque<Finished>,
}

/// What a look through a buffer came to.
enum Look {
    Frames(Frames, Option<(LogIndex, u64)>),
    Term(Term),
    /// Nothing yet: read on from here.
    On(u64),
    /// Not there.
    Missing,
}

impl Reads {
    pub(crate) fn new() -> Reads {
        Reads {
            slots: [None; MAX_READS],
            waiting: [const { None }; MAX_READS],
            lookups: VecDeque::with_capacity(MAX_READS),
            buffers: Pool::new(LOOKUP_BUFFERS, LOOKUP_BYTES),
            places: VecDeque::with_capacity(MAX_PLACES),
            finished: VecDeque::with_capacity(3 * MAX_READS),
        }
    }

    pub(crate) fn idle(&self) -> bool {
        self.slots.iter().all(Option::is_none) && self.lookups.is_empty()
    }

    /// Operations outstanding.
    pub(crate) fn in_progress(&self) -> usize {
        self.slots.iter().flatten().count() - self.waiting.iter().flatten().count()
    }

    /// Whether a read waits to be tried again.
    pub(crate) fn waits(&self) -> bool {
        self.waiting.iter().any(Option::is_some)
    }

    /// Tries again what waits for that.
    pub(crate) fn again(&mut self, context: &mut Context<'_>) {
        for slot in 0..MAX_READS {
            let buf = self.waiting.get_mut(slot).and_then(Option::take);
            if let (Some(buf), Some(Some(reading))) = (buf, self.slots.get(slot)) {
                let file = context.segments.get_mut(reading.began.segment).map(|segment| segment.file);
                let Some(file) = file else { panic!("a segment that is read stays") };
                let offset = reading.position % context.segment_bytes;
                let op = Op::Read { file, offset, buf: IoBuf::Pool(buf), len: reading.bytes };
                context.io.submit(Purpose::Read(slot as u64).token(), op);
            }
        }
    }

    pub(crate) fn finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    pub(crate) fn read(
        &mut self,
        tag: u64,
        from: LogIndex,
        upto: LogIndex,
        buf: PoolBuf,
        context: &mut Context<'_>,
    ) -> Result<(), PoolBuf> {
        // The other slots are for lookups, which nobody who reads without a pause is to starve.
        let frames = self.slots.iter().flatten().filter(|reading| matches!(reading.sought, Sought::Frames { .. })).count();
        if frames >= MAX_FRAME_READS || self.finished.len() >= MAX_READS {
            return Err(buf);
        }
        self.start(Sought::Frames { tag, from, upto }, buf, context);
        Ok(())
    }

    pub(crate) fn lookup(&mut self, tag: u64, index: LogIndex, context: &mut Context<'_>) -> bool {
        if self.lookups.len() >= MAX_READS || self.finished.len() >= MAX_READS {
            return false;
        }
        self.lookups.push_back((tag, index));
        self.pump(context);
        true
    }

    /// Starts lookups for which there is a slot, a buffer, and durable log.
    pub(crate) fn pump(&mut self, context: &mut Context<'_>) {
        while let Some(&(tag, index)) = self.lookups.front() {
            let known = match context.log.term_at(index) {
                KnownTerm::Term(term) => Some(Some(term)),
                KnownTerm::Absent => Some(None),
                KnownTerm::OnDisk => None,
            };
            if let Some(term) = known {
                self.finished.push_back(Finished::Term { tag, index, result: Ok(term) });
            } else {
                let free = self.slots.iter().any(Option::is_none);
                let durable = context.log.locate(index).is_some_and(|place| place.position < context.durable);
                let Some(buf) = (free && durable).then(|| self.buffers.take()).flatten() else { return };
                self.start(Sought::Term { tag, index }, buf, context);
            }
            self.lookups.pop_front();
        }
    }

    fn start(&mut self, sought: Sought, buf: PoolBuf, context: &mut Context<'_>) {
        let from = sought.from();
        if from < context.log.first() {
            return self.finish(sought, buf, Err(ReadError::Gone { first: context.log.first() }));
        }
        let remembered = self.places.iter().position(|(index, _)| *index == from).and_then(|at| self.places.remove(at));
        let remembered =
            remembered.map(|(_, place)| place).filter(|place| context.log.end_of(place.segment).is_some_and(|end| place.position < end));
        match remembered.filter(|_| from <= context.log.last()).or_else(|| context.log.locate(from)) {
            Some(place) => self.submit(sought, place, place.position, buf, context),
            None => self.finish(sought, buf, Err(ReadError::NotDurable)),
        }
    }

    /// Reads on from `position`, in the segment where the search began.
    fn submit(&mut self, sought: Sought, began: Place, position: u64, buf: PoolBuf, context: &mut Context<'_>) {
        let stop = context.log.end_of(began.segment).unwrap_or(0).min(context.durable);
        let Some(left) = stop.checked_sub(position).filter(|&left| left > 0) else {
            return self.finish(sought, buf, Err(ReadError::NotDurable));
        };
        let Some(slot) = self.slots.iter().position(Option::is_none) else { panic!("a slot was free") };
        let Some(segment) = context.segments.get_mut(began.segment) else { panic!("the index knows only segments that there are") };
        segment.readers += 1;
        let file = segment.file;
        let bytes = left.min(buf.len() as u64) as usize;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Reading { sought, began, position, bytes, stop });
        }
        let op = Op::Read { file, offset: position % context.segment_bytes, buf: IoBuf::Pool(buf), len: bytes };
        context.io.submit(Purpose::Read(slot as u64).token(), op);
    }

    fn finish(&mut self, sought: Sought, buf: PoolBuf, result: Result<Frames, ReadError>) {
        self.finished.push_back(match sought {
            Sought::Frames { tag, .. } => Finished::Frames { tag, buf, result },
            // Nothing was found, or this would be a term.
            Sought::Term { tag, index } => Finished::Term { tag, index, result: result.map(|_| None) },
        });
    }

    pub(crate) fn done(&mut self, slot: u64, result: Result<Output, IoError>, buf: Option<IoBuf>, context: &mut Context<'_>) {
        let slot = slot as usize;
        let reading = self.slots.get_mut(slot).and_then(Option::take);
        let (Some(reading), Some(IoBuf::Pool(buf))) = (reading, buf) else { panic!("a completion for a read that is not in progress") };
        if let Err(IoError { kind: IoErrorKind::Shortage, .. }) = result
            && let (Some(place), Some(waiting)) = (self.slots.get_mut(slot), self.waiting.get_mut(slot))
        {
            (*place, *waiting) = (Some(reading), Some(buf));
            return;
        }
        let mut generation = 0;
        if let Some(segment) = context.segments.get_mut(reading.began.segment) {
            segment.readers -= 1;
            generation = segment.generation;
        }
        let sought = reading.sought;
        let read = match result {
            Ok(Output::Bytes(bytes)) => bytes.min(reading.bytes),
            Ok(other) => panic!("a read yielded {other:?}"),
            Err(error) => return self.finish(sought, buf, Err(ReadError::Io(error))),
        };
        if sought.from() < context.log.first() {
            return self.finish(sought, buf, Err(ReadError::Gone { first: context.log.first() }));
        }
        match look(&reading, buf.bytes().get(..read).unwrap_or_default(), buf.len(), generation, context) {
            Ok(Look::Frames(frames, place)) => {
                if let Some((next, position)) = place {
                    self.remember(next, Place { segment: reading.began.segment, position });
                }
                self.finish(sought, buf, Ok(frames));
            }
            Ok(Look::Term(term)) => {
                if let Sought::Term { tag, index } = sought {
                    self.finished.push_back(Finished::Term { tag, index, result: Ok(Some(term)) });
                }
            }
            Ok(Look::On(position)) => self.submit(sought, reading.began, position, buf, context),
            // Superseded meanwhile, or a remembered place that led nowhere: from its extent once more.
            Ok(Look::Missing) if context.log.locate(sought.from()) != Some(reading.began) => self.start(sought, buf, context),
            Ok(Look::Missing) => {
                let error = damaged(reading.began.position, Cause::Vanished, context);
                self.finish(sought, buf, Err(error));
            }
            Err(error) => self.finish(sought, buf, Err(error)),
        }
    }

    fn remember(&mut self, next: LogIndex, place: Place) {
        self.places.retain(|(index, _)| *index != next);
        if self.places.len() == MAX_PLACES {
            self.places.pop_front();
        }
        self.places.push_back((next, place));
    }
}

fn damaged(position: u64, cause: Cause, context: &Context<'_>) -> ReadError {
    let (segment, offset) = (position / context.segment_bytes, position % context.segment_bytes);
    ReadError::Damaged(Damage { segment, offset, position, end: position, watermark: context.durable, cause })
}

/// Checks the first block of the frame at `position`: everything but the body.
fn first_block(block: &[u8], position: u64, stop: u64, generation: u64, identity: &Identity) -> Result<(DiskStamp, Header), Cause> {
    let stamp = DiskStamp::parse(block)?;
    if stamp.position != position || stamp.generation != generation {
        return Err(Cause::Stale);
    }
    let header = parse_header(block)?;
    if header.cluster != identity.cluster || header.group != identity.group || stamp.node != identity.node {
        return Err(Cause::Foreign);
    }
    header.check_range(stamp.range)?;
    if header.frame_bytes() as u64 > stop - position {
        return Err(Cause::TooLong);
    }
    Ok((stamp, header))
}

/// Goes through what was read, frame by frame.
fn look(reading: &Reading, bytes: &[u8], buffer_bytes: usize, generation: u64, context: &Context<'_>) -> Result<Look, ReadError> {
    let mut frames = Frames::new();
    let mut expected = reading.sought.from();
    let mut position = reading.position;
    let mut place = None;
    loop {
        let offset = (position - reading.position) as usize;
        if position >= reading.stop {
            break;
        }
        let rest = bytes.get(offset..).unwrap_or_default();
        if rest.len() < BLOCK_BYTES {
            if bytes.len() < reading.bytes {
                return Err(damaged(position, Cause::TooLong, context));
            }
            return Ok(if frames.is_empty() { Look::On(position) } else { Look::Frames(frames, place) });
        }
        let (stamp, header) = match first_block(rest, position, reading.stop, generation, context.identity) {
            Ok(found) => found,
            // What came before is good; the next read begins here and says what is wrong.
            Err(_) if !frames.is_empty() => break,
            Err(cause) => return Err(damaged(position, cause, context)),
        };
        let length = header.frame_bytes();
        let upto = match reading.sought {
            Sought::Frames { upto, .. } => upto,
            Sought::Term { index, .. } => index,
        };
        let live = context.log.live(position, stamp.range);
        let wanted = live.map(|live| IndexRange { from: live.from.max(expected), to: live.to.min(upto) }).filter(|r| r.from <= r.to);
        let Some(range) = wanted else {
            if !frames.is_empty() {
                break;
            }
            position += length as u64;
            continue;
        };
        if range.from != expected {
            break;
        }
        if let Sought::Term { .. } = reading.sought {
            return Ok(Look::Term(header.meta.term));
        }
        let Some(frame) = rest.get(..length) else {
            if !frames.is_empty() {
                break;
            }
            if offset > 0 {
                return Ok(Look::On(position));
            }
            if bytes.len() < reading.bytes {
                return Err(damaged(position, Cause::TooLong, context));
            }
            return Err(ReadError::BufferTooSmall { needed: length, given: buffer_bytes });
        };
        if let Err(error) = verify(frame) {
            if !frames.is_empty() {
                break;
            }
            return Err(damaged(position, error.into(), context));
        }
        let pushed = frames.push(FrameAt { offset, bytes: length, meta: header.meta, range });
        assert!(pushed.is_ok(), "a full list ends the look");
        expected = range.to.next();
        // A frame that was narrowed at its end is where the next read begins again.
        let whole = range.to == stamp.range.to;
        place = Some((expected, if whole { position + length as u64 } else { position }));
        if expected > upto || frames.is_full() {
            break;
        }
        position += length as u64;
    }
    Ok(if frames.is_empty() { Look::Missing } else { Look::Frames(frames, place) })
}

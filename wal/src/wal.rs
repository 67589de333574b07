//! The running log.

mod chain;
mod room;
mod spares;

pub use room::{Growth, Space};

use std::collections::VecDeque;

use kontiki_core::{Base, FrameMeta, Incarnation, IndexRange, LogIndex, Term, Time, WriteId};
use kontiki_frame::{BLOCK_BYTES, DiskStamp, parse_header};
use kontiki_io::{Completion, Handle, Io, IoError, IoErrorKind, Op, Output, tell};
use kontiki_mem::{Block, BlockMut, Pool, PoolBuf};

use crate::append::Appender;
use crate::backoff::Backoff;
use crate::closing::Closing;
use crate::index::LiveLog;
use crate::limits::{HEADERS_AHEAD, MAX_HARD_STATE_WAITERS, MAX_RETRY_NS, MAX_SHORTAGE_RETRY_NS};
use crate::margin::Margin;
use crate::prepare::Preparer;
use crate::read::{Context, Finished, Frames, ReadError, Reads};
use crate::saver::Saver;
use crate::segment_header::{Identity, SegmentHeader};
use crate::segments::{Segment, Segments};
use crate::token::Purpose;
use crate::{HardState, Medium, Options, WalError, names};

/// What the log has to say.
#[derive(Debug)]
pub enum WalEvent {
    /// Every log write up to and with this one is durable.
    LogDurable {
        /// The newest write of the contiguous durable prefix.
        write: WriteId,
    },
    /// This hard-state write is durable, in both copies.
    HardStateDurable {
        /// The write.
        write: WriteId,
    },
    /// A read ended.
    Read {
        /// The caller's name for it.
        tag: u64,
        /// The caller's buffer, which the frames lie in.
        buf: PoolBuf,
        /// The frames found, at least one.
        result: Result<Frames, ReadError>,
    },
    /// A term was looked up.
    Term {
        /// The caller's name for the lookup.
        tag: u64,
        /// The entry.
        index: LogIndex,
        /// Its term; `None` if the log does not hold it.
        result: Result<Option<Term>, ReadError>,
    },
}

/// What the opened log is made of.
pub(crate) struct Parts {
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    pub(crate) dir: Handle,
    pub(crate) lock: Handle,
    pub(crate) saver: Saver,
    pub(crate) log: LiveLog,
    pub(crate) segments: Segments,
    pub(crate) preparer: Preparer,
    pub(crate) boot: Incarnation,
    pub(crate) end: u64,
    pub(crate) fresh: bool,
    /// What lies between the end and this position is zeros, durably.
    pub(crate) blank_to: u64,
}

/// An open log. Everything it does it does through the [`Io`] that it is handed: call [`Wal::pump`] once a turn, hand
/// it its completions, and take its events.
#[derive(Debug)]
pub struct Wal {
    options: Options,
    identity: Identity,
    pub(crate) dir: Handle,
    pub(crate) lock: Handle,
    pub(crate) saver: Saver,
    saved: VecDeque<WriteId>,
    log: LiveLog,
    pub(crate) segments: Segments,
    pub(crate) appender: Appender,
    pub(crate) reads: Reads,
    pub(crate) preparer: Preparer,
    pub(crate) margin: Margin,
    /// Buffers for segment headers. The hard state has its own: however many segments are opened while the disk hangs,
    /// a change of term can be written.
    headers: Pool,
    boot: Incarnation,
    /// Position where the log ends.
    pub(crate) end: u64,
    /// The next frame opens a segment, whatever room there is: behind the end lies evidence.
    fresh: bool,
    /// The disk was full, or something else was lacking, while a segment was prepared.
    lacking: Backoff,
    /// What of it the operator was told last, and when.
    lacking_told: Option<(IoError, Time)>,
    /// Whether it may take more of the disk.
    growth: Growth,
    /// Something was lacking for any other operation.
    short: Backoff,
    pub(crate) poison: Option<WalError>,
    /// The end has begun.
    pub(crate) closing: Option<Closing>,
}

impl Wal {
    pub(crate) fn new(parts: Parts) -> Wal {
        let Parts { options, identity, dir, lock, saver, log, segments, preparer, boot, end, fresh, blank_to } = parts;
        Wal {
            appender: Appender::new(end, options.writes_in_flight, options.max_write_bytes),
            saved: VecDeque::with_capacity(MAX_HARD_STATE_WAITERS),
            reads: Reads::new(),
            margin: Margin::new(options.medium == Medium::Lossy, blank_to),
            headers: Pool::new(options.prepared() + HEADERS_AHEAD, BLOCK_BYTES),
            options,
            identity,
            dir,
            lock,
            saver,
            log,
            segments,
            preparer,
            boot,
            end,
            fresh,
            lacking: Backoff::new(MAX_RETRY_NS),
            lacking_told: None,
            growth: Growth::Free,
            short: Backoff::new(MAX_SHORTAGE_RETRY_NS),
            poison: None,
            closing: None,
        }
    }

    /// First index that the log holds; one past [`Wal::last_index`] if it holds none.
    pub fn first_index(&self) -> LogIndex {
        self.log.first()
    }

    /// What the log presupposes: everything before [`Wal::first_index`].
    pub fn base(&self) -> Base {
        self.log.base()
    }

    /// Last index appended, durable or not.
    pub fn last_index(&self) -> LogIndex {
        self.log.last()
    }

    /// Position up to which the log is durable, in bytes.
    pub fn durable_position(&self) -> u64 {
        self.appender.durable()
    }

    /// Log writes in flight.
    pub fn writes_in_flight(&self) -> usize {
        self.appender.in_flight()
    }

    /// Whether a frame appended now would be submitted by the next [`Wal::pump`] rather than wait for a write to
    /// complete.
    pub fn has_write_slot(&self) -> bool {
        let barred = self.margin.under_way().is_some_and(|zeros| zeros.overlaps(self.end, self.end + BLOCK_BYTES as u64));
        self.appender.queued() == 0 && !self.appender.begins_chain() && self.appender.in_flight() < self.options.writes_in_flight && !barred
    }

    /// Why the log stopped for good. Nothing becomes durable any more; the node must stop, and may start again.
    pub fn poisoned(&self) -> Option<&WalError> {
        self.poison.as_ref()
    }

    /// What the system lacks for an operation that is under way and is tried again and again, if it is so. Nothing
    /// broke; but nothing that waits is durable.
    pub fn lacking(&self) -> Option<IoError> {
        self.short.error()
    }

    /// Nothing is outstanding, and nothing is left to submit.
    pub fn idle(&self) -> bool {
        self.appender.idle()
            && self.saver.idle()
            && self.reads.idle()
            && !self.preparer.busy()
            && self.segments.made.is_none()
            && self.margin.under_way().is_none()
    }

    /// Appends a sealed frame of which `range` counts, as write `write`: stamps it in place, freezes it, and queues it
    /// for [`Wal::pump`]. The block comes back to be sent to peers. A range from at or before the last index
    /// supersedes what stood there.
    ///
    /// # Panics
    /// If [`Wal::can_append`] says no, the frame is not sealed, or its range does not continue the log: bugs of the
    /// caller.
    pub fn append(&mut self, write: WriteId, mut frame: BlockMut, range: IndexRange, meta: FrameMeta) -> Block {
        let bytes = frame.len();
        assert!(self.can_append(bytes), "can_append is asked first");
        match parse_header(frame.bytes()) {
            Ok(header) => {
                assert_eq!((header.meta, header.frame_bytes()), (meta, bytes), "the frame is the one that the caller means");
                assert_eq!((header.cluster, header.group), (self.identity.cluster, self.identity.group), "the frame is of this log");
                assert_eq!(header.check_range(range), Ok(()), "what counts lies in the frame");
            }
            Err(error) => panic!("appending what is not a frame: {error}"),
        }
        assert_eq!(self.log.admits(&meta, range), Ok(()), "the frame continues the log");
        if self.fresh || !self.log.fits(bytes as u64, range) {
            self.open_segment();
        }
        let position = self.log.end().unwrap_or(0);
        self.log.push(position, bytes as u64, &meta, range);
        self.end = position + bytes as u64;
        self.margin.appended(bytes);
        let Some(segment) = self.segments.current() else { panic!("a segment was opened") };
        let stamp = DiskStamp {
            position,
            generation: segment.generation,
            boot: self.boot,
            range,
            watermark: self.appender.durable(),
            node: self.identity.node,
        };
        stamp.write(frame.bytes_mut());
        let frame = frame.freeze();
        let offset = position - segment.number * self.options.segment_bytes;
        self.appender.push_frame(segment.file, offset, position, write, frame.clone());
        frame
    }

    /// The log goes on in the next prepared segment. Its header is written before the frame that needs it.
    fn open_segment(&mut self) {
        let (segment, header) = self.next_segment(self.log.tip(), None);
        self.appender.push_header(segment.file, segment.number * self.options.segment_bytes, header);
        self.log.open_segment(segment.number);
        self.segments.linked.push_back(segment);
    }

    /// The next prepared segment, and its header, to be written: it goes on behind `prev`, as the first of a new chain
    /// if it has a digest.
    fn next_segment(&mut self, prev: Base, digest: Option<u128>) -> (Segment, Block) {
        let (Some(segment), Some(mut block)) = (self.segments.prepared.pop_front(), self.headers.take()) else {
            panic!("it is asked first whether there is one")
        };
        let header = SegmentHeader {
            number: segment.number,
            generation: segment.generation,
            boot: self.boot,
            segment_bytes: self.options.segment_bytes,
            prev_end: self.end,
            prev,
            digest,
        };
        header.encode(&self.identity, block.bytes_mut());
        let position = segment.number * self.options.segment_bytes;
        assert!(position + BLOCK_BYTES as u64 > self.end, "positions grow");
        self.margin.enter(position + segment.blank_to);
        self.fresh = false;
        (segment, block.freeze())
    }

    /// Makes term, vote and the *recovering* mark durable. Several calls before an update begins become one; each is
    /// answered.
    ///
    /// # Panics
    /// If the term falls, the log is being closed, or more than 64 calls wait for their event: bugs of the caller.
    pub fn save_hard_state(&mut self, write: WriteId, state: HardState) {
        assert!(self.closing.is_none(), "nothing is saved in a log that is being closed");
        assert!(self.saved.len() + self.saver.waiters() < MAX_HARD_STATE_WAITERS, "more hard-state writes than the core may have pending");
        self.saver.save(write, state);
    }

    /// Reads whole frames from index `from` on, none past `upto`, into `buf`: as many as fit and lie together, at least
    /// one. Only what is durable is read: newer frames are in the caller's memory. Ends with [`WalEvent::Read`].
    /// Gives the buffer back at once if too many reads are in progress or unread.
    ///
    /// # Errors
    /// The buffer, to try again later.
    pub fn read(&mut self, tag: u64, from: LogIndex, upto: LogIndex, buf: PoolBuf, io: &mut dyn Io) -> Result<(), PoolBuf> {
        if self.poison.is_some() || self.closing.is_some() {
            return Err(buf);
        }
        let (reads, mut context) = self.reading(io);
        reads.read(tag, from, upto, buf, &mut context)
    }

    /// Looks up the term of an entry, in memory or from its frame's header. Ends with [`WalEvent::Term`]. False if too
    /// many lookups wait.
    pub fn lookup_term(&mut self, tag: u64, index: LogIndex, io: &mut dyn Io) -> bool {
        if self.poison.is_some() || self.closing.is_some() {
            return false;
        }
        let (reads, mut context) = self.reading(io);
        reads.lookup(tag, index, &mut context)
    }

    fn reading<'a>(&'a mut self, io: &'a mut dyn Io) -> (&'a mut Reads, Context<'a>) {
        let context = Context {
            log: &self.log,
            segments: &mut self.segments,
            durable: self.appender.durable(),
            segment_bytes: self.options.segment_bytes,
            identity: &self.identity,
            io,
        };
        (&mut self.reads, context)
    }

    /// Submits what is due: hard state, log writes, lookups, the next step of preparing a segment. Once a turn.
    pub fn pump(&mut self, io: &mut dyn Io) {
        if self.closing.is_some() {
            return self.close_on(io);
        }
        if self.poison.is_some() {
            return;
        }
        self.try_again(io);
        if self.appender.chain_is_due() {
            self.name_chain(io);
        }
        self.saver.pump(self.appender.durable(), io);
        self.mark_end(io);
        self.appender.pump(self.margin.under_way(), io);
        let (reads, mut context) = self.reading(io);
        reads.pump(&mut context);
        self.prepare(io);
    }

    /// While no frame waits or is being written: sees to it that the log's end can be recognised.
    fn mark_end(&mut self, io: &mut dyn Io) {
        if !self.appender.idle() || self.log.end().is_none() || self.options.medium == Medium::Safe {
            return;
        }
        let now = io.now();
        if self.short.holds(now) {
            return;
        }
        if self.fresh {
            // Behind the end lies what may not be overwritten. Where the next segment begins, nothing does.
            if self.has_next() {
                self.open_segment();
                self.end = self.log.end().unwrap_or(self.end);
            }
            return;
        }
        let (Some(limit), Some(segment)) = (self.log.limit(), self.segments.current()) else { return };
        let (number, file) = (segment.number, segment.file);
        let Some(zeros) = self.margin.due(self.end, limit, now) else { return };
        self.margin.begin(zeros, number);
        if let Some(segment) = self.segments.get_mut(number) {
            segment.readers += 1;
        }
        let offset = zeros.from - number * self.options.segment_bytes;
        let data = self.preparer.zeros((zeros.to - zeros.from) as usize);
        io.submit(Purpose::Blank.token(), Op::Write { file, offset, data, durable: true });
    }

    /// Zeros behind the end are durable, or due again.
    fn blanked(&mut self, again: bool) {
        let number = if again { self.margin.lacked() } else { self.margin.done(self.segments.current().map(|segment| segment.number)) };
        if let Some(segment) = self.segments.get_mut(number) {
            segment.readers -= 1;
        }
    }

    /// When [`Wal::pump`] wants to be called again though nothing completes: a full disk is looked at again, what the
    /// system lacked something for is tried again, or the end of a log that rests is marked.
    pub fn deadline(&self) -> Option<Time> {
        if self.poison.is_some() {
            return None;
        }
        let again = self.short.due().filter(|_| self.waits());
        if self.closing.is_some() {
            return again;
        }
        let rest = if self.appender.idle() { self.log.limit().and_then(|limit| self.margin.deadline(self.end, limit)) } else { None };
        // Asked for once a turn, and nearly always nothing is lacking.
        if self.short.error().is_none() && self.lacking.error().is_none() {
            return rest;
        }
        // While an attempt is under way its completion is what to wait for.
        let idle = self.growth == Growth::Free && !self.preparer.busy() && self.wants_new();
        let retry = self.lacking.due().filter(|_| idle || self.preparer.waits());
        let rest = rest.map(|rest| self.short.due().map_or(rest, |due| rest.max(due)));
        [again, retry, rest].into_iter().flatten().min()
    }

    /// Whether an operation waits to be tried again, other than one of preparing a segment.
    fn waits(&self) -> bool {
        self.short.error().is_some() && (self.appender.waits() || self.saver.waits() || self.reads.waits())
    }

    /// Tries again what the system lacked something for, once it is time.
    pub(crate) fn try_again(&mut self, io: &mut dyn Io) {
        if self.short.error().is_none() || self.short.holds(io.now()) {
            return;
        }
        self.saver.again(io);
        self.appender.again(io);
        let (reads, mut context) = self.reading(io);
        reads.again(&mut context);
    }

    /// Whether an operation failed for want of something, and is therefore to be tried again. Notes how operations
    /// went.
    fn is_short(&mut self, what: &'static str, result: &Result<Output, IoError>, io: &dyn Io) -> bool {
        match result {
            Err(error) if error.kind == IoErrorKind::Shortage => {
                let pause = self.short.lacked(*error, io.now());
                tell!(warn, %error, retry_ms = pause / 1_000_000, "cannot {what} the log for now: nothing is damaged, and it is tried again");
                true
            }
            Ok(_) if self.short.error().is_some() && !self.waits() => {
                tell!(info, "the log goes on: there is enough again of what was lacking");
                self.short.over();
                false
            }
            _ => false,
        }
    }

    /// Takes a completion whose token is the log's (top byte [`crate::OWNER`]).
    pub fn on_completion(&mut self, completion: Completion, io: &mut dyn Io) {
        let Completion { token, result, buf } = completion;
        let Some(purpose) = Purpose::of(token) else { panic!("{token:?} is not the log's") };
        match purpose {
            Purpose::Write(number) if self.poison.is_none() && self.is_short("write to", &result, io) => self.appender.lacked(number),
            Purpose::Write(number) => {
                if let Err(source) = result {
                    self.fail(WalError::of("write to", self.current_name(), source));
                }
                self.appender.written(number);
            }
            Purpose::HardState if self.poison.is_none() && self.is_short("save the hard state of", &result, io) => self.saver.lacked(),
            Purpose::HardState => {
                if let Err(source) = result {
                    self.fail(WalError::of("write to", names::plain(names::HARD_STATE), source));
                }
                self.saved.extend(self.saver.written(io));
                self.named();
            }
            Purpose::Prepare if self.poison.is_some() || self.closing.is_some() => self.preparer.leave(result),
            Purpose::Prepare => match self.preparer.done(result) {
                Ok(outcome) => self.prepared(outcome, io),
                Err(error) => self.fail(error),
            },
            Purpose::Read(slot) => {
                self.is_short("read", &result, io);
                let (reads, mut context) = self.reading(io);
                reads.done(slot, result, buf, &mut context);
            }
            Purpose::Blank => {
                let short = self.poison.is_none() && self.is_short("write zeros behind", &result, io);
                if let Err(source) = result
                    && !short
                {
                    self.fail(WalError::of("write zeros to", self.current_name(), source));
                }
                self.blanked(short);
            }
            Purpose::Close => return self.file_closed(io),
            Purpose::Open | Purpose::Recover(_) => panic!("{purpose:?} is not under way"),
        }
        self.close_on(io);
    }

    fn current_name(&self) -> kontiki_io::Name {
        names::segment(self.segments.current().map_or(0, |segment| segment.number))
    }

    /// Nothing is believed any more; what is outstanding comes back all the same.
    fn fail(&mut self, error: WalError) {
        tell!(error, %error, "the log is poisoned: nothing more becomes durable");
        self.poison.get_or_insert(error);
        self.appender.give_up();
        self.saver.give_up();
    }

    /// What happened since, one event at a time.
    pub fn next_event(&mut self) -> Option<WalEvent> {
        if self.poison.is_none() {
            if let Some(write) = self.saved.pop_front() {
                return Some(WalEvent::HardStateDurable { write });
            }
            if let Some(write) = self.appender.news() {
                return Some(WalEvent::LogDurable { write });
            }
        }
        self.reads.finished().map(|finished| match finished {
            Finished::Frames { tag, buf, result } => WalEvent::Read { tag, buf, result },
            Finished::Term { tag, index, result } => WalEvent::Term { tag, index, result },
        })
    }
}

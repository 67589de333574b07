//! From a directory to a running log: lock, hard state, recovery, boot number.
//!
//! One operation at a time, but for recovery's reads. Nothing is written before it is known what to make of the log, but the
//! repair of a hard-state copy; and the first thing written then is the hard state with the new boot number and, if so it is, the *recovering* mark.

use kontiki_core::{Incarnation, LogIndex, Restored};
use kontiki_frame::BLOCK_BYTES;
use kontiki_io::{Completion, Handle, Io, IoBuf, IoError, IoErrorKind, Name, Op, Output, tell};
use kontiki_mem::{Pool, PoolBuf};

use crate::hard_state::{Copy, MAX_NUMBER, Record, SegmentSpan, judge};
use crate::layout::whole_blocks;
use crate::limits::{HARD_STATE_BLOCKS, HARD_STATE_FILE_BYTES, MARGIN_BYTES, MAX_SEGMENTS, READ_ATTEMPTS};
use crate::prepare::{Outcome, Preparer};
use crate::recovery::{Flow, Recovered, Recovery, SegmentFile};
use crate::saver::{self, Saver};
use crate::segment_header::{Found, Identity, SegmentHeader};
use crate::segments::{Segment, Segments};
use crate::stream::{Next, Stream};
use crate::token::Purpose;
use crate::wal::Parts;
use crate::{Cause, Damage, HardState, Medium, Options, RecoveryReport, Wal, WalError, names};

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
    /// What recovery found.
    pub report: RecoveryReport,
}

/// The operation under way.
#[derive(Debug)]
enum Step {
    OpenDir,
    Lock,
    Identify,
    List,
    /// First start.
    ClearHardState,
    CreateHardState,
    AllocateHardState,
    InitHardState(Copy),
    SyncNewHardState,
    RenameHardState,
    /// Any start.
    OpenHardState,
    SyncHardState,
    ReadHardState(Copy),
    RepairHardState,
    OpenSegment(usize),
    ReadHeader(usize),
    Recover,
    SyncSegment(usize),
    MarkEnd,
    SyncDir,
    Prepare,
    Save(Copy),
    Done,
    /// Closing what was opened, before the failure is told.
    Failing,
}

/// What a step goes on with.
enum Then {
    Op(Step, Op),
    /// Recovery submits its own operations.
    Recover,
    Opened,
}

/// A log on its way up: start it, hand it its completions, and poll for the end.
#[derive(Debug)]
pub struct Opening {
    options: Options,
    identity: Identity,
    step: Step,
    end: Option<Result<Opened, WalError>>,
    /// Asked to stop.
    stopping: bool,
    /// Why recovery is given up, until its reads have come back.
    unread: Option<WalError>,
    /// Why it failed, while everything is closed again.
    failure: Option<WalError>,
    /// The hard state's; read with until there is one.
    blocks: Pool,
    dir: Handle,
    hard_state: Handle,
    /// Everything that is open, the lock first: it is closed last.
    handles: Vec<Handle>,
    /// Segment numbers found, ascending.
    listed: Vec<u64>,
    first_copy: Option<PoolBuf>,
    /// The block that was asked for last, and how often.
    block: (Handle, u64),
    attempts: usize,
    record: Record,
    /// Where this start takes place.
    place: kontiki_io::Identity,
    files: Vec<SegmentFile>,
    segment_handles: Vec<Handle>,
    scan: Option<Box<(Recovery, Stream)>>,
    recovered: Option<Box<Recovered>>,
    preparer: Option<Preparer>,
    first_segment: Option<Segment>,
    report: RecoveryReport,
}

/// A handle before there is one. Never submitted.
const NONE: Handle = Handle(u32::MAX);

impl Opening {
    /// Starts: submits the first operation.
    ///
    /// # Errors
    /// [`WalError::Options`].
    pub fn start(options: Options, io: &mut dyn Io) -> Result<Opening, WalError> {
        options.check()?;
        let identity = Identity { cluster: options.cluster, node: options.node, group: options.group };
        let record = Record::first(options.segment_bytes);
        io.submit(Purpose::Open.token(), Op::OpenDir { path: options.dir.clone(), create: true });
        Ok(Opening {
            blocks: Pool::new(HARD_STATE_BLOCKS, BLOCK_BYTES),
            options,
            identity,
            step: Step::OpenDir,
            end: None,
            stopping: false,
            unread: None,
            failure: None,
            dir: NONE,
            hard_state: NONE,
            handles: Vec::new(),
            listed: Vec::new(),
            first_copy: None,
            block: (NONE, 0),
            attempts: 0,
            record,
            place: kontiki_io::Identity::default(),
            files: Vec::new(),
            segment_handles: Vec::new(),
            scan: None,
            recovered: None,
            preparer: None,
            first_segment: None,
            report: RecoveryReport::default(),
        })
    }

    /// The opened log, once.
    ///
    /// # Errors
    /// Why it cannot be opened, once everything that was opened is closed again.
    pub fn poll(&mut self) -> Result<Option<Opened>, WalError> {
        self.end.take().transpose()
    }

    /// Gives the start up where nothing is half done: the next one finds all as this one did, a note of where the log ended included.
    /// [`Opening::poll`] then says [`WalError::Stopped`]; or, where the new boot number was being written, that the log is open.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Takes a completion whose token is the log's (top byte [`crate::OWNER`]).
    pub fn on_completion(&mut self, completion: Completion, io: &mut dyn Io) {
        let Completion { token, result, buf } = completion;
        let then = match (&self.step, Purpose::of(token)) {
            (Step::Failing, _) => return self.close_next(io),
            (Step::Recover, Some(Purpose::Recover(number))) => {
                if let Some(scan) = &mut self.scan {
                    scan.1.done(number, result, buf);
                }
                self.recover(io)
            }
            (Step::Prepare, Some(Purpose::Open)) if self.stopping => {
                let Some(preparer) = &mut self.preparer else { panic!("there is a preparer") };
                preparer.leave(result);
                self.handles.extend(preparer.left_open());
                Err(WalError::Stopped)
            }
            (_, Some(Purpose::Open)) => self.advance(result, buf),
            _ => panic!("{token:?} is not under way"),
        };
        // Once a first copy of the new boot's record is written, the start is to be finished, and the log closed.
        let saving = matches!(then, Ok(Then::Op(Step::Save(Copy::Second), _) | Then::Opened));
        let reading = self.scan.as_ref().is_some_and(|scan| scan.1.outstanding() > 0);
        let then = if self.stopping && !saving && !reading { then.and(Err(WalError::Stopped)) } else { then };
        self.go_on(then, io);
    }

    fn go_on(&mut self, then: Result<Then, WalError>, io: &mut dyn Io) {
        match then {
            Ok(Then::Op(step, op)) => {
                self.step = step;
                io.submit(Purpose::Open.token(), op);
            }
            Ok(Then::Recover) if matches!(self.step, Step::Recover) => {}
            Ok(Then::Recover) => {
                self.step = Step::Recover;
                let then = self.recover(io);
                self.go_on(then, io);
            }
            Ok(Then::Opened) => {
                self.step = Step::Done;
                let opened = self.opened();
                self.end = Some(Ok(opened));
            }
            Err(error) => {
                self.step = Step::Failing;
                self.failure = Some(error);
                self.close_next(io);
            }
        }
    }

    fn close_next(&mut self, io: &mut dyn Io) {
        match self.handles.pop() {
            Some(handle) => io.submit(Purpose::Close.token(), Op::Close { handle }),
            None => self.end = self.failure.take().map(Err),
        }
    }

    /// What the operation of the current step came to, and what follows.
    fn advance(&mut self, result: Result<Output, IoError>, buf: Option<IoBuf>) -> Result<Then, WalError> {
        let dir = self.dir;
        let hard_state = || names::plain(names::HARD_STATE);
        let fresh = || names::plain(names::HARD_STATE_NEW);
        let failed = |what, name: Name| move |source| WalError::of(what, name, source);
        let step = std::mem::replace(&mut self.step, Step::Done);
        if result.is_err()
            && matches!(step, Step::ReadHardState(_) | Step::ReadHeader(_))
            && self.attempts < READ_ATTEMPTS
            && let Some(buf) = buf
        {
            self.attempts += 1;
            let (file, offset) = self.block;
            return Ok(Then::Op(step, Op::Read { file, offset, buf, len: BLOCK_BYTES }));
        }
        // What could not be read for want of something is not damaged.
        if let Err(source @ IoError { kind: IoErrorKind::Shortage, .. }) = result {
            let name = match step {
                Step::ReadHardState(_) => Some(hard_state()),
                Step::ReadHeader(at) => self.listed.get(at).map(|&number| names::segment(number)),
                _ => None,
            };
            if let Some(name) = name {
                return Err(WalError::of("read", name, source));
            }
        }
        match step {
            Step::OpenDir => {
                let opened = result.map_err(|source| WalError::Directory { dir: self.options.dir.clone(), source })?;
                self.dir = handle(opened);
                self.handles.push(self.dir);
                Ok(Then::Op(Step::Lock, Op::Lock { dir: self.dir, name: names::plain(names::LOCK) }))
            }
            Step::Lock => {
                let locked = result.map_err(|source| match source.kind {
                    IoErrorKind::Locked => WalError::Locked { dir: self.options.dir.clone() },
                    _ => WalError::of("lock", names::plain(names::LOCK), source),
                })?;
                self.handles.insert(0, handle(locked));
                Ok(Then::Op(Step::Identify, Op::Identify { dir }))
            }
            Step::Identify => {
                // What cannot be found out is unknown, and then a killed process is taken for a power cut.
                match result {
                    Ok(Output::Identity(place)) => self.place = place,
                    Err(source) if source.kind == IoErrorKind::Shortage => {
                        return Err(WalError::Directory { dir: self.options.dir.clone(), source });
                    }
                    _ => {}
                }
                Ok(Then::Op(Step::List, Op::List { dir }))
            }
            Step::List => match result {
                Ok(Output::Listing(listing)) => self.listed(&listing),
                Ok(other) => panic!("listing yielded {other:?}"),
                Err(source) => Err(WalError::Directory { dir: self.options.dir.clone(), source }),
            },
            Step::ClearHardState => {
                result.map_err(failed("remove", fresh()))?;
                Ok(Then::Op(Step::CreateHardState, Op::Open { dir, name: fresh(), create: true }))
            }
            Step::CreateHardState => {
                self.hard_state = handle(result.map_err(failed("create", fresh()))?);
                self.handles.push(self.hard_state);
                Ok(Then::Op(Step::AllocateHardState, Op::Allocate { file: self.hard_state, len: HARD_STATE_FILE_BYTES }))
            }
            Step::AllocateHardState => {
                result.map_err(failed("allocate", fresh()))?;
                Ok(self.write_record(Step::InitHardState(Copy::First), Copy::First))
            }
            Step::InitHardState(Copy::First) => {
                result.map_err(failed("write to", fresh()))?;
                Ok(self.write_record(Step::InitHardState(Copy::Second), Copy::Second))
            }
            Step::InitHardState(Copy::Second) => {
                result.map_err(failed("write to", fresh()))?;
                Ok(Then::Op(Step::SyncNewHardState, Op::Sync { file: self.hard_state }))
            }
            Step::SyncNewHardState => {
                result.map_err(failed("flush", fresh()))?;
                Ok(Then::Op(Step::RenameHardState, Op::Rename { dir, from: fresh(), to: hard_state() }))
            }
            Step::RenameHardState => {
                result.map_err(failed("rename", fresh()))?;
                // Its name is made durable with all names that a start finds, before there is a segment.
                self.open_segment(0)
            }
            Step::OpenHardState => {
                self.hard_state = handle(result.map_err(failed("open", hard_state()))?);
                self.handles.push(self.hard_state);
                Ok(Then::Op(Step::SyncHardState, Op::Sync { file: self.hard_state }))
            }
            Step::SyncHardState => {
                result.map_err(failed("flush", hard_state()))?;
                Ok(self.read_block(Step::ReadHardState(Copy::First), self.hard_state, Copy::First.offset()))
            }
            Step::ReadHardState(Copy::First) => {
                self.first_copy = block_read(result, buf);
                Ok(self.read_block(Step::ReadHardState(Copy::Second), self.hard_state, Copy::Second.offset()))
            }
            Step::ReadHardState(Copy::Second) => {
                let (first, second) = (self.first_copy.take(), block_read(result, buf));
                self.judge_hard_state(first.as_ref().map(PoolBuf::bytes), second.as_ref().map(PoolBuf::bytes))
            }
            Step::RepairHardState => {
                result.map_err(failed("repair", hard_state()))?;
                self.open_segment(0)
            }
            Step::OpenSegment(at) => {
                let number = self.listed.get(at).copied().unwrap_or(0);
                let Output::File(file, bytes) = result.map_err(failed("open", names::segment(number)))? else {
                    panic!("opening a file yields one")
                };
                self.handles.push(file);
                self.segment_handles.push(file);
                self.files.push(SegmentFile { number, bytes, found: Found::Damaged, linked: false, evidence: false });
                Ok(self.read_block(Step::ReadHeader(at), file, 0))
            }
            Step::ReadHeader(at) => {
                let block = block_read(result, buf);
                if let Some(file) = self.files.get_mut(at) {
                    file.found =
                        SegmentHeader::find(block.as_ref().map(PoolBuf::bytes), file.number, self.options.segment_bytes, &self.identity)?;
                }
                drop(block);
                self.open_segment(at + 1)
            }
            Step::SyncSegment(at) => {
                let number = self.listed.get(at).copied().unwrap_or(0);
                result.map_err(failed("flush", names::segment(number)))?;
                Ok(self.sync_segment(at + 1))
            }
            Step::MarkEnd => {
                let number = self.tail().and_then(|at| self.listed.get(at)).copied().unwrap_or(0);
                result.map_err(failed("write zeros to", names::segment(number)))?;
                Ok(self.sync_dir())
            }
            Step::SyncDir => {
                result.map_err(failed("flush the directory of", hard_state()))?;
                Ok(self.prepare_or_save())
            }
            Step::Prepare => {
                let Some(preparer) = &mut self.preparer else { panic!("there is a preparer") };
                let outcome = preparer.done(result);
                preparer.leave_waiting();
                self.handles.extend(preparer.left_open());
                match outcome? {
                    Outcome::Next(op) => Ok(Then::Op(Step::Prepare, op)),
                    Outcome::Prepared(segment) => {
                        self.handles.push(segment.file);
                        self.record.span = SegmentSpan { oldest: 1, newest: segment.number, generation: segment.generation, source: 0 };
                        self.first_segment = Some(segment);
                        Ok(self.write_record(Step::Save(Copy::First), Copy::First))
                    }
                    Outcome::Waits(source, _) | Outcome::Again(source) => Err(WalError::of("make", names::segment(1), source)),
                    Outcome::Removed => panic!("nothing is removed while the first segment is made"),
                }
            }
            Step::Save(Copy::First) => {
                result.map_err(failed("write to", hard_state()))?;
                Ok(self.write_record(Step::Save(Copy::Second), Copy::Second))
            }
            Step::Save(Copy::Second) => {
                result.map_err(failed("write to", hard_state()))?;
                Ok(Then::Opened)
            }
            step @ (Step::Recover | Step::Done | Step::Failing) => panic!("{step:?} has no operation under way"),
        }
    }

    fn write_record(&self, step: Step, copy: Copy) -> Then {
        Then::Op(step, saver::write(&self.record, &self.identity, self.hard_state, copy, &self.blocks))
    }

    fn read_block(&mut self, step: Step, file: Handle, offset: u64) -> Then {
        (self.block, self.attempts) = ((file, offset), 1);
        let Some(buf) = self.blocks.take() else { panic!("a block read is dropped before the next but one") };
        Then::Op(step, Op::Read { file, offset, buf: IoBuf::Pool(buf), len: BLOCK_BYTES })
    }

    fn listed(&mut self, listing: &[(Name, u64)]) -> Result<Then, WalError> {
        let has = |name: &str| listing.iter().any(|(listed, _)| listed.as_str() == name);
        self.listed = listing.iter().filter_map(|(name, _)| names::segment_number(name)).filter(|&number| number > 0).collect();
        self.listed.sort_unstable();
        if self.listed.len() > MAX_SEGMENTS {
            return Err(WalError::TooManySegments { found: self.listed.len(), known: MAX_SEGMENTS });
        }
        if let Some(&number) = self.listed.last()
            && number > MAX_NUMBER / self.options.segment_bytes
        {
            return Err(WalError::Exhausted { name: names::segment(number) });
        }
        let dir = self.dir;
        if has(names::HARD_STATE) {
            return Ok(Then::Op(Step::OpenHardState, Op::Open { dir, name: names::plain(names::HARD_STATE), create: false }));
        }
        // The hard state is the first thing that a first start makes durable.
        if !self.listed.is_empty() {
            return Err(WalError::HardStateMissing);
        }
        let name = names::plain(names::HARD_STATE_NEW);
        Ok(if has(names::HARD_STATE_NEW) {
            Then::Op(Step::ClearHardState, Op::Unlink { dir, name })
        } else {
            Then::Op(Step::CreateHardState, Op::Open { dir, name, create: true })
        })
    }

    fn judge_hard_state(&mut self, first: Option<&[u8]>, second: Option<&[u8]>) -> Result<Then, WalError> {
        let (record, repair) = judge(first, second, &self.identity)?;
        if record.segment_bytes != self.options.segment_bytes {
            return Err(WalError::SegmentBytes { found: record.segment_bytes, expected: self.options.segment_bytes });
        }
        record.check_counts()?;
        self.record = record;
        let Some(copy) = repair else { return self.open_segment(0) };
        self.report.hard_state_repaired = true;
        tell!(warn, ?copy, "one copy of the hard state was damaged or one update behind: rewritten from the other");
        Ok(self.write_record(Step::RepairHardState, copy))
    }

    fn open_segment(&mut self, at: usize) -> Result<Then, WalError> {
        if let Some(&number) = self.listed.get(at) {
            return Ok(Then::Op(Step::OpenSegment(at), Op::Open { dir: self.dir, name: names::segment(number), create: false }));
        }
        let files = std::mem::take(&mut self.files);
        let recovery = Recovery::new(self.identity, self.options.segment_bytes, files, &self.record);
        let mut scan = Box::new((recovery, Stream::new()));
        self.seek(&mut scan);
        self.scan = Some(scan);
        Ok(Then::Recover)
    }

    /// Points the reads at what recovery wants next.
    fn seek(&self, scan: &mut (Recovery, Stream)) {
        let (recovery, stream) = scan;
        let Some(want) = recovery.want() else { return };
        let (Some(file), Some(&handle)) = (recovery.files().get(want.file), self.segment_handles.get(want.file)) else { return };
        stream.seek(handle, want.offset, whole_blocks(file.bytes.min(self.options.segment_bytes)));
    }

    /// Feeds recovery with what was read, and reads on.
    fn recover(&mut self, io: &mut dyn Io) -> Result<Then, WalError> {
        let Some(mut scan) = self.scan.take() else { panic!("recovery is under way") };
        while scan.0.want().is_some() && !self.stopping && self.unread.is_none() {
            let next = scan.1.next();
            scan.1.pump(io);
            let flow = match next {
                Next::Bytes(buf, bytes) => scan.0.feed(buf.bytes().get(..bytes).unwrap_or_default(), &mut |_| ()),
                Next::Unreadable => scan.0.feed(&[0xff; BLOCK_BYTES], &mut |_| ()),
                Next::Short(source) => {
                    let file = scan.0.want().and_then(|want| scan.0.files().get(want.file));
                    self.unread = Some(WalError::of("read", names::segment(file.map_or(0, |file| file.number)), source));
                    break;
                }
                Next::End => scan.0.end_of_file(),
                Next::Wait => break,
            };
            if flow == Flow::Moved {
                self.seek(&mut scan);
            }
        }
        // Reads that nobody waits for any more have to come back all the same.
        if scan.1.outstanding() > 0 || self.unread.is_none() && (self.stopping || scan.0.want().is_some()) {
            self.scan = Some(scan);
            return Ok(Then::Recover);
        }
        if let Some(error) = self.unread.take() {
            return Err(error);
        }
        self.judge_log(scan.0.finish(&self.record, self.options.applied))
    }

    /// What to make of what was found: stop, or go on with a boot number more and perhaps *recovering*.
    fn judge_log(&mut self, recovered: Recovered) -> Result<Then, WalError> {
        if recovered.newest_boot > self.record.incarnation {
            return Err(WalError::HardStateOld { found: recovered.newest_boot, known: self.record.incarnation });
        }
        if recovered.newest_written > self.record.span.newest && self.record.initialised {
            return Err(WalError::HardStateBehind { found: recovered.newest_written, known: self.record.span.newest });
        }
        let lossy = self.options.medium == Medium::Lossy;
        // A log that was closed in order and ends where it ended then is whole, whatever lies behind.
        let clean = self.record.clean_end == recovered.end;
        // Nor is anything of it lost if a process was killed and the power stayed on: all that was written is there, on the medium or in
        // a cache that is flushed below, and nothing of the dead process is still on its way once its lock is free.
        let killed = self.record.place.is_same(&self.place);
        let uncertain = recovered.damage.is_none() && lossy && !clean && !killed && !recovered.marked;
        self.report =
            RecoveryReport { uncertain, same_boot: killed, hard_state_repaired: self.report.hard_state_repaired, ..recovered.report() };
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
        Ok(self.sync_segment(0))
    }

    /// The segments that there are, to be named by this start. A segment that is missing stays named until there is a newer one.
    fn span(&self, recovered: &Recovered) -> SegmentSpan {
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

    /// The file that the log ends in, if it goes on there: its place in the list.
    fn tail(&self) -> Option<usize> {
        let recovered = self.recovered.as_ref()?;
        let tail = recovered.files.iter().rposition(|file| file.linked)?;
        let goes_on = recovered.damage.is_none() && !recovered.evidence && !self.report.uncertain;
        (goes_on && recovered.files.get(tail)?.bytes == self.options.segment_bytes).then_some(tail)
    }

    /// A log that was closed in order may end where no zeros follow. They are written before the note of its end goes: from then on they tell it.
    fn mark_end(&mut self) -> Option<Then> {
        let tail = self.tail()?;
        let (recovered, preparer) = (self.recovered.as_mut()?, self.preparer.as_ref()?);
        let (file, &handle) = (recovered.files.get(tail)?, self.segment_handles.get(tail)?);
        let limit = (file.number + 1) * self.options.segment_bytes;
        if self.options.medium == Medium::Safe || recovered.blank_to > recovered.end || recovered.end >= limit {
            return None;
        }
        recovered.blank_to = limit.min(recovered.end + MARGIN_BYTES as u64);
        let offset = recovered.end - file.number * self.options.segment_bytes;
        let data = preparer.zeros((recovered.blank_to - recovered.end) as usize);
        Some(Then::Op(Step::MarkEnd, Op::Write { file: handle, offset, data, durable: true }))
    }

    /// Flushes every segment that may hold frames past the watermark: what was read may have come from the drive's cache, and counts as durable from now on.
    fn sync_segment(&mut self, from: usize) -> Then {
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
        self.mark_end().unwrap_or_else(|| self.sync_dir())
    }

    fn sync_dir(&self) -> Then {
        Then::Op(Step::SyncDir, Op::SyncDir { dir: self.dir })
    }

    /// A first start is finished only once there is a segment to write to.
    fn prepare_or_save(&mut self) -> Then {
        if self.record.incarnation == Incarnation(1)
            && self.listed.is_empty()
            && let Some(preparer) = &mut self.preparer
        {
            return Then::Op(Step::Prepare, preparer.create(1));
        }
        self.write_record(Step::Save(Copy::First), Copy::First)
    }

    fn opened(&mut self) -> Opened {
        let (Some(recovered), Some(preparer)) = (self.recovered.take(), self.preparer.take()) else { panic!("everything was found") };
        let Recovered { log, files, end, blank_to, damage, evidence, .. } = *recovered;
        let mut segments = Segments::none();
        let whole = |file: &SegmentFile| file.bytes == self.options.segment_bytes;
        // A spare lies above everything that was ever written to: numbers grow along the log. Behind damage nobody knows what was written to.
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
        let restored = Restored {
            term: state.term,
            vote: state.vote,
            recovering: state.recovering,
            first: log.first(),
            prev_term: log.prev_term(),
            runs: log.runs().to_vec(),
            last: log.last(),
            applied: LogIndex(0),
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
        tell!(info, boot = self.record.incarnation.0, report = %self.report, "log open");
        Opened { wal, hard_state: state, incarnation: self.record.incarnation, restored, report: self.report.clone() }
    }
}

fn handle(output: Output) -> Handle {
    match output {
        Output::Opened(handle) | Output::File(handle, _) => handle,
        other => panic!("opening yielded {other:?}"),
    }
}

/// A block that was read whole; `None` if the device or the file's length did not allow that.
fn block_read(result: Result<Output, IoError>, buf: Option<IoBuf>) -> Option<PoolBuf> {
    match (result, buf) {
        (Ok(Output::Bytes(BLOCK_BYTES)), Some(IoBuf::Pool(buf))) => Some(buf),
        _ => None,
    }
}

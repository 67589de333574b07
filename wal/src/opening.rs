//! From a directory to a running log: lock, hard state, recovery, boot number.
//!
//! One operation at a time, but for recovery's reads, and a pause once the directory is locked, for whoever looks at the
//! snapshots. Nothing is written before it is known what to make of the log,
//! but the repair of a hard-state copy; and the first thing written then is the hard state with the new boot number
//! and, if so it is, the *recovering* mark.

mod opened;
mod scan;
mod verdict;

pub use opened::Opened;

use kontiki_core::Base;
use kontiki_frame::BLOCK_BYTES;
use kontiki_io::{Completion, Handle, Io, IoBuf, IoError, IoErrorKind, Name, Op, Output, tell};
use kontiki_mem::{Pool, PoolBuf};

use crate::hard_state::{Copy, MAX_NUMBER, Record, SegmentSpan, judge};
use crate::limits::{HARD_STATE_BLOCKS, HARD_STATE_FILE_BYTES, MAX_SEGMENTS, READ_ATTEMPTS};
use crate::prepare::{Outcome, Preparer};
use crate::recovery::{Recovered, Recovery, SegmentFile};
use crate::saver::{self};
use crate::segment_header::{Found, Identity, SegmentHeader};
use crate::segments::Segment;
use crate::stream::Stream;
use crate::token::Purpose;
use crate::{Options, RecoveryReport, WalError, names};

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
    /// Nothing is under way: it waits to be told of the snapshots.
    Bases,
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
    /// To wait for [`Opening::set_bases`].
    Bases,
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
    /// Of the intact snapshots.
    bases: Vec<Base>,
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
            bases: Vec::new(),
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

    /// Whether the start waits to be told of the snapshots ([`Opening::set_bases`]). The directory is locked by then, and
    /// its hard state read; nothing is known of the log.
    pub fn wants_bases(&self) -> bool {
        matches!(self.step, Step::Bases)
    }

    /// What the intact snapshots in the directory presuppose no more, in any order; nothing where there are none. The
    /// start goes on: a log that begins later than with the first entry must be reached by one of them, or by what
    /// the state machine has applied ([`Opened::reaches`]).
    ///
    /// # Panics
    /// If [`Opening::wants_bases`] says no.
    pub fn set_bases(&mut self, bases: &[Base], io: &mut dyn Io) {
        assert!(self.wants_bases(), "wants_bases is asked first");
        self.bases = bases.to_vec();
        let then = if self.stopping { Err(WalError::Stopped) } else { self.open_segment(0) };
        self.go_on(then, io);
    }

    /// Gives the start up where nothing is half done: the next one finds all as this one did, a note of where the log
    /// ended included. [`Opening::poll`] then says [`WalError::Stopped`]; or, where the new boot number was being
    /// written, that the log is open. A start that waits for the snapshots' bases is to be told them all the same.
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
            Ok(Then::Bases) => self.step = Step::Bases,
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
                Ok(Then::Bases)
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
                Ok(Then::Bases)
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
                Ok(self.sync_segment(0))
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
            step @ (Step::Bases | Step::Recover | Step::Done | Step::Failing) => panic!("{step:?} has no operation under way"),
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
        if let Some((name, _)) = listing.iter().find(|(name, _)| names::is_of_an_earlier_start(name)) {
            return Err(WalError::HardStateMissing { name: name.clone() });
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
        let Some(copy) = repair else { return Ok(Then::Bases) };
        self.report.hard_state_repaired = true;
        tell!(warn, ?copy, "one copy of the hard state was damaged or one update behind: rewritten from the other");
        Ok(self.write_record(Step::RepairHardState, copy))
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

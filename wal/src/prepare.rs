//! Spare segments: made or recycled ahead of use, so that an append changes no metadata.
//!
//! A new file is filled with zeros under another name, flushed, renamed, and its name flushed: a segment's name stands
//! for a finished file. A recycled file is renamed and keeps its old contents, which can never pass for new: position
//! and generation stand in every stamp. One operation at a time.

use kontiki_frame::BLOCK_BYTES;
use kontiki_io::{Handle, IoData, IoError, IoErrorKind, Name, Op, Output};
use kontiki_mem::{Block, Pool, Span};

use crate::limits::{MARGIN_BYTES, ZERO_BYTES};
use crate::segments::Segment;
use crate::{WalError, names};

/// What became of an operation of a job.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The job's next operation.
    Next(Op),
    /// The job is done: here is a prepared segment.
    Prepared(Segment),
    /// The job is done: the file is gone.
    Removed,
    /// The disk is full, or the system lacks something else. What was begun is cleared away; a segment that was to be
    /// recycled or removed comes back.
    Waits(IoError, Option<Segment>),
    /// The same, in the midst of a job that is to be gone on with: [`Preparer::again`] gives the operation once more.
    Again(IoError),
}

/// The step that is under way.
#[derive(Debug)]
enum Step {
    /// A new file, under a name that recovery ignores.
    Open,
    /// A leftover of an attempt that a crash cut short was in the way.
    ClearWay,
    Allocate(Handle),
    /// Zeros from this offset on.
    Zero(Handle, u64),
    Sync(Handle),
    Rename(Handle),
    SyncName(Handle),
    /// Full, or short of something: close and remove what was begun.
    GiveUp(Handle, IoError),
    Unlink(IoError),
    /// A released file gets its new name.
    Recycle(Segment),
    SyncRecycled(Segment),
    /// It is the next one's now: zeros where its first frames will lie.
    Blank(Segment),
    /// A released file that nobody needs goes.
    Close(Segment),
    Remove(u64),
    SyncRemoved(u64),
}

/// Does one job at a time: start it, submit what comes back, and hand every result to [`Preparer::done`].
#[derive(Debug)]
pub(crate) struct Preparer {
    dir: Handle,
    segment_bytes: u64,
    zeros: Block,
    /// Whether the beginning of a recycled file is zeroed.
    blanks: bool,
    /// Number of the segment being prepared.
    number: u64,
    step: Option<Step>,
    /// The system lacked something for the step: nothing is outstanding, and it is to be tried again.
    waits: bool,
    /// The file of a job that failed or was left.
    left_open: Option<Handle>,
}

impl Preparer {
    /// `blanks`: a recycled segment begins with zeros, so that the end of a log in it can be recognised.
    pub(crate) fn new(dir: Handle, segment_bytes: u64, blanks: bool) -> Preparer {
        let Some(zeros) = Pool::new(1, ZERO_BYTES).take() else { panic!("a new pool has its buffer") };
        Preparer { dir, segment_bytes, zeros: zeros.freeze(), blanks, number: 0, step: None, waits: false, left_open: None }
    }

    /// So many zeros, at most [`ZERO_BYTES`], to be written.
    pub(crate) fn zeros(&self, bytes: usize) -> IoData {
        IoData::Span(Span::one(self.zeros.slice(0, bytes)))
    }

    pub(crate) fn busy(&self) -> bool {
        self.step.is_some()
    }

    /// Whether the job's operation is to be tried again.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// The operation that waits to be tried again, if one does.
    pub(crate) fn again(&mut self) -> Option<Op> {
        let step = if std::mem::take(&mut self.waits) { self.step.take() } else { None };
        step.map(|step| self.enter(step))
    }

    /// A job that waits is not gone on with.
    pub(crate) fn leave_waiting(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.left_open = self.step.take().and_then(|step| step.file());
        }
    }

    /// The file that a job left open.
    pub(crate) fn left_open(&self) -> Option<Handle> {
        self.left_open
    }

    /// A new segment.
    pub(crate) fn create(&mut self, number: u64) -> Op {
        self.begin(number, Step::Open)
    }

    /// A released segment becomes segment `number`.
    pub(crate) fn recycle(&mut self, segment: Segment, number: u64) -> Op {
        assert!(segment.readers == 0 && segment.number < number, "a file is recycled once nobody reads it, to a higher number");
        self.begin(number, Step::Recycle(segment))
    }

    /// A released segment's file goes.
    pub(crate) fn remove(&mut self, segment: Segment) -> Op {
        assert_eq!(segment.readers, 0, "a file is removed once nobody reads it");
        self.begin(segment.number, Step::Close(segment))
    }

    fn begin(&mut self, number: u64, step: Step) -> Op {
        assert!(self.step.is_none(), "one job at a time");
        self.number = number;
        self.enter(step)
    }

    /// The operation of a step, which is then under way.
    fn enter(&mut self, step: Step) -> Op {
        let dir = self.dir;
        let fresh = names::plain(names::SEGMENT_NEW);
        let op = match &step {
            Step::Open => Op::Open { dir, name: fresh, create: true },
            Step::ClearWay | Step::Unlink(_) => Op::Unlink { dir, name: fresh },
            Step::Allocate(file) => Op::Allocate { file: *file, len: self.segment_bytes },
            Step::Zero(file, offset) => {
                let length = (self.segment_bytes - offset).min(ZERO_BYTES as u64) as usize;
                Op::Write { file: *file, offset: *offset, data: self.zeros(length), durable: false }
            }
            Step::Blank(segment) => {
                let offset = BLOCK_BYTES as u64;
                Op::Write { file: segment.file, offset, data: self.zeros((segment.blank_to - offset) as usize), durable: true }
            }
            Step::Sync(file) => Op::Sync { file: *file },
            Step::Rename(_) => Op::Rename { dir, from: fresh, to: names::segment(self.number) },
            Step::Recycle(segment) => Op::Rename { dir, from: names::segment(segment.number), to: names::segment(self.number) },
            Step::SyncName(_) | Step::SyncRecycled(_) | Step::SyncRemoved(_) => Op::SyncDir { dir },
            Step::GiveUp(file, _) => Op::Close { handle: *file },
            Step::Close(segment) => Op::Close { handle: segment.file },
            Step::Remove(number) => Op::Unlink { dir, name: names::segment(*number) },
        };
        self.step = Some(step);
        op
    }

    fn next(&mut self, step: Step) -> Result<Outcome, WalError> {
        Ok(Outcome::Next(self.enter(step)))
    }

    /// What a step's operation came to.
    ///
    /// # Errors
    /// A failure other than a full disk or another shortage: nobody knows then what is on the medium.
    pub(crate) fn done(&mut self, result: Result<Output, IoError>) -> Result<Outcome, WalError> {
        let Some(step) = self.step.take() else { panic!("a completion for a job that is not under way") };
        if let Err(error) = result {
            return self.failed(step, error);
        }
        match (step, result) {
            (Step::Open, Ok(Output::File(file, _))) => self.next(Step::Allocate(file)),
            (Step::ClearWay, _) => self.next(Step::Open),
            (Step::Allocate(file), _) => self.next(Step::Zero(file, 0)),
            (Step::Zero(file, offset), _) => {
                let offset = offset + ZERO_BYTES as u64;
                self.next(if offset < self.segment_bytes { Step::Zero(file, offset) } else { Step::Sync(file) })
            }
            (Step::Sync(file), _) => self.next(Step::Rename(file)),
            (Step::Rename(file), _) => self.next(Step::SyncName(file)),
            (Step::SyncName(file), _) => Ok(Outcome::Prepared(Segment {
                number: self.number,
                file,
                generation: 0,
                whole: true,
                readers: 0,
                blank_to: self.segment_bytes,
            })),
            (Step::GiveUp(_, why), _) => self.next(Step::Unlink(why)),
            (Step::Unlink(why), _) => Ok(Outcome::Waits(why, None)),
            (Step::Recycle(segment), _) => self.next(Step::SyncRecycled(segment)),
            (Step::SyncRecycled(segment), _) => {
                let segment = Segment { number: self.number, generation: segment.generation + 1, blank_to: 0, ..segment };
                if !self.blanks {
                    return Ok(Outcome::Prepared(segment));
                }
                let blank_to = self.segment_bytes.min((BLOCK_BYTES + MARGIN_BYTES) as u64);
                self.next(Step::Blank(Segment { blank_to, ..segment }))
            }
            (Step::Blank(segment), _) => Ok(Outcome::Prepared(segment)),
            (Step::Close(segment), _) => self.next(Step::Remove(segment.number)),
            (Step::Remove(number), _) => self.next(Step::SyncRemoved(number)),
            (Step::SyncRemoved(_), _) => Ok(Outcome::Removed),
            (Step::Open, other) => panic!("opening a file yielded {other:?}"),
        }
    }

    /// The operation under way has ended, and its job is not gone on with: the next start finds what it left, or clears
    /// it away.
    pub(crate) fn leave(&mut self, result: Result<Output, IoError>) {
        let Some(step) = self.step.take() else { panic!("a completion for a job that is not under way") };
        self.left_open = match (step, result) {
            (Step::Open, Ok(Output::File(file, _))) => Some(file),
            (Step::GiveUp(..) | Step::Close(_), Ok(_)) => None,
            (step, _) => step.file(),
        };
    }

    fn failed(&mut self, step: Step, error: IoError) -> Result<Outcome, WalError> {
        let waits = matches!(error.kind, IoErrorKind::Full | IoErrorKind::Shortage);
        match step {
            Step::Open if error.kind == IoErrorKind::Exists => self.next(Step::ClearWay),
            // What lies in the way, or was begun, is removed by the next attempt.
            Step::Open | Step::ClearWay | Step::Unlink(_) if waits => Ok(Outcome::Waits(error, None)),
            Step::Allocate(file) | Step::Zero(file, _) | Step::Sync(file) | Step::Rename(file) if waits => {
                self.next(Step::GiveUp(file, error))
            }
            Step::Recycle(segment) if waits => Ok(Outcome::Waits(error, Some(segment))),
            // A removal is done or not; of zeros all are written again. A flush of names is another matter: only a shortage tells that it
            // was not begun, and any other failure may have left a name that the next flush does not know of.
            step @ (Step::Remove(_) | Step::Blank(_)) if waits => self.wait(step, error),
            step @ (Step::SyncName(_) | Step::SyncRecycled(_) | Step::SyncRemoved(_)) if error.kind == IoErrorKind::Shortage => {
                self.wait(step, error)
            }
            // Somebody else has cleared the way.
            Step::ClearWay if error.kind == IoErrorKind::NotFound => self.next(Step::Open),
            Step::Unlink(why) if error.kind == IoErrorKind::NotFound => Ok(Outcome::Waits(why, None)),
            Step::Remove(number) if error.kind == IoErrorKind::NotFound => self.next(Step::SyncRemoved(number)),
            // The file is no part of the log any more: how its handle ends changes nothing.
            Step::GiveUp(_, why) => self.next(Step::Unlink(why)),
            Step::Close(segment) => self.next(Step::Remove(segment.number)),
            step => {
                let (what, name) = step.name(self.number);
                self.left_open = step.file();
                Err(WalError::of(what, name, error))
            }
        }
    }
}

impl Preparer {
    fn wait(&mut self, step: Step, error: IoError) -> Result<Outcome, WalError> {
        (self.step, self.waits) = (Some(step), true);
        Ok(Outcome::Again(error))
    }
}

impl Step {
    fn file(&self) -> Option<Handle> {
        match self {
            Step::Allocate(file)
            | Step::Zero(file, _)
            | Step::Sync(file)
            | Step::Rename(file)
            | Step::SyncName(file)
            | Step::GiveUp(file, _) => Some(*file),
            Step::Recycle(segment) | Step::SyncRecycled(segment) | Step::Blank(segment) | Step::Close(segment) => Some(segment.file),
            Step::Open | Step::ClearWay | Step::Unlink(_) | Step::Remove(_) | Step::SyncRemoved(_) => None,
        }
    }

    fn name(&self, number: u64) -> (&'static str, Name) {
        let fresh = names::plain(names::SEGMENT_NEW);
        match self {
            Step::Open => ("create", fresh),
            Step::ClearWay | Step::Unlink(_) => ("remove", fresh),
            Step::Allocate(_) => ("allocate", fresh),
            Step::Zero(..) => ("write zeros to", fresh),
            Step::Sync(_) => ("flush", fresh),
            Step::Rename(_) => ("rename", fresh),
            Step::Recycle(segment) => ("rename", names::segment(segment.number)),
            Step::SyncName(_) | Step::SyncRecycled(_) => ("make durable the name", names::segment(number)),
            Step::Blank(segment) => ("write zeros to", names::segment(segment.number)),
            Step::GiveUp(..) => ("close", fresh),
            Step::Close(segment) => ("close", names::segment(segment.number)),
            Step::Remove(number) => ("remove", names::segment(*number)),
            Step::SyncRemoved(number) => ("make durable the removal of", names::segment(*number)),
        }
    }
}

//! Space for the next snapshot, set aside before anything else can take it.

use kontiki_io::{Handle, Io, IoError, IoErrorKind, Op, Output};

use crate::limits::{CHUNK_BYTES, DATA_BYTES, HINT_SHARE, MAX_BYTES, MIN_RESERVE_BYTES, RESERVE_QUARTERS};
use crate::names;
use crate::work::{Done, Kind, failed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    Create,
    Open,
    Allocate(u64),
    Sync,
    SyncDir,
}

/// What the next snapshot will be: by that it is measured how much space is set aside for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A full one. The machine thinks that its part will have so many bytes, which counts up to a share of what is free on the
    /// disk ([`HINT_SHARE`](crate::limits::HINT_SHARE)); the last one tells too.
    Full(u64),
    /// A small one, of a machine that is durable by itself.
    Small,
}

/// The file that holds the space.
#[derive(Debug)]
pub(crate) struct Space {
    file: Option<(Handle, u64)>,
    /// None: no snapshots are made here.
    expected: Option<Expected>,
    /// How much of what the machine thinks counts, in bytes; none: the disk was not looked at yet.
    most: Option<u64>,
    step: Step,
}

impl Space {
    pub(crate) fn new(file: Option<(Handle, u64)>) -> Space {
        Space { file, expected: None, most: None, step: Step::Idle }
    }

    pub(crate) fn expect(&mut self, expected: Option<Expected>) {
        (self.expected, self.most) = (expected, None);
    }

    pub(crate) fn expected(&self) -> Option<Expected> {
        self.expected
    }

    /// How much is set aside, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.file.map_or(0, |(_, bytes)| bytes)
    }

    pub(crate) fn take(&mut self) -> Option<(Handle, u64)> {
        self.file.take()
    }

    pub(crate) fn put(&mut self, file: Option<(Handle, u64)>) {
        self.file = file;
    }

    /// Looks how much of the disk there is for what the machine thinks, once for each time that it has said that. Where nobody
    /// knows, it goes by the last snapshot alone.
    pub(crate) fn measure(&mut self, dir: Handle, io: &mut dyn Io) {
        if self.most.is_none() && matches!(self.expected, Some(Expected::Full(_))) {
            self.most = Some(io.free_bytes(dir).map_or(0, |free| free.saturating_add(self.bytes()) / HINT_SHARE));
        }
    }

    /// How much is to be set aside, where the last snapshot had so many bytes.
    pub(crate) fn target(&self, last: u64) -> Option<u64> {
        let machine_bytes = if let Expected::Full(bytes) = self.expected? { bytes.min(self.most.unwrap_or(MAX_BYTES)) } else { 0 };
        let chunks = machine_bytes.div_ceil(DATA_BYTES as u64).saturating_add(2);
        let expected = chunks.saturating_mul(CHUNK_BYTES as u64).min(MAX_BYTES);
        let most = (expected.max(last) / 4).saturating_mul(RESERVE_QUARTERS);
        Some(most.clamp(MIN_RESERVE_BYTES, MAX_BYTES).next_multiple_of(CHUNK_BYTES as u64))
    }

    /// What is to be done next; none if there is enough.
    pub(crate) fn op(&mut self, dir: Handle, last: u64) -> Option<Op> {
        let target = self.target(last)?;
        if self.step == Step::Idle {
            self.step = match self.file {
                None => Step::Create,
                Some((_, bytes)) if bytes < target || bytes / 2 > target => Step::Allocate(target),
                Some(_) => return None,
            };
        }
        let name = names::plain(names::NEW);
        Some(match (self.step, self.file) {
            (Step::Create, _) => Op::Open { dir, name, create: true },
            (Step::Open, _) => Op::Open { dir, name, create: false },
            (Step::Allocate(len), Some((file, _))) => Op::Allocate { file, len },
            (Step::Sync, Some((file, _))) => Op::Sync { file },
            (Step::SyncDir, _) => Op::SyncDir { dir },
            (Step::Idle | Step::Allocate(_) | Step::Sync, _) => {
                self.step = Step::Idle;
                return None;
            }
        })
    }

    pub(crate) fn done(&mut self, result: Result<Output, IoError>) -> Done {
        let name = names::plain(names::NEW);
        match (self.step, result) {
            (Step::Create, Err(error)) if error.kind == IoErrorKind::Exists => self.step = Step::Open,
            (Step::Create | Step::Open, Ok(Output::File(file, bytes))) => {
                self.file = Some((file, bytes));
                self.step = Step::Idle;
            }
            (Step::Allocate(len), Ok(_)) => {
                self.file = self.file.map(|(file, _)| (file, len));
                self.step = Step::Sync;
            }
            (Step::Sync, Ok(_)) => self.step = Step::SyncDir,
            (Step::SyncDir, Ok(_)) => {
                self.step = Step::Idle;
                return Done::Over;
            }
            (step, Err(error)) => {
                self.step = Step::Idle;
                let (kind, what) = match step {
                    Step::Create | Step::Open | Step::Idle => (Kind::Plain, "create"),
                    Step::Allocate(_) => (Kind::Plain, "set aside space in"),
                    Step::Sync => (Kind::Flush, "flush"),
                    Step::SyncDir => (Kind::Names, "make durable the name"),
                };
                return failed(kind, what, name, error);
            }
            (step, other) => panic!("{step:?} yielded {other:?}"),
        }
        Done::Goes
    }
}

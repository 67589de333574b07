//! The node's own snapshot on its way to the disk: into the space that is set aside for it, in runs, flushed now and
//! then; at the end cut to its length, flushed, renamed, the directory flushed.

use kontiki_core::Base;
use kontiki_io::{Handle, IoData, IoError, IoErrorKind, Name, Op, Output};
use kontiki_mem::{Pool, Span};

use crate::encode::{Encoder, Run};
use crate::head::{Head, Info};
use crate::limits::{GROW_BYTES, MAX_BYTES, RUN_BYTES, RUNS};
use crate::work::{Done, Kind, failed};
use crate::{Part, StoreError, names};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    /// It is there, though nobody knew.
    Open,
    Fill,
    Grow(u64),
    Write,
    Flush,
    Trim,
    Sync,
    Rename,
    SyncDir,
}

/// A snapshot in the making.
#[derive(Debug)]
pub(crate) struct Writing {
    base: Base,
    encoder: Encoder,
    ended: Option<Info>,
    file: Option<Handle>,
    /// Length of the file.
    allocated: u64,
    run: Option<Run>,
    written: u64,
    unflushed: u64,
    step: Step,
}

impl Writing {
    /// Into this file, if there is one, of this length.
    pub(crate) fn new(head: Head, space: Option<(Handle, u64)>) -> Writing {
        Writing {
            base: head.base,
            encoder: Encoder::new(head, Pool::new(RUNS, RUN_BYTES)),
            ended: None,
            file: space.map(|(file, _)| file),
            allocated: space.map_or(0, |(_, bytes)| bytes),
            run: None,
            written: 0,
            unflushed: 0,
            step: if space.is_some() { Step::Fill } else { Step::Create },
        }
    }

    pub(crate) fn base(&self) -> Base {
        self.base
    }

    pub(crate) fn push(&mut self, part: Part, bytes: &[u8]) -> usize {
        if self.ended.is_some() { 0 } else { self.encoder.push(part, bytes) }
    }

    pub(crate) fn finish(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.encoder.finish();
        }
        self.ended.is_some()
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether its name may be on the disk already.
    pub(crate) fn is_named(&self) -> bool {
        matches!(self.step, Step::Rename | Step::SyncDir)
    }

    /// The file and its length, if it is open.
    pub(crate) fn space(&self) -> Option<(Handle, u64)> {
        self.file.map(|file| (file, self.allocated))
    }

    /// What it became, and its file.
    pub(crate) fn made(&self) -> Option<(Info, Handle)> {
        Some((self.ended?, self.file?))
    }

    fn name(&self) -> Name {
        names::snapshot(self.base.index)
    }

    /// What is to be done next; none while the source has to give more.
    pub(crate) fn op(&mut self, dir: Handle, sync_bytes: u64) -> Option<Op> {
        if self.step == Step::Fill {
            self.step = self.fill(sync_bytes)?;
        }
        let fresh = names::plain(names::NEW);
        if let Step::Create | Step::Open = self.step {
            return Some(Op::Open { dir, name: fresh, create: self.step == Step::Create });
        }
        let file = self.file?;
        Some(match self.step {
            Step::Grow(len) => Op::Allocate { file, len },
            Step::Trim => Op::Allocate { file, len: self.ended?.bytes },
            Step::Write => {
                let run = self.run.as_ref()?;
                Op::Write { file, offset: run.offset, data: IoData::Span(Span::one(run.bytes.clone())), durable: false }
            }
            Step::Flush | Step::Sync => Op::Sync { file },
            Step::Rename => Op::Rename { dir, from: fresh, to: self.name() },
            Step::SyncDir => Op::SyncDir { dir },
            Step::Create | Step::Open | Step::Fill => return None,
        })
    }

    /// What comes next while runs are written.
    fn fill(&mut self, sync_bytes: u64) -> Option<Step> {
        if self.unflushed >= sync_bytes {
            return Some(Step::Flush);
        }
        if self.run.is_none() {
            self.run = self.encoder.take(self.ended.is_some());
        }
        match (&self.run, self.ended) {
            (Some(run), _) => {
                let end = run.offset + run.bytes.len() as u64;
                Some(if end > self.allocated { Step::Grow(end.max(self.allocated + GROW_BYTES)) } else { Step::Write })
            }
            (None, Some(info)) => Some(if self.allocated == info.bytes { Step::Sync } else { Step::Trim }),
            (None, None) => None,
        }
    }

    pub(crate) fn done(&mut self, result: Result<Output, IoError>) -> Done {
        if let Err(error) = result {
            return self.failed(error);
        }
        let next = match (self.step, result) {
            (Step::Create | Step::Open, Ok(Output::File(file, bytes))) => {
                (self.file, self.allocated) = (Some(file), bytes);
                Step::Fill
            }
            (Step::Grow(len), _) if len > MAX_BYTES => return Done::Failed(StoreError::TooLong),
            (Step::Grow(len), _) => {
                self.allocated = len;
                Step::Fill
            }
            (Step::Write, _) => {
                let bytes = self.run.take().map_or(0, |run| run.bytes.len() as u64);
                self.written += bytes;
                self.unflushed += bytes;
                Step::Fill
            }
            (Step::Flush, _) => {
                self.unflushed = 0;
                Step::Fill
            }
            (Step::Trim, _) => {
                self.allocated = self.ended.map_or(0, |info| info.bytes);
                Step::Sync
            }
            (Step::Sync, _) => Step::Rename,
            (Step::Rename, _) => Step::SyncDir,
            (Step::SyncDir, _) => return Done::Over,
            (Step::Create | Step::Open | Step::Fill, other) => panic!("{:?} yielded {other:?}", self.step),
        };
        self.step = next;
        Done::Goes
    }

    fn failed(&mut self, error: IoError) -> Done {
        let fresh = names::plain(names::NEW);
        let (kind, what, name) = match self.step {
            Step::Create if error.kind == IoErrorKind::Exists => {
                self.step = Step::Open;
                return Done::Goes;
            }
            // Less may still do.
            Step::Grow(len) if error.kind == IoErrorKind::Full => {
                let least = self.run.as_ref().map_or(len, |run| run.offset + run.bytes.len() as u64);
                if least < len {
                    self.step = Step::Grow(least);
                    return Done::Goes;
                }
                (Kind::Plain, "make room in", fresh)
            }
            Step::Create => (Kind::Plain, "create", fresh),
            Step::Open => (Kind::Plain, "open", fresh),
            Step::Grow(_) => (Kind::Plain, "make room in", fresh),
            Step::Trim => (Kind::Plain, "cut to its length", fresh),
            Step::Fill | Step::Write => (Kind::Plain, "write to", fresh),
            Step::Flush | Step::Sync => (Kind::Flush, "flush", fresh),
            Step::Rename => (Kind::Plain, "rename", self.name()),
            Step::SyncDir => (Kind::Names, "make durable the name", self.name()),
        };
        failed(kind, what, name, error)
    }
}

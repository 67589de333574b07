//! A snapshot that is fetched, chunk by chunk, into `snapshot.part`.
//!
//! The file has its full length from the beginning. Where the foot will stand, a note says what is being fetched: a
//! start finds by it what to go on with, and at which chunk by the chunks themselves, since identity and number lie
//! under their checksums. What is flushed is read back and checked while the fetch goes on; the foot is written once
//! all before it is durable and found to be what was offered, and only then the file gets its name.

use std::collections::VecDeque;

use kontiki_core::{ClusterId, GroupId};
use kontiki_io::{Handle, IoBuf, IoData, IoError, IoErrorKind, Op, Output};
use kontiki_mem::{BLOCK_BYTES, Pool, PoolBuf, Span, copy_payload};

use crate::check::Check;
use crate::chunk::{Chunk, Part};
use crate::encode::Run;
use crate::flaw::Flaw;
use crate::head::{Foot, Head, Info};
use crate::limits::{CHUNK_BYTES, FETCH_RUNS, MAX_REFUSALS, MAX_REWINDS, READ_ATTEMPTS, RUN_BYTES};
use crate::offer::Offer;
use crate::work::{Done, Kind, failed};
use crate::{Digest, StoreError, names};

const CHUNK: u64 = CHUNK_BYTES as u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// What an earlier fetch left, if it is of the same offer.
    Open,
    Look,
    Close,
    Unlink,
    SyncFound,
    /// A new file.
    Create,
    Allocate,
    Note,
    SyncNew,
    SyncName,
    /// Chunks come and are written.
    Going,
    Write,
    Flush,
    /// All is there.
    Foot,
    SyncFoot,
    Rename,
    SyncDir,
}

/// What to ask the source for: whole chunks, to be given to [`Store::accept`](crate::Store::accept) one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Where in the file the first one begins, in bytes.
    pub offset: u64,
    /// How many bytes there is room for: a multiple of [`CHUNK_BYTES`].
    pub bytes: u64,
}

/// How far a fetch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is fetched.
    pub offer: Offer,
    /// Bytes that were taken, from the beginning of the file.
    pub taken: u64,
    /// Of these, bytes that are durable: a restart goes on behind them.
    pub durable: u64,
    /// Chunks that are fetched again, as they were refused or turned out damaged on this disk.
    pub again: u32,
}

/// A fetch under way.
#[derive(Debug)]
pub(crate) struct Receiving {
    offer: Offer,
    cluster: ClusterId,
    group: GroupId,
    step: Step,
    file: Option<Handle>,
    block: Pool,
    looked: Option<PoolBuf>,
    attempts: u32,
    /// What an earlier fetch left is being checked: this one goes on where that ends.
    scanning: bool,
    runs: Pool,
    filling: Option<PoolBuf>,
    filled: usize,
    queued: VecDeque<Run>,
    writing: Option<Run>,
    /// The fetch went back while this write was under way: it counts for nothing.
    stale: bool,
    next: u64,
    written: u64,
    flushing: u64,
    synced: u64,
    /// Of the snapshot's first chunk.
    identity: Option<Digest>,
    foot: Option<PoolBuf>,
    check: Check,
    verify: Pool,
    verify_attempts: u32,
    whole: Option<Info>,
    refused: u32,
    rewinds: u32,
    again: u32,
}

impl Receiving {
    pub(crate) fn new(offer: Offer, cluster: ClusterId, group: GroupId) -> Receiving {
        let runs = Pool::new(FETCH_RUNS, RUN_BYTES);
        Receiving {
            offer,
            cluster,
            group,
            step: Step::Open,
            file: None,
            block: Pool::new(2, CHUNK_BYTES),
            looked: None,
            attempts: 0,
            scanning: false,
            filling: None,
            filled: 0,
            runs,
            queued: VecDeque::with_capacity(FETCH_RUNS),
            writing: None,
            stale: false,
            next: 0,
            written: 0,
            flushing: 0,
            synced: 0,
            identity: None,
            foot: None,
            check: Check::new(),
            verify: Pool::new(1, RUN_BYTES),
            verify_attempts: 0,
            whole: None,
            refused: 0,
            rewinds: 0,
            again: 0,
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress { offer: self.offer, taken: self.next, durable: self.synced, again: self.again }
    }

    pub(crate) fn file(&self) -> Option<Handle> {
        self.file
    }

    /// Whether its name may be on the disk already.
    pub(crate) fn is_named(&self) -> bool {
        matches!(self.step, Step::Rename | Step::SyncDir)
    }

    pub(crate) fn made(&self) -> Option<(Info, Handle)> {
        Some((self.whole?, self.file?))
    }

    /// What to ask the source for next; `None` while there is no room for it, or all of it is there.
    pub(crate) fn want(&self) -> Option<Want> {
        let going = matches!(self.step, Step::Going | Step::Write | Step::Flush) && !self.scanning;
        if !going || self.foot.is_some() {
            return None;
        }
        let room = self.runs.available() * RUN_BYTES + self.filling.as_ref().map_or(0, |_| RUN_BYTES - self.filled);
        let left = self.offer.bytes - self.next;
        // The foot has a place of its own.
        let bytes = if left > CHUNK { left.min(room as u64) } else { left };
        (bytes > 0).then_some(Want { offset: self.next, bytes })
    }

    /// Takes the chunk at `offset`.
    ///
    /// # Errors
    /// What is wrong with it: it is wanted again.
    pub(crate) fn accept(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Flaw> {
        if self.want().is_none() || offset != self.next {
            return Err(Flaw::OtherPlace { found: offset / CHUNK });
        }
        let taken = self.take(offset, bytes);
        match taken {
            Ok(()) => self.refused = 0,
            Err(_) => (self.refused, self.again) = (self.refused + 1, self.again + 1),
        }
        taken
    }

    /// Why it is no use to ask this source again, if that is so.
    pub(crate) fn hopeless(&self, flaw: Flaw) -> bool {
        self.refused >= MAX_REFUSALS || matches!(flaw, Flaw::NewerFormat { .. } | Flaw::Otherwise { .. } | Flaw::Malformed)
    }

    fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Flaw> {
        let chunk = Chunk::parse(bytes)?;
        if chunk.number != offset / CHUNK {
            return Err(Flaw::OtherPlace { found: chunk.number });
        }
        if offset == 0 {
            let head = Head::parse(chunk.data).filter(|_| chunk.part == Part::Head).ok_or(Flaw::Malformed)?;
            self.fits(&head)?;
            self.identity = Some(chunk.identity);
        } else if Some(chunk.identity) != self.identity {
            return Err(Flaw::OtherSnapshot);
        }
        if (chunk.part == Part::Foot) != (offset == self.offer.foot_at()) {
            return Err(Flaw::Otherwise { what: "length" });
        }
        if chunk.part == Part::Foot {
            let foot = Foot::parse(chunk.data).ok_or(Flaw::Malformed)?;
            if foot.digest != self.offer.digest || foot.bytes != self.offer.bytes {
                return Err(Flaw::Otherwise { what: "digest" });
            }
            let Some(mut buf) = self.block.take() else { return Err(Flaw::OtherPlace { found: chunk.number }) };
            copy_payload(buf.bytes_mut(), bytes);
            self.foot = Some(buf);
        } else {
            self.keep(bytes);
        }
        self.next += CHUNK;
        Ok(())
    }

    fn fits(&self, head: &Head) -> Result<(), Flaw> {
        let differs = |what| Err(Flaw::Otherwise { what });
        if head.cluster != self.cluster || head.group != self.group {
            return differs("cluster");
        }
        if head.base != self.offer.base {
            return differs("entry");
        }
        if head.lineage != self.offer.lineage { differs("lineage") } else { Ok(()) }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.filling.is_none() {
            (self.filling, self.filled) = (self.runs.take(), 0);
        }
        let Some(run) = &mut self.filling else { panic!("there was room") };
        copy_payload(&mut run.bytes_mut()[self.filled..self.filled + CHUNK_BYTES], bytes);
        self.filled += CHUNK_BYTES;
        let end = self.next + CHUNK;
        if self.filled == RUN_BYTES || end == self.offer.foot_at() {
            let Some(run) = self.filling.take() else { return };
            let bytes = run.freeze().slice(0, self.filled);
            self.queued.push_back(Run { offset: end - self.filled as u64, bytes });
        }
    }

    /// Back to `offset`: what was behind is fetched again.
    fn rewind(&mut self, offset: u64) {
        (self.next, self.written, self.synced) = (offset, offset, offset);
        self.flushing = self.flushing.min(offset);
        (self.filling, self.foot) = (None, None);
        self.queued.clear();
        self.stale = self.step == Step::Write;
        if self.step != Step::Write {
            self.writing = None;
        }
    }

    /// What is to be done next; none while the source has to send more.
    pub(crate) fn op(&mut self, dir: Handle, sync_bytes: u64) -> Option<Op> {
        if self.step == Step::Going {
            self.step = self.go_on(sync_bytes)?;
        }
        let part = names::plain(names::PART);
        if let Step::Open | Step::Create = self.step {
            return Some(Op::Open { dir, name: part, create: self.step == Step::Create });
        }
        if self.step == Step::Unlink {
            return Some(Op::Unlink { dir, name: part });
        }
        let file = self.file?;
        Some(match self.step {
            Step::Look => {
                let buf = self.looked.take().or_else(|| self.block.take())?;
                Op::Read { file, offset: self.offer.foot_at(), buf: IoBuf::Pool(buf), len: CHUNK_BYTES }
            }
            Step::Close => Op::Close { handle: file },
            Step::Allocate => Op::Allocate { file, len: self.offer.bytes },
            Step::Note => {
                let mut buf = self.block.take()?;
                self.offer.note(&mut buf.bytes_mut()[..BLOCK_BYTES]);
                Op::Write { file, offset: self.offer.foot_at(), data: IoData::Pool(buf, BLOCK_BYTES), durable: false }
            }
            Step::Write => {
                let run = self.writing.as_ref()?;
                Op::Write { file, offset: run.offset, data: IoData::Span(Span::one(run.bytes.clone())), durable: false }
            }
            Step::Foot => {
                // Kept until it is written: a copy, since a write that lacked something is done again.
                let mut buf = self.block.take()?;
                copy_payload(buf.bytes_mut(), self.foot.as_ref()?.bytes());
                Op::Write { file, offset: self.offer.foot_at(), data: IoData::Pool(buf, CHUNK_BYTES), durable: false }
            }
            Step::SyncFound | Step::SyncNew | Step::Flush | Step::SyncFoot => Op::Sync { file },
            Step::SyncName | Step::SyncDir => Op::SyncDir { dir },
            Step::Rename => Op::Rename { dir, from: part, to: names::snapshot(self.offer.base.index) },
            Step::Open | Step::Create | Step::Unlink | Step::Going => return None,
        })
    }

    fn go_on(&mut self, sync_bytes: u64) -> Option<Step> {
        if self.scanning {
            return None;
        }
        let end = self.offer.foot_at();
        let unflushed = self.written.saturating_sub(self.synced);
        if unflushed >= sync_bytes || unflushed > 0 && self.written == end {
            self.flushing = self.written;
            return Some(Step::Flush);
        }
        if self.writing.is_none() {
            self.writing = self.queued.pop_front();
        }
        if self.writing.is_some() {
            return Some(Step::Write);
        }
        (self.foot.is_some() && self.whole.is_some()).then_some(Step::Foot)
    }

    /// A read of what is to be checked.
    pub(crate) fn verify_op(&mut self) -> Option<Op> {
        if !self.scanning && !matches!(self.step, Step::Going | Step::Write | Step::Flush) {
            return None;
        }
        let (from, end) = (self.check.offset(), if self.scanning { self.offer.foot_at() } else { self.synced });
        // A whole run at a time, but at the end.
        let bytes = end.checked_sub(from)?.min(RUN_BYTES as u64);
        if bytes == 0 || bytes < RUN_BYTES as u64 && end != self.offer.foot_at() {
            return None;
        }
        let (file, buf) = (self.file?, self.verify.take()?);
        Some(Op::Read { file, offset: from, buf: IoBuf::Pool(buf), len: bytes as usize })
    }

    /// What was read to be checked.
    pub(crate) fn verified(&mut self, result: Result<Output, IoError>, buf: Option<IoBuf>) -> Done {
        let read = match (result, buf) {
            (Ok(Output::Bytes(read)), Some(buf)) => Ok((buf, read)),
            (Err(error), _) if error.kind == IoErrorKind::Shortage => return Done::Lacks(error),
            _ if self.verify_attempts < READ_ATTEMPTS => {
                self.verify_attempts += 1;
                return Done::Goes;
            }
            _ => Err(Flaw::Unreadable),
        };
        self.verify_attempts = 0;
        let flaw = match read {
            Ok((buf, read)) => buf.bytes()[..read].chunks(CHUNK_BYTES).find_map(|chunk| self.check.take(chunk).err()),
            Err(flaw) => Some(flaw),
        };
        let at = self.check.offset();
        if self.scanning && (flaw.is_some() || at == self.offer.foot_at()) {
            // All up to here is there.
            self.scanning = false;
            self.rewind(at);
            self.identity = self.check.identity();
        } else if let Some(flaw) = flaw {
            self.rewinds += 1;
            self.again += 1;
            if self.rewinds > MAX_REWINDS || self.hopeless(flaw) {
                return Done::Failed(StoreError::Fetched { flaw });
            }
            self.rewind(at);
        }
        self.end_check()
    }

    /// Once all but the foot is durable and checked: whether the whole is what was offered.
    pub(crate) fn end_check(&mut self) -> Done {
        let Some(foot) = &self.foot else { return Done::Goes };
        if self.whole.is_some() || self.check.offset() != self.offer.foot_at() || self.synced != self.offer.foot_at() {
            return Done::Goes;
        }
        if let Err(flaw) = self.check.take(foot.bytes()) {
            return Done::Failed(StoreError::Fetched { flaw });
        }
        self.whole = self.check.whole();
        Done::Goes
    }

    pub(crate) fn done(&mut self, result: Result<Output, IoError>, buf: Option<IoBuf>) -> Done {
        match (self.step, result) {
            (Step::Look, result) => return self.looked_at(result, buf),
            (Step::Close, _) => {
                self.file = None;
                self.step = Step::Unlink;
            }
            (_, Err(error)) => return self.failed(error),
            (Step::Open, Ok(Output::File(file, bytes))) => {
                self.file = Some(file);
                self.attempts = 1;
                self.step = if bytes == self.offer.bytes { Step::Look } else { Step::Close };
            }
            (Step::Create, Ok(Output::File(file, _))) => {
                self.file = Some(file);
                self.step = Step::Allocate;
            }
            (Step::Write, Ok(_)) => {
                let run = self.writing.take();
                if !std::mem::take(&mut self.stale) {
                    self.written += run.map_or(0, |run| run.bytes.len() as u64);
                }
                self.step = Step::Going;
            }
            (Step::Flush, Ok(_)) => {
                self.synced = self.synced.max(self.flushing);
                self.step = Step::Going;
                return self.end_check();
            }
            (Step::SyncFound, Ok(_)) => {
                self.scanning = self.offer.foot_at() > 0;
                self.step = Step::Going;
            }
            (Step::SyncDir, Ok(_)) => return Done::Over,
            (step, Ok(output)) => {
                self.step = match step {
                    Step::Unlink => Step::Create,
                    Step::Allocate => Step::Note,
                    Step::Note => Step::SyncNew,
                    Step::SyncNew => Step::SyncName,
                    Step::SyncName => Step::Going,
                    Step::Foot => Step::SyncFoot,
                    Step::SyncFoot => Step::Rename,
                    Step::Rename => Step::SyncDir,
                    _ => panic!("{step:?} yielded {output:?}"),
                };
            }
        }
        Done::Goes
    }

    /// Whether what an earlier fetch left is of this offer: its note, or the foot in its place.
    fn looked_at(&mut self, result: Result<Output, IoError>, buf: Option<IoBuf>) -> Done {
        let Some(IoBuf::Pool(buf)) = buf else { panic!("a read without its memory") };
        match result {
            Err(error) => {
                self.looked = Some(buf);
                if error.kind == IoErrorKind::Shortage {
                    return Done::Lacks(error);
                }
                self.attempts += 1;
                if self.attempts > READ_ATTEMPTS {
                    self.step = Step::Close;
                }
            }
            Ok(_) => {
                let is_foot = Chunk::parse(buf.bytes()).ok().filter(|chunk| chunk.part == Part::Foot);
                let foot = is_foot.and_then(|chunk| Foot::parse(chunk.data));
                let same = Offer::parse_note(buf.bytes()) == Some(self.offer)
                    || foot.is_some_and(|foot| foot.digest == self.offer.digest && foot.bytes == self.offer.bytes);
                self.step = if same { Step::SyncFound } else { Step::Close };
            }
        }
        Done::Goes
    }

    fn failed(&mut self, error: IoError) -> Done {
        let part = names::plain(names::PART);
        let (kind, what, name) = match self.step {
            Step::Open if error.kind == IoErrorKind::NotFound => {
                self.step = Step::Create;
                return Done::Goes;
            }
            Step::Unlink if error.kind == IoErrorKind::NotFound => {
                self.step = Step::Create;
                return Done::Goes;
            }
            Step::Create if error.kind == IoErrorKind::Exists => {
                self.step = Step::Unlink;
                return Done::Goes;
            }
            Step::Open => (Kind::Plain, "open", part),
            Step::Create => (Kind::Plain, "create", part),
            Step::Unlink => (Kind::Plain, "remove", part),
            Step::Allocate => (Kind::Plain, "make room in", part),
            Step::SyncFound | Step::SyncNew | Step::Flush | Step::SyncFoot => (Kind::Flush, "flush", part),
            Step::SyncName => (Kind::Names, "make durable the name", part),
            Step::Rename => (Kind::Plain, "rename", part),
            Step::SyncDir => (Kind::Names, "make durable the name", names::snapshot(self.offer.base.index)),
            Step::Look | Step::Close | Step::Note | Step::Going | Step::Write | Step::Foot => (Kind::Plain, "write to", part),
        };
        failed(kind, what, name, error)
    }
}

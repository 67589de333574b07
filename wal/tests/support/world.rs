//! An `Io` over the disk in memory: deterministic, and as mean as a test wants it.

use std::sync::Arc;

use kontiki_core::Time;
use kontiki_io::{Completion, Handle, Io, IoBuf, IoData, IoError, IoErrorKind, Op, Output, Token, Wake};

use super::disk::Disk;

/// Which operations.
pub type Pick = fn(&Op) -> bool;

/// What a test does to operations before they happen.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Fail the operation with this number (of those that `fails` picks) with this error.
    pub fail: Option<(u64, IoErrorKind)>,
    pub fails: Option<fn(&Op) -> bool>,
    /// Until this time, operations that this picks find too little of something.
    pub short: Option<(u64, Pick)>,
    /// From this read on, counted from the first, each finds too little of something.
    pub short_from: Option<u64>,
    /// Time goes on by itself where the log waits for it.
    pub patient: bool,
    /// Do no operation from this number on: the power failed.
    pub stop_at: Option<u64>,
    /// The block at this offset of any file cannot be read.
    pub unreadable: Option<u64>,
    /// Keep these until they are released.
    pub hold: Option<fn(&Op) -> bool>,
}

struct Bell;
impl Wake for Bell {
    fn wake(&self) {}
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.log).finish()
    }
}

pub struct World {
    pub disk: Disk,
    pub plan: Plan,
    pub now: u64,
    pub locked: bool,
    queue: Vec<(Token, Op)>,
    pub held: Vec<(Token, Op)>,
    handles: Vec<Option<usize>>,
    open: usize,
    /// Operations done, and those that the plan may fail.
    pub done: u64,
    picked: u64,
    /// Names of what was done, and the bytes of log and hard-state writes.
    pub log: Vec<String>,
    /// Those that the plan failed.
    pub failed: Vec<String>,
    random: u64,
}

impl World {
    pub fn new(disk: Disk) -> World {
        World {
            disk,
            plan: Plan::default(),
            now: 0,
            locked: false,
            queue: Vec::new(),
            held: Vec::new(),
            handles: Vec::new(),
            open: 0,
            done: 0,
            picked: 0,
            log: Vec::new(),
            failed: Vec::new(),
            random: 1,
        }
    }

    /// From now on, fails the operation number `at` of those that `fails` picks.
    pub fn fail(&mut self, at: u64, kind: IoErrorKind, fails: fn(&Op) -> bool) {
        (self.plan.fail, self.plan.fails, self.picked) = (Some((at, kind)), Some(fails), 0);
    }

    pub fn stopped(&self) -> bool {
        self.plan.stop_at.is_some_and(|at| self.done >= at)
    }

    pub fn outstanding(&self) -> usize {
        self.queue.len() + self.held.len()
    }

    pub fn open_handles(&self) -> usize {
        self.open
    }

    /// The disk, caches and all, after the process was killed now: of writes under way any part may be seen.
    pub fn kill(&self, seed: u64) -> Disk {
        let mut random = Random(seed);
        let mut disk = self.disk.clone();
        self.do_writes(&mut disk, &mut || !random.next().is_multiple_of(4));
        disk
    }

    fn do_writes(&self, disk: &mut Disk, reaches: &mut dyn FnMut() -> bool) {
        for (_, op) in self.held.iter().chain(&self.queue) {
            if let Op::Write { file, offset, data, .. } = op
                && let Some(id) = self.handles[file.0 as usize]
            {
                disk.write(id, *offset, bytes_of(data), false, &mut |_| reaches());
            }
        }
    }

    /// The medium after a power cut now. Of writes under way any part may have reached it.
    pub fn cut(&self, seed: u64) -> Disk {
        let mut random = Random(seed);
        // A few cuts are extreme: nothing, or everything.
        let mut kept: Box<dyn FnMut() -> bool> = match seed {
            0 => Box::new(|| false),
            1 => Box::new(|| true),
            _ => {
                let odds = 1 + seed % 7;
                Box::new(move || random.next() % 8 < odds)
            }
        };
        self.cut_with(&mut kept)
    }

    /// The medium after a power cut now, in which `kept` decides what reached it.
    pub fn cut_with(&self, kept: &mut dyn FnMut() -> bool) -> Disk {
        let mut disk = self.disk.clone();
        self.do_writes(&mut disk, &mut || true);
        disk.cut(kept);
        disk
    }

    fn perform(&mut self, op: Op) -> (Result<Output, IoErrorKind>, Option<IoBuf>) {
        self.log.push(describe(&op));
        self.done += 1;
        let picked = self.plan.fails.is_none_or(|fails| fails(&op));
        let mut short = self.plan.short.is_some_and(|(until, lacks)| self.now < until && lacks(&op));
        if let (Some(from), Op::Read { .. }) = (&mut self.plan.short_from, &op) {
            short |= *from == 0;
            *from = from.saturating_sub(1);
        }
        if picked || short {
            self.picked += u64::from(picked);
            let failed = self.plan.fail.filter(|(at, _)| picked && self.picked == at + 1).map(|(_, kind)| kind);
            if let Some(kind) = failed.or_else(|| short.then_some(IoErrorKind::Shortage)) {
                self.failed.push(describe(&op));
                // Some of a failed write may have happened.
                if let Op::Write { file, offset, data, .. } = &op
                    && let Some(id) = self.handles[file.0 as usize]
                {
                    self.random += 1;
                    let mut random = Random(self.random);
                    self.disk.write(id, *offset, bytes_of(data), false, &mut |_| random.next().is_multiple_of(2));
                }
                let buf = if let Op::Read { buf, .. } = op { Some(buf) } else { None };
                return (Err(kind), buf);
            }
        }
        let result = match op {
            Op::Read { offset, buf, len, .. } if self.plan.unreadable.is_some_and(|bad| (offset..offset + len as u64).contains(&bad)) => {
                return (Err(IoErrorKind::Device), Some(buf));
            }
            Op::Read { file, offset, mut buf, len } => {
                let bytes = match &mut buf {
                    IoBuf::Pool(buf) => buf.bytes_mut(),
                    IoBuf::Block(block) => block.bytes_mut(),
                };
                let read = self.disk.read(self.handles[file.0 as usize].unwrap(), offset, &mut bytes[..len]);
                return (Ok(Output::Bytes(read)), Some(buf));
            }
            Op::Write { file, offset, data, durable } => {
                let file = self.handles[file.0 as usize].unwrap();
                self.disk.write(file, offset, bytes_of(&data), durable, &mut |_| true);
                Ok(Output::Done)
            }
            Op::OpenDir { .. } => Ok(Output::Opened(self.handle(usize::MAX))),
            Op::Lock { .. } if self.locked => Err(IoErrorKind::Locked),
            Op::Identify { .. } => Ok(Output::Identity(self.disk.identity)),
            Op::Lock { .. } => Ok(Output::Opened(self.handle(usize::MAX))),
            Op::List { .. } => Ok(Output::Listing(self.disk.list())),
            Op::Open { name, create, .. } => self.disk.open(&name, create).map(|(file, len)| Output::File(self.handle(file), len)),
            Op::Allocate { file, len } => self.disk.allocate(self.handles[file.0 as usize].unwrap(), len).map(|()| Output::Done),
            Op::Sync { file } => {
                self.disk.sync(self.handles[file.0 as usize].unwrap());
                Ok(Output::Done)
            }
            Op::Rename { from, to, .. } => self.disk.rename(&from, &to).map(|()| Output::Done),
            Op::Unlink { name, .. } => self.disk.unlink(&name).map(|()| Output::Done),
            Op::SyncDir { .. } => {
                self.disk.sync_dir();
                Ok(Output::Done)
            }
            Op::Close { handle } => {
                self.handles[handle.0 as usize].take().unwrap();
                self.open -= 1;
                Ok(Output::Done)
            }
            other => panic!("the log does not do {other:?}"),
        };
        (result, None)
    }

    fn handle(&mut self, file: usize) -> Handle {
        self.handles.push(Some(file));
        self.open += 1;
        Handle(self.handles.len() as u32 - 1)
    }

    /// Does one operation.
    pub fn step(&mut self) -> Option<Completion> {
        while !self.stopped() && !self.queue.is_empty() {
            let (token, op) = self.queue.remove(0);
            if self.plan.hold.is_some_and(|holds| holds(&op)) {
                self.held.push((token, op));
                continue;
            }
            return Some(self.complete(token, op));
        }
        None
    }

    /// Lets the held operation at `at` happen.
    pub fn release(&mut self, at: usize) -> Completion {
        let (token, op) = self.held.remove(at);
        self.complete(token, op)
    }

    fn complete(&mut self, token: Token, op: Op) -> Completion {
        let (result, buf) = self.perform(op);
        Completion { token, result: result.map_err(|kind| IoError { kind, errno: 0 }), buf }
    }
}

fn bytes_of(data: &IoData) -> &[u8] {
    match data {
        IoData::Span(span) => span.bytes(),
        IoData::Pool(buf, len) => &buf.bytes()[..*len],
    }
}

fn describe(op: &Op) -> String {
    match op {
        Op::Write { offset, data, durable, .. } => format!("write {offset} +{} durable={durable}", bytes_of(data).len()),
        Op::Read { offset, len, .. } => format!("read {offset} +{len}"),
        Op::Rename { from, to, .. } => format!("rename {from} {to}"),
        Op::Unlink { name, .. } => format!("unlink {name}"),
        Op::Open { name, create, .. } => format!("open {name} create={create}"),
        Op::Sync { .. } => "sync".into(),
        Op::SyncDir { .. } => "sync dir".into(),
        Op::Allocate { .. } => "allocate".into(),
        Op::Close { .. } => "close".into(),
        Op::OpenDir { .. } => "open dir".into(),
        Op::Lock { .. } => "lock".into(),
        Op::Identify { .. } => "identify".into(),
        Op::List { .. } => "list".into(),
        other => format!("{other:?}"),
    }
}

/// splitmix64
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Io for World {
    fn now(&self) -> Time {
        Time(self.now)
    }
    fn wall_ns(&self) -> u64 {
        0
    }
    fn free_bytes(&mut self, _: Handle) -> Option<u64> {
        let used: u64 = self.disk.list().iter().map(|(_, bytes)| bytes).sum();
        Some(self.disk.capacity.unwrap_or(1 << 40).saturating_sub(used))
    }
    fn submit(&mut self, token: Token, op: Op) {
        assert!(self.outstanding() < 64, "more operations than the log says");
        self.queue.push((token, op));
    }
    fn capacity(&self) -> usize {
        64
    }
    fn turn(&mut self, _: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        done.extend(self.step());
        Ok(())
    }
    fn bell(&self) -> Arc<dyn Wake> {
        Arc::new(Bell)
    }
    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
    fn describe(&self) -> String {
        "test".into()
    }
}

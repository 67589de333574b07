//! The world of the node under test: its disk, the wire, the clock, and which operations wait for the script's word.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kontiki_core::Time;
use kontiki_frame::BLOCK_BYTES;
use kontiki_io::{Completion, Handle, Identity, Io, IoBuf, IoError, IoErrorKind, IoStats, Name, Op, Output, Token, Wake};

use super::disk::Disk;
use super::wire::{Host, Socket, Wire, addr};
use super::words::brief;

/// The host under test.
pub(super) const NODE: Host = 1;

/// What a look at the clock takes while the node waits awake. (It yields between two looks, which takes long on a busy
/// machine.)
const LOOK_NS: u64 = 5_000;

/// What scripts call an operation of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A write of frames, or of a segment's header before them.
    Log,
    /// A write of the hard state.
    Hard,
    /// A read of the log.
    Read,
    /// Whatever is done to a snapshot's file, but for the flush of its name: that is of the directory.
    Snap,
    /// Whatever else is done to files: mostly the preparation of segments.
    Prep,
    /// A send to this host.
    Send(Host),
    /// A receive from this host.
    Recv(Host),
    Other,
}

#[derive(Debug)]
struct Pending {
    host: Host,
    number: u64,
    class: Class,
    token: Token,
    op: Op,
}

#[derive(Debug)]
enum Open {
    Dir,
    File(usize, Name),
    Listener(Host),
    /// With whether it was shut down.
    Socket(Socket, bool),
    Closed,
}

/// What an operation does.
fn verb(op: &Op) -> String {
    format!("{op:?}").split([' ', '{']).next().unwrap_or_default().to_lowercase()
}

#[derive(Debug)]
struct Bell(Arc<AtomicBool>);

impl Wake for Bell {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Time,
    pub(super) disk: Disk,
    pub(super) wire: Wire,
    /// Classes whose operations wait.
    pub(super) holds: Vec<Class>,
    /// The next operation of the class fails.
    pub(super) failing: Vec<(Class, IoErrorKind)>,
    /// What happened, for the script.
    pub(super) trace: Vec<String>,
    /// Operations are traced, the preparation of segments too.
    pub(super) told: (bool, bool),
    pub(super) stats: IoStats,
    pending: Vec<Pending>,
    /// Numbers of held operations that may go on.
    let_go: Vec<u64>,
    submitted: u64,
    handles: Vec<Open>,
    done: Vec<Completion>,
}

impl World {
    pub(super) fn new() -> Rc<RefCell<World>> {
        Rc::new(RefCell::new(World {
            now: Time(1_000_000_000),
            disk: Disk::default(),
            wire: Wire::default(),
            holds: Vec::new(),
            failing: Vec::new(),
            trace: Vec::new(),
            told: (false, false),
            stats: IoStats::default(),
            pending: Vec::new(),
            let_go: Vec::new(),
            submitted: 0,
            handles: Vec::new(),
            done: Vec::new(),
        }))
    }

    fn open(&mut self, open: Open) -> Handle {
        self.handles.push(open);
        Handle(self.handles.len() as u32 - 1)
    }

    fn file(&self, handle: Handle) -> (usize, &Name) {
        match &self.handles[handle.0 as usize] {
            Open::File(file, name) => (*file, name),
            other => panic!("{handle:?} is no file: {other:?}"),
        }
    }

    fn socket(&self, handle: Handle) -> (Socket, bool) {
        match &self.handles[handle.0 as usize] {
            Open::Socket(socket, shut) => (*socket, *shut),
            other => panic!("{handle:?} is no connection: {other:?}"),
        }
    }

    /// The file that it is done to, by its name.
    fn name<'a>(&'a self, op: &'a Op) -> Option<&'a Name> {
        match op {
            Op::Open { name, .. } | Op::Unlink { name, .. } | Op::Rename { from: name, .. } => Some(name),
            Op::Read { file, .. } | Op::Write { file, .. } | Op::Allocate { file, .. } | Op::Sync { file, .. } => Some(self.file(*file).1),
            _ => None,
        }
    }

    fn class(&self, op: &Op) -> Class {
        match op {
            op if self.name(op).is_some_and(|name| name.as_str().starts_with("snapshot")) => Class::Snap,
            Op::Write { file, data, .. } => match self.file(*file).1.as_str().starts_with("hard-state") {
                true => Class::Hard,
                false if data.bytes().iter().all(|&byte| byte == 0) => Class::Prep,
                false => Class::Log,
            },
            Op::Read { .. } => Class::Read,
            Op::Open { .. } | Op::Allocate { .. } | Op::Sync { .. } | Op::Rename { .. } | Op::Unlink { .. } | Op::SyncDir { .. } => {
                Class::Prep
            }
            Op::Send { socket, .. } => Class::Send(self.socket(*socket).0.remote),
            Op::Recv { socket, .. } => Class::Recv(self.socket(*socket).0.remote),
            _ => Class::Other,
        }
    }

    fn submit(&mut self, host: Host, token: Token, op: Op) {
        op.assert_valid();
        if let Op::Close { handle } = op {
            assert!(self.pending.iter().all(|other| other.op.handle() != Some(handle)), "closed while something is outstanding on it");
        }
        let class = self.class(&op);
        self.submitted += 1;
        if host == NODE {
            self.stats.ops += 1;
            self.tell(class, &op);
        }
        self.pending.push(Pending { host, number: self.submitted, class, token, op });
    }

    fn tell(&mut self, class: Class, op: &Op) {
        let line = match (class, op) {
            (Class::Log, Op::Write { data, .. }) => match frames_in(data.bytes()) {
                frames if frames.is_empty() => return,
                frames => format!("write log {}", brief(&frames)),
            },
            (Class::Hard, Op::Write { file, data, offset, .. }) => {
                let before = self.disk.at(self.file(*file).0, *offset, BLOCK_BYTES);
                if before.len() == BLOCK_BYTES && hard_state(before) == hard_state(data.bytes()) {
                    // Written for the log's own sake.
                    return;
                }
                let copy = if *offset == 0 { "first" } else { "second" };
                format!("write hard state, {copy} copy: {}", hard_state(data.bytes()))
            }
            (Class::Read, Op::Read { file, offset, len, .. }) => {
                let bytes = self.disk.at(self.file(*file).0, *offset, *len);
                format!("read log {}", brief(&frames_in(bytes)))
            }
            (Class::Prep, op) if self.told.1 => verb(op),
            (Class::Snap, op) if self.told.1 => format!("{} snapshot", verb(op)),
            _ => return,
        };
        if self.told.0 {
            self.trace.push(line);
        }
    }

    /// The node's operations of a class that wait for a word, oldest first.
    pub(super) fn held(&self, class: Class) -> Vec<u64> {
        let waits = |p: &&Pending| p.host == NODE && p.class == class && self.holds.contains(&class);
        self.pending.iter().filter(waits).map(|p| p.number).collect()
    }

    /// Lets one of them happen, or fail.
    pub(super) fn let_go(&mut self, number: u64, failure: Option<IoErrorKind>) {
        self.let_go.push(number);
        if let (Some(kind), Some(p)) = (failure, self.pending.iter().find(|p| p.number == number)) {
            self.failing.push((p.class, kind));
        }
    }

    /// Does whatever can be done of a host's operations. Whether anything was.
    pub(super) fn work(&mut self, host: Host) -> bool {
        debug_assert!(self.done.is_empty(), "the last work's completions were taken");
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(|p| p.host == host);
        self.pending = others;
        let mut order: Vec<Pending> = mine;
        // What was let go comes in the order of the script's words.
        order.sort_by_key(|p| self.let_go.iter().position(|&number| number == p.number).map_or((1, p.number), |at| (0, at as u64)));
        for Pending { host, number, class, token, op } in order {
            let freed = self.let_go.iter().position(|&n| n == number);
            if host == NODE && freed.is_none() && self.holds.contains(&class) {
                self.pending.push(Pending { host, number, class, token, op });
                continue;
            }
            if let Some(at) = freed {
                self.let_go.remove(at);
            }
            let fails = self.failing.iter().position(|&(failing, _)| host == NODE && failing == class);
            let outcome = match fails {
                Some(at) => {
                    let buf = if let Op::Read { buf, .. } | Op::Recv { buf, .. } = op { Some(buf) } else { None };
                    Ok((Err(self.failing.remove(at).1), buf))
                }
                None => self.attempt(host, op),
            };
            match outcome {
                Ok((result, buf)) => self.done.push(Completion { token, result: result.map_err(|kind| IoError { kind, errno: 0 }), buf }),
                Err(op) => self.pending.push(Pending { host, number, class, token, op }),
            }
        }
        self.pending.sort_by_key(|p| p.number);
        !self.done.is_empty()
    }

    /// The result, or the operation back if its time has not come.
    fn attempt(&mut self, host: Host, op: Op) -> Result<(Result<Output, IoErrorKind>, Option<IoBuf>), Op> {
        let result = match op {
            Op::OpenDir { .. } | Op::Lock { .. } => Ok(Output::Opened(self.open(Open::Dir))),
            Op::Identify { .. } => Ok(Output::Identity(Identity { boot: 1, place: 1 })),
            Op::Resolve { .. } => Err(IoErrorKind::NotFound),
            Op::List { .. } => Ok(Output::Listing(self.disk.list())),
            Op::Open { name, create, .. } => {
                self.disk.open(&name, create).map(|(file, len)| Output::File(self.open(Open::File(file, name)), len))
            }
            Op::Allocate { file, len } => self.disk.allocate(self.file(file).0, len).map(|()| Output::Done),
            Op::Read { file, offset, mut buf, len } => {
                let bytes = self.disk.at(self.file(file).0, offset, len);
                buf.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
                return Ok((Ok(Output::Bytes(bytes.len())), Some(buf)));
            }
            Op::Write { file, offset, data, durable } => {
                let file = self.file(file).0;
                self.disk.write(file, offset, data.bytes());
                if host == NODE {
                    self.stats.bytes_written += data.bytes().len() as u64;
                    self.stats.flushes += u64::from(durable);
                }
                Ok(Output::Done)
            }
            Op::Sync { .. } | Op::SyncDir { .. } => Ok(Output::Done),
            Op::Rename { from, to, .. } => self.disk.rename(&from, &to).map(|()| Output::Done),
            Op::Unlink { name, .. } => self.disk.unlink(&name).map(|()| Output::Done),
            Op::Listen { addr } if self.wire.listen(host) => Ok(Output::Listening(self.open(Open::Listener(host)), addr)),
            Op::Listen { .. } => Err(IoErrorKind::AddressInUse),
            Op::Accept { listener } => match self.handles[listener.0 as usize] {
                Open::Listener(host) => match self.wire.accept(host) {
                    Some(socket) => Ok(Output::Accepted(self.open(Open::Socket(socket, false)), addr(socket.remote))),
                    None => return Err(Op::Accept { listener }),
                },
                _ => Err(IoErrorKind::Canceled),
            },
            Op::Connect { addr } => match self.wire.connect(host, addr) {
                Some(socket) => Ok(Output::Opened(self.open(Open::Socket(socket, false)))),
                None => Err(IoErrorKind::Refused),
            },
            Op::Recv { socket, mut buf, at, len } => match self.socket(socket) {
                (_, true) => return Ok((Err(IoErrorKind::Canceled), Some(buf))),
                (end, false) => match self.wire.receive(end, &mut buf.bytes_mut()[at..at + len]) {
                    Some(count) => return Ok((Ok(Output::Bytes(count)), Some(buf))),
                    None => return Err(Op::Recv { socket, buf, at, len }),
                },
            },
            Op::Send { socket, gather } => {
                let (end, shut) = self.socket(socket);
                let sent = !shut && self.wire.send(end, gather.slices());
                if sent && host == NODE {
                    self.stats.bytes_sent += gather.len() as u64;
                }
                if sent { Ok(Output::Done) } else { Err(IoErrorKind::Disconnected) }
            }
            Op::Shutdown { socket } => {
                self.shut(socket);
                Ok(Output::Done)
            }
            Op::Close { handle } => {
                self.shut(handle);
                self.handles[handle.0 as usize] = Open::Closed;
                Ok(Output::Done)
            }
        };
        Ok((result, None))
    }

    fn shut(&mut self, handle: Handle) {
        match &mut self.handles[handle.0 as usize] {
            Open::Listener(host) => {
                self.wire.unlisten(*host);
                self.handles[handle.0 as usize] = Open::Closed;
            }
            Open::Socket(socket, shut) => {
                *shut = true;
                self.wire.shut(*socket);
                // What waited on a connection that is shut does not wait for a word any more.
                let numbers = self.pending.iter().filter(|p| p.op.handle() == Some(handle)).map(|p| p.number);
                self.let_go.extend(numbers);
            }
            Open::Dir | Open::File(..) | Open::Closed => {}
        }
    }

    /// A host is gone, with all that it had open; `late`: its writes reach the disk all the same.
    pub(super) fn gone(&mut self, host: Host, late: bool) {
        for Pending { op, .. } in self.pending.extract_if(.., |p| p.host == host).collect::<Vec<_>>() {
            if late && matches!(op, Op::Write { .. }) {
                let _ = self.attempt(host, op);
            }
        }
        self.done.clear();
        for at in 0..self.handles.len() {
            let owned = match &self.handles[at] {
                Open::Dir | Open::File(..) => host == NODE,
                Open::Listener(owner) => *owner == host,
                Open::Socket(socket, _) => socket.owner == host,
                Open::Closed => false,
            };
            if owned {
                self.shut(Handle(at as u32));
                self.handles[at] = Open::Closed;
            }
        }
    }
}

/// The frames in these bytes: `first..last@term`.
pub(super) fn frames_in(bytes: &[u8]) -> Vec<String> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= BLOCK_BYTES) {
        at += match kontiki_frame::parse_header(rest) {
            Ok(header) => {
                found.push(format!("{}..{}@{}", header.meta.first, header.meta.last(), header.meta.term));
                kontiki_frame::frame_bytes(header.body_bytes as usize)
            }
            Err(_) => BLOCK_BYTES,
        };
    }
    found
}

/// Term and vote where `docs/format.md` says they are.
fn hard_state(block: &[u8]) -> String {
    let number = |at: usize| block[at..at + 8].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    let recovering = if block[10] & 1 != 0 { ", recovering" } else { "" };
    match number(40) {
        0 => format!("t{}{recovering}", number(32)),
        vote => format!("t{} vote n{vote}{recovering}", number(32)),
    }
}

/// Acts at every look at the clock.
pub(super) type Meanwhile = Rc<Cell<Option<Box<dyn FnMut(Time)>>>>;

/// A host's view of the world.
pub(super) struct Endpoint {
    world: Rc<RefCell<World>>,
    host: Host,
    bell: Arc<AtomicBool>,
    /// What happens while the node waits awake.
    pub(super) meanwhile: Meanwhile,
    /// Time that the state machine has taken.
    pub(super) spent: Arc<AtomicU64>,
}

impl Endpoint {
    pub(super) fn new(world: &Rc<RefCell<World>>, host: Host) -> Endpoint {
        Endpoint { world: Rc::clone(world), host, bell: Arc::default(), meanwhile: Rc::default(), spent: Arc::default() }
    }

    /// Whether the bell rings when it is taken up.
    pub(super) fn rung(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.bell)
    }
}

impl Io for Endpoint {
    fn now(&self) -> Time {
        if let Some(mut act) = self.meanwhile.take() {
            let now = {
                let mut world = self.world.borrow_mut();
                world.now = world.now.plus_ns(LOOK_NS);
                world.now
            };
            act(now);
            self.meanwhile.set(Some(act));
        }
        let mut world = self.world.borrow_mut();
        world.now = world.now.plus_ns(self.spent.swap(0, Ordering::Relaxed));
        world.now
    }

    fn wall_ns(&self) -> u64 {
        0
    }

    fn free_bytes(&mut self, _: Handle) -> Option<u64> {
        Some(1 << 40)
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.world.borrow_mut().submit(self.host, token, op);
    }

    fn capacity(&self) -> usize {
        512
    }

    fn turn(&mut self, _: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        done.append(&mut self.world.borrow_mut().done);
        Ok(())
    }

    fn bell(&self) -> Arc<dyn Wake> {
        Arc::new(Bell(Arc::clone(&self.bell)))
    }

    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }

    fn describe(&self) -> String {
        "scripted".into()
    }

    fn stats(&self) -> IoStats {
        self.world.borrow().stats
    }
}

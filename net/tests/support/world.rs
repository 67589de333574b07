//! Hosts in a world of byte pipes and a clock, all under the test's control.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use kontiki_core::Time;
use kontiki_io::{Completion, Gather, Handle, Io, IoBuf, IoError, IoErrorKind, Op, Output, Piece, Token, Wake};

use super::{MS, addr};

/// What befalls the bytes of one direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Both directions break down once so many bytes were delivered here.
    pub reset_after: Option<u64>,
    /// This byte of the stream arrives with these bits flipped.
    pub flip: Option<(u64, u8)>,
    /// How long whatever is written, an end too, takes to the other side, in nanoseconds.
    pub delay_ns: u64,
}

#[derive(Debug, Default)]
struct Pipe {
    data: VecDeque<u8>,
    /// When how many of these bytes are there, in order.
    due: VecDeque<(Time, usize)>,
    written: u64,
    delivered: u64,
    /// When its end is seen on the other side.
    closed: Option<Time>,
    reset: bool,
    faults: Faults,
    /// The pipe of the other direction.
    twin: usize,
    record: Vec<u8>,
    sender: SocketAddr2,
}

/// `SocketAddr` with a default.
#[derive(Clone, Copy, Debug)]
struct SocketAddr2(SocketAddr);

impl Default for SocketAddr2 {
    fn default() -> Self {
        SocketAddr2(addr(0))
    }
}

#[derive(Clone, Copy, Debug)]
enum Open {
    Listener(SocketAddr),
    Socket { rx: usize, tx: usize, shut: bool },
    Closed,
}

#[derive(Debug)]
pub struct World {
    pub now: Time,
    /// At most this many bytes per receive.
    pub chunk: usize,
    /// Bytes that a pipe takes before a sender must wait.
    pub pipe_bytes: usize,
    /// Faults of the nth connection from now on: (towards the listener, towards the dialler).
    pub plan: HashMap<usize, (Faults, Faults)>,
    /// Latencies of further connections, where none are planned: a state that they are drawn from, and the longest.
    pub latency: (u64, u64),
    /// Addresses that never answer.
    pub black_holes: HashSet<SocketAddr>,
    /// Hosts that have no descriptor left for another connection.
    pub short: HashSet<SocketAddr>,
    /// Hosts (by listening port) whose receives get nothing.
    pub deaf: HashSet<u16>,
    /// Addresses of names; of one that is not here nothing is known, and one without addresses is never answered.
    pub names: HashMap<String, Vec<SocketAddr>>,
    pub connections: usize,
    /// Addresses that lead to others.
    forwards: HashMap<SocketAddr, SocketAddr>,
    listeners: HashMap<SocketAddr, VecDeque<(u32, SocketAddr)>>,
    handles: Vec<Open>,
    pipes: Vec<Pipe>,
}

impl World {
    pub fn new() -> Rc<RefCell<World>> {
        Rc::new(RefCell::new(World {
            now: Time(1_000_000 * MS),
            chunk: usize::MAX,
            pipe_bytes: 256 << 10,
            plan: HashMap::new(),
            latency: (1, 0),
            black_holes: HashSet::new(),
            short: HashSet::new(),
            deaf: HashSet::new(),
            names: HashMap::new(),
            connections: 0,
            forwards: HashMap::new(),
            listeners: HashMap::new(),
            handles: Vec::new(),
            pipes: Vec::new(),
        }))
    }

    fn handle(&mut self, open: Open) -> u32 {
        self.handles.push(open);
        self.handles.len() as u32 - 1
    }

    fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> Option<u32> {
        let to = self.forwards.get(&to).copied().unwrap_or(to);
        if !self.listeners.contains_key(&to) {
            return None;
        }
        let there = self.pipes.len();
        let back = there + 1;
        let (out, home) = self.plan.remove(&self.connections).unwrap_or_else(|| {
            let mut drawn = || Faults { delay_ns: self.draw(), ..Faults::default() };
            (drawn(), drawn())
        });
        self.connections += 1;
        self.pipes.push(Pipe { twin: back, faults: out, sender: SocketAddr2(from), ..Pipe::default() });
        self.pipes.push(Pipe { twin: there, faults: home, sender: SocketAddr2(to), ..Pipe::default() });
        let far = self.handle(Open::Socket { rx: there, tx: back, shut: false });
        self.listeners.get_mut(&to)?.push_back((far, from));
        Some(self.handle(Open::Socket { rx: back, tx: there, shut: false }))
    }

    fn draw(&mut self) -> u64 {
        let (state, longest) = &mut self.latency;
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 33) * *longest) >> 31
    }

    fn shut(&mut self, handle: u32) {
        if let Open::Socket { rx, tx, shut } = &mut self.handles[handle as usize] {
            *shut = true;
            let (rx, tx) = (*rx, *tx);
            // Either way the other side learns it over the direction towards it.
            let seen = Some(self.now.plus_ns(self.pipes[tx].faults.delay_ns));
            self.pipes[rx].data.clear();
            self.pipes[rx].due.clear();
            for pipe in [rx, tx] {
                self.pipes[pipe].closed = self.pipes[pipe].closed.or(seen);
            }
        }
    }

    /// Takes up to `len` bytes out of a pipe; `None` if none are there yet.
    fn take(&mut self, pipe: usize, len: usize) -> Option<Result<Vec<u8>, IoErrorKind>> {
        let (chunk, now) = (self.chunk, self.now);
        let p = &mut self.pipes[pipe];
        if p.reset {
            return Some(Err(IoErrorKind::Disconnected));
        }
        let there: usize = p.due.iter().take_while(|(at, _)| *at <= now).map(|(_, bytes)| bytes).sum();
        let mut n = len.min(chunk).min(there);
        if let Some(limit) = p.faults.reset_after {
            n = n.min((limit - p.delivered) as usize);
            if n == 0 && p.delivered == limit {
                let twin = p.twin;
                p.reset = true;
                self.pipes[twin].reset = true;
                return Some(Err(IoErrorKind::Disconnected));
            }
        }
        if n == 0 {
            return (p.data.is_empty() && p.closed.is_some_and(|at| at <= now)).then(|| Ok(Vec::new()));
        }
        let mut bytes: Vec<u8> = p.data.drain(..n).collect();
        let mut left = n;
        while let Some((_, due)) = p.due.front_mut().filter(|_| left > 0) {
            let taken = left.min(*due);
            (left, *due) = (left - taken, *due - taken);
            if *due == 0 {
                p.due.pop_front();
            }
        }
        if let Some((at, bits)) = p.faults.flip
            && (p.delivered..p.delivered + n as u64).contains(&at)
        {
            bytes[(at - p.delivered) as usize] ^= bits;
        }
        p.delivered += n as u64;
        Some(Ok(bytes))
    }

    /// Puts bytes into a pipe; how many it took.
    fn put(&mut self, pipe: usize, bytes: &[u8]) -> Result<usize, IoErrorKind> {
        let (room, now) = (self.pipe_bytes, self.now);
        let p = &mut self.pipes[pipe];
        if p.reset || p.closed.is_some_and(|at| at <= now) {
            return Err(IoErrorKind::Disconnected);
        }
        let n = bytes.len().min(room.saturating_sub(p.data.len()));
        if p.closed.is_some() {
            // Nobody will read it.
            return Ok(n);
        }
        p.data.extend(&bytes[..n]);
        if n > 0 {
            p.due.push_back((now.plus_ns(p.faults.delay_ns), n));
        }
        p.record.extend(&bytes[..n]);
        p.written += n as u64;
        Ok(n)
    }

    /// Everything ever written by `sender` on each of its connections, in the order they were made.
    pub fn recorded(&self, sender: SocketAddr) -> Vec<Vec<u8>> {
        self.pipes.iter().filter(|pipe| pipe.sender.0 == sender).map(|pipe| pipe.record.clone()).collect()
    }

    /// Puts bytes into the nth connection that `sender` made or took, as if it had sent them.
    pub fn inject(&mut self, sender: SocketAddr, nth: usize, bytes: &[u8]) {
        let pipe = self.pipes.iter_mut().filter(|pipe| pipe.sender.0 == sender).nth(nth).unwrap();
        assert!(pipe.closed.is_none() && !pipe.reset);
        pipe.data.extend(bytes);
        pipe.due.push_back((self.now, bytes.len()));
    }

    /// Breaks every connection that is open now.
    pub fn reset_all(&mut self) {
        for pipe in &mut self.pipes {
            pipe.reset = true;
        }
    }

    /// Whoever connects to the one address is connected to the other.
    pub fn forward(&mut self, from: SocketAddr, to: SocketAddr) {
        self.forwards.insert(from, to);
    }

    /// The host that listens there is gone: nothing more comes from it, and nobody is told. Another may take its place.
    pub fn power_cut(&mut self, at: SocketAddr) {
        self.listeners.remove(&at);
    }

    pub fn bytes_waiting(&self) -> usize {
        self.pipes.iter().map(|pipe| pipe.data.len()).sum()
    }
}

/// A listener in the hands of a test.
pub struct Listener {
    world: Rc<RefCell<World>>,
    at: SocketAddr,
}

impl Listener {
    pub fn new(world: &Rc<RefCell<World>>, at: SocketAddr) -> Listener {
        world.borrow_mut().listeners.insert(at, VecDeque::new());
        Listener { world: world.clone(), at }
    }

    /// The next connection, if there is one.
    pub fn accept(&self) -> Option<Raw> {
        let (handle, _) = self.world.borrow_mut().listeners.get_mut(&self.at)?.pop_front()?;
        Some(Raw { world: self.world.clone(), handle })
    }
}

/// A socket in the hands of a test.
pub struct Raw {
    world: Rc<RefCell<World>>,
    handle: u32,
}

impl Raw {
    pub fn connect(world: &Rc<RefCell<World>>, to: SocketAddr) -> Raw {
        Raw::connect_from(world, addr(60_000), to)
    }

    pub fn connect_from(world: &Rc<RefCell<World>>, from: SocketAddr, to: SocketAddr) -> Raw {
        let handle = world.borrow_mut().connect(from, to).unwrap();
        Raw { world: world.clone(), handle }
    }

    /// Writes all, or panics if the pipe is full; false if the other side closed.
    pub fn write(&self, bytes: &[u8]) -> bool {
        let mut world = self.world.borrow_mut();
        let Open::Socket { tx, .. } = world.handles[self.handle as usize] else { return false };
        match world.put(tx, bytes) {
            Ok(n) => {
                assert_eq!(n, bytes.len(), "the pipe is full");
                true
            }
            Err(_) => false,
        }
    }

    /// Room left towards the other side.
    pub fn room(&self) -> usize {
        let world = self.world.borrow();
        let Open::Socket { tx, .. } = world.handles[self.handle as usize] else { return 0 };
        world.pipe_bytes.saturating_sub(world.pipes[tx].data.len())
    }

    pub fn read(&self) -> Vec<u8> {
        let mut world = self.world.borrow_mut();
        let Open::Socket { rx, .. } = world.handles[self.handle as usize] else { return Vec::new() };
        let mut all = Vec::new();
        while let Some(Ok(bytes)) = world.take(rx, usize::MAX) {
            if bytes.is_empty() {
                break;
            }
            all.extend(bytes);
        }
        all
    }

    pub fn closed(&self) -> bool {
        let world = self.world.borrow();
        let Open::Socket { rx, .. } = world.handles[self.handle as usize] else { return true };
        world.pipes[rx].closed.is_some_and(|at| at <= world.now) || world.pipes[rx].reset
    }

    pub fn close(&self) {
        self.world.borrow_mut().shut(self.handle);
    }
}

#[derive(Debug)]
enum Pending {
    Listen(SocketAddr),
    Accept(u32),
    Connect(SocketAddr),
    Resolve(String),
    Recv { socket: u32, buf: IoBuf, at: usize, len: usize },
    Send { socket: u32, gather: Gather, bytes: Vec<u8>, sent: usize },
    Shutdown(u32),
    Close(u32),
}

/// One host's [`Io`].
pub struct TestIo {
    world: Rc<RefCell<World>>,
    addr: SocketAddr,
    pending: Vec<(Token, Pending)>,
    capacity: usize,
    pub most_pending: usize,
}

impl TestIo {
    pub fn new(world: Rc<RefCell<World>>, addr: SocketAddr, capacity: usize) -> TestIo {
        TestIo { world, addr, pending: Vec::new(), capacity, most_pending: 0 }
    }

    fn attempt(&mut self, op: Pending) -> Result<(Result<Output, IoErrorKind>, Option<IoBuf>), Pending> {
        let mut world = self.world.borrow_mut();
        let done = |result| Ok((result, None));
        match op {
            Pending::Listen(at) => {
                if world.listeners.contains_key(&at) {
                    return done(Err(IoErrorKind::AddressInUse));
                }
                world.listeners.insert(at, VecDeque::new());
                let handle = world.handle(Open::Listener(at));
                done(Ok(Output::Listening(Handle(handle), at)))
            }
            Pending::Accept(listener) => {
                let Open::Listener(at) = world.handles[listener as usize] else {
                    return done(Err(IoErrorKind::Canceled));
                };
                // Descriptors are lacked by whoever takes a connection, and it stays in the queue.
                if world.short.contains(&at) && world.listeners.get(&at).is_some_and(|waiting| !waiting.is_empty()) {
                    return done(Err(IoErrorKind::Shortage));
                }
                match world.listeners.get_mut(&at).map(VecDeque::pop_front) {
                    Some(Some((handle, from))) => done(Ok(Output::Accepted(Handle(handle), from))),
                    Some(None) => Err(Pending::Accept(listener)),
                    None => done(Err(IoErrorKind::Canceled)),
                }
            }
            Pending::Resolve(name) => match world.names.get(&name) {
                None => done(Err(IoErrorKind::NotFound)),
                Some(found) if found.is_empty() => Err(Pending::Resolve(name)),
                Some(found) => done(Ok(Output::Addresses(found.clone()))),
            },
            Pending::Connect(_) if world.short.contains(&self.addr) => done(Err(IoErrorKind::Shortage)),
            Pending::Connect(to) => {
                if world.black_holes.contains(&to) {
                    return Err(Pending::Connect(to));
                }
                match world.connect(self.addr, to) {
                    Some(handle) => done(Ok(Output::Opened(Handle(handle)))),
                    None => done(Err(IoErrorKind::Refused)),
                }
            }
            Pending::Recv { socket, mut buf, at, len } => {
                let Open::Socket { rx, shut, .. } = world.handles[socket as usize] else { panic!("receive on {socket}") };
                if shut {
                    return Ok((Err(IoErrorKind::Canceled), Some(buf)));
                }
                if world.deaf.contains(&self.addr.port()) {
                    return Err(Pending::Recv { socket, buf, at, len });
                }
                match world.take(rx, len) {
                    None => Err(Pending::Recv { socket, buf, at, len }),
                    Some(Err(kind)) => Ok((Err(kind), Some(buf))),
                    Some(Ok(bytes)) => {
                        let memory = match &mut buf {
                            IoBuf::Block(block) => block.bytes_mut(),
                            IoBuf::Pool(pool) => pool.bytes_mut(),
                        };
                        memory[at..at + bytes.len()].copy_from_slice(&bytes);
                        Ok((Ok(Output::Bytes(bytes.len())), Some(buf)))
                    }
                }
            }
            Pending::Send { socket, gather, bytes, sent } => {
                let Open::Socket { tx, shut, .. } = world.handles[socket as usize] else { panic!("send on {socket}") };
                if shut {
                    return done(Err(IoErrorKind::Disconnected));
                }
                match world.put(tx, &bytes[sent..]) {
                    Err(kind) => done(Err(kind)),
                    Ok(n) if sent + n == bytes.len() => done(Ok(Output::Done)),
                    Ok(n) => Err(Pending::Send { socket, gather, bytes, sent: sent + n }),
                }
            }
            Pending::Shutdown(handle) => {
                if let Open::Listener(at) = world.handles[handle as usize] {
                    world.listeners.remove(&at);
                }
                world.shut(handle);
                done(Ok(Output::Done))
            }
            Pending::Close(handle) => {
                if let Open::Listener(at) = world.handles[handle as usize] {
                    world.listeners.remove(&at);
                }
                world.shut(handle);
                world.handles[handle as usize] = Open::Closed;
                done(Ok(Output::Done))
            }
        }
    }

    fn socket_of(op: &Pending) -> Option<u32> {
        match op {
            Pending::Listen(_) | Pending::Connect(_) | Pending::Resolve(_) => None,
            Pending::Accept(h) | Pending::Shutdown(h) | Pending::Close(h) => Some(*h),
            Pending::Recv { socket, .. } | Pending::Send { socket, .. } => Some(*socket),
        }
    }

    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }
}

struct NoBell;

impl Wake for NoBell {
    fn wake(&self) {}
}

impl Io for TestIo {
    fn now(&self) -> Time {
        self.world.borrow().now
    }

    fn wall_ns(&self) -> u64 {
        0
    }

    fn free_bytes(&mut self, _: Handle) -> Option<u64> {
        None
    }

    fn submit(&mut self, token: Token, op: Op) {
        let pending = match op {
            Op::Listen { addr } => Pending::Listen(addr),
            Op::Accept { listener } => Pending::Accept(listener.0),
            Op::Connect { addr } => Pending::Connect(addr),
            Op::Resolve { host, port } => Pending::Resolve(format!("{host}:{port}")),
            Op::Recv { socket, buf, at, len } => {
                let room = match &buf {
                    IoBuf::Block(block) => block.len(),
                    IoBuf::Pool(pool) => pool.len(),
                };
                assert!(len > 0 && at + len <= room, "receive of {len} at {at} into {room}");
                Pending::Recv { socket: socket.0, buf, at, len }
            }
            Op::Send { socket, gather } => {
                let mut bytes = Vec::new();
                assert!(!gather.pieces.is_empty());
                for piece in &gather.pieces {
                    match piece {
                        Piece::Head(from, to) => bytes.extend(&gather.head.bytes()[*from as usize..*to as usize]),
                        Piece::Block(block, from, to) => bytes.extend(&block.bytes()[*from as usize..*to as usize]),
                    }
                }
                Pending::Send { socket: socket.0, gather, bytes, sent: 0 }
            }
            Op::Shutdown { socket } => Pending::Shutdown(socket.0),
            Op::Close { handle } => Pending::Close(handle.0),
            op => panic!("the transport has no use for {op:?}"),
        };
        // The contract of `Op`: one receive and one send at a time, and a close stands alone.
        if let Some(socket) = Self::socket_of(&pending) {
            let others = || self.pending.iter().map(|(_, op)| op).filter(|op| Self::socket_of(op) == Some(socket));
            match &pending {
                Pending::Close(_) => assert_eq!(others().count(), 0, "close of {socket} while something is outstanding"),
                Pending::Recv { .. } => assert!(!others().any(|op| matches!(op, Pending::Recv { .. })), "two receives"),
                Pending::Send { .. } => assert!(!others().any(|op| matches!(op, Pending::Send { .. })), "two sends"),
                _ => {}
            }
            assert!(!matches!(self.world.borrow().handles[socket as usize], Open::Closed), "{pending:?} on a closed handle");
        }
        self.pending.push((token, pending));
        self.most_pending = self.most_pending.max(self.pending.len());
        assert!(self.pending.len() <= self.capacity, "more operations than announced");
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn turn(&mut self, _until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        for (token, op) in std::mem::take(&mut self.pending) {
            match self.attempt(op) {
                Ok((result, buf)) => {
                    done.push(Completion { token, result: result.map_err(|kind| IoError { kind, errno: 0 }), buf });
                }
                Err(op) => self.pending.push((token, op)),
            }
        }
        Ok(())
    }

    fn bell(&self) -> Arc<dyn Wake> {
        Arc::new(NoBell)
    }

    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }

    fn describe(&self) -> String {
        "test".into()
    }
}

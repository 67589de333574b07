//! A submitter for the checks: one `Io`, its memory, and completions by token.

use std::net::SocketAddr;
use std::path::PathBuf;

use kontiki_io::{Completion, Gather, Handle, Io, IoBuf, IoData, IoError, IoErrorKind, Name, Op, Output, Piece, Region, Token};
use kontiki_mem::{BlockMut, Pool, PoolBuf, Ring, Span};

use super::World;

/// How long a check waits for what must come, in nanoseconds.
pub const PATIENCE_NS: u64 = 60_000_000_000;

/// Bytes of a desk's ring.
const RING_BYTES: usize = 8 << 20;

/// Bytes of each of a desk's pool buffers.
pub const BUFFER_BYTES: usize = 64 << 10;

/// One `Io` and what is needed to use it.
pub struct Desk {
    /// The world. First, so that it lets go of the memory before that goes.
    pub io: Box<dyn Io>,
    /// Frame memory, registered where allowed.
    pub ring: Ring,
    /// Buffers, not registered.
    pub pool: Pool,
    next: u64,
    /// Completions that nobody has asked for yet.
    pub done: Vec<Completion>,
}

impl Desk {
    /// A desk with the usual capacity.
    pub fn new(world: &mut dyn World) -> Desk {
        Desk::with_capacity(world, 64)
    }

    /// A desk for at least `capacity` operations.
    pub fn with_capacity(world: &mut dyn World, capacity: usize) -> Desk {
        let ring = Ring::new(RING_BYTES, 4096).expect("ring");
        let io = world.open(capacity, &[Region::ring(&ring)]);
        assert!(io.capacity() >= capacity, "asked for {capacity}, got {}", io.capacity());
        let done = Vec::with_capacity(io.capacity());
        Desk { io, ring, pool: Pool::new(64, BUFFER_BYTES), next: 1, done }
    }

    /// Submits under a token of its own.
    pub fn submit(&mut self, op: Op) -> Token {
        let token = Token(self.next);
        self.next += 1;
        self.io.submit(token, op);
        token
    }

    /// Turns until that operation completes; others are kept.
    pub fn wait(&mut self, token: Token) -> Completion {
        let until = self.io.now().plus_ns(PATIENCE_NS);
        loop {
            if let Some(completion) = self.try_take(token) {
                return completion;
            }
            assert!(self.io.now() < until, "{token:?} never completed on {}", self.io.describe());
            self.io.turn(Some(until), &mut self.done).expect("turn");
        }
    }

    /// The completion, if it has come.
    pub fn try_take(&mut self, token: Token) -> Option<Completion> {
        let at = self.done.iter().position(|completion| completion.token == token)?;
        Some(self.done.swap_remove(at))
    }

    /// One turn that waits at most `wait_ns`.
    pub fn turn(&mut self, wait_ns: u64) {
        let until = self.io.now().plus_ns(wait_ns);
        self.io.turn(Some(until), &mut self.done).expect("turn");
    }

    /// Submits and waits.
    pub fn run(&mut self, op: Op) -> Result<Output, IoError> {
        let token = self.submit(op);
        self.wait(token).result
    }

    /// Submits and waits for what must succeed with nothing to show.
    pub fn done(&mut self, op: Op) {
        let what = format!("{op:?}");
        match self.run(op) {
            Ok(Output::Done) => {}
            other => panic!("{what} gave {other:?}"),
        }
    }

    /// Submits and waits for what must fail.
    pub fn fails(&mut self, op: Op) -> IoErrorKind {
        let what = format!("{op:?}");
        match self.run(op) {
            Err(error) => error.kind,
            Ok(output) => panic!("{what} gave {output:?}"),
        }
    }

    /// Opens a directory, making it.
    pub fn dir(&mut self, path: PathBuf) -> Handle {
        match self.run(Op::OpenDir { path: path.clone(), create: true }) {
            Ok(Output::Opened(dir)) => dir,
            other => panic!("{path:?}: {other:?}"),
        }
    }

    /// Opens a file: its handle and length.
    pub fn open(&mut self, dir: Handle, name: &str, create: bool) -> (Handle, u64) {
        match self.run(Op::Open { dir, name: name_of(name), create }) {
            Ok(Output::File(file, len)) => (file, len),
            other => panic!("open {name}: {other:?}"),
        }
    }

    /// A new file with `len` bytes of space.
    pub fn allocated(&mut self, dir: Handle, name: &str, len: u64) -> Handle {
        let (file, empty) = self.open(dir, name, true);
        assert_eq!(empty, 0, "a new file has a length");
        self.done(Op::Allocate { file, len });
        file
    }

    /// Closes a handle.
    pub fn close(&mut self, handle: Handle) {
        self.done(Op::Close { handle });
    }

    /// A ring block of `len` bytes whose bytes tell their place and `seed`.
    pub fn block(&mut self, len: usize, seed: u8) -> BlockMut {
        let mut block = self.ring.reserve(len).expect("room in the ring");
        fill(block.bytes_mut(), seed);
        block
    }

    /// A pool buffer, filled likewise.
    pub fn buffer(&mut self, seed: u8) -> PoolBuf {
        let mut buf = self.pool.take().expect("a buffer");
        fill(buf.bytes_mut(), seed);
        buf
    }

    /// The write of one ring block.
    pub fn write(&mut self, file: Handle, offset: u64, len: usize, seed: u8, durable: bool) -> Op {
        let block = self.block(len, seed);
        Op::Write { file, offset, data: IoData::Span(Span::one(block.freeze())), durable }
    }

    /// Reads up to `len` bytes into ring memory, and gives those that came.
    pub fn read(&mut self, file: Handle, offset: u64, len: usize) -> Vec<u8> {
        // Stale bytes must not pass for what was read.
        let block = self.block(len, 0xa5);
        let token = self.submit(Op::Read { file, offset, buf: IoBuf::Block(block), len });
        let completion = self.wait(token);
        match (completion.result, completion.buf) {
            (Ok(Output::Bytes(count)), Some(IoBuf::Block(block))) => block.bytes()[..count].to_vec(),
            other => panic!("read of {len} at {offset}: {other:?}"),
        }
    }

    /// A listener and its address.
    pub fn listen(&mut self, addr: SocketAddr) -> (Handle, SocketAddr) {
        match self.run(Op::Listen { addr }) {
            Ok(Output::Listening(listener, bound)) => (listener, bound),
            other => panic!("listen on {addr}: {other:?}"),
        }
    }

    /// A connection through a listener of this desk: the dialler's end and the other.
    pub fn connect(&mut self, listener: Handle, addr: SocketAddr) -> (Handle, Handle) {
        let accept = self.submit(Op::Accept { listener });
        let connect = self.submit(Op::Connect { addr });
        let ours = match self.wait(connect).result {
            Ok(Output::Opened(socket)) => socket,
            other => panic!("connect to {addr}: {other:?}"),
        };
        match self.wait(accept).result {
            Ok(Output::Accepted(theirs, _)) => (ours, theirs),
            other => panic!("accept on {addr}: {other:?}"),
        }
    }

    /// A listener, and a connection through it.
    pub fn pair(&mut self, world: &mut dyn World) -> (Handle, Handle) {
        let (listener, addr) = self.listen(world.address());
        let pair = self.connect(listener, addr);
        self.close(listener);
        pair
    }

    /// The send of one ring block of `len` bytes.
    pub fn send(&mut self, socket: Handle, len: usize, seed: u8) -> Op {
        let block = self.block(len, seed).freeze();
        let head = self.pool.take().expect("a buffer");
        let mut pieces = heapless::Vec::new();
        pieces.push(Piece::Block(block, 0, len as u32)).expect("room for one");
        Op::Send { socket, gather: Gather { head, pieces } }
    }

    /// A receive of up to `len` bytes into a pool buffer.
    pub fn recv(&mut self, socket: Handle, len: usize) -> Op {
        let buf = self.pool.take().expect("a buffer");
        Op::Recv { socket, buf: IoBuf::Pool(buf), at: 0, len }
    }

    /// Receives exactly `len` bytes, at most `step` at a time.
    pub fn receive(&mut self, socket: Handle, len: usize, step: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(len);
        while all.len() < len {
            let op = self.recv(socket, step.min(len - all.len()));
            let token = self.submit(op);
            let completion = self.wait(token);
            match (completion.result, completion.buf) {
                (Ok(Output::Bytes(count)), Some(buf)) if count > 0 => all.extend_from_slice(&buf.bytes()[..count]),
                other => panic!("receive after {} of {len} bytes: {other:?}", all.len()),
            }
        }
        all
    }
}

/// A name that must be good.
pub fn name_of(name: &str) -> Name {
    Name::new(name).expect("a good name")
}

/// Bytes that tell their place and `seed`.
pub fn fill(bytes: &mut [u8], seed: u8) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = pattern(at, seed);
    }
}

/// The byte that `fill` puts at `at`.
pub fn pattern(at: usize, seed: u8) -> u8 {
    (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed)
}

/// Whether `bytes` are what `fill` made of `seed`.
pub fn is_filled(bytes: &[u8], seed: u8) -> bool {
    bytes.iter().enumerate().all(|(at, byte)| *byte == pattern(at, seed))
}

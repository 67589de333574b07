//! A driver for tests: processes that submit one operation after the other.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use kontiki_core::Time;
use kontiki_io::{Completion, Gather, Handle, Io, IoBuf, IoData, IoErrorKind, Name, Op, Output, Piece, Token};
use kontiki_mem::{BLOCK_BYTES, Pool, PoolBuf};
use kontiki_sim::{Conditions, Host, SECOND, Sim, SimIo};

pub struct Bench {
    pub sim: Sim,
    pub hosts: Vec<Host>,
    pub ios: Vec<Option<SimIo>>,
    pub pool: Pool,
    done: BTreeMap<(usize, u64), Completion>,
    next_token: u64,
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Bench {
    pub fn new(seed: u64, hosts: usize) -> Bench {
        Bench::with(seed, hosts, Conditions::calm())
    }

    pub fn with(seed: u64, count: usize, conditions: Conditions) -> Bench {
        let sim = Sim::new(seed, conditions);
        let hosts: Vec<Host> = (0..count).map(|_| sim.add_host()).collect();
        let ios = hosts.iter().map(|&host| Some(sim.boot(host))).collect();
        Bench { sim, hosts, ios, pool: Pool::new(64, 4 * BLOCK_BYTES), done: BTreeMap::new(), next_token: 0 }
    }

    pub fn submit(&mut self, n: usize, op: Op) -> u64 {
        self.next_token += 1;
        self.ios[n].as_mut().unwrap().submit(Token(self.next_token), op);
        self.next_token
    }

    /// One turn of whoever is due; false if nobody is within `ns`.
    pub fn step(&mut self, ns: u64) -> bool {
        let Some(Host(n)) = self.sim.next(self.sim.now().plus_ns(ns)) else { return false };
        let mut done = Vec::new();
        self.ios[n].as_mut().unwrap().turn(Some(Time(u64::MAX)), &mut done).unwrap();
        for completion in done {
            let before = self.done.insert((n, completion.token.0), completion);
            assert!(before.is_none(), "an operation completes once");
        }
        true
    }

    /// Lets time pass.
    pub fn run(&mut self, ns: u64) {
        let end = self.sim.now().plus_ns(ns);
        while self.sim.now() < end && self.step(end.since(self.sim.now())) {}
    }

    /// The completion of an operation, if it comes within a minute.
    pub fn poll(&mut self, n: usize, token: u64) -> Option<Completion> {
        let end = self.sim.now().plus_ns(60 * SECOND);
        while !self.done.contains_key(&(n, token)) {
            let left = end.since(self.sim.now());
            if left == 0 || !self.step(left) {
                return None;
            }
        }
        self.done.remove(&(n, token))
    }

    pub fn wait(&mut self, n: usize, token: u64) -> Completion {
        self.poll(n, token).unwrap_or_else(|| panic!("operation {token} of host {n} never ends"))
    }

    pub fn is_done(&self, n: usize, token: u64) -> bool {
        self.done.contains_key(&(n, token))
    }

    pub fn call(&mut self, n: usize, op: Op) -> Completion {
        let token = self.submit(n, op);
        self.wait(n, token)
    }

    pub fn ok(&mut self, n: usize, op: Op) -> Output {
        self.call(n, op).result.unwrap()
    }

    pub fn err(&mut self, n: usize, op: Op) -> IoErrorKind {
        self.call(n, op).result.unwrap_err().kind
    }

    pub fn open_dir(&mut self, n: usize) -> Handle {
        match self.ok(n, Op::OpenDir { path: "/data".into(), create: true }) {
            Output::Opened(dir) => dir,
            other => panic!("{other:?}"),
        }
    }

    pub fn open(&mut self, n: usize, dir: Handle, text: &str, create: bool) -> (Handle, u64) {
        match self.ok(n, Op::Open { dir, name: name(text), create }) {
            Output::File(file, length) => (file, length),
            other => panic!("{other:?}"),
        }
    }

    /// A file of four blocks, durable with its entry, all zeros.
    pub fn durable_file(&mut self, n: usize, dir: Handle, text: &str) -> Handle {
        let (file, _) = self.open(n, dir, text, true);
        self.ok(n, Op::Allocate { file, len: 4 * BLOCK_BYTES as u64 });
        self.ok(n, Op::Sync { file });
        self.ok(n, Op::SyncDir { dir });
        file
    }

    pub fn buffer(&self, byte: u8) -> PoolBuf {
        let mut buf = self.pool.take().unwrap();
        buf.bytes_mut().fill(byte);
        buf
    }

    pub fn write_op(&self, file: Handle, block: u64, byte: u8, durable: bool) -> Op {
        let data = IoData::Pool(self.buffer(byte), BLOCK_BYTES);
        Op::Write { file, offset: block * BLOCK_BYTES as u64, data, durable }
    }

    pub fn write(&mut self, n: usize, file: Handle, block: u64, byte: u8, durable: bool) {
        let op = self.write_op(file, block, byte, durable);
        assert!(matches!(self.ok(n, op), Output::Done));
    }

    /// What a block holds, one byte per sector.
    pub fn sectors(&mut self, n: usize, file: Handle, block: u64) -> Vec<u8> {
        let buf = IoBuf::Pool(self.buffer(0xEE));
        let done = self.call(n, Op::Read { file, offset: block * BLOCK_BYTES as u64, buf, len: BLOCK_BYTES });
        assert!(matches!(done.result, Ok(Output::Bytes(BLOCK_BYTES))), "{:?}", done.result);
        let Some(IoBuf::Pool(buf)) = done.buf else { panic!("the buffer does not come back") };
        buf.bytes()[..BLOCK_BYTES].chunks(512).map(|sector| sector[0]).collect()
    }

    pub fn listen(&mut self, n: usize, port: u16) -> Handle {
        let addr = self.sim.address(self.hosts[n], port);
        match self.ok(n, Op::Listen { addr }) {
            Output::Listening(listener, bound) => {
                assert_eq!(bound, addr);
                listener
            }
            other => panic!("{other:?}"),
        }
    }

    /// A connection from `a` to `b`: its two handles.
    pub fn connect(&mut self, a: usize, b: usize, listener: Handle, port: u16) -> (Handle, Handle) {
        let accept = self.submit(b, Op::Accept { listener });
        let addr = self.sim.address(self.hosts[b], port);
        let Output::Opened(client) = self.ok(a, Op::Connect { addr }) else { panic!("not a connection") };
        let Ok(Output::Accepted(server, _)) = self.wait(b, accept).result else { panic!("not accepted") };
        (client, server)
    }

    pub fn pair(&mut self) -> (Handle, Handle) {
        let listener = self.listen(1, 7000);
        self.connect(0, 1, listener, 7000)
    }

    /// A send of these bytes (at most four blocks), in two pieces if there are two bytes.
    pub fn send_op(&self, socket: Handle, bytes: &[u8]) -> Op {
        let mut head = self.buffer(0);
        head.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let middle = (bytes.len() / 2) as u32;
        let mut pieces = heapless::Vec::new();
        for (from, to) in [(0, middle), (middle, bytes.len() as u32)] {
            if from < to {
                pieces.push(Piece::Head(from, to)).unwrap();
            }
        }
        Op::Send { socket, gather: Gather { head, pieces } }
    }

    pub fn send(&mut self, n: usize, socket: Handle, bytes: &[u8]) {
        let op = self.send_op(socket, bytes);
        assert!(matches!(self.ok(n, op), Output::Done));
    }

    pub fn recv_op(&self, socket: Handle, len: usize) -> Op {
        Op::Recv { socket, buf: IoBuf::Pool(self.buffer(0)), at: 0, len }
    }

    pub fn bytes_of(done: Completion) -> Result<Vec<u8>, IoErrorKind> {
        let Some(IoBuf::Pool(buf)) = done.buf else { panic!("the buffer does not come back") };
        match done.result {
            Ok(Output::Bytes(bytes)) => Ok(buf.bytes()[..bytes].to_vec()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.kind),
        }
    }

    pub fn recv(&mut self, n: usize, socket: Handle, len: usize) -> Result<Vec<u8>, IoErrorKind> {
        let op = self.recv_op(socket, len);
        Self::bytes_of(self.call(n, op))
    }

    /// Receives until `count` bytes are there or the stream ends.
    pub fn recv_all(&mut self, n: usize, socket: Handle, count: usize) -> Result<Vec<u8>, IoErrorKind> {
        let mut all = Vec::new();
        while all.len() < count {
            let more = self.recv(n, socket, (count - all.len()).min(4 * BLOCK_BYTES))?;
            if more.is_empty() {
                break;
            }
            all.extend(more);
        }
        Ok(all)
    }

    pub fn crash(&mut self, n: usize) {
        self.sim.crash(self.hosts[n]);
        self.ios[n] = None;
    }

    pub fn power_cut(&mut self, n: usize) {
        self.sim.power_cut(self.hosts[n]);
        self.ios[n] = None;
    }

    pub fn boot(&mut self, n: usize) {
        self.ios[n] = Some(self.sim.boot(self.hosts[n]));
    }
}

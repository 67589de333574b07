//! What the log's tests share: a disk, a world, and a log driven in it.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::disallowed_methods)]

pub mod disk;
pub mod life;
pub mod world;

use kontiki_core::{Base, ClusterId, FrameMeta, GroupId, IndexRange, LogIndex, NodeId, Subterm, Term, WriteId};
use kontiki_frame::{BODY_OFFSET, Header, Kind, entries, frame_bytes, put_entry, seal};
use kontiki_io::Completion;
use kontiki_mem::{Block, BlockMut, Pool, Ring};
use kontiki_wal::{Frames, HardState, Medium, Opened, Opening, Options, Reach, ReadError, RecoveryReport, Wal, WalError, WalEvent};

pub use disk::Disk;
pub use world::{Random, World};

pub fn options() -> Options {
    Options {
        dir: "/data".into(),
        cluster: ClusterId(0xc1),
        node: NodeId(2),
        segment_bytes: 128 << 10,
        max_frame_bytes: 32 << 10,
        max_write_bytes: 32 << 10,
        retention_bytes: 0,
        medium: Medium::Safe,
        ..Options::default()
    }
}

pub fn base(index: u64, term: u64) -> Base {
    Base { index: LogIndex(index), term: Term(term), subterm: Subterm(0) }
}

/// The payload of every entry: what makes it, and only it.
pub fn payload(index: u64, term: u64, size: usize) -> Vec<u8> {
    let mut random = Random(index << 20 ^ term);
    (0..size).map(|_| random.next() as u8).collect()
}

/// A frame of `count` entries of `size` bytes each.
pub fn frame(ring: &mut Ring, first: u64, count: u32, term: u64, prev_term: u64, size: usize) -> (BlockMut, FrameMeta) {
    let body = count as usize * (4 + size);
    let mut block = ring.reserve(frame_bytes(body)).expect("the ring has room");
    let mut at = BODY_OFFSET;
    for index in first..first + u64::from(count) {
        at = put_entry(block.bytes_mut(), at, None, &payload(index, term, size)).unwrap();
    }
    let meta = FrameMeta { term: Term(term), first: LogIndex(first), count, prev_term: Term(prev_term) };
    let header = Header {
        kind: Kind::Entries,
        sessions: false,
        cluster: ClusterId(0xc1),
        group: GroupId(0),
        meta,
        subterm: Subterm(0),
        cluster_ns: 0,
        proposed_ns: 0,
        body_bytes: body as u32,
    };
    seal(block.bytes_mut(), &header);
    (block, meta)
}

/// Opens a log until it is open, failed, or the power fails (`None`).
pub fn open(world: &mut World, options: Options) -> Option<Result<Opened, WalError>> {
    open_behind(world, options, &[])
}

/// The same where there are snapshots of these.
pub fn open_behind(world: &mut World, options: Options, snapshots: &[Base]) -> Option<Result<Opened, WalError>> {
    let mut opening = match Opening::start(options, world) {
        Ok(opening) => opening,
        Err(error) => return Some(Err(error)),
    };
    loop {
        match opening.poll() {
            Ok(Some(opened)) => return Some(Ok(opened)),
            Err(error) => return Some(Err(error)),
            Ok(None) if opening.wants_bases() => opening.set_bases(snapshots, world),
            Ok(None) => opening.on_completion(world.step()?, world),
        }
    }
}

/// A log that runs in a world.
pub struct Node {
    pub world: World,
    pub wal: Wal,
    pub hard_state: HardState,
    pub boot: u64,
    pub report: RecoveryReport,
    pub restored: kontiki_core::Restored,
    pub reaches: Reach,
    /// Made when it is first needed: most nodes of a test only look.
    ring: Option<Ring>,
    pub pool: Pool,
    next_write: u64,
    /// Index and term up to which each log write goes, oldest first.
    pub writes: Vec<(WriteId, u64)>,
    pub log_durable: Option<WriteId>,
    pub hard_durable: Vec<WriteId>,
    pub reads: Vec<(u64, Result<Vec<Read>, ReadError>)>,
    pub terms: Vec<(u64, u64, Result<Option<Term>, ReadError>)>,
}

/// Why a node is not up.
#[derive(Debug)]
pub enum NotUp {
    Error(WalError),
    PowerFailed(Box<World>),
}

/// An entry that was read: index, term, payload.
pub type Read = (u64, u64, Vec<u8>);

impl Node {
    pub fn open(disk: Disk) -> Node {
        Node::try_open(disk, options()).unwrap()
    }

    pub fn try_open(disk: Disk, options: Options) -> Result<Node, WalError> {
        match Node::start(World::new(disk), options) {
            Ok(node) => Ok(node),
            Err(NotUp::Error(error)) => Err(error),
            Err(NotUp::PowerFailed(_)) => panic!("this world's power does not fail"),
        }
    }

    pub fn start(world: World, options: Options) -> Result<Node, NotUp> {
        Node::start_behind(world, options, &[])
    }

    /// Starts where there are snapshots of these.
    pub fn start_behind(mut world: World, options: Options, snapshots: &[Base]) -> Result<Node, NotUp> {
        let opened = match open_behind(&mut world, options, snapshots) {
            Some(Ok(opened)) => opened,
            Some(Err(error)) => {
                assert_eq!(world.open_handles(), 0, "a failed opening closes what it opened");
                return Err(NotUp::Error(error));
            }
            None => return Err(NotUp::PowerFailed(Box::new(world))),
        };
        let Opened { wal, hard_state, incarnation, restored, reaches, report } = opened;
        Ok(Node {
            world,
            wal,
            hard_state,
            boot: incarnation.0,
            report,
            restored,
            reaches,
            ring: None,
            pool: Pool::new(8, 64 << 10),
            next_write: 0,
            writes: Vec::new(),
            log_durable: None,
            hard_durable: Vec::new(),
            reads: Vec::new(),
            terms: Vec::new(),
        })
    }

    pub fn next_id(&mut self) -> WriteId {
        self.next_write += 1;
        WriteId(self.next_write)
    }

    /// Hands one completion over.
    pub fn complete(&mut self, completion: Completion) {
        self.wal.on_completion(completion, &mut self.world);
        self.take_events();
    }

    pub fn take_events(&mut self) {
        while let Some(event) = self.wal.next_event() {
            match event {
                WalEvent::LogDurable { write } => {
                    assert!(self.log_durable.is_none_or(|before| before < write), "durability only grows");
                    self.log_durable = Some(write);
                }
                WalEvent::HardStateDurable { write } => self.hard_durable.push(write),
                WalEvent::Read { tag, buf, result } => {
                    let result = result.map(|frames| read_entries(buf.bytes(), &frames));
                    self.reads.push((tag, result));
                }
                WalEvent::Term { tag, index, result } => self.terms.push((tag, index.0, result)),
            }
        }
    }

    /// What happens next. Where the plan is patient and the log waits for a time to come, it comes.
    pub fn step(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.world.step() {
                return Some(completion);
            }
            let patient = self.world.plan.patient && !self.world.stopped();
            let due = self.wal.deadline().filter(|due| patient && due.0 > self.world.now)?;
            self.world.now = due.0;
            self.wal.pump(&mut self.world);
        }
    }

    /// Runs until nothing happens any more. False if the power or the log failed.
    pub fn run(&mut self) -> bool {
        loop {
            self.wal.pump(&mut self.world);
            self.take_events();
            match self.step() {
                Some(completion) => self.complete(completion),
                None => return !self.world.stopped() && self.wal.poisoned().is_none(),
            }
        }
    }

    pub fn last(&self) -> u64 {
        self.wal.last_index().0
    }

    /// Appends one frame, if there is room: `count` entries from `first` on, all of them counting.
    pub fn try_append(&mut self, first: u64, count: u32, term: u64, prev_term: u64, size: usize) -> Option<Block> {
        let range = IndexRange { from: LogIndex(first), to: LogIndex(first + u64::from(count) - 1) };
        self.try_append_range(first, count, term, prev_term, size, range)
    }

    pub fn try_append_range(&mut self, first: u64, count: u32, term: u64, prev_term: u64, size: usize, range: IndexRange) -> Option<Block> {
        if !self.wal.can_append(frame_bytes(count as usize * (4 + size))) {
            return None;
        }
        let ring = self.ring.get_or_insert_with(|| Ring::new(1 << 20, 256).unwrap());
        let (block, meta) = frame(ring, first, count, term, prev_term, size);
        let write = self.next_id();
        let block = self.wal.append(write, block, range, meta);
        self.writes.push((write, range.to.0));
        Some(block)
    }

    /// Appends at the end in `term`, running the world for room. `None` if the power or the log failed meanwhile.
    pub fn append(&mut self, count: u32, term: u64, size: usize) -> Option<Block> {
        let first = self.last() + 1;
        let prev_term = self.last_term();
        loop {
            if let Some(block) = self.try_append(first, count, term, prev_term, size) {
                return Some(block);
            }
            self.wal.poisoned().is_none().then_some(())?;
            self.wal.pump(&mut self.world);
            let completion = self.step()?;
            self.complete(completion);
        }
    }

    /// Term of the last entry, from memory.
    pub fn last_term(&mut self) -> u64 {
        let last = self.wal.last_index();
        assert!(self.wal.lookup_term(u64::MAX, last, &mut self.world));
        self.take_events();
        let (tag, _, term) = self.terms.pop().unwrap();
        assert_eq!(tag, u64::MAX);
        term.unwrap().unwrap().0
    }

    /// Last index known durable in this run.
    pub fn acked(&self) -> Option<u64> {
        let durable = self.log_durable?;
        self.writes.iter().find(|(write, _)| *write == durable).map(|(_, last)| *last)
    }

    /// Begins the log anew behind a snapshot, running the world for room. `None` if the power or the log failed
    /// meanwhile.
    pub fn rebase(&mut self, index: u64, term: u64, digest: u128) -> Option<WriteId> {
        loop {
            if self.wal.can_rebase() {
                let write = self.next_id();
                self.wal.rebase(write, base(index, term), digest);
                self.writes.push((write, index));
                return Some(write);
            }
            self.wal.poisoned().is_none().then_some(())?;
            self.wal.pump(&mut self.world);
            let completion = self.step()?;
            self.complete(completion);
        }
    }

    pub fn save(&mut self, term: u64, vote: u64) -> WriteId {
        let write = self.next_id();
        self.wal.save_hard_state(write, HardState { term: Term(term), vote: Some(NodeId(vote)), recovering: false });
        write
    }

    /// Reads everything from `from` to `upto`, or the first error.
    pub fn read_all(&mut self, from: u64, upto: u64) -> Result<Vec<Read>, ReadError> {
        let mut all = Vec::new();
        let mut next = from;
        while next <= upto {
            let buf = self.pool.take().unwrap();
            self.wal.read(7, LogIndex(next), LogIndex(upto), buf, &mut self.world).expect("a slot is free");
            self.run();
            let (tag, result) = self.reads.pop().unwrap();
            assert_eq!(tag, 7);
            let read = result?;
            assert_eq!(read.first().unwrap().0, next, "a read begins where it was asked to");
            next = read.last().unwrap().0 + 1;
            all.extend(read);
        }
        assert_eq!(next, upto + 1, "a read ends where it was asked to");
        Ok(all)
    }

    pub fn close(mut self) -> Disk {
        assert!(self.run());
        assert!(self.wal.idle());
        self.wal.close(&mut self.world);
        while !self.wal.closed() {
            let completion = self.step().unwrap();
            self.complete(completion);
        }
        assert_eq!(self.world.open_handles(), 0, "everything is closed");
        self.world.disk
    }

    /// The process is killed: what it wrote stays in the caches.
    pub fn kill(self) -> Disk {
        self.world.disk
    }
}

pub fn read_entries(buf: &[u8], frames: &Frames) -> Vec<Read> {
    let mut all = Vec::new();
    for at in frames {
        let frame = &buf[at.offset..at.offset + at.bytes];
        let header = kontiki_frame::verify(frame).unwrap();
        assert_eq!(header.meta, at.meta);
        all.extend(entries(frame, &header, at.range).map(|entry| (entry.index.0, entry.term.0, entry.payload.to_vec())));
    }
    all
}

/// Checks what was read against what was written.
pub fn check_payloads(read: &[Read]) {
    for (index, term, bytes) in read {
        assert_eq!(*bytes, payload(*index, *term, bytes.len()), "entry {index} of term {term}");
    }
}

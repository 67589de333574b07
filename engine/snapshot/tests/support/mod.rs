//! What the snapshots' tests share: the log's disk and world, and a store driven in them.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../../../wal/tests/support/disk.rs"]
pub mod disk;
#[path = "../../../../wal/tests/support/world.rs"]
pub mod world;

pub mod hostile;

use kontiki_core::{Base, ClusterId, Incarnation, LogIndex, NodeId, Subterm, Term};
use kontiki_io::IoBuf;
use kontiki_mem::Pool;
use kontiki_snapshot::limits::CHUNK_BYTES;
use kontiki_snapshot::{
    Digest, Head, Info, Made, Making, Offer, Opening, Options, Part, ReadError, Refused, Store, StoreError, StoreEvent, chunks, encode,
};

pub use disk::Disk;
pub use world::{Random, World};

pub const CHUNK: u64 = CHUNK_BYTES as u64;

pub fn options() -> Options {
    Options { dir: "/data".into(), cluster: ClusterId(0xc1), node: NodeId(2), ..Options::default() }
}

pub fn base(index: u64) -> Base {
    Base { index: LogIndex(index), term: Term(3), subterm: Subterm(0) }
}

/// The machine's state at an index: what makes it, and only it.
pub fn state(index: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(index);
    let mut state: Vec<u8> = Vec::with_capacity(bytes + 8);
    while state.len() < bytes {
        state.extend(random.next().to_le_bytes());
    }
    state.truncate(bytes);
    state
}

/// A whole file, as another node made it.
pub fn file_of(index: u64, bytes: usize) -> Vec<u8> {
    let made = Made { node: NodeId(3), incarnation: Incarnation(1), number: index, wall_ns: 0 };
    let head = Head { cluster: ClusterId(0xc1), base: base(index), full: true, made, ..Head::default() };
    encode(head, &[(Part::Machine, &state(index, bytes))])
}

pub fn info_of(file: &[u8]) -> Info {
    let mut rest = file;
    kontiki_snapshot::offline::verify(|into| std::io::Read::read(&mut rest, into), |_| {}).unwrap()
}

pub fn offer_of(file: &[u8]) -> Offer {
    let info = info_of(file);
    Offer { source: NodeId(3), base: info.base(), lineage: 0, digest: info.digest, bytes: info.bytes }
}

/// A store that runs in a world.
pub struct Node {
    pub world: World,
    pub store: Store,
    pub written: Vec<Info>,
    pub not_written: Vec<StoreError>,
    pub fetched: Vec<Info>,
    pub not_fetched: Vec<StoreError>,
    pub gave_up: Vec<u64>,
    pub damaged: Vec<String>,
    pub reads: Vec<(u64, IoBuf, Result<usize, ReadError>)>,
    pool: Pool,
}

impl Node {
    pub fn open(disk: Disk) -> Node {
        Node::start(World::new(disk)).unwrap().unwrap_or_else(|_| panic!("the power does not fail"))
    }

    /// `Ok(Err)`: the power failed on the way.
    pub fn start(mut world: World) -> Result<Result<Node, Box<World>>, StoreError> {
        let mut opening = Opening::start(options(), &mut world);
        let store = loop {
            match opening.poll() {
                Ok(Some(store)) => break store,
                Err(error) => {
                    assert_eq!(world.open_handles(), 0, "a failed opening closes what it opened");
                    return Err(error);
                }
                Ok(None) => match world.step() {
                    Some(completion) => opening.on_completion(completion, &mut world),
                    None => return Ok(Err(Box::new(world))),
                },
            }
        };
        Ok(Ok(Node {
            world,
            store,
            written: Vec::new(),
            not_written: Vec::new(),
            fetched: Vec::new(),
            not_fetched: Vec::new(),
            gave_up: Vec::new(),
            damaged: Vec::new(),
            reads: Vec::new(),
            pool: Pool::new(4, 2 * CHUNK_BYTES),
        }))
    }

    pub fn take_events(&mut self) {
        while let Some(event) = self.store.next_event() {
            match event {
                StoreEvent::Written(info) => self.written.push(info),
                StoreEvent::NotWritten { error, .. } => self.not_written.push(error),
                StoreEvent::Fetched(info) => self.fetched.push(info),
                StoreEvent::NotFetched { error, .. } => self.not_fetched.push(error),
                StoreEvent::GaveUp(base) => self.gave_up.push(base.index.0),
                StoreEvent::Damaged { name, .. } => self.damaged.push(name.as_str().to_owned()),
                StoreEvent::Read { tag, buf, result } => self.reads.push((tag, buf, result)),
            }
        }
    }

    /// One completion. Where the store waits for a time to come and the plan is patient, it comes. False if nothing
    /// happens any more.
    pub fn step(&mut self) -> bool {
        self.store.pump(&mut self.world, false);
        self.take_events();
        let completion = self.world.step().or_else(|| {
            let due = self.store.deadline().filter(|due| self.world.plan.patient && !self.world.stopped() && due.0 > self.world.now)?;
            self.world.now = due.0;
            self.store.pump(&mut self.world, false);
            self.world.step()
        });
        let Some(completion) = completion else { return false };
        self.store.on_completion(completion, &mut self.world);
        self.take_events();
        true
    }

    pub fn run(&mut self) {
        while self.step() {}
    }

    /// A small one, of a machine that is durable by itself.
    pub fn write_small(&mut self, index: u64) -> Option<Info> {
        let making = Making { base: base(index), full: false, incarnation: Incarnation(1), ..Making::default() };
        self.store.begin(making, &self.world).unwrap();
        assert!(self.store.finish());
        let before = self.written.len();
        self.run();
        self.written.get(before).copied()
    }

    pub fn begin(&mut self, index: u64) -> Result<(), Refused> {
        let making = Making { base: base(index), full: true, incarnation: Incarnation(1), ..Making::default() };
        self.store.begin(making, &self.world)
    }

    /// Writes a whole snapshot. None if the power or the attempt failed.
    pub fn write(&mut self, index: u64, bytes: usize) -> Option<Info> {
        self.begin(index).unwrap();
        let state = state(index, bytes);
        let (mut rest, mut ended) = (&state[..], false);
        let (before, failed) = (self.written.len(), self.not_written.len());
        while self.written.len() == before && self.not_written.len() == failed {
            rest = &rest[self.store.push(Part::Machine, rest)..];
            ended = ended || rest.is_empty() && self.store.finish();
            if !self.step() {
                return None;
            }
        }
        self.written.get(before).copied()
    }

    /// Serves a fetch under way until it ends, or to `until` bytes. What is sent may be changed on its way. False if
    /// the power failed.
    pub fn serve(&mut self, file: &[u8], until: u64, change: &mut dyn FnMut(u64, &mut [u8])) -> bool {
        let ends = (self.fetched.len(), self.not_fetched.len());
        while (self.fetched.len(), self.not_fetched.len()) == ends {
            let want = self.store.want();
            if let Some(want) = want {
                if want.offset >= until {
                    return true;
                }
                assert!(want.bytes > 0 && want.offset + want.bytes <= file.len() as u64 && want.bytes.is_multiple_of(CHUNK), "{want:?}");
                let mut chunk = file[want.offset as usize..want.offset as usize + CHUNK_BYTES].to_vec();
                change(want.offset, &mut chunk);
                let _ = self.store.accept(want.offset, &chunk);
            }
            if !self.step() && want.is_none() && (self.fetched.len(), self.not_fetched.len()) == ends {
                return false;
            }
        }
        true
    }

    pub fn fetch(&mut self, file: &[u8]) -> bool {
        self.store.fetch(offer_of(file)).unwrap();
        self.serve(file, u64::MAX, &mut |_, _| {}) && !self.fetched.is_empty()
    }

    /// The machine's bytes in a snapshot.
    pub fn machine(&mut self, digest: Digest) -> Result<Vec<u8>, ReadError> {
        let mut machine = Vec::new();
        let mut at = 0;
        while let Some(buf) = self.pool.take() {
            if self.store.read(at, digest, at, IoBuf::Pool(buf), &mut self.world).is_err() {
                break;
            }
            while self.reads.is_empty() {
                assert!(self.step(), "a read ends");
            }
            let (tag, buf, result) = self.reads.remove(0);
            assert_eq!(tag, at);
            let count = result?;
            for chunk in chunks(&buf, count).filter(|chunk| chunk.part == Part::Machine) {
                machine.extend_from_slice(chunk.data);
            }
            at += count as u64;
        }
        Ok(machine)
    }

    /// Indexes of the intact ones, the newest first.
    pub fn indexes(&self) -> Vec<u64> {
        self.store.snapshots().map(|info| info.base().index.0).collect()
    }

    pub fn close(mut self) -> Disk {
        self.store.close(&mut self.world);
        while !self.store.closed() {
            assert!(self.step(), "it closes");
        }
        assert_eq!(self.world.open_handles(), 0);
        self.world.disk
    }
}

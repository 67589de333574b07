//! Snapshots in real directories, over every backend: written, read, kept, fetched from one directory into another, found
//! again by the next start, and the same file in both.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // A skipped backend says why.

use std::path::Path;

use kontiki_core::{Base, ClusterId, Incarnation, LogIndex, NodeId, Subterm, Term};
use kontiki_hw_tests::backends;
use kontiki_io::{Io, IoBuf, OpenError, open};
use kontiki_mem::Pool;
use kontiki_snapshot::limits::CHUNK_BYTES;
use kontiki_snapshot::{Expected, Info, Making, Offer, Opening, Options, Part, Store, StoreEvent, chunks};

/// A machine's state, never in memory as a whole: several windows of flushes long.
const STATE_BYTES: usize = 24 << 20;
/// Longest wait for anything; nothing is asserted about how long it takes.
const PATIENCE_NS: u64 = 60_000_000_000;

struct Node {
    io: Box<dyn Io>,
    store: Store,
}

/// The state from `at` on.
fn state(at: usize, into: &mut [u8]) {
    for (byte, at) in into.iter_mut().zip(at..) {
        *byte = (at ^ at >> 8 ^ at >> 16) as u8;
    }
}

impl Node {
    fn open(dir: &Path, backend: &kontiki_io::Options) -> Node {
        std::fs::create_dir_all(dir).unwrap();
        let mut io: Box<dyn Io> = open(backend, &[]).unwrap();
        let options = Options { dir: dir.into(), cluster: ClusterId(7), node: NodeId(1), ..Options::default() };
        let mut opening = Opening::start(options, &mut io);
        let mut done = Vec::new();
        loop {
            if let Some(store) = opening.poll().unwrap() {
                return Node { io, store };
            }
            let until = io.now().plus_ns(PATIENCE_NS);
            io.turn(Some(until), &mut done).unwrap();
            done.drain(..).for_each(|completion| opening.on_completion(completion, &mut io));
        }
    }

    /// One turn, waiting for something at most so long.
    fn turn(&mut self, wait_ns: u64) {
        let mut done = Vec::new();
        self.store.pump(&mut self.io, false);
        let until = self.io.now().plus_ns(wait_ns);
        let until = self.store.deadline().map_or(until, |due| due.min(until));
        self.io.turn(Some(until), &mut done).unwrap();
        done.drain(..).for_each(|completion| self.store.on_completion(completion, &mut self.io));
    }

    fn write(&mut self, index: u64) -> Info {
        let base = Base { index: LogIndex(index), term: Term(1), subterm: Subterm(0) };
        let making = Making { base, full: true, incarnation: Incarnation(1), ..Making::default() };
        while self.store.begin(making, &self.io).is_err() {
            self.turn(1_000_000);
        }
        let (mut given, mut piece, mut ended) = (0, vec![0; 100_000], false);
        loop {
            let length = piece.len().min(STATE_BYTES - given);
            state(given, &mut piece[..length]);
            given += self.store.push(Part::Machine, &piece[..length]);
            ended = ended || given == STATE_BYTES && self.store.finish();
            self.turn(1_000);
            match self.store.next_event() {
                Some(StoreEvent::Written(info)) => return info,
                None => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Some chunks from one on.
    fn read(&mut self, info: &Info, chunk: u64, pool: &Pool) -> Vec<u8> {
        self.store.read(chunk, info.digest, chunk, IoBuf::Pool(pool.take().unwrap()), &mut self.io).unwrap();
        loop {
            self.turn(PATIENCE_NS);
            match self.store.next_event() {
                Some(StoreEvent::Read { tag, buf, result }) => {
                    assert_eq!(tag, chunk);
                    let count = result.unwrap();
                    for chunk in chunks(&buf, count).filter(|chunk| chunk.part == Part::Machine) {
                        let mut expected = vec![0; chunk.data.len()];
                        state((chunk.number as usize - 1) * kontiki_snapshot::limits::DATA_BYTES, &mut expected);
                        assert!(chunk.data == expected);
                    }
                    return buf.bytes()[..count * CHUNK_BYTES].to_vec();
                }
                None => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn fetch(&mut self, source: &mut Node, info: &Info, pool: &Pool, until: u64) -> Option<Info> {
        let offer = Offer { source: NodeId(2), base: info.base(), lineage: 0, digest: info.digest, bytes: info.bytes };
        self.store.fetch(offer).unwrap();
        loop {
            if let Some(want) = self.store.want() {
                if want.offset >= until {
                    return None;
                }
                let bytes = source.read(info, want.offset / CHUNK_BYTES as u64, pool);
                for (chunk, offset) in bytes.chunks(CHUNK_BYTES).zip((want.offset..).step_by(CHUNK_BYTES)) {
                    if self.store.want().is_some() {
                        self.store.accept(offset, chunk).unwrap();
                    }
                }
            }
            self.turn(100_000);
            match self.store.next_event() {
                Some(StoreEvent::Fetched(info)) => return Some(info),
                None => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn close(mut self) {
        self.store.close(&mut self.io);
        while !self.store.closed() {
            self.turn(PATIENCE_NS);
        }
    }
}

#[test]
fn snapshots_over_every_backend() {
    for (name, backend) in backends() {
        match open(&backend, &[]) {
            Ok(io) => drop(io),
            Err(OpenError::Uring { reason }) => {
                eprintln!("SKIPPED: {name}: {reason}");
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        let dir = match std::env::var_os("KONTIKI_TEST_DIR") {
            Some(parent) => tempfile::TempDir::new_in(parent),
            None => tempfile::TempDir::new(),
        }
        .unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        let pool = Pool::new(2, 4 * CHUNK_BYTES);

        let mut source = Node::open(&from, &backend);
        source.store.expect(Some(Expected::Full(STATE_BYTES as u64 / 2)));
        source.write(10);
        let info = source.write(20);
        source.close();
        let mut source = Node::open(&from, &backend);
        let found: Vec<u64> = source.store.bases().iter().map(|base| base.index.0).collect();
        assert_eq!(found, [20, 10], "{name}");

        // Half of it, then a start, then the rest.
        let mut target = Node::open(&to, &backend);
        assert_eq!(target.fetch(&mut source, &info, &pool, STATE_BYTES as u64 / 2), None);
        target.close();
        let mut target = Node::open(&to, &backend);
        assert_eq!(target.fetch(&mut source, &info, &pool, u64::MAX), Some(info), "{name}");
        target.close();
        source.close();
        let file = kontiki_snapshot::names::snapshot(LogIndex(20));
        let [source, target] = [from, to].map(|dir| std::fs::read(dir.join(file.as_str())).unwrap());
        assert!(source.len() as u64 == info.bytes && source == target, "{name}: the same file");
    }
}

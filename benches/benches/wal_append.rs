//! Appending to the log: from the frame in memory to its durability, by frame size, depth and backend.
//!
//! `cargo bench -p kontiki-benches --bench wal_append`; `KONTIKI_BENCH_DIR` chooses the disk.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kontiki_benches::{bench_dir, describe_machine};
use kontiki_core::{ClusterId, FrameMeta, GroupId, LogIndex, NodeId, Term, WriteId};
use kontiki_frame::{BODY_OFFSET, Header, Kind, put_entry, seal};
use kontiki_io::{Backend, Io, Region};
use kontiki_mem::Ring;
use kontiki_wal::{Opening, Options, Wal, WalEvent};

/// A log, its memory and its world: the world is dropped first, since it may have the memory registered.
struct Bench {
    wal: Wal,
    io: Box<dyn Io + Send>,
    ring: Ring,
    last: LogIndex,
    write: u64,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn open(backend: Backend, writes_in_flight: usize) -> Bench {
        let dir = bench_dir();
        let ring = Ring::new(8 << 20, 2048).unwrap();
        let options = kontiki_io::Options { backend, ..kontiki_io::Options::default() };
        let mut io = kontiki_io::open(&options, &[Region::ring(&ring)]).unwrap();
        let log = Options {
            dir: dir.path().to_owned(),
            cluster: ClusterId(1),
            node: NodeId(1),
            retention_bytes: 32 << 20,
            writes_in_flight,
            ..Options::default()
        };
        let mut opening = Opening::start(log, &mut io).unwrap();
        let mut done = Vec::new();
        let wal = loop {
            if let Some(opened) = opening.poll().unwrap() {
                break opened.wal;
            }
            let until = Some(io.now().plus_ns(1_000_000_000));
            io.turn(until, &mut done).unwrap();
            done.drain(..).for_each(|c| opening.on_completion(c, &mut io));
        };
        Bench { wal, io, ring, last: LogIndex(0), write: 0, _dir: dir }
    }

    /// Appends one frame of `bytes`, if log and ring have room.
    fn append(&mut self, bytes: usize, payload: &[u8]) -> bool {
        if !self.wal.can_append(bytes) {
            return false;
        }
        let Some(mut block) = self.ring.reserve(bytes) else { return false };
        let end = put_entry(block.bytes_mut(), BODY_OFFSET, None, payload).unwrap();
        let prev_term = if self.last.0 == 0 { Term(0) } else { Term(1) };
        let meta = FrameMeta { term: Term(1), first: self.last.next(), count: 1, prev_term };
        let header = Header {
            kind: Kind::Entries,
            sessions: false,
            cluster: ClusterId(1),
            group: GroupId(0),
            meta,
            proposed_ns: 0,
            body_bytes: (end - BODY_OFFSET) as u32,
        };
        seal(block.bytes_mut(), &header);
        self.write += 1;
        drop(self.wal.append(WriteId(self.write), block, meta.range(), meta));
        self.last = self.last.next();
        true
    }

    /// Appends `frames` frames, at most `depth` of them not durable at a time.
    fn run(&mut self, bytes: usize, depth: u64, frames: u64) {
        let payload = vec![0xA5; bytes - BODY_OFFSET - 4];
        let (start, mut durable) = (self.write, self.write);
        let mut done = Vec::new();
        while durable < start + frames {
            while self.write < start + frames && self.write - durable < depth && self.append(bytes, &payload) {}
            self.wal.pump(&mut self.io);
            let until = Some(self.io.now().plus_ns(100_000_000));
            self.io.turn(until, &mut done).unwrap();
            for completion in done.drain(..) {
                self.wal.on_completion(completion, &mut self.io);
            }
            while let Some(event) = self.wal.next_event() {
                if let WalEvent::LogDurable { write } = event {
                    durable = write.0;
                }
            }
            self.wal.release(self.wal.last_index());
        }
    }
}

fn wal_append(c: &mut Criterion) {
    let mut described = false;
    for (name, backend) in [("uring", Backend::Uring), ("portable", Backend::Portable)] {
        let mut group = c.benchmark_group(format!("wal_append/{name}"));
        group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        for (bytes, depth) in [(4096, 1), (4096, 16), (64 << 10, 1), (64 << 10, 8), (256 << 10, 4)] {
            let mut bench = Bench::open(backend, 2);
            if !std::mem::replace(&mut described, true) {
                describe_machine(bench._dir.path(), &bench.io.describe());
            }
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(format!("{}KiB", bytes / 1024), depth), |b| {
                b.iter_custom(|frames| {
                    let start = Instant::now();
                    bench.run(bytes, depth, frames);
                    start.elapsed()
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, wal_append);
criterion_main!(benches);

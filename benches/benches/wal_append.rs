//! Appending to the log: from the frame in memory to its durability, by frame size, depth and backend.
//!
//! `cargo bench -p kontiki-benches --bench wal_append`; `KONTIKI_BENCH_DIR` chooses the disk.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kontiki_benches::{StoredLog, bench_dir, describe_machine};
use kontiki_io::Backend;

fn wal_append(c: &mut Criterion) {
    describe_machine();
    for (name, backend) in [("uring", Backend::Uring), ("portable", Backend::Portable)] {
        let mut group = c.benchmark_group(format!("wal_append/{name}"));
        group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        for (bytes, depth) in [(4096, 1), (4096, 16), (64 << 10, 1), (64 << 10, 8), (256 << 10, 4), (1 << 20, 2)] {
            let dir = bench_dir();
            let mut log = match StoredLog::open(dir.path(), backend, 2, false) {
                Ok((log, _)) => log,
                // A kernel without io_uring, or a sandbox: the other backend is measured all the same.
                Err(error) => {
                    eprintln!("wal_append/{name} is left out: {error}");
                    break;
                }
            };
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(format!("{}KiB", bytes / 1024), depth), |b| {
                b.iter_custom(|frames| {
                    let start = Instant::now();
                    log.run(bytes, depth, frames).unwrap();
                    start.elapsed()
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, wal_append);
criterion_main!(benches);

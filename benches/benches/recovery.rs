//! Opening a log after a crash, against merely reading it past the page cache and taking a checksum.
//!
//! `cargo bench -p kontiki-benches --bench recovery`; `KONTIKI_BENCH_DIR` chooses the disk.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kontiki_benches::{StoredLog, bench_dir, describe_machine, scan};
use kontiki_io::Backend;

/// Bytes of the log. `kontiki bench --report` goes up to gigabytes.
const LOG_BYTES: u64 = 128 << 20;

fn recovery(c: &mut Criterion) {
    describe_machine();
    let mut group = c.benchmark_group("recovery");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Bytes(LOG_BYTES));
    for frame_bytes in [4 << 10, 256 << 10] {
        let dir = bench_dir();
        let (mut log, _) = StoredLog::open(dir.path(), Backend::Auto, 2, true).unwrap();
        log.run(frame_bytes, 64, LOG_BYTES / frame_bytes as u64).unwrap();
        drop(log);
        let frames = format!("frames of {} KiB", frame_bytes / 1024);
        group.bench_function(BenchmarkId::new("open", &frames), |b| {
            b.iter_custom(|times| (0..times).map(|_| StoredLog::open(dir.path(), Backend::Auto, 2, true).unwrap().1.took).sum());
        });
        group.bench_function(BenchmarkId::new("read and checksum", &frames), |b| {
            b.iter_custom(|times| (0..times).map(|_| scan(dir.path(), Backend::Auto, LOG_BYTES).unwrap().took).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, recovery);
criterion_main!(benches);

//! From `propose` to the ticket resolved: durable on a majority and applied.
//!
//! `cargo bench -p kontiki-benches --bench commit_latency`; `KONTIKI_BENCH_DIR` chooses the disk.
#![allow(missing_docs)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kontiki::ApplyOn;
use kontiki_benches::{Cluster, describe_machine};

fn commit_latency(c: &mut Criterion) {
    describe_machine();
    for replicas in [1, 3, 5] {
        let cluster = Cluster::start(replicas, ApplyOn::Reactor);
        let mut group = c.benchmark_group(format!("commit/{replicas}-replicas"));
        group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
        for entry_bytes in [16, 128, 1024] {
            for in_flight in [1, 16, 256, 4096] {
                let payload = vec![0x5A; entry_bytes];
                let mut tickets = VecDeque::with_capacity(in_flight);
                group.throughput(Throughput::Elements(1));
                group.bench_function(BenchmarkId::new(format!("{entry_bytes}B"), in_flight), |b| {
                    b.iter_custom(|iterations| {
                        let start = Instant::now();
                        cluster.commit(&payload, in_flight, iterations, &mut tickets);
                        start.elapsed()
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, commit_latency);
criterion_main!(benches);

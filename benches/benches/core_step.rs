//! Consensus alone: a frame through a leader's core, from sealed to committed.
#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kontiki_benches::{CoreLoad, describe_machine};

fn core_step(c: &mut Criterion) {
    describe_machine();
    let mut group = c.benchmark_group("core");
    for voters in [1, 3, 5, 9] {
        let mut load = CoreLoad::elected(voters);
        group.bench_function(BenchmarkId::new("a frame, sealed to committed", format!("{voters} voters")), |b| b.iter(|| load.commit(64)));
    }
    group.finish();
}

criterion_group!(benches, core_step);
criterion_main!(benches);

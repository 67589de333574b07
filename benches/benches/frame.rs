//! Sealing and checking a frame: one checksum over it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kontiki_benches::describe_machine;
use kontiki_core::{ClusterId, FrameMeta, GroupId, LogIndex, Subterm, Term};
use kontiki_frame::{BODY_OFFSET, Header, Kind, frame_bytes, put_entry, seal, verify};

fn frames(c: &mut Criterion) {
    describe_machine();
    let mut group = c.benchmark_group("frame");
    for (entry_bytes, count) in [(16usize, 1u32), (16, 4096), (128, 1024), (1024, 240)] {
        let body = (4 + entry_bytes) * count as usize;
        let mut frame = vec![0; frame_bytes(body)];
        let mut at = BODY_OFFSET;
        for _ in 0..count {
            at = put_entry(&mut frame, at, None, &vec![7; entry_bytes]).unwrap();
        }
        let meta = FrameMeta { term: Term(3), first: LogIndex(10), count, prev_term: Term(2) };
        let header = Header {
            kind: Kind::Entries,
            sessions: false,
            cluster: ClusterId(1),
            group: GroupId(0),
            meta,
            subterm: Subterm(0),
            cluster_ns: 0,
            proposed_ns: 0,
            body_bytes: body as u32,
        };
        group.throughput(Throughput::Bytes(frame.len() as u64));
        let id = format!("{count}x{entry_bytes}B");
        group.bench_function(BenchmarkId::new("seal", &id), |b| b.iter(|| seal(black_box(&mut frame), &header)));
        group.bench_function(BenchmarkId::new("verify", &id), |b| b.iter(|| verify(black_box(&frame)).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);

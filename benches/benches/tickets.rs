//! Tickets: taking, resolving, looking and giving back, and what a wake-up of the waiting thread costs.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::mpsc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kontiki_benches::describe_machine;
use kontiki_mem::{Hold, Outcome, Resolver, Ticket, TicketId, Tickets};

fn tickets(c: &mut Criterion) {
    describe_machine();
    let mut group = c.benchmark_group("tickets");
    let tickets = Tickets::new(8192, 8);
    let slab = Hold::alone((), &tickets);
    let mut resolver = Resolver::new();
    for batch in [1, 64, 4096] {
        let mut held: Vec<Ticket> = Vec::with_capacity(batch);
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("take, resolve, poll, drop", batch), |b| {
            b.iter(|| {
                held.extend(std::iter::from_fn(|| slab.take()).take(batch));
                for ticket in &held {
                    resolver.resolve(&tickets, ticket.id(), Outcome::Applied { index: 1 }, &[0; 8]);
                }
                resolver.flush();
                held.drain(..).for_each(|ticket| assert!(ticket.poll_outcome().is_some()));
            });
        });
    }

    // One caller waits, another thread resolves: two wake-ups each way around.
    let (ask, asked) = mpsc::sync_channel::<TicketId>(1);
    std::thread::scope(|scope| {
        let mut resolver = Resolver::new();
        scope.spawn(move || {
            for id in asked {
                resolver.resolve(&tickets, id, Outcome::Applied { index: 1 }, &[0; 8]);
                resolver.flush();
            }
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function("ask another thread and wait", |b| {
            b.iter_custom(|times| {
                let start = Instant::now();
                for _ in 0..times {
                    let ticket = slab.take().unwrap();
                    ask.send(ticket.id()).unwrap();
                    ticket.wait();
                }
                start.elapsed()
            });
        });
        drop(ask);
    });
    group.finish();
}

criterion_group!(benches, tickets);
criterion_main!(benches);

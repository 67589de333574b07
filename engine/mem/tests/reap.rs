//! Answered tickets, taken in runs.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;

use kontiki_mem::{BLOCK_BYTES, Batch, Hold, OpenBatch, Outcome, Resolver, Ring, Ticket, TicketId, Tickets};

type Queue = VecDeque<Ticket>;

const SLOTS: usize = 64;
const TABLES: usize = 3;

struct Fixture {
    ring: Ring,
    open: OpenBatch,
    hold: Hold<()>,
    resolver: Resolver,
}

impl Fixture {
    fn new() -> Fixture {
        let open = OpenBatch::new(Tickets::new(SLOTS, 32), 192, BLOCK_BYTES - 192, 16, TABLES);
        let hold = Hold::new((), open.records());
        Fixture { ring: Ring::new(1 << 16, 64).unwrap(), open, hold, resolver: Resolver::new() }
    }

    /// A batch whose tickets stand behind those in `queue`.
    fn batch(&mut self, entries: usize, queue: &mut Queue) -> Batch {
        self.open.open(self.ring.reserve(BLOCK_BYTES).unwrap()).unwrap();
        let mut mine: Vec<Ticket> = Vec::new();
        assert_eq!(self.hold.take_many(entries, &mut mine), entries);
        assert_eq!(self.open.propose_many(&vec![&b"x"[..]; entries], &mut mine).0, entries);
        queue.extend(mine);
        assert!(self.open.seal());
        self.open.poll_sealed().unwrap().1
    }

    /// Applies all of a batch, from index `first` on: the replies are the indexes.
    fn complete(&mut self, mut batch: Batch, first: u64) {
        for n in 0..batch.len() {
            assert!(batch.reply(n, &(first + n as u64).to_le_bytes()));
        }
        self.resolver.complete(&mut batch, first);
    }

    /// Everything has come back: all slots, and all tables.
    fn is_whole(&mut self) {
        assert_eq!(self.open.records().in_flight(), 0);
        let mut queue = Queue::new();
        let batches: Vec<Batch> = (0..TABLES).map(|_| self.batch(SLOTS / TABLES - 5, &mut queue)).collect();
        assert_eq!(queue.len(), TABLES * (SLOTS / TABLES - 5), "each slot is there once");
        batches.into_iter().for_each(|batch| self.complete(batch, 1));
        drop(queue);
        assert_eq!(self.open.records().in_flight(), 0);
    }
}

/// What `reap` gives, as indexes; each with its index as reply.
fn reaped(queue: &mut Queue) -> Vec<u64> {
    let mut seen = Vec::new();
    let count = Ticket::reap(queue, |_, outcome, reply| {
        let Outcome::Applied { index } = outcome else { panic!("{outcome:?}") };
        assert_eq!(reply, index.to_le_bytes());
        seen.push(index);
    });
    assert_eq!(count, seen.len());
    seen
}

#[test]
fn what_is_answered_goes_and_the_rest_stays() {
    let (mut f, mut queue) = (Fixture::new(), Queue::new());
    let (one, two, three) = (f.batch(3, &mut queue), f.batch(2, &mut queue), f.batch(4, &mut queue));
    let ids: Vec<TicketId> = queue.iter().map(Ticket::id).collect();
    assert_eq!(reaped(&mut queue), []);
    f.complete(one, 10);
    f.complete(three, 15);
    assert_eq!(reaped(&mut queue), [10, 11, 12], "up to one that is not answered");
    assert_eq!((queue.len(), f.open.records().in_flight()), (6, 6));
    f.complete(two, 13);
    assert_eq!(reaped(&mut queue), [13, 14, 15, 16, 17, 18]);
    assert!(queue.is_empty());
    let mut newer: Vec<Ticket> = Vec::new();
    assert_eq!(f.hold.take_many(SLOTS, &mut newer), SLOTS);
    assert!(newer.iter().all(|ticket| !ids.contains(&ticket.id())), "what is left of the old ones names nobody");
    newer.into_iter().for_each(Ticket::cancel);
    f.is_whole();
}

/// Woken for nothing.
struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// Those that are answered by themselves, or waited for, lie among the others.
#[test]
fn in_one_order_whatever_way_they_are_answered() {
    let (mut f, mut queue) = (Fixture::new(), Queue::new());
    let mut batch = f.batch(5, &mut queue);
    let waker = Arc::new(Nobody);
    assert!(pin!(&mut queue[1]).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&waker)))).is_pending(), "its waker is left");
    for n in [0, 1, 3, 4] {
        assert!(batch.reply(n, &(20 + n as u64).to_le_bytes()));
    }
    assert!(f.resolver.resolve_one(&mut batch, 2, Outcome::Applied { index: 22 }, &22u64.to_le_bytes()));
    f.resolver.complete(&mut batch, 20);
    drop(batch);
    // One that was in no batch.
    let tickets = Tickets::new(1, 8);
    let alone = Hold::alone((), &tickets).take().unwrap();
    assert!(f.resolver.resolve(&tickets, alone.id(), Outcome::Applied { index: 25 }, &25u64.to_le_bytes()));
    queue.push_back(alone);
    assert_eq!(reaped(&mut queue), [20, 21, 22, 23, 24, 25]);
    f.resolver.flush();
    assert_eq!(Arc::strong_count(&waker), 1, "no waker is left behind");
    f.is_whole();
}

/// Two nodes' tickets in one queue, from tables of the same number.
#[test]
fn tickets_go_back_to_where_they_are_from() {
    let (mut f, mut g, mut queue) = (Fixture::new(), Fixture::new(), Queue::new());
    for round in 0..3 {
        let (one, other, more) = (f.batch(2, &mut queue), g.batch(3, &mut queue), f.batch(1, &mut queue));
        f.complete(one, round);
        g.complete(other, round + 2);
        f.complete(more, round + 5);
        assert_eq!(reaped(&mut queue), (round..round + 6).collect::<Vec<_>>());
    }
    f.is_whole();
    g.is_whole();
}

#[test]
fn a_panic_in_between_loses_nothing() {
    let (mut f, mut queue) = (Fixture::new(), Queue::new());
    let batch = f.batch(5, &mut queue);
    f.complete(batch, 1);
    let mut left = 2;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        Ticket::reap(&mut queue, |_, _, _| {
            assert!(left > 0, "enough");
            left -= 1;
        })
    }));
    assert!(outcome.is_err());
    assert_eq!((queue.len(), f.open.records().in_flight()), (3, 3));
    assert_eq!(reaped(&mut queue), [3, 4, 5]);
    f.is_whole();
}

/// After the end of the engine: answers that stand are given, all others are unknown.
#[test]
fn after_the_end() {
    let (mut f, mut queue) = (Fixture::new(), Queue::new());
    let (done, open) = (f.batch(2, &mut queue), f.batch(2, &mut queue));
    f.complete(done, 1);
    f.open.records().end();
    let mut seen = Vec::new();
    assert_eq!(Ticket::reap(&mut queue, |_, outcome, _| seen.push(outcome)), 4);
    assert_eq!(seen, [Outcome::Applied { index: 1 }, Outcome::Applied { index: 2 }, Outcome::Unknown, Outcome::Unknown]);
    drop(open);
    assert!(f.hold.take().is_none(), "nothing is taken any more");
}

/// Tickets outlive the engine's own references.
#[test]
fn the_last_run_takes_the_slab_along() {
    let (mut f, mut queue) = (Fixture::new(), Queue::new());
    let batch = f.batch(3, &mut queue);
    f.complete(batch, 1);
    drop(f);
    assert_eq!(reaped(&mut queue), [1, 2, 3]);
}

/// Callers that reap, beside a resolver.
#[test]
fn side_by_side() {
    let mut f = Fixture::new();
    let rounds = if cfg!(miri) { 20 } else { 5_000 };
    let (give, given) = mpsc::sync_channel::<Queue>(1);
    let caller = thread::spawn(move || {
        let mut all = Vec::new();
        for mut queue in given {
            while !queue.is_empty() {
                queue[0].wait();
                all.extend(reaped(&mut queue));
            }
        }
        all
    });
    for round in 0..rounds {
        let mut queue = Queue::new();
        // At most three tables: the caller has two rounds at once.
        let batch = loop {
            if f.open.records().in_flight() + 4 <= 12 {
                break f.batch(4, &mut queue);
            }
            thread::yield_now();
        };
        give.send(queue).unwrap();
        f.complete(batch, 4 * round);
        f.resolver.flush();
    }
    drop(give);
    assert_eq!(caller.join().unwrap(), (0..4 * rounds).collect::<Vec<_>>());
    f.is_whole();
}

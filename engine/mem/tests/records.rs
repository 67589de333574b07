//! Batches that are answered as a whole.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread;

use kontiki_mem::{BLOCK_BYTES, Batch, Hold, OpenBatch, Outcome, Records, Resolver, Ring, Ticket, Tickets};

type Mine = Ticket;

struct Fixture {
    ring: Ring,
    open: OpenBatch,
    tickets: Records,
}

fn fixture(side_tables: usize) -> Fixture {
    let open = OpenBatch::new(Tickets::new(64, 32), 192, BLOCK_BYTES - 192, 16, side_tables);
    Fixture { ring: Ring::new(1 << 16, 64).unwrap(), tickets: open.records(), open }
}

impl Fixture {
    fn batch(&mut self, entries: usize) -> (Batch, Vec<Mine>) {
        self.open.open(self.ring.reserve(BLOCK_BYTES).unwrap()).unwrap();
        let mut mine = Vec::new();
        Hold::new((), self.tickets.clone()).take_many(entries, &mut mine);
        assert_eq!(self.open.propose_many(&vec![&b"x"[..]; entries], &mut mine).0, entries);
        assert!(self.open.seal());
        (self.open.poll_sealed().unwrap().1, mine)
    }
}

fn applied(index: u64) -> Option<Outcome> {
    Some(Outcome::Applied { index })
}

struct Counter(AtomicU64);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn outcomes_and_replies_come_at_once() {
    let mut f = fixture(2);
    for round in 0..10 {
        let (mut batch, mine) = f.batch(3);
        let mut resolver = Resolver::new();
        assert!(batch.reply(0, b"first") && batch.reply(1, &[]));
        assert!(!batch.reply(2, b"too long for it"), "to be resolved by itself");
        assert!(resolver.resolve_one(&mut batch, 2, Outcome::Applied { index: 9 + round }, b"too long for it"));
        assert_eq!(mine[0].poll_outcome(), None);
        resolver.complete(&mut batch, 7 + round);
        assert_eq!([0, 1, 2].map(|n: usize| mine[n].poll_outcome()), [applied(7 + round), applied(8 + round), applied(9 + round)]);
        assert_eq!([0, 1, 2].map(|n: usize| mine[n].reply().to_vec()), [b"first".to_vec(), vec![], b"too long for it".to_vec()]);
        drop(batch);
        assert_eq!(mine[0].reply(), b"first", "as long as the ticket lives");
    }
    assert_eq!(f.tickets.in_flight(), 0);
}

/// A table is used again when the last of its tickets is gone, not before; whatever became of them.
#[test]
fn a_table_stays_while_a_ticket_looks_there() {
    let mut f = fixture(1);
    let (mut batch, mut mine) = f.batch(4);
    let mut resolver = Resolver::new();
    drop(mine.remove(3));
    assert_eq!(f.tickets.in_flight(), 4, "dropped, and not resolved");
    resolver.resolve_one(&mut batch, 2, Outcome::Unknown, &[]);
    (0..4).for_each(|n| assert!(batch.reply(n, &[n as u8])));
    resolver.complete(&mut batch, 1);
    assert_eq!((f.tickets.in_flight(), mine[2].poll_outcome()), (3, Some(Outcome::Unknown)));
    drop(batch);
    let block = f.ring.reserve(BLOCK_BYTES).unwrap();
    let block = f.open.open(block).unwrap_err();
    drop(mine.remove(0));
    let block = f.open.open(block).unwrap_err();
    drop(mine.remove(0));
    f.open.open(block).unwrap();
    assert_eq!((mine.len(), mine[0].poll_outcome()), (1, Some(Outcome::Unknown)), "its outcome is its own");
}

/// Whoever waits is woken once, one or many; also who waits for one that is resolved by itself.
#[test]
fn all_who_wait_are_woken() {
    for callers in [1, 3, 5, 16] {
        let mut f = fixture(2);
        let (mut batch, mut mine) = f.batch(16);
        let counters: Vec<_> = (0..callers).map(|_| Arc::new(Counter(AtomicU64::new(0)))).collect();
        let wakers: Vec<Waker> = counters.iter().map(|counter| Waker::from(Arc::clone(counter))).collect();
        for (ticket, waker) in mine.iter_mut().zip(&wakers) {
            for _ in 0..2 {
                assert!(pin!(&mut *ticket).poll(&mut Context::from_waker(waker)).is_pending());
            }
        }
        let mut resolver = Resolver::new();
        resolver.resolve_one(&mut batch, 0, Outcome::Unknown, &[]);
        resolver.flush();
        assert_eq!(counters[0].0.load(Ordering::SeqCst), 1);
        (1..16).for_each(|n| assert!(batch.reply(n, &[])));
        resolver.complete(&mut batch, 1);
        resolver.flush();
        assert!(counters.iter().all(|counter| counter.0.load(Ordering::SeqCst) == 1), "{callers} callers");
    }
}

/// Tickets that are kept for long do not keep all tables.
#[test]
fn few_free_tables_are_seen() {
    let mut f = fixture(8);
    let mut kept = Vec::new();
    for n in 0..64 {
        let (mut batch, mut mine) = f.batch(1);
        let mut resolver = Resolver::new();
        if batch.is_scarce() {
            resolver.resolve_one(&mut batch, 0, Outcome::Applied { index: n }, &[1]);
        } else {
            batch.reply(0, &[1]);
            resolver.complete(&mut batch, n);
        }
        kept.append(&mut mine);
    }
    for (ticket, n) in kept.iter().zip(0..) {
        assert_eq!((ticket.poll_outcome(), ticket.reply()), (applied(n), &[1][..]));
    }
}

#[test]
fn the_end_takes_no_outcome_back() {
    let mut f = fixture(4);
    let ((mut done, of_done), (mut late, of_late)) = (f.batch(2), f.batch(2));
    let mut resolver = Resolver::new();
    resolver.complete(&mut done, 5);
    assert_eq!(of_done[0].poll_outcome(), applied(5));
    f.tickets.end();
    assert_eq!([0, 1].map(|n: usize| of_done[n].poll_outcome()), [applied(5), applied(6)]);
    assert_eq!(of_late[0].poll_outcome(), Some(Outcome::Unknown));
    resolver.complete(&mut late, 7);
    assert_eq!([0, 1].map(|n: usize| of_late[n].poll_outcome()), [Some(Outcome::Unknown); 2]);
}

#[test]
#[should_panic(expected = "the whole batch has its outcome")]
fn no_outcome_of_its_own_afterwards() {
    let mut f = fixture(1);
    let (mut batch, _mine) = f.batch(1);
    Resolver::new().complete(&mut batch, 1);
    Resolver::new().resolve_one(&mut batch, 0, Outcome::Unknown, &[]);
}

/// Callers that wait, drop, and look, beside a resolver that answers whole batches and single tickets; nothing is lost,
/// nothing leaks.
#[test]
fn callers_and_a_resolver_side_by_side() {
    let mut f = fixture(8);
    let batches = if cfg!(miri) { 20 } else { 5_000 };
    for n in 0..batches {
        let (mut batch, mut mine) = f.batch(4);
        let mut resolver = Resolver::new();
        let others: Vec<_> = mine.drain(2..).collect();
        let caller = thread::spawn(move || {
            let [first, second] = <[Mine; 2]>::try_from(mine).ok().unwrap();
            drop(first);
            let outcome = second.wait();
            (outcome, second.reply().to_vec())
        });
        let by_itself = n % 3 == 0;
        (0..4).for_each(|entry| assert!(batch.reply(entry, &[entry as u8])));
        if by_itself {
            resolver.resolve_one(&mut batch, 1, Outcome::Applied { index: n + 1 }, &[1]);
        }
        resolver.complete(&mut batch, n);
        drop((resolver, batch));
        assert_eq!(others.iter().map(Ticket::poll_outcome).collect::<Vec<_>>(), [applied(n + 2), applied(n + 3)]);
        drop(others);
        assert_eq!(caller.join().unwrap(), (Outcome::Applied { index: n + 1 }, vec![1]));
    }
    assert_eq!(f.tickets.in_flight(), 0);
}

//! After start-up nothing here allocates, or frees, on any of the hot paths.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::pin;
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;

use kontiki_mem::{BLOCK_BYTES as B, Hold, OpenBatch, Outcome, Pool, Resolver, Ring, Slot, Span, TicketId, Tickets};

/// Tickets that are resolved by id.
fn alone(slots: usize, reply_bytes: usize) -> Hold<Arc<Tickets>> {
    let tickets = Arc::new(Tickets::new(slots, reply_bytes));
    Hold::alone(Arc::clone(&tickets), &tickets)
}

/// The system's allocator, counting this thread's calls.
struct Counting;

thread_local!(static CALLS: Cell<u64> = const { Cell::new(0) });

fn count() {
    // Gone only while a thread ends.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: hands every call on to the system's allocator unchanged; counting touches a plain thread-local.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator while `f` runs, by this thread.
fn calls(f: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    f();
    CALLS.get() - before
}

struct Nobody;
impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn the_count_counts() {
    assert_eq!(calls(|| drop(std::hint::black_box(Box::new(1)))), 2);
}

#[test]
fn ring_and_pool_do_not_allocate() {
    let mut ring = Ring::new(1 << 16, 8).unwrap();
    let pool = Pool::new(2, B);
    let mut round = || {
        let mut block = ring.reserve(6 * B).unwrap();
        block.bytes_mut()[0] = 1;
        let front = block.split_to(2 * B).unwrap();
        let middle = block.split_to(B).unwrap().freeze();
        assert!(ring.extend(&mut block, 2 * B));
        block.truncate(B);
        let mut span = Span::one(front.freeze());
        span.push(middle.clone()).unwrap();
        span.push(block.freeze()).unwrap();
        assert_eq!(span.clone().bytes().len(), 4 * B);
        assert_eq!(ring.held(), 4 * B);
        let mut buf = pool.take().unwrap();
        buf.bytes_mut()[0] = 1;
        let frozen = buf.freeze();
        let copy = frozen.clone();
        drop((span, middle, frozen));
        assert_eq!(copy.bytes()[0], 1);
    };
    assert_eq!(calls(|| (0..1000).for_each(|_| round())), 0);
}

#[test]
fn proposals_and_tickets_do_not_allocate() {
    let mut ring = Ring::new(1 << 16, 8).unwrap();
    let batch = OpenBatch::new(Tickets::new(16, 64), 192, B - 192, 16, 2);
    let tickets = Hold::new((), batch.records());
    let mut resolver = Resolver::new();
    let waker = Waker::from(Arc::new(Nobody));
    let mut round = || {
        batch.open(ring.reserve(B).unwrap()).unwrap();
        let mut one = tickets.take().unwrap();
        let never = tickets.take().unwrap();
        let mut two = [tickets.take().unwrap(), tickets.take().unwrap()];
        assert!(matches!(batch.propose(&[0; 16], b"payload", &mut one), Slot::Written { .. }));
        let (written, _) = batch.propose_many(&[b"a", b"b"], &mut two);
        assert_eq!(written, 2);
        never.cancel();
        let [two, dropped] = two;
        drop(dropped);
        let mut two = pin!(two);
        assert!(two.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(batch.seal());
        let (sealed, mut table) = batch.poll_sealed().unwrap();
        let frozen = sealed.block.freeze();
        for (entry, index) in (0..table.len()).zip(1..) {
            assert!(resolver.resolve_one(&mut table, entry, Outcome::Applied { index }, &frozen.bytes()[192..200]));
        }
        resolver.flush();
        assert_eq!(one.wait(), Outcome::Applied { index: 1 });
        assert_eq!(two.reply().len(), 8);
    };
    assert_eq!(calls(|| (0..1000).for_each(|_| round())), 0);
    batch.close();
    assert_eq!(batch.records().in_flight(), 0);
}

#[test]
fn more_wakers_than_a_resolver_holds_do_not_allocate() {
    const CALLERS: usize = 100;
    let tickets = alone(CALLERS, 0);
    let mut resolver = Resolver::new();
    let wakers: Vec<_> = (0..CALLERS).map(|_| Waker::from(Arc::new(Nobody))).collect();
    let mut taken: Vec<_> = (0..CALLERS).map(|_| tickets.take().unwrap()).collect();
    let used = calls(|| {
        for (ticket, waker) in taken.iter_mut().zip(&wakers) {
            assert!(pin!(ticket).poll(&mut Context::from_waker(waker)).is_pending());
        }
        for ticket in &taken {
            assert!(resolver.resolve(&tickets, ticket.id(), Outcome::Unknown, &[]));
        }
        resolver.flush();
    });
    assert_eq!(used, 0);
}

#[test]
fn waiting_and_waking_threads_do_not_allocate() {
    let tickets = alone(4, 0);
    let engine = tickets.clone();
    let (send, receive) = mpsc::sync_channel::<TicketId>(1);
    let start = Arc::new(Barrier::new(2));
    let started = start.clone();
    let resolving = thread::spawn(move || {
        let mut resolver = Resolver::new();
        started.wait();
        let mut worst = 0;
        while let Ok(id) = receive.recv() {
            worst = worst.max(calls(|| {
                resolver.resolve(&engine, id, Outcome::Unknown, &[]);
                resolver.flush();
            }));
        }
        worst
    });
    start.wait();
    // The thread's waker is made at its first real wait, which the first rounds may not need.
    let mut warm = false;
    for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
        let ticket = tickets.take().unwrap();
        send.send(ticket.id()).unwrap();
        let waited = calls(|| {
            ticket.wait();
            drop(ticket);
        });
        assert!(!warm || waited == 0, "{waited} calls of the allocator in a wait");
        warm |= waited > 0;
    }
    drop(send);
    assert_eq!(resolving.join().unwrap(), 0);
}

//! The ticket slab: exactly once, drop orders, wakes, abandonment.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use kontiki_mem::{Hold, Outcome, Resolver, TicketId, Tickets};

/// Tickets that are resolved by id.
fn alone(slots: usize, reply_bytes: usize) -> Hold<Arc<Tickets>> {
    let tickets = Arc::new(Tickets::new(slots, reply_bytes));
    Hold::alone(Arc::clone(&tickets), &tickets)
}

const APPLIED: Outcome = Outcome::Applied { index: 42 };

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counter {
    fn new() -> (Arc<Counter>, Waker) {
        let counter = Arc::new(Counter::default());
        (counter.clone(), counter.into())
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn a_ticket_is_resolved_exactly_once() {
    let tickets = alone(4, 16);
    assert_eq!(tickets.reply_bytes(), 16);
    let mut resolver = Resolver::new();
    let ticket = tickets.take().unwrap();
    assert_eq!((ticket.poll_outcome(), ticket.reply()), (None, &[][..]));
    assert!(resolver.resolve(&tickets, ticket.id(), APPLIED, b"reply"));
    assert!(!resolver.resolve(&tickets, ticket.id(), Outcome::Unknown, b"other"));
    assert_eq!((ticket.poll_outcome(), ticket.reply()), (Some(APPLIED), &b"reply"[..]));
    assert_eq!(ticket.wait(), APPLIED);
    assert_eq!(ticket.wait_timeout(Duration::ZERO), Some(APPLIED));
    let other = tickets.take().unwrap();
    assert!(resolver.resolve(&tickets, other.id(), Outcome::NotApplied { hint: 3 }, &[]));
    assert_eq!((other.poll_outcome(), other.reply()), (Some(Outcome::NotApplied { hint: 3 }), &[][..]));
    let third = tickets.take().unwrap();
    assert!(resolver.resolve(&tickets, third.id(), Outcome::Unknown, &[]));
    assert_eq!(third.wait(), Outcome::Unknown);
}

#[test]
fn slots_are_bounded_and_come_back() {
    let tickets = alone(3, 0);
    let mut resolver = Resolver::new();
    let mut taken: Vec<_> = (0..3).map(|_| tickets.take().unwrap()).collect();
    assert_eq!(taken.iter().map(|t| t.id()).collect::<HashSet<_>>().len(), 3);
    assert!(tickets.take().is_none());
    assert_eq!(tickets.in_flight(), 3);

    // Resolved, then dropped.
    let id = taken[0].id();
    assert!(resolver.resolve(&tickets, id, APPLIED, &[]));
    assert!(tickets.take().is_none());
    taken.remove(0);
    assert_eq!(tickets.in_flight(), 2);
    let newer = tickets.take().unwrap();
    assert_ne!(newer.id(), id);
    assert!(!resolver.resolve(&tickets, id, APPLIED, &[]), "a stale id resolves nobody");
    assert_eq!(newer.poll_outcome(), None);

    // Dropped, then resolved.
    let id = newer.id();
    drop(newer);
    assert!(tickets.take().is_none(), "still to be resolved");
    assert!(resolver.resolve(&tickets, id, APPLIED, &[]));
    assert!(!resolver.resolve(&tickets, id, APPLIED, &[]));
    assert_eq!(tickets.in_flight(), 2);

    // Never written.
    let id = taken[0].id();
    taken.remove(0).cancel();
    assert!(!resolver.resolve(&tickets, id, APPLIED, &[]));
    assert_eq!(tickets.in_flight(), 1);
    assert!(tickets.take().is_some_and(|t| t.poll_outcome().is_none()));
}

#[test]
fn made_up_ids_resolve_nobody() {
    let tickets = alone(1, 0);
    let ticket = tickets.take().unwrap();
    let mut resolver = Resolver::new();
    for id in [0, 1, u64::MAX, ticket.id().0 + 1, ticket.id().0 + (1 << 24)] {
        assert!(!resolver.resolve(&tickets, TicketId(id), Outcome::Unknown, &[]), "{id:#x}");
    }
    assert!(!resolver.resolve(&tickets, TicketId::default(), Outcome::Unknown, &[]));
    assert_eq!(ticket.poll_outcome(), None);
}

#[test]
#[should_panic(expected = "room for 4")]
fn a_reply_too_long_is_a_bug() {
    let tickets = alone(1, 4);
    let ticket = tickets.take().unwrap();
    Resolver::new().resolve(&tickets, ticket.id(), APPLIED, &[0; 5]);
}

#[test]
fn a_waiting_thread_is_woken() {
    let tickets = alone(1, 8);
    let ticket = tickets.take().unwrap();
    let id = ticket.id();
    let (waiting, started) = mpsc::channel();
    let waiter = thread::spawn(move || {
        assert_eq!(ticket.wait_timeout(Duration::from_millis(1)), None);
        waiting.send(()).unwrap();
        assert_eq!(ticket.wait(), APPLIED);
        ticket.reply().to_vec()
    });
    started.recv().unwrap();
    let mut resolver = Resolver::new();
    assert!(resolver.resolve(&tickets, id, APPLIED, b"hello"));
    drop(resolver); // as good as a flush
    assert_eq!(waiter.join().unwrap(), b"hello");
    assert_eq!(tickets.in_flight(), 0);
}

#[test]
fn a_long_timeout_ends_with_the_outcome() {
    let tickets = alone(1, 0);
    let ticket = tickets.take().unwrap();
    let id = ticket.id();
    let waiter = thread::spawn(move || ticket.wait_timeout(Duration::MAX));
    Resolver::new().resolve(&tickets, id, APPLIED, &[]);
    assert_eq!(waiter.join().unwrap(), Some(APPLIED));
}

#[test]
fn a_future_is_woken_by_its_last_waker() {
    let tickets = alone(1, 0);
    let mut ticket = pin!(tickets.take().unwrap());
    let ((first, first_waker), (last, last_waker)) = (Counter::new(), Counter::new());
    for waker in [&first_waker, &first_waker, &last_waker] {
        assert_eq!(ticket.as_mut().poll(&mut Context::from_waker(waker)), Poll::Pending);
    }
    let mut resolver = Resolver::new();
    assert!(resolver.resolve(&tickets, ticket.id(), APPLIED, &[]));
    assert_eq!(last.count(), 0, "wakes wait for the flush");
    resolver.flush();
    assert_eq!((first.count(), last.count()), (0, 1));
    for _ in 0..2 {
        let again = ticket.as_mut().poll(&mut Context::from_waker(&first_waker));
        assert_eq!(again, Poll::Ready(APPLIED), "ready for ever");
    }
}

#[test]
fn a_caller_of_many_tickets_is_woken_once_a_batch() {
    let tickets = alone(200, 0);
    let (counter, waker) = Counter::new();
    let mut mine: Vec<_> = (0..50).map(|_| Box::pin(tickets.take().unwrap())).collect();
    for ticket in &mut mine {
        assert!(ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    // A hundred different ones beside it: more than the resolver's table holds.
    let others: Vec<_> = (0..100).map(|_| Counter::new()).collect();
    let mut theirs: Vec<_> = (0..100).map(|_| Box::pin(tickets.take().unwrap())).collect();
    for (ticket, (_, waker)) in theirs.iter_mut().zip(&others) {
        assert!(ticket.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    let mut resolver = Resolver::new();
    for ticket in &mine {
        assert!(resolver.resolve(&tickets, ticket.id(), APPLIED, &[]));
    }
    resolver.flush();
    assert_eq!(counter.count(), 1);
    for ticket in &theirs {
        assert!(resolver.resolve(&tickets, ticket.id(), APPLIED, &[]));
    }
    resolver.flush();
    assert!(others.iter().all(|(counter, _)| counter.count() == 1));
    drop((mine, theirs));
    assert_eq!(Arc::strong_count(&counter), 2, "no waker is left behind");
}

#[test]
fn a_dropped_ticket_takes_its_waker_along() {
    let tickets = alone(1, 0);
    let (counter, waker) = Counter::new();
    let mut ticket = Box::pin(tickets.take().unwrap());
    assert!(ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let id = ticket.id();
    drop(ticket);
    assert!(Resolver::new().resolve(&tickets, id, APPLIED, &[]));
    assert_eq!((counter.count(), Arc::strong_count(&counter)), (0, 2));
}

#[test]
fn abandoning_ends_everything_as_unknown() {
    let tickets = alone(4, 8);
    let mut resolver = Resolver::new();
    let waiting = tickets.take().unwrap();
    let resolved = tickets.take().unwrap();
    let dropped = tickets.take().unwrap();
    assert!(resolver.resolve(&tickets, resolved.id(), APPLIED, b"kept"));
    let (id, dropped_id) = (waiting.id(), dropped.id());
    drop(dropped);
    let waiter = thread::spawn(move || waiting.wait());
    assert!(!tickets.is_abandoned());
    tickets.abandon();
    tickets.abandon();
    assert!(tickets.is_abandoned() && tickets.take().is_none());
    assert_eq!(waiter.join().unwrap(), Outcome::Unknown);
    assert_eq!((resolved.poll_outcome(), resolved.reply()), (Some(APPLIED), &b"kept"[..]));
    assert!(!resolver.resolve(&tickets, id, APPLIED, &[]) && !resolver.resolve(&tickets, dropped_id, APPLIED, &[]));
    drop(resolved);
    assert!(tickets.take().is_none());
}

/// Callers wait, time out, drop early and cancel; the engine's thread resolves. Nobody hangs, nobody gets another's
/// outcome or reply, and all slots come back.
#[test]
fn racing_callers_get_their_own_outcome() {
    const CALLERS: u64 = 3;
    let rounds: u64 = if cfg!(miri) { 40 } else { 30_000 };
    let tickets = alone(8, 32);
    let (send, receive) = mpsc::channel::<(TicketId, u64)>();
    let engine = tickets.clone();
    let engine = thread::spawn(move || {
        let mut resolver = Resolver::new();
        let mut resolved = 0;
        while let Ok((id, name)) = receive.recv() {
            let reply = [name as u8; 32];
            let reply = &reply[..(name % 33) as usize];
            assert!(resolver.resolve(&engine, id, Outcome::Applied { index: name }, reply));
            assert!(!resolver.resolve(&engine, id, Outcome::Unknown, &[]));
            resolved += 1;
            if name % 3 == 0 {
                resolver.flush();
            }
            // Nobody may be left asleep while the engine waits for more.
            while let Ok((id, name)) = receive.try_recv() {
                assert!(resolver.resolve(&engine, id, Outcome::Applied { index: name }, &[]));
                resolved += 1;
            }
            resolver.flush();
        }
        resolved
    });
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (tickets, send) = (tickets.clone(), send.clone());
            thread::spawn(move || {
                let mut sent = 0_u64;
                for round in 0..rounds {
                    let Some(ticket) = tickets.take() else {
                        thread::yield_now();
                        continue;
                    };
                    assert_eq!(ticket.poll_outcome(), None);
                    let name = caller * rounds + round;
                    if round % 7 == 0 {
                        ticket.cancel();
                        continue;
                    }
                    send.send((ticket.id(), name)).unwrap();
                    sent += 1;
                    let outcome = match round % 5 {
                        0 => continue,
                        1 => ticket.wait_timeout(Duration::from_micros(20)),
                        _ => Some(ticket.wait()),
                    };
                    if outcome.is_some() {
                        assert_eq!(outcome, Some(Outcome::Applied { index: name }));
                        let reply = ticket.reply();
                        assert!(reply.is_empty() || reply.len() as u64 == name % 33);
                        assert!(reply.iter().all(|&b| b == name as u8));
                    }
                }
                sent
            })
        })
        .collect();
    drop(send);
    let sent: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert_eq!(engine.join().unwrap(), sent);
    assert_eq!(tickets.in_flight(), 0);
    let all: Vec<_> = (0..8).map(|_| tickets.take().unwrap()).collect();
    assert!(tickets.take().is_none() && all.iter().all(|t| t.poll_outcome().is_none()));
}

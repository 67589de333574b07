//! Every interleaving of small cases of what threads share. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p kontiki-mem --release --lib loom`.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use loom::sync::{Arc, Notify};
use loom::thread;

use crate::free_list::FreeList;
use crate::hold::Holds;
use crate::sync::Witness;
use crate::{BLOCK_BYTES, Batch, Hold, OpenBatch, Outcome, Pool, Resolver, Ring, Slot, Ticket, TicketId, Tickets, limits};

/// Tickets that are resolved by id.
fn alone(slots: usize, reply_bytes: usize) -> Hold<Arc<Tickets>> {
    let tickets = Arc::new(Tickets::new(slots, reply_bytes));
    Hold::alone(Arc::clone(&tickets), &tickets)
}

fn ring(blocks: usize) -> Ring {
    Ring::new(limits::MIN_RING_BYTES, blocks).unwrap()
}

/// Runs all interleavings with at most three forced switches: enough for every two-step race.
fn model(f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

#[test]
fn free_list_gives_each_slot_to_one() {
    model(|| {
        let list = Arc::new(FreeList::full(2));
        let work = |list: &FreeList| {
            let first = list.pop();
            let second = list.pop();
            assert!(first.is_none() || first != second);
            first.into_iter().chain(second).for_each(|slot| list.push(slot));
        };
        let other = list.clone();
        let thread = thread::spawn(move || work(&other));
        work(&list);
        thread.join().unwrap();
        let mut all = [list.pop().unwrap(), list.pop().unwrap()];
        all.sort_unstable();
        assert_eq!((all, list.pop()), ([0, 1], None));
    });
}

#[test]
fn ring_reuses_a_block_only_after_its_readers() {
    model(|| {
        let mut ring = ring(2);
        let mut block = ring.reserve(ring.capacity()).unwrap();
        block.bytes_mut()[0] = 7;
        let block = block.freeze();
        let copy = block.clone();
        let reader = thread::spawn(move || {
            assert_eq!(copy.clone().bytes()[0], 7);
            assert_eq!(copy.bytes()[0], 7);
        });
        drop(block);
        // Whenever the ring finds room, writing it races with nobody.
        if let Some(mut again) = ring.reserve(BLOCK_BYTES) {
            again.bytes_mut()[0] = 9;
        }
        reader.join().unwrap();
        assert!(ring.reserve(ring.capacity()).is_some());
    });
}

#[test]
fn ring_splits_and_truncates_beside_its_owner() {
    model(|| {
        let mut ring = ring(3);
        let mut block = ring.reserve(4 * BLOCK_BYTES).unwrap();
        let holder = thread::spawn(move || {
            block.bytes_mut()[0] = 1;
            let mut front = block.split_to(BLOCK_BYTES).unwrap();
            block.truncate(BLOCK_BYTES);
            front.bytes_mut()[0] = 2;
            block.bytes_mut()[0] = 3;
            drop(front);
            assert_eq!(block.bytes()[0], 3);
        });
        if let Some(mut mine) = ring.reserve(BLOCK_BYTES) {
            mine.bytes_mut()[0] = 4;
            assert_eq!(mine.bytes()[0], 4);
        }
        holder.join().unwrap();
        assert_eq!(ring.held(), 0);
    });
}

#[test]
fn pool_reuses_a_buffer_only_after_its_readers() {
    model(|| {
        let pool = Pool::new(1, 64);
        let mut buf = pool.take().unwrap();
        buf.bytes_mut()[0] = 7;
        let block = buf.freeze();
        let copy = block.clone();
        let reader = thread::spawn(move || assert_eq!(copy.bytes()[0], 7));
        drop(block);
        if let Some(mut again) = pool.take() {
            again.bytes_mut()[0] = 9;
        }
        reader.join().unwrap();
        assert_eq!(pool.available(), 1);
        assert!(pool.take().is_some());
    });
}

/// Two callers, while the reactor seals. The reactor sleeps on its bell, so a bell that is not rung is a deadlock.
#[test]
fn batch_comes_out_whole_and_the_bell_rings() {
    model(|| {
        let mut ring = ring(2);
        let batch = Arc::new(OpenBatch::new(Tickets::new(2, 0), 64, BLOCK_BYTES - 64, 8, 2));
        let bell = Arc::new(Notify::new());
        batch.open(ring.reserve(BLOCK_BYTES).unwrap()).unwrap();
        let (hold, mut ids) = (Hold::new((), batch.records()), vec![TicketId::default()]);
        let callers: Vec<_> = (1..=2_u8)
            .map(|n| {
                let (batch, bell) = (batch.clone(), bell.clone());
                let mut ticket = hold.take().unwrap();
                ids.push(ticket.id());
                thread::spawn(move || match batch.propose(&[], &[n], &mut ticket) {
                    Slot::Written { before, completed } => {
                        if before == 0 || completed {
                            bell.notify();
                        }
                        true
                    }
                    Slot::Full => false,
                    Slot::Closed => unreachable!(),
                })
            })
            .collect();

        while !batch.seal() {
            bell.wait();
        }
        let (mut sealed, table) = loop {
            if let Some(out) = batch.poll_sealed() {
                break out;
            }
            bell.wait();
        };
        sealed.block.bytes_mut()[0] = 1;
        let body = &sealed.block.bytes()[64..64 + sealed.body_bytes];
        let entries: Vec<TicketId> = body.chunks(5).map(|entry| ids[usize::from(entry[4])]).collect();
        assert_eq!((entries.len() as u32, &entries[..]), (sealed.count, table.tickets()));
        let written = callers.into_iter().map(|c| c.join().unwrap()).filter(|&w| w).count();
        assert_eq!(written, entries.len());
    });
}

/// Two callers and room for one entry in a batch: one of them rolls over to the spare and seals, the other may still be
/// writing.
#[test]
fn batch_rolls_over_and_the_bell_rings() {
    model(|| {
        let mut ring = ring(2);
        let batch = Arc::new(OpenBatch::new(Tickets::new(2, 0), 64, BLOCK_BYTES - 64, 1, 2));
        let bell = Arc::new(Notify::new());
        for _ in 0..2 {
            batch.open(ring.reserve(BLOCK_BYTES).unwrap()).unwrap();
        }
        let (hold, mut ids) = (Hold::new((), batch.records()), vec![TicketId::default()]);
        let callers: Vec<_> = (1..=2_u8)
            .map(|n| {
                let (batch, bell) = (batch.clone(), bell.clone());
                let mut ticket = hold.take().unwrap();
                ids.push(ticket.id());
                thread::spawn(move || match batch.propose(&[], &[n], &mut ticket) {
                    Slot::Written { before, completed } => {
                        assert_eq!(before, 0);
                        if before == 0 || completed {
                            bell.notify();
                        }
                    }
                    slot => unreachable!("{slot:?}"),
                })
            })
            .collect();

        let mut seen = 0;
        while seen != 3 {
            if let Some((mut sealed, table)) = batch.poll_sealed() {
                assert_eq!((sealed.count, sealed.body_bytes), (1, 5));
                let entry = sealed.block.bytes()[64 + 4];
                assert_eq!(ids[usize::from(entry)], table.tickets()[0]);
                sealed.block.bytes_mut()[64..].fill(0);
                seen += entry;
            } else if !batch.seal() {
                bell.wait();
            }
        }
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
}

/// A caller that sleeps through the end of one batch writes whole into the next, or not at all.
#[test]
fn batch_caller_never_writes_into_what_it_did_not_reserve() {
    model(|| {
        let mut ring = ring(2);
        let batch = Arc::new(OpenBatch::new(Tickets::new(3, 0), 64, BLOCK_BYTES - 64, 2, 4));
        batch.open(ring.reserve(BLOCK_BYTES).unwrap()).unwrap();
        let (caller, hold) = (batch.clone(), Hold::new((), batch.records()));
        let mut theirs = hold.take().unwrap();
        let their_id = theirs.id();
        let caller = thread::spawn(move || (caller.propose(&[], &[2], &mut theirs), theirs));

        // This thread is reactor and another caller.
        let (mut seen, mut tickets) = (0, Vec::new());
        for round in 0..2 {
            let mut mine = hold.take().unwrap();
            assert!(matches!(batch.propose(&[], &[1], &mut mine), Slot::Written { .. }), "round {round}");
            tickets.push(mine);
            assert!(batch.seal());
            let (mut sealed, table) = loop {
                match batch.poll_sealed() {
                    Some(out) => break out,
                    None => thread::yield_now(),
                }
            };
            seen += table.tickets().iter().filter(|&&id| id == their_id).count();
            sealed.block.bytes_mut().fill(0);
            drop(table);
            batch.open(sealed.block).unwrap();
        }
        let (wrote, _theirs) = caller.join().unwrap();
        batch.close();
        let late = batch.poll_sealed();
        seen += late.map_or(0, |(sealed, _)| sealed.count as usize);
        assert_eq!(seen, usize::from(matches!(wrote, Slot::Written { .. })));
    });
}

#[test]
fn batch_close_loses_nobody() {
    model(|| {
        let mut ring = ring(1);
        let batch = Arc::new(OpenBatch::new(Tickets::new(2, 0), 64, BLOCK_BYTES - 64, 2, 2));
        batch.open(ring.reserve(BLOCK_BYTES).unwrap()).unwrap();
        let (caller, mut ticket) = (batch.clone(), Hold::new((), batch.records()).take().unwrap());
        let id = ticket.id();
        let caller = thread::spawn(move || caller.propose(&[], &[2], &mut ticket));
        batch.close();
        let wrote = caller.join().unwrap();
        match batch.poll_sealed() {
            Some((_, table)) => {
                assert_eq!(table.tickets(), [id]);
                assert!(matches!(wrote, Slot::Written { before: 0, .. }));
            }
            None => assert_eq!(wrote, Slot::Closed),
        }
        assert_eq!(ring.held(), 0);
        batch.open(ring.reserve(BLOCK_BYTES).unwrap()).unwrap();
    });
}

/// The waiter sleeps until it is woken, so a lost wake is a deadlock.
#[test]
fn ticket_wait_sees_outcome_and_reply() {
    model(|| {
        let tickets = alone(1, 8);
        let ticket = tickets.take().unwrap();
        let id = ticket.id();
        let waiter = thread::spawn(move || {
            assert_eq!(ticket.wait(), Outcome::Applied { index: 5 });
            assert_eq!(ticket.reply(), [1, 2, 3]);
        });
        let mut resolver = Resolver::new();
        assert!(resolver.resolve(&tickets, id, Outcome::Applied { index: 5 }, &[1, 2, 3]));
        resolver.flush();
        waiter.join().unwrap();
        assert_eq!(tickets.in_flight(), 0);
    });
}

#[test]
fn ticket_drop_beside_resolve_frees_the_slot_once() {
    model(|| {
        let tickets = alone(1, 8);
        let ticket = tickets.take().unwrap();
        let id = ticket.id();
        let owner = thread::spawn(move || {
            if ticket.poll_outcome().is_some() {
                assert_eq!(ticket.reply(), [1]);
            }
        });
        let mut resolver = Resolver::new();
        assert!(resolver.resolve(&tickets, id, Outcome::Applied { index: 5 }, &[1]));
        // The slot's next owner may be here already.
        let next = tickets.take();
        if let Some(next) = &next {
            assert_eq!(next.poll_outcome(), None);
            assert!(!resolver.resolve(&tickets, id, Outcome::Unknown, &[]), "stale");
            assert!(resolver.resolve(&tickets, next.id(), Outcome::NotApplied { hint: 3 }, &[2, 2]));
            assert_eq!(next.reply(), [2, 2]);
        }
        owner.join().unwrap();
        drop(next);
        assert_eq!(tickets.in_flight(), 0);
        assert!(tickets.take().is_some());
    });
}

/// One slot, two generations, two resolvers: the second reply is written after the first, whoever frees the slot.
#[test]
fn ticket_replies_of_two_generations_do_not_race() {
    model(|| {
        let tickets = alone(1, 8);
        let ticket = tickets.take().unwrap();
        let id = ticket.id();
        let shared = tickets.clone();
        let owner = thread::spawn(move || {
            drop(ticket);
            if let Some(next) = shared.take() {
                assert!(Resolver::new().resolve(&shared, next.id(), Outcome::Applied { index: 2 }, &[2]));
                assert_eq!(next.reply(), [2]);
            }
        });
        assert!(Resolver::new().resolve(&tickets, id, Outcome::Applied { index: 1 }, &[1]));
        owner.join().unwrap();
        assert_eq!(tickets.in_flight(), 0);
    });
}

/// An id made up ahead of its time is a bug of the engine, but no race with the reader of the last reply.
#[test]
fn ticket_resolved_ahead_of_its_time_races_with_nobody() {
    model(|| {
        let tickets = alone(1, 8);
        let ticket = tickets.take().unwrap();
        let id = ticket.id();
        let mut resolver = Resolver::new();
        assert!(resolver.resolve(&tickets, id, Outcome::Applied { index: 1 }, &[1]));
        let owner = thread::spawn(move || {
            assert_eq!(ticket.wait(), Outcome::Applied { index: 1 });
            assert_eq!(ticket.reply(), [1]);
        });
        // Loom would try this first alone: it has seen that nobody's load conflicts with this one's.
        thread::yield_now();
        resolver.resolve(&tickets, TicketId(id.0 + (1 << 24)), Outcome::Unknown, &[9]);
        owner.join().unwrap();
    });
}

#[test]
fn ticket_is_resolved_once() {
    model(|| {
        let tickets = alone(1, 8);
        let ticket = tickets.take().unwrap();
        let id = ticket.id();
        let (mut other, shared) = (Resolver::new(), tickets.clone());
        let other = thread::spawn(move || other.resolve(&shared, id, Outcome::Applied { index: 1 }, &[1]));
        let mine = Resolver::new().resolve(&tickets, id, Outcome::Applied { index: 2 }, &[2, 2]);
        let theirs = other.join().unwrap();
        assert!(mine != theirs);
        let index = if mine { 2 } else { 1 };
        assert_eq!(ticket.poll_outcome(), Some(Outcome::Applied { index }));
        assert_eq!(ticket.reply().len() as u64, index);
    });
}

/// A slot whose last waiter's waker is still being taken when the next one waits.
#[test]
fn ticket_waiter_of_a_reused_slot_is_woken() {
    model(|| {
        let tickets = alone(1, 0);
        let first = tickets.take().unwrap();
        let first_id = first.id();
        let shared = tickets.clone();
        let caller = thread::spawn(move || {
            first.wait();
            drop(first);
            let second = shared.take().unwrap();
            let mut resolver = Resolver::new();
            let id = second.id();
            let engine = thread::spawn(move || resolver.resolve(&shared, id, Outcome::Unknown, &[]));
            second.wait();
            engine.join().unwrap();
        });
        Resolver::new().resolve(&tickets, first_id, Outcome::Unknown, &[]);
        caller.join().unwrap();
    });
}

#[test]
fn abandon_leaves_nobody_waiting() {
    model(|| {
        let tickets = alone(2, 0);
        let early = tickets.take().unwrap();
        let shared = tickets.clone();
        let caller = thread::spawn(move || {
            assert_eq!(early.wait(), Outcome::Unknown);
            if let Some(late) = shared.take() {
                assert_eq!(late.wait(), Outcome::Unknown);
            }
        });
        tickets.abandon();
        assert!(tickets.take().is_none());
        caller.join().unwrap();
    });
}

#[test]
fn cancel_beside_abandon_frees_once() {
    model(|| {
        let tickets = alone(1, 0);
        let ticket = tickets.take().unwrap();
        let caller = thread::spawn(move || ticket.cancel());
        tickets.abandon();
        caller.join().unwrap();
        assert_eq!(tickets.times_freed(0), 1);
    });
}

/// A batch of two tickets, sealed.
fn two_in_a_batch(open: &OpenBatch, ring: &mut Ring) -> (Batch, Ticket, Ticket) {
    open.open(ring.reserve(BLOCK_BYTES).unwrap()).unwrap();
    let hold = Hold::new((), open.records());
    let take = || hold.take().unwrap();
    let (mut one, mut two) = (take(), take());
    assert!(matches!(open.propose(&[], &[1], &mut one), Slot::Written { .. }));
    assert!(matches!(open.propose(&[], &[2], &mut two), Slot::Written { .. }));
    assert!(open.seal());
    (open.poll_sealed().unwrap().1, one, two)
}

/// One caller waits, one drops, while the whole batch is answered: the sleeper wakes with outcome and reply, and slots
/// and table come back.
#[test]
fn record_answers_who_waits_and_who_is_gone() {
    model(|| {
        let (mut ring, open) = (ring(2), OpenBatch::new(Tickets::new(2, 8), 64, BLOCK_BYTES - 64, 2, 1));
        let (mut batch, one, two) = two_in_a_batch(&open, &mut ring);
        let waiter = thread::spawn(move || {
            drop(two);
            assert_eq!(one.wait(), Outcome::Applied { index: 7 });
            assert_eq!(one.reply(), [9]);
        });
        assert!(batch.reply(0, &[9]) && batch.reply(1, &[]));
        let mut resolver = Resolver::new();
        resolver.complete(&mut batch, 7);
        drop((resolver, batch));
        waiter.join().unwrap();
        assert_eq!(open.records().in_flight(), 0);
        assert!(open.open(ring.reserve(BLOCK_BYTES).unwrap()).is_ok());
    });
}

/// A ticket that is resolved by itself looks beside its old table's next life: it must not take that outcome for its
/// own.
#[test]
fn record_of_another_batch_is_nobodys_outcome() {
    model(|| {
        let (mut ring, open) = (ring(2), OpenBatch::new(Tickets::new(4, 8), 64, BLOCK_BYTES - 64, 2, 1));
        let (mut batch, one, two) = two_in_a_batch(&open, &mut ring);
        drop(two);
        let looker = thread::spawn(move || one.poll_outcome());
        let mut resolver = Resolver::new();
        resolver.resolve_one(&mut batch, 0, Outcome::Unknown, &[]);
        resolver.resolve_one(&mut batch, 1, Outcome::Unknown, &[]);
        drop(batch);
        let (mut next, three, four) = two_in_a_batch(&open, &mut ring);
        resolver.complete(&mut next, 7);
        drop((resolver, next));
        assert!(matches!(looker.join().unwrap(), None | Some(Outcome::Unknown)));
        assert_eq!((three.poll_outcome(), four.poll_outcome()), (Some(Outcome::Applied { index: 7 }), Some(Outcome::Applied { index: 8 })));
        drop((three, four));
        assert_eq!(open.records().in_flight(), 0);
    });
}

/// The engine ends while a batch is answered: whoever looked twice has seen one outcome.
#[test]
fn record_or_the_end_but_not_both() {
    model(|| {
        let (mut ring, open) = (ring(2), OpenBatch::new(Tickets::new(2, 8), 64, BLOCK_BYTES - 64, 2, 1));
        let (mut batch, one, two) = two_in_a_batch(&open, &mut ring);
        drop(two);
        let mut resolver = Resolver::new();
        let apply = thread::spawn(move || resolver.complete(&mut batch, 7));
        open.records().end();
        let before = one.poll_outcome().unwrap();
        apply.join().unwrap();
        assert_eq!(before, one.poll_outcome().unwrap());
    });
}

/// A run of answered tickets goes back by one step each to slab and table, beside others who take and give back.
#[test]
fn reaped_tickets_are_taken_again() {
    model(|| {
        let (mut ring, open) = (ring(2), OpenBatch::new(Tickets::new(3, 8), 64, BLOCK_BYTES - 64, 2, 1));
        let (mut batch, one, two) = two_in_a_batch(&open, &mut ring);
        let mut resolver = Resolver::new();
        let hold = Hold::new((), open.records());
        let other = thread::spawn(move || {
            let mut taken: Vec<Ticket> = Vec::with_capacity(2);
            assert!(hold.take_many(2, &mut taken) > 0);
            assert!(taken.len() < 2 || taken[0].id().slot() != taken[1].id().slot(), "each slot is given to one");
            taken.into_iter().for_each(Ticket::cancel);
        });
        let caller = thread::spawn(move || {
            let (mut queue, mut seen) = (VecDeque::from([one, two]), 0);
            while !queue.is_empty() {
                queue[0].wait();
                seen += Ticket::reap(&mut queue, |_, outcome, _| assert!(matches!(outcome, Outcome::Applied { .. })));
            }
            assert_eq!(seen, 2);
        });
        resolver.complete(&mut batch, 7);
        drop((resolver, batch));
        caller.join().unwrap();
        other.join().unwrap();
        assert_eq!(open.records().in_flight(), 0);
        assert!(open.open(ring.reserve(BLOCK_BYTES).unwrap()).is_ok(), "the table is free");
    });
}

/// The engine ends while answered tickets are reaped.
#[test]
fn reap_beside_the_end() {
    model(|| {
        let (mut ring, open) = (ring(2), OpenBatch::new(Tickets::new(2, 8), 64, BLOCK_BYTES - 64, 2, 1));
        let (mut batch, one, two) = two_in_a_batch(&open, &mut ring);
        let mut resolver = Resolver::new();
        resolver.complete(&mut batch, 7);
        drop((resolver, batch));
        let caller = thread::spawn(move || {
            let mut seen = Vec::new();
            Ticket::reap(&mut VecDeque::from([one, two]), |_, outcome, _| seen.push(outcome));
            assert_eq!(seen, [Outcome::Applied { index: 7 }, Outcome::Applied { index: 8 }]);
        });
        open.records().end();
        caller.join().unwrap();
    });
}

/// References that are taken and let go of in runs: the value goes once, after all uses, with the last.
#[test]
fn hold_drops_its_value_after_all_uses() {
    struct Seen(Witness);
    impl Drop for Seen {
        fn drop(&mut self) {
            self.0.exclusive();
        }
    }
    model(|| {
        let hold = Hold::alone(Seen(Witness::default()), &Tickets::new(1, 0));
        let mut more = hold.more(2);
        let (one, two) = (more.one().unwrap(), more.one().unwrap());
        let other = thread::spawn(move || {
            one.0.shared();
            let mut back = Holds::from(one);
            assert!(back.put(two).is_ok());
        });
        hold.0.shared();
        drop((hold, more));
        other.join().unwrap();
    });
}

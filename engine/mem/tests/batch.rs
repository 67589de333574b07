//! The open batch: bytes, bounds, phases, and callers racing the reactor.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use kontiki_mem::limits::OPEN_BATCHES;
use kontiki_mem::{BLOCK_BYTES as B, Hold, OpenBatch, Outcome, Resolver, Ring, Slot, Ticket, TicketId, Tickets, copied_bytes};

const HEADER: usize = 192;
const FIRST: Slot = after(0);

const fn after(before: u32) -> Slot {
    Slot::Written { before, completed: false }
}

fn ring() -> Ring {
    Ring::new(1 << 16, 16).unwrap()
}

fn open_batch(body_bytes: usize, max_entries: usize, side_tables: usize) -> (OpenBatch, Hold<()>) {
    let batch = OpenBatch::new(Tickets::new(64, 0), HEADER, body_bytes, max_entries, side_tables);
    let hold = Hold::new((), batch.records());
    (batch, hold)
}

fn take(hold: &Hold<()>, most: usize) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    assert_eq!(hold.take_many(most, &mut tickets), most);
    tickets
}

fn ids(tickets: &[Ticket]) -> Vec<TicketId> {
    tickets.iter().map(Ticket::id).collect()
}

#[test]
fn entries_lie_behind_the_header_in_order() {
    let mut ring = ring();
    let (batch, hold) = open_batch(B - HEADER, 10, 1);
    let mut block = ring.reserve(B).unwrap();
    block.bytes_mut().fill(0xee);
    batch.open(block).unwrap();
    assert!(!batch.seal(), "empty");
    let mut t = take(&hold, 6);
    let copied = copied_bytes();
    assert_eq!(batch.propose(&[], b"abc", &mut t[0]), FIRST);
    assert_eq!(batch.propose(&[9; 16], b"de", &mut t[1]), after(1));
    assert_eq!(batch.propose(&[], b"", &mut t[2]), after(2));
    assert_eq!(batch.propose_many(&[&b"f"[..], b"gh"], &mut t[3..5]), (2, after(3)));
    assert!(copied_bytes() >= copied + 8);
    assert_eq!(batch.waiting(), (5, 7 + 22 + 4 + 5 + 6));
    assert!(batch.poll_sealed().is_none(), "not sealed");
    assert!(batch.seal());
    assert!(!batch.seal(), "sealed already");
    assert_eq!(batch.waiting(), (0, 0));
    assert_eq!(batch.propose(&[], b"x", &mut t[5]), Slot::Full);

    let (sealed, table) = batch.poll_sealed().unwrap();
    assert_eq!((sealed.count, sealed.body_bytes, sealed.block.len()), (5, 44, B));
    let mut expected = Vec::new();
    expected.extend_from_slice(b"\x03\0\0\0abc");
    expected.extend_from_slice(b"\x12\0\0\0");
    expected.extend_from_slice(&[9; 16]);
    expected.extend_from_slice(b"de\0\0\0\0\x01\0\0\0f\x02\0\0\0gh");
    let bytes = sealed.block.bytes();
    assert_eq!(bytes[HEADER..HEADER + 44], expected);
    assert!(bytes[..HEADER].iter().chain(&bytes[HEADER + 44..]).all(|&b| b == 0xee));
    assert_eq!(table.tickets(), ids(&t[..5]));
    assert!(batch.poll_sealed().is_none());
}

#[test]
fn a_batch_is_bounded_by_bytes() {
    let mut ring = ring();
    let (batch, hold) = open_batch(B - HEADER, 100, 1);
    batch.open(ring.reserve(B).unwrap()).unwrap();
    let body = B - HEADER;
    let mut t = take(&hold, 5);
    assert_eq!(batch.propose(&[], &vec![1; body - 3], &mut t[0]), Slot::Full);
    assert_eq!(batch.propose(&[], &vec![1; body - 4 - 20], &mut t[0]), FIRST);
    assert_eq!(batch.propose(&[0; 16], &[1], &mut t[1]), Slot::Full);
    // Twenty bytes are left: five and ten fit, then six do not, but five do.
    let payloads: [&[u8]; 3] = [b"a", b"bbbbbb", b"cc"];
    assert_eq!(batch.propose_many(&payloads, &mut t[1..4]), (2, after(1)));
    assert_eq!(batch.propose_many(&payloads[2..], &mut t[3..4]), (0, Slot::Full));
    assert_eq!(batch.propose_many(&[b"d"], &mut t[3..4]), (1, after(3)));
    assert_eq!(batch.propose(&[], &[], &mut t[4]), Slot::Full);
    assert_eq!(batch.waiting(), (4, body));
    assert!(batch.seal());
    let (sealed, table) = batch.poll_sealed().unwrap();
    assert_eq!(sealed.body_bytes, body);
    assert_eq!(table.tickets(), ids(&t[..4]));
}

/// What peers take may be less than what a batch holds. One entry is let in whatever its length, if it is the first.
#[test]
fn a_batch_keeps_to_less_than_it_holds() {
    let mut ring = ring();
    let (batch, hold) = open_batch(B - HEADER, 100, 8);
    batch.open(ring.reserve(B).unwrap()).unwrap();
    let body = B - HEADER;
    let mut t = take(&hold, 20);
    let sealed = |batch: &OpenBatch, ring: &mut Ring| {
        assert!(batch.seal());
        let body_bytes = batch.poll_sealed().unwrap().0.body_bytes;
        batch.open(ring.reserve(B).unwrap()).unwrap();
        body_bytes
    };
    batch.keep_to(40);
    // Ten bytes each, with their lengths: four fit, one by one and together.
    for (before, ticket) in (0..4).zip(&mut t) {
        assert_eq!(batch.propose(&[], &[1; 6], ticket), after(before));
    }
    assert_eq!(batch.propose(&[], &[], &mut t[4]), Slot::Full);
    assert_eq!(sealed(&batch, &mut ring), 40);
    let six = [&[1; 6][..]; 6];
    assert_eq!(batch.propose_many(&six, &mut t[4..10]), (4, FIRST));
    assert_eq!(sealed(&batch, &mut ring), 40);
    // A longer one goes alone: first, or not at all, and nothing after it.
    assert_eq!(batch.propose(&[], &[1; 6], &mut t[8]), FIRST);
    assert_eq!(batch.propose(&[], &[1; 50], &mut t[9]), Slot::Full);
    assert_eq!(sealed(&batch, &mut ring), 10);
    let (long, short): (&[u8], &[u8]) = (&[1; 50], &[1; 6]);
    assert_eq!(batch.propose_many(&[long, short], &mut t[9..11]), (1, FIRST));
    assert_eq!(batch.propose(&[], &[], &mut t[10]), Slot::Full);
    assert_eq!(sealed(&batch, &mut ring), 54);
    // Lowered beneath what is written: that stays, and nothing more comes. Raised, also past what it holds: up to that.
    batch.keep_to(30);
    assert_eq!(batch.propose_many(&six[..3], &mut t[10..13]), (3, FIRST));
    batch.keep_to(10);
    assert_eq!(batch.propose(&[], &[], &mut t[13]), Slot::Full);
    batch.keep_to(usize::MAX);
    assert_eq!(batch.propose(&[], &vec![1; body - 34], &mut t[13]), after(3));
    assert_eq!(batch.propose(&[], &[], &mut t[14]), Slot::Full);
    assert_eq!(sealed(&batch, &mut ring), body);
    batch.keep_to(0);
    assert_eq!(batch.propose(&[], &[], &mut t[14]), FIRST);
    assert_eq!(batch.propose(&[], &[], &mut t[15]), Slot::Full);
}

#[test]
fn a_batch_is_bounded_by_entries() {
    let mut ring = ring();
    let (batch, hold) = open_batch(B - HEADER, 3, 1);
    batch.open(ring.reserve(B).unwrap()).unwrap();
    let mut t = take(&hold, 5);
    assert_eq!(batch.propose_many(&[], &mut t[..0]), (0, FIRST));
    assert_eq!(batch.propose(&[], &[], &mut t[0]), FIRST);
    let payloads = [&[][..]; 3];
    assert_eq!(batch.propose_many(&payloads, &mut t[1..4]), (2, after(1)));
    assert_eq!(batch.propose(&[], &[], &mut t[4]), Slot::Full);
    assert_eq!(batch.propose_many(&payloads, &mut t[2..]), (0, Slot::Full));
}

#[test]
fn closing_gives_entries_out_and_empty_memory_back() {
    let mut ring = ring();
    let (batch, hold) = open_batch(B - HEADER, 3, 2);
    assert!(batch.is_closed());
    let mut t = take(&hold, 1);
    assert_eq!(batch.propose(&[], &[], &mut t[0]), Slot::Closed);
    batch.open(ring.reserve(B).unwrap()).unwrap();
    assert!(!batch.is_closed());
    batch.close();
    assert!(batch.is_closed() && batch.poll_sealed().is_none());
    assert_eq!(ring.held(), 0);

    batch.open(ring.reserve(B).unwrap()).unwrap();
    assert_eq!(batch.propose(&[], &[1], &mut t[0]), FIRST);
    batch.close();
    batch.close();
    assert_eq!(batch.propose_many(&[&[1]], &mut take(&hold, 1)), (0, Slot::Closed));
    let (sealed, table) = batch.poll_sealed().unwrap();
    assert_eq!((sealed.count, table.tickets()), (1, &[t[0].id()][..]));
    assert!(batch.is_closed());
}

#[test]
fn memory_is_given_back_while_there_is_no_lane_or_table() {
    let mut ring = ring();
    let (batch, hold) = open_batch(B - HEADER, 3, OPEN_BATCHES);
    let mut block = || ring.reserve(B).unwrap();
    let mut t = take(&hold, OPEN_BATCHES + 1);
    for ticket in &mut t[..OPEN_BATCHES] {
        batch.open(block()).unwrap();
        assert_eq!(batch.propose(&[], &[], ticket), FIRST);
        assert!(batch.seal());
    }
    assert!(batch.open(block()).is_err(), "all lanes are sealed");
    let (first, mut first_table) = batch.poll_sealed().unwrap();
    assert_eq!(first_table.tickets(), [t[0].id()]);
    assert!(batch.open(first.block).is_err(), "all side tables are out");
    let mut resolver = Resolver::new();
    assert!(resolver.resolve_one(&mut first_table, 0, Outcome::Unknown, &[]), "so that nobody looks into its table");
    drop(first_table);
    batch.open(block()).unwrap();
    assert_eq!(batch.propose(&[], &[], &mut t[OPEN_BATCHES]), FIRST);
    for ticket in &t[1..OPEN_BATCHES] {
        let (_, table) = batch.poll_sealed().unwrap();
        assert_eq!(table.tickets(), [ticket.id()]);
    }
    batch.close();
    let (_, last_table) = batch.poll_sealed().unwrap();
    assert_eq!(last_table.tickets(), [t[OPEN_BATCHES].id()]);
}

#[test]
fn a_full_batch_is_sealed_by_whoever_rolls_over_to_a_spare() {
    let mut ring = ring();
    let (batch, hold) = open_batch(B - HEADER, 3, 8);
    for spares in 0..OPEN_BATCHES {
        batch.open(ring.reserve(B).unwrap()).unwrap();
        assert_eq!(batch.spares(), spares);
    }
    assert!(batch.open(ring.reserve(B).unwrap()).is_err(), "no lane is free");
    // By entries, then by bytes; then what fits nowhere, which rolls nothing over.
    let mut t = take(&hold, 11);
    assert_eq!(batch.propose_many(&[&[][..]; 3], &mut t[..3]), (3, FIRST));
    assert!(batch.poll_sealed().is_none(), "nobody has sealed it");
    assert_eq!(batch.propose(&[], &[7; 3000], &mut t[3]), Slot::Written { before: 0, completed: true });
    assert_eq!(batch.propose_many(&[&[8; 1000][..]; 2], &mut t[4..6]), (2, Slot::Written { before: 0, completed: true }));
    assert_eq!((batch.spares(), batch.waiting()), (1, (2, 2008)));
    assert_eq!(batch.propose(&[], &[9; B], &mut t[10]), Slot::Full);
    assert_eq!((batch.spares(), batch.waiting()), (1, (2, 2008)));
    // The reactor's seal goes on to a spare too, and then there is none.
    assert!(batch.seal());
    assert_eq!((batch.spares(), batch.waiting()), (0, (0, 0)));
    assert!(batch.is_open() && !batch.seal(), "empty");
    assert_eq!(batch.propose_many(&[&[][..]; 3], &mut t[6..9]), (3, FIRST));
    assert_eq!(batch.propose(&[], &[], &mut t[9]), Slot::Full);
    assert!(batch.seal() && !batch.is_open());
    for (tickets, bytes) in [(0..3, 12), (3..4, 3004), (4..6, 2008), (6..9, 12)] {
        let (sealed, table) = batch.poll_sealed().unwrap();
        assert_eq!((table.tickets(), sealed.body_bytes), (&ids(&t[tickets])[..], bytes));
    }
    assert!(batch.poll_sealed().is_none());
}

#[test]
fn closing_drops_spares() {
    let mut ring = ring();
    let (batch, hold) = open_batch(B - HEADER, 3, OPEN_BATCHES);
    for _ in 0..3 {
        for entries in [0, 1] {
            let mut t = take(&hold, 2);
            for _ in 0..3 {
                batch.open(ring.reserve(B).unwrap()).unwrap();
            }
            if entries > 0 {
                assert_eq!(batch.propose(&[], &[], &mut t[0]), FIRST);
            }
            batch.close();
            assert_eq!(ring.held(), entries * B);
            let out = batch.poll_sealed().map(|(_, mut table)| {
                let tickets = table.tickets().to_vec();
                Resolver::new().complete(&mut table, 1);
                tickets
            });
            assert_eq!(out, (entries > 0).then(|| vec![t[0].id()]));
            assert_eq!(batch.propose(&[], &[], &mut t[1]), Slot::Closed);
        }
    }
    assert_eq!(ring.held(), 0);
}

#[test]
#[should_panic(expected = "a block of 4096 bytes for a header of 192")]
fn a_block_of_another_size_is_a_bug() {
    let mut ring = ring();
    let _ = open_batch(B, 1, 1).0.open(ring.reserve(B).unwrap());
}

/// Callers write what they can; the reactor sleeps unless its bell was rung, so a lost ring shows as a hang
/// (bounded by the test's own count of turns). Every entry written comes out once, in its caller's order.
#[test]
fn racing_callers_are_all_in_and_the_bell_is_never_lost() {
    const CALLERS: u64 = 4;
    let entries: u64 = if cfg!(miri) { 60 } else { 40_000 };
    let mut ring = Ring::new(1 << 18, 64).unwrap();
    let (batch, hold) = open_batch(4 * B - HEADER, 50, 8);
    batch.open(ring.reserve(4 * B).unwrap()).unwrap();
    let done = AtomicBool::new(false);
    let batches_begun = AtomicU64::new(0);
    let reactor = thread::current();

    let seen = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (batch, hold, reactor, begun) = (&batch, &hold, reactor.clone(), &batches_begun);
                scope.spawn(move || {
                    let mut next = 0;
                    while next < entries {
                        // Lengths vary; many at once every other time.
                        let mut mine: Vec<Ticket> = Vec::new();
                        let most = entries.min(next + 1 + next % 3) - next;
                        if (hold.take_many(most as usize, &mut mine) as u64) < most {
                            thread::yield_now();
                            continue;
                        }
                        let payloads: Vec<Vec<u8>> = (next..)
                            .zip(&mine)
                            .map(|(n, ticket)| {
                                let mut bytes = (caller << 32 | n).to_le_bytes().to_vec();
                                bytes.extend_from_slice(&ticket.id().0.to_le_bytes());
                                bytes.resize(16 + (n % 40) as usize, caller as u8);
                                bytes
                            })
                            .collect();
                        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
                        let (written, slot) = match slices.len() {
                            1 => (1, batch.propose(&[], slices[0], &mut mine[0])),
                            _ => batch.propose_many(&slices, &mut mine),
                        };
                        match slot {
                            Slot::Written { before, completed } => {
                                next += written as u64;
                                begun.fetch_add(u64::from(before == 0), Ordering::Relaxed);
                                if before == 0 || completed {
                                    reactor.unpark();
                                }
                            }
                            Slot::Full => thread::yield_now(),
                            Slot::Closed => unreachable!("never closed"),
                        }
                    }
                })
            })
            .collect();

        let stop = (&done, reactor.clone());
        scope.spawn(move || {
            for caller in callers {
                caller.join().unwrap();
            }
            stop.0.store(true, Ordering::Release);
            stop.1.unpark();
        });

        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut sealed_batches, mut resolver) = (0, Resolver::new());
        loop {
            let finished = done.load(Ordering::Acquire);
            let sealed = batch.seal();
            if sealed {
                // The next one opens while writers of this may still be at work.
                let _ = batch.open(ring.reserve(4 * B).unwrap());
            }
            let polled = batch.poll_sealed();
            let idle = !sealed && polled.is_none();
            if let Some((sealed, mut table)) = polled {
                sealed_batches += 1;
                check(sealed.block.bytes(), sealed.body_bytes, table.tickets(), &mut seen);
                assert_eq!(table.tickets().len(), sealed.count as usize);
                // Scribble: a late writer would be seen in the next use of this memory or in its own entry.
                let mut block = sealed.block;
                block.bytes_mut().fill(0xaa);
                resolver.complete(&mut table, 1);
                drop((block, table));
                // If no lane or table was free before, there is one now; at times a spare besides.
                let _ = batch.open(ring.reserve(4 * B).unwrap());
                if sealed_batches % 3 == 0 {
                    let _ = batch.open(ring.reserve(4 * B).unwrap());
                }
            }
            if idle {
                if finished {
                    break;
                }
                thread::park();
            }
        }
        assert_eq!(sealed_batches, batches_begun.load(Ordering::Relaxed), "each batch has one first entry");
        seen
    });
    assert_eq!(seen, (0..CALLERS).map(|caller| (caller, entries)).collect());
}

/// Walks a sealed body: each payload names caller and number, which must be its ticket and its caller's next.
fn check(frame: &[u8], body_bytes: usize, tickets: &[TicketId], seen: &mut BTreeMap<u64, u64>) {
    let mut body = &frame[HEADER..HEADER + body_bytes];
    for ticket in tickets {
        let (length, rest) = body.split_first_chunk::<4>().unwrap();
        let (payload, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        let (name, payload) = payload.split_first_chunk::<8>().unwrap();
        let (id, padding) = payload.split_first_chunk::<8>().unwrap();
        let name = u64::from_le_bytes(*name);
        assert_eq!(u64::from_le_bytes(*id), ticket.0);
        let (caller, n) = (name >> 32, name & u64::from(u32::MAX));
        assert!(padding.len() as u64 == n % 40 && padding.iter().all(|&b| u64::from(b) == caller));
        let next = seen.entry(caller).or_default();
        assert_eq!(n, *next, "in order, once");
        *next += 1;
        body = rest;
    }
    assert!(body.is_empty());
}

//! The open batch: bytes, bounds, phases, and callers racing the reactor.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use kontiki_mem::limits::OPEN_BATCHES;
use kontiki_mem::{BLOCK_BYTES as B, OpenBatch, Ring, Slot, TicketId, copied_bytes};

const HEADER: usize = 192;
const FIRST: Slot = after(0);

const fn after(before: u32) -> Slot {
    Slot::Written { before, completed: false }
}

fn ring() -> Ring {
    Ring::new(1 << 16, 16).unwrap()
}

fn id(n: u64) -> TicketId {
    TicketId(n)
}

#[test]
fn entries_lie_behind_the_header_in_order() {
    let mut ring = ring();
    let batch = OpenBatch::new(HEADER, B - HEADER, 10, 1);
    let mut block = ring.reserve(B).unwrap();
    block.bytes_mut().fill(0xee);
    batch.open(block).unwrap();
    assert!(!batch.seal(), "empty");
    let copied = copied_bytes();
    assert_eq!(batch.propose(&[], b"abc", &mut id(1)), FIRST);
    assert_eq!(batch.propose(&[9; 16], b"de", &mut id(2)), after(1));
    assert_eq!(batch.propose(&[], b"", &mut id(3)), after(2));
    assert_eq!(batch.propose_many(&[&b"f"[..], b"gh"], &mut [id(4), id(5)]), (2, after(3)));
    assert!(copied_bytes() >= copied + 8);
    assert_eq!(batch.waiting(), (5, 7 + 22 + 4 + 5 + 6));
    assert!(batch.poll_sealed().is_none(), "not sealed");
    assert!(batch.seal());
    assert!(!batch.seal(), "sealed already");
    assert_eq!(batch.waiting(), (0, 0));
    assert_eq!(batch.propose(&[], b"x", &mut id(9)), Slot::Full);

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
    assert_eq!(table.tickets(), [id(1), id(2), id(3), id(4), id(5)]);
    assert!(batch.poll_sealed().is_none());
}

#[test]
fn a_batch_is_bounded_by_bytes() {
    let mut ring = ring();
    let batch = OpenBatch::new(HEADER, B - HEADER, 100, 1);
    batch.open(ring.reserve(B).unwrap()).unwrap();
    let body = B - HEADER;
    assert_eq!(batch.propose(&[], &vec![1; body - 3], &mut id(1)), Slot::Full);
    assert_eq!(batch.propose(&[], &vec![1; body - 4 - 20], &mut id(1)), FIRST);
    assert_eq!(batch.propose(&[0; 16], &[1], &mut id(2)), Slot::Full);
    // Twenty bytes are left: five and ten fit, then six do not, but five do.
    let payloads: [&[u8]; 3] = [b"a", b"bbbbbb", b"cc"];
    let mut ids = [id(2), id(3), id(4)];
    assert_eq!(batch.propose_many(&payloads, &mut ids), (2, after(1)));
    assert_eq!(batch.propose_many(&payloads[2..], &mut ids[2..]), (0, Slot::Full));
    assert_eq!(batch.propose_many(&[b"d"], &mut ids[2..]), (1, after(3)));
    assert_eq!(batch.propose(&[], &[], &mut id(9)), Slot::Full);
    assert_eq!(batch.waiting(), (4, body));
    assert!(batch.seal());
    let (sealed, table) = batch.poll_sealed().unwrap();
    assert_eq!(sealed.body_bytes, body);
    assert_eq!(table.tickets(), [id(1), id(2), id(3), id(4)]);
}

#[test]
fn a_batch_is_bounded_by_entries() {
    let mut ring = ring();
    let batch = OpenBatch::new(HEADER, B - HEADER, 3, 1);
    batch.open(ring.reserve(B).unwrap()).unwrap();
    assert_eq!(batch.propose_many::<&[u8], TicketId, TicketId>(&[], &mut []), (0, FIRST));
    assert_eq!(batch.propose(&[], &[], &mut id(1)), FIRST);
    let (payloads, mut ids) = ([&[][..]; 3], [id(2), id(3), id(4)]);
    assert_eq!(batch.propose_many(&payloads, &mut ids), (2, after(1)));
    assert_eq!(batch.propose(&[], &[], &mut id(4)), Slot::Full);
    assert_eq!(batch.propose_many(&payloads, &mut ids), (0, Slot::Full));
}

#[test]
fn closing_gives_entries_out_and_empty_memory_back() {
    let mut ring = ring();
    let batch = OpenBatch::new(HEADER, B - HEADER, 3, 2);
    assert!(batch.is_closed());
    assert_eq!(batch.propose(&[], &[], &mut id(1)), Slot::Closed);
    batch.open(ring.reserve(B).unwrap()).unwrap();
    assert!(!batch.is_closed());
    batch.close();
    assert!(batch.is_closed() && batch.poll_sealed().is_none());
    assert_eq!(ring.held(), 0);

    batch.open(ring.reserve(B).unwrap()).unwrap();
    assert_eq!(batch.propose(&[], &[1], &mut id(7)), FIRST);
    batch.close();
    batch.close();
    assert_eq!(batch.propose_many(&[&[1]], &mut [id(8)]), (0, Slot::Closed));
    let (sealed, table) = batch.poll_sealed().unwrap();
    assert_eq!((sealed.count, table.tickets()), (1, &[id(7)][..]));
    assert!(batch.is_closed());
}

#[test]
fn memory_is_given_back_while_there_is_no_lane_or_table() {
    let mut ring = ring();
    let batch = OpenBatch::new(HEADER, B - HEADER, 3, OPEN_BATCHES);
    let mut block = || ring.reserve(B).unwrap();
    for n in 1..=OPEN_BATCHES as u64 {
        batch.open(block()).unwrap();
        assert_eq!(batch.propose(&[], &[], &mut id(n)), FIRST);
        assert!(batch.seal());
    }
    assert!(batch.open(block()).is_err(), "all lanes are sealed");
    let (first, first_table) = batch.poll_sealed().unwrap();
    assert_eq!(first_table.tickets(), [id(1)]);
    assert!(batch.open(first.block).is_err(), "all side tables are out");
    drop(first_table);
    batch.open(block()).unwrap();
    assert_eq!(batch.propose(&[], &[], &mut id(9)), FIRST);
    for n in 2..=OPEN_BATCHES as u64 {
        let (_, table) = batch.poll_sealed().unwrap();
        assert_eq!(table.tickets(), [id(n)]);
    }
    batch.close();
    let (_, last_table) = batch.poll_sealed().unwrap();
    assert_eq!(last_table.tickets(), [id(9)]);
}

#[test]
fn a_full_batch_is_sealed_by_whoever_rolls_over_to_a_spare() {
    let mut ring = ring();
    let batch = OpenBatch::new(HEADER, B - HEADER, 3, 8);
    for spares in 0..OPEN_BATCHES {
        batch.open(ring.reserve(B).unwrap()).unwrap();
        assert_eq!(batch.spares(), spares);
    }
    assert!(batch.open(ring.reserve(B).unwrap()).is_err(), "no lane is free");
    // By entries, then by bytes; then what fits nowhere, which rolls nothing over.
    assert_eq!(batch.propose_many(&[&[][..]; 3], &mut [id(1), id(2), id(3)]), (3, FIRST));
    assert!(batch.poll_sealed().is_none(), "nobody has sealed it");
    assert_eq!(batch.propose(&[], &[7; 3000], &mut id(4)), Slot::Written { before: 0, completed: true });
    assert_eq!(batch.propose_many(&[&[8; 1000][..]; 2], &mut [id(5), id(6)]), (2, Slot::Written { before: 0, completed: true }));
    assert_eq!((batch.spares(), batch.waiting()), (1, (2, 2008)));
    assert_eq!(batch.propose(&[], &[9; B], &mut id(9)), Slot::Full);
    assert_eq!((batch.spares(), batch.waiting()), (1, (2, 2008)));
    // The reactor's seal goes on to a spare too, and then there is none.
    assert!(batch.seal());
    assert_eq!((batch.spares(), batch.waiting()), (0, (0, 0)));
    assert!(batch.is_open() && !batch.seal(), "empty");
    assert_eq!(batch.propose_many(&[&[][..]; 3], &mut [id(7), id(8), id(9)]), (3, FIRST));
    assert_eq!(batch.propose(&[], &[], &mut id(10)), Slot::Full);
    assert!(batch.seal() && !batch.is_open());
    for (tickets, bytes) in [(1..=3, 12), (4..=4, 3004), (5..=6, 2008), (7..=9, 12)] {
        let (sealed, table) = batch.poll_sealed().unwrap();
        assert_eq!((table.tickets(), sealed.body_bytes), (&tickets.map(id).collect::<Vec<_>>()[..], bytes));
    }
    assert!(batch.poll_sealed().is_none());
}

#[test]
fn closing_drops_spares() {
    let mut ring = ring();
    let batch = OpenBatch::new(HEADER, B - HEADER, 3, OPEN_BATCHES);
    for round in 0..3 {
        for entries in [0, 1] {
            for _ in 0..3 {
                batch.open(ring.reserve(B).unwrap()).unwrap();
            }
            if entries > 0 {
                assert_eq!(batch.propose(&[], &[], &mut id(round)), FIRST);
            }
            batch.close();
            assert_eq!(ring.held(), entries * B);
            assert_eq!(batch.poll_sealed().map(|(_, table)| table.tickets().to_vec()), (entries > 0).then(|| vec![id(round)]));
            assert_eq!(batch.propose(&[], &[], &mut id(99)), Slot::Closed);
        }
    }
    assert_eq!(ring.held(), 0);
}

#[test]
#[should_panic(expected = "a block of 4096 bytes for a header of 192")]
fn a_block_of_another_size_is_a_bug() {
    let mut ring = ring();
    let _ = OpenBatch::new(HEADER, B, 1, 1).open(ring.reserve(B).unwrap());
}

/// Callers write what they can; the reactor sleeps unless its bell was rung, so a lost ring shows as a hang
/// (bounded by the test's own count of turns). Every entry written comes out once, in its caller's order.
#[test]
fn racing_callers_are_all_in_and_the_bell_is_never_lost() {
    const CALLERS: u64 = 4;
    let entries: u64 = if cfg!(miri) { 60 } else { 40_000 };
    let mut ring = Ring::new(1 << 18, 64).unwrap();
    let batch = OpenBatch::new(HEADER, 4 * B - HEADER, 50, 8);
    batch.open(ring.reserve(4 * B).unwrap()).unwrap();
    let done = AtomicBool::new(false);
    let batches_begun = AtomicU64::new(0);
    let reactor = thread::current();

    let seen = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (batch, reactor, begun) = (&batch, reactor.clone(), &batches_begun);
                scope.spawn(move || {
                    let mut next = 0;
                    while next < entries {
                        // Lengths vary; many at once every other time.
                        let payloads: Vec<Vec<u8>> = (next..entries.min(next + 1 + next % 3))
                            .map(|n| {
                                let mut bytes = (caller << 32 | n).to_le_bytes().to_vec();
                                bytes.resize(8 + (n % 40) as usize, caller as u8);
                                bytes
                            })
                            .collect();
                        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
                        let mut ids: Vec<TicketId> = (next..).take(slices.len()).map(|n| id(caller << 32 | n)).collect();
                        let (written, slot) = match slices.len() {
                            1 => (1, batch.propose(&[], slices[0], &mut ids[0])),
                            _ => batch.propose_many(&slices, &mut ids),
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
        let mut sealed_batches = 0;
        loop {
            let finished = done.load(Ordering::Acquire);
            let sealed = batch.seal();
            if sealed {
                // The next one opens while writers of this may still be at work.
                let _ = batch.open(ring.reserve(4 * B).unwrap());
            }
            let polled = batch.poll_sealed();
            let idle = !sealed && polled.is_none();
            if let Some((sealed, table)) = polled {
                sealed_batches += 1;
                check(sealed.block.bytes(), sealed.body_bytes, table.tickets(), &mut seen);
                assert_eq!(table.tickets().len(), sealed.count as usize);
                // Scribble: a late writer would be seen in the next use of this memory or in its own entry.
                let mut block = sealed.block;
                block.bytes_mut().fill(0xaa);
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
        let (name, padding) = payload.split_first_chunk::<8>().unwrap();
        let name = u64::from_le_bytes(*name);
        assert_eq!(name, ticket.0);
        let (caller, n) = (name >> 32, name & u64::from(u32::MAX));
        assert!(padding.len() as u64 == n % 40 && padding.iter().all(|&b| u64::from(b) == caller));
        let next = seen.entry(caller).or_default();
        assert_eq!(n, *next, "in order, once");
        *next += 1;
        body = rest;
    }
    assert!(body.is_empty());
}

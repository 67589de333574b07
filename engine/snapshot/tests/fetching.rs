//! A snapshot fetched from another node: pulled, checked, resumed, installed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::{ClusterId, NodeId};
use kontiki_io::{IoErrorKind, Op};
use kontiki_snapshot::limits::{CHUNK_BYTES, FIRST_SYNC_BYTES, MAX_SYNC_BYTES, RUN_BYTES};
use kontiki_snapshot::{Digest, Expected, Flaw, Head, Offer, Part, Refused, StoreError, encode, names};
use support::{CHUNK, Disk, Node, World, base, file_of, offer_of, state};

fn nothing(_: u64, _: &mut [u8]) {}

/// A node that has fetched up to `until`, and what the fetch is of.
fn fetched_to(until: u64, file: &[u8]) -> Node {
    let mut node = Node::open(Disk::default());
    node.store.fetch(offer_of(file)).unwrap();
    assert!(node.serve(file, until, &mut nothing));
    node
}

#[test]
fn what_is_fetched_is_the_same_file() {
    for bytes in [0, 1, 60_000, 262_000, 1_000_000, 9_000_000] {
        let file = file_of(50, bytes);
        let mut node = Node::open(Disk::default());
        assert!(node.fetch(&file), "{bytes}: {:?}", node.not_fetched);
        assert_eq!(node.fetched[0].digest, offer_of(&file).digest);
        assert_eq!(node.machine(node.fetched[0].digest).unwrap(), state(50, bytes));
        let disk = node.close();
        assert_eq!(disk.names(), ["snapshot-0000000000000032.ksn"]);
        assert!(disk.contents("snapshot-0000000000000032.ksn") == file, "byte by byte");
        assert_eq!(Node::open(disk).indexes(), [50]);
    }
}

#[test]
fn a_bad_chunk_is_refused_and_fetched_again() {
    let file = file_of(50, 1_000_000);
    let other = file_of(51, 1_000_000);
    type Spoil = fn(u64, &mut [u8], &[u8]);
    let bad: [(&str, Spoil); 4] = [
        ("a bit is another", |_, chunk, _| chunk[40_000] ^= 8),
        ("another place's", |_, chunk, file| chunk.copy_from_slice(&file[4 * CHUNK_BYTES..5 * CHUNK_BYTES])),
        ("another snapshot's", |at, chunk, _| chunk.copy_from_slice(&file_of(51, 1_000_000)[at as usize..at as usize + CHUNK_BYTES])),
        ("zeros", |_, chunk, _| chunk.fill(0)),
    ];
    assert_eq!(other.len(), file.len());
    for (what, spoil) in bad {
        let mut node = Node::open(Disk::default());
        node.store.fetch(offer_of(&file)).unwrap();
        let mut spoilt = Vec::new();
        assert!(node.serve(&file, u64::MAX, &mut |at, chunk| {
            // Once each.
            if !spoilt.contains(&at) && (at != 0 || what != "another snapshot's") {
                spoilt.push(at);
                spoil(at, chunk, &file);
            }
        }));
        assert_eq!(node.fetched.len(), 1, "{what}: {:?}", node.not_fetched);
        assert_eq!(node.machine(node.fetched[0].digest).unwrap(), state(50, 1_000_000));
    }
}

#[test]
fn a_source_that_sends_nothing_but_bad_chunks_is_given_up() {
    let file = file_of(50, 1_000_000);
    let mut node = Node::open(Disk::default());
    node.store.fetch(offer_of(&file)).unwrap();
    assert!(node.serve(&file, u64::MAX, &mut |at, chunk| if at == 5 * CHUNK {
        chunk[99] ^= 1;
    }));
    assert_eq!(node.not_fetched, [StoreError::Fetched { flaw: Flaw::Damaged }]);
    // Another one has it.
    assert!(node.fetch(&file));
}

/// Each chunk is intact, and the whole is not what was offered.
#[test]
fn a_whole_that_is_not_what_was_offered_is_no_snapshot() {
    let file = file_of(50, 300_000);
    let offer = offer_of(&file);
    let differs = |what| vec![StoreError::Fetched { flaw: Flaw::Otherwise { what } }];
    let cases = [
        (Offer { digest: Digest(7), ..offer }, differs("digest")),
        (Offer { bytes: offer.bytes + CHUNK, ..offer }, differs("length")),
        (Offer { bytes: offer.bytes - CHUNK, ..offer }, differs("length")),
        (Offer { base: base(49), ..offer }, differs("entry")),
        (Offer { lineage: 1, ..offer }, differs("lineage")),
    ];
    for (offer, ends) in cases {
        let mut node = Node::open(Disk::default());
        node.store.fetch(offer).unwrap();
        let mut longer = file.clone();
        longer.extend([0; CHUNK_BYTES]);
        assert!(node.serve(&longer, u64::MAX, &mut nothing));
        assert_eq!(node.not_fetched, ends, "{offer}");
        node.run();
        assert!(node.close().names().is_empty(), "nothing is left of it");
    }
    let foreign = encode(Head { cluster: ClusterId(9), base: base(50), full: true, ..Head::default() }, &[(Part::Machine, b"x")]);
    let mut node = Node::open(Disk::default());
    node.store.fetch(offer_of(&foreign)).unwrap();
    assert!(node.serve(&foreign, u64::MAX, &mut nothing));
    assert_eq!(node.not_fetched, differs("cluster"));
}

/// A source whose disk or memory changed a chunk and its checksum with it: nothing but the digest of all can tell.
#[test]
fn a_chunk_that_is_wrong_with_its_checksum_right_is_noticed_in_the_end() {
    let file = file_of(50, 1_000_000);
    let mut node = Node::open(Disk::default());
    node.store.fetch(offer_of(&file)).unwrap();
    assert!(node.serve(&file, u64::MAX, &mut |at, chunk| {
        if at == 3 * CHUNK {
            chunk[5000] ^= 1;
            let mut crc = crc32fast::Hasher::new();
            crc.update(&chunk[..4]);
            crc.update(&chunk[8..]);
            chunk[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        }
    }));
    assert_eq!(node.not_fetched, [StoreError::Fetched { flaw: Flaw::Otherwise { what: "digest" } }]);
    node.run();
    assert!(node.close().names().is_empty());
}

#[test]
fn offers_of_nothing_are_refused() {
    let offer = offer_of(&file_of(50, 10));
    let mut node = Node::open(Disk::default());
    for bytes in [0, CHUNK, offer.bytes + 1, u64::MAX - CHUNK + 1] {
        assert_eq!(node.store.fetch(Offer { bytes, ..offer }), Err(Refused::Unfit { what: "length" }));
    }
    assert_eq!(node.store.fetch(Offer { base: base(0), ..offer }), Err(Refused::Unfit { what: "entry" }));
    node.store.fetch(offer).unwrap();
    assert_eq!(node.store.fetch(offer), Err(Refused::Busy));
    assert_eq!(node.begin(60), Err(Refused::Busy), "one at a time");
}

/// After a kill, at every chunk: it goes on behind what is there.
#[test]
fn a_restart_goes_on_behind_what_is_durable() {
    let file = file_of(50, 1_000_000);
    for at in 1..offer_of(&file).bytes / CHUNK {
        let mut node = fetched_to(at * CHUNK, &file);
        node.run();
        let kept = node.store.fetching().unwrap().taken / RUN_BYTES as u64 * RUN_BYTES as u64;
        let mut node = Node::open(node.world.cut(1));
        assert_eq!(node.indexes(), [0; 0]);
        node.store.fetch(offer_of(&file)).unwrap();
        let mut asked = Vec::new();
        assert!(node.serve(&file, u64::MAX, &mut |at, _| asked.push(at)));
        assert!(asked.first().is_none_or(|first| *first >= kept.min(file.len() as u64 - CHUNK)), "{at}: asked from {asked:?}, kept {kept}");
        assert_eq!(node.fetched.len(), 1, "{at}: {:?}", node.not_fetched);
        assert_eq!(node.machine(node.fetched[0].digest).unwrap(), state(50, 1_000_000));
    }
}

/// With the power what was not flushed goes, and nothing else.
#[test]
fn a_power_cut_takes_what_was_not_flushed() {
    let file = file_of(50, 12_000_000);
    let mut node = fetched_to(11_000_000 / CHUNK * CHUNK, &file);
    node.run();
    let progress = node.store.fetching().unwrap();
    assert!(progress.durable + MAX_SYNC_BYTES + RUN_BYTES as u64 >= progress.taken && progress.durable > 0, "{progress:?}");
    let mut node = Node::open(node.world.cut(0));
    node.store.fetch(offer_of(&file)).unwrap();
    let mut first = None;
    assert!(node.serve(&file, u64::MAX, &mut |at, _| first = Some(first.unwrap_or(at))));
    assert_eq!(first, Some(progress.durable));
    assert_eq!(node.fetched.len(), 1);
}

#[test]
fn a_broken_connection_costs_nothing() {
    let file = file_of(50, 1_000_000);
    let mut node = fetched_to(7 * CHUNK, &file);
    // Whoever is asked next is asked for what comes next.
    assert_eq!(node.store.want().unwrap().offset, 7 * CHUNK);
    node.run();
    assert_eq!(node.store.want().unwrap().offset, 7 * CHUNK);
    // Chunks of before, on their way when the connection broke.
    for at in [0, 6, 8] {
        let chunk = &file[at as usize * CHUNK_BYTES..][..CHUNK_BYTES];
        assert_eq!(node.store.accept(at * CHUNK, chunk), Err(Flaw::OtherPlace { found: at }));
    }
    assert!(node.serve(&file, u64::MAX, &mut nothing));
    assert_eq!(node.fetched.len(), 1);
}

/// Given up for a while, in the same process.
#[test]
fn what_was_abandoned_is_gone_on_with() {
    let file = file_of(50, 1_000_000);
    let mut node = fetched_to(9 * CHUNK, &file);
    node.run();
    node.store.abandon();
    node.run();
    assert_eq!(node.not_fetched, [StoreError::Abandoned]);
    assert_eq!(node.world.open_handles(), 1, "the directory");
    node.store.fetch(offer_of(&file)).unwrap();
    let mut first = None;
    assert!(node.serve(&file, u64::MAX, &mut |at, _| first = Some(first.unwrap_or(at))));
    assert_eq!((first, node.fetched.len()), (Some(8 * CHUNK), 1));
}

/// A node that makes its own again lacks no other's: what a fetch left does not stay for ever.
#[test]
fn what_a_fetch_left_goes_once_it_is_of_no_use() {
    let file = file_of(50, 1_000_000);
    let left = |restart| {
        let mut node = fetched_to(9 * CHUNK, &file);
        node.run();
        if restart {
            return Node::open(node.world.cut(1));
        }
        node.store.abandon();
        node.run();
        node
    };
    for restart in [false, true] {
        let names = |node: Node| node.close().names();
        assert_eq!(names(left(restart)), [names::PART]);
        let mut node = left(restart);
        node.store.forget_fetch();
        node.run();
        assert!(names(node).is_empty());
        let mut node = left(restart);
        node.write(60, 10).unwrap();
        node.run();
        assert_eq!(names(node), ["snapshot-000000000000003c.ksn"]);
        // Before one of the two snapshots goes, that goes.
        let mut node = left(restart);
        node.world.disk.capacity = Some(file.len() as u64 + 300_000);
        node.write(60, 1_000_000).unwrap();
        assert_eq!(node.indexes(), [60]);
    }
}

/// Another source, another digest, another entry: from the beginning.
#[test]
fn only_the_very_same_offer_is_gone_on_with() {
    let file = file_of(50, 1_000_000);
    let offer = offer_of(&file);
    let again =
        encode(Head { cluster: ClusterId(0xc1), base: base(50), full: true, ..Head::default() }, &[(Part::Machine, &state(50, 1_000_000))]);
    let others = [
        (Offer { source: NodeId(1), ..offer }, &file),
        (offer_of(&file_of(51, 1_000_000)), &file_of(51, 1_000_000)),
        // The same entry and state, made by another: other bytes.
        (offer_of(&again), &again),
    ];
    for (other, other_file) in others {
        let node = fetched_to(9 * CHUNK, &file);
        let mut node = Node::open(node.world.cut(1));
        node.store.fetch(other).unwrap();
        let mut asked = Vec::new();
        assert!(node.serve(other_file, u64::MAX, &mut |at, _| asked.push(at)));
        assert_eq!((asked[0], node.fetched.len()), (0, 1), "{other}: {:?}", node.not_fetched);
        assert!(node.close().contents(names::snapshot(other.base.index).as_str()) == *other_file);
    }
}

/// What this disk damages is fetched again: while the fetch goes on, and after a restart.
#[test]
fn what_the_own_disk_damages_is_fetched_again() {
    let file = file_of(50, 3_000_000);
    for restart in [false, true] {
        let mut node = fetched_to(30 * CHUNK, &file);
        node.run();
        node.world.disk.flip(names::PART, 5 * CHUNK + 77, 2);
        if restart {
            node = Node::open(node.world.cut(1));
            node.store.fetch(offer_of(&file)).unwrap();
        }
        let mut asked = Vec::new();
        assert!(node.serve(&file, u64::MAX, &mut |at, _| asked.push(at)));
        assert_eq!(node.fetched.len(), 1, "{:?}", node.not_fetched);
        assert!(asked.contains(&(5 * CHUNK)), "restart {restart}: {asked:?}");
        assert!(node.close().contents("snapshot-0000000000000032.ksn") == file);
    }
}

/// Lets a held operation happen, if there is one of these.
fn release(node: &mut Node, which: fn(&Op) -> bool) -> bool {
    let Some(at) = node.world.held.iter().position(|(_, op)| which(op)) else { return false };
    let completion = node.world.release(at);
    node.store.on_completion(completion, &mut node.world);
    node.run();
    true
}

/// What was read back is damaged while more is being written, or flushed: what that comes to counts for nothing, and the
/// fetch goes back once.
#[test]
fn a_fetch_goes_back_whatever_is_under_way() {
    let file = file_of(50, 20_000_000);
    for flush in [false, true] {
        let mut node = Node::open(Disk::default());
        node.store.fetch(offer_of(&file)).unwrap();
        assert!(node.serve(&file, CHUNK, &mut nothing));
        node.world.plan.hold = Some(|op| matches!(op, Op::Read { .. } | Op::Write { .. } | Op::Sync { .. }));
        let is_under_way = |node: &Node| {
            let durable = node.store.fetching().unwrap().durable;
            durable > 0 && node.world.held.iter().any(|(_, op)| matches!(op, Op::Sync { .. }) == flush && !matches!(op, Op::Read { .. }))
        };
        let mut until = 2 * CHUNK;
        while !is_under_way(&node) {
            // Reads wait; all else happens.
            if !release(&mut node, |op| !matches!(op, Op::Read { .. })) {
                node.serve(&file, until, &mut nothing);
                until += CHUNK;
                assert!(until < 2 * file.len() as u64, "nothing of it is ever under way");
            }
        }
        node.world.plan.unreadable = Some(FIRST_SYNC_BYTES - CHUNK);
        while node.store.fetching().unwrap().again == 0 {
            assert!(release(&mut node, |op| matches!(op, Op::Read { .. })), "what is flushed is read back");
        }
        let progress = node.store.fetching().unwrap();
        assert!(progress.taken < FIRST_SYNC_BYTES && progress.durable == progress.taken, "{progress:?}");
        (node.world.plan.unreadable, node.world.plan.hold) = (None, None);
        assert!(release(&mut node, |op| !matches!(op, Op::Read { .. })));
        assert_eq!(node.store.fetching().unwrap(), progress);
        let mut asked = Vec::new();
        assert!(node.serve(&file, u64::MAX, &mut |at, _| asked.push(at)));
        assert_eq!(node.fetched.len(), 1, "{:?}", node.not_fetched);
        assert!(asked.is_sorted_by(|a, b| a < b) && asked[0] == progress.taken, "it goes back once: {asked:?}");
        assert!(node.close().contents("snapshot-0000000000000032.ksn") == file);
    }
}

#[test]
fn a_disk_that_damages_all_it_takes_ends_the_fetch() {
    let file = file_of(50, 3_000_000);
    let mut node = Node::open(Disk::default());
    node.store.fetch(offer_of(&file)).unwrap();
    node.world.plan.unreadable = Some(2 * CHUNK);
    assert!(node.serve(&file, u64::MAX, &mut nothing));
    assert_eq!(node.not_fetched, [StoreError::Fetched { flaw: Flaw::Unreadable }]);
}

/// Room for what is fetched: the space for the next own one goes first, then the older of the two; then it is waited
/// for.
#[test]
fn room_for_what_is_fetched() {
    let file = file_of(50, 3_000_000);
    let mut node = Node::open(Disk::default());
    node.write(10, 500_000).unwrap();
    node.write(20, 500_000).unwrap();
    node.store.expect(Some(Expected::Full(500_000)));
    node.run();
    // One of the two fits beside it.
    node.world.disk.capacity = Some(file.len() as u64 + 700_000);
    assert!(node.fetch(&file), "{:?}", node.not_fetched);
    assert_eq!((node.gave_up.clone(), node.indexes()), (vec![10], vec![50, 20]));

    let mut node = Node::open(Disk::default());
    node.world.disk.capacity = Some(1_000_000);
    node.store.fetch(offer_of(&file)).unwrap();
    node.run();
    assert_eq!(node.store.lacking().map(|error| error.kind), Some(IoErrorKind::Full));
    assert_eq!(node.store.want(), None, "nothing is asked for that there is no room for");
    node.world.disk.capacity = None;
    node.world.plan.patient = true;
    assert!(node.serve(&file, u64::MAX, &mut nothing));
    assert_eq!((node.fetched.len(), node.store.lacking()), (1, None));
}

/// The name comes last: after the content is flushed, and found to be what was offered.
#[test]
fn the_name_comes_last() {
    let file = file_of(50, 1_000_000);
    let mut node = Node::start(World::new(Disk::default())).unwrap().unwrap_or_else(|_| panic!("it starts"));
    node.world.plan.hold = Some(|op| matches!(op, Op::Rename { .. } | Op::SyncDir { .. }));
    node.store.fetch(offer_of(&file)).unwrap();
    loop {
        node.serve(&file, u64::MAX, &mut nothing);
        assert!(node.fetched.is_empty(), "a name counts once it is durable");
        let Some((_, op)) = node.world.held.first() else { break };
        let last = matches!(op, Op::Rename { .. });
        if last {
            let disk = node.world.cut(0);
            assert!(disk.contents(names::PART) == file, "all of it is on the disk before it has a name");
        }
        let completion = node.world.release(0);
        node.store.on_completion(completion, &mut node.world);
        node.take_events();
        if !node.fetched.is_empty() {
            break;
        }
    }
    assert_eq!(node.fetched.len(), 1);
    assert_eq!(Node::open(node.world.cut(0)).indexes(), [50]);
}

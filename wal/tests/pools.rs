//! What several users share, none of them can use up to another's cost: blocks, slots for reads, operations of the
//! world.
#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::LogIndex;
use kontiki_io::Op;
use kontiki_wal::Options;
use kontiki_wal::limits::{MAX_FRAME_READS, MAX_QUEUED, MAX_READS};
use support::{Disk, Node, options};

fn is_durable_write(op: &Op) -> bool {
    matches!(op, Op::Write { durable: true, .. })
}

/// Lets everything happen that was held.
fn release_all(node: &mut Node) {
    node.world.plan.hold = None;
    while !node.world.held.is_empty() {
        let completion = node.world.release(0);
        node.complete(completion);
        node.run();
    }
}

/// While log writes hang, segments go on being prepared and opened, each with a header that waits. A change of term can
/// be written all the same.
#[test]
fn headers_leave_blocks_to_the_hard_state() {
    for spare_segments in [1, 4] {
        let mut node = Node::try_open(Disk::default(), Options { spare_segments, ..options() }).unwrap();
        assert!(node.run());
        node.world.plan.hold = Some(is_durable_write);
        let mut frames = 0;
        for _ in 0..200 {
            let first = node.last() + 1;
            frames += u64::from(node.try_append(first, 1, 1, u64::from(first > 1), 30_000).is_some());
            node.run();
        }
        assert!(frames >= 3 * spare_segments as u64, "segments were opened while the disk hangs: {frames} frames");
        let saved: Vec<_> = (2..6)
            .map(|term| {
                let write = node.save(term, 1);
                node.run();
                write
            })
            .collect();
        release_all(&mut node);
        assert_eq!((node.hard_durable.clone(), node.acked()), (saved, Some(frames)));
        // And what waited for a header goes on.
        node.append(1, 5, 30_000).unwrap();
        assert!(node.run());
        let node = Node::try_open(node.close(), options()).unwrap();
        assert_eq!((node.hard_state.term.0, node.last()), (5, frames + 1));
    }
}

/// Whoever reads frames without a pause leaves slots to the lookup of an old term.
#[test]
fn reads_leave_slots_to_lookups() {
    let mut node = Node::open(Disk::default());
    for term in 1..=300 {
        node.append(1, term, 100).unwrap();
        node.run();
    }
    node.pool = kontiki_mem::Pool::new(MAX_READS, 4096);
    node.world.plan.hold = Some(|op| matches!(op, Op::Read { .. }));
    let mut begun = 0;
    while let Some(buf) = node.pool.take()
        && node.wal.read(begun, LogIndex(1), LogIndex(1), buf, &mut node.world).is_ok()
    {
        begun += 1;
    }
    assert_eq!(begun as usize, MAX_FRAME_READS);
    assert!(node.wal.lookup_term(0, LogIndex(5), &mut node.world));
    node.run();
    assert_eq!(node.world.held.len(), MAX_FRAME_READS + 1, "the lookup is under way");
    release_all(&mut node);
    assert_eq!((node.terms[0].1, node.terms[0].2.unwrap().unwrap().0, node.reads.len()), (5, 5, MAX_FRAME_READS));
}

/// All that a log can do at once, on a disk that hangs: no more operations are outstanding than it says.
#[test]
fn no_more_operations_than_it_says() {
    let few = Options { max_write_bytes: 4096, writes_in_flight: 3, ..options() };
    let mut node = Node::try_open(Disk::default(), few.clone()).unwrap();
    for term in 1..=200 {
        node.append(1, term, 100).unwrap();
        node.run();
    }
    node.wal.release(LogIndex(190));
    node.pool = kontiki_mem::Pool::new(MAX_READS, 4096);
    node.world.plan.hold = Some(|_| true);
    while let Some(buf) = node.pool.take()
        && node.wal.read(1, LogIndex(191), LogIndex(191), buf, &mut node.world).is_ok()
    {}
    while node.wal.lookup_term(0, LogIndex(195), &mut node.world) && node.terms.len() < 100 {
        node.take_events();
    }
    let mut first = node.last() + 1;
    while node.try_append(first, 1, 200, 200, 100).is_some() {
        first += 1;
        node.save(200, 1);
        node.run();
        node.hard_durable.clear();
        if first > 240 {
            break;
        }
    }
    node.run();
    assert!(node.world.outstanding() > few.writes_in_flight + MAX_FRAME_READS, "{:?}", node.world);
    assert!(node.world.outstanding() <= few.max_operations(), "{} of {}: {:?}", node.world.outstanding(), few.max_operations(), node.world);
    release_all(&mut node);
    assert_eq!(node.acked(), Some(first - 1));
    assert!(first - 1 <= 200 + MAX_QUEUED as u64);
}

//! The last two segments are kept from what callers propose: with a full disk, or as many segments as there may be, the
//! log still takes the first entries of terms, the fresh segment after a recovery, and a chain behind a snapshot; and what
//! is retained goes where there is no room. H86.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::LogIndex;
use kontiki_wal::limits::MAX_SEGMENTS;
use kontiki_wal::{Medium, Options, Space};
use support::life::small;
use support::{Disk, Node, base, check_payloads};

const FRAME: usize = 8192;
/// Segments that are kept.
const KEPT: u64 = 2;

/// Proposes as long as there is room for it, one frame of two blocks after the other.
fn fill(node: &mut Node) {
    loop {
        assert!(node.run());
        if !node.wal.can_propose(FRAME) {
            return assert!(node.wal.out_of_space(FRAME), "it will not be taken later");
        }
        node.append(1, 1, 5000).unwrap();
    }
}

/// A disk that takes so many segments, and a log that has filled all it may of them.
fn full_disk(segments: u64, options: &Options) -> Node {
    let mut disk = Disk::default();
    disk.capacity = Some((4 << 20) + 4096 + segments * options.segment_bytes);
    let mut node = Node::try_open(disk, options.clone()).unwrap();
    fill(&mut node);
    assert_eq!(node.wal.space(), Space::Full);
    node
}

fn retaining() -> Options {
    Options { retention_bytes: 1 << 30, ..small() }
}

/// First entries of terms, one block each, until there is no place for one: how many.
fn terms(node: &mut Node) -> u64 {
    let mut terms = 0;
    while node.wal.can_append(4096) {
        let (last, term) = (node.last(), node.last_term());
        node.try_append(last + 1, 1, term + 1, term, 10).unwrap();
        assert!(node.run());
        assert!(!node.wal.can_propose(FRAME) && node.wal.out_of_space(FRAME), "what is kept is kept for terms");
        terms += 1;
    }
    terms
}

#[test]
fn two_segments_are_left_over_for_terms() {
    let blocks = small().segment_bytes / 4096 - 1;
    for segments in [3, 4, 8] {
        let mut node = full_disk(segments, &small());
        assert_eq!(node.last(), (segments - KEPT) * (blocks / 2));
        assert!(terms(&mut node) >= KEPT * blocks, "{segments} segments");
    }
}

/// So it is after any number of starts, and after power cuts that tear the end: each takes a fresh segment, two of them.
#[test]
fn a_full_log_starts_and_goes_on() {
    for medium in [Medium::Safe, Medium::Lossy] {
        let options = Options { medium, ..small() };
        let mut node = full_disk(6, &options);
        for cut in 0..KEPT {
            // Torn, or closed: a start finds no room for proposals either.
            let (last, term) = (node.last(), node.last_term());
            node.world.plan.hold = Some(|op| matches!(op, kontiki_io::Op::Write { data: kontiki_io::IoData::Span(_), .. }));
            node.try_append(last + 1, 1, term + 1, term, 3000).unwrap();
            node.run();
            node = Node::try_open(node.world.cut(3 + cut), options.clone()).unwrap();
            assert!(node.run());
            assert!(node.last() == last && node.report.dropped_tail_bytes > 0, "{}", node.report);
            assert!(!node.wal.can_propose(FRAME), "{medium:?}, cut {cut}");
            node.try_append(last + 1, 1, term + 2, term, 10).unwrap();
            assert!(node.run());
            assert_eq!(node.acked(), Some(last + 1));
            node = Node::try_open(node.close(), options.clone()).unwrap();
            assert!(node.run());
        }
        // It forgets, and there is room.
        let upto = node.last();
        node.wal.release(LogIndex(upto)).unwrap();
        assert!(node.run());
        assert!(node.wal.can_propose(FRAME), "{medium:?}: {:?}", node.wal.space());
        let first = node.wal.first_index().0;
        check_payloads(&node.read_all(first, upto).unwrap());
    }
}

/// A snapshot's chain needs one segment, and all that was before makes room.
#[test]
fn a_full_log_goes_on_behind_a_snapshot() {
    // Even where all that was kept is used: the old log makes room for it.
    let mut node = full_disk(6, &small());
    terms(&mut node);
    assert!(!node.wal.can_rebase());
    let upto = node.last();
    assert!(node.wal.make_room(LogIndex(upto)).is_some() && node.run());
    assert!(node.wal.can_rebase());
    let mut node = full_disk(6, &small());
    assert!(node.wal.can_rebase());
    node.rebase(500, 1, 1).unwrap();
    assert!(node.run());
    assert!(node.wal.can_propose(FRAME));
    fill(&mut node);
    assert!(node.last() > 500 + 15);
}

/// Where there is no room what is retained goes as well, oldest first, and no more than makes some.
#[test]
fn what_is_retained_goes_where_there_is_no_room() {
    let mut node = full_disk(8, &retaining());
    let (first, last) = (node.wal.first_index().0, node.last());
    // The machine has half of it.
    for round in 0..3 {
        let before = node.wal.base();
        assert_eq!(node.wal.release(LogIndex(last / 2)), None, "it is retained");
        let base = node.wal.make_room(LogIndex(last / 2)).unwrap();
        assert!(base.index > before.index && base.index.0 <= last / 2 && node.wal.first_index().0 > first);
        assert_eq!(node.wal.make_room(LogIndex(last / 2)), None, "that makes room, so nothing more goes");
        assert!(node.run(), "{round}");
        fill(&mut node);
        if node.wal.base().index.0 > last / 4 {
            break;
        }
    }
    assert!(node.last() > last + 7, "and it was used");
    // With room everything is retained.
    node.world.disk.capacity = None;
    node.world.now = node.wal.deadline().unwrap().0;
    assert!(node.run());
    assert_eq!((node.wal.space(), node.wal.make_room(LogIndex(last))), (Space::Ready, None));
}

/// The table of segments is full, whatever the disk has.
#[test]
fn so_it_is_with_as_many_segments_as_there_may_be() {
    let mut node = Node::try_open(Disk::default(), retaining()).unwrap();
    fill(&mut node);
    assert!(node.wal.is_full());
    assert_eq!(node.last(), (MAX_SEGMENTS as u64 - KEPT) * 7);
    let mut node = Node::try_open(node.close(), retaining()).unwrap();
    assert!(node.run() && node.wal.is_full() && !node.wal.can_propose(FRAME));
    let before = node.last();
    assert!(terms(&mut node) >= 2 * 15);
    let base = node.wal.make_room(LogIndex(before)).unwrap();
    assert!(base.index.0 < 30, "no more than makes room");
    assert!(node.run());
    assert!(node.wal.can_propose(FRAME) && !node.wal.is_full());
}

/// A log in its first segment waits for none of those that are kept, unless it is known that they will not be there.
#[test]
fn a_first_start_takes_writes_at_once() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    assert!(node.wal.can_propose(FRAME), "before anything more is prepared");
    let mut disk = Disk::default();
    disk.capacity = Some((4 << 20) + 4096 + small().segment_bytes);
    let mut tiny = Node::try_open(disk, small()).unwrap();
    tiny.append(1, 1, 10).unwrap();
    assert!(tiny.run() && !tiny.wal.can_propose(FRAME) && tiny.wal.can_append(FRAME));
    node.rebase(5, 2, 1).unwrap();
    assert!(node.wal.can_propose(FRAME), "nor does one in a chain's first");
    assert_eq!(node.wal.base(), base(5, 2));
}

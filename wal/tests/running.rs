//! A log that runs: appending, rotating, reading, releasing, closing, and starting again.
#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{Base, IndexRange, LogIndex, Subterm, Term, WriteId};
use kontiki_io::{IoErrorKind, Op};
use kontiki_wal::limits::{KEPT_SEGMENTS, MAX_EXTENTS};
use kontiki_wal::{HardState, Options, ReadError, Space, WalError};
use support::{Disk, Node, World, check_payloads, open, options};

fn is_log_write(op: &Op) -> bool {
    matches!(op, Op::Write { durable: true, .. })
}

#[test]
fn first_start() {
    let mut node = Node::open(Disk::default());
    assert_eq!((node.boot, node.hard_state, node.last()), (1, HardState::default(), 0));
    assert_eq!((node.restored.base.next(), node.restored.last), (LogIndex(1), LogIndex(0)));
    assert_eq!(node.report.spares, 1);
    node.run();
    let names = node.world.disk.names();
    assert_eq!((names.len(), names[1].as_str()), (2 + KEPT_SEGMENTS, "log-0000000000000001.seg"), "{names:?}");
    let second = Node::open(node.close());
    assert_eq!((second.boot, second.report.segments, second.report.damage), (2, 0, None));
}

#[test]
fn appended_rotated_and_found_again() {
    let mut node = Node::open(Disk::default());
    for n in 0..60 {
        node.append(1 + n % 7, 1 + u64::from(n) / 20, 900).unwrap();
    }
    assert!(node.run());
    let last = node.last();
    assert_eq!(node.acked(), Some(last));
    let before = node.read_all(1, last).unwrap();
    check_payloads(&before);
    assert_eq!(before.len() as u64, last);

    let mut node = Node::open(node.close());
    assert!(node.report.segments > 2, "{}", node.report);
    assert_eq!((node.report.frames, node.report.dropped_tail_bytes, node.report.damage), (60, 0, None));
    assert_eq!(node.restored.runs.iter().map(|run| run.1.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((node.restored.base.next(), node.last()), (LogIndex(1), last));
    assert_eq!(node.read_all(1, last).unwrap(), before);
    // A clean end is written on, in the same segment.
    node.append(1, 4, 10).unwrap();
    let segments = node.report.segments;
    let node = Node::open(node.close());
    assert_eq!((node.report.segments, node.last()), (segments, last + 1));
}

#[test]
fn frames_that_wait_go_out_as_one_write() {
    let mut node = Node::open(Disk::default());
    node.run();
    for _ in 0..6 {
        node.append(1, 1, 100).unwrap();
    }
    node.world.log.clear();
    node.run();
    let writes: Vec<_> = node.world.log.iter().filter(|op| op.starts_with("write") && op.ends_with("true")).collect();
    // The header and the frames; then the hard state, in two copies, that the log reaches into this segment, and that there
    // is another one.
    let saved = ["write 0 +4096 durable=true", "write 4194304 +4096 durable=true"];
    assert_eq!(writes, [&["write 0 +4096 durable=true", "write 4096 +24576 durable=true"], &saved[..], &saved[..]].concat());
}

/// Several writes in flight, completed in any order: durability is the contiguous prefix.
#[test]
fn h34_completions_out_of_order() {
    let mut node =
        Node::try_open(Disk::default(), kontiki_wal::Options { writes_in_flight: 5, max_write_bytes: 4096, ..options() }).unwrap();
    node.run();
    node.world.plan.hold = Some(is_log_write);
    for _ in 0..4 {
        node.append(1, 1, 100).unwrap();
    }
    node.run();
    assert_eq!(node.world.held.len(), 5, "a header and four frames");
    let mut done = Vec::new();
    // Held: header, 1, 2, 3, 4. Released: 4, 1, header, 3, 2.
    for at in [4, 1, 0, 1, 0] {
        let completion = node.world.release(at);
        node.complete(completion);
        done.push(node.log_durable.map(|write| write.0));
    }
    assert_eq!(done, [None, None, Some(1), Some(1), Some(4)]);
    assert!(node.wal.idle());
}

#[test]
fn hard_state_updates_coalesce_and_are_answered_in_order() {
    let mut node = Node::open(Disk::default());
    node.run();
    let ids: Vec<WriteId> = (1..=5).map(|term| node.save(term, 3)).collect();
    node.world.log.clear();
    node.run();
    assert_eq!(node.hard_durable, ids);
    assert_eq!(node.world.log, ["write 0 +4096 durable=true", "write 4194304 +4096 durable=true"]);
    let id = node.save(6, 1);
    node.wal.pump(&mut node.world);
    let later = [node.save(7, 1), node.save(8, 2)];
    let first = node.world.step().unwrap();
    node.complete(first);
    assert!(!node.hard_durable.contains(&id), "one copy is not enough");
    let second = node.world.step().unwrap();
    node.complete(second);
    assert_eq!(node.hard_durable.last(), Some(&id));
    node.run();
    assert_eq!(node.hard_durable[6..], later);
    let node = Node::open(node.close());
    assert_eq!((node.hard_state.term, node.hard_state.vote.unwrap().0), (Term(8), 2));
}

#[test]
fn h92_superseded_entries_are_not_read() {
    let mut node = Node::open(Disk::default());
    for _ in 0..5 {
        node.append(4, 1, 500).unwrap();
    }
    // Entries 11..=20 are superseded inside a frame, by a leader of term 3 that brings entries of term 2 first.
    node.try_append(11, 2, 2, 1, 500).unwrap();
    node.try_append(13, 5, 3, 2, 500).unwrap();
    assert!(node.run());
    for disk in [None, Some(())] {
        if disk.is_some() {
            node = Node::open(node.close());
        }
        assert_eq!(node.last(), 17);
        let read = node.read_all(1, 17).unwrap();
        check_payloads(&read);
        let terms: Vec<u64> = read.iter().map(|entry| entry.1).collect();
        assert_eq!(terms, [vec![1; 10], vec![2; 2], vec![3; 5]].concat());
        assert_eq!(node.read_all(18, 18), Err(ReadError::NotDurable));
        assert_eq!(node.read_all(9, 12).unwrap().len(), 4, "both ends inside frames");
    }
}

/// A follower's new leader may bring entries of a lower term than the ones it supersedes: the terms of the *live* log
/// never fall, those of the frames on disk may.
#[test]
fn a_superseding_frame_may_have_a_lower_term() {
    let mut node = Node::open(Disk::default());
    node.append(3, 1, 100).unwrap();
    node.append(3, 5, 100).unwrap();
    node.try_append(4, 1, 4, 1, 100).unwrap();
    node.append(1, 6, 100).unwrap();
    let mut node = Node::open(node.close());
    let terms: Vec<u64> = node.read_all(1, 5).unwrap().iter().map(|entry| entry.1).collect();
    assert_eq!(terms, [1, 1, 1, 4, 6]);
    assert_eq!((node.report.damage, node.report.dropped_tail_bytes), (None, 0));
}

#[test]
fn only_a_part_of_a_frame_counts() {
    let mut node = Node::open(Disk::default());
    node.append(3, 1, 100).unwrap();
    // The leader's frame holds 2..=9; this log has 2 and 3 already.
    node.try_append_range(2, 8, 1, 1, 100, IndexRange { from: LogIndex(4), to: LogIndex(7) }).unwrap();
    let mut node = Node::open(node.close());
    assert_eq!(node.last(), 7);
    let read = node.read_all(1, 7).unwrap();
    check_payloads(&read);
    assert_eq!(read.len(), 7);
}

#[test]
fn many_supersedings_open_another_segment_when_the_table_is_full() {
    // Large enough that it is the table that is full, long before the file.
    let large = || Options { segment_bytes: 1 << 20, ..options() };
    let mut node = Node::try_open(Disk::default(), large()).unwrap();
    // Segment headers, and first copies of the hard state, of which each is followed by a second one.
    let segments = |node: &Node| {
        let count = |write: &str| node.world.log.iter().filter(|op| *op == write).count();
        count("write 0 +4096 durable=true") - count("write 4194304 +4096 durable=true")
    };
    node.run();
    let before = segments(&node);
    node.append(1, 1, 10).unwrap();
    // Each superseding frame leaves one extent behind: 2, 3, 4, ... superseded one after the other.
    for n in 1..200 {
        let (first, term) = (n + 1, n);
        while node.try_append(first, 2, term, term.max(2) - 1, 10).is_none() {
            node.run();
        }
        node.run();
        let tables = (n as usize).div_ceil(MAX_EXTENTS);
        assert_eq!(segments(&node) - before, tables, "after {n} frames that supersede");
    }
    assert_eq!(node.last(), 201);
    let mut node = Node::try_open(node.close(), large()).unwrap();
    assert_eq!(node.last(), 201);
    let read = node.read_all(1, 201).unwrap();
    check_payloads(&read);
    assert_eq!(read[150].1, 150);
}

/// The table is for superseding frames: a full one takes no room from the others.
#[test]
fn a_frame_that_supersedes_nothing_needs_no_extent() {
    let mut node = Node::try_open(Disk::default(), Options { segment_bytes: 1 << 20, ..options() }).unwrap();
    for n in 1..=MAX_EXTENTS as u64 {
        node.try_append(n, 2, n, n - 1, 10).unwrap();
        assert!(node.run());
    }
    let last = node.last();
    let name = "log-0000000000000001.seg";
    let block = node.try_append(last + 1, 1, MAX_EXTENTS as u64, MAX_EXTENTS as u64, 10).unwrap();
    assert!(node.run());
    let at = (MAX_EXTENTS + 1) * 4096;
    assert_eq!(node.world.disk.contents(name)[at..at + block.len()], *block.bytes());
}

#[test]
fn released_segments_are_recycled() {
    let mut node = Node::open(Disk::default());
    let mut files = 0;
    for _ in 0..40 {
        for _ in 0..10 {
            node.append(2, 1, 3000).unwrap();
        }
        node.run();
        let upto = node.acked().unwrap();
        if let Some(base) = node.wal.release(LogIndex(upto)) {
            assert_eq!((base.next(), base.term), (node.wal.first_index(), Term(1)));
            assert!(base.index.0 <= upto);
        }
        node.run();
        files = files.max(node.world.disk.names().len());
    }
    assert!(files <= 5 + KEPT_SEGMENTS, "{files} files: released segments are used again");
    let names = node.world.disk.names();
    assert!(!names.contains(&"log-0000000000000003.seg".to_owned()), "{names:?}");
    let (first, last) = (node.wal.first_index(), node.last());
    assert_eq!(node.read_all(first.0 - 1, last), Err(ReadError::Gone { first }));
    let before = node.read_all(first.0, last).unwrap();
    let mut node = Node::open(node.close());
    assert_eq!((node.restored.base.next(), node.restored.base.term, node.last()), (first, Term(1), last));
    assert_eq!(node.read_all(first.0, last).unwrap(), before);
    assert!(node.world.log.iter().all(|op| !op.starts_with("open segment.new")), "nothing is made when there are spares");
}

#[test]
fn retention_keeps_released_log() {
    let segment = options().segment_bytes;
    let mut node = Node::try_open(Disk::default(), kontiki_wal::Options { retention_bytes: 3 * segment, ..options() }).unwrap();
    for _ in 0..80 {
        node.append(1, 1, 9000).unwrap();
    }
    node.run();
    node.wal.release(LogIndex(80)).unwrap();
    node.run();
    let kept = 80 - node.wal.first_index().0 + 1;
    assert!((30..=50).contains(&kept), "{kept} entries in three segments and a part of one");
    assert_eq!(node.wal.release(LogIndex(80)), None);
}

#[test]
fn what_is_not_released_is_kept() {
    let mut node = Node::open(Disk::default());
    for _ in 0..50 {
        node.append(1, 1, 9000).unwrap();
    }
    node.run();
    let first = node.wal.release(LogIndex(20)).unwrap().next();
    assert!(first.0 <= 21 && first.0 > 1);
    assert_eq!(node.read_all(first.0, 50).unwrap().len() as u64, 51 - first.0);
}

/// What says where the log begins must be durable before what came before it goes.
#[test]
fn nothing_is_released_before_what_follows_is_durable() {
    let mut node = Node::open(Disk::default());
    for _ in 0..10 {
        node.append(1, 1, 12000).unwrap();
    }
    node.run();
    assert_eq!(node.wal.release(LogIndex(9)), None, "one segment is the current one");
    node.world.plan.hold = Some(is_log_write);
    // Entry 11, by a newer leader, and in the next segment.
    node.try_append(11, 1, 2, 1, 12000).unwrap();
    node.run();
    assert_eq!((node.wal.release(LogIndex(10)), node.world.held.len()), (None, 2));
    node.world.plan.hold = None;
    for _ in 0..2 {
        let completion = node.world.release(0);
        node.complete(completion);
    }
    assert_eq!(node.wal.release(LogIndex(9)), None, "the header names entry 10");
    assert_eq!(node.wal.release(LogIndex(10)), Some(Base { index: LogIndex(10), term: Term(1), subterm: Subterm(0) }));
}

#[test]
fn h92_a_read_keeps_its_segment_from_being_recycled() {
    let mut node = Node::open(Disk::default());
    for _ in 0..40 {
        node.append(1, 1, 9000).unwrap();
    }
    node.run();
    node.world.plan.hold = Some(|op| matches!(op, Op::Read { .. }));
    let buf = node.pool.take().unwrap();
    node.wal.read(1, LogIndex(2), LogIndex(3), buf, &mut node.world).unwrap();
    node.run();
    node.wal.release(LogIndex(40)).unwrap();
    node.run();
    assert!(node.world.disk.names().contains(&"log-0000000000000001.seg".to_owned()));
    node.world.plan.hold = None;
    let completion = node.world.release(0);
    node.complete(completion);
    assert!(matches!(node.reads.pop(), Some((1, Err(ReadError::Gone { .. })))));
    node.run();
    assert!(!node.world.disk.names().contains(&"log-0000000000000001.seg".to_owned()));
}

#[test]
fn newer_frames_than_the_durable_ones_are_not_read() {
    let mut node = Node::open(Disk::default());
    node.append(1, 1, 10).unwrap();
    node.run();
    node.world.plan.hold = Some(is_log_write);
    node.append(1, 1, 10).unwrap();
    assert_eq!(node.read_all(1, 1).unwrap().len(), 1);
    let buf = node.pool.take().unwrap();
    node.wal.read(1, LogIndex(1), LogIndex(2), buf, &mut node.world).unwrap();
    let buf = node.pool.take().unwrap();
    node.wal.read(2, LogIndex(2), LogIndex(2), buf, &mut node.world).unwrap();
    node.run();
    node.reads.sort_by_key(|read| read.0);
    assert_eq!(node.reads[0].1.as_ref().unwrap().len(), 1);
    assert_eq!(node.reads[1].1, Err(ReadError::NotDurable));
}

#[test]
fn a_buffer_may_be_too_small() {
    let mut node = Node::open(Disk::default());
    node.append(1, 1, 9000).unwrap();
    node.pool = kontiki_mem::Pool::new(2, 8192);
    node.run();
    assert_eq!(node.read_all(1, 1), Err(ReadError::BufferTooSmall { needed: 12288, given: 8192 }));
}

#[test]
fn old_terms_are_found_on_disk() {
    let mut node = Node::open(Disk::default());
    for term in 1..=300 {
        node.append(3, term, 700).unwrap();
        node.run();
    }
    let mut node = Node::open(node.close());
    assert_eq!(node.restored.runs.len(), kontiki_wal::limits::MAX_TERM_RUNS);
    for index in [1, 2, 3, 4, 299, 450, 515, 516, 517, 899, 900, 901, 5000] {
        assert!(node.wal.lookup_term(9, LogIndex(index), &mut node.world));
        node.run();
        let expected = (index <= 900).then(|| Term(index.div_ceil(3)));
        assert_eq!(node.terms.pop(), Some((9, index, Ok(expected))));
    }
}

/// Flash wears: a log with nothing to do does nothing.
#[test]
fn idle_means_idle() {
    let mut node = Node::open(Disk::default());
    node.append(1, 1, 10).unwrap();
    node.run();
    let done = node.world.done;
    for _ in 0..100 {
        node.world.now += 1_000_000_000;
        node.run();
    }
    assert_eq!(node.world.done, done);
    assert!(node.wal.idle() && node.wal.deadline().is_none());
}

/// A full disk while a spare is prepared is waited out; the log goes on to its last reserved byte, and on when there is
/// space again.
#[test]
fn h86_a_full_disk_is_waited_out() {
    let mut node = Node::open(Disk::default());
    node.append(1, 1, 100).unwrap();
    node.run();
    let used: u64 = node.world.disk.list().iter().map(|file| file.1).sum();
    node.world.disk.capacity = Some(used + 4096);
    while node.wal.can_append(12288) {
        node.append(1, 1, 9000).unwrap();
        node.run();
    }
    assert_eq!((node.wal.space(), node.wal.poisoned()), (Space::Full, None));
    let last = node.last();
    assert_eq!(node.acked(), Some(last));
    assert!(!node.world.disk.names().contains(&"segment.new".to_owned()), "what was begun is cleared away");
    // It is tried again now and then, not in a loop.
    let done = node.world.done;
    node.run();
    assert_eq!(node.world.done, done);
    let due = node.wal.deadline().unwrap();
    node.world.now = due.0;
    node.run();
    assert!(node.world.done > done);
    assert!(node.wal.deadline().unwrap().0 - due.0 > due.0 / 2, "the pauses grow");
    // A start with a full disk reads and waits, too.
    let mut node = Node::open(node.kill());
    node.run();
    assert_eq!((node.last(), node.wal.space()), (last, Space::Full));
    assert_eq!(node.read_all(1, last).unwrap().len() as u64, last);
    node.world.disk.capacity = None;
    node.world.now = node.wal.deadline().unwrap().0;
    node.run();
    assert_eq!(node.wal.space(), Space::Ready);
    node.append(1, 1, 9000).unwrap();
    node.run();
    assert_eq!(node.acked(), Some(last + 1));
}

#[test]
fn h86_a_first_start_on_a_full_disk_fails() {
    for capacity in [0, 4096, 4 << 20, (4 << 20) + 4096, (4 << 20) + 8192] {
        let mut disk = Disk::default();
        disk.capacity = Some(capacity);
        assert!(matches!(Node::try_open(disk.clone(), options()), Err(WalError::DiskFull { .. })));
        disk.capacity = None;
        assert_eq!(Node::open(disk).boot, 1);
    }
}

#[test]
fn directories_that_cannot_be_used() {
    let fails = |number: u64, kind: IoErrorKind| {
        let mut world = World::new(Disk::default());
        world.plan.fail = Some((number, kind));
        let error = open(&mut world, options()).unwrap().unwrap_err();
        assert_eq!(world.open_handles(), 0);
        error
    };
    assert!(matches!(fails(0, IoErrorKind::NotFound), WalError::Directory { .. }));
    assert!(matches!(fails(0, IoErrorKind::Permission), WalError::Directory { .. }));
    assert!(matches!(fails(1, IoErrorKind::Permission), WalError::Permission { .. }));
    assert!(matches!(fails(4, IoErrorKind::Permission), WalError::Permission { what: "create", .. }));
    let mut world = World::new(Disk::default());
    world.locked = true;
    assert!(matches!(open(&mut world, options()), Some(Err(WalError::Locked { .. }))));
}

/// Frames that just fill what is left of a write, or of a read's buffer, just do not, and are one block smaller, in
/// every order: what comes back has no hole.
#[test]
fn h28_no_frame_is_left_out() {
    let exact = |blocks: usize| blocks * kontiki_frame::BLOCK_BYTES - kontiki_frame::BODY_OFFSET - kontiki_frame::ENTRY_LENGTH_BYTES;
    // Of 64 KiB, which is sixteen blocks: seven and eight and one fill them, eight and eight do, and one byte more is one
    // block more.
    let sizes = [exact(1), exact(7), exact(7) + 1, exact(8), exact(8) - 1];
    for first in 0..sizes.len() {
        for second in 0..sizes.len() {
            for third in 0..sizes.len() {
                let mut node = Node::open(Disk::default());
                for at in [first, second, third, 0, first, 4] {
                    node.append(1, 1, sizes[at]).unwrap();
                }
                node.run();
                for from in 1..=6 {
                    let read = node.read_all(from, 6).unwrap();
                    check_payloads(&read);
                    assert!(read.iter().map(|entry| entry.0).eq(from..=6), "{first} {second} {third}");
                }
            }
        }
    }
}

/// Never more writes at once than the options say.
#[test]
fn writes_in_flight_are_bounded() {
    let options = Options { writes_in_flight: 2, max_write_bytes: 4096, ..options() };
    let mut node = Node::try_open(Disk::default(), options).unwrap();
    node.world.plan.hold = Some(is_log_write);
    assert!(node.wal.has_write_slot());
    for n in 1..=4 {
        node.try_append(n, 1, 1, u64::from(n > 1), 10).unwrap();
    }
    node.run();
    assert_eq!((node.wal.writes_in_flight(), node.wal.has_write_slot()), (2, false));
    node.world.plan.hold = None;
    for _ in 0..2 {
        let completion = node.world.release(0);
        node.complete(completion);
    }
    node.run();
    assert_eq!((node.wal.writes_in_flight(), node.wal.has_write_slot(), node.acked()), (0, true, Some(4)));
}

/// Descriptors, memory: whatever a segment takes and is not there is waited for, at every step, and no failure of the
/// medium.
#[test]
fn a_shortage_while_a_segment_is_prepared_is_waited_out() {
    fn of_preparation(op: &Op) -> bool {
        matches!(
            op,
            Op::Open { .. }
                | Op::Allocate { .. }
                | Op::Write { durable: false, .. }
                | Op::Sync { .. }
                | Op::Rename { .. }
                | Op::Unlink { .. }
        )
    }
    // The operations of one preparation, one by one.
    let mut met = 0;
    for at in 0..64 {
        let mut node = Node::open(Disk::default());
        node.append(1, 1, 100).unwrap();
        node.run();
        node.world.fail(at, IoErrorKind::Shortage, of_preparation);
        let mut short = false;
        for _ in 0..12 {
            if node.wal.can_append(12288) {
                node.append(1, 1, 9000).unwrap();
            }
            node.run();
            short |= matches!(node.wal.space(), Space::Short(_));
            assert_eq!(node.wal.poisoned(), None, "shortage at operation {at}");
        }
        let waits = matches!(node.wal.space(), Space::Short(_)) || node.wal.deadline().is_some();
        if let Some(due) = node.wal.deadline() {
            node.world.now = due.0;
            node.run();
        }
        assert_eq!((node.wal.space(), node.wal.poisoned()), (Space::Ready, None), "shortage at operation {at}");
        assert!(!node.world.disk.names().contains(&"segment.new".to_owned()), "what was begun is cleared away");
        met += u32::from(short || waits);
    }
    assert!(met >= 5, "met only {met} times");
}

/// At a start the error says what there was no more of.
#[test]
fn a_start_without_descriptors_says_so() {
    let error = kontiki_wal::WalError::Shortage {
        what: "open",
        name: kontiki_io::Name::new("hard-state").unwrap(),
        source: kontiki_io::IoError { kind: IoErrorKind::Shortage, errno: 24 },
    };
    let text = error.to_string();
    assert!(text.contains("file descriptors") && text.contains("Nothing is damaged"), "{text}");
}

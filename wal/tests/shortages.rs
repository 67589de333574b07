//! The system lacks something, memory, descriptors, threads, while nothing is broken: it is waited for, whatever is
//! under way, and told from damage. Row by row: what may be done again is done again; what a flush may have dropped is
//! not.
#![allow(clippy::unwrap_used)]

mod support;

use kontiki_io::{IoErrorKind, Op};
use kontiki_wal::limits::{MAX_SHORTAGE_RETRY_NS, MIN_RETRY_NS};
use kontiki_wal::{Medium, Options, WalError};
use support::life::{Promised, check, life, small};
use support::{Disk, Node, NotUp, World};

const SECOND: u64 = 1_000_000_000;

fn any(op: &Op) -> bool {
    !matches!(op, Op::Close { .. })
}

fn is_durable_write(op: &Op) -> bool {
    matches!(op, Op::Write { durable: true, .. })
}

/// What an operation is, without its numbers.
fn kind_of(operation: &str) -> String {
    operation.chars().filter(|c| !c.is_ascii_digit()).collect::<String>().split(" +").next().unwrap().trim().to_owned()
}

/// Lets operation number `at` of a log's life lack something. What it was; none if there are not so many.
fn scenario(at: u64, options: &Options) -> Option<String> {
    let mut promised = Promised::nothing();
    let mut world = World::new(Disk::default());
    world.plan.patient = true;
    world.fail(at, IoErrorKind::Shortage, any);
    let mut node = match Node::start(world, options.clone()) {
        Ok(node) => node,
        Err(NotUp::Error(error)) => {
            // A start does not wait: it says what is lacking, and changes nothing that the next one minds.
            assert!(matches!(error, WalError::Shortage { .. } | WalError::Directory { .. }), "{error}");
            assert!(error.to_string().contains("othing is damaged"), "{error}");
            return Some(String::from("start"));
        }
        Err(NotUp::PowerFailed(_)) => unreachable!("no power cut was asked for"),
    };
    check(&mut node, &mut promised);
    assert!(life(&mut node, &mut promised, at), "shortage at {at}, {:?}: {:?}", node.world.failed, node.wal.poisoned());
    assert_eq!((node.wal.poisoned(), node.wal.lacking()), (None, None), "shortage at {at}, {:?}", node.world.failed);
    let failed = node.world.failed.pop()?;
    let mut node = Node::try_open(node.close(), options.clone()).unwrap();
    check(&mut node, &mut promised);
    Some(kind_of(&failed))
}

#[test]
fn whatever_a_life_does_lacks_something_once() {
    for medium in [Medium::Safe, Medium::Lossy] {
        let options = Options { medium, ..small() };
        let mut met = std::collections::BTreeSet::new();
        let mut at = 0;
        while let Some(kind) = scenario(at, &options) {
            met.insert(kind);
            at += 1;
        }
        assert!(at > 100, "a life has operations: {at}");
        for kind in ["start", "sync dir", "rename log-.seg log-.seg", "write", "allocate", "sync", "open segment.new create=true"] {
            assert!(met.contains(kind), "{kind} is none of {met:?}");
        }
    }
}

/// Files that go are tried again too, and their directory.
#[test]
fn removals_wait() {
    for lacks in [|op: &Op| matches!(op, Op::Unlink { .. }), |op: &Op| matches!(op, Op::SyncDir { .. })] {
        let mut node = Node::try_open(Disk::default(), small()).unwrap();
        for _ in 0..100 {
            node.append(2, 1, 1500).unwrap();
        }
        assert!(node.run());
        node.world.plan.short = Some((2 * SECOND, lacks));
        node.wal.release(kontiki_core::LogIndex(node.last()));
        assert!(node.run(), "{:?}", node.wal.poisoned());
        let before = node.world.disk.names().len();
        node.world.plan.patient = true;
        assert!(node.run());
        while let Some(completion) = node.step() {
            node.complete(completion);
            assert!(node.run());
        }
        assert!(node.world.now >= 2 * SECOND && node.world.failed.len() > 2, "{:?}", node.world.failed);
        assert!(node.world.disk.names().len() + 3 < before, "{:?}", node.world.disk.names());
        let last = node.last();
        assert_eq!(Node::try_open(node.close(), small()).unwrap().last(), last);
    }
}

/// The directory as it was, when a start lacks something for as long as it lasts.
#[test]
fn what_cannot_be_read_for_want_of_something_is_not_damaged() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    let mut promised = Promised::nothing();
    assert!(life(&mut node, &mut promised, 1));
    let disk = node.close();
    let reads = World::new(disk.clone());
    let count = {
        let node = Node::start(reads, small()).unwrap();
        node.world.log.iter().filter(|line| line.starts_with("read")).count()
    };
    assert!(count > 4, "both copies, headers, the log: {count} reads");
    // From the first on, from the second on, ...
    for from in 0..count as u64 {
        let mut world = World::new(disk.clone());
        world.plan.short_from = Some(from);
        let error = match Node::start(world, small()) {
            Err(NotUp::Error(error)) => error,
            other => panic!("read {from} and all after it: {:?}", other.map(|node| node.report)),
        };
        assert!(matches!(error, WalError::Shortage { what: "read", .. }), "read {from}: {error}");
    }
    check(&mut Node::try_open(disk, small()).unwrap(), &mut promised);
}

/// A write that lacks something waits, is tried again at bounded intervals, and nothing counts as durable before.
#[test]
fn a_lasting_shortage_is_paced_named_and_over() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    node.append(1, 1, 100).unwrap();
    assert!(node.run());
    node.world.plan.short = Some((20 * SECOND, is_durable_write));
    node.append(1, 1, 100).unwrap();
    let write = node.save(7, 1);
    let mut tries = Vec::new();
    while node.world.now < 20 * SECOND {
        let before = node.world.failed.len();
        node.run();
        assert_eq!((node.acked(), node.hard_durable.len(), node.wal.poisoned()), (Some(1), 0, None));
        assert_eq!(node.wal.lacking().map(|error| error.kind), Some(IoErrorKind::Shortage));
        assert_eq!(node.world.outstanding(), 0);
        tries.push((node.world.now, node.world.failed.len() - before));
        let due = node.wal.deadline().unwrap();
        let pause = due.0 - node.world.now;
        assert!((MIN_RETRY_NS..=MAX_SHORTAGE_RETRY_NS).contains(&pause), "{pause}");
        node.world.now = due.0;
    }
    assert!(tries.iter().all(|(_, count)| *count == 2), "a frame and a copy of the hard state: {tries:?}");
    assert!((20..=25).contains(&tries.len()), "{tries:?}");
    assert!(node.run());
    assert_eq!((node.acked(), node.hard_durable.clone(), node.wal.lacking()), (Some(2), vec![write], None));
    assert_eq!(node.wal.deadline(), None);
    let node = Node::try_open(node.close(), small()).unwrap();
    assert_eq!((node.last(), node.hard_state.term.0), (2, 7));
}

/// Several writes in flight, some lacking: the others' completions count only once what comes before them is there.
#[test]
fn what_is_durable_behind_a_write_that_waits_is_not_told() {
    let options = Options { writes_in_flight: 4, max_write_bytes: 4096, ..small() };
    let mut node = Node::try_open(Disk::default(), options).unwrap();
    node.append(1, 1, 10).unwrap();
    node.run();
    node.world.fail(1, IoErrorKind::Shortage, is_durable_write);
    for _ in 0..4 {
        node.append(1, 1, 10).unwrap();
    }
    node.run();
    assert_eq!((node.acked(), node.wal.writes_in_flight()), (Some(2), 3), "the second of four waits, and the others behind it");
    node.world.now = node.wal.deadline().unwrap().0;
    assert!(node.run());
    assert_eq!((node.acked(), node.wal.writes_in_flight()), (Some(5), 0));
}

/// Reads and lookups come back with what was asked for, later.
#[test]
fn reads_wait_too() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    for term in 1..=200 {
        node.append(1, term, 100).unwrap();
        assert!(node.run());
    }
    node.world.plan.patient = true;
    node.world.plan.short = Some((3 * SECOND, |op| matches!(op, Op::Read { .. })));
    assert!(node.wal.lookup_term(1, kontiki_core::LogIndex(5), &mut node.world));
    assert_eq!(node.read_all(1, 20).unwrap().len(), 20);
    assert!(node.world.now >= 3 * SECOND);
    assert_eq!(node.terms.pop().unwrap().2.unwrap().unwrap().0, 5);
    node.close();
}

/// An orderly end waits for what waits, and notes the log as closed.
#[test]
fn an_end_in_a_shortage_is_noted_once_it_is_over() {
    for lacks in [is_durable_write as fn(&Op) -> bool, any] {
        let options = Options { medium: Medium::Lossy, ..small() };
        let mut node = Node::try_open(Disk::default(), options.clone()).unwrap();
        node.append(3, 1, 1500).unwrap();
        assert!(node.run());
        node.world.plan.patient = true;
        node.world.plan.short = Some((2 * SECOND, lacks));
        node.append(3, 1, 1500).unwrap();
        node.wal.pump(&mut node.world);
        node.wal.close(&mut node.world);
        while !node.wal.closed() {
            let completion = node.step().expect("the end goes on by itself");
            node.complete(completion);
        }
        assert!(node.world.now >= 2 * SECOND);
        assert_eq!(node.world.open_handles(), 0, "everything is closed");
        let node = Node::try_open(node.world.disk, options).unwrap();
        assert_eq!((node.last(), node.report.uncertain, node.report.damage), (6, false, None));
    }
}

/// A log that fails while something waits ends all the same.
#[test]
fn a_failure_beside_a_shortage_is_final() {
    let mut node = Node::try_open(Disk::default(), Options { writes_in_flight: 4, max_write_bytes: 4096, ..small() }).unwrap();
    node.append(1, 1, 10).unwrap();
    node.run();
    node.world.plan.short = Some((SECOND, is_durable_write));
    node.save(9, 1);
    node.append(1, 1, 10).unwrap();
    node.run();
    node.world.plan.short = None;
    node.world.fail(0, IoErrorKind::Device, is_durable_write);
    node.append(1, 1, 10).unwrap();
    node.run();
    assert!(matches!(node.wal.poisoned(), Some(WalError::Io { .. })));
    assert_eq!((node.world.outstanding(), node.wal.writes_in_flight(), node.wal.deadline()), (0, 0, None), "nothing waits any more");
    node.wal.close(&mut node.world);
    while !node.wal.closed() {
        let completion = node.step().expect("the end goes on");
        node.complete(completion);
    }
    assert_eq!(node.world.open_handles(), 0);
}

/// Space that was reserved and is not there: named for what it is, and final. The flush that says so may have dropped
/// what others wrote.
#[test]
fn no_space_where_it_was_reserved_is_named() {
    for (fails, file) in [(is_durable_write as fn(&Op) -> bool, "log-"), (|op| matches!(op, Op::SyncDir { .. }), "log-")] {
        let mut node = Node::try_open(Disk::default(), small()).unwrap();
        assert!(node.run());
        node.world.fail(1, IoErrorKind::Full, fails);
        for _ in 0..20 {
            if node.append(2, 1, 1500).is_none() {
                break;
            }
        }
        node.run();
        match node.wal.poisoned() {
            Some(error @ WalError::DiskFull { name, .. }) => {
                assert!(name.as_str().starts_with(file) && error.to_string().contains("no space"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What somebody else has removed need not be removed.
#[test]
fn leftovers_that_are_gone_are_no_failure() {
    let mut met = 0;
    for at in 0..12 {
        let mut node = Node::try_open(Disk::default(), small()).unwrap();
        node.world.plan.patient = true;
        node.world.disk.open(&kontiki_io::Name::new("segment.new").unwrap(), true).unwrap();
        node.world.fail(at, IoErrorKind::NotFound, |op| matches!(op, Op::Unlink { .. }));
        let mut promised = Promised::nothing();
        assert!(life(&mut node, &mut promised, 3), "{:?}", node.wal.poisoned());
        met += node.world.failed.len();
    }
    assert!(met > 0);
}

//! The power fails between any two operations, and any subset of unflushed sectors, names and lengths is lost:
//! the log starts again by itself, and holds everything that was acknowledged. H02, H03, H54, H80, H81, H88.
#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::LogIndex;
use support::life::{Promised, check, life, small};
use support::{Disk, Node, NotUp, Random, World, check_payloads};

/// Starts on `disk` and lives until the power fails at operation `stop_at`, or to the end. For some seeds the process
/// is killed then, and only the next power cut takes what was not flushed.
fn run(disk: Disk, stop_at: u64, seed: u64, promised: &mut Promised) -> (Disk, bool) {
    let end = |world: &World| if seed.is_multiple_of(3) { world.kill(seed) } else { world.cut(seed) };
    let mut world = World::new(disk);
    world.plan.stop_at = Some(stop_at);
    match Node::start(world, small()) {
        Err(NotUp::PowerFailed(world)) => (end(&world), false),
        Err(NotUp::Error(error)) => panic!("does not start by itself: {error}"),
        Ok(mut node) => {
            check(&mut node, promised);
            let ended = life(&mut node, promised, seed % 3);
            (end(&node.world), ended)
        }
    }
}

fn scenario(stop_at: u64, seed: u64) -> bool {
    let mut promised = Promised::nothing();
    let (disk, ended) = run(Disk::default(), stop_at, seed, &mut promised);
    // The power fails twice more on the way up, or soon after.
    let (disk, _) = run(disk, Random(stop_at ^ seed).next() % 40, seed + 1, &mut promised);
    let (disk, _) = run(disk, Random(stop_at + seed).next() % 80, seed + 2, &mut promised);
    // What a start has told is promised, even if the power fails before it wrote anything.
    let mut node = Node::try_open(disk, small()).unwrap();
    check(&mut node, &mut promised);
    let (disk, lived) = run(node.world.cut(seed), u64::MAX, seed, &mut promised);
    assert!(lived);
    let mut node = Node::try_open(disk, small()).unwrap();
    check(&mut node, &mut promised);
    ended
}

#[test]
fn h80_at_every_operation() {
    for seed in 0..6 {
        // Half of the seeds at every other operation.
        let mut stop_at = seed / 3;
        while !scenario(stop_at, seed) {
            stop_at += 1 + seed / 3;
        }
        assert!(stop_at > 80, "the life has operations: {stop_at}");
    }
}

/// All subsets of the sectors of the last write.
#[test]
fn h81_every_subset_of_the_last_writes_sectors() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    node.append(2, 1, 100).unwrap();
    assert!(node.run());
    // The write of eight sectors is on its way when the power fails.
    node.world.plan.hold = Some(|op| matches!(op, kontiki_io::Op::Write { .. }));
    node.append(4, 1, 900).unwrap();
    node.run();
    let intact = node.world.cut(1);
    for subset in 0..1u64 << 8 {
        let disk = cut_by(&node.world, subset);
        let mut after = Node::try_open(disk, small()).unwrap();
        assert_eq!(after.last(), if subset == 0xff { 6 } else { 2 });
        assert_eq!((after.report.damage, after.hard_state.recovering), (None, false));
        let last = after.last();
        check_payloads(&after.read_all(1, last).unwrap());
        after.append(1, 2, 10).unwrap();
        let mut again = Node::try_open(after.close(), small()).unwrap();
        assert_eq!(again.last(), last + 1);
        assert_eq!(again.read_all(last + 1, last + 1).unwrap()[0].1, 2);
    }
    assert_eq!(Node::try_open(intact, small()).unwrap().last(), 6);
}

/// The disk after a cut of which `subset` says, bit by bit, what reached the medium.
fn cut_by(world: &World, subset: u64) -> Disk {
    let mut at = 0;
    world.cut_with(&mut || {
        at += 1;
        at > 64 || subset >> (at - 1) & 1 == 1
    })
}

/// Closing in order is one more update of the hard state.
#[test]
fn while_closing() {
    for stop in 0.. {
        let mut promised = Promised::nothing();
        let mut node = Node::try_open(Disk::default(), small()).unwrap();
        check(&mut node, &mut promised);
        assert!(life(&mut node, &mut promised, 1));
        node.world.plan.stop_at = Some(node.world.done + stop);
        node.wal.close(&mut node.world);
        while let Some(completion) = node.world.step() {
            node.complete(completion);
        }
        for seed in 0..8 {
            check(&mut Node::try_open(node.world.cut(seed), small()).unwrap(), &mut promised.clone());
        }
        if node.wal.closed() {
            assert!(stop > 4);
            break;
        }
    }
}

/// Behind damage lie abandoned segments. They are released with what came before them, and whenever the power fails
/// on the way, none of their entries comes back.
#[test]
fn h88_abandoned_segments_are_released() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    for _ in 0..30 {
        node.append(1, 1, 7000).unwrap();
        assert!(node.run());
    }
    let mut disk = node.close();
    disk.flip("log-0000000000000002.seg", 4096 + 100, 0);
    let mut node = Node::try_open(disk, small()).unwrap();
    let kept = node.last();
    assert!(node.report.damage.is_some() && kept > 3);
    // Another leader's entries take the place of what was damaged.
    for _ in 0..12 {
        node.append(1, 2, 7000).unwrap();
        assert!(node.run());
    }
    let disk = node.close();
    for stop in 0.. {
        let mut world = World::new(disk.clone());
        let mut node = Node::start(std::mem::replace(&mut world, World::new(Disk::default())), small()).unwrap();
        let (first, last) = (node.wal.first_index(), node.last());
        assert_eq!((first.0, last), (1, kept + 12));
        node.run();
        let files = node.world.disk.names().len();
        node.world.plan.stop_at = Some(node.world.done + stop);
        node.wal.release(kontiki_core::LogIndex(last)).unwrap();
        let done = node.run();
        for seed in 0..6 {
            let mut after = Node::try_open(node.world.cut(seed), small()).unwrap();
            assert_eq!((after.report.damage, after.report.dropped_tail_bytes, after.last()), (None, 0, last), "stop {stop}, seed {seed}");
            let first = after.wal.first_index().0;
            let read = after.read_all(first, last).unwrap();
            check_payloads(&read);
            assert!(read.iter().all(|(index, term, _)| *term == if *index > kept { 2 } else { 1 }));
        }
        if done {
            assert!(node.world.disk.names().len() < files, "the abandoned ones are gone");
            assert!(stop > 6);
            break;
        }
    }
}

/// What is released is gone or is there, never in part: the power fails at every operation of it, and nothing released
/// is a start like any other.
#[test]
fn h54_released_and_cut() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    assert_eq!(node.wal.release(kontiki_core::LogIndex(0)), None);
    assert_eq!(Node::try_open(node.world.cut(1), small()).unwrap().last(), 0);
    for _ in 0..30 {
        node.append(1, 1, 7000).unwrap();
        assert!(node.run());
    }
    let disk = node.close();
    for upto in [0, 1, 15, 30] {
        for stop in 0.. {
            let mut node = Node::try_open(disk.clone(), small()).unwrap();
            node.run();
            node.world.plan.stop_at = Some(node.world.done + stop);
            node.wal.release(kontiki_core::LogIndex(upto));
            let done = node.run();
            for seed in 0..4 {
                let mut after = Node::try_open(node.world.cut(seed), small()).unwrap();
                let first = after.wal.first_index().0;
                assert!(first <= upto + 1, "stop {stop}, seed {seed}");
                assert_eq!((after.report.damage, after.last()), (None, 30), "{upto} released, stop {stop}, seed {seed}");
                check_payloads(&after.read_all(first, 30).unwrap());
                after.append(1, 2, 10).unwrap();
                assert!(after.run());
            }
            if done {
                break;
            }
        }
    }
}

/// The vote is rewritten with every start and every stop, and stands beside a log that moves on, is released and
/// recycled.
#[test]
fn h03_a_vote_outlives_rotation_release_and_restarts() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    node.save(5, 2);
    assert!(node.run());
    for round in 0..30 {
        for _ in 0..3 {
            node.append(1, 1, 7000).unwrap();
        }
        assert!(node.run());
        node.wal.release(kontiki_core::LogIndex(node.acked().unwrap()));
        for released in [false, true] {
            let cut = Node::try_open(node.world.cut(round), small()).unwrap();
            assert_eq!((cut.hard_state.term.0, cut.hard_state.vote.unwrap().0), (5, 2), "round {round}, released {released}");
            assert!(node.run());
        }
        if round % 5 == 4 {
            node = Node::try_open(node.close(), small()).unwrap();
            assert_eq!((node.hard_state.term.0, node.hard_state.vote.map(|vote| vote.0)), (5, Some(2)), "round {round}");
        }
    }
    assert!(node.wal.first_index().0 > 60);
}

/// The power fails while what a recovery put aside is let go of: the log still begins where it did. (A file put aside
/// that were found to be the oldest would be taken for the log's beginning: seed 43 of the simulation.)
#[test]
fn evidence_goes_without_being_taken_for_the_log() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    for _ in 0..60 {
        node.append(1, 1, 2500).unwrap();
        assert!(node.run());
    }
    let mut damaged = node.close();
    let oldest = damaged.names().into_iter().find(|name| name.starts_with("log-")).unwrap();
    // Nothing of the log can be taken: all of it is put aside, and fetched again.
    damaged.flip(&oldest, 50, 1);
    for seed in 0..4 {
        let mut stop_at = 0;
        let ended = |stop_at: u64| {
            let mut node = Node::try_open(damaged.clone(), small()).unwrap();
            assert_eq!((node.last(), node.hard_state.recovering), (0, true));
            for _ in 0..60 {
                node.append(1, 2, 2500).unwrap();
            }
            assert!(node.run());
            node.save(2, 1);
            node.world.plan.stop_at = Some(node.world.done + stop_at);
            let ended = node.run();
            let mut after = Node::try_open(node.world.cut(seed), small()).unwrap();
            assert_eq!(
                (after.report.damage, after.wal.first_index().0, after.last()),
                (None, 1, 60),
                "stopped at {stop_at}: {}",
                after.report
            );
            let read = after.read_all(1, 60).unwrap();
            assert!(read.iter().all(|entry| entry.1 == 2));
            ended
        };
        while !ended(stop_at) {
            stop_at += 1;
        }
        assert!(stop_at > 10, "files go one operation after another: {stop_at}");
    }
}

/// The same while the log's first segment is released, which takes along what lies aside before its successor.
#[test]
fn evidence_goes_with_a_released_segment_and_the_log_still_begins() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    for _ in 0..60 {
        node.append(1, 1, 2500).unwrap();
        assert!(node.run());
    }
    let mut damaged = node.close();
    let oldest = damaged.names().into_iter().find(|name| name.starts_with("log-")).unwrap();
    damaged.flip(&oldest, 50, 1);
    for seed in 0..4 {
        let mut stop_at = 0;
        let ended = |stop_at: u64| {
            let mut node = Node::try_open(damaged.clone(), small()).unwrap();
            for _ in 0..60 {
                node.append(1, 2, 2500).unwrap();
            }
            assert!(node.run());
            // The node is still recovering: nothing goes but by the release.
            node.wal.release(LogIndex(40)).expect("a segment is released");
            node.world.plan.stop_at = Some(node.world.done + stop_at);
            let ended = node.run();
            let after = Node::try_open(node.world.cut(seed), small()).unwrap();
            let report = &after.report;
            assert_eq!((report.damage, after.last()), (None, 60), "stopped at {stop_at}: {report}");
            assert!(after.wal.first_index().0 <= 41, "stopped at {stop_at}: {report}");
            ended
        };
        while !ended(stop_at) {
            stop_at += 1;
        }
        assert!(stop_at > 10, "files go one operation after another: {stop_at}");
    }
}

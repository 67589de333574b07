//! The power fails between any two operations, and any subset of unflushed sectors, names and lengths is lost:
//! the log starts again by itself, and holds everything that was acknowledged. H02, H03, H54, H80, H81, H88.
#![allow(clippy::unwrap_used)]

mod support;

use support::life::{Promised, check, life, small};
use support::{Disk, Node, NotUp, Random, World, check_payloads};

/// Starts on `disk` and lives until the power fails at operation `stop_at`, or to the end.
fn run(disk: Disk, stop_at: u64, seed: u64, promised: &mut Promised) -> (Disk, bool) {
    let mut world = World::new(disk);
    world.plan.stop_at = Some(stop_at);
    match Node::start(world, small()) {
        Err(NotUp::PowerFailed(world)) => (world.cut(seed), false),
        Err(NotUp::Error(error)) => panic!("does not start by itself: {error}"),
        Ok(mut node) => {
            check(&mut node, promised);
            let ended = life(&mut node, promised, seed % 3);
            (node.world.cut(seed), ended)
        }
    }
}

fn scenario(stop_at: u64, seed: u64) -> bool {
    let mut promised = Promised::nothing();
    let (disk, ended) = run(Disk::default(), stop_at, seed, &mut promised);
    // The power fails twice more on the way up, or soon after.
    let (disk, _) = run(disk, Random(stop_at ^ seed).next() % 40, seed + 1, &mut promised);
    let (disk, _) = run(disk, Random(stop_at + seed).next() % 80, seed + 2, &mut promised);
    let (disk, lived) = run(disk, u64::MAX, seed, &mut promised);
    assert!(lived);
    let mut node = Node::try_open(disk, small()).unwrap();
    check(&mut node, &mut promised);
    ended
}

#[test]
fn at_every_operation() {
    for seed in 0..8 {
        // Half of the seeds at every other operation.
        let mut stop_at = seed / 4;
        while !scenario(stop_at, seed) {
            stop_at += 1 + seed / 4;
        }
        assert!(stop_at > 80, "the life has operations: {stop_at}");
    }
}

/// H81: all subsets of the sectors of the last write.
#[test]
fn every_subset_of_the_last_writes_sectors() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    node.append(2, 1, 100).unwrap();
    assert!(node.run());
    // The write is on its way when the power fails. The first and last sectors of a frame, where it has bytes at all.
    node.world.plan.hold = Some(|op| matches!(op, kontiki_io::Op::Write { .. }));
    node.append(5, 1, 1000).unwrap();
    node.run();
    let intact = node.world.cut(1);
    for subset in 0..1u64 << 11 {
        let disk = cut_by(&node.world, subset);
        let mut after = Node::try_open(disk, small()).unwrap();
        let whole = after.last() == 7;
        assert!(whole || after.last() == 2);
        assert_eq!((after.report.damage, after.hard_state.recovering), (None, false));
        let last = after.last();
        check_payloads(&after.read_all(1, last).unwrap());
        after.append(1, 2, 10).unwrap();
        let mut again = Node::try_open(after.close(), small()).unwrap();
        assert_eq!(again.last(), last + 1);
        assert_eq!(again.read_all(last + 1, last + 1).unwrap()[0].1, 2);
    }
    assert_eq!(Node::try_open(intact, small()).unwrap().last(), 7);
}

/// The disk after a cut of which `subset` says, bit by bit, what reached the medium.
fn cut_by(world: &World, subset: u64) -> Disk {
    let mut at = 0;
    world.cut_with(&mut || {
        at += 1;
        at > 64 || subset >> (at - 1) & 1 == 1
    })
}

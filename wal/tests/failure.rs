//! Operations fail: the log stops at once, acknowledges nothing more, and starts again with everything it promised.
//! H83, H37.
#![allow(clippy::unwrap_used)]

mod support;

use kontiki_io::{IoErrorKind, Op};
use kontiki_wal::WalError;
use support::life::{Promised, check, life, small};
use support::{Disk, Node, NotUp, World};

/// What changes the medium, or makes a change durable.
fn changes(op: &Op) -> bool {
    !matches!(op, Op::Read { .. } | Op::List { .. } | Op::Identify { .. } | Op::Close { .. })
}

/// Fails change number `at`. False if there are not so many.
fn scenario(at: u64, seed: u64, kind: IoErrorKind) -> bool {
    let mut promised = Promised::nothing();
    let mut world = World::new(Disk::default());
    world.fail(at, kind, changes);
    let world = match Node::start(world, small()) {
        Ok(mut node) => {
            check(&mut node, &mut promised);
            if life(&mut node, &mut promised, seed) {
                return false;
            }
            let Some(error) = node.wal.poisoned().cloned() else { panic!("change {at} failed unnoticed: {:?}", node.world.log.last()) };
            assert!(!matches!(error, WalError::Options { .. }), "{error}");
            stays_poisoned(&mut node);
            node.world
        }
        Err(NotUp::Error(error)) => {
            let told = matches!(
                error,
                WalError::Io { .. }
                    | WalError::Directory { .. }
                    | WalError::Permission { .. }
                    | WalError::DiskFull { .. }
                    | WalError::Locked { .. }
            );
            assert!(told, "{error}");
            return true;
        }
        Err(NotUp::PowerFailed(_)) => unreachable!("no power cut was asked for"),
    };
    // Killed with its caches, and by a power cut right after.
    for disk in [world.cut(0), world.cut(seed + 2), world.disk] {
        let mut node = Node::try_open(disk, small()).unwrap();
        check(&mut node, &mut promised.clone());
        node.append(1, promised.states.last().unwrap().0.max(1), 10).unwrap();
        assert!(node.run());
    }
    true
}

fn stays_poisoned(node: &mut Node) {
    let (log, hard) = (node.log_durable, node.hard_durable.len());
    let outstanding = node.world.outstanding();
    assert!(!node.wal.can_append(4096));
    node.save(1 << 40, 1);
    node.run();
    assert_eq!((node.log_durable, node.hard_durable.len()), (log, hard), "nothing becomes durable after a failure");
    assert!(node.world.outstanding() <= outstanding, "nothing is written after a failure");
}

#[test]
fn h83_every_change_fails_once() {
    for seed in 0..3 {
        let mut at = 0;
        while scenario(at, seed, IoErrorKind::Device) {
            at += 1;
        }
        assert!(at > 80, "a life has changes: {at}");
    }
}

/// A log write that finds no space is a failed write like any other: its space had been reserved.
#[test]
fn h86_a_full_disk_where_space_was_reserved() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    node.world.fail(1, IoErrorKind::Full, |op| matches!(op, Op::Write { durable: true, .. }));
    node.append(1, 1, 10).unwrap();
    node.run();
    assert!(matches!(node.wal.poisoned(), Some(WalError::DiskFull { .. })));
    stays_poisoned(&mut node);
}

/// A failed write among several in flight: what completes after it counts for nothing, what completed before it stays.
#[test]
fn h37_writes_around_a_failed_one() {
    let options = kontiki_wal::Options { writes_in_flight: 4, max_write_bytes: 4096, ..small() };
    let mut node = Node::try_open(Disk::default(), options).unwrap();
    node.append(1, 1, 10).unwrap();
    node.run();
    let before = node.log_durable;
    node.world.plan.hold = Some(|op| matches!(op, Op::Write { durable: true, .. }));
    for _ in 0..4 {
        node.append(1, 1, 10).unwrap();
    }
    node.run();
    let third = node.world.release(2);
    node.complete(third);
    node.world.fail(0, IoErrorKind::Device, |op| matches!(op, Op::Write { .. }));
    let first = node.world.release(0);
    node.complete(first);
    node.world.plan.fail = None;
    while node.world.outstanding() > 0 {
        let other = node.world.release(0);
        node.complete(other);
    }
    assert_eq!(node.log_durable, before);
}

/// An update of the hard state that was half done when the log failed stays half done, and unanswered.
#[test]
fn a_hard_state_under_way_when_the_log_fails() {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    node.run();
    node.world.plan.hold = Some(|op| matches!(op, Op::Write { durable: true, .. }));
    node.save(5, 1);
    node.append(1, 1, 10).unwrap();
    node.run();
    assert_eq!(node.world.held.len(), 3, "a copy, a header, a frame");
    node.world.fail(0, IoErrorKind::Device, |op| matches!(op, Op::Write { .. }));
    let header = node.world.release(1);
    node.complete(header);
    assert!(node.wal.poisoned().is_some());
    let copy = node.world.release(0);
    node.complete(copy);
    assert_eq!((node.world.outstanding(), node.hard_durable.len()), (1, 0), "only the frame's write is outstanding");
}

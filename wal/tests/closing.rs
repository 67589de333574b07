//! A log that is ended in order, whatever is under way: its own writes are done, the end is noted, everything is
//! closed.
#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::LogIndex;
use kontiki_io::{IoErrorKind, Op};
use kontiki_wal::{HardState, Medium, Opening, Options, WalError};
use support::{Disk, Node, World, check_payloads, options};

/// Where the hard state says that the log ended when it was closed in order.
fn noted(disk: &Disk) -> u64 {
    let bytes = disk.contents("hard-state");
    u64::from_le_bytes(bytes[88..96].try_into().unwrap())
}

fn is_durable_write(op: &Op) -> bool {
    matches!(op, Op::Write { durable: true, .. })
}

/// Goes on until nothing happens by itself.
fn run(node: &mut Node) {
    while let Some(completion) = node.world.step() {
        node.complete(completion);
        node.wal.pump(&mut node.world);
    }
}

/// What was held happens, and the log is closed.
fn release(mut node: Node) -> (Node, Disk) {
    node.world.plan.hold = None;
    while !node.world.held.is_empty() {
        let completion = node.world.release(0);
        node.complete(completion);
        run(&mut node);
    }
    assert!(node.wal.closed(), "{:?}", node.world);
    assert_eq!(node.world.open_handles(), 0, "everything is closed");
    let disk = node.world.disk.clone();
    (node, disk)
}

/// Options under which an end that is not noted makes a node *recovering*: where the log ends, the block is not zeros.
fn strict() -> Options {
    Options { medium: Medium::Lossy, segment_bytes: 64 << 10, max_frame_bytes: 16 << 10, ..options() }
}

/// A log that ends in a recycled segment.
fn recycled() -> Node {
    let mut node = Node::try_open(Disk::default(), strict()).unwrap();
    for _ in 0..40 {
        node.append(1, 1, 7000).unwrap();
        assert!(node.run());
        node.wal.release(LogIndex(node.acked().unwrap()));
    }
    assert!(node.run());
    node
}

/// The next start takes the log for whole.
fn is_whole(disk: Disk, last: u64) {
    let mut node = Node::try_open(disk, strict()).unwrap();
    assert_eq!((node.report.damage, node.report.uncertain, node.last()), (None, false, last), "{}", node.report);
    let read = node.read_all(node.wal.first_index().0, last).unwrap();
    check_payloads(&read);
}

#[test]
fn while_log_writes_are_under_way() {
    let mut node = recycled();
    node.world.plan.hold = Some(is_durable_write);
    for _ in 0..5 {
        node.append(1, 1, 3000).unwrap();
    }
    node.wal.close(&mut node.world);
    run(&mut node);
    assert!(!node.wal.can_append(4096), "the end has begun");
    assert_eq!(noted(&node.world.disk), 0, "not before the writes are done");
    let (node, disk) = release(node);
    assert_eq!((node.acked(), noted(&disk)), (Some(node.last()), node.wal.durable_position()));
    is_whole(disk, 45);
}

#[test]
fn while_hard_state_writes_wait() {
    let mut node = recycled();
    node.world.plan.hold = Some(is_durable_write);
    let first = node.save(2, 1);
    node.wal.pump(&mut node.world);
    let second = node.save(3, 2);
    node.wal.close(&mut node.world);
    run(&mut node);
    let (node, disk) = release(node);
    assert_eq!((node.hard_durable.clone(), noted(&disk)), (vec![first, second], node.wal.durable_position()));
    is_whole(disk.clone(), 40);
    assert_eq!(Node::try_open(disk, strict()).unwrap().hard_state.term.0, 3);
}

/// A read that does not come back holds up the closing of the files, not the note; its buffer is given back.
#[test]
fn while_reads_are_under_way() {
    let mut node = recycled();
    node.world.plan.hold = Some(|op| matches!(op, Op::Read { .. }));
    let buf = node.pool.take().unwrap();
    node.wal.read(3, LogIndex(40), LogIndex(40), buf, &mut node.world).unwrap();
    node.wal.close(&mut node.world);
    run(&mut node);
    assert_eq!((noted(&node.world.disk), node.wal.closed()), (node.wal.durable_position(), false));
    assert!(node.wal.read(4, LogIndex(40), LogIndex(40), node.pool.take().unwrap(), &mut node.world).is_err());
    let (node, disk) = release(node);
    assert_eq!((node.reads.len(), node.pool.available()), (1, 8));
    is_whole(disk, 40);
}

/// Every step of making, recycling and removing a segment hangs in its turn: the end is noted meanwhile, and no further
/// step is begun.
#[test]
fn while_a_segment_is_prepared() {
    let steps: [fn(&Op) -> bool; 9] = [
        |op| matches!(op, Op::Open { create: true, .. }),
        |op| matches!(op, Op::Allocate { .. }),
        |op| matches!(op, Op::Write { durable: false, offset: 0, .. }),
        |op| matches!(op, Op::Sync { .. }),
        |op| matches!(op, Op::Rename { from, .. } if from.as_str() == "segment.new"),
        |op| matches!(op, Op::Rename { from, .. } if from.as_str() != "segment.new"),
        |op| matches!(op, Op::SyncDir { .. }),
        |op| matches!(op, Op::Close { .. }),
        |op| matches!(op, Op::Unlink { .. }),
    ];
    for (at, step) in steps.into_iter().enumerate() {
        let mut node = Node::try_open(Disk::default(), strict()).unwrap();
        for _ in 0..40 {
            node.append(1, 1, 7000).unwrap();
            assert!(node.run());
        }
        node.world.plan.hold = Some(step);
        // The spare is used, so that another one is made; and several segments are released, so that one is recycled and others
        // removed.
        if at >= 5 {
            node.wal.release(LogIndex(node.acked().unwrap()));
        }
        for _ in 0..40 {
            if !node.world.held.is_empty() {
                break;
            }
            node.append(1, 1, 7000);
            assert!(node.run());
        }
        let (last, end) = (node.last(), node.wal.durable_position());
        let done = node.world.log.len();
        node.wal.close(&mut node.world);
        // What is held is the step's one operation, and not the closing of files.
        node.world.plan.hold = None;
        run(&mut node);
        assert_eq!((noted(&node.world.disk), node.wal.closed()), (end, false), "step {at}");
        let (node, disk) = release(node);
        let after = &node.world.log[done..];
        let closes = after.iter().filter(|op| *op == "close").count();
        assert_eq!(after.len(), closes + 2 + usize::from(at != 7), "step {at}: two notes, the held step, and closes: {after:?}");
        is_whole(disk, last);
    }
}

#[test]
fn on_a_full_disk() {
    let mut node = recycled();
    node.world.disk.capacity = Some(0);
    while node.wal.can_append(16 << 10) {
        node.append(1, 1, 7000).unwrap();
        assert!(node.run());
    }
    let last = node.last();
    let end = node.wal.durable_position();
    let disk = node.close();
    assert_eq!(noted(&disk), end);
    is_whole(disk, last);
}

#[test]
fn while_recovering() {
    let mut node = recycled();
    let write = node.next_id();
    node.wal.save_hard_state(write, HardState { recovering: true, ..node.hard_state });
    assert!(node.run());
    let end = node.wal.durable_position();
    let disk = node.close();
    assert_eq!(noted(&disk), end);
    let node = Node::try_open(disk.clone(), strict()).unwrap();
    assert_eq!((node.report.uncertain, node.hard_state.recovering), (false, true));
    is_whole(disk, 40);
}

/// A write that fails on the way: nothing is noted, and everything is closed all the same.
#[test]
fn a_write_fails_on_the_way() {
    // The frame, and both copies of the hard state.
    for at in 0..3 {
        let mut node = recycled();
        node.world.fail(at, IoErrorKind::Device, is_durable_write);
        node.append(1, 1, 3000).unwrap();
        node.save(2, 1);
        node.wal.close(&mut node.world);
        run(&mut node);
        assert!(node.wal.closed() && node.wal.poisoned().is_some() && node.world.open_handles() == 0, "{at}: {:?}", node.world);
        assert_eq!(noted(&node.world.disk), 0, "{at}");
        Node::try_open(node.world.disk, strict()).unwrap();
    }
}

/// A start that is asked to stop after any of its operations leaves the log as it was: closed in order. The one that
/// cannot go back any more is finished, and closed.
#[test]
fn stopped_during_a_start() {
    for (what, disk, last) in [("first start", Disk::default(), 0), ("start", recycled().close(), 40)] {
        let mut given_up = 0;
        for stop_at in 0.. {
            let mut world = World::new(disk.clone());
            let mut opening = Opening::start(strict(), &mut world).unwrap();
            let mut done = 0;
            let ended = loop {
                if done == stop_at {
                    opening.stop();
                }
                match opening.poll() {
                    Ok(Some(opened)) => break Some(opened),
                    Err(WalError::Stopped) => break None,
                    Err(error) => panic!("{error}"),
                    Ok(None) if opening.wants_bases() => opening.set_bases(&[], &mut world),
                    Ok(None) => opening.on_completion(world.step().unwrap(), &mut world),
                }
                done += 1;
            };
            if let Some(opened) = ended {
                let mut wal = opened.wal;
                wal.close(&mut world);
                while let Some(completion) = world.step() {
                    wal.on_completion(completion, &mut world);
                }
                assert!(wal.closed());
            } else {
                given_up += 1;
            }
            assert_eq!((world.open_handles(), world.outstanding()), (0, 0), "{what}, stopped after {stop_at}");
            if last > 0 {
                assert_eq!(noted(&world.disk), noted(&disk), "{what}, stopped after {stop_at}");
            }
            is_whole_or_new(world.disk, last);
            if stop_at > done {
                break;
            }
        }
        assert!(given_up > 10, "{what}: {given_up}");
    }
}

fn is_whole_or_new(disk: Disk, last: u64) {
    if last > 0 {
        return is_whole(disk, last);
    }
    let node = Node::try_open(disk, strict()).unwrap();
    assert_eq!((node.last(), node.report.uncertain, node.hard_state.recovering), (0, false, false));
}

//! A killed process is told from a power cut: within one boot of the machine, with the medium in its place, all that
//! was written is there.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::LogIndex;
use kontiki_io::{Identity, Op};
use kontiki_wal::offline::{End, examine};
use kontiki_wal::{Medium, Options};
use support::{Disk, Node, NotUp, World, options};

fn lossy() -> Options {
    Options { medium: Medium::Lossy, ..options() }
}

const HERE: Identity = Identity { boot: 1, place: 10 };

/// A node on a lossy medium, in recycled segments, where a log's end is not to be told from what stood there before.
fn recycled(identity: Identity) -> Node {
    let mut node = Node::try_open(Disk::default().at(identity), lossy()).unwrap();
    for _ in 0..80 {
        node.append(2, 1, 3000).unwrap();
        node.run();
        let upto = node.last();
        node.wal.release(LogIndex(upto));
        node.run();
    }
    // The zeros that would tell it are spoilt.
    let (segment_bytes, end) = (lossy().segment_bytes, node.wal.durable_position());
    node.world.disk.flip(&format!("log-{:016x}.seg", end / segment_bytes), end % segment_bytes + 99, 3);
    node
}

#[test]
fn a_killed_process_has_lost_nothing() {
    let node = recycled(HERE);
    let last = node.last();
    let killed = node.kill();
    let mut node = Node::try_open(killed.clone(), lossy()).unwrap();
    assert_eq!((node.report.uncertain, node.hard_state.recovering, node.last()), (false, false, last), "{}", node.report);
    // It goes on where the log ends, and may be killed again.
    node.append(1, 1, 10).unwrap();
    assert!(node.run());
    let node = Node::try_open(node.kill(), lossy()).unwrap();
    assert_eq!((node.report.uncertain, node.last()), (false, last + 1));

    // The power was off, the card away, or nobody knows: what stood at the end may be lost.
    let elsewhere = [
        ("another boot", Identity { boot: 2, ..HERE }),
        ("another place", Identity { place: 11, ..HERE }),
        ("an unknown boot", Identity { boot: 0, ..HERE }),
        ("an unknown place", Identity { place: 0, ..HERE }),
        ("nothing known", Identity::default()),
    ];
    for (what, identity) in elsewhere {
        let node = Node::try_open(killed.clone().at(identity), lossy()).unwrap();
        assert_eq!((node.report.uncertain, node.hard_state.recovering, node.last()), (true, true, last), "{what}");
    }
    // Unknown twice is not the same.
    let unknown = recycled(Identity::default()).kill();
    assert!(Node::try_open(unknown, lossy()).unwrap().report.uncertain);
}

/// Who only looks says what the next start makes of it, in this boot and in another.
#[test]
fn whoever_looks_says_what_a_start_would_make_of_the_end() {
    let look = |disk: &Disk| {
        let mut read = |name: &kontiki_io::Name, offset: u64, into: &mut [u8]| {
            let bytes = disk.contents(name.as_str());
            let from = (offset as usize).min(bytes.len());
            let len = into.len().min(bytes.len() - from);
            into[..len].copy_from_slice(&bytes[from..from + len]);
            Ok::<_, ()>(len)
        };
        examine(&disk.list(), &[], &mut read, &mut |_| ()).unwrap()
    };
    let killed = recycled(HERE).kill();
    let expected = [
        (HERE, End::Killed),
        (Identity { boot: 2, ..HERE }, End::PowerCut),
        (Identity { place: 11, ..HERE }, End::PowerCut),
        (Identity { place: 0, ..HERE }, End::Unknown),
        (Identity::default(), End::Unknown),
    ];
    for (here, end) in expected {
        assert_eq!(look(&killed).end(&here), end);
        let node = Node::try_open(killed.clone().at(here), lossy()).unwrap();
        assert_eq!(node.report.uncertain, end != End::Killed, "{here:?}: what a start makes of it");
        assert_eq!(node.report.place_unknown, end == End::Unknown, "{here:?}");
        // A log that was closed in order is whole wherever it is looked at.
        assert_eq!(look(&node.close()).end(&here), End::Whole);
    }
    assert_eq!(look(&recycled(Identity::default()).kill()).end(&HERE), End::Unknown, "the last start did not know where it was");
}

/// A write under way when the process is killed reaches the disk in part, before the next start reads: it was not
/// acknowledged.
#[test]
fn a_write_torn_by_the_kill_was_not_acknowledged() {
    for seed in 0..40 {
        let mut node = recycled(HERE);
        let last = node.last();
        node.world.plan.hold = Some(|op| matches!(op, Op::Write { durable: true, .. }));
        node.append(3, 1, 3000).unwrap();
        node.run();
        assert_eq!(node.acked(), Some(last));
        let node = Node::try_open(node.world.kill(seed), lossy()).unwrap();
        assert_eq!((node.report.damage, node.report.uncertain, node.hard_state.recovering), (None, false, false), "seed {seed}");
        assert!(node.last() == last || node.last() == last + 3, "seed {seed}");
    }
}

/// The power fails after a kill has torn a write, while a start finds the log whole, or when it has: nobody doubts
/// afterwards what that start was sure of.
#[test]
fn what_a_start_is_sure_of_after_a_kill_stays_so() {
    let mut torn = 0;
    for seed in 0..20 {
        let mut node = recycled(HERE);
        let last = node.last();
        // No sector is zeros, as where a frame of a former life stood: what is torn there looks like what was lost.
        let (segment_bytes, end) = (lossy().segment_bytes, node.wal.durable_position());
        for sector in 1..8 {
            node.world.disk.flip(&format!("log-{:016x}.seg", end / segment_bytes), end % segment_bytes + 512 * sector, 3);
        }
        node.world.plan.hold = Some(|op| matches!(op, Op::Write { durable: true, .. }));
        node.append(3, 1, 3000).unwrap();
        node.run();
        let killed = node.world.kill(seed);
        torn += u32::from(Node::try_open(killed.clone(), lossy()).unwrap().report.dropped_tail_bytes > 0);
        let boot = Node::try_open(killed.clone(), lossy()).unwrap().boot;
        for stop_at in 0.. {
            let mut world = World::new(killed.clone());
            world.plan.stop_at = Some(stop_at);
            let (cut, up) = match Node::start(world, lossy()) {
                Ok(node) => (node.world.cut(stop_at % 5), true),
                Err(NotUp::PowerFailed(world)) => (world.cut(stop_at % 5), false),
                Err(NotUp::Error(error)) => panic!("{error}"),
            };
            let after = Node::try_open(cut.at(Identity { boot: 2, ..HERE }), lossy()).unwrap();
            // Its boot number is the next but one: that of the start before it was saved.
            let sure = after.boot > boot;
            assert!(!(sure && after.report.uncertain), "seed {seed}, cut at {stop_at}: {}", after.report);
            assert!(after.last() >= last || after.report.uncertain, "seed {seed}, cut at {stop_at}");
            if up {
                assert!(sure, "it had saved its own");
                break;
            }
        }
    }
    assert!(torn > 5, "{torn} writes were torn");
}

/// Within one boot, too, what was known to be durable and is not there is damage.
#[test]
fn damage_within_one_boot_is_damage() {
    let node = recycled(HERE);
    let last = node.last();
    let read = |disk: &Disk| Node::try_open(disk.clone(), lossy()).unwrap();
    let disk = node.kill();
    assert_eq!(read(&disk).last(), last);
    let newest = disk.names().into_iter().rfind(|name| name.starts_with("log-")).unwrap();
    let mut missing = disk.clone();
    missing.remove(&newest);
    assert!(read(&missing).report.damage.is_some() && read(&missing).hard_state.recovering);
    let oldest = disk.names().into_iter().find(|name| name.starts_with("log-")).unwrap();
    let mut flipped = disk;
    flipped.flip(&oldest, 4096 + 300, 1);
    assert!(read(&flipped).report.damage.is_some() && read(&flipped).hard_state.recovering);
}

/// The identity of this boot is durable before a frame of it counts: a start that is cut short leaves the one before.
#[test]
fn a_start_that_is_cut_short_vouches_for_nothing() {
    let killed = recycled(HERE).kill();
    let now = Identity { boot: 2, ..HERE };
    // The power failed; the first start after it is killed at every operation, and the next one must still look for losses.
    let mut told = 0;
    for stop in 0.. {
        let mut world = support::World::new(killed.clone().at(now));
        world.plan.stop_at = Some(stop);
        let opened = support::open(&mut world, lossy());
        let next = Node::try_open(world.disk.clone(), lossy()).unwrap();
        assert!(next.hard_state.recovering, "killed at operation {stop}");
        told += u64::from(next.report.uncertain);
        if opened.is_some() {
            break;
        }
    }
    assert!(told > 5);
}

/// A dead process's last write lands before the next start reads, which its lock sees to. It lands where nothing newer
/// was acknowledged, and is part of the log or is not. (Landing later it could take the place of an entry that the next
/// process acknowledged.)
#[test]
fn a_write_of_a_killed_process_lands_before_the_next_start() {
    for entries in [1u64, 3] {
        let mut node = Node::try_open(Disk::default().at(HERE), lossy()).unwrap();
        node.save(1, 1);
        node.append(2, 1, 500).unwrap();
        assert!(node.run());
        node.world.plan.hold = Some(|op| matches!(op, Op::Write { durable: true, .. }));
        // Entry 3 of term 1, never acknowledged.
        node.append(1, 1, 700).unwrap();
        node.run();
        // The process is killed. All of the write lands, and then the lock is free.
        let landed = node.world.cut_with(&mut || true);
        let mut next = Node::try_open(landed, lossy()).unwrap();
        assert_eq!((next.last(), next.hard_state.recovering), (3, false));
        next.save(2, 3);
        // A leader of term 2 supersedes it.
        assert!(next.try_append(3, 1, 2, 1, 700).is_some());
        assert!(next.run());
        for _ in 1..entries {
            next.append(1, 2, 700).unwrap();
            assert!(next.run());
        }
        let acked = next.acked().unwrap();
        assert_eq!(acked, 2 + entries);
        let mut after = Node::try_open(next.kill(), lossy()).unwrap();
        let read = after.read_all(1, acked).unwrap();
        let terms: Vec<u64> = read.iter().map(|entry| entry.1).collect();
        assert_eq!((after.last(), &terms[..2], terms[2..].iter().all(|term| *term == 2)), (acked, &[1, 1][..], true));
    }
}

/// The lock keeps it from coming so late. Should it come all the same, after the next process has acknowledged other
/// entries in its place, these are gone, and that is noticed.
#[test]
fn a_write_of_a_killed_process_that_lands_after_the_next_start_is_damage() {
    for medium in [Medium::Safe, Medium::Lossy] {
        for entries in [1u64, 3] {
            let options = || Options { medium, ..options() };
            let mut node = Node::try_open(Disk::default().at(HERE), options()).unwrap();
            node.save(1, 1);
            node.append(2, 1, 500).unwrap();
            assert!(node.run());
            let before = node.world.disk.clone();
            node.world.plan.hold = Some(|op| matches!(op, Op::Write { durable: true, .. }));
            // Entry 3 of term 1, never acknowledged.
            node.append(1, 1, 700).unwrap();
            node.run();
            let Some((_, Op::Write { offset, data, .. })) = node.world.held.first() else { panic!("a write") };
            let (offset, late) = (*offset as usize, data.bytes().to_vec());
            let mut next = Node::try_open(before, options()).unwrap();
            next.save(2, 3);
            for _ in 0..entries {
                next.append(1, 2, 700).unwrap();
                assert!(next.run());
            }
            assert_eq!(next.acked(), Some(2 + entries));
            let mut disk = next.kill();
            // As long as nothing lands, nothing is doubted: of neither process.
            let node = Node::try_open(disk.clone(), options()).unwrap();
            assert_eq!((node.report.damage, node.hard_state.recovering, node.last()), (None, false, 2 + entries), "{medium:?}, {entries}");
            disk.patch("log-0000000000000001.seg", offset as u64, |place| place.iter_mut().zip(&late).for_each(|(to, from)| *to = *from));
            let node = Node::try_open(disk, options()).unwrap();
            assert!(node.report.damage.is_some() && node.hard_state.recovering, "{medium:?}, {entries}: {}", node.report);
            assert_eq!(node.last(), 2, "what the dead one wrote counts for nothing");
        }
    }
}

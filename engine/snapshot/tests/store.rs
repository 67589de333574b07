//! A store of snapshots: what is written is read back, what is kept, what a damaged one comes to.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::LogIndex;
use kontiki_io::IoErrorKind;
use kontiki_snapshot::limits::{CHUNK_BYTES, DATA_BYTES, MIN_RESERVE_BYTES};
use kontiki_snapshot::{Expected, Flaw, Making, ReadError, Refused, StoreError, names};
use support::{CHUNK, Disk, Node, World, base, state};

#[test]
fn what_is_written_is_read_back() {
    let mut node = Node::open(Disk::default());
    for (index, bytes) in [(5, 0), (6, 1), (7, DATA_BYTES), (8, DATA_BYTES + 1), (9, 1_000_000)] {
        let info = node.write(index, bytes).unwrap();
        assert_eq!((info.base(), info.sections.machine), (base(index), bytes as u64));
        assert_eq!(info.bytes, CHUNK * (2 + bytes.div_ceil(DATA_BYTES) as u64));
        assert_eq!(node.machine(info.digest).unwrap(), state(index, bytes));
    }
    let mut node = Node::open(node.close());
    assert_eq!(node.indexes(), [9, 8]);
    let digest = node.store.newest_full().unwrap().digest;
    assert_eq!(node.machine(digest).unwrap(), state(9, 1_000_000));
}

#[test]
fn the_newest_two_are_kept_and_the_log_may_go_up_to_the_older() {
    let mut node = Node::open(Disk::default());
    assert_eq!(node.store.release_upto(true), None);
    node.write(10, 100).unwrap();
    assert_eq!(node.store.release_upto(true), None, "what comes before the only one is the log's beginning");
    for index in [20, 30, 40] {
        node.write(index, 100).unwrap();
        node.run();
        assert_eq!(node.indexes(), [index, index - 10]);
        assert_eq!(node.store.release_upto(true), Some(base(index - 10)));
    }
    assert_eq!(node.begin(40), Err(Refused::NotNewer(base(40))));
    assert_eq!(node.begin(35), Err(Refused::NotNewer(base(40))));
    let disk = node.close();
    assert_eq!(disk.names(), ["snapshot-000000000000001e.ksn", "snapshot-0000000000000028.ksn"]);
}

#[test]
fn what_is_being_sent_stays() {
    let mut node = Node::open(Disk::default());
    let first = node.write(10, 200_000).unwrap();
    assert!(node.store.hold(first.digest));
    for index in [20, 30, 40] {
        node.write(index, 100).unwrap();
        node.run();
    }
    assert_eq!(node.indexes(), [40, 30, 10]);
    assert_eq!(node.store.release_upto(true), Some(base(30)));
    assert_eq!(node.machine(first.digest).unwrap(), state(10, 200_000));
    node.store.unhold(first.digest);
    node.run();
    assert_eq!(node.indexes(), [40, 30]);
    assert!(!node.store.hold(first.digest));
}

#[test]
fn a_damaged_one_is_none_and_goes_once_there_are_two_again() {
    let mut node = Node::open(Disk::default());
    node.write(10, 300_000).unwrap();
    node.write(20, 300_000).unwrap();
    let disk = node.close();
    // At its beginning or its end a start sees it; in between whoever reads it.
    let newest = names::snapshot(LogIndex(20));
    for offset in [100, disk.len(newest.as_str()) - CHUNK + 70] {
        let mut disk = disk.clone();
        disk.flip(newest.as_str(), offset, 3);
        let node = Node::open(disk);
        assert_eq!(node.indexes(), [10]);
        assert_eq!(node.store.damaged().next(), Some((newest.clone(), Flaw::Damaged)));
    }
    let mut disk = disk.clone();
    disk.flip(newest.as_str(), 2 * CHUNK + 5000, 0);
    let mut node = Node::open(disk);
    assert_eq!(node.indexes(), [20, 10]);
    let digest = node.store.newest_full().unwrap().digest;
    assert_eq!(node.machine(digest), Err(ReadError::Damaged { chunk: 2, flaw: Flaw::Damaged }));
    assert_eq!((node.indexes(), node.damaged.len()), (vec![10], 1));
    assert_eq!(node.store.release_upto(true), None, "what the older one presupposes is still needed");
    let digest = node.store.newest_full().unwrap().digest;
    assert_eq!(node.machine(digest).unwrap(), state(10, 300_000));
    node.write(30, 10).unwrap();
    node.run();
    assert_eq!(node.indexes(), [30, 10]);
    assert_eq!(node.close().names().len(), 2, "the damaged one is gone");
}

/// Intact chunks that belong elsewhere: a write that went astray, or a block of a file that had the place before.
#[test]
fn what_belongs_elsewhere_is_not_given_out() {
    let mut node = Node::open(Disk::default());
    node.write(10, 300_000).unwrap();
    let info = node.write(20, 300_000).unwrap();
    let disk = node.close();
    let [older, newest] = [10, 20].map(|index| disk.contents(names::snapshot(LogIndex(index)).as_str()));
    let cases = [(&older, 2, Flaw::OtherSnapshot), (&newest, 3, Flaw::OtherPlace { found: 3 })];
    for (source, from, flaw) in cases {
        let mut disk = disk.clone();
        for block in 0..CHUNK_BYTES / 4096 {
            let bytes = &source[from * CHUNK_BYTES + block * 4096..][..4096];
            disk.patch("snapshot-0000000000000014.ksn", 2 * CHUNK + block as u64 * 4096, |place| place[..4096].copy_from_slice(bytes));
        }
        let mut node = Node::open(disk);
        assert_eq!(node.machine(info.digest), Err(ReadError::Damaged { chunk: 2, flaw }));
        assert_eq!(node.indexes(), [10]);
    }
}

/// However many are damaged: they are passed over, and a new one is made.
#[test]
fn a_directory_full_of_damage_is_gone_on_from() {
    let mut node = Node::open(Disk::default());
    let mut disks = Vec::new();
    for index in 1..=20 {
        node.write(index, 10).unwrap();
        node.run();
        disks.push(names::snapshot(LogIndex(index)));
    }
    let mut disk = node.close();
    let last = disk.contents(disks[19].as_str());
    for name in &disks {
        let (file, length) = disk.open(name, false).or_else(|_| disk.open(name, true)).unwrap();
        disk.allocate(file, last.len() as u64).unwrap();
        if length == 0 {
            disk.write(file, 0, &last, true, &mut |_| true);
        }
        disk.sync(file);
    }
    disk.sync_dir();
    // What lies under the other names is the last one's content: not what they say.
    let mut node = Node::open(disk.clone());
    assert_eq!(node.indexes(), [20, 19]);
    node.run();
    assert_eq!(node.close().names().len(), 2, "what is older goes");
    for name in ["snapshot-0000000000000014.ksn", "snapshot-0000000000000013.ksn"] {
        disk.flip(name, 100, 1);
    }
    let mut node = Node::open(disk);
    assert_eq!((node.indexes(), node.store.damaged().count()), (vec![], 20));
    for index in [30, 31] {
        node.write(index, 100).unwrap();
        node.run();
    }
    assert_eq!((node.indexes(), node.store.damaged().count()), (vec![31, 30], 0));
    assert_eq!(node.close().names().len(), 2);
}

/// What is being sent turns out damaged: it is let go of all the same.
#[test]
fn what_is_held_and_damaged_can_be_let_go_of() {
    let mut node = Node::open(Disk::default());
    let first = node.write(10, 300_000).unwrap();
    assert!(node.store.hold(first.digest));
    node.store.condemn(first.digest, Flaw::Damaged);
    assert!(!node.store.hold(first.digest), "not anew");
    for index in [20, 30] {
        node.write(index, 10).unwrap();
        node.run();
    }
    assert_eq!(node.store.damaged().count(), 1);
    node.store.unhold(first.digest);
    node.run();
    assert_eq!((node.store.damaged().count(), node.close().names().len()), (0, 2));
}

/// The same entry again, in full where it was small: the file takes the other's place, under the other's name.
#[test]
fn a_file_may_take_the_place_of_another_of_the_same_entry() {
    let mut node = Node::open(Disk::default());
    let small = Making { base: base(10), full: false, ..Making::default() };
    node.store.begin(small, &node.world).unwrap();
    assert!(node.store.finish());
    node.run();
    assert_eq!(node.written.len(), 1);
    assert_eq!(node.store.newest_full(), None);
    let info = node.write(10, 5000).unwrap();
    node.run();
    assert_eq!(node.indexes(), [10]);
    let mut node = Node::open(node.close());
    assert_eq!(node.machine(info.digest).unwrap(), state(10, 5000));
}

#[test]
fn another_clusters_or_a_later_formats_snapshot_stops_the_start() {
    let mut node = Node::open(Disk::default());
    node.write(10, 10).unwrap();
    let disk = node.close();
    let name = names::snapshot(LogIndex(10));
    let start = |disk: Disk| match Node::start(World::new(disk)) {
        Err(error) => error,
        Ok(_) => panic!("it starts"),
    };
    let whole = disk.contents(name.as_str());
    let with = |change: &dyn Fn(&mut [u8])| {
        let mut disk = disk.clone();
        let mut chunk = whole[..CHUNK_BYTES].to_vec();
        change(&mut chunk);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&chunk[..4]);
        crc.update(&chunk[8..]);
        let crc = crc.finalize().to_le_bytes();
        chunk[4..8].copy_from_slice(&crc);
        for (at, part) in chunk.chunks(4096).enumerate() {
            disk.patch(name.as_str(), at as u64 * 4096, |bytes| bytes[..4096].copy_from_slice(part));
        }
        disk
    };
    assert_eq!(start(with(&|chunk| chunk[8] = 9)), StoreError::NewerFormat { name: name.clone(), found: 9 });
    let foreign = Node::open(Disk::default());
    let mut world = World::new(disk.clone());
    let other = kontiki_snapshot::Options { cluster: kontiki_core::ClusterId(7), ..support::options() };
    let mut opening = kontiki_snapshot::Opening::start(other, &mut world);
    let error = loop {
        match opening.poll() {
            Err(error) => break error,
            Ok(None) => {}
            Ok(Some(_)) => panic!("it opens"),
        }
        let completion = world.step().unwrap();
        opening.on_completion(completion, &mut world);
    };
    assert_eq!(error, StoreError::Foreign { name });
    assert_eq!(foreign.close().names().len(), 0);
}

#[test]
fn space_for_the_next_one_is_set_aside_and_written_into() {
    let mut node = Node::open(Disk::default());
    node.run();
    assert_eq!(node.store.reserved_bytes(), 0, "nobody expects one");
    node.store.expect(Some(Expected::Full(0)));
    node.run();
    assert_eq!(node.store.reserved_bytes(), MIN_RESERVE_BYTES);
    node.store.expect(Some(Expected::Full(4_000_000)));
    node.run();
    let reserved = node.store.reserved_bytes();
    assert!((5_000_000..5_400_000).contains(&reserved), "{reserved}");
    // The disk is full but for that.
    node.world.disk.capacity = Some(reserved);
    node.write(10, 4_500_000).unwrap();
    assert!(node.gave_up.is_empty());
    node.world.disk.capacity = None;
    node.run();
    let after = node.store.reserved_bytes();
    assert!(after >= 4_500_000 / 4 * 5, "a quarter more than the last one: {after}");
    let node = Node::open(node.close());
    assert_eq!(node.store.reserved_bytes(), after, "it is there at the next start");
}

/// A machine that thinks that it needs more than there is, or most of it, leaves the others theirs.
#[test]
fn what_a_machine_thinks_takes_no_more_than_a_share_of_the_disk() {
    for hint in [900_000_000, 1 << 40, u64::MAX] {
        let mut node = Node::open(Disk::default());
        node.world.disk.capacity = Some(800_000_000);
        node.world.plan.patient = false;
        node.store.expect(Some(Expected::Full(hint)));
        node.run();
        assert_eq!((node.store.lacking(), node.store.has_space()), (None, true), "{hint}");
        let reserved = node.store.reserved_bytes();
        assert!((200_000_000..260_000_000).contains(&reserved), "{hint}: {reserved}");
        // It says so before each, and what is set aside does not grow with that.
        for index in [10, 20, 30] {
            node.write(index, 100_000).unwrap();
            node.store.expect(Some(Expected::Full(hint)));
            node.run();
            assert!(node.store.has_space() && node.store.reserved_bytes() < 260_000_000, "{hint}: {}", node.store.reserved_bytes());
        }
    }
}

/// However long the full ones are that are made in between for others.
#[test]
fn little_space_is_set_aside_for_a_small_one() {
    let mut node = Node::open(Disk::default());
    node.store.expect(Some(Expected::Small));
    node.run();
    assert_eq!(node.store.reserved_bytes(), MIN_RESERVE_BYTES);
    let small = node.write_small(10).unwrap();
    assert_eq!((small.bytes, small.head.full), (2 * CHUNK_BYTES as u64, false));
    node.write(20, 5_000_000).unwrap();
    node.run();
    assert_eq!(node.store.reserved_bytes(), MIN_RESERVE_BYTES);
    node.write_small(30).unwrap();
    node.write_small(40).unwrap();
    // The disk is full but for that and the two that are kept.
    node.world.disk.capacity = Some(MIN_RESERVE_BYTES + 2 * small.bytes);
    for index in [50, 60, 70] {
        node.write_small(index).unwrap();
        assert_eq!((node.store.has_space(), node.store.lacking()), (true, None));
    }
    assert!(node.gave_up.is_empty() && node.indexes() == [70, 60]);
}

/// A machine that needs its state in them lets go of nothing for small ones; one that does not, for either kind.
#[test]
fn what_the_log_may_be_let_go_of_depends_on_whose_state_is_needed() {
    let mut node = Node::open(Disk::default());
    let mut seen = Vec::new();
    for step in [10, 20, 31, 40, 51, 61] {
        if step % 10 == 0 {
            node.write_small(step).unwrap();
        } else {
            node.write(step, 100).unwrap();
        }
        node.run();
        let index = |full_only| node.store.release_upto(full_only).map(|base| base.index.0);
        seen.push((index(true), index(false)));
    }
    let (none, some) = (None, Some);
    assert_eq!(seen, [(none, none), (none, some(10)), (none, some(20)), (none, some(31)), (none, some(40)), (some(51), some(51))]);
    assert_eq!(node.store.bases(), [base(61), base(51)]);
}

#[test]
fn where_space_is_too_little_the_older_one_is_given_up() {
    let mut node = Node::open(Disk::default());
    node.write(10, 1_000_000).unwrap();
    node.write(20, 1_000_000).unwrap();
    node.run();
    // Room for half of another one.
    node.world.disk.capacity = Some(2_800_000);
    node.write(30, 1_200_000).unwrap();
    assert_eq!(node.gave_up, [10]);
    assert_eq!(node.indexes(), [30, 20]);
    // Not even that helps: all is as it was.
    assert!(node.write(40, 8_000_000).is_none());
    assert!(matches!(&node.not_written[..], [StoreError::Full { .. }]), "{:?}", node.not_written);
    assert_eq!((node.gave_up.clone(), node.indexes()), (vec![10, 20], vec![30]));
    assert_eq!(node.store.release_upto(true), Some(base(30)), "the log may go on from the only one");
    node.run();
    let digest = node.store.newest_full().unwrap().digest;
    assert_eq!(node.machine(digest).unwrap(), state(30, 1_200_000));
    // Once it is smaller again, there are two.
    node.write(50, 1_200_000).unwrap();
    node.run();
    assert_eq!(node.indexes(), [50, 30]);
}

#[test]
fn a_source_that_gives_up_leaves_nothing() {
    let mut node = Node::open(Disk::default());
    node.write(10, 10).unwrap();
    node.begin(20).unwrap();
    let part = state(20, 900_000);
    let mut rest = &part[..];
    while !rest.is_empty() {
        rest = &rest[node.store.push(kontiki_snapshot::Part::Machine, rest)..];
        node.step();
    }
    node.store.abandon();
    node.run();
    assert_eq!(node.not_written, [StoreError::Abandoned]);
    assert_eq!(node.indexes(), [10]);
    node.write(20, 10).unwrap();
    let node = Node::open(node.close());
    assert_eq!(node.indexes(), [20, 10]);
}

#[test]
fn a_full_disk_while_space_is_set_aside_is_waited_for() {
    let mut node = Node::open(Disk::default());
    let last = node.write(10, 2_000_000).unwrap();
    node.world.disk.capacity = Some(last.bytes + 1_000_000);
    node.world.plan.patient = false;
    node.store.expect(Some(Expected::Full(0)));
    node.run();
    assert_eq!(node.store.lacking().map(|error| error.kind), Some(IoErrorKind::Full));
    node.world.disk.capacity = None;
    node.world.plan.patient = true;
    node.run();
    assert_eq!(node.store.lacking(), None);
    assert!(node.store.reserved_bytes() >= 2_500_000);
}

/// Neither written nor fetched faster than it is allowed to.
#[test]
fn a_cap_is_kept() {
    let mut node = Node::open(Disk::default());
    node.world.plan.patient = true;
    node.store.set_bytes_per_s(1_000_000);
    node.write(10, 5_000_000).unwrap();
    // The last write may be done at once.
    let took = node.world.now;
    assert!((4_000_000_000..5_500_000_000).contains(&took), "{took} ns");
    node.run();
    let before = node.world.now;
    assert!(node.fetch(&support::file_of(20, 5_000_000)));
    let took = node.world.now - before;
    assert!((4_000_000_000..6_500_000_000).contains(&took), "{took} ns");
}

/// What is written gives way to a busy log, and ends all the same.
#[test]
fn a_busy_log_goes_first() {
    let mut node = Node::open(Disk::default());
    node.begin(10).unwrap();
    let part = state(10, 1_000_000);
    assert!(node.store.push(kontiki_snapshot::Part::Machine, &part) > 0);
    node.store.pump(&mut node.world, true);
    let mut waits = 0;
    // Each operation takes a millisecond.
    while let Some(completion) = node.world.step() {
        node.world.now += 1_000_000;
        node.store.on_completion(completion, &mut node.world);
        node.store.pump(&mut node.world, true);
        if let Some(due) = node.store.deadline() {
            assert_eq!(due.0 - node.world.now, 3_000_000, "three parts of the time are the log's");
            node.world.now = due.0;
            node.store.pump(&mut node.world, true);
            waits += 1;
        }
    }
    assert!(waits >= 2, "{waits}");
}

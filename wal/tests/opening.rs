//! What a start makes of the files it finds: which it takes, which it leaves alone, which it never uses again.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::{IndexRange, LogIndex};
use kontiki_io::Name;
use kontiki_wal::limits::{HARD_STATE_COPY_OFFSET, MAX_SEGMENTS};
use kontiki_wal::{Cause, WalError};
use support::{Disk, Node, check_payloads, options};

const HARD_STATE: &str = "hard-state";

fn segment(number: u64) -> String {
    format!("log-{number:016x}.seg")
}

/// An empty file of that name.
fn create(disk: &mut Disk, name: &str) {
    disk.open(&Name::new(name).unwrap(), true).unwrap();
    disk.sync_dir();
}

/// A log of so many full segments, one block a frame, and part of one more.
fn log(full: u64) -> Disk {
    let mut node = Node::open(Disk::default());
    node.save(1, 1);
    let blocks = options().segment_bytes / 4096 - 1;
    for _ in 0..full * blocks + 3 {
        node.append(1, 1, 10).unwrap();
        assert!(node.run());
    }
    node.kill()
}

#[test]
fn numbers_of_segments() {
    let disk = log(1);
    let with = |number: u64| {
        let mut disk = disk.clone();
        create(&mut disk, &segment(number));
        Node::try_open(disk, options())
    };
    let greatest = (1 << 62) / options().segment_bytes;
    let node = with(0).unwrap();
    assert_eq!((node.report.damage, node.report.segments), (None, 2), "there is no segment zero");
    assert!(!matches!(with(greatest), Err(WalError::Exhausted { .. })));
    assert!(matches!(with(greatest + 1), Err(WalError::Exhausted { .. })));
}

#[test]
fn as_many_segments_as_there_may_be() {
    let mut disk = log(1);
    for number in disk.names().len() as u64 - 1..=MAX_SEGMENTS as u64 {
        if !disk.names().contains(&segment(number)) {
            create(&mut disk, &segment(number));
        }
    }
    let found = |disk: &Disk| disk.names().iter().filter(|name| name.starts_with("log-")).count();
    assert_eq!(found(&disk), MAX_SEGMENTS);
    assert!(!matches!(Node::try_open(disk.clone(), options()), Err(WalError::TooManySegments { .. })));
    create(&mut disk, &segment(MAX_SEGMENTS as u64 + 1));
    let known = MAX_SEGMENTS;
    assert_eq!(Node::try_open(disk, options()).err(), Some(WalError::TooManySegments { found: known + 1, known }));
}

/// A count near its end stops the node: the next one must exist.
#[test]
fn counts_that_are_used_up() {
    for field in [16, 24] {
        for (count, opens) in [((1u64 << 62) - 1, true), (1 << 62, false)] {
            let mut disk = log(1);
            for copy in [0, HARD_STATE_COPY_OFFSET] {
                disk.patch(HARD_STATE, copy, |bytes| {
                    bytes[field..field + 8].copy_from_slice(&count.to_le_bytes());
                    let crc = crc32fast::hash(&[&bytes[..4], &bytes[8..4096]].concat());
                    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
                });
            }
            let exhausted = matches!(Node::try_open(disk, options()), Err(WalError::Exhausted { .. }));
            assert_eq!(!exhausted, opens, "field at {field}, count {count}");
        }
    }
}

/// A file that lies below what was written to is no spare, though nothing stands in it any more.
#[test]
fn a_hole_among_the_segments_is_not_written_to() {
    let mut disk = log(3);
    let bytes = disk.len(&segment(2));
    for at in (0..bytes).step_by(4096) {
        disk.patch(&segment(2), at, |bytes| bytes[..4096].fill(0));
    }
    let mut node = Node::open(disk);
    assert!(node.report.damage.is_some());
    node.append(1, 1, 10).unwrap();
    assert!(node.run());
    assert!(node.kill().contents(&segment(2)).iter().all(|byte| *byte == 0));
}

/// A spare whose preparation was cut short is not written to.
#[test]
fn a_short_spare_is_not_written_to() {
    let mut disk = log(1);
    let spare = disk.names().iter().filter(|name| name.starts_with("log-")).count() as u64;
    assert!(disk.contents(&segment(spare)).iter().all(|byte| *byte == 0), "the newest file is a spare");
    disk.truncate(&segment(spare), options().segment_bytes / 2);
    let mut node = Node::open(disk);
    for _ in 0..40 {
        node.append(1, 1, 10).unwrap();
        assert!(node.run());
    }
    let disk = node.kill();
    assert!(!disk.names().contains(&segment(spare)) || disk.contents(&segment(spare)).iter().all(|byte| *byte == 0));
}

/// The log goes on in a fresh segment where the file of its newest one has lost its end.
#[test]
fn a_short_tail_is_not_appended_to() {
    let mut disk = log(1);
    disk.truncate(&segment(2), 4 * 4096);
    let before = disk.contents(&segment(2));
    let mut node = Node::open(disk);
    let last = node.last();
    node.append(1, 1, 10).unwrap();
    assert!(node.run());
    let disk = node.kill();
    assert_eq!(disk.contents(&segment(2)), before);
    assert_eq!(Node::open(disk).last(), last + 1);
}

/// A file that does not say its generation is never recycled: what stands in it could come back.
#[test]
fn evidence_is_not_recycled() {
    let mut disk = log(3);
    disk.flip(&segment(2), 24, 3);
    let mut node = Node::open(disk);
    assert!(node.report.damage.is_some());
    for _ in 0..400 {
        node.append(1, 1, 10).unwrap();
        assert!(node.run());
        let last = node.last();
        node.wal.release(LogIndex(last));
        assert!(node.run());
    }
    let disk = &node.world.disk;
    assert!(!disk.names().contains(&segment(2)), "it goes with the log that it is about");
    let renamed = format!("rename {} ", segment(2));
    assert!(node.world.log.iter().all(|op| !op.starts_with(&renamed)));
    assert!(node.world.log.iter().any(|op| op.starts_with("rename log-")), "others are recycled");
}

/// A segment continues the log that ended where it says: not one that lost its last frames and happens to end in the
/// same entry.
#[test]
fn a_segment_continues_one_end_only() {
    let mut node = Node::open(Disk::default());
    node.save(2, 1);
    let blocks = options().segment_bytes / 4096 - 1;
    for _ in 0..blocks - 2 {
        node.append(1, 1, 10).unwrap();
        assert!(node.run());
    }
    let last = node.last();
    // Its last entry is superseded twice; the second time by an entry of the first one's term.
    for term in [2, 1] {
        let range = IndexRange { from: LogIndex(last), to: LogIndex(last) };
        node.try_append_range(last, 1, term, 1, 20, range).unwrap();
        assert!(node.run());
    }
    for _ in 0..2 {
        node.append(1, 1, 10).unwrap();
        assert!(node.run());
    }
    let mut disk = node.kill();
    disk.flip(&segment(1), (blocks - 1) * 4096 + 300, 0);
    let mut node = Node::open(disk);
    let damage = node.report.damage.unwrap();
    assert_eq!((damage.segment, damage.offset), (1, (blocks - 1) * 4096));
    assert_ne!(damage.cause, Cause::SegmentEnd);
    assert_eq!(node.last(), last);
    check_payloads(&node.read_all(1, last).unwrap());
}

/// A directory of an earlier format is named for what it is, and not touched.
#[test]
fn a_directory_of_version_1_is_refused() {
    // What every version keeps in its place: magic, checksum, version.
    let of_version_1 = |disk: &mut Disk, name: &str, at: u64| {
        disk.patch(name, at, |bytes| {
            bytes[8..10].copy_from_slice(&1u16.to_le_bytes());
            let mut crc = crc32fast::Hasher::new();
            crc.update(&bytes[..4]);
            crc.update(&bytes[8..4096]);
            bytes[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        });
    };
    let mut node = Node::open(Disk::default());
    node.append(1, 1, 100).unwrap();
    let whole = node.close();
    let refused = |disk: Disk| {
        let mut world = support::World::new(disk);
        let error = support::open(&mut world, options()).unwrap().unwrap_err();
        assert!(world.log.iter().all(|op| !op.starts_with("write") && !op.starts_with("rename") && !op.starts_with("unlink")), "{world:?}");
        error
    };
    let mut disk = whole.clone();
    of_version_1(&mut disk, "hard-state", 0);
    of_version_1(&mut disk, "hard-state", HARD_STATE_COPY_OFFSET);
    let name = Name::new("hard-state").unwrap();
    assert_eq!(refused(disk), WalError::OlderFormat { name, found: 1, known: 2 });
    let mut disk = whole;
    of_version_1(&mut disk, &segment(1), 0);
    let error = refused(disk);
    assert_eq!(error, WalError::OlderFormat { name: Name::new(&segment(1)).unwrap(), found: 1, known: 2 });
    assert!(error.to_string().contains("format version 1"), "{error}");
}

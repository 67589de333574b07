//! Segment files that are gone, in each other's place, rolled back, cut short; frames that were put elsewhere. The end
//! of the log cannot vouch for itself: the hard state says which segments there must be. Whatever is done to the files
//! of a killed node, it never takes a log that lacks what it acknowledged for a whole one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::{IndexRange, LogIndex};
use kontiki_frame::{DiskStamp, parse_header};
use kontiki_io::Name;
use kontiki_wal::limits::HARD_STATE_COPY_OFFSET;
use kontiki_wal::{Cause, Options, WalError};
use support::{Disk, Node, check_payloads, options};

const SEGMENT: u64 = 128 << 10;

fn segment(number: u64) -> String {
    format!("log-{number:016x}.seg")
}

fn files(disk: &Disk) -> Vec<u64> {
    disk.names().iter().filter_map(|name| u64::from_str_radix(name.strip_prefix("log-")?.strip_suffix(".seg")?, 16).ok()).collect()
}

/// A file's contents under another name, whatever stood there.
fn put(disk: &mut Disk, name: &str, contents: &[u8]) {
    for (at, block) in contents.chunks(4096).enumerate() {
        disk.patch(name, at as u64 * 4096, |bytes| bytes[..4096].copy_from_slice(block));
    }
}

fn rename(disk: &mut Disk, from: &str, to: &str) {
    disk.rename(&Name::new(from).unwrap(), &Name::new(to).unwrap()).unwrap();
    disk.sync_dir();
}

fn swap(disk: &mut Disk, one: &str, other: &str) {
    rename(disk, one, "aside");
    rename(disk, other, one);
    rename(disk, "aside", other);
}

/// Logs with everything acknowledged, of a killed node: in new segments, in recycled ones, with several spares; each at
/// every fill of the newest segment. With the number of the segment that holds the newest frame.
fn killed(spares: usize, recycled: bool) -> Vec<(Disk, u64)> {
    let mut node = Node::try_open(Disk::default(), Options { spare_segments: spares, ..options() }).unwrap();
    let mut disks = Vec::new();
    for n in 0..if recycled { 60 } else { 36 } {
        node.append(1, 3, 14_000).unwrap();
        assert!(node.run());
        assert_eq!(node.acked(), Some(node.last()));
        if recycled && node.last() > 20 {
            let upto = node.last() - 20;
            node.wal.release(LogIndex(upto));
            assert!(node.run());
        }
        let tail = node.wal.durable_position() / SEGMENT;
        if n > 20 && (n % 5 == 0 || n > 50) && (!recycled || n > 45) && tail > 2 {
            disks.push((node.world.disk.clone(), tail));
        }
    }
    // Few of them, and the last ones: everything is tried with each.
    let few = disks.len() - 3;
    disks.split_off(few)
}

fn worlds() -> Vec<(Disk, u64)> {
    [(1, false), (1, true), (3, false), (3, true)].into_iter().flat_map(|(spares, recycled)| killed(spares, recycled)).collect()
}

/// What must follow: damage is named, the sole voter stops and touches nothing, any other is *recovering*, with an
/// honest prefix; and what it fetches again is there after the next start.
fn noticed(disk: &Disk, what: &str) -> Cause {
    let whole = options();
    let mut world = support::World::new(disk.clone());
    let error = support::open(&mut world, Options { sole_voter: true, ..whole.clone() }).unwrap().err();
    let Some(WalError::Damaged(damage)) = error else { panic!("{what}: {error:?}") };
    assert!(world.log.iter().all(|op| !op.starts_with("write") && !op.starts_with("rename") && !op.starts_with("unlink")), "{what}");
    assert!(damage.to_string().contains(".seg"), "{what}: {damage}");
    let mut node = Node::try_open(disk.clone(), whole.clone()).unwrap();
    assert_eq!((node.report.damage, node.hard_state.recovering), (Some(damage), true), "{what}");
    let (first, last) = (node.wal.first_index().0, node.last());
    if first <= last {
        check_payloads(&node.read_all(first, last).unwrap());
    }
    node.append(1, 3, 100).unwrap();
    assert!(node.run());
    let node = Node::try_open(node.kill(), whole).unwrap();
    assert_eq!((node.report.damage, node.last()), (None, last + 1), "{what}: it goes on from there");
    damage.cause
}

#[test]
fn a_killed_node_is_whole() {
    for (disk, _) in worlds() {
        let mut node = Node::open(disk);
        assert_eq!((node.report.damage, node.hard_state.recovering), (None, false), "{}", node.report);
        let (first, last) = (node.wal.first_index().0, node.last());
        check_payloads(&node.read_all(first, last).unwrap());
    }
}

#[test]
fn any_segments_missing() {
    for (disk, tail) in worlds() {
        let numbers = files(&disk);
        for (at, &number) in numbers.iter().enumerate() {
            let mut one = disk.clone();
            one.remove(&segment(number));
            assert_eq!(noticed(&one, &format!("{number} of {numbers:?}, tail {tail}")), Cause::SegmentMissing { number });
            // And all from there on.
            let mut all = disk.clone();
            numbers[at..].iter().for_each(|&number| all.remove(&segment(number)));
            assert_eq!(noticed(&all, &format!("from {number} of {numbers:?}")), Cause::SegmentMissing { number });
        }
    }
}

/// What is left of a log whose beginning is gone serves only a state machine that has what stood there: any other could
/// never be given it, and the node would not start again. Its peers can give it all.
#[test]
fn the_rest_of_a_log_is_kept_only_for_a_machine_that_goes_on_there() {
    let mut kept = 0;
    for (mut disk, tail) in worlds() {
        let first = files(&disk)[0];
        disk.remove(&segment(first));
        let open = |applied| {
            let node = Node::try_open(disk.clone(), Options { applied: LogIndex(applied), ..options() }).unwrap();
            assert_eq!(node.report.damage.unwrap().cause, Cause::SegmentMissing { number: first }, "tail {tail}");
            assert!(node.hard_state.recovering);
            (node.wal.first_index().0, node.last())
        };
        let (begin, last) = open(u64::MAX);
        if begin > 1 {
            kept += 1;
            assert_eq!(open(begin - 1), (begin, last));
            assert_eq!((open(begin - 2), open(0)), ((1, 0), (1, 0)));
        }
    }
    assert!(kept > 0, "no world had anything left to keep");
}

#[test]
fn segments_in_each_others_place() {
    for (disk, tail) in worlds() {
        let numbers = files(&disk);
        for &one in &numbers {
            for &other in numbers.iter().filter(|&&other| other > one && one <= tail) {
                let mut disk = disk.clone();
                swap(&mut disk, &segment(one), &segment(other));
                noticed(&disk, &format!("{one} and {other} of {numbers:?}, tail {tail}"));
            }
        }
    }
}

#[test]
fn a_segment_duplicated_renamed_or_moved_on() {
    for (disk, tail) in worlds() {
        let numbers = files(&disk);
        for &from in numbers.iter().filter(|&&from| from <= tail) {
            for &to in numbers.iter().filter(|&&to| to != from) {
                let mut copied = disk.clone();
                put(&mut copied, &segment(to), &disk.contents(&segment(from)));
                noticed(&copied, &format!("{from} copied over {to} of {numbers:?}, tail {tail}"));
                let mut renamed = disk.clone();
                renamed.remove(&segment(to));
                rename(&mut renamed, &segment(from), &segment(to));
                noticed(&renamed, &format!("{from} renamed to {to} of {numbers:?}, tail {tail}"));
            }
            let mut away = disk.clone();
            rename(&mut away, &segment(from), &segment(numbers.last().unwrap() + 1));
            assert_eq!(noticed(&away, "renamed to a new number"), Cause::SegmentMissing { number: from });
        }
    }
}

#[test]
fn a_segment_cut_short_or_emptied() {
    for (disk, tail) in worlds() {
        for number in files(&disk) {
            for len in [0, 4096, 8192, SEGMENT / 2, SEGMENT - 4096] {
                // A full segment's unused rest may go: everything in it is there.
                let used = parse_to(&disk, number);
                let mut disk = disk.clone();
                disk.truncate(&segment(number), len);
                if number < tail && len >= used {
                    assert_eq!(Node::open(disk).report.damage, None);
                } else {
                    noticed(&disk, &format!("{number} has {len} bytes, tail {tail}"));
                }
            }
            // All zeros, as it may have been once.
            if number <= tail {
                let mut disk = disk.clone();
                put(&mut disk, &segment(number), &vec![0; SEGMENT as usize]);
                noticed(&disk, &format!("{number} emptied, tail {tail}"));
            }
        }
    }
}

/// Where the frames of a segment end, by what is left of its file.
fn parse_to(disk: &Disk, number: u64) -> u64 {
    let bytes = disk.contents(&segment(number));
    let mut at = 4096;
    while let Some(header) = bytes.get(at..).filter(|rest| !rest.is_empty()).and_then(|rest| parse_header(rest).ok())
        && DiskStamp::parse(&bytes[at..]).is_ok_and(|stamp| stamp.position == number * SEGMENT + at as u64)
    {
        at += header.frame_bytes();
    }
    at as u64
}

/// A segment as it was before: prepared, or a few frames in. Of the newest one that is known as far as the hard state
/// was written since.
#[test]
fn a_segment_rolled_back() {
    for spares in [1, 3] {
        let mut node = Node::try_open(Disk::default(), Options { spare_segments: spares, ..options() }).unwrap();
        let mut older: Vec<Disk> = Vec::new();
        for _ in 0..80 {
            node.append(1, 3, 7000).unwrap();
            assert!(node.run());
            if node.last() > 40 {
                let upto = node.last() - 40;
                node.wal.release(LogIndex(upto));
                assert!(node.run());
            }
            older.push(node.world.disk.clone());
        }
        let disk = node.kill();
        let tail = files(&disk).into_iter().rfind(|&number| parse_to(&disk, number) > 4096).unwrap();
        let mut rolled = 0;
        for before in older.iter().rev().skip(1) {
            for number in files(&disk).into_iter().filter(|number| files(before).contains(number) && *number <= tail) {
                let contents = before.contents(&segment(number));
                let changed = contents != disk.contents(&segment(number));
                let prepared = parse_to(before, number) == 4096;
                if changed && (number < tail || prepared) {
                    let mut disk = disk.clone();
                    put(&mut disk, &segment(number), &contents);
                    noticed(&disk, &format!("{number} rolled back, tail {tail}"));
                    rolled += 1;
                }
            }
        }
        assert!(rolled > 20, "{rolled}");
    }
}

/// One intact frame of elsewhere over the last ones: of another place of this log, of another node, of an earlier use
/// of the file.
#[test]
fn an_intact_frame_of_elsewhere_over_the_last_ones() {
    for (disk, tail) in worlds() {
        let end = parse_to(&disk, tail);
        let bytes = disk.contents(&segment(tail));
        // The last frame's place, and a frame from elsewhere.
        let mut starts = vec![4096];
        while *starts.last().unwrap() < end as usize {
            let at = *starts.last().unwrap();
            starts.push(at + parse_header(&bytes[at..]).unwrap().frame_bytes());
        }
        starts.pop();
        let last = *starts.last().unwrap();
        let mut pasted = Vec::new();
        for number in files(&disk).into_iter().filter(|&number| number < tail) {
            pasted.push((format!("of segment {number}"), disk.contents(&segment(number))[4096..4096 + 8192].to_vec()));
        }
        if last > 4096 {
            pasted.push(("of the same segment".into(), bytes[4096..4096 + 8192].to_vec()));
        }
        let stamp = DiskStamp::parse(&bytes[last..]).unwrap();
        let stamped = |stamp: DiskStamp| {
            let mut frame = bytes[last..last + 8192].to_vec();
            stamp.write(&mut frame);
            frame
        };
        pasted.push(("of another node".into(), stamped(DiskStamp { node: kontiki_core::NodeId(7), ..stamp })));
        pasted.push(("of a later place".into(), stamped(DiskStamp { position: stamp.position + 4096, ..stamp })));
        for (what, frame) in pasted {
            let mut disk = disk.clone();
            put_at(&mut disk, tail, last, &frame);
            let cause = noticed(&disk, &format!("{what}, over the last of segment {tail}"));
            // At the same offset it might be what stood in the file before.
            let known = matches!(cause, Cause::Displaced { .. } | Cause::Foreign);
            assert!(known || last == 4096 && cause == Cause::Stale, "{what}: {cause}");
        }
        // At its own place whatever its generation: written here, and so more than a torn tail.
        let mut disk = disk.clone();
        put_at(&mut disk, tail, last, &stamped(DiskStamp { generation: stamp.generation + 5, ..stamp }));
        assert!(Node::open(disk).report.dropped_tail_bytes >= 8192);
    }
}

fn put_at(disk: &mut Disk, number: u64, offset: usize, bytes: &[u8]) {
    for (at, block) in bytes.chunks(4096).enumerate() {
        disk.patch(&segment(number), (offset + at * 4096) as u64, |bytes| bytes[..4096].copy_from_slice(block));
    }
}

/// Segments that the hard state does not know of: it is an old copy, and a vote may be lost with it.
#[test]
fn an_old_hard_state_beside_newer_segments() {
    let mut node = Node::open(Disk::default());
    assert!(node.run());
    let old = node.world.disk.contents("hard-state");
    for _ in 0..72 {
        node.append(1, 3, 7000).unwrap();
        assert!(node.run());
    }
    let mut disk = node.kill();
    for at in [0, HARD_STATE_COPY_OFFSET] {
        let copy = &old[at as usize..at as usize + 4096];
        disk.patch("hard-state", at, |bytes| bytes[..4096].copy_from_slice(copy));
    }
    let error = Node::try_open(disk, options()).err();
    assert_eq!(error, Some(WalError::HardStateBehind { found: 5, known: 3 }));
}

/// Each segment costs two updates of the hard state; no frame waits for them.
#[test]
fn updates_of_the_hard_state_for_each_segment() {
    for recycled in [false, true] {
        let mut node = Node::open(Disk::default());
        assert!(node.run());
        let updates = |node: &Node| node.world.log.iter().filter(|op| *op == "write 4194304 +4096 durable=true").count() as u64;
        let (before, first) = (updates(&node), node.wal.durable_position() / SEGMENT);
        for _ in 0..200 {
            node.append(1, 3, 7000).unwrap();
            assert!(node.run());
            if recycled && node.last() > 20 {
                let upto = node.last() - 20;
                node.wal.release(LogIndex(upto));
                assert!(node.run());
            }
        }
        let segments = node.wal.durable_position() / SEGMENT - first.max(1);
        let updates = updates(&node) - before;
        // One when its first frame is durable, one when the next spare is named.
        // A few more until released files come as fast as they are needed.
        let most = 2 * segments + 4;
        assert!((segments..=most).contains(&updates), "{updates} updates, {segments} segments, recycled {recycled}");
    }
}

/// The log begins where a header says truly what it continues. Here the second segment's header names an entry that is
/// superseded later; were the log to begin there, damage could leave that header alone to speak.
#[test]
fn first_minus_one_after_damage() {
    let with = || Options { retention_bytes: 2 * SEGMENT, ..options() };
    let mut node = Node::try_open(Disk::default(), with()).unwrap();
    for _ in 0..10 {
        node.append(1, 1, 14_000).unwrap();
        assert!(node.run());
    }
    let first_of_second = parse_header(&node.world.disk.contents(&segment(2))[4096..]).unwrap().meta.first.0;
    let from = first_of_second - 1;
    while node.last() < first_of_second + 6 {
        node.append(1, 1, 14_000).unwrap();
        assert!(node.run());
    }
    // A leader of term 2 supersedes all of the second segment, and one entry before.
    let range = IndexRange { from: LogIndex(from), to: LogIndex(from) };
    assert!(node.try_append_range(from, 1, 2, 1, 14_000, range).is_some());
    assert!(node.run());
    for _ in 0..20 {
        node.append(1, 2, 14_000).unwrap();
        assert!(node.run());
    }
    // Only what lies before the superseding frame is committed and applied.
    node.wal.release(LogIndex(from - 1));
    assert!(node.run());
    // Whatever is damaged now, and whenever the release was cut short: the entry before the first is a committed one.
    let committed = |first: u64, prev_term: u64| first == 1 || first - 1 < from && prev_term == 1;
    let disk = node.close();
    for number in files(&disk) {
        let mut damaged = disk.clone();
        damaged.flip(&segment(number), 4096 + 300, 1);
        let node = Node::try_open(damaged, with()).unwrap();
        let (first, prev_term) = (node.wal.first_index().0, node.wal.base().term.0);
        assert!(committed(first, prev_term), "damage in {number}: first {first}, the entry before had term {prev_term}");
    }
}

/// Segments without a live frame go with the one before them, and not without it.
#[test]
fn dead_segments_go_with_their_predecessor() {
    let mut node = Node::open(Disk::default());
    for _ in 0..24 {
        node.append(1, 1, 14_000).unwrap();
        assert!(node.run());
    }
    // Segments 2 and 3 are dead, and so is what the header of the fourth says.
    let first_of_second = parse_header(&node.world.disk.contents(&segment(2))[4096..]).unwrap().meta.first.0;
    while node.try_append(first_of_second - 1, 1, 2, 1, 14_000).is_none() {
        node.run();
    }
    assert!(node.run());
    assert_eq!(node.wal.release(LogIndex(first_of_second - 2)), None, "no segment behind begins truly");
    for _ in 0..24 {
        node.append(1, 2, 14_000).unwrap();
        assert!(node.run());
    }
    let last = node.last();
    let released = node.wal.release(LogIndex(last)).unwrap();
    // The power fails at every operation of the release.
    for stop in 0.. {
        let mut node = Node::open(node.world.disk.clone());
        assert!(node.run());
        let first = node.wal.first_index();
        node.world.plan.stop_at = Some(node.world.done + stop);
        node.wal.release(LogIndex(last));
        let done = node.run();
        for seed in 0..4 {
            let mut after = Node::open(node.world.cut(seed));
            assert_eq!((after.report.damage, after.last()), (None, last), "stop {stop}, seed {seed}");
            let found = after.wal.first_index();
            assert!(found == first || found == released.next(), "stop {stop}: first {found}");
            check_payloads(&after.read_all(found.0, last).unwrap());
        }
        if done {
            assert!(stop > 6 && files(&node.world.disk)[0] > 4);
            break;
        }
    }
}

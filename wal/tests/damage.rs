//! Bytes change on the medium. Acknowledged data is never missed in silence; a torn tail is no damage. H84, H89, H91.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::{Incarnation, LogIndex};
use kontiki_frame::{DiskStamp, Header, parse_header, seal};
use kontiki_io::Name;
use kontiki_io::{IoErrorKind, Op};
use kontiki_wal::limits::{HARD_STATE_COPY_OFFSET, MAX_SEGMENTS};
use kontiki_wal::{Cause, Medium, Options, ReadError, Space, WalError};
use support::{Disk, Node, Random, check_payloads, options};

const HARD_STATE: &str = "hard-state";

fn segment(number: u64) -> String {
    format!("log-{number:016x}.seg")
}

/// A frame on disk: its segment, offset, length, and the last index before it.
#[derive(Clone, Copy, Debug)]
struct At {
    segment: u64,
    offset: u64,
    bytes: u64,
    before: u64,
}

/// A log of several segments, each frame a write of its own, and where its frames are.
fn log() -> (Disk, Vec<At>) {
    let mut node = Node::open(Disk::default());
    node.save(3, 1);
    for n in 0..36 {
        node.append(1 + n % 4, 3, 2500).unwrap();
        assert!(node.run());
    }
    let disk = node.kill();
    let frames = frames(&disk);
    assert_eq!(frames.len(), 36);
    assert!(frames.last().unwrap().segment >= 3);
    (disk, frames)
}

fn frames(disk: &Disk) -> Vec<At> {
    let mut frames = Vec::new();
    for name in disk.names().iter().filter(|name| name.starts_with("log-")) {
        let bytes = disk.contents(name);
        let segment = u64::from_str_radix(&name[4..20], 16).unwrap();
        let mut offset = 4096;
        while let Ok(header) = parse_header(&bytes[offset.min(bytes.len())..]) {
            let stamp = DiskStamp::parse(&bytes[offset..]).unwrap();
            frames.push(At { segment, offset: offset as u64, bytes: header.frame_bytes() as u64, before: stamp.range.from.0 - 1 });
            offset += header.frame_bytes();
        }
    }
    frames
}

/// A byte of every class: each field of stamp and header, lengths, payload, padding.
fn classes(frame: &At) -> Vec<u64> {
    let mut at: Vec<u64> = (0..64).step_by(8).chain([4]).collect();
    at.extend([0, 4, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 56, 64, 80, 120].map(|field| 64 + field));
    at.extend([192, 195, 196, 1000, 2500, frame.bytes - 1]);
    at
}

fn lossy() -> Options {
    Options { medium: Medium::Lossy, ..options() }
}

fn sole() -> Options {
    Options { sole_voter: true, ..options() }
}

/// What must follow from damage before the watermark, at `frame`.
fn check_damaged(disk: &Disk, frame: &At, what: &str) {
    // A group's only voter stops, and touches nothing.
    let mut node = support::World::new(disk.clone());
    let error = support::open(&mut node, sole()).unwrap().unwrap_err();
    let WalError::Damaged(damage) = error else { panic!("{what}: {error}") };
    assert!(node.log.iter().all(|op| !op.starts_with("write") && !op.starts_with("rename") && !op.starts_with("unlink")), "{:?}", node.log);

    // Any other one takes part again, but without a vote; the log ends before the damage, and stays an honest prefix.
    let mut node = Node::try_open(disk.clone(), options()).unwrap();
    assert_eq!(node.report.damage, Some(damage), "{what}");
    assert!(node.hard_state.recovering && node.restored.recovering, "{what}");
    assert_eq!(node.hard_state.term.0, 3);
    assert_eq!(node.last(), frame.before, "{what}: {}", node.report);
    let last = node.last();
    if last > 0 {
        check_payloads(&node.read_all(1, last).unwrap());
    }
    // What it refetches goes into a fresh segment: evidence is not overwritten.
    let evidence = disk.contents(&segment(frame.segment));
    node.append(3, 3, 500).unwrap();
    assert!(node.run());
    let mut node = Node::open(node.close());
    assert_eq!(node.world.disk.contents(&segment(frame.segment)), evidence, "{what}");
    assert_eq!((node.report.damage, node.report.dropped_tail_bytes), (None, 0), "{what}: the log ended there knowingly");
    assert!(node.hard_state.recovering, "until the core says otherwise");
    assert_eq!(node.last(), frame.before + 3);
    let last = node.last();
    check_payloads(&node.read_all(1, last).unwrap());
}

#[test]
fn h84_flipped_bits_in_acknowledged_frames() {
    let (disk, frames) = log();
    // The first, one in the middle of a sealed segment, one at its end, and the newest that a watermark covers.
    let sealed = frames.iter().rposition(|frame| frame.segment == 1).unwrap();
    for at in [0, 5, sealed, frames.len() - 2] {
        let frame = frames[at];
        for offset in classes(&frame) {
            let mut disk = disk.clone();
            disk.flip(&segment(frame.segment), frame.offset + offset, (offset % 8) as u8);
            check_damaged(&disk, &frame, &format!("frame {at}, byte {offset}"));
        }
    }
}

#[test]
fn h84_a_frame_replaced_by_zeros() {
    let (disk, frames) = log();
    for frame in [frames[3], frames[20]] {
        let mut disk = disk.clone();
        disk.patch(&segment(frame.segment), frame.offset, |bytes| bytes[..4096].fill(0));
        check_damaged(&disk, &frame, "a hole");
    }
}

#[test]
fn h84_flipped_bits_in_segment_headers() {
    let (disk, frames) = log();
    for number in 1..=frames.last().unwrap().segment {
        let first = frames.iter().find(|frame| frame.segment == number).unwrap();
        for offset in [0, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 103, 104, 4095] {
            let mut disk = disk.clone();
            disk.flip(&segment(number), offset, 3);
            if number == 1 {
                let damage = Node::open(disk.clone()).report.damage.unwrap();
                assert_eq!((damage.segment, damage.offset), (1, 0), "no log ended before the first segment");
            }
            check_damaged(&disk, first, &format!("header of segment {number}, byte {offset}"));
        }
    }
}

#[test]
fn segments_that_are_missing() {
    let (mut all_gone, frames) = log();
    let newest = frames.last().unwrap().segment;
    for number in 2..newest {
        let (mut disk, frames) = log();
        disk.remove(&segment(number));
        let first = frames.iter().find(|frame| frame.segment == number).unwrap();
        let mut node = Node::try_open(disk.clone(), options()).unwrap();
        assert_eq!(node.report.damage.unwrap().cause, Cause::SegmentMissing { number });
        assert!(node.hard_state.recovering);
        assert_eq!(node.last(), first.before);
        assert!(matches!(Node::try_open(disk, sole()), Err(WalError::Damaged(_))));
        node.append(1, 3, 10).unwrap();
        let node = Node::open(node.close());
        assert_eq!((node.report.damage, node.last()), (None, first.before + 1));
    }
    for name in all_gone.names() {
        if name.starts_with("log-") {
            all_gone.remove(&name);
        }
    }
    assert!(matches!(Node::try_open(all_gone.clone(), sole()), Err(WalError::Damaged(_))));
    let mut node = Node::open(all_gone);
    assert!(node.report.damage.is_some() && node.hard_state.recovering);
    assert_eq!(node.last(), 0);
    node.append(1, 3, 10).unwrap();
    assert_eq!(Node::open(node.close()).last(), 1);
}

#[test]
fn only_spares_are_left() {
    let (mut disk, frames) = log();
    let newest = frames.last().unwrap().segment;
    for number in 1..=newest {
        disk.remove(&segment(number));
    }
    let node = Node::open(disk);
    assert_eq!(node.report.damage.unwrap().cause, Cause::SegmentMissing { number: 1 }, "the hard state knows where the log began");
}

/// The newest frame is past every watermark: torn on a safe medium, perhaps acknowledged on a lossy one.
#[test]
fn the_newest_frame() {
    let (disk, frames) = log();
    let frame = *frames.last().unwrap();
    for offset in classes(&frame) {
        let mut disk = disk.clone();
        disk.flip(&segment(frame.segment), frame.offset + offset, 0);
        let mut node = Node::open(disk.clone());
        assert_eq!((node.report.damage, node.report.uncertain, node.hard_state.recovering), (None, false, false));
        assert_eq!(node.last(), frame.before);
        assert!(node.report.dropped_tail_bytes >= 4096);
        let evidence = disk.contents(&segment(frame.segment));
        node.append(1, 3, 10).unwrap();
        let node = Node::open(node.close());
        assert_eq!(node.world.disk.contents(&segment(frame.segment)), evidence);
        assert_eq!((node.last(), node.report.dropped_tail_bytes), (frame.before + 1, 0));

        let node = Node::try_open(disk.clone(), lossy()).unwrap();
        assert_eq!((node.report.damage, node.report.uncertain, node.hard_state.recovering), (None, true, true));
        // Nobody could help the only voter: it goes on with what there is, and says so.
        let node = Node::try_open(disk, Options { sole_voter: true, ..lossy() }).unwrap();
        assert_eq!((node.report.uncertain, node.hard_state.recovering), (true, false));
    }
}

#[test]
fn a_clean_restart_on_a_lossy_medium_is_certain() {
    let mut node = Node::try_open(Disk::default(), lossy()).unwrap();
    for _ in 0..3 {
        node.append(5, 1, 2000).unwrap();
        assert!(node.run());
        node = Node::try_open(node.close(), lossy()).unwrap();
        assert_eq!((node.report.uncertain, node.hard_state.recovering), (false, false));
    }
}

/// In a recycled segment zeros tell where the log ends. Where they are gone it is not to be told from what stood there
/// before; but a log that was closed in order ends where it says.
#[test]
fn restarts_in_a_recycled_segment_on_a_lossy_medium() {
    let mut node = Node::try_open(Disk::default(), lossy()).unwrap();
    for _ in 0..80 {
        node.append(2, 1, 3000).unwrap();
        node.run();
        let upto = node.last();
        node.wal.release(LogIndex(upto));
        node.run();
    }
    let last = node.last();
    let mut killed = node.world.disk.clone();
    let mut closed = node.close();
    let node = Node::try_open(closed.clone(), lossy()).unwrap();
    assert_eq!((node.report.uncertain, node.hard_state.recovering, node.last()), (false, false, last));
    let node = Node::try_open(killed.clone(), lossy()).unwrap();
    assert_eq!((node.report.uncertain, node.hard_state.recovering, node.last()), (false, false, last));
    let newest = *frames(&killed).iter().max_by_key(|frame| frame.before).unwrap();
    killed.flip(&segment(newest.segment), newest.offset + newest.bytes + 99, 3);
    let mut node = Node::try_open(killed, lossy()).unwrap();
    assert_eq!((node.report.uncertain, node.hard_state.recovering, node.last()), (true, true, last));
    // What may be more of the log is left as it is.
    let kept = frames(&node.world.disk).iter().map(|frame| frame.segment).max().unwrap();
    let before = node.world.disk.contents(&segment(kept));
    node.append(1, 1, 10).unwrap();
    assert!(node.run());
    assert_eq!(node.world.disk.contents(&segment(kept)), before);
    // A log that was closed in order has no torn tail: what is missing from it was acknowledged, on any medium.
    let tail = *frames(&closed).iter().max_by_key(|frame| frame.before).unwrap();
    closed.flip(&segment(tail.segment), tail.offset + 300, 0);
    let mut node = Node::open(closed);
    assert!(node.report.damage.is_some() && node.hard_state.recovering);
    node.append(1, 1, 10).unwrap();
    assert_eq!(Node::open(node.kill()).report.damage, None);
}

/// On a lossy medium a power cut garbles what was written before the tail. Whatever is lost, the node knows it.
#[test]
fn h89_garbled_before_the_tail() {
    let (disk, frames) = log();
    let whole = Node::open(disk.clone()).last();
    let tail = frames.last().unwrap();
    let end = tail.offset + tail.bytes;
    let mut lost = 0;
    for seed in 0..60 {
        let mut random = Random(seed);
        let unit = [4 << 10, 16 << 10, 64 << 10][seed as usize % 3];
        let from = (end - 1 - random.next() % (48 << 10).min(end)) / unit * unit;
        let mut disk = disk.clone();
        for at in (from..(from + unit).min(end)).step_by(4096) {
            disk.patch(&segment(tail.segment), at, |bytes| bytes[..4096].iter_mut().for_each(|byte| *byte = random.next() as u8));
        }
        let mut node = Node::try_open(disk, lossy()).unwrap();
        assert!(node.last() < whole, "something was hit");
        assert!(node.hard_state.recovering, "seed {seed}: {}", node.report);
        lost += whole - node.last();
        let last = node.last();
        check_payloads(&node.read_all(1, last).unwrap());
    }
    assert!(lost > 100);
}

#[test]
fn sectors_that_cannot_be_read() {
    let (disk, frames) = log();
    let frame = frames.iter().find(|frame| frame.segment == 2).unwrap();
    // The same offset is bad in every segment, so in the first one.
    let first = frames.iter().find(|other| other.offset == frame.offset).unwrap();
    let mut world = support::World::new(disk);
    world.plan.unreadable = Some(frame.offset);
    let node = Node::start(world, options()).unwrap();
    assert_eq!((node.last(), node.hard_state.recovering), (first.before, true));
}

/// A device that fails to read once what it can the next time has lost nothing.
#[test]
fn a_read_that_fails_once_loses_nothing() {
    let (disk, _) = log();
    let reads: fn(&Op) -> bool = |op| matches!(op, Op::Read { .. });
    let whole = Node::open(disk.clone());
    let last = whole.last();
    let count = whole.world.log.iter().filter(|line| line.starts_with("read")).count() as u64;
    assert!(count > 5, "hard state, headers and contents");
    for n in 0..count {
        let mut world = support::World::new(disk.clone());
        (world.plan.fails, world.plan.fail) = (Some(reads), Some((n, IoErrorKind::Device)));
        let node = Node::start(world, options()).unwrap();
        assert_eq!((node.last(), node.hard_state.recovering, node.report.damage), (last, false, None), "read {n}");
        assert!(!node.report.hard_state_repaired);
    }
}

#[test]
fn damage_is_found_on_every_read() {
    let (disk, frames) = log();
    let frame = frames[7];
    for offset in classes(&frame) {
        let mut node = Node::open(disk.clone());
        node.world.disk.flip(&segment(frame.segment), frame.offset + offset, 1);
        assert_eq!(node.read_all(1, frame.before).unwrap().len() as u64, frame.before);
        let Err(ReadError::Damaged(damage)) = node.read_all(frame.before + 1, frame.before + 1) else {
            panic!("byte {offset} was not missed")
        };
        assert_eq!((damage.segment, damage.offset), (frame.segment, frame.offset));
        assert!(node.wal.poisoned().is_none(), "that is for the node to decide");
    }
    let mut node = Node::open(disk);
    node.world.plan.unreadable = Some(frame.offset);
    assert!(matches!(node.read_all(1, 20), Err(ReadError::Io(_))));
}

/// What stands behind the log's end and was valid once, somewhere or sometime else, is no part of it.
#[test]
fn old_frames_do_not_come_back() {
    let (disk, frames) = log();
    let tail = *frames.last().unwrap();
    let end = tail.offset + tail.bytes;
    let last = Node::open(disk.clone()).last();
    let name = segment(tail.segment);
    let position = tail.segment * options().segment_bytes + end;
    let sealed_after = |stamp: DiskStamp, first: u64, prev_term: u64, foreign: fn(&mut Header)| {
        let mut ring = kontiki_mem::Ring::new(1 << 16, 4).unwrap();
        let (mut block, meta) = support::frame(&mut ring, first, 1, 3, prev_term, 10);
        let mut header = parse_header(block.bytes()).unwrap();
        foreign(&mut header);
        seal(block.bytes_mut(), &header);
        DiskStamp { range: meta.range(), ..stamp }.write(block.bytes_mut());
        let mut disk = disk.clone();
        disk.patch(&name, end, |bytes| bytes[..4096].copy_from_slice(block.bytes()));
        Node::open(disk).last()
    };
    let old = |stamp, first| sealed_after(stamp, first, 3, |_| ());
    let right = DiskStamp {
        position,
        generation: 0,
        boot: Incarnation(1),
        range: kontiki_core::IndexRange { from: LogIndex(1), to: LogIndex(1) },
        watermark: position,
        node: options().node,
    };
    assert_eq!(old(right, last + 1), last + 1, "the frame that would continue the log does");
    assert_eq!(old(DiskStamp { position: position - 4096, watermark: 0, ..right }, last + 1), last, "another place");
    assert_eq!(old(DiskStamp { generation: 1, ..right }, last + 1), last, "another use of the file");
    assert_eq!(old(DiskStamp { boot: Incarnation(0), ..right }, last + 1), last, "an earlier boot");
    assert_eq!(old(DiskStamp { watermark: position + 4096, ..right }, last + 1), last, "a watermark from the future");
    assert_eq!(old(DiskStamp { node: kontiki_core::NodeId(3), ..right }, last + 1), last, "another node's log");
    assert_eq!(old(right, last + 2), last, "a hole");
    assert_eq!(sealed_after(right, last + 1, 2, |_| ()), last, "another log's next entry");
    assert_eq!(sealed_after(right, last + 1, 3, |header| header.cluster.0 += 1), last, "another cluster's");
    assert_eq!(sealed_after(right, last + 1, 3, |header| header.group.0 += 1), last, "another group's");
}

/// One copy is repaired, two stop the node; it never starts with a term or vote of its own making.
#[test]
fn h91_flipped_bits_in_the_hard_state() {
    let (disk, _) = log();
    let offsets = || (0..160).chain((160..4096).step_by(131)).chain([4095]);
    for offset in offsets() {
        for copy in [0, HARD_STATE_COPY_OFFSET] {
            let mut disk = disk.clone();
            disk.flip(HARD_STATE, copy + offset, 5);
            let node = Node::open(disk);
            assert!(node.report.hard_state_repaired, "byte {offset} of the copy at {copy}");
            assert_eq!((node.hard_state.term.0, node.hard_state.vote.unwrap().0), (3, 1));
            let node = Node::open(node.close());
            assert_eq!((node.report.hard_state_repaired, node.hard_state.term.0, node.boot), (false, 3, 3));
        }
        let mut both = disk.clone();
        both.flip(HARD_STATE, offset, 5);
        both.flip(HARD_STATE, HARD_STATE_COPY_OFFSET + (offset * 7) % 4096, 2);
        assert_eq!(Node::try_open(both, options()).err(), Some(WalError::HardStateLost));
    }
}

#[test]
fn hard_states_of_another_time_or_place() {
    let (disk, _) = log();
    let mut missing = disk.clone();
    missing.remove(HARD_STATE);
    assert!(matches!(Node::try_open(missing, options()).err(), Some(WalError::HardStateMissing { .. })));
    // Whatever only a node that has started leaves shows that one was here: it has voted.
    for left in ["snapshot-000000000000001f.ksn", "snapshot.new", "snapshot.part", "segment.new", "log-0000000000000007.seg"] {
        let mut disk = Disk::default();
        let name = Name::new(left).unwrap();
        disk.open(&name, true).unwrap();
        disk.sync_dir();
        assert_eq!(Node::try_open(disk, options()).err(), Some(WalError::HardStateMissing { name }));
    }
    for others in ["snapshots", "snapshot.txt", "notes", "kontiki.lock", "log-7.seg"] {
        let mut disk = Disk::default();
        disk.open(&Name::new(others).unwrap(), true).unwrap();
        disk.sync_dir();
        assert!(Node::try_open(disk, options()).is_ok(), "{others}");
    }

    let old = disk.contents(HARD_STATE);
    let mut node = Node::open(disk.clone());
    node.append(1, 3, 10).unwrap();
    let mut newer = node.close();
    for at in [0, HARD_STATE_COPY_OFFSET] {
        newer.patch(HARD_STATE, at, |bytes| bytes[..4096].copy_from_slice(&old[at as usize..at as usize + 4096]));
    }
    let error = Node::try_open(newer, options()).err();
    assert_eq!(error, Some(WalError::HardStateOld { found: Incarnation(2), known: Incarnation(1) }));

    let other = |options: Options| Node::try_open(disk.clone(), options).err().unwrap();
    assert!(matches!(other(Options { cluster: kontiki_core::ClusterId(9), ..options() }), WalError::WrongCluster { .. }));
    assert!(matches!(other(Options { node: kontiki_core::NodeId(9), ..options() }), WalError::WrongNode { .. }));
    assert!(matches!(other(Options { group: kontiki_core::GroupId(9), ..options() }), WalError::WrongGroup { .. }));
    let bigger = 256 << 10;
    assert_eq!(other(Options { segment_bytes: bigger, ..options() }), WalError::SegmentBytes { found: bigger / 2, expected: bigger });
}

/// Whatever bytes stand on the disk: an error or a start, never a panic, and never a log longer than it was.
#[test]
fn hostile_files() {
    let (disk, _) = log();
    let last = Node::open(disk.clone()).last();
    let mut started = 0;
    for seed in 0..150 {
        let mut random = Random(seed);
        let mut disk = disk.clone();
        for _ in 0..1 + random.next() % 6 {
            let names = disk.names();
            let name = names[random.next() as usize % names.len()].clone();
            let blocks = if name == HARD_STATE { 1 } else { disk.len(&name) / 4096 };
            let offset = random.next() % blocks * 4096;
            let (kind, at, len) = (random.next() % 3, random.next() as usize % 4096, 1 + random.next() as usize % 600);
            let from = names[random.next() as usize % names.len()].clone();
            let source = disk.contents(&from);
            let source_at = random.next() as usize % (source.len() / 4096) * 4096;
            disk.patch(&name, offset, |bytes| match kind {
                0 => bytes[at..(at + len).min(4096)].fill(random.next() as u8),
                1 => bytes[at..(at + len).min(4096)].iter_mut().for_each(|byte| *byte = random.next() as u8),
                _ => bytes[..4096].copy_from_slice(&source[source_at..source_at + 4096]),
            });
        }
        if let Ok(mut node) = Node::try_open(disk, options()) {
            started += 1;
            assert!(node.last() <= last);
            let (first, last) = (node.wal.first_index().0, node.last());
            if first <= last {
                check_payloads(&node.read_all(first, last).unwrap());
            }
        }
    }
    assert!(started > 100);
}

/// Segments of the log whose files there are.
fn files(disk: &Disk) -> usize {
    disk.names().iter().filter(|name| name.starts_with("log-")).count()
}

/// A node whose disk is damaged in the first segment of its log again and again, each time before where it was last; it
/// fetches what it lost, up to `last`, and nothing may be released. Returns the most files of segments that there were
/// at a start.
fn damaged_again_and_again(last: u64, refetched: bool, options: impl Fn() -> Options) -> usize {
    let mut most = 0;
    let mut node = Node::try_open(Disk::default(), options()).unwrap();
    for before in (1..14).rev() {
        while node.last() < last {
            node.append(1, 3, 2500).unwrap();
            assert!(node.run());
        }
        if refetched {
            node.save(30 - before, 1);
            assert!(node.run());
        }
        let mut disk = node.close();
        most = most.max(files(&disk));
        let frame = frames(&disk).into_iter().find(|frame| frame.before == before).unwrap();
        disk.flip(&segment(frame.segment), frame.offset + 200, 1);
        node = Node::try_open(disk, options()).unwrap();
        assert!(node.report.damage.is_some() && node.hard_state.recovering);
        assert_eq!(node.last(), before);
        assert_ne!(node.wal.space(), Space::Full, "damage behind {before}");
    }
    most
}

#[test]
fn what_recoveries_put_aside_goes_when_it_was_fetched_again() {
    // The log is of two or three segments, and so is what was put aside last.
    let most = damaged_again_and_again(40, true, options);
    assert!(most <= 8, "{most}");
}

#[test]
fn what_recoveries_put_aside_leaves_room_for_the_log() {
    let small = || Options { segment_bytes: 64 << 10, ..options() };
    let most = damaged_again_and_again(600, false, small);
    assert!((MAX_SEGMENTS / 4..MAX_SEGMENTS).contains(&most), "{most} of {MAX_SEGMENTS}: as long as there is room, evidence stays");
}

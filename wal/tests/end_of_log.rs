//! Where a log ends can be told after a power cut, in recycled segments too, on a medium that may lose what was
//! flushed: as long as nothing was in flight, no start doubts its end. What that costs, and that no frame pays for it.
#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::LogIndex;
use kontiki_frame::{BLOCK_BYTES, SECTOR_BYTES};
use kontiki_io::{IoData, Op};
use kontiki_wal::limits::{KEPT_SEGMENTS, LIGHT_FRAME_BYTES, MARGIN_BYTES, REST_NS};
use kontiki_wal::{HardState, Medium, Options};
use support::life::{Promised, check, life, small};
use support::{Disk, Node, NotUp, World, check_payloads, options};

const SEGMENT: u64 = 256 << 10;

fn lossy() -> Options {
    Options { medium: Medium::Lossy, segment_bytes: SEGMENT, max_write_bytes: 256 << 10, max_frame_bytes: 128 << 10, ..options() }
}

fn is_zeros(op: &Op) -> bool {
    let all = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    match op {
        Op::Write { data: IoData::Span(span), durable: true, .. } => all(span.bytes()),
        Op::Write { data: IoData::Pool(buf, len), durable: true, .. } => all(&buf.bytes()[..*len]),
        _ => false,
    }
}

/// Zeros ahead of the log, not those that a recycled segment begins with.
fn is_margin(op: &Op) -> bool {
    matches!(op, Op::Write { offset, .. } if *offset != BLOCK_BYTES as u64) && is_zeros(op)
}

/// Writes a frame of so many blocks, lets everything finish, and releases what came before.
fn write(node: &mut Node, blocks: usize) {
    node.append(1, 1, blocks * BLOCK_BYTES - 200).unwrap();
    assert!(node.run());
    node.wal.release(LogIndex(node.acked().unwrap()));
    assert!(node.run());
}

/// A log whose segments are recycled ones by now.
fn recycled(options: Options, blocks: usize) -> Node {
    let mut node = Node::try_open(Disk::default(), options).unwrap();
    let frames = (4 + KEPT_SEGMENTS) * SEGMENT as usize / (blocks * BLOCK_BYTES);
    (0..frames).for_each(|_| write(&mut node, blocks));
    node
}

fn rest(node: &mut Node) {
    node.world.now += REST_NS;
    assert!(node.run());
}

/// The power fails now, whatever of the unflushed is lost: the next start does not doubt the end.
fn is_certain(node: &Node, options: &Options, what: &str) {
    assert_eq!(node.world.outstanding(), 0, "nothing is in flight");
    for seed in 0..3 {
        let mut after = Node::try_open(node.world.cut(seed), options.clone()).unwrap();
        assert_eq!(
            (after.report.damage, after.report.uncertain, after.hard_state.recovering, after.last()),
            (None, false, false, node.last()),
            "{what}: {}",
            after.report
        );
        // And the one after it neither, though it wrote nothing or something.
        let again = Node::try_open(after.world.cut(seed), options.clone()).unwrap();
        assert_eq!((again.report.uncertain, again.last()), (false, node.last()), "{what}");
        after.append(1, 1, 100).unwrap();
        assert!(after.run());
        let again = Node::try_open(after.world.cut(seed), options.clone()).unwrap();
        assert_eq!((again.report.uncertain, again.last()), (false, node.last() + 1), "{what}");
    }
}

/// Small frames and large ones, wherever in a segment the log ends, its last block included.
#[test]
fn a_log_at_rest_is_certain() {
    for medium in [Medium::Lossy, Medium::Safe] {
        let options = Options { medium, ..lossy() };
        for blocks in [1, 7, 30] {
            let mut node = recycled(options.clone(), blocks);
            for n in 0..(SEGMENT as usize / (blocks * BLOCK_BYTES)).min(70) {
                write(&mut node, blocks);
                if blocks > 4 {
                    rest(&mut node);
                }
                if n % 9 == 0 || blocks > 4 {
                    is_certain(&node, &options, &format!("{medium:?}, frames of {blocks} blocks, {n}"));
                }
            }
        }
        // Frames that fill a segment to its last block, and to the last but one.
        for left in [0, 1] {
            let mut node = recycled(options.clone(), 1);
            let room = |node: &Node| (SEGMENT - node.wal.durable_position() % SEGMENT) as usize % SEGMENT as usize / BLOCK_BYTES;
            while room(&node) != left {
                let blocks = room(&node).saturating_sub(left).clamp(1, 20);
                write(&mut node, blocks);
                rest(&mut node);
            }
            is_certain(&node, &options, &format!("{medium:?}, {left} blocks left"));
        }
    }
}

/// A sector of the frame at this position reads as something else.
fn spoil(disk: &mut Disk, position: u64, sector: u64) {
    let (number, offset) = (position / SEGMENT, position % SEGMENT + sector * SECTOR_BYTES as u64);
    disk.patch(&format!("log-{number:016x}.seg"), offset, |bytes| bytes[..SECTOR_BYTES].fill(0xa5));
}

fn is_frame(op: &Op) -> bool {
    matches!(op, Op::Write { durable: true, data: IoData::Span(_), .. }) && !is_zeros(op)
}

/// The power fails while a frame is being written over zeros, and any sectors of it may be there. That one is missing
/// shows: nobody was told of that frame, nothing was lost, and no start doubts the end. Of an acknowledged frame a sector
/// that reads as something else is a doubt as before.
#[test]
fn a_frame_that_was_in_flight_is_no_doubt_where_zeros_were() {
    let (mut torn, mut whole) = (0, 0);
    for blocks in [1, 3, 9] {
        let mut node = recycled(lossy(), 1);
        let acked = node.last();
        node.world.plan.hold = Some(is_frame);
        node.append(1, 1, blocks * BLOCK_BYTES - 200).unwrap();
        node.run();
        assert_eq!((node.acked(), node.last()), (Some(acked), acked + 1), "it is under way");
        for seed in 0..60 {
            let after = Node::try_open(node.world.cut(seed), lossy()).unwrap();
            let what = format!("{blocks} blocks, seed {seed}: {}", after.report);
            assert_eq!((after.report.damage, after.report.uncertain, after.hard_state.recovering), (None, false, false), "{what}");
            assert!((acked..=acked + 1).contains(&after.last()), "{what}");
            if after.last() == acked {
                torn += 1
            } else {
                whole += 1
            }
            // It goes on behind, and the next start knows that.
            let mut after = after;
            after.append(1, 1, 100).unwrap();
            assert!(after.run());
            let again = Node::try_open(after.world.cut(seed), lossy()).unwrap();
            assert_eq!((again.report.uncertain, again.last()), (false, after.last()), "{what}");
        }
    }
    assert!(torn > 100 && whole > 0, "{torn} torn, {whole} whole");

    let mut node = recycled(lossy(), 1);
    let at = node.wal.durable_position();
    node.append(1, 1, 3 * BLOCK_BYTES - 200).unwrap();
    assert!(node.run());
    for sector in 0..24 {
        let mut disk = node.world.cut(0);
        spoil(&mut disk, at, sector);
        let after = Node::try_open(disk, lossy()).unwrap();
        assert!(after.hard_state.recovering, "sector {sector}: {}", after.report);
    }
}

/// With one small frame in flight at a time, zeros are written beside the frames: none waits for them, however long
/// they take.
#[test]
fn small_frames_do_not_wait_for_zeros() {
    let mut node = recycled(lossy(), 1);
    let mut zeroings = 0;
    for _ in 0..200 {
        node.world.plan.hold = Some(is_margin);
        let before = node.acked();
        node.append(1, 1, 100).unwrap();
        node.run();
        assert!(node.acked() > before, "written beside the zeros");
        // They are as slow as half a margin of frames.
        if node.world.held.len() == 1 && node.last().is_multiple_of(MARGIN_BYTES as u64 / BLOCK_BYTES as u64 / 2) {
            zeroings += 1;
            let completion = node.world.release(0);
            node.complete(completion);
        }
        assert!(node.world.held.len() <= 1, "one at a time");
        node.wal.release(LogIndex(node.acked().unwrap()));
    }
    assert!(zeroings > 10, "{zeroings}");
}

/// A frame for whose place zeros are on their way waits for them, and so does all behind it: whichever came last would
/// stay.
#[test]
fn a_frame_never_meets_zeros_in_flight() {
    for blocks in [1, 3, 6] {
        for at_once in [false, true] {
            let mut node = recycled(lossy(), 1);
            while !(1..SEGMENT / 3).contains(&(node.wal.durable_position() % SEGMENT)) {
                write(&mut node, 1);
            }
            node.world.plan.hold = Some(is_margin);
            while node.world.held.is_empty() {
                write_small(&mut node);
            }
            let Some((_, Op::Write { offset, data: IoData::Span(zeros), .. })) = node.world.held.first() else { panic!("zeros") };
            let from = node.wal.durable_position() / SEGMENT * SEGMENT + offset;
            let to = from + zeros.len() as u64;
            let before = node.last();
            while node.wal.durable_position().max(from) == from && node.last() < before + 24 {
                let first = node.last() + 1;
                if node.try_append(first, 1, 1, 1, blocks * BLOCK_BYTES - 200).is_none() {
                    break;
                }
                if !at_once {
                    node.run();
                }
            }
            node.run();
            assert!(node.wal.durable_position() <= from, "{blocks}: a frame was written where zeros are on their way");
            assert!(node.wal.durable_position() + (blocks * BLOCK_BYTES) as u64 > from, "{blocks}: and none waits for nothing");
            node.world.plan.hold = None;
            let zeros = node.world.release(0);
            node.complete(zeros);
            assert!(node.run());
            assert!(node.acked() == Some(before + 24) && node.wal.durable_position() > from && from < to);
            // Nothing was zeroed that was written.
            let last = node.last();
            let mut after = Node::try_open(node.world.cut(0), lossy()).unwrap();
            assert_eq!(after.last(), last, "{}", after.report);
            check_payloads(&after.read_all(before, last).unwrap());
        }
    }
}

fn write_small(node: &mut Node) {
    node.append(1, 1, 100).unwrap();
    node.run();
}

/// Bytes of zeros and bytes of frames that `act` writes.
fn costs(node: &mut Node, act: impl FnOnce(&mut Node)) -> (u64, u64) {
    let from = node.world.log.len();
    let position = node.wal.durable_position();
    act(node);
    // A header is a block at offset 0; frames are what the log grew by; what else was written durably is zeros.
    let written = |line: &String| {
        let (offset, rest) = line.strip_prefix("write ")?.split_once(" +")?;
        let (bytes, durable) = rest.split_once(" durable=")?;
        (durable == "true" && offset != "0").then(|| bytes.parse::<u64>().unwrap())
    };
    let all: u64 = node.world.log[from..].iter().filter_map(written).sum();
    let grown = node.wal.durable_position() - position;
    (all - grown.min(all), grown)
}

/// A byte of zeros for a byte of small frames; under load next to none for large ones, and one block where the log
/// comes to rest. A log at rest writes nothing. On a safe medium there are none at all.
#[test]
fn what_zeros_cost() {
    // So many frames that they stay within one segment: what is left unused at its end is no cost.
    for (blocks, frames, most) in [(1, 16, 1.0 + 0.5), (2, 12, 1.5), (30, 1, 0.04)] {
        let mut node = recycled(lossy(), blocks);
        rest(&mut node);
        let room = |node: &Node| (SEGMENT - node.wal.durable_position() % SEGMENT) as usize / BLOCK_BYTES;
        while room(&node) < blocks * frames {
            write(&mut node, blocks);
        }
        rest(&mut node);
        let (zeros, bytes) = costs(&mut node, |node| {
            (0..frames).for_each(|_| {
                node.append(1, 1, blocks * BLOCK_BYTES - 200).unwrap();
                assert!(node.run());
            });
            rest(node);
        });
        assert!(zeros as f64 <= most * bytes as f64, "{blocks} blocks: {zeros} of zeros, {bytes} of frames");
        let (zeros, bytes) = costs(&mut node, |node| (0..50).for_each(|_| rest(node)));
        assert_eq!((zeros, bytes, node.wal.deadline()), (0, 0, None), "idle");
    }
    // One after the other and without a rest.
    let mut node = recycled(lossy(), 2 * LIGHT_FRAME_BYTES / BLOCK_BYTES);
    let (zeros, _) = costs(&mut node, |node| {
        for _ in 0..100 {
            node.append(1, 1, 2 * LIGHT_FRAME_BYTES - 200).unwrap();
            node.run();
            node.wal.release(LogIndex(node.acked().unwrap()));
        }
    });
    let recycled_heads = 100 * 2 * LIGHT_FRAME_BYTES as u64 / SEGMENT * MARGIN_BYTES as u64 + 2 * MARGIN_BYTES as u64;
    assert!(zeros <= recycled_heads + SEGMENT, "{zeros} of zeros");
    let mut node = recycled(Options { medium: Medium::Safe, ..lossy() }, 1);
    node.world.plan.hold = Some(is_zeros);
    (0..100).for_each(|_| write_small(&mut node));
    rest(&mut node);
    assert!(node.world.held.is_empty(), "nothing is zeroed on a safe medium");
}

/// A segment that zeros are still being written to is not used for anything else, though it was released.
#[test]
fn zeros_that_come_late_find_their_segment() {
    let mut node = recycled(lossy(), 1);
    // Not far from a segment's end: the large frames that follow do not fit into it.
    while !(SEGMENT * 5 / 8..SEGMENT * 6 / 8).contains(&(node.wal.durable_position() % SEGMENT)) {
        write(&mut node, 1);
    }
    node.world.plan.hold = Some(is_margin);
    while node.world.held.is_empty() {
        write(&mut node, 1);
    }
    // The log goes on in the next segments, and everything before them is released.
    let segment = node.wal.durable_position() / SEGMENT;
    while node.wal.durable_position() / SEGMENT < segment + 3 {
        write(&mut node, 30);
    }
    assert!(node.run());
    let names = node.world.disk.names();
    assert!(names.contains(&format!("log-{segment:016x}.seg")), "{segment}: {names:?}");
    node.world.plan.hold = None;
    let zeros = node.world.release(0);
    node.complete(zeros);
    assert!(node.run());
    assert!(!node.world.disk.names().contains(&format!("log-{segment:016x}.seg")));
}

/// A log that was closed under load has no zeros behind its end. The start writes them before it lets go of the note.
#[test]
fn a_start_marks_the_end() {
    for medium in [Medium::Lossy, Medium::Safe] {
        let mut node = recycled(Options { medium, ..lossy() }, 30);
        // In the middle of what frames of a former life filled.
        write(&mut node, 30);
        let (last, end) = (node.last(), node.wal.durable_position());
        let closed = node.close();
        let behind = &closed.contents(&format!("log-{:016x}.seg", end / SEGMENT))[(end % SEGMENT) as usize..][..BLOCK_BYTES];
        assert!(behind.iter().any(|byte| *byte != 0), "no zeros yet");
        for stop_at in 0.. {
            let mut world = World::new(closed.clone());
            world.plan.stop_at = Some(stop_at);
            let (cut, up) = match Node::start(world, lossy()) {
                Ok(node) => (node.world.cut(stop_at % 5), true),
                Err(NotUp::PowerFailed(world)) => (world.cut(stop_at % 5), false),
                Err(NotUp::Error(error)) => panic!("{error}"),
            };
            let after = Node::try_open(cut, lossy()).unwrap();
            assert_eq!((after.report.uncertain, after.last()), (false, last), "{medium:?}, cut at {stop_at}: {}", after.report);
            if up {
                break;
            }
        }
    }
}

/// What a recovery could not understand lies behind the end, and is not overwritten: the log is marked by going on in
/// the next segment.
#[test]
fn a_start_with_evidence_behind_the_end_marks_it_too() {
    let mut node = recycled(lossy(), 2);
    node.world.plan.hold = Some(|op| matches!(op, Op::Write { durable: true, .. }));
    node.append(1, 1, 30_000).unwrap();
    node.run();
    let last = node.last() - 1;
    // A sector of it reads as something else: it may have been acknowledged.
    let mut torn = node.world.cut_with(&mut || true);
    spoil(&mut torn, node.wal.durable_position(), 9);
    let mut node = Node::try_open(torn, lossy()).unwrap();
    assert_eq!((node.report.uncertain, node.hard_state.recovering, node.last()), (true, true, last), "{}", node.report);
    assert!(node.run());
    // It has again whatever it lost.
    let write = node.next_id();
    node.wal.save_hard_state(write, HardState { recovering: false, ..node.hard_state });
    assert!(node.run());
    is_certain(&node, &lossy(), "after a recovery");
}

/// A life on a lossy medium, and the power fails at every operation of it. Nothing promised is lost; and the end is in
/// doubt only where something was in flight.
#[test]
fn at_every_operation() {
    let options = || Options { medium: Medium::Lossy, ..small() };
    for seed in 0..3 {
        for stop_at in (seed..).step_by(2) {
            let mut promised = Promised::nothing();
            let mut world = World::new(Disk::default());
            world.plan.stop_at = Some(stop_at);
            let (world, ended) = match Node::start(world, options()) {
                Err(NotUp::PowerFailed(world)) => (*world, false),
                Err(NotUp::Error(error)) => panic!("{error}"),
                Ok(mut node) => {
                    check(&mut node, &mut promised);
                    let ended = life(&mut node, &mut promised, seed % 3);
                    (node.world, ended)
                }
            };
            let in_flight = world.outstanding() > 0;
            let mut after = Node::try_open(world.cut(seed), options()).unwrap();
            assert!(in_flight || !after.report.uncertain, "cut at {stop_at}: {}", after.report);
            after.report.uncertain = false;
            after.hard_state.recovering = false;
            check(&mut after, &mut promised);
            if ended {
                assert!(stop_at > 80);
                break;
            }
        }
    }
}

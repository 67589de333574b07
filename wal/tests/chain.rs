//! A new chain: the log behind a snapshot that was installed. Nothing of the old log is found behind it, whatever the
//! disk does, and nothing in it is acknowledged before that holds. H45, H48, H50.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::LogIndex;
use kontiki_io::Op;
use kontiki_wal::limits::{HARD_STATE_COPY_OFFSET, KEPT_SEGMENTS};
use kontiki_wal::{Cause, Chain, Medium, Options, Reach, ReadError, WalError};
use support::life::small;
use support::{Disk, Node, Read, World, base, check_payloads};

const DIGEST: u128 = 0xd1 << 100 | 7;

fn segment(number: u64) -> String {
    format!("log-{number:016x}.seg")
}

fn lossy() -> Options {
    Options { medium: Medium::Lossy, ..small() }
}

/// A log of `count` entries of term 1 in several segments, all acknowledged.
fn old(count: u64, options: &Options) -> Node {
    let mut node = Node::try_open(Disk::default(), options.clone()).unwrap();
    for _ in 0..count {
        node.append(1, 1, 7000).unwrap();
        assert!(node.run());
    }
    node
}

/// The same, and a chain of three entries of term 4 behind a snapshot of entry `index` of term 3.
fn new(count: u64, index: u64, options: &Options) -> Node {
    let mut node = old(count, options);
    node.rebase(index, 3, DIGEST).unwrap();
    assert!(node.run());
    append(&mut node, 4, 3);
    assert!(node.run());
    node
}

fn append(node: &mut Node, term: u64, count: u64) {
    for _ in 0..count {
        node.append(1, term, 2000).unwrap();
    }
}

fn number(node: &Node) -> u64 {
    (node.wal.durable_position() - 1) / small().segment_bytes
}

/// Everything the log holds.
fn all(node: &mut Node) -> Vec<Read> {
    let (first, last) = (node.wal.first_index().0, node.last());
    let read = if first > last { Vec::new() } else { node.read_all(first, last).unwrap() };
    check_payloads(&read);
    read
}

fn is_header(op: &Op) -> bool {
    matches!(op, Op::Write { offset: 0, data: kontiki_io::IoData::Span(_), .. })
}

fn is_frame(op: &Op) -> bool {
    matches!(op, Op::Write { offset, data: kontiki_io::IoData::Span(_), .. } if *offset > 0)
}

fn is_hard_state(op: &Op) -> bool {
    matches!(op, Op::Write { offset, data: kontiki_io::IoData::Pool(..), .. } if [0, HARD_STATE_COPY_OFFSET].contains(offset))
}

/// H45: behind a snapshot nothing of the old log is left, whether it ends before, behind, or says otherwise of the
/// snapshot's entry; and the log goes on.
#[test]
fn h45_the_log_goes_on_behind_a_snapshot() {
    for (options, index) in [small(), lossy()].into_iter().flat_map(|options| [1, 11, 12, 40].map(|index| (options.clone(), index))) {
        let mut node = old(12, &options);
        let write = node.rebase(index, 3, DIGEST).unwrap();
        assert_eq!((node.wal.base(), node.last(), node.last_term()), (base(index, 3), index, 3), "at once");
        assert!(node.run());
        assert_eq!(node.log_durable, Some(write));
        assert_eq!(node.read_all(index, index), Err(ReadError::Gone { first: LogIndex(index + 1) }));
        append(&mut node, 4, 30);
        assert!(node.run());
        assert_eq!(all(&mut node).len(), 30);
        assert_eq!(
            node.world.disk.names().iter().filter(|name| name.starts_with("log-")).count() as u64,
            number(&node) - first(&node) + 2 + KEPT_SEGMENTS as u64
        );
        let mut again = Node::start_behind(World::new(node.close()), options.clone(), &[base(index, 3)]).unwrap();
        assert_eq!((again.report.damage, again.hard_state.recovering, again.wal.base()), (None, false, base(index, 3)));
        assert_eq!(again.report.chain, Some(Chain { base: base(index, 3), digest: DIGEST }));
        assert_eq!(again.reaches, Reach::Snapshot(base(index, 3)));
        let read = all(&mut again);
        assert!(read.len() == 30 && read.iter().all(|(_, term, _)| *term == 4));
    }
}

fn first(node: &Node) -> u64 {
    let names = node.world.disk.names();
    names.iter().filter_map(|name| u64::from_str_radix(name.strip_prefix("log-")?.strip_suffix(".seg")?, 16).ok()).min().unwrap()
}

/// First the header is durable, then the hard state says that the log begins there, then comes a frame, and the answer.
#[test]
fn one_step_after_the_other() {
    let mut node = old(12, &small());
    // A frame of the old log is under way still.
    node.world.plan.hold = Some(|op| is_frame(op) || is_header(op) || is_hard_state(op));
    let before = node.log_durable;
    append(&mut node, 1, 1);
    node.rebase(20, 3, DIGEST).unwrap();
    append(&mut node, 4, 1);
    let holds = |node: &mut Node, what: &[fn(&Op) -> bool]| {
        node.run();
        let held: Vec<bool> = node.world.held.iter().map(|(_, op)| what.iter().any(|is| is(op))).collect();
        assert_eq!((held.len(), held.iter().all(|is| *is)), (what.len(), true), "{:?}", node.world.held);
    };
    holds(&mut node, &[is_frame, is_header]);
    let completion = node.world.release(1);
    node.complete(completion);
    holds(&mut node, &[is_frame]);
    assert_eq!(node.log_durable, before, "the old log's frame comes before");
    let completion = node.world.release(0);
    node.complete(completion);
    for _ in 0..2 {
        holds(&mut node, &[is_hard_state]);
        assert_eq!(node.acked(), Some(13), "the frame of the old log alone");
        let completion = node.world.release(0);
        node.complete(completion);
    }
    node.run();
    assert_eq!(node.acked(), Some(20), "the chain has begun");
    assert!(node.world.held.iter().any(|(_, op)| is_frame(op)), "and its first frame is under way");
    assert!(
        !node.world.log.iter().any(|op| op.starts_with("rename log-") || op.starts_with("unlink log-")),
        "nothing of the old log has gone before"
    );
}

/// H48: the power fails at every operation, from the snapshot's installation until the last of the old segments is
/// recycled and the new chain has frames. Either the old log is whole, or nothing of it is left.
#[test]
fn h48_cut_at_every_operation() {
    for (options, index) in [small(), lossy()].into_iter().flat_map(|options| [11, 40].map(|index| (options.clone(), index))) {
        let disk = old(24, &options).close();
        for stop in 0.. {
            let mut node = Node::try_open(disk.clone(), options.clone()).unwrap();
            assert!(node.run());
            node.world.plan.stop_at = Some(node.world.done + stop);
            let write = node.rebase(index, 3, DIGEST).unwrap();
            append(&mut node, 4, 2);
            let done = node.run();
            let acked = node.acked().unwrap_or(0);
            let begun = node.log_durable.is_some_and(|durable| durable >= write);
            for seed in 0..8 {
                let what = format!("{:?}, {index}: stop {stop}, seed {seed}, acknowledged {acked}", options.medium);
                let world = World::new(if seed == 7 { node.world.kill(stop) } else { node.world.cut(seed) });
                let mut after = Node::start_behind(world, options.clone(), &[base(index, 3)]).unwrap();
                assert_eq!(after.report.damage, None, "{what}");
                let read = all(&mut after);
                if after.report.chain.is_none() {
                    assert!(!begun && read.iter().all(|entry| entry.1 == 1) && read.len() == 24, "{what}: the old log, whole");
                    assert_eq!(after.reaches, Reach::Beginning);
                } else {
                    assert_eq!((after.wal.base(), after.reaches), (base(index, 3), Reach::Snapshot(base(index, 3))), "{what}");
                    assert!(read.iter().all(|entry| entry.1 == 4) && after.last() >= acked, "{what}: the new one");
                }
                // It goes on, and stays what it is.
                let (last, term) = (after.last(), after.last_term() + 4);
                append(&mut after, term, 1);
                assert!(after.run());
                let next = Node::start_behind(World::new(after.kill()), options.clone(), &[base(index, 3)]).unwrap();
                assert_eq!((next.report.damage, next.last(), next.report.chain), (None, last + 1, after_chain(&next)), "{what}");
            }
            if done {
                assert!(stop > 8 && begun);
                break;
            }
        }
    }
}

fn after_chain(node: &Node) -> Option<Chain> {
    (node.wal.base().index.0 > 0).then(|| Chain { base: node.wal.base(), digest: DIGEST })
}

/// A chain behind a chain, before the first has a frame, and later.
#[test]
fn the_newest_chain_counts() {
    for frames in [0, 1, 40] {
        let mut node = old(12, &small());
        for (index, term) in [(20, 2), (70, 3), (90, 4)] {
            node.rebase(index, term, u128::from(index)).unwrap();
            append(&mut node, term, frames);
        }
        assert!(node.run());
        let mut node = Node::try_open(node.world.cut(3), small()).unwrap();
        assert_eq!((node.report.damage, node.report.chain), (None, Some(Chain { base: base(90, 4), digest: 90 })));
        assert_eq!(all(&mut node).len() as u64, frames);
    }
}

/// Whatever becomes of a chain's first header, once frames behind it are acknowledged: the old log, whose files may
/// still be there, never takes its place. H48.
#[test]
fn a_damaged_base_is_damage() {
    for options in [small(), lossy()] {
        // Nothing was recycled yet.
        let mut node = old(12, &options);
        node.world.plan.hold = Some(|op| matches!(op, Op::Rename { .. } | Op::Unlink { .. }));
        node.rebase(20, 3, DIGEST).unwrap();
        append(&mut node, 4, 3);
        node.run();
        assert_eq!(node.acked(), Some(23));
        let (disk, chain) = (node.world.cut(1), number(&node));
        assert!(first(&node) < chain, "the old log is there");
        for (offset, bit) in (0..128).map(|offset| (offset, (offset % 8) as u8)).chain([(4095, 0)]) {
            let mut disk = disk.clone();
            disk.flip(&segment(chain), offset, bit);
            is_noticed(&disk, &options, &format!("byte {offset}"));
        }
        for what in ["zeros", "gone"] {
            let mut disk = disk.clone();
            if what == "gone" {
                disk.remove(&segment(chain))
            } else {
                disk.patch(&segment(chain), 0, |bytes| bytes[..4096].fill(0))
            }
            is_noticed(&disk, &options, what);
        }
        // So it is of the frames behind it.
        let mut disk = disk.clone();
        disk.flip(&segment(chain), 4096 + 70, 1);
        let node = is_noticed(&disk, &options, "its first frame");
        assert_eq!(node.wal.base(), base(20, 3), "the snapshot is still what it goes on from");
    }
}

fn is_noticed(disk: &Disk, options: &Options, what: &str) -> Node {
    let mut world = World::new(disk.clone());
    let error = support::open_behind(&mut world, Options { sole_voter: true, ..options.clone() }, &[base(20, 3)]).unwrap().err();
    assert!(matches!(error, Some(WalError::Damaged(_))), "{what}: {error:?}");
    assert!(world.log.iter().all(|op| !op.starts_with("write") && !op.starts_with("rename") && !op.starts_with("unlink")), "{what}");
    let mut node = Node::start_behind(World::new(disk.clone()), options.clone(), &[base(20, 3)]).unwrap();
    assert!(node.report.damage.is_some() && node.hard_state.recovering, "{what}: {}", node.report);
    assert!(all(&mut node).is_empty(), "{what}: nothing of the old log");
    // The snapshot is installed again, and the log goes on behind it.
    if node.wal.base() != base(20, 3) {
        node.rebase(20, 3, DIGEST).unwrap();
    }
    append(&mut node, 5, 2);
    assert!(node.run());
    let mut node = Node::start_behind(World::new(node.kill()), options.clone(), &[base(20, 3)]).unwrap();
    assert_eq!((node.report.damage, node.reaches, all(&mut node).len()), (None, Reach::Snapshot(base(20, 3)), 2), "{what}");
    node
}

/// Nor is it missed where nothing stands behind it yet, but that it is there was acknowledged.
#[test]
fn a_base_alone_is_missed() {
    for options in [small(), lossy()] {
        let mut node = old(12, &options);
        node.rebase(20, 3, DIGEST).unwrap();
        node.run();
        assert_eq!(node.acked(), Some(20));
        for seed in 0..4 {
            let mut disk = node.world.cut(seed);
            disk.flip(&segment(number(&node)), 60, 1);
            is_noticed(&disk, &options, "a base alone");
        }
    }
}

/// What was being prepared when the chain began is named meanwhile: the hard state says nothing of the chain then, whose
/// header is not there yet.
#[test]
fn nothing_is_named_that_is_not_there() {
    let mut node = old(12, &small());
    node.world.plan.hold = Some(|op| matches!(op, Op::Rename { .. }));
    while node.world.held.is_empty() {
        append(&mut node, 1, 1);
        node.run();
    }
    let last = node.last();
    node.world.plan.hold = Some(is_header);
    node.rebase(60, 3, DIGEST).unwrap();
    let renamed = node.world.release(0);
    node.complete(renamed);
    node.run();
    assert!(node.world.held.iter().all(|(_, op)| is_header(op)) && node.acked() == Some(last));
    for seed in 0..8 {
        let mut after = Node::try_open(node.world.cut(seed), small()).unwrap();
        assert_eq!(after.report.damage, None, "seed {seed}");
        assert!(after.report.chain.is_some() || all(&mut after).len() as u64 == last, "seed {seed}: {}", after.report);
    }
}

/// So it is with a chain behind a chain: the older one, which is whole and still there, does not come back.
#[test]
fn a_damaged_base_does_not_bring_back_the_chain_before() {
    for options in [small(), lossy()] {
        let mut node = old(12, &options);
        node.world.plan.hold = Some(|op| matches!(op, Op::Rename { .. } | Op::Unlink { .. }));
        node.rebase(10, 2, 1).unwrap();
        append(&mut node, 2, 3);
        node.run();
        let before = number(&node);
        node.rebase(20, 3, DIGEST).unwrap();
        append(&mut node, 4, 3);
        node.run();
        assert_eq!(node.acked(), Some(23));
        let (disk, chain) = (node.world.cut(1), number(&node));
        for (offset, bit) in [(0, 0), (10, 0), (16, 0), (60, 3), (110, 1), (4095, 7)] {
            let mut disk = disk.clone();
            assert!(disk.names().contains(&segment(before)));
            disk.flip(&segment(chain), offset, bit);
            is_noticed(&disk, &options, &format!("byte {offset}"));
        }
    }
}

/// A process that is long dead wrote this base: whatever was acknowledged where it stands is gone.
#[test]
fn a_base_of_the_dead_is_damage() {
    let mut node = old(12, &small());
    node.world.plan.hold = Some(is_header);
    node.rebase(20, 3, DIGEST).unwrap();
    node.run();
    let mut next = Node::try_open(node.world.disk.clone(), small()).unwrap();
    assert_eq!((next.report.damage, next.last()), (None, 12));
    append(&mut next, 2, 30);
    assert!(next.run());
    // The write of the dead process comes late.
    node.world.disk = next.world.disk;
    node.world.release(0);
    let node = Node::try_open(node.world.disk, small()).unwrap();
    assert!(matches!(node.report.damage.map(|damage| damage.cause), Some(Cause::BootFell { .. })), "{}", node.report);
    assert!(node.hard_state.recovering);
}

/// H50: a log that nothing reaches is told as such; the snapshots that do not join it do not count.
#[test]
fn h50_what_reaches_the_log() {
    let disk = new(12, 20, &small()).close();
    let reaches = |snapshots: &[kontiki_core::Base], applied| {
        let options = Options { applied: LogIndex(applied), ..small() };
        let node = Node::start_behind(World::new(disk.clone()), options, snapshots).unwrap();
        assert_eq!((node.report.damage, node.hard_state.recovering, node.wal.base()), (None, false, base(20, 3)));
        node.reaches
    };
    assert_eq!(reaches(&[], 0), Reach::Nothing);
    assert_eq!(reaches(&[], 20), Reach::Machine);
    assert_eq!(reaches(&[base(19, 3), base(20, 2), base(24, 4)], 19), Reach::Nothing);
    assert_eq!(reaches(&[base(10, 1), base(20, 3), base(22, 4)], 0), Reach::Snapshot(base(22, 4)));
}

/// Where the log's first segment is gone, what is left serves whoever has what stood before it: a state machine, or a
/// snapshot.
#[test]
fn the_rest_of_a_log_is_kept_where_a_snapshot_reaches_it() {
    let mut disk = old(24, &small()).close();
    disk.remove(&segment(1));
    let open = |snapshots: &[kontiki_core::Base]| {
        let node = Node::start_behind(World::new(disk.clone()), small(), snapshots).unwrap();
        assert!(node.report.damage.is_some() && node.hard_state.recovering);
        (node.wal.first_index().0, node.last(), node.reaches)
    };
    let (begin, last, _) = open(&[base(24, 1)]);
    assert!(begin > 1 && last == 24);
    assert_eq!(open(&[base(begin - 1, 1)]), (begin, 24, Reach::Snapshot(base(begin - 1, 1))));
    for snapshots in [vec![], vec![base(begin - 2, 1)], vec![base(begin - 1, 9)], vec![base(25, 1)]] {
        assert_eq!(open(&snapshots), (1, 0, Reach::Beginning), "{snapshots:?}");
    }
}

/// The log is closed in order while a new chain is beginning: it has begun then.
#[test]
fn closed_while_a_chain_begins() {
    for hold in [is_header as fn(&Op) -> bool, is_hard_state] {
        let mut node = old(12, &small());
        node.world.plan.hold = Some(hold);
        node.rebase(20, 3, DIGEST).unwrap();
        append(&mut node, 4, 1);
        node.run();
        node.wal.close(&mut node.world);
        assert!(!node.wal.closed());
        node.world.plan.hold = None;
        let completion = node.world.release(0);
        node.complete(completion);
        while let Some(completion) = node.step() {
            node.complete(completion);
        }
        assert!(node.wal.closed());
        let mut node = Node::try_open(node.kill(), small()).unwrap();
        assert_eq!((node.report.damage, node.wal.base(), all(&mut node).len()), (None, base(20, 3), 1));
    }
}

/// A recovering node, with evidence of what it lost lying about, is given a snapshot: all of that goes.
#[test]
fn behind_a_damaged_log() {
    for options in [small(), lossy()] {
        let mut disk = old(24, &options).close();
        disk.flip(&segment(2), 4096 + 100, 0);
        let mut node = Node::try_open(disk, options.clone()).unwrap();
        assert!(node.hard_state.recovering);
        node.rebase(40, 3, DIGEST).unwrap();
        append(&mut node, 4, 30);
        assert!(node.run());
        let chain = node.wal.durable_position() / options.segment_bytes;
        let mut node = Node::try_open(node.close(), options.clone()).unwrap();
        assert_eq!((node.report.damage, node.report.dropped_tail_bytes, node.wal.base()), (None, 0, base(40, 3)));
        assert_eq!(all(&mut node).len(), 30);
        assert!(node.run() && chain - first(&node) < 6, "what was put aside is gone");
    }
}

/// A chain is released like any log: its first segment goes, and what is left says what it presupposes.
#[test]
fn a_chain_is_released() {
    let mut node = new(12, 40, &small());
    append(&mut node, 4, 120);
    assert!(node.run());
    let upto = node.last() - 2;
    let base = node.wal.release(LogIndex(upto)).unwrap();
    assert!(base.index.0 > 43 && base.index.0 <= upto);
    assert!(node.run());
    for seed in 0..4 {
        let mut after = Node::try_open(node.world.cut(seed), small()).unwrap();
        assert_eq!((after.report.damage, after.report.chain, after.wal.base(), after.reaches), (None, None, base, Reach::Nothing));
        assert_eq!(all(&mut after).len() as u64, node.last() - base.index.0);
    }
}

//! A durable machine's small snapshots on a real disk: what the log forgets for them, who is told of them, and what a start
//! makes of those that are damaged.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kontiki::{Config, Event, Medium, Member, Node};
use support::table::{Mood, Table};
use support::{LONG, free_addrs, snapshots, write_all};

const SEGMENT_BYTES: u64 = 68 << 10;
/// Of a small snapshot's file: a chunk for what it is of, one for its end.
const SMALL_BYTES: u64 = 128 << 10;

fn start(dir: &Path, machine: &Table) -> Node {
    let mut config = Config::new(0x5A9, 1, vec![Member::new(1, free_addrs(1)[0].into())], dir);
    (config.segment_bytes, config.medium) = (SEGMENT_BYTES, Medium::Safe);
    (config.max_frame_bytes, config.max_entry_bytes, config.retention_bytes) = (16 << 10, 15 << 10, 0);
    (config.window_bytes, config.ring_bytes, config.snapshot_log_bytes) = (64 << 10, 256 << 10, 4 * SEGMENT_BYTES);
    let node = Node::builder(config).start(machine.clone()).unwrap();
    assert!(node.wait_leader(LONG).is_some());
    node
}

/// A machine that is durable by itself, and whose state is too long to be copied now and then; or that makes no copies.
fn machine(mood: Mood) -> Table {
    let machine = Table::default();
    machine.shared.durable.store(true, Ordering::SeqCst);
    machine.shared.ballast.store(8 << 20, Ordering::SeqCst);
    *machine.shared.mood.lock().unwrap() = mood;
    machine
}

fn write(node: &Node, count: u64) {
    write_all(node, (0..count).map(|n| vec![n as u8; 14 << 10]));
}

/// The log is let go of up to the older of two small ones, never further, and so again after each start. The machine is never
/// asked for its state: whether it could give it makes no difference.
#[test]
fn the_log_forgets_what_two_small_ones_hold() {
    for mood in [Mood::Refuses, Mood::Panics] {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(mood);
        for round in 1..=3 {
            let node = start(dir.path(), &machine);
            let (mut events, begins) = (node.events(), node.status().unwrap().first);
            let begun = Instant::now();
            loop {
                write(&node, 5);
                let status = node.status().unwrap();
                assert!(status.first <= status.snapshot_older.next(), "{status}");
                if status.first.0 > begins.0 + 60 {
                    assert!(!status.snapshot_full && !status.snapshot_older_full && status.snapshot > status.snapshot_older, "{status}");
                    break;
                }
                assert!(begun.elapsed() < LONG, "{status}");
            }
            let told: Vec<Event> =
                std::iter::from_fn(|| events.poll()).filter(|event| matches!(event, Event::SnapshotWritten { .. })).collect();
            assert!(told.len() > 1 && told.iter().all(|event| matches!(event, Event::SnapshotWritten { full: false, .. })), "{told:?}");
            node.shutdown().unwrap();
            assert_eq!(machine.shared.restored.load(Ordering::SeqCst), 0, "round {round}");
        }
        for path in snapshots(dir.path()) {
            assert_eq!(path.metadata().unwrap().len(), SMALL_BYTES);
        }
    }
}

/// One that is asked for holds what was acknowledged before, and the program is told of which kind it is.
#[test]
fn a_small_one_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), &machine(Mood::Fails));
    let mut events = node.events();
    write(&node, 5);
    let written = node.snapshot().unwrap();
    assert!(written.index.0 >= 6, "five entries and a no-op");
    assert_eq!(node.snapshot(), Ok(written));
    assert!(std::iter::from_fn(|| events.poll()).any(|event| event == Event::SnapshotWritten { index: written.index, full: false }));
    let status = node.status().unwrap();
    assert_eq!((status.snapshot, status.snapshot_full), (written.index, false));
    assert!(status.to_string().contains("snapshot_full = false"));
}

/// A sole node has nobody to ask for what damaged snapshots held, and goes on with what its machine has.
#[test]
fn a_sole_node_goes_on_without_its_small_ones() {
    let dir = tempfile::tempdir().unwrap();
    let machine = machine(Mood::Good);
    let node = start(dir.path(), &machine);
    let begun = Instant::now();
    while node.status().unwrap().first.0 == 1 {
        write(&node, 5);
        assert!(begun.elapsed() < LONG);
    }
    node.shutdown().unwrap();
    let before = machine.state();
    for damaged in [1, 2] {
        for path in snapshots(dir.path()).iter().rev().take(damaged) {
            std::fs::write(path, vec![0xE5; SMALL_BYTES as usize]).unwrap();
        }
        let node = start(dir.path(), &machine);
        assert!(!node.status().unwrap().needs_base);
        node.shutdown().unwrap();
        assert_eq!(machine.state(), before);
    }
    // And makes others.
    let node = start(dir.path(), &machine);
    write(&node, 60);
    let begun = Instant::now();
    while node.status().unwrap().counters.snapshots_written < 2 {
        write(&node, 1);
        assert!(begun.elapsed() < LONG);
    }
}

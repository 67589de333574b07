//! A machine in memory with snapshots, on real disks: the log forgets what two of them hold, a start begins with the
//! newest that is intact, and what goes wrong with one costs no more than that.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kontiki::{ApplyOn, Config, EntryId, Event, Failure, Medium, Member, Node, SnapshotError};
use support::table::{Mood, Table};
use support::{snapshots, write_all};

const LONG: Duration = Duration::from_secs(120);
const SEGMENT_BYTES: u64 = 68 << 10;
const RETAINED: u64 = 8;

fn config(dir: &Path, apply_on: ApplyOn) -> Config {
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = Config::new(0x5A9, 1, vec![Member::new(1, addr.into())], dir);
    (config.segment_bytes, config.medium, config.apply_on) = (SEGMENT_BYTES, Medium::Safe, apply_on);
    (config.max_frame_bytes, config.max_entry_bytes, config.retention_bytes) = (16 << 10, 15 << 10, RETAINED * SEGMENT_BYTES);
    (config.window_bytes, config.ring_bytes) = (64 << 10, 256 << 10);
    config
}

fn start(dir: &Path, apply_on: ApplyOn) -> (Node, Table) {
    let machine = Table::default();
    let node = Node::builder(config(dir, apply_on)).start(machine.clone()).unwrap();
    *machine.shared.node.lock().unwrap() = Some(node.proposer());
    assert!(node.wait_leader(LONG).is_some());
    (node, machine)
}

/// Writes so many entries, one after another in each of 32 places.
fn write(node: &Node, count: u64) {
    let payload = |n: u64| {
        let mut payload = vec![n as u8; 14 << 10];
        payload[0] = (n % 32) as u8;
        payload
    };
    write_all(node, (0..count).map(payload));
}

fn until(node: &Node, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "{what}: {:?}", node.status());
        std::thread::yield_now();
    }
}

/// All that is applied before the end of the log.
fn settled(node: &Node) {
    until(node, "it is applied", || node.status().is_some_and(|s| s.commit == s.last && s.applied == s.last && !s.restoring));
}

fn bytes_in(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().map_or(0, |meta| meta.len())).sum()
}

/// A hundred times what it retains goes through the log: what it takes on the disk stays bounded, and so does what a
/// start applies again. The state is as if the log had been kept.
#[test]
fn a_node_writes_for_ever_on_a_bounded_disk() {
    for apply_on in [ApplyOn::Reactor, ApplyOn::Thread] {
        let dir = tempfile::tempdir().unwrap();
        let (mut node, mut machine) = start(dir.path(), apply_on);
        // Two snapshots of half a megabyte, one in the making, which grows by four at a time, and one on its way out; the log
        // that is retained; and what it grows by while snapshots give way to it. In all, 52 MB are written.
        let most = 20 << 20;
        for round in 1..=4 {
            for _ in 0..25 {
                write(&node, 32);
                assert!(bytes_in(dir.path()) < most, "{apply_on:?}: {}", node.status().unwrap());
            }
            settled(&node);
            let (before, status) = (machine.state(), node.status().unwrap());
            assert_eq!(before.1, round * 25 * 32);
            assert!(status.snapshot > status.snapshot_older && status.snapshot_older.0 > 0 && status.first.0 > 1, "{status}");
            assert!(status.first <= status.snapshot_older.next(), "no gap between the older one and the log: {status}");
            node.shutdown().unwrap();
            (node, machine) = start(dir.path(), apply_on);
            settled(&node);
            assert_eq!(machine.state(), before);
            let again = machine.shared.applied.load(Ordering::SeqCst);
            assert!(again <= status.last.0 - status.snapshot.0, "{again} entries again, behind {}", status.snapshot);
            assert!(machine.shared.restored.load(Ordering::SeqCst) >= status.snapshot.0);
        }
    }
}

/// One that is asked for holds all that was acknowledged before; asked again, it is the same one.
#[test]
fn a_snapshot_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let (node, machine) = start(dir.path(), ApplyOn::Thread);
    let mut events = node.events();
    write(&node, 5);
    let written = node.snapshot().unwrap();
    assert!(written.index.0 >= 6, "five entries and a no-op");
    assert_eq!(node.snapshot(), Ok(written));
    assert_eq!((node.status().unwrap().snapshot, snapshots(dir.path()).len()), (written.index, 1));
    assert!(std::iter::from_fn(|| events.poll()).any(|event| event == Event::SnapshotWritten { index: written.index, full: true }));
    let before = machine.state();
    node.shutdown().unwrap();
    let (node, machine) = start(dir.path(), ApplyOn::Thread);
    settled(&node);
    assert_eq!((machine.state(), machine.shared.applied.load(Ordering::SeqCst)), (before, 0));
    assert_eq!(machine.shared.restored.load(Ordering::SeqCst), written.index.0);
}

/// A log that retains nothing for others is let go of up to the older of two snapshots, and never further.
#[test]
fn nothing_is_forgotten_that_the_older_one_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), ApplyOn::Thread);
    (config.retention_bytes, config.snapshot_log_bytes) = (0, 4 * SEGMENT_BYTES);
    let node = Node::builder(config).start(Table::default()).unwrap();
    let mut seen = 0;
    while seen < 200 {
        write(&node, 1);
        let status = node.status().unwrap();
        assert!(status.first <= status.snapshot_older.next(), "{status}");
        seen += u64::from(status.first.0 > 1);
    }
}

/// Damage somewhere inside the newest: a start falls back to the older one, and applies more of the log. In both of them:
/// it says so and stops, rather than begin with a hole.
#[test]
fn a_damaged_snapshot_gives_way_to_the_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let (node, machine) = start(dir.path(), ApplyOn::Thread);
    write(&node, 32);
    // On the disk too: what is let go of is there until its file is used again, and a start may find it.
    let first = dir.path().join("log-0000000000000001.seg");
    until(&node, "the log begins late", || {
        write(&node, 1);
        node.status().unwrap().first.0 > 1 && !first.exists()
    });
    settled(&node);
    let before = machine.state();
    node.shutdown().unwrap();
    let damage = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.len() / 2;
        bytes[at..at + 64].fill(0xE5);
        std::fs::write(path, bytes).unwrap();
    };
    let files = snapshots(dir.path());
    let [older, newest] = &files[..] else { panic!("{files:?}") };
    damage(newest);
    let (node, machine) = start(dir.path(), ApplyOn::Thread);
    settled(&node);
    assert_eq!(machine.state(), before);
    node.shutdown().unwrap();

    damage(older);
    for file in snapshots(dir.path()).iter().filter(|file| *file != older) {
        damage(file);
    }
    let machine = Table::default();
    let node = Node::builder(config(dir.path(), ApplyOn::Thread)).start(machine.clone()).unwrap();
    let failure = node.shutdown_after_failure();
    assert!(matches!(failure, Failure::Restore { first } if first > 1), "{failure}");
    assert_eq!(machine.state(), (BTreeMap::new(), 0), "nothing was applied to a state that lacks something");
}

trait AfterFailure {
    fn shutdown_after_failure(self) -> Failure;
}

impl AfterFailure for Node {
    /// Waits for the node to stop by itself: why.
    fn shutdown_after_failure(self) -> Failure {
        self.proposer().wait_stopped().unwrap_err()
    }
}

/// A snapshot that cannot be made is told of, costs nothing else, and is tried again; one that is not supported is not
/// asked for again.
#[test]
fn a_snapshot_that_fails_costs_nothing_else() {
    for apply_on in [ApplyOn::Reactor, ApplyOn::Thread] {
        let dir = tempfile::tempdir().unwrap();
        let (node, machine) = start(dir.path(), apply_on);
        write(&node, 2);
        for mood in [Mood::Fails, Mood::FailsLater] {
            *machine.shared.mood.lock().unwrap() = mood;
            let error = node.snapshot().unwrap_err();
            assert!(matches!(&error, SnapshotError::Failed(why) if why.contains("copy")), "{mood:?}: {error}");
            assert!(snapshots(dir.path()).is_empty());
            write(&node, 1);
        }
        assert!(node.status().unwrap().counters.snapshots_failed >= 2);
        *machine.shared.mood.lock().unwrap() = Mood::Good;
        let EntryId { index, .. } = node.snapshot().unwrap();
        assert_eq!(snapshots(dir.path()).len(), 1);
        assert!(index.0 > 4);
        node.shutdown().unwrap();

        let (node, machine) = start(dir.path(), apply_on);
        settled(&node);
        *machine.shared.mood.lock().unwrap() = Mood::Refuses;
        write(&node, 1);
        // However often.
        for _ in 0..3 {
            assert_eq!(node.snapshot(), Err(SnapshotError::NotSupported));
        }
    }
}

/// What panics, or waits for its own node, ends the node with a reason, and never hangs.
#[test]
fn a_snapshot_that_panics_or_waits_ends_the_node() {
    for (mood, says) in [(Mood::Panics, "no memory"), (Mood::PanicsLater, "gone"), (Mood::Waits, "never returns")] {
        let dir = tempfile::tempdir().unwrap();
        let (node, machine) = start(dir.path(), ApplyOn::Thread);
        write(&node, 5);
        *machine.shared.mood.lock().unwrap() = mood;
        assert_eq!(node.snapshot(), Err(SnapshotError::Stopped));
        let failure = node.shutdown_after_failure();
        assert!(matches!(&failure, Failure::ApplyPanic(why) if why.contains(says)), "{mood:?}: {failure}");
    }
}

//! A machine in memory with snapshots, on real disks: the log forgets what two of them hold, a start begins with the
//! newest that is intact, and what goes wrong with one costs no more than that.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kontiki::{
    ApplyError, ApplyOn, Config, Entries, EntryId, Event, Failure, Medium, Member, Node, ProposeError, Replies, Restore, SnapshotError,
    SnapshotSource, StateMachine, Ticket,
};

const LONG: Duration = Duration::from_secs(120);
const SEGMENT_BYTES: u64 = 68 << 10;
const RETAINED: u64 = 8;

/// What the next snapshots come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Good,
    Refuses,
    Fails,
    FailsLater,
    Panics,
    PanicsLater,
    Waits,
}

#[derive(Default)]
struct Shared {
    /// What was written last to each place, and how many entries there were.
    state: Mutex<(BTreeMap<u8, Vec<u8>>, u64)>,
    applied: AtomicU64,
    restored: AtomicU64,
    mood: Mutex<Mood>,
    node: Mutex<Option<kontiki::Proposer>>,
}

/// A table of a few long values.
#[derive(Clone, Default)]
struct Table {
    shared: Arc<Shared>,
    coming: Vec<u8>,
}

/// Gives a piece, and then something else.
struct Moody(Mood, Cursor<Vec<u8>>);

impl SnapshotSource for Moody {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SnapshotError> {
        match self.0 {
            Mood::FailsLater if self.1.position() > 0 => Err(SnapshotError::Failed("the copy is gone".into())),
            Mood::PanicsLater if self.1.position() > 0 => panic!("the copy is gone"),
            _ => {
                // As much as it likes.
                let most = into.len().min(5_000);
                self.1.read(&mut into[..most])
            }
        }
    }
}

impl StateMachine for Table {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        let mut state = self.shared.state.lock().unwrap();
        for entry in entries {
            state.0.insert(entry.payload[0], entry.payload.to_vec());
            state.1 += 1;
            self.shared.applied.fetch_add(1, Ordering::SeqCst);
            replies.push(&state.1.to_le_bytes());
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        let mood = *self.shared.mood.lock().unwrap();
        match mood {
            Mood::Refuses => return Err(SnapshotError::NotSupported),
            Mood::Fails => return Err(SnapshotError::Failed("no memory for a copy".into())),
            Mood::Panics => panic!("no memory for a copy"),
            Mood::Waits => {
                let node = self.shared.node.lock().unwrap().clone();
                drop(node.unwrap().snapshot());
            }
            Mood::Good | Mood::FailsLater | Mood::PanicsLater => {}
        }
        let state = self.shared.state.lock().unwrap();
        let mut bytes = state.1.to_le_bytes().to_vec();
        for value in state.0.values() {
            bytes.extend((value.len() as u32).to_le_bytes());
            bytes.extend(value);
        }
        Ok(Box::new(Moody(mood, Cursor::new(bytes))))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        match part {
            Restore::Begin { index, bytes, .. } => {
                self.coming.clear();
                self.coming.reserve(bytes as usize);
                self.shared.restored.store(index.0, Ordering::SeqCst);
            }
            Restore::Chunk(bytes) => self.coming.extend(bytes),
            Restore::End => {
                let (count, mut rest) = self.coming.split_at(8);
                let mut state = self.shared.state.lock().unwrap();
                *state = (BTreeMap::new(), u64::from_le_bytes(count.try_into().unwrap()));
                while let Some((length, more)) = rest.split_at_checked(4) {
                    let (value, more) = more.split_at(u32::from_le_bytes(length.try_into().unwrap()) as usize);
                    state.0.insert(value[0], value.to_vec());
                    rest = more;
                }
            }
        }
        Ok(())
    }

    fn snapshot_bytes(&self) -> u64 {
        512 << 10
    }
}

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
    let mut tickets: Vec<Ticket> = Vec::new();
    for n in 0..count {
        let mut payload = vec![n as u8; 14 << 10];
        payload[0] = (n % 32) as u8;
        loop {
            match node.propose(&payload) {
                Ok(ticket) => break tickets.push(ticket),
                Err(ProposeError::Busy) => tickets.drain(..).for_each(|ticket| assert!(ticket.wait().is_ok())),
                Err(ProposeError::NotLeader { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}: {}", node.status().unwrap()),
            }
        }
    }
    tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
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

fn state(machine: &Table) -> (BTreeMap<u8, Vec<u8>>, u64) {
    machine.shared.state.lock().unwrap().clone()
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "ksn"));
    found.sort();
    found
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
            let (before, status) = (state(&machine), node.status().unwrap());
            assert_eq!(before.1, round * 25 * 32);
            assert!(status.snapshot > status.snapshot_older && status.snapshot_older.0 > 0 && status.first.0 > 1, "{status}");
            assert!(status.first <= status.snapshot_older.next(), "no gap between the older one and the log: {status}");
            node.shutdown().unwrap();
            (node, machine) = start(dir.path(), apply_on);
            settled(&node);
            assert_eq!(state(&machine), before);
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
    assert!(std::iter::from_fn(|| events.poll()).any(|event| event == Event::SnapshotWritten { index: written.index }));
    let before = state(&machine);
    node.shutdown().unwrap();
    let (node, machine) = start(dir.path(), ApplyOn::Thread);
    settled(&node);
    assert_eq!((state(&machine), machine.shared.applied.load(Ordering::SeqCst)), (before, 0));
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
    let before = state(&machine);
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
    assert_eq!(state(&machine), before);
    node.shutdown().unwrap();

    damage(older);
    for file in snapshots(dir.path()).iter().filter(|file| *file != older) {
        damage(file);
    }
    let machine = Table::default();
    let node = Node::builder(config(dir.path(), ApplyOn::Thread)).start(machine.clone()).unwrap();
    let failure = node.shutdown_after_failure();
    assert!(matches!(failure, Failure::Restore { first } if first > 1), "{failure}");
    assert_eq!(state(&machine), (BTreeMap::new(), 0), "nothing was applied to a state that lacks something");
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
        assert_eq!(node.snapshot(), Err(SnapshotError::NotSupported));
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

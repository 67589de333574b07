//! Snapshots between real nodes: one that the others' logs cannot serve any more is brought back by one, whatever breaks off
//! meanwhile, and the load goes on.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use kontiki::{Config, Event, Events, LogIndex, Medium, Member, Node, ProposeError, Role, Status};
use support::table::{Mood, Table};
use support::{LONG, free_addrs, snapshots};
use tempfile::TempDir;

const SEGMENT_BYTES: u64 = 68 << 10;

/// Three nodes that retain next to nothing.
struct Trio {
    dir: TempDir,
    members: Vec<Member>,
    nodes: [Option<Node>; 3],
    machines: [Table; 3],
    snapshot_bytes_per_s: u64,
}

impl Trio {
    fn start(durable: bool) -> Trio {
        let members = free_addrs(3).into_iter().zip(1..).map(|(addr, id)| Member::new(id, addr.into())).collect();
        let machines: [Table; 3] = Default::default();
        machines.iter().for_each(|machine| machine.shared.durable.store(durable, Ordering::SeqCst));
        let mut trio = Trio { dir: tempfile::tempdir().unwrap(), members, nodes: [None, None, None], machines, snapshot_bytes_per_s: 0 };
        (0..3).for_each(|at| trio.boot(at));
        trio
    }

    fn place(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("n{}", at + 1))
    }

    fn boot(&mut self, at: usize) {
        let mut config = Config::new(0x5A9, at as u64 + 1, self.members.clone(), self.place(at));
        (config.segment_bytes, config.medium) = (SEGMENT_BYTES, Medium::Safe);
        (config.max_frame_bytes, config.max_entry_bytes, config.retention_bytes) = (16 << 10, 15 << 10, 0);
        (config.window_bytes, config.ring_bytes) = (64 << 10, 256 << 10);
        (config.snapshot_log_bytes, config.snapshot_bytes_per_s) = (4 * SEGMENT_BYTES, self.snapshot_bytes_per_s);
        let shared = &self.machines[at].shared;
        let durable = shared.durable.load(Ordering::SeqCst);
        if !durable {
            let ballast = shared.ballast.load(Ordering::SeqCst);
            self.machines[at] = Table::default();
            self.machines[at].shared.ballast.store(ballast, Ordering::SeqCst);
        }
        self.nodes[at] = Some(Node::builder(config).start(self.machines[at].clone()).unwrap());
    }

    fn stop(&mut self, at: usize) {
        self.nodes[at].take().unwrap().shutdown().unwrap();
    }

    fn status(&self, at: usize) -> Status {
        self.nodes[at].as_ref().unwrap().status().unwrap()
    }

    fn leader(&self) -> Option<usize> {
        (0..3).find(|&at| self.nodes[at].as_ref().and_then(Node::status).is_some_and(|status| status.role == Role::Leader))
    }

    /// Writes one long value at whoever leads.
    fn write(&self, n: u64) {
        let mut payload = vec![n as u8; 14 << 10];
        payload[0] = n as u8;
        let begun = Instant::now();
        loop {
            let taken = self.nodes.iter().flatten().find_map(|node| match node.propose(&payload) {
                Ok(ticket) => Some(ticket),
                Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => None,
                Err(error) => panic!("{error}: {}", node.status().unwrap()),
            });
            if taken.is_some_and(|ticket| ticket.wait().is_ok()) {
                return;
            }
            assert!(begun.elapsed() < LONG, "nobody takes it");
            std::thread::yield_now();
        }
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Trio) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let statuses: Vec<String> = self.nodes.iter().flatten().filter_map(Node::status).map(|status| status.to_string()).collect();
            assert!(begun.elapsed() < LONG, "{what}: {}", statuses.join("\n"));
            std::thread::yield_now();
        }
    }

    /// Writes until the logs of the others hold no more what node `at` needs, which is down.
    fn outrun(&self, last: LogIndex, from: u64) {
        let mut n = from;
        self.until("the others forget", |trio| {
            trio.write(n);
            n += 1;
            trio.nodes.iter().flatten().all(|node| node.status().unwrap().first > last.next())
        });
    }

    /// Writes until what a node has let go of first is on its disk no more: a start might find it there.
    fn forgets_on_disk(&self, at: usize) {
        let first = self.place(at).join("log-0000000000000001.seg");
        self.until("the first segment goes", |trio| {
            trio.write(0);
            !first.exists()
        });
    }

    /// All have all, and hold the same.
    fn settle(&self) {
        self.until("all have all", |trio| {
            let of = |at: usize| trio.status(at);
            let last = (0..3).map(|at| of(at).last).max().unwrap();
            (0..3).map(of).all(|status| status.applied == last && status.commit == last && !status.restoring)
        });
        assert!(self.machines.iter().all(|machine| machine.state() == self.machines[0].state()));
    }
}

fn happened(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> bool {
    std::iter::from_fn(|| events.poll()).any(|event| wanted(&event))
}

/// One that was away comes back while the others go on writing; so does one with an empty directory. Machines in memory, and
/// such as keep their state by themselves: those make a full one only when somebody needs it.
#[test]
fn one_that_was_away_is_brought_back_while_the_load_goes_on() {
    for durable in [false, true] {
        let mut trio = Trio::start(durable);
        (0..8).for_each(|n| trio.write(n));
        trio.settle();
        let last = trio.status(2).last;
        trio.stop(2);
        trio.outrun(last, 8);
        let leader = trio.leader().unwrap();
        let mut told = trio.nodes[leader].as_ref().unwrap().events();
        trio.boot(2);
        let mut heard = trio.nodes[2].as_ref().unwrap().events();
        let mut n = 0;
        trio.until("it is back", |trio| {
            trio.write(n);
            n += 1;
            trio.status(2).counters.snapshots_installed > 0
        });
        trio.settle();
        assert!(trio.status(2).first > last.next(), "its log begins anew");
        assert!(happened(&mut heard, |event| matches!(event, Event::SnapshotInstalled { index } if *index > last)));
        if trio.leader() == Some(leader) {
            assert!(happened(&mut told, |event| matches!(event, Event::SnapshotSent { .. })));
        }
        // It goes on from what it was given, and from what it has written since.
        trio.stop(2);
        trio.boot(2);
        trio.write(7);
        trio.settle();
        assert_eq!(trio.status(2).counters.snapshots_fetched, 0, "the log of the others serves it");

        trio.stop(2);
        std::fs::remove_dir_all(trio.place(2)).unwrap();
        trio.machines[2] = Table::default();
        trio.machines[2].shared.durable.store(durable, Ordering::SeqCst);
        trio.boot(2);
        trio.settle();
        assert!(trio.status(2).counters.snapshots_installed > 0);
    }
}

/// Both snapshots of a follower are damaged, at the end or within: it says so, takes no part, and is given one, though the
/// log of the others could serve its own. So is one whose machine is durable by itself: its small ones held more than that.
#[test]
fn one_whose_snapshots_are_damaged_is_given_another() {
    for (durable, within) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut trio = Trio::start(durable);
        trio.outrun(LogIndex(0), 0);
        let follower = (0..3).find(|&at| trio.leader() != Some(at)).unwrap();
        trio.forgets_on_disk(follower);
        trio.settle();
        trio.stop(follower);
        let files = snapshots(&trio.place(follower));
        assert_eq!(files.len(), 2);
        for path in files {
            let mut bytes = std::fs::read(&path).unwrap();
            let at = if within { bytes.len() / 2 } else { bytes.len() - 4096 };
            bytes[at..].iter_mut().take(64).for_each(|byte| *byte ^= 0xE5);
            if !within {
                bytes.truncate(at);
            }
            std::fs::write(path, bytes).unwrap();
        }
        trio.boot(follower);
        trio.write(5);
        trio.until("it is given one", |trio| trio.status(follower).counters.snapshots_installed > 0);
        assert!(!trio.status(follower).needs_base);
        trio.settle();
    }
}

/// Where the newest alone is damaged, or a log goes back to the first entry of all, nothing is lost. Nor where there never was
/// a snapshot: what such a log presupposes, the machine has.
#[test]
fn a_durable_machine_needs_no_snapshot_that_holds_nothing_it_lacks() {
    let mut trio = Trio::start(true);
    trio.write(0);
    trio.settle();
    let follower = (0..3).find(|&at| trio.leader() != Some(at)).unwrap();
    let damage = |path: &Path| std::fs::write(path, vec![0xE5; 128 << 10]).unwrap();
    let again = |trio: &mut Trio, change: &dyn Fn(&[PathBuf])| {
        trio.stop(follower);
        change(&snapshots(&trio.place(follower)));
        trio.boot(follower);
        assert!(!trio.status(follower).needs_base);
        trio.write(7);
        trio.settle();
        assert_eq!(trio.status(follower).counters.snapshots_installed, 0);
    };
    trio.nodes[follower].as_ref().unwrap().snapshot().unwrap();
    trio.write(1);
    trio.settle();
    trio.nodes[follower].as_ref().unwrap().snapshot().unwrap();
    assert_eq!(trio.status(follower).first, LogIndex(1));
    again(&mut trio, &|files| files.iter().for_each(|path| damage(path)));
    trio.outrun(LogIndex(9), 0);
    trio.forgets_on_disk(follower);
    trio.settle();
    assert!(trio.status(follower).first > LogIndex(1) && !trio.status(follower).snapshot_full);
    again(&mut trio, &|files| damage(&files[1]));
    again(&mut trio, &|files| files.iter().for_each(|path| std::fs::remove_file(path).unwrap()));
}

/// A slow transfer breaks off as its receiver stops: it goes on where it was.
#[test]
fn a_transfer_goes_on_where_it_broke_off() {
    let mut trio = Trio::start(false);
    trio.machines.iter().for_each(|machine| machine.shared.ballast.store(12 << 20, Ordering::SeqCst));
    (0..8).for_each(|n| trio.write(n));
    trio.settle();
    let away = (0..3).find(|&at| trio.leader() != Some(at)).unwrap();
    let last = trio.status(away).last;
    trio.stop(away);
    trio.outrun(last, 0);
    trio.snapshot_bytes_per_s = 2 << 20;
    let held = |trio: &Trio| {
        let source = trio.leader()?;
        let id = trio.status(away).id;
        trio.status(source).peers.iter().find(|peer| peer.id == id)?.snapshot.map(|sent| sent.held)
    };
    trio.boot(away);
    trio.until("some of it is there", |trio| held(trio).is_some_and(|held| held > 0));
    assert!(trio.status(away).snapshot_fetching.is_some(), "it is under way still");
    let before = held(&trio).unwrap();
    trio.stop(away);
    trio.boot(away);
    trio.until("it goes on", |trio| trio.status(away).snapshot_fetching.is_some_and(|fetching| fetching.taken > 0));
    let taken = trio.status(away).snapshot_fetching.unwrap().taken;
    assert!(taken >= before, "{taken} of {before} bytes");
    trio.until("it has it", |trio| trio.status(away).counters.snapshots_installed > 0);
    trio.settle();
}

/// A machine that makes no snapshots: whoever is away for too long stays behind, the leader says so, and the others go on.
#[test]
fn without_snapshots_one_that_was_away_stays_behind() {
    let mut trio = Trio::start(true);
    trio.machines.iter().for_each(|machine| *machine.shared.mood.lock().unwrap() = Mood::Refuses);
    (0..4).for_each(|n| trio.write(n));
    trio.settle();
    let away = (0..3).find(|&at| trio.leader() != Some(at)).unwrap();
    let last = trio.status(away).last;
    trio.stop(away);
    // They make small ones all the same.
    trio.outrun(last, 0);
    trio.boot(away);
    let id = trio.status(away).id;
    trio.until("the leader says so", |trio| {
        trio.leader().is_some_and(|leader| trio.status(leader).peers.iter().any(|peer| peer.id == id && peer.behind))
    });
    (0..40).for_each(|n| trio.write(n));
    assert_eq!((trio.status(away).last, trio.status(away).counters.snapshots_fetched), (last, 0));
}

//! Every order, in small bounds, of what happens while a node is given a snapshot: packets, its disk's two queues, the
//! steps of the fetch, its state machine; and a few crashes, timeouts and writes anywhere between. States that were seen
//! before are not gone on from. Whatever holds of the random clusters is asserted at every step; from some of the states
//! it is shown that the cluster lives.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher as _};

use harness::carrier::{Carrier, Tally};
use harness::{Cluster, ELECTION_MAX, Options};
use kontiki_core::{Event, LogIndex, NodeId};

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);

/// What may still happen of what cannot happen for ever.
#[derive(Clone, Debug)]
struct Budget {
    /// n1 is killed and starts again.
    crashes: u32,
    /// A node's next deadline comes.
    ticks: [u32; 3],
    /// The leader proposes.
    writes: u32,
    /// The leader's snapshot and log are replaced by later ones.
    snapshots: u32,
}

/// The node that is given a snapshot is n1: its disk and state machine end what they do when told, the others' at once.
#[derive(Clone)]
struct State {
    cluster: Cluster,
    carrier: Carrier,
    budget: Budget,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Deliver(NodeId, NodeId),
    Complete(bool),
    Carry(usize),
    Restore,
    /// So many hard states and log writes under way are kept; what was being fetched is gone or goes on.
    Crash(usize, usize, bool),
    Tick(NodeId),
    Write,
    Snapshot,
}

struct Hash(DefaultHasher);

impl std::fmt::Write for Hash {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.write(s.as_bytes());
        Ok(())
    }
}

impl State {
    fn of(mut cluster: Cluster, budget: Budget) -> State {
        cluster.trace.clear();
        State { cluster, carrier: Carrier::default(), budget }.settled()
    }

    fn fingerprint(&self) -> u64 {
        let mut hash = Hash(DefaultHasher::new());
        write!(hash, "{:?}{:?}{:?}{:?}", self.cluster.nodes, self.cluster.net, self.carrier, self.budget).unwrap();
        hash.0.finish()
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for from in [N1, N2, N3] {
            for to in [N1, N2, N3] {
                // Those between the others are delivered at once.
                if self.cluster.net.queue.iter().any(|packet| (packet.from, packet.to) == (from, to)) {
                    actions.push(Action::Deliver(from, to));
                }
            }
        }
        let n1 = self.cluster.node(N1);
        let (hard, log) = (n1.disk.writes_under_way(true), n1.disk.writes_under_way(false));
        actions.extend([true, false].into_iter().filter(|hard| n1.disk.writes_under_way(*hard) > 0).map(Action::Complete));
        actions.extend((0..self.carrier.under_way()).map(Action::Carry));
        if n1.restoring {
            actions.push(Action::Restore);
        }
        if self.budget.crashes > 0 {
            for kept_hard in if hard > 0 { vec![0, hard] } else { vec![0] } {
                for kept_log in 0..=log {
                    actions.extend([false, true].map(|forgets| Action::Crash(kept_hard, kept_log, forgets)));
                }
            }
        }
        for (at, left) in self.budget.ticks.iter().enumerate() {
            let id = NodeId(at as u64 + 1);
            let due = self.cluster.node(id).raft.as_ref().unwrap().deadline();
            if *left > 0 && due <= self.cluster.now.plus_ns(2 * ELECTION_MAX) {
                actions.push(Action::Tick(id));
            }
        }
        if self.budget.writes > 0 && self.cluster.leader().is_some() {
            actions.push(Action::Write);
        }
        if self.budget.snapshots > 0 && self.cluster.leader().is_some_and(|leader| leader != N1) {
            actions.push(Action::Snapshot);
        }
        actions
    }

    fn after(&self, action: Action) -> State {
        let mut next = self.clone();
        let State { cluster, carrier, budget } = &mut next;
        match action {
            Action::Deliver(from, to) => {
                let at = cluster.net.queue.iter().position(|packet| (packet.from, packet.to) == (from, to)).unwrap();
                let packet = cluster.net.queue.remove(at).unwrap();
                cluster.deliver(packet);
            }
            Action::Complete(hard) => {
                cluster.complete(N1, hard);
            }
            Action::Carry(at) => carrier.advance(cluster, at),
            Action::Restore => cluster.node_mut(N1).restore(),
            Action::Crash(hard, log, forgets) => {
                budget.crashes -= 1;
                cluster.stop_keeping(N1, hard, log);
                carrier.stopped(N1, forgets);
                carrier.starts(cluster, N1);
                cluster.start(N1);
            }
            Action::Tick(id) => {
                budget.ticks[id.0 as usize - 1] -= 1;
                let due = cluster.node(id).raft.as_ref().unwrap().deadline();
                cluster.now = cluster.now.max(due);
                cluster.event(id, Event::Tick);
            }
            Action::Write => {
                budget.writes -= 1;
                let (leader, value) = (cluster.leader().unwrap(), cluster.fresh_value());
                cluster.propose(leader, vec![value]);
            }
            Action::Snapshot => {
                budget.snapshots -= 1;
                let leader = cluster.leader().unwrap();
                carrier.write(cluster, leader);
                // So much is retained, and no more: one snapshot's worth.
                let node = cluster.node_mut(leader);
                let first = LogIndex(node.machine.len() as u64).next();
                if node.raft.as_ref().is_some_and(|raft| raft.durable() >= first.prev()) {
                    cluster.compact(leader, first);
                }
            }
        }
        next.settled()
    }

    /// The other nodes' disks are prompt, and so are the links between them; what n1's leader offers is on its way.
    fn settled(mut self) -> State {
        loop {
            let mut moved = false;
            for id in [N2, N3] {
                for hard in [true, false] {
                    while self.cluster.complete(id, hard) {
                        moved = true;
                    }
                }
            }
            while let Some(at) = self.cluster.net.queue.iter().position(|packet| packet.from != N1 && packet.to != N1) {
                let packet = self.cluster.net.queue.remove(at).unwrap();
                self.cluster.deliver(packet);
                moved = true;
            }
            if !moved {
                break;
            }
        }
        self.carrier.take_offers(&mut self.cluster);
        self.cluster.trace.clear();
        self
    }

    /// Left alone, the cluster takes a fresh write, and all have the same in the end.
    fn must_live(&self) {
        let mut state = self.clone();
        let State { cluster, carrier, .. } = &mut state;
        let limit = cluster.now.plus_ns(30 * ELECTION_MAX);
        let mut proposed: Option<LogIndex> = None;
        while cluster.now < limit {
            cluster.run_until(cluster.now.plus_ns(ELECTION_MAX / 4), |_| true);
            carrier.settle(cluster);
            if proposed.is_some_and(|index| cluster.nodes.iter().all(|node| node.machine.len() as u64 >= index.0)) {
                let first = &cluster.node(N1).log;
                assert!(cluster.nodes.iter().all(|node| node.log == *first), "all logs are equal in the end");
                assert!(cluster.nodes.iter().all(|node| node.raft.as_ref().unwrap().refusals() == 0), "nobody did anything wrong");
                return;
            }
            if proposed.is_none()
                && let Some(leader) = cluster.leader()
            {
                let value = cluster.fresh_value();
                proposed = cluster.propose(leader, vec![value]);
            }
        }
        panic!("no fresh write reached all nodes, proposed {proposed:?}:\n{}", cluster.state());
    }
}

/// Goes through every state that is at most `depth` actions away. How many there are, and what happened in all of them
/// together.
fn explore(name: &str, start: State, depth: usize) -> Tally {
    let mut seen = HashSet::from([start.fingerprint()]);
    let (mut level, mut sum, mut lived) = (vec![(start, Vec::new())], Tally::default(), 0);
    for _ in 0..depth {
        let mut next = Vec::new();
        for (state, path) in &level {
            for action in state.actions() {
                let mut path: Vec<Action> = path.clone();
                path.push(action);
                let _guard = PrintPath(name, path.clone());
                let after = state.after(action);
                after.cluster.oracle.log_matching(&after.cluster.nodes);
                let fingerprint = after.fingerprint();
                if !seen.insert(fingerprint) {
                    continue;
                }
                if fingerprint % 32 == 0 {
                    after.must_live();
                    lived += 1;
                }
                sum += after.carrier.tally.since(&state.carrier.tally);
                next.push((after, path));
            }
        }
        level = next;
    }
    eprintln!("{name}: {} states, {lived} of them shown to live, {sum:?}", seen.len());
    assert!(seen.len() > 3_000, "{name}: {} states", seen.len());
    sum
}

/// Prints how the state was reached in which an assertion fails.
struct PrintPath<'a>(&'a str, Vec<Action>);

impl Drop for PrintPath<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {:?}", self.0, self.1);
        }
    }
}

/// n2 leads in term 2; its log begins behind entry 4. n1 led in term 1 and has three entries of its own that were never
/// committed, or nothing but what all have.
fn purged_past_n1(own: usize) -> Cluster {
    let mut cluster = Cluster::new(Options::of(3));
    assert!(cluster.elect(N1));
    cluster.settle();
    for other in [N2, N3] {
        cluster.set_link(N1, other, false);
    }
    let values = (0..own).map(|_| cluster.fresh_value()).collect::<Vec<_>>();
    if own > 0 {
        cluster.propose(N1, values).unwrap();
    }
    cluster.settle();
    assert!(cluster.elect(N2));
    for _ in 0..3 {
        let value = cluster.fresh_value();
        cluster.propose(N2, vec![value]).unwrap();
        cluster.settle();
    }
    cluster.compact(N2, LogIndex(5));
    assert_eq!(cluster.node(N1).log.len(), 1 + own);
    cluster
}

/// n1 is connected again, and is offered a snapshot.
fn offered(mut cluster: Cluster) -> Cluster {
    cluster.heal();
    for _ in 0..20 {
        cluster.run(ELECTION_MAX / 4);
        if !cluster.node(N2).offers.is_empty() {
            return cluster;
        }
    }
    panic!("nothing is offered: {}", cluster.state())
}

fn budget(crashes: u32, ticks: [u32; 3], writes: u32, snapshots: u32) -> Budget {
    Budget { crashes, ticks, writes, snapshots }
}

#[test]
fn every_order_of_an_installation_over_a_conflicting_log() {
    let tally = explore("conflict", State::of(offered(purged_past_n1(8)), budget(1, [0, 1, 0], 1, 0)), 9);
    assert!(tally.conflicts > 100 && tally.cut_short > 20, "{tally:?}");
}

#[test]
fn every_order_of_an_installation_over_a_short_log() {
    let tally = explore("short", State::of(offered(purged_past_n1(0)), budget(2, [0, 0, 0], 1, 1)), 9);
    assert!(tally.rebased > 100 && tally.cut_short > 100, "{tally:?}");
}

/// Leaders change, and n1 stands for election itself.
#[test]
fn every_order_of_an_installation_while_terms_change() {
    let tally = explore("terms", State::of(offered(purged_past_n1(2)), budget(0, [2, 1, 2], 1, 0)), 6);
    assert!(tally.rebased > 50 && tally.candidates > 20, "{tally:?}");
}

/// n1's log is whole, what it presupposes is lost.
#[test]
fn every_order_of_an_installation_where_the_base_is_lost() {
    let mut cluster = purged_past_n1(0);
    cluster.heal();
    cluster.run(2 * ELECTION_MAX);
    cluster.install(N1, N2, LogIndex(4));
    cluster.run(2 * ELECTION_MAX);
    let value = cluster.fresh_value();
    let leader = cluster.leader().unwrap();
    cluster.propose(leader, vec![value]).unwrap();
    cluster.settle();
    cluster.stop(N1, 0);
    cluster.node_mut(N1).machine.clear();
    cluster.node_mut(N1).snapshots.clear();
    cluster.oracle.damaged = true;
    cluster.start(N1);
    assert!(cluster.node(N1).raft.as_ref().unwrap().needs_base());
    let tally = explore("baseless", State::of(offered(cluster), budget(1, [1, 1, 1], 1, 0)), 6);
    assert!(tally.installed > 100 && tally.baseless > 100, "{tally:?}");
}

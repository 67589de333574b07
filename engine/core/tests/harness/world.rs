//! A cluster under a seed's faults: its network loses, repeats and reorders, its disks lag, its nodes crash, and
//! snapshots take the place of what its logs have let go of. Afterwards it has to live.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use kontiki_core::{Event, LogIndex, NodeId};

use super::carrier::{Carrier, Tally};
use super::node::Node;
use super::{Cluster, ELECTION_MAX, HEARTBEAT, MS, Options};

/// xorshift64*: the tests' own dice.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            dice.roll(2);
        }
        dice
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    /// One of so many places, if there are any.
    pub(crate) fn pick(&mut self, places: usize) -> Option<usize> {
        (places > 0).then(|| self.roll(places as u64) as usize)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// Prints the seed if the run it guards fails.
pub(crate) struct PrintSeed(pub(crate) u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the run failed with SEED={}", self.0);
        }
    }
}

/// What a run's seed decided about its world.
pub(crate) struct Faults {
    loss: u64,
    copies: u64,
    reorder: u64,
    crashes: u64,
    slow_disk: u64,
    partitions: u64,
    /// One node is cut off from all others, for long.
    away: u64,
    damage: u64,
    /// At most so much time passes at once.
    tick_ns: u64,
    /// Snapshots are written, offered, installed; and lost.
    snapshots: u64,
    lost_snapshots: u64,
}

impl Faults {
    pub(crate) fn draw(dice: &mut Dice) -> Faults {
        // Most runs have a few kinds of fault at a time: all at once makes no progress worth testing.
        let mut some = |most: u64| if dice.chance(50) { dice.roll(most + 1) } else { 0 };
        Faults {
            loss: some(15),
            copies: some(15),
            reorder: some(60),
            crashes: some(4),
            slow_disk: some(90),
            partitions: some(4),
            away: 0,
            damage: some(60),
            tick_ns: 4 * MS,
            snapshots: 0,
            lost_snapshots: 0,
        }
    }

    /// The same with snapshots, and with more of what makes them needed.
    pub(crate) fn with_snapshots(dice: &mut Dice) -> Faults {
        let faults = Faults::draw(dice);
        let lost_snapshots = if dice.chance(40) { 50 } else { 0 };
        let (crashes, away, snapshots) = (3 + dice.roll(6), 10 + dice.roll(30), 10 + dice.roll(30));
        Faults { crashes, away, snapshots, lost_snapshots, tick_ns: 12 * MS, ..faults }
    }
}

pub(crate) struct Run {
    cluster: Cluster,
    dice: Dice,
    faults: Faults,
    nodes: u64,
    carrier: Carrier,
}

impl Run {
    /// How many entries were committed.
    pub(crate) fn committed(&self) -> u64 {
        self.cluster.oracle.committed.len() as u64
    }

    pub(crate) fn tally(&self) -> Tally {
        self.carrier.tally
    }

    /// How many voters may lack something that they acknowledged, this one aside.
    fn damaged_besides(&self, id: NodeId) -> usize {
        damaged_nodes(&self.cluster).filter(|node| node.id() != id).count()
    }

    /// How many may at once, without anything being lost for good.
    fn bearable(&self) -> usize {
        (self.nodes as usize - 1) / 2
    }
}

fn deliver_one(run: &mut Run) {
    let Run { cluster, dice, faults, .. } = run;
    let queued = cluster.net.queue.len() as u64;
    if queued == 0 {
        return;
    }
    let at = if dice.chance(faults.reorder) { dice.roll(queued) } else { 0 };
    let packet = cluster.net.queue.remove(at as usize).unwrap();
    if dice.chance(faults.copies) {
        cluster.net.queue.push_back(packet.clone());
    }
    if !dice.chance(faults.loss) {
        cluster.deliver(packet);
    }
}

/// Who may be missing something that it acknowledged.
fn damaged_nodes(cluster: &Cluster) -> impl Iterator<Item = &Node> {
    let baseless = |node: &Node| node.raft.as_ref().map_or(!node.is_reached(), |raft| raft.needs_base());
    cluster.nodes.iter().filter(move |node| node.disk.record.recovering || baseless(node))
}

fn crash(run: &mut Run, id: NodeId) {
    let kept = run.dice.roll(4) as usize;
    if run.faults.snapshots > 0 {
        let log = run.dice.roll(4) as usize;
        run.cluster.stop_keeping(id, kept, log);
        let forgets = run.dice.chance(50);
        run.carrier.stopped(id, forgets);
        lose_snapshots(run, id);
    } else {
        run.cluster.stop(id, kept);
    }
    if run.dice.chance(run.faults.damage) && damaged_nodes(&run.cluster).count() < run.bearable() {
        // The medium lost some of the tail; recovery saw it and durably marked the node.
        let some = run.dice.roll(6) as usize;
        let back = run.dice.chance(50);
        let node = run.cluster.node_mut(id);
        node.disk.damage(if back { node.disk.back_to_superseded().unwrap_or(some) } else { some });
        run.cluster.oracle.damaged = true;
    }
}

/// The medium loses the newest snapshot of a stopped node, or both.
fn lose_snapshots(run: &mut Run, id: NodeId) {
    if !run.dice.chance(run.faults.lost_snapshots) {
        return;
    }
    let lost = 1 + run.dice.roll(2) as usize;
    let bearable = run.damaged_besides(id) < run.bearable();
    let node = run.cluster.node_mut(id);
    let before = node.snapshots.clone();
    node.snapshots.truncate(before.len().saturating_sub(lost));
    if node.is_reached() || bearable {
        run.cluster.oracle.damaged |= !run.cluster.node(id).is_reached();
    } else {
        node.snapshots = before;
    }
}

/// The medium loses both snapshots of a running node before its state machine has got its state from them.
fn lose_base(run: &mut Run, id: NodeId) {
    let bearable = run.damaged_besides(id) < run.bearable();
    let node = run.cluster.node_mut(id);
    let Some(raft) = node.raft.as_ref().filter(|_| node.restoring) else { return };
    let presupposed = node.machine.len() as u64 + 1 < node.compacted.0;
    if raft.is_installing() || !bearable || raft.needs_base() {
        return;
    }
    node.snapshots.clear();
    run.carrier.lost(id);
    let node = run.cluster.node_mut(id);
    if presupposed {
        (run.cluster.oracle.damaged, run.cluster.oracle.baseless) = (true, true);
        run.cluster.event(id, Event::BaseLost);
        run.carrier.tally.lost_running += 1;
    } else {
        // The log has all that the machine lacks.
        node.restore();
    }
}

/// Starts a stopped node, whose state machine may have been in memory.
fn start(run: &mut Run, id: NodeId, volatile: bool) {
    let bearable = run.damaged_besides(id) < run.bearable();
    let node = run.cluster.node_mut(id);
    node.volatile = volatile;
    node.restores_late = run.faults.snapshots > 0;
    if !node.is_reached() {
        node.volatile &= bearable;
    }
    run.cluster.oracle.damaged |= !run.cluster.node(id).is_reached();
    run.carrier.starts(&run.cluster, id);
    run.cluster.start(id);
}

fn act(run: &mut Run) {
    let id = NodeId(1 + run.dice.roll(run.nodes));
    let other = NodeId(1 + run.dice.roll(run.nodes));
    if run.faults.snapshots > 0 && run.dice.chance(run.faults.snapshots) {
        if run.dice.chance(run.faults.lost_snapshots / 5) {
            lose_base(run, id);
        }
        return run.carrier.act(&mut run.cluster, id, &mut run.dice);
    }
    match run.dice.roll(100) {
        0..55 => deliver_one(run),
        55..70 => {
            let hard = run.dice.chance(50);
            if !run.dice.chance(run.faults.slow_disk) {
                run.cluster.complete(id, hard);
            }
        }
        70..82 => {
            let ns = run.dice.roll(run.faults.tick_ns);
            run.cluster.now = run.cluster.now.plus_ns(ns);
            run.cluster.tick(|_| true);
        }
        82..94 => {
            let leaders = run.cluster.leaders();
            // One that is cut off goes on for a while.
            let at = if run.faults.snapshots > 0 { run.dice.pick(leaders.len()) } else { Some(0) };
            if let Some(leader) = at.and_then(|at| leaders.get(at).copied()) {
                let count = 1 + run.dice.roll(3);
                let values = (0..count).map(|_| run.cluster.fresh_value()).collect();
                run.cluster.propose(leader, values);
            }
        }
        94..96 => {
            if run.dice.chance(run.faults.crashes * 5) && run.cluster.node(id).raft.is_some() {
                crash(run, id);
            }
        }
        96..98 => {
            if run.cluster.node(id).raft.is_none() && run.dice.chance(40) {
                let volatile = run.dice.chance(50);
                start(run, id, volatile);
            }
        }
        _ if run.faults.away > 0 && run.dice.chance(run.faults.away) => {
            let back = run.cluster.ids().iter().any(|other| run.cluster.net.is_cut(id, *other));
            for other in run.cluster.ids() {
                run.cluster.set_link(id, other, back);
            }
        }
        _ => {
            if id != other && run.dice.chance(run.faults.partitions * 10) {
                run.cluster.set_link(id, other, false);
            } else if id != other {
                run.cluster.set_link(id, other, true);
            }
        }
    }
}

/// After the faults: every node up, every link whole, every disk prompt. A fresh write reaches all within 20 timeouts.
fn must_live(run: &mut Run) {
    for id in run.cluster.ids() {
        if run.cluster.node(id).raft.is_none() {
            let volatile = run.cluster.node(id).volatile;
            start(run, id, volatile);
        }
    }
    let cluster = &mut run.cluster;
    if run.dice.chance(50) {
        // Half of the runs keep their sessions, with whatever was lost in them.
        for a in cluster.ids() {
            for b in cluster.ids() {
                cluster.disconnect(a, b);
            }
        }
    }
    cluster.heal();
    let limit = cluster.now.plus_ns(20 * ELECTION_MAX);
    let mut proposed: Option<LogIndex> = None;
    while cluster.now < limit {
        let next = cluster.now.plus_ns(ELECTION_MAX / 4);
        cluster.run_until(next, |_| true);
        run.carrier.settle(cluster);
        let done = |index: LogIndex| cluster.nodes.iter().all(|node| node.raft.as_ref().unwrap().commit() >= index);
        if proposed.is_some_and(done) && damaged_nodes(cluster).next().is_none() {
            let first = cluster.node(NodeId(1)).log.clone();
            assert!(cluster.nodes.iter().all(|node| node.log == first), "all logs are equal in the end");
            assert_eq!(cluster.leaders().len(), 1);
            assert!(Carrier::applied_by_all(cluster) >= proposed.unwrap(), "every state machine has it");
            for node in &cluster.nodes {
                assert_eq!(node.machine, cluster.oracle.committed[..node.machine.len()], "n{}'s state", node.id());
            }
            return;
        }
        if let Some(leader) = cluster.leader()
            && (proposed.is_none() || run.dice.chance(30))
        {
            let value = cluster.fresh_value();
            proposed = cluster.propose(leader, vec![value]).or(proposed);
        }
    }
    for node in &cluster.nodes {
        let snapshots = node.snapshots.iter().map(Vec::len).collect::<Vec<_>>();
        eprintln!(
            "n{}: log from {}, machine {}, snapshots {snapshots:?}, installing {:?}",
            node.id(),
            node.compacted,
            node.machine.len(),
            node.raft.as_ref().map(|raft| raft.is_installing())
        );
    }
    panic!("no fresh write reached all nodes, proposed {proposed:?}:\n{}", cluster.state());
}

/// Runs one seed's world, and then lets it live.
pub(crate) fn run(seed: u64, steps: u64, faults: fn(&mut Dice) -> Faults) -> Run {
    let _guard = PrintSeed(seed);
    let mut dice = Dice::new(seed);
    let nodes = [1, 2, 3, 3, 3, 4, 5, 5, 7][dice.roll(9) as usize];
    let options = Options {
        nodes,
        seed,
        window_bytes: 4096 * (1 + dice.roll(8)),
        window_frames: 1 + dice.roll(8) as u32,
        news_ns: dice.roll(HEARTBEAT),
    };
    let faults = faults(&mut dice);
    let mut run = Run { cluster: Cluster::new(options), dice, faults, nodes, carrier: Carrier::default() };
    for id in run.cluster.ids() {
        run.cluster.node_mut(id).runs_restored = 1 + run.dice.roll(4) as usize;
    }
    for step in 0..steps {
        act(&mut run);
        if step % 64 == 0 {
            run.cluster.oracle.log_matching(&run.cluster.nodes);
        }
    }
    run.cluster.oracle.log_matching(&run.cluster.nodes);
    must_live(&mut run);
    run.cluster.oracle.log_matching(&run.cluster.nodes);
    for node in &run.cluster.nodes {
        assert_eq!(node.raft.as_ref().unwrap().refusals(), 0, "correct peers are never refused");
    }
    run
}

/// A number from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

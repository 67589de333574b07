//! Seeded runs of small clusters whose network loses, repeats and reorders, whose disks lag, and whose nodes crash:
//! safety at every step, liveness once the faults end.
//!
//! `SEED=n cargo test -p kontiki-core --test random` replays one run; `RUNS=n` sets how many.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use harness::net::Network;
use harness::{Cluster, ELECTION_MAX, HEARTBEAT, MS, Options};
use kontiki_core::{Event, LogIndex, NodeId, Time};

/// xorshift64*: the tests' own dice.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            dice.roll(2);
        }
        dice
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// Prints the seed if the run it guards fails.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the run failed with SEED={}", self.0);
        }
    }
}

/// What a run's seed decided about its world.
struct Faults {
    loss: u64,
    copies: u64,
    reorder: u64,
    crashes: u64,
    slow_disk: u64,
    partitions: u64,
    damage: u64,
}

impl Faults {
    fn draw(dice: &mut Dice) -> Faults {
        // Most runs have a few kinds of fault at a time: all at once makes no progress worth testing.
        let mut some = |most: u64| if dice.chance(50) { dice.roll(most + 1) } else { 0 };
        Faults {
            loss: some(15),
            copies: some(15),
            reorder: some(60),
            crashes: some(4),
            slow_disk: some(90),
            partitions: some(4),
            damage: some(60),
        }
    }
}

struct Run {
    cluster: Cluster,
    dice: Dice,
    faults: Faults,
    nodes: u64,
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

/// How many voters may be missing something that they acknowledged.
fn damaged_nodes(cluster: &Cluster) -> usize {
    cluster.nodes.iter().filter(|node| node.record.recovering).count()
}

fn crash(run: &mut Run, id: NodeId) {
    let kept = run.dice.roll(4) as usize;
    run.cluster.stop(id, kept);
    let allowed = (run.nodes as usize - 1) / 2;
    if run.dice.chance(run.faults.damage) && damaged_nodes(&run.cluster) < allowed {
        // The medium lost some of the tail; recovery saw it and durably marked the node.
        let some = run.dice.roll(6) as usize;
        let back = run.dice.chance(50);
        let node = run.cluster.node_mut(id);
        node.damage(if back { node.back_to_superseded().unwrap_or(some) } else { some });
        run.cluster.oracle.damaged = true;
    }
}

fn act(run: &mut Run) {
    let id = NodeId(1 + run.dice.roll(run.nodes));
    let other = NodeId(1 + run.dice.roll(run.nodes));
    match run.dice.roll(100) {
        0..55 => deliver_one(run),
        55..70 => {
            let hard = run.dice.chance(50);
            if !run.dice.chance(run.faults.slow_disk) {
                run.cluster.complete(id, hard);
            }
        }
        70..82 => {
            let ns = run.dice.roll(4 * MS);
            run.cluster.now = run.cluster.now.plus_ns(ns);
            run.cluster.tick(|_| true);
        }
        82..94 => {
            if let Some(leader) = run.cluster.leaders().first().copied() {
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
                run.cluster.node_mut(id).volatile = volatile;
                run.cluster.start(id);
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
    let cluster = &mut run.cluster;
    if run.dice.chance(50) {
        // Half of the runs keep their sessions, with whatever was lost in them.
        for a in cluster.ids() {
            for b in cluster.ids() {
                cluster.disconnect(a, b);
            }
        }
    }
    for id in cluster.ids() {
        if cluster.node(id).raft.is_none() {
            cluster.start(id);
        }
    }
    cluster.heal();
    let limit = cluster.now.plus_ns(20 * ELECTION_MAX);
    let mut proposed: Option<LogIndex> = None;
    while cluster.now < limit {
        let next = cluster.now.plus_ns(ELECTION_MAX / 4);
        cluster.run_until(next, |_| true);
        let done = |index: LogIndex| cluster.nodes.iter().all(|node| node.raft.as_ref().unwrap().commit() >= index);
        if proposed.is_some_and(done) && damaged_nodes(cluster) == 0 {
            let first = cluster.node(NodeId(1)).log.clone();
            assert!(cluster.nodes.iter().all(|node| node.log == first), "all logs are equal in the end");
            assert_eq!(cluster.leaders().len(), 1);
            return;
        }
        if let Some(leader) = cluster.leader()
            && (proposed.is_none() || run.dice.chance(30))
        {
            let value = cluster.fresh_value();
            proposed = cluster.propose(leader, vec![value]).or(proposed);
        }
    }
    panic!("no fresh write reached all nodes, proposed {proposed:?}:\n{}", cluster.state());
}

fn run(seed: u64, steps: u64) -> u64 {
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
    let faults = Faults::draw(&mut dice);
    let mut run = Run { cluster: Cluster::new(options), dice, faults, nodes };
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
    run.cluster.oracle.committed.len() as u64
}

#[test]
fn clusters_are_safe_under_faults_and_live_after_them() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = setting("SEED") {
        run(seed, 1500);
        return;
    }
    let runs = setting("RUNS").unwrap_or(2000);
    let committed: u64 = (1..=runs).map(|seed| run(seed, 1500)).sum();
    assert!(committed > runs * 10, "the runs do something: {committed} entries committed");
}

/// H21: all nodes stop and start at once, with equal seeds: the timeouts still differ.
#[test]
fn h21_a_cluster_that_restarts_as_one_elects_soon() {
    for seed in 1..=1000 {
        let _guard = PrintSeed(seed);
        let mut cluster = Cluster::new(Options { seed, ..Options::of(3) });
        cluster.run(10 * ELECTION_MAX);
        assert_eq!(cluster.leaders().len(), 1);
        for id in cluster.ids() {
            cluster.stop(id, 0);
        }
        for id in cluster.ids() {
            cluster.start(id);
        }
        cluster.run(10 * ELECTION_MAX);
        assert_eq!(cluster.leaders().len(), 1);
    }
}

/// A peer may send anything: nothing panics, and what is committed stays.
#[test]
fn hostile_peers_cannot_panic_a_node() {
    use kontiki_core::limits::MAX_EFFECTS;
    use kontiki_core::{Append, Effect, FrameMeta, IndexRange, Message, SessionId, Term};
    for seed in 1..=2000 {
        let _guard = PrintSeed(seed);
        let mut dice = Dice::new(seed);
        let mut cluster = Cluster::new(Options { seed, ..Options::of(3) });
        if dice.chance(70) {
            assert!(cluster.elect(NodeId(1 + dice.roll(3))));
            if let Some(leader) = cluster.leader() {
                for _ in 0..dice.roll(4) {
                    let value = cluster.fresh_value();
                    cluster.propose(leader, vec![value]);
                    cluster.settle();
                }
            }
        }
        let victim = NodeId(1);
        let before = cluster.node(victim).raft.as_ref().unwrap().commit();
        for _ in 0..200 {
            let mut number = || match dice.roll(8) {
                0 => u64::MAX,
                1 => u64::MAX - dice.roll(3),
                2 => u64::MAX / 4 + 1 - dice.roll(3),
                3 => 0,
                _ => dice.roll(12),
            };
            let (any, b, c, d, e) = (number(), number(), number(), number(), number());
            // Most of them in the victim's own term: others it hardly looks at.
            let a = if dice.chance(60) { cluster.node(victim).raft.as_ref().unwrap().term().0 } else { any };
            let (flag, other) = (a % 2 == 0, b % 3 == 0);
            let session = if dice.chance(95) { SessionId(dice.roll(6)) } else { SessionId(u64::MAX) };
            let from = NodeId(dice.roll(5));
            let message = match dice.roll(9) {
                0 => Message::PreVote { term: Term(a), last_index: LogIndex(b), last_term: Term(c) },
                1 => Message::PreVoteReply { term: Term(a), granted: flag, last_index: LogIndex(b), last_term: Term(c), recovering: other },
                2 => Message::Vote { term: Term(a), last_index: LogIndex(b), last_term: Term(c), all_answered: flag },
                3 => Message::VoteReply { term: Term(a), granted: flag },
                4 => Message::Heartbeat {
                    term: Term(a),
                    commit: LogIndex(0),
                    round: b,
                    term_start: LogIndex(c),
                    session_commit: LogIndex(d),
                },
                5 => Message::HeartbeatReply { term: Term(a), round: b, recovering: flag, needs_base: other, last_index: LogIndex(c) },
                6 => Message::Accepted { term: Term(a), matched: LogIndex(0) },
                7 => Message::Received { term: Term(a), index: LogIndex(b) },
                _ => Message::Rejected {
                    term: Term(a),
                    prev: LogIndex(b),
                    last_index: LogIndex(c),
                    conflict_term: Term(d),
                    conflict_first: LogIndex(e),
                },
            };
            let event = if dice.chance(40) {
                let frame = FrameMeta { term: Term(a), first: LogIndex(b), count: (c % 5) as u32, prev_term: Term(d) };
                let range = IndexRange { from: LogIndex(e), to: LogIndex(e.saturating_add(dice.roll(3))) };
                let append = Append { leader_term: Term(a.saturating_add(dice.roll(2))), commit: LogIndex(c), frame, range };
                Event::Append { from, session, append }
            } else {
                Event::Message { from, session, message }
            };
            cluster.now = cluster.now.plus_ns(dice.roll(3 * MS));
            let now = cluster.now;
            let node = cluster.node_mut(victim);
            let raft = node.raft.as_mut().unwrap();
            let mut effects = Vec::new();
            let now = if dice.chance(10) { Time(raft.deadline().0.min(2_000 * MS)) } else { now };
            raft.step(now, event, &mut effects);
            assert!(effects.len() <= MAX_EFFECTS);
            let stepped = effects.len();
            raft.flush(now, &mut effects);
            assert!(effects.len() - stepped <= MAX_EFFECTS);
            raft.step(now, Event::Tick, &mut effects);
            for effect in effects {
                let answer = match effect {
                    Effect::SealNoop { frame } => Event::Sealed { frame, bytes: 4096 },
                    Effect::PersistHardState { write, .. } => Event::HardStateDurable { write },
                    Effect::AppendFrame { write, .. } if dice.chance(50) => Event::LogDurable { write },
                    Effect::SendFrames { to, session, from, upto, .. } => {
                        let to_index = if dice.chance(70) { upto } else { from.prev() };
                        Event::FramesSent { peer: to, session, to: to_index, bytes: 4096, frames: 1 }
                    }
                    Effect::LookupTerm { index } => Event::TermFound { index, term: None },
                    _ => continue,
                };
                raft.step(now, answer, &mut Vec::new());
            }
            assert!(raft.commit() >= before);
        }
    }
}

/// Nothing waits for ever in a network that is left alone.
#[test]
fn an_idle_cluster_writes_nothing_and_sends_only_heartbeats() {
    let mut cluster = Cluster::new(Options::of(3));
    assert!(cluster.elect(NodeId(1)));
    cluster.run(2 * ELECTION_MAX);
    let sent = |net: &Network| net.sent;
    let before = sent(&cluster.net);
    let writes = |cluster: &Cluster| -> usize { cluster.nodes.iter().map(|node| node.writes_asked).sum() };
    let written = writes(&cluster);
    cluster.run(10 * ELECTION_MAX);
    // 2 s, a heartbeat and its answer to each of two followers every 20 ms.
    let packets = sent(&cluster.net) - before;
    assert!((300..=450).contains(&packets), "{packets} packets");
    assert_eq!(writes(&cluster), written, "idle means no writes");
}

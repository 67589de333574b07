//! Clusters some or all of whose disks are slow: a leader is found, soon and in few terms, and it stays.
//!
//! `SEED=n cargo test -p kontiki-core --test slow_disks` replays one world.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use harness::{Cluster, ELECTION_MAX, HEARTBEAT, MS, Options};
use kontiki_core::{NodeId, Term};

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Prints the seed if the world it guards fails.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world failed with SEED={}", self.0);
        }
    }
}

struct World {
    cluster: Cluster,
    dice: Dice,
    /// What each node's flushes take about, in ms.
    flushes: Vec<u64>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let nodes = [2, 3, 3, 3, 4, 5, 7][dice.roll(7) as usize];
        let slow = [20, 50, 75, 150, 400][dice.roll(5) as usize];
        // Of one kind, or some quick and some slow.
        let mixed = dice.roll(2) == 1;
        let flushes = (0..nodes).map(|_| if mixed && dice.roll(2) == 1 { dice.roll(3) } else { slow }).collect();
        World { cluster: Cluster::new(Options { seed, ..Options::of(nodes) }), dice, flushes }
    }

    /// Time passes, in which no flush takes quite as long as the one before.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            for (at, flush) in self.flushes.iter().enumerate() {
                let jitter = self.dice.roll(flush / 2 + 1);
                self.cluster.nodes[at].disk.flush_ns = (flush * 3 / 4 + jitter) * MS;
            }
            self.cluster.run(10 * MS);
        }
    }

    /// How long until there is a leader whom a majority follows and who has committed something of its own, in ms.
    fn until_led(&mut self, limit_ms: u64) -> u64 {
        let begun = self.cluster.now;
        let mut proposed = None;
        loop {
            let waited = self.cluster.now.since(begun) / MS;
            assert!(waited <= limit_ms, "nobody leads after {waited} ms, flushes {:?}\n{}", self.flushes, self.cluster.state());
            if let Some(leader) = self.cluster.leader() {
                let commit = self.cluster.node(leader).raft.as_ref().unwrap().commit();
                if proposed.is_some_and(|index| commit >= index) {
                    return waited;
                }
                if proposed.is_none() {
                    let value = self.cluster.fresh_value();
                    proposed = self.cluster.propose(leader, vec![value]);
                }
            } else {
                proposed = None;
            }
            self.run(10);
        }
    }

    fn term(&self) -> Term {
        self.cluster.nodes.iter().filter_map(|node| node.raft.as_ref()).map(|raft| raft.term()).max().unwrap()
    }
}

/// What an election may take at most, in ms: some rounds of it, each as long as the slowest node's timeouts.
fn limit(flushes: &[u64]) -> u64 {
    let slowest = flushes.iter().max().unwrap() * 5 / 4;
    let timeout = (ELECTION_MAX / MS).max(2 * (4 * slowest + HEARTBEAT / MS));
    4 * timeout
}

fn world(seed: u64) -> u64 {
    let _guard = PrintSeed(seed);
    let mut world = World::new(seed);
    let limit = limit(&world.flushes);
    world.until_led(limit);
    assert!(world.term() <= Term(3), "terms of the first election: {}\n{}", world.term(), world.cluster.state());
    for _ in 0..3 {
        // It stays.
        let (term, leader) = (world.term(), world.cluster.leader().unwrap());
        world.run(5_000);
        assert_eq!((world.term(), world.cluster.leader()), (term, Some(leader)), "{:?}\n{}", world.flushes, world.cluster.state());
        if world.flushes.len() < 3 {
            return world.term().0;
        }
        // It is gone: another leads soon.
        world.cluster.stop(leader, 9);
        world.until_led(limit);
        assert!(world.term() <= Term(term.0 + 3), "{} after {term}\n{}", world.term(), world.cluster.state());
        world.cluster.start(leader);
        world.run(3_000);
    }
    world.term().0
}

#[test]
fn slow_disks_elect_soon_and_stay_led() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        world(seed);
        return;
    }
    let worlds = 150;
    let terms: u64 = (1..=worlds).map(world).sum();
    assert!(terms <= worlds * 6, "{terms} terms in {worlds} worlds of up to four elections");
}

/// A flush of seconds once in a while, at whichever node: an election at worst, and a leader in between.
#[test]
fn stalls_cost_an_election_at_worst() {
    for seed in 1..=30 {
        let _guard = PrintSeed(seed);
        let mut world = World::new(seed);
        world.flushes = vec![5; world.flushes.len()];
        world.until_led(2_000);
        world.run(2_000);
        for _ in 0..10 {
            let before = world.term();
            let who = NodeId(1 + world.dice.roll(world.flushes.len() as u64));
            // What is written in the next moment stalls for one to three seconds.
            let stall = 1_000 + world.dice.roll(2_000);
            world.cluster.node_mut(who).disk.flush_ns = stall * MS;
            if let Some(leader) = world.cluster.leader() {
                let value = world.cluster.fresh_value();
                world.cluster.propose(leader, vec![value]);
                world.cluster.settle();
            }
            world.run(stall + 3_000);
            world.until_led(6_000);
            assert!(
                world.term().0 <= before.0 + 2,
                "a stall of {stall} ms at n{who}: {before} to {}\n{}",
                world.term(),
                world.cluster.state()
            );
            world.run(3_000);
        }
    }
}

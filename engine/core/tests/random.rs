//! Seeded runs of small clusters whose network loses, repeats and reorders, whose disks lag, and whose nodes crash:
//! safety at every step, liveness once the faults end.
//!
//! `SEED=n cargo test -p kontiki-core --test random` replays one run; `RUNS=n` sets how many.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use harness::net::Network;
use harness::world::{Faults, PrintSeed, setting};
use harness::{Cluster, ELECTION_MAX, Options};
use kontiki_core::NodeId;

#[test]
fn clusters_are_safe_under_faults_and_live_after_them() {
    if let Some(seed) = setting("SEED") {
        harness::world::run(seed, 1500, Faults::draw);
        return;
    }
    let runs = setting("RUNS").unwrap_or(2000);
    let committed: u64 = (1..=runs).map(|seed| harness::world::run(seed, 1500, Faults::draw).committed()).sum();
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

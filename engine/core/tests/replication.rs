//! What scripts cannot say in a few lines: counts of round trips, of heartbeats, of lookups; tables at their bounds.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::node::Entry;
use harness::{Cluster, ELECTION_MAX, MS, Options};
use kontiki_core::limits::{PENDING_WRITES, TERM_RUNS};
use kontiki_core::{FrameMeta, LogIndex, NodeId, Term};

/// A log of frames: (term, entries), its values marked so that no two logs share any.
fn log(mark: &str, frames: &[(u64, u32)]) -> Vec<Entry> {
    let (mut log, mut prev_term) = (Vec::new(), Term(0));
    for (term, count) in frames {
        let frame = FrameMeta { term: Term(*term), first: LogIndex(log.len() as u64 + 1), count: *count, prev_term };
        log.extend((0..*count).map(|k| Entry { frame, value: format!("{mark}{term}.{k}") }));
        prev_term = Term(*term);
    }
    log
}

/// A cluster of three that starts with these logs on its disks. Only n1 and n2 are up.
fn started_with(logs: [Vec<Entry>; 2], runs: usize) -> Cluster {
    let mut cluster = Cluster::new(Options::of(3));
    for id in cluster.ids() {
        cluster.stop(id, 0);
    }
    for (id, log) in cluster.ids().into_iter().zip(logs) {
        let node = cluster.node_mut(id);
        node.disk.record.term = log.last().map_or(Term(0), |entry| entry.frame.term);
        node.disk.log = log;
        node.runs_restored = runs;
        cluster.start(id);
    }
    cluster
}

fn commit(cluster: &Cluster, id: u64) -> LogIndex {
    cluster.node(NodeId(id)).raft.as_ref().unwrap().commit()
}

/// The rejections among what was sent while `act` ran.
fn rejections(cluster: &mut Cluster, act: impl FnOnce(&mut Cluster)) -> usize {
    cluster.net.wire = true;
    cluster.trace.clear();
    act(cluster);
    cluster.net.wire = false;
    cluster.trace.iter().filter(|line| line.contains("rejected")).count()
}

/// A divergence of 10,000 entries heals in at most as many round trips as it has terms, and two.
#[test]
fn a_long_divergence_heals_in_a_round_trip_a_term() {
    for terms in [1u64, 2, 7, 40] {
        // The follower has the terms 2, 4, 6, ... and many entries of each; the leader the odd ones.
        let each = 10_000 / terms as u32;
        let frames = |offset: u64| -> Vec<(u64, u32)> {
            let mut frames = vec![(1, 5)];
            for term in 1..=terms {
                frames.extend([(2 * term + offset, each / 2), (2 * term + offset, each - each / 2)]);
            }
            frames
        };
        let mut cluster = started_with([log("", &frames(1)), log("", &frames(0))], usize::MAX);
        let own = cluster.node(NodeId(1)).disk.log.clone();
        let refused = rejections(&mut cluster, |cluster| {
            assert!(cluster.elect(NodeId(1)));
            cluster.run(2 * ELECTION_MAX);
        });
        assert!(refused as u64 <= terms + 2, "{refused} rejections for {terms} terms");
        assert_eq!(cluster.node(NodeId(2)).log, cluster.node(NodeId(1)).log);
        assert_eq!(cluster.node(NodeId(2)).log[..own.len()], own);
        assert!(commit(&cluster, 2).0 > 10_000);
    }
}

/// The same where neither node's table knows the old terms: they are looked up, and in the end the logs are equal.
#[test]
fn terms_older_than_the_table_are_looked_up() {
    for runs in [1, 2, 5] {
        let old: Vec<(u64, u32)> = (1..=40).map(|term| (term, 7)).collect();
        let mut ours = old.clone();
        ours.extend((41..=60).map(|term| (2 * term + 1, 9)));
        let mut theirs = old.clone();
        theirs.extend((41..=60).map(|term| (2 * term, 9)));
        let mut cluster = started_with([log("", &ours), log("", &theirs)], runs);
        assert!(cluster.elect(NodeId(1)));
        cluster.run(20 * ELECTION_MAX);
        assert_eq!(cluster.node(NodeId(2)).log, cluster.node(NodeId(1)).log, "{}", cluster.state());
        assert!(commit(&cluster, 2).0 > 460);
        let looked_up = cluster.trace.iter().filter(|line| line.contains("looks up")).count();
        assert!(looked_up > 0, "the case is one where the table does not say");
    }
}

/// A frame that agrees with part of an old run and conflicts inside: the first conflict is bisected by lookups.
#[test]
fn a_conflict_inside_an_unknown_run_is_bisected() {
    // One frame of term 5 spans what the follower holds partly as term 5, partly as term 6.
    let ours = log("", &[(1, 3), (5, 100), (9, 1)]);
    let mut theirs = log("", &[(1, 3), (5, 100)]);
    theirs.truncate(40);
    let frame = FrameMeta { term: Term(6), first: LogIndex(41), count: 200, prev_term: Term(5) };
    theirs.extend((0..200).map(|k| Entry { frame, value: format!("6.{k}") }));
    let last = FrameMeta { term: Term(7), first: LogIndex(241), count: 1, prev_term: Term(6) };
    theirs.push(Entry { frame: last, value: "7".into() });
    let mut cluster = started_with([ours, theirs], 1);
    assert!(cluster.elect(NodeId(1)));
    cluster.run(30 * ELECTION_MAX);
    assert_eq!(cluster.node(NodeId(2)).log, cluster.node(NodeId(1)).log, "{}", cluster.state());
    assert!(cluster.trace.iter().any(|line| line == "n2 truncated from 41"), "not one entry more is superseded");
}

/// More elections than the table has runs, in one life.
#[test]
fn the_run_table_slides() {
    let frames: Vec<(u64, u32)> = (1..=TERM_RUNS as u64 * 2).map(|term| (term, 2)).collect();
    let mut theirs = log("", &[(1, 2), (2, 2)]);
    theirs.truncate(3);
    let mut cluster = started_with([log("", &frames), theirs], usize::MAX);
    assert!(cluster.elect(NodeId(1)));
    cluster.run(ELECTION_MAX);
    assert_eq!(cluster.node(NodeId(2)).log, cluster.node(NodeId(1)).log);
    assert_eq!(commit(&cluster, 2), LogIndex(TERM_RUNS as u64 * 4 + 1));
}

/// Replication traffic stands in for heartbeats.
#[test]
fn traffic_suppresses_heartbeats() {
    let mut cluster = Cluster::new(Options::of(3));
    assert!(cluster.elect(NodeId(1)));
    cluster.net.wire = true;
    cluster.trace.clear();
    for _ in 0..100 {
        let value = cluster.fresh_value();
        assert!(cluster.propose(NodeId(1), vec![value]).is_some());
        cluster.run(5 * MS);
    }
    let count = |what: &str| cluster.trace.iter().filter(|line| line.contains(what)).count();
    assert!(count("frame t1") >= 200);
    assert!(count("heartbeatreply") <= 4, "{} heartbeats were answered", count("heartbeatreply"));
    assert_eq!(cluster.leaders(), [NodeId(1)]);
}

/// A follower whose table of pending writes is full takes no more frames, and asks again once it has room.
#[test]
fn a_full_table_of_writes_is_back_pressure() {
    // One frame too many: nothing behind it tells the leader that it was dropped.
    let frames = PENDING_WRITES as u64 + 1;
    let mut cluster = Cluster::new(Options { window_frames: 10_000, window_bytes: 1 << 30, ..Options::of(3) });
    assert!(cluster.elect(NodeId(1)));
    *cluster.node_mut(NodeId(2)).disk.hold_mut(false) = true;
    for _ in 0..frames {
        let value = cluster.fresh_value();
        assert!(cluster.propose(NodeId(1), vec![value]).is_some());
        cluster.settle();
    }
    assert_eq!(cluster.node(NodeId(2)).disk.writes_under_way(false), PENDING_WRITES);
    assert_eq!(commit(&cluster, 1), LogIndex(frames + 1), "the others go on");
    *cluster.node_mut(NodeId(2)).disk.hold_mut(false) = false;
    cluster.settle();
    assert_eq!(commit(&cluster, 2), LogIndex(frames + 1), "without waiting: {}", cluster.state());
}

/// A leader seals nothing while its table of pending writes is full, and the no-op of a new one waits for room.
#[test]
fn a_leader_with_a_full_table_seals_nothing() {
    let mut cluster = Cluster::new(Options::of(1));
    cluster.run(MS);
    *cluster.node_mut(NodeId(1)).disk.hold_mut(false) = true;
    for _ in 0..PENDING_WRITES {
        assert!(cluster.propose(NodeId(1), vec!["x".into()]).is_some());
    }
    assert_eq!(cluster.propose(NodeId(1), vec!["x".into()]), None);
    assert!(cluster.complete(NodeId(1), false));
    assert!(cluster.propose(NodeId(1), vec!["x".into()]).is_some());
    assert_eq!(commit(&cluster, 1), LogIndex(2));
}

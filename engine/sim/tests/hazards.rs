//! Hazards that concern whole nodes, as directed simulations: each arranges the scenario of its number, and then everything heals,
//! the judge has seen nothing, and a fresh write is acknowledged. The others are scripts of the core, or tests of the log and the transport.
#![allow(clippy::unwrap_used)]

#[path = "common/directed.rs"]
mod directed;

use directed::{TIMEOUT, fail_once, heal, isolate, leader, run, three, three_of, write};
use kontiki_sim::{Cluster, Fate, MILLISECOND, OpClass, Random};

/// A partitioned follower comes back, and deposes nobody.
#[test]
fn h12_partitioned_server() {
    let (mut cluster, first) = three(12);
    let before = leader(&cluster);
    isolate(&cluster, (first + 1) % 3);
    write(&mut cluster, 50);
    run(&mut cluster, 20 * TIMEOUT);
    heal(&mut cluster);
    run(&mut cluster, 2 * TIMEOUT);
    assert_eq!(leader(&cluster), before);
}

/// The leader cannot read what a follower needs: it stops, and sends nothing made up.
#[test]
fn h29_leader_cannot_read() {
    let (mut cluster, first) = three(29);
    let behind = (first + 1) % 3;
    cluster.crash(behind);
    write(&mut cluster, 600);
    fail_once(&mut cluster, first, OpClass::Read);
    cluster.start(behind);
    assert!(cluster.run_until_holds(20 * TIMEOUT, |cluster| !cluster.is_up(first)), "it had to read");
    heal(&mut cluster);
}

/// The leader's own write fails when the followers have the entry: it stops, and comes back in a new term.
#[test]
fn h35_leader_loses_its_own_write() {
    let (mut cluster, first) = three(35);
    let (_, term) = leader(&cluster).unwrap();
    fail_once(&mut cluster, first, OpClass::Write);
    cluster.set_clients(true);
    assert!(cluster.run_until_holds(TIMEOUT, |cluster| !cluster.is_up(first)));
    cluster.start(first);
    heal(&mut cluster);
    assert!(leader(&cluster).unwrap().1 > term);
}

/// A node is killed again and again in the middle of what it applies, as it catches up and as it starts over: each entry once, and in order.
#[test]
fn h42_restarts_between_pages_of_committed_entries() {
    for durable_state in [true, false] {
        let (mut cluster, first) = three_of(42, |setup| setup.durable_state = durable_state);
        let behind = (first + 1) % 3;
        cluster.crash(behind);
        write(&mut cluster, 800);
        let mut stopped_at = Vec::new();
        for round in 0..30 {
            cluster.start(behind);
            let begun = cluster.judge().applied_by(behind as u64 + 1);
            let applies = |cluster: &mut Cluster| cluster.judge().applied_by(behind as u64 + 1) > begun;
            assert!(cluster.run_until_holds(20 * TIMEOUT, applies) || begun == cluster.judge().last_index());
            run(&mut cluster, round % 4 * MILLISECOND / 2);
            stopped_at.push(cluster.judge().applied_by(behind as u64 + 1));
            cluster.crash(behind);
        }
        let last = cluster.judge().last_index();
        assert!(stopped_at.iter().any(|&at| at < last), "killed in the middle: {stopped_at:?} of {last}");
        heal(&mut cluster);
    }
}

/// Proposals to a leader that is alone: each ends once, and none is acknowledged that is lost.
#[test]
fn h43_proposals_of_an_isolated_leader() {
    let (mut cluster, first) = three(43);
    isolate(&cluster, first);
    let values: Vec<u64> = (0..20).filter_map(|_| cluster.propose_to(first)).collect();
    assert!(!values.is_empty());
    let deposed = |cluster: &mut Cluster| leader(cluster).is_some_and(|(n, _)| n != first);
    assert!(cluster.run_until_holds(20 * TIMEOUT, deposed));
    assert!(values.iter().all(|&value| !matches!(cluster.judge().fate(value), Fate::Applied(_))));
    heal(&mut cluster);
    assert!(values.iter().all(|&value| cluster.judge().fate(value) != Fate::Open));
}

/// The power of all nodes fails at once, again and again, under load: nothing acknowledged is lost.
#[test]
fn h82_power_fails_everywhere_at_once() {
    for seed in 820..824 {
        let (mut cluster, _) = three(seed);
        let mut random = Random::stream(seed, 2);
        for _ in 0..8 {
            write(&mut cluster, 10);
            cluster.set_clients(true);
            run(&mut cluster, random.below(20 * MILLISECOND));
            let count = random.between(1, 3) as usize;
            (0..count).for_each(|n| cluster.power_cut(n));
            (0..count).for_each(|n| cluster.start(n));
        }
        heal(&mut cluster);
    }
}

/// A node stands still for thirty timeouts, and hears a thousand ticks late: no election.
#[test]
fn h96_stalled_node() {
    let (mut cluster, first) = three(96);
    let before = leader(&cluster);
    let stalled = (first + 1) % 3;
    for timeouts in [1, 3, 30] {
        cluster.sim().pause(cluster.host(stalled));
        write(&mut cluster, 20);
        run(&mut cluster, timeouts * TIMEOUT);
        cluster.sim().resume(cluster.host(stalled));
        run(&mut cluster, 2 * TIMEOUT);
        assert_eq!(leader(&cluster), before, "stalled for {timeouts} timeouts");
    }
    heal(&mut cluster);
}

/// The leader's disk hangs while its links are fine: it gives way, acknowledges nothing meanwhile, and is back when the disk is.
#[test]
fn h97_leader_with_a_hung_disk() {
    let (mut cluster, first) = three(97);
    let host = cluster.host(first);
    cluster.sim().hold(host, OpClass::Write);
    cluster.propose_to(first).unwrap();
    let deposed = |cluster: &mut Cluster| leader(cluster).is_some_and(|(n, _)| n != first);
    assert!(cluster.run_until_holds(10 * TIMEOUT, deposed), "{:#?}", cluster.standings());
    write(&mut cluster, 20);
    run(&mut cluster, 5 * TIMEOUT);
    assert_ne!(leader(&cluster).unwrap().0, first);
    cluster.sim().release(host, OpClass::Write);
    heal(&mut cluster);
}

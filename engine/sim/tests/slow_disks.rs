//! Disks whose flushes take long, always or once in a while: what a node's own disk takes is not the others' silence.
#![allow(clippy::unwrap_used)]

#[path = "common/directed.rs"]
mod directed;

use directed::{TIMEOUT, heal, leader, run, three_of, write};
use kontiki::Config;
use kontiki_sim::{Cluster, Conditions, Delay, Fate, MILLISECOND, Odds, OpClass, Random, SECOND, Setup, Sim, Workload};

/// A cluster that has not begun yet, on disks whose flushes take these times in ms, each about. Everything else of the configuration is at its
/// default, but what takes memory.
fn cluster_on(seed: u64, flushes: &[u64]) -> Cluster {
    let config = Config {
        cluster: u128::from(seed) << 1 | 1,
        max_entry_bytes: 2048,
        max_frame_bytes: 16 << 10,
        max_in_flight: 256,
        ring_bytes: 256 << 10,
        window_bytes: 64 << 10,
        window_frames: 16,
        segment_bytes: 4096 + (128 << 10),
        retention_bytes: 100 * (128 << 10),
        seed,
        ..Config::default()
    };
    let setup = Setup { members: flushes.len(), config, durable_state: true };
    let mut workload = Workload::drawn(Random::stream(seed, 1), 1024);
    (workload.in_flight, workload.pause_ns) = (16, 20 * MILLISECOND);
    let cluster = Cluster::new(Sim::new(seed, Conditions::calm()), setup, workload);
    for (n, ms) in flushes.iter().enumerate() {
        flush(&cluster, n, Delay::between(ms * 4 / 5 * MILLISECOND, ms * 6 / 5 * MILLISECOND));
    }
    cluster
}

fn flush(cluster: &Cluster, n: usize, delay: Delay) {
    let host = cluster.host(n);
    let mut disk = cluster.sim().disk_conditions(host);
    disk.flush = delay;
    cluster.sim().set_disk_conditions(host, disk);
}

/// Somebody leads within `limit_ns`.
fn led(cluster: &mut Cluster, limit_ns: u64) -> (usize, u64) {
    assert!(cluster.run_until_holds(limit_ns, |cluster| leader(cluster).is_some()), "{:#?}", cluster.standings());
    leader(cluster).unwrap()
}

/// A start of all, a load, and the end of the leader's process, on such disks: few terms, and a leader that stays.
fn elects_and_stays(seed: u64, flushes: &[u64]) {
    let mut cluster = cluster_on(seed, flushes);
    (0..flushes.len()).for_each(|n| cluster.start(n));
    led(&mut cluster, 30 * SECOND);
    // The first rounds may not know yet how slow the disks are.
    run(&mut cluster, 10 * SECOND);
    for _ in 0..2 {
        let (_, before) = led(&mut cluster, 30 * SECOND);
        assert!(before <= 6, "term {before} at flushes of {flushes:?} ms");
        cluster.set_clients(true);
        run(&mut cluster, 20 * SECOND);
        cluster.set_clients(false);
        let after = leader(&cluster).unwrap();
        assert_eq!(after.1, before, "a leader that was followed is not given up, flushes of {flushes:?} ms");
        write(&mut cluster, 5);
        cluster.crash(after.0);
        run(&mut cluster, SECOND);
        led(&mut cluster, 30 * SECOND);
        cluster.start(after.0);
        run(&mut cluster, 10 * SECOND);
    }
    let (_, term) = leader(&cluster).unwrap();
    assert!(term <= 9, "term {term} after two changes of leader, flushes of {flushes:?} ms");
    // What a slow one has to catch up with it does in its own time.
    (0..flushes.len()).for_each(|n| flush(&cluster, n, Delay::between(MILLISECOND / 2, 5 * MILLISECOND)));
    heal(&mut cluster);
}

#[test]
fn whole_worlds_of_slow_flushes_elect_and_stay_led() {
    for (seed, ms) in [75, 150, 400].into_iter().enumerate() {
        elects_and_stays(80 + seed as u64, &[ms; 3]);
    }
    elects_and_stays(84, &[400; 5]);
}

#[test]
fn quick_and_slow_disks_in_one_cluster() {
    elects_and_stays(85, &[400, 2, 2]);
    elects_and_stays(86, &[400, 400, 2]);
    elects_and_stays(87, &[2, 400, 75, 400, 2]);
}

/// Slower than any timeout can follow: still somebody leads, if later.
#[test]
fn flushes_past_the_limit() {
    let mut cluster = cluster_on(88, &[3_500; 3]);
    (0..3).for_each(|n| cluster.start(n));
    led(&mut cluster, 600 * SECOND);
    // A write takes several flushes here, and may have to wait for another election first.
    cluster.set_clients(true);
    let written = cluster.run_until_holds(600 * SECOND, |cluster| cluster.judge().acknowledged() > 0);
    assert!(written, "{:#?}", cluster.standings());
}

/// A flush of one to three seconds now and then: elections, but work in between, and the timeouts come back.
#[test]
fn stalls_of_seconds_now_and_then() {
    let (mut cluster, _) = three_of(89, |_| ());
    for n in 0..3 {
        let quick = Delay::between(MILLISECOND / 2, 5 * MILLISECOND);
        flush(&cluster, n, quick.with_tail(Odds::one_in(1_000), 3 * SECOND));
    }
    let before = cluster.judge().acknowledged();
    cluster.set_clients(true);
    run(&mut cluster, 120 * SECOND);
    cluster.set_clients(false);
    let (_, term) = leader(&cluster).unwrap();
    let acknowledged = cluster.judge().acknowledged() - before;
    assert!(acknowledged > 1_000 && term < 60, "{acknowledged} acknowledged, term {term}");
    (0..3).for_each(|n| flush(&cluster, n, Delay::between(MILLISECOND / 2, 5 * MILLISECOND)));
    heal(&mut cluster);
}

/// A sole voter has nobody to give way to: a write that takes a second (flash does that) is no reason to tell its callers "unknown". Nor have
/// two anything to gain: neither commits without both disks.
#[test]
fn who_cannot_give_way_waits_for_its_disk() {
    for members in [1, 2] {
        let mut cluster = cluster_on(90, &[2, 2][..members]);
        (0..members).for_each(|n| cluster.start(n));
        let (n, term) = led(&mut cluster, 10 * SECOND);
        run(&mut cluster, 2 * SECOND);
        cluster.sim().hold(cluster.host(n), OpClass::Write);
        let value = cluster.propose_to(n).unwrap();
        run(&mut cluster, 10 * TIMEOUT);
        assert_eq!((cluster.judge().fate(value), leader(&cluster)), (Fate::Open, Some((n, term))));
        cluster.sim().release(cluster.host(n), OpClass::Write);
        run(&mut cluster, 2 * SECOND);
        assert!(matches!(cluster.judge().fate(value), Fate::Applied(_)), "{:?}", cluster.judge().fate(value));
    }
}

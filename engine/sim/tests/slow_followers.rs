//! A leader and a follower that is slower than the load.
#![allow(clippy::unwrap_used)]

#[path = "common/directed.rs"]
mod directed;

use directed::{TIMEOUT, fail_once, heal, leader, run, three_of, write};
use kontiki_sim::{Cluster, Delay, MILLISECOND, OpClass, SECOND};

/// A leader that cannot read its log, and a follower with a slow disk, after clients wrote much more than memory holds: whether the leader
/// never had to read.
fn keeps_it_in_memory(hold_back_ms: u64) -> bool {
    let (mut cluster, first) = three_of(70, |setup| {
        setup.config.hold_back_ms = hold_back_ms;
        // Preparing a segment takes several flushes: with segments of a few frames, a slow disk would do nothing else.
        (setup.config.segment_bytes, setup.config.retention_bytes) = (4096 + (2 << 20), 20 << 20);
    });
    let slow = cluster.host((first + 1) % 3);
    let mut disk = cluster.sim().disk_conditions(slow);
    disk.flush = Delay::between(40 * MILLISECOND, 60 * MILLISECOND);
    cluster.sim().set_disk_conditions(slow, disk);
    fail_once(&mut cluster, first, OpClass::Read);
    cluster.set_clients(true);
    run(&mut cluster, 60 * TIMEOUT);
    cluster.set_clients(false);
    let kept = cluster.is_up(first);
    heal(&mut cluster);
    kept
}

#[test]
fn one_that_is_slower_and_goes_on_is_waited_for() {
    assert!(keeps_it_in_memory(100));
    assert!(!keeps_it_in_memory(0), "it would have had to read its log for the slow one: else this shows nothing");
}

/// One whose disk hangs is not waited for, and is given from the log what it lacks.
#[test]
fn one_that_stands_still_is_not() {
    let (mut cluster, first) = three_of(71, |_| ());
    let before = leader(&cluster);
    let hung = cluster.host((first + 1) % 3);
    cluster.sim().hold(hung, OpClass::Write);
    write(&mut cluster, 1_500);
    cluster.sim().release(hung, OpClass::Write);
    heal(&mut cluster);
    assert_eq!(leader(&cluster), before);
}

/// A cluster one of whose followers was away while so many entries were written, and comes back over links with a round trip of 50 ms.
fn back_over_a_slow_link(rounds: u64) -> (Cluster, usize) {
    let (mut cluster, first) = three_of(11, |setup| {
        setup.config.ring_bytes = 4 << 20;
        setup.config.max_frame_bytes = 64 << 10;
        setup.config.window_bytes = 4 << 20;
        setup.config.window_frames = 64;
        setup.config.segment_bytes = 4096 + (1 << 20);
        setup.config.retention_bytes = 64 << 20;
    });
    let away = (first + 1) % 3;
    cluster.crash(away);
    for _ in 0..rounds {
        write(&mut cluster, 4_000);
    }
    let (from, to) = (cluster.host(first), cluster.host(away));
    cluster.sim().slow(from, to, 25 * MILLISECOND);
    cluster.sim().slow(to, from, 25 * MILLISECOND);
    cluster.start(away);
    (cluster, away)
}

#[test]
fn one_that_was_away_catches_up_over_a_slow_link() {
    let (mut cluster, away) = back_over_a_slow_link(4);
    let (last, id) = (cluster.judge().last_index(), away as u64 + 1);
    assert!(cluster.run_until_holds(60 * SECOND, |cluster| cluster.judge().applied_by(id) >= last));
}

/// The same under load: it gets there, before the log lets go of what it needs.
#[test]
fn one_that_was_away_catches_up_under_load() {
    let (mut cluster, away) = back_over_a_slow_link(2);
    let id = away as u64 + 1;
    cluster.set_clients(true);
    let mut lags = Vec::new();
    for _ in 0..12 {
        run(&mut cluster, 5 * SECOND);
        lags.push(cluster.judge().last_index() - cluster.judge().applied_by(id));
    }
    assert!(lags.last().is_some_and(|&lag| lag < 1_000), "{lags:?}");
}

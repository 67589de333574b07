//! A leader and a follower that is slower than the load.
#![allow(clippy::unwrap_used)]

#[path = "common/directed.rs"]
mod directed;

use directed::{TIMEOUT, fail_once, heal, leader, run, three_of, write};
use kontiki_sim::{Delay, MILLISECOND, OpClass};

/// A leader that cannot read its log, and a follower with a slow disk, after clients wrote much more than memory holds: whether the leader
/// never had to read.
fn keeps_it_in_memory(hold_back_ms: u64) -> bool {
    let (mut cluster, first) = three_of(70, |setup| setup.config.hold_back_ms = hold_back_ms);
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

//! Processes are killed, power left on: within one boot a node has what it had written, and leads or votes again at once, on any medium. Segments are
//! recycled, so that what stands behind a log's end is never zeros.
#![allow(clippy::unwrap_used)]

#[path = "common/directed.rs"]
mod directed;

use directed::{TIMEOUT, leader, leads, recycled, run, write};
use kontiki::Medium;
use kontiki_sim::MILLISECOND;

/// An update of the program, the OOM killer: all processes go, and one board does not come back.
#[test]
fn two_processes_are_killed_and_one_board_stays_dead() {
    for medium in [Medium::Safe, Medium::Lossy] {
        for seed in 1..6 {
            let (mut cluster, first) = recycled(seed, medium);
            let dead = (first + 1) % 3;
            cluster.set_clients(true);
            run(&mut cluster, 50 * MILLISECOND);
            (0..3).for_each(|n| cluster.crash(n));
            cluster.set_clients(false);
            (0..3).filter(|&n| n != dead).for_each(|n| cluster.start(n));
            assert!(leads(&mut cluster), "{medium:?}, seed {seed}: {:?}", cluster.standings());
        }
    }
}

/// One board is dead, and of the two that live the leader's process alone is killed and comes back at once.
#[test]
fn the_leaders_process_is_killed_and_one_board_stays_dead() {
    for medium in [Medium::Safe, Medium::Lossy] {
        for seed in 1..6 {
            let (mut cluster, first) = recycled(seed, medium);
            let dead = (first + 1) % 3;
            cluster.crash(dead);
            write(&mut cluster, 50);
            let (first, _) = leader(&cluster).unwrap();
            cluster.set_clients(true);
            run(&mut cluster, 50 * MILLISECOND);
            cluster.crash(first);
            cluster.set_clients(false);
            cluster.start(first);
            run(&mut cluster, TIMEOUT);
            assert!(leads(&mut cluster), "{medium:?}, seed {seed}: {:?}", cluster.standings());
        }
    }
}

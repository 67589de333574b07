//! The site loses its power while nothing is in flight, and one board of three does not come back: the other two lead on, on either medium,
//! though their segments are recycled ones.
#![allow(clippy::unwrap_used)]

#[path = "common/directed.rs"]
mod directed;

use directed::{TIMEOUT, leads, recycled, run, write};
use kontiki::Medium;
use kontiki_sim::{Cluster, MILLISECOND};

fn cut_and_two_come_back(cluster: &mut Cluster, dead: usize) -> bool {
    (0..3).for_each(|n| cluster.power_cut(n));
    (0..3).filter(|&n| n != dead).for_each(|n| cluster.start(n));
    leads(cluster)
}

#[test]
fn a_site_at_rest_loses_power_and_one_board_stays_dead() {
    let mut stuck = Vec::new();
    for medium in [Medium::Safe, Medium::Lossy] {
        for seed in 1..9 {
            let (mut cluster, first) = recycled(seed, medium);
            cluster.set_clients(true);
            run(&mut cluster, 50 * MILLISECOND);
            cluster.set_clients(false);
            assert!(cluster.run_until_holds(20 * TIMEOUT, |cluster| cluster.outstanding() == 0));
            // What was told to followers, and zeros, come to rest too.
            run(&mut cluster, 100 * MILLISECOND);
            let dead = (first + 1) % 3;
            // Again and again, with nothing written in between, and with something.
            for round in 0..3 {
                if !cut_and_two_come_back(&mut cluster, dead) {
                    stuck.push(format!("{medium:?}, seed {seed}, round {round}: {:?}", cluster.standings()));
                    break;
                }
                if round == 1 {
                    write(&mut cluster, 30);
                }
                run(&mut cluster, 100 * MILLISECOND);
            }
        }
    }
    assert!(stuck.is_empty(), "no leader within 100 timeouts:\n{}", stuck.join("\n"));
}

//! The power is cut at storage operations of whole nodes, in many ways each: the short form of the program `crash-points`.
#![allow(clippy::unwrap_used)]

use kontiki_sim::Counts;
use kontiki_sim::crash_points::{Depth, Script, enumerate, replay};

/// Tries some points of each kind of these workloads: what was tried, what of that was different, cut in a recovery, and came up
/// recovering; and what happened.
fn hold(rounds: u64, again_every: u64, wanted: impl Fn(&Script) -> bool) -> ([u64; 4], Counts) {
    let (mut sums, mut happened) = ([0; 4], Counts::default());
    for script in Script::all(rounds, 1).into_iter().filter(wanted) {
        let found = enumerate(&script, Depth { sample: 0, of_each: 1, again_every }).unwrap();
        assert_eq!(found.losses, 0, "{}: {:#?}", script.name(), found.lost);
        let more = [found.tried, found.distinct, found.again, found.recovering];
        sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        happened.merge(&found.happened);
    }
    (sums, happened)
}

#[test]
fn what_a_node_promised_it_holds_wherever_the_power_fails() {
    let ([tried, distinct, again, recovering], happened) = hold(3, 100, |script| !script.snapshots);
    // What does not happen is not tested.
    assert!(tried > 1_500 && distinct > 800 && again > 50 && recovering > 0, "{tried}, {distinct}, {again}, {recovering}");
    for what in ["allocate", "rename", "sync", "sync-dir", "write", "frames that superseded entries", "lives with log writes that overlap"]
    {
        assert!(happened.get(what) > 0, "{what}");
    }
}

#[test]
fn what_a_snapshot_brought_it_holds_wherever_the_power_fails() {
    let ([tried, distinct, again, recovering], happened) = hold(3, 400, |script| script.snapshots && !script.durable_state);
    assert!(tried > 1_500 && distinct > 800 && again > 50 && recovering > 0, "{tried}, {distinct}, {again}, {recovering}");
    for what in ["rename", "unlink", "snapshots written", "snapshots fetched", "frames that superseded entries"] {
        assert!(happened.get(what) > 0, "{what}");
    }
}

/// A durable machine's log forgets for its small ones.
#[test]
fn behind_small_snapshots_it_holds_what_it_promised_wherever_the_power_fails() {
    let ([tried, distinct, again, _], happened) = hold(3, 400, |script| script.snapshots && script.durable_state);
    assert!(tried > 1_500 && distinct > 500 && again > 50, "{tried}, {distinct}, {again}");
    for what in ["rename", "unlink", "snapshots written"] {
        assert!(happened.get(what) > 0, "{what}");
    }
}

#[test]
fn a_state_is_found_again_by_its_name() {
    let script = &Script::all(1, 1)[0];
    assert_eq!(replay(script, &"0/20/mask:1".parse().unwrap()), Ok(None));
    assert_eq!(replay(script, &"0/20/first:0/10/mask:0".parse().unwrap()), Ok(None));
    assert!(replay(script, &"9/0/mask:0".parse().unwrap()).is_err());
    for bad in ["", "1/2", "x/0/mask:0", "0/1/mask"] {
        assert!(bad.parse::<kontiki_sim::crash_points::StateId>().is_err(), "{bad}");
    }
}

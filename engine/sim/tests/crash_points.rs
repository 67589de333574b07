//! The power is cut at storage operations of whole nodes, in many ways each: the short form of the program `crash-points`.
#![allow(clippy::unwrap_used)]

use kontiki_sim::crash_points::{Depth, Script, enumerate, replay};

#[test]
fn what_a_node_promised_it_holds_wherever_the_power_fails() {
    let (mut tried, mut distinct, mut again, mut recovering) = (0, 0, 0, 0);
    let mut happened = kontiki_sim::Counts::default();
    for script in Script::all(3, 1) {
        let found = enumerate(&script, Depth { sample: 0, of_each: 1, again_every: 100 }).unwrap();
        assert_eq!(found.losses, 0, "{}: {:#?}", script.name(), found.lost);
        tried += found.tried;
        distinct += found.distinct;
        again += found.again;
        recovering += found.recovering;
        happened.merge(&found.happened);
    }
    // What does not happen is not tested.
    assert!(tried > 1_500 && distinct > 800 && again > 50 && recovering > 0, "{tried}, {distinct}, {again}, {recovering}");
    for what in [
        "allocate",
        "rename",
        "sync",
        "sync-dir",
        "write",
        "snapshots written",
        "snapshots fetched",
        "frames that superseded entries",
        "lives with log writes that overlap",
    ] {
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

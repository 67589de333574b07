//! Random clusters whose logs forget: nodes write snapshots, let go of what those hold, are offered others' and install
//! them, and crash at every step of it. Everything that the other random clusters suffer happens as well.
//!
//! `SEED=n cargo test -p kontiki-core --test snapshots` replays one run; `RUNS=n` sets how many.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use harness::carrier::Tally;
use harness::world::{Faults, run, setting};

/// How many steps a run has before it has to live.
const STEPS: u64 = 5000;

#[test]
fn clusters_that_forget_are_safe_under_faults_and_live_after_them() {
    if let Some(seed) = setting("SEED") {
        eprintln!("{:?}", run(seed, STEPS, Faults::with_snapshots).tally());
        return;
    }
    let runs = setting("RUNS").unwrap_or(1000);
    let (mut sum, mut committed, mut installing) = (Tally::default(), 0, 0);
    for seed in 1..=runs {
        let run = run(seed, STEPS, Faults::with_snapshots);
        sum += run.tally();
        committed += run.committed();
        installing += u64::from(run.tally().rebased > 0);
    }
    eprintln!("{runs} runs, {installing} with installations, {committed} entries, {sum:?}");
    // What was tested, a good part of what these seeds have: a world in which nothing is installed proves nothing.
    let least = |count: u64, of_1000_runs: u64, what: &str| {
        assert!(count * 1000 >= of_1000_runs * runs, "{what}: {count} in {runs} runs");
    };
    least(installing, 150, "runs with a log that began anew behind a snapshot");
    least(committed, 40_000, "entries committed");
    least(sum.written, 8_000, "snapshots written");
    least(sum.released, 5_000, "releases");
    least(sum.offered, 250, "offers");
    least(sum.rebased, 300, "logs that began anew");
    least(sum.candidates, 50, "installations by candidates");
    least(sum.conflicts, 4, "logs given up for a snapshot");
    least(sum.cut_short, 30, "starts that found a snapshot half installed");
    least(sum.baseless, 75, "starts without a base");
    least(sum.lost_running, 60, "bases lost while the node ran");
}

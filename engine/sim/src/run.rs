//! One run from one seed: a cluster is set up, faults strike it while clients write, then everything is healed and must work.

mod chaos;
mod healing;
mod lull;
mod report;
mod setup;
mod strikes;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cluster::Cluster;
use crate::cluster::listener::Listener;
use crate::cluster::marks;
use crate::cluster::workload::Workload;
use crate::conditions::Conditions;
use crate::random::Random;
use crate::sim::Sim;
use chaos::Chaos;
pub use report::{Extent, Report};
use setup::{Kind, bad_disks, draw_setup, leave_out};

/// Runs one seed.
pub fn run(seed: u64, extent: Extent) -> Report {
    let mut random = Random::stream(seed, 10);
    let mut conditions = Conditions::drawn(&mut random);
    leave_out(&mut conditions, extent.faults);
    conditions.keep_trace = extent.keep_trace;
    let (mut setup, mut log_bytes) = draw_setup(seed, &mut random);
    let members = setup.members;
    let kind = Kind::drawn(seed, members, extent.faults);
    kind.make_room(seed, &mut setup.config, &mut log_bytes);
    kind.forget(seed, &mut setup.config, &mut log_bytes);
    kind.slow_down(seed, &mut conditions.disk, &mut setup.config);
    let sim = Sim::new(seed, conditions);
    let bad = bad_disks(seed, members, extent.bad_disks);
    let base = setup.config.clone();
    let mut workload = Workload::drawn(Random::stream(seed, 11), setup.config.max_entry_bytes).in_bursts();
    if kind.own_limits || kind.new_limits {
        workload.payload_bytes = setup.config.max_entry_bytes;
    }
    workload.fit(extent.pace_ns.max(extent.chaos_ns), log_bytes);
    let mut cluster = Cluster::new(sim.clone(), setup, workload);
    let listener = Listener::keeping(extent.keep_trace);
    cluster.set_listener(listener.clone());
    let images = vec![None; members];
    let chaos = Chaos { cluster: &mut cluster, seed, random, plans: Vec::new(), faults: extent.faults, bad, kind, base, images };
    let outcome = tracing::subscriber::with_default(listener.clone(), || catch_unwind(AssertUnwindSafe(|| chaos.run(extent))));
    let panic = outcome.err().map(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
    });
    let decided = panic.is_some() || cluster.judge_history();
    if !decided {
        sim.count("history too entangled to judge");
    }
    let mut met = sim.met();
    met.merge(&listener.counts());
    met.add_many(marks::LEADER_CHANGES, cluster.judge().terms().saturating_sub(1));
    met.add_many(marks::POWER_CUTS, sim.counted("power cut"));
    let violations = cluster.objections();
    let (history, judge) = (cluster.history(), cluster.judge());
    let report = Report {
        seed,
        members,
        simulated_ns: sim.now().0,
        acknowledged: judge.acknowledged(),
        entries: judge.entries(),
        terms: judge.terms(),
        operations: history.operations(),
        reads: history.reads(),
        decided,
        counts: sim.counts(),
        marks: met,
        trace_hash: sim.trace_hash(),
        trace_length: sim.trace_length(),
        violations,
        standings: cluster.standings(),
        log: listener.lines(),
        tail: sim.trace_tail(),
        panic,
    };
    if report.panic.is_some() {
        // What was in the middle of something is not asked to clean up.
        std::mem::forget(cluster);
    }
    report
}

//! Whole nodes under faults, and a check that the judge would notice.

use kontiki_sim::{Extent, SECOND, Violation, run};

const SHORT: Extent = Extent { chaos_ns: 6 * SECOND, keep_trace: 0, bad_disks: false, lying_disks: false };

#[test]
fn whole_clusters_keep_their_promises_under_faults() {
    let (mut acknowledged, mut terms, mut cuts) = (0, 0, 0);
    for seed in 0..8 {
        let report = run(seed, SHORT);
        assert!(report.is_good(), "seed {seed}: {:?} {:?} {:#?}", report.violations, report.panic, report.standings);
        acknowledged += report.acknowledged;
        terms += report.terms;
        cuts += report.counts.get("power cut");
    }
    // A run that does nothing finds nothing.
    assert!(acknowledged > 1_000 && terms > 20 && cuts > 20, "{acknowledged} acknowledged, {terms} terms, {cuts} power cuts");
}

#[test]
fn a_seed_is_one_run() {
    for seed in [3, 5] {
        let (one, two) = (run(seed, SHORT), run(seed, SHORT));
        assert_eq!((one.trace_hash, one.trace_length, one.counts), (two.trace_hash, two.trace_length, two.counts));
    }
    assert_ne!(run(3, SHORT).trace_hash, run(4, SHORT).trace_hash);
}

#[test]
fn disks_that_lie_are_found_out() {
    let lying = Extent { lying_disks: true, chaos_ns: 20 * SECOND, ..SHORT };
    let broken = (0..20).map(|seed| run(seed, lying)).find(|report| {
        let lost = |violation: &Violation| {
            matches!(
                violation,
                Violation::FalselyAcknowledged { .. } | Violation::Diverged { .. } | Violation::Lags { .. } | Violation::Skipped { .. }
            )
        };
        report.violations.iter().any(lost)
    });
    assert!(broken.is_some(), "every disk lost what it was told to keep, and nobody noticed");
}

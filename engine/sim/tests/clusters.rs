//! Whole nodes under faults, and a check that the judge would notice.

use kontiki_sim::{Extent, Fault, Faults, SECOND, Violation, marks, run};

const SHORT: Extent = Extent::of(6 * SECOND);

#[test]
fn whole_clusters_keep_their_promises_under_faults() {
    let (mut acknowledged, mut reads, mut terms, mut cuts) = (0, 0, 0, 0);
    for seed in 0..8 {
        let report = run(seed, SHORT);
        assert!(report.is_good(), "seed {seed}: {:?} {:?} {:#?}", report.violations, report.panic, report.standings);
        assert!(report.decided, "seed {seed}");
        acknowledged += report.acknowledged;
        reads += report.reads;
        terms += report.terms;
        cuts += report.counts.get("power cut");
    }
    // A run that does nothing finds nothing.
    assert!(reads > 200, "{reads} reads");
    assert!(acknowledged > 1_000 && terms >= 12 && cuts > 20, "{acknowledged} acknowledged, {terms} terms, {cuts} power cuts");
}

#[test]
fn a_seed_is_one_run() {
    for seed in [4, 15] {
        let (one, two) = (run(seed, SHORT), run(seed, SHORT));
        assert_eq!((one.trace_hash, one.trace_length, one.counts), (two.trace_hash, two.trace_length, two.counts));
    }
    assert_ne!(run(3, SHORT).trace_hash, run(4, SHORT).trace_hash);
}

#[test]
fn a_shorter_run_of_the_same_pace_is_the_beginning_of_a_longer_one() {
    let long = Extent { keep_trace: 1 << 20, ..SHORT };
    let short = Extent { chaos_ns: 2 * SECOND, pace_ns: SHORT.chaos_ns, ..long };
    let (long, short) = (run(4, long), run(4, short));
    let until = |report: &kontiki_sim::Report| {
        report.tail.iter().take_while(|occurrence| occurrence.at_ns < 2 * SECOND).copied().collect::<Vec<_>>()
    };
    assert!(until(&short).len() > 100);
    assert_eq!(until(&short), until(&long));
}

#[test]
fn faults_can_be_left_out() {
    let calm = Extent { faults: Fault::ALL.into_iter().fold(Faults::ALL, Faults::without), ..SHORT };
    for seed in 0..3 {
        let report = run(seed, calm);
        assert!(report.is_good() && report.acknowledged > 0);
        let cuts = report.members as u64;
        // Only the cuts of the end, one for each node, and what they lose.
        assert!(report.counts.iter().all(|(what, n)| n == cuts || what != "power cut"), "{}", report.counts);
        let faults = ["crash", "pause", "partition", "partial partition", "one-way block", "slow links", "disk filled", "wall clock jump"];
        for what in faults.into_iter().chain(["flip on the wire", "rot", "write gone astray", "stale read", "write error"]) {
            assert_eq!(report.counts.get(what), 0, "{what}");
        }
        let met: Vec<_> = report.marks.iter().map(|(what, _)| what).collect();
        assert!(met.iter().all(|what| marks().any(|mark| mark == *what)), "{met:?}");
    }
}

#[test]
fn damage_that_leaves_evidence_is_survived_and_made_good() {
    let (mut healed, mut struck) = (0, [0; 3]);
    for seed in 0..30 {
        let report = run(seed, Extent { bad_disks: true, chaos_ns: 15 * SECOND, ..SHORT });
        assert!(report.is_good(), "seed {seed}: {:?} {:?} {:#?}", report.violations, report.panic, report.standings);
        healed += report.marks.get("healed damages");
        for (n, what) in ["rot", "write gone astray", "stale read"].into_iter().enumerate() {
            struck[n] += report.counts.get(what);
        }
    }
    assert!(healed >= 5 && struck.iter().all(|&n| n > 0), "{healed} healed of {struck:?}");
}

#[test]
fn disks_that_lie_are_found_out() {
    let lying = Extent { lying_disks: true, chaos_ns: 20 * SECOND, ..SHORT };
    let broken = (0..20).map(|seed| run(seed, lying)).find(|report| {
        let lost = |violation: &Violation| {
            matches!(
                violation,
                Violation::NotLinearizable { .. }
                    | Violation::FalselyAcknowledged { .. }
                    | Violation::Diverged { .. }
                    | Violation::Lags { .. }
                    | Violation::Skipped { .. }
            )
        };
        report.violations.iter().any(lost)
    });
    assert!(broken.is_some(), "every disk lost what it was told to keep, and nobody noticed");
}

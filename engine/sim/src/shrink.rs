//! From a run that failed to a shorter one that fails as well: less time, fewer kinds of faults, the same seed.

use crate::conditions::SECOND;
use crate::faults::Fault;
use crate::run::{Extent, Report};

/// A failing run that was made shorter.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The least found that fails.
    pub extent: Extent,
    /// What came of it.
    pub report: Report,
    /// How many runs it took.
    pub runs: u32,
}

/// Makes a failing run shorter: `run` runs an extent, at most `most_runs` times.
///
/// Any failure counts, so what is left may fail in another way than the run it came from. The pace of the clients stays, hence
/// a run that differs in time only is the beginning of the other; one without a kind of fault is another run with the same schedule.
pub fn shrink(failed: Extent, report: Report, most_runs: u32, run: impl FnMut(Extent) -> Report) -> Shrunk {
    let mut extent = failed;
    extent.pace_ns = failed.pace_ns.max(failed.chaos_ns);
    let mut shrinker = Shrinker { found: Shrunk { extent, report, runs: 0 }, most_runs, run };
    shrinker.shorten();
    shrinker.leave_out();
    shrinker.shorten();
    shrinker.found
}

struct Shrinker<R> {
    found: Shrunk,
    most_runs: u32,
    run: R,
}

impl<R: FnMut(Extent) -> Report> Shrinker<R> {
    /// Whether this one fails too; then it is taken.
    fn fails(&mut self, extent: Extent) -> bool {
        if self.found.runs >= self.most_runs {
            return false;
        }
        self.found.runs += 1;
        let report = (self.run)(extent);
        let fails = !report.is_good();
        if fails {
            (self.found.extent, self.found.report) = (extent, report);
        }
        fails
    }

    /// Finds the fewest whole seconds that fail, as if more of them always failed too.
    fn shorten(&mut self) {
        let with = |seconds: u64, extent: Extent| Extent { chaos_ns: seconds * SECOND, ..extent };
        let (mut good, mut bad) = (0, self.found.extent.chaos_ns.div_ceil(SECOND));
        // What broke a promise under faults did so before the run ended.
        let ended = self.found.report.simulated_ns / SECOND + 1;
        if ended < bad {
            if self.fails(with(ended, self.found.extent)) {
                bad = ended;
            } else {
                good = ended;
            }
        }
        while good + 1 < bad {
            let middle = good.midpoint(bad);
            if self.fails(with(middle, self.found.extent)) {
                bad = middle;
            } else {
                good = middle;
            }
        }
    }

    fn leave_out(&mut self) {
        for fault in Fault::ALL {
            let extent = self.found.extent;
            if extent.faults.has(fault) {
                self.fails(Extent { faults: extent.faults.without(fault), ..extent });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Violation;

    /// A report as of a run that fails from `from_s` seconds on, if certain faults are there.
    fn report(extent: Extent, from_s: u64, needed: &[Fault]) -> Report {
        let fails = extent.chaos_ns >= from_s * SECOND && needed.iter().all(|&fault| extent.faults.has(fault));
        let violations = if fails { vec![Violation::Misresolved { value: 1 }] } else { Vec::new() };
        let simulated_ns = extent.chaos_ns.min(from_s * SECOND);
        Report { simulated_ns, violations, ..Report::default() }
    }

    #[test]
    fn finds_the_shortest_time_and_the_faults_that_matter() {
        for from_s in [1, 2, 7, 8, 59, 60] {
            let needed = [Fault::Crash, Fault::Flip];
            let whole = Extent::of(60 * SECOND);
            let shrunk = shrink(whole, report(whole, from_s, &needed), 100, |extent| report(extent, from_s, &needed));
            assert_eq!(shrunk.extent.chaos_ns, from_s * SECOND);
            assert_eq!(shrunk.extent.pace_ns, 60 * SECOND);
            assert_eq!(shrunk.extent.faults.iter().collect::<Vec<_>>(), needed);
            // Some for the time, and at most two for each kind of fault.
            assert!(!shrunk.report.is_good() && shrunk.runs < 12 + 2 * whole.faults.iter().count() as u32, "{}", shrunk.runs);
        }
    }

    #[test]
    fn stops_when_it_took_long_enough() {
        let whole = Extent::of(60 * SECOND);
        let shrunk = shrink(whole, report(whole, 1, &[]), 3, |extent| report(extent, 1, &[]));
        assert_eq!(shrunk.runs, 3);
        assert!(!shrunk.report.is_good());
    }
}

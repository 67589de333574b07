//! Stalls of a run: stretches in which nothing was acknowledged, and what the machine was short of meanwhile.

use std::time::Duration;

use crate::plot::Gap;
use crate::table;
use crate::timeline::Timeline;

/// A stretch without an acknowledgement is told from here on.
const LEAST: Duration = Duration::from_millis(100);
/// How often the machine is looked at.
const EVERY: Duration = Duration::from_millis(10);
/// From this part of a stall on, what the machine was short of is named as its cause.
const BLAMED: f64 = 0.4;

/// For how long the machine's tasks have waited so far, in microseconds: for the processor, and for input and output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waited {
    cpu_us: u64,
    io_us: u64,
}

/// What the kernel says of the machine's pressure (PSI), over the run.
#[derive(Debug, Default)]
pub(crate) struct Pressure(Vec<(Duration, Waited)>);

impl Pressure {
    /// Looks, if the last look is long enough ago. Nothing is known where the kernel does not tell.
    pub(crate) fn look(&mut self, now: Duration) {
        if self.0.last().is_some_and(|&(at, _)| now < at + EVERY) {
            return;
        }
        let total = |name: &str, line: &str| {
            let text = std::fs::read_to_string(format!("/proc/pressure/{name}")).ok()?;
            text.lines().find(|l| l.starts_with(line))?.rsplit_once("total=")?.1.trim().parse().ok()
        };
        if let (Some(cpu_us), Some(io_us)) = (total("cpu", "some"), total("io", "some")) {
            self.0.push((now, Waited { cpu_us, io_us }));
        }
    }

    /// What was waited for from `from` to `to`.
    fn between(&self, from: Duration, to: Duration) -> Option<Waited> {
        let before = self.0.iter().rev().find(|(at, _)| *at <= from)?.1;
        let after = self.0.iter().find(|(at, _)| *at >= to)?.1;
        Some(Waited { cpu_us: after.cpu_us.saturating_sub(before.cpu_us), io_us: after.io_us.saturating_sub(before.io_us) })
    }

    /// In a word, why nothing happened then.
    fn blame(&self, from: Duration, to: Duration) -> &'static str {
        let length = (to.saturating_sub(from).as_micros() as f64).max(1.0);
        match self.between(from, to) {
            Some(waited) if waited.io_us as f64 > BLAMED * length => "the disk",
            Some(waited) if waited.cpu_us as f64 > BLAMED * length => "the processor",
            Some(_) => "neither disk nor processor",
            None => "unknown",
        }
    }
}

/// The stalls of a run, besides those in `known`.
pub(crate) fn find(timeline: &Timeline, until: Duration, known: &[Gap], pressure: &Pressure) -> Vec<Gap> {
    let points: Vec<_> = timeline.points().take_while(|p| p.at < until).collect();
    let Some(half) = points.first().map(|p| p.at) else { return Vec::new() };
    let silent =
        points.chunk_by(|a, b| a.latency_us.is_some() == b.latency_us.is_some()).filter(|run| run.iter().all(|p| p.latency_us.is_none()));
    let mut stalls = Vec::new();
    for run in silent {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let (from, to) = (first.at.saturating_sub(half), last.at + half);
        if to - from < LEAST || known.iter().any(|gap| gap.from < to && from < gap.to) {
            continue;
        }
        let label = format!("{} of nothing: waited for {}", table::duration(to - from), pressure.blame(from, to));
        stalls.push(Gap { from, to, label, expected: false });
    }
    stalls
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_stall_is_found_and_its_cause_named() {
        let mut timeline = Timeline::new(ms(1000), 100);
        for n in (0..200).chain(350..600).chain(900..1000) {
            timeline.record(ms(n), Duration::from_micros(100));
        }
        let outage = Gap { from: ms(590), to: ms(905), label: String::new(), expected: true };
        let waited = |cpu_us, io_us| Waited { cpu_us, io_us };
        let pressure = Pressure(vec![(ms(190), waited(0, 0)), (ms(400), waited(1_000, 140_000))]);
        let stalls = find(&timeline, ms(1000), &[outage], &pressure);
        assert_eq!(stalls.len(), 1, "{stalls:?}");
        assert_eq!((stalls[0].from, stalls[0].to), (ms(200), ms(350)));
        assert!(stalls[0].label.contains("the disk"), "{stalls:?}");
        let nobody = find(&timeline, ms(1000), &[], &Pressure::default());
        assert!(nobody.len() == 2 && nobody.iter().all(|stall| stall.label.contains("unknown")), "{nobody:?}");
    }
}

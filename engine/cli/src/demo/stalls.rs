//! Stalls of a run: stretches in which nothing was acknowledged, what the machine was short of meanwhile, and what its
//! replicas said.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::plot::Gap;
use crate::table;

/// A stretch without an acknowledgement is told from here on.
const LEAST: Duration = Duration::from_nanos(LEAST_NS);
/// The same, in nanoseconds.
pub(crate) const LEAST_NS: u64 = 100_000_000;
/// How often the machine is looked at.
const EVERY: Duration = Duration::from_millis(10);
/// From this part of a stall on, what the machine was short of is named as its cause.
const BLAMED: f64 = 0.4;
/// Longest message of a replica that is repeated, in characters, and how many are in one stall.
const MOST_CHARS: usize = 120;
/// See [`MOST_CHARS`].
const MOST_MESSAGES: usize = 3;

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

/// What replicas said during a run that may be why it stood still: roles that changed, and warnings.
#[derive(Debug, Default)]
pub(crate) struct Said(Vec<(Duration, String)>);

impl Said {
    /// Adds what a replica wrote into its log since `start`.
    pub(crate) fn read(&mut self, id: u64, log: &Path, start: SystemTime) {
        let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        self.0.extend(text.lines().filter_map(|line| {
            let (time, rest) = line.split_once(' ')?;
            let at = wall_time(time)?.duration_since(start).ok()?;
            let (level, rest) = rest.trim_start().split_once(' ')?;
            let (_, message) = rest.split_once(": ")?;
            let counts = matches!(level, "WARN" | "ERROR") || message.starts_with("role ");
            counts.then(|| (at, format!("node {id}: {}", message.chars().take(MOST_CHARS).collect::<String>())))
        }));
        self.0.sort();
    }

    /// What was said then, shortly before, or at its end.
    fn between(&self, from: Duration, to: Duration) -> String {
        let then: Vec<&str> =
            self.0.iter().filter(|(at, _)| *at + EVERY >= from && *at <= to).map(|(_, text)| text.as_str()).take(MOST_MESSAGES).collect();
        if then.is_empty() { String::new() } else { format!("; {}", then.join("; ")) }
    }
}

/// A time as messages begin with: 2026-11-26T20:57:40.801435Z.
fn wall_time(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<u64>().ok()?, time.next()?.parse::<u64>().ok()?);
    let second = time.next()?.parse::<f64>().ok().filter(|second| (0.0..61.0).contains(second))?;
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(UNIX_EPOCH + Duration::from_secs(86_400 * days + 3_600 * hour + 60 * minute) + Duration::from_secs_f64(second))
}

/// The stalls of a run, besides those in `known`: of the silences that it met, those within its first `until`.
pub(crate) fn find(silences: &[(Duration, Duration)], until: Duration, known: &[Gap], pressure: &Pressure, said: &Said) -> Vec<Gap> {
    let within = silences.iter().map(|&(from, to)| (from, to.min(until))).filter(|(from, to)| to.saturating_sub(*from) >= LEAST);
    let unknown = within.filter(|&(from, to)| !known.iter().any(|gap| gap.from < to && from < gap.to));
    unknown
        .map(|(from, to)| {
            let (length, why, said) = (table::duration(to - from), pressure.blame(from, to), said.between(from, to));
            Gap { from, to, label: format!("{length} of nothing: waited for {why}{said}"), expected: false }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_stall_is_found_and_its_cause_named() {
        let silences = [(ms(200), ms(350)), (ms(400), ms(499)), (ms(600), ms(900)), (ms(950), ms(5000))];
        let outage = Gap { from: ms(590), to: ms(905), label: String::new(), expected: true };
        let waited = |cpu_us, io_us| Waited { cpu_us, io_us };
        let pressure = Pressure(vec![(ms(190), waited(0, 0)), (ms(400), waited(1_000, 140_000))]);
        let stalls = find(&silences, ms(1000), &[outage], &pressure, &Said::default());
        assert_eq!(stalls.len(), 1, "{stalls:?}");
        assert_eq!((stalls[0].from, stalls[0].to), (ms(200), ms(350)));
        assert!(stalls[0].label.contains("the disk"), "{stalls:?}");
        let nobody = find(&silences, ms(1060), &[], &Pressure::default(), &Said::default());
        assert!(nobody.len() == 3 && nobody.iter().all(|stall| stall.label.contains("unknown")), "{nobody:?}");
    }

    #[test]
    fn what_replicas_said_meanwhile_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let (log, start) = (dir.path().join("node.log"), wall_time("2026-11-26T20:57:40.000000Z").unwrap());
        let text = "no time at all\n\
                    2026-11-26T20:57:39.9Z  WARN a::b: before the run\n\
                    2026-11-26T20:57:40.801435Z  INFO a::b: nothing of note\n\
                    2026-11-26T20:57:40.900000Z  INFO kontiki::node: role role=Leader term=7\n\
                    2026-11-26T20:57:41.900000Z  WARN a::b: the disk is slow\n";
        std::fs::write(&log, text).unwrap();
        let mut said = Said::default();
        said.read(2, &log, start);
        let stalls = find(&[(ms(800), ms(950)), (ms(1000), ms(1200))], ms(8000), &[], &Pressure::default(), &said);
        assert!(stalls[0].label.ends_with("; node 2: role role=Leader term=7"), "{stalls:?}");
        assert!(stalls[1].label.ends_with("waited for unknown"), "{stalls:?}");
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        let seconds = |text| wall_time(text).map(|at| at.duration_since(UNIX_EPOCH).unwrap().as_secs());
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600),
            ("2026-11-26T20:57:40.801435Z", 1_795_726_660),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for bad in [
            "",
            "Z",
            "TZ",
            "2026-13-01T00:00:00Z",
            "2026-01-01T25:00:00Z",
            "2026-01-01T00:00:NaNZ",
            "2026-01-01 00:00:00",
            "99999999999999999999-1-1T0:0:0Z",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}

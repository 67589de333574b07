//! What all seeds came to, kept in a file if so wished, so that a long campaign can be run in parts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kontiki_sim::{Fault, Report, SECOND, marks};
use serde::{Deserialize, Serialize};

use crate::workers::Finished;

/// Sums over seeds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Totals {
    /// Simulated seconds with faults, per seed: what is resumed must be of the same length.
    seconds: u64,
    /// Seeds that were run, from the first of them up to the first that was not.
    first: u64,
    next: u64,
    /// Those behind it that were run as well.
    ahead: BTreeSet<u64>,
    simulated_s: f64,
    cpu_s: f64,
    seeds: u64,
    /// Seeds that acknowledged no write: their time and their faults count for nothing but these two.
    silent: u64,
    silent_s: f64,
    acknowledged: u64,
    operations: u64,
    reads: u64,
    undecided: u64,
    failed: BTreeSet<u64>,
    /// Seeds, by what of the source they ran.
    sources: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    marks: BTreeMap<String, u64>,
}

/// Why a campaign's file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgressError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is no record of a campaign: {source}")]
    Format { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path} cannot be written, and keeps what it held: {source}")]
    Unsaved { path: PathBuf, source: Box<toml::ser::Error> },
    #[error("{path} has worlds of {kept} seconds, and {asked} are asked for: name another file, or say --seconds {kept}")]
    Seconds { path: PathBuf, kept: u64, asked: u64 },
}

impl Totals {
    pub(crate) fn new(first: u64, seconds: u64) -> Totals {
        Totals { first, next: first, seconds, ..Totals::default() }
    }

    /// What the file holds, or a new beginning if there is none.
    pub(crate) fn resume(path: &Path, first: u64, seconds: u64) -> Result<Totals, ProgressError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Totals::new(first, seconds)),
            Err(source) => return Err(ProgressError::Io { path: path.into(), source }),
        };
        let kept: Totals = toml::from_str(&text).map_err(|source| ProgressError::Format { path: path.into(), source: source.into() })?;
        if kept.seconds != seconds {
            return Err(ProgressError::Seconds { path: path.into(), kept: kept.seconds, asked: seconds });
        }
        Ok(kept)
    }

    /// Replaces the file, whole or not at all.
    pub(crate) fn save(&self, path: &Path) -> Result<(), ProgressError> {
        let new = path.with_extension("new");
        let text = toml::to_string(self).map_err(|source| ProgressError::Unsaved { path: path.into(), source: source.into() })?;
        let saved = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
        saved.map_err(|source| ProgressError::Io { path: path.into(), source })
    }

    /// The first seed that is not done, and those behind it that are.
    pub(crate) fn next(&self) -> (u64, Vec<u64>) {
        (self.next, self.ahead.iter().copied().collect())
    }

    /// Hours of clusters that acknowledged writes.
    pub(crate) fn hours(&self) -> f64 {
        self.simulated_s / 3600.0
    }

    /// What it took of processors, in seconds.
    pub(crate) fn cpu_s(&self) -> f64 {
        self.cpu_s
    }

    pub(crate) fn failed(&self) -> usize {
        self.failed.len()
    }

    pub(crate) fn add(&mut self, finished: &Finished, source: &str) {
        let Finished { report, differs, cpu } = finished;
        self.ahead.insert(report.seed);
        while self.ahead.remove(&self.next) {
            self.next += 1;
        }
        self.seeds += 1;
        self.cpu_s += cpu.as_secs_f64();
        *self.sources.entry(source.to_owned()).or_default() += 1;
        if !report.is_good() || differs.is_some() {
            self.failed.insert(report.seed);
        }
        let simulated_s = report.simulated_ns as f64 / SECOND as f64;
        if report.acknowledged == 0 {
            self.silent += 1;
            self.silent_s += simulated_s;
            return;
        }
        self.simulated_s += simulated_s;
        self.count(report);
    }

    fn count(&mut self, report: &Report) {
        self.acknowledged += report.acknowledged;
        self.operations += report.operations;
        self.reads += report.reads;
        self.undecided += u64::from(!report.decided);
        for (into, counts) in [(&mut self.faults, &report.counts), (&mut self.marks, &report.marks)] {
            for (what, n) in counts.iter() {
                *into.entry(what.to_owned()).or_default() += n;
            }
        }
    }

    /// One line for whoever waits.
    pub(crate) fn rate(&self) -> String {
        let simulated_s = self.simulated_s + self.silent_s;
        format!("{:.1} h of clusters, {:.0} simulated seconds a CPU second", self.hours(), simulated_s / self.cpu_s.max(1e-9))
    }

    pub(crate) fn print(&self) {
        println!("\nfaults");
        for (what, n) in &self.faults {
            println!("{n:>10}  {what}");
        }
        println!("\nwhat should sometimes happen");
        for what in marks() {
            println!("{:>10}  {what}", self.marks.get(what).copied().unwrap_or(0));
        }
        println!("\n{} seeds, {}; {:.0} CPU seconds", self.seeds, self.rate(), self.cpu_s);
        println!("{} seeds more acknowledged nothing, {:.1} h: not counted above", self.silent, self.silent_s / 3600.0);
        println!("{} kinds of faults; {} writes acknowledged", Fault::ALL.len(), self.acknowledged);
        println!(
            "{} operations judged as histories, {} of them reads; {} histories too long to decide",
            self.operations, self.reads, self.undecided
        );
        if self.sources.len() > 1 {
            println!("by source: {:?}", self.sources);
        }
        match self.failed.len() {
            0 => println!("no violation"),
            failed => println!("{failed} seeds FAILED: {:?}", self.failed),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn finished(seed: u64, acknowledged: u64) -> Finished {
        let report = Report { seed, acknowledged, simulated_ns: 1_800 * SECOND, decided: true, ..Report::default() };
        Finished { report, differs: None, cpu: Duration::from_secs(2) }
    }

    #[test]
    fn seeds_may_finish_in_any_order_and_a_campaign_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("campaign.toml");
        let mut totals = Totals::resume(&path, 100, 60).unwrap();
        for seed in [101, 100, 103] {
            totals.add(&finished(seed, 5), "a");
        }
        totals.add(&finished(104, 0), "b");
        assert_eq!(totals.next(), (102, vec![103, 104]));
        assert!((totals.hours() - 1.5).abs() < 1e-9, "the silent one does not count");
        totals.save(&path).unwrap();
        let again = Totals::resume(&path, 0, 60).unwrap();
        assert_eq!((again.next(), again.acknowledged, again.silent), (totals.next(), 15, 1));
        assert!(matches!(Totals::resume(&path, 0, 61), Err(ProgressError::Seconds { kept: 60, asked: 61, .. })));
        std::fs::write(&path, "seconds = \"many\"").unwrap();
        assert!(matches!(Totals::resume(&path, 0, 60), Err(ProgressError::Format { .. })));
    }
}

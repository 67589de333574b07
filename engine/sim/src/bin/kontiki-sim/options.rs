//! The command line.

use std::ops::Range;
use std::path::PathBuf;

use clap::Parser;
use kontiki_sim::{Extent, Fault, Faults, SECOND};

/// Simulated seconds of one world where nothing else is said.
const SECONDS: u64 = 60;
/// The same in a campaign: fewer boots of worlds, longer histories.
const CAMPAIGN_SECONDS: u64 = 600;

/// Simulated clusters under faults: each seed is a world of its own, and the same seed is the same world, always.
#[derive(Debug, Parser)]
#[command(name = "kontiki-sim", version)]
pub(crate) struct Options {
    /// Run this seed only.
    #[arg(long, conflicts_with = "seeds")]
    pub(crate) seed: Option<u64>,
    /// Run these seeds: from N up to, not including, M.
    #[arg(long, value_name = "N..M", default_value = "0..20", value_parser = range)]
    seeds: Range<u64>,
    /// Run seeds, one after another from the first of `--seeds`, until so many hours of clusters are simulated; see `--progress`.
    #[arg(long, value_name = "HOURS", conflicts_with = "seed")]
    pub(crate) hours: Option<f64>,
    /// Begin with a seed that no run has had (it is printed), instead of the first of `--seeds`.
    #[arg(long, conflicts_with = "seed")]
    fresh: bool,
    /// Begin no further world after so many minutes of real time.
    #[arg(long, value_name = "MINUTES")]
    pub(crate) minutes: Option<f64>,
    /// Keep what was counted in this file, and go on from what it holds.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    pub(crate) progress: Option<PathBuf>,
    /// Worlds at a time, a thread each; as many as there are processors, if left out.
    #[arg(long, value_name = "THREADS")]
    jobs: Option<usize>,
    /// Simulated seconds with faults, per seed: 60, or 600 with `--hours`; healing and checking come on top.
    #[arg(long)]
    seconds: Option<u64>,
    /// Let the clients write as slowly as for a run of so many seconds: shorter runs are then the beginnings of longer ones.
    #[arg(long, value_name = "SECONDS")]
    pace: Option<u64>,
    /// Leave out kinds of faults.
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
    /// Begin no further world after so many minutes of one processor, over all of them.
    #[arg(long, value_name = "MINUTES")]
    pub(crate) cpu_minutes: Option<f64>,
    /// Stop at the first seed that fails.
    #[arg(long)]
    pub(crate) until_failure: bool,
    /// Inject these kinds of faults too, which are left out otherwise.
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',', value_parser = fault, conflicts_with = "only")]
    with: Vec<Fault>,
    /// Inject these kinds of faults only.
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',', value_parser = fault, conflicts_with = "without")]
    only: Vec<Fault>,
    /// Run every seed twice and compare the traces.
    #[arg(long)]
    pub(crate) twice: bool,
    /// Bad disks in every seed, not in a third of them only: errors, rot, writes gone astray, stale reads, damage in power cuts.
    #[arg(long)]
    bad_disks: bool,
    /// All disks lie about their flushes: a check of the judge, who must notice.
    #[arg(long)]
    lying_disks: bool,
    /// Locks are free as soon as their process is dead, whatever it was writing: a check of the judge, who must notice.
    #[arg(long)]
    free_locks: bool,
    /// On a failure, print this many last lines of the trace, and as many of what the nodes said.
    #[arg(long, default_value_t = 60)]
    trace: usize,
    /// On a failure, try at most so many other runs to find a shorter one that fails.
    #[arg(long, value_name = "RUNS", default_value_t = 40)]
    pub(crate) shrink: u32,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("expected N..M")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("the range is empty".into()) } else { Ok(range) }
}

fn fault(name: &str) -> Result<Fault, String> {
    Fault::named(name).ok_or_else(|| {
        let names: Vec<_> = Fault::ALL.into_iter().map(Fault::name).collect();
        format!("there are: {}", names.join(", "))
    })
}

impl Options {
    /// The seeds to run; without end where hours or minutes, of time or of a processor, are the bound.
    pub(crate) fn seeds(&self) -> Range<u64> {
        if let Some(seed) = self.seed {
            return seed..seed.saturating_add(1);
        }
        let first = if self.fresh { fresh_seed() } else { self.seeds.start };
        let bounded_by_time = self.hours.is_some() || self.minutes.is_some() || self.cpu_minutes.is_some();
        let count = if bounded_by_time { u64::MAX } else { self.seeds.end - self.seeds.start };
        first..first.saturating_add(count)
    }

    pub(crate) fn jobs(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or_else(all).max(1)
    }

    fn faults(&self) -> Faults {
        let none = Fault::ALL.into_iter().fold(Faults::ALL, Faults::without);
        let (begin, more) = if self.only.is_empty() { (Faults::USUAL, &self.with) } else { (none, &self.only) };
        let chosen = more.iter().copied().fold(begin, Faults::with);
        self.without.iter().copied().fold(chosen, Faults::without)
    }

    pub(crate) fn extent(&self) -> Extent {
        let seconds = self.seconds.unwrap_or(if self.hours.is_some() { CAMPAIGN_SECONDS } else { SECONDS });
        Extent {
            chaos_ns: seconds.saturating_mul(SECOND),
            pace_ns: self.pace.unwrap_or(seconds).saturating_mul(SECOND),
            faults: self.faults(),
            keep_trace: self.trace,
            bad_disks: self.bad_disks,
            lying_disks: self.lying_disks,
            free_locks: self.free_locks,
        }
    }
}

/// Room is left behind each for the seeds of one run.
fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() * 10_000
}

/// The command that runs this again.
pub(crate) fn command(seed: u64, extent: Extent) -> String {
    let mut command = format!("cargo run --release -p kontiki-sim -- --seed {seed} --seconds {}", extent.chaos_ns / SECOND);
    if extent.pace_ns != extent.chaos_ns {
        command += &format!(" --pace {}", extent.pace_ns / SECOND);
    }
    let left: Vec<_> = extent.faults.iter().map(Fault::name).collect();
    let missing: Vec<_> = extent.faults.missing().filter(|&fault| Faults::USUAL.has(fault)).map(Fault::name).collect();
    let more: Vec<_> = extent.faults.iter().filter(|&fault| !Faults::USUAL.has(fault)).map(Fault::name).collect();
    // The shorter of the two, and none at all cannot be said the other way.
    if !left.is_empty() && left.len() < missing.len() + more.len() {
        command += &format!(" --only {}", left.join(","));
    } else {
        for (option, names) in [(" --without ", missing), (" --with ", more)] {
            if !names.is_empty() {
                command += option;
                command += &names.join(",");
            }
        }
    }
    for (flag, is_set) in [(" --bad-disks", extent.bad_disks), (" --lying-disks", extent.lying_disks), (" --free-locks", extent.free_locks)]
    {
        command += if is_set { flag } else { "" };
    }
    command
}

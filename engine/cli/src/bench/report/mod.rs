//! `kontiki bench --report`: the whole grid with the floor beside it, in rounds, as JSON, Markdown and plots.
//!
//! Within a group each round runs every cell once, the floor right before or after the engine, in turns: what drifts on
//! a machine drifts for both. The files are written anew after each group, so that a report that is cut short is a
//! shorter report.

mod grid;
mod markdown;
mod plots;
mod recovery;
mod spread;

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kontiki_benches::{Environment, Probe, probe};
use serde::Serialize;

use super::load::Load;
use super::result::Report;
use super::{Apply, Setup};
use crate::error::Error;
use crate::output::{complain, say};
use crate::scratch::{self, Scratch};
use crate::signals::StopFlag;
use grid::{Cell, Group};
use recovery::Recovered;
use spread::Spread;

/// How often a run that failed (a leader that lost its place, say) is tried again.
const TRIES: usize = 3;

/// How much of a report.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Extent {
    /// With --report: rounds of each cell. Within 10 % of each other, figures need nine to be told apart
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99), requires = "report")]
    rounds: u32,
    /// With --report: a few cells for a moment each, to see that all works; worthless as figures
    #[arg(long, requires = "report")]
    quick: bool,
    /// With --report: only these groups
    #[arg(long, value_enum, value_name = "GROUP", value_delimiter = ',', requires = "report")]
    only: Vec<Group>,
    /// With --report: seconds of each run [default: 2]
    #[arg(long, value_name = "S", value_parser = crate::demo::seconds, requires = "report")]
    each: Option<f64>,
    /// With --report: log sizes that are recovered, in MiB [default: 1024,2048,4096,10240]
    #[arg(long, value_name = "MIB", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(32..=14_000), requires = "report")]
    log_mib: Vec<u64>,
}

impl Extent {
    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    /// One run of the engine.
    fn setup(&self, entry_bytes: u32, in_flight: u32) -> Setup {
        let seconds = self.each.unwrap_or(if self.quick { 0.3 } else { 2.0 });
        let warmup = if self.quick { 0.1 } else { 0.5 };
        let load = Load { entry_bytes, in_flight, seconds, warmup, callers: 1, run: super::load::DEFAULT_RUN, rate: None };
        Setup { load, apply: Apply::Inline, ..Setup::default() }
    }

    fn has(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }

    fn log_sizes(&self) -> Vec<u64> {
        let sizes = match (self.log_mib.is_empty(), self.quick) {
            (false, _) => self.log_mib.clone(),
            (true, true) => vec![64],
            (true, false) => vec![1 << 10, 2 << 10, 4 << 10, 10 << 10],
        };
        sizes.into_iter().map(|mib| mib << 20).collect()
    }
}

/// The report.
#[derive(Debug, Serialize)]
struct Whole {
    environment: Environment,
    probe: Option<Probe>,
    rounds: u32,
    quick: bool,
    set: Vec<String>,
    groups: Vec<Measured>,
    recovery: Vec<Recovered>,
}

/// One group, measured.
#[derive(Debug, Serialize)]
struct Measured {
    group: Group,
    cells: Vec<Rounds>,
}

/// One cell, measured.
#[derive(Debug, Serialize)]
struct Rounds {
    name: String,
    setup: Setup,
    engine: Vec<Report>,
    /// In the order of the engine's rounds; empty if there is no floor.
    floor: Vec<Report>,
}

impl Rounds {
    /// A figure of the engine over its rounds.
    fn engine(&self, of: impl Fn(&Report) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.engine.iter().filter_map(of))
    }

    /// The same of the floor.
    fn floor(&self, of: impl Fn(&Report) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.floor.iter().filter_map(of))
    }

    /// The engine's figure as a part of the floor's of the same round.
    fn ratio(&self, of: impl Fn(&Report) -> f64) -> Option<Spread> {
        Spread::of(self.engine.iter().zip(&self.floor).map(|(engine, floor)| of(engine) / of(floor)))
    }
}

/// Measures, and writes the report into `into`.
///
/// # Errors
/// A cell that does not run even when tried again, or a file that cannot be written.
pub(super) fn run(into: &Path, extent: &Extent, dir: Option<&Path>, set: &[String], stop: &StopFlag) -> Result<(), Error> {
    std::fs::create_dir_all(into).map_err(Error::file("cannot make the directory", into))?;
    let scratch = Scratch::new(dir, "kontiki-report-")?;
    let outcome = measure(into, extent, scratch.path(), set, stop);
    scratch.end(false);
    outcome?;
    say(format_args!("{}", into.join("report.md").display()));
    Ok(())
}

fn measure(into: &Path, extent: &Extent, dir: &Path, set: &[String], stop: &StopFlag) -> Result<(), Error> {
    if let Some(note) = scratch::medium_note(dir) {
        complain(note);
    }
    let environment = Environment::here(dir);
    let probe = match probe(dir) {
        Ok(probe) => Some(probe),
        Err(error) => {
            complain(format_args!("note: no probe of the machine: {error}"));
            None
        }
    };
    let mut whole = Whole {
        environment,
        probe,
        rounds: extent.rounds(),
        quick: extent.quick,
        set: set.to_vec(),
        groups: Vec::new(),
        recovery: Vec::new(),
    };
    for group in [Group::Grid, Group::Apply, Group::Callers, Group::Replicas, Group::Sizes, Group::Clients, Group::Open] {
        if !extent.has(group) {
            continue;
        }
        let cells = if group == Group::Open { paced(extent, &whole.groups) } else { group.cells(extent) };
        let cells = rounds(group, cells, extent, dir, set, stop)?;
        whole.groups.push(Measured { group, cells });
        write(into, &whole)?;
    }
    if extent.has(Group::Recovery) {
        for bytes in extent.log_sizes() {
            stop.check()?;
            whole.recovery.push(recovery::measure(dir, bytes, extent.rounds())?);
            write(into, &whole)?;
        }
    }
    Ok(())
}

/// Runs the cells of a group in rounds.
fn rounds(group: Group, cells: Vec<Cell>, extent: &Extent, dir: &Path, set: &[String], stop: &StopFlag) -> Result<Vec<Rounds>, Error> {
    let fresh = |cell: &Cell| Rounds { name: cell.name.clone(), setup: cell.setup.clone(), engine: Vec::new(), floor: Vec::new() };
    let mut measured: Vec<Rounds> = cells.iter().map(fresh).collect();
    let bar = ProgressBar::new(u64::from(extent.rounds()) * cells.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{prefix}: {bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(group.title());
    for round in 0..extent.rounds() {
        for (cell, measured) in cells.iter().zip(&mut measured) {
            bar.set_message(cell.name.clone());
            let engine = Setup { set: set.to_vec(), ..cell.setup.clone() };
            // In turns, so that neither always comes first.
            let mut order = vec![Some(engine), cell.floor()];
            if round % 2 == 0 {
                order.reverse();
            }
            for setup in order.into_iter().flatten() {
                let report = again(&setup, dir, stop)?;
                if setup.floor { &mut measured.floor } else { &mut measured.engine }.push(report);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(measured)
}

/// One run, tried again if it fails.
fn again(setup: &Setup, dir: &Path, stop: &StopFlag) -> Result<Report, Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        let run = tempfile::Builder::new().prefix("run-").tempdir_in(dir).map_err(Error::file("cannot make a directory in", dir))?;
        match setup.run(run.path(), stop) {
            // Figures of fewer replicas than asked for are no figures; if it happens again and again, they are marked.
            Ok(report) if report.behind > 0 && tries < TRIES => {
                complain(format_args!("note: a run is tried again: a replica fell behind the log"))
            }
            Ok(report) => return Ok(report),
            Err(error @ (Error::Finding(_) | Error::TooSlow(_) | Error::ReplicaEnded { .. })) if tries < TRIES => {
                complain(format_args!("note: a run is tried again: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Cells at fixed rates, from what closed loops reached.
fn paced(extent: &Extent, groups: &[Measured]) -> Vec<Cell> {
    let fastest = |clients: bool| {
        let cells = groups.iter().flat_map(|group| &group.cells);
        let of_kind = cells.filter(|cell| {
            let Setup { load, replicas, apply, clients: outside, .. } = &cell.setup;
            (*outside > 0) == clients && (load.entry_bytes, load.callers, *replicas, *apply) == (128, 1, 3, Apply::Inline)
        });
        let figures = of_kind.filter_map(|cell| Some((cell.setup.clients, cell.engine(|r| Some(r.entries_per_s))?.median)));
        figures.max_by(|a, b| a.1.total_cmp(&b.1))
    };
    // Without the closed loops in this report there is nothing to take a part of; a modest rate then.
    let inside = fastest(false).map_or(100_000.0, |(_, per_s)| per_s);
    Group::paced(extent, inside, fastest(true).or(Some((2, 20_000.0))))
}

/// Writes all files anew.
fn write(into: &Path, whole: &Whole) -> Result<(), Error> {
    let put = |name: &str, text: String| {
        let path = into.join(name);
        std::fs::write(&path, text).map_err(Error::file("cannot write", &path))
    };
    put("report.json", serde_json::to_string_pretty(whole).unwrap_or_default())?;
    let drawn = plots::write(into, whole)?;
    put("report.md", markdown::text(whole, &drawn))
}

/// A plot that was drawn: its file in the report's directory, and what it shows.
struct Drawn {
    file: PathBuf,
    caption: String,
}

//! Runs whole clusters in simulated worlds, a world per seed, and says which of them broke a promise.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

mod options;
mod totals;
mod workers;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser as _;
use kontiki_sim::{Extent, Report, SECOND, run, shrink};

use options::{Options, command};
use totals::{ProgressError, Totals};
use workers::{Finished, Work, run_all};

/// How often a campaign says where it is.
const SAY_EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let options = Options::parse();
    match campaign(&options) {
        Ok(totals) => {
            totals.print();
            if totals.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("kontiki-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn campaign(options: &Options) -> Result<Totals, ProgressError> {
    let extent = options.extent();
    let (seeds, seconds) = (options.seeds(), extent.chaos_ns / SECOND);
    let mut totals = match &options.progress {
        Some(path) => Totals::resume(path, seeds.start, seconds)?,
        None => Totals::new(seeds.start, seconds),
    };
    let source = source().unwrap_or_else(|| "unknown source".into());
    let (first, done) = totals.next();
    println!("{source}; seeds from {first}, {seconds} simulated seconds each");
    let until = options.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let work = Work { seeds: first..seeds.end, done, extent, twice: options.twice, jobs: options.jobs(), until };
    let enough = |totals: &Totals| {
        options.hours.is_some_and(|hours| totals.hours() >= hours)
            || options.cpu_minutes.is_some_and(|minutes| totals.cpu_s() >= minutes * 60.0)
            || options.until_failure && totals.failed() > 0
    };
    if enough(&totals) {
        return Ok(totals);
    }
    let mut said = Instant::now();
    let mut unsaved = None;
    run_all(work, |finished| {
        let Finished { report, differs, .. } = &finished;
        if options.hours.is_none() {
            print_line(report);
        } else if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            println!("{}", totals.rate());
        }
        if let Some(hash) = differs {
            println!("  NOT DETERMINISTIC: seed {} had trace {:016x}, and {hash:016x} the second time", report.seed, report.trace_hash);
        }
        totals.add(&finished, &source);
        unsaved = options.progress.as_deref().and_then(|path| totals.save(path).err());
        if !finished.report.is_good() {
            print_failure(finished.report, extent, options.shrink, &source);
        }
        unsaved.is_none() && !enough(&totals)
    });
    unsaved.map_or(Ok(totals), Err)
}

/// What of the source this is, if it is a checkout and `git` is there.
fn source() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    Some(text.trim().to_owned())
}

fn print_line(report: &Report) {
    println!(
        "seed {:>6}  {} nodes  {:>4} s  {:>7} acked  {:>4} terms  trace {:016x} ({})",
        report.seed,
        report.members,
        report.simulated_ns / SECOND,
        report.acknowledged,
        report.terms,
        report.trace_hash,
        report.trace_length
    );
}

fn print_failure(report: Report, extent: Extent, most_runs: u32, source: &str) {
    let seed = report.seed;
    println!("  FAILED: seed {seed} of {source}");
    println!("  again with: {}", command(seed, extent));
    print_found(&report);
    if most_runs == 0 {
        print_log(&report);
        return;
    }
    let shrunk = shrink(extent, report, most_runs, |extent| run(seed, extent));
    println!("  the shortest of {} other runs that fails: {}", shrunk.runs, command(seed, shrunk.extent));
    print_log(&shrunk.report);
    print_found(&shrunk.report);
}

fn print_log(report: &Report) {
    println!("  every operation of the last moments:");
    report.tail.iter().for_each(|line| println!("    {line}"));
    println!("  what was said, and what struck:");
    report.log.iter().for_each(|line| println!("  {line}"));
}

fn print_found(report: &Report) {
    for line in &report.standings {
        println!("  {line}");
    }
    for violation in &report.violations {
        println!("  {violation}");
    }
    if let Some(panic) = &report.panic {
        println!("  panic: {panic}");
    }
    println!("  faults: {}", report.counts);
}

//! Runs whole clusters in simulated worlds, a world per seed, until one breaks a promise.
#![allow(clippy::print_stdout, reason = "a program prints")]

use std::ops::Range;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use kontiki_sim::{Counts, Extent, Fault, Faults, Report, SECOND, marks, run, shrink};

/// Simulated clusters under faults: each seed is a world of its own, and the same seed is the same world, always.
#[derive(Debug, Parser)]
#[command(name = "kontiki-sim", version)]
struct Options {
    /// Run this seed only.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds: from N up to, not including, M.
    #[arg(long, value_name = "N..M", default_value = "0..20", value_parser = range)]
    seeds: Range<u64>,
    /// Simulated seconds with faults, per seed; healing and checking come on top.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Let the clients write as slowly as for a run of so many seconds: shorter runs are then the beginnings of longer ones.
    #[arg(long, value_name = "SECONDS")]
    pace: Option<u64>,
    /// Leave out kinds of faults.
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
    /// Inject these kinds of faults only.
    #[arg(long, value_name = "FAULT,...", value_delimiter = ',', value_parser = fault, conflicts_with = "without")]
    only: Vec<Fault>,
    /// Run every seed twice and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Faults of disks as well (errors, rot, damage in power cuts), on a minority of the nodes.
    #[arg(long)]
    bad_disks: bool,
    /// All disks lie about their flushes: a check of the judge, who must notice.
    #[arg(long)]
    lying_disks: bool,
    /// On a failure, print this many last lines of the trace.
    #[arg(long, default_value_t = 60)]
    trace: usize,
    /// On a failure, try at most so many other runs to find a shorter one that fails.
    #[arg(long, value_name = "RUNS", default_value_t = 40)]
    shrink: u32,
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
    fn leaves_out(&self, fault: &Fault) -> bool {
        self.without.contains(fault) || !self.only.is_empty() && !self.only.contains(fault)
    }

    fn extent(&self) -> Extent {
        Extent {
            chaos_ns: self.seconds.saturating_mul(SECOND),
            pace_ns: self.pace.unwrap_or(self.seconds).saturating_mul(SECOND),
            faults: Fault::ALL.into_iter().filter(|fault| self.leaves_out(fault)).fold(Faults::ALL, Faults::without),
            keep_trace: self.trace,
            bad_disks: self.bad_disks,
            lying_disks: self.lying_disks,
        }
    }
}

/// The command that runs this again.
fn command(seed: u64, extent: Extent) -> String {
    let mut command = format!("cargo run --release -p kontiki-sim -- --seed {seed} --seconds {}", extent.chaos_ns / SECOND);
    if extent.pace_ns != extent.chaos_ns {
        command += &format!(" --pace {}", extent.pace_ns / SECOND);
    }
    let left: Vec<_> = extent.faults.iter().map(Fault::name).collect();
    let missing: Vec<_> = extent.faults.missing().map(Fault::name).collect();
    // The shorter of the two, and none at all cannot be said the other way.
    if !left.is_empty() && left.len() < missing.len() {
        command += &format!(" --only {}", left.join(","));
    } else if !missing.is_empty() {
        command += &format!(" --without {}", missing.join(","));
    }
    for (flag, is_set) in [(" --bad-disks", extent.bad_disks), (" --lying-disks", extent.lying_disks)] {
        command += if is_set { flag } else { "" };
    }
    command
}

/// What of the source this is, if it is a checkout and `git` is there.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    Some(text.trim().to_owned())
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seeds = options.seed.map_or(options.seeds.clone(), |seed| seed..seed.saturating_add(1));
    let extent = options.extent();
    let began = Instant::now();
    let mut sums = Sums::default();
    for seed in seeds {
        let report = run(seed, extent);
        let mut good = report.is_good();
        print_line(&report);
        if options.twice {
            let again = run(seed, extent);
            if again.trace_hash != report.trace_hash {
                println!("  NOT DETERMINISTIC: the second run has trace {:016x}, {} long", again.trace_hash, again.trace_length);
                good = false;
            }
        }
        sums.add(&report, good);
        if !report.is_good() {
            print_failure(report, extent, options.shrink);
        }
    }
    sums.print(began.elapsed().as_secs_f64());
    if sums.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What all seeds came to.
#[derive(Debug, Default)]
struct Sums {
    simulated_ns: u64,
    acknowledged: u64,
    operations: u64,
    reads: u64,
    terms: u64,
    failed: u32,
    counts: Counts,
    marks: Counts,
}

impl Sums {
    fn add(&mut self, report: &Report, good: bool) {
        self.simulated_ns += report.simulated_ns;
        self.acknowledged += report.acknowledged;
        self.operations += report.operations;
        self.reads += report.reads;
        self.terms += report.terms;
        self.failed += u32::from(!good);
        self.counts.merge(&report.counts);
        self.marks.merge(&report.marks);
    }

    fn print(&self, real_s: f64) {
        println!("\nfaults");
        for (what, n) in self.counts.iter() {
            println!("{n:>10}  {what}");
        }
        println!("\nwhat should sometimes happen");
        for what in marks() {
            println!("{:>10}  {what}", self.marks.get(what));
        }
        let simulated_s = self.simulated_ns as f64 / 1e9;
        println!("\n{simulated_s:.0} simulated seconds in {real_s:.1} s ({:.0} to 1)", simulated_s / real_s.max(1e-9));
        println!("{} acknowledged, {} terms with a leader", self.acknowledged, self.terms);
        println!("{} operations judged as histories, {} of them reads", self.operations, self.reads);
        match self.failed {
            0 => println!("no violation"),
            failed => println!("{failed} seeds FAILED"),
        }
    }
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

fn print_failure(report: Report, extent: Extent, most_runs: u32) {
    let seed = report.seed;
    println!("  FAILED; seed {seed} of {}", commit().unwrap_or_else(|| "an unknown commit".into()));
    println!("  again with: {}", command(seed, extent));
    print_found(&report);
    if most_runs == 0 {
        for line in &report.tail {
            println!("    {line}");
        }
        return;
    }
    let shrunk = shrink(extent, report, most_runs, |extent| run(seed, extent));
    println!("  the shortest of {} other runs that fails: {}", shrunk.runs, command(seed, shrunk.extent));
    for line in &shrunk.report.tail {
        println!("    {line}");
    }
    print_found(&shrunk.report);
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

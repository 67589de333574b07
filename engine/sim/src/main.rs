//! Runs whole clusters in simulated worlds, a world per seed, until one breaks a promise.
#![allow(clippy::print_stdout, reason = "a program prints")]

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use kontiki_sim::{Counts, Extent, Report, SECOND, run};

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
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("expected N..M")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("the range is empty".into()) } else { Ok(range) }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seeds = options.seed.map_or(options.seeds.clone(), |seed| seed..seed.saturating_add(1));
    let extent = Extent {
        chaos_ns: options.seconds.saturating_mul(SECOND),
        keep_trace: options.trace,
        bad_disks: options.bad_disks,
        lying_disks: options.lying_disks,
    };
    let began = Instant::now();
    let (mut simulated_ns, mut acknowledged, mut terms, mut failed) = (0, 0, 0, 0u32);
    let mut counts = Counts::default();
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
        if !report.is_good() {
            print_failure(&report);
        }
        failed += u32::from(!good);
        simulated_ns += report.simulated_ns;
        acknowledged += report.acknowledged;
        terms += report.terms;
        counts.merge(&report.counts);
    }
    let (simulated_s, real_s) = (simulated_ns as f64 / 1e9, began.elapsed().as_secs_f64());
    println!("\n{simulated_s:.0} simulated seconds in {real_s:.1} s ({:.0} to 1)", simulated_s / real_s.max(1e-9));
    println!("{acknowledged} writes acknowledged, {terms} terms with a leader");
    println!("met: {counts}");
    if failed == 0 {
        println!("no violation");
        ExitCode::SUCCESS
    } else {
        println!("{failed} seeds FAILED");
        ExitCode::FAILURE
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

fn print_failure(report: &Report) {
    println!("  FAILED; again with: cargo run --release -p kontiki-sim -- --seed {}", report.seed);
    for line in &report.tail {
        println!("    {line}");
    }
    for line in &report.standings {
        println!("  {line}");
    }
    for violation in &report.violations {
        println!("  {violation}");
    }
    if let Some(panic) = &report.panic {
        println!("  panic: {panic}");
    }
    println!("  met: {}", report.counts);
}

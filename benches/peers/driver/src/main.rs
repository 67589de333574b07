//! Runs the peers and Kontiki in turn on this machine under one load, and prints one table of medians.

mod contestant;
mod durable;
mod machine;
mod programs;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use peer_common::report::Report;
use serde::Serialize;

use contestant::{Contestant, Point};
use machine::Machine;

/// Run openraft, raft-rs, omnipaxos and Kontiki in turn under one load, and print one table.
///
/// Every engine runs as three processes on 127.0.0.1 with its logs on a real disk; the load runs in the leader's
/// process. The rounds are interleaved, so that a slow minute of the disk hits all alike.
#[derive(Parser, Debug)]
struct Options {
    /// Sizes of an entry, in bytes
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [16, 128, 1024])]
    entry_bytes: Vec<usize>,
    /// Proposals in flight
    #[arg(long, value_name = "M", value_delimiter = ',', default_values_t = [1, 16, 256, 4096])]
    in_flight: Vec<usize>,
    /// How long to measure each time, in seconds
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// How long to run before that, in seconds
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    warmup: f64,
    /// How many times to run each
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The program `kontiki`, to have it in the table [default: it is left out]
    #[arg(long, value_name = "PATH")]
    kontiki: Option<PathBuf>,
    /// Only these peers
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Where to put the logs: a directory on the disk to measure [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to write all runs and the machine, as JSON
    #[arg(long, value_name = "FILE", default_value = "peers.json")]
    json: PathBuf,
    /// Measure nothing; show instead that the peers acknowledge only what is on two disks
    #[arg(long)]
    check_durable: bool,
}

/// What is written as JSON.
#[derive(Serialize)]
struct Results {
    machine: Machine,
    runs: Vec<Report>,
    failures: Vec<String>,
}

fn main() -> ExitCode {
    let result = run(&Options::parse());
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all went well.
fn run(options: &Options) -> Result<bool> {
    if cfg!(debug_assertions) {
        bail!("what is measured is built with --release");
    }
    let peers: Vec<&str> =
        contestant::PEERS.into_iter().filter(|name| options.only.is_empty() || options.only.iter().any(|o| o == name)).collect();
    let programs = programs::build(&peers)?;
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&parent)?;
    let scratch = tempfile::Builder::new().prefix("peers-").tempdir_in(&parent).context("no place for the logs")?;
    let peers = peers.iter().zip(programs).map(|(name, program)| Contestant::peer(name, program, scratch.path()));
    if options.check_durable {
        return durable::check(peers, scratch.path());
    }
    let kontiki = options.kontiki.iter().map(|program| Contestant::kontiki(program, scratch.path()));
    let contestants: Vec<Contestant> = kontiki.chain(peers).collect();
    measure(options, &contestants, scratch.path())
}

fn measure(options: &Options, contestants: &[Contestant], dir: &Path) -> Result<bool> {
    let machine = Machine::look(dir);
    if machine.in_memory {
        eprintln!("note: {} is in memory, so flushes cost nothing there; --dir names a directory on a disk", dir.display());
    }
    let mut results = Results { machine, runs: Vec::new(), failures: Vec::new() };
    let limit = Duration::from_secs_f64((options.seconds + options.warmup).max(0.0)) + contestant::OVERTIME;
    for round in 0..options.rounds as usize {
        for &entry_bytes in &options.entry_bytes {
            for &in_flight in &options.in_flight {
                let point = Point { entry_bytes, in_flight, seconds: options.seconds, warmup: options.warmup };
                // Another begins each round.
                for contestant in contestants.iter().cycle().skip(round % contestants.len().max(1)).take(contestants.len()) {
                    match contestant.run(&point, limit) {
                        Ok(report) => {
                            eprintln!("round {}: {}", round + 1, table::line(&report));
                            results.runs.push(report);
                        }
                        Err(error) => {
                            let failure = format!("{} at {entry_bytes} bytes, {in_flight} in flight: {error:#}", contestant.name);
                            eprintln!("round {}: {failure}", round + 1);
                            results.failures.push(failure);
                        }
                    }
                }
            }
        }
        // What is there after each round stays, whatever comes.
        std::fs::write(&options.json, serde_json::to_vec_pretty(&results)?).context("the results cannot be written")?;
    }
    println!("{}\n\n{}", results.machine, table::markdown(&results.runs));
    results.failures.iter().for_each(|failure| println!("\nfailed: {failure}"));
    Ok(results.failures.is_empty())
}

//! `kontiki bench`: a load on a cluster of its own, on one that runs, or on the floor; and the report over all of it.

mod callers;
mod client;
mod driven;
mod events;
mod fill;
mod floor;
mod load;
mod machine;
mod node;
mod own;
mod processes;
mod recorder;
mod remote;
mod report;
mod result;
mod watch;
mod window;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

pub(crate) use client::{BenchClient, run as run_client};
pub(crate) use floor::{BenchFloor, run_process as run_floor};
pub(crate) use node::{BenchNode, run as run_node};

use crate::error::Error;
use crate::output::{complain, say};
use crate::scratch::{self, Scratch};
use crate::signals::StopFlag;
use crate::target::Target;
use load::Load;
use result::Report;

/// Measure throughput, latency, processor time and memory.
///
/// Without --to, starts replicas as separate processes on 127.0.0.1 with their logs in a temporary
/// directory. The load runs in the process of the replica that leads, through the library's own interface, as in a
/// product that links it, or with --clients in processes that speak to it over TCP; the state machine counts. Latency
/// is from propose to the resolved ticket. The processor time counts all processes.
///
/// With --to, drives a running cluster of `kontiki serve` over TCP: it puts values under --keys keys that begin
/// with "bench-". --rate is for clusters of its own, and --entry-bytes is the length of a put, which has bounds: it says
/// them if it is given another.
///
/// Exit codes: 0 measured, 1 failed, 2 bad arguments, 130 interrupted.
///
/// With --report, measures the whole grid beside the floor. docs/performance.md says how to read it.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(flatten)]
    load: Load,
    /// Replicas to start
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9), conflicts_with = "to")]
    replicas: u16,
    /// Where the state machine runs
    #[arg(long, value_enum, default_value_t = Apply::Inline, conflicts_with = "to")]
    apply: Apply,
    /// Load from so many client processes over TCP instead of from inside the leader
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64), conflicts_with_all = ["to", "callers"])]
    clients: u32,
    /// Measure the floor instead: the same processes, files and sockets without consensus
    #[arg(long, conflicts_with_all = ["to", "apply", "clients", "set"])]
    floor: bool,
    /// Drive a running cluster at these addresses instead
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    to: Vec<Target>,
    /// With --to, how many keys are put, one after the other
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..), requires = "to")]
    keys: u32,
    /// Measure everything, and write JSON, Markdown and plots into this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "floor", "clients", "apply", "json", "entry_bytes", "in_flight", "callers", "rate", "replicas"])]
    report: Option<PathBuf>,
    #[command(flatten)]
    extent: report::Extent,
    /// Print one line of JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Where to put the replicas' directories [default: the system's temporary directory]
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    dir: Option<PathBuf>,
    /// Keep the replicas' directories
    #[arg(long, conflicts_with = "to")]
    keep: bool,
    /// Set a key of every replica's configuration; see `kontiki serve --example-config`. The bench itself sets
    /// retention_bytes to 64 MiB, since its machine only counts, and long election timeouts
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "to")]
    set: Vec<String>,
}

/// Where the state machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Apply {
    /// On a thread of its own
    Thread,
    /// On the reactor's thread
    #[default]
    Inline,
    /// On the caller's thread, which turns the node itself
    Driven,
}

/// One run on a cluster of its own, or of the floor.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setup {
    #[serde(flatten)]
    load: Load,
    replicas: u16,
    apply: Apply,
    clients: u32,
    floor: bool,
    set: Vec<String>,
}

impl Default for Setup {
    fn default() -> Setup {
        let load = Load { entry_bytes: 128, in_flight: 256, seconds: 5.0, warmup: 1.0, callers: 1, run: load::DEFAULT_RUN, rate: None };
        Setup { load, replicas: 3, apply: Apply::Inline, clients: 0, floor: false, set: Vec::new() }
    }
}

impl Setup {
    /// Runs it, with files below `dir`.
    fn run(&self, dir: &Path, stop: &StopFlag) -> Result<Report, Error> {
        if self.floor { floor::run(self, dir, stop) } else { own::run(self, dir, stop) }
    }
}

/// Runs the command.
///
/// # Errors
/// A setting that cannot be, a cluster that does not start, or leadership lost during the load.
pub(crate) fn run(command: &Bench) -> Result<(), Error> {
    let stop = StopFlag::install()?;
    if let Some(into) = &command.report {
        return report::run(into, &command.extent, command.dir.as_deref(), &command.set, &stop);
    }
    let report = if command.to.is_empty() { alone(command, &stop)? } else { remote::run(&command.to, &command.load, command.keys, &stop)? };
    if command.json {
        say(report.json());
    } else {
        say(report.table());
    }
    Ok(())
}

/// One run with its files in a directory that is removed afterwards.
fn alone(command: &Bench, stop: &StopFlag) -> Result<Report, Error> {
    let setup = Setup {
        load: command.load.clone(),
        replicas: command.replicas,
        apply: command.apply,
        clients: command.clients,
        floor: command.floor,
        set: command.set.clone(),
    };
    let scratch = Scratch::new(command.dir.as_deref(), "kontiki-bench-")?;
    if let Some(note) = scratch::medium_note(scratch.path()) {
        complain(note);
    }
    let report = setup.run(scratch.path(), stop);
    scratch.end(command.keep);
    report
}

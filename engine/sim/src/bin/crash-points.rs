//! Cuts the power at every storage operation of some workloads, in every way there is, and recovers.
#![allow(clippy::print_stdout, reason = "a program prints")]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use kontiki_sim::crash_points::{Depth, Found, Script, StateId, enumerate, replay};

/// Every storage operation of a scripted workload is a crash point: the power is cut there in all ways, and the node starts again.
#[derive(Debug, Parser)]
#[command(name = "crash-points", version)]
struct Options {
    /// Decides payloads and delays of the workloads.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run workloads whose names contain this only.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Rounds of each workload.
    #[arg(long, default_value_t = 4)]
    rounds: u64,
    /// Cuts drawn at random where more than twelve things are unflushed.
    #[arg(long, default_value_t = 10)]
    sample: usize,
    /// Try so many crash points of each kind of operation only, in each life, of those where something is unflushed; zero: all there are.
    #[arg(long, default_value_t = 0)]
    of_each: usize,
    /// Cut the power during each so-many-th recovery as well; zero: during none.
    #[arg(long, default_value_t = 500)]
    again_every: u64,
    /// Try this state alone, as a failure names it.
    #[arg(long, value_name = "LIFE/POINT/CUT")]
    state: Option<StateId>,
}

/// Processor time of this thread, in seconds, where the kernel tells.
fn cpu_s() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let ns: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(ns as f64 / 1e9)
}

fn main() -> ExitCode {
    let options = Options::parse();
    let scripts = Script::all(options.rounds, options.seed).into_iter().filter(|script| script.name().contains(&options.only));
    let mut good = true;
    let (mut tried, mut distinct, mut losses) = (0, 0, 0);
    let (began, began_cpu) = (Instant::now(), cpu_s());
    for script in scripts {
        if let Some(state) = &options.state {
            good &= print_replay(&script, state);
            continue;
        }
        let (start, start_cpu) = (Instant::now(), cpu_s());
        let depth = Depth { sample: options.sample, of_each: options.of_each, again_every: options.again_every };
        match enumerate(&script, depth) {
            Ok(found) => {
                let real_s = start.elapsed().as_secs_f64();
                let taken_s = start_cpu.zip(cpu_s()).map_or(real_s, |(from, to)| to - from);
                print_found(&script, &found, real_s, taken_s);
                good &= found.losses == 0;
                tried += found.tried;
                distinct += found.distinct;
                losses += found.losses;
            }
            Err(error) => {
                println!("{}: {error}", script.name());
                good = false;
            }
        }
    }
    if options.state.is_none() {
        let real_s = began.elapsed().as_secs_f64();
        let taken_s = began_cpu.zip(cpu_s()).map_or(real_s, |(from, to)| to - from);
        let rate = distinct as f64 / taken_s.max(1e-9);
        println!("\n{tried} states tried, {distinct} distinct ones recovered, {losses} failed");
        println!("{real_s:.1} s, {taken_s:.1} s of CPU, {rate:.0} recovered per CPU second");
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_replay(script: &Script, state: &StateId) -> bool {
    match replay(script, state) {
        Ok(None) => println!("{}, state {state}: as it must be", script.name()),
        Ok(Some(what)) | Err(what) => {
            println!("{}, state {state}: {what}", script.name());
            return false;
        }
    }
    true
}

fn print_found(script: &Script, found: &Found, real_s: f64, taken_s: f64) {
    let Found { operations, points, tried, distinct, recovering, again, losses, .. } = found;
    println!("{}, seed {}", script.name(), script.seed);
    println!("  {} storage operations, {points} crash points", operations / 2);
    println!("  {tried} states tried, {again} of them in a recovery; {distinct} distinct ones recovered; {recovering} came up recovering");
    println!("  {real_s:.1} s, {taken_s:.1} s of CPU, {:.0} recovered per CPU second", *distinct as f64 / taken_s.max(1e-9));
    println!("  {}", found.happened);
    if *losses > 0 {
        println!("  {losses} FAILED, such as");
    }
    for lost in &found.lost {
        println!("    {lost}");
        println!(
            "      again with: cargo run --release -p kontiki-sim --bin crash-points -- --seed {} --rounds {} --only {} --state {}",
            script.seed,
            script.rounds,
            script.name(),
            lost.state
        );
    }
}

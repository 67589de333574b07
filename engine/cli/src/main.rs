//! The `kontiki` program: see it work (`demo`), run it (`serve`, `put`, `get`, `status`), keep a copy of it (`snapshot`,
//! `backup`), measure it (`bench`), and look into its log and its snapshots (`wal`, `snapshot verify`).
#![forbid(unsafe_code)]

mod backup;
mod bench;
mod cluster;
mod connection;
mod demo;
mod error;
mod kind_of_file;
mod kv;
mod load;
mod log;
mod manual;
mod node_file;
mod outcomes;
mod output;
mod plot;
mod ports;
mod put_get;
mod scratch;
mod serve;
mod signals;
mod snapshot_tools;
mod status;
mod table;
mod take_snapshot;
mod target;
mod timeline;
mod usage;
mod wal_tools;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::error::Error;

/// Kontiki: an embeddable, durable, replicated log (Raft) for edge and embedded Linux.
///
/// To see it lose a leader and nothing else: kontiki demo
#[derive(Parser, Debug)]
#[command(name = "kontiki", version, max_term_width = 100)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Demo(demo::Demo),
    Serve(serve::Serve),
    Put(put_get::Put),
    Get(put_get::Get),
    Status(status::Status),
    Bench(bench::Bench),
    Wal(wal_tools::Wal),
    Snapshot(snapshot_tools::Snapshot),
    Backup(backup::Backup),
    Completions(manual::Completions),
    Man(manual::Man),
    #[command(hide = true)]
    BenchNode(bench::BenchNode),
    #[command(hide = true)]
    BenchClient(bench::BenchClient),
    #[command(hide = true)]
    BenchFloor(bench::BenchFloor),
    #[command(hide = true)]
    ClearAway(scratch::ClearAway),
}

fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(told) => return tell(&told),
    };
    match run(program.command).and_then(|()| output::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::last_word(&format!("kontiki: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Demo(command) => demo::run(&command),
        Command::Serve(command) => serve::run(command),
        Command::Put(command) => put_get::put(&command),
        Command::Get(command) => put_get::get(&command),
        Command::Status(command) => status::run(&command),
        Command::Bench(command) => bench::run(&command),
        Command::Wal(command) => wal_tools::run(&command),
        Command::Snapshot(command) => snapshot_tools::run(&command),
        Command::Backup(command) => backup::run(&command),
        Command::Completions(command) => manual::completions(&command),
        Command::Man(command) => manual::man(&command),
        Command::BenchNode(command) => bench::run_node(&command),
        Command::BenchClient(command) => bench::run_client(&command),
        Command::BenchFloor(command) => bench::run_floor(&command),
        Command::ClearAway(command) => scratch::clear_away(&command),
    }
}

/// Prints what the argument parser has to say: help and version to standard output, which may be full, or what was
/// wrong.
fn tell(told: &clap::Error) -> ExitCode {
    match told.print() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            output::last_word(&format!("kontiki: cannot write: {error}"));
            ExitCode::from(error::EXIT_FAILED)
        }
        _ if matches!(told.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => ExitCode::SUCCESS,
        _ => ExitCode::from(error::EXIT_USAGE),
    }
}

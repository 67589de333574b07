//! The `kontiki` program: see it work (`demo`), run it (`serve`, `put`, `get`, `status`), measure it
//! (`bench`), and look into its log (`wal`).
#![forbid(unsafe_code)]

mod bench;
mod cluster;
mod connection;
mod demo;
mod demo_report;
mod error;
mod kv;
mod ledger;
mod load;
mod node_file;
mod outcomes;
mod output;
mod payload;
mod plot;
mod ports;
mod put_get;
mod scratch;
mod serve;
mod signals;
mod status;
mod table;
mod timeline;
mod usage;
mod verify;
mod wal_tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    #[command(hide = true)]
    BenchNode(bench::BenchNode),
    #[command(hide = true)]
    BenchClient(bench::BenchClient),
    #[command(hide = true)]
    BenchFloor(bench::BenchFloor),
}

fn main() -> ExitCode {
    let result = match Program::parse().command {
        Command::Demo(command) => demo::run(&command),
        Command::Serve(command) => serve::run(command),
        Command::Put(command) => put_get::put(&command),
        Command::Get(command) => put_get::get(&command),
        Command::Status(command) => status::run(&command),
        Command::Bench(command) => bench::run(&command),
        Command::Wal(command) => wal_tools::run(&command),
        Command::BenchNode(command) => bench::run_node(&command),
        Command::BenchClient(command) => bench::run_client(&command),
        Command::BenchFloor(command) => bench::run_floor(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format_args!("kontiki: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

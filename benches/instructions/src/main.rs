//! Counts the instructions of fixed workloads under valgrind's callgrind, and compares them with the numbers in the
//! tree.
//!
//! `cargo run --release -p kontiki-instructions -- --compare` fails if a workload takes noticeably more than
//! `counts.toml` says; `--write` takes the counts of now for right. The counts are of one compiler on one architecture:
//! with another they are shown and not judged. Without valgrind it says so and succeeds.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program for people and scripts")]

mod counted;
mod workloads;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;

use counted::{Meter, PATTERN};
use workloads::{ALL, Workload};

/// The numbers in the tree.
const COUNTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts.toml");

/// Count instructions.
#[derive(Parser, Debug)]
struct Program {
    /// Fail if a count is over its number in counts.toml by more than the tolerance there
    #[arg(long)]
    compare: bool,
    /// Write the counts to counts.toml
    #[arg(long, conflicts_with = "compare")]
    write: bool,
    /// Only workloads whose name holds this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Run a workload as it is
    #[arg(long, hide = true, value_name = "NAME")]
    run: Option<String>,
}

/// What stands in the tree.
#[derive(Debug, Deserialize)]
struct Counts {
    compiler: String,
    architecture: String,
    tolerance_percent: f64,
    instructions: BTreeMap<String, u64>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{COUNTS}: {0}")]
    Counts(String),
    #[error("{0}: {1}")]
    Program(&'static str, std::io::Error),
    #[error("valgrind on {workload}: {said}")]
    Valgrind { workload: &'static str, said: String },
    #[error("more instructions than before: {0}. If that is as it must be: --write, and say why in the commit")]
    Regression(String),
    #[error("no workload is called {0}")]
    Unknown(String),
}

fn main() -> ExitCode {
    match run(&Program::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(program: &Program) -> Result<(), Error> {
    if let Some(name) = &program.run {
        let workload = ALL.iter().find(|workload| workload.name == name).ok_or_else(|| Error::Unknown(name.clone()))?;
        (workload.run)(&Meter::default(), workload.operations);
        return Ok(());
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("valgrind is not installed: instructions are not counted");
        return Ok(());
    }
    let before = std::fs::read_to_string(COUNTS).ok().map(|text| toml::from_str::<Counts>(&text));
    let before = before.transpose().map_err(|e| Error::Counts(e.to_string()))?;
    let here = (compiler()?, std::env::consts::ARCH.to_owned());
    let comparable = before.as_ref().is_some_and(|b| (&b.compiler, &b.architecture) == (&here.0, &here.1));
    let tolerance = before.as_ref().map_or(3.0, |b| b.tolerance_percent);

    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(["workload", "instructions each", "in the tree", "change", "what"]);
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut now: BTreeMap<String, u64> = before.as_ref().map(|b| b.instructions.clone()).unwrap_or_default();
    let mut over = Vec::new();
    for workload in ALL.iter().filter(|workload| workload.name.contains(&program.only)) {
        let count = count(workload)?;
        let known = before.as_ref().and_then(|b| b.instructions.get(workload.name)).copied();
        let change = known.map(|known| (count as f64 / known.max(1) as f64 - 1.0) * 100.0);
        if change.is_some_and(|change| change > tolerance) {
            over.push(format!("{} by {:.1} %", workload.name, change.unwrap_or(0.0)));
        }
        table.add_row([
            workload.name.to_owned(),
            count.to_string(),
            known.map_or("-".into(), |known| known.to_string()),
            change.map_or("-".into(), |change| format!("{change:+.1} %")),
            workload.what.to_owned(),
        ]);
        now.insert(workload.name.to_owned(), count);
    }
    println!("{table}");
    if program.write {
        // What is no workload any more goes.
        now.retain(|name, _| ALL.iter().any(|workload| workload.name == name));
        return write(&here, tolerance, &now);
    }
    match (program.compare, comparable) {
        (true, true) if !over.is_empty() => Err(Error::Regression(over.join(", "))),
        (true, false) => {
            let theirs = before.map_or("nothing".into(), |b| format!("{} on {}", b.compiler, b.architecture));
            println!("not judged: this is {} on {}, and the counts in the tree are of {theirs}", here.0, here.1);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Instructions of one operation of a workload.
fn count(workload: &'static Workload) -> Result<u64, Error> {
    let program = std::env::current_exe().map_err(|e| Error::Program("this program", e))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={PATTERN}"))
        .arg(program)
        .args(["--run", workload.name])
        .output()
        .map_err(|e| Error::Program("valgrind", e))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // "==123== Collected : 4567"
    let collected = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse::<u64>().ok());
    match collected.filter(|&collected| output.status.success() && collected > 0) {
        Some(collected) => Ok(collected / workload.operations),
        None => Err(Error::Valgrind { workload: workload.name, said: format!("{said}{}", String::from_utf8_lossy(&output.stdout)) }),
    }
}

/// The compiler's version, as it says it.
fn compiler() -> Result<String, Error> {
    let output = Command::new("rustc").arg("--version").output().map_err(|e| Error::Program("rustc", e))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn write(here: &(String, String), tolerance: f64, counts: &BTreeMap<String, u64>) -> Result<(), Error> {
    let mut text = format!(
        "# Instructions of one operation of each workload, by callgrind, built with --release.\n\
         # Written by `cargo run --release -p kontiki-instructions -- --write`.\n\n\
         compiler = \"{}\"\narchitecture = \"{}\"\ntolerance_percent = {tolerance:?}\n\n[instructions]\n",
        here.0, here.1
    );
    for (name, count) in counts {
        text.push_str(&format!("{name} = {count}\n"));
    }
    std::fs::write(Path::new(COUNTS), text).map_err(|e| Error::Counts(e.to_string()))
}

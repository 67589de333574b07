//! Shows that a peer, as it is driven here, acknowledges nothing that is not on two disks.
//!
//! One proposal in flight: nothing is shared between entries, so every one that is acknowledged has cost a flush on two
//! nodes at least. The kernel's side is counted with strace, if it is there, over all three processes; each
//! leader counts its own as well. Then the logs are read back, and the newest entry must be in two of the three.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use peer_common::report::Report;

use crate::contestant::{Contestant, OVERTIME, Point};

/// One at a time.
const LOAD: Point = Point { entry_bytes: 128, in_flight: 1, seconds: 2.0, warmup: 0.2 };

/// Checks all peers; returns whether all are durable.
pub(crate) fn check(peers: impl Iterator<Item = Contestant>, dir: &Path) -> Result<bool> {
    let strace = Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success());
    if !strace {
        println!("strace is not installed: flushes are counted by the leader alone\n");
    }
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["engine", "entries applied", "fdatasync, all nodes", "flushes an entry, leader", "found on nodes", "durable"]);
    let mut all = true;
    for peer in peers {
        let counts = dir.join(format!("strace-{}", peer.name));
        let report = run(&peer, strace.then_some(counts.as_path())).with_context(|| peer.name.clone())?;
        let calls = strace.then(|| std::fs::read_to_string(&counts)).transpose()?.map(|text| fdatasyncs(&text));
        let applied = report.applied.unwrap_or(0);
        let in_window = report.per_s * report.seconds;
        let per_entry = report.flushes.unwrap_or(0) as f64 / in_window.max(1.0);
        let nodes = report.durable_on.unwrap_or(0);
        // Two nodes at least; the leader itself need not be one of them, though at this load it nearly always is.
        let durable = applied > 0 && nodes >= 2 && calls.map_or(per_entry >= 0.9, |calls| calls >= 2 * applied);
        all &= durable;
        table.add_row([
            peer.name,
            applied.to_string(),
            calls.map_or("not counted".into(), |c| c.to_string()),
            format!("{per_entry:.2}"),
            nodes.to_string(),
            if durable { "yes" } else { "NO" }.into(),
        ]);
    }
    println!("{table}");
    Ok(all)
}

fn run(peer: &Contestant, strace: Option<&Path>) -> Result<Report> {
    let mut command = match strace {
        Some(counts) => {
            let mut command = Command::new("strace");
            command.args(["-f", "--seccomp-bpf", "-c", "-U", "calls,name", "-e", "trace=fdatasync", "-o"]).arg(counts);
            command.arg(&peer.program);
            command
        }
        None => Command::new(&peer.program),
    };
    command.args(&peer.arguments).arg("--check-durable");
    let out = LOAD.finish(command, OVERTIME)?;
    Ok(serde_json::from_str(out.trim())?)
}

/// Calls in strace's table.
fn fdatasyncs(table: &str) -> u64 {
    let row = table.lines().map(str::split_whitespace).find_map(|mut row| {
        let calls = row.next()?.parse().ok()?;
        (row.next() == Some("fdatasync")).then_some(calls)
    });
    row.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_of_strace_is_understood() {
        let text = "    calls syscall\n--------- ----------------\n     8120 fdatasync\n--------- ----------------\n     8120 total\n";
        assert_eq!(super::fdatasyncs(text), 8120);
        assert_eq!(super::fdatasyncs("calls syscall\n"), 0);
    }
}

//! An engine and how to run it once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use peer_common::report::Report;
use serde::Deserialize;

/// The peers; a program of the name `peer-NAME` runs each.
pub(crate) const PEERS: [&str; 3] = ["openraft", "raft-rs", "omnipaxos"];
/// How Kontiki is called in the table.
pub(crate) const KONTIKI: &str = "kontiki";
/// How much longer than its load a run may take: to write its segments the first time, and to elect.
pub(crate) const OVERTIME: Duration = Duration::from_secs(60);

/// How often to look whether a run is over.
const LOOK: Duration = Duration::from_millis(20);

/// A load.
pub(crate) struct Point {
    pub(crate) entry_bytes: usize,
    pub(crate) in_flight: usize,
    pub(crate) seconds: f64,
    pub(crate) warmup: f64,
}

/// An engine.
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    /// Arguments before those of the load.
    pub(crate) arguments: Vec<OsString>,
    read: fn(&str, &Point) -> Result<Report>,
}

impl Contestant {
    /// A peer; its segments stay from run to run.
    pub(crate) fn peer(name: &str, program: PathBuf, dir: &Path) -> Contestant {
        let arguments = vec!["--dir".into(), dir.join(name).into()];
        Contestant { name: name.into(), program, arguments, read: |line, _| Ok(serde_json::from_str(line)?) }
    }

    /// Kontiki, through its own bench.
    pub(crate) fn kontiki(program: &Path, dir: &Path) -> Contestant {
        let arguments = vec!["bench".into(), "--json".into(), "--dir".into(), dir.into()];
        Contestant { name: KONTIKI.into(), program: program.into(), arguments, read: read_kontiki }
    }

    /// Runs it once.
    pub(crate) fn run(&self, point: &Point, limit: Duration) -> Result<Report> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let out = point.finish(command, limit)?;
        let line = out.lines().rfind(|l| l.starts_with('{')).context("it printed no result")?;
        (self.read)(line, point)
    }
}

impl Point {
    /// Runs a command, its arguments completed with the load's, and returns what it printed.
    pub(crate) fn finish(&self, mut command: Command, limit: Duration) -> Result<String> {
        command.args(["--entry-bytes", &self.entry_bytes.to_string(), "--in-flight", &self.in_flight.to_string()]);
        command.args(["--seconds", &self.seconds.to_string(), "--warmup", &self.warmup.to_string()]);
        // It prints one line: no pipe fills before it ends.
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("it cannot be started")?;
        let begun = Instant::now();
        loop {
            if child.try_wait()?.is_some() {
                return output(child);
            }
            if begun.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                bail!("it did not end within {limit:?}");
            }
            thread::sleep(LOOK);
        }
    }
}

fn output(child: Child) -> Result<String> {
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("it failed: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Of what `kontiki bench --json` prints, what the table needs.
#[derive(Deserialize)]
struct Bench {
    entries_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    cpu_us_per_entry: Option<f64>,
    rss_bytes: Option<u64>,
    entries: u64,
    seconds: f64,
    leader_flushes_per_1000: Option<f64>,
    backend: String,
}

fn read_kontiki(line: &str, point: &Point) -> Result<Report> {
    let bench: Bench = serde_json::from_str(line)?;
    Ok(Report {
        peer: KONTIKI.into(),
        version: bench.backend,
        entry_bytes: point.entry_bytes,
        in_flight: point.in_flight,
        seconds: bench.seconds,
        per_s: bench.entries_per_s.round(),
        p50_us: bench.p50_us,
        p99_us: bench.p99_us,
        p999_us: bench.p999_us,
        cpu_us_per_entry: bench.cpu_us_per_entry.unwrap_or(f64::NAN),
        rss_bytes: bench.rss_bytes.unwrap_or(0),
        flushes: bench.leader_flushes_per_1000.map(|f| (f * bench.entries as f64 / 1000.0).round() as u64),
        applied: None,
        durable_on: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_kontiki_is_understood() {
        let line = r#"{"entries_per_s":1000.4,"p50_us":1.5,"p99_us":2.5,"p999_us":3.5,"max_us":9.0,"cpu_us_per_entry":0.5,
            "rss_bytes":4096,"entries":2000,"seconds":2.0,"entry_bytes":16,"in_flight":4,"callers":1,"replicas":3,"busy":0,
            "leader_flushes_per_1000":20.0,"entries_per_frame":50.0,"backend":"io_uring","guest_halt_poll_ns":null}"#;
        let report = read_kontiki(line, &Point { entry_bytes: 16, in_flight: 4, seconds: 2.0, warmup: 1.0 }).unwrap();
        assert_eq!((report.per_s, report.flushes, report.p99_us), (1000.0, Some(40), 2.5));
    }
}

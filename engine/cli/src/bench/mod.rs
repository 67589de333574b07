//! `kontiki bench`: a load on a cluster of its own, or on one that runs.

mod callers;
mod node;
mod remote;
mod report;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

pub(crate) use node::{BenchNode, run as run_node};

use crate::cluster::{Cluster, POLL};
use crate::error::Error;
use crate::node_file::Settings;
use crate::output::{complain, say};
use crate::put_get::parse_addr;
use crate::scratch::{self, Scratch};
use crate::signals::StopFlag;
use crate::usage;
use callers::Load;
use node::{BEGIN, Event};
use report::Report;

/// How long the replicas may take to elect a leader and connect.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// How much longer than asked the load may take.
const OVERTIME: Duration = Duration::from_secs(60);

/// Measure throughput, latency, processor time and memory.
///
/// Without --to, starts replicas as separate processes on 127.0.0.1 with their logs in a temporary
/// directory. The load runs in the process of the replica that leads, through the library's own interface, as in a
/// product that links it; the state machine counts. Latency is from propose to the resolved ticket. The
/// processor time counts all replicas, the callers within the leader among them.
///
/// With --to, drives a running cluster of `kontiki serve` over TCP: it puts values under 1000 keys that begin
/// with "bench-".
#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(flatten)]
    load: Load,
    /// Replicas to start
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9), conflicts_with = "to")]
    replicas: u16,
    /// Drive a running cluster at these addresses instead
    #[arg(long, value_name = "ADDR", value_delimiter = ',', value_parser = parse_addr)]
    to: Vec<SocketAddr>,
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
    /// apply_on=reactor, since its machine only counts, and retention_bytes to 64 MiB
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "to")]
    set: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A setting that cannot be, a cluster that does not start, or leadership lost during the load.
pub(crate) fn run(command: &Bench) -> Result<(), Error> {
    let stop = StopFlag::install()?;
    let report = if command.to.is_empty() { own_cluster(command, &stop)? } else { remote::run(&command.to, &command.load, &stop)? };
    if command.json {
        say(report.json());
    } else {
        say(report.table());
    }
    Ok(())
}

fn own_cluster(command: &Bench, stop: &StopFlag) -> Result<Report, Error> {
    let load = &command.load;
    let mut settings = Settings::default();
    settings.fit(load.entry_bytes as usize, load.in_flight as usize);
    settings.set("reply_bytes", 8);
    settings.set("apply_on", "\"reactor\"");
    settings.set("retention_bytes", 64 << 20);
    settings.set_all(&command.set)?;
    let scratch = Scratch::new(command.dir.as_deref(), "kontiki-bench-")?;
    let report = on_cluster(command, &settings, scratch.path(), stop);
    scratch.end(command.keep);
    report
}

fn on_cluster(command: &Bench, settings: &Settings, dir: &Path, stop: &StopFlag) -> Result<Report, Error> {
    if let Some(note) = scratch::medium_note(dir) {
        complain(note);
    }
    let load = &command.load;
    let arguments = |_: &Path, config: &Path| {
        let mut all = vec!["bench-node".into(), "--config".into(), config.into()];
        for (name, value) in [
            ("--entry-bytes", load.entry_bytes.to_string()),
            ("--in-flight", load.in_flight.to_string()),
            ("--seconds", load.seconds.to_string()),
            ("--warmup", load.warmup.to_string()),
            ("--callers", load.callers.to_string()),
        ] {
            all.extend([name.into(), value.into()]);
        }
        all
    };
    let mut cluster = Cluster::start(dir, command.replicas.into(), settings, &arguments, stop)?;
    let (sender, events) = mpsc::channel();
    let mut inputs = Vec::new();
    for replica in &mut cluster.replicas {
        let id = replica.id;
        let (input, output) = replica.take_pipes().ok_or_else(|| Error::Finding(format!("replica {id} has no pipes")))?;
        inputs.push((id, input));
        let sender = sender.clone();
        let read = move || forward(id, BufReader::new(output), &sender);
        thread::Builder::new().name(format!("events-{id}")).spawn(read).map_err(Error::system("cannot start a thread"))?;
    }
    let mut bench = Running { cluster, events, inputs, stop };
    let measured = bench.measure(load)?;
    let Running { mut cluster, inputs, .. } = bench;
    let (report, inputs) = (measured.report(command, cluster.replicas.len()), inputs);
    drop(inputs);
    cluster.stop()?;
    Ok(report)
}

/// A bench in progress.
struct Running<'a> {
    cluster: Cluster,
    events: Receiver<(u64, Event)>,
    inputs: Vec<(u64, ChildStdin)>,
    stop: &'a StopFlag,
}

/// What the leader measured, and what all replicas used meanwhile.
struct Found {
    measured: report::Measured,
    cpu_ns: Option<u64>,
    rss_bytes: Option<u64>,
}

impl Running<'_> {
    fn measure(&mut self, load: &Load) -> Result<Found, Error> {
        let ready = Instant::now() + READY_LIMIT;
        let leader = loop {
            if let (id, Event::Leading { .. }) = self.event(ready, "no replica leads")? {
                break id;
            }
        };
        self.wait_connected(ready)?;
        let input = self.inputs.iter_mut().find(|(id, _)| *id == leader).map(|(_, input)| input);
        input
            .map_or(Err(std::io::ErrorKind::NotFound.into()), |input| writeln!(input, "{BEGIN}"))
            .map_err(Error::system("cannot speak to the leader"))?;
        let deadline = Instant::now() + Duration::from_secs_f64(load.warmup + load.seconds) + OVERTIME;
        let mut before = None;
        loop {
            match self.event(deadline, "the load does not end")? {
                (id, Event::Started) if id == leader => before = self.cpu_ns(),
                (id, Event::Finished(measured)) if id == leader => {
                    let cpu_ns = before.zip(self.cpu_ns()).map(|(before, after)| after.saturating_sub(before));
                    return Ok(Found { measured, cpu_ns, rss_bytes: self.pids().filter_map(usage::rss_bytes).max() });
                }
                (id, Event::Lost { reason }) if id == leader => {
                    return Err(Error::Finding(format!("node {id} could not run the load to its end: {reason}; run it again")));
                }
                _ => {}
            }
        }
    }

    /// The next event.
    fn event(&mut self, deadline: Instant, late: &str) -> Result<(u64, Event), Error> {
        loop {
            if let Ok(event) = self.events.recv_timeout(POLL) {
                return Ok(event);
            }
            self.stop.check()?;
            self.cluster.check_alive()?;
            if Instant::now() > deadline {
                return Err(Error::TooSlow(late.to_owned()));
            }
        }
    }

    /// Waits until every replica has applied what is committed, so that the load finds the cluster whole.
    fn wait_connected(&mut self, deadline: Instant) -> Result<(), Error> {
        loop {
            let views = self.cluster.statuses();
            let goal = views.iter().map(|v| v.last).max().unwrap_or(0);
            if views.len() == self.cluster.replicas.len() && views.iter().all(|v| v.applied == goal) {
                return Ok(());
            }
            self.stop.check()?;
            self.cluster.check_alive()?;
            if Instant::now() > deadline {
                return Err(Error::TooSlow("not all replicas follow the leader".into()));
            }
            thread::sleep(POLL);
        }
    }

    fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.cluster.replicas.iter().filter_map(|r| r.pid())
    }

    fn cpu_ns(&self) -> Option<u64> {
        self.pids().map(usage::cpu_ns).sum()
    }
}

impl Found {
    fn report(self, command: &Bench, replicas: usize) -> Report {
        let m = self.measured;
        let load = &command.load;
        Report {
            entries_per_s: m.entries as f64 / m.seconds.max(1e-9),
            latency: m.latency,
            cpu_us_per_entry: self.cpu_ns.map(|ns| ns as f64 / 1000.0 / m.entries.max(1) as f64),
            rss_bytes: self.rss_bytes,
            entries: m.entries,
            seconds: m.seconds,
            entry_bytes: load.entry_bytes,
            in_flight: load.in_flight,
            callers: load.callers,
            replicas,
            busy: m.busy,
            leader_flushes_per_1000: Some(m.leader_flushes_per_1000),
            entries_per_frame: Some(m.entries_per_frame),
            backend: m.backend,
            guest_halt_poll_ns: report::guest_halt_poll_ns(),
        }
    }
}

/// Passes a replica's events on until its output ends.
fn forward(id: u64, output: impl BufRead, events: &Sender<(u64, Event)>) {
    for line in output.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(event) => {
                if events.send((id, event)).is_err() {
                    return;
                }
            }
            Err(error) => complain(format_args!("node {id} said what is no event ({error}): {line}")),
        }
    }
}

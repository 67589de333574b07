//! `kontiki demo`: a cluster loses its leader under load, and the proof that it lost nothing else.

pub(crate) mod ledger;
pub(crate) mod payload;
mod random_kills;
mod report;
pub(crate) mod stalls;
mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cluster::{Cluster, POLL};
use crate::demo::payload::{NAME_BYTES, Name, Payloads};
use crate::demo::stalls::Pressure;
use crate::error::Error;
use crate::load::{Done, Load, Plan, Pulse};
use crate::node_file::Settings;
use crate::output::say;
use crate::plot::{self, Gap, Mark, Notes, Target};
use crate::scratch::Scratch;
use crate::signals::StopFlag;
use crate::status::Counters;
use crate::table;

/// How long an election may take before the demo gives up.
const ELECTION_LIMIT: Duration = Duration::from_secs(15);
/// How long the first write after an election may take.
const SERVE_LIMIT: Duration = Duration::from_secs(15);
/// How long a replica may take to catch up, during the run and at its end.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
/// The pause before replicas are started again without which the cluster has no majority.
const DOWN: Duration = Duration::from_millis(300);
/// How long a restarted cluster runs before the next kill, or the end.
const SETTLE: Duration = Duration::from_millis(500);
/// Slots of the timeline.
const SLOTS: u32 = 250;

/// Start a cluster, kill its leader under load, and prove that no acknowledged write is lost.
///
/// Starts replicas as separate processes on 127.0.0.1 with their logs in a temporary directory, drives a
/// load over TCP, kills the leader with SIGKILL in the middle, shows the election and how long writes were
/// refused, and restarts it. At the end it compares what every replica applied with what every client was
/// told: each acknowledged write must be there exactly once, in one order on all replicas; one that was
/// refused must not be there; one whose outcome nobody knew is not repeated and may be there once.
///
/// Exit codes: 0 all of that holds, 1 it does not (the directory is kept), 2 bad arguments, 130 interrupted.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Replicas, 1 to 9. With 1 or 2 the cluster cannot write until the killed one is back
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    replicas: u16,
    /// Size of an entry, in bytes, at least 16
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(NAME_BYTES as i64..=256 << 10))]
    entry_bytes: u32,
    /// Proposals in flight, over all clients
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    in_flight: u32,
    /// Clients, each a connection and a thread
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// How long the load runs, in seconds (longer if that is needed to see the cluster whole again)
    #[arg(long, value_name = "S", default_value_t = 8.0, value_parser = seconds)]
    seconds: f64,
    /// Whom to kill
    #[arg(long, value_enum, default_value_t = Kill::Leader)]
    kill: Kill,
    /// How often to kill
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    kills: u32,
    /// Let restarted replicas go on from the state they had written, as a product would, and the log forget what is on
    /// disk there. Without this they apply their log again from its beginning, which proves more and delays the first
    /// answer
    #[arg(long)]
    resume: bool,
    /// Where to put the replicas' directories [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to write the plot of latency and throughput over time
    #[arg(long, value_name = "FILE", default_value = "kontiki-demo.svg")]
    plot: PathBuf,
    /// Keep the replicas' directories
    #[arg(long)]
    keep: bool,
    /// Set a key of every replica's configuration; see `kontiki serve --example-config`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Whom to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kill {
    /// The leader
    Leader,
    /// All replicas at once
    All,
    /// One, two or all of those that run, at random, while one more is away half of the time
    Random,
}

/// Parses a duration in seconds.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.1..=86_400.0).contains(&s) => Ok(s),
        _ => Err("must be a number of seconds, 0.1 to 86400".into()),
    }
}

/// One kill and what followed.
#[derive(Clone, Debug)]
pub(crate) struct Fall {
    /// Who was killed.
    pub(crate) who: String,
    /// If a majority was: from the start of the new processes until the last of them had read its log.
    pub(crate) recovery: Option<Duration>,
    /// From the kill, or from the end of recovery, to the first look that showed a new leader.
    pub(crate) election: Duration,
    /// From then to the first acknowledgement of a write proposed after the kill. The leader's machine first applies
    /// what was committed before.
    pub(crate) first_write: Duration,
    /// From the kill to that acknowledgement.
    pub(crate) refused: Duration,
}

/// Runs the command.
///
/// # Errors
/// Whatever must not be: see the command's help.
pub(crate) fn run(command: &Demo) -> Result<(), Error> {
    let stop = StopFlag::install()?;
    // Better now than after the run.
    let target = Target::check(&command.plot)?;
    let mut settings = Settings::default();
    settings.fit(command.entry_bytes as usize, command.in_flight as usize);
    settings.set("max_clients", command.clients + 16);
    settings.set("reply_bytes", 0);
    settings.set_all(&command.set)?;

    let scratch = Scratch::new(command.dir.as_deref(), "kontiki-demo-")?;
    let outcome = Run::new(command, &settings, scratch.path(), &stop).and_then(|run| run.play(&target));
    // Kept for whoever looks for what went wrong: not where that is known, and not theirs to show.
    let known = |error: &Error| matches!(error, Error::Interrupted | Error::Config(_) | Error::File { what: plot::CANNOT_WRITE, .. });
    scratch.end(command.keep || matches!(&outcome, Err(error) if !known(error)));
    outcome
}

/// A run in progress.
struct Run<'a> {
    command: &'a Demo,
    stop: &'a StopFlag,
    cluster: Cluster,
    load: Load,
    bar: ProgressBar,
    notes: Notes,
    pressure: Pressure,
    falls: Vec<Fall>,
    /// Counters of processes that were killed, as last seen.
    gone: Counters,
}

impl<'a> Run<'a> {
    fn new(command: &'a Demo, settings: &Settings, dir: &Path, stop: &'a StopFlag) -> Result<Run<'a>, Error> {
        let mut cluster =
            Cluster::start(dir, command.replicas.into(), settings, &|dir, config| arguments(dir, config, command.resume), stop)?;
        say(format_args!("{} replicas, each a process of its own, in {}", command.replicas, dir.display()));
        if let Some(note) = crate::scratch::medium_note(dir) {
            say(note);
        }
        let leader = cluster.wait_leader(0, ELECTION_LIMIT, stop)?;
        for replica in &cluster.replicas {
            let role = if replica.id == leader.id { format!(", leads in term {}", leader.term) } else { String::new() };
            say(format_args!("  node {} at {}, process {}{role}", replica.id, replica.addr, replica.pid().unwrap_or(0)));
        }
        say(format_args!("input and output: {}", leader.backend));
        let length = Duration::from_secs_f64(command.seconds);
        let plan = Plan {
            targets: cluster.targets(),
            clients: command.clients,
            in_flight: command.in_flight as usize,
            length,
            slots: SLOTS,
            record_from: Duration::ZERO,
        };
        let entry_bytes = command.entry_bytes as usize;
        let load = Load::start(&plan, &move |client| {
            let mut payloads = Payloads::new(entry_bytes);
            Box::new(move |number, buffer| buffer.extend_from_slice(payloads.make(Name { client, number })))
        })?;
        say(format_args!(
            "{} clients over TCP, {} entries of {} bytes in flight, for {} s\n",
            command.clients.min(command.in_flight),
            command.in_flight,
            entry_bytes,
            command.seconds
        ));
        let bar = ProgressBar::new(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)).with_style(style());
        Ok(Run {
            command,
            stop,
            cluster,
            load,
            bar,
            notes: Notes::default(),
            pressure: Pressure::default(),
            falls: Vec::new(),
            gone: Counters::default(),
        })
    }

    fn play(mut self, plot: &Target) -> Result<(), Error> {
        let length = Duration::from_secs_f64(self.command.seconds);
        let mut away = None;
        for n in 0..self.command.kills {
            let cycle = length / self.command.kills;
            self.run_until(cycle * n + cycle.mul_f64(0.4))?;
            match self.command.kill {
                Kill::Leader => self.kill_leader(cycle * n + cycle.mul_f64(0.65))?,
                Kill::All => self.kill_all()?,
                Kill::Random => self.kill_some(n + 1, &mut away)?,
            }
            let settled = self.now() + SETTLE;
            self.run_until(settled)?;
        }
        if let Some(id) = away {
            self.start_again(id)?;
        }
        self.run_until(length)?;
        self.bar.finish_and_clear();
        let Run { command, stop, mut cluster, load, mut notes, pressure, falls, gone, .. } = self;
        let start = load.pulse().start_wall();
        let done = load.finish()?;
        let counters = even_out(&mut cluster, gone, stop)?;
        let replicas = cluster.replicas.len();
        let ledgers: Vec<(u64, PathBuf)> = cluster.replicas.iter().map(|r| (r.id, ledger(&r.dir))).collect();
        let dirs: Vec<PathBuf> = cluster.replicas.iter().map(|r| r.data()).collect();
        cluster.stop()?;
        let mut said = stalls::Said::default();
        cluster.replicas.iter().for_each(|replica| said.read(replica.id, &replica.log(), start));
        notes.gaps.extend(stalls::find(&done.silences, length, &notes.gaps, &pressure, &said));
        let written = Written { counters, segments: segments_bytes(&dirs) };
        let tally = report::measured(&done, &falls, &notes, written, replicas, command.entry_bytes);
        let verdict = verify::verify(&ledgers, &done.outcomes, command.entry_bytes as usize)?;
        // The plot only tells: what was proved is said whether it can be drawn or not.
        let proved = report::judged(&verdict, replicas);
        let title = format!("{} replicas, {} entries of {} bytes in flight", replicas, command.in_flight, command.entry_bytes);
        let drawn = plot.write(&title, &done.timeline, &notes);
        proved?;
        drawn?;
        say(format_args!("latency and throughput over time: {}", command.plot.display()));
        if tally.acknowledged == 0 {
            return Err(Error::Finding(no_progress(&done)));
        }
        Ok(())
    }

    /// Kills the leader; restarts it at `restart`, or right away if the others are no majority.
    fn kill_leader(&mut self, restart: Duration) -> Result<(), Error> {
        let leader = self.cluster.wait_leader(0, ELECTION_LIMIT, self.stop)?;
        self.count_gone(leader.id);
        let (killed, watch) = (self.now(), self.pulse());
        self.cluster.replica(leader.id)?.kill();
        watch.watch();
        self.mark(format!("node {} killed", leader.id));
        self.tell(format_args!("node {}, the leader of term {}, killed with SIGKILL", leader.id, leader.term));
        let majority = self.cluster.replicas.len() / 2 + 1;
        let lives_on = self.cluster.replicas.len() > majority;
        let mut recovery = None;
        if !lives_on {
            self.run_until(killed + DOWN)?;
            let begun = self.now();
            self.restart(leader.id)?;
            recovery = Some(self.now().saturating_sub(begun));
        }
        self.wait_serving(format!("node {}", leader.id), leader.term, killed, recovery)?;
        if lives_on {
            self.run_until(restart.max(self.now() + SETTLE))?;
            self.restart(leader.id)?;
        }
        self.wait_caught_up(leader.id)
    }

    /// Kills all replicas and restarts them.
    fn kill_all(&mut self) -> Result<(), Error> {
        let leader = self.cluster.wait_leader(0, ELECTION_LIMIT, self.stop)?;
        let ids: Vec<u64> = self.cluster.replicas.iter().map(|r| r.id).collect();
        ids.iter().for_each(|&id| self.count_gone(id));
        let (killed, watch) = (self.now(), self.pulse());
        self.cluster.kill();
        watch.watch();
        self.mark("all killed".into());
        self.tell(format_args!("all {} replicas killed with SIGKILL; node {} led in term {}", ids.len(), leader.id, leader.term));
        for &id in &ids {
            self.cluster.replica(id)?.spawn()?;
        }
        let begun = self.now();
        self.mark("all start".into());
        self.cluster.wait_answering(self.stop)?;
        let recovered = self.now();
        let views = self.cluster.statuses();
        for view in &views {
            self.tell(format_args!("node {} recovered: {}", view.id, view.recovery));
        }
        self.mark("recovered".into());
        self.tell(format_args!("all answer {} after their restart", table::duration(recovered.saturating_sub(begun))));
        self.wait_serving("all".into(), leader.term, killed, Some(recovered.saturating_sub(begun)))
    }

    fn restart(&mut self, id: u64) -> Result<(), Error> {
        let begun = self.now();
        let stop = self.stop;
        self.mark(format!("node {id} starts"));
        let replica = self.cluster.replica(id)?;
        replica.spawn()?;
        let view = replica.wait_answering(stop)?;
        self.mark(format!("node {id} answers"));
        self.tell(format_args!(
            "node {id} restarted (its start number {}), answers after {}: {}",
            view.incarnation,
            table::duration(self.now().saturating_sub(begun)),
            view.recovery
        ));
        Ok(())
    }

    /// Waits until somebody leads in a term after `term`, and a write proposed after the last kill is acknowledged.
    fn wait_serving(&mut self, who: String, term: u64, killed: Duration, recovery: Option<Duration>) -> Result<(), Error> {
        let since = if recovery.is_some() { self.now() } else { killed };
        let next = self.cluster.wait_leader(term, ELECTION_LIMIT, self.stop)?;
        let elected = self.now();
        let election = elected.saturating_sub(since);
        let after = if recovery.is_some() { "the end of recovery" } else { "the kill" };
        self.mark(format!("node {} leads", next.id));
        self.tell(format_args!("node {} leads in term {}, {} after {after}", next.id, next.term, table::duration(election)));
        let refused = self.wait_write("the election")?;
        self.tell(format_args!("writes are acknowledged again: for {} they were not", table::duration(refused)));
        // A write may have been acknowledged before our look at the replicas showed who leads.
        let served = killed + refused;
        let first_write = served.saturating_sub(elected);
        let election = elected.min(served).saturating_sub(since);
        self.notes.gaps.push(Gap {
            from: killed,
            to: served,
            label: format!("no writes for {}", table::duration(refused)),
            expected: true,
        });
        self.falls.push(Fall { who, recovery, election, first_write, refused });
        Ok(())
    }

    /// Waits until a write proposed after the last kill is acknowledged, not too long after `what`. For how long none was.
    fn wait_write(&mut self, what: &str) -> Result<Duration, Error> {
        let deadline = Instant::now() + SERVE_LIMIT;
        let pulse = self.pulse();
        loop {
            if let Some(refused) = pulse.watched() {
                return Ok(refused);
            }
            if Instant::now() > deadline {
                return Err(Error::TooSlow(format!("no write was acknowledged within {} s of {what}", SERVE_LIMIT.as_secs())));
            }
            self.look()?;
        }
    }

    /// Waits until a replica has applied what is committed now.
    fn wait_caught_up(&mut self, id: u64) -> Result<(), Error> {
        let goal = self.cluster.statuses().iter().map(|v| v.commit).max().unwrap_or(0);
        let (begun, deadline) = (self.now(), Instant::now() + CATCH_UP_LIMIT);
        loop {
            let applied = self.cluster.statuses().iter().find(|v| v.id == id).map_or(0, |v| v.applied);
            if applied >= goal {
                break;
            }
            if Instant::now() > deadline {
                return Err(Error::TooSlow(format!(
                    "node {id} has applied {applied} of {goal} entries {} s after its restart",
                    CATCH_UP_LIMIT.as_secs()
                )));
            }
            self.look()?;
        }
        self.mark(format!("node {id} caught up"));
        self.tell(format_args!(
            "node {id} has caught up to entry {}, {} later",
            table::count(goal),
            table::duration(self.now().saturating_sub(begun))
        ));
        Ok(())
    }

    /// Adds the counters of a replica that is about to be killed.
    fn count_gone(&mut self, id: u64) {
        if let Some(view) = self.cluster.statuses().into_iter().find(|v| v.id == id) {
            self.gone.flushes += view.counters.flushes;
            self.gone.disk_bytes_written += view.counters.disk_bytes_written;
        }
    }

    /// Time since the start of the load.
    fn now(&self) -> Duration {
        self.load.pulse().start().elapsed()
    }

    fn pulse(&self) -> std::sync::Arc<Pulse> {
        self.load.pulse()
    }

    /// Lets the load run until then, looking after the replicas.
    fn run_until(&mut self, at: Duration) -> Result<(), Error> {
        while self.now() < at {
            self.look()?;
        }
        Ok(())
    }

    /// One look at everything, and a short pause.
    fn look(&mut self) -> Result<(), Error> {
        let (now, acknowledged) = (self.now(), self.load.pulse().acknowledged());
        self.pressure.look(now);
        self.bar.set_position(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        self.bar.set_message(format!("{} acknowledged", table::count(acknowledged)));
        self.stop.check()?;
        self.cluster.check_alive()?;
        thread::sleep(POLL);
        Ok(())
    }

    fn mark(&mut self, label: String) {
        self.notes.marks.push(Mark { at: self.now(), label });
    }

    fn tell(&self, text: impl std::fmt::Display) {
        self.bar.suspend(|| say(format_args!("{:7.3} s  {text}", self.now().as_secs_f64())));
    }
}

/// Waits until all replicas have applied the same, without a load, and adds their counters up.
fn even_out(cluster: &mut Cluster, gone: Counters, stop: &StopFlag) -> Result<Counters, Error> {
    let deadline = Instant::now() + CATCH_UP_LIMIT;
    loop {
        let views = cluster.statuses();
        let goal = views.iter().filter(|v| v.leads()).map(|v| v.last).max();
        if views.len() == cluster.replicas.len() && views.iter().all(|v| Some(v.applied) == goal) {
            let mut sum = gone;
            for view in views {
                sum.flushes += view.counters.flushes;
                sum.disk_bytes_written += view.counters.disk_bytes_written;
            }
            return Ok(sum);
        }
        if Instant::now() > deadline {
            let heard: Vec<String> = views
                .iter()
                .map(|v| {
                    format!(
                        "node {} ({}, term {}): applied {}, commit {}, last {}",
                        v.id,
                        v.role.to_lowercase(),
                        v.term,
                        v.applied,
                        v.commit,
                        v.last
                    )
                })
                .collect();
            return Err(Error::TooSlow(format!(
                "the replicas are not level {} s after the load: {}",
                CATCH_UP_LIMIT.as_secs(),
                heard.join("; ")
            )));
        }
        stop.check()?;
        cluster.check_alive()?;
        thread::sleep(POLL);
    }
}

/// What a run wrote, and where it went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// What the replicas counted.
    pub(crate) counters: Counters,
    /// Bytes of all their segment files. Each of them was filled with zeros once.
    pub(crate) segments: u64,
}

fn segments_bytes(dirs: &[PathBuf]) -> u64 {
    let files = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().filter_map(Result::ok);
    let segments = files.filter(|file| file.path().extension().is_some_and(|end| end == "seg"));
    segments.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

fn no_progress(done: &Done) -> String {
    let reason = done.complaint.as_deref().map_or(String::new(), |c| format!(": {c}"));
    format!("not one write was acknowledged{reason}")
}

fn ledger(dir: &Path) -> PathBuf {
    dir.join("applied.ledger")
}

fn arguments(dir: &Path, config: &Path, resume: bool) -> Vec<OsString> {
    let mut all = vec!["serve".into(), "--until-eof".into(), "--config".into(), config.into(), "--ledger".into(), ledger(dir).into()];
    if resume {
        all.push("--resume".into());
    }
    all
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{elapsed:>4} [{bar:40}] {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

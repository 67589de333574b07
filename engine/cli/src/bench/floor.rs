//! `kontiki bench --floor`: the same processes, files and sockets without consensus; see `kontiki_benches::floor`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use kontiki_benches::floor::{self, Committed, Options};

use super::Setup;
use super::events::{BEGIN, Event, stdin_lines, tell};
use super::load::Load;
use super::processes::Processes;
use super::recorder::Recorder;
use super::result::Report;
use super::watch::Watch;
use crate::error::Error;
use crate::signals::StopFlag;

/// How long the followers may take to make their files.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// Run one process of the floor.
#[derive(Args, Debug)]
pub(crate) struct BenchFloor {
    /// Where its segments go
    #[arg(long)]
    dir: PathBuf,
    /// Lead these followers; without, follow
    #[arg(long, value_delimiter = ',')]
    followers: Vec<SocketAddr>,
    /// Lead, with or without followers
    #[arg(long)]
    lead: bool,
    #[command(flatten)]
    load: Load,
}

/// Runs the command.
///
/// # Errors
/// What the floor could not do.
pub(crate) fn run_process(command: &BenchFloor) -> Result<(), Error> {
    let load = &command.load;
    let options = Options::new(load.entry_bytes as usize, load.in_flight.into(), command.dir.clone());
    let failed = |error: kontiki_benches::Failed| Error::Finding(error.to_string());
    let lines = stdin_lines()?;
    if !command.lead {
        floor::follow(&options, &mut |addr| tell(&Event::Listening { addr })).map_err(failed)?;
        // Whoever measures looks at this process once more before it lets it go.
        while lines.recv().is_ok() {}
        return Ok(());
    }
    if !lines.recv().is_ok_and(|line| line.trim() == BEGIN) {
        return Ok(());
    }
    // The recorder's clock starts with the first commit; the two differ by the latency of that one.
    let mut recorder: Option<(Instant, Recorder)> = None;
    let mut started = false;
    let mut record = |committed: Committed| {
        let begun = Instant::now().checked_sub(committed.at).unwrap_or_else(Instant::now);
        let (begun, recorder) = recorder.get_or_insert_with(|| (begun, Recorder::new(begun, load)));
        let now = *begun + committed.at;
        if !started && committed.at >= load.warmup() {
            started = true;
            tell(&Event::Started);
        }
        recorder.answered(now, now.checked_sub(committed.latency).unwrap_or(*begun), committed.entries);
    };
    let counted = floor::lead(&options, &command.followers, load.warmup() + load.length(), &mut record).map_err(failed)?;
    match recorder {
        Some((_, recorder)) => {
            let mut measured = recorder.finish();
            measured.counted = Some(counted);
            tell(&Event::Finished(Box::new(measured)));
        }
        None => tell(&Event::Lost { reason: "nothing was committed".into() }),
    }
    while lines.recv().is_ok() {}
    Ok(())
}

/// Runs a floor in processes of its own, with files in `dir`.
///
/// # Errors
/// A process that fails, or takes too long.
pub(super) fn run(setup: &Setup, dir: &Path, stop: &StopFlag) -> Result<Report, Error> {
    let load = &setup.load;
    if load.callers > 1 || load.rate.is_some() || setup.clients > 0 {
        return Err(Error::Usage("--floor has no callers, clients or rate: its leader makes the entries itself".into()));
    }
    let mut processes = Processes::new(stop);
    let arguments = |n: u16| {
        let mut all = vec!["bench-floor".into(), "--dir".into(), dir.join(format!("floor-{n}")).into()];
        all.extend(load.arguments());
        all
    };
    let ready = Instant::now() + READY_LIMIT;
    let mut followers = Vec::new();
    for n in 1..setup.replicas {
        let follower = processes.spawn(&format!("follower {n}"), &arguments(n), dir)?;
        let Event::Listening { addr } = processes
            .wait(ready, "a follower does not listen", |from, event| from == follower && matches!(event, Event::Listening { .. }))?
        else {
            continue;
        };
        followers.push(addr.to_string());
    }
    let mut all = arguments(0);
    all.push("--lead".into());
    if !followers.is_empty() {
        all.extend(["--followers".into(), followers.join(",").into()]);
    }
    let leader = processes.spawn("leader", &all, dir)?;
    let mut watch = Watch::new(processes.pids());
    processes.say(&[leader], BEGIN)?;
    let measured = processes.load(&[leader], load, READY_LIMIT, &mut watch)?;
    let uses = watch.finish(&measured, load.entry_bytes);
    processes.end()?;
    Ok(Report::new(setup, &measured, measured.counted.clone().unwrap_or_default(), uses))
}

//! A bench of a cluster of its own: replicas as processes, the load inside the one that leads or in client processes.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use kontiki::Config;
use kontiki_benches::floor::Counted;

use super::events::{BEGIN, Event, FILL};
use super::processes::{Place, Processes};
use super::result::Report;
use super::watch::Watch;
use super::{Apply, Setup, fill};
use crate::cluster::{Cluster, POLL};
use crate::error::Error;
use crate::node_file::Settings;
use crate::signals::StopFlag;
use crate::status::View;

/// How long the replicas may take to elect a leader and connect.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// How long the log may take to fill.
const FILL_LIMIT: Duration = Duration::from_secs(120);
/// How long a replica may take to catch up after the load.
const BEHIND_LIMIT: Duration = Duration::from_secs(5);
/// How much longer than asked the load may take.
const OVERTIME: Duration = Duration::from_secs(60);

/// Runs the bench with files in `dir`.
///
/// # Errors
/// A setting that cannot be, a cluster that does not start, or leadership lost during the load.
pub(super) fn run(setup: &Setup, dir: &Path, stop: &StopFlag) -> Result<Report, Error> {
    let load = &setup.load;
    if setup.apply == Apply::Driven && setup.clients == 0 && load.callers() > 1 {
        return Err(Error::Usage("--apply driven: the one caller is the one that turns the node; --callers must be 1".into()));
    }
    let mut settings = Settings::default();
    settings.fit(load.entry_bytes as usize, load.in_flight as usize);
    settings.set("reply_bytes", 8);
    settings.set("apply_on", if setup.apply == Apply::Thread { "\"thread\"" } else { "\"reactor\"" });
    settings.set("retention_bytes", 64 << 20);
    // A leader under full load on few processors may not get its turn for long; an election would only end the run.
    settings.set("election_min_ms", 1000);
    settings.set("election_max_ms", 2000);
    settings.set_all(&setup.set)?;
    let arguments = |_: &Path, config: &Path| {
        let mut all = vec!["bench-node".into(), "--config".into(), config.into()];
        if setup.apply == Apply::Driven {
            all.push("--driven".into());
        }
        all.extend(load.arguments());
        all
    };
    let member = [(1, std::net::SocketAddr::from(([127, 0, 0, 1], 1)))];
    let config = Config::from_toml(&settings.file(1, 1, &member, dir))?;
    let mut cluster = Cluster::start(dir, setup.replicas.into(), &settings, &arguments, stop)?;
    let mut processes = Processes::new(stop);
    for replica in &mut cluster.replicas {
        let (id, pid) = (replica.id, replica.pid().unwrap_or(0));
        let (input, output) = replica.take_pipes().ok_or_else(|| Error::Finding(format!("replica {id} has no pipes")))?;
        processes.adopt(&format!("replica {id}"), pid, input, output)?;
    }
    let ready = Instant::now() + READY_LIMIT;
    let mut leader: Place = 0;
    processes.wait(ready, "no replica leads", |from, event| {
        leader = from;
        matches!(event, Event::Leading { .. })
    })?;
    wait_connected(&mut cluster, ready, stop)?;
    let filled = Instant::now() + FILL_LIMIT;
    for _ in 0..fill::steps(&config) {
        processes.say(&[leader], FILL)?;
        processes.wait(filled, "the log does not fill", |_, event| matches!(event, Event::Filled))?;
        wait_connected(&mut cluster, filled, stop)?;
    }

    let mut loaded = vec![leader];
    if setup.clients > 0 {
        loaded.clear();
        let to = cluster.replicas.get(leader).map(|replica| replica.addr.to_string()).unwrap_or_default();
        let clients = setup.clients.min(load.in_flight);
        for n in 0..clients {
            let mut all = vec!["bench-client".into(), "--to".into(), to.clone().into()];
            all.extend(load.part(n, clients).arguments());
            loaded.push(processes.spawn(&format!("client {}", n + 1), &all, dir)?);
        }
        let mut waiting = clients;
        processes.wait(Instant::now() + READY_LIMIT, "a client does not connect", |_, event| {
            waiting -= u32::from(matches!(event, Event::Connected));
            waiting == 0
        })?;
    }
    let leader_id = cluster.replicas.get(leader).map_or(0, |replica| replica.id);
    let before = view(&cluster, leader_id);
    let mut watch = Watch::new(processes.pids());
    processes.say(&loaded, BEGIN)?;
    let measured = processes.load(&loaded, load, OVERTIME, &mut watch).map_err(|error| cluster.check_alive().err().unwrap_or(error))?;
    let uses = watch.finish(&measured, load.entry_bytes);
    let counted = before.zip(view(&cluster, leader_id)).map(|(before, after)| between(&before, after)).unwrap_or_default();
    let behind = behind(&cluster);
    // The end of their standard input is what the replicas stop at.
    processes.end()?;
    cluster.stop()?;
    Ok(Report { behind, ..Report::new(setup, &measured, counted, uses) })
}

/// Replicas that do not have all of the load soon after its end: they fell behind what the log retains, and took no
/// part.
fn behind(cluster: &Cluster) -> usize {
    let deadline = Instant::now() + BEHIND_LIMIT;
    loop {
        let views = cluster.statuses();
        let goal = views.iter().map(|v| v.last).max().unwrap_or(0);
        let current = views.iter().filter(|v| v.applied == goal).count();
        if current == cluster.replicas.len() || Instant::now() > deadline {
            return cluster.replicas.len() - current;
        }
        thread::sleep(POLL);
    }
}

/// What the leader says of itself.
fn view(cluster: &Cluster, id: u64) -> Option<View> {
    cluster.statuses().into_iter().find(|view| view.id == id)
}

/// What the leader did from one status to the next.
fn between(before: &View, after: View) -> Counted {
    let (b, a) = (before.counters, after.counters);
    Counted {
        entries: a.entries_proposed.saturating_sub(b.entries_proposed),
        batches: a.frames_sealed.saturating_sub(b.frames_sealed),
        flushes: a.flushes.saturating_sub(b.flushes),
        bytes_written: a.disk_bytes_written.saturating_sub(b.disk_bytes_written),
        backend: after.backend,
    }
}

/// Waits until every replica has applied what is committed, so that the load finds the cluster whole.
fn wait_connected(cluster: &mut Cluster, deadline: Instant, stop: &StopFlag) -> Result<(), Error> {
    loop {
        let views = cluster.statuses();
        let goal = views.iter().map(|v| v.last).max().unwrap_or(0);
        if views.len() == cluster.replicas.len() && views.iter().all(|v| v.applied == goal) {
            return Ok(());
        }
        stop.check()?;
        cluster.check_alive()?;
        if Instant::now() > deadline {
            return Err(Error::TooSlow("not all replicas follow the leader".into()));
        }
        thread::sleep(POLL);
    }
}

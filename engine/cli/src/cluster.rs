//! A cluster on loopback for `demo` and `bench`: replicas as processes of their own, of this very program.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kontiki::Config;

use crate::error::Error;
use crate::node_file::Settings;
use crate::ports;
use crate::signals::StopFlag;
use crate::status::{self, View};
use crate::target::Target;

/// How often a start is tried again because a port was taken in between.
const PORT_TRIES: usize = 5;
/// How long a replica may take to answer after its start, recovery included.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a replica may take to stop when asked.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long one question for the status may take.
pub(crate) const STATUS_LIMIT: Duration = Duration::from_millis(500);
/// The pause between two looks at something that is awaited.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// What a replica's process is to run: the arguments behind the program's name, given the replica's directory
/// and configuration file.
pub(crate) type Arguments<'a> = dyn Fn(&Path, &Path) -> Vec<OsString> + 'a;

/// One replica.
#[derive(Debug)]
pub(crate) struct Replica {
    /// Its id.
    pub(crate) id: u64,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    /// Its directory: configuration, log of messages, data.
    pub(crate) dir: PathBuf,
    arguments: Vec<OsString>,
    process: Option<Child>,
}

/// All replicas. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// In the order of their ids, from 1.
    pub(crate) replicas: Vec<Replica>,
}

impl Cluster {
    /// Starts `count` replicas in `dir`, each running what `arguments` says, and waits until all answer.
    ///
    /// # Errors
    /// A setting that cannot be, or a replica that ended, with its last message.
    pub(crate) fn start(
        dir: &Path,
        count: usize,
        settings: &Settings,
        arguments: &Arguments<'_>,
        stop: &StopFlag,
    ) -> Result<Cluster, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let dir = dir.join(format!("try-{tries}"));
            let mut cluster = Cluster::prepare(&dir, count, settings, arguments)?;
            for replica in &mut cluster.replicas {
                replica.spawn()?;
            }
            match cluster.wait_answering(stop) {
                Err(Error::ReplicaEnded { last, .. }) if tries < PORT_TRIES && last.contains("cannot listen") => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(cluster),
            }
        }
    }

    /// Chooses addresses and writes the files.
    fn prepare(dir: &Path, count: usize, settings: &Settings, arguments: &Arguments<'_>) -> Result<Cluster, Error> {
        let addrs = ports::free(count).map_err(Error::system("no free port on 127.0.0.1"))?;
        let members: Vec<(u64, SocketAddr)> = (1..).zip(addrs).collect();
        let cluster = (u128::from(ports::random()) << 64) | u128::from(ports::random()) | 1;
        let mut replicas = Vec::with_capacity(count);
        for &(id, addr) in &members {
            let dir = dir.join(format!("node-{id}"));
            let text = settings.file(cluster, id, &members, &dir.join("data"));
            Config::from_toml(&text)?;
            fs::create_dir_all(&dir).map_err(Error::file("cannot make the directory", &dir))?;
            let file = dir.join("node.toml");
            fs::write(&file, text).map_err(Error::file("cannot write", &file))?;
            let arguments = arguments(&dir, &file);
            replicas.push(Replica { id, addr, dir, arguments, process: None });
        }
        Ok(Cluster { replicas })
    }

    /// All addresses.
    pub(crate) fn targets(&self) -> Vec<Target> {
        self.replicas.iter().map(|r| r.addr.into()).collect()
    }

    /// The replica of this id.
    pub(crate) fn replica(&mut self, id: u64) -> Result<&mut Replica, Error> {
        self.replicas
            .iter_mut()
            .find(|r| r.id == id)
            .ok_or_else(|| Error::Finding(format!("a replica speaks of replica {id}, which does not exist")))
    }

    /// Waits until every replica answers.
    ///
    /// # Errors
    /// One ended, or takes longer than a minute.
    pub(crate) fn wait_answering(&mut self, stop: &StopFlag) -> Result<(), Error> {
        for replica in &mut self.replicas {
            replica.wait_answering(stop)?;
        }
        Ok(())
    }

    /// The status of every replica that answers.
    pub(crate) fn statuses(&self) -> Vec<View> {
        self.replicas.iter().filter(|r| r.process.is_some()).filter_map(|r| status::fetch(r.addr, STATUS_LIMIT).ok()).collect()
    }

    /// Waits until a replica leads, in a term after `after`: its status.
    ///
    /// # Errors
    /// Nobody does within `limit`, or a replica ended by itself.
    pub(crate) fn wait_leader(&mut self, after: u64, limit: Duration, stop: &StopFlag) -> Result<View, Error> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(leader) = self.statuses().into_iter().filter(|v| v.leads() && v.term > after).max_by_key(|v| v.term) {
                return Ok(leader);
            }
            // In this order: what stops this program from a terminal stops its replicas too.
            stop.check()?;
            self.check_alive()?;
            if Instant::now() > deadline {
                let heard: Vec<String> =
                    self.statuses().iter().map(|v| format!("node {} is {} in term {}", v.id, v.role.to_lowercase(), v.term)).collect();
                return Err(Error::TooSlow(format!("no leader within {} s ({})", limit.as_secs_f32(), heard.join(", "))));
            }
            thread::sleep(POLL);
        }
    }

    /// Finds a replica that should run and does not.
    ///
    /// # Errors
    /// The first such.
    pub(crate) fn check_alive(&mut self) -> Result<(), Error> {
        self.replicas.iter_mut().try_for_each(Replica::check_alive)
    }

    /// SIGKILL to every replica, as nearly at once as can be.
    pub(crate) fn kill(&mut self) {
        for process in self.replicas.iter_mut().filter_map(|r| r.process.as_mut()) {
            // Fails only if it has ended already.
            drop(process.kill());
        }
        self.replicas.iter_mut().for_each(Replica::kill);
    }

    /// Stops every replica cleanly.
    ///
    /// # Errors
    /// One did not stop in time, or failed.
    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        for replica in &mut self.replicas {
            replica.ask_stop();
        }
        self.replicas.iter_mut().try_for_each(Replica::wait_stopped)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Replica {
    /// Starts its process. It stops cleanly when its standard input is closed, so it does not outlive this one.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(crate) fn spawn(&mut self) -> Result<(), Error> {
        let path = self.log();
        let log = File::options().create(true).append(true).open(&path).map_err(Error::file("cannot open", &path))?;
        let program = std::env::current_exe().map_err(Error::system("cannot find this program's own file"))?;
        let process = Command::new(program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(Error::system("cannot start a replica"))?;
        self.process = Some(process);
        Ok(())
    }

    /// Where its data lies.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where its messages go.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Its standard input and output, once.
    pub(crate) fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        let process = self.process.as_mut()?;
        process.stdin.take().zip(process.stdout.take())
    }

    /// SIGKILL: no chance to write or say anything.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Both fail only if it has ended already.
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It ended, or takes longer than a minute.
    pub(crate) fn wait_answering(&mut self, stop: &StopFlag) -> Result<View, Error> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            // In this order: what stops this program from a terminal stops its replicas too.
            stop.check()?;
            self.check_alive()?;
            match status::fetch(self.addr, STATUS_LIMIT) {
                Ok(view) => return Ok(view),
                Err(error) if Instant::now() > deadline => {
                    return Err(Error::TooSlow(format!(
                        "replica {} does not answer after {} s: {error}; its log is {}",
                        self.id,
                        START_LIMIT.as_secs(),
                        self.log().display()
                    )));
                }
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    fn check_alive(&mut self) -> Result<(), Error> {
        let Some(process) = &mut self.process else { return Ok(()) };
        match process.try_wait().map_err(Error::system("cannot look after a replica"))? {
            None => Ok(()),
            Some(status) => {
                self.process = None;
                Err(self.ended(status))
            }
        }
    }

    fn ask_stop(&mut self) {
        if let Some(process) = &mut self.process {
            drop(process.stdin.take());
        }
    }

    fn wait_stopped(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + STOP_LIMIT;
        while let Some(process) = &mut self.process {
            match process.try_wait().map_err(Error::system("cannot look after a replica"))? {
                Some(status) => {
                    self.process = None;
                    if !status.success() {
                        return Err(self.ended(status));
                    }
                }
                None if Instant::now() > deadline => {
                    return Err(Error::TooSlow(format!(
                        "replica {} does not stop after {} s; its log is {}",
                        self.id,
                        STOP_LIMIT.as_secs(),
                        self.log().display()
                    )));
                }
                None => thread::sleep(POLL),
            }
        }
        Ok(())
    }

    fn ended(&self, status: ExitStatus) -> Error {
        let last = last_line(&self.log()).map(|line| format!(", which ends:\n  {line}")).unwrap_or_default();
        Error::ReplicaEnded { id: self.id, how: status.to_string(), log: self.log(), last }
    }
}

/// The last line of a file that says anything.
fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(end.saturating_sub(4096))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    String::from_utf8_lossy(&bytes).lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
}

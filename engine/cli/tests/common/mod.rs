//! Replicas and commands for the tests of the program.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used)]

pub(crate) mod wire;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for anything; nothing is asserted about how long it takes.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub(crate) const CLUSTER: &str = "0000000000000000000000000000c11a";

/// A `kontiki` command that is not started yet.
pub(crate) fn kontiki(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    kontiki(arguments).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that a command succeeded, and gives its standard output.
pub(crate) fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}\nstdout: {}\nstderr: {}", output.status, stdout(output), stderr(output));
    stdout(output)
}

/// Asserts that a command failed with this code, and gives the last line of its standard error.
pub(crate) fn bad(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
    stderr(output).lines().last().unwrap_or_default().to_owned()
}

/// Addresses that were free a moment ago.
pub(crate) fn free_addrs(count: usize) -> Vec<SocketAddr> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|l| l.local_addr().unwrap()).collect()
}

/// The text of a replica's configuration.
pub(crate) fn config(cluster: &str, id: u64, addrs: &[SocketAddr], dir: &Path) -> String {
    let mut text = format!(
        "cluster = \"{cluster}\"\nid = {id}\ndir = {dir:?}\nsegment_bytes = 2097152\nmax_frame_bytes = 65536\nmax_entry_bytes = 16384\nring_bytes = 1048576\nwindow_bytes = 524288\n"
    );
    for (id, addr) in (1..).zip(addrs) {
        text.push_str(&format!("[[members]]\nid = {id}\naddr = \"{addr}\"\n"));
    }
    text
}

/// A cluster of `kontiki serve`, killed at the end of the test.
pub(crate) struct Servers {
    pub(crate) dir: TempDir,
    pub(crate) addrs: Vec<SocketAddr>,
    children: Vec<Option<Child>>,
}

impl Servers {
    /// Starts so many replicas and waits until all answer.
    pub(crate) fn start(count: usize) -> Servers {
        Servers::start_with(count, "")
    }

    /// The same, with these lines on top of each configuration.
    pub(crate) fn start_with(count: usize, lines: &str) -> Servers {
        // A port may be taken by somebody else between the choice and the start.
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let addrs = free_addrs(count);
            let mut servers = Servers { dir, addrs, children: Vec::new() };
            for id in 1..=count as u64 {
                let text = format!("{lines}{}", config(CLUSTER, id, &servers.addrs, &servers.data(id)));
                std::fs::write(servers.config(id), text).unwrap();
                servers.children.push(None);
                servers.spawn(id);
            }
            if (1..=count as u64).all(|id| servers.wait_answering(id)) {
                return servers;
            }
        }
        panic!("no free ports in five tries");
    }

    pub(crate) fn config(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("node-{id}.toml"))
    }

    pub(crate) fn data(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("data-{id}"))
    }

    pub(crate) fn log(&self, id: u64) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("node-{id}.log"))).unwrap_or_default()
    }

    pub(crate) fn addr(&self, id: u64) -> String {
        self.addrs[id as usize - 1].to_string()
    }

    /// All addresses, as `--to` takes them.
    pub(crate) fn to(&self) -> String {
        self.addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn spawn(&mut self, id: u64) {
        let log = File::options().create(true).append(true).open(self.dir.path().join(format!("node-{id}.log"))).unwrap();
        let child =
            kontiki(&["serve", "--config"]).arg(self.config(id)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.children[id as usize - 1] = Some(child);
    }

    /// Waits until a replica answers; false if its port was taken.
    pub(crate) fn wait_answering(&mut self, id: u64) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let addr = self.addr(id);
        while !run(&["status", "--to", &addr, "--timeout-ms", "500"]).status.success() {
            if let Some(status) = self.children[id as usize - 1].as_mut().unwrap().try_wait().unwrap() {
                assert!(self.log(id).contains("cannot listen"), "replica {id} ended ({status}):\n{}", self.log(id));
                return false;
            }
            assert!(Instant::now() < deadline, "replica {id} does not answer:\n{}", self.log(id));
            thread::sleep(POLL);
        }
        true
    }

    /// Sends a signal to a replica.
    pub(crate) fn signal(&self, id: u64, signal: Signal) {
        let child = self.children[id as usize - 1].as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Waits until a replica has ended: its exit code.
    pub(crate) fn wait_ended(&mut self, id: u64) -> Option<i32> {
        wait(self.children[id as usize - 1].take().unwrap()).code()
    }

    /// Kills a replica with SIGKILL.
    pub(crate) fn kill(&mut self, id: u64) {
        if let Some(mut child) = self.children[id as usize - 1].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until some replica leads: its id.
    pub(crate) fn wait_leader(&self) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for id in 1..=self.addrs.len() as u64 {
                let output = run(&["status", "--full", "--to", &self.addr(id), "--timeout-ms", "500"]);
                if stdout(&output).contains("role = \"Leader\"") {
                    return id;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            thread::sleep(POLL);
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for id in 1..=self.children.len() as u64 {
            self.kill(id);
        }
    }
}

/// Waits until something holds; nothing is asserted about how long it takes.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(POLL);
    }
}

/// Waits for a process within reason.
pub(crate) fn wait(mut child: Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("a process does not end");
        }
        thread::sleep(POLL);
    }
}

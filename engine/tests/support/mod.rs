//! A cluster of real nodes in one process, on loopback and in temporary directories.
#![allow(
    dead_code,
    clippy::type_complexity,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "test support; each test uses a part"
)]

pub mod table;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kontiki::{ApplyError, Config, Entries, LogIndex, Lost, Medium, Member, Node, ProposeError, Replies, Role, StateMachine, Ticket};
use tempfile::TempDir;

/// Keeps every applied payload, and answers with the payload's length.
#[derive(Clone, Default)]
pub struct Recorder {
    pub applied: Arc<Mutex<Vec<(LogIndex, Vec<u8>)>>>,
}

impl StateMachine for Recorder {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        let mut applied = self.applied.lock().unwrap();
        for entry in entries {
            applied.push((entry.index, entry.payload.to_vec()));
            replies.push(&(entry.payload.len() as u64).to_le_bytes());
        }
        Ok(())
    }
}

/// Proposes all of these to a node that is to lead, and waits until each is applied.
pub fn write_all(node: &Node, payloads: impl Iterator<Item = Vec<u8>>) {
    let mut tickets: Vec<Ticket> = Vec::new();
    for payload in payloads {
        loop {
            match node.propose(&payload) {
                Ok(ticket) => break tickets.push(ticket),
                Err(ProposeError::Busy) => tickets.drain(..).for_each(|ticket| assert!(ticket.wait().is_ok())),
                Err(ProposeError::NotLeader { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}: {}", node.status().unwrap()),
            }
        }
    }
    tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
}

/// The files of the snapshots in a directory, oldest first.
pub fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "ksn"));
    found.sort();
    found
}

/// Free ports, held until the caller is about to use them.
pub fn free_addrs(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|l| l.local_addr().unwrap()).collect()
}

pub struct Cluster {
    pub dir: TempDir,
    pub members: Vec<Member>,
    pub nodes: Vec<Option<Node>>,
    pub machines: Vec<Recorder>,
    pub tune: fn(&mut Config),
}

impl Cluster {
    pub fn start(count: usize, tune: fn(&mut Config)) -> Cluster {
        let members: Vec<Member> = free_addrs(count).into_iter().zip(1..).map(|(addr, id)| Member::new(id, addr.into())).collect();
        let mut cluster =
            Cluster { dir: tempfile::tempdir().unwrap(), members, nodes: (0..count).map(|_| None).collect(), machines: vec![], tune };
        cluster.machines = (0..count).map(|_| Recorder::default()).collect();
        for at in 0..count {
            cluster.boot(at);
        }
        cluster
    }

    pub fn config(&self, at: usize) -> Config {
        let id = self.members[at].id;
        let mut config = Config::new(0xA11CE, id, self.members.clone(), self.dir.path().join(format!("n{id}")));
        config.segment_bytes = 4 << 20;
        config.medium = Medium::Safe;
        (self.tune)(&mut config);
        config
    }

    /// Starts a node with a fresh state machine: the log is applied again.
    pub fn boot(&mut self, at: usize) {
        self.machines[at] = Recorder::default();
        let node = Node::builder(self.config(at)).start(self.machines[at].clone()).unwrap();
        self.nodes[at] = Some(node);
    }

    pub fn stop(&mut self, at: usize) {
        if let Some(node) = self.nodes[at].take() {
            node.shutdown().unwrap();
        }
    }

    pub fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().unwrap()
    }

    /// The node that leads and has a majority with it.
    pub fn leader(&self) -> usize {
        loop {
            for (at, node) in self.nodes.iter().enumerate() {
                let Some(status) = node.as_ref().and_then(Node::status) else { continue };
                if status.role == Role::Leader && status.commit.0 > 0 {
                    return at;
                }
            }
            std::thread::yield_now();
        }
    }

    /// Proposes at whoever leads until taken.
    pub fn propose(&self, payload: &[u8]) -> Ticket {
        loop {
            for node in self.nodes.iter().flatten() {
                match node.propose(payload) {
                    Ok(ticket) => return ticket,
                    Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            std::thread::yield_now();
        }
    }

    /// Proposes until one attempt is known to be applied; unknown outcomes are tried again, so only for idempotent
    /// payloads.
    pub fn commit(&self, payload: &[u8]) -> LogIndex {
        loop {
            match self.propose(payload).wait() {
                Ok(applied) => return applied.index,
                Err(Lost::ReplyTooLong { index, .. }) => return index,
                Err(Lost::NotApplied { .. } | Lost::Unknown) => {}
            }
        }
    }

    /// Waits until every running node has applied up to `index`.
    pub fn wait_applied(&self, index: LogIndex) {
        for node in self.nodes.iter().flatten() {
            while node.status().unwrap().applied < index {
                std::thread::yield_now();
            }
        }
    }

    /// Waits until every running node has a session with every other. A majority elects a leader without the rest.
    pub fn wait_connected(&self) {
        let running: Vec<u64> = (0..self.nodes.len()).filter(|&at| self.nodes[at].is_some()).map(|at| self.members[at].id).collect();
        for node in self.nodes.iter().flatten() {
            let connected = || {
                let peers = node.status().unwrap().peers;
                peers.iter().filter(|peer| running.contains(&peer.id.0)).all(|peer| peer.connected)
            };
            while !connected() {
                std::thread::yield_now();
            }
        }
    }

    pub fn applied(&self, at: usize) -> Vec<(LogIndex, Vec<u8>)> {
        self.machines[at].applied.lock().unwrap().clone()
    }
}

pub const LONG: Duration = Duration::from_secs(60);

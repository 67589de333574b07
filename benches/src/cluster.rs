//! Replicas in one process, for benches of a few seconds.

use std::collections::VecDeque;
use std::net::TcpListener;

use kontiki::{ApplyError, ApplyOn, Config, Entries, LogIndex, Member, Node, ProposeError, Replies, Role, StateMachine, Ticket};
use tempfile::TempDir;

use crate::bench_dir;

/// Counts entries, and calls itself durable at once, so that the log is recycled.
#[derive(Debug, Default)]
pub struct Counter {
    count: u64,
    index: LogIndex,
}

impl StateMachine for Counter {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            self.count += 1;
            self.index = entry.index;
            replies.push(&self.count.to_le_bytes());
        }
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        self.index
    }
}

/// Replicas on loopback, in one process, with real files.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    leader: usize,
    _dir: TempDir,
}

impl Cluster {
    /// Starts `replicas` and waits for a leader.
    ///
    /// # Panics
    /// If a replica does not start: a bench has nothing else to do then.
    pub fn start(replicas: usize, apply_on: ApplyOn) -> Cluster {
        let dir = bench_dir();
        let listeners: Vec<TcpListener> = (0..replicas).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addrs = listeners.iter().map(|l| l.local_addr().expect("bound"));
        let members: Vec<Member> = addrs.zip(1..).map(|(addr, id)| Member::new(id, addr.into())).collect();
        drop(listeners);
        let start = |m: &Member| {
            let mut config = Config::new(0xBE4C, m.id, members.clone(), dir.path().join(m.id.to_string()));
            config.apply_on = apply_on;
            config.retention_bytes = 64 << 20;
            // Benches overload the machine on purpose: elections would only be noise.
            config.election_min_ms = 2_000;
            config.election_max_ms = 4_000;
            Node::builder(config).start(Counter::default()).expect("the replica starts")
        };
        let nodes: Vec<Node> = members.iter().map(start).collect();
        let leads = |n: &Node| n.status().is_some_and(|s| s.role == Role::Leader && s.commit.0 > 0);
        let leader = loop {
            match nodes.iter().position(leads) {
                Some(at) => break at,
                None => std::thread::yield_now(),
            }
        };
        Cluster { nodes, leader, _dir: dir }
    }

    /// The replica that leads.
    ///
    /// # Panics
    /// Never: a leader was found at the start.
    pub fn leader(&self) -> &Node {
        &self.nodes[self.leader]
    }

    /// Commits `entries` proposals of `payload` in a closed loop, at most `in_flight` open at once.
    ///
    /// # Panics
    /// If the leader is lost: the figure would be worthless.
    pub fn commit(&self, payload: &[u8], in_flight: usize, entries: u64, tickets: &mut VecDeque<Ticket>) {
        let mut proposed = 0;
        while proposed < entries || !tickets.is_empty() {
            while proposed < entries && tickets.len() < in_flight {
                match self.leader().propose(payload) {
                    Ok(ticket) => {
                        tickets.push_back(ticket);
                        proposed += 1;
                    }
                    Err(ProposeError::Busy) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            match tickets.pop_front() {
                Some(ticket) => drop(ticket.wait().expect("committed")),
                None => std::thread::yield_now(),
            }
        }
    }
}

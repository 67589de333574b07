//! A cluster of cores under a simulated clock, network and disk.
//!
//! Time moves only when told. Packets wait in the network and writes on the disks until they are delivered or
//! completed, so that a script, or a seed, decides every order. The oracles look at every effect.
#![allow(dead_code)]

pub(crate) mod carrier;
pub(crate) mod disk;
pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod one;
pub(crate) mod oracle;
pub(crate) mod script;
pub(crate) mod world;

use kontiki_core::{Config, Event, LogIndex, NodeId, Role, SessionId, Time, Verdict};

use net::{Body, Network, Packet};
use node::{Entry, Node, base_of};
use oracle::Oracle;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const ELECTION_MIN: u64 = 100 * MS;
pub(crate) const ELECTION_MAX: u64 = 200 * MS;
pub(crate) const ELECTION_LIMIT: u64 = 10_000 * MS;
pub(crate) const HEARTBEAT: u64 = 20 * MS;

/// What differs between clusters.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) nodes: u64,
    pub(crate) seed: u64,
    pub(crate) window_bytes: u64,
    pub(crate) window_frames: u32,
    pub(crate) news_ns: u64,
}

impl Options {
    pub(crate) fn of(nodes: u64) -> Options {
        Options { nodes, seed: 1, window_bytes: 1 << 20, window_frames: 16, news_ns: 0 }
    }
}

#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Node>,
    pub(crate) net: Network,
    pub(crate) oracle: Oracle,
    /// What happened since a script last looked, in order.
    pub(crate) trace: Vec<String>,
    next_session: u64,
    next_value: u64,
}

impl Cluster {
    /// All nodes up, all sessions open.
    pub(crate) fn new(options: Options) -> Cluster {
        let voters: Vec<NodeId> = (1..=options.nodes).map(NodeId).collect();
        let config = |id| Config {
            id,
            voters: voters.clone(),
            learners: Vec::new(),
            election_min_ns: ELECTION_MIN,
            election_max_ns: ELECTION_MAX,
            election_limit_ns: ELECTION_LIMIT,
            heartbeat_ns: HEARTBEAT,
            news_ns: options.news_ns,
            window_bytes: options.window_bytes,
            window_frames: options.window_frames,
            seed: options.seed,
        };
        let nodes = voters.iter().map(|id| Node::new(config(*id))).collect();
        let mut cluster = Cluster {
            now: Time(1_000 * MS),
            nodes,
            net: Network::default(),
            oracle: Oracle::new(options.nodes),
            trace: Vec::new(),
            next_session: 0,
            next_value: 0,
        };
        for id in &voters {
            cluster.start(*id);
        }
        cluster
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.config.id).collect()
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize - 1]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize - 1]
    }

    /// One turn of a node: steps the events, then flushes, until it has nothing more to do at once.
    pub(crate) fn turn(&mut self, id: NodeId, events: Vec<(Event, Vec<Entry>)>) {
        let node = &mut self.nodes[id.0 as usize - 1];
        node.turn(self.now, events, &mut self.net, &mut self.oracle);
        self.trace.append(&mut node.trace);
        self.trace.append(&mut self.net.trace);
        let nodes = &self.nodes;
        self.oracle.after_turn(&nodes[id.0 as usize - 1], nodes);
    }

    pub(crate) fn event(&mut self, id: NodeId, event: Event) {
        if self.node(id).raft.is_some() {
            self.turn(id, vec![(event, Vec::new())]);
        }
    }

    /// Starts a stopped node from its disk and opens its sessions.
    pub(crate) fn start(&mut self, id: NodeId) {
        let now = self.now;
        self.node_mut(id).start(now);
        let said = std::mem::take(&mut self.node_mut(id).trace);
        self.trace.extend(said);
        let term = self.node(id).disk.record.term;
        self.oracle.started(id, term);
        self.oracle.baseless |= self.node(id).raft.as_ref().is_some_and(|raft| raft.needs_base());
        if let Some(event) = self.node(id).half_installed() {
            self.installed(id, event);
            let node = self.node_mut(id);
            if !node.restores_late {
                node.restore();
            }
        }
        for other in self.ids() {
            self.connect(id, other);
        }
    }

    /// Stops a node. Of the writes that the disk has not confirmed, the first `kept` reach it all the same.
    pub(crate) fn stop(&mut self, id: NodeId, kept: usize) {
        self.stop_keeping(id, kept, kept);
    }

    /// The same, where the disk keeps so many hard states and so many log writes.
    pub(crate) fn stop_keeping(&mut self, id: NodeId, hard: usize, log: usize) {
        for other in self.ids() {
            self.disconnect(id, other);
        }
        self.node_mut(id).stop_keeping(hard, log);
    }

    /// Opens a fresh session between two running nodes, unless the link is cut or one is open.
    pub(crate) fn connect(&mut self, a: NodeId, b: NodeId) {
        let up = |id| self.node(id).raft.is_some();
        if a == b || !up(a) || !up(b) || self.net.is_cut(a, b) || self.net.session(a, b).is_some() {
            return;
        }
        self.next_session += 1;
        let session = SessionId(self.next_session);
        self.net.open(a, b, session);
        self.event(a, Event::SessionUp { peer: b, session });
        self.event(b, Event::SessionUp { peer: a, session });
    }

    /// Drops the session between two nodes and all that was under way in it.
    pub(crate) fn disconnect(&mut self, a: NodeId, b: NodeId) {
        if let Some(session) = self.net.close(a, b) {
            self.event(a, Event::SessionDown { peer: b, session });
            self.event(b, Event::SessionDown { peer: a, session });
        }
    }

    /// Cuts or mends the link between two nodes, its session with it.
    pub(crate) fn set_link(&mut self, a: NodeId, b: NodeId, mended: bool) {
        if a == b {
            return;
        }
        self.net.set_cut(a, b, !mended);
        if mended {
            self.connect(a, b);
        } else {
            self.disconnect(a, b);
        }
    }

    /// A node's log now begins at `first`, behind a snapshot.
    pub(crate) fn compact(&mut self, id: NodeId, first: LogIndex) {
        let node = self.node_mut(id);
        node.keep(node.log[..first.prev().0 as usize].to_vec());
        (node.compacted, node.disk.begins) = (first, first);
        let base = node.base_at(first.prev());
        if let Some(raft) = &mut node.raft {
            raft.compacted(base);
        }
    }

    /// A node's log goes as far as its snapshots allow. The disk may hear of it late, or after the next start.
    pub(crate) fn release(&mut self, id: NodeId, durably: bool) {
        let node = self.node_mut(id);
        let base = node.base_at(node.releasable());
        if let Some(raft) = &mut node.raft
            && base.next() > node.compacted
        {
            raft.compacted(base);
            node.compacted = base.next();
        }
        // Not before the log began anew on the disk too.
        if durably && node.compacted.prev().0 <= node.disk.log.len() as u64 && node.disk.writes_under_way(false) == 0 {
            node.disk.begins = node.compacted;
        }
    }

    /// A node is given a snapshot of another's log as of `index` and installs it, if its core lets it. What it said.
    pub(crate) fn install(&mut self, id: NodeId, from: NodeId, index: LogIndex) -> String {
        let snapshot = self.node(from).log[..index.0 as usize].to_vec();
        let Some(raft) = &self.node(id).raft else { return "down".into() };
        let verdict = raft.judge_snapshot(base_of(&snapshot));
        if let Verdict::Takes { .. } = verdict {
            let event = Event::Installed { base: base_of(&snapshot) };
            self.oracle.snapshot(&snapshot);
            self.node_mut(id).keep(snapshot);
            self.installed(id, event);
            self.node_mut(id).restore();
        }
        format!("{verdict:?}")
    }

    /// A node's core is told of a snapshot that is durable.
    pub(crate) fn installed(&mut self, id: NodeId, event: Event) {
        let vote = |cluster: &Cluster| cluster.node(id).raft.as_ref().map(|raft| raft.term());
        let before = vote(self);
        self.node_mut(id).restoring = true;
        self.event(id, event);
        let Event::Installed { base } = event else { panic!("{event:?} is no installation") };
        assert!(vote(self) == before || vote(self) == Some(base.term), "an installation changes no term");
    }

    pub(crate) fn heal(&mut self) {
        for a in self.ids() {
            for b in self.ids() {
                self.set_link(a, b, true);
            }
        }
    }

    /// Hands a packet to its receiver.
    pub(crate) fn deliver(&mut self, packet: Packet) {
        let Packet { from, to, session, body } = packet;
        if self.node(to).raft.is_none() {
            return;
        }
        let event = match body {
            Body::Message(message) => (Event::Message { from, session, message }, Vec::new()),
            Body::Frame(append, entries) => (Event::Append { from, session, append }, entries),
        };
        self.turn(to, vec![event]);
    }

    /// Completes the oldest write of one of a node's two queues.
    pub(crate) fn complete(&mut self, id: NodeId, hard: bool) -> bool {
        match self.node_mut(id).disk.complete(hard) {
            Some(event) => {
                let now = self.now;
                let node = &mut self.nodes[id.0 as usize - 1];
                node.release(now, &mut self.net, &mut self.oracle);
                self.event(id, event);
                true
            }
            None => false,
        }
    }

    /// Delivers and completes everything that is not withheld, until nothing moves. Time stands still.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut moved = false;
            for id in self.ids() {
                for hard in [true, false] {
                    while self.node(id).disk.may_complete(hard, self.now) && self.complete(id, hard) {
                        moved = true;
                    }
                }
            }
            while let Some(packet) = self.net.pop() {
                self.deliver(packet);
                moved = true;
            }
            if !moved {
                return;
            }
        }
        panic!("the cluster does not settle: something answers for ever");
    }

    /// The next deadline of those nodes that `ticks` lets tick, or the end of a write.
    fn next_deadline(&self, ticks: impl Fn(NodeId) -> bool) -> Time {
        let running = self.nodes.iter().filter(|node| ticks(node.config.id));
        let due = running.filter_map(|node| node.raft.as_ref().map(|raft| raft.deadline()));
        due.chain(self.nodes.iter().filter_map(|node| node.disk.next_completion())).min().unwrap_or(Time(u64::MAX))
    }

    /// Lets time pass until `until`, from deadline to deadline, settling at each. Only nodes in `ticks` are ticked.
    pub(crate) fn run_until(&mut self, until: Time, ticks: impl Fn(NodeId) -> bool) {
        self.settle();
        while self.now < until {
            let next = self.next_deadline(&ticks).max(self.now.plus_ns(MS)).min(until);
            self.now = next;
            self.tick(&ticks);
            self.settle();
        }
    }

    /// Ticks every node that is due.
    pub(crate) fn tick(&mut self, ticks: impl Fn(NodeId) -> bool) {
        for id in self.ids() {
            let due = self.node(id).raft.as_ref().is_some_and(|raft| raft.deadline() <= self.now);
            if due && ticks(id) {
                self.event(id, Event::Tick);
            }
        }
    }

    pub(crate) fn run(&mut self, ns: u64) {
        self.run_until(self.now.plus_ns(ns), |_| true);
    }

    pub(crate) fn leaders(&self) -> Vec<NodeId> {
        let leads = |node: &&Node| node.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader);
        self.nodes.iter().filter(leads).map(|node| node.config.id).collect()
    }

    /// The leader of the highest term, if any.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.leaders().into_iter().max_by_key(|id| self.node(*id).raft.as_ref().map(|raft| raft.term()))
    }

    /// Makes one node win: no other is ticked until it leads.
    pub(crate) fn elect(&mut self, id: NodeId) -> bool {
        for _ in 0..50 {
            self.settle();
            if self.leaders().contains(&id) {
                return true;
            }
            let next = self.next_deadline(|other| other == id).max(self.now.plus_ns(MS)).min(self.now.plus_ns(ELECTION_LIMIT));
            self.run_until(next, |other| other == id);
        }
        false
    }

    /// Proposes `count` entries in one frame at a node. Returns the index of the first, if it could.
    pub(crate) fn propose(&mut self, id: NodeId, values: Vec<String>) -> Option<LogIndex> {
        self.seal(id, values).then(|| self.sealed(id))?
    }

    /// The first half of a proposal: a node takes the place for a frame of these entries, if it may.
    pub(crate) fn seal(&mut self, id: NodeId, values: Vec<String>) -> bool {
        let frame = self.node(id).raft.as_ref().and_then(|raft| raft.next_frame(values.len() as u32));
        self.node_mut(id).sealing = frame.map(|frame| values.into_iter().map(|value| Entry { frame, value }).collect()).unwrap_or_default();
        frame.is_some()
    }

    /// The second half: its core is told. Returns the index of the first entry.
    pub(crate) fn sealed(&mut self, id: NodeId) -> Option<LogIndex> {
        let entries = std::mem::take(&mut self.node_mut(id).sealing);
        let frame = entries.first()?.frame;
        self.turn(id, vec![(Event::Sealed { frame, bytes: 4096 }, entries)]);
        Some(frame.first)
    }

    /// One line a node: role, term, log, commit, and the progress of a leader's followers.
    pub(crate) fn state(&self) -> String {
        self.nodes.iter().map(Node::state).collect()
    }

    /// A value never proposed before.
    pub(crate) fn fresh_value(&mut self) -> String {
        self.next_value += 1;
        format!("v{}", self.next_value)
    }
}

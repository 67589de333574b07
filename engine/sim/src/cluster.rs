//! Whole nodes in a simulated world: each the product's own reactor, log, transport and core, over a [`SimIo`].

use std::fmt;
use std::time::Duration;

use kontiki::{Config, Lost, Medium, Member, ProposeError, Proposer, Reactor, Role, State, Ticket, TurnError};
use kontiki_core::Time;
use kontiki_io::Io;

use crate::conditions::MILLISECOND;
use crate::history::History;
use crate::host::Host;
use crate::judge::{Fate, Judge, Violation};
use crate::listener::Listener;
use crate::machine::{Ledger, Machine};
use crate::marks;
use crate::sim::Sim;
use crate::sim_io::SimIo;
use crate::storage::BEYOND;
use crate::workload::Workload;

/// Where every node listens.
const PORT: u16 = 7000;

/// How the nodes of one cluster are set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Voters.
    pub members: usize,
    /// What every node is configured with; identity, members and directory are filled in.
    pub config: Config,
    /// Whether the state machines survive a restart.
    pub durable_state: bool,
}

struct Node {
    host: Host,
    config: Config,
    ledger: Ledger,
    running: Option<Running>,
    /// It may stop by itself: its disk has faults that justify it.
    may_stop: bool,
    /// Its disk has no space: it need not start.
    full: bool,
    /// It has noticed damage on its disk, and is not yet whole again.
    damaged: bool,
    /// Role and term after its last turn.
    standing: Option<(Role, u64)>,
    /// Unresolved proposals: (value, ticket).
    tickets: Vec<(u64, Ticket)>,
}

struct Running {
    reactor: Reactor<SimIo, Machine>,
    proposer: Proposer,
    /// Bytes it had read from its disk after its last turn.
    read: u64,
}

/// A cluster, its clients and its judge.
pub struct Cluster {
    sim: Sim,
    setup: Setup,
    nodes: Vec<Node>,
    workload: Workload,
    judge: Judge,
    history: History,
    /// The node thought to lead.
    guess: usize,
    /// World time of the next proposal; `None`: the clients are silent.
    propose_at: Option<Time>,
    /// What the nodes say.
    listener: Listener,
    /// So many violations had been found when a majority of the disks was damaged at once.
    beyond: Option<usize>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("sim", &self.sim).finish_non_exhaustive()
    }
}

/// Whether this may come of entries that were acknowledged and have no copy left.
fn may_follow_from_loss(violation: &Violation) -> bool {
    use Violation::{Diverged, FalselyAcknowledged, Lags, NotLinearizable, NotLive, Skipped, TermFell};
    matches!(
        violation,
        Diverged { .. }
            | FalselyAcknowledged { .. }
            | Lags { .. }
            | NotLinearizable { .. }
            | NotLive { .. }
            | Skipped { .. }
            | TermFell { .. }
    )
}

impl Cluster {
    /// A cluster on hosts of its own; no node runs yet.
    pub fn new(sim: Sim, setup: Setup, workload: Workload) -> Cluster {
        let hosts: Vec<Host> = (0..setup.members).map(|_| sim.add_host()).collect();
        let member = |(n, &host): (usize, &Host)| Member { id: n as u64 + 1, addr: sim.address(host, PORT) };
        let members: Vec<Member> = hosts.iter().enumerate().map(member).collect();
        let node = |(n, &host): (usize, &Host)| Node {
            host,
            config: Config { id: n as u64 + 1, members: members.clone(), dir: "/kontiki".into(), ..setup.config.clone() },
            ledger: Ledger::new(setup.durable_state),
            running: None,
            may_stop: false,
            full: false,
            damaged: false,
            standing: None,
            tickets: Vec::new(),
        };
        let nodes = hosts.iter().enumerate().map(node).collect();
        Cluster {
            sim,
            setup,
            nodes,
            workload,
            judge: Judge::new(),
            history: History::default(),
            guess: 0,
            propose_at: None,
            listener: Listener::default(),
            beyond: None,
        }
    }

    /// The world.
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// The judge.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// Puts a line of the world's own into the log of the run.
    pub(crate) fn say(&self, what: fmt::Arguments<'_>) {
        self.listener.give_word(0, self.sim.now().0);
        tracing::info!("{what}");
    }

    /// Hears what its nodes say from now on: their driver runs with this listener.
    pub(crate) fn set_listener(&mut self, listener: Listener) {
        self.listener = listener;
    }

    /// Whether damage has reached a majority of the disks at once, so that an acknowledged entry may have lost its last copy.
    pub fn is_beyond(&self) -> bool {
        self.beyond.is_some()
    }

    /// What was broken that nothing excuses.
    ///
    /// An entry that was acknowledged has a copy on a majority of the disks, and every damage leaves evidence on its disk: a node that
    /// knows of some gives no vote. So nothing may be lost unless a majority is damaged at once. From then on entries may be missing, which
    /// shows as other entries in their places; but still no garbage may be applied, no answer be another's, no term have two leaders, no entry
    /// stand twice.
    pub fn objections(&self) -> Vec<Violation> {
        let excused = |(n, violation): &(usize, &Violation)| self.beyond.is_some_and(|from| *n >= from) && may_follow_from_loss(violation);
        let found = self.judge.violations().iter().enumerate();
        found.filter(|found| !excused(found)).map(|(_, violation)| violation.clone()).collect()
    }

    /// The judge, to be told something.
    pub fn judge_mut(&mut self) -> &mut Judge {
        &mut self.judge
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The host of a node.
    pub fn host(&self, n: usize) -> Host {
        self.nodes[n].host
    }

    /// Whether a node's process is there.
    pub fn is_up(&self, n: usize) -> bool {
        self.nodes[n].running.is_some()
    }

    /// Whether a node takes part: its log is recovered, and it listens.
    pub fn is_serving(&self, n: usize) -> bool {
        self.nodes[n].running.as_ref().is_some_and(|running| running.reactor.state() == State::Running)
    }

    /// From now on a node may stop by itself, or not.
    pub fn set_may_stop(&mut self, n: usize, may_stop: bool) {
        self.nodes[n].may_stop = may_stop;
    }

    /// From now on a node's disk is full, or not any more: it may refuse to start for want of space.
    pub fn set_full(&mut self, n: usize, full: bool) {
        self.nodes[n].full = full;
    }

    /// The node that clients think leads.
    pub fn guess(&self) -> usize {
        self.guess
    }

    /// Starts a node, unless it runs.
    pub fn start(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.running.is_some() {
            return;
        }
        let applied = node.ledger.start();
        self.judge.started(node.config.id, applied);
        let io = self.sim.boot(node.host);
        match Reactor::new(node.config.clone(), io, Machine(node.ledger.clone())) {
            Ok(reactor) => {
                let proposer = reactor.proposer();
                node.running = Some(Running { reactor, proposer, read: 0 });
            }
            Err(error) => self.stopped(n, error.to_string(), true),
        }
    }

    /// Kills a node's process.
    pub fn crash(&mut self, n: usize) {
        self.sim.crash(self.nodes[n].host);
        self.gone(n);
    }

    /// Cuts a node's power.
    pub fn power_cut(&mut self, n: usize) {
        self.sim.power_cut(self.nodes[n].host);
        self.gone(n);
    }

    /// The process is gone: what it had not answered, nobody can tell.
    fn gone(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        (node.running, node.standing) = (None, None);
        for (value, _) in node.tickets.drain(..) {
            self.judge.ended(value, Fate::Unknown);
            self.history.ended(value, Fate::Unknown, &[]);
        }
    }

    fn stopped(&mut self, n: usize, reason: String, starting: bool) {
        self.watch(n);
        self.sim.mark(self.nodes[n].host, "stopped", 0, 0);
        let no_space = starting && self.nodes[n].full && reason.starts_with("no space to ");
        if no_space {
            self.sim.count("start refused by a full disk");
        } else if !self.nodes[n].may_stop {
            self.judge.stopped_for_nothing(self.nodes[n].config.id, reason);
        }
        self.gone(n);
    }

    /// Lets clients propose from now on, or falls silent.
    pub fn set_clients(&mut self, active: bool) {
        self.propose_at = active.then(|| self.sim.now());
    }

    /// Goes on until `limit` (world time).
    pub fn run_until(&mut self, limit: Time) {
        loop {
            let next = self.propose_at.map_or(limit, |at| at.min(limit));
            while let Some(Host(n)) = self.sim.next(next) {
                self.turn(n);
            }
            if self.propose_at.is_some_and(|at| at <= self.sim.now()) {
                self.propose_some();
                self.propose_at = Some(self.sim.now().plus_ns(1 + self.workload.pause()));
            }
            if self.sim.now() >= limit {
                return;
            }
        }
    }

    /// Goes on until `reached` holds, looking now and then; false if it does not within `limit_ns`.
    pub fn run_until_holds(&mut self, limit_ns: u64, mut reached: impl FnMut(&mut Cluster) -> bool) -> bool {
        let end = self.sim.now().plus_ns(limit_ns);
        while !reached(self) {
            if self.sim.now() >= end {
                return false;
            }
            self.run_until(self.sim.now().plus_ns(5 * MILLISECOND).min(end));
        }
        true
    }

    /// Runs until something is reached, as long as the node that is furthest behind gets on: false once it has not for `patience_ns`.
    pub fn run_while_it_gets_on(&mut self, patience_ns: u64, mut reached: impl FnMut(&mut Cluster) -> bool) -> bool {
        let mut furthest_behind = None;
        loop {
            let before = furthest_behind.max(self.furthest_behind());
            if self.run_until_holds(patience_ns, |cluster| reached(cluster) || cluster.furthest_behind() > before) {
                if reached(self) {
                    return true;
                }
            } else {
                return false;
            }
            furthest_behind = before;
        }
    }

    /// Whether a node may have lost what it acknowledged, and does not vote until it has it again.
    pub fn is_any_recovering(&self) -> bool {
        self.nodes.iter().any(|node| self.sim.is_recovering(node.host))
    }

    /// What is durable on the node that has least.
    fn furthest_behind(&self) -> Option<u64> {
        let durable = |node: &Node| Some(node.running.as_ref()?.reactor.durable()?.0);
        self.nodes.iter().map(durable).min().flatten()
    }

    fn turn(&mut self, n: usize) {
        if self.beyond.is_none() && self.sim.counted(BEYOND) > 0 {
            self.beyond = Some(self.judge.violations().len());
        }
        let Node { running: Some(running), host, damaged, .. } = &mut self.nodes[n] else { return };
        let node_id = n as u64 + 1;
        let role_before = running.reactor.standing().map(|(role, _)| role);
        let (damages, losses) = self.listener.damages_and_losses();
        self.listener.give_word(node_id, self.sim.now().0);
        let turned = running.reactor.turn(Duration::MAX);
        let heard = self.listener.damages_and_losses();
        // A node on a lossy medium may say that it lost something when it did not.
        *damaged |= heard.0 > damages || heard.1 > losses && self.sim.is_struck(*host);
        if let Some(role) = role_before
            && running.reactor.io().stats().bytes_read > running.read
        {
            self.sim.meet(if role == Role::Leader { marks::LEADER_READ } else { marks::FOLLOWER_READ });
        }
        running.read = running.reactor.io().stats().bytes_read;
        match turned {
            Ok(State::Ended) => self.stopped(n, "it ended though nobody asked".into(), false),
            Ok(_) => self.watch(n),
            Err(TurnError::Start(error)) => self.stopped(n, error.to_string(), true),
            Err(TurnError::Failed(failure)) => {
                let reason = failure.to_string();
                self.nodes[n].damaged |= reason.contains("damage");
                self.stopped(n, reason, false);
            }
        }
    }

    /// Tells the judge what a node did in its turn: first what it applied, then whom it answered.
    fn watch(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let id = node.config.id;
        for applied in node.ledger.news() {
            self.sim.mark(node.host, "applied", applied.index, applied.value);
            self.judge.applied(id, applied.index, applied.term, applied.value);
            if !applied.intact {
                self.judge.garbled(id, applied.index, applied.value);
            }
        }
        let standing = node.running.as_ref().and_then(|running| running.reactor.standing());
        let standing = standing.map(|(role, term)| (role, term.0));
        if let Some((Role::Leader, term)) = standing {
            self.judge.leads(id, term);
        }
        if let (Some(before), Some(after)) = (node.standing, standing)
            && let Some(mark) = marks::of_roles(before, after)
        {
            self.sim.meet(mark);
        }
        node.standing = standing;
        if node.damaged && standing.is_some() && self.beyond.is_none() && !self.sim.is_recovering(node.host) {
            node.damaged = false;
            self.sim.meet(marks::HEALED);
        }
        let (judge, history) = (&mut self.judge, &mut self.history);
        node.tickets.retain(|(value, ticket)| {
            let fate = match ticket.poll() {
                None => return true,
                Some(Ok(applied)) => Fate::Applied(applied.index.0),
                Some(Err(Lost::NotApplied { .. })) => Fate::Never,
                Some(Err(Lost::Unknown)) => Fate::Unknown,
            };
            match fate {
                Fate::Never => self.sim.meet(marks::NEVER),
                Fate::Unknown => self.sim.meet(marks::UNKNOWN),
                Fate::Applied(_) | Fate::Open => {}
            }
            judge.ended(*value, fate);
            history.ended(*value, fate, ticket.reply());
            false
        });
    }

    fn propose_some(&mut self) {
        let outstanding: usize = self.nodes.iter().map(|node| node.tickets.len()).sum();
        if outstanding < self.workload.in_flight {
            let n = if self.workload.wanders() { self.workload.any_of(self.nodes.len()) } else { self.guess };
            self.propose_to(n);
        }
    }

    /// One proposal to one node; its value if the node took it.
    pub fn propose_to(&mut self, n: usize) -> Option<u64> {
        let (value, payload) = self.workload.propose();
        let count = self.nodes.len();
        let node = &mut self.nodes[n];
        let answer = match &node.running {
            Some(running) => running.proposer.propose(&payload),
            None => Err(ProposeError::Stopped),
        };
        match answer {
            Ok(ticket) => {
                self.sim.mark(node.host, "proposed", value, payload.len() as u64);
                self.judge.proposed(node.config.id, value);
                self.history.proposed(value);
                node.tickets.push((value, ticket));
                self.guess = n;
                Some(value)
            }
            Err(ProposeError::NotLeader { leader: Some(leader) }) => {
                self.guess = leader.id.0 as usize - 1;
                None
            }
            Err(ProposeError::NotLeader { leader: None } | ProposeError::Stopped) => {
                self.guess = self.workload.any_of(count);
                None
            }
            Err(ProposeError::Busy) => {
                self.sim.meet(marks::BUSY);
                None
            }
            Err(ProposeError::TooLarge { .. }) => None,
        }
    }

    /// What the nodes believe of their disks.
    pub fn medium(&self) -> Medium {
        self.setup.config.medium
    }

    /// The longest election timeout, in nanoseconds.
    pub fn election_timeout_ns(&self) -> u64 {
        self.setup.config.election_max_ms * MILLISECOND
    }

    /// Unresolved proposals.
    pub fn outstanding(&self) -> usize {
        self.nodes.iter().map(|node| node.tickets.len()).sum()
    }

    /// How each node stands, a line each.
    pub fn standings(&self) -> Vec<String> {
        let line = |(n, node): (usize, &Node)| {
            let life = match &node.running {
                None => "down".to_owned(),
                Some(running) => match running.reactor.standing() {
                    Some((role, term)) => format!("{:?}, {role:?} of term {term}", running.reactor.state()),
                    None => format!("{:?}", running.reactor.state()),
                },
            };
            let applied = self.judge.applied_by(node.config.id);
            let guessed = if n == self.guess { ", thought to lead" } else { "" };
            format!("node {}: {life}, applied {applied}, {} proposals open{guessed}", node.config.id, node.tickets.len())
        };
        self.nodes.iter().enumerate().map(line).collect()
    }

    /// What the clients saw.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Holds what the clients saw against the judge's sense of order. False if that would take too much memory.
    pub(crate) fn judge_history(&mut self) -> bool {
        if self.is_beyond() {
            // Clients may have seen what then was lost.
            return true;
        }
        let (violations, decided) = self.history.verdict();
        self.judge.found(violations);
        decided
    }

    /// Tells the judge that everything is healed and quiet.
    pub fn settle(&mut self) {
        self.judge.settle(self.nodes.iter().map(|node| node.config.id));
    }

    /// Whether every node has applied all that any has.
    pub fn is_converged(&self) -> bool {
        let last = self.judge.last_index();
        self.nodes.iter().all(|node| self.judge.applied_by(node.config.id) == last)
    }
}

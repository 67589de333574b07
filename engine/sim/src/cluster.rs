//! Whole nodes in a simulated world: each the product's own reactor, log, transport and core, over a [`SimIo`].

mod life;
pub(crate) mod listener;
pub(crate) mod machine;
pub(crate) mod marks;
pub(crate) mod workload;

use std::fmt;

use kontiki::{Config, Medium, Member, ProposeError, Proposer, Reactor, Role, State, Ticket};
use kontiki_core::Time;

use crate::cluster::listener::Listener;
use crate::cluster::machine::{Ledger, Machine};
use crate::cluster::workload::Workload;
use crate::conditions::MILLISECOND;
use crate::judge::history::History;
use crate::judge::{Judge, Violation};
use crate::sim::Sim;
use crate::world::host::Host;
use crate::world::sim_io::SimIo;

/// Flushes that an election on slow disks may take: that of the candidate's term and vote, in two copies, the voters' the same, one that was
/// under way before, and as much again for one that fails.
const FLUSHES_OF_AN_ELECTION: u64 = 10;

/// The data directory of every node.
pub(crate) const DIR: &str = "/kontiki";
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
    /// It is to be started again at this world time, as it was refused while writes of the process before were under way.
    start_at: Option<Time>,
    /// Processes so far.
    starts: u64,
    /// So often it has begun to recover though nothing could have been lost.
    needless: u64,
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
    stopping: Option<Stopping>,
}

/// An orderly stop that is under way.
#[derive(Clone, Copy)]
struct Stopping {
    /// The node took part when it was asked, and nothing kept it from noting that its log is closed.
    must_note: bool,
    /// What it should sometimes note beside.
    mark: &'static str,
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
    /// A vote may have been forgotten without a trace.
    votes_lost: bool,
    /// Whether a node that doubts its log for nothing breaks a promise.
    judges_doubt: bool,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("sim", &self.sim).finish_non_exhaustive()
    }
}

/// Whether this may come of entries that were acknowledged and have no copy left.
fn may_follow_from_loss(violation: &Violation) -> bool {
    use Violation::{Diverged, FalselyAcknowledged, Lags, NotLinearizable, NotLive, Skipped, TermFell, WrongState};
    matches!(
        violation,
        Diverged { .. }
            | FalselyAcknowledged { .. }
            | Lags { .. }
            | NotLinearizable { .. }
            | NotLive { .. }
            | Skipped { .. }
            | TermFell { .. }
            | WrongState { .. }
    )
}

impl Cluster {
    /// A cluster on hosts of its own; no node runs yet.
    pub fn new(sim: Sim, setup: Setup, workload: Workload) -> Cluster {
        let hosts: Vec<Host> = (0..setup.members).map(|_| sim.add_host()).collect();
        let member = |(n, &host): (usize, &Host)| Member::new(n as u64 + 1, sim.address(host, PORT).into());
        let members: Vec<Member> = hosts.iter().enumerate().map(member).collect();
        let node = |(n, &host): (usize, &Host)| Node {
            host,
            config: Config { id: n as u64 + 1, members: members.clone(), dir: DIR.into(), ..setup.config.clone() },
            ledger: Ledger::new(setup.durable_state),
            running: None,
            may_stop: false,
            full: false,
            start_at: None,
            starts: 0,
            needless: 0,
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
            votes_lost: false,
            judges_doubt: false,
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
        let two_leaders = |violation: &Violation| self.votes_lost && matches!(violation, Violation::TwoLeaders { .. });
        let excused = |(n, violation): &(usize, &Violation)| {
            self.beyond.is_some_and(|from| *n >= from) && (may_follow_from_loss(violation) || two_leaders(violation))
        };
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

    /// A node's own limits and times from its next start on; who it is stays.
    ///
    /// # Panics
    /// If it runs.
    pub fn set_config(&mut self, n: usize, config: Config) {
        let node = &mut self.nodes[n];
        assert!(node.running.is_none(), "node {} runs with its configuration", node.config.id);
        let Config { id, members, dir, .. } = node.config.clone();
        node.config = Config { id, members, dir, ..config };
    }

    /// From now on a node that doubts its log, though nothing of it can have been lost, breaks a promise; or not.
    pub fn set_judges_doubt(&mut self, judges_doubt: bool) {
        self.judges_doubt = judges_doubt;
    }

    /// From now on votes may be forgotten without a trace, and with them anything: an older image of a disk stands in its place.
    pub(crate) fn forget_votes(&mut self) {
        self.votes_lost = true;
        self.beyond.get_or_insert(self.judge.violations().len());
    }

    /// From now on a node's host has no descriptors to give, or has them again: it may refuse to start for want of them.
    pub fn set_short(&mut self, n: usize, short: bool) {
        self.sim.set_short(self.nodes[n].host, short);
    }

    /// Whether some node leads in the newest term that any is in.
    pub fn has_leader(&self) -> bool {
        let standings = self.nodes.iter().filter(|node| node.running.is_some()).filter_map(|node| node.standing);
        standings.max_by_key(|&(role, term)| (term, role == Role::Leader)).is_some_and(|(role, _)| role == Role::Leader)
    }

    /// Whether a node takes part, and can vote.
    pub fn is_able(&self, n: usize) -> bool {
        let host = self.nodes[n].host;
        self.is_serving(n) && !self.is_stopping(n) && !self.sim.is_recovering(host) && !self.sim.is_struck(host) && !self.sim.is_bare(host)
    }

    /// Processes of a node so far.
    pub(crate) fn starts(&self, n: usize) -> u64 {
        self.nodes[n].starts
    }

    /// The node that clients think leads.
    pub fn guess(&self) -> usize {
        self.guess
    }

    /// Lets clients propose from now on, or falls silent.
    pub fn set_clients(&mut self, active: bool) {
        self.propose_at = active.then(|| self.sim.now());
    }

    /// Goes on until `limit` (world time).
    pub fn run_until(&mut self, limit: Time) {
        loop {
            let starts = self.nodes.iter().filter_map(|node| node.start_at);
            let next = starts.chain(self.propose_at).min().map_or(limit, |at| at.min(limit));
            while let Some(Host(n)) = self.sim.next(next) {
                self.turn(n);
            }
            for n in 0..self.nodes.len() {
                if self.nodes[n].start_at.is_some_and(|at| at <= self.sim.now()) {
                    self.start(n);
                }
            }
            if self.propose_at.is_some_and(|at| at <= self.sim.now()) {
                (0..self.workload.burst).for_each(|_| self.propose_some());
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
            Err(ProposeError::Busy | ProposeError::DiskFull | ProposeError::LogFull | ProposeError::Shortage) => {
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

    /// The longest election timeout, in nanoseconds; where disks are slow, what an election takes on them.
    pub fn election_timeout_ns(&self) -> u64 {
        let of = |node: &Node| {
            let flush_ns = self.sim.disk_conditions(node.host).flush.max_ns;
            (node.config.election_max_ms * MILLISECOND).max(FLUSHES_OF_AN_ELECTION * flush_ns)
        };
        self.nodes.iter().map(of).max().unwrap_or(0)
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
        self.nodes.iter().all(|node| self.judge.applied_by(node.config.id) >= last)
    }
}

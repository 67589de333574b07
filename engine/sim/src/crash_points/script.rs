//! What a node goes through before its power is cut: scripted workloads, which note every crash point on the way.

use kontiki::{Config, Medium, Member, State};
use kontiki_core::{EntryId, Time};

use super::node::{Kept, Node};
use super::record::{History, Log, Promise, Record};
use super::recovery::recover;
use crate::cluster::workload::{command, payload};
use crate::conditions::{Conditions, MICROSECOND, MILLISECOND, SECOND};
use crate::disk::Disk;
use crate::random::Random;
use crate::sim::Sim;
use crate::world::host::Host;
use crate::world::op_class::OpClass;

/// A moment at which the power may fail, and what must be found afterwards.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) disk: Disk,
    /// The operation that has just started or ended.
    pub(super) operation: OpClass,
    pub(super) promise: Promise,
    /// Frames and ballots that were submitted by then.
    pub(super) frames: usize,
    pub(super) ballots: usize,
    /// What the state machine has on its own disk.
    pub(super) kept: Kept,
    /// What it would have there where it had applied nothing that the node has not heard to be on the disk in its log.
    pub(super) within: Kept,
}

/// From one start of the watched node to its end.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) points: Vec<Point>,
    pub(super) record: Record,
    /// Storage operations that started or ended.
    pub(super) operations: u64,
}

/// Collects the crash points of one node.
#[derive(Debug, Default)]
pub(super) struct Watch {
    points: Vec<Point>,
    operations: u64,
}

impl Watch {
    /// One turn of the watched node. What happened on the disk since the last one came before anything that this turn promises.
    pub(super) fn turn(&mut self, sim: &Sim, host: Host, node: &mut Node) -> Result<State, String> {
        let before = moment(node);
        let state = node.turn()?;
        for (operation, disk) in sim.take_crash_points() {
            self.operations += 1;
            self.points.push(Point { disk, operation, ..before.clone() });
        }
        let after = moment(node);
        // A new promise, on the same disk.
        if (after.promise, after.kept) != (before.promise, before.kept) {
            let operation = self.points.last().map_or(OpClass::Write, |point| point.operation);
            self.points.push(Point { disk: sim.disk_for_cut(host), operation, ..after });
        }
        Ok(state)
    }

    pub(super) fn end(self, node: Node) -> Life {
        Life { points: self.points, record: node.record.take(), operations: self.operations }
    }
}

/// What is promised now, on no disk yet.
fn moment(node: &Node) -> Point {
    let record = node.record.borrow();
    let (frames, ballots) = (record.logs.len() - 1, record.ballots.len());
    let durable = record.logs.get(record.durable).cloned().unwrap_or_default();
    Point {
        disk: Disk::new(0),
        operation: OpClass::Write,
        promise: record.promise,
        frames,
        ballots,
        kept: node.kept(),
        within: node.kept_within(&durable),
    }
}

/// One workload.
#[derive(Clone, Debug)]
pub struct Script {
    /// Voters: one, or several, of which the first is watched.
    pub members: usize,
    /// What the nodes believe of their disks.
    pub medium: Medium,
    /// Whether the state machines survive a restart.
    pub durable_state: bool,
    /// Whether they make snapshots, small ones if they survive, and the log forgets for them: then one that was away is sent a full one.
    pub snapshots: bool,
    /// Rounds of the workload.
    pub rounds: u64,
    /// Decides payloads and delays.
    pub seed: u64,
}

const FRAME_BYTES: usize = 16 << 10;
const SEGMENT_BYTES: u64 = 4096 + 4 * FRAME_BYTES as u64;
const LONGEST_ENTRY: u64 = 7_900;

impl Script {
    /// Every kind of workload there is.
    pub fn all(rounds: u64, seed: u64) -> Vec<Script> {
        let mut all = Vec::new();
        for members in [1, 3] {
            for medium in [Medium::Safe, Medium::Lossy] {
                for (durable_state, snapshots) in [(false, false), (true, false), (false, true), (true, true)] {
                    // What several fetch is a matter of full ones, whoever's they are.
                    if members == 1 || !(durable_state && snapshots) {
                        all.push(Script { members, medium, durable_state, snapshots, rounds, seed });
                    }
                }
            }
        }
        all
    }

    /// In a few words: `three-lossy-durable`.
    pub fn name(&self) -> String {
        let members = if self.members == 1 { "one" } else { "three" };
        let medium = if self.medium == Medium::Safe { "safe" } else { "lossy" };
        let state = match (self.durable_state, self.snapshots) {
            (true, true) => "durable-small-snapshots",
            (true, false) => "durable",
            (_, true) => "snapshots",
            _ => "memory",
        };
        format!("{members}-{medium}-{state}")
    }

    /// The configuration of node `n`, counted from zero, of `members`.
    pub(super) fn config(&self, sim: &Sim, n: usize, members: usize) -> Config {
        let member = |n: usize| Member::new(n as u64 + 1, sim.address(Host(n), 7000).into());
        // Whenever nobody leads, the watched node is mostly the first to notice once the others may vote: or it would seldom lead.
        let (election_min_ms, election_max_ms) = if n == 0 { (110, 120) } else { (90, 400) };
        Config {
            cluster: 0xC0FFEE,
            id: n as u64 + 1,
            members: (0..members).map(member).collect(),
            dir: "/kontiki".into(),
            election_min_ms,
            election_max_ms,
            heartbeat_ms: 30,
            max_entry_bytes: 8 << 10,
            max_frame_bytes: FRAME_BYTES,
            max_in_flight: 64,
            reply_bytes: 8,
            ring_bytes: 16 * FRAME_BYTES,
            window_bytes: 4 * FRAME_BYTES as u64,
            window_frames: 8,
            max_clients: 0,
            segment_bytes: SEGMENT_BYTES,
            retention_bytes: if self.durable_state && !self.snapshots { SEGMENT_BYTES } else { 0 },
            snapshot_log_bytes: if self.snapshots { SEGMENT_BYTES / 2 } else { 0 },
            writes_in_flight: 3,
            medium: self.medium,
            seed: self.seed | 1 << 63,
            ..Config::default()
        }
    }

    /// Runs it, and gives the lives of the watched node.
    ///
    /// # Errors
    /// What went wrong before any power was cut, or in a start between two lives.
    pub(super) fn run(&self) -> Result<Vec<Life>, String> {
        let sim = Sim::new(self.seed, Conditions::calm());
        let hosts: Vec<Host> = (0..self.members).map(|_| sim.add_host()).collect();
        sim.keep_crash_points(WATCHED);
        let nodes = hosts.iter().map(|_| None).collect();
        let random = Random::stream(self.seed, 20);
        let (watch, lives, history) = Default::default();
        let mut stage = Stage { script: self, sim, hosts, nodes, random, values: 0, watch, lives, history };
        for n in 0..self.members {
            stage.start(n, Log::default(), Kept::from(self.durable_state.then(EntryId::default)))?;
        }
        if self.members == 1 {
            stage.alone()?
        } else if self.snapshots {
            stage.away()?
        } else {
            stage.together()?
        }
        stage.end();
        Ok(stage.lives)
    }
}

const WATCHED: Host = Host(0);
/// How long anything may take, in simulated time: a bound against waiting for ever.
const PATIENCE_NS: u64 = 20 * SECOND;

/// So many times eight entries are written while the watched node is away: several segments.
const AWAY_BURSTS: u64 = 10;

/// How many elections it may take until the watched node wins one.
const MOST_ELECTIONS: u32 = 50;

struct Stage<'a> {
    script: &'a Script,
    sim: Sim,
    hosts: Vec<Host>,
    nodes: Vec<Option<Node>>,
    random: Random,
    /// Values proposed so far.
    values: u64,
    watch: Watch,
    lives: Vec<Life>,
    history: History,
}

impl Stage<'_> {
    fn start(&mut self, n: usize, log: Log, kept: Kept) -> Result<(), String> {
        let config = self.script.config(&self.sim, n, self.script.members);
        let mut record = Record::new(config.id, log, Default::default());
        record.history = self.history.clone();
        self.nodes[n] = Some(Node::start(&self.sim, self.hosts[n], &config, kept, record)?);
        Ok(())
    }

    fn step(&mut self, limit: Time) -> Result<bool, String> {
        let Some(Host(n)) = self.sim.next(limit) else { return Ok(false) };
        if let Some(node) = &mut self.nodes[n] {
            if n == WATCHED.0 {
                self.watch.turn(&self.sim, WATCHED, node)?
            } else {
                node.turn()?
            };
        }
        Ok(true)
    }

    fn run_for(&mut self, ns: u64) -> Result<(), String> {
        let end = self.sim.now().plus_ns(ns);
        while self.step(end)? {}
        Ok(())
    }

    fn run_until(&mut self, what: &str, reached: impl Fn(&[Option<Node>]) -> bool) -> Result<(), String> {
        let end = self.sim.now().plus_ns(PATIENCE_NS);
        while !reached(&self.nodes) {
            if !self.step(end)? {
                return Err(format!("the workload waits in vain: {what}"));
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        let watch = std::mem::take(&mut self.watch);
        if let Some(node) = self.nodes[WATCHED.0].take() {
            self.lives.push(watch.end(node));
        }
    }

    fn propose(&mut self, n: usize, longest: u64) {
        let value = command(self.values + 1, self.values % 16, false);
        let bytes = payload(value, self.random.between(8, longest) as usize);
        if self.nodes[n].as_mut().is_some_and(|node| node.propose(&bytes)) {
            self.values += 1;
        }
    }

    /// Some entries, one after the other or all at once: then batches fill, and writes overlap.
    fn write(&mut self, n: usize, count: u64, at_once: bool, longest: u64) -> Result<(), String> {
        for _ in 0..count {
            self.propose(n, longest);
            // Long enough for a batch to be sealed, or for a write to end.
            let pause_ns = if at_once { 40 * MICROSECOND } else { self.random.between(MILLISECOND / 4, 3 * MILLISECOND) };
            self.run_for(pause_ns)?;
        }
        self.run_until("proposals are answered", |nodes| nodes[n].as_ref().is_none_or(|node| node.outstanding() == 0))
    }

    /// The watched node loses power, or ends in order, and starts again.
    fn restart(&mut self, in_order: bool) -> Result<(), String> {
        if in_order {
            if let Some(node) = &self.nodes[WATCHED.0] {
                node.stop();
            }
            self.sim.ring(WATCHED);
            self.run_until("the node ends", |nodes| nodes[WATCHED.0].as_ref().is_none_or(|node| node.state() == State::Ended))?;
        } else {
            self.sim.power_cut(WATCHED);
        }
        let Some(Point { kept, within, .. }) = self.nodes[WATCHED.0].as_ref().map(moment) else { return Ok(()) };
        self.end();
        let recovered = recover(self.script, &self.sim.disk_for_cut(WATCHED), kept, within)?;
        self.start(WATCHED.0, recovered.log, kept)?;
        if let Some(node) = &self.nodes[WATCHED.0] {
            node.started_within(within);
        }
        // What the first life promised of its term holds on.
        if let Some(node) = &self.nodes[WATCHED.0] {
            node.record.borrow_mut().ballots = vec![recovered.ballot];
            node.record.borrow_mut().promise.ballot = recovered.ballot;
        }
        Ok(())
    }

    fn leader(&mut self, without: Option<usize>) -> Result<usize, String> {
        let leads = |n: usize, node: &Option<Node>| Some(n) != without && node.as_ref().is_some_and(Node::leads);
        self.run_until("somebody leads", |nodes| nodes.iter().enumerate().any(|(n, node)| leads(n, node)))?;
        self.nodes.iter().enumerate().position(|(n, node)| leads(n, node)).ok_or_else(|| "nobody leads".into())
    }

    fn alone(&mut self) -> Result<(), String> {
        for round in 0..self.script.rounds {
            self.leader(None)?;
            self.write(0, 8, false, 600)?;
            self.write(0, 4, false, LONGEST_ENTRY)?;
            self.write(0, 8, true, LONGEST_ENTRY)?;
            if round % 2 == 0 {
                self.write(0, 6, true, 300)?;
            }
            if round + 1 < self.script.rounds {
                if round % 3 != 1 {
                    // Something is under way as the power fails.
                    (0..4).for_each(|_| self.propose(0, LONGEST_ENTRY));
                    self.run_for(MILLISECOND / 2)?;
                }
                self.restart(round % 3 == 1)?;
            }
        }
        Ok(())
    }

    fn together(&mut self) -> Result<(), String> {
        for round in 0..self.script.rounds {
            let leader = if round % 2 == 0 { self.watched_leads()? } else { self.leader(None)? };
            self.write(leader, 5, false, 600)?;
            self.write(leader, 6, true, LONGEST_ENTRY)?;
            // The leader is cut off. What it is given now, another's entries will supersede.
            self.cut_off(leader);
            (0..4).for_each(|_| self.propose(leader, 2_000));
            self.run_for(5 * MILLISECOND)?;
            (0..3).for_each(|_| self.propose(leader, LONGEST_ENTRY));
            let next = self.leader(Some(leader))?;
            self.write(next, 5, false, 2_000)?;
            self.sim.heal();
            self.settle()?;
            if round % 2 == 1 && round + 1 < self.script.rounds {
                self.restart(round % 4 == 3)?;
                self.settle()?;
            }
        }
        Ok(())
    }

    /// The watched node is away while the others write more than they keep, and is sent a snapshot: over a log that merely ends too
    /// early, and over one that holds what was superseded.
    fn away(&mut self) -> Result<(), String> {
        for round in 0..self.script.rounds {
            let first = if round % 2 == 0 { self.watched_leads()? } else { self.leader(None)? };
            self.write(first, 5, false, 600)?;
            self.cut_off(WATCHED.0);
            if first == WATCHED.0 {
                (0..4).for_each(|_| self.propose(WATCHED.0, 2_000));
                self.run_for(5 * MILLISECOND)?;
            }
            let leader = self.leader(Some(WATCHED.0))?;
            for _ in 0..AWAY_BURSTS {
                self.write(leader, 8, true, LONGEST_ENTRY)?;
            }
            self.sim.heal();
            self.settle()?;
            self.write(leader, 3, false, 600)?;
            if round + 1 < self.script.rounds {
                self.restart(round % 4 == 3)?;
                self.settle()?;
            }
        }
        Ok(())
    }

    /// Cuts off whoever leads, until the watched node does.
    fn watched_leads(&mut self) -> Result<usize, String> {
        for _ in 0..MOST_ELECTIONS {
            let leader = self.leader(None)?;
            if leader == WATCHED.0 {
                return Ok(leader);
            }
            self.cut_off(leader);
            self.leader(Some(leader))?;
            self.sim.heal();
            self.settle()?;
        }
        Err("the watched node never leads".into())
    }

    fn cut_off(&self, n: usize) {
        let others: Vec<Host> = self.hosts.iter().copied().filter(|host| host.0 != n).collect();
        self.sim.partition(&[self.hosts[n]], &others);
    }

    /// Until all have applied the same.
    fn settle(&mut self) -> Result<(), String> {
        self.run_until("all are equal", |nodes| {
            let mut applied = nodes.iter().flatten().map(Node::applied);
            let first = applied.next();
            nodes.iter().flatten().all(|node| node.outstanding() == 0) && applied.all(|next| Some(next) == first)
        })
    }
}

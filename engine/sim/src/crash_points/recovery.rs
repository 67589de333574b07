//! A node starts on what a power cut has left: what does it hold, and does it go on?

use kontiki::{Config, Medium, State};

use super::node::{Kept, Node};
use super::record::{Ballot, Entry, Log, Record};
use super::script::{Life, Point, Script, Watch};
use crate::cluster::workload::{command, payload};
use crate::conditions::{Conditions, Delay, MILLISECOND};
use crate::disk::Disk;
use crate::random::Odds;
use crate::sim::Sim;
use crate::world::host::Host;

/// What a node held when it had started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    pub(super) ballot: Ballot,
    pub(super) recovering: bool,
    /// Only what stands behind `from` is known of its entries.
    pub(super) log: Log,
    pub(super) from: u64,
}

/// How many turns a start may take: a bound against waiting for ever.
const MOST_TURNS: u32 = 5_000;
/// Where nothing happens, it is looked at the node this often.
const LOOK_NS: u64 = 10 * MILLISECOND;

/// A number that no workload reaches: commands of recovered nodes.
const FRESH: u64 = 1 << 32;

/// Little takes time, and nothing varies.
fn conditions() -> Conditions {
    let mut conditions = Conditions::calm();
    let soon = Delay::between(1_000, 1_000);
    conditions.disk.transfer = soon;
    (conditions.disk.flush, conditions.disk.metadata) = (soon, soon);
    (conditions.processor.turn, conditions.processor.wake_up) = (soon, soon);
    conditions.processor.partial_turn = Odds::NEVER;
    conditions
}

/// A world of its own for one disk.
struct Bench {
    sim: Sim,
    alone: Config,
    among_peers: Config,
    fresh: u64,
}

const HOST: Host = Host(0);

impl Bench {
    fn new(script: &Script, disk: &Disk) -> Bench {
        let sim = Sim::new(script.seed, conditions());
        for _ in 0..script.members {
            sim.add_host();
        }
        sim.install_disk(HOST, disk.clone());
        let (alone, among_peers) = (script.config(&sim, 0, 1), script.config(&sim, 0, script.members));
        Bench { sim, alone, among_peers, fresh: 0 }
    }

    fn run_until(&self, node: &mut Node, watch: &mut Option<Watch>, mut reached: impl FnMut(&mut Node) -> bool) -> Result<(), String> {
        for _ in 0..MOST_TURNS {
            if reached(node) {
                return Ok(());
            }
            if self.sim.next(self.sim.now().plus_ns(LOOK_NS)).is_some() {
                match watch {
                    Some(watch) => watch.turn(&self.sim, HOST, node)?,
                    None => node.turn()?,
                };
            }
        }
        Err(format!("the node does not come up: {:?}, {} proposals acknowledged", node.state(), node.acknowledged))
    }

    /// The real configuration, with peers that are away: it takes part, and cannot do more.
    fn among_peers(&self, kept: Kept, within: Kept, record: Record, watch: &mut Option<Watch>) -> Result<Node, String> {
        let mut node = Node::start(&self.sim, HOST, &self.among_peers, kept, record)?;
        node.started_within(within);
        self.run_until(&mut node, watch, |node| node.state() == State::Running)?;
        Ok(node)
    }

    /// As the only voter, which commits and applies all that it has, and then one more.
    fn alone(&mut self, kept: Kept, record: Record, watch: &mut Option<Watch>) -> Result<(Node, Entry), String> {
        let mut node = Node::start(&self.sim, HOST, &self.alone, kept, record)?;
        self.fresh += 1;
        let value = command(FRESH + self.fresh, 0, false);
        let bytes = payload(value, 20);
        // It may be told to come again, until there is a segment.
        self.run_until(&mut node, watch, |node| node.leads() && node.propose(&bytes))?;
        self.run_until(&mut node, watch, |node| node.acknowledged == 1)?;
        match node.entries().last() {
            Some(entry) if entry.value == Some(value) => Ok((node, *entry)),
            other => Err(format!("a fresh write was acknowledged, and what was applied last is {other:?}")),
        }
    }

    /// The power fails, and nothing that was not flushed is kept.
    fn cut(&self, node: Node) {
        self.sim.power_cut_with(HOST, |_| false);
        drop(node);
    }
}

/// With which ballot the node came up, and whether as one that recovers.
fn hard_state(node: &Node) -> Result<(Ballot, bool), String> {
    let record = node.record.borrow();
    match (record.ballots.get(1), record.recovering) {
        (Some(ballot), Some(recovering)) => Ok((*ballot, recovering)),
        _ => Err("the node came up without saving its hard state".into()),
    }
}

/// What the state machine starts from where its node is alone. Where others were the majority, it may have applied what its own log
/// does not hold: such a node would fetch it, and has nobody now to fetch it from.
pub(super) fn start_alone(script: &Script, kept: Kept, within: Kept) -> Kept {
    if script.members > 1 { within } else { kept }
}

/// Starts a node on a disk, lets it write, and starts it again. Its state machine has `kept` what it kept, and `within` it of what its own
/// log is known to hold.
pub(super) fn recover(script: &Script, disk: &Disk, kept: Kept, within: Kept) -> Result<Recovered, String> {
    let mut bench = Bench::new(script, disk);
    let mut came_up = None;
    let start = start_alone(script, kept, within);
    if script.members > 1 {
        let node = bench.among_peers(kept, within, Record::new(1, Log::default(), Ballot::default()), &mut None)?;
        came_up = Some(hard_state(&node)?);
        bench.cut(node);
    }
    let (node, fresh) = bench.alone(start, Record::new(1, Log::default(), Ballot::default()), &mut None)?;
    let (ballot, recovering) = hard_state(&node)?;
    if came_up.is_some_and(|(before, _)| before != ballot) {
        return Err(format!("it came up with {came_up:?}, and once more with {ballot:?}"));
    }
    let recovering = came_up.map_or(recovering, |(_, recovering)| recovering);
    let mut entries = node.entries();
    let again = if script.durable_state { Vec::new() } else { entries.clone() };
    entries.pop();
    let kept_again = node.kept();
    bench.cut(node);
    // Before the fresh write stands the no-op of the term it was made in.
    let last = fresh.index.checked_sub(2).ok_or("a fresh write took the place of a no-op")?;
    let (node, fresh_again) = bench.alone(kept_again, Record::new(1, Log::default(), Ballot::default()), &mut None)?;
    let mut entries_again = node.entries();
    entries_again.pop();
    bench.cut(node);
    if entries_again != again || fresh_again.index != fresh.index + 2 {
        return Err(format!("a second start disagrees: {entries_again:?} and then {fresh_again:?}, after {again:?}"));
    }
    Ok(Recovered { ballot, recovering, log: Log { last, entries }, from: start.unwrap_or_default().index.0 })
}

/// The same start once more, as a life of its own with crash points.
pub(super) fn life_of(script: &Script, disk: &Disk, kept: Kept, within: Kept, recovered: &Recovered) -> Result<Life, String> {
    let mut bench = Bench::new(script, disk);
    bench.sim.keep_crash_points(HOST);
    let record = Record::new(1, recovered.log.clone(), recovered.ballot);
    let mut watch = Some(Watch::default());
    let node =
        if script.members > 1 { bench.among_peers(kept, within, record, &mut watch)? } else { bench.alone(kept, record, &mut watch)?.0 };
    Ok(watch.unwrap_or_default().end(node))
}

/// Holds what a node recovered against what was promised by the moment of the cut.
pub(super) fn check(script: &Script, record: &Record, point: &Point, recovered: &Recovered) -> Result<(), String> {
    let Recovered { ballot, recovering, log, from } = recovered;
    let promised = point.promise.ballot;
    let kept = ballot.term > promised.term || ballot.term == promised.term && (promised.vote == 0 || ballot.vote == promised.vote);
    if !kept {
        return Err(format!("{ballot:?}, and it had said that it was at {promised:?}"));
    }
    if !record.ballots.get(..point.ballots).unwrap_or_default().contains(ballot) {
        return Err(format!("{ballot:?}, which it never was at"));
    }
    if *recovering && (script.members == 1 || script.medium == Medium::Safe) {
        return Err("it believes that it has lost something".into());
    }
    let logs = record.logs.get(point.promise.frames..=point.frames).unwrap_or_default();
    if logs.iter().any(|written| written.last == log.last && written.after(*from) == log.entries) {
        return Ok(());
    }
    let ends: Vec<u64> = logs.iter().map(|log| log.last).collect();
    let written = logs.iter().rev().find(|written| written.last == log.last);
    let differs = written.and_then(|written| written.after(*from).iter().zip(&log.entries).find(|(wrote, held)| wrote != held));
    Err(match differs {
        Some((wrote, held)) => format!("it holds {held:?}, and {wrote:?} was written"),
        None => format!(
            "its log ends at {} with {} entries behind {from}, and those it may have after what was promised end at {ends:?}",
            log.last,
            log.entries.len()
        ),
    })
}

//! What carries snapshots between the nodes of a random world, as the engine does: offered, judged, fetched, judged
//! again, durable under its name, told to the core; the state machine gets it at any time after that.

use kontiki_core::{Event, LogIndex, NodeId, Role, Verdict};

use super::Cluster;
use super::node::{Snapshot, base_of};
use super::world::Dice;

/// How far one snapshot is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Offered,
    Fetching,
    /// Durable under its name. The core is told once the log can begin anew.
    Named,
}

#[derive(Clone, Debug)]
struct Transfer {
    to: NodeId,
    snapshot: Snapshot,
    stage: Stage,
}

/// What happened, so that a test can see that it tested something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) written: u64,
    pub(crate) released: u64,
    pub(crate) offered: u64,
    pub(crate) installed: u64,
    /// Installed by a node that stood for election.
    pub(crate) candidates: u64,
    /// Whose log, or part of it, was given up.
    pub(crate) conflicts: u64,
    /// Starts that had to end an installation.
    pub(crate) cut_short: u64,
    /// Starts without a base.
    pub(crate) baseless: u64,
    /// Nodes that lost their base while they ran.
    pub(crate) lost_running: u64,
    /// Logs that began anew.
    pub(crate) rebased: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.written += other.written;
        self.released += other.released;
        self.offered += other.offered;
        self.installed += other.installed;
        self.candidates += other.candidates;
        self.conflicts += other.conflicts;
        self.cut_short += other.cut_short;
        self.baseless += other.baseless;
        self.lost_running += other.lost_running;
        self.rebased += other.rebased;
    }
}

impl Tally {
    /// What came since.
    pub(crate) fn since(&self, before: &Tally) -> Tally {
        Tally {
            written: self.written - before.written,
            released: self.released - before.released,
            offered: self.offered - before.offered,
            installed: self.installed - before.installed,
            candidates: self.candidates - before.candidates,
            conflicts: self.conflicts - before.conflicts,
            cut_short: self.cut_short - before.cut_short,
            baseless: self.baseless - before.baseless,
            lost_running: self.lost_running - before.lost_running,
            rebased: self.rebased - before.rebased,
        }
    }
}

/// The snapshots that are under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carrier {
    transfers: Vec<Transfer>,
    pub(crate) tally: Tally,
}

impl Carrier {
    /// A node writes a snapshot, lets go of log, goes on with a fetch, gives its state machine what it waits for.
    pub(crate) fn act(&mut self, cluster: &mut Cluster, id: NodeId, dice: &mut Dice) {
        self.take_offers(cluster);
        let up = cluster.node(id).raft.is_some();
        match dice.roll(10) {
            0..2 if up => self.write(cluster, id),
            2..4 if up => self.release(cluster, id, dice.chance(70)),
            4 if up => cluster.node_mut(id).restore(),
            5 if up && dice.chance(20) => self.offer_unasked(cluster, id, dice),
            _ => {
                if let Some(at) = dice.pick(self.transfers.len()) {
                    self.advance(cluster, at);
                }
            }
        }
    }

    pub(crate) fn write(&mut self, cluster: &mut Cluster, id: NodeId) {
        let node = cluster.node_mut(id);
        let newest = node.snapshots.last().map_or(0, Vec::len);
        node.take_snapshot();
        self.tally.written += u64::from(node.snapshots.last().map_or(0, Vec::len) > newest);
    }

    pub(crate) fn release(&mut self, cluster: &mut Cluster, id: NodeId, durably: bool) {
        let before = cluster.node(id).compacted;
        cluster.release(id, durably);
        self.tally.released += u64::from(cluster.node(id).compacted > before);
    }

    /// Any state of any node is offered to any other, as if by an offer that was long under way. What is committed
    /// contradicts nothing.
    fn offer_unasked(&mut self, cluster: &Cluster, from: NodeId, dice: &mut Dice) {
        let machine = &cluster.node(from).machine;
        if let Some(length) = dice.pick(machine.len()) {
            let to = NodeId(1 + dice.roll(cluster.nodes.len() as u64));
            self.transfers.push(Transfer { to, snapshot: machine[..=length].to_vec(), stage: Stage::Offered });
        }
    }

    /// What the cores asked for since is under way: the newest snapshot that the log goes on from, or one made now.
    pub(crate) fn take_offers(&mut self, cluster: &mut Cluster) {
        for id in cluster.ids() {
            let node = cluster.node_mut(id);
            for (to, first) in std::mem::take(&mut node.offers) {
                let serves = |snapshot: &Snapshot| snapshot.len() as u64 + 1 >= first.0;
                if !node.snapshots.last().is_some_and(serves) {
                    node.take_snapshot();
                }
                if let Some(snapshot) = node.snapshots.last().filter(|snapshot| serves(snapshot)).cloned() {
                    self.tally.offered += 1;
                    self.transfers.push(Transfer { to, snapshot, stage: Stage::Offered });
                }
            }
        }
        // The oldest get lost, but what is on the disk already.
        let mut lost = self.transfers.len().saturating_sub(8);
        self.transfers.retain(|transfer| {
            let kept = lost == 0 || transfer.stage == Stage::Named;
            lost -= usize::from(!kept);
            kept
        });
    }

    /// One transfer goes on by a step, or ends.
    pub(crate) fn advance(&mut self, cluster: &mut Cluster, at: usize) {
        let Transfer { to, snapshot, stage } = self.transfers.swap_remove(at);
        if !self.is_wanted(cluster, to, &snapshot, stage) {
            return;
        }
        let mut next = |stage| self.transfers.push(Transfer { to, snapshot: snapshot.clone(), stage });
        match stage {
            Stage::Offered => next(Stage::Fetching),
            Stage::Fetching => {
                cluster.oracle.snapshot(&snapshot);
                cluster.node_mut(to).keep(snapshot.clone());
                next(Stage::Named);
            }
            Stage::Named => {
                let node = cluster.node(to);
                let (raft, rebased) = (node.raft.as_ref().unwrap(), node.rebased);
                self.tally.candidates += u64::from(matches!(raft.role(), Role::PreCandidate | Role::Candidate));
                let longer = raft.last_index().0 > snapshot.len() as u64;
                cluster.installed(to, Event::Installed { base: base_of(&snapshot) });
                self.tally.installed += 1;
                let rebased = cluster.node(to).rebased - rebased;
                self.tally.rebased += rebased;
                self.tally.conflicts += u64::from(longer) * rebased;
            }
        }
    }

    /// Whether a node is up, and its core lets it take a snapshot of which it lacks something.
    fn is_wanted(&self, cluster: &Cluster, to: NodeId, snapshot: &Snapshot, stage: Stage) -> bool {
        let node = cluster.node(to);
        let Some(raft) = &node.raft else { return false };
        let kept = node.would_keep(snapshot);
        match raft.judge_snapshot(base_of(snapshot)) {
            Verdict::Takes { log } => kept && (stage == Stage::Named || log || raft.needs_base() || node.machine.len() < snapshot.len()),
            Verdict::Contradicts => {
                let excused = raft.needs_base() || raft.role() == Role::Leader || cluster.oracle.forged;
                assert!(excused, "what is committed, {}, contradicts {}", base_of(snapshot), node.state());
                false
            }
        }
    }

    /// A node stops: what it was fetching is gone, or goes on after the next start; the files are on its disk.
    pub(crate) fn stopped(&mut self, id: NodeId, forgets: bool) {
        self.transfers.retain(|transfer| transfer.to != id || (transfer.stage == Stage::Fetching && !forgets));
    }

    /// A node's files are lost.
    pub(crate) fn lost(&mut self, id: NodeId) {
        self.transfers.retain(|transfer| transfer.to != id || transfer.stage != Stage::Named);
    }

    pub(crate) fn starts(&mut self, cluster: &Cluster, id: NodeId) {
        self.tally.baseless += u64::from(!cluster.node(id).is_reached());
        let node = cluster.node(id);
        let newest = node.snapshots.last().filter(|newest| newest.len() as u64 >= node.disk.begins.prev().0);
        self.tally.cut_short += u64::from(newest.is_some_and(|newest| node.disk.log.get(newest.len() - 1) != newest.last()));
    }

    /// How many snapshots are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.transfers.len()
    }

    /// Everything that is under way arrives, and every state machine has its state.
    pub(crate) fn settle(&mut self, cluster: &mut Cluster) {
        self.take_offers(cluster);
        while !self.transfers.is_empty() {
            self.advance(cluster, 0);
        }
        for id in cluster.ids() {
            cluster.node_mut(id).restore();
        }
    }

    /// How far all have what is committed, by what they hold and not by what they say.
    pub(crate) fn applied_by_all(cluster: &Cluster) -> LogIndex {
        LogIndex(cluster.nodes.iter().map(|node| node.machine.len() as u64).min().unwrap_or(0))
    }
}

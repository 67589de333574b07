//! One whole node that is watched: reactor, log, transport and core over a recorded [`SimIo`], with a state machine that notes what it is given.

use std::cell::RefCell;
use std::io::Cursor;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kontiki::{
    ApplyError, Config, Entries, EntryId, LogIndex, Proposer, Reactor, Replies, Restore, Role, SnapshotError, SnapshotSource, State,
    StateMachine, Ticket,
};

use super::record::{Entry, History, Log, Record, Scribe};
use crate::recording::Recording;
use crate::sim::Sim;
use crate::world::host::Host;
use crate::world::sim_io::SimIo;

/// What a state machine was given.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// What it had applied when it started.
    start: EntryId,
    /// Of that, what its node's own log was known to hold.
    within: EntryId,
    pub(super) entries: Vec<Entry>,
    durable: bool,
    /// It makes snapshots: of all that it was given.
    snapshots: bool,
    /// What every node of the workload was given.
    history: History,
    /// What has come of a snapshot that is being restored, and what it is as of.
    coming: (EntryId, Vec<u8>),
}

#[derive(Debug)]
struct Machine(Arc<Mutex<Applied>>);

impl Applied {
    /// The last entry applied, of those up to `index`.
    fn last(&self, index: u64) -> EntryId {
        let within = self.entries.iter().rev().map(Entry::id).find(|id| id.index.0 <= index);
        // A restored one starts with what the snapshot is as of: entries of the engine's own may stand there.
        let start = Some(self.start).filter(|start| start.index.0 <= index);
        within.into_iter().chain(start).max_by_key(|id| id.index).unwrap_or_default()
    }
}

fn lock(applied: &Mutex<Applied>) -> MutexGuard<'_, Applied> {
    applied.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateMachine for Machine {
    fn apply(&mut self, entries: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
        let mut applied = lock(&self.0);
        for entry in entries {
            let entry = Entry::new(entry.index, entry.term, entry.payload);
            applied.entries.push(entry);
            applied.history.note(entry);
        }
        Ok(())
    }

    fn applied(&self) -> EntryId {
        lock(&self.0).last(u64::MAX)
    }

    fn durable(&self) -> LogIndex {
        let applied = lock(&self.0);
        if applied.durable { applied.last(u64::MAX).index } else { LogIndex(0) }
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        let applied = lock(&self.0);
        if !applied.snapshots {
            return Err(SnapshotError::NotSupported);
        }
        Ok(Box::new(Cursor::new(applied.entries.iter().flat_map(|entry| entry.to_bytes()).collect::<Vec<u8>>())))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        let mut applied = lock(&self.0);
        match part {
            Restore::Begin { index, term, bytes: _ } => applied.coming = (EntryId { index, term }, Vec::new()),
            Restore::Chunk(bytes) => applied.coming.1.extend_from_slice(bytes),
            Restore::End => {
                let (at, bytes) = std::mem::take(&mut applied.coming);
                applied.entries = bytes.as_chunks().0.iter().map(Entry::from_bytes).collect();
                applied.start = at;
            }
        }
        Ok(())
    }
}

/// The state machine's own disk: nothing, or the last entry it has applied.
pub(super) type Kept = Option<EntryId>;

/// A node that runs.
pub(super) struct Node {
    pub(super) record: Rc<RefCell<Record>>,
    reactor: Reactor<Recording<SimIo, Scribe>, Machine>,
    proposer: Proposer,
    applied: Arc<Mutex<Applied>>,
    sole: bool,
    tickets: Vec<Ticket>,
    /// Proposals that were acknowledged.
    pub(super) acknowledged: usize,
}

impl Node {
    /// Starts a node on `host`, with a state machine that has kept what it kept.
    pub(super) fn start(sim: &Sim, host: Host, config: &Config, kept: Kept, record: Record) -> Result<Node, String> {
        let (history, snapshots) = (record.history.clone(), config.snapshot_log_bytes > 0);
        let record = Rc::new(RefCell::new(record));
        let io = Recording::new(sim.boot(host), Scribe(Rc::clone(&record)));
        let applied = Applied { start: kept.unwrap_or_default(), durable: kept.is_some(), snapshots, history, ..Applied::default() };
        let applied = Arc::new(Mutex::new(applied));
        let reactor = Reactor::new(config.clone(), io, Machine(Arc::clone(&applied))).map_err(|error| error.to_string())?;
        let proposer = reactor.proposer();
        Ok(Node { record, reactor, proposer, applied, sole: config.members.len() == 1, tickets: Vec::new(), acknowledged: 0 })
    }

    /// One turn; of what was acknowledged in it, the record hears.
    pub(super) fn turn(&mut self) -> Result<State, String> {
        let state = self.reactor.turn(Duration::MAX).map_err(|error| format!("the node stopped: {error}"))?;
        let mut promised = if self.sole { lock(&self.applied).last(u64::MAX).index.0 } else { 0 };
        let mut acknowledged = 0;
        self.tickets.retain(|ticket| {
            let Some(outcome) = ticket.poll() else { return true };
            if let Ok(applied) = outcome {
                acknowledged += 1;
                promised = promised.max(applied.index.0);
            }
            false
        });
        self.acknowledged += acknowledged;
        // Elsewhere a majority holds it, and this node need not.
        if self.sole {
            self.record.borrow_mut().promised(promised);
        }
        Ok(state)
    }

    pub(super) fn state(&self) -> State {
        self.reactor.state()
    }

    pub(super) fn leads(&self) -> bool {
        matches!(self.reactor.standing(), Some((Role::Leader, _)))
    }

    /// Whether the node took the proposal.
    pub(super) fn propose(&mut self, payload: &[u8]) -> bool {
        let taken = self.proposer.propose(payload);
        taken.is_ok_and(|ticket| {
            self.tickets.push(ticket);
            true
        })
    }

    pub(super) fn outstanding(&self) -> usize {
        self.tickets.len()
    }

    pub(super) fn stop(&self) {
        self.reactor.stop();
    }

    /// The index of the last entry that the machine was given, by itself or in a snapshot.
    pub(super) fn applied(&self) -> u64 {
        let applied = lock(&self.applied);
        applied.entries.last().map_or(applied.start.index.0, |entry| entry.index)
    }

    /// What of that which the state machine started with the log was known to hold.
    pub(super) fn started_within(&self, within: Kept) {
        lock(&self.applied).within = within.unwrap_or_default();
    }

    /// What a durable state machine has on its own disk now.
    pub(super) fn kept(&self) -> Kept {
        let applied = lock(&self.applied);
        applied.durable.then(|| applied.last(u64::MAX))
    }

    /// The same, of one that has applied nothing behind the end of `log`, which is a beginning of what this node's log held.
    pub(super) fn kept_within(&self, log: &Log) -> Kept {
        let applied = lock(&self.applied);
        let ahead = applied.start.index.0 > log.last;
        let before = || log.entries.last().map_or(applied.within, Entry::id);
        applied.durable.then(|| if ahead { before() } else { applied.last(log.last) })
    }

    /// What was applied since the start.
    pub(super) fn entries(&self) -> Vec<Entry> {
        lock(&self.applied).entries.clone()
    }
}

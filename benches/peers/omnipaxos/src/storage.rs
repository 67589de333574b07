//! What omnipaxos reads back: the entries not yet trimmed, in memory, and what has yet to be written of them.
//!
//! Its storage trait is synchronous: a call that waited for the disk would hold up the protocol. So a call changes
//! memory and encodes what must be durable; the protocol thread gives it to the log, and keeps back what
//! depends on it. See `durability.rs`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::macros::Entry;
use omnipaxos::storage::{NoSnapshot, StopSign, Storage, StorageOp, StorageResult};
use peer_common::{Payload, log, wire};
use serde::{Deserialize, Serialize};

/// An entry.
#[derive(Clone, Debug, Entry, Serialize, Deserialize)]
pub struct Command(pub Payload);

/// A record of the log.
#[derive(Serialize)]
enum Record<'a> {
    /// Entry at an index.
    Entry(usize, &'a Payload),
    /// The log ends here; what follows replaces what was behind.
    Truncated(usize),
    Promised(Ballot),
    Accepted(Ballot),
}

/// What is to be written.
#[derive(Default)]
pub struct Pending {
    /// Records, encoded.
    pub records: Vec<u8>,
    /// Length of the log after them.
    pub len: usize,
    /// The shortest prefix that stayed as it was since the last time.
    pub cut: Option<usize>,
}

#[derive(Default)]
struct Memory {
    entries: VecDeque<Command>,
    trimmed: usize,
    promise: Option<Ballot>,
    accepted: Option<Ballot>,
    decided: usize,
    stopsign: Option<StopSign>,
    pending: Pending,
}

impl Memory {
    fn len(&self) -> usize {
        self.trimmed + self.entries.len()
    }

    fn record(&mut self, record: &Record<'_>) {
        log::record(&mut self.pending.records, |out| wire::encode(out, record));
    }

    fn append(&mut self, entry: Command) {
        let at = self.len();
        log::record(&mut self.pending.records, |out| wire::encode(out, &Record::Entry(at, &entry.0)));
        self.entries.push_back(entry);
    }

    fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.entries.truncate(len.saturating_sub(self.trimmed));
            self.pending.cut = Some(self.pending.cut.map_or(len, |cut| cut.min(len)));
            self.record(&Record::Truncated(len));
        }
    }

    fn trim(&mut self, to: usize) {
        self.entries.drain(..to.saturating_sub(self.trimmed).min(self.entries.len()));
        self.trimmed = self.trimmed.max(to);
    }

    fn range(&self, from: usize, to: usize) -> impl Iterator<Item = &Command> {
        let within = |index: usize| index.saturating_sub(self.trimmed).min(self.entries.len());
        let (from, to) = (within(from), within(to));
        self.entries.range(from..to.max(from))
    }
}

/// A handle: one is the engine's, one the protocol thread's.
#[derive(Clone, Default)]
pub struct Recent(Rc<RefCell<Memory>>);

impl Recent {
    /// Takes what is to be written into `out`, which comes empty; false if there is nothing.
    pub fn take_pending(&self, out: &mut Pending) -> bool {
        let mut memory = self.0.borrow_mut();
        if memory.pending.records.is_empty() {
            return false;
        }
        std::mem::swap(&mut memory.pending, out);
        out.len = memory.len();
        true
    }

    /// Looks at entries in place.
    pub fn apply(&self, from: usize, to: usize, apply: impl FnMut(&Command)) {
        self.0.borrow().range(from, to).for_each(apply);
    }
}

impl Storage<Command> for Recent {
    fn write_atomically(&mut self, ops: Vec<StorageOp<Command>>) -> StorageResult<()> {
        // All changes between two writes reach the disk in one frame, or none does.
        for op in ops {
            match op {
                StorageOp::AppendEntry(entry) => self.append_entry(entry)?,
                StorageOp::AppendEntries(entries) => self.append_entries(entries)?,
                StorageOp::AppendOnPrefix(from, entries) => self.append_on_prefix(from, entries)?,
                StorageOp::SetPromise(ballot) => self.set_promise(ballot)?,
                StorageOp::SetDecidedIndex(index) => self.set_decided_idx(index)?,
                StorageOp::SetAcceptedRound(ballot) => self.set_accepted_round(ballot)?,
                StorageOp::SetCompactedIdx(index) => self.set_compacted_idx(index)?,
                StorageOp::Trim(index) => self.trim(index)?,
                StorageOp::SetStopsign(sign) => self.set_stopsign(sign)?,
                StorageOp::SetSnapshot(snapshot) => self.set_snapshot(snapshot)?,
            }
        }
        Ok(())
    }

    fn append_entry(&mut self, entry: Command) -> StorageResult<()> {
        self.0.borrow_mut().append(entry);
        Ok(())
    }

    fn append_entries(&mut self, entries: Vec<Command>) -> StorageResult<()> {
        let mut memory = self.0.borrow_mut();
        entries.into_iter().for_each(|e| memory.append(e));
        Ok(())
    }

    fn append_on_prefix(&mut self, from: usize, entries: Vec<Command>) -> StorageResult<()> {
        self.0.borrow_mut().truncate(from);
        self.append_entries(entries)
    }

    fn set_promise(&mut self, ballot: Ballot) -> StorageResult<()> {
        let mut memory = self.0.borrow_mut();
        memory.promise = Some(ballot);
        memory.record(&Record::Promised(ballot));
        Ok(())
    }

    fn set_decided_idx(&mut self, index: usize) -> StorageResult<()> {
        // Found again from the others after a start.
        self.0.borrow_mut().decided = index;
        Ok(())
    }

    fn get_decided_idx(&self) -> StorageResult<usize> {
        Ok(self.0.borrow().decided)
    }

    fn set_accepted_round(&mut self, ballot: Ballot) -> StorageResult<()> {
        let mut memory = self.0.borrow_mut();
        memory.accepted = Some(ballot);
        // Nothing is accepted in this round before the round itself is durable.
        memory.pending.cut = Some(0);
        memory.record(&Record::Accepted(ballot));
        Ok(())
    }

    fn get_accepted_round(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.0.borrow().accepted)
    }

    fn get_entries(&self, from: usize, to: usize) -> StorageResult<Vec<Command>> {
        Ok(self.0.borrow().range(from, to).cloned().collect())
    }

    fn get_log_len(&self) -> StorageResult<usize> {
        Ok(self.0.borrow().entries.len())
    }

    fn get_suffix(&self, from: usize) -> StorageResult<Vec<Command>> {
        self.get_entries(from, usize::MAX)
    }

    fn get_promise(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.0.borrow().promise)
    }

    fn set_stopsign(&mut self, sign: Option<StopSign>) -> StorageResult<()> {
        self.0.borrow_mut().stopsign = sign;
        Ok(())
    }

    fn get_stopsign(&self) -> StorageResult<Option<StopSign>> {
        Ok(self.0.borrow().stopsign.clone())
    }

    fn trim(&mut self, to: usize) -> StorageResult<()> {
        self.0.borrow_mut().trim(to);
        Ok(())
    }

    fn set_compacted_idx(&mut self, to: usize) -> StorageResult<()> {
        self.0.borrow_mut().trim(to);
        Ok(())
    }

    fn get_compacted_idx(&self) -> StorageResult<usize> {
        Ok(self.0.borrow().trimmed)
    }

    fn set_snapshot(&mut self, _: Option<NoSnapshot>) -> StorageResult<()> {
        Ok(())
    }

    fn get_snapshot(&self) -> StorageResult<Option<NoSnapshot>> {
        Ok(None)
    }
}

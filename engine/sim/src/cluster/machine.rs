//! The state machine that the simulated nodes replicate: a table of registers, and a ledger of what it applied, for the judge.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kontiki::{ApplyError, Entries, EntryId, LogIndex, Replies, StateMachine};

use crate::cluster::workload::{REGISTERS, is_read, key_of, value_of};
use crate::judge::linearize::INITIAL;

/// One entry as a replica applied it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) value: u64,
    /// The payload was just as proposed.
    pub(crate) intact: bool,
}

#[derive(Debug, Default)]
struct Kept {
    /// Last entry applied.
    applied: EntryId,
    /// What was written last to each register.
    registers: [u64; REGISTERS],
    news: Vec<Applied>,
}

impl Kept {
    /// Carries a command out: a read is answered with what is there, a write with what it wrote.
    fn carry_out(&mut self, value: u64) -> u64 {
        match self.registers.get_mut(key_of(value) as usize) {
            Some(register) if is_read(value) => *register,
            Some(register) => {
                *register = value;
                value
            }
            None => unreachable!("a key is below the number of registers"),
        }
    }
}

/// What a machine did, shared with whoever watches. With `durable`, it is the machine's own disk as well: a restarted
/// machine goes on from there.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    kept: Arc<Mutex<Kept>>,
    durable: bool,
}

impl Ledger {
    pub(crate) fn new(durable: bool) -> Ledger {
        Ledger { kept: Arc::default(), durable }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was applied since this was asked last.
    pub(crate) fn news(&self) -> Vec<Applied> {
        std::mem::take(&mut self.kept().news)
    }

    /// The index that a machine starting now begins after.
    pub(crate) fn start(&self) -> u64 {
        let mut kept = self.kept();
        kept.news.clear();
        if !self.durable {
            (kept.applied, kept.registers) = (EntryId::default(), [INITIAL; REGISTERS]);
        }
        kept.applied.index.0
    }
}

#[derive(Debug)]
pub(crate) struct Machine(pub(crate) Ledger);

impl StateMachine for Machine {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        let mut kept = self.0.kept();
        for entry in entries {
            let (value, intact) = value_of(entry.payload);
            kept.applied = entry.id();
            kept.news.push(Applied { index: entry.index.0, term: entry.term.0, value, intact });
            let reply = kept.carry_out(value);
            replies.push(&reply.to_le_bytes());
        }
        Ok(())
    }

    fn applied(&self) -> EntryId {
        self.0.kept().applied
    }

    fn durable(&self) -> LogIndex {
        if self.0.durable { self.0.kept().applied.index } else { LogIndex(0) }
    }
}

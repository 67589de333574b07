//! The state machine of the node under test: it says what it is given, and is as durable as the script says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kontiki_core::{EntryId, LogIndex};

use super::words;
use crate::state_machine::{ApplyError, Entries, Replies, Restore, SnapshotError, SnapshotSource, StateMachine};

/// How far a snapshot of it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Whole,
    Nothing,
    /// Not to its end: a MiB comes before.
    Most,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) applied: EntryId,
    /// As of which entry a snapshot is on its way into it.
    coming: EntryId,
    /// And how much of it there is, in bytes.
    come: usize,
    /// What it calls durable: `None`, whatever it has applied.
    pub(super) durable: Option<LogIndex>,
    /// Its snapshots: `None`, it makes none; else how far they can be read.
    pub(super) snapshots: Option<Reading>,
    /// What each call takes, in ns.
    pub(super) takes: u64,
    /// What it did, for the script.
    pub(super) trace: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    memory: Arc<Mutex<Memory>>,
    /// Time that went by while it worked and that the clock has not shown yet, in ns.
    pub(super) spent: Arc<AtomicU64>,
}

impl Machine {
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives so many bytes, and then fails.
struct Unreadable(usize);

impl SnapshotSource for Unreadable {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SnapshotError> {
        let bytes = self.0.min(into.len());
        self.0 -= bytes;
        if bytes == 0 { Err(SnapshotError::Failed("it was told to".into())) } else { Ok(bytes) }
    }
}

impl StateMachine for Machine {
    /// Replies to `a` with `re:a`. The entry `fail` fails it, the entry `panic` does what it says.
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        let mut memory = self.memory();
        self.spent.fetch_add(memory.takes, Ordering::Relaxed);
        let mut names = Vec::new();
        let mut first = None;
        for entry in entries {
            first.get_or_insert(entry.index);
            let name = words::name_of(entry.payload);
            assert!(entry.index >= memory.applied.index.next(), "{} is applied twice", entry.index);
            if name == "fail" {
                return Err(ApplyError("it was told to".into()));
            }
            if name == "panic" {
                drop(memory);
                panic!("it was told to");
            }
            memory.applied = entry.id();
            replies.push(format!("re:{name}").as_bytes());
            names.push(name);
        }
        if let Some(first) = first {
            let line = format!("apply {first}..{}: {}", memory.applied.index, words::brief(&names));
            memory.trace.push(line);
        }
        Ok(())
    }

    fn applied(&self) -> EntryId {
        self.memory().applied
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        let mut memory = self.memory();
        let reading = memory.snapshots.ok_or(SnapshotError::NotSupported)?;
        let index = memory.applied.index;
        memory.trace.push(format!("snapshot as of {index}"));
        Ok(match reading {
            Reading::Whole => Box::new(std::io::Cursor::new(index.0.to_le_bytes())),
            Reading::Nothing => Box::new(Unreadable(0)),
            Reading::Most => Box::new(Unreadable(1 << 20)),
        })
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        let mut memory = self.memory();
        match part {
            Restore::Begin { index, term, .. } => (memory.coming, memory.come) = (EntryId { index, term }, 0),
            Restore::Chunk(bytes) => memory.come += bytes.len(),
            Restore::End => {
                memory.applied = memory.coming;
                let line = format!("restored as of {}@{}, {} bytes", memory.applied.index, memory.applied.term, memory.come);
                memory.trace.push(line);
            }
        }
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        let memory = self.memory();
        memory.durable.unwrap_or(memory.applied.index)
    }
}

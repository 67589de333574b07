//! What raft-rs reads back: the entries not yet compacted, in memory. Their durable copy is in the log.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

/// Entries from `first` on.
pub struct Recent {
    hard: HardState,
    members: ConfState,
    entries: VecDeque<Entry>,
    first: u64,
    /// Term of the entry before `first`.
    term_before: u64,
}

impl Recent {
    /// An empty log of a cluster with these voters.
    pub fn new(voters: &[u64]) -> Recent {
        let members = ConfState { voters: voters.to_vec(), ..ConfState::default() };
        Recent { hard: HardState::default(), members, entries: VecDeque::new(), first: 1, term_before: 0 }
    }

    /// Term, vote and commit index.
    pub fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    /// Appends entries; those they contradict go.
    pub fn append(&mut self, entries: Vec<Entry>) {
        if let Some(from) = entries.first() {
            self.entries.truncate(from.index.saturating_sub(self.first) as usize);
        }
        self.entries.extend(entries);
    }

    /// Drops entries up to and with `index`.
    pub fn compact(&mut self, index: u64) {
        while self.first <= index {
            let Some(entry) = self.entries.pop_front() else { return };
            self.term_before = entry.term;
            self.first += 1;
        }
    }

    fn at(&self, index: u64) -> raft::Result<usize> {
        index.checked_sub(self.first).map(|n| n as usize).ok_or(Error::Store(StorageError::Compacted))
    }
}

impl Storage for Recent {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.members.clone() })
    }

    fn entries(&self, low: u64, high: u64, max: impl Into<Option<u64>>, _: GetEntriesContext) -> raft::Result<Vec<Entry>> {
        let (from, to) = (self.at(low)?, self.at(high)?);
        if to > self.entries.len() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let mut all: Vec<Entry> = self.entries.range(from..to).cloned().collect();
        raft::util::limit_size(&mut all, max.into());
        Ok(all)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index + 1 == self.first {
            return Ok(self.term_before);
        }
        self.entries.get(self.at(index)?).map(|e| e.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.first + self.entries.len() as u64 - 1)
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        // The leader compacts what all have: nobody needs one.
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

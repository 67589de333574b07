//! What openraft reads back: the entries not yet purged, in memory. Their durable copy is in the log.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::{OptionalSend, RaftLogReader};
use peer_common::{Log, log, wire};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::Types;

/// A record of the log.
#[derive(Serialize)]
enum Record<'a> {
    Entry(&'a EntryOf<Types>),
    Vote(&'a VoteOf<Types>),
    /// The log ends here; what follows replaces what was behind.
    Truncated(Option<LogIdOf<Types>>),
}

#[derive(Default)]
struct Memory {
    entries: VecDeque<EntryOf<Types>>,
    /// Index of the first of them.
    first: u64,
    purged: Option<LogIdOf<Types>>,
    vote: Option<VoteOf<Types>>,
}

/// The log; a handle.
#[derive(Clone)]
pub(crate) struct Recent {
    memory: Arc<Mutex<Memory>>,
    log: Arc<Log>,
}

impl Recent {
    /// An empty log.
    pub(crate) fn new(log: Log) -> Recent {
        Recent { memory: Arc::default(), log: Arc::new(log) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record and waits until it is durable.
    async fn write(&self, record: &Record<'_>) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        // If nobody waits any more, the node has ended.
        self.log.append(0, |out| write(out, record), move || sender.send(()).unwrap_or_default());
        receiver.await.map_err(io::Error::other)
    }
}

fn write(out: &mut Vec<u8>, value: &Record<'_>) {
    log::record(out, |out| wire::encode(out, value));
}

impl RaftLogReader<Types> for Recent {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<EntryOf<Types>>> {
        let memory = self.memory();
        let end = memory.first + memory.entries.len() as u64;
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => end,
        };
        let from = from.clamp(memory.first, end);
        let within = (from - memory.first) as usize..(to.clamp(from, end) - memory.first) as usize;
        Ok(memory.entries.range(within).cloned().collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<Types> for Recent {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let memory = self.memory();
        let last = memory.entries.back().map(|e| e.log_id()).or(memory.purged);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        self.write(&Record::Vote(vote)).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut memory = self.memory();
        let from = memory.entries.len();
        memory.entries.extend(entries);
        let last = memory.entries.back().map_or(0, |e| e.index());
        let encode = |out: &mut Vec<u8>| memory.entries.range(from..).for_each(|entry| write(out, &Record::Entry(entry)));
        self.log.append(last, encode, move || callback.io_completed(Ok(())));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        {
            let mut memory = self.memory();
            let keep = last.map_or(0, |l| l.index() + 1).saturating_sub(memory.first);
            memory.entries.truncate(keep as usize);
        }
        self.write(&Record::Truncated(last)).await
    }

    async fn purge(&mut self, to: LogIdOf<Types>) -> io::Result<()> {
        let mut memory = self.memory();
        let count = (to.index() + 1).saturating_sub(memory.first) as usize;
        let there = count.min(memory.entries.len());
        memory.entries.drain(..there);
        memory.first = memory.first.max(to.index() + 1);
        memory.purged = Some(to);
        self.log.keep_from(memory.first);
        Ok(())
    }
}

//! The state machine of a bench: it counts.

use kontiki::{ApplyError, Entries, LogIndex, Replies, StateMachine};

/// What it has counted is never needed again, so it calls it durable at once, and the log is recycled as with a product
/// that takes snapshots.
#[derive(Debug, Default)]
pub(super) struct Counter {
    count: u64,
    last: LogIndex,
}

impl StateMachine for Counter {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            self.count += 1;
            self.last = entry.index;
            replies.push(&self.count.to_le_bytes());
        }
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        self.last
    }
}

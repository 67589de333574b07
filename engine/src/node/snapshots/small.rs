//! Small snapshots, of a machine that is durable by itself: configuration and sessions as of an entry, without the
//! machine's state.
//!
//! One is taken when it is due, and written once the machine has made durable what it is as of: then what a start finds in
//! machine and snapshot stands at the same entry, or the machine stands further. Until then it is a few words in memory.

use kontiki_core::{EntryId, LogIndex, Time};

use super::Step;
use crate::apply::Task;
use crate::node::group::Group;
use crate::node::host::Host;

impl Group {
    /// Whether a small one as of this entry may be written: the machine has made that durable, and so has this node's log, for
    /// good.
    pub(super) fn may_write_small(&self, at: EntryId) -> bool {
        at.index <= self.queue.durable().min(self.raft.durable()).min(self.raft.commit_here())
    }

    /// The machine is asked now and then, with growing pauses, what it has made durable, while a small one waits for that:
    /// it may do so on a thread of its own, and nothing may be applied after which it would be asked.
    pub(super) fn ask_for_small(&mut self, now: Time) {
        if self.snapshots.ask.is_due(now) && !self.snapshots.asks {
            self.snapshots.ask.again(now);
            self.snapshots.asks = true;
            self.queue.put_first(Task::Look);
        }
    }

    /// A full one is wanted: the small one that waits for the machine gives way, and is taken anew after it.
    pub(super) fn give_up_small(&mut self) {
        if let Step::Taken { full: false, .. } = self.snapshots.step {
            self.snapshots.step = Step::Idle;
        }
    }

    /// Up to where the log of a durable machine may forget where it has no room left.
    ///
    /// A machine that makes durable what it is given goes on without its snapshots; one that can be written is waited for.
    /// Where none can, as the disk is full or the machine has not made durable what the next one is as of, what it has made
    /// durable goes all the same: it may make more durable only once it is given more, and a log that is full gives none.
    pub(super) fn forgettable_in_need(&self, host: &Host, durable: LogIndex) -> Option<LogIndex> {
        let waits = matches!(self.snapshots.step, Step::Taken { at, full: false } if at.index > durable);
        (waits || self.snapshots.small.is_on() || host.store.broken().is_some()).then_some(durable)
    }
}

//! Committed frames to the apply stage, and what it no longer needs out of the log.

use kontiki_core::{IndexRange, Role, Time};
use kontiki_frame::{self as frame, Header};
use kontiki_io::Io;
use kontiki_mem::Block;
use kontiki_wal::FrameAt;

use super::group::Group;
use super::host::Host;
use crate::apply::Work;
use crate::catchup::Reader;
use crate::limits::ASK_DURABLE_NS;

impl Group {
    /// Hands committed frames over, in order, as far as the stage has room.
    pub(super) fn hand_to_apply(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        let share = host.ring.capacity() / 4;
        if self.snapshots.is_restoring() {
            self.want_bell(true);
            return;
        }
        // What comes next may lie in a snapshot that is on its way.
        if self.installing.is_some() || self.raft.needs_base() {
            return;
        }
        // What a snapshot brings is not told again. Nor is what the core took for applied at the start, where the snapshot
        // that held it could not be read and an older one took its place.
        self.commit = self.commit.max(self.raft.commit_here().min(self.raft.durable()));
        let (mut any, mut waits) = (false, false);
        while self.next_apply <= self.commit {
            if !self.queue.has_room(share) {
                waits = true;
                break;
            }
            let Some(cached) = self.cache.get(self.next_apply) else {
                if !self.queue.has_frames() {
                    self.begin_read(host, Reader::Apply, self.next_apply, self.commit, io);
                }
                waits = self.catchup.reading(Reader::Apply).is_none();
                break;
            };
            let range = IndexRange { from: self.next_apply, to: cached.range.to.min(self.commit) };
            let (block, header) = (cached.block.clone(), cached.header);
            if !self.hand_over(block, header, range, now) {
                break;
            }
            any = true;
        }
        // A full log waits for what the stage makes durable, so that it can be released.
        self.want_bell(self.next_apply <= self.commit || !self.clients.is_empty() || host.lacking.is_some());
        if any {
            self.queue.announce();
        }
        if waits && self.queue.applied() >= self.next_apply.prev() {
            // The stage was done with everything before it could see that a bell is wanted: it rang none.
            self.shared.ring();
        }
    }

    /// Says whether the stage is to ring with each piece of its work. What it said of a snapshot before it could see that a
    /// bell is wanted is looked for.
    fn want_bell(&self, wanted: bool) {
        let busy = self.snapshots.is_busy();
        self.queue.want_bell(wanted || busy);
        if busy && self.queue.has_said() {
            self.shared.ring();
        }
    }

    /// False if it must wait: a caller's batch is answered whole.
    pub(super) fn hand_over(&mut self, block: Block, header: Header, range: IndexRange, now: Time) -> bool {
        let mut tickets = None;
        if self.pending.first_in(range) == Some(header.meta) {
            if range.to < header.meta.last() && self.role == Role::Leader {
                return false;
            }
            if let Some((batch, sealed)) = self.pending.pop() {
                self.commit_latency.record(now.since(sealed));
                self.gather.answers(header.meta.count, self.shared.batch.waiting().0);
                tickets = Some(batch);
            }
        }
        self.next_apply = range.to.next();
        self.queue.push(Work { block, header, range, tickets });
        true
    }

    pub(super) fn apply_read(&mut self, block: &Block, frames: &[FrameAt], now: Time) {
        if self.snapshots.is_restoring() || self.installing.is_some() {
            return;
        }
        for f in frames {
            // Only what follows on: the queue may have been fed from memory meanwhile.
            if f.range.from > self.next_apply || f.range.to < self.next_apply || !self.queue.has_room(usize::MAX) {
                continue;
            }
            let range = IndexRange { from: self.next_apply, to: f.range.to.min(self.commit) };
            let part = block.slice(f.offset, f.bytes);
            let Ok(header) = frame::parse_header(part.bytes()) else { panic!("a frame that the log has checked does not parse") };
            if range.to < range.from || !self.hand_over(part, header, range, now) {
                break;
            }
        }
        self.queue.announce();
    }

    /// While there is no next segment, nothing is applied after which the state machine would be asked what of it is
    /// durable, and only that can make room: it is asked now and then.
    pub(super) fn ask_durable(&mut self, host: &mut Host, now: Time) {
        if host.lacking.is_none() {
            self.ask_durable_at = Time(u64::MAX);
        } else if self.ask_durable_at == Time(u64::MAX) || now >= self.ask_durable_at {
            self.ask_durable_at = now.plus_ns(ASK_DURABLE_NS);
            self.queue.ask();
        }
    }

    /// What the state machine has made durable, or two snapshots hold, need not stay in the log, beyond the retention
    /// limit.
    pub(super) fn release(&mut self, host: &mut Host) {
        // A leader may have applied what its own disk does not hold yet: that must stay.
        // A damaged log may hold what was superseded where that has already been: not before a leader's frames have shown
        // which.
        // Nor may what a follower needs behind the snapshot that it is taking.
        let durable = self.forgettable(host).min(self.queue.applied()).min(self.raft.durable()).min(self.raft.commit_here());
        let durable = durable.min(self.sending.spares());
        let base = if (host.lacking.is_some() || host.lacks_space()) && host.store.newest_full().is_some() {
            // What is retained for followers that are away goes: they are given a snapshot.
            host.wal.make_room(durable)
        } else if durable > self.released {
            self.released = durable;
            host.wal.release(durable)
        } else {
            None
        };
        if let Some(base) = base {
            self.raft.compacted(base);
        }
    }
}

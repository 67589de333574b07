//! A snapshot on its way from the disk into the state machine, chunk by chunk, each checked as it is read. Nothing is
//! applied meanwhile; the log goes on.

use kontiki_core::{Event as CoreEvent, LogIndex, Time};
use kontiki_io::{Io, IoBuf, tell};
use kontiki_mem::Pool;
use kontiki_snapshot::{Info, ReadError};

use super::Step;
use crate::apply::{Piece, Task};
use crate::error::Failure;
use crate::events::Event;
use crate::limits::{RESTORE_BUFFERS, RESTORE_BYTES, SNAPSHOT_RETRY_NS};
use crate::node::group::Group;
use crate::node::host::Host;

#[derive(Debug)]
pub(in crate::node) struct Restoring {
    info: Info,
    /// The next chunk to read.
    next: u64,
    /// Memory that nobody uses.
    free: Vec<IoBuf>,
    reading: bool,
    /// The stage has all of it.
    ended: bool,
    /// Nothing is read before.
    retry_at: Option<Time>,
}

/// Tag of what is read for the machine; those of what is read to be sent lie below.
pub(super) const TAG: u64 = 1 << 63;

impl Restoring {
    pub(super) fn gave_back(&mut self, buf: IoBuf) {
        self.free.push(buf);
    }
}

impl Group {
    /// The machine is given this snapshot, and then what the log holds behind it.
    pub(in crate::node) fn restore_from(&mut self, info: Info) {
        let (id, bytes) = (info.base().id(), info.sections.machine);
        tell!(info, snapshot = %info, "the state machine gets its state from a snapshot");
        self.queue.put_last(Task::Restore(Piece::Begin(id, bytes)));
        self.next_apply = id.index.next();
        match &mut self.snapshots.step {
            Step::Restoring(before) => {
                assert!(!before.reading, "what is read of a snapshot is taken in before the next one is begun");
                (before.info, before.next, before.ended) = (info, 0, false);
            }
            step => {
                // What the stage still has of one that was given up comes back.
                let pool = Pool::new(RESTORE_BUFFERS, RESTORE_BYTES);
                let free = std::iter::from_fn(|| pool.take()).take(RESTORE_BUFFERS - self.snapshots.given).map(IoBuf::Pool).collect();
                *step = Step::Restoring(Restoring { info, next: 0, free, reading: false, ended: false, retry_at: None });
            }
        }
    }

    pub(super) fn restore_on(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
        let Step::Restoring(restoring) = &mut self.snapshots.step else { return Ok(()) };
        let info = restoring.info;
        if restoring.next < info.chunks() {
            restoring.retry_at = restoring.retry_at.filter(|&due| due > now);
            if !restoring.reading
                && restoring.retry_at.is_none()
                && let Some(buf) = restoring.free.pop()
            {
                match host.store.read(TAG, info.digest, restoring.next, buf, io) {
                    Ok(()) => restoring.reading = true,
                    Err(buf) => {
                        restoring.free.push(buf);
                        if host.store.snapshots().any(|there| there.digest == info.digest) {
                            // Too much of it is being read.
                            restoring.retry_at = Some(now.plus_ns(SNAPSHOT_RETRY_NS));
                            return Ok(());
                        }
                        return self.restore_from_older(host, info.base().index, now, io);
                    }
                }
            }
        } else if self.snapshots.given == 0 && !restoring.ended {
            restoring.ended = true;
            self.queue.put_last(Task::Restore(Piece::End(info.base().id())));
        }
        Ok(())
    }

    pub(super) fn restore_read(
        &mut self,
        host: &mut Host,
        buf: IoBuf,
        result: Result<usize, ReadError>,
        now: Time,
        io: &mut dyn Io,
    ) -> Result<(), Failure> {
        let Step::Restoring(restoring) = &mut self.snapshots.step else { return Ok(()) };
        restoring.reading = false;
        match result {
            Ok(count) => {
                restoring.next += count as u64;
                self.snapshots.given += 1;
                self.queue.put_last(Task::Restore(Piece::Chunks(buf, 0..count)));
                Ok(())
            }
            Err(error) => {
                restoring.free.push(buf);
                if let ReadError::Lacking(_) = error {
                    restoring.retry_at = Some(now.plus_ns(SNAPSHOT_RETRY_NS));
                    return Ok(());
                }
                let index = restoring.info.base().index;
                self.restore_from_older(host, index, now, io)
            }
        }
    }

    /// The snapshot as of `index` is of no use: the next older one is taken, or the log from its beginning, or another
    /// node's.
    fn restore_from_older(&mut self, host: &mut Host, index: LogIndex, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
        let (first, start) = (host.wal.first_index(), self.queue.applied());
        let older = host.store.snapshots().find(|info| info.head.full && info.base().index < index).copied();
        match older.filter(|info| info.base().index > start && info.base().next() >= first) {
            Some(info) => self.restore_from(info),
            None if first <= start.next() => {
                self.snapshots.step = Step::Idle;
                self.next_apply = start.next();
            }
            None if host.net.peers().next().is_none() => return Err(Failure::Restore { first: first.0 }),
            None => {
                tell!(
                    error,
                    first = first.0,
                    "every snapshot here is damaged, and the log no longer holds what they held: this replica takes no part before a leader has sent \
                     it a snapshot"
                );
                self.snapshots.step = Step::Idle;
                self.next_apply = start.next();
                self.shared.events.tell(Event::BaseLost);
                self.step(host, now, CoreEvent::BaseLost, io);
            }
        }
        Ok(())
    }

    /// When what was put off is due.
    pub(super) fn restore_deadline(&self) -> Option<Time> {
        if let Step::Restoring(restoring) = &self.snapshots.step { restoring.retry_at } else { None }
    }
}

/// The snapshot that a machine with this much applied is given at a start: the newest full one, unless it has more, or,
/// where it keeps its state by itself, can go on from there with what the log holds.
pub(crate) fn at_start<'a>(snapshots: impl Iterator<Item = &'a Info>, first: LogIndex, applied: LogIndex) -> Option<Info> {
    let newest = snapshots.copied().find(|info| info.head.full)?;
    let lacks = newest.base().index > applied && (applied == LogIndex(0) || applied.next() < first);
    lacks.then_some(newest)
}

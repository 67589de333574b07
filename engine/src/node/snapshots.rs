//! Snapshots: when one is made, and how it gets from the state machine to the disk; what the log may forget for it.
//!
//! The apply stage takes it and reads it, in bites between the frames; the store writes it, giving way to the log. In
//! between lie two pieces of memory, and only while one is made.

pub(super) mod asked;
pub(super) mod fetching;
pub(super) mod installing;
pub(crate) mod restoring;
pub(super) mod sending;

use std::collections::VecDeque;

use kontiki_core::{Base, EntryId, LogIndex, Subterm, Time};
use kontiki_io::{Io, tell};
use kontiki_mem::{Pool, PoolBuf};
use kontiki_snapshot::{Info, Making, Part, Refused, StoreEvent};

use self::asked::Askers;
use self::restoring::{Restoring, TAG};
use super::group::Group;
use super::host::Host;
use crate::apply::{Answer, Task};
use crate::error::Failure;
use crate::events::Event;
use crate::lack::Lack;
use crate::limits::{FILL_BUFFERS, FILL_BYTES, SNAPSHOT_RETRY_NS};
use crate::state_machine::SnapshotError;

/// What is under way.
#[derive(Debug)]
pub(super) enum Step {
    Idle,
    /// The stage is asked for a snapshot.
    Asked,
    /// It has one; the store has not begun yet.
    Taken(EntryId),
    Writing(Writing),
    /// The store has all of it.
    Ending,
    /// The machine gets one.
    Restoring(Restoring),
}

/// A snapshot on its way to the store.
#[derive(Debug)]
pub(super) struct Writing {
    at: EntryId,
    /// What was read and not written yet: the memory, what of it was, and how much it holds.
    full: VecDeque<(PoolBuf, usize, usize)>,
    /// The source has given all.
    read: bool,
}

/// What a group knows of its snapshots.
#[derive(Debug)]
pub(super) struct Snapshots {
    pub(super) step: Step,
    /// The machine makes none.
    unsupported: bool,
    /// The log's position when the newest was taken.
    mark: u64,
    /// Space for the first one has been asked for.
    expects: bool,
    /// Nothing is begun before.
    retry_at: Option<Time>,
    /// Pieces of memory, with chunks to be restored in them, that the stage has: also of one that was given up.
    given: usize,
    /// How many the stage was asked for that have given way before it said anything of them.
    unheard: usize,
    /// The newest number under which somebody asks for one, and the one that is answered by what is being made.
    asked: u64,
    answers: u64,
    askers: Askers,
}

impl Snapshots {
    /// `mark`: the log's position where the newest was taken.
    pub(super) fn new(mark: u64) -> Snapshots {
        Snapshots {
            step: Step::Idle,
            unsupported: false,
            mark,
            expects: false,
            retry_at: None,
            given: 0,
            unheard: 0,
            asked: 0,
            answers: 0,
            askers: Askers::default(),
        }
    }

    /// Whether the apply stage has something to say before long.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.step, Step::Idle | Step::Ending)
    }

    /// Whether one is being made.
    pub(super) fn is_making(&self) -> bool {
        matches!(self.step, Step::Asked | Step::Taken(_) | Step::Writing(_) | Step::Ending)
    }

    pub(super) fn is_restoring(&self) -> bool {
        matches!(self.step, Step::Restoring(_))
    }
}

impl Group {
    /// When what is put off is due.
    pub(super) fn snapshot_deadline(&self) -> Time {
        let (made, sent) = (self.snapshots.retry_at.or(self.restore_deadline()), self.sending.deadline());
        made.into_iter().chain(sent).chain(self.fetching.deadline()).min().unwrap_or(Time(u64::MAX))
    }

    /// What is sent, fetched or installed goes on.
    pub(super) fn move_snapshots(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        if !self.fetching.is_idle() {
            self.fetch_on(host, now);
            host.store_stirred = true;
        }
        if !self.sending.is_idle() {
            self.send_on(host, now, io);
        }
        if self.installing.is_some() {
            self.install_on(host, now, io);
        }
    }

    /// Whether the machine keeps nothing by itself: then the log forgets what two snapshots hold.
    fn is_in_memory(&self) -> bool {
        self.queue.durable() == LogIndex(0)
    }

    /// Up to where the log may forget: what the state machine has made durable, or what the older of two snapshots holds.
    /// With no room left, what the newest holds, if there is no other, or it holds all that is applied: a log that is full would
    /// never forget, and nothing would be applied that a further one could hold.
    pub(super) fn forgettable(&self, host: &Host) -> LogIndex {
        if !self.is_in_memory() {
            return self.queue.durable();
        }
        let full = matches!(host.lacking, Some(Lack::Space | Lack::Segments));
        let (older, applied) = (host.store.release_upto(), self.queue.applied());
        let newest = host.store.newest_full().filter(|_| full).map(Info::base);
        let newest = newest.filter(|newest| older.is_none() || newest.index >= applied);
        newest.or(older).map_or(LogIndex(0), |base| base.index)
    }

    fn wants_snapshot(&self, host: &Host) -> bool {
        let snapshots = &self.snapshots;
        let gives_way = !self.fetching.is_idle() || self.installing.is_some() || self.raft.needs_base();
        if snapshots.unsupported || gives_way || !matches!(snapshots.step, Step::Idle) {
            return false;
        }
        if snapshots.asked > snapshots.answers {
            return true;
        }
        let grown = host.wal.durable_position().saturating_sub(snapshots.mark);
        // Where the log has no room to grow into, another snapshot lets it forget.
        let due = grown >= host.config.snapshot_bytes_of_log() || host.lacking.is_some();
        let newest = host.store.snapshots().next().map_or(LogIndex(0), |newest| newest.base().index);
        (due && self.is_in_memory() || self.sending.lacks()) && self.queue.applied() > newest
    }

    /// Why none will be made for whoever asks, however long that waits.
    fn cannot_make_one(&self) -> Option<SnapshotError> {
        match self.snapshots.step {
            Step::Idle if self.snapshots.unsupported => Some(SnapshotError::NotSupported),
            Step::Idle if self.raft.needs_base() => Some(SnapshotError::Failed(
                "this replica has lost what its log goes on from, and needs a snapshot of another itself".into(),
            )),
            _ => None,
        }
    }

    /// What has been said of snapshots since the last turn, and what follows.
    ///
    /// # Errors
    /// The state cannot be restored.
    pub(super) fn tend_snapshots(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
        self.snapshots.asked = self.shared.snapshots_asked();
        self.expect_the_first(host);
        while let Some(answer) = self.queue.hear() {
            self.stage_says(host, answer, now)?;
        }
        while let Some(event) = host.store.next_event() {
            self.store_says(host, event, now, io)?;
        }
        self.snapshots.retry_at = self.snapshots.retry_at.filter(|&due| due > now);
        let asked = self.snapshots.asked > self.snapshots.answers;
        if let Some(error) = if asked { self.cannot_make_one() } else { None } {
            self.snapshots.answers = self.snapshots.asked;
            self.answer_snapshot(host, &Err(error), now);
        }
        if (asked || self.snapshots.retry_at.is_none()) && self.wants_snapshot(host) {
            self.begin_snapshot(host);
        }
        if let Step::Taken(at) = self.snapshots.step {
            self.open_snapshot(host, at, now, io);
        }
        self.write_snapshot(host);
        host.store_stirred |= !matches!(self.snapshots.step, Step::Idle);
        self.restore_on(host, now, io)
    }

    /// A machine that has made nothing durable of what it has applied will need a snapshot: room is set aside before the log
    /// takes it. How much is known once there is one.
    fn expect_the_first(&mut self, host: &mut Host) {
        let grown = host.wal.durable_position().saturating_sub(self.snapshots.mark) >= host.config.segment_bytes;
        if !self.snapshots.expects && grown && self.is_in_memory() && !self.snapshots.unsupported {
            self.snapshots.expects = true;
            if host.store.newest_full().is_none() {
                host.store.expect(Some(self.queue.snapshot_bytes()));
                host.store_stirred = true;
            }
        }
    }

    fn begin_snapshot(&mut self, host: &Host) {
        self.snapshots.answers = self.snapshots.asked;
        self.snapshots.step = Step::Asked;
        self.snapshots.mark = host.wal.durable_position();
        self.queue.put_first(Task::Snapshot);
    }

    fn stage_says(&mut self, host: &mut Host, answer: Answer, now: Time) -> Result<(), Failure> {
        match (answer, &mut self.snapshots.step) {
            // The next one may have been asked for already, as of another entry.
            (Answer::Taken(..) | Answer::NotTaken(_), _) if self.snapshots.unheard > 0 => self.snapshots.unheard -= 1,
            (Answer::Taken(at, _), Step::Asked) if at.index == LogIndex(0) => {
                self.no_snapshot(host, SnapshotError::Failed("nothing has been applied yet".into()), now);
            }
            (Answer::Taken(at, bytes), Step::Asked) => {
                self.snapshots.step = Step::Taken(at);
                self.sending.takes_one(at.index, now);
                host.store.expect(self.is_in_memory().then_some(bytes));
            }
            (Answer::NotTaken(error), Step::Asked) => self.no_snapshot(host, error, now),
            (Answer::Filled(buf, bytes), Step::Writing(writing)) => {
                if bytes == 0 {
                    writing.read = true;
                } else if !writing.read {
                    writing.full.push_back((buf, 0, bytes));
                }
            }
            (Answer::NotFilled(error), Step::Writing(writing)) if !writing.read => {
                // The store tells when it has given up, and is then free for the next.
                host.store.abandon();
                self.snapshots.step = Step::Ending;
                self.no_snapshot(host, error, now);
            }
            (Answer::Chunks(buf), step) => {
                self.snapshots.given -= 1;
                if let Step::Restoring(restoring) = step {
                    restoring.gave_back(buf);
                }
            }
            (Answer::Restored(at), Step::Restoring(_)) => {
                tell!(info, index = at.index.0, "the state machine has its state from a snapshot");
                self.snapshots.step = Step::Idle;
            }
            // Of one that was given up.
            _ => {}
        }
        Ok(())
    }

    /// None is made, for this reason.
    fn no_snapshot(&mut self, host: &mut Host, error: SnapshotError, now: Time) {
        self.sending.made_one(now);
        self.queue.put_first(Task::Forget);
        if !matches!(self.snapshots.step, Step::Ending) {
            self.snapshots.step = Step::Idle;
        }
        if error == SnapshotError::NotSupported {
            self.snapshots.unsupported = true;
            host.store.expect(None);
            if self.is_in_memory() && host.net.admits_lines(1, None, "no snapshots", now) {
                tell!(
                    warn,
                    "the state machine makes no snapshots, and has made nothing durable: the log forgets nothing, and will be full one day"
                );
            }
        } else {
            self.snapshots.retry_at = Some(now.plus_ns(SNAPSHOT_RETRY_NS));
            self.counters.snapshots_failed += 1;
            if host.net.admits_lines(1, None, "no snapshot", now) {
                tell!(warn, %error, "no snapshot: tried again before long");
            }
            self.shared.events.tell(Event::SnapshotFailed);
        }
        self.answer_snapshot(host, &Err(error), now);
    }

    /// The store begins, once it can.
    fn open_snapshot(&mut self, host: &mut Host, at: EntryId, now: Time, io: &mut dyn Io) {
        let base = Base { index: at.index, term: at.term, subterm: Subterm(0) };
        let making = Making { base, lineage: 0, cluster_ns: 0, full: true, incarnation: host.incarnation };
        match host.store.begin(making, io) {
            Ok(()) => {
                let pool = Pool::new(FILL_BUFFERS, FILL_BYTES);
                for buf in std::iter::from_fn(|| pool.take()) {
                    self.queue.put_first(Task::Fill(buf));
                }
                self.snapshots.step = Step::Writing(Writing { at, full: VecDeque::with_capacity(FILL_BUFFERS), read: false });
            }
            // Space is being set aside; it comes to an end.
            Err(Refused::Busy) => {}
            Err(Refused::NotNewer(newest)) => {
                self.queue.put_first(Task::Forget);
                self.snapshots.step = Step::Idle;
                let info = host.store.snapshots().find(|info| info.base() == newest).copied();
                let outcome = info.ok_or_else(|| SnapshotError::Failed("a newer one is there no more".into()));
                self.answer_snapshot(host, &outcome, now);
            }
            Err(refused) => {
                // Nothing but a start helps the store. A node that is of use without a snapshot goes on without.
                if let Refused::Broken(error) = &refused
                    && (host.lacking.is_some() || self.sending.lacks())
                {
                    self.queue.fail(Failure::Snapshots(error.to_string()));
                }
                self.no_snapshot(host, SnapshotError::Failed(refused.to_string()), now);
            }
        }
    }

    /// Hands the store what was read. It gets its end once this node's own log holds, durably and for good, what the
    /// snapshot stands for: a leader applies what a majority holds, its own disk perhaps not yet.
    fn write_snapshot(&mut self, host: &mut Host) {
        let Step::Writing(writing) = &mut self.snapshots.step else { return };
        while let Some((buf, from, upto)) = writing.full.front_mut() {
            let rest = buf.bytes().get(*from..*upto).unwrap_or_default();
            *from += host.store.push(Part::Machine, rest);
            if *from < *upto {
                return;
            }
            if let Some((buf, ..)) = writing.full.pop_front()
                && !writing.read
            {
                self.queue.put_first(Task::Fill(buf));
            }
        }
        let held = self.raft.durable().min(self.raft.commit_here());
        if writing.read && writing.at.index <= held && host.store.finish() {
            self.queue.put_first(Task::Forget);
            self.snapshots.step = Step::Ending;
        }
    }

    fn store_says(&mut self, host: &mut Host, event: StoreEvent, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
        match event {
            StoreEvent::Written(info) => {
                self.snapshot_written(host, &info, now);
                // Where the log lacks room another follows, but not at once.
                self.snapshots.retry_at = host.lacking.map(|_| now.plus_ns(SNAPSHOT_RETRY_NS));
            }
            StoreEvent::NotWritten { error, .. } => {
                let ours = !matches!(self.snapshots.step, Step::Ending if error == kontiki_snapshot::StoreError::Abandoned);
                self.snapshots.step = Step::Idle;
                if ours {
                    self.no_snapshot(host, SnapshotError::Failed(error.to_string()), now);
                }
            }
            StoreEvent::GaveUp(base) => {
                tell!(warn, index = base.index.0, "too little space for a new snapshot: the older one was given up for it");
            }
            StoreEvent::Damaged { name, flaw } => {
                tell!(error, %name, %flaw, "a snapshot is damaged, and counts as none from now on");
            }
            StoreEvent::Read { tag, buf, result } if tag == TAG => self.restore_read(host, buf, result, now, io)?,
            StoreEvent::Read { tag, buf, result } => self.send_read(host, tag, buf, result, now),
            StoreEvent::Fetched(info) => self.fetched(host, info, now, io),
            StoreEvent::NotFetched { error, .. } => self.not_fetched(host, &error, now, io),
        }
        Ok(())
    }

    fn snapshot_written(&mut self, host: &mut Host, info: &Info, now: Time) {
        tell!(info, snapshot = %info, "snapshot written");
        self.snapshots.step = Step::Idle;
        self.sending.made_one(now);
        self.counters.snapshots_written += 1;
        self.shared.events.tell(Event::SnapshotWritten { index: info.base().index });
        self.answer_snapshot(host, &Ok(*info), now);
    }
}

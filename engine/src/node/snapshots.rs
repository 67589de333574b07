//! Snapshots: when one is made, and how it gets from the state machine to the disk; what the log may forget for it.
//!
//! The apply stage takes it and reads it, in bites between the frames; the store writes it, giving way to the log. In
//! between lie two pieces of memory, and only while one is made.

pub(super) mod asked;
pub(super) mod fetching;
pub(super) mod installing;
mod pause;
pub(crate) mod restoring;
pub(super) mod sending;
mod small;
mod trouble;

use std::collections::VecDeque;

use kontiki_core::{Base, EntryId, LogIndex, Subterm, Time};
use kontiki_io::{Io, tell};
use kontiki_mem::{Pool, PoolBuf};
use kontiki_snapshot::{Expected, Info, Making, Part, Refused, StoreEvent};

use self::asked::Askers;
use self::pause::Pause;
use self::restoring::{Restoring, TAG};
use self::trouble::Kind;
pub(super) use self::trouble::Troubles;
use super::group::Group;
use super::host::Host;
use crate::apply::{Answer, Task};
use crate::error::Failure;
use crate::events::Event;
use crate::lack::Lack;
use crate::limits::{ASK_DURABLE_NS, FILL_BUFFERS, FILL_BYTES, MAX_ASK_DURABLE_NS, MAX_SNAPSHOT_RETRY_NS, SNAPSHOT_RETRY_NS};
use crate::state_machine::SnapshotError;

/// What is under way.
#[derive(Debug)]
pub(super) enum Step {
    Idle,
    /// The stage is asked for a snapshot.
    Asked {
        full: bool,
    },
    /// It has one, as of this entry; the store has not begun yet.
    Taken {
        at: EntryId,
        full: bool,
    },
    Writing(Writing),
    /// The store has all of it, or is told to give it up.
    Ending {
        full: bool,
    },
    /// The machine gets one.
    Restoring(Restoring),
}

/// A snapshot on its way to the store.
#[derive(Debug)]
pub(super) struct Writing {
    at: EntryId,
    /// The machine's state is in it.
    is_full: bool,
    /// What was read and not written yet: the memory, what of it was, and how much it holds.
    full: VecDeque<(PoolBuf, usize, usize)>,
    /// The source has given all.
    read: bool,
}

/// What a group knows of its snapshots.
#[derive(Debug)]
pub(super) struct Snapshots {
    pub(super) step: Step,
    /// The machine makes none: no full ones.
    unsupported: bool,
    /// The log's position when the newest was taken, and the one that is being made.
    mark: u64,
    taking: u64,
    /// Space has been asked for, for one of a machine in memory or for a small one.
    expects: Option<bool>,
    /// None of either kind is begun by itself before it is over.
    full: Pause,
    small: Pause,
    /// The machine is asked what it has made durable, for a small one that waits for that.
    ask: Pause,
    /// It was, and has not answered yet.
    asks: bool,
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
            taking: mark,
            expects: None,
            full: Pause::new(SNAPSHOT_RETRY_NS, MAX_SNAPSHOT_RETRY_NS),
            small: Pause::new(SNAPSHOT_RETRY_NS, MAX_SNAPSHOT_RETRY_NS),
            ask: Pause::new(ASK_DURABLE_NS, MAX_ASK_DURABLE_NS),
            asks: false,
            given: 0,
            unheard: 0,
            asked: 0,
            answers: 0,
            askers: Askers::default(),
        }
    }

    /// Whether the apply stage has something to say before long.
    pub(super) fn is_busy(&self) -> bool {
        self.asks || !matches!(self.step, Step::Idle | Step::Ending { .. } | Step::Taken { full: false, .. })
    }

    /// Whether one is being made.
    pub(super) fn is_making(&self) -> bool {
        matches!(self.step, Step::Asked { .. } | Step::Taken { .. } | Step::Writing(_) | Step::Ending { .. })
    }

    fn pause_of(&mut self, full: bool) -> &mut Pause {
        if full { &mut self.full } else { &mut self.small }
    }

    pub(super) fn is_restoring(&self) -> bool {
        matches!(self.step, Step::Restoring(_))
    }
}

impl Group {
    /// When what is put off is due.
    pub(super) fn snapshot_deadline(&self) -> Time {
        let snapshots = &self.snapshots;
        let asks = snapshots.ask.deadline().filter(|_| matches!(snapshots.step, Step::Taken { full: false, .. }));
        let own = [snapshots.full.deadline(), snapshots.small.deadline(), self.restore_deadline(), asks];
        let all = own.into_iter().chain([self.sending.deadline(), self.fetching.deadline()]);
        all.fold(Time(u64::MAX), |first, due| due.map_or(first, |due| first.min(due)))
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

    /// Up to where the log may forget: what the older of two snapshots holds; of a durable machine's, whatever their kind, and
    /// never what it has not made durable itself.
    /// With no room left, what the newest holds, if there is no other, or it holds all that is applied: a log that is full would
    /// never forget, and nothing would be applied that a further one could hold.
    pub(super) fn forgettable(&self, host: &Host) -> LogIndex {
        let (durable, store) = (self.queue.durable(), &host.store);
        let in_memory = durable == LogIndex(0);
        let mut held = store.release_upto(in_memory).map(|base| base.index);
        if matches!(host.lacking, Some(Lack::Space | Lack::Segments)) {
            if !in_memory && let Some(upto) = self.forgettable_in_need(host, durable) {
                return upto;
            }
            let newest = store.snapshots().find(|info| info.head.full || !in_memory).map(|info| info.base().index);
            held = newest.filter(|&newest| held.is_none() || newest >= self.queue.applied()).or(held);
        }
        held.map_or(LogIndex(0), |held| if in_memory { held } else { held.min(durable) })
    }

    /// Whether a full one is wanted, of a machine that makes some: it is in memory, or it is for somebody else.
    fn wants_full(&self) -> bool {
        !self.snapshots.unsupported && (self.is_in_memory() || self.sending.lacks() || self.snapshots.askers.want_full())
    }

    /// Whether one is to be begun, and if so, whether a full one; by itself only those that may be by now.
    fn wants_snapshot(&self, host: &Host, may_full: bool, may_small: bool) -> Option<bool> {
        let snapshots = &self.snapshots;
        let gives_way = !self.fetching.is_idle() || self.installing.is_some() || self.raft.needs_base();
        if gives_way || !matches!(snapshots.step, Step::Idle) {
            return None;
        }
        if snapshots.asked > snapshots.answers {
            return Some(self.wants_full());
        }
        let grown = host.wal.durable_position().saturating_sub(snapshots.mark);
        // Where the log has no room to grow into, another snapshot lets it forget.
        let due = grown >= host.config.snapshot_bytes_of_log() || host.lacking.is_some();
        if !due && !self.sending.lacks() {
            return None;
        }
        let newer = |full: bool| {
            let newest = host.store.snapshots().find(|info| info.head.full || !full);
            self.queue.applied() > newest.map_or(LogIndex(0), |newest| newest.base().index)
        };
        let in_memory = self.is_in_memory();
        if may_full && self.wants_full() && (due && in_memory || self.sending.lacks()) && newer(true) {
            return Some(true);
        }
        // While a follower takes a snapshot, the log stays behind that as long as it has room: a small one would let nothing go.
        let helps = self.sending.is_idle() || host.lacking.is_some();
        (may_small && due && !in_memory && helps && newer(false)).then_some(false)
    }

    /// Why none will be made for whoever asks, however long that waits.
    fn cannot_make_one(&self) -> Option<SnapshotError> {
        match self.snapshots.step {
            Step::Idle if self.snapshots.unsupported && self.is_in_memory() => Some(SnapshotError::NotSupported),
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
        let asked = self.snapshots.asked > self.snapshots.answers;
        // Somebody who asks may know what has changed.
        if asked {
            self.snapshots.full.over();
            self.snapshots.small.over();
        }
        if let Some(error) = if asked { self.cannot_make_one() } else { None } {
            self.snapshots.answers = self.snapshots.asked;
            self.answer_snapshot(host, &Err(error), now);
        }
        let (may_full, may_small) = (self.snapshots.full.is_due(now), self.snapshots.small.is_due(now));
        if may_full && self.wants_full() {
            self.give_up_small();
        }
        if let Some(full) = self.wants_snapshot(host, may_full, may_small) {
            self.snapshots.answers = self.snapshots.asked;
            self.begin_snapshot(host, full);
        }
        if let Step::Taken { at, full } = self.snapshots.step {
            if full || self.may_write_small(at) {
                self.snapshots.ask.over();
                self.open_snapshot(host, at, full, now, io);
            } else {
                self.ask_for_small(now);
            }
        }
        self.write_snapshot(host);
        // Mostly there is nothing to watch, and a turn looks no further.
        if host.store.is_making() || self.troubles.any() {
            self.watch_snapshots(host, now);
        }
        host.store_stirred |= !matches!(self.snapshots.step, Step::Idle);
        self.restore_on(host, now, io)
    }

    /// Room for a snapshot is set aside before the log takes it: for a small one where the machine makes durable what it has
    /// applied; for one of a machine that does not, as much as that thinks, until there is one.
    fn expect_the_first(&mut self, host: &mut Host) {
        let full = self.is_in_memory();
        if self.snapshots.expects == Some(full) || full && (self.snapshots.expects.is_some() || self.snapshots.unsupported) {
            return;
        }
        // What was set aside for the other kind is given back at once.
        let is_other = !full && matches!(host.store.expected(), Some(Expected::Full(_)));
        if !is_other && host.wal.durable_position().saturating_sub(self.snapshots.mark) < host.config.segment_bytes {
            return;
        }
        if !full {
            host.store.expect(Some(Expected::Small));
        } else if host.store.newest_full().is_none() {
            host.store.expect(Some(Expected::Full(self.queue.snapshot_bytes())));
        }
        self.snapshots.expects = Some(full);
        host.store_stirred = true;
    }

    fn begin_snapshot(&mut self, host: &Host, full: bool) {
        self.snapshots.step = Step::Asked { full };
        self.snapshots.taking = host.wal.durable_position();
        self.queue.put_first(Task::Snapshot { full });
    }

    fn stage_says(&mut self, host: &mut Host, answer: Answer, now: Time) -> Result<(), Failure> {
        match (answer, &mut self.snapshots.step) {
            // The next one may have been asked for already, as of another entry.
            (Answer::Taken(..) | Answer::NotTaken(_), _) if self.snapshots.unheard > 0 => self.snapshots.unheard -= 1,
            (Answer::Looked, _) => self.snapshots.asks = false,
            (Answer::Taken(at, _), Step::Asked { .. }) if at.index == LogIndex(0) => {
                let full = matches!(self.snapshots.step, Step::Asked { full: true });
                self.no_snapshot(host, full, SnapshotError::Failed("nothing has been applied yet".into()), now);
            }
            (Answer::Taken(at, bytes), &mut Step::Asked { full }) => {
                self.snapshots.step = Step::Taken { at, full };
                self.snapshots.ask.over();
                if full {
                    self.sending.takes_one(at.index, now);
                }
                if self.is_in_memory() {
                    host.store.expect(Some(Expected::Full(bytes)));
                }
            }
            (Answer::NotTaken(SnapshotError::NotSupported), Step::Asked { .. }) => self.not_supported(host, now),
            (Answer::NotTaken(error), &mut Step::Asked { full }) => self.no_snapshot(host, full, error, now),
            (Answer::Filled(buf, bytes), Step::Writing(writing)) => {
                if bytes == 0 {
                    writing.read = true;
                } else if !writing.read {
                    writing.full.push_back((buf, 0, bytes));
                }
            }
            (Answer::NotFilled(error), Step::Writing(writing)) if !writing.read => {
                // The store tells when it has given up, and is then free for the next.
                let full = writing.is_full;
                host.store.abandon();
                self.snapshots.step = Step::Ending { full };
                self.no_snapshot(host, full, error, now);
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

    /// The machine makes none: no full ones.
    fn not_supported(&mut self, host: &mut Host, now: Time) {
        self.snapshots.unsupported = true;
        self.sending.made_one(now);
        if !self.is_in_memory() {
            // Who asked for a copy gets none, and all others a small one.
            self.refuse_copies(host);
            return self.begin_snapshot(host, false);
        }
        self.snapshots.step = Step::Idle;
        host.store.expect(None);
        if host.net.admits_lines(1, None, "no snapshots", now) {
            tell!(
                warn,
                "the state machine makes no snapshots, and has made nothing durable: the log forgets nothing, and will be full one day"
            );
        }
        self.answer_snapshot(host, &Err(SnapshotError::NotSupported), now);
    }

    /// None is made, for this reason.
    fn no_snapshot(&mut self, host: &mut Host, full: bool, error: SnapshotError, now: Time) {
        if full {
            self.sending.made_one(now);
        }
        self.queue.put_first(Task::Forget);
        if !matches!(self.snapshots.step, Step::Ending { .. }) {
            self.snapshots.step = Step::Idle;
        }
        self.snapshots.pause_of(full).again(now);
        self.counters.snapshots_failed += 1;
        if self.queue.applied() > LogIndex(0) {
            self.meets(Kind::NotMade, &error.to_string(), now);
        }
        self.shared.events.tell(Event::SnapshotFailed);
        self.answer_snapshot(host, &Err(error), now);
    }

    /// The store begins, once it can.
    fn open_snapshot(&mut self, host: &mut Host, at: EntryId, full: bool, now: Time, io: &mut dyn Io) {
        let base = Base { index: at.index, term: at.term, subterm: Subterm(0) };
        let making = Making { base, lineage: 0, cluster_ns: 0, full, incarnation: host.incarnation };
        match host.store.begin(making, io) {
            Ok(()) if !full => {
                // Neither configuration nor sessions have anything to hold yet.
                self.snapshots.step = Step::Writing(Writing { at, is_full: false, full: VecDeque::new(), read: true });
            }
            Ok(()) => {
                let pool = Pool::new(FILL_BUFFERS, FILL_BYTES);
                for buf in std::iter::from_fn(|| pool.take()) {
                    self.queue.put_first(Task::Fill(buf));
                }
                self.snapshots.step =
                    Step::Writing(Writing { at, is_full: true, full: VecDeque::with_capacity(FILL_BUFFERS), read: false });
            }
            // Space is being set aside; it comes to an end.
            Err(Refused::Busy) => {}
            Err(Refused::NotNewer(newest)) => {
                self.queue.put_first(Task::Forget);
                self.snapshots.step = Step::Idle;
                self.snapshots.mark = self.snapshots.taking;
                self.is_over(Kind::NotMade, now);
                let info = host.store.snapshots().find(|info| info.base() == newest).copied();
                let outcome = info.ok_or_else(|| SnapshotError::Failed("a newer one is there no more".into()));
                self.answer_snapshot(host, &outcome, now);
            }
            Err(refused) => {
                // Nothing but a start helps the store. A node that is of use without a snapshot goes on without, as a
                // durable machine's does.
                if let Refused::Broken(error) = &refused
                    && (host.lacking.is_some() && self.is_in_memory() || full && self.sending.lacks())
                {
                    self.queue.fail(Failure::Snapshots(error.to_string()));
                }
                self.no_snapshot(host, full, SnapshotError::Failed(refused.to_string()), now);
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
            let full = writing.is_full;
            self.queue.put_first(Task::Forget);
            self.snapshots.step = Step::Ending { full };
        }
    }

    fn store_says(&mut self, host: &mut Host, event: StoreEvent, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
        match event {
            StoreEvent::Written(info) => {
                self.snapshots.mark = self.snapshots.taking;
                self.snapshot_written(host, &info, now);
                // Where the log lacks room another follows, but not at once.
                let pause = self.snapshots.pause_of(info.head.full);
                if host.lacking.is_some() {
                    pause.rest(now);
                } else {
                    pause.over();
                }
            }
            StoreEvent::NotWritten { error, .. } => {
                let full = match self.snapshots.step {
                    // It was told to.
                    Step::Ending { .. } if error == kontiki_snapshot::StoreError::Abandoned => None,
                    Step::Ending { full } => Some(full),
                    Step::Writing(Writing { is_full, .. }) => Some(is_full),
                    _ => Some(true),
                };
                self.snapshots.step = Step::Idle;
                if let Some(full) = full {
                    self.no_snapshot(host, full, SnapshotError::Failed(error.to_string()), now);
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
        if info.head.full {
            tell!(info, snapshot = %info, "snapshot written");
        } else {
            tell!(info, snapshot = %info, "small snapshot written");
        }
        self.snapshots.step = Step::Idle;
        self.is_over(Kind::NotMade, now);
        if info.head.full {
            self.sending.made_one(now);
        }
        self.counters.snapshots_written += 1;
        self.shared.events.tell(Event::SnapshotWritten { index: info.base().index, full: info.head.full });
        self.answer_snapshot(host, &Ok(*info), now);
    }
}

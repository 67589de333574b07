//! Between the reactor and the apply stage: what the stage is given to do, in order, and what it says.

mod stage;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kontiki_core::{EntryId, IndexRange, LogIndex};
use kontiki_frame::Header;
use kontiki_io::IoBuf;
use kontiki_mem::{Batch, Block, PoolBuf};

use crate::error::Failure;
use crate::limits::{FILL_BYTES, MAX_APPLY_QUEUE};
use crate::state_machine::SnapshotError;

pub(crate) use stage::ApplyStage;

/// One committed frame, or the part of it that counts.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) block: Block,
    pub(crate) header: Header,
    pub(crate) range: IndexRange,
    /// The tickets of the frame's entries, where this node took the proposals; covers the whole frame.
    pub(crate) tickets: Option<Batch>,
}

/// What the stage is given to do, in order.
#[derive(Debug)]
pub(crate) enum Task {
    Frame(Work),
    /// To ask what is durable, as after a run of entries.
    Durable,
    /// The same, and to say that it was asked.
    Look,
    /// To take a snapshot of what is applied: of the machine's state too, or a small one.
    Snapshot {
        full: bool,
    },
    /// To read the next bytes of that snapshot into this memory.
    Fill(PoolBuf),
    /// To drop what is left of it.
    Forget,
    /// A snapshot that comes into the machine.
    Restore(Piece),
}

/// A piece of a snapshot on its way into the machine.
#[derive(Debug)]
pub(crate) enum Piece {
    /// As of this entry; the machine's stream has so many bytes.
    Begin(EntryId, u64),
    /// Chunks of its file: these of those that the memory holds.
    Chunks(IoBuf, Range<usize>),
    /// As of this entry.
    End(EntryId),
}

/// What the stage says of snapshots.
#[derive(Debug)]
pub(crate) enum Answer {
    /// One was taken: as of this entry, of about so many bytes by the machine's own estimate.
    Taken(EntryId, u64),
    NotTaken(SnapshotError),
    /// It was asked what is durable.
    Looked,
    /// So many bytes of it are in this memory; zero: that was all.
    Filled(PoolBuf, usize),
    NotFilled(SnapshotError),
    /// The memory of chunks that are restored.
    Chunks(IoBuf),
    /// The machine has the state as of this entry.
    Restored(EntryId),
}

#[derive(Debug)]
struct Inbox {
    /// Bites of a snapshot's work, in order.
    bites: VecDeque<Task>,
    tasks: VecDeque<Task>,
    /// How much of the tasks comes before the next bite, in bytes of frames.
    turn: usize,
    /// Frames among them, and their memory.
    frames: usize,
    bytes: usize,
    /// What is durable is to be asked, and was not yet.
    asked: bool,
    closed: bool,
}

/// The bounded queue between the reactor and the stage, and what the stage publishes back.
pub(crate) struct ApplyQueue {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    /// A thread sleeps on `arrived`, or is about to.
    sleeps: AtomicBool,
    /// What the state machine had applied when the node started.
    began: EntryId,
    applied: AtomicU64,
    durable: AtomicU64,
    entries: AtomicU64,
    /// Replies over the limit.
    too_long: AtomicU64,
    /// What was said and not heard yet, and that there is something: looked at every turn, without the lock.
    said: Mutex<VecDeque<Answer>>,
    has_said: AtomicBool,
    /// About how long the machine's snapshot would have been when it started, in bytes.
    snapshot_bytes: u64,
    /// The reactor has more to give, or answers clients: it wants to hear of progress.
    bell_wanted: AtomicBool,
    failure: Mutex<Option<Failure>>,
    /// There is a failure: looked at every turn, without the lock.
    failed: AtomicBool,
}

impl std::fmt::Debug for ApplyQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApplyQueue").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl ApplyQueue {
    fn new(start: EntryId, durable: LogIndex, snapshot_bytes: u64) -> ApplyQueue {
        ApplyQueue {
            inbox: Mutex::new(Inbox {
                bites: VecDeque::new(),
                tasks: VecDeque::with_capacity(MAX_APPLY_QUEUE + 1),
                turn: 0,
                frames: 0,
                bytes: 0,
                asked: false,
                closed: false,
            }),
            arrived: Condvar::new(),
            sleeps: AtomicBool::new(false),
            began: start,
            applied: AtomicU64::new(start.index.0),
            durable: AtomicU64::new(durable.0),
            entries: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
            said: Mutex::new(VecDeque::new()),
            has_said: AtomicBool::new(false),
            snapshot_bytes,
            bell_wanted: AtomicBool::new(false),
            failure: Mutex::new(None),
            failed: AtomicBool::new(false),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more frame may be handed over; `share`: frame memory the queue may hold, in bytes.
    pub(crate) fn has_room(&self, share: usize) -> bool {
        let inbox = self.inbox();
        inbox.frames < MAX_APPLY_QUEUE && inbox.bytes < share
    }

    /// Hands a frame over; call [`ApplyQueue::announce`] when the last of a turn is in.
    pub(crate) fn push(&self, work: Work) {
        let mut inbox = self.inbox();
        assert!(inbox.frames < MAX_APPLY_QUEUE, "the reactor asked for room before");
        inbox.frames += 1;
        inbox.bytes += work.block.len();
        inbox.tasks.push_back(Task::Frame(work));
    }

    /// Wakes the apply thread, if there is one and it sleeps: it says so under the lock that the frames were pushed
    /// under.
    pub(crate) fn announce(&self) {
        if self.sleeps.load(Ordering::Relaxed) {
            self.arrived.notify_one();
        }
    }

    /// What is next: by turns a bite of a snapshot, and as much of what waits in frames as such a bite has, one at least. A
    /// source may be slow, and give pieces for as long as it likes; and a log that is always busy lets a snapshot end.
    fn pop(&self) -> Option<Task> {
        let mut inbox = self.inbox();
        let task = if inbox.turn > 0 { inbox.tasks.pop_front() } else { None };
        let task = match task {
            Some(task) => task,
            None => match inbox.bites.pop_front() {
                Some(bite) => {
                    inbox.turn = FILL_BYTES;
                    bite
                }
                None => inbox.tasks.pop_front()?,
            },
        };
        match &task {
            Task::Frame(work) => {
                let bytes = work.block.len();
                inbox.frames -= 1;
                inbox.bytes -= bytes;
                inbox.turn = inbox.turn.saturating_sub(bytes);
            }
            Task::Durable => inbox.asked = false,
            Task::Restore(_) => inbox.turn = 0,
            Task::Look | Task::Snapshot { .. } | Task::Fill(_) | Task::Forget => {}
        }
        Some(task)
    }

    /// Whether everything handed over was taken out, and everything asked.
    pub(crate) fn is_empty(&self) -> bool {
        let inbox = self.inbox();
        inbox.bites.is_empty() && inbox.tasks.is_empty()
    }

    /// Whether a frame waits to be applied, whatever else does.
    pub(crate) fn has_frames(&self) -> bool {
        self.inbox().frames > 0
    }

    /// Has the state machine asked what it has made durable, as after a run of entries.
    pub(crate) fn ask(&self) {
        let mut inbox = self.inbox();
        if !std::mem::replace(&mut inbox.asked, true) {
            inbox.tasks.push_back(Task::Durable);
        }
        drop(inbox);
        self.announce();
    }

    /// Has a bite of a snapshot's work done behind those before it, and by turns with the frames that wait. In order: what is
    /// to be dropped of one snapshot must not be the next. Bounded by whoever asks: one at a time, or as many as there is
    /// memory for.
    pub(crate) fn put_first(&self, task: Task) {
        self.inbox().bites.push_back(task);
        self.announce();
    }

    /// Has a piece of a snapshot restored behind what else is to be done.
    pub(crate) fn put_last(&self, task: Task) {
        self.inbox().tasks.push_back(task);
        self.announce();
    }

    /// What is left of a task, before all others. Dropped if no more work is to be done.
    fn put_back(&self, task: Task) {
        let mut inbox = self.inbox();
        if !inbox.closed {
            inbox.tasks.push_front(task);
        }
    }

    /// What the stage says of a snapshot, if it has said anything.
    pub(crate) fn hear(&self) -> Option<Answer> {
        if !self.has_said.load(Ordering::Acquire) {
            return None;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = said.pop_front();
        self.has_said.store(!said.is_empty(), Ordering::Release);
        answer
    }

    /// Whether the stage has said something that was not heard yet.
    pub(crate) fn has_said(&self) -> bool {
        self.has_said.load(Ordering::Acquire)
    }

    fn say(&self, answer: Answer) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_back(answer);
        self.has_said.store(true, Ordering::Release);
    }

    /// About how long the machine's snapshot would have been when it started, in bytes; zero: unknown.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    /// No more work will come: the apply thread ends, and what was not begun is dropped.
    pub(crate) fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.bites.clear();
        inbox.tasks.clear();
        (inbox.frames, inbox.bytes, inbox.asked) = (0, 0, false);
        drop(inbox);
        self.arrived.notify_one();
    }

    /// Sleeps until there is work. False: closed.
    fn wait(&self) -> bool {
        let mut inbox = self.inbox();
        while inbox.bites.is_empty() && inbox.tasks.is_empty() && !inbox.closed {
            self.sleeps.store(true, Ordering::Relaxed);
            inbox = self.arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeps.store(false, Ordering::Relaxed);
        !inbox.closed
    }

    /// What the state machine had applied when the node started.
    pub(crate) fn began(&self) -> EntryId {
        self.began
    }

    pub(crate) fn applied(&self) -> LogIndex {
        LogIndex(self.applied.load(Ordering::Acquire))
    }

    /// What the state machine names as durable in its own state.
    pub(crate) fn durable(&self) -> LogIndex {
        LogIndex(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// What this stage is known by to whoever asks where it is ([`foreign::place`]).
    pub(crate) fn stage(self: &Arc<ApplyQueue>) -> usize {
        Arc::as_ptr(self) as usize
    }

    pub(crate) fn replies_too_long(&self) -> u64 {
        self.too_long.load(Ordering::Relaxed)
    }

    pub(crate) fn want_bell(&self, wanted: bool) {
        self.bell_wanted.store(wanted, Ordering::Relaxed);
        // Against the fence in `bell_is_wanted`: either the stage sees the wish after its frame, or the reactor, which
        // looks at the outcome after this, sees the frame applied.
        fence(Ordering::SeqCst);
    }

    pub(crate) fn bell_is_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        self.bell_wanted.load(Ordering::Relaxed)
    }

    /// Whether the stage, or what goes with it, has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        if !self.has_failed() {
            return None;
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn fail(&self, failure: Failure) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        self.failed.store(true, Ordering::Release);
    }
}

//! The apply stage: committed frames in, replies out. Driven by `poll`, whoever calls it: a thread of
//! its own, the reactor, or the simulator.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kontiki_core::{IndexRange, LogIndex};
use kontiki_frame::{self as frame, Header, Kind};
use kontiki_io::Wake;
use kontiki_mem::{Batch, Block, Resolver};

use crate::error::Failure;
use crate::limits::MAX_APPLY_QUEUE;
use crate::state_machine::{Entries, Replies, StateMachine};

/// One committed frame, or the part of it that counts.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) block: Block,
    pub(crate) header: Header,
    pub(crate) range: IndexRange,
    /// The tickets of the frame's entries, where this node took the proposals; covers the whole frame.
    pub(crate) tickets: Option<Batch>,
}

#[derive(Debug)]
struct Inbox {
    work: VecDeque<Work>,
    bytes: usize,
    closed: bool,
}

/// The bounded queue between the reactor and the stage, and what the stage publishes back.
pub(crate) struct ApplyQueue {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    applied: AtomicU64,
    durable: AtomicU64,
    entries: AtomicU64,
    /// The reactor has more to give, or answers clients: it wants to hear of progress.
    bell_wanted: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl std::fmt::Debug for ApplyQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApplyQueue").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl ApplyQueue {
    fn new(applied: LogIndex, durable: LogIndex) -> ApplyQueue {
        ApplyQueue {
            inbox: Mutex::new(Inbox { work: VecDeque::with_capacity(MAX_APPLY_QUEUE), bytes: 0, closed: false }),
            arrived: Condvar::new(),
            applied: AtomicU64::new(applied.0),
            durable: AtomicU64::new(durable.0),
            entries: AtomicU64::new(0),
            bell_wanted: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more frame may be handed over; `share`: frame memory the queue may hold, in bytes.
    pub(crate) fn has_room(&self, share: usize) -> bool {
        let inbox = self.inbox();
        inbox.work.len() < MAX_APPLY_QUEUE && inbox.bytes < share
    }

    /// Hands a frame over; call [`ApplyQueue::announce`] when the last of a turn is in.
    pub(crate) fn push(&self, work: Work) {
        let mut inbox = self.inbox();
        assert!(inbox.work.len() < MAX_APPLY_QUEUE, "the reactor asked for room before");
        inbox.bytes += work.block.len();
        inbox.work.push_back(work);
    }

    /// Wakes the apply thread.
    pub(crate) fn announce(&self) {
        self.arrived.notify_one();
    }

    fn pop(&self) -> Option<Work> {
        let mut inbox = self.inbox();
        let work = inbox.work.pop_front()?;
        inbox.bytes -= work.block.len();
        Some(work)
    }

    /// Whether everything handed over was taken out.
    pub(crate) fn is_empty(&self) -> bool {
        self.inbox().work.is_empty()
    }

    /// No more work will come: the apply thread ends, and what was not begun is dropped.
    pub(crate) fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.work.clear();
        inbox.bytes = 0;
        drop(inbox);
        self.arrived.notify_one();
    }

    /// Sleeps until there is work. False: closed.
    fn wait(&self) -> bool {
        let mut inbox = self.inbox();
        while inbox.work.is_empty() && !inbox.closed {
            inbox = self.arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        !inbox.closed
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

    pub(crate) fn want_bell(&self, wanted: bool) {
        self.bell_wanted.store(wanted, Ordering::Relaxed);
        // Against the fence in `bell_is_wanted`: either the stage sees the wish after its frame, or the reactor, which
        // looks at the outcome after this, sees the frame applied.
        fence(Ordering::SeqCst);
    }

    fn bell_is_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        self.bell_wanted.load(Ordering::Relaxed)
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, failure: Failure) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }
}

/// The state machine and what drives it.
#[derive(Debug)]
pub(crate) struct ApplyStage<M> {
    machine: M,
    queue: Arc<ApplyQueue>,
    resolver: Resolver,
    reply_bytes: usize,
    failed: bool,
}

impl<M: StateMachine> ApplyStage<M> {
    pub(crate) fn new(machine: M, resolver: Resolver, reply_bytes: usize) -> (ApplyStage<M>, Arc<ApplyQueue>) {
        let queue = Arc::new(ApplyQueue::new(machine.applied(), machine.durable()));
        (ApplyStage { machine, queue: Arc::clone(&queue), resolver, reply_bytes, failed: false }, queue)
    }

    /// Applies the next frame, if there is one. False: nothing to do, or the machine has failed.
    pub(crate) fn poll(&mut self) -> bool {
        if self.failed {
            return false;
        }
        let Some(work) = self.queue.pop() else { return false };
        match self.apply(&work) {
            Ok(()) => {
                self.queue.applied.store(work.range.to.0, Ordering::Release);
                self.queue.durable.store(self.machine.durable().0, Ordering::Release);
            }
            Err(failure) => {
                self.failed = true;
                self.queue.fail(failure);
            }
        }
        // One wake-up per waiting caller and frame; the frame's memory goes back with `work`.
        self.resolver.flush();
        true
    }

    fn apply(&mut self, work: &Work) -> Result<(), Failure> {
        let applied = self.queue.applied();
        if work.header.kind != Kind::Entries || work.range.to <= applied {
            return Ok(());
        }
        let from = LogIndex(work.range.from.0.max(applied.0 + 1));
        assert!(from.0 == applied.0 + 1 || work.range.from.0 <= applied.0 + 1, "apply skips from {applied} to {from}");
        let range = IndexRange { from, to: work.range.to };
        let tickets = work.tickets.as_ref().map_or(&[][..], |b| b.tickets());
        let skip = (from.0 - work.header.meta.first.0) as usize;
        let count = (range.to.0 - range.from.0 + 1) as usize;
        let tickets = tickets.get(skip..tickets.len().min(skip + count)).unwrap_or(&[]);
        let mut replies = Replies { resolver: &mut self.resolver, tickets, first: from, given: 0, limit: self.reply_bytes };
        let inner = frame::entries(work.block.bytes(), &work.header, range);
        let machine = &mut self.machine;
        // A panic of the product's code stops this node with a typed failure, never the process of the product.
        let outcome = catch_unwind(AssertUnwindSafe(|| machine.apply(Entries { inner }, &mut replies)));
        match outcome {
            Ok(Ok(())) => {
                while replies.given < count {
                    replies.push(&[]);
                }
                self.queue.entries.fetch_add(count as u64, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(error)) => Err(Failure::Apply(error)),
            Err(panic) => Err(Failure::ApplyPanic(panic_text(&*panic))),
        }
    }

    /// The body of the apply thread: until the queue is closed or the machine fails.
    pub(crate) fn run(mut self, bell: &dyn Wake) {
        let queue = Arc::clone(&self.queue);
        // Whatever else of the product's code panics (its `durable`, a waker): the node must hear that nobody applies.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            while !self.failed && queue.wait() {
                while self.poll() {
                    if queue.bell_is_wanted() {
                        bell.wake();
                    }
                }
            }
        }));
        if let Err(panic) = outcome {
            queue.fail(Failure::ApplyPanic(panic_text(&*panic)));
        }
        bell.wake();
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

//! The apply stage: committed frames in, replies out. Driven by `poll`, whoever calls it: a thread of
//! its own, the reactor, or the simulator.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kontiki_core::limits::MAX_INDEX;
use kontiki_core::{EntryId, IndexRange, LogIndex};
use kontiki_frame::{self as frame, Header, Kind};
use kontiki_io::Wake;
use kontiki_mem::{Batch, Block, Resolver};

use crate::error::{Failure, StartError};
use crate::foreign;
use crate::limits::MAX_APPLY_QUEUE;
use crate::state_machine::{Callers, Entries, Replies, StateMachine};

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
enum Task {
    Frame(Work),
    /// To ask what is durable, as after a run of entries.
    Durable,
}

#[derive(Debug)]
struct Inbox {
    tasks: VecDeque<Task>,
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
    applied: AtomicU64,
    durable: AtomicU64,
    entries: AtomicU64,
    /// Replies over the limit.
    too_long: AtomicU64,
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
    fn new(applied: LogIndex, durable: LogIndex) -> ApplyQueue {
        ApplyQueue {
            inbox: Mutex::new(Inbox {
                tasks: VecDeque::with_capacity(MAX_APPLY_QUEUE + 1),
                frames: 0,
                bytes: 0,
                asked: false,
                closed: false,
            }),
            arrived: Condvar::new(),
            sleeps: AtomicBool::new(false),
            applied: AtomicU64::new(applied.0),
            durable: AtomicU64::new(durable.0),
            entries: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
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

    fn pop(&self) -> Option<Task> {
        let mut inbox = self.inbox();
        let task = inbox.tasks.pop_front()?;
        match &task {
            Task::Frame(work) => {
                inbox.frames -= 1;
                inbox.bytes -= work.block.len();
            }
            Task::Durable => inbox.asked = false,
        }
        Some(task)
    }

    /// Whether everything handed over was taken out, and everything asked.
    pub(crate) fn is_empty(&self) -> bool {
        self.inbox().tasks.is_empty()
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

    /// No more work will come: the apply thread ends, and what was not begun is dropped.
    pub(crate) fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.tasks.clear();
        (inbox.frames, inbox.bytes, inbox.asked) = (0, 0, false);
        drop(inbox);
        self.arrived.notify_one();
    }

    /// Sleeps until there is work. False: closed.
    fn wait(&self) -> bool {
        let mut inbox = self.inbox();
        while inbox.tasks.is_empty() && !inbox.closed {
            self.sleeps.store(true, Ordering::Relaxed);
            inbox = self.arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeps.store(false, Ordering::Relaxed);
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

    pub(crate) fn failure(&self) -> Option<Failure> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, failure: Failure) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        self.failed.store(true, Ordering::Release);
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
    /// # Errors
    /// What the machine says of itself cannot be, or it panics.
    pub(crate) fn new(machine: M, reply_bytes: usize) -> Result<(ApplyStage<M>, Arc<ApplyQueue>), StartError> {
        let asked = foreign::call(|| (machine.applied(), machine.durable()));
        let (applied, durable) =
            asked.map_err(|panic| StartError::StateMachine(format!("it panicked when asked what it has applied: {panic}")))?;
        let EntryId { index: applied, .. } = applied;
        if applied.0 > MAX_INDEX {
            return Err(StartError::StateMachine(format!(
                "it says that it has applied {applied}: the last index there can be is {MAX_INDEX}"
            )));
        }
        let queue = Arc::new(ApplyQueue::new(applied, durable.min(applied)));
        Ok((ApplyStage { machine, queue: Arc::clone(&queue), resolver: Resolver::new(), reply_bytes, failed: false }, queue))
    }

    /// Does what is next, if there is anything. False: nothing to do, or the machine has failed.
    pub(crate) fn poll(&mut self) -> bool {
        if self.failed {
            return false;
        }
        let Some(task) = self.queue.pop() else { return false };
        let outcome = match task {
            Task::Frame(mut work) => {
                let outcome = self.apply(&mut work).and_then(|()| self.note(work.range.to));
                // One wake-up per waiting caller and frame; the frame's memory goes back with `work`.
                self.resolver.flush();
                outcome
            }
            Task::Durable => self.note(self.queue.applied()),
        };
        if let Err(failure) = outcome {
            self.failed = true;
            self.queue.fail(failure);
        }
        true
    }

    /// Entries up to `to` are applied. What the machine says of its durable state is believed as far as it can be true:
    /// nothing is durable that was not applied, and what was durable once stays so.
    fn note(&self, to: LogIndex) -> Result<(), Failure> {
        // What came again moves nothing back.
        let applied = to.0.max(self.queue.applied().0);
        self.queue.applied.store(applied, Ordering::Release);
        let durable = foreign::call(|| foreign::in_machine(self.queue.stage(), || self.machine.durable())).map_err(Failure::ApplyPanic)?;
        self.queue.durable.fetch_max(durable.0.min(applied), Ordering::Release);
        Ok(())
    }

    fn apply(&mut self, work: &mut Work) -> Result<(), Failure> {
        let applied = self.queue.applied();
        // Whatever stands in the frame: a hole before it would be forgotten with it.
        assert!(work.range.from <= applied.next(), "apply skips from {applied} to {}", work.range.from);
        if work.header.kind != Kind::Entries || work.range.to <= applied {
            return Ok(());
        }
        let from = work.range.from.max(applied.next());
        let range = IndexRange { from, to: work.range.to };
        let skip = (from.0 - work.header.meta.first.0) as usize;
        let count = (range.to.0 - range.from.0 + 1) as usize;
        let callers = work.tickets.as_mut().map(|batch| {
            let whole = skip == 0 && count == batch.len() && !batch.is_scarce();
            Callers { batch, skip, first: from, whole }
        });
        let mut replies = Replies { resolver: &mut self.resolver, callers, given: 0, limit: self.reply_bytes, most: count, too_long: 0 };
        let inner = frame::entries(work.block.bytes(), &work.header, range);
        let (machine, stage) = (&mut self.machine, self.queue.stage());
        // A panic of the product's code stops this node with a typed failure, never the process of the product.
        match foreign::call(|| foreign::in_machine(stage, || machine.apply(Entries { inner }, &mut replies))) {
            Ok(Ok(())) => {
                while replies.given < count {
                    replies.push(&[]);
                }
                let Replies { callers, resolver, too_long, .. } = replies;
                self.queue.too_long.fetch_add(too_long, Ordering::Relaxed);
                if let Some(callers) = callers.filter(|callers| callers.whole) {
                    resolver.complete(callers.batch, callers.first.0);
                }
                self.queue.entries.fetch_add(count as u64, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(error)) => Err(Failure::Apply(error)),
            Err(panic) => Err(Failure::ApplyPanic(panic)),
        }
    }

    /// The body of the apply thread: until the queue is closed or the machine fails.
    pub(crate) fn run(self, bell: &dyn Wake) {
        let stage = self.queue.stage();
        foreign::at_work(stage, || self.run_inside(bell));
    }

    fn run_inside(mut self, bell: &dyn Wake) {
        let queue = Arc::clone(&self.queue);
        // Whatever else of the product's code panics (its `durable`, a waker): the node must hear that nobody applies.
        let outcome = foreign::call(|| {
            while !self.failed && queue.wait() {
                while self.poll() {
                    if queue.bell_is_wanted() {
                        bell.wake();
                    }
                }
            }
        });
        if let Err(panic) = outcome {
            queue.fail(Failure::ApplyPanic(panic));
        }
        bell.wake();
        // The machine goes with the stage, and may panic as it does: nobody hears of a thread that ends in one.
        drop(foreign::call(|| drop(self)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state_machine::ApplyError;
    use kontiki_core::{ClusterId, FrameMeta, GroupId, Subterm, Term};
    use kontiki_mem::{Hold, OpenBatch, Outcome, Ring, Ticket, Tickets};

    /// Remembers what it applied; answers the first entry of each call only.
    #[derive(Debug)]
    struct Notes {
        applied: EntryId,
        seen: Arc<Mutex<Vec<u64>>>,
    }

    impl StateMachine for Notes {
        fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
            let mut seen = self.seen.lock().unwrap();
            for entry in entries {
                assert_eq!(entry.payload, entry.index.0.to_le_bytes());
                seen.push(entry.index.0);
            }
            replies.push(b"first");
            Ok(())
        }

        fn applied(&self) -> EntryId {
            self.applied
        }

        fn durable(&self) -> LogIndex {
            LogIndex(self.seen.lock().unwrap().last().copied().unwrap_or(0))
        }
    }

    struct Fixture {
        stage: ApplyStage<Notes>,
        queue: Arc<ApplyQueue>,
        seen: Arc<Mutex<Vec<u64>>>,
        batch: OpenBatch,
        ring: Ring,
    }

    impl Fixture {
        fn new(applied: u64) -> Fixture {
            let seen = Arc::default();
            let machine =
                Notes { applied: EntryId { index: LogIndex(applied), term: Term(u64::from(applied > 0)) }, seen: Arc::clone(&seen) };
            let (stage, queue) = ApplyStage::new(machine, 64).unwrap();
            let ring = Ring::new(1 << 16, 16).unwrap();
            let batch = OpenBatch::new(Tickets::new(16, 64), frame::BODY_OFFSET, 4096 - frame::BODY_OFFSET, 16, 4);
            Fixture { stage, queue, seen, batch, ring }
        }

        /// A frame of `count` entries from `first` on, of which `range` counts, and its callers' tickets.
        fn work(&mut self, first: u64, count: u32, (from, to): (u64, u64)) -> (Work, Vec<Ticket>) {
            self.batch.open(self.ring.reserve(4096).unwrap()).unwrap();
            let holder = Hold::new((), self.batch.records());
            let mut tickets = Vec::new();
            for index in first..first + u64::from(count) {
                let mut ticket = holder.take().unwrap();
                self.batch.propose(&[], &index.to_le_bytes(), &mut ticket);
                tickets.push(ticket);
            }
            assert!(self.batch.seal());
            let (sealed, batch) = self.batch.poll_sealed().unwrap();
            let meta = FrameMeta { term: Term(1), first: LogIndex(first), count, prev_term: Term(u64::from(first > 1)) };
            let header = Header {
                kind: Kind::Entries,
                sessions: false,
                cluster: ClusterId(1),
                group: GroupId(0),
                meta,
                subterm: Subterm(0),
                cluster_ns: 0,
                proposed_ns: 0,
                body_bytes: sealed.body_bytes as u32,
            };
            let mut block = sealed.block;
            block.truncate(frame::frame_bytes(sealed.body_bytes));
            frame::seal(block.bytes_mut(), &header);
            let range = IndexRange { from: LogIndex(from), to: LogIndex(to) };
            (Work { block: block.freeze(), header, range, tickets: Some(batch) }, tickets)
        }

        fn apply(&mut self, work: Work) {
            self.queue.push(work);
            assert!(self.stage.poll());
        }

        fn seen(&self) -> Vec<u64> {
            self.seen.lock().unwrap().clone()
        }
    }

    fn outcomes(tickets: &[Ticket]) -> Vec<Option<u64>> {
        let index = |outcome| if let Outcome::Applied { index } = outcome { index } else { 0 };
        tickets.iter().map(|ticket| ticket.poll_outcome().map(index)).collect()
    }

    /// Every entry once and in order, each caller with its own index, whatever part of a frame comes when.
    #[test]
    fn parts_of_frames() {
        let mut f = Fixture::new(0);
        let (work, tickets) = f.work(1, 4, (1, 4));
        f.apply(work);
        assert_eq!((f.seen(), f.queue.applied(), f.queue.durable()), (vec![1, 2, 3, 4], LogIndex(4), LogIndex(4)));
        assert_eq!(outcomes(&tickets), [Some(1), Some(2), Some(3), Some(4)], "a machine that answers less has answered nothing");
        assert_eq!(tickets[0].reply(), b"first");

        // Nobody is answered for an entry that is not applied yet.
        let (work, tickets) = f.work(5, 4, (5, 6));
        f.apply(work);
        assert_eq!((f.seen().len(), f.queue.applied(), f.queue.entries()), (6, LogIndex(6), 6));
        assert_eq!(outcomes(&tickets), [Some(5), Some(6), None, None]);

        // A frame that begins with what is applied already.
        let (work, tickets) = f.work(5, 4, (5, 8));
        f.apply(work);
        assert_eq!((f.seen(), f.queue.entries()), ((1..=8).collect(), 8));
        assert_eq!(outcomes(&tickets), [None, None, Some(7), Some(8)]);

        // All of it is.
        let (work, tickets) = f.work(5, 4, (5, 8));
        f.apply(work);
        assert_eq!((f.seen().len(), f.queue.applied()), (8, LogIndex(8)));
        assert_eq!(outcomes(&tickets), [None; 4]);
    }

    #[test]
    fn a_machine_that_remembers_is_not_given_again_what_it_applied() {
        let mut f = Fixture::new(3);
        let (work, _) = f.work(1, 4, (1, 4));
        f.apply(work);
        assert_eq!((f.seen(), f.queue.applied()), (vec![4], LogIndex(4)));
    }

    /// A hole stops the process before it corrupts a state machine.
    #[test]
    #[should_panic(expected = "apply skips")]
    fn a_hole() {
        let mut f = Fixture::new(0);
        let (work, _) = f.work(3, 2, (3, 4));
        f.apply(work);
    }

    /// One before a no-op too: it has nothing to apply, but moves on what counts as applied.
    #[test]
    #[should_panic(expected = "apply skips")]
    fn a_hole_before_a_noop() {
        let mut f = Fixture::new(0);
        let (mut work, _) = f.work(3, 1, (3, 3));
        work.header.kind = Kind::Noop;
        f.apply(work);
    }

    /// What is handed over again moves nothing back, so that nothing behind it is applied twice.
    #[test]
    fn what_comes_again_moves_nothing_back() {
        let mut f = Fixture::new(3);
        let (work, _) = f.work(1, 2, (1, 2));
        f.apply(work);
        assert_eq!(f.queue.applied(), LogIndex(3));
    }

    #[test]
    fn the_queue_is_bounded_by_frames_and_by_memory() {
        let mut f = Fixture::new(0);
        assert!(f.queue.is_empty() && f.queue.has_room(1) && !f.stage.poll());
        let (work, _) = f.work(1, 1, (1, 1));
        let bytes = work.block.len();
        f.queue.push(work);
        assert!(!f.queue.is_empty() && f.queue.has_room(bytes + 1) && !f.queue.has_room(bytes));
        assert!(f.stage.poll());
        assert!(f.queue.is_empty() && f.queue.has_room(1), "the memory came back");
        let (work, _) = f.work(2, 1, (2, 2));
        let Work { block, header, range, .. } = work;
        for _ in 0..MAX_APPLY_QUEUE {
            assert!(f.queue.has_room(usize::MAX));
            f.queue.push(Work { block: block.clone(), header, range, tickets: None });
        }
        assert!(!f.queue.has_room(usize::MAX));
        f.queue.close();
        assert!(f.queue.is_empty() && f.queue.has_room(1) && !f.queue.wait());
    }

    /// Counts how often it was rung.
    struct Bell(AtomicU64);

    impl Wake for Bell {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The thread rings once a frame if that is wanted, and always when it ends: closed, or because the machine failed.
    #[test]
    fn the_thread_rings() {
        for wanted in [true, false] {
            let mut f = Fixture::new(0);
            let (work, _) = f.work(1, 1, (1, 1));
            let (queue, stage, bell) = (f.queue, f.stage, Bell(AtomicU64::new(0)));
            queue.want_bell(wanted);
            queue.push(work);
            std::thread::scope(|scope| {
                scope.spawn(|| stage.run(&bell));
                while queue.applied() < LogIndex(1) {
                    std::thread::yield_now();
                }
                queue.close();
            });
            assert_eq!((bell.0.load(Ordering::SeqCst), queue.failure().is_none()), (1 + u64::from(wanted), true));
        }
        let mut f = Fixture::new(0);
        let (work, _) = f.work(3, 1, (3, 3));
        let (queue, bell) = (f.queue, Bell(AtomicU64::new(0)));
        queue.push(work);
        f.stage.run(&bell);
        let Some(Failure::ApplyPanic(why)) = queue.failure() else { panic!("a hole goes unnoticed") };
        assert!(why.contains("apply skips"), "{why}");
        assert_eq!(bell.0.load(Ordering::SeqCst), 1);
    }
}

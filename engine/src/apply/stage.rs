//! The apply stage: committed frames in, replies out; and snapshots, in bites. Driven by `poll`, whoever calls it: a
//! thread of its own, the reactor, or the simulator.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kontiki_core::limits::MAX_INDEX;
use kontiki_core::{EntryId, IndexRange};
use kontiki_frame::{self as frame, Kind};
use kontiki_io::Wake;
use kontiki_mem::{PoolBuf, Resolver};

use super::{Answer, ApplyQueue, Piece, Task, Work};
use crate::error::{Failure, StartError};
use crate::foreign;
use crate::state_machine::{Callers, Entries, Replies, Restore, SnapshotError, SnapshotSource, StateMachine};

/// The state machine and what drives it.
pub(crate) struct ApplyStage<M> {
    machine: M,
    queue: Arc<ApplyQueue>,
    resolver: Resolver,
    reply_bytes: usize,
    /// The last entry that is in the state.
    at: EntryId,
    /// The snapshot that is being read.
    source: Option<Box<dyn SnapshotSource>>,
    failed: bool,
}

impl<M: std::fmt::Debug> std::fmt::Debug for ApplyStage<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApplyStage").field("machine", &self.machine).field("at", &self.at).finish_non_exhaustive()
    }
}

impl<M: StateMachine> ApplyStage<M> {
    /// # Errors
    /// What the machine says of itself cannot be, or it panics.
    pub(crate) fn new(machine: M, reply_bytes: usize) -> Result<(ApplyStage<M>, Arc<ApplyQueue>), StartError> {
        let asked = foreign::call(|| (machine.applied(), machine.durable(), machine.snapshot_bytes()));
        let (at, durable, snapshot_bytes) =
            asked.map_err(|panic| StartError::StateMachine(format!("it panicked when asked what it has applied: {panic}")))?;
        let EntryId { index: applied, .. } = at;
        if applied.0 > MAX_INDEX {
            return Err(StartError::StateMachine(format!(
                "it says that it has applied {applied}: the last index there can be is {MAX_INDEX}"
            )));
        }
        let queue = Arc::new(ApplyQueue::new(at, durable.min(applied), snapshot_bytes));
        let (resolver, failed) = (Resolver::new(), false);
        Ok((ApplyStage { machine, queue: Arc::clone(&queue), resolver, reply_bytes, at, source: None, failed }, queue))
    }

    /// Does what is next, if there is anything. False: nothing to do, or the machine has failed.
    pub(crate) fn poll(&mut self) -> bool {
        if self.failed {
            return false;
        }
        let Some(task) = self.queue.pop() else { return false };
        let outcome = match task {
            Task::Frame(mut work) => {
                let to = EntryId { index: work.range.to, term: work.header.meta.term };
                let outcome = self.apply(&mut work).and_then(|()| self.note(to));
                // One wake-up per waiting caller and frame; the frame's memory goes back with `work`.
                self.resolver.flush();
                outcome
            }
            Task::Durable => self.note(self.at),
            Task::Look => self.note(self.at).map(|()| self.queue.say(Answer::Looked)),
            Task::Snapshot { full: true } => self.snapshot(),
            Task::Snapshot { full: false } => self.small_snapshot(),
            Task::Fill(buf) => self.fill(buf),
            Task::Forget => self.forget(),
            Task::Restore(piece) => self.restore(piece),
        };
        if let Err(failure) = outcome {
            self.failed = true;
            self.queue.fail(failure);
        }
        true
    }

    /// Everything up to `to` is in the state. What the machine says of its durable state is believed as far as it can be
    /// true: nothing is durable that was not applied, and what was durable once stays so.
    fn note(&mut self, to: EntryId) -> Result<(), Failure> {
        // What came again moves nothing back.
        if to.index > self.at.index {
            self.at = to;
        }
        let applied = self.at.index.0;
        self.queue.applied.store(applied, Ordering::Release);
        let durable = self.call(|machine| machine.durable())?;
        self.queue.durable.fetch_max(durable.0.min(applied), Ordering::Release);
        Ok(())
    }

    /// Calls the product's code. A panic of it stops this node with a typed failure, never the process of the product.
    fn call<T>(&mut self, code: impl FnOnce(&mut M) -> T) -> Result<T, Failure> {
        let (machine, stage) = (&mut self.machine, self.queue.stage());
        foreign::call(|| foreign::in_machine(stage, || code(machine))).map_err(Failure::ApplyPanic)
    }

    fn snapshot(&mut self) -> Result<(), Failure> {
        self.forget()?;
        let (bytes, taken) = self.call(|machine| (machine.snapshot_bytes(), machine.snapshot()))?;
        self.queue.say(match taken {
            Ok(source) => {
                self.source = Some(source);
                Answer::Taken(self.at, bytes)
            }
            Err(error) => Answer::NotTaken(error),
        });
        Ok(())
    }

    /// A small one holds nothing of the machine's.
    fn small_snapshot(&mut self) -> Result<(), Failure> {
        self.forget()?;
        self.queue.say(Answer::Taken(self.at, 0));
        Ok(())
    }

    /// The next bytes of the snapshot. Nobody is told of one that is forgotten already.
    fn fill(&mut self, mut buf: PoolBuf) -> Result<(), Failure> {
        let Some(mut source) = self.source.take() else { return Ok(()) };
        let most = buf.len();
        let (source, read) = self.call(|_| {
            let read = source.read(buf.bytes_mut());
            (source, read)
        })?;
        self.source = Some(source);
        self.queue.say(match read {
            Ok(bytes) if bytes <= most => Answer::Filled(buf, bytes),
            Ok(bytes) => {
                Answer::NotFilled(SnapshotError::Failed(format!("its source says that it gave {bytes} bytes where it may give {most}")))
            }
            Err(error) => Answer::NotFilled(error),
        });
        Ok(())
    }

    fn forget(&mut self) -> Result<(), Failure> {
        let source = self.source.take();
        self.call(|_| drop(source))
    }

    fn restore(&mut self, piece: Piece) -> Result<(), Failure> {
        match piece {
            Piece::Begin(EntryId { index, term }, bytes) => self.give(Restore::Begin { index, term, bytes }),
            Piece::Chunks(buf, count) => {
                for chunk in kontiki_snapshot::chunks(&buf, count).filter(|chunk| chunk.part == kontiki_snapshot::Part::Machine) {
                    self.give(Restore::Chunk(chunk.data))?;
                }
                self.queue.say(Answer::Chunks(buf));
                Ok(())
            }
            Piece::End(to) => {
                self.give(Restore::End)?;
                self.note(to)?;
                self.queue.say(Answer::Restored(to));
                Ok(())
            }
        }
    }

    fn give(&mut self, part: Restore<'_>) -> Result<(), Failure> {
        self.call(|machine| machine.restore(part))?.map_err(Failure::Apply)
    }

    fn apply(&mut self, work: &mut Work) -> Result<(), Failure> {
        let applied = self.at.index;
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
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::limits::MAX_APPLY_QUEUE;
    use crate::state_machine::ApplyError;
    use kontiki_core::{ClusterId, FrameMeta, GroupId, LogIndex, Subterm, Term};
    use kontiki_frame::Header;
    use kontiki_mem::{Hold, OpenBatch, Outcome, Pool, Ring, Ticket, Tickets};

    /// Remembers what it applied; answers the first entry of each call only.
    #[derive(Debug)]
    struct Notes {
        applied: EntryId,
        seen: Arc<Mutex<Vec<u64>>>,
        coming: Vec<u8>,
    }

    /// Says that it gave more than it may.
    struct Boastful;

    impl SnapshotSource for Boastful {
        fn read(&mut self, into: &mut [u8]) -> Result<usize, SnapshotError> {
            Ok(into.len() + 1)
        }
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

        fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
            let seen = self.seen.lock().unwrap().clone();
            match seen.last() {
                Some(13) => panic!("no luck"),
                Some(12) => Ok(Box::new(Boastful)),
                _ => Ok(Box::new(std::io::Cursor::new(seen.iter().flat_map(|index| index.to_le_bytes()).collect::<Vec<u8>>()))),
            }
        }

        fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
            match part {
                Restore::Begin { .. } => self.coming.clear(),
                Restore::Chunk(bytes) => self.coming.extend(bytes),
                Restore::End if !self.coming.len().is_multiple_of(8) => return Err(ApplyError("cut off".into())),
                Restore::End => {
                    let index = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
                    *self.seen.lock().unwrap() = self.coming.chunks(8).map(index).collect();
                }
            }
            Ok(())
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
            let machine = Notes {
                applied: EntryId { index: LogIndex(applied), term: Term(u64::from(applied > 0)) },
                seen: Arc::clone(&seen),
                coming: Vec::new(),
            };
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

    fn answers(queue: &ApplyQueue) -> Vec<Answer> {
        std::iter::from_fn(|| queue.hear()).collect()
    }

    /// A snapshot is of the moment it was taken, whatever is applied while it is read; its bites come before the frames
    /// that wait.
    #[test]
    fn a_snapshot_is_read_between_frames() {
        let mut f = Fixture::new(0);
        let (work, _) = f.work(1, 2, (1, 2));
        f.apply(work);
        let (work, _) = f.work(3, 2, (3, 4));
        f.queue.push(work);
        f.queue.put_first(Task::Snapshot { full: true });
        assert!(f.stage.poll());
        let at = EntryId { index: LogIndex(2), term: Term(1) };
        assert!(matches!(answers(&f.queue)[..], [Answer::Taken(taken, 0)] if taken == at));
        let pool = Pool::new(2, 4096);
        assert!(f.stage.poll());
        assert_eq!(f.seen(), [1, 2, 3, 4]);
        f.queue.put_first(Task::Fill(pool.take().unwrap()));
        f.queue.put_first(Task::Fill(pool.take().unwrap()));
        assert!(f.stage.poll() && f.stage.poll() && !f.stage.poll());
        match &answers(&f.queue)[..] {
            [Answer::Filled(first, 16), Answer::Filled(_, 0)] => {
                assert_eq!(first.bytes()[..16], [1u64.to_le_bytes(), 2u64.to_le_bytes()].concat());
            }
            other => panic!("{other:?}"),
        }
        f.queue.put_first(Task::Forget);
        f.queue.put_last(Task::Fill(pool.take().unwrap()));
        assert!(f.stage.poll() && f.stage.poll());
        assert!(answers(&f.queue).is_empty(), "nobody is told of what is forgotten");
        assert_eq!(pool.available(), 2);
    }

    /// One snapshot follows on the last before the stage has come to drop that: it drops that, and not this.
    #[test]
    fn one_snapshot_follows_on_another() {
        let mut f = Fixture::new(0);
        let (work, _) = f.work(1, 1, (1, 1));
        f.apply(work);
        for task in
            [Task::Snapshot { full: true }, Task::Forget, Task::Snapshot { full: true }, Task::Fill(Pool::new(1, 4096).take().unwrap())]
        {
            f.queue.put_first(task);
        }
        while f.stage.poll() {}
        assert!(matches!(answers(&f.queue)[..], [Answer::Taken(..), Answer::Taken(..), Answer::Filled(_, 8)]));
    }

    /// What the product's code does wrong ends the snapshot, or the node; never the process.
    #[test]
    fn a_snapshot_that_goes_wrong() {
        let mut f = Fixture::new(11);
        let (work, _) = f.work(12, 1, (12, 12));
        f.apply(work);
        f.queue.put_first(Task::Snapshot { full: true });
        assert!(f.stage.poll());
        f.queue.put_first(Task::Fill(Pool::new(1, 4096).take().unwrap()));
        assert!(f.stage.poll());
        assert!(matches!(answers(&f.queue)[..], [Answer::Taken(..), Answer::NotFilled(SnapshotError::Failed(_))]));
        let (work, _) = f.work(13, 1, (13, 13));
        f.apply(work);
        f.queue.put_first(Task::Snapshot { full: true });
        assert!(f.stage.poll() && f.queue.failure().is_some());
        assert!(matches!(f.queue.failure(), Some(Failure::ApplyPanic(why)) if why == "no luck"));
    }

    /// What is restored is what counts as applied, and entries behind it follow on.
    #[test]
    fn a_snapshot_is_restored() {
        let mut f = Fixture::new(0);
        let at = EntryId { index: LogIndex(9), term: Term(1) };
        f.queue.put_last(Task::Restore(Piece::Begin(at, 0)));
        f.queue.put_last(Task::Restore(Piece::End(at)));
        let (work, _) = f.work(10, 1, (10, 10));
        f.queue.push(work);
        assert!(f.stage.poll() && f.queue.applied() == LogIndex(0));
        assert!(f.stage.poll());
        assert!(matches!(answers(&f.queue)[..], [Answer::Restored(restored)] if restored == at));
        assert!(f.queue.applied() == LogIndex(9) && f.stage.poll());
        assert_eq!((f.seen(), f.queue.applied()), (vec![10], LogIndex(10)));
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

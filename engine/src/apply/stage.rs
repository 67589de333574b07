//! The apply stage: committed frames in, replies out; and snapshots, in bites. Driven by `poll`, whoever calls it: a
//! thread of its own, the reactor, or the simulator.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kontiki_core::limits::MAX_INDEX;
use kontiki_core::{EntryId, IndexRange};
use kontiki_frame::{self as frame, Kind};
use kontiki_io::Wake;
use kontiki_mem::{PoolBuf, Resolver};
use kontiki_snapshot::limits::CHUNK_BYTES;
use kontiki_snapshot::{Chunk, Part};

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
            // What the node alone may say of itself is its machine's failure, if that says it.
            Err(SnapshotError::Stopped) => Answer::NotTaken(failed(&SnapshotError::Stopped)),
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
            Err(error @ SnapshotError::Failed(_)) => Answer::NotFilled(error),
            // Whoever has given a source away does make snapshots: this one has failed, and nothing else.
            Err(error) => Answer::NotFilled(failed(&error)),
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
            // One at a time: a machine may take long over each, and a stop waits for no more than that.
            Piece::Chunks(buf, mut rest) => {
                if let Some(at) = rest.next()
                    && let Some(bytes) = buf.bytes().chunks(CHUNK_BYTES).nth(at)
                    && let Ok(Chunk { part: Part::Machine, data, .. }) = Chunk::parse(bytes)
                {
                    self.give(Restore::Chunk(data))?;
                }
                if rest.is_empty() {
                    self.queue.say(Answer::Chunks(buf));
                } else {
                    self.queue.put_back(Task::Restore(Piece::Chunks(buf, rest)));
                }
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

/// An answer that fits no question that was asked.
fn failed(answer: &SnapshotError) -> SnapshotError {
    SnapshotError::Failed(format!("the state machine answered: {answer}"))
}

#[cfg(test)]
mod tests;

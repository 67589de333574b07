//! The stage, driven by hand and by a thread of its own.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::*;
use crate::limits::{FILL_BYTES, MAX_APPLY_QUEUE};
use crate::state_machine::ApplyError;
use kontiki_core::{ClusterId, FrameMeta, GroupId, LogIndex, Subterm, Term};
use kontiki_frame::Header;
use kontiki_io::IoBuf;
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

/// A snapshot is of the moment it was taken, whatever is applied while it is read; the first of its bites
/// comes before the frames that wait.
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
    f.queue.put_first(Task::Fill(pool.take().unwrap()));
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
    for task in [Task::Snapshot { full: true }, Task::Forget, Task::Snapshot { full: true }, Task::Fill(Pool::new(1, 4096).take().unwrap())]
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

/// Gives a byte at a time, for as long as not all of so many entries are applied, and has the next asked for before it
/// gives one.
struct Trickle {
    queue: Arc<ApplyQueue>,
    pool: Pool,
    entries: u64,
    reads: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl SnapshotSource for Trickle {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SnapshotError> {
        while self.queue.hear().is_some() {}
        let reads = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
        // That it comes to an end without its entries is what the test finds.
        if self.queue.applied() >= LogIndex(self.entries) || reads >= 1000 {
            self.ended.store(true, Ordering::SeqCst);
            return Ok(0);
        }
        self.queue.put_first(Task::Fill(self.pool.take().unwrap()));
        into[0] = 7;
        Ok(1)
    }
}

/// However slowly a source gives its pieces, and however many: frames that wait are applied between any two of them. And
/// however many those are: a piece comes after as much of them as a piece may have. Whoever drives the stage.
#[test]
fn pieces_of_a_source_and_frames_take_turns() {
    for thread in [false, true] {
        let mut f = Fixture::new(0);
        let (Work { block, mut header, .. }, _) = f.work(1, 1, (1, 1));
        header.kind = Kind::Noop;
        let bytes = 40 * block.len();
        for index in (1..=40).map(LogIndex) {
            f.queue.push(Work { block: block.clone(), header, range: IndexRange { from: index, to: index }, tickets: None });
        }
        let (reads, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let pool = Pool::new(3, 4096);
        f.queue.put_first(Task::Fill(pool.take().unwrap()));
        let source = Trickle { queue: Arc::clone(&f.queue), pool, entries: 40, reads: Arc::clone(&reads), ended: Arc::clone(&ended) };
        f.stage.source = Some(Box::new(source));
        let queue = Arc::clone(&f.queue);
        if thread {
            let (stage, bell) = (f.stage, Bell(AtomicU64::new(0)));
            std::thread::scope(|scope| {
                scope.spawn(|| stage.run(&bell));
                while !ended.load(Ordering::SeqCst) && queue.failure().is_none() {
                    std::thread::yield_now();
                }
                queue.close();
            });
        } else {
            while f.stage.poll() {}
        }
        let turns = bytes.div_ceil(FILL_BYTES) as u64;
        assert!(turns > 1, "all of it in one turn shows nothing");
        assert_eq!((queue.applied(), reads.load(Ordering::SeqCst)), (LogIndex(40), turns + 1));
    }
}

/// A machine may take long over a chunk: each is a bite of its own, behind which a stop ends what is left.
#[test]
fn a_stop_waits_for_one_chunk() {
    let mut f = Fixture::new(0);
    let head = kontiki_snapshot::Head { full: true, ..kontiki_snapshot::Head::default() };
    let file = kontiki_snapshot::encode(head, &[(Part::Machine, &vec![1; 3 * kontiki_snapshot::limits::DATA_BYTES])]);
    let (pool, chunks) = (Pool::new(1, file.len()), file.len() / CHUNK_BYTES);
    let mut buf = pool.take().unwrap();
    buf.bytes_mut().copy_from_slice(&file);
    f.queue.put_last(Task::Restore(Piece::Chunks(IoBuf::Pool(buf), 0..chunks)));
    // The head, and one of the machine's.
    assert!(f.stage.poll() && f.stage.poll());
    assert_eq!(f.stage.machine.coming.len(), kontiki_snapshot::limits::DATA_BYTES);
    assert!(answers(&f.queue).is_empty() && pool.available() == 0);
    // What asks something of the machine comes in between.
    f.queue.put_first(Task::Look);
    assert!(f.stage.poll());
    assert!(matches!(answers(&f.queue)[..], [Answer::Looked]));
    let left = f.queue.pop().unwrap();
    f.queue.close();
    f.queue.put_back(left);
    assert!(!f.stage.poll() && pool.available() == 1, "nothing is left of it after a stop");
}

/// Answers what is not its to say.
struct Says(SnapshotError);

impl SnapshotSource for Says {
    fn read(&mut self, _: &mut [u8]) -> Result<usize, SnapshotError> {
        Err(self.0.clone())
    }
}

/// Whatever a source answers, one snapshot has failed: the machine counts as one that makes some, the node as one that runs.
#[test]
fn a_source_speaks_for_one_snapshot_alone() {
    let mut f = Fixture::new(0);
    let texts =
        ["the state machine answered: the state machine makes no snapshots", "the state machine answered: the node has stopped", "why"];
    for (error, text) in [SnapshotError::NotSupported, SnapshotError::Stopped, SnapshotError::Failed("why".into())].into_iter().zip(texts) {
        f.stage.source = Some(Box::new(Says(error)));
        f.queue.put_first(Task::Fill(Pool::new(1, 4096).take().unwrap()));
        assert!(f.stage.poll());
        match &answers(&f.queue)[..] {
            [Answer::NotFilled(SnapshotError::Failed(why))] => assert_eq!(why, text),
            other => panic!("{other:?}"),
        }
    }
}

//! What callers' threads and the reactor share: the open batch, the tickets, the bell, and what is published.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

use kontiki_core::{EntryId, NodeId, Role};
use kontiki_io::Wake;
use kontiki_mem::{Hold, OpenBatch, Outcome, Records, Slot};

use crate::error::{Failure, LeaderHint, Lost, ProposeError};
use crate::events::Board;
use crate::foreign::{self, Place};
use crate::lack::Lack;
use crate::limits::{AMPLE_ENTRIES, OPEN_SPINS};
use crate::state_machine::SnapshotError;
use crate::status::Status;
use crate::ticket::{Applied, Ticket};

/// How a node ended, or that it has not.
#[derive(Clone, Debug)]
pub(crate) enum Life {
    Running,
    /// Asked to stop, and did.
    Stopped,
    /// Stopped by itself.
    Failed(Failure),
}

/// One per node.
pub(crate) struct Shared {
    pub(crate) batch: OpenBatch,
    /// The tickets of `batch`, and their outcomes.
    pub(crate) records: Records,
    id: NodeId,
    bell: Arc<dyn Wake>,
    /// The reactor would seal a first entry at once: no write is in flight.
    eager: AtomicBool,
    /// Leader's id as last known, zero if unknown.
    leader: AtomicU64,
    /// Where each member is, as far as this node knows.
    members: RwLock<Vec<LeaderHint>>,
    max_entry_bytes: usize,
    pub(crate) busy: AtomicU64,
    /// What happened, for the product.
    pub(crate) events: Board,
    /// The apply stage.
    stage: AtomicUsize,
    /// Why nothing more can be written just now: [`Lack::word`], or zero.
    no_room: AtomicU8,
    stop: AtomicBool,
    /// How many statuses were asked for, and how many of the asking the newest one answers.
    status_asked: AtomicU64,
    status_answered: AtomicU64,
    status: Mutex<Option<Status>>,
    /// Snapshots that were asked for, and the newest answer: of which asking, and what came of it.
    snapshots_asked: AtomicU64,
    snapshot: Mutex<(u64, Result<EntryId, SnapshotError>)>,
    life: Mutex<Life>,
    changed: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(batch: OpenBatch, id: NodeId, max_entry_bytes: usize, bell: Arc<dyn Wake>) -> Hold<Shared> {
        let records = batch.records();
        let shared = Shared {
            records: records.clone(),
            batch,
            id,
            bell,
            eager: AtomicBool::new(false),
            leader: AtomicU64::new(0),
            members: RwLock::default(),
            max_entry_bytes,
            busy: AtomicU64::new(0),
            events: Board::new(),
            stage: AtomicUsize::new(0),
            no_room: AtomicU8::new(0),
            stop: AtomicBool::new(false),
            status_asked: AtomicU64::new(0),
            status_answered: AtomicU64::new(0),
            status: Mutex::new(None),
            snapshots_asked: AtomicU64::new(0),
            snapshot: Mutex::new((0, Err(SnapshotError::Stopped))),
            life: Mutex::new(Life::Running),
            changed: Condvar::new(),
        };
        Hold::new(shared, records)
    }

    /// Takes one proposal: a ticket, a copy into the open batch, and the bell if the reactor should seal it.
    pub(crate) fn propose(this: &Hold<Shared>, payload: &[u8]) -> Result<Ticket, ProposeError> {
        Shared::propose_raw(this, payload).map(Ticket::from)
    }

    /// The same, for whoever looks at the outcome as it stands.
    #[inline]
    pub(crate) fn propose_raw(this: &Hold<Shared>, payload: &[u8]) -> Result<kontiki_mem::Ticket<Shared>, ProposeError> {
        this.check_size(payload)?;
        let mut ticket = this.take().ok_or_else(|| this.refused())?;
        match this.patiently(|| this.batch.propose(&[], payload, &mut ticket), |&slot| slot) {
            Slot::Written { before, completed } => {
                this.ring_for(before, 1, completed);
                Ok(ticket)
            }
            slot @ (Slot::Full | Slot::Closed) => {
                ticket.cancel();
                Err(this.not_written(slot))
            }
        }
    }

    /// Takes as many of `payloads` as there is room for now, in order, and appends their tickets.
    ///
    /// Each payload is asked for its bytes once, before anything of its run is taken: what it says, or that it panics,
    /// is then as if it had always said so.
    pub(crate) fn propose_many(
        this: &Hold<Shared>,
        payloads: &[impl AsRef<[u8]>],
        tickets: &mut Vec<Ticket>,
    ) -> Result<usize, ProposeError> {
        const RUN: usize = 64;
        let mut taken = 0;
        for run in payloads.chunks(RUN) {
            let bytes: [&[u8]; RUN] = std::array::from_fn(|n| run.get(n).map_or(&[][..], AsRef::as_ref));
            let run = bytes.get(..run.len()).unwrap_or(&bytes);
            let start = tickets.len();
            let fit = run.iter().take_while(|payload| this.check_size(payload).is_ok()).count();
            let ready = this.take_many(fit, tickets);
            let (written, slot) = match (run.get(..ready), tickets.get_mut(start..)) {
                (Some(run), Some(new)) if ready > 0 => this.patiently(|| this.batch.propose_many(run, new), |&(_, slot)| slot),
                _ => (0, Slot::Full),
            };
            for ticket in tickets.drain(start + written..) {
                ticket.cancel();
            }
            taken += written;
            if let Slot::Written { before, completed } = slot {
                this.ring_for(before, written as u32, completed);
            }
            if written < run.len() {
                if taken > 0 {
                    if written == ready && ready < run.len() {
                        return Ok(taken);
                    }
                    this.ring();
                    return Ok(taken);
                }
                if let Some(payload) = run.first() {
                    this.check_size(payload)?;
                }
                return Err(if ready == 0 { this.refused() } else { this.not_written(slot) });
            }
        }
        Ok(taken)
    }

    /// Tries again for a moment where no batch is open: between two, the reactor is opening the next.
    #[inline]
    fn patiently<T>(&self, mut attempt: impl FnMut() -> T, slot: impl Fn(&T) -> Slot) -> T {
        let mut result = attempt();
        for _ in 0..OPEN_SPINS {
            if slot(&result) != Slot::Full || self.batch.is_open() {
                break;
            }
            std::hint::spin_loop();
            result = attempt();
        }
        result
    }

    fn check_size(&self, payload: &[u8]) -> Result<(), ProposeError> {
        if payload.len() > self.max_entry_bytes {
            return Err(ProposeError::TooLarge { bytes: payload.len(), limit: self.max_entry_bytes });
        }
        Ok(())
    }

    /// The reactor needs to know of the first entry only if it would seal it now; of the last writer of
    /// a sealed batch always, since it waits for exactly that.
    fn ring_for(&self, before: u32, entries: u32, completed: bool) {
        if completed || (before < AMPLE_ENTRIES && before + entries >= AMPLE_ENTRIES) {
            return self.ring();
        }
        if before == 0 && entries > 0 {
            // Against the fence in `set_eager`: either we see that it is eager, or it sees our entry when it looks.
            fence(Ordering::SeqCst);
            if self.eager.load(Ordering::Relaxed) {
                self.ring();
            }
        }
    }

    fn not_written(&self, slot: Slot) -> ProposeError {
        match slot {
            Slot::Closed if self.stopping() || !matches!(self.life(), Life::Running) => ProposeError::Stopped,
            Slot::Closed => self.refused(),
            Slot::Full | Slot::Written { .. } => {
                // A full batch can be sealed now, even behind a write in flight.
                self.ring();
                self.refused()
            }
        }
    }

    fn refused(&self) -> ProposeError {
        if !matches!(self.life(), Life::Running) {
            return ProposeError::Stopped;
        }
        // Elected, but the batch is not open yet: a moment's matter.
        if self.batch.is_closed() && self.leader_id() != self.id.0 {
            return ProposeError::NotLeader { leader: self.leader() };
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        match self.no_room.load(Ordering::Relaxed) {
            0 => ProposeError::Busy,
            1 => ProposeError::DiskFull,
            2 => ProposeError::LogFull,
            _ => ProposeError::Shortage,
        }
    }

    /// The reactor says whether there is room for more, and if not, why.
    pub(crate) fn set_no_room(&self, why: Option<Lack>) {
        self.no_room.store(why.map_or(0, Lack::word), Ordering::Relaxed);
    }

    /// The reactor says whether it would seal a first entry at once, and looks into the batch afterwards.
    pub(crate) fn set_eager(&self, eager: bool) {
        self.eager.store(eager, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn is_eager(&self) -> bool {
        self.eager.load(Ordering::Relaxed)
    }

    pub(crate) fn ring(&self) {
        self.bell.wake();
    }

    pub(crate) fn bell(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell)
    }

    pub(crate) fn outcome(&self, outcome: Outcome) -> Result<Applied, Lost> {
        match outcome {
            Outcome::Applied { index } => Ok(Applied { index: kontiki_core::LogIndex(index) }),
            Outcome::Unanswered { index } => {
                Err(Lost::ReplyTooLong { index: kontiki_core::LogIndex(index), limit: self.records.reply_bytes() })
            }
            Outcome::NotApplied { hint } => Err(Lost::NotApplied { leader: self.hint(NodeId(hint)) }),
            Outcome::Unknown => Err(Lost::Unknown),
        }
    }

    /// Who the members are now, and where: what callers are told of a leader.
    pub(crate) fn set_members(&self, members: Vec<LeaderHint>) {
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
    }

    pub(crate) fn set_leader(&self, leader: Option<NodeId>) {
        // Under the lock that waiters sleep with, so that none misses it.
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        self.leader.store(leader.map_or(0, |l| l.0), Ordering::Relaxed);
        drop(life);
        self.changed.notify_all();
    }

    /// Blocks until this node knows who leads, for `limit` at most, or until it ends.
    pub(crate) fn wait_leader(&self, limit: Duration) -> Option<LeaderHint> {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*life, Life::Running) && self.leader_id() == 0 && !limit.is_zero() {
            self.may_wait("waiting for a leader");
        }
        let unknown = |life: &mut Life| matches!(life, Life::Running) && self.leader_id() == 0;
        let waited = self.changed.wait_timeout_while(life, limit, unknown).unwrap_or_else(PoisonError::into_inner);
        matches!(*waited.0, Life::Running).then(|| self.leader())?
    }

    /// Says which stage applies what this node commits.
    pub(crate) fn applied_by(&self, stage: usize) {
        self.stage.store(stage, Ordering::Relaxed);
    }

    /// What this node knows its own threads by.
    pub(crate) fn stage(&self) -> usize {
        self.stage.load(Ordering::Relaxed)
    }

    /// Where this thread is: what it would wait for may come only after it has returned.
    pub(crate) fn place(&self) -> Place {
        foreign::place(self.stage())
    }

    /// # Panics
    /// Within the state machine of this node, or a waker that it calls: to wait would end it in silence. A panic in the
    /// state machine ends the node with a typed failure, one in a waker nothing but that call.
    pub(crate) fn may_wait(&self, what: &str) {
        let within = match self.place() {
            Place::Outside => return,
            Place::AtWork => "a waker that was called by",
            Place::InMachine => "StateMachine::apply of",
        };
        panic!("{what} within {within} the same node never returns: the node goes on only after that has");
    }

    /// This node.
    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn leader_id(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }

    pub(crate) fn leader(&self) -> Option<LeaderHint> {
        self.hint(NodeId(self.leader_id()))
    }

    fn hint(&self, id: NodeId) -> Option<LeaderHint> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).iter().find(|m| m.id == id).copied()
    }

    /// Asks the reactor to stop.
    pub(crate) fn ask_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ring();
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub(crate) fn life(&self) -> Life {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The reactor's last word: nobody waits on this node any more.
    pub(crate) fn end(&self, life: Life) {
        let mut now = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*now, Life::Running) {
            *now = life;
        }
        drop(now);
        self.batch.close();
        self.records.end();
        self.events.end();
        self.changed.notify_all();
    }

    pub(crate) fn wait_end(&self) -> Life {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        while matches!(*life, Life::Running) {
            life = self.changed.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
        life.clone()
    }

    /// A fresh status from the reactor; the last one published if the node has ended.
    pub(crate) fn status(&self) -> Option<Status> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        // (The reactor's thread may be the very one that asks, within a state machine or a waker: then the last one has to do.)
        if matches!(*life, Life::Running) && self.place() == Place::Outside {
            let number = self.ask_status();
            // One that was computed before we asked does not count: it may miss what the caller has seen happen.
            while matches!(*life, Life::Running) && !self.is_answered(number) {
                life = self.changed.wait(life).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let ended = !matches!(*life, Life::Running);
        drop(life);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        if ended {
            // Whatever it was: it leads nobody, and hears of no leader, any more.
            (status.stopped, status.role, status.leader) = (true, Role::Follower, None);
        }
        Some(status)
    }

    /// Asks for a status; the number that it has once it is published.
    pub(crate) fn ask_status(&self) -> u64 {
        let number = self.status_asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.ring();
        number
    }

    pub(crate) fn is_answered(&self, number: u64) -> bool {
        self.status_answered.load(Ordering::SeqCst) >= number
    }

    /// Whether somebody waits for a status; the number to publish it under, taken before it is computed.
    pub(crate) fn status_wanted(&self) -> Option<u64> {
        let asked = self.status_asked.load(Ordering::SeqCst);
        (asked > self.status_answered.load(Ordering::SeqCst)).then_some(asked)
    }

    /// Asks for a snapshot of what is applied now or later; the number that it has once it is there.
    pub(crate) fn ask_snapshot(&self) -> u64 {
        let number = self.snapshots_asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.ring();
        number
    }

    /// Has a snapshot made of what is applied now or later, and waits for it.
    pub(crate) fn make_snapshot(&self) -> Result<EntryId, SnapshotError> {
        self.may_wait("waiting for a snapshot");
        let number = self.ask_snapshot();
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (answered, outcome) = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if answered >= number {
                return outcome;
            }
            if !matches!(*life, Life::Running) {
                return Err(SnapshotError::Stopped);
            }
            life = self.changed.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The number of the newest asking for a snapshot.
    pub(crate) fn snapshots_asked(&self) -> u64 {
        self.snapshots_asked.load(Ordering::SeqCst)
    }

    /// What came of a snapshot that answers all askings up to this number.
    pub(crate) fn answer_snapshot(&self, number: u64, outcome: Result<EntryId, SnapshotError>) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = (number, outcome);
        // Under the lock that waiters sleep with, so that none misses it.
        drop(self.life.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    pub(crate) fn publish(&self, number: u64, status: Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        // Under the lock that waiters sleep with, so that none misses it.
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        self.status_answered.fetch_max(number, Ordering::SeqCst);
        drop(life);
        self.changed.notify_all();
    }
}

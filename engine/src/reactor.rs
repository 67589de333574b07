//! The loop: one turn drains completions, steps the replica, submits everything and waits, in one entry
//! to the kernel. A product with an event loop of its own turns it itself.

use std::sync::Arc;
use std::time::Duration;

use kontiki_core::{LogIndex, Role, Term, Time};
use kontiki_io::{Completion, Io, tell};
use kontiki_mem::{Hold, Ring};

use crate::apply::{ApplyQueue, ApplyStage};
use crate::config::Config;
use crate::error::{Failure, StartError};
use crate::foreign;
use crate::handle::Proposer;
use crate::limits::{IO_CAPACITY, MAX_RING_BLOCKS};
use crate::node::Replica;
use crate::opening::{Opened, Opening};
use crate::shared::{Life, Shared};
use crate::state_machine::StateMachine;

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Recovery reads the log.
    Opening,
    /// The replica takes part in its cluster.
    Running,
    /// Asked to stop, or stopping by itself: the last writes finish, and the log is closed.
    Closing,
    /// Nothing is left to do; drop the reactor.
    Ended,
}

/// Why a turn was the last one.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The node never came up.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The node stopped by itself.
    #[error(transparent)]
    Failed(#[from] Failure),
}

enum Phase {
    Opening(Box<Opening>),
    Running(Box<Replica>),
    /// Since when; and why, if nobody asked for it.
    Closing(Box<Replica>, Time, Option<Failure>),
    Ended,
}

/// One replica and its loop, over any [`Io`]: for products that turn the node themselves, on their own thread.
///
/// ```no_run
/// use std::time::Duration;
///
/// use kontiki::{Config, Node, State, StateMachine};
///
/// fn run(config: Config, machine: impl StateMachine) -> Result<(), Box<dyn std::error::Error>> {
///     let mut reactor = Node::builder(config).driven(machine)?;
///     let proposer = reactor.proposer(); // for this thread and others: propose, ask for the status, stop
///     loop {
///         // Waits for ten milliseconds at most, or until something happens. A loop with descriptors of its own polls
///         // `reactor.poll_fd()` beside them, until `reactor.deadline()`, and turns with a limit of zero.
///         match reactor.turn(Duration::from_millis(10))? {
///             State::Ended => return Ok(()),
///             State::Running if std::env::var_os("STOP").is_some() => proposer.stop(),
///             _ => {}
///         }
///     }
/// }
/// ```
pub struct Reactor<I: Io, M: StateMachine> {
    io: I,
    phase: Phase,
    done: Vec<Completion>,
    /// The last turn queued operations, which only the next hands over.
    queued: bool,
    shared: Hold<Shared>,
    queue: Arc<ApplyQueue>,
    /// The state machine, where the reactor drives it; `None` where a thread does.
    stage: Option<ApplyStage<M>>,
}

impl<I: Io, M: StateMachine> std::fmt::Debug for Reactor<I, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reactor").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// However a reactor goes, by a panic too: nobody waits for ever on a node that is gone.
impl<I: Io, M: StateMachine> Drop for Reactor<I, M> {
    fn drop(&mut self) {
        self.queue.close();
        foreign::at_work(self.shared.stage(), || self.shared.end(Life::Stopped));
    }
}

impl<I: Io, M: StateMachine> Reactor<I, M> {
    /// A reactor over `io` that will open the log of `config` and then run, with the state machine on
    /// the reactor's own thread.
    ///
    /// # Errors
    /// A configuration value that cannot be, or memory that cannot be had. Everything else comes from
    /// [`Reactor::turn`].
    pub fn new(config: Config, io: I, machine: M) -> Result<Reactor<I, M>, StartError> {
        config.check()?;
        let ring = Ring::new(config.ring_bytes, MAX_RING_BLOCKS)?;
        Reactor::with_ring(config, io, ring, machine)
    }

    /// A reactor whose frames live in `ring`, which `io` may have registered with the kernel.
    pub(crate) fn with_ring(config: Config, io: I, ring: Ring, machine: M) -> Result<Reactor<I, M>, StartError> {
        let (stage, queue) = ApplyStage::new(machine, config.reply_bytes)?;
        let shared = crate::node::shared(&config, io.bell());
        shared.applied_by(queue.stage());
        // A turn yields no more than is outstanding.
        let done = Vec::with_capacity(io.capacity().max(IO_CAPACITY));
        let mut reactor = Reactor { io, phase: Phase::Ended, done, queued: true, shared, queue, stage: Some(stage) };
        let opening = Opening::start(config, reactor.shared.clone(), Arc::clone(&reactor.queue), ring, &mut reactor.io)?;
        reactor.phase = Phase::Opening(Box::new(opening));
        Ok(reactor)
    }

    /// Hands the state machine out, for a thread to drive.
    pub(crate) fn take_stage(&mut self) -> Option<ApplyStage<M>> {
        self.stage.take()
    }

    pub(crate) fn shared(&self) -> Hold<Shared> {
        self.shared.clone()
    }

    pub(crate) fn queue(&self) -> Arc<ApplyQueue> {
        Arc::clone(&self.queue)
    }

    /// A handle to propose with, from any thread; `propose` from the turning thread is welcome too.
    pub fn proposer(&self) -> Proposer {
        Proposer::new(self.shared())
    }

    /// Where the node is in its life.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Opening(_) => State::Opening,
            Phase::Running(_) => State::Running,
            Phase::Closing(..) => State::Closing,
            Phase::Ended => State::Ended,
        }
    }

    /// Role and term of the replica, once it takes part: what a simulation watches from turn to turn.
    pub fn standing(&self) -> Option<(Role, Term)> {
        match &self.phase {
            Phase::Running(replica) | Phase::Closing(replica, ..) => Some(replica.standing()),
            Phase::Opening(_) | Phase::Ended => None,
        }
    }

    /// What is durable on this replica, once it takes part.
    pub fn durable(&self) -> Option<LogIndex> {
        match &self.phase {
            Phase::Running(replica) | Phase::Closing(replica, ..) => Some(replica.durable()),
            Phase::Opening(_) | Phase::Ended => None,
        }
    }

    /// The replica, once it takes part.
    #[cfg(test)]
    pub(crate) fn replica(&self) -> Option<&Replica> {
        match &self.phase {
            Phase::Running(replica) | Phase::Closing(replica, ..) => Some(replica),
            Phase::Opening(_) | Phase::Ended => None,
        }
    }

    /// The world this reactor turns in.
    pub fn io(&self) -> &I {
        &self.io
    }

    /// A descriptor that becomes readable when a turn would find something to do; see also [`Reactor::deadline`].
    pub fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        self.io.poll_fd()
    }

    /// When a turn is due although nothing happens: for a loop that sleeps on [`Reactor::poll_fd`] and then turns
    /// without waiting. A time in the past says that the next turn has something to do already.
    pub fn deadline(&self) -> Time {
        if self.queued && !matches!(self.phase, Phase::Ended) { Time(0) } else { self.due() }
    }

    /// When a turn is due; what is queued is handed over by the turn itself, before it waits.
    pub(crate) fn due(&self) -> Time {
        if self.is_hungry() { Time(0) } else { self.rests_until() }
    }

    /// When a turn is due though nothing waits for inline apply.
    fn rests_until(&self) -> Time {
        match &self.phase {
            Phase::Opening(opening) => opening.deadline(),
            Phase::Running(replica) => replica.deadline(),
            Phase::Closing(replica, began, _) => began.plus_ns(replica.patience_ns()).min(replica.close_deadline()),
            Phase::Ended => Time(u64::MAX),
        }
    }

    /// Asks the node to stop; turn on until [`State::Ended`].
    pub fn stop(&self) {
        self.shared.ask_stop();
    }

    /// One turn: submits what is queued, waits for something to happen for at most `wait` (not at all for
    /// zero), and acts on it.
    ///
    /// # Errors
    /// The node could not start, or stopped by itself; it acknowledges nothing more, and every turn from now on
    /// says [`State::Ended`], at once. Where its log can still be relied on, that is closed first:
    /// [`Proposer::failure`] says at once why it stops, and turns say [`State::Closing`] until it is done.
    pub fn turn(&mut self, wait: Duration) -> Result<State, TurnError> {
        foreign::at_work(self.shared.stage(), || self.turn_at_work(wait))
    }

    fn turn_at_work(&mut self, wait: Duration) -> Result<State, TurnError> {
        match self.turn_inner(wait) {
            Ok(State::Ended) => self.end(Life::Stopped),
            Ok(_) => {}
            Err(TurnError::Start(error)) => {
                self.end(Life::Failed(Failure::Start(error.to_string())));
                return Err(error.into());
            }
            Err(TurnError::Failed(failure)) => self.failed(failure)?,
        }
        Ok(self.state())
    }

    /// The node stops by itself. Where the log is not what failed it is closed in order, so that the next start has
    /// nothing to doubt.
    fn failed(&mut self, failure: Failure) -> Result<(), TurnError> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Running(mut replica) => {
                tell!(error, %failure, "node stopped");
                let now = self.io.now();
                replica.publish(&self.io);
                self.queue.close();
                self.shared.end(Life::Failed(failure.clone()));
                if !failure.leaves_the_log() {
                    return Err(failure.into());
                }
                replica.begin_close(now, &mut self.io);
                self.phase = Phase::Closing(replica, now, Some(failure));
                self.queued = true;
                Ok(())
            }
            // It was said why it stops; how the closing ends changes nothing about that.
            Phase::Closing(_, _, Some(first)) => Err(first.into()),
            phase => {
                tell!(error, %failure, "node stopped");
                self.phase = phase;
                self.end(Life::Failed(failure.clone()));
                Err(failure.into())
            }
        }
    }

    /// Waits, awake and not for long, for callers that the last turn answered: most propose again at once. For a
    /// reactor with a thread of its own, whose callers are others.
    ///
    /// # Errors
    /// As [`Reactor::turn`].
    pub(crate) fn linger(&mut self) -> Result<(), TurnError> {
        if let Phase::Running(replica) = &mut self.phase
            && self.stage.is_some()
            && replica.linger(&self.io)
        {
            // What they proposed goes to the kernel together with what the last turn left.
            let now = self.io.now();
            if let Err(failure) = replica.advance(now, &mut self.io) {
                return self.failed(failure);
            }
        }
        Ok(())
    }

    /// Whether inline apply has something to do, or has said something that nobody has heard.
    fn is_hungry(&self) -> bool {
        self.stage.is_some() && matches!(self.phase, Phase::Running(_)) && (!self.queue.is_empty() || self.queue.has_said())
    }

    fn end(&mut self, life: Life) {
        if let Phase::Running(replica) | Phase::Closing(replica, ..) = &mut self.phase {
            replica.publish(&self.io);
        }
        self.phase = Phase::Ended;
        self.queue.close();
        self.shared.end(life);
    }

    fn turn_inner(&mut self, wait: Duration) -> Result<State, TurnError> {
        if matches!(self.phase, Phase::Ended) {
            // Nothing would end the wait.
            return Ok(State::Ended);
        }
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let until = if wait_ns == 0 || self.is_hungry() { None } else { Some(self.rests_until().min(self.io.now().plus_ns(wait_ns))) };
        self.io.turn(until, &mut self.done).map_err(|e| Failure::Io(e.to_string()))?;
        let submitted = self.io.stats().ops;
        let now = self.io.now();
        match &mut self.phase {
            Phase::Opening(opening) => {
                for completion in self.done.drain(..) {
                    opening.on_completion(completion, &mut self.io);
                }
                if self.shared.stopping() {
                    opening.stop(now, &mut self.io);
                }
                match opening.poll(now, &mut self.io)? {
                    Opened::NotYet => {}
                    Opened::Up(mut replica) => {
                        replica.publish(&self.io);
                        self.phase = Phase::Running(replica);
                    }
                    Opened::Stopped => self.phase = Phase::Ended,
                }
            }
            Phase::Running(replica) => {
                for completion in self.done.drain(..) {
                    replica.on_completion(completion, now, &mut self.io);
                }
                replica.advance(now, &mut self.io)?;
                if let Some(stage) = &mut self.stage {
                    // Inline apply: what it frees and answers counts in this very turn.
                    let mut any = false;
                    // A bounded bite, so that a long catch-up does not hold up a heartbeat.
                    while stage.poll() {
                        any = true;
                        if self.io.now().since(now) > replica.apply_limit_ns() {
                            break;
                        }
                    }
                    if self.queue.has_failed()
                        && let Some(failure) = self.queue.failure()
                    {
                        return Err(failure.into());
                    }
                    if any {
                        replica.applied(now, &mut self.io);
                    }
                }
                if self.shared.stopping() {
                    replica.begin_close(now, &mut self.io);
                    if let Phase::Running(replica) = std::mem::replace(&mut self.phase, Phase::Ended) {
                        self.phase = Phase::Closing(replica, now, None);
                    }
                }
            }
            Phase::Closing(replica, began, why) => {
                for completion in self.done.drain(..) {
                    replica.on_completion(completion, now, &mut self.io);
                }
                replica.tell_status(&self.io);
                if replica.close(now, &mut self.io) || now.since(*began) >= replica.patience_ns() {
                    if let Some(failure) = why {
                        return Err(failure.clone().into());
                    }
                    replica.publish(&self.io);
                    self.phase = Phase::Ended;
                }
            }
            Phase::Ended => {}
        }
        self.queued = self.io.stats().ops != submitted;
        Ok(self.state())
    }
}

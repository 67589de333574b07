//! The handle of a running node: what a product keeps.

use std::thread::JoinHandle;
use std::time::Duration;

use kontiki_core::{EntryId, NodeId};
use kontiki_mem::Hold;

use crate::error::{Failure, LeaderHint, ProposeError};
use crate::events::Events;
use crate::foreign::Place;
use crate::shared::{Life, Shared};
use crate::state_machine::SnapshotError;
use crate::status::Status;
use crate::ticket::Ticket;

/// One running replica. Dropping it stops the node, cleanly, and waits for its threads; where one of these drops it,
/// within a state machine or a waker, it is stopped without being waited for.
///
/// ```no_run
/// use kontiki::{ApplyError, Config, Entries, Member, Node, Replies, StateMachine};
/// use std::time::Duration;
///
/// struct Nothing;
///
/// impl StateMachine for Nothing {
///     fn apply(&mut self, _: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
///         Ok(())
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let members = vec![Member::new(1, ([127, 0, 0, 1], 7000).into())];
/// let node = Node::builder(Config::new(0xc0ffee, 1, members, "/var/lib/product/log")).start(Nothing)?;
/// if node.wait_leader(Duration::from_secs(10)).is_some_and(|leader| leader.id == node.id()) {
///     println!("{:?}", node.propose(b"payload")?.wait());
/// }
/// node.shutdown()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Node {
    shared: Hold<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Proposes to a running node from any thread. Clones are cheap.
///
/// ```no_run
/// use kontiki::{ProposeError, Proposer, Ticket};
///
/// /// Proposes a run, and says who leads where this node does not.
/// fn all(proposer: &Proposer, payloads: &[Vec<u8>]) -> Result<Vec<Ticket>, ProposeError> {
///     let mut tickets = Vec::with_capacity(payloads.len());
///     while tickets.len() < payloads.len() {
///         match proposer.propose_many(&payloads[tickets.len()..], &mut tickets) {
///             Ok(_) => {}
///             // Too much in flight: wait for the oldest.
///             Err(ProposeError::Busy) => drop(tickets.first().map(Ticket::wait)),
///             Err(error) => return Err(error),
///         }
///     }
///     Ok(tickets)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Proposer {
    shared: Hold<Shared>,
}

impl Proposer {
    pub(crate) fn new(shared: Hold<Shared>) -> Proposer {
        Proposer { shared }
    }

    /// Proposes one entry. Copies `payload` once, allocates nothing, waits for nothing.
    ///
    /// # Errors
    /// [`ProposeError`]: nothing was taken, and it is safe to propose again.
    pub fn propose(&self, payload: &[u8]) -> Result<Ticket, ProposeError> {
        Shared::propose(&self.shared, payload)
    }

    /// Proposes a run of entries, in order: as many as there is room for now. Appends a ticket for each
    /// entry taken and says how many those were; allocates only if `tickets` must grow.
    ///
    /// # Errors
    /// [`ProposeError`] if not even the first was taken.
    pub fn propose_many<P: AsRef<[u8]>>(&self, payloads: &[P], tickets: &mut Vec<Ticket>) -> Result<usize, ProposeError> {
        Shared::propose_many(&self.shared, payloads, tickets)
    }

    /// What the node knows of itself and its cluster, fresh. `None` if it never came up.
    ///
    /// Waits for the reactor's next turn: do not call it from the thread that turns a driven node. Within a state
    /// machine or a waker of the same node, which would hold that turn up, it is what somebody was told last.
    pub fn status(&self) -> Option<Status> {
        self.shared.status()
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.shared.id()
    }

    /// Blocks until this node knows who leads the cluster, itself included, and says who; `None` if it knows none after
    /// `limit`, or stops.
    ///
    /// Who leads is out of date at once. A node that has just been elected may answer [`ProposeError::Busy`] for a
    /// moment.
    ///
    /// # Panics
    /// Within the state machine or a waker of the same node, if it would have to wait: see
    /// [`StateMachine`](crate::StateMachine).
    pub fn wait_leader(&self, limit: Duration) -> Option<LeaderHint> {
        self.shared.wait_leader(limit)
    }

    /// Has a snapshot made as of what this replica has applied by now, or some entries later, and blocks until it is
    /// durable: as of which entry it is. A full one, or a small one where the state machine is durable by itself: that
    /// is written once the state machine has made durable what it is as of.
    ///
    /// # Errors
    /// [`SnapshotError`]: there is none, and nothing else has changed.
    ///
    /// # Panics
    /// Within the state machine or a waker of the same node: see [`StateMachine`](crate::StateMachine).
    pub fn snapshot(&self) -> Result<EntryId, SnapshotError> {
        self.shared.make_snapshot()
    }

    /// What happens to this replica from now on: leadership, peers, disk, recovery.
    pub fn events(&self) -> Events {
        Events::new(self.shared.clone())
    }

    /// Why the node stopped by itself, if it did.
    pub fn failure(&self) -> Option<Failure> {
        match self.shared.life() {
            Life::Failed(failure) => Some(failure),
            Life::Running | Life::Stopped => None,
        }
    }

    /// Asks the node to stop; see [`Node::shutdown`].
    pub fn stop(&self) {
        self.shared.ask_stop();
    }

    /// Blocks until the node has stopped, asked or by itself.
    ///
    /// # Errors
    /// Why it stopped, if nobody asked.
    ///
    /// # Panics
    /// Within the state machine or a waker of the same node, which it would wait for: see
    /// [`StateMachine`](crate::StateMachine).
    pub fn wait_stopped(&self) -> Result<(), Failure> {
        self.shared.may_wait("waiting for the node to stop");
        match self.shared.wait_end() {
            Life::Failed(failure) => Err(failure),
            Life::Running | Life::Stopped => Ok(()),
        }
    }
}

impl Node {
    pub(crate) fn new(shared: Hold<Shared>, threads: Vec<JoinHandle<()>>) -> Node {
        Node { shared, threads }
    }

    /// A handle for other threads.
    pub fn proposer(&self) -> Proposer {
        Proposer::new(self.shared.clone())
    }

    /// See [`Proposer::propose`].
    ///
    /// # Errors
    /// [`ProposeError`]: nothing was taken, and it is safe to propose again.
    pub fn propose(&self, payload: &[u8]) -> Result<Ticket, ProposeError> {
        Shared::propose(&self.shared, payload)
    }

    /// See [`Proposer::propose_many`].
    ///
    /// # Errors
    /// [`ProposeError`] if not even the first was taken.
    pub fn propose_many<P: AsRef<[u8]>>(&self, payloads: &[P], tickets: &mut Vec<Ticket>) -> Result<usize, ProposeError> {
        Shared::propose_many(&self.shared, payloads, tickets)
    }

    /// See [`Proposer::status`].
    pub fn status(&self) -> Option<Status> {
        self.shared.status()
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.shared.id()
    }

    /// See [`Proposer::wait_leader`].
    pub fn wait_leader(&self, limit: Duration) -> Option<LeaderHint> {
        self.shared.wait_leader(limit)
    }

    /// See [`Proposer::snapshot`].
    ///
    /// # Errors
    /// [`SnapshotError`]: there is none, and nothing else has changed.
    pub fn snapshot(&self) -> Result<EntryId, SnapshotError> {
        self.shared.make_snapshot()
    }

    /// See [`Proposer::events`].
    pub fn events(&self) -> Events {
        Events::new(self.shared.clone())
    }

    /// See [`Proposer::failure`].
    pub fn failure(&self) -> Option<Failure> {
        self.proposer().failure()
    }

    /// Stops the node: takes no more proposals, lets writes in flight finish, closes connections and files,
    /// and waits for its threads. Tickets still open resolve as unknown.
    ///
    /// # Errors
    /// Why the node had stopped by itself, if it had.
    ///
    /// # Panics
    /// Within the state machine or a waker of the same node, which it would wait for; the node ends all the same. See
    /// [`StateMachine`](crate::StateMachine).
    pub fn shutdown(mut self) -> Result<(), Failure> {
        // Before it is asked to stop: within its own state machine, this panic is to be the reason why it ends.
        self.shared.may_wait("waiting for the end of a node");
        self.stop();
        self.proposer().wait_stopped()
    }

    fn stop(&mut self) {
        let place = self.shared.place();
        if place == Place::InMachine && std::thread::panicking() {
            // The panic in its own state machine ends the node, and says why. An orderly stop would race with that.
            return;
        }
        self.shared.ask_stop();
        let me = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // Whoever is called by one of the node's threads (a state machine, a waker) cannot wait for it: it ends once it has
            // returned.
            if place != Place::Outside || thread.thread().id() == me {
                continue;
            }
            // A thread's panic was caught and recorded as the node's failure before it ended.
            drop(thread.join());
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

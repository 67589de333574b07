//! The handle of a running node: what a product keeps.

use std::thread::JoinHandle;

use kontiki_mem::Hold;

use crate::error::{Failure, ProposeError};
use crate::shared::{Life, Shared};
use crate::status::Status;
use crate::ticket::Ticket;

/// One running replica. Dropping it stops the node, cleanly.
#[derive(Debug)]
pub struct Node {
    shared: Hold<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Proposes to a running node from any thread. Clones are cheap.
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
    /// Waits for the reactor's next turn: do not call it from the thread that turns a driven node.
    pub fn status(&self) -> Option<Status> {
        self.shared.status()
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
    pub fn wait_stopped(&self) -> Result<(), Failure> {
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

    /// See [`Proposer::failure`].
    pub fn failure(&self) -> Option<Failure> {
        self.proposer().failure()
    }

    /// Stops the node: takes no more proposals, lets writes in flight finish, closes connections and files,
    /// and waits for its threads. Tickets still open resolve as unknown.
    ///
    /// # Errors
    /// Why the node had stopped by itself, if it had.
    pub fn shutdown(mut self) -> Result<(), Failure> {
        self.stop();
        self.proposer().wait_stopped()
    }

    fn stop(&mut self) {
        self.shared.ask_stop();
        for thread in self.threads.drain(..) {
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

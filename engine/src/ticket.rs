//! A proposal's outcome to come, as the caller holds it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use kontiki_core::LogIndex;
use kontiki_mem::Outcome;

use crate::error::Lost;
use crate::foreign::Place;
use crate::shared::Shared;

/// The proposal was committed and applied on the node that took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where it stands in the log.
    pub index: LogIndex,
}

/// One proposal's outcome: resolves exactly once. Wait on it, poll it, or await it; no runtime is needed.
///
/// Dropping a ticket does not take the proposal back. A ticket counts against `max_in_flight` until it has resolved
/// **and** is dropped, since its place holds outcome and reply: keep what you need of it, not the ticket. One that is
/// dropped earlier counts until it resolves.
///
/// A ticket is a future, of any runtime or of none. (Polled within the state machine of the same node it panics unless
/// it is ready: who awaits it there would wait for ever. [`Ticket::poll`] looks and no more.) Await it by reference
/// where the reply is wanted afterwards:
///
/// ```no_run
/// # async fn example(proposer: kontiki::Proposer) -> Result<(), Box<dyn std::error::Error>> {
/// let mut ticket = proposer.propose(b"payload")?;
/// let applied = (&mut ticket).await?;
/// println!("{} -> {:?}", applied.index, ticket.reply());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a dropped ticket says nothing about its proposal"]
pub struct Ticket {
    inner: kontiki_mem::Ticket<Shared>,
}

impl AsMut<kontiki_mem::Ticket<Shared>> for Ticket {
    fn as_mut(&mut self) -> &mut kontiki_mem::Ticket<Shared> {
        &mut self.inner
    }
}

impl From<kontiki_mem::Ticket<Shared>> for Ticket {
    fn from(inner: kontiki_mem::Ticket<Shared>) -> Ticket {
        Ticket { inner }
    }
}

impl From<Ticket> for kontiki_mem::Ticket<Shared> {
    fn from(ticket: Ticket) -> kontiki_mem::Ticket<Shared> {
        ticket.inner
    }
}

impl Ticket {
    fn shared(&self) -> &Shared {
        self.inner.holder()
    }

    pub(crate) fn cancel(self) {
        self.inner.cancel();
    }

    /// The outcome, if it is known.
    pub fn poll(&self) -> Option<Result<Applied, Lost>> {
        self.inner.poll_outcome().map(|o| self.shared().outcome(o))
    }

    /// Blocks this thread until the outcome is known.
    ///
    /// # Errors
    /// [`Lost`] if the entry was not applied, or nobody can tell.
    ///
    /// # Panics
    /// Within the state machine or a waker of the same node, if the outcome is not known: nothing is applied before
    /// that returns. See [`StateMachine`](crate::StateMachine).
    pub fn wait(&self) -> Result<Applied, Lost> {
        if self.inner.poll_outcome().is_none() {
            self.shared().may_wait("waiting for a ticket");
        }
        self.shared().outcome(self.inner.wait())
    }

    /// Blocks this thread until the outcome is known, at most for `limit`. `None`: not known yet.
    ///
    /// # Panics
    /// As [`Ticket::wait`], unless `limit` is zero.
    pub fn wait_timeout(&self, limit: Duration) -> Option<Result<Applied, Lost>> {
        if !limit.is_zero() && self.inner.poll_outcome().is_none() {
            self.shared().may_wait("waiting for a ticket");
        }
        self.inner.wait_timeout(limit).map(|o| self.shared().outcome(o))
    }

    /// Takes the tickets at the front of `queue` whose outcome is known, oldest first, up to one whose outcome is not:
    /// `each` is given the outcome and the state machine's reply. How many those were. What belongs with
    /// [`Proposer::propose_many`](crate::Proposer::propose_many): it costs less than to look at tickets, and drop
    /// them, one by one. They count against `max_in_flight` until it returns: propose after it, not within `each`.
    pub fn reap(queue: &mut VecDeque<Ticket>, mut each: impl FnMut(Result<Applied, Lost>, &[u8])) -> usize {
        kontiki_mem::Ticket::reap(queue, |shared: &Shared, outcome, reply| each(shared.outcome(outcome), reply))
    }

    /// The state machine's reply, once applied; empty before, and if there was none.
    pub fn reply(&self) -> &[u8] {
        self.inner.reply()
    }
}

impl Future for Ticket {
    type Output = Result<Applied, Lost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome: Poll<Outcome> = Pin::new(&mut self.inner).poll(cx);
        if outcome.is_pending() && self.shared().place() == Place::InMachine {
            self.shared().may_wait("awaiting a ticket");
        }
        outcome.map(|o| self.shared().outcome(o))
    }
}

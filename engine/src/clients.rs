//! Requests of connected clients that wait for their outcome.

use std::collections::VecDeque;

use kontiki_mem::Outcome;
use kontiki_net::ClientId;

use crate::shared::Shared;

type Ticket = kontiki_mem::Ticket<Shared>;

/// One proposal of a client.
#[derive(Debug)]
struct Waiting {
    client: ClientId,
    request: u64,
    ticket: Ticket,
}

/// In the order taken, which is the order they resolve in.
#[derive(Debug)]
pub(crate) struct Clients {
    waiting: VecDeque<Waiting>,
}

impl Clients {
    /// Room for as many as there are tickets.
    pub(crate) fn new(tickets: usize) -> Clients {
        Clients { waiting: VecDeque::with_capacity(tickets) }
    }

    pub(crate) fn push(&mut self, client: ClientId, request: u64, ticket: Ticket) {
        self.waiting.push_back(Waiting { client, request, ticket });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The oldest request, if its outcome is known.
    pub(crate) fn pop_ready(&mut self) -> Option<(ClientId, u64, Outcome, Ticket)> {
        let outcome = self.waiting.front()?.ticket.poll_outcome()?;
        let w = self.waiting.pop_front()?;
        Some((w.client, w.request, outcome, w.ticket))
    }
}

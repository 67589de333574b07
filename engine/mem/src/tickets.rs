//! SIGNATURES ONLY. The ticket slab: one slot per proposal in flight, taken by a caller, resolved exactly once by the engine.
//! Lock-free free list; per-slot state word with a generation, so a stale id never resolves a newer ticket. No allocation after new.
//! Waiting: thread park (a thread-local Waker made once per thread) or a Future. A dropped Ticket frees its slot once resolved.
#![allow(missing_docs, unused_variables, clippy::todo)]
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TicketId(pub u64); // generation << 32 | slot

/// How a proposal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Applied at `index`; the reply's first `reply_len` bytes are in the slot.
    Applied { index: u64 },
    /// Definitely not applied, never will be. `hint`: leader's id, or zero.
    NotApplied { hint: u64 },
    /// Leadership or the node was lost before the outcome was known.
    Unknown,
}

/// Handle to the slab; clone freely.
#[derive(Debug, Clone)]
pub struct Tickets {}
impl Tickets {
    pub fn new(slots: usize, reply_bytes: usize) -> Tickets {
        todo!()
    }
    /// Takes a slot; None at the bound (Busy).
    pub fn take(&self) -> Option<Ticket> {
        todo!()
    }
    pub fn in_flight(&self) -> usize {
        todo!()
    }
    /// The engine's side: one user at a time (the thread that resolves).
    pub fn resolver(&self) -> Resolver {
        todo!()
    }
    pub fn reply_bytes(&self) -> usize {
        todo!()
    }
}
/// Resolves tickets; wakes each waiting caller once per batch (wakers are gathered in a fixed table and fired by `flush`).
#[derive(Debug)]
pub struct Resolver {}
impl Resolver {
    /// False if the id is stale or already resolved. `reply` must be at most reply_bytes.
    pub fn resolve(&mut self, id: TicketId, outcome: Outcome, reply: &[u8]) -> bool {
        todo!()
    }
    pub fn flush(&mut self) {}
}
/// One proposal's outcome to come.
#[derive(Debug)]
pub struct Ticket {}
impl Ticket {
    pub fn id(&self) -> TicketId {
        todo!()
    }
    /// Gives back a ticket whose proposal was never written (so nobody will resolve it).
    pub fn cancel(self) {}
    /// None while unresolved.
    pub fn poll_outcome(&self) -> Option<Outcome> {
        todo!()
    }
    /// Blocks the thread until resolved.
    pub fn wait(&self) -> Outcome {
        todo!()
    }
    pub fn wait_timeout(&self, limit: Duration) -> Option<Outcome> {
        todo!()
    }
    /// The reply's bytes; empty until applied.
    pub fn reply(&self) -> &[u8] {
        todo!()
    }
}
impl Future for Ticket {
    type Output = Outcome;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        todo!()
    }
}

//! SIGNATURES ONLY. The open batch: where callers of any thread copy their proposals, once, straight into frame memory.
//!
//! Callers: `OpenBatch::propose(payload, prefix)`: reserve room with one compare-exchange on a state word
//! (used bytes, entry count, phase), write a 4-byte little-endian length, the optional session prefix and the payload, store the ticket id
//! in the batch's side table at the entry's ordinal, then count themselves finished.
//! Reactor: `open(BlockMut)` installs memory; `seal()` closes it for newcomers; `poll_sealed()` gives the memory back
//! once all writers have finished (never blocks; the last writer of a sealed batch is told so that it can ring the reactor's bell).
#![allow(missing_docs, unused_variables, clippy::todo)]
use crate::{BlockMut, TicketId};

/// Shared by all callers and the reactor (inside an Arc).
#[derive(Debug)]
pub struct OpenBatch {}

/// What `propose` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Copied. `first`: this was the first entry of the batch (ring the bell so that the reactor seals). `last_after_seal`: the batch was
    /// sealed meanwhile and this was the last writer to finish (ring the bell).
    Written { first: bool, last_after_seal: bool },
    /// No batch is open, or this one has no room: try again after the reactor opened the next.
    Full,
    /// Not accepting (not leader).
    Closed,
}

/// A sealed batch, handed to the reactor: unique memory with `header_bytes` free at the front.
#[derive(Debug)]
pub struct Sealed {
    /// memory, exactly as opened
    pub block: BlockMut,
    /// bytes of entries after the header
    pub body_bytes: usize,
    pub count: u32,
}

/// A batch's side table: ticket ids by ordinal. Fixed size, recycled through the OpenBatch.
#[derive(Debug)]
pub struct Batch {}
impl Batch {
    pub fn tickets(&self) -> &[TicketId] {
        todo!()
    }
}

impl OpenBatch {
    /// `header_bytes` are left free at the front of each block; at most `max_entries` per batch; `side_tables` batches may be alive (sealed, not yet dropped) at once.
    pub fn new(header_bytes: usize, max_entries: usize, side_tables: usize) -> OpenBatch {
        todo!()
    }
    /// Reactor: opens a batch over `block`. Gives the block back if a batch is open/unsealed or no side table is free.
    pub fn open(&self, block: BlockMut) -> Result<(), BlockMut> {
        todo!()
    }
    /// Any thread. `prefix` (0 or 16 bytes: session, sequence) goes before the payload; length field counts prefix + payload.
    pub fn propose(&self, prefix: &[u8], payload: &[u8], ticket: TicketId) -> Slot {
        todo!()
    }
    /// Any thread: many entries in one reservation, as many as fit. Returns how many were written (a prefix of `payloads`) and the slot answer.
    pub fn propose_many(&self, payloads: &[&[u8]], tickets: &[TicketId]) -> (usize, Slot) {
        todo!()
    }
    /// Entries and bytes waiting in the open batch.
    pub fn waiting(&self) -> (u32, usize) {
        todo!()
    }
    /// Reactor: no newcomers from now on. False if nothing is open or it is empty.
    pub fn seal(&self) -> bool {
        todo!()
    }
    /// Reactor: the sealed batch, once its writers are done.
    pub fn poll_sealed(&self) -> Option<(Sealed, Batch)> {
        todo!()
    }
    /// Reactor: leadership lost: close to newcomers; what was in the open batch comes out through `poll_sealed` (to fail its tickets).
    pub fn close(&self) {
        todo!()
    }
    /// True between close() and the next open().
    pub fn is_closed(&self) -> bool {
        todo!()
    }
}

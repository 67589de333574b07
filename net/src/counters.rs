//! What the transport counts, for operators and tests.

use crate::handshake::refusal::{REFUSAL_KINDS, Refusal};

/// Totals since the start. All of them only grow.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Bytes received, on all connections.
    pub bytes_in: u64,
    /// Bytes handed to the world for sending, on all connections.
    pub bytes_out: u64,
    /// Control messages of the core received.
    pub messages_in: u64,
    /// Control messages of the core queued for sending.
    pub messages_out: u64,
    /// Control messages dropped because a peer's send buffers were full.
    pub messages_dropped: u64,
    /// Keepalives sent.
    pub keepalives_out: u64,
    /// Frames received, verified and handed over.
    pub frames_in: u64,
    /// Frames queued for sending.
    pub frames_out: u64,
    /// Frames not queued because a peer's queue was full.
    pub frames_held_back: u64,
    /// Times that a frame on its way had to wait for room in the ring.
    pub ring_waits: u64,
    /// Connections opened that snapshots are pulled over, in either direction.
    pub snapshot_channels: u64,
    /// Snapshots offered to peers.
    pub offers_out: u64,
    /// Snapshots offered by peers.
    pub offers_in: u64,
    /// Chunks of snapshots queued for sending.
    pub chunks_out: u64,
    /// Chunks of snapshots received and handed over.
    pub chunks_in: u64,
    /// Times that a chunk on its way had to wait for a free buffer.
    pub chunk_waits: u64,
    /// Sessions opened.
    pub sessions_up: u64,
    /// Sessions ended.
    pub sessions_down: u64,
    /// Sessions of an incarnation that is further above the last one than a node's restarts explain: not remembered.
    pub incarnation_jumps: u64,
    /// Handshakes turned away because the peer had a session, and was alive.
    pub occupied: u64,
    /// Handshakes of peers that crossed one of this node, which stayed: nothing is wrong.
    pub crossed: u64,
    /// Sessions of an older incarnation than an earlier session of the same peer: an old copy of its data directory, or
    /// the earlier one was somebody else.
    pub incarnations_back: u64,
    /// Lookups of peers' names begun.
    pub lookups: u64,
    /// Connection attempts begun.
    pub dials: u64,
    /// Connection attempts and handshakes of ours that failed.
    pub dials_failed: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that waited at the port and could not be accepted, for lack of descriptors or memory.
    pub accepts_failed: u64,
    /// Accepted connections closed at once, or pushed out by newer ones, for want of room.
    pub crowded_out: u64,
    /// Clients welcomed.
    pub clients: u64,
    /// Requests turned away on a place that is kept for the status.
    pub turned_away: u64,
    /// Requests answered as too long for this node.
    pub requests_too_long: u64,
    /// Requests of clients handed over.
    pub requests: u64,
    /// Responses queued for clients.
    pub responses: u64,
    /// Responses that were longer than `max_reply_bytes`; the client got an error instead.
    pub responses_too_long: u64,
    /// Clients disconnected for silence, or because they did not read.
    pub clients_idle: u64,
    refusals: [u64; REFUSAL_KINDS],
}

impl Counters {
    pub(crate) fn refuse(&mut self, reason: &Refusal) {
        self.refusals[reason.kind()] += 1;
    }

    /// Refusals by reason: a name and a total, for every reason there is.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Refusal::NAMES.iter().copied().zip(self.refusals.iter().copied())
    }

    /// Refusals of all reasons together.
    pub fn refused(&self) -> u64 {
        self.refusals.iter().sum()
    }
}

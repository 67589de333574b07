//! Snapshots between nodes: offered over the control channel, pulled over a connection of their own.
//!
//! ```text
//! source                                    receiver
//!   control:  Offer { id, bytes, .. }     ->
//!                                         <-  connects: Hello { channel: snapshot, session, nonce }
//!   Welcome                               ->
//!                                         <-  Want { id, offset, chunks, held }
//!   Chunk { id, offset }, 64 KiB          ->
//!   Chunk { id, offset + 64 KiB }, ..     ->
//!                                         <-  Want { .. held: what is durable by now }
//! ```
//!
//! The receiver opens the connection when it wants something, and both sides let it go when nothing moves on it. It
//! belongs to the session that is open between the two nodes: the greeting repeats that session's id and nonce, which
//! nobody else knows, and it ends with it.
//!
//! Chunks come in the order in which they were asked for, and each carries whose it is. What is in them is not looked
//! at here: each has its own checksum, under which the snapshot's identity and its number lie. A chunk that is not as
//! it should be is asked for again, any time and in any order.
//!
//! Memory is bounded on both sides, whatever the other one does. The source has a few chunks of each receiver in its
//! queue, and stops reading wants while it owes as many as there may be. The receiver has a pool of
//! [`SNAPSHOT_BUFFERS`](crate::limits::SNAPSHOT_BUFFERS) chunks, set aside when the first is wanted and given back with
//! the last connection; while none of them is free, it does not read.
//!
//! A program that takes a copy for itself (`kontiki backup`) connects as a client does, from nobody, and asks which
//! snapshot there is; the rest is the same.

pub(crate) mod ends;
pub(crate) mod fetch;
pub(crate) mod offer;
pub(crate) mod record;
pub(crate) mod serve;

use kontiki_core::Time;
use kontiki_io::Io;

use crate::net::Net;

impl Net {
    /// Whether a snapshot is on its way, to here or from here. Mostly none is, and then a turn looks no further.
    pub(crate) fn moves_snapshots(&self) -> bool {
        self.serving > 0 || self.chunks.is_some()
    }

    /// Goes on with whatever is on its way.
    pub(crate) fn tick_snapshots(&mut self, now: Time, io: &mut dyn Io) {
        for p in 0..self.peers.end() {
            self.tick_fetch(p, now, io);
        }
        for k in 0..self.serves.len() {
            self.tick_serve(k, now, io);
        }
    }

    /// When it is to be looked at though nothing completes.
    pub(crate) fn snapshots_deadline(&self) -> Option<Time> {
        let fetches = (0..self.peers.end()).filter_map(|p| self.fetch_deadline(p));
        fetches.chain((0..self.serves.len()).filter_map(|k| self.serve_deadline(k))).min()
    }
}

//! What is kept of each other node: one live session, one in the making, and what was seen of it.

use std::net::SocketAddr;

use kontiki_core::{Incarnation, NodeId, SessionId, Time};

use crate::bulk_in::BulkIn;
use crate::bulk_out::BulkOut;
use crate::conns::Slot;
use crate::hello::HandshakeRefusal;
use crate::inbox::Inbox;
use crate::outbox::Outbox;

/// A process: the incarnation of a node, and the number it drew at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) incarnation: Incarnation,
    pub(crate) instance: u64,
}

/// A handshake in progress.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) session: SessionId,
    /// Drawn by the listening side; zero until the diallers knows it.
    pub(crate) nonce: u64,
    /// Who answered (dialling), or who greeted (listening).
    pub(crate) process: Option<Process>,
    pub(crate) control: Slot,
    /// The dialled bulk connection.
    pub(crate) bulk: Option<Slot>,
}

/// An open session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) control: Slot,
    pub(crate) bulk: Slot,
    pub(crate) inbox: Inbox,
    pub(crate) outbox: Outbox,
    /// Number of the next control record received.
    pub(crate) next_in: u64,
    /// Number of the next control record sent.
    pub(crate) next_out: u64,
    pub(crate) opened: Time,
    /// When something last came in on the control channel.
    pub(crate) heard: Time,
    /// When something was last queued for the control channel.
    pub(crate) spoken: Time,
    /// Since when a control send is under way.
    pub(crate) sending_since: Option<Time>,
    pub(crate) bulk_in: BulkIn,
    /// When to ask the ring again for room.
    pub(crate) ring_retry: Option<Time>,
}

/// Another node.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    /// Whether this node, having the lower id, dials.
    pub(crate) we_dial: bool,
    /// The newest process that completed a handshake.
    pub(crate) seen: Option<Process>,
    pub(crate) half: Option<Half>,
    pub(crate) session: Option<Session>,
    pub(crate) bulk_out: BulkOut,
    /// Attempts since the last session that lasted.
    pub(crate) attempts: u32,
    /// When to dial next.
    pub(crate) dial_at: Time,
}

impl Peer {
    /// Whether a process may stand for this peer: not older than one already seen, nor a second one of
    /// the same incarnation.
    pub(crate) fn admits(&self, process: Process) -> Result<(), HandshakeRefusal> {
        match self.seen {
            Some(seen) if process.incarnation < seen.incarnation => Err(HandshakeRefusal::Stale { seen: seen.incarnation }),
            Some(seen) if process.incarnation == seen.incarnation && process.instance != seen.instance => {
                Err(HandshakeRefusal::Duplicate { incarnation: seen.incarnation })
            }
            _ => Ok(()),
        }
    }
}

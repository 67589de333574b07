//! What is kept of each other node: one live session, one in the making, and what was seen of it.

use std::net::SocketAddr;

use kontiki_io::limits::MAX_ADDRESSES;

use kontiki_core::{Incarnation, NodeId, SessionId, Time};

use crate::address::Address;
use crate::conns::Slot;
use crate::handshake::hello::HandshakeRefusal;
use crate::handshake::reach::Reach;
use crate::limits::MAX_HALVES;
use crate::options::Options;
use crate::session::bulk_in::BulkIn;
use crate::session::bulk_out::BulkOut;
use crate::session::inbox::Inbox;
use crate::session::outbox::Outbox;
use crate::session::parameters::Parameters;
use crate::snapshots::fetch::{Fetch, FetchPause};

/// A process: the incarnation of a node, and the number it drew at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
}

/// The newest process that had a session, and for how long it counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) process: Process,
    /// Until when an older process may not take its place. Nothing on the wire proves who says it: so what was said in
    /// a session outlives it only for as long as its process would need to come back.
    pub(crate) until: Time,
}

/// A handshake in progress.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) session: SessionId,
    /// Drawn by the listening side; zero until the dialler knows it.
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
    /// Of the handshake: known to the two sides alone.
    pub(crate) nonce: u64,
    pub(crate) process: Process,
    pub(crate) remote: SocketAddr,
    /// This node dialled it.
    pub(crate) ours: bool,
    /// What the peer said of itself: the session is up from then on.
    pub(crate) parameters: Option<Parameters>,
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
    /// Where it listens, as far as this node knows.
    pub(crate) addr: Option<Address>,
    /// What the last lookup of its name found, and how many of these were tried.
    pub(crate) found: heapless::Vec<SocketAddr, MAX_ADDRESSES>,
    pub(crate) tried: usize,
    /// Where this node reached it last, where it has a name.
    pub(crate) last_found: Option<SocketAddr>,
    /// This node has the lower id: it dials at once, and of two connections that are made at the same time its own
    /// stays. See [`crate::handshake::dial`].
    pub(crate) we_decide: bool,
    /// Its address is another one than that at which this node reached it: the new one is dialled, and the session over
    /// the old one stays until that stands.
    pub(crate) moved: bool,
    pub(crate) seen: Option<Seen>,
    /// Our handshake.
    pub(crate) half: Option<Half>,
    /// Handshakes that greeted us: any of them may be a stranger's.
    pub(crate) greeted: heapless::Vec<Half, MAX_HALVES>,
    pub(crate) session: Option<Session>,
    pub(crate) bulk_out: BulkOut,
    /// A snapshot being pulled from it.
    pub(crate) fetch: Option<Box<Fetch>>,
    pub(crate) fetch_pause: FetchPause,
    /// Attempts since the last session that lasted.
    pub(crate) attempts: u32,
    /// When to dial next.
    pub(crate) dial_at: Time,
    pub(crate) reach: Reach,
}

impl Peer {
    /// One that nothing is known of but where it is.
    pub(crate) fn new(id: NodeId, addr: Option<Address>, options: &Options) -> Peer {
        Peer {
            id,
            addr,
            found: heapless::Vec::new(),
            tried: 0,
            last_found: None,
            we_decide: options.node < id,
            moved: false,
            seen: None,
            half: None,
            greeted: heapless::Vec::new(),
            session: None,
            fetch: None,
            fetch_pause: FetchPause::default(),
            bulk_out: BulkOut::new(options.bulk_queue_frames, options.bulk_queue_bytes),
            attempts: 0,
            dial_at: Time(0),
            reach: Reach::default(),
        }
    }

    /// Nothing is open with it, and the way to it is looked for from now on. Whoever has the lower id dials at once, the
    /// other one where nothing has come of that for long: so there is mostly one connection.
    pub(crate) fn seek(&mut self, idle_ns: u64, now: Time) {
        self.dial_at = if self.we_decide { now } else { now.plus_ns(idle_ns) };
        self.reach = Reach::new(now);
    }

    /// Whether a handshake that stands on this connection is ours.
    pub(crate) fn dialled(&self, control: Slot) -> bool {
        self.half.as_ref().is_some_and(|half| half.control == control)
    }

    /// Whether a greeting of this process crosses a connection of ours that stays: this node has the lower id, and that
    /// very process has answered it already.
    pub(crate) fn crosses(&self, process: Process) -> bool {
        self.we_decide && self.half.as_ref().is_some_and(|half| half.process == Some(process))
    }

    /// The open session, once it is up.
    pub(crate) fn up(&self) -> Option<&Session> {
        self.session.as_ref().filter(|session| session.parameters.is_some())
    }

    /// Whether the way to it is looked for: there is no session that is up, or one over an address that it has left.
    pub(crate) fn is_sought(&self) -> bool {
        self.up().is_none() || self.moved
    }

    /// Whether a process may stand for this peer: not older than one that has a session, or just had one, nor a second
    /// one of the same incarnation.
    pub(crate) fn admits(&self, process: Process, now: Time) -> Result<(), HandshakeRefusal> {
        let open = self.up().map(|session| session.process);
        let seen = self.seen.filter(|seen| seen.until > now).map(|seen| seen.process);
        match open.or(seen) {
            Some(seen) if process.incarnation < seen.incarnation => Err(HandshakeRefusal::Stale { seen: seen.incarnation }),
            Some(seen) if process.incarnation == seen.incarnation && process.number != seen.number => {
                Err(HandshakeRefusal::Duplicate { incarnation: seen.incarnation })
            }
            _ => Ok(()),
        }
    }

    /// Whether a new session of `process` may take the place of the open one. A peer that is alive says so at least
    /// each quarter of the idle timeout: one that was heard within half of it keeps its place against any other
    /// process. Its own number tells a process from all others, since nobody else has seen it.
    pub(crate) fn may_replace(&self, process: Process, idle_ns: u64, now: Time) -> Result<(), HandshakeRefusal> {
        match self.up() {
            Some(open) if open.process != process && now.since(open.heard) < idle_ns / 2 => {
                Err(HandshakeRefusal::Occupied { incarnation: open.process.incarnation })
            }
            _ => Ok(()),
        }
    }
}

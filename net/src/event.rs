//! What the transport tells the node, and the bounded queue it waits in.

use std::collections::VecDeque;
use std::net::SocketAddr;

use kontiki_core::{Incarnation, Message, NodeId, SessionId};
use kontiki_frame::{Header, WireStamp};
use kontiki_io::IoError;
use kontiki_mem::{BlockMut, PoolBuf};

use crate::handshake::reach::Unreached;
use crate::handshake::refusal::Refusal;
use crate::limits::EVENTS;
use crate::session::parameters::Parameters;
use crate::snapshots::offer::{SnapshotId, SnapshotOffer};
use crate::snapshots::record::{SnapshotRefusal, SnapshotWant};
use crate::snapshots::serve::Pull;

/// One thing that happened on the network.
#[derive(Debug)]
pub enum NetEvent {
    /// The listener is open. With port zero asked for, this is where it is.
    Listening {
        /// The address, with the real port.
        addr: SocketAddr,
    },
    /// A session with a peer is open. Exactly one per peer is at any time.
    SessionUp {
        /// The other side.
        peer: NodeId,
        /// The new session.
        session: SessionId,
        /// How often the other side has started.
        incarnation: Incarnation,
        /// Its address on the control connection.
        remote: SocketAddr,
        /// What it takes, and its pace.
        parameters: Parameters,
    },
    /// A session is over.
    SessionDown {
        /// The other side.
        peer: NodeId,
        /// The session.
        session: SessionId,
        /// Why.
        reason: DownReason,
    },
    /// A control message.
    Message {
        /// The sender.
        peer: NodeId,
        /// The session it came over.
        session: SessionId,
        /// The message.
        message: Message,
    },
    /// A frame: verified from the first byte to the last, in ring memory.
    Frame {
        /// The sender.
        peer: NodeId,
        /// The session it came over.
        session: SessionId,
        /// The sender's stamp.
        stamp: WireStamp,
        /// The sealed header.
        header: Header,
        /// The whole frame, wire stamp first; frames that arrive one after the other are neighbours.
        block: BlockMut,
    },
    /// A peer offers a snapshot: this node's log cannot be served from its own any more.
    SnapshotOffered {
        /// The peer.
        peer: NodeId,
        /// The session it came over.
        session: SessionId,
        /// What it offers.
        offer: SnapshotOffer,
    },
    /// A chunk of a snapshot, as it was asked for. What is in it is not looked at yet.
    SnapshotChunk {
        /// The source.
        peer: NodeId,
        /// Of which snapshot.
        id: SnapshotId,
        /// Where it stands in the file, in bytes.
        offset: u64,
        /// The chunk: all of the buffer. Dropping it makes room for another one.
        chunk: PoolBuf,
    },
    /// The connection over which a snapshot was pulled is gone, and with it what was asked for and has not come. What is
    /// wanted still may be asked for again at once.
    SnapshotFetchDown {
        /// The source.
        peer: NodeId,
        /// Why.
        reason: DownReason,
    },
    /// Somebody wants a part of a snapshot: to be answered chunk by chunk with [`crate::Net::send_chunk`], in the order
    /// of what was wanted, or with [`crate::Net::refuse_snapshot`].
    SnapshotWanted {
        /// Over which connection, and who.
        pull: Pull,
        /// What.
        want: SnapshotWant,
    },
    /// A program asks which snapshot there is: to be answered with [`crate::Net::tell_snapshot`], or refused. It waits for
    /// as long as it takes, and asks nothing else meanwhile.
    SnapshotAsked {
        /// Over which connection, and who.
        pull: Pull,
        /// One is to be made first, of what the node has applied by now.
        now: bool,
    },
    /// Nobody pulls over that connection any more: what it wanted is to be forgotten.
    SnapshotServeDown {
        /// Over which connection, and who.
        pull: Pull,
        /// Why.
        reason: DownReason,
    },
    /// Something a client did.
    Client(ClientEvent),
    /// Something was turned down (also counted; under a flood only counted).
    Refused {
        /// The peer, if the connection was known to be one's.
        peer: Option<NodeId>,
        /// The address of the other side.
        remote: SocketAddr,
        /// Why.
        reason: Refusal,
    },
    /// A peer is away for so long that the operator was told; [`NetEvent::SessionUp`] says that it is back.
    Unreached {
        /// The peer.
        peer: NodeId,
        /// Why.
        why: Unreached,
    },
    /// The transport cannot work.
    Fatal(NetError),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The other side closed a connection.
    #[error("closed by the other side")]
    Closed,
    /// A connection failed.
    #[error("connection failed: {0}")]
    Io(IoError),
    /// Nothing was heard for too long.
    #[error("silent for too long")]
    Silent,
    /// It did not read its control messages for too long.
    #[error("did not read for too long")]
    Stalled,
    /// The peer opened a newer session.
    #[error("replaced by a newer session")]
    Replaced,
    /// The node asked for it ([`crate::Net::cut`]).
    #[error("cut by this node")]
    Cut,
    /// The right to send frames to us was withdrawn in the middle of one.
    #[error("frames are now taken from elsewhere, and one was half received")]
    Revoked,
    /// Another user of the ring stands right behind a half received frame that needs more room.
    #[error("a half received frame could not grow in the ring")]
    NoRoom,
    /// It sent something that was turned down.
    #[error("{0}")]
    Refused(Refusal),
    /// The source of a snapshot will not send it.
    #[error("no snapshot: {0}")]
    SnapshotRefused(SnapshotRefusal),
    /// Nothing was asked for on a snapshot's connection for long.
    #[error("nothing was asked for any more")]
    Unused,
    /// The peer is in the address book no more.
    #[error("not a peer of this node any more")]
    Removed,
    /// A snapshot is to be pulled from a peer that has dialled this node, and nothing is known of where it listens.
    #[error("its address is not known here")]
    NoAddress,
    /// This node is stopping.
    #[error("this node stops")]
    Stopped,
}

impl DownReason {
    /// What the log counts it by.
    pub(crate) fn topic(self) -> &'static str {
        match self {
            DownReason::Closed => "down: closed",
            DownReason::Io(_) => "down: failed",
            DownReason::Silent => "down: silent",
            DownReason::Stalled => "down: stalled",
            DownReason::Replaced => "down: replaced",
            DownReason::Cut => "down: cut",
            DownReason::Revoked => "down: revoked",
            DownReason::NoRoom => "down: no room",
            DownReason::Refused(_) => "down: refused",
            DownReason::SnapshotRefused(_) => "down: snapshot refused",
            DownReason::Unused => "down: unused",
            DownReason::Removed => "down: removed",
            DownReason::NoAddress => "down: no address",
            DownReason::Stopped => "down: stopped",
        }
    }
}

/// One client's connection: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// Where a request's payload lies: resolved by [`crate::Net::payload`], valid until the next [`crate::Net::tick`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    pub(crate) client: ClientId,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

/// What a client did. Every request is to be answered with exactly one [`crate::Net::respond`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// It connected.
    Connected {
        /// The client.
        client: ClientId,
        /// Its address.
        remote: SocketAddr,
    },
    /// It proposes.
    Propose {
        /// The client.
        client: ClientId,
        /// The client's number for the request.
        request: u64,
        /// The client's session and the number within it.
        session: Option<(u64, u64)>,
        /// The proposal.
        payload: Payload,
    },
    /// It asks the state machine.
    Query {
        /// The client.
        client: ClientId,
        /// The client's number for the request.
        request: u64,
        /// The question.
        payload: Payload,
    },
    /// It asks how the node is.
    Status {
        /// The client.
        client: ClientId,
        /// The client's number for the request.
        request: u64,
    },
    /// It has a snapshot written now.
    Snapshot {
        /// The client.
        client: ClientId,
        /// The client's number for the request.
        request: u64,
    },
    /// It is gone; answers to it are dropped.
    Disconnected {
        /// The client.
        client: ClientId,
    },
}

/// Why the transport cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The address is taken.
    #[error("{addr} is in use: is another node running here? Stop it or choose another port")]
    AddressInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// Listening failed otherwise.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's answer.
        source: IoError,
    },
}

/// The bounded queue. The end of a session or of a client always fits: its place was set aside at the start of it.
#[derive(Debug)]
pub(crate) struct Events {
    queue: VecDeque<NetEvent>,
    capacity: usize,
    owed: usize,
}

impl Events {
    /// A queue for so many sessions and clients.
    pub(crate) fn new(sessions: usize, clients: usize) -> Self {
        // The listener owes one event from the start: that it is open, or why it cannot be.
        // A session has up to two connections more, for snapshots; and a program may have one.
        let capacity = EVENTS + 3 * sessions + clients + 2;
        Events { queue: VecDeque::with_capacity(capacity), capacity, owed: 1 }
    }

    /// Places that are free and not set aside.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.queue.len() - self.owed
    }

    /// Adds an event; the caller has looked at `room`.
    pub(crate) fn push(&mut self, event: NetEvent) {
        assert!(self.room() >= 1, "room was looked at before");
        self.queue.push_back(event);
    }

    /// Adds the start of something and sets a place aside for its end: takes two places.
    pub(crate) fn push_start(&mut self, event: NetEvent) {
        assert!(self.room() >= 2, "room was looked at before");
        self.queue.push_back(event);
        self.owed += 1;
    }

    /// Sets a place aside for the end of something whose start is not told: takes one. The caller has looked at `room`.
    pub(crate) fn owe(&mut self) {
        assert!(self.room() >= 1, "room was looked at before");
        self.owed += 1;
    }

    /// Adds the end of something that was started.
    pub(crate) fn push_end(&mut self, event: NetEvent) {
        assert!(self.owed >= 1, "only what was started ends");
        self.owed -= 1;
        self.queue.push_back(event);
    }

    /// Whether there is room for a report to the operator: not once the queue is half full, when a counter must do.
    pub(crate) fn takes_reports(&self) -> bool {
        self.queue.len() < EVENTS / 2
    }

    pub(crate) fn pop(&mut self) -> Option<NetEvent> {
        self.queue.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

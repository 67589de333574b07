//! Everything that is turned down: a connection, a message, a frame or a request that is not as it should be.

use kontiki_core::{ClusterId, GroupId, SessionId};
use kontiki_frame::FrameError;

use crate::clients::client_wire::ClientWireError;
use crate::handshake::hello::{HandshakeRefusal, HelloError};
use crate::limits::HELLO_BYTES;
use crate::session::control::ControlError;
use crate::snapshots::record::SnapshotWireError;

/// Why something was turned down. The connection is closed; nothing of it reached the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first bytes of a connection are no greeting.
    #[error("bad greeting: {0}")]
    Greeting(HelloError),
    /// We refused a greeting.
    #[error("greeting refused: {0}")]
    Handshake(HandshakeRefusal),
    /// The other side refused ours.
    #[error("the other side refused: {0}")]
    ByPeer(HandshakeRefusal),
    /// The other side's answer does not fit our greeting: it is somebody else's, or a recording.
    #[error("the answer to our greeting was not meant for it")]
    Answer,
    /// The greeting did not come in time.
    #[error("no complete greeting in time")]
    Slow,
    /// The connection was closed before a greeting was there: a look whether the port is open, as those who scan ports
    /// or watch services do.
    #[error("closed after {bytes} of a greeting's {HELLO_BYTES} bytes")]
    Gone {
        /// How much of a greeting had come, in bytes. Of one that said nothing, the log says nothing either.
        bytes: usize,
    },
    /// A bad control message.
    #[error("bad control message: {0}")]
    Control(ControlError),
    /// A message or frame of another session.
    #[error("of session {theirs}, this is session {ours}: replayed, or misdirected")]
    Session {
        /// The connection's session.
        ours: SessionId,
        /// The session it names.
        theirs: SessionId,
    },
    /// A message or frame is missing, doubled or replayed.
    #[error("number {theirs} where {expected} was due: lost, doubled or replayed")]
    Sequence {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        theirs: u64,
    },
    /// A bad frame.
    #[error("bad frame: {0}")]
    Frame(FrameError),
    /// A frame of another cluster.
    #[error("frame of another cluster ({theirs})")]
    FrameCluster {
        /// The cluster it names.
        theirs: ClusterId,
    },
    /// A frame of another group.
    #[error("frame of group {theirs}")]
    FrameGroup {
        /// The group it names.
        theirs: GroupId,
    },
    /// A frame longer than this node takes.
    #[error("frame of {bytes} bytes, at most {limit} are taken")]
    FrameLength {
        /// Its length, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A frame whose stamp counts entries that it does not hold.
    #[error("frame whose stamp names entries outside of it")]
    FrameRange,
    /// A bad record on a snapshot's connection.
    #[error("bad word about a snapshot: {0}")]
    Snapshot(SnapshotWireError),
    /// A bad request of a client.
    #[error("bad request: {0}")]
    Request(ClientWireError),
}

/// Reasons told apart by the counters.
pub(crate) const REFUSAL_KINDS: usize = 16;

impl Refusal {
    /// Names for the counters, by [`Refusal::kind`].
    pub(crate) const NAMES: [&'static str; REFUSAL_KINDS] = [
        "greeting",
        "handshake",
        "by_peer",
        "answer",
        "slow",
        "control",
        "session",
        "sequence",
        "frame",
        "frame_cluster",
        "frame_group",
        "frame_length",
        "frame_range",
        "request",
        "gone",
        "snapshot",
    ];

    /// Whether it keeps a session from being opened, rather than ends one.
    pub(crate) fn is_of_a_handshake(&self) -> bool {
        matches!(
            self,
            Refusal::Greeting(_) | Refusal::Handshake(_) | Refusal::ByPeer(_) | Refusal::Answer | Refusal::Slow | Refusal::Gone { .. }
        )
    }

    /// Its reason without the details: what the log counts it by.
    pub fn topic(&self) -> &'static str {
        match self {
            Refusal::Handshake(refusal) | Refusal::ByPeer(refusal) => refusal.name(),
            Refusal::Greeting(error) => error.name(),
            Refusal::Gone { bytes: 0 } => "looked",
            other => Self::NAMES.get(other.kind()).copied().unwrap_or("other"),
        }
    }

    pub(crate) fn kind(&self) -> usize {
        match self {
            Refusal::Greeting(_) => 0,
            Refusal::Handshake(_) => 1,
            Refusal::ByPeer(_) => 2,
            Refusal::Answer => 3,
            Refusal::Slow => 4,
            Refusal::Control(_) => 5,
            Refusal::Session { .. } => 6,
            Refusal::Sequence { .. } => 7,
            Refusal::Frame(_) => 8,
            Refusal::FrameCluster { .. } => 9,
            Refusal::FrameGroup { .. } => 10,
            Refusal::FrameLength { .. } => 11,
            Refusal::FrameRange => 12,
            Refusal::Request(_) => 13,
            Refusal::Gone { .. } => 14,
            Refusal::Snapshot(_) => 15,
        }
    }
}

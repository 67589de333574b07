//! What happens to a node, as the core is told.

use crate::{Base, FrameMeta, IndexRange, LogIndex, Message, NodeId, SessionId, Term, WriteId};

/// A frame that arrived from a peer: its sealed header and the sender's wire stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    /// The sender's current term, as the leader that sends this (not the term of the entries).
    pub leader_term: Term,
    /// The sender's commit index when it stamped the frame.
    pub commit: LogIndex,
    /// The frame's sealed header.
    pub frame: FrameMeta,
    /// The range of the frame that the sender means, inside the frame.
    pub range: IndexRange,
    /// The sender's round of confirmation when it stamped the frame.
    pub round: u64,
}

/// One thing that happened. Every event is handed over with the current [`crate::Time`].
///
/// What peers and the disk say may be anything: whatever cannot be is refused, and counted where a peer said it. Where an
/// event tells of the node's own doing, its description says what the node has to keep to; the core panics if it does not,
/// as going on could lose what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed; due at [`crate::Raft::deadline`], harmless at any other time.
    Tick,
    /// A session with a peer is open. Acknowledgements of its older sessions are void.
    SessionUp {
        /// The other side.
        peer: NodeId,
        /// The new session.
        session: SessionId,
    },
    /// A session with a peer is gone.
    SessionDown {
        /// The other side.
        peer: NodeId,
        /// The session that ended.
        session: SessionId,
    },
    /// A control message arrived.
    Message {
        /// The sender.
        from: NodeId,
        /// The session it came over.
        session: SessionId,
        /// The message.
        message: Message,
    },
    /// A frame arrived. The core answers at once with [`crate::Effect::AppendFrame`] if any of it is to be written.
    Append {
        /// The sender.
        from: NodeId,
        /// The session it came over.
        session: SessionId,
        /// Header and stamp.
        append: Append,
    },
    /// A frame waits for room in the log. That alone may show that what the log holds already equals the leader's, so
    /// that some of it can be released. To be stepped as [`Event::Append`] all the same, once there is room.
    Offered {
        /// The sender.
        from: NodeId,
        /// The session it came over.
        session: SessionId,
        /// Header and stamp.
        append: Append,
    },
    /// Leader: the node sealed a batch exactly as [`crate::Raft::next_frame`] (or [`crate::Effect::SealNoop`])
    /// said. The core answers with [`crate::Effect::AppendFrame`] over the whole frame: the write it is to become.
    /// A batch that is answered without it is void: the node no longer leads in that term, nothing of it was proposed.
    /// The node's own doing: of the present term it is what was said last, before anything else is sealed.
    Sealed {
        /// The frame.
        frame: FrameMeta,
        /// Its size in memory, on disk and on the wire, in bytes.
        bytes: u32,
    },
    /// Every log write up to and with this one is durable. The node's own doing: one that was asked for.
    LogDurable {
        /// The newest log write of the contiguous durable prefix.
        write: WriteId,
    },
    /// This hard-state write is durable, in both copies. The node's own doing: one that was asked for.
    HardStateDurable {
        /// The write.
        write: WriteId,
    },
    /// The answer to [`crate::Effect::SendFrames`]: frames up to `to` were handed to the transport. The node's own doing: not
    /// past what was asked.
    FramesSent {
        /// The receiver.
        peer: NodeId,
        /// The session they went into. An answer for an older session is ignored.
        session: SessionId,
        /// Last index handed over; one before the asked start if nothing could be sent now.
        to: LogIndex,
        /// Bytes handed over.
        bytes: u64,
        /// Frames handed over.
        frames: u32,
    },
    /// The answer to [`crate::Effect::SendFrames`] when the log no longer holds the asked start.
    FramesGone {
        /// The receiver.
        peer: NodeId,
        /// The session.
        session: SessionId,
        /// First index that this node's log still holds.
        first: LogIndex,
    },
    /// A snapshot is durable under its name, which [`crate::Raft::judge_snapshot`] has let pass; or a start found one
    /// that the log or the state machine lacks. Answered with [`crate::Effect::Rebase`] if the log lacks what it ends
    /// with, perhaps only in a later turn. To be stepped when the log can begin anew. What a peer or the disk says: it may be
    /// of any entry, and is judged once more.
    Installed {
        /// What it holds everything up to.
        base: Base,
    },
    /// No snapshot of what the log presupposes can be read any more, and the state machine lacks it: the node takes no part
    /// before it has been given one ([`crate::Restored::needs_base`]).
    BaseLost,
    /// The answer to [`crate::Effect::LookupTerm`]: the term at `index`, `None` if the log does not hold it. What the disk
    /// says, whatever that is.
    TermFound {
        /// The index asked for.
        index: LogIndex,
        /// Its term.
        term: Option<Term>,
    },
}

//! What the core wants done.

use alloc::vec::Vec;

use crate::{Base, EntryId, FrameMeta, IndexRange, LogIndex, Message, NodeId, SessionId, Term, WriteId};

/// One thing to do. Effects are carried out in order; a dependency is a value, never a convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make term, vote and the recovering mark durable; answered by [`crate::Event::HardStateDurable`].
    /// A newer one covers all older ones: it may be written in their stead, and what waits for them may then go.
    PersistHardState {
        /// Names the write.
        write: WriteId,
        /// Current term.
        term: Term,
        /// Vote in that term.
        vote: Option<NodeId>,
        /// Whether this node is recovering (it neither campaigns nor votes).
        recovering: bool,
    },
    /// Write the frame of the [`crate::Event::Append`] or [`crate::Event::Sealed`] just stepped, with only `range`
    /// counting. Where `range.from` is not past the log's end, the frame supersedes what stood there.
    /// An `Append` that is answered without this effect is to be dropped. Covered by [`crate::Event::LogDurable`].
    AppendFrame {
        /// Names the write.
        write: WriteId,
        /// What counts of it.
        range: IndexRange,
    },
    /// The leader wants its no-op in the log: seal an empty entry exactly as `frame` says and step
    /// [`crate::Event::Sealed`].
    SealNoop {
        /// What the header must say.
        frame: FrameMeta,
    },
    /// Send a control message, not before `after` is durable. If the session is gone, or the node
    /// restarts before, it is dropped.
    Send {
        /// The receiver.
        to: NodeId,
        /// The session to use.
        session: SessionId,
        /// The message.
        message: Message,
        /// The write that must be durable first.
        after: Option<WriteId>,
    },
    /// Send log frames that start at `from`, whole frames (the first narrowed to `from`), none past `upto`,
    /// at most `max_bytes` and `max_frames`, but at least one; from memory, or from the log if memory no
    /// longer has them. Answered by [`crate::Event::FramesSent`] or [`crate::Event::FramesGone`], once.
    SendFrames {
        /// The receiver.
        to: NodeId,
        /// The session to use.
        session: SessionId,
        /// First index wanted.
        from: LogIndex,
        /// Last index wanted.
        upto: LogIndex,
        /// Window left, in bytes.
        max_bytes: u64,
        /// Window left, in frames.
        max_frames: u32,
    },
    /// Everything up to `index` is committed, and, on this node, fit to be applied: on a leader by
    /// quorum, on a follower also durable here.
    Committed {
        /// The new commit index.
        index: LogIndex,
    },
    /// Role, term or known leader changed.
    Role {
        /// The role now.
        role: crate::Role,
        /// The term now.
        term: Term,
        /// The leader of that term, once known.
        leader: Option<NodeId>,
    },
    /// Entries from `from` on were superseded by a newer leader's: proposals waiting there are definitely not applied.
    Truncated {
        /// First index that is gone.
        from: LogIndex,
    },
    /// The core needs the term of an old entry; answered by [`crate::Event::TermFound`].
    LookupTerm {
        /// Which entry.
        index: LogIndex,
    },
    /// The log begins anew behind an installed snapshot of `base`, and is empty. A write like any other, covered by
    /// [`crate::Event::LogDurable`]. What was in memory of the old log is not of this one.
    Rebase {
        /// Names the write.
        write: WriteId,
        /// What the log presupposes from now on.
        base: Base,
    },
    /// Offer a snapshot to a follower: this log cannot serve it, or its state lacks what its own log presupposes. The
    /// newest full one from which this log goes on, or one that is made now. Repeated while that stays so.
    OfferSnapshot {
        /// The follower.
        peer: NodeId,
        /// The session to use.
        session: SessionId,
        /// First index it needs, as far as is known.
        needs: LogIndex,
        /// A snapshot serves if it ends at the one before, or later: there this log begins, or that of a follower that
        /// needs a base.
        first: LogIndex,
    },
    /// What the state machine had applied when the node started is not what the log that counts holds there. Nothing
    /// more may be applied: the node must end with a report.
    Diverged {
        /// What was applied.
        applied: EntryId,
        /// The term of the entry that counts at that index.
        term: Term,
    },
    /// A follower needs entries that this leader's log no longer holds; told once a session.
    FollowerBehind {
        /// The follower.
        peer: NodeId,
        /// First index it needs.
        needs: LogIndex,
        /// First index this log holds.
        first: LogIndex,
    },
}

/// A reusable list of effects: the node drains it after every step.
pub type Effects = Vec<Effect>;

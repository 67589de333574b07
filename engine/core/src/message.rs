//! Control messages between cores. Entries travel as frames, with the leader's term and commit index in
//! their wire stamp; everything else is here, small and of fixed size.
//!
//! What a leader sends names its *round*, and every answer of a follower echoes the highest that it has heard. So a leader
//! learns until when a majority still followed it. See `round.rs`.

use crate::{LogIndex, Term};

/// One control message. Sender, receiver and session are the transport's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// "Would you vote for me in `term`?" Changes nothing at the receiver (thesis, section 9.6).
    PreVote {
        /// The term the candidate would campaign in.
        term: Term,
        /// Index of its last entry.
        last_index: LogIndex,
        /// Term of its last entry.
        last_term: Term,
    },
    /// The answer to a [`Message::PreVote`].
    PreVoteReply {
        /// The term asked for if granted, else the receiver's current term.
        term: Term,
        /// Whether it would vote so.
        granted: bool,
        /// Of the answering log: index of its last intact entry (used when every voter recovers).
        last_index: LogIndex,
        /// Of the answering log: term of that entry.
        last_term: Term,
        /// Whether the answering node is recovering.
        recovering: bool,
    },
    /// RequestVote (paper, section 5.2).
    Vote {
        /// The candidate's term.
        term: Term,
        /// Index of its last entry.
        last_index: LogIndex,
        /// Term of its last entry.
        last_term: Term,
        /// Set when every voter answered that it is recovering or not, and this candidate's log is the
        /// greatest of all: even recovering nodes may grant.
        all_answered: bool,
    },
    /// The answer to a [`Message::Vote`].
    VoteReply {
        /// The receiver's current term.
        term: Term,
        /// Whether it granted the vote in that term.
        granted: bool,
    },
    /// The leader lives. Carries no previous entry, so `commit` never exceeds what the receiver was known to match.
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// The smaller of the leader's commit index and what this follower is known to hold.
        commit: LogIndex,
        /// The leader's round of confirmation, counted from 1 in each of its terms. Zero: it only brings a commit index and
        /// is not answered.
        round: u64,
        /// First entry of the leader's own term, zero until it stands in the log.
        term_start: LogIndex,
        /// The leader's commit index when this session opened: what a recovering node must reach.
        session_commit: LogIndex,
    },
    /// The answer to a [`Message::Heartbeat`]: counts for liveness only.
    HeartbeatReply {
        /// The receiver's current term.
        term: Term,
        /// The round echoed: the highest that the receiver heard from the leader of `term` in this session.
        round: u64,
        /// Whether the receiver is recovering.
        recovering: bool,
        /// Whether the receiver's state lacks what its log presupposes: it needs a snapshot, whatever its log holds.
        needs_base: bool,
        /// Last index of the receiver's log, durable or not. Of one that needs a base: the index that a snapshot has to
        /// reach.
        last_index: LogIndex,
    },
    /// Durable up to `matched`, and equal to the leader's log up to there.
    Accepted {
        /// The receiver's current term.
        term: Term,
        /// The round echoed, as in [`Message::HeartbeatReply`].
        round: u64,
        /// The highest index known to match the leader's log and durable here.
        matched: LogIndex,
    },
    /// Frames arrived and await the disk: counts for liveness, never for commit.
    Received {
        /// The receiver's current term.
        term: Term,
        /// The round echoed, as in [`Message::HeartbeatReply`].
        round: u64,
        /// The highest index held in memory.
        index: LogIndex,
    },
    /// A frame did not fit.
    Rejected {
        /// The receiver's current term.
        term: Term,
        /// The round echoed, as in [`Message::HeartbeatReply`].
        round: u64,
        /// The `prev` index that did not match (one before the refused range).
        prev: LogIndex,
        /// The receiver's last index.
        last_index: LogIndex,
        /// Term of the receiver's entry at the smaller of `prev` and `last_index` (zero if it has none).
        conflict_term: Term,
        /// First index of that term's run in the receiver's log.
        conflict_first: LogIndex,
    },
}

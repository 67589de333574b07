//! What can be broken, and how that is told.

use std::fmt;

use crate::judge::linearize::Operation;

/// A violated safety or liveness property. Each says what was seen, for a reader with the trace beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two nodes led in one term (paper, section 5.2).
    TwoLeaders {
        /// The term.
        term: u64,
        /// Who led in it.
        nodes: [u64; 2],
    },
    /// Two replicas applied different entries at one index (paper, section 5.4.3).
    Diverged {
        /// The index.
        index: u64,
        /// The replica that applied otherwise.
        node: u64,
        /// (term, value) as applied first.
        first: (u64, u64),
        /// (term, value) as it applied.
        second: (u64, u64),
    },
    /// A replica applied an index at or before one that it had applied before.
    WentBack {
        /// The replica.
        node: u64,
        /// The index before.
        from: u64,
        /// The index then.
        to: u64,
    },
    /// A replica passed over an entry that another one applied.
    Skipped {
        /// The replica that skipped, or the one that found the entry.
        node: u64,
        /// The entry passed over.
        index: u64,
    },
    /// A replica took a snapshot whose state is not what the history leads to.
    WrongState {
        /// The replica.
        node: u64,
        /// The index that the snapshot stands at.
        index: u64,
    },
    /// A replica took a snapshot that is not, byte for byte, what a state machine gave, or holds what nobody proposed.
    GarbledState {
        /// The replica.
        node: u64,
        /// The index that the snapshot stands at.
        index: u64,
    },
    /// The terms of the history fall (paper, section 5.3).
    TermFell {
        /// The index where.
        index: u64,
        /// The terms before and at it.
        terms: [u64; 2],
    },
    /// A value was applied that nobody proposed, or not as it was proposed.
    Invented {
        /// The replica.
        node: u64,
        /// The index.
        index: u64,
        /// The value.
        value: u64,
    },
    /// One value stands at two indexes.
    Twice {
        /// The value.
        value: u64,
        /// Where.
        indexes: [u64; 2],
    },
    /// A write was acknowledged that no replica applied, or not there.
    FalselyAcknowledged {
        /// The value.
        value: u64,
        /// Where the ticket said it stands.
        index: u64,
        /// Where it does stand.
        found: Option<u64>,
    },
    /// A write was said never to be applied, and was.
    FalselyDenied {
        /// The value.
        value: u64,
        /// Where it stands.
        index: u64,
    },
    /// A proposal's outcome came twice, or for a proposal that was never taken.
    Misresolved {
        /// The value.
        value: u64,
    },
    /// A proposal was acknowledged with a reply that is not its own.
    Misanswered {
        /// The value.
        value: u64,
    },
    /// What clients saw has no explanation as one order of operations.
    NotLinearizable {
        /// The operation that fits nowhere, in the longest attempt; its times count the events that clients saw.
        operation: Operation,
    },
    /// In the end, with everything healed, a replica lacks entries that others have.
    Lags {
        /// The replica.
        node: u64,
        /// How far it is.
        applied: u64,
        /// How far the history goes.
        history: u64,
    },
    /// With everything healed, something did not happen in time.
    NotLive {
        /// What did not happen.
        what: &'static str,
        /// The time it was given, in nanoseconds.
        within_ns: u64,
    },
    /// A node took its log for one that may have lost something, though nothing can have been lost.
    DoubtsForNothing {
        /// The node.
        node: u64,
    },
    /// A node stopped in order, on a disk that works, and its hard state does not say that the log was closed.
    StopNotNoted {
        /// The node.
        node: u64,
    },
    /// Segment files of a node were gone, mixed up or overwritten when it started, which shows on its disk, and it went on as if its log were whole.
    Overlooked {
        /// The node.
        node: u64,
        /// What had been done.
        what: &'static str,
    },
    /// A node took a snapshot for another's, byte by byte checked, that no node had made so.
    Forged {
        /// The node.
        node: u64,
        /// The entry that the snapshot is as of.
        index: u64,
    },
    /// What the log on a node's disk presupposes, nothing there holds, though the disk is good.
    Gap {
        /// The node.
        node: u64,
        /// The last entry before the log.
        before: u64,
        /// The newest that a snapshot, or the state machine by itself, is as of.
        held: u64,
    },
    /// The only voter led, and stepped down: nobody else could do better.
    SteppedDownAlone {
        /// The node.
        node: u64,
    },
    /// A node stopped, or refused to start, though nothing had happened that would justify it.
    StoppedForNothing {
        /// The node.
        node: u64,
        /// What it said.
        reason: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::TwoLeaders { term, nodes: [a, b] } => write!(f, "election safety: nodes {a} and {b} both lead in term {term}"),
            Violation::Diverged { index, node, first, second } => write!(
                f,
                "state machine safety: node {node} applies (term {}, value {}) at index {index}, where (term {}, value {}) was applied before",
                second.0, second.1, first.0, first.1
            ),
            Violation::Forged { node, index } => {
                write!(f, "state machine safety: node {node} fetched a snapshot as of index {index} that no node made so")
            }
            Violation::Gap { node, before, held } => {
                write!(f, "durability: the log of node {node} goes on from index {before}, and what is behind it holds only {held}")
            }
            Violation::WentBack { node, from, to } => write!(f, "monotony: node {node} applies index {to} after index {from}"),
            Violation::Skipped { node, index } => {
                write!(f, "state machine safety: the entry at index {index} was passed over (node {node})")
            }
            Violation::WrongState { node, index } => {
                write!(f, "state machine safety: node {node} took a snapshot as of index {index} that is not the state there")
            }
            Violation::GarbledState { node, index } => {
                write!(f, "integrity: node {node} took a snapshot as of index {index} that no state machine gave so")
            }
            Violation::TermFell { index, terms: [a, b] } => write!(f, "log: the term falls from {a} to {b} at index {index}"),
            Violation::Invented { node, index, value } => {
                write!(f, "integrity: node {node} applies value {value} at index {index}, which nobody proposed so")
            }
            Violation::Twice { value, indexes: [a, b] } => write!(f, "exactly once: value {value} stands at indexes {a} and {b}"),
            Violation::FalselyAcknowledged { value, index, found } => {
                write!(f, "durability: value {value} was acknowledged at index {index}, and stands at {found:?}")
            }
            Violation::FalselyDenied { value, index } => {
                write!(f, "outcome: value {value} was said never to be applied, and stands at index {index}")
            }
            Violation::Misresolved { value } => write!(f, "outcome: the proposal of value {value} was resolved twice, or never made"),
            Violation::Misanswered { value } => write!(f, "reply: the answer to value {value} is not its own"),
            Violation::NotLinearizable { operation } => write!(f, "linearizability: no order of what clients saw explains: {operation}"),
            Violation::Lags { node, applied, history } => {
                write!(f, "convergence: node {node} has applied up to {applied}, the history goes to {history}")
            }
            Violation::NotLive { what, within_ns } => write!(f, "liveness: {what}: not within {} ms", within_ns / 1_000_000),
            Violation::DoubtsForNothing { node } => {
                write!(f, "availability: node {node} takes its log for one that may have lost something, and nothing can have been lost")
            }
            Violation::StopNotNoted { node } => write!(f, "availability: node {node} stopped in order, and its log is not noted as closed"),
            Violation::Overlooked { node, what } => {
                write!(f, "recovery: node {node} takes its log for whole after this had been done to it: {what}")
            }
            Violation::SteppedDownAlone { node } => write!(f, "availability: node {node} is the only voter, led, and stepped down"),
            Violation::StoppedForNothing { node, reason } => write!(f, "availability: node {node} stopped: {reason}"),
        }
    }
}

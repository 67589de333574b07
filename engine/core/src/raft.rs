//! The state machine itself. (Being written: signatures others build against.)

use alloc::vec::Vec;
use crate::{Effects, Event, FrameMeta, LogIndex, NodeId, Term, Time};

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role { /// Follows.
    Follower, /// Asks whether it could win.
    PreCandidate, /// Campaigns.
    Candidate, /// Leads.
    Leader }

/// Timing and identity of one replica's core. Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// All voters, this node among them.
    pub voters: Vec<NodeId>,
    /// Shortest election timeout.
    pub election_min_ns: u64,
    /// Longest election timeout.
    pub election_max_ns: u64,
    /// Heartbeat interval.
    pub heartbeat_ns: u64,
    /// Window per follower, in bytes.
    pub window_bytes: u64,
    /// Window per follower, in frames.
    pub window_frames: u32,
    /// Seed of the election jitter.
    pub seed: u64,
}

/// What recovery found, handed to a new core.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Current term.
    pub term: Term,
    /// Vote in that term.
    pub vote: Option<NodeId>,
    /// Whether the node is recovering.
    pub recovering: bool,
    /// First index the log holds (1 on an empty, never compacted log).
    pub first: LogIndex,
    /// Term of the entry before `first`.
    pub prev_term: Term,
    /// Runs of equal term, ascending: (first index, term). At least the newest runs.
    pub runs: Vec<(LogIndex, Term)>,
    /// Last index of the log; one before `first` if it is empty.
    pub last: LogIndex,
    /// Index to which the state machine is already applied (may exceed `last`).
    pub applied: LogIndex,
}

/// How far one follower is.
#[derive(Clone, Copy, Debug)]
pub struct PeerProgress {
    /// The follower.
    pub peer: NodeId,
    /// Known durable and matching.
    pub matched: LogIndex,
    /// Next index to send.
    pub next: LogIndex,
    /// Bytes sent and not acknowledged.
    pub inflight_bytes: u64,
    /// Whether it is being probed.
    pub probing: bool,
    /// Time of its last sign of life.
    pub heard: Time,
}

/// One replica's consensus core.
#[derive(Debug)]
pub struct Raft {}

#[allow(missing_docs, unused_variables, clippy::todo)]
impl Raft {
    /// A core as recovery left it, a follower at `now`.
    pub fn new(config: Config, restored: Restored, now: Time) -> Raft { todo!() }
    /// Takes one event; appends what must happen to `effects`.
    pub fn step(&mut self, now: Time, event: Event, effects: &mut Effects) { todo!() }
    /// Ends a turn: coalesced answers, replication, commit. Called once after the steps of a turn.
    pub fn flush(&mut self, now: Time, effects: &mut Effects) { todo!() }
    /// When the core next wants a `Tick`.
    pub fn deadline(&self) -> Time { todo!() }
    /// Leader only, and only when it may append now (pending-write table not full): what the next sealed frame's header must say for `count` entries.
    pub fn next_frame(&self, count: u32) -> Option<FrameMeta> { todo!() }
    pub fn role(&self) -> Role { todo!() }
    pub fn term(&self) -> Term { todo!() }
    pub fn leader(&self) -> Option<NodeId> { todo!() }
    pub fn commit(&self) -> LogIndex { todo!() }
    pub fn last_index(&self) -> LogIndex { todo!() }
    /// Last index durable on this node.
    pub fn durable(&self) -> LogIndex { todo!() }
    pub fn recovering(&self) -> bool { todo!() }
    /// Progress of every peer, while leading.
    pub fn progress(&self) -> impl Iterator<Item = PeerProgress> + '_ { core::iter::empty() }
    /// Tells the core that the log was compacted.
    pub fn compacted(&mut self, first: LogIndex, prev_term: Term) { todo!() }
}

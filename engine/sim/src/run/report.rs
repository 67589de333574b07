//! What is asked of a run of one seed, and what came of it.

use crate::faults::Faults;
use crate::judge::Violation;
use crate::world::trace::{Counts, Occurrence};

/// What came of one seed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Nodes.
    pub members: usize,
    /// Simulated time, in nanoseconds.
    pub simulated_ns: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Entries applied.
    pub entries: u64,
    /// Terms with a leader.
    pub terms: u64,
    /// Operations of clients that were judged as one history.
    pub operations: u64,
    /// Those of them that read.
    pub reads: u64,
    /// Whether the history of the clients could be judged: a search for an order may take too much memory.
    pub decided: bool,
    /// Faults, by kind.
    pub counts: Counts,
    /// What should sometimes happen, and how often it did.
    pub marks: Counts,
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// How many things happened.
    pub trace_length: u64,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// A broken assertion of the engine, or of the world.
    pub panic: Option<String>,
    /// How the nodes stood at the end, a line each.
    pub standings: Vec<String>,
    /// What the nodes said, and what struck them: the end of it, as many lines as of the trace.
    pub log: Vec<String>,
    /// The end of the trace, as much as was asked for.
    pub tail: Vec<Occurrence>,
}

impl Report {
    /// Whether all was well.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.panic.is_none()
    }
}

/// How much to run.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Simulated time with faults, in nanoseconds.
    pub chaos_ns: u64,
    /// The clients write at a pace at which the log lasts for so long, in nanoseconds: at least `chaos_ns`. A run of the same pace
    /// that ends sooner is the beginning of the longer one.
    pub pace_ns: u64,
    /// Kinds of faults that may happen.
    pub faults: Faults,
    /// Occurrences of the trace to keep.
    pub keep_trace: usize,
    /// Some disks are bad in every seed, not in a third of them only: errors, rot, writes gone astray, stale reads, damage in power cuts.
    pub bad_disks: bool,
    /// All disks lie about their flushes. No engine survives that: the judge must notice.
    pub lying_disks: bool,
    /// The lock of a directory is free as soon as its process is dead, whatever that was writing: the judge must notice.
    pub free_locks: bool,
}

impl Extent {
    /// So much simulated time with faults, in nanoseconds: all of them.
    pub const fn of(chaos_ns: u64) -> Extent {
        Extent {
            chaos_ns,
            pace_ns: chaos_ns,
            faults: Faults::USUAL,
            keep_trace: 0,
            bad_disks: false,
            lying_disks: false,
            free_locks: false,
        }
    }
}

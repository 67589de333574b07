//! Every bound of the core, related to the others by const assertions.

/// Most voters of one group.
pub const MAX_VOTERS: usize = 9;

/// Most members of one group, voters and learners together.
pub const MAX_MEMBERS: usize = 16;

/// Most peers of one node: every member, for it need not be one itself.
pub const MAX_PEERS: usize = MAX_MEMBERS;

/// Newest runs of equal term that the core remembers; the term of an older entry is asked for with
/// [`crate::Effect::LookupTerm`].
pub const TERM_RUNS: usize = 128;

/// Answers to [`crate::Effect::LookupTerm`] kept. Looking for the first conflict bisects one frame, so a few more
/// than the bits of a frame's entry count suffice.
pub const LOOKUP_ANSWERS: usize = 64;

/// Log writes that may await the disk. When as many do, a leader seals nothing and a follower takes no frame.
pub const PENDING_WRITES: usize = 128;

/// Groups of frames told apart in one follower's window; beyond, the newest group grows.
pub const INFLIGHT_GROUPS: usize = 64;

/// Most effects of one step or one flush: a node that reserves room for them allocates nothing later.
pub const MAX_EFFECTS: usize = 8 + 4 * MAX_PEERS;

/// Election timeouts (the longest) for which a leader's own oldest write may be outstanding before it steps down.
pub const HUNG_DISK_TIMEOUTS: u64 = 3;

/// Highest term taken from a peer or campaigned in: sums of terms stay far from overflow.
pub const MAX_TERM: u64 = u64::MAX / 4;

/// How far a term may lie above this node's and be believed of a peer. Each is an election that somebody held, so no
/// honest one is that far ahead, but of whoever was away for weeks of elections: that node goes up by as much once a
/// [`TERM_STEP_NS`], until it is there.
pub const MAX_TERM_STEP: u64 = 1 << 20;

/// For how long peers have to name terms that are not believed before this node goes up by [`MAX_TERM_STEP`], and how
/// long that step then bounds what is believed, in nanoseconds. The greatest term is far beyond what any peer can bring
/// about so.
pub const TERM_STEP_NS: u64 = 1_000_000_000;

/// For how long a term that was not believed is remembered, in nanoseconds: one message changes nothing, however long
/// ago the last was.
pub const DOUBT_NS: u64 = 16 * TERM_STEP_NS;

/// Highest log index taken from a peer: sums of indexes stay far from overflow.
pub const MAX_INDEX: u64 = u64::MAX / 4;

/// Longest duration accepted in [`crate::Config`], in nanoseconds (a day).
pub const MAX_TIMEOUT_NS: u64 = 24 * 3600 * 1_000_000_000;

const _: () = assert!(1 <= MAX_VOTERS && MAX_VOTERS <= MAX_MEMBERS && MAX_MEMBERS <= MAX_PEERS);
const _: () = assert!(TERM_RUNS >= 2, "the run being superseded and the one that supersedes it");
const _: () = assert!(LOOKUP_ANSWERS > u32::BITS as usize + 4, "one bisection fits");
const _: () = assert!(PENDING_WRITES >= 2 && INFLIGHT_GROUPS >= 1);
const _: () = assert!(MAX_INDEX < u64::MAX - u32::MAX as u64, "a frame's last index never overflows");
const _: () = assert!(MAX_TERM / MAX_TERM_STEP > 100_000 * 365 * 24 * 3600, "100,000 years of steps");
const _: () = assert!(MAX_TIMEOUT_NS < u64::MAX / (HUNG_DISK_TIMEOUTS * 16));

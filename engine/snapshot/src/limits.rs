//! Every bound of snapshots, in one place, and how they relate.

use kontiki_mem::BLOCK_BYTES;

/// Length of every chunk of a snapshot's file, in bytes: a constant of the format.
pub const CHUNK_BYTES: usize = 64 << 10;
/// What a chunk says of itself before its data, in bytes.
pub const CHUNK_HEADER_BYTES: usize = 64;
/// Data in a full chunk, in bytes.
pub const DATA_BYTES: usize = CHUNK_BYTES - CHUNK_HEADER_BYTES;
/// Chunks in one write, and in one read of a verification.
pub const RUN_CHUNKS: usize = 8;
/// Length of such a run, in bytes.
pub const RUN_BYTES: usize = RUN_CHUNKS * CHUNK_BYTES;
/// Runs in memory while a snapshot is written: one is on its way to the disk, one is filled.
pub const RUNS: usize = 2;
/// Runs in memory while a snapshot is fetched: what the source may be asked for at once.
pub const FETCH_RUNS: usize = 4;
/// How often in a row a chunk is refused before its source is given up.
pub const MAX_REFUSALS: u32 = 8;
/// How much is written before the first flush, in bytes. It doubles after a quick flush and is halved after a slow one. It
/// bounds what a fetch loses with the power, and for how long one flush holds up the log.
pub const FIRST_SYNC_BYTES: u64 = 4 << 20;
/// The least of it.
pub const MIN_SYNC_BYTES: u64 = 1 << 20;
/// The most of it.
pub const MAX_SYNC_BYTES: u64 = 16 << 20;
/// A flush that takes less is quick, in ns.
pub const QUICK_SYNC_NS: u64 = 10_000_000;
/// A flush that takes more is slow, in ns.
pub const SLOW_SYNC_NS: u64 = 40_000_000;
/// Longest snapshot, in bytes: positions in it stay far below the end of their range.
pub const MAX_BYTES: u64 = 1 << 50;
/// Snapshots that are kept: the newest, and the older one that the log goes on from.
pub const KEPT: usize = 2;
/// Most snapshot files at once in memory: the kept ones, one that was just made, and those that are being sent. What is
/// found beyond is removed.
pub const MAX_FILES: usize = 8;
/// Reads of snapshots in progress at once.
pub const MAX_READS: usize = 8;
/// Most chunks in one read.
pub const MAX_READ_CHUNKS: usize = 16;
/// Operations outstanding at once: a step of what is made, a read of what is verified, reads.
pub const MAX_OPERATIONS: usize = 2 + MAX_READS;
/// Events that wait to be taken.
pub const MAX_EVENTS: usize = 32;
/// Space set aside for the next snapshot at least, in bytes.
pub const MIN_RESERVE_BYTES: u64 = 4 * CHUNK_BYTES as u64;
/// How much space is set aside, in quarters of what the next snapshot is thought to need: 1.25 times as much.
pub const RESERVE_QUARTERS: u64 = 5;
/// What a state machine thinks that its snapshot will need counts up to one part in so many of what is free on the disk:
/// others live there too, and it may be wrong. What the last one had counts in full.
pub const HINT_SHARE: u64 = 4;
/// What a snapshot grows by at least where its space was too small, in bytes.
pub const GROW_BYTES: u64 = 4 << 20;
/// A snapshot takes at least one part in so many of the disk's time, however busy the log is, so that it ends.
pub const LEAST_SHARE: u64 = 4;
/// How often a fetched snapshot may turn out damaged on its own disk before the fetch is given up.
pub const MAX_REWINDS: u32 = 8;
/// How often a block is read before it counts as unreadable.
pub const READ_ATTEMPTS: u32 = 3;
/// First pause after the disk was full or something else was lacking, in ns. Doubles, up to [`MAX_RETRY_NS`].
pub const MIN_RETRY_NS: u64 = 100_000_000;
/// Longest such pause, in ns.
pub const MAX_RETRY_NS: u64 = 10_000_000_000;

const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES) && RUN_BYTES as u64 <= MIN_SYNC_BYTES);
const _: () = assert!(MIN_SYNC_BYTES <= FIRST_SYNC_BYTES && FIRST_SYNC_BYTES <= MAX_SYNC_BYTES && QUICK_SYNC_NS < SLOW_SYNC_NS);
const _: () = assert!(RUN_CHUNKS <= MAX_READ_CHUNKS && RUNS >= 2 && KEPT >= 2 && MAX_FILES > KEPT + 1);
const _: () = assert!(RESERVE_QUARTERS > 4 && LEAST_SHARE >= 2 && MIN_RETRY_NS <= MAX_RETRY_NS);
const _: () = assert!(GROW_BYTES.is_multiple_of(CHUNK_BYTES as u64) && MAX_BYTES.is_multiple_of(CHUNK_BYTES as u64));

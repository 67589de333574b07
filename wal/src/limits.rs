//! Every bound of the log, in one place, and how they relate.

use kontiki_frame::{BLOCK_BYTES, MAX_FRAME_BYTES};

/// Most segment files at once, live and spare: each is an open file and a table of extents in memory.
pub const MAX_SEGMENTS: usize = 512;
/// Smallest segment, in bytes: its header and a few small frames.
pub const MIN_SEGMENT_BYTES: u64 = 16 * BLOCK_BYTES as u64;
/// Largest segment, in bytes.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// Extents (index to position) kept in memory per segment.
pub const MAX_EXTENTS: usize = 64;
/// A segment gets an extent each such fraction of it; the rest of the table is for superseding frames.
pub const EXTENTS_BY_STRIDE: u64 = 32;
/// Runs of equal term kept in memory; older terms are looked up on disk.
pub const MAX_TERM_RUNS: usize = 128;
/// Frames (and segment headers) that wait to be written or are being written.
pub const MAX_QUEUED: usize = 1024;
/// Hard-state writes that wait for a completion, or whose end the caller has not taken yet.
pub const MAX_HARD_STATE_WAITERS: usize = 64;
/// Blocks that the hard state is read and written with, and nothing else is: at a start both copies are kept until one
/// is repaired, and an update writes one copy after the other.
pub const HARD_STATE_BLOCKS: usize = 3;
/// Segment headers that may wait or be written at once beyond one for each spare segment. Where there are no more, the
/// frame that needs the next segment waits.
pub const HEADERS_AHEAD: usize = 1;
/// Most log writes in flight at once.
pub const MAX_WRITES_IN_FLIGHT: usize = 32;
/// Most spare segments prepared ahead.
pub const MAX_SPARE_SEGMENTS: usize = 16;
/// Segments that what callers propose leaves over: prepared beyond the spares, and beyond what the table of segments
/// takes. They are for the first entries of terms, for configurations, for the fresh segment after a recovery and for the
/// chain behind a snapshot, so that logs that are full can elect, forget and go on.
pub const KEPT_SEGMENTS: usize = 2;
/// Reads of frames and lookups of terms in progress at once.
pub const MAX_READS: usize = 16;
/// Reads of frames among them: what is left is for lookups alone.
pub const MAX_FRAME_READS: usize = MAX_READS - LOOKUP_BUFFERS;
/// Operations outstanding at once beside log writes: an update of the hard state, a step of preparing a segment, zeros
/// behind the log's end, reads and lookups.
pub const OTHER_OPERATIONS: usize = 3 + MAX_READS;
/// Frames that one read yields at most.
pub const MAX_FRAMES_PER_READ: usize = 32;
/// Places remembered for the next read of a sequential reader.
pub const MAX_PLACES: usize = 8;
/// Buffers for looking up old terms, and their size in bytes.
pub const LOOKUP_BUFFERS: usize = 2;
/// Size of a lookup's buffer, in bytes: an old term's frame header is found a few frames on from an extent.
pub const LOOKUP_BYTES: usize = 64 << 10;
/// Size of recovery's reads, in bytes.
pub const RECOVERY_READ_BYTES: usize = 1 << 20;
/// How soon the operator is told again what a segment lacks, in nanoseconds, where that has come and gone meanwhile.
pub const LACKING_TOLD_NS: u64 = 60_000_000_000;

/// How often recovery tries to read a block before it takes it for lost: a device may fail once what it can do the next
/// time.
pub const READ_ATTEMPTS: usize = 3;
/// Recovery's reads in flight.
pub const RECOVERY_READS: usize = 2;
/// Size of the writes that zero a new segment, in bytes: small, so that appends get in between.
pub const ZERO_BYTES: usize = 256 << 10;
/// Zeros that are kept ahead of the log on a lossy medium while frames are small, in bytes: refilled once half of them
/// is left.
pub const MARGIN_BYTES: usize = 64 << 10;
/// Up to this length on average frames are small, in bytes: what they cost in zeros is at most what they are
/// themselves.
pub const LIGHT_FRAME_BYTES: usize = 16 << 10;
/// How long a log of larger frames rests before a block of zeros marks its end, in ns: longer than what lies between
/// two frames under load.
pub const REST_NS: u64 = 5_000_000;
/// First pause after something was lacking, in ns. Doubles, up to [`MAX_RETRY_NS`] or [`MAX_SHORTAGE_RETRY_NS`].
pub const MIN_RETRY_NS: u64 = 100_000_000;
/// Longest pause between attempts to prepare a segment, on a full disk or where something else is lacking, in ns.
pub const MAX_RETRY_NS: u64 = 10_000_000_000;
/// Longest pause between attempts at an operation of the running log that the system lacked something for, in ns:
/// frames wait for it. (Where it is memory, the backend has tried for a while already.)
pub const MAX_SHORTAGE_RETRY_NS: u64 = 1_000_000_000;
/// Offset of the hard state's second copy, in bytes: an erase group of any common flash away from the first.
pub const HARD_STATE_COPY_OFFSET: u64 = 4 << 20;
/// Length of the hard-state file, in bytes.
pub const HARD_STATE_FILE_BYTES: u64 = HARD_STATE_COPY_OFFSET + BLOCK_BYTES as u64;

const _: () = assert!(MIN_SEGMENT_BYTES <= MAX_SEGMENT_BYTES && MIN_SEGMENT_BYTES.is_multiple_of(BLOCK_BYTES as u64));
const _: () = assert!((EXTENTS_BY_STRIDE as usize) < MAX_EXTENTS);
// A frame straddles recovery's reads in a buffer of its own, so reads need not hold a whole one.
const _: () = assert!(RECOVERY_READ_BYTES.is_multiple_of(BLOCK_BYTES) && ZERO_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(LOOKUP_BYTES.is_multiple_of(BLOCK_BYTES) && MAX_FRAME_BYTES.is_multiple_of(BLOCK_BYTES));
// A queue always holds what one full set of writes in flight carries, and one header for each spare segment.
const _: () = assert!(MAX_QUEUED > MAX_WRITES_IN_FLIGHT + MAX_SPARE_SEGMENTS + KEPT_SEGMENTS);
const _: () = assert!(MAX_SEGMENTS > MAX_SPARE_SEGMENTS + KEPT_SEGMENTS + 2);
// Whatever else goes on: a change of term can be written, a segment opened, an old term looked up.
const _: () = assert!(HARD_STATE_BLOCKS >= 3 && HEADERS_AHEAD >= 1 && LOOKUP_BUFFERS >= 1 && MAX_FRAME_READS >= 1);
// A small frame finds zeros ahead of it while the next are being written.
const _: () = assert!(4 * LIGHT_FRAME_BYTES <= MARGIN_BYTES && MARGIN_BYTES <= ZERO_BYTES && MARGIN_BYTES.is_multiple_of(2 * BLOCK_BYTES));
// Opening reads with fewer.
const _: () = assert!(RECOVERY_READS < OTHER_OPERATIONS);

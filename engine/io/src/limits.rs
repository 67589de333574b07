//! Every bound of this crate, and how they relate.

use crate::MAX_PIECES;
use crate::name::MAX_NAME_BYTES;

/// Operations outstanding at once, unless the options say otherwise.
pub const DEFAULT_CAPACITY: usize = 1024;

/// Most operations outstanding at once: a slot each, two completions each at most, must fit the largest
/// completion queue that io_uring makes (65,536 entries).
pub const MAX_CAPACITY: usize = 8192;

/// Handles open at once, unless the options say otherwise.
pub const DEFAULT_HANDLES: usize = 1024;

/// Most handles open at once: their index has sixteen bits of a [`Handle`](crate::Handle).
pub const MAX_HANDLES: usize = 32_768;

/// Most entries of the submission queue: a turn that queues more is flushed by an extra enter.
pub const MAX_SQ_ENTRIES: usize = 256;

/// Completions that one operation can have outstanding in the kernel (a write and the flush linked to it).
pub const MAX_CQES_PER_OP: usize = 2;

/// Completion queue entries kept for the backend's own operations: bell, timeouts, cancellations.
pub const OWN_CQES: usize = 64;

/// Most rings registered as fixed buffers.
pub const MAX_REGISTERED: usize = 8;

/// Places in the ring's table for locks, two for each.
pub const LOCK_PLACES: usize = 8;

/// How long a lock that is held is waited for, in milliseconds: a killed process holds it until its last write has
/// ended, which is soon, unless the disk is very slow.
pub const LOCK_PATIENCE_MS: u64 = 1_000;

/// How often it is tried meanwhile, in milliseconds.
pub const LOCK_RETRY_MS: u64 = 5;

/// How long a read or write that fails for lack of memory is tried again, in milliseconds.
pub const MEMORY_PATIENCE_MS: u64 = 10_000;

/// How often it is tried meanwhile, in milliseconds.
pub const MEMORY_RETRY_MS: u64 = 20;

/// Most bytes of one read or write handed to the kernel at once; the rest follows. The kernel's own bound is
/// 2 GiB less a page; this keeps every piece aligned.
pub const MAX_TRANSFER_BYTES: usize = 1 << 30;

/// Socket events taken from the kernel in one turn of the portable backend.
pub const MAX_EVENTS: usize = 256;

/// Longest host name that can be looked up, in bytes: that of DNS.
pub const MAX_HOST_BYTES: usize = 253;

/// Most addresses that a lookup gives.
pub const MAX_ADDRESSES: usize = 8;

/// Lookups under way at once, each on a thread of its own; more wait their turn.
pub const MAX_LOOKUPS: usize = 8;

/// Connections that may wait to be accepted on one listener.
pub const LISTEN_BACKLOG: i32 = 128;

/// Unanswered connection requests after the first (1, 2, 4 seconds apart): a dead host fails a connect in about seven
/// seconds.
pub const CONNECT_RETRIES: i32 = 2;

/// How long sent bytes may stay unacknowledged before the kernel gives the connection up, in milliseconds.
pub const USER_TIMEOUT_MS: i32 = 10_000;

/// Idle seconds before the kernel probes a silent connection.
pub const KEEPALIVE_IDLE_S: i32 = 10;

/// Seconds between those probes.
pub const KEEPALIVE_INTERVAL_S: i32 = 5;

/// Probes without an answer before the connection is gone.
pub const KEEPALIVE_PROBES: i32 = 3;

/// Bytes of zeros written at a time where a file system cannot reserve space.
pub const ZERO_CHUNK_BYTES: usize = 64 * 1024;

/// How long a dropped backend waits for the kernel to let go of its memory, in milliseconds. What is still held
/// then (a disk that hangs) is leaked, never reused.
pub const DRAIN_MS: u64 = 30_000;

const _: () = assert!(MAX_CAPACITY * MAX_CQES_PER_OP + OWN_CQES <= 65_536);
const _: () = assert!(MAX_SQ_ENTRIES >= MAX_CQES_PER_OP && MAX_SQ_ENTRIES.is_power_of_two());
const _: () = assert!(MAX_HANDLES <= 1 << 16);
const _: () = assert!(DEFAULT_CAPACITY <= MAX_CAPACITY && DEFAULT_HANDLES <= MAX_HANDLES);
const _: () = assert!(MAX_TRANSFER_BYTES.is_multiple_of(kontiki_mem::BLOCK_BYTES));
const _: () = assert!(ZERO_CHUNK_BYTES.is_multiple_of(kontiki_mem::BLOCK_BYTES));
// The kernel's bound on the pieces of one sendmsg (UIO_MAXIOV), and on a name with its NUL.
const _: () = assert!(MAX_PIECES <= 1024 && MAX_NAME_BYTES < 255);

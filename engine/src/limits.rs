//! Every bound of the engine, in one place, and how they relate.
//!
//! What grows with load is bounded here or by a [`Config`](crate::Config) value that is checked
//! against these. At a bound a caller gets `Busy`, a peer gets back-pressure; nothing grows.

use kontiki_core::limits as core;
use kontiki_frame as frame;
use kontiki_io::limits as io;
use kontiki_mem::BLOCK_BYTES;
use kontiki_net::limits as net;
use kontiki_snapshot::limits as snapshot;
use kontiki_wal::limits as wal;

/// Smallest frame a configuration may set, in bytes.
pub const MIN_FRAME_BYTES: usize = 16 << 10;
/// Largest frame a configuration may set, in bytes.
pub const MAX_FRAME_BYTES: usize = frame::MAX_FRAME_BYTES;
/// Shortest frames that peers' limits bring this node to seal: every configuration takes them.
pub const LEAST_SEAL_BYTES: usize = 4 * MIN_FRAME_BYTES;
/// Shortest interval of heartbeats that peers' election timeouts bring this node to, in nanoseconds.
pub const LEAST_TOLD_HEARTBEAT_NS: u64 = 5_000_000;
/// Entries in one frame: what one side table of tickets holds.
pub const MAX_FRAME_ENTRIES: usize = 16 << 10;
/// Frames kept in memory for followers and apply, at most.
pub const MAX_CACHED_FRAMES: usize = 1024;
/// Blocks of the ring alive at once: each cached frame, the open batch, a receive in progress, and some
/// that only a send or a write still holds.
pub const MAX_RING_BLOCKS: usize = 2 * MAX_CACHED_FRAMES;
/// Sealed batches of this leader whose tickets wait for commit and apply.
pub const MAX_PENDING_BATCHES: usize = 126;
/// Side tables of tickets: the pending batches, those that are open or just sealed, and those being applied.
pub const SIDE_TABLES: usize = MAX_PENDING_BATCHES + kontiki_mem::limits::OPEN_BATCHES + MAX_APPLY_QUEUE;
/// Kinds of refusals that a status tells of.
pub const MAX_REFUSED: usize = net::MAX_REFUSED;
/// Room for a status in a response to a client, in bytes.
pub const STATUS_BYTES: usize = 8 << 10;
/// Lines a minute of what the log's next segment lacks, and that it does not any more; what exceeds them is counted.
pub const ROOM_LINES: u32 = 8;
/// Changes of role that are told a minute; what exceeds them is counted. Peers can bring about as many as they like.
pub const ROLE_LINES: u32 = 32;
/// Control messages that wait for a write to become durable: a few per peer.
pub const MAX_DEFERRED_SENDS: usize = 256;
/// Members of a cluster.
pub const MAX_VOTERS: usize = core::MAX_VOTERS;
/// Fewest buffers for reading old frames back. In a larger cluster: one for each member and one more.
pub const READ_BUFFERS: usize = 4;
/// Size of a read buffer, in bytes, unless a frame may be longer.
pub const READ_BYTES: usize = 512 << 10;
/// Sent from the log to one follower and not acknowledged, in bytes, before more is read for it: what keeps its disk
/// busy, and leaves the others' small writes their turn.
pub const CATCH_UP_BYTES: u64 = 256 << 10;
/// Frames handed to the apply stage and not applied yet.
pub const MAX_APPLY_QUEUE: usize = 64;
/// Memory in which the state machine gives a snapshot, in bytes, and pieces of it: one is written, one is filled.
pub const FILL_BYTES: usize = 64 << 10;
/// See [`FILL_BYTES`].
pub const FILL_BUFFERS: usize = 2;
/// Memory in which it gets one, in bytes, and pieces of it: one is read, one is taken in.
pub const RESTORE_BYTES: usize = 4 * snapshot::CHUNK_BYTES;
/// See [`RESTORE_BYTES`].
pub const RESTORE_BUFFERS: usize = 2;
/// How long after a snapshot that could not be made the next is tried, in ns. Doubles while that comes to nothing, up to
/// [`MAX_SNAPSHOT_RETRY_NS`]: what fails at its end has written all of it to a flash that wears out.
pub const SNAPSHOT_RETRY_NS: u64 = 1_000_000_000;
/// Longest such pause, in ns. Whoever asks for a snapshot ends it.
pub const MAX_SNAPSHOT_RETRY_NS: u64 = 256_000_000_000;
/// Piece of a snapshot that is read to be sent, in bytes.
pub const SEND_BYTES: usize = net::SERVE_CHUNKS * snapshot::CHUNK_BYTES;
/// How many there are, for all that pull one at once: set aside while somebody does.
pub const SEND_BUFFERS: usize = 6;
/// How long the source of a snapshot keeps its file, and the log behind it, for a receiver that gets on with nothing, in
/// ns: longer than a restart of it takes.
pub const SEND_HOLD_NS: u64 = 60_000_000_000;
/// Where the log has no room left, it is kept for a receiver only if the rest comes within this time at the pace so far, in
/// seconds, unless it is configured.
pub const DEFAULT_HOLD_S: u64 = 60;
/// The longest such time that a configuration may set: a day.
pub const MAX_HOLD_S: u64 = 24 * 60 * 60;
/// How long the log is kept behind a snapshot that was offered and is not pulled yet, in ns. Offers are repeated more often.
pub const OFFER_HOLD_NS: u64 = 2_000_000_000;
/// A fetch that gets on with nothing for so long gives way to another offer, in ns.
pub const FETCH_PATIENCE_NS: u64 = 10_000_000_000;
/// One that gets on with nothing for so long is given up: what has come stays, for the same offer made again. In ns.
pub const FETCH_LIMIT_NS: u64 = 60_000_000_000;
/// Programs that wait for a snapshot that they asked for, at most; more are told that the node is busy.
pub const MAX_SNAPSHOT_ASKERS: usize = 16;
/// Longest reason why there is none that they are told, in characters: it is the state machine's, and may be of any length.
pub const MAX_REASON_CHARS: usize = 500;
/// Least that a configuration may cap snapshots to, in bytes per second: what is slower than a trickle of writes never ends
/// before the log is full.
pub const MIN_SNAPSHOT_BYTES_PER_S: u64 = 256 << 10;
/// How often what goes wrong with snapshots is told at most, as long as it lasts, in ns.
pub const TROUBLE_REPEAT_NS: u64 = 300_000_000_000;
/// Longest reason for that, in characters.
pub const MAX_TROUBLE_CHARS: usize = 160;
/// Log since the last snapshot, as a share of the retention, that brings about the next, unless it is configured.
pub const SNAPSHOT_SHARE: u64 = 4;
/// Operations outstanding at once, at least: writes, reads, segment preparation, two connections a peer each way,
/// clients. A configuration with more members or clients gets more: see `io_capacity`.
pub const IO_CAPACITY: usize = 512;
/// Requests of one client that are not answered yet, at most.
pub const CLIENT_REQUESTS: u64 = 64;
/// Clients at once that a configuration may allow.
pub const MAX_CLIENTS: usize = 1024;
/// Memory of any one table that grows with the configuration, in bytes: replies of tickets, requests and responses of
/// clients.
pub const MAX_TABLE_BYTES: u64 = (1 << 31) - 4096;
/// Segments that retention must leave to the log's own growth.
pub const MIN_FREE_SEGMENTS: u64 = 32;

/// Connections there may be at once, those being set up or wound down included.
pub(crate) const fn connections(members: usize, clients: usize) -> usize {
    members * net::CONNECTIONS_PER_PEER + 2 * net::MAX_GREETINGS + clients + net::STATUS_PLACES + net::SPARE_CLIENTS
}

/// Operations that a node may have outstanding at once: per connection a receive, a send and a shutdown; the
/// listener's; the log's and the snapshots'.
pub(crate) const fn io_capacity(members: usize, clients: usize) -> usize {
    let operations =
        3 * connections(members, clients) + 3 + members + wal::MAX_WRITES_IN_FLIGHT + wal::OTHER_OPERATIONS + snapshot::MAX_OPERATIONS;
    if operations > IO_CAPACITY { operations } else { IO_CAPACITY }
}

/// File descriptors that a node of this configuration uses at most: segments, connections, and a few of its own.
pub(crate) fn descriptors(config: &crate::Config) -> usize {
    let kept = config.retention_bytes / config.segment_bytes.max(1) + MIN_FREE_SEGMENTS;
    let segments = usize::try_from(kept).unwrap_or(wal::MAX_SEGMENTS).min(wal::MAX_SEGMENTS);
    // Directory and lock (twice), hard state, a segment in the making, the listener.
    segments + 6 + SNAPSHOT_FILES + connections(config.members.len(), config.max_clients)
}

/// Files of snapshots open at once: the directory, those that are there, two in the making.
const SNAPSHOT_FILES: usize = snapshot::MAX_FILES + 3;

/// Files and connections that may be open at once.
pub(crate) const fn io_handles(members: usize, clients: usize) -> usize {
    let open = wal::MAX_SEGMENTS + 8 + SNAPSHOT_FILES + connections(members, clients);
    if open > io::DEFAULT_HANDLES { open } else { io::DEFAULT_HANDLES }
}
/// How long an orderly stop waits for the log's own writes, in ns: many flushes of a slow card, and a stall of seconds.
pub const CLOSE_LOG_NS: u64 = 20_000_000_000;
/// How long it waits for peers and clients to take leave, in ns. The log is closed meanwhile.
pub const CLOSE_NET_NS: u64 = 2_000_000_000;
/// How often the state machine is asked what it has made durable while the log waits for space, in ns.
pub const ASK_DURABLE_NS: u64 = 100_000_000;
/// How often at least it is asked while a small snapshot waits for that, in ns: at first as often as above, and each time
/// after twice as long.
pub const MAX_ASK_DURABLE_NS: u64 = 10_000_000_000;
/// A commit index that no frame carries is told to followers after this share of a heartbeat interval.
pub const NEWS_SHARE: u64 = 16;
/// Entries that make a frame worth its writes, wake-ups and messages though one is under way: about as many as take as
/// long themselves.
pub const AMPLE_ENTRIES: u32 = 1024;
/// How long a reactor waits awake for the first of the callers that it just answered, in ns: two wake-ups of a thread.
pub const LINGER_NS: u64 = 100_000;
/// The batch has stopped to grow if nothing was added for so long, in ns.
pub const LULL_NS: u64 = 10_000;
/// Longest wait awake for answered callers in all, in ns.
pub const MAX_LINGER_NS: u64 = 400_000;
/// Entries that may come while it yields once (a system call), and how often it yields at most between two looks.
pub const ENTRIES_PER_YIELD: u64 = 64;
/// See [`ENTRIES_PER_YIELD`].
pub const MAX_YIELDS: u64 = 7;
/// How often a caller looks again if it came just as the reactor sealed one batch and had not opened the next: a
/// microsecond.
pub const OPEN_SPINS: u32 = 50;
/// Commits after which it does not wait awake, at most, where nobody came back the last times.
pub const MAX_SULK: u32 = 256;
/// Longest tag of a member, in bytes.
pub const MAX_TAG_BYTES: usize = 64;
/// Events that a replica keeps for whoever reads them.
pub const MAX_EVENTS: usize = 256;
/// Longest reply of a state machine that a configuration may allow, in bytes.
pub const MAX_REPLY_BYTES: usize = 64 << 10;

const _: () = assert!(MIN_FRAME_BYTES.is_multiple_of(BLOCK_BYTES) && MAX_FRAME_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(frame::BLOCK_BYTES == BLOCK_BYTES);
const _: () = assert!(DEFAULT_HOLD_S <= MAX_HOLD_S);
const _: () = assert!(SNAPSHOT_RETRY_NS <= MAX_SNAPSHOT_RETRY_NS && ASK_DURABLE_NS <= MAX_ASK_DURABLE_NS);
const _: () = assert!(MAX_PENDING_BATCHES <= MAX_CACHED_FRAMES);
const _: () = assert!(MAX_RING_BLOCKS > MAX_CACHED_FRAMES + MAX_APPLY_QUEUE);
const _: () = assert!(io_capacity(MAX_VOTERS, MAX_CLIENTS) <= io::MAX_CAPACITY && io_handles(MAX_VOTERS, MAX_CLIENTS) <= io::MAX_HANDLES);
// A chunk goes from the one's file into the other's as it is.
const _: () = assert!(net::SNAPSHOT_CHUNK_BYTES == snapshot::CHUNK_BYTES && net::SERVE_CHUNKS <= snapshot::MAX_READ_CHUNKS);
// Apply and each follower read without waiting for one another.
const _: () = assert!(MAX_VOTERS <= wal::MAX_FRAME_READS);
const _: () = assert!(MAX_CLIENTS <= net::MAX_CLIENTS && MAX_VOTERS <= net::MAX_PEERS && MIN_FREE_SEGMENTS < wal::MAX_SEGMENTS as u64);

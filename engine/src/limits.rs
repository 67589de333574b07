//! Every bound of the engine, in one place, and how they relate.
//!
//! What grows with load is bounded here or by a [`Config`](crate::Config) value that is checked
//! against these. At a bound a caller gets `Busy`, a peer gets back-pressure; nothing grows.

use kontiki_frame as frame;
use kontiki_io::limits as io;
use kontiki_mem::BLOCK_BYTES;
use kontiki_net::limits as net;
use kontiki_wal::limits as wal;

/// Smallest frame a configuration may set, in bytes.
pub const MIN_FRAME_BYTES: usize = 16 << 10;
/// Largest frame a configuration may set, in bytes.
pub const MAX_FRAME_BYTES: usize = frame::MAX_FRAME_BYTES;
/// Entries in one frame: what one side table of tickets holds.
pub const MAX_FRAME_ENTRIES: usize = 16 << 10;
/// Frames kept in memory for followers and apply, at most.
pub const MAX_CACHED_FRAMES: usize = 1024;
/// Blocks of the ring alive at once: each cached frame, the open batch, a receive in progress, and some
/// that only a send or a write still holds.
pub const MAX_RING_BLOCKS: usize = 2 * MAX_CACHED_FRAMES;
/// Sealed batches of this leader whose tickets wait for commit and apply.
pub const MAX_PENDING_BATCHES: usize = 126;
/// Side tables of tickets: the pending batches, the one open and the one being sealed.
pub const SIDE_TABLES: usize = MAX_PENDING_BATCHES + 2 + MAX_APPLY_QUEUE;
/// Room for a status in a response to a client, in bytes.
pub const STATUS_BYTES: usize = 8 << 10;
/// Control messages that wait for a write to become durable: a few per peer.
pub const MAX_DEFERRED_SENDS: usize = 256;
/// Members of a cluster.
pub const MAX_VOTERS: usize = 9;
/// Fewest buffers for reading old frames back. In a larger cluster: one for each member and one more.
pub const READ_BUFFERS: usize = 4;
/// Size of a read buffer, in bytes, unless a frame may be longer.
pub const READ_BYTES: usize = 512 << 10;
/// Frames handed to the apply stage and not applied yet.
pub const MAX_APPLY_QUEUE: usize = 64;
/// Operations outstanding at once, at least: writes, reads, segment preparation, two connections a peer each way, clients.
/// A configuration with more members or clients gets more: see `io_capacity`.
pub const IO_CAPACITY: usize = 512;
/// Requests of one client that are not answered yet, at most.
pub const CLIENT_REQUESTS: u64 = 64;
/// Clients at once that a configuration may allow.
pub const MAX_CLIENTS: usize = 1024;
/// Memory of any one table that grows with the configuration, in bytes: replies of tickets, requests and responses of clients.
pub const MAX_TABLE_BYTES: u64 = (1 << 31) - 4096;
/// Segments that retention must leave to the log's own growth.
pub const MIN_FREE_SEGMENTS: u64 = 32;

/// Connections there may be at once, those being set up or wound down included.
pub(crate) const fn connections(members: usize, clients: usize) -> usize {
    members * net::CONNECTIONS_PER_PEER + 2 * net::MAX_GREETINGS + clients + 4
}

/// Operations that a node may have outstanding at once: per connection a receive, a send and a shutdown; the listener's;
/// and the log's.
pub(crate) const fn io_capacity(members: usize, clients: usize) -> usize {
    let operations = 3 * connections(members, clients) + 3 + wal::MAX_WRITES_IN_FLIGHT + 2 + wal::MAX_READS;
    if operations > IO_CAPACITY { operations } else { IO_CAPACITY }
}

/// Files and connections that may be open at once.
pub(crate) const fn io_handles(members: usize, clients: usize) -> usize {
    let open = wal::MAX_SEGMENTS + 8 + connections(members, clients);
    if open > io::DEFAULT_HANDLES { open } else { io::DEFAULT_HANDLES }
}
/// Longest reply of a state machine that a configuration may allow, in bytes.
pub const MAX_REPLY_BYTES: usize = 64 << 10;

const _: () = assert!(MIN_FRAME_BYTES.is_multiple_of(BLOCK_BYTES) && MAX_FRAME_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(frame::BLOCK_BYTES == BLOCK_BYTES);
const _: () = assert!(MAX_PENDING_BATCHES <= MAX_CACHED_FRAMES);
const _: () = assert!(MAX_RING_BLOCKS > MAX_CACHED_FRAMES + MAX_APPLY_QUEUE);
const _: () = assert!(io_capacity(MAX_VOTERS, MAX_CLIENTS) <= io::MAX_CAPACITY && io_handles(MAX_VOTERS, MAX_CLIENTS) <= io::MAX_HANDLES);
const _: () = assert!(MAX_CLIENTS <= net::MAX_CLIENTS && MAX_VOTERS <= net::MAX_PEERS && MIN_FREE_SEGMENTS < wal::MAX_SEGMENTS as u64);

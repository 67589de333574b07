//! Every bound of the transport, in one place, related to each other at compile time.

use kontiki_frame::{BODY_OFFSET, STAMP_BYTES};
use kontiki_io::MAX_PIECES;

/// The newest version of the protocol between nodes, and of that with clients: what this program speaks wherever the
/// other side does.
pub const PROTOCOL_VERSION: u16 = 2;

/// The oldest version that it speaks with other nodes. (Version 1 had no [`crate::Parameters`].)
pub const OLDEST_NODE_VERSION: u16 = 2;

/// The oldest version that it speaks with clients: their requests have not changed since.
pub const OLDEST_CLIENT_VERSION: u16 = 1;

/// What a node may send and store beyond what every program of its versions understands: each feature that others must
/// know counts it up by one, and none is used before all that meet it have said so. Told when a session opens.
pub const FEATURE_LEVEL: u32 = 1;

/// Bytes of a [`crate::Hello`], in every version of the protocol.
pub const HELLO_BYTES: usize = 128;

/// Bytes of the small buffer of a connection: holds a greeting, later the first bytes of a frame.
pub const SMALL_BYTES: usize = BODY_OFFSET;

/// Most other nodes.
pub const MAX_PEERS: usize = kontiki_core::limits::MAX_PEERS;

/// Connections that have not said who they are, at once. The oldest gives way to a newer one.
pub const MAX_GREETINGS: usize = 16;

/// Memory that a connection may hold before it said who it is, in bytes.
pub const MAX_GREETING_MEMORY_BYTES: usize = 4096;

/// Bytes before the body of a control message.
pub const CONTROL_HEADER_BYTES: usize = 32;

/// Longest control message, header included, in bytes: room for parameters that this version does not know.
pub const CONTROL_MAX_BYTES: usize = 1024;

/// Size of each control buffer, in bytes: one receives, two alternate in sending.
pub const CONTROL_BUFFER_BYTES: usize = 4096;

/// Most frames in one gathering send: each takes a piece for its stamp and one for its sealed part.
pub const FRAMES_PER_SEND: usize = MAX_PIECES / 2;

/// A gathering send takes no further frame once it holds this many bytes, so that memory comes back bit by bit.
pub const BYTES_PER_SEND: usize = 1 << 20;

/// Bytes of the stamps of one gathering send.
pub const STAMPS_BYTES: usize = FRAMES_PER_SEND * STAMP_BYTES;

/// Ring memory that a receive asks for when the stream has begun, in bytes, if the ring has it.
pub const RECEIVE_BYTES: usize = 256 << 10;

/// How soon to ask again when the ring has no room for a frame that is on its way, in nanoseconds.
pub const RING_RETRY_NS: u64 = 1_000_000;

/// How soon to accept again after an accept failed (out of descriptors), in nanoseconds.
pub const ACCEPT_RETRY_NS: u64 = 100_000_000;

/// Connection attempts per peer that were given up but have not ended yet; no more are begun beyond.
pub const MAX_ABANDONED_DIALS: usize = 4;

/// Handshakes of one peer that may be open at once: a stranger who greets in its name does not end the one that it is
/// in the middle of.
pub const MAX_HALVES: usize = 4;

/// Longest address of a node as text, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 64;

/// Connections per peer: one session live, one closing, one being set up, the abandoned, further handshakes, and those
/// for snapshots.
pub const CONNECTIONS_PER_PEER: usize = 6 + MAX_ABANDONED_DIALS + MAX_HALVES + SNAPSHOT_CONNECTIONS;

/// How far above the last one an incarnation may be that is remembered beyond its session. Nothing on the wire proves
/// who says it; a node counts one up with each start.
pub const MAX_INCARNATION_JUMP: u64 = 1 << 16;

/// Bytes of a chunk of a snapshot: what is asked for and sent as a whole.
pub const SNAPSHOT_CHUNK_BYTES: usize = 64 << 10;

/// Longest snapshot that is offered or taken, in bytes.
pub const MAX_SNAPSHOT_BYTES: u64 = 1 << 50;

/// Bytes of a record on a snapshot's connection.
pub const SNAPSHOT_RECORD_BYTES: usize = 96;

/// Parts of a snapshot that may be asked for and not have come, on one connection.
pub const MAX_WANTS: usize = 8;

/// Most chunks in one such part.
pub const MAX_WANT_CHUNKS: u32 = 16;

/// Chunks that wait to be sent on one connection, at most; as many again are under way.
pub const SERVE_CHUNKS: usize = 4;

/// Most chunks in one gathering send.
pub const CHUNKS_PER_SEND: usize = 4;

/// Chunks of snapshots being fetched that are in memory at once, at most: one comes in, the others are with the node.
pub const SNAPSHOT_BUFFERS: usize = 12;

/// Connections per peer that snapshots are pulled over: one each way, and one each way that is closing.
pub const SNAPSHOT_CONNECTIONS: usize = 4;

/// Events that may wait, besides one for each live session and client.
pub const EVENTS: usize = 512;

/// Bytes before the body of a client's request or response.
pub const CLIENT_HEADER_BYTES: usize = 32;

/// Bytes of the session prefix of a proposal.
pub const CLIENT_SESSION_BYTES: usize = 16;

/// Longest payload of a request that is read past and answered, where it is too long for this node: what the largest of
/// nodes takes. Whatever claims to be longer is no request.
pub const MAX_LONG_REQUEST_BYTES: usize = kontiki_frame::MAX_FRAME_BYTES;

/// Places kept for connections that ask for the node's status, when those of clients are taken or there are none. The
/// one that was quiet longest gives way to a newer one.
pub const STATUS_PLACES: usize = 4;

/// Connections of clients that may be wound down while their places are taken again.
pub const SPARE_CLIENTS: usize = 4 + STATUS_PLACES + PROGRAM_CONNECTIONS;

/// Connections of programs that take a copy of a snapshot: one, and one that is closing.
pub const PROGRAM_CONNECTIONS: usize = 2;

/// Size of the receive buffer of a place for the status, in bytes.
pub const STATUS_REQUEST_BYTES: usize = 512;

/// Kinds of refusals told apart for whoever asks who refuses whom. (A line of the log is another matter: see the log
/// gate.)
pub const MAX_REFUSED: usize = 16;

/// Clients at once, at most, whatever the options say.
pub const MAX_CLIENTS: usize = 4096;

const _: () = assert!(HELLO_BYTES <= SMALL_BYTES && SNAPSHOT_RECORD_BYTES <= SMALL_BYTES);
// A send of chunks: a record and a chunk each, and one more record; the records lie in the buffer of a send's stamps.
const _: () = assert!(2 * CHUNKS_PER_SEND < MAX_PIECES && (CHUNKS_PER_SEND + 1) * SNAPSHOT_RECORD_BYTES <= STAMPS_BYTES);
const _: () = assert!(MAX_WANTS * SNAPSHOT_RECORD_BYTES <= STAMPS_BYTES && SNAPSHOT_CHUNK_BYTES.is_multiple_of(kontiki_mem::BLOCK_BYTES));
const _: () = assert!(MAX_ADDRESS_BYTES <= kontiki_io::limits::MAX_HOST_BYTES && MAX_ADDRESS_BYTES <= u8::MAX as usize);
const _: () = assert!(1 <= OLDEST_CLIENT_VERSION && OLDEST_CLIENT_VERSION <= PROTOCOL_VERSION);
const _: () = assert!(1 <= OLDEST_NODE_VERSION && OLDEST_NODE_VERSION <= PROTOCOL_VERSION && PROTOCOL_VERSION <= u8::MAX as u16);
// A greeting comes in and is answered in one and the same buffer, and buffers take whole blocks.
const _: () = assert!(kontiki_mem::BLOCK_BYTES <= MAX_GREETING_MEMORY_BYTES && SMALL_BYTES <= kontiki_mem::BLOCK_BYTES);
const _: () = assert!(SMALL_BYTES.is_multiple_of(64) && CONTROL_BUFFER_BYTES.is_multiple_of(64));
const _: () = assert!(CONTROL_BUFFER_BYTES >= 2 * CONTROL_MAX_BYTES);
const _: () = assert!(RECEIVE_BYTES.is_multiple_of(kontiki_frame::BLOCK_BYTES));
const _: () = assert!(SMALL_BYTES <= kontiki_frame::BLOCK_BYTES, "a frame's start never reaches past its first block");
// Slots are named by 16 bits of a token.
const _: () =
    assert!(MAX_PEERS * CONNECTIONS_PER_PEER + 2 * MAX_GREETINGS + 2 * MAX_CLIENTS + STATUS_PLACES + SPARE_CLIENTS < u16::MAX as usize);
const _: () = assert!(STATUS_REQUEST_BYTES.is_multiple_of(64) && STATUS_REQUEST_BYTES >= CLIENT_HEADER_BYTES);

//! Every bound of the transport, in one place, related to each other at compile time.

use kontiki_frame::{BODY_OFFSET, STAMP_BYTES};
use kontiki_io::MAX_PIECES;

/// Version of the peer and client protocols; both sides of a connection must name the same.
pub const PROTOCOL_VERSION: u16 = 1;

/// Bytes of a [`crate::Hello`], in every version of the protocol.
pub const HELLO_BYTES: usize = 128;

/// Bytes of the small buffer of a connection: holds a greeting, later the first bytes of a frame.
pub const SMALL_BYTES: usize = BODY_OFFSET;

/// Most other nodes.
pub const MAX_PEERS: usize = 16;

/// Connections that have not said who they are, at once. The oldest gives way to a newer one.
pub const MAX_GREETINGS: usize = 16;

/// Memory that a connection may hold before it said who it is, in bytes.
pub const MAX_GREETING_MEMORY_BYTES: usize = 4096;

/// Bytes before the body of a control message.
pub const CONTROL_HEADER_BYTES: usize = 32;

/// Longest control message, header included, in bytes.
pub const CONTROL_MAX_BYTES: usize = 80;

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

/// Connections per peer: one session live, one closing, one being set up, and the abandoned.
pub const CONNECTIONS_PER_PEER: usize = 6 + MAX_ABANDONED_DIALS;

/// Events that may wait, besides one for each live session and client.
pub const EVENTS: usize = 512;

/// Bytes before the body of a client's request or response.
pub const CLIENT_HEADER_BYTES: usize = 32;

/// Bytes of the session prefix of a proposal.
pub const CLIENT_SESSION_BYTES: usize = 16;

/// Clients at once, at most, whatever the options say.
pub const MAX_CLIENTS: usize = 4096;

const _: () = assert!(HELLO_BYTES <= SMALL_BYTES);
// A greeting comes in and is answered in one and the same buffer, and buffers take whole blocks.
const _: () = assert!(kontiki_mem::BLOCK_BYTES <= MAX_GREETING_MEMORY_BYTES && SMALL_BYTES <= kontiki_mem::BLOCK_BYTES);
const _: () = assert!(SMALL_BYTES.is_multiple_of(64) && CONTROL_BUFFER_BYTES.is_multiple_of(64));
const _: () = assert!(CONTROL_BUFFER_BYTES >= 2 * CONTROL_MAX_BYTES);
const _: () = assert!(RECEIVE_BYTES.is_multiple_of(kontiki_frame::BLOCK_BYTES));
const _: () = assert!(SMALL_BYTES <= kontiki_frame::BLOCK_BYTES, "a frame's start never reaches past its first block");
// Slots are named by 16 bits of a token.
const _: () = assert!(MAX_PEERS * CONNECTIONS_PER_PEER + 2 * MAX_GREETINGS + 2 * MAX_CLIENTS < u16::MAX as usize);

//! What a node says to a request that it cannot serve: the codes of [`Response::Error`](crate::Response::Error), for
//! programs. The text beside them is for people.

/// The response is longer than `max_reply_bytes`.
pub const REPLY_TOO_LONG: u64 = 1;

/// The request is longer than `max_request_bytes`. Nothing was done.
pub const REQUEST_TOO_LONG: u64 = 2;

/// The node keeps no client sessions. Nothing was done.
pub const NO_SESSIONS: u64 = 3;

/// The node serves no clients (`max_clients` is 0). Nothing was done.
pub const NO_CLIENTS: u64 = 4;

/// The node's disk is full. Nothing was done; it takes writes again once there is space.
pub const DISK_FULL: u64 = 5;

/// The node's log is full. Nothing was done; it takes writes again once its state machine lets it forget.
pub const LOG_FULL: u64 = 6;

/// The node has too little of something else: descriptors, memory. Nothing was done; it takes writes again once there
/// is enough.
pub const SHORTAGE: u64 = 7;

/// The node answers no queries. Nothing was done.
pub const NO_QUERIES: u64 = 8;

/// The request is an administrative one, and comes from another machine. Nothing was done.
pub const NOT_ADMIN: u64 = 10;

/// The node writes no snapshots, or could not write one: the text says why.
pub const NO_SNAPSHOT: u64 = 11;

/// Applied, but the state machine's reply was longer than `reply_bytes`, and was not kept.
pub const REPLY_NOT_KEPT: u64 = 9;

//! Clients: what they say and are answered, on the node's side and on theirs.

pub mod client;
pub(crate) mod client_wire;
pub mod codes;
pub(crate) mod long_request;
pub(crate) mod serve;

//! wip
mod bulk_in;
mod bulk_out;
pub mod client;
mod client_wire;
mod conns;
mod control;
mod counters;
mod dial;
mod event;
mod hello;
mod inbox;
pub mod limits;
mod listen;
mod net;
mod options;
mod outbox;
mod peer;
mod random;
mod refusal;
mod serve;
mod session;
mod token;
mod wire;

pub use bulk_out::{BulkRoom, FrameStamp, Pinning};
pub use client_wire::{
    ClientWireError, Request, Response, decode_request, decode_response, encode_request, encode_response, request_bytes,
};
pub use control::{Control, ControlError, Payload as ControlPayload};
pub use counters::Counters;
pub use event::{ClientEvent, ClientId, DownReason, NetError, NetEvent, Payload};
pub use hello::{Channel, HandshakeRefusal, Hello, HelloError, HelloKind};
pub use net::Net;
pub use options::{Options, OptionsError};
pub use refusal::Refusal;
pub use serve::ERROR_REPLY_TOO_LONG;
pub use session::SendError;
pub use token::TOKEN_TAG;

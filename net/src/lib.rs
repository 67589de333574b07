//! Kontiki's transport: framed, checksummed, sessioned messages over raw TCP, between nodes and for clients.
//!
//! Sans-I/O: [`Net`] submits [`kontiki_io::Op`]s under tokens whose top byte is [`TOKEN_TAG`] and is fed their
//! completions; it has no thread, no clock and no socket of its own. (The [`client`] module, for programs at the other
//! end, has.)
//!
//! # A turn
//!
//! ```text
//! io.turn(until: net.deadline(), ...)    wait
//! net.on_completion(..)                  for each completion with our tag: digests what came in
//! net.poll_event()                       until None: frames, messages, sessions, clients, refusals
//! net.send_message / send_frame / respond / grant_bulk / cut
//! net.tick(now, io, ring)                once, last: submits every send and receive that is possible
//! ```
//!
//! Nothing waits for anything else: what finds no room is refused ([`SendError::Full`]), dropped and counted (control
//! messages, which the core repeats) or left in the socket (frames, requests). Memory is set aside in
//! [`Net::new`]; after that, moving messages, frames and requests allocates nothing. All bounds stand in [`limits`] and
//! [`Options`].
//!
//! # Sessions
//!
//! Two connections make a session with a peer: *control* for the core's messages, *bulk* for frames, so that bulk never
//! delays a heartbeat. One node dials both, one after the other:
//!
//! ```text
//! dialler                                listener
//!   control: Hello { session: new }    ->
//!                                      <-  Welcome { session, nonce: new }
//!   bulk:    Hello { session, nonce }  ->
//!                                      <-  Welcome { session, nonce }
//!   control: Parameters                ->  session up
//!   session up                         <-  Parameters
//! ```
//!
//! The session id is fresh from the dialler, the nonce from the listener: so neither side opens a session on a
//! recording of an older one. Every greeting names a range of versions, cluster, both nodes, incarnation and process; a
//! wrong one is answered with a typed [`HandshakeRefusal`]. The first record of each direction carries [`Parameters`]:
//! what its sender takes, and its pace. A complete handshake replaces the peer's older session: exactly one is live.
//!
//! Nothing on the wire proves who says it, so whoever reaches the port can say anything in a peer's name. Therefore a
//! session whose peer is alive keeps its place against every other process; handshakes do not end each other; and what
//! a session's greeting said counts for as long as the session, and for a moment after it. Within that an older
//! incarnation is refused, and a second process of the same one. See `docs/decisions/0017`.
//!
//! Every control message and every frame's stamp carries the session and a number that grows by one. Anything damaged,
//! doubled, missing or foreign is counted, reported, and ends the session; nothing of it reaches the node.
//! Each side says something at least every quarter of the idle timeout; whoever is silent for all of it loses
//! the session. Lost sessions are dialled again after a pause that doubles, with seeded jitter.
//!
//! # Who is there, and who dials
//!
//! The peers are those of an address book, at first [`Options::peers`], that may change while the node runs
//! ([`Net::set_peer`], [`Net::remove_peer`]). A peer's [`Address`] may be a name: it is looked up for every new connection,
//! by [`kontiki_io::Op::Resolve`], and all that is found is tried in turn. Whoever knows an address dials: of two nodes
//! the one with the lower id at once, the other one where there has been no session for an idle timeout. Of two
//! connections that are made at the same time the lower id's stays, and its node alone decides. See
//! `docs/decisions/0034`.
//!
//! # Frames
//!
//! A frame is sent from where it lies: a 64-byte wire stamp from a small buffer, then the sealed part of the block,
//! many frames in one gathering send. It is received where its receiver's log will write it from: in the ring.
//! [`Net::grant_bulk`] names the one peer whose frames are taken; those of others stay in their sockets.
//!
//! A granted connection that is between two frames holds no ring memory: it waits with a receive of 192 bytes, stamp
//! and header, into a buffer of its own. They are checked (magic, cluster, group, length, stamp, session, number)
//! before ring memory is reserved and the body awaited; then the body, and what follows it, is received in place.
//! Therefore:
//!
//! - a node that becomes leader finds the ring's tail free, and leadership that changes between two frames closes no
//!   session: the small receive stays posted, and what it catches is kept for the next grant;
//! - a frame that is half received when the grant moves costs its session ([`DownReason::Revoked`]): a stream cannot be
//!   taken up in the middle of a frame whose first half was dropped, and what a deposed leader sends is worthless. Its
//!   ring memory is free with the receive's last completion; blocks can be reserved behind it at once;
//! - without room in the ring nothing is received, and the sender is held back by TCP.
//!
//! # Snapshots
//!
//! A peer that the log cannot serve is offered a snapshot over the control channel ([`Net::offer_snapshot`]) and pulls it
//! over a connection of its own, which it opens when it wants something ([`Net::want_snapshot`]). The source is told what
//! is wanted ([`NetEvent::SnapshotWanted`]) and sends it chunk by chunk ([`Net::send_chunk`]). See the `snapshots` module's
//! source for the protocol.
//!
//! # Clients
//!
//! A few places are kept for whoever asks for the node's status; with `max_clients` 0 there are no others.
//! Programs connect to the same listener with a greeting of their own and send [`Request`]s; see [`ClientEvent`],
//! [`Net::payload`] and [`Net::respond`] on the node's side, [`client::Client`] on theirs.

mod address;
mod book;
mod clients;
mod conns;
mod counters;
mod event;
mod handshake;
pub mod limits;
mod log_gate;
mod net;
mod options;
mod random;
mod session;
mod snapshots;
mod token;
mod wire;

pub use address::{Address, AddressError};
pub use book::BookError;
pub use clients::client_wire::{
    ClientWireError, Request, Response, WrittenSnapshot, decode_request, decode_response, encode_request, encode_response, request_bytes,
};
pub use clients::serve::STATUS_ALONE;
pub use clients::{client, codes};
pub use counters::Counters;
pub use event::{ClientEvent, ClientId, DownReason, NetError, NetEvent, Payload};
pub use handshake::hello::{Channel, HandshakeRefusal, Hello, HelloError, HelloKind};
pub use handshake::reach::Unreached;
pub use handshake::refusal::Refusal;
pub use handshake::refused::Refused;
pub use handshake::versions::Versions;
pub use net::Net;
pub use options::{Options, OptionsError};
pub use session::SendError;
pub use session::bulk_out::{BulkRoom, FrameStamp, Pinning};
pub use session::control::{Control, ControlError, Payload as ControlPayload};
pub use session::parameters::Parameters;
pub use snapshots::offer::{SnapshotId, SnapshotOffer};
pub use snapshots::record::{SnapshotRecord, SnapshotRefusal, SnapshotSays, SnapshotWant, SnapshotWireError};
pub use snapshots::serve::{Pull, Puller};
pub use token::TOKEN_TAG;

//! A blocking client for programs: one connection to one node, over std's sockets.
//!
//! [`Client::propose`], [`Client::query`] and [`Client::status`] ask and wait; [`Client::send`] (or
//! [`Client::queue`] and [`Client::flush`]) and [`Client::receive`] keep many requests under way.
//!
//! [`SnapshotClient`] takes a copy of a node's snapshot.

// The engine reaches sockets through `Io` alone. This module is no part of it: it is for the programs at the other end.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod snapshots;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use kontiki_core::{ClusterId, Incarnation, NodeId};

pub use self::snapshots::SnapshotClient;
use self::stream::Stream;
use crate::address::Address;
use crate::clients::client_wire::{
    ClientWireError, Request, Response, WrittenSnapshot, decode_response, encode_request, message_bytes, request_bytes,
};
use crate::handshake::hello::{HandshakeRefusal, Hello, HelloError};
use crate::snapshots::record::{SnapshotRefusal, SnapshotWireError};

/// How a client connects.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The cluster that must answer; `None` takes any.
    pub cluster: Option<ClusterId>,
    /// The node that must answer; `None` takes any.
    pub node: Option<NodeId>,
    /// Longest wait for the connection and for each answer.
    pub timeout: Duration,
    /// Longest answer taken, in bytes.
    pub max_reply_bytes: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions { cluster: None, node: None, timeout: Duration::from_secs(5), max_reply_bytes: 16 << 20 }
    }
}

/// Why a request has no result. What is known about a proposal differs: see each.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed. A proposal under way may or may not be applied.
    #[error("connection to {addr} failed: {source}")]
    Io {
        /// The node's address.
        addr: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// No answer in time. A proposal may still be applied; a later call ignores its answer.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The node turned the connection down.
    #[error("the node refused: {0}")]
    Refused(HandshakeRefusal),
    /// What answers is no node, or of another version.
    #[error("bad greeting: {0}")]
    Greeting(HelloError),
    /// A damaged or impossible answer. The connection is of no more use.
    #[error("bad answer: {0}")]
    Wire(ClientWireError),
    /// An answer of the wrong kind. The connection is of no more use.
    #[error("an answer that fits no request")]
    Unexpected,
    /// The request is longer than a message can be.
    #[error("a request of {bytes} bytes cannot be sent")]
    TooLong {
        /// Its size, in bytes.
        bytes: usize,
    },
    /// Another node leads. Nothing was applied.
    #[error("not the leader{}", leader_text(.leader, .address))]
    NotLeader {
        /// Which node leads, if known.
        leader: Option<NodeId>,
        /// Where it listens, if known.
        address: Option<Address>,
    },
    /// Definitely not applied, and never will be: safe to send again.
    #[error("not applied: safe to send again")]
    NotApplied,
    /// The node lost track of it: it may or may not be applied.
    #[error("outcome unknown: it may or may not be applied")]
    Unknown,
    /// The node is at a bound; nothing was done.
    #[error("busy: try again later")]
    Busy,
    /// The node has no such snapshot, or none.
    #[error("no snapshot: {0}")]
    NoSnapshot(SnapshotRefusal),
    /// A damaged or impossible word on a snapshot's connection, which is of no more use.
    #[error("bad answer: {0}")]
    SnapshotWire(SnapshotWireError),
    /// The node's own words.
    #[error("the node says: {text} (code {code})")]
    Remote {
        /// A number for programs.
        code: u64,
        /// A sentence for people.
        text: String,
    },
}

fn leader_text(leader: &Option<NodeId>, address: &Option<Address>) -> String {
    match (leader, address) {
        (Some(leader), Some(address)) => format!(": node {leader} at {address} leads"),
        (Some(leader), None) => format!(": node {leader} leads"),
        _ => ", and no leader is known".into(),
    }
}

/// A proposal's success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where it stands in the log.
    pub index: u64,
    /// The state machine's reply: a part of the receive buffer, not a copy.
    pub reply: Bytes,
}

/// A connection to one node.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    options: ClientOptions,
    node: NodeId,
    incarnation: Incarnation,
    next_request: u64,
    out: Vec<u8>,
}

impl Client {
    /// Connects and greets.
    ///
    /// # Errors
    /// If nobody listens, the other side is no node of this protocol, or it refuses.
    pub fn connect(addr: SocketAddr, options: ClientOptions) -> Result<Client, ClientError> {
        let hello = Hello::of_client(options.cluster.unwrap_or_default(), options.node.unwrap_or_default());
        let (stream, welcome) = Stream::connect(addr, &hello, options.timeout)?;
        let (node, incarnation) = (welcome.from, welcome.incarnation);
        Ok(Client { stream, node, incarnation, next_request: 1, out: Vec::new(), options })
    }

    /// The node that answered.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// How often that node has started.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.stream.addr()
    }

    /// Changes how long each answer is waited for.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.options.timeout = timeout;
        self.stream.set_timeout(timeout);
    }

    /// Proposes and waits until it is applied. The protocol carries a `session` (its id, and a number that grows by one
    /// with each new proposal) for retries that are applied once; a node that keeps no sessions refuses such a
    /// request.
    ///
    /// # Errors
    /// Each says whether it may be applied nevertheless.
    pub fn propose(&mut self, payload: &[u8], session: Option<(u64, u64)>) -> Result<Applied, ClientError> {
        self.ask(&Request::Propose { session, payload }, |response, message| match response {
            Response::Applied { index, reply } => Some(Applied { index: *index, reply: message.slice_ref(reply) }),
            _ => None,
        })
    }

    /// Asks the state machine.
    ///
    /// # Errors
    /// If there is no answer, or the node has other words for us.
    pub fn query(&mut self, payload: &[u8]) -> Result<Bytes, ClientError> {
        self.ask(&Request::Query { payload }, |response, message| match response {
            Response::Reply(reply) => Some(message.slice_ref(reply)),
            _ => None,
        })
    }

    /// Asks how the node is.
    ///
    /// # Errors
    /// If there is no answer, or the node has other words for us.
    pub fn status(&mut self) -> Result<Bytes, ClientError> {
        self.ask(&Request::Status, |response, message| match response {
            Response::Status(status) => Some(message.slice_ref(status)),
            _ => None,
        })
    }

    /// Has a snapshot written now, of what the node has applied by the time it hears of it; tells of it once it is durable.
    /// Nodes take this from their own machine alone, unless they are told otherwise. It takes as long as it takes: see
    /// [`Client::set_timeout`]. Whoever does not wait for it gets it all the same.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use kontiki_net::client::{Client, ClientOptions};
    ///
    /// let mut client = Client::connect(([127, 0, 0, 1], 7000).into(), ClientOptions::default())?;
    /// client.set_timeout(Duration::from_secs(600));
    /// let snapshot = client.snapshot()?;
    /// println!("as of entry {}: {} bytes", snapshot.index, snapshot.bytes);
    /// # Ok::<(), kontiki_net::client::ClientError>(())
    /// ```
    ///
    /// # Errors
    /// If there is no answer, or the node has other words for us: [`codes::NOT_ADMIN`](crate::codes::NOT_ADMIN),
    /// [`codes::NO_SNAPSHOT`](crate::codes::NO_SNAPSHOT).
    pub fn snapshot(&mut self) -> Result<WrittenSnapshot, ClientError> {
        self.ask(&Request::Snapshot, |response, _| match response {
            Response::Snapshot(snapshot) => Some(*snapshot),
            _ => None,
        })
    }

    fn ask<T>(&mut self, request: &Request<'_>, take: impl Fn(&Response<'_>, &Bytes) -> Option<T>) -> Result<T, ClientError> {
        let number = self.send(request)?;
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let length = self.wait_message(deadline)?;
            let message = self.stream.inbox.split_to(length).freeze();
            let decoded = decode_response(&message, self.options.max_reply_bytes).map_err(ClientError::Wire)?;
            let Some((answered, response, _)) = decoded else { return Err(ClientError::Unexpected) };
            let result = judge(&response, |response| take(response, &message));
            // Answers to requests that were given up are passed over.
            if answered == number {
                return result;
            }
        }
    }

    /// Sends a request without waiting; returns its number.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn send(&mut self, request: &Request<'_>) -> Result<u64, ClientError> {
        let number = self.queue(request)?;
        self.flush()?;
        Ok(number)
    }

    /// Puts a request behind those that [`Client::flush`] will send, all with one write; returns its number.
    ///
    /// # Errors
    /// If it is longer than a message can be.
    pub fn queue(&mut self, request: &Request<'_>) -> Result<u64, ClientError> {
        let number = self.next_request;
        let (start, bytes) = (self.out.len(), request_bytes(request));
        self.out.resize(start + bytes, 0);
        if self.out.get_mut(start..).and_then(|out| encode_request(number, request, out)).is_none() {
            self.out.truncate(start);
            return Err(ClientError::TooLong { bytes });
        }
        self.next_request += 1;
        Ok(number)
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// If it cannot be sent. Part of it may have been.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        let mut out = std::mem::take(&mut self.out);
        let result = if out.is_empty() { Ok(()) } else { self.stream.write(&out, Instant::now() + self.options.timeout) };
        out.clear();
        self.out = out;
        result
    }

    /// Waits for the next answer, whichever request it is to, and hands it to `look`.
    ///
    /// # Errors
    /// If none comes in time, or the connection fails.
    pub fn receive<T>(&mut self, look: impl FnOnce(u64, &Response<'_>) -> T) -> Result<T, ClientError> {
        self.receive_until(Instant::now() + self.options.timeout, look)
    }

    fn receive_until<T>(&mut self, deadline: Instant, look: impl FnOnce(u64, &Response<'_>) -> T) -> Result<T, ClientError> {
        let length = self.wait_message(deadline)?;
        let decoded = decode_response(&self.stream.inbox, self.options.max_reply_bytes).map_err(ClientError::Wire)?;
        let Some((number, response, _)) = decoded else { return Err(ClientError::Unexpected) };
        let seen = look(number, &response);
        self.stream.inbox.advance(length);
        Ok(seen)
    }

    /// Waits until a whole answer stands at the start of the inbox: its length.
    fn wait_message(&mut self, deadline: Instant) -> Result<usize, ClientError> {
        loop {
            let length = message_bytes(&self.stream.inbox, self.options.max_reply_bytes).map_err(ClientError::Wire)?;
            match length {
                Some(length) if self.stream.inbox.len() >= length => return Ok(length),
                length => self.stream.fill(length.unwrap_or(0), deadline)?,
            }
        }
    }
}

fn judge<T>(response: &Response<'_>, take: impl Fn(&Response<'_>) -> Option<T>) -> Result<T, ClientError> {
    if let Some(taken) = take(response) {
        return Ok(taken);
    }
    Err(match *response {
        Response::NotApplied => ClientError::NotApplied,
        Response::Unknown => ClientError::Unknown,
        Response::NotLeader { leader, address } => ClientError::NotLeader { leader, address },
        Response::Busy => ClientError::Busy,
        Response::Error { code, text } => ClientError::Remote { code, text: text.into() },
        Response::Applied { .. } | Response::Status(_) | Response::Reply(_) | Response::Snapshot(_) => ClientError::Unexpected,
    })
}

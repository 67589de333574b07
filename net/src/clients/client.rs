//! A blocking client for programs: one connection to one node, over std's sockets.
//!
//! [`Client::propose`], [`Client::query`] and [`Client::status`] ask and wait; [`Client::send`] (or
//! [`Client::queue`] and [`Client::flush`]) and [`Client::receive`] keep many requests under way.

// The engine reaches sockets through `Io` alone. This module is no part of it: it is for the programs at the other end.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use kontiki_core::{ClusterId, Incarnation, NodeId};

use crate::address::Address;
use crate::clients::client_wire::{ClientWireError, Request, Response, decode_response, encode_request, message_bytes, request_bytes};
use crate::handshake::hello::{HandshakeRefusal, Hello, HelloError, HelloKind};
use crate::limits::HELLO_BYTES;

/// Room for answers to begin with; a longer one gets as much as it needs, in bytes.
const RECEIVE_BYTES: usize = 64 << 10;

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
    stream: TcpStream,
    addr: SocketAddr,
    options: ClientOptions,
    node: NodeId,
    incarnation: Incarnation,
    next_request: u64,
    out: Vec<u8>,
    /// Received and not taken.
    inbox: BytesMut,
}

impl Client {
    /// Connects and greets.
    ///
    /// # Errors
    /// If nobody listens, the other side is no node of this protocol, or it refuses.
    pub fn connect(addr: SocketAddr, options: ClientOptions) -> Result<Client, ClientError> {
        let deadline = Instant::now() + options.timeout;
        let failed = |source| io_error(addr, options.timeout, source);
        let stream = TcpStream::connect_timeout(&addr, options.timeout).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut client = Client {
            stream,
            addr,
            node: NodeId(0),
            incarnation: Incarnation(0),
            next_request: 1,
            out: Vec::new(),
            inbox: BytesMut::with_capacity(RECEIVE_BYTES),
            options,
        };
        client.handshake(deadline)?;
        Ok(client)
    }

    fn handshake(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let hello = Hello::of_client(self.options.cluster.unwrap_or_default(), self.options.node.unwrap_or_default());
        let mut bytes = [0; HELLO_BYTES];
        hello.encode(&mut bytes);
        self.write(&bytes, deadline)?;
        while self.inbox.len() < HELLO_BYTES {
            self.fill(HELLO_BYTES, deadline)?;
        }
        let welcome = match self.inbox.first_chunk::<HELLO_BYTES>().map(Hello::decode) {
            Some(Ok(welcome)) => welcome,
            Some(Err(HelloError::Version { ours, theirs })) => {
                return Err(ClientError::Refused(HandshakeRefusal::Version { ours, theirs }));
            }
            Some(Err(error)) => return Err(ClientError::Greeting(error)),
            None => return Err(ClientError::Unexpected),
        };
        self.inbox.advance(HELLO_BYTES);
        if welcome.kind != HelloKind::Welcome {
            return Err(ClientError::Unexpected);
        }
        if let Some(refusal) = HandshakeRefusal::from_wire(welcome.code, welcome.detail) {
            return Err(ClientError::Refused(refusal));
        }
        (self.node, self.incarnation) = (welcome.from, welcome.incarnation);
        Ok(())
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
        self.addr
    }

    /// Changes how long each answer is waited for.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.options.timeout = timeout;
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

    /// Has a snapshot written now; the last entry whose effects it holds. Nodes take this from their own machine alone,
    /// unless they are told otherwise. It takes as long as it takes: see [`Client::set_timeout`].
    ///
    /// # Errors
    /// If there is no answer, or the node has other words for us: [`codes::NOT_ADMIN`](crate::codes::NOT_ADMIN),
    /// [`codes::NO_SNAPSHOT`](crate::codes::NO_SNAPSHOT).
    pub fn snapshot(&mut self) -> Result<u64, ClientError> {
        self.ask(&Request::Snapshot, |response, _| match response {
            Response::Snapshot { index } => Some(*index),
            _ => None,
        })
    }

    fn ask<T>(&mut self, request: &Request<'_>, take: impl Fn(&Response<'_>, &Bytes) -> Option<T>) -> Result<T, ClientError> {
        let number = self.send(request)?;
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let length = self.wait_message(deadline)?;
            let message = self.inbox.split_to(length).freeze();
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
        let result = if out.is_empty() { Ok(()) } else { self.write(&out, Instant::now() + self.options.timeout) };
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
        let decoded = decode_response(&self.inbox, self.options.max_reply_bytes).map_err(ClientError::Wire)?;
        let Some((number, response, _)) = decoded else { return Err(ClientError::Unexpected) };
        let seen = look(number, &response);
        self.inbox.advance(length);
        Ok(seen)
    }

    /// Waits until a whole answer stands at the start of the inbox: its length.
    fn wait_message(&mut self, deadline: Instant) -> Result<usize, ClientError> {
        loop {
            let length = message_bytes(&self.inbox, self.options.max_reply_bytes).map_err(ClientError::Wire)?;
            match length {
                Some(length) if self.inbox.len() >= length => return Ok(length),
                length => self.fill(length.unwrap_or(0), deadline)?,
            }
        }
    }

    /// Reads some more; makes room for a message of `want` bytes first.
    fn fill(&mut self, want: usize, deadline: Instant) -> Result<(), ClientError> {
        let left = self.left(deadline)?;
        self.stream.set_read_timeout(Some(left)).map_err(|error| self.failed(error))?;
        let held = self.inbox.len();
        self.inbox.resize(held.max(want).max(held + RECEIVE_BYTES / 4), 0);
        let received = self.stream.read(&mut self.inbox[held..]);
        self.inbox.truncate(held + received.as_ref().map_or(0, |bytes| *bytes));
        match received {
            Ok(0) => Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), ClientError> {
        let left = self.left(deadline)?;
        self.stream.set_write_timeout(Some(left)).map_err(|error| self.failed(error))?;
        self.stream.write_all(bytes).map_err(|error| {
            // Half a request may be out: nothing can follow it.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
            self.failed(error)
        })
    }

    fn left(&self, deadline: Instant) -> Result<Duration, ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ClientError::Timeout(self.options.timeout)) } else { Ok(left) }
    }

    fn failed(&self, source: io::Error) -> ClientError {
        io_error(self.addr, self.options.timeout, source)
    }
}

fn io_error(addr: SocketAddr, timeout: Duration, source: io::Error) -> ClientError {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout(timeout),
        _ => ClientError::Io { addr, source },
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
        Response::Applied { .. } | Response::Status(_) | Response::Reply(_) | Response::Snapshot { .. } => ClientError::Unexpected,
    })
}

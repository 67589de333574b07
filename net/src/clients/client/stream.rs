//! A blocking connection to a node, greeted: what every client of a program has.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use super::ClientError;
use crate::handshake::hello::{HandshakeRefusal, Hello, HelloError, HelloKind};
use crate::limits::HELLO_BYTES;

/// Room for answers to begin with; a longer one gets as much as it needs, in bytes.
const RECEIVE_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Stream {
    stream: TcpStream,
    addr: SocketAddr,
    timeout: Duration,
    /// Received and not taken.
    pub(super) inbox: BytesMut,
}

impl Stream {
    /// Connects and greets; with the node's welcome.
    ///
    /// # Errors
    /// If nobody listens, the other side is no node of this protocol, or it refuses.
    pub(super) fn connect(addr: SocketAddr, hello: &Hello, timeout: Duration) -> Result<(Stream, Hello), ClientError> {
        let deadline = Instant::now() + timeout;
        let failed = |source| io_error(addr, timeout, source);
        let stream = TcpStream::connect_timeout(&addr, timeout).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut stream = Stream { stream, addr, timeout, inbox: BytesMut::with_capacity(RECEIVE_BYTES) };
        let welcome = stream.greet(hello, deadline)?;
        Ok((stream, welcome))
    }

    fn greet(&mut self, hello: &Hello, deadline: Instant) -> Result<Hello, ClientError> {
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
        match HandshakeRefusal::from_wire(welcome.code, welcome.detail) {
            Some(refusal) => Err(ClientError::Refused(refusal)),
            None => Ok(welcome),
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What errors say was waited for.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Reads some more; makes room for a message of `want` bytes first.
    pub(super) fn fill(&mut self, want: usize, deadline: Instant) -> Result<(), ClientError> {
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

    pub(super) fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), ClientError> {
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
        if left.is_zero() { Err(ClientError::Timeout(self.timeout)) } else { Ok(left) }
    }

    fn failed(&self, source: io::Error) -> ClientError {
        io_error(self.addr, self.timeout, source)
    }
}

fn io_error(addr: SocketAddr, timeout: Duration, source: io::Error) -> ClientError {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout(timeout),
        _ => ClientError::Io { addr, source },
    }
}

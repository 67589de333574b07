//! Operations on listeners and connections: starting and ending them, as processes see it.

use std::net::SocketAddr;

use kontiki_io::limits::MAX_ADDRESSES;
use kontiki_io::{Handle, HostName, IoErrorKind, Op, Output};

use crate::limits;
use crate::network::{Attempt, Connection, Listener, Pipe, Side, host_ip};
use crate::world::host::{Pending, Resource};
use crate::world::{Happening, World};

type Ended = Result<Output, IoErrorKind>;

impl World {
    pub(crate) fn start_socket(&mut self, host: usize, operation: u64) {
        let Some(pending) = self.hosts[host].process.operations.get(&operation) else { return };
        match &pending.op {
            Op::Connect { addr } => {
                let addr = *addr;
                self.start_connect(host, operation, addr);
            }
            Op::Resolve { .. } => {
                let after_ns = self.conditions.network.lookup.draw(&mut self.network.random);
                self.end_after(host, operation, after_ns);
            }
            Op::Accept { listener } => {
                if let Resource::Listener(id) = *self.hosts[host].process.resource(*listener)
                    && let Some(listener) = self.network.listeners.get_mut(&id)
                {
                    if listener.shut {
                        self.end_soon(host, operation);
                    } else {
                        listener.accepts.push_back(operation);
                        self.match_accepts(id);
                    }
                }
            }
            Op::Recv { socket, .. } => {
                let (connection, side) = self.socket(host, *socket);
                if let Some(found) = self.network.connections.get_mut(&connection) {
                    found.sides[side].recv = Some(operation);
                }
                self.serve_recv(connection, side);
            }
            Op::Send { socket, .. } => {
                let (connection, side) = self.socket(host, *socket);
                if let Some(found) = self.network.connections.get_mut(&connection) {
                    found.sides[side].send = Some(operation);
                }
                self.serve_send(connection, side);
            }
            _ => self.end_soon(host, operation),
        }
    }

    fn socket(&self, host: usize, handle: Handle) -> (u64, usize) {
        match self.hosts[host].process.resource(handle) {
            Resource::Socket { connection, side } => (*connection, *side),
            other => unreachable!("handle {} is {other:?}; its kind was checked as it was submitted", handle.0),
        }
    }

    fn start_connect(&mut self, host: usize, operation: u64, address: SocketAddr) {
        let to = self.network.host_of(host, address.ip());
        let boot = self.hosts[host].boot;
        let deadline_ns = self.now_ns + self.conditions.network.connect_timeout_ns;
        let attempt = Attempt { host, boot, to, address, deadline_ns, made: None };
        self.network.attempts.insert(operation, attempt);
        match to {
            Some(to) => {
                let after_ns = self.latency_ns(host, to);
                self.schedule(after_ns, Happening::Knock { attempt: operation });
            }
            None => self.end_soon(host, operation),
        }
    }

    /// A connection attempt reaches the other host, or fails to.
    pub(crate) fn knock(&mut self, operation: u64) {
        let Some(attempt) = self.network.attempts.get(&operation) else { return };
        let (host, boot, address, deadline_ns) = (attempt.host, attempt.boot, attempt.address, attempt.deadline_ns);
        let Some(to) = attempt.to else { return };
        let listener = self.network.listener_on(to, address.port());
        let listener = listener.filter(|id| self.network.listeners.get(id).is_some_and(|listener| !listener.shut));
        let crowded =
            listener.is_some_and(|id| self.network.listeners.get(&id).is_some_and(|listener| listener.backlog.len() >= limits::BACKLOG));
        let reachable = self.hosts[to].powered && !self.blocked(host, to) && !self.blocked(to, host);
        if !reachable || crowded {
            if self.now_ns >= deadline_ns {
                self.end_soon(host, operation);
            } else {
                let after_ns = self.conditions.network.connect_retry.draw(&mut self.network.random);
                self.schedule(after_ns, Happening::Knock { attempt: operation });
            }
            return;
        }
        if let Some(id) = listener {
            let own_ip = if address.ip().is_loopback() { address.ip() } else { host_ip(host) };
            let from = SocketAddr::new(own_ip, self.network.free_port(host));
            let sides = [Side::new(host, boot, from), Side::new(to, self.hosts[to].boot, address)];
            let connection = self.network.next_id();
            self.network.connections.insert(connection, Connection { sides, pipes: [Pipe::default(), Pipe::default()] });
            if let Some(attempt) = self.network.attempts.get_mut(&operation) {
                attempt.made = Some(connection);
            }
            if let Some(listener) = self.network.listeners.get_mut(&id) {
                listener.backlog.push_back(connection);
            }
            self.record(to, "knock", connection, host as u64, 0);
            self.match_accepts(id);
        }
        let after_ns = self.latency_ns(to, host);
        self.end_after(host, operation, after_ns);
    }

    /// Gives waiting connections to waiting accepts.
    fn match_accepts(&mut self, id: u64) {
        while let Some(listener) = self.network.listeners.get_mut(&id) {
            if listener.backlog.is_empty() || listener.accepts.is_empty() {
                return;
            }
            let (Some(connection), Some(operation)) = (listener.backlog.pop_front(), listener.accepts.pop_front()) else {
                return;
            };
            listener.matched.insert(operation, connection);
            let host = listener.host;
            self.end_soon(host, operation);
        }
    }

    pub(crate) fn end_socket(&mut self, host: usize, operation: u64, mut pending: Pending, injected: Option<IoErrorKind>) {
        let result = match &mut pending.op {
            Op::Listen { addr } => self.listen(host, *addr, injected),
            Op::Resolve { host, port } => self.resolve(host, *port, injected),
            Op::Connect { .. } => self.end_connect(host, operation, injected),
            Op::Accept { listener } => self.end_accept(host, operation, *listener, injected),
            Op::Shutdown { socket } => self.shut_down(host, *socket),
            Op::Close { handle } => self.close(host, *handle),
            Op::Recv { socket, buf, at, len } => {
                let (connection, side) = self.socket(host, *socket);
                let into = &mut buf.bytes_mut()[*at..*at + *len];
                self.end_recv(connection, side, into, injected)
            }
            Op::Send { socket, gather } => {
                let (connection, side) = self.socket(host, *socket);
                let whole = pending.sent == gather.len();
                self.end_send(connection, side, whole, injected)
            }
            other => unreachable!("{other:?} is no operation on a socket"),
        };
        self.finish(host, pending, result);
    }

    fn listen(&mut self, host: usize, asked: SocketAddr, injected: Option<IoErrorKind>) -> Ended {
        if let Some(kind) = injected {
            return Err(kind);
        }
        if self.network.host_of(host, asked.ip()) != Some(host) {
            return Err(IoErrorKind::Device);
        }
        let port = if asked.port() == 0 { self.network.free_port(host) } else { asked.port() };
        if self.network.listener_on(host, port).is_some() {
            return Err(IoErrorKind::AddressInUse);
        }
        let id = self.network.next_id();
        let address = SocketAddr::new(asked.ip(), port);
        let listener =
            Listener { host, address, shut: false, backlog: Default::default(), accepts: Default::default(), matched: Default::default() };
        self.network.listeners.insert(id, listener);
        let handle = self.hosts[host].process.add_handle(Resource::Listener(id));
        Ok(Output::Listening(handle, address))
    }

    fn resolve(&self, name: &HostName, port: u16, injected: Option<IoErrorKind>) -> Ended {
        if let Some(kind) = injected {
            return Err(kind);
        }
        let own = name.address();
        let found = own.as_ref().map(std::slice::from_ref).or_else(|| self.network.names.get(name).map(Vec::as_slice));
        let addresses = found.unwrap_or(&[]).iter().take(MAX_ADDRESSES).map(|&ip| SocketAddr::new(ip, port));
        let addresses: Vec<SocketAddr> = addresses.collect();
        if addresses.is_empty() { Err(IoErrorKind::NotFound) } else { Ok(Output::Addresses(addresses)) }
    }

    fn end_connect(&mut self, host: usize, operation: u64, injected: Option<IoErrorKind>) -> Ended {
        let made = self.network.attempts.remove(&operation).and_then(|attempt| attempt.made);
        let Some(connection) = made else { return Err(injected.unwrap_or(IoErrorKind::Refused)) };
        let broken = self.network.connections.get(&connection).is_none_or(|found| found.sides[0].broken);
        if let Some(kind) = injected.or(broken.then_some(IoErrorKind::Disconnected)) {
            self.close_side(connection, 0, true);
            return Err(kind);
        }
        let handle = self.hosts[host].process.add_handle(Resource::Socket { connection, side: 0 });
        Ok(Output::Opened(handle))
    }

    fn end_accept(&mut self, host: usize, operation: u64, listener: Handle, injected: Option<IoErrorKind>) -> Ended {
        let Resource::Listener(id) = *self.hosts[host].process.resource(listener) else {
            return Err(IoErrorKind::Canceled);
        };
        let Some(listener) = self.network.listeners.get_mut(&id) else { return Err(IoErrorKind::Canceled) };
        listener.accepts.retain(|&other| other != operation);
        let Some(connection) = listener.matched.remove(&operation) else {
            return Err(injected.unwrap_or(IoErrorKind::Canceled));
        };
        match injected {
            // Without a descriptor the kernel does not take it out of the queue.
            Some(IoErrorKind::Shortage) => {
                listener.backlog.push_front(connection);
                return Err(IoErrorKind::Shortage);
            }
            Some(kind) => {
                self.close_side(connection, 1, true);
                return Err(kind);
            }
            None => {}
        }
        let peer = self.network.connections.get(&connection).map(|found| found.sides[0].address);
        let peer = peer.unwrap_or(SocketAddr::new(host_ip(host), 0));
        let handle = self.hosts[host].process.add_handle(Resource::Socket { connection, side: 1 });
        Ok(Output::Accepted(handle, peer))
    }

    fn shut_down(&mut self, host: usize, handle: Handle) -> Ended {
        match *self.hosts[host].process.resource(handle) {
            Resource::Socket { connection, side } => self.shut_side(connection, side),
            Resource::Listener(id) => {
                if let Some(listener) = self.network.listeners.get_mut(&id) {
                    listener.shut = true;
                    for operation in std::mem::take(&mut listener.accepts) {
                        self.end_soon(host, operation);
                    }
                }
            }
            _ => {}
        }
        Ok(Output::Done)
    }

    fn close(&mut self, host: usize, handle: Handle) -> Ended {
        let process = &mut self.hosts[host].process;
        let Some(entry) = process.handles.remove(&handle.0) else { return Ok(Output::Done) };
        match entry.resource {
            Resource::Lock(path, name) => process.locks.retain(|lock| *lock != (path.clone(), name.clone())),
            Resource::Socket { connection, side } => self.close_side(connection, side, false),
            Resource::Listener(id) => self.close_listener(id),
            Resource::Directory(_) | Resource::File(_) => {}
        }
        Ok(Output::Done)
    }

    pub(crate) fn close_listener(&mut self, id: u64) {
        let Some(listener) = self.network.listeners.remove(&id) else { return };
        for connection in listener.backlog.into_iter().chain(listener.matched.into_values()) {
            self.close_side(connection, 1, true);
        }
    }
}

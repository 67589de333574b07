//! Listeners and byte streams between hosts: each takes whatever is sent, and keeps it until it is received.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// Who has sockets: the node under test, its peers, and clients.
pub(super) type Host = u64;

/// Where a host listens, and where it dials from.
pub(super) fn addr(host: Host) -> SocketAddr {
    SocketAddr::from(([10, 0, (host >> 8) as u8, host as u8], 7000))
}

fn host(addr: SocketAddr) -> Host {
    match addr.ip() {
        std::net::IpAddr::V4(ip) => u64::from(ip.octets()[2]) << 8 | u64::from(ip.octets()[3]),
        std::net::IpAddr::V6(_) => 0,
    }
}

#[derive(Debug, Default)]
struct Pipe {
    data: VecDeque<u8>,
    closed: bool,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Socket {
    pub(super) owner: Host,
    pub(super) remote: Host,
    rx: usize,
    tx: usize,
}

#[derive(Debug, Default)]
pub(super) struct Wire {
    /// By host: what was dialled and is not accepted yet.
    listeners: BTreeMap<Host, VecDeque<Socket>>,
    pipes: Vec<Pipe>,
}

impl Wire {
    /// False if somebody listens there.
    pub(super) fn listen(&mut self, host: Host) -> bool {
        let free = !self.listeners.contains_key(&host);
        self.listeners.entry(host).or_default();
        free
    }

    pub(super) fn unlisten(&mut self, host: Host) {
        for socket in self.listeners.remove(&host).unwrap_or_default() {
            self.shut(socket);
        }
    }

    /// The dialler's end; `None` if nobody listens there.
    pub(super) fn connect(&mut self, from: Host, to: SocketAddr) -> Option<Socket> {
        let (to, there, back) = (host(to), self.pipes.len(), self.pipes.len() + 1);
        let backlog = self.listeners.get_mut(&to)?;
        backlog.push_back(Socket { owner: to, remote: from, rx: there, tx: back });
        self.pipes.extend([Pipe::default(), Pipe::default()]);
        Some(Socket { owner: from, remote: to, rx: back, tx: there })
    }

    pub(super) fn accept(&mut self, host: Host) -> Option<Socket> {
        self.listeners.get_mut(&host)?.pop_front()
    }

    /// False if the stream is closed.
    pub(super) fn send<'a>(&mut self, socket: Socket, pieces: impl Iterator<Item = &'a [u8]>) -> bool {
        let pipe = &mut self.pipes[socket.tx];
        pieces.for_each(|bytes| pipe.data.extend(bytes));
        !pipe.closed
    }

    /// Bytes received, none at the end of the stream; `None` if there are none yet.
    pub(super) fn receive(&mut self, socket: Socket, into: &mut [u8]) -> Option<usize> {
        let pipe = &mut self.pipes[socket.rx];
        let count = into.len().min(pipe.data.len());
        for (to, from) in into.iter_mut().zip(pipe.data.drain(..count)) {
            *to = from;
        }
        (count > 0 || pipe.closed).then_some(count)
    }

    pub(super) fn shut(&mut self, socket: Socket) {
        for pipe in [socket.rx, socket.tx] {
            self.pipes[pipe].closed = true;
        }
        self.pipes[socket.rx].data.clear();
    }
}

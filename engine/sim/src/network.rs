//! What the network consists of: links between hosts, listeners, and connections of two byte pipes each.

mod sockets;
mod traffic;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kontiki_io::HostName;

use crate::limits;
use crate::random::Random;

/// The way from one host to another; the way back is a link of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    /// Nothing gets through; what is sent waits for the link to heal.
    pub(crate) blocked: bool,
    /// What it takes longer than others, in nanoseconds.
    pub(crate) extra_ns: u64,
}

#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) host: usize,
    pub(crate) address: SocketAddr,
    pub(crate) shut: bool,
    /// Connections that nobody has accepted.
    pub(crate) backlog: VecDeque<u64>,
    /// Accepts that wait.
    pub(crate) accepts: VecDeque<u64>,
    /// Accepts that end soon, with the connection they will yield.
    pub(crate) matched: BTreeMap<u64, u64>,
}

/// A connection being made. Known by the number of its operation.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) host: usize,
    pub(crate) boot: u64,
    pub(crate) to: Option<usize>,
    pub(crate) address: SocketAddr,
    pub(crate) deadline_ns: u64,
    /// The connection, once the other host has it.
    pub(crate) made: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) host: usize,
    pub(crate) boot: u64,
    pub(crate) address: SocketAddr,
    /// Its host has a socket for it (in the backlog, or behind a handle).
    pub(crate) alive: bool,
    /// It was reset, or gave up.
    pub(crate) broken: bool,
    /// Its own process shut it down.
    pub(crate) shut: bool,
    /// The other side has sent its last byte, and it has arrived.
    pub(crate) ended: bool,
    /// Bytes that have arrived and were not received.
    pub(crate) arrived: VecDeque<u8>,
    pub(crate) recv: Option<u64>,
    pub(crate) send: Option<u64>,
}

impl Side {
    pub(crate) fn new(host: usize, boot: u64, address: SocketAddr) -> Side {
        Side {
            host,
            boot,
            address,
            alive: true,
            broken: false,
            shut: false,
            ended: false,
            arrived: VecDeque::new(),
            recv: None,
            send: None,
        }
    }
}

/// Bytes on their way, in order; none and `last` is the end of the stream.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) at_ns: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) last: bool,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    pub(crate) flight: VecDeque<Chunk>,
    pub(crate) flight_bytes: usize,
    /// An arrival is on the agenda.
    pub(crate) scheduled: bool,
    /// Its head cannot arrive, since then.
    pub(crate) stalled_since_ns: Option<u64>,
    /// When the link is done with what was put into it.
    pub(crate) free_ns: u64,
    /// When the last chunk put in arrives.
    pub(crate) last_ns: u64,
    /// The end of the stream was put in.
    pub(crate) finished: bool,
}

impl Pipe {
    pub(crate) fn clear(&mut self) {
        self.flight.clear();
        self.flight_bytes = 0;
        self.stalled_since_ns = None;
    }
}

/// `pipes[s]` carries what `sides[s]` sends. Side 0 has connected, side 1 was connected to.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sides: [Side; 2],
    pub(crate) pipes: [Pipe; 2],
}

pub(crate) struct Network {
    pub(crate) links: Vec<Vec<Link>>,
    pub(crate) listeners: BTreeMap<u64, Listener>,
    pub(crate) attempts: BTreeMap<u64, Attempt>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) random: Random,
    /// What lookups find.
    pub(crate) names: BTreeMap<HostName, Vec<IpAddr>>,
    next_port: Vec<u16>,
    next_id: u64,
}

/// The address of a host in the simulated network.
pub(crate) fn host_ip(host: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, host as u8 + 1))
}

impl Network {
    pub(crate) fn new(random: Random) -> Network {
        Network {
            links: Vec::new(),
            listeners: BTreeMap::new(),
            attempts: BTreeMap::new(),
            connections: BTreeMap::new(),
            random,
            names: BTreeMap::new(),
            next_port: Vec::new(),
            next_id: 0,
        }
    }

    pub(crate) fn add_host(&mut self) {
        self.next_port.push(limits::FIRST_EPHEMERAL_PORT);
        for row in &mut self.links {
            row.push(Link::default());
        }
        self.links.push(vec![Link::default(); self.next_port.len()]);
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn link(&self, from: usize, to: usize) -> Link {
        self.links[from][to]
    }

    /// The host an address means, seen from `from`.
    pub(crate) fn host_of(&self, from: usize, ip: IpAddr) -> Option<usize> {
        if ip.is_loopback() || ip.is_unspecified() {
            return Some(from);
        }
        (0..self.links.len()).find(|&host| host_ip(host) == ip)
    }

    /// A port of `host` that nobody listens on.
    pub(crate) fn free_port(&mut self, host: usize) -> u16 {
        loop {
            let port = self.next_port[host];
            self.next_port[host] = port.checked_add(1).unwrap_or(limits::FIRST_EPHEMERAL_PORT);
            if self.listener_on(host, port).is_none() {
                return port;
            }
        }
    }

    pub(crate) fn listener_on(&self, host: usize, port: u16) -> Option<u64> {
        let mut all = self.listeners.iter();
        all.find(|(_, listener)| listener.host == host && listener.address.port() == port).map(|(&id, _)| id)
    }

    /// Forgets a connection that neither host knows any more.
    pub(crate) fn forget_if_dead(&mut self, connection: u64) {
        if self.connections.get(&connection).is_some_and(|found| found.sides.iter().all(|side| !side.alive)) {
            self.connections.remove(&connection);
        }
    }

    /// The connections of one process that its host still has, as (connection, side).
    pub(crate) fn sides_of(&self, host: usize, boot: u64) -> Vec<(u64, usize)> {
        let both = self
            .connections
            .iter()
            .flat_map(|(&id, connection)| connection.sides.iter().enumerate().map(move |(side, state)| (id, side, state)));
        let own = both.filter(|(.., side)| side.host == host && side.boot == boot && side.alive);
        own.map(|(id, side, _)| (id, side)).collect()
    }
}

//! Nodes: their transports, one by one and as a cluster.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use kontiki_core::{Incarnation, LogIndex, NodeId, SessionId, Term, Time};
use kontiki_io::{Completion, Io};
use kontiki_mem::{Block, Ring};
use kontiki_net::{DownReason, FrameStamp, Net, NetEvent, Options};

use super::{CLUSTER, MS, TestIo, World};

/// One node: its transport, its world, its ring, and what it was told.
pub struct Host {
    pub net: Net,
    pub io: TestIo,
    pub ring: Ring,
    pub events: Vec<NetEvent>,
    /// Stop taking events.
    pub hold: bool,
    done: Vec<Completion>,
    pub node: NodeId,
}

impl Host {
    pub fn new(world: &Rc<RefCell<World>>, options: Options) -> Host {
        Self::with_ring(world, options, 1 << 20)
    }

    pub fn with_ring(world: &Rc<RefCell<World>>, options: Options, ring_bytes: usize) -> Host {
        let (node, at) = (options.node, options.listen);
        let mut net = Net::new(options).unwrap();
        let mut io = TestIo::new(world.clone(), at, net.operations());
        let now = io.now();
        net.start(&mut io, now);
        let ring = Ring::new(ring_bytes, 256).unwrap();
        Host { net, io, ring, events: Vec::new(), hold: false, done: Vec::new(), node }
    }

    /// One turn of a node's loop.
    pub fn turn(&mut self) {
        let now = self.io.now();
        self.io.turn(None, &mut self.done).unwrap();
        for completion in self.done.drain(..) {
            self.net.on_completion(now, completion, &mut self.io);
        }
        if !self.hold {
            while let Some(event) = self.net.poll_event() {
                self.events.push(event);
            }
        }
        self.net.tick(now, &mut self.io, &mut self.ring);
    }

    pub fn io_now(&self) -> Time {
        self.io.now()
    }

    pub fn session(&self, peer: u64) -> Option<SessionId> {
        self.net.session(NodeId(peer))
    }

    pub fn take_events(&mut self) -> Vec<NetEvent> {
        std::mem::take(&mut self.events)
    }

    pub fn downs(&self) -> Vec<DownReason> {
        let reason = |event: &NetEvent| match event {
            NetEvent::SessionDown { reason, .. } => Some(*reason),
            _ => None,
        };
        self.events.iter().filter_map(reason).collect()
    }

    /// First indexes of the frames received, in order.
    pub fn frames(&self) -> Vec<u64> {
        let first = |event: &NetEvent| match event {
            NetEvent::Frame { header, .. } => Some(header.meta.first.0),
            _ => None,
        };
        self.events.iter().filter_map(first).collect()
    }

    pub fn messages(&self) -> Vec<kontiki_core::Message> {
        let message = |event: &NetEvent| match event {
            NetEvent::Message { message, .. } => Some(*message),
            _ => None,
        };
        self.events.iter().filter_map(message).collect()
    }

    pub fn refusals(&self) -> Vec<kontiki_net::Refusal> {
        let refusal = |event: &NetEvent| match event {
            NetEvent::Refused { reason, .. } => Some(*reason),
            _ => None,
        };
        self.events.iter().filter_map(refusal).collect()
    }

    pub fn send(&mut self, to: u64, message: &kontiki_core::Message) -> Result<(), kontiki_net::SendError> {
        let session = self.session(to).unwrap_or(SessionId(0));
        let now = self.io.now();
        self.net.send_message(now, NodeId(to), session, message)
    }

    pub fn send_frame(&mut self, to: u64, block: Block) -> Result<(), kontiki_net::SendError> {
        let session = self.session(to).unwrap_or(SessionId(0));
        let now = self.io.now();
        let header = kontiki_frame::parse_header(block.bytes()).unwrap();
        let stamp = FrameStamp { leader_term: Term(9), commit: LogIndex(1), range: header.meta.range(), round: 12 };
        self.net.send_frame(now, NodeId(to), session, stamp, block)
    }

    pub fn grant(&mut self, peer: Option<u64>) {
        let now = self.io.now();
        self.net.grant_bulk(peer.map(NodeId), now, &mut self.io);
    }

    pub fn stop(&mut self) {
        let now = self.io.now();
        self.net.stop(now, &mut self.io);
    }
}

pub fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Node `id` of `n`, listening on port 7000 + id.
pub fn options(id: u64, n: u64, incarnation: u64) -> Options {
    let at = |id: u64| addr(7000 + id as u16);
    let peers = (1..=n).map(|peer| (NodeId(peer), at(peer))).collect();
    Options { seed: id * 1000 + incarnation, max_clients: 4, ..Options::new(CLUSTER, NodeId(id), Incarnation(incarnation), at(id), peers) }
}

pub struct Cluster {
    pub world: Rc<RefCell<World>>,
    pub hosts: Vec<Host>,
}

impl Cluster {
    pub fn new(n: u64) -> Cluster {
        Self::with(n, |_| {})
    }

    pub fn with(n: u64, change: impl Fn(&mut Options)) -> Cluster {
        let world = World::new();
        let hosts = (1..=n)
            .map(|id| {
                let mut options = options(id, n, 1);
                change(&mut options);
                Host::new(&world, options)
            })
            .collect();
        Cluster { world, hosts }
    }

    /// A cluster whose sessions are all up, events forgotten.
    pub fn up(n: u64) -> Cluster {
        let mut cluster = Cluster::new(n);
        cluster.settle();
        cluster
    }

    pub fn settle(&mut self) {
        let n = self.hosts.len();
        self.run_until("all sessions are up", |c| {
            c.hosts.iter().all(|host| (1..=n as u64).filter(|id| NodeId(*id) != host.node).all(|id| host.session(id).is_some()))
        });
        for host in &mut self.hosts {
            host.take_events();
        }
    }

    /// As `settle`, but keeps the events.
    pub fn settle_keeping_events(&mut self) {
        let kept: Vec<_> = self.hosts.iter_mut().map(Host::take_events).collect();
        self.settle();
        for (host, events) in self.hosts.iter_mut().zip(kept) {
            host.events = events;
        }
    }

    /// One turn of every host; the clock goes on by a millisecond.
    pub fn turn(&mut self) {
        for host in &mut self.hosts {
            host.turn();
        }
        let mut world = self.world.borrow_mut();
        world.now = world.now.plus_ns(MS);
    }

    pub fn turns(&mut self, n: usize) {
        for _ in 0..n {
            self.turn();
        }
    }

    pub fn run_until(&mut self, what: &str, done: impl Fn(&Cluster) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("it never came to this: {what}");
    }
}

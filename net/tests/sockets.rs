//! The same transport over real sockets, by every backend that this machine has, with the blocking client.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::time::Duration;

use kontiki_core::{ClusterId, Incarnation, LogIndex, Message, NodeId, Term};
use kontiki_io::{Backend, Completion, Io};
use kontiki_mem::{Ring, copied_bytes};
use kontiki_net::client::{Applied, Client, ClientError, ClientOptions};
use kontiki_net::{ClientEvent, DownReason, FrameStamp, HandshakeRefusal, Net, NetError, NetEvent, Options, Request, Response};
use support::{CLUSTER, Frames, addr};

struct Node {
    net: Net,
    io: Box<dyn Io + Send>,
    ring: Ring,
    done: Vec<Completion>,
    events: Vec<NetEvent>,
}

impl Node {
    fn new(backend: Backend, options: Options) -> Node {
        let mut net = Net::new(options).unwrap();
        let io_options = kontiki_io::Options { backend, capacity: net.operations(), ..kontiki_io::Options::default() };
        let mut io = kontiki_io::open(&io_options, &[]).unwrap();
        let now = io.now();
        net.start(io.as_mut(), now);
        Node { net, io, ring: Ring::new(4 << 20, 512).unwrap(), done: Vec::new(), events: Vec::new() }
    }

    fn turn(&mut self, wait_ns: u64) {
        let until = (wait_ns > 0).then(|| self.io.now().plus_ns(wait_ns));
        self.io.turn(until, &mut self.done).unwrap();
        let now = self.io.now();
        for completion in self.done.drain(..) {
            self.net.on_completion(now, completion, self.io.as_mut());
        }
        while let Some(event) = self.net.poll_event() {
            match event {
                NetEvent::Client(event) => serve(&mut self.net, event),
                event => self.events.push(event),
            }
        }
        self.net.tick(now, self.io.as_mut(), &mut self.ring);
    }
}

/// Answers clients: proposals with their own bytes, backwards.
fn serve(net: &mut Net, event: ClientEvent) {
    match event {
        ClientEvent::Propose { client, request, payload, session } => {
            let Some(mut reply) = net.payload(&payload).map(<[u8]>::to_vec) else { return };
            reply.reverse();
            let response = match session {
                Some((0, _)) => Response::NotLeader { leader: Some(NodeId(2)), address: Some(addr(9).into()) },
                Some((1, _)) => Response::Busy,
                Some((2, _)) => Response::Unknown,
                Some((3, code)) => Response::Error { code, text: "no such thing" },
                _ => Response::Applied { index: request, reply: &reply },
            };
            net.respond(client, request, response);
        }
        ClientEvent::Query { client, request, payload } => {
            let Some(reply) = net.payload(&payload).map(<[u8]>::to_vec) else { return };
            net.respond(client, request, Response::Reply(&reply));
        }
        ClientEvent::Status { client, request } => {
            net.respond(client, request, Response::Status(b"well"));
        }
        ClientEvent::Connected { .. } | ClientEvent::Disconnected { .. } | ClientEvent::Snapshot { .. } => {}
    }
}

fn run(nodes: &mut [Node], what: &str, done: impl Fn(&[Node]) -> bool) {
    for _ in 0..100_000 {
        if done(nodes) {
            return;
        }
        for node in nodes.iter_mut() {
            node.turn(50_000);
        }
    }
    panic!("it never came to this: {what}");
}

fn options(node: u64, peers: Vec<(NodeId, std::net::SocketAddr)>) -> Options {
    Options { seed: node, ..Options::new(CLUSTER, NodeId(node), Incarnation(1), addr(0), peers) }
}

/// Two nodes in session: the one with the higher id first, since only its address must be known.
fn pair(backend: Backend) -> Vec<Node> {
    let mut high = Node::new(backend, options(2, vec![(NodeId(1), addr(1))]));
    for _ in 0..1000 {
        if high.net.listening().is_some() {
            break;
        }
        high.turn(100_000);
    }
    let low = Node::new(backend, options(1, vec![(NodeId(2), high.net.listening().unwrap())]));
    let mut nodes = vec![low, high];
    run(&mut nodes, "up", |nodes| {
        nodes[0].net.session(NodeId(2)).is_some() && nodes[1].net.session(NodeId(1)).is_some() && nodes[0].net.listening().is_some()
    });
    nodes
}

/// One test, since copies are counted over the whole process.
#[test]
fn real_sockets_carry_everything() {
    for backend in [Backend::Auto, Backend::Portable] {
        messages_and_frames_cross_and_no_payload_is_copied(backend);
        the_blocking_client_is_served(backend);
        a_taken_port_is_fatal(backend);
    }
}

fn messages_and_frames_cross_and_no_payload_is_copied(backend: Backend) {
    let mut frames = Frames::new();
    let blocks: Vec<_> = (0..64).map(|n| frames.make(n + 1, (n as usize * 1777) % 120_000)).collect();
    let mut nodes = pair(backend);
    let session = nodes[0].net.session(NodeId(2)).unwrap();
    let now = nodes[1].io.now();
    let Node { net, io, .. } = &mut nodes[1];
    net.grant_bulk(Some(NodeId(1)), now, io.as_mut());
    let copied = copied_bytes();
    let (mut sent, mut arrived) = (0usize, 0usize);
    for _ in 0..100_000 {
        let now = nodes[0].io.now();
        // Few enough for one control buffer.
        for _ in 0..40.min(640 - sent) {
            let block = blocks[sent % 64].clone();
            let range = kontiki_frame::parse_header(block.bytes()).unwrap().meta.range();
            let stamp = FrameStamp { leader_term: Term(2), commit: LogIndex(sent as u64), range, round: 0 };
            if nodes[0].net.send_frame(now, NodeId(2), session, stamp, block).is_err() {
                break;
            }
            let message = Message::Received { term: Term(1), round: 3, index: LogIndex(sent as u64) };
            nodes[0].net.send_message(now, NodeId(2), session, &message).unwrap();
            sent += 1;
        }
        nodes.iter_mut().for_each(|node| node.turn(50_000));
        for event in nodes[1].events.drain(..) {
            if let NetEvent::Frame { stamp, header, block, .. } = event {
                assert_eq!((stamp.commit.0, header.meta.first.0), (arrived as u64, arrived as u64 % 64 + 1));
                assert_eq!(block.bytes()[64..], blocks[arrived % 64].bytes()[64..]);
                arrived += 1;
            }
        }
        if arrived == 640 && nodes[1].net.counters().messages_in == 640 {
            break;
        }
    }
    assert_eq!((sent, arrived, nodes[1].net.counters().messages_in), (640, 640, 640));
    assert_eq!(copied_bytes(), copied, "from memory to wire to memory without a copy of ours");
    // One side stops: the other learns of it, and both let go of everything.
    for n in 0..2 {
        let now = nodes[n].io.now();
        let Node { net, io, .. } = &mut nodes[n];
        net.stop(now, io.as_mut());
        if n == 0 {
            run(&mut nodes, "node 1 is gone", |nodes| nodes[0].net.idle() && nodes[1].net.session(NodeId(1)).is_none());
            let down = |event: &NetEvent| matches!(event, NetEvent::SessionDown { reason: DownReason::Closed | DownReason::Io(_), .. });
            assert!(nodes[1].events.iter().any(down));
        }
    }
    run(&mut nodes, "node 2 is gone", |nodes| nodes[1].net.idle());
    nodes[1].events.clear();
    assert_eq!(nodes[1].ring.held(), 0);
}

fn the_blocking_client_is_served(backend: Backend) {
    let mut nodes = pair(backend);
    let at = nodes[0].net.listening().unwrap();
    let client = std::thread::spawn(move || talk(at));
    run(&mut nodes, "the client has finished", |_| client.is_finished());
    client.join().unwrap();
}

fn talk(at: std::net::SocketAddr) {
    let options = ClientOptions { cluster: Some(CLUSTER), timeout: Duration::from_secs(20), ..ClientOptions::default() };
    let mut client = Client::connect(at, options.clone()).unwrap();
    assert_eq!((client.node(), client.incarnation()), (NodeId(1), Incarnation(1)));
    assert_eq!(client.propose(b"abc", None).unwrap(), Applied { index: 1, reply: "cba".into() });
    assert_eq!(client.query(b"what?").unwrap(), &b"what?"[..]);
    assert_eq!(client.status().unwrap(), &b"well"[..]);
    assert!(matches!(client.propose(b"", Some((0, 1))), Err(ClientError::NotLeader { leader: Some(NodeId(2)), address: Some(_) })));
    assert!(matches!(client.propose(b"", Some((1, 1))), Err(ClientError::Busy)));
    assert!(matches!(client.propose(b"", Some((2, 1))), Err(ClientError::Unknown)));
    assert!(matches!(client.propose(b"", Some((3, 44))), Err(ClientError::Remote { code: 44, .. })));
    // Many under way.
    let mut answered = 0;
    let mut sent = Vec::new();
    for n in 0..2000u64 {
        sent.push(client.send(&Request::Propose { session: Some((9, n)), payload: &n.to_be_bytes() }).unwrap());
        while sent.len() - answered >= 50 {
            let number = client.receive(|number, response| {
                assert_eq!(*response, Response::Applied { index: number, reply: &(answered as u64).to_le_bytes() });
                number
            });
            assert_eq!(number.unwrap(), sent[answered]);
            answered += 1;
        }
    }
    while answered < sent.len() {
        client.receive(|_, _| ()).unwrap();
        answered += 1;
    }
    // Too long for a reply, then too long for a request: the connection goes on.
    assert!(matches!(client.query(&[1; 5000]), Err(ClientError::Remote { code: kontiki_net::codes::REPLY_TOO_LONG, .. })));
    assert!(matches!(client.query(&[1; 70_000]), Err(ClientError::Remote { code: kontiki_net::codes::REQUEST_TOO_LONG, .. })));
    assert_eq!(client.query(b"next").unwrap(), &b"next"[..]);
    let wrong = ClientOptions { cluster: Some(ClusterId(1)), ..options.clone() };
    assert!(matches!(Client::connect(at, wrong), Err(ClientError::Refused(HandshakeRefusal::Cluster))));
    let wrong = ClientOptions { node: Some(NodeId(2)), ..options };
    assert!(matches!(Client::connect(at, wrong), Err(ClientError::Refused(HandshakeRefusal::Target { to: NodeId(2) }))));
}

fn a_taken_port_is_fatal(backend: Backend) {
    let nodes = pair(backend);
    let taken = nodes[0].net.listening().unwrap();
    let mut third = vec![Node::new(backend, Options { listen: taken, ..options(3, Vec::new()) })];
    run(&mut third, "an answer", |nodes| !nodes[0].events.is_empty());
    assert!(matches!(third[0].events[..], [NetEvent::Fatal(NetError::AddressInUse { addr })] if addr == taken));
}

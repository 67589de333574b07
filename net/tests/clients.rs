//! Clients: requests in, responses out, and no client at the cost of another.

#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{NodeId, SessionId};
use kontiki_net::limits::STATUS_PLACES;
use kontiki_net::{
    ClientEvent, ClientId, ClientWireError, Hello, HelloKind, NetEvent, Refusal, Request, Response, decode_response, encode_request,
    request_bytes,
};
use support::{Cluster, Host, Raw, World, addr, options};

fn encoded(number: u64, request: &Request<'_>) -> Vec<u8> {
    let mut bytes = vec![0; request_bytes(request)];
    assert_eq!(encode_request(number, request, &mut bytes), Some(bytes.len()));
    bytes
}

fn propose(number: u64, payload: &[u8]) -> Vec<u8> {
    encoded(number, &Request::Propose { session: None, payload })
}

/// What a node might do with requests: answers each at once, a proposal with its own bytes.
struct Server {
    host: Host,
    answer: bool,
    /// What was asked: number, kind, payload.
    asked: Vec<(ClientId, u64, char, Vec<u8>)>,
    events: Vec<ClientEvent>,
}

impl Server {
    fn new(change: impl Fn(&mut kontiki_net::Options)) -> (std::rc::Rc<std::cell::RefCell<World>>, Server) {
        let world = World::new();
        let mut options = options(1, 1, 1);
        change(&mut options);
        let mut host = Host::new(&world, options);
        host.hold = true;
        (world, Server { host, answer: true, asked: Vec::new(), events: Vec::new() })
    }

    fn turn(&mut self) {
        self.turn_without_tick();
        self.host.hold = true;
        self.host.turn();
    }

    fn turn_without_tick(&mut self) {
        while let Some(event) = self.host.net.poll_event() {
            let NetEvent::Client(event) = event else {
                self.host.events.push(event);
                continue;
            };
            self.events.push(event);
            let (client, request, kind, payload) = match event {
                ClientEvent::Propose { client, request, payload, session } => {
                    (client, request, if session.is_some() { 's' } else { 'p' }, Some(payload))
                }
                ClientEvent::Query { client, request, payload } => (client, request, 'q', Some(payload)),
                ClientEvent::Status { client, request } => (client, request, '?', None),
                _ => continue,
            };
            let bytes = payload.map_or(Some(Vec::new()), |payload| self.host.net.payload(&payload).map(<[u8]>::to_vec));
            let Some(bytes) = bytes else { continue };
            if self.answer {
                let response = match kind {
                    'q' => Response::Reply(&bytes),
                    '?' => Response::Status(b"fine"),
                    _ => Response::Applied { index: request * 10, reply: &bytes },
                };
                self.host.net.respond(client, request, response);
            }
            self.asked.push((client, request, kind, bytes));
        }
    }

    fn turns(&mut self, n: usize) {
        for _ in 0..n {
            self.turn();
        }
    }
}

fn connect(world: &std::rc::Rc<std::cell::RefCell<World>>, server: &mut Server) -> Raw {
    server.turns(2);
    let raw = Raw::connect(world, addr(7001));
    raw.write(&support::client_greeting());
    server.turns(4);
    let welcome = Hello::decode(raw.read().first_chunk().unwrap()).unwrap();
    assert_eq!((welcome.kind, welcome.code, welcome.from, welcome.session), (HelloKind::Welcome, 0, NodeId(1), SessionId(3)));
    raw
}

/// Numbers and payloads of the responses in `bytes`.
fn responses(mut bytes: &[u8]) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    while let Some((number, response, length)) = decode_response(bytes, 1 << 20).unwrap() {
        all.push((number, format!("{response:?}")));
        bytes = &bytes[length..];
    }
    assert!(bytes.is_empty(), "no half response is left");
    all
}

#[test]
fn every_kind_of_request_is_answered_whatever_the_chunks() {
    for chunk in [1, 2, 31, 32, 33, 100, usize::MAX] {
        let (world, mut server) = Server::new(|_| {});
        let raw = connect(&world, &mut server);
        world.borrow_mut().chunk = chunk;
        raw.write(&propose(1, b"one"));
        raw.write(&encoded(2, &Request::Propose { session: Some((5, 6)), payload: b"two" }));
        raw.write(&encoded(3, &Request::Query { payload: b"three" }));
        raw.write(&encoded(4, &Request::Status));
        raw.write(&propose(5, b""));
        server.turns(300);
        let what: Vec<_> = server.asked.iter().map(|(_, number, kind, bytes)| (*number, *kind, &bytes[..])).collect();
        let expected: [(u64, char, &[u8]); 5] = [(1, 'p', b"one"), (2, 's', b"two"), (3, 'q', b"three"), (4, '?', b""), (5, 'p', b"")];
        assert_eq!(what, expected, "chunk {chunk}");
        world.borrow_mut().chunk = usize::MAX;
        let answers = responses(&raw.read());
        assert_eq!(answers.len(), 5);
        assert_eq!(answers[3], (4, format!("{:?}", Response::Status(b"fine"))));
        assert_eq!(answers[1], (2, format!("{:?}", Response::Applied { index: 20, reply: b"two" })));
        assert!(server.events.iter().any(|event| matches!(event, ClientEvent::Propose { request: 2, session: Some((5, 6)), .. })));
    }
}

#[test]
fn h93_the_longest_request_is_taken_and_one_byte_more_is_read_past_and_answered() {
    let (world, mut server) = Server::new(|options| options.max_request_bytes = 5000);
    let raw = connect(&world, &mut server);
    for n in 0..20 {
        raw.write(&propose(n, &vec![n as u8; 5000]));
        raw.write(&propose(100 + n, &vec![n as u8; 1 + n as usize * 200]));
    }
    server.turns(100);
    assert_eq!(server.asked.len(), 40);
    assert!(server.asked.iter().all(|(_, n, _, bytes)| bytes.iter().all(|byte| u64::from(*byte) == n % 100)));
    let _ = raw.read();
    // Longer ones: by a byte, by what still fits the buffer with a session, and by far. None is kept, and what follows is
    // served.
    let too_long = [5001, 5017, 100_000, 2 << 20];
    for (n, bytes) in (200..).zip(too_long) {
        let request = propose(n, &vec![1; bytes]);
        for part in request.chunks(100_000) {
            raw.write(part);
            server.turns(60);
        }
        raw.write(&propose(300 + n, b"next"));
        server.turns(20);
        let answers = responses(&raw.read());
        assert_eq!(answers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [n, 300 + n]);
        let expected = format!("a request of {bytes} bytes: this node takes at most 5000 (its max_entry_bytes); nothing was done");
        assert!(answers[0].1.contains(&expected), "{answers:?}");
        assert!(answers[1].1.starts_with("Applied"), "{answers:?}");
    }
    assert_eq!(server.host.net.counters().requests_too_long, 4);
    assert_eq!(server.asked.len(), 44, "none of them reached the node");
    assert!(!raw.closed() && server.host.refusals().is_empty());
    // What no node takes is no request.
    raw.write(&propose(1, &vec![0; (2 << 20) + 1])[..32]);
    server.turns(3);
    assert!(raw.closed());
    let refusal = Refusal::Request(ClientWireError::Length { length: (2 << 20) + 1, limit: 5016 });
    assert_eq!(server.host.refusals(), [refusal]);
    assert!(matches!(server.events.last(), Some(ClientEvent::Disconnected { .. })));
    assert_eq!(server.host.net.clients(), 0);
}

#[test]
fn h98_a_damaged_request_ends_its_connection_and_reaches_nobody() {
    let request = propose(7, b"precious");
    for bit in 0..request.len() * 8 {
        let (world, mut server) = Server::new(|_| {});
        let raw = connect(&world, &mut server);
        let mut bytes = request.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        raw.write(&bytes);
        // A length that grew is only found out with more bytes.
        for _ in 0..17 {
            raw.write(&vec![0; 1 << 17]);
            server.turns(10);
            if raw.closed() {
                break;
            }
        }
        assert!(raw.closed(), "bit {bit}");
        assert_eq!(server.asked, []);
        assert_eq!(server.host.net.counters().refused(), 1);
    }
}

#[test]
fn unanswered_requests_are_bounded_and_the_rest_waits() {
    let (world, mut server) = Server::new(|options| options.max_requests_in_flight = 4);
    let raw = connect(&world, &mut server);
    server.answer = false;
    for n in 0..50 {
        raw.write(&propose(n, b"x"));
    }
    server.turns(20);
    assert_eq!(server.asked.len(), 4);
    // Each answer lets one more in.
    let (client, ..) = server.asked[0];
    for n in 0..50 {
        assert!(server.host.net.respond(client, n, Response::Busy));
        server.turns(4);
        assert_eq!(server.asked.len(), (5 + n as usize).min(50));
    }
    assert_eq!(responses(&raw.read()).len(), 50);
}

#[test]
fn a_client_that_does_not_read_is_held_back_and_then_disconnected() {
    let (world, mut server) = Server::new(|options| {
        options.max_clients = 2;
        options.max_requests_in_flight = 8;
        options.max_reply_bytes = 256;
        options.client_idle_timeout_ns = 1_000_000_000;
    });
    world.borrow_mut().pipe_bytes = 4096;
    let slow = connect(&world, &mut server);
    let quick = connect(&world, &mut server);
    let mut sent = 0;
    let mut answered = 0;
    for round in 0..400u64 {
        for _ in 0..2 {
            if slow.room() >= 200 {
                slow.write(&propose(sent, &[7; 100]));
                sent += 1;
            }
        }
        quick.write(&propose(round, &[9; 100]));
        server.turns(3);
        let answers = responses(&quick.read());
        assert_eq!(answers.len(), 1, "round {round}: the quick one is served at once");
        answered += 1;
        // The slow one keeps the clock from saving it: a millisecond a round.
        let mut world = world.borrow_mut();
        world.now = world.now.plus_ns(1_000_000);
    }
    assert_eq!(answered, 400);
    assert!(sent < 300, "what is not answered is not taken: {sent}");
    assert!(!slow.closed());
    for _ in 0..30 {
        quick.write(&propose(1, b""));
        server.turns(3);
        quick.read();
        let mut world = world.borrow_mut();
        world.now = world.now.plus_ns(100_000_000);
    }
    assert!(slow.closed() && !quick.closed());
    assert_eq!(server.host.net.counters().clients_idle, 1);
}

#[test]
fn clients_beyond_the_bound_are_told_busy_and_may_ask_for_the_status() {
    let (world, mut server) = Server::new(|options| options.max_clients = 2);
    let first = connect(&world, &mut server);
    let _second = connect(&world, &mut server);
    let third = connect(&world, &mut server);
    third.write(&encoded(1, &Request::Status));
    third.write(&propose(2, &[1; 5000]));
    third.write(&propose(3, b""));
    third.write(&encoded(4, &Request::Query { payload: b"x" }));
    third.write(&encoded(5, &Request::Status));
    server.turns(40);
    let answers: Vec<String> = responses(&third.read()).into_iter().map(|(_, response)| response).collect();
    let fine = format!("{:?}", Response::Status(b"fine"));
    assert_eq!(answers, [fine.as_str(), "Busy", "Busy", "Busy", fine.as_str()]);
    assert_eq!(server.asked.iter().map(|(_, _, kind, _)| *kind).collect::<String>(), "??", "nothing else reached the node");
    // One leaves, another finds its place, and the id of the one that left stays dead.
    let Some(ClientEvent::Connected { client, .. }) = server.events.first().copied() else { panic!("{:?}", server.events) };
    first.close();
    server.turns(4);
    let fourth = connect(&world, &mut server);
    fourth.write(&propose(1, b"x"));
    server.turns(4);
    assert_ne!(server.asked[2].0, client);
    assert_eq!(server.asked[2].2, 'p');
    assert!(!server.host.net.respond(client, 1, Response::Busy));
}

/// The status is within reach of whoever asks for it, whatever others do with the places kept for it.
#[test]
fn the_status_is_reachable_without_clients_and_in_a_crowd() {
    for max_clients in [0, 2] {
        let (world, mut server) = Server::new(|options| options.max_clients = max_clients);
        let crowd: Vec<Raw> = (0..max_clients + 3 * STATUS_PLACES).map(|_| connect(&world, &mut server)).collect();
        // Those that keep asking for what they do not get are no better than those that say nothing.
        for (n, raw) in crowd.iter().enumerate().filter(|(_, raw)| !raw.closed()) {
            raw.write(&propose(n as u64, b"x"));
        }
        server.turns(4);
        let asks = connect(&world, &mut server);
        asks.write(&encoded(1, &Request::Status));
        server.turns(4);
        assert_eq!(responses(&asks.read()), [(1, format!("{:?}", Response::Status(b"fine")))], "{max_clients} clients");
        assert_eq!(server.host.net.clients(), max_clients + STATUS_PLACES, "bounded");
        if max_clients == 0 {
            assert_eq!(server.host.net.counters().turned_away, STATUS_PLACES as u64);
            let told = responses(&crowd[crowd.len() - 1].read());
            assert!(told[0].1.contains("max_clients = 0"), "{told:?}");
        }
        // Whoever only sits there, or asks for something else again and again, is gone after the handshake timeout.
        for n in 0..30 {
            for raw in crowd.iter().filter(|raw| !raw.closed()) {
                raw.write(&propose(100 + n, b"x"));
            }
            server.turns(4);
            let mut world = world.borrow_mut();
            world.now = world.now.plus_ns(100 * support::MS);
        }
        assert_eq!(server.host.net.clients(), max_clients);
    }
}

#[test]
fn a_request_of_a_client_that_left_has_no_payload() {
    let (world, mut server) = Server::new(|_| {});
    let raw = connect(&world, &mut server);
    // Behind the request stands something that ends the connection before anyone looks.
    raw.write(&[propose(1, b"x"), vec![0; 100]].concat());
    server.host.turn();
    server.host.turn();
    assert!(raw.closed());
    let mut seen = Vec::new();
    while let Some(event) = server.host.net.poll_event() {
        if let NetEvent::Client(ClientEvent::Propose { payload, client, request, .. }) = event {
            seen.push(server.host.net.payload(&payload).map(<[u8]>::to_vec));
            assert!(!server.host.net.respond(client, request, Response::Unknown));
        }
    }
    assert_eq!(seen, [None]);
}

#[test]
fn replies_too_long_become_errors() {
    let (world, mut server) = Server::new(|options| options.max_reply_bytes = 1000);
    let raw = connect(&world, &mut server);
    raw.write(&encoded(1, &Request::Query { payload: &[1; 1000] }));
    raw.write(&encoded(2, &Request::Query { payload: &[1; 1001] }));
    server.turns(5);
    let answers = responses(&raw.read());
    assert!(answers[0].1.starts_with("Reply"));
    assert!(answers[1].1.contains("longer than"), "{answers:?}");
}

#[test]
fn idle_clients_leave_and_waiting_ones_stay() {
    let (world, mut server) = Server::new(|options| options.client_idle_timeout_ns = 1_000_000_000);
    let idle = connect(&world, &mut server);
    let waiting = connect(&world, &mut server);
    server.answer = false;
    waiting.write(&propose(1, b"slow one"));
    for _ in 0..30 {
        server.turns(2);
        let mut world = world.borrow_mut();
        world.now = world.now.plus_ns(100_000_000);
    }
    assert!(idle.closed() && !waiting.closed());
    let client = server.asked[0].0;
    assert!(server.host.net.respond(client, 1, Response::NotApplied));
    server.turns(3);
    assert_eq!(responses(&waiting.read()), [(1, "NotApplied".to_string())]);
}

#[test]
fn peers_and_clients_share_the_listener() {
    let mut cluster = Cluster::up(2);
    let raw = Raw::connect(&cluster.world, addr(7002));
    raw.write(&support::client_greeting());
    cluster.turns(3);
    assert_eq!(cluster.hosts[1].net.clients(), 1);
    assert!(cluster.hosts[1].session(1).is_some());
    assert!(matches!(cluster.hosts[1].events[..], [NetEvent::Client(ClientEvent::Connected { .. })]));
}

const WRITTEN: kontiki_net::WrittenSnapshot = kontiki_net::WrittenSnapshot { index: 99, term: 3, full: false, bytes: 5 << 16, digest: 7 };

#[test]
fn a_snapshot_is_written_for_a_program_on_this_machine_and_for_no_other() {
    for (from, any, admitted) in [([127, 0, 0, 1], false, true), ([192, 0, 2, 7], false, false), ([192, 0, 2, 7], true, true)] {
        let mut cluster = Cluster::with(1, |options| options.admin_any = any);
        cluster.turns(3);
        let raw = Raw::connect_from(&cluster.world, (from, 60_000).into(), support::addr(7001));
        raw.write(&support::client_greeting());
        cluster.turns(4);
        raw.read();
        let mut request = [0; 32];
        kontiki_net::encode_request(7, &kontiki_net::Request::Snapshot, &mut request).unwrap();
        raw.write(&request);
        cluster.turns(4);
        let asked = cluster.hosts[0].events.iter().find_map(|event| match event {
            NetEvent::Client(ClientEvent::Snapshot { client, request: 7 }) => Some(*client),
            _ => None,
        });
        assert_eq!(asked.is_some(), admitted, "{from:?}, any: {any}");
        if let Some(client) = asked {
            cluster.hosts[0].net.respond(client, 7, Response::Snapshot(WRITTEN));
            cluster.turns(3);
        }
        let answer = raw.read();
        let (number, response, _) = kontiki_net::decode_response(&answer, 1000).unwrap().unwrap();
        assert_eq!(number, 7);
        match response {
            Response::Snapshot(WRITTEN) => assert!(admitted),
            Response::Error { code, .. } => assert!(!admitted && code == kontiki_net::codes::NOT_ADMIN),
            other => panic!("{other:?}"),
        }
    }
}

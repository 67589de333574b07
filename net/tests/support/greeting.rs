//! Greetings in the hands of a test, and a node of its own that it plays.

use kontiki_core::{Incarnation, LogIndex, Message, NodeId, SessionId, Term};
use kontiki_net::limits::HELLO_BYTES;
use kontiki_net::{Channel, Control, ControlPayload, HandshakeRefusal, Hello, HelloKind, Parameters};

use super::{CLUSTER, Cluster, Host, Raw, World, addr, options};

pub fn hello(channel: Channel, from: u64, to: u64, session: u64, nonce: u64) -> Hello {
    Hello {
        kind: HelloKind::Hello,
        channel,
        code: 0,
        detail: 0,
        cluster: CLUSTER,
        from: NodeId(from),
        to: NodeId(to),
        incarnation: Incarnation(1),
        process_number: 99,
        session: SessionId(session),
        nonce,
    }
}

pub fn encoded(hello: &Hello) -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    hello.encode(&mut bytes);
    bytes
}

/// Greets a host as a test sees fit; its answer.
pub fn greet(cluster: &mut Cluster, to: u16, hello: &Hello) -> (Raw, Option<Hello>) {
    let raw = Raw::connect(&cluster.world, addr(to));
    raw.write(&encoded(hello));
    cluster.turns(4);
    let answer = raw.read();
    let answer = answer.first_chunk::<HELLO_BYTES>().map(|bytes| Hello::decode(bytes).unwrap());
    (raw, answer)
}

pub fn refusal(answer: Option<Hello>) -> Option<HandshakeRefusal> {
    let answer = answer.unwrap();
    assert_eq!(answer.kind, HelloKind::Welcome);
    HandshakeRefusal::from_wire(answer.code, answer.detail)
}

/// The first record of a session, as a test's own node 1 sends it.
pub fn introduction(session: u64) -> Vec<u8> {
    record(session, 1, ControlPayload::Parameters(Parameters::default()))
}

pub fn record(session: u64, sequence: u64, payload: ControlPayload) -> Vec<u8> {
    let mut bytes = [0; 256];
    let length = Control { session: SessionId(session), sequence, payload }.encode(&mut bytes).unwrap();
    bytes[..length].to_vec()
}

/// A test's own node 1, in session with node 2.
pub fn handshake(cluster: &mut Cluster, session: u64) -> (Raw, Raw) {
    let (control, welcome) = greet(cluster, 7002, &hello(Channel::Control, 1, 2, session, 0));
    let welcome = welcome.unwrap();
    assert_eq!(welcome.code, 0, "{welcome:?}");
    let (bulk, welcome) = greet(cluster, 7002, &hello(Channel::Bulk, 1, 2, session, welcome.nonce));
    assert_eq!(welcome.unwrap().code, 0);
    assert_eq!(cluster.hosts[0].session(1), None, "not before both have said what they take");
    control.write(&introduction(session));
    cluster.turns(2);
    assert_eq!(cluster.hosts[0].session(1), Some(SessionId(session)));
    (control, bulk)
}

/// Node 2 alone; the test plays node 1.
pub fn lone_node_2() -> Cluster {
    let world = World::new();
    let hosts = vec![Host::new(&world, options(2, 2, 1))];
    let mut cluster = Cluster { world, hosts };
    cluster.turns(2);
    cluster
}

/// A message that is told from others by its number.
pub fn message(n: u64) -> Message {
    Message::Accepted { term: Term(3), round: 1, matched: LogIndex(n) }
}

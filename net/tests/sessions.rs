//! Sessions: how they come up, what they carry, how they end, and who gets none.

#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{ClusterId, Incarnation, LogIndex, Message, NodeId, SessionId, Term};
use kontiki_net::limits::{HELLO_BYTES, MAX_GREETINGS, PROTOCOL_VERSION};
use kontiki_net::{
    Channel, Control, ControlError, ControlPayload, DownReason, HandshakeRefusal, Hello, HelloError, HelloKind, NetError, NetEvent,
    Parameters, Refusal, SendError, Versions,
};
use support::{CLUSTER, Cluster, Faults, Host, Raw, World, addr, options};

fn message(n: u64) -> Message {
    Message::Accepted { term: Term(3), matched: LogIndex(n) }
}

fn hello(channel: Channel, from: u64, to: u64, session: u64, nonce: u64) -> Hello {
    Hello {
        kind: HelloKind::Hello,
        channel,
        code: 0,
        detail: 0,
        cluster: CLUSTER,
        from: NodeId(from),
        to: NodeId(to),
        incarnation: Incarnation(1),
        instance: 99,
        session: SessionId(session),
        nonce,
    }
}

fn encoded(hello: &Hello) -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    hello.encode(&mut bytes);
    bytes
}

/// Greets a host as a test sees fit; its answer.
fn greet(cluster: &mut Cluster, to: u16, hello: &Hello) -> (Raw, Option<Hello>) {
    let raw = Raw::connect(&cluster.world, addr(to));
    raw.write(&encoded(hello));
    cluster.turns(4);
    let answer = raw.read();
    let answer = answer.first_chunk::<HELLO_BYTES>().map(|bytes| Hello::decode(bytes).unwrap());
    (raw, answer)
}

fn refusal(answer: Option<Hello>) -> Option<HandshakeRefusal> {
    let answer = answer.unwrap();
    assert_eq!(answer.kind, HelloKind::Welcome);
    HandshakeRefusal::from_wire(answer.code, answer.detail)
}

#[test]
fn sessions_come_up_and_carry_messages_both_ways_in_order() {
    let mut cluster = Cluster::up(3);
    assert_eq!(cluster.hosts[0].session(2), cluster.hosts[1].session(1));
    assert_ne!(cluster.hosts[0].session(2), cluster.hosts[0].session(3));
    for round in 0..50 {
        for from in 0..3usize {
            for to in 1..=3u64 {
                if to != from as u64 + 1 {
                    for n in 0..10 {
                        cluster.hosts[from].send(to, &message(round * 10 + n)).unwrap();
                    }
                }
            }
        }
        cluster.turn();
    }
    cluster.turns(5);
    for host in &cluster.hosts {
        for peer in (1..=3).map(NodeId).filter(|peer| *peer != host.node) {
            let from_peer = host.events.iter().filter_map(|event| match event {
                NetEvent::Message { peer: p, message: Message::Accepted { matched, .. }, .. } if *p == peer => Some(matched.0),
                _ => None,
            });
            assert!(from_peer.eq(0..500));
        }
        assert_eq!(host.net.counters().messages_in, 1000);
        assert_eq!(host.net.counters().refused(), 0);
    }
}

#[test]
fn up_says_who_and_down_says_why() {
    let mut cluster = Cluster::new(2);
    cluster.run_until("up", |c| c.hosts.iter().all(|host| host.net.counters().sessions_up == 1));
    cluster.turn();
    let (session, remote) = (cluster.hosts[0].session(2).unwrap(), addr(7002));
    assert!(cluster.hosts[0].events.iter().any(|event| matches!(event,
        NetEvent::SessionUp { peer: NodeId(2), session: s, incarnation: Incarnation(1), remote: r, .. } if *s == session && *r == remote)));
    cluster.hosts[0].stop();
    cluster.turns(5);
    assert_eq!(cluster.hosts[0].downs(), [DownReason::Stopped]);
    assert_eq!(cluster.hosts[1].downs(), [DownReason::Closed]);
    assert!(cluster.hosts[0].net.idle());
    assert_eq!(cluster.hosts[0].io.outstanding(), 0);
}

#[test]
fn each_side_is_told_what_the_other_takes_before_anything_else() {
    let mut cluster = Cluster::with(2, |options| {
        options.max_frame_bytes = 4096 << options.node.0;
        options.parameters.heartbeat_ms = options.node.0 as u32;
        options.parameters.takes_frame_bytes = 7; // The frame limit is what counts.
    });
    cluster.run_until("up", |c| c.hosts.iter().all(|host| host.net.counters().sessions_up == 1));
    cluster.turn();
    for (host, peer) in [(0, 2u64), (1, 1)] {
        let expected = Parameters { takes_frame_bytes: 4096 << peer, heartbeat_ms: peer as u32, ..Parameters::default() };
        let first = cluster.hosts[host].events.iter().find(|event| !matches!(event, NetEvent::Listening { .. }));
        assert!(matches!(first, Some(NetEvent::SessionUp { parameters, .. }) if *parameters == expected), "{first:?}");
        assert_eq!(cluster.hosts[host].net.parameters(NodeId(peer)), Some(expected));
    }
}

#[test]
fn comes_up_whatever_byte_of_the_handshake_breaks_it() {
    for connection in 0..2 {
        for towards_listener in [true, false] {
            for byte in 0..=HELLO_BYTES as u64 {
                let mut cluster = Cluster::new(2);
                cluster.world.borrow_mut().chunk = 50;
                let fault = Faults { reset_after: Some(byte), ..Faults::default() };
                let faults = if towards_listener { (fault, Faults::default()) } else { (Faults::default(), fault) };
                cluster.world.borrow_mut().plan.insert(connection, faults);
                // The first session may have come up before the fault struck; then it falls, and the next one stands.
                cluster.turns(20);
                cluster.settle();
                cluster.hosts[0].send(2, &message(1)).unwrap();
                cluster.hosts[1].send(1, &message(2)).unwrap();
                cluster.turns(5);
                assert_eq!(cluster.hosts[1].messages(), [message(1)], "{connection} {towards_listener} {byte}");
                assert_eq!(cluster.hosts[0].messages(), [message(2)]);
            }
        }
    }
}

#[test]
fn h98_a_flipped_bit_of_the_handshake_opens_nothing_and_heals() {
    for byte in (0..HELLO_BYTES as u64).step_by(3) {
        for (connection, home) in [(0, false), (0, true), (1, false), (1, true)] {
            let mut cluster = Cluster::new(2);
            let fault = Faults { flip: Some((byte, 0x10)), ..Faults::default() };
            let faults = if home { (Faults::default(), fault) } else { (fault, Faults::default()) };
            cluster.world.borrow_mut().plan.insert(connection, faults);
            cluster.turns(12);
            let refused: u64 = cluster.hosts.iter().map(|host| host.net.counters().refused()).sum();
            assert_eq!(refused, 1, "byte {byte} of connection {connection}, {home}");
            cluster.settle();
        }
    }
}

#[test]
fn h98_a_flipped_bit_of_the_parameters_opens_nothing_and_heals() {
    for bit in 0..8 * introduction(1).len() as u64 {
        let mut cluster = Cluster::new(2);
        let at = HELLO_BYTES as u64 + bit / 8;
        let fault = Faults { flip: Some((at, 1 << (bit % 8))), ..Faults::default() };
        cluster.world.borrow_mut().plan.insert(0, (fault, Faults::default()));
        cluster.settle();
        let counters = cluster.hosts[1].net.counters();
        // A length that grew shows with what follows, or by the silence.
        assert_eq!((counters.sessions_up, counters.sessions_down), (1, 0), "bit {bit}: the damaged one was never up");
    }
}

#[test]
fn h98_any_flipped_bit_of_a_control_message_ends_the_session_and_is_not_delivered() {
    for bit in 0..8 * 48u64 {
        let mut cluster = Cluster::new(2);
        let at = (HELLO_BYTES + introduction(1).len()) as u64 + bit / 8;
        let fault = Faults { flip: Some((at, 1 << (bit % 8))), ..Faults::default() };
        cluster.world.borrow_mut().plan.insert(0, (fault, Faults::default()));
        cluster.settle();
        cluster.hosts[0].send(2, &message(7)).unwrap();
        cluster.turns(4);
        assert_eq!(cluster.hosts[1].messages(), [], "bit {bit}");
        assert!(matches!(cluster.hosts[1].downs()[..], [DownReason::Refused(Refusal::Control(_))]), "bit {bit}");
        assert_eq!(cluster.hosts[1].net.counters().refused(), 1);
    }
}

#[test]
fn chunks_of_any_size_change_nothing() {
    for chunk in 1..100 {
        let mut cluster = Cluster::new(2);
        cluster.world.borrow_mut().chunk = chunk;
        cluster.settle();
        for n in 0..20 {
            cluster.hosts[0].send(2, &message(n)).unwrap();
        }
        cluster.run_until("all arrived", |c| c.hosts[1].net.counters().messages_in == 20);
        assert_eq!(cluster.hosts[1].messages(), (0..20).map(message).collect::<Vec<_>>());
    }
}

#[test]
fn a_restarted_peer_replaces_its_session_once_that_is_silent() {
    let mut cluster = Cluster::up(3);
    let old = cluster.hosts[2].session(1).unwrap();
    // Node 1 dies without a word and is back as a new incarnation, before node 3 has noticed.
    cluster.world.borrow_mut().deaf.insert(7003);
    let world = cluster.world.clone();
    let mut restarted = options(1, 3, 2);
    restarted.listen = addr(7011);
    let dead = std::mem::replace(&mut cluster.hosts[0], Host::new(&world, restarted));
    std::mem::forget(dead);
    cluster.world.borrow_mut().deaf.clear();
    let begun = cluster.world.borrow().now;
    cluster.run_until("replaced", |c| c.hosts[2].session(1).is_some_and(|session| session != old));
    let took_ms = cluster.world.borrow().now.since(begun) / support::MS;
    assert!(took_ms <= 2000, "half the idle timeout, and a pause between two attempts: {took_ms} ms");
    cluster.turn();
    let host = &cluster.hosts[2];
    let news: Vec<_> = host
        .events
        .iter()
        .filter_map(|event| match event {
            NetEvent::SessionDown { session, reason, .. } => Some((*session, Some(*reason))),
            NetEvent::SessionUp { session, .. } => Some((*session, None)),
            _ => None,
        })
        .collect();
    assert_eq!(news, [(old, Some(DownReason::Replaced)), (host.session(1).unwrap(), None)], "one live session at any time");
    // What is still sent into the old session goes nowhere.
    let now = cluster.world.borrow().now;
    assert_eq!(cluster.hosts[2].net.send_message(now, NodeId(1), old, &message(1)), Err(SendError::NoSession));
}

#[test]
fn h94_an_older_incarnation_is_refused() {
    let mut cluster = Cluster::with(2, |options| {
        if options.node == NodeId(1) {
            options.incarnation = Incarnation(5);
        }
    });
    cluster.settle();
    let mut stale = hello(Channel::Control, 1, 2, 77, 0);
    stale.incarnation = Incarnation(4);
    let (_raw, answer) = greet(&mut cluster, 7002, &stale);
    assert_eq!(refusal(answer), Some(HandshakeRefusal::Stale { seen: Incarnation(5) }));
    assert!(cluster.hosts[1].session(1).is_some(), "the live session is untouched");
    assert_eq!(cluster.hosts[1].downs(), []);
}

#[test]
fn a_second_process_of_the_same_incarnation_is_refused() {
    let mut cluster = Cluster::up(2);
    let (_raw, answer) = greet(&mut cluster, 7002, &hello(Channel::Control, 1, 2, 77, 0));
    assert_eq!(refusal(answer), Some(HandshakeRefusal::Duplicate { incarnation: Incarnation(1) }));
    assert!(cluster.hosts[1].session(1).is_some());
}

#[test]
fn a_stale_listener_is_refused_by_the_dialler() {
    let mut cluster = Cluster::with(2, |options| {
        if options.node == NodeId(2) {
            options.incarnation = Incarnation(9);
        }
    });
    cluster.settle();
    cluster.hosts[1].stop();
    cluster.turns(10);
    let world = cluster.world.clone();
    cluster.hosts[1] = Host::new(&world, options(2, 2, 8));
    cluster.turns(100);
    assert!(cluster.hosts[0].session(2).is_none());
    assert!(cluster.hosts[0].refusals().contains(&Refusal::Handshake(HandshakeRefusal::Stale { seen: Incarnation(9) })));
}

#[test]
fn h94_strangers_are_told_why_they_are_refused() {
    let mut cluster = Cluster::up(2);
    let cases = [
        (Hello { cluster: ClusterId(5), ..hello(Channel::Control, 1, 2, 77, 0) }, HandshakeRefusal::Cluster),
        (hello(Channel::Control, 1, 3, 77, 0), HandshakeRefusal::Target { to: NodeId(3) }),
        (hello(Channel::Control, 8, 2, 77, 0), HandshakeRefusal::UnknownPeer { from: NodeId(8) }),
        (hello(Channel::Bulk, 8, 2, 77, 0), HandshakeRefusal::UnknownPeer { from: NodeId(8) }),
        (hello(Channel::Control, 2, 2, 77, 0), HandshakeRefusal::OwnId { id: NodeId(2) }),
        (hello(Channel::Control, 2, 7, 77, 0), HandshakeRefusal::OwnId { id: NodeId(2) }),
        (Hello { cluster: ClusterId(5), ..hello(Channel::Client, 0, 0, 77, 0) }, HandshakeRefusal::Cluster),
        (hello(Channel::Client, 0, 1, 77, 0), HandshakeRefusal::Target { to: NodeId(1) }),
    ];
    for (n, (hello, expected)) in cases.into_iter().enumerate() {
        let (raw, answer) = greet(&mut cluster, 7002, &hello);
        assert_eq!(refusal(answer), Some(expected));
        assert!(raw.closed());
        let host = &cluster.hosts[1];
        assert_eq!(host.refusals().last(), Some(&Refusal::Handshake(expected)));
        assert_eq!(host.net.counters().refusals().find(|(name, _)| *name == "handshake").unwrap().1, n as u64 + 1);
    }
    // The node with the lower id dials; one with a higher id is sent away.
    let (_raw, answer) = greet(&mut cluster, 7001, &hello(Channel::Control, 2, 1, 77, 0));
    assert_eq!(refusal(answer), Some(HandshakeRefusal::Direction));
    // Another version: both sides learn both versions.
    let raw = Raw::connect(&cluster.world, addr(7002));
    let mut bytes = [0; HELLO_BYTES];
    hello(Channel::Control, 1, 2, 77, 0).encode_as(PROTOCOL_VERSION + 1, &mut bytes);
    raw.write(&bytes);
    cluster.turns(4);
    let answer = Hello::decode(raw.read().first_chunk().unwrap()).unwrap();
    let expected = HandshakeRefusal::Version { ours: Versions::ours(Channel::Control), theirs: (PROTOCOL_VERSION + 1).into() };
    assert_eq!(refusal(Some(answer)), Some(expected));
    assert_eq!(cluster.hosts[1].downs(), [], "and none of it touched the session");
    assert!(cluster.hosts[0].session(2).is_some());
}

#[test]
fn two_nodes_with_one_id_are_reported_on_both_sides() {
    // Node 1 believes that node 2 listens where another node 1 does.
    let world = World::new();
    let mut here = options(1, 2, 1);
    here.peers = vec![(NodeId(2), addr(7009).into())];
    let mut there = options(1, 3, 1);
    there.listen = addr(7009);
    let mut cluster = Cluster { world: world.clone(), hosts: vec![Host::new(&world, here), Host::new(&world, there)] };
    cluster.turns(20);
    assert_eq!(cluster.hosts[1].refusals().first(), Some(&Refusal::Handshake(HandshakeRefusal::OwnId { id: NodeId(1) })));
    assert_eq!(cluster.hosts[0].refusals().first(), Some(&Refusal::ByPeer(HandshakeRefusal::OwnId { id: NodeId(1) })));
}

#[test]
fn h94_another_cluster_at_a_peers_address_gets_no_session() {
    let mut cluster = Cluster::with(2, |options| {
        if options.node == NodeId(2) {
            options.cluster = ClusterId(6);
        }
    });
    cluster.turns(200);
    assert!(cluster.hosts.iter().all(|host| host.net.counters().sessions_up == 0));
    assert_eq!(cluster.hosts[1].refusals()[0], Refusal::Handshake(HandshakeRefusal::Cluster));
    assert_eq!(cluster.hosts[0].refusals()[0], Refusal::ByPeer(HandshakeRefusal::Cluster));
}

/// Plays two recorded streams, control and bulk, at node 2.
fn replay(cluster: &mut Cluster, recorded: &[Vec<u8>]) -> (Raw, Raw) {
    let control = Raw::connect(&cluster.world, addr(7002));
    control.write(&recorded[0]);
    cluster.turns(4);
    let bulk = Raw::connect(&cluster.world, addr(7002));
    bulk.write(&recorded[1]);
    cluster.turns(4);
    (control, bulk)
}

#[test]
fn h94_a_recorded_session_played_back_changes_nothing() {
    let mut cluster = Cluster::up(2);
    cluster.hosts[0].send(2, &message(1)).unwrap();
    cluster.turns(3);
    let recorded = cluster.world.borrow().recorded(addr(7001));
    assert!(recorded[0].len() > HELLO_BYTES);
    cluster.hosts[1].take_events();

    // While the session lives.
    let session = cluster.hosts[1].session(1);
    replay(&mut cluster, &recorded);
    assert_eq!(cluster.hosts[1].session(1), session);
    assert_eq!(cluster.hosts[1].messages(), []);
    assert!(cluster.hosts[1].refusals().contains(&Refusal::Handshake(HandshakeRefusal::NotOpen)));

    // And at a node 2 that has restarted and knows nothing, while node 1 is away.
    cluster.hosts[0].stop();
    cluster.hosts[1].stop();
    cluster.turns(10);
    let world = cluster.world.clone();
    cluster.hosts[1] = Host::new(&world, options(2, 2, 2));
    cluster.turns(2);
    replay(&mut cluster, &recorded);
    assert_eq!(cluster.hosts[1].net.counters().sessions_up, 0);
    assert_eq!(cluster.hosts[1].messages(), []);
}

/// The first record of a session, as a test's own node 1 sends it.
fn introduction(session: u64) -> Vec<u8> {
    record(session, 1, ControlPayload::Parameters(Parameters::default()))
}

fn record(session: u64, sequence: u64, payload: ControlPayload) -> Vec<u8> {
    let mut bytes = [0; 80];
    let length = Control { session: SessionId(session), sequence, payload }.encode(&mut bytes).unwrap();
    bytes[..length].to_vec()
}

/// A test's own node 1, in session with node 2.
fn handshake(cluster: &mut Cluster, session: u64) -> (Raw, Raw) {
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
fn lone_node_2() -> Cluster {
    let world = World::new();
    let hosts = vec![Host::new(&world, options(2, 2, 1))];
    let mut cluster = Cluster { world, hosts };
    cluster.turns(2);
    cluster
}

#[test]
fn messages_of_another_session_or_out_of_sequence_end_the_session() {
    let said = |session: u64, sequence: u64| record(session, sequence, ControlPayload::Message(message(sequence)));
    let cases = [
        (vec![said(5, 2), said(5, 2)], Refusal::Sequence { expected: 3, theirs: 2 }),
        (vec![said(5, 2), said(5, 4)], Refusal::Sequence { expected: 3, theirs: 4 }),
        (vec![said(5, 2), said(6, 3)], Refusal::Session { ours: SessionId(5), theirs: SessionId(6) }),
        (
            vec![said(5, 2), record(5, 3, ControlPayload::Parameters(Parameters::default()))],
            Refusal::Control(ControlError::Order { kind: 0x7e }),
        ),
    ];
    for (records, refusal) in cases {
        let mut cluster = lone_node_2();
        let (control, bulk) = handshake(&mut cluster, 5);
        for bytes in records {
            control.write(&bytes);
        }
        cluster.turns(4);
        let host = &cluster.hosts[0];
        assert_eq!(host.messages(), [message(2)], "what was right was delivered, and no more");
        assert_eq!(host.downs(), [DownReason::Refused(refusal)]);
        assert!(control.closed() && bulk.closed(), "both connections share one fate");
    }
}

#[test]
fn a_session_begins_with_parameters_or_not_at_all() {
    for first in [ControlPayload::Keepalive, ControlPayload::Message(message(1))] {
        let mut cluster = lone_node_2();
        let (control, welcome) = greet(&mut cluster, 7002, &hello(Channel::Control, 1, 2, 5, 0));
        let (_bulk, _) = greet(&mut cluster, 7002, &hello(Channel::Bulk, 1, 2, 5, welcome.unwrap().nonce));
        control.write(&record(5, 1, first));
        cluster.turns(3);
        assert!(control.closed());
        let host = &cluster.hosts[0];
        assert!(matches!(host.refusals()[..], [Refusal::Control(ControlError::Order { .. })]), "{:?}", host.refusals());
        assert_eq!((host.messages().len(), host.downs().len()), (0, 0), "nobody hears of a session that was never up");
    }
}

#[test]
fn half_a_handshake_or_a_wrong_nonce_opens_no_session() {
    let mut cluster = lone_node_2();
    let (_control, welcome) = greet(&mut cluster, 7002, &hello(Channel::Control, 1, 2, 5, 0));
    let nonce = welcome.unwrap().nonce;
    for wrong in [hello(Channel::Bulk, 1, 2, 5, nonce ^ 1), hello(Channel::Bulk, 1, 2, 6, nonce), hello(Channel::Bulk, 1, 2, 5, 0)] {
        let (_bulk, answer) = greet(&mut cluster, 7002, &wrong);
        assert_eq!(refusal(answer), Some(HandshakeRefusal::NotOpen));
    }
    assert_eq!(cluster.hosts[0].net.counters().sessions_up, 0);
    // The right one still does.
    let (_bulk, answer) = greet(&mut cluster, 7002, &hello(Channel::Bulk, 1, 2, 5, nonce));
    assert_eq!(refusal(answer), None);
    // And once it is used, it is used up.
    let (_bulk, answer) = greet(&mut cluster, 7002, &hello(Channel::Bulk, 1, 2, 5, nonce));
    assert_eq!(refusal(answer), Some(HandshakeRefusal::NotOpen));
}

#[test]
fn a_live_session_outlasts_a_handshake_that_is_never_completed() {
    let mut cluster = lone_node_2();
    let (control, _bulk) = handshake(&mut cluster, 5);
    let (half, _) = greet(&mut cluster, 7002, &hello(Channel::Control, 1, 2, 6, 0));
    cluster.turns(1500);
    control.write(&record(5, 2, ControlPayload::Keepalive));
    cluster.turns(1000);
    assert!(half.closed(), "given up after the handshake timeout");
    assert_eq!(cluster.hosts[0].session(1), Some(SessionId(5)));
}

#[test]
fn silence_ends_a_session_and_keepalives_prevent_it() {
    let mut cluster = Cluster::up(2);
    cluster.turns(10_000);
    let counters = cluster.hosts[0].net.counters();
    assert_eq!(counters.sessions_up, 1, "ten idle seconds");
    assert!((15..=25).contains(&counters.keepalives_out), "about one each half second, not {}", counters.keepalives_out);
    // Node 2 falls silent: it still runs, but nothing is heard of it.
    cluster.world.borrow_mut().deaf.insert(7001);
    cluster.turns(2100);
    assert_eq!(cluster.hosts[0].downs(), [DownReason::Silent]);
    cluster.world.borrow_mut().deaf.clear();
    cluster.settle();
}

#[test]
fn a_peer_that_is_away_is_dialled_with_growing_pauses() {
    let world = World::new();
    let mut cluster = Cluster { world: world.clone(), hosts: vec![Host::new(&world, options(1, 2, 1))] };
    cluster.turns(10_000);
    let dials = cluster.hosts[0].net.counters().dials;
    assert!((10..=30).contains(&dials), "{dials} dials in ten seconds: 20 ms doubling to 1 s, half of it drawn");
    let next = cluster.hosts[0].net.deadline().unwrap();
    assert!(next > world.borrow().now, "nothing to do until the next attempt");
    // Back again: found within the longest pause.
    cluster.hosts.push(Host::new(&world, options(2, 2, 1)));
    cluster.turns(1010);
    assert!(cluster.hosts[0].session(2).is_some());
}

#[test]
fn an_address_that_never_answers_costs_a_bounded_number_of_attempts() {
    let world = World::new();
    world.borrow_mut().black_holes.insert(addr(7002));
    let mut cluster =
        Cluster { world: world.clone(), hosts: vec![Host::new(&world, options(1, 3, 1)), Host::new(&world, options(3, 3, 1))] };
    cluster.turns(60_000);
    assert!(cluster.hosts[0].io.outstanding() <= 16, "{} outstanding", cluster.hosts[0].io.outstanding());
    assert!(cluster.hosts[0].session(3).is_some(), "the others do not notice");
    assert_eq!(cluster.hosts[0].net.counters().sessions_up, 1);
}

#[test]
fn a_taken_address_is_fatal_and_says_so() {
    let world = World::new();
    let mut first = Host::new(&world, options(1, 1, 1));
    first.turn();
    let mut second = Host::new(&world, options(1, 1, 1));
    second.turn();
    assert!(matches!(second.events[..], [NetEvent::Fatal(NetError::AddressInUse { addr: a })] if a == addr(7001)));
    second.stop();
    second.turn();
    assert!(second.net.idle());
    assert!(matches!(first.events[..], [NetEvent::Listening { addr: a }] if a == addr(7001)));
}

#[test]
fn h93_a_slow_greeting_is_given_up_and_many_cost_little() {
    let mut cluster = Cluster::up(2);
    let one = Raw::connect(&cluster.world, addr(7002));
    let bytes = encoded(&hello(Channel::Control, 1, 2, 5, 0));
    // One byte each 20 ms: 2.5 s for all of it.
    for byte in &bytes[..110] {
        one.write(&[*byte]);
        cluster.turns(20);
    }
    assert!(one.closed());
    assert!(cluster.hosts[1].refusals().contains(&Refusal::Slow));
    // A flood of silent connections: the newest are kept, the rest closed, and honest peers get through.
    let flood: Vec<Raw> = (0..500)
        .map(|_| {
            let raw = Raw::connect(&cluster.world, addr(7002));
            raw.write(b"KONT");
            cluster.turn();
            raw
        })
        .collect();
    cluster.turns(3);
    let open = flood.iter().filter(|raw| !raw.closed()).count();
    assert_eq!(open, MAX_GREETINGS);
    assert_eq!(cluster.hosts[1].net.counters().crowded_out, (500 - MAX_GREETINGS) as u64);
    cluster.world.borrow_mut().reset_all();
    cluster.turns(3);
    cluster.settle();
}

#[test]
fn messages_beyond_the_send_buffers_are_dropped_not_gathered() {
    let mut cluster = Cluster::up(3);
    cluster.world.borrow_mut().deaf.insert(7002);
    cluster.world.borrow_mut().pipe_bytes = 1000;
    let mut full = 0;
    for n in 0..1000 {
        full += u64::from(cluster.hosts[0].send(2, &message(n)) == Err(SendError::Full));
        cluster.hosts[0].send(3, &message(n)).unwrap();
        if n % 10 == 0 {
            cluster.turn();
        }
    }
    assert!(full > 500);
    assert_eq!(cluster.hosts[0].net.counters().messages_dropped, full);
    cluster.turns(5);
    assert_eq!(cluster.hosts[2].messages().len(), 1000, "the other peer got all of them");
    // A peer that does not read for long loses its session.
    cluster.turns(2100);
    assert_eq!(cluster.hosts[0].session(2), None);
    assert!(cluster.hosts[0].session(3).is_some());
}

#[test]
fn events_that_nobody_takes_hold_the_senders_back_and_lose_nothing() {
    let mut cluster = Cluster::up(2);
    cluster.hosts[1].hold = true;
    let mut sent = 0;
    for _ in 0..200 {
        for _ in 0..20 {
            if cluster.hosts[0].send(2, &message(sent)).is_ok() {
                sent += 1;
            }
        }
        cluster.turn();
    }
    assert!(cluster.hosts[1].net.counters().messages_in < 1000);
    cluster.hosts[1].hold = false;
    cluster.run_until("all arrived", |c| c.hosts[1].net.counters().messages_in == sent);
    assert_eq!(cluster.hosts[1].messages(), (0..sent).map(message).collect::<Vec<_>>());
}

#[test]
fn wrong_first_bytes_are_counted_and_closed() {
    let mut cluster = Cluster::up(2);
    let raw = Raw::connect(&cluster.world, addr(7002));
    raw.write(&[b'G'; HELLO_BYTES]);
    cluster.turns(3);
    assert!(raw.closed());
    assert_eq!(raw.read(), [], "nothing is said to those who speak something else");
    assert_eq!(cluster.hosts[1].refusals(), [Refusal::Greeting(HelloError::Magic)]);
}

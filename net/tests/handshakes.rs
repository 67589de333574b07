//! Handshakes: how sessions come up, whatever happens on the way, and who gets none.

#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{ClusterId, Incarnation, NodeId, SessionId};
use kontiki_net::limits::{HELLO_BYTES, MAX_GREETINGS, PROTOCOL_VERSION};
use kontiki_net::{Channel, ControlPayload, HandshakeRefusal, Hello, HelloError, Refusal, Versions};
use support::greeting::{encoded, greet, handshake, hello, introduction, lone_node_2, message, record, refusal};
use support::{Cluster, Faults, Host, Raw, World, addr, options};

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
fn wrong_first_bytes_are_counted_and_closed() {
    let mut cluster = Cluster::up(2);
    let raw = Raw::connect(&cluster.world, addr(7002));
    raw.write(&[b'G'; HELLO_BYTES]);
    cluster.turns(3);
    assert!(raw.closed());
    assert_eq!(raw.read(), [], "nothing is said to those who speak something else");
    assert_eq!(cluster.hosts[1].refusals(), [Refusal::Greeting(HelloError::Magic)]);
}

//! Sessions: what they carry, and how they end.

#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{Incarnation, Message, NodeId, SessionId};
use kontiki_net::limits::{FEATURE_LEVEL, HELLO_BYTES};
use kontiki_net::{Channel, ControlError, ControlPayload, DownReason, NetError, NetEvent, Parameters, Refusal, SendError};
use support::greeting::{greet, handshake, hello, introduction, lone_node_2, message, record};
use support::{Cluster, Faults, Host, World, addr, options};

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
        // The frame limit is what counts, and what this program is.
        (options.parameters.takes_frame_bytes, options.parameters.feature_level) = (7, 99);
    });
    cluster.run_until("up", |c| c.hosts.iter().all(|host| host.net.counters().sessions_up == 1));
    cluster.turn();
    for (host, peer) in [(0, 2u64), (1, 1)] {
        let expected = Parameters {
            takes_frame_bytes: 4096 << peer,
            heartbeat_ms: peer as u32,
            feature_level: FEATURE_LEVEL,
            ..Parameters::default()
        };
        let first = cluster.hosts[host].events.iter().find(|event| !matches!(event, NetEvent::Listening { .. }));
        assert!(matches!(first, Some(NetEvent::SessionUp { parameters, .. }) if *parameters == expected), "{first:?}");
        assert_eq!(cluster.hosts[host].net.parameters(NodeId(peer)), Some(expected));
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

//! Peers by name: looked up for each connection, all addresses tried, and nobody waits for the resolver.

#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::NodeId;
use kontiki_net::{Address, Unreached};
use support::{Cluster, Host, MS, addr, options};

const NAME: &str = "two.test:7002";

/// Nodes 1 to `n`; node 1 knows node 2 by name, which looks for it where nobody is.
fn by_name(n: u64) -> Cluster {
    Cluster::with(n, |options| match options.node {
        NodeId(1) => options.peers[1].1 = NAME.parse().unwrap(),
        NodeId(2) => options.peers[0].1 = addr(7999).into(),
        _ => {}
    })
}

/// Node 2 comes up at another address, and its name leads there.
fn node_2_moves(cluster: &mut Cluster) {
    cluster.hosts[1].stop();
    cluster.turns(5);
    let world = cluster.world.clone();
    let mut moved = options(2, 2, 2);
    moved.listen = addr(7012);
    cluster.hosts[1] = Host::new(&world, moved);
    world.borrow_mut().names.insert(NAME.into(), vec![addr(7012)]);
    cluster.settle();
}

#[test]
fn a_name_is_looked_up_anew_for_each_connection() {
    let mut cluster = by_name(2);
    cluster.world.borrow_mut().names.insert(NAME.into(), vec![addr(7002)]);
    cluster.settle();
    assert_eq!(cluster.hosts[0].net.peer_addr(NodeId(2)), Some(NAME.parse::<Address>().unwrap()));
    node_2_moves(&mut cluster);
    assert!(cluster.hosts[0].net.counters().lookups >= 2);
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    let mut cluster = by_name(2);
    let mut world = cluster.world.borrow_mut();
    // One that nobody listens at, one that never answers, somebody else's, and its own.
    world.black_holes.insert(addr(7998));
    world.names.insert(NAME.into(), vec![addr(7999), addr(7998), addr(7001), addr(7002)]);
    let begun = world.now;
    drop(world);
    cluster.settle();
    let took_ms = cluster.world.borrow().now.since(begun) / MS;
    assert!(took_ms < 3000, "a handshake timeout for the silent one, and no pauses: {took_ms} ms");
    assert_eq!(cluster.hosts[0].net.counters().lookups, 1);
}

#[test]
fn a_name_that_is_not_known_yet_is_said_and_asked_for_again() {
    let mut cluster = by_name(2);
    cluster.turns(5000);
    assert!(matches!(cluster.hosts[0].net.unreached(NodeId(2)), Some((Unreached::NoAddress(_), _))));
    let lookups = cluster.hosts[0].net.counters().lookups;
    assert!((4..20).contains(&lookups), "with growing pauses: {lookups}");
    cluster.world.borrow_mut().names.insert(NAME.into(), vec![addr(7002)]);
    cluster.settle();
}

#[test]
fn a_resolver_that_does_not_answer_holds_up_nothing() {
    let mut cluster = by_name(3);
    cluster.world.borrow_mut().names.insert(NAME.into(), vec![]);
    cluster.turns(10_000);
    let host = &cluster.hosts[0];
    assert_eq!((host.net.counters().lookups, host.net.counters().sessions_down), (1, 0));
    assert!(host.session(3).is_some());
    assert!(matches!(host.net.unreached(NodeId(2)), Some((Unreached::Name, _))));
    // It answers in the end.
    cluster.world.borrow_mut().names.insert(NAME.into(), vec![addr(7002)]);
    cluster.settle();
    // And a node that stops does not wait for one that has not.
    cluster.world.borrow_mut().names.insert(NAME.into(), vec![]);
    cluster.hosts[1].stop();
    cluster.turns(50);
    cluster.hosts[0].stop();
    cluster.turns(10);
    assert!(cluster.hosts[0].net.idle());
    cluster.world.borrow_mut().names.insert(NAME.into(), vec![addr(7002)]);
    cluster.turns(2);
}

/// The resolver is down together with what broke the sessions: a peer that is where it was is reached all the same.
#[test]
fn a_peer_is_looked_for_where_it_was_last_while_its_name_is_not_known() {
    let mut cluster = by_name(2);
    cluster.world.borrow_mut().names.insert(NAME.into(), vec![addr(7002)]);
    cluster.settle();
    let begun = cluster.hosts[0].net.counters().sessions_up;
    // Nothing is known of the name; then it is not answered at all.
    cluster.world.borrow_mut().names.remove(NAME);
    cluster.world.borrow_mut().reset_all();
    cluster.run_until("it is back", |cluster| cluster.hosts[0].net.counters().sessions_up > begun && cluster.hosts[0].session(2).is_some());
    cluster.world.borrow_mut().names.insert(NAME.into(), vec![]);
    cluster.world.borrow_mut().reset_all();
    let begun = cluster.world.borrow().now;
    cluster
        .run_until("it is back again", |cluster| cluster.hosts[0].net.counters().sessions_up > 2 && cluster.hosts[0].session(2).is_some());
    let took_ms = cluster.world.borrow().now.since(begun) / MS;
    assert!(took_ms < 5_000, "patience with the resolver, and no more: {took_ms} ms");
    // An answer that comes after that does no harm, and whoever has moved is found once the name is known again.
    cluster.world.borrow_mut().names.insert(NAME.into(), vec![addr(7002)]);
    cluster.turns(20);
    assert_eq!(cluster.hosts[0].net.counters().sessions_up, 3);
    node_2_moves(&mut cluster);
}

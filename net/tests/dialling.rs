//! Who dials whom, and what becomes of two connections between the same two nodes.

#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{Incarnation, NodeId, SessionId};
use kontiki_net::limits::HELLO_BYTES;
use kontiki_net::{Channel, DownReason, HandshakeRefusal, Hello, HelloKind, Options, Refusal, Unreached};
use support::greeting::{encoded, greet, hello, introduction, message, refusal};
use support::{Cluster, Host, MS, Raw, World, addr, options};

/// Whose handshake made the session that is open between nodes 1 and 2.
fn dialler(cluster: &Cluster) -> u64 {
    let session = cluster.hosts[0].session(2).unwrap();
    let began = |node: u64| {
        let recorded = cluster.world.borrow().recorded(addr(7000 + node as u16));
        let hellos = recorded.iter().filter_map(|stream| stream.first_chunk::<HELLO_BYTES>()).filter_map(|bytes| Hello::decode(bytes).ok());
        hellos.into_iter().any(|hello| hello.kind == HelloKind::Hello && hello.session == session)
    };
    [1, 2].into_iter().find(|&node| began(node)).unwrap()
}

/// All timeouts a good part shorter, and with them what a test has to wait for.
fn quick(options: &mut Options) {
    (options.idle_timeout_ns, options.handshake_timeout_ns) = (400 * MS, 400 * MS);
    (options.backoff_min_ns, options.backoff_max_ns) = (5 * MS, 150 * MS);
}

/// Nodes 1 and 2, whose connections begin when a test says so, with latencies up to the longest: drawn from a seed.
fn apart(seed: u64, longest_ns: u64) -> Cluster {
    let cluster = Cluster::with(2, quick);
    let mut world = cluster.world.borrow_mut();
    world.latency = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), longest_ns);
    world.black_holes.extend([addr(7001), addr(7002)]);
    drop(world);
    cluster
}

/// From now on nodes are found.
fn found(cluster: &Cluster, node: u64) {
    cluster.world.borrow_mut().black_holes.remove(&addr(7000 + node as u16));
}

fn sessions_agree(cluster: &Cluster) -> bool {
    let [one, two] = [cluster.hosts[0].session(2), cluster.hosts[1].session(1)];
    one.is_some() && one == two
}

#[test]
fn the_lower_id_dials_and_the_other_one_lets_it() {
    let mut cluster = Cluster::up(3);
    cluster.turns(10_000);
    let dials = |cluster: &Cluster| cluster.hosts.iter().map(|host| host.net.counters().dials).collect::<Vec<_>>();
    assert_eq!(dials(&cluster), [2, 1, 0]);
    // Sessions that break are the lower id's too.
    cluster.world.borrow_mut().reset_all();
    cluster.turns(3);
    cluster.settle();
    cluster.turns(10_000);
    assert_eq!(dials(&cluster), [4, 2, 0], "one connection for each pair");
    assert!(cluster.hosts.iter().all(|host| host.net.counters().crossed == 0));
}

#[test]
fn the_higher_id_dials_where_nobody_has_for_an_idle_timeout() {
    let mut cluster = Cluster::new(2);
    // The way from 1 to 2 leads nowhere: 2 is behind a router that lets nobody in.
    cluster.world.borrow_mut().black_holes.insert(addr(7002));
    let begun = cluster.world.borrow().now;
    cluster.settle();
    let took_ms = cluster.world.borrow().now.since(begun) / MS;
    assert!((2000..2100).contains(&took_ms), "after the idle timeout, and at once then: {took_ms} ms");
    assert_eq!(dialler(&cluster), 2);
    cluster.turns(60_000);
    let counters = [0, 1].map(|host| cluster.hosts[host].net.counters().clone());
    assert!(counters.iter().all(|c| (c.sessions_up, c.sessions_down) == (1, 0)), "and it stays");
    assert!(counters[0].dials < 5, "nobody looks for who is there: {} dials", counters[0].dials);
    for (from, to) in [(0, 2), (1, 1)] {
        cluster.hosts[from].send(to, &message(from as u64)).unwrap();
    }
    cluster.turns(3);
    assert_eq!((cluster.hosts[0].messages().len(), cluster.hosts[1].messages().len()), (1, 1));
    // Whoever had made it does not wait for so long again.
    cluster.world.borrow_mut().reset_all();
    cluster.turns(1);
    let begun = cluster.world.borrow().now;
    cluster.settle();
    assert!(cluster.world.borrow().now.since(begun) / MS < 100);
}

#[test]
fn one_that_knows_an_address_is_enough() {
    for knows in [1, 2] {
        let mut cluster = Cluster::new(2);
        let other = 3 - knows;
        let now = cluster.world.borrow().now;
        let Host { net, io, .. } = &mut cluster.hosts[other as usize - 1];
        net.set_peer(NodeId(knows), None, now, io).unwrap();
        cluster.settle();
        assert_eq!(dialler(&cluster), knows);
        assert_eq!(cluster.hosts[other as usize - 1].net.counters().dials, 0);
    }
}

#[test]
fn where_nobody_knows_an_address_both_say_that_they_hear_nothing() {
    let mut cluster = Cluster::new(2);
    for (host, other) in [(0, 2), (1, 1)] {
        let now = cluster.world.borrow().now;
        let Host { net, io, .. } = &mut cluster.hosts[host];
        net.set_peer(NodeId(other), None, now, io).unwrap();
    }
    cluster.turns(6000);
    for (host, other) in [(0, 2), (1, 1)] {
        let net = &cluster.hosts[host].net;
        assert!(matches!(net.unreached(NodeId(other)), Some((Unreached::NotHeard, _))), "{:?}", net.unreached(NodeId(other)));
        assert_eq!(net.counters().dials, 0);
    }
}

/// Both begin in the same instant, and bytes take the same time either way.
#[test]
fn of_two_connections_at_the_same_time_the_lower_ids_stays() {
    for latency_ms in 0..20 {
        let mut cluster = apart(1, 0);
        for connection in 0..8 {
            let faults = support::Faults { delay_ns: latency_ms * MS, ..Default::default() };
            cluster.world.borrow_mut().plan.insert(connection, (faults.clone(), faults));
        }
        // Each has been looking for the other.
        cluster.run_until("both dial", |c| c.hosts.iter().all(|host| host.net.counters().dials > 0));
        cluster.turns(10);
        (1..=2).for_each(|node| found(&cluster, node));
        cluster.settle();
        assert!(sessions_agree(&cluster));
        assert_eq!(dialler(&cluster), 1, "{latency_ms} ms");
        cluster.turns(2000);
        for host in &cluster.hosts {
            let counters = host.net.counters();
            assert_eq!((counters.sessions_up, counters.sessions_down), (1, 0), "{latency_ms} ms: and nothing becomes of the other");
            // (An attempt that was given up before it was found connects, and says nothing.)
            let refused: Vec<_> =
                host.net.refused().iter().map(|met| met.reason).filter(|why| *why != Refusal::Gone { bytes: 0 }).collect();
            assert_eq!(refused, [], "nothing was wrong");
        }
    }
}

/// Whatever the latencies, and whoever begins by how much sooner: one session comes up, is the same on both sides, and
/// stays. A session that is up is never closed for another one.
#[test]
fn connections_that_cross_end_in_one_session() {
    let (mut of_each, mut crossed) = ([0, 0], 0);
    for seed in 0..400u64 {
        let mut cluster = apart(seed, (1 + seed % 40) * MS);
        cluster.run_until("both dial", |c| c.hosts.iter().all(|host| host.net.counters().dials > 0));
        cluster.turns((seed * 7 % 50) as usize);
        let first = 1 + seed % 2;
        found(&cluster, first);
        cluster.turns((seed / 2 % 80) as usize);
        found(&cluster, 3 - first);
        cluster.run_until("a session", sessions_agree);
        let session = cluster.hosts[0].session(2);
        of_each[dialler(&cluster) as usize - 1] += 1;
        cluster.turns(1000);
        assert_eq!(cluster.hosts[0].session(2), session, "seed {seed}: it stays");
        for host in &cluster.hosts {
            let counters = host.net.counters();
            assert_eq!((counters.sessions_up, counters.sessions_down), (1, 0), "seed {seed}");
            crossed += counters.crossed;
        }
    }
    assert!(of_each.iter().all(|&n| n > 50) && crossed > 20, "both happen, and crossings do: {of_each:?}, {crossed}");
}

/// The same with restarts in between, with and without a word, and connections that break on one side: in the end there
/// is one session between the newest processes.
#[test]
fn connections_that_cross_restarts_end_in_one_session() {
    for seed in 0..200u64 {
        let mut cluster = apart(seed, (1 + seed % 40) * MS);
        cluster.turns((1 + seed % 3) as usize * 250);
        (1..=2).for_each(|node| found(&cluster, node));
        let mut incarnations = [1, 1];
        for step in 0..3 {
            let drawn = seed.wrapping_mul(31).wrapping_add(step).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
            cluster.turns((drawn % 150) as usize);
            let who = (drawn >> 8) as usize % 2;
            if drawn >> 9 & 1 == 0 {
                // With a word, which may be late.
                cluster.hosts[who].stop();
                cluster.turns(3);
            } else {
                // Its power fails: nobody is told. It comes back at once, where it was.
                cluster.world.borrow_mut().power_cut(addr(7001 + who as u16));
            }
            incarnations[who] += 1;
            let mut restarted = options(who as u64 + 1, 2, incarnations[who]);
            quick(&mut restarted);
            let world = cluster.world.clone();
            std::mem::forget(std::mem::replace(&mut cluster.hosts[who], Host::new(&world, restarted)));
        }
        cluster.run_until("a session", sessions_agree);
        // What an older process had under way is over by then.
        cluster.turns(1500);
        cluster.run_until("a session", sessions_agree);
        let session = cluster.hosts[0].session(2);
        cluster.hosts.iter_mut().for_each(|host| drop(host.take_events()));
        cluster.turns(2000);
        assert_eq!(cluster.hosts[0].session(2), session, "seed {seed}: it stays");
        assert!(sessions_agree(&cluster) && cluster.hosts.iter().all(|host| host.downs().is_empty()), "seed {seed}");
    }
}

/// Node 1 alone; the test plays node 2, which has the higher id.
fn lone_node_1() -> Cluster {
    let world = World::new();
    world.borrow_mut().black_holes.insert(addr(7002));
    let hosts = vec![Host::new(&world, options(1, 2, 1))];
    let mut cluster = Cluster { world, hosts };
    cluster.turns(2);
    cluster
}

fn of_node_2(channel: Channel, session: u64, nonce: u64, incarnation: u64, process_number: u64) -> Hello {
    Hello { incarnation: Incarnation(incarnation), process_number, ..hello(channel, 2, 1, session, nonce) }
}

/// A whole handshake of a process of node 2; what was refused of it.
fn dial_node_1(cluster: &mut Cluster, session: u64, incarnation: u64, number: u64) -> (Option<HandshakeRefusal>, Raw, Option<Raw>) {
    let (control, answer) = greet(cluster, 7001, &of_node_2(Channel::Control, session, 0, incarnation, number));
    let answer = answer.unwrap();
    if let Some(refused) = refusal(Some(answer)) {
        return (Some(refused), control, None);
    }
    let (bulk, answer) = greet(cluster, 7001, &of_node_2(Channel::Bulk, session, answer.nonce, incarnation, number));
    control.write(&introduction(session));
    cluster.turns(3);
    (refusal(answer), control, Some(bulk))
}

/// The other side has lost the session, and this one has not noticed.
#[test]
fn who_dials_anew_has_lost_its_session_and_gets_another_at_once() {
    let mut cluster = lone_node_1();
    let (refused, control, bulk) = dial_node_1(&mut cluster, 5, 1, 99);
    assert_eq!((refused, cluster.hosts[0].session(2)), (None, Some(SessionId(5))));
    let (refused, _control, _bulk) = dial_node_1(&mut cluster, 6, 1, 99);
    assert_eq!((refused, cluster.hosts[0].session(2)), (None, Some(SessionId(6))));
    assert!(control.closed() && bulk.unwrap().closed(), "exactly one is live");
    assert_eq!(cluster.hosts[0].downs(), [DownReason::Replaced]);
}

/// Of two processes of one node: the older one never takes the newer one's place, and the newer one takes the older
/// one's once that is silent. So it was where the lower id dials; so it is where it is dialled.
#[test]
fn an_older_process_that_dials_is_refused_and_a_newer_one_waits_for_silence() {
    let mut cluster = lone_node_1();
    let (refused, control, _bulk) = dial_node_1(&mut cluster, 5, 7, 99);
    assert_eq!(refused, None);
    let (refused, ..) = dial_node_1(&mut cluster, 6, 6, 98);
    assert_eq!(refused, Some(HandshakeRefusal::Stale { seen: Incarnation(7) }));
    let (refused, ..) = dial_node_1(&mut cluster, 7, 7, 97);
    assert_eq!(refused, Some(HandshakeRefusal::Duplicate { incarnation: Incarnation(7) }));
    let (refused, ..) = dial_node_1(&mut cluster, 8, 8, 96);
    assert_eq!(refused, Some(HandshakeRefusal::Occupied { incarnation: Incarnation(7) }));
    assert_eq!(cluster.hosts[0].session(2), Some(SessionId(5)));
    cluster.turns(1100);
    let (refused, _control, _bulk) = dial_node_1(&mut cluster, 9, 8, 96);
    assert_eq!((refused, cluster.hosts[0].session(2)), (None, Some(SessionId(9))), "half of the idle timeout");
    assert!(control.closed());
}

/// While its own connection is answered by the same process, and only then, the lower id refuses the other's.
#[test]
fn the_lower_id_decides_by_who_has_answered_it() {
    for answered_by in [None, Some((1, 99)), Some((1, 98))] {
        let world = World::new();
        let mut cluster = Cluster { world: world.clone(), hosts: vec![Host::new(&world, options(1, 2, 1))] };
        let listener = support::Listener::new(&world, addr(7002));
        cluster.turns(4);
        // Node 1 dials.
        let ours = listener.accept().unwrap();
        let asked = Hello::decode(ours.read().first_chunk().unwrap()).unwrap();
        if let Some((incarnation, number)) = answered_by {
            let welcome = Hello { kind: HelloKind::Welcome, ..of_node_2(Channel::Control, asked.session.0, 4711, incarnation, number) };
            ours.write(&encoded(&welcome));
            cluster.turns(3);
        }
        let (refused, control, _bulk) = dial_node_1(&mut cluster, 5, 1, 99);
        let crosses = answered_by == Some((1, 99));
        assert_eq!(refused, crosses.then_some(HandshakeRefusal::Crossed), "{answered_by:?}");
        let counters = cluster.hosts[0].net.counters();
        assert_eq!((counters.crossed, counters.refused()), (u64::from(crosses), 0));
        assert_eq!(cluster.hosts[0].session(2), (!crosses).then_some(SessionId(5)));
        assert_eq!(ours.closed(), !crosses, "it gives up its own where it takes the other's");
        if crosses {
            // Its own leads nowhere after all: then the other's is as good.
            cluster.turns(2100);
            let (refused, ..) = dial_node_1(&mut cluster, 6, 1, 99);
            assert_eq!((refused, cluster.hosts[0].session(2)), (None, Some(SessionId(6))));
        }
        drop(control);
    }
}

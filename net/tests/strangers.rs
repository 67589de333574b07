//! Whoever reaches the port can say anything: it locks nobody out, ends no session that lives, and does not fill the
//! log.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};

use kontiki_core::{Incarnation, NodeId, SessionId};
use kontiki_net::limits::{HELLO_BYTES, MAX_INCARNATION_JUMP};
use kontiki_net::{Channel, Control, ControlPayload, HandshakeRefusal, Hello, NetEvent, Parameters, Unreached};
use support::{Cluster, Host, MS, Raw, World, addr, greeting, options};

fn hello(channel: Channel, incarnation: u64, session: u64, nonce: u64) -> Hello {
    Hello { incarnation: Incarnation(incarnation), ..greeting::hello(channel, 1, 2, session, nonce) }
}

fn greet(cluster: &mut Cluster, hello: &Hello) -> (Raw, Hello) {
    let raw = Raw::connect(&cluster.world, addr(7002));
    let mut bytes = [0; HELLO_BYTES];
    hello.encode(&mut bytes);
    raw.write(&bytes);
    cluster.turns(4);
    let answer = raw.read();
    let answer = Hello::decode(answer.first_chunk::<HELLO_BYTES>().unwrap()).unwrap();
    (raw, answer)
}

fn refusal(answer: &Hello) -> Option<HandshakeRefusal> {
    HandshakeRefusal::from_wire(answer.code, answer.detail)
}

/// A whole handshake as node 1, and the introduction behind it: its connections, and what the second greeting was told.
fn pose_as_node_1(cluster: &mut Cluster, incarnation: u64) -> (Raw, Raw, Option<HandshakeRefusal>) {
    let (control, welcome) = greet(cluster, &hello(Channel::Control, incarnation, 77, 0));
    assert_eq!(refusal(&welcome), None);
    let (bulk, answer) = greet(cluster, &hello(Channel::Bulk, incarnation, 77, welcome.nonce));
    let refused = refusal(&answer);
    if refused.is_none() {
        let control_record = Control { session: SessionId(77), sequence: 1, payload: ControlPayload::Parameters(Parameters::default()) };
        let mut record = [0; 256];
        let length = control_record.encode(&mut record).unwrap();
        control.write(&record[..length]);
        cluster.turns(3);
        assert_eq!(cluster.hosts[1].session(1), Some(SessionId(77)), "nobody can tell it from node 1");
    }
    (control, bulk, refused)
}

/// Anybody who reaches the port can shake hands once as node 1, in the last of all incarnations. When it is gone, node
/// 1 is let in again.
#[test]
fn one_false_handshake_does_not_lock_a_node_out() {
    let mut cluster = Cluster::up(2);
    let (control, welcome) = greet(&mut cluster, &hello(Channel::Control, u64::MAX, 77, 0));
    assert_eq!(refusal(&welcome), None);
    let (bulk, _) = greet(&mut cluster, &hello(Channel::Bulk, u64::MAX, 77, welcome.nonce));
    control.close();
    bulk.close();
    for _ in 0..400 {
        cluster.turns(5);
    }
    assert!(cluster.hosts[1].session(1).is_some(), "the real node 1 is let in");
}

#[test]
fn a_session_that_lives_keeps_its_place_against_any_greeting() {
    let mut cluster = Cluster::up(2);
    let session = cluster.hosts[1].session(1);
    for incarnation in [2, 1000, MAX_INCARNATION_JUMP + 2, u64::MAX - 1, u64::MAX] {
        let (_control, _bulk, refused) = pose_as_node_1(&mut cluster, incarnation);
        assert_eq!(refused, Some(HandshakeRefusal::Occupied { incarnation: Incarnation(1) }));
    }
    cluster.turns(3000);
    assert_eq!(cluster.hosts[1].session(1), session);
    assert_eq!((cluster.hosts[0].downs().len(), cluster.hosts[1].downs().len()), (0, 0));
    assert_eq!(cluster.hosts[1].net.counters().occupied, 5);
}

/// While node 1 is away somebody else speaks for it. Whether it leaves or stays and says nothing, in whatever
/// incarnation: node 1 is in session again soon after.
#[test]
fn who_spoke_for_a_node_while_it_was_away_does_not_keep_it_out() {
    for incarnation in [1, 2, 3, 4, 1000, MAX_INCARNATION_JUMP, MAX_INCARNATION_JUMP + 2, u64::MAX - 1, u64::MAX] {
        for leaves in [true, false] {
            let mut cluster = Cluster::up(2);
            cluster.hosts[0].stop();
            // As long as a process needs to start again.
            cluster.turns(600);
            let (control, bulk, refused) = pose_as_node_1(&mut cluster, incarnation);
            assert_eq!(refused, None);
            if leaves {
                control.close();
                bulk.close();
            }
            let world = cluster.world.clone();
            cluster.hosts[0] = Host::new(&world, options(1, 2, 2));
            let is_back = |c: &Cluster| c.hosts[0].session(2).is_some() && c.hosts[1].session(1) == c.hosts[0].session(2);
            for _ in 0..400 {
                cluster.turns(10);
            }
            assert!(is_back(&cluster), "incarnation {incarnation}, leaves: {leaves}");
            let counters = cluster.hosts[1].net.counters();
            assert_eq!(counters.incarnation_jumps > 0, incarnation > MAX_INCARNATION_JUMP + 1, "{incarnation}");
            assert_eq!(counters.incarnations_back > 0, (3..=MAX_INCARNATION_JUMP + 1).contains(&incarnation), "{incarnation}");
        }
    }
}

/// A node's own handshake is not ended by strangers that greet in its name while it is under way.
#[test]
fn greetings_in_a_nodes_name_do_not_end_its_handshake() {
    let world = World::new();
    let mut cluster = Cluster { world: world.clone(), hosts: vec![Host::new(&world, options(2, 2, 1))] };
    cluster.turns(2);
    let mut greet_alone = |hello: &Hello| {
        let raw = Raw::connect(&world, addr(7002));
        let mut bytes = [0; HELLO_BYTES];
        hello.encode(&mut bytes);
        raw.write(&bytes);
        cluster.turns(4);
        let answer = Hello::decode(raw.read().first_chunk::<HELLO_BYTES>().unwrap()).unwrap();
        (raw, answer)
    };
    let (_control, welcome) = greet_alone(&hello(Channel::Control, 1, 5, 0));
    let strangers: Vec<_> = (0..3).map(|n| greet_alone(&Hello { process_number: n, ..hello(Channel::Control, 1 + n, 6 + n, 0) })).collect();
    assert!(strangers.iter().all(|(_, answer)| refusal(answer).is_none()));
    let (_bulk, answer) = greet_alone(&hello(Channel::Bulk, 1, 5, welcome.nonce));
    assert_eq!(refusal(&answer), None);
}

/// Every line that is written, as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[test]
fn a_flood_of_strangers_is_one_line_a_reason_and_minute_with_a_count() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let mut cluster = Cluster::up(2);
    lines.take();
    let flood = |cluster: &mut Cluster, rounds: usize, what: &dyn Fn(&Raw) -> bool| {
        for _ in 0..rounds {
            let raw = Raw::connect(&cluster.world, addr(7002));
            what(&raw);
            cluster.turns(3);
            raw.close();
        }
        cluster.turns(3);
    };
    flood(&mut cluster, 200, &|_| true);
    assert_eq!(lines.take(), [""; 0], "connect and close: nothing was said, nothing is to be said");
    assert_eq!(cluster.hosts[1].net.counters().refused(), 200, "but it is counted");
    flood(&mut cluster, 500, &|raw| raw.write(&[b'z'; 200]));
    let mut bytes = [0; HELLO_BYTES];
    hello(Channel::Control, 0, 1, 0).encode(&mut bytes);
    flood(&mut cluster, 500, &|raw| raw.write(&bytes));
    let told = lines.take();
    assert_eq!(told.len(), 2, "a line a reason: {told:#?}");
    // A minute later: how many there were.
    cluster.turns(61_000);
    let told = lines.take();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|line| line.contains("count=499")), "{told:#?}");
    cluster.turns(120_000);
    assert_eq!(lines.take(), [""; 0]);
    assert_eq!(cluster.hosts[1].net.counters().refused(), 1200, "all are counted");
}

/// Whatever knocks: what it is taken for, at once where its first bytes tell, and one line of it and one entry in what
/// the operator asks for.
#[test]
fn every_kind_of_probe_is_one_line_and_one_entry_with_a_count() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let mut good = [0; HELLO_BYTES];
    hello(Channel::Control, 0, 1, 0).encode(&mut good);
    let mut damaged = good;
    damaged[100] ^= 1;
    let mut foreign = [0; HELLO_BYTES];
    Hello { cluster: kontiki_core::ClusterId(99), ..hello(Channel::Control, 1, 1, 0) }.encode(&mut foreign);
    let mut old = [0; HELLO_BYTES];
    hello(Channel::Control, 1, 1, 0).encode_as(1, &mut old);
    // What it says; whether it then goes or stays; what is made of it.
    let probes: [(&[u8], bool, &str); 11] = [
        (b"GET / HTTP/1.0\r\n\r\n", false, "greeting: magic"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", false, "greeting: magic"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", true, "greeting: magic"),
        (b"\n", false, "greeting: magic"),
        (&[0; 4000], false, "greeting: magic"),
        (&damaged, false, "greeting: checksum"),
        (&good[..100], true, "gone"),
        (b"KONT", true, "gone"),
        (&good[..127], false, "slow"),
        (&foreign, false, "handshake: cluster"),
        (&old, false, "handshake: version"),
    ];
    for (bytes, goes, kind) in probes {
        let mut cluster = Cluster::up(2);
        lines.take();
        let raws: Vec<Raw> = (0..10)
            .map(|_| {
                let raw = Raw::connect(&cluster.world, addr(7002));
                raw.write(bytes);
                cluster.turns(3);
                if goes {
                    raw.close();
                }
                cluster.turns(3);
                raw
            })
            .collect();
        if kind.starts_with("greeting") {
            assert!(goes || raws.iter().all(Raw::closed), "{bytes:?}: it is not waited for what follows");
        }
        cluster.turns(3_000);
        let told = lines.take();
        assert_eq!(told.len(), 1, "{kind}: {told:#?}");
        let refused: Vec<_> = cluster.hosts[1].net.refused().iter().map(|met| (met.reason.topic(), met.count, met.by_peer())).collect();
        assert_eq!(refused, [(kind, 10, false)]);
        cluster.turns(61_000);
        let told = lines.take();
        assert!(told.len() == 1 && told[0].contains("count=9"), "{kind}: {told:#?}");
    }
}

/// A node without descriptors takes no connection and makes none: counted, one line of each, why its peers are away,
/// and all is well once it has some.
#[test]
fn a_node_without_descriptors_says_so_once_and_comes_back() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let mut cluster = Cluster::up(3);
    lines.take();
    // The second: it dials the third, and the first dials it.
    cluster.world.borrow_mut().short.insert(addr(7002));
    cluster.world.borrow_mut().reset_all();
    cluster.turns(30_000);
    let told = lines.take();
    let of = |what: &str| told.iter().filter(|line| line.contains(what)).count();
    assert_eq!(of("connections cannot be accepted"), 1, "{told:#?}");
    assert!(cluster.hosts[1].net.counters().accepts_failed > 10);
    assert!(matches!(cluster.hosts[1].net.unreached(NodeId(3)), Some((Unreached::Connect(error), _)) if error.lacking().is_some()));
    assert!(cluster.hosts[0].net.unreached(NodeId(2)).is_some());
    assert_eq!(of("peer cannot be reached"), 4, "by each of the two pairs, on both sides: {told:#?}");
    cluster.world.borrow_mut().short.clear();
    cluster.turns(5_000);
    assert!(cluster.hosts[1].session(1).is_some() && cluster.hosts[1].session(3).is_some());
    cluster.turns(90_000);
    assert_eq!(lines.take().iter().filter(|line| line.contains("peer is back")).count(), 4);
}

/// Nodes that cannot come together: each says which side refuses, whom and why; and that is gone once they have come
/// together.
#[test]
fn both_sides_of_a_refusal_say_who_refuses_whom_and_why() {
    let world = World::new();
    let foreign = |incarnation| kontiki_net::Options { cluster: kontiki_core::ClusterId(99), ..options(2, 2, incarnation) };
    let mut cluster = Cluster { world: world.clone(), hosts: vec![Host::new(&world, options(1, 2, 1)), Host::new(&world, foreign(1))] };
    cluster.turns(20_000);
    for (host, by_peer) in [(0, true), (1, false)] {
        let other = NodeId(2 - host as u64);
        let net = &cluster.hosts[host].net;
        // Either dials, and either refuses: first the one that is dialled first.
        let met: Vec<_> = net.refused().iter().map(|met| (met.peer, met.by_peer(), met.reason.topic())).collect();
        let kind = |by_peer| (Some(other), by_peer, "handshake: cluster");
        assert_eq!(met, [kind(by_peer), kind(!by_peer)]);
        assert!(net.refused().iter().all(|met| met.count > 3), "{:?}", net.refused());
        let why = net.unreached(other).map(|(why, _)| why);
        let expected = if by_peer { Unreached::ByPeer(HandshakeRefusal::Cluster) } else { Unreached::Refused(HandshakeRefusal::Cluster) };
        assert_eq!(why, Some(expected));
    }
    cluster.hosts[1].stop();
    cluster.turns(600);
    cluster.hosts[1] = Host::new(&world, options(2, 2, 2));
    cluster.turns(5_000);
    assert!(cluster.hosts[0].session(2).is_some());
    assert_eq!(cluster.hosts[0].net.refused(), []);
}

/// A peer that is away is said once, with why, however long it is away, by either side; and again when it is back.
#[test]
fn a_peer_that_is_away_is_said_once_and_again_when_it_is_back() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let world = World::new();
    let mut cluster =
        Cluster { world: world.clone(), hosts: vec![Host::new(&world, options(1, 3, 1)), Host::new(&world, options(3, 3, 1))] };
    cluster.turns(600_000);
    let told = lines.take();
    let of = |told: &[String], what: &str| told.iter().filter(|line| line.contains(what)).count();
    assert_eq!((of(&told, "cannot be reached"), of(&told, "session up")), (2, 2), "{told:#?}");
    assert_eq!(told.len(), 4, "{told:#?}");
    assert_eq!(of(&told, "cannot connect to it"), 2, "each has looked for it, and says what came of that: {told:#?}");
    let events = |host: &Host| host.events.iter().filter(|e| matches!(e, NetEvent::Unreached { peer: NodeId(2), .. })).count();
    assert_eq!((events(&cluster.hosts[0]), events(&cluster.hosts[1])), (1, 1));
    assert!(matches!(cluster.hosts[0].net.unreached(NodeId(2)), Some((Unreached::Connect(_), _))));
    cluster.hosts.push(Host::new(&world, options(2, 3, 1)));
    cluster.turns(3000);
    let told = lines.take();
    assert_eq!(of(&told, "peer is back"), 2, "{told:#?}");
    assert_eq!(cluster.hosts[0].net.unreached(NodeId(2)), None);
}

/// A session that breaks again and again: a line each way a minute.
#[test]
fn a_flapping_session_does_not_fill_the_log() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let mut cluster = Cluster::up(2);
    lines.take();
    for _ in 0..100 {
        cluster.world.borrow_mut().reset_all();
        cluster.turns(3);
        cluster.settle();
    }
    assert!(cluster.hosts[0].net.counters().sessions_up > 100);
    let elapsed_ms = cluster.world.borrow().now.since(kontiki_core::Time(1_000_000 * MS)) / MS;
    let told = lines.take();
    // Of two nodes: up, down, and a count of each in every further minute.
    assert!(told.len() as u64 <= 4 * (2 + elapsed_ms / 60_000), "{} lines in {elapsed_ms} ms", told.len());
}

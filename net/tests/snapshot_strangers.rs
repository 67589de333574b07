//! Who may pull snapshots, and what becomes of those who say nonsense over their connections, on either side.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::{NodeId, SessionId};
use kontiki_net::limits::{HELLO_BYTES, MAX_WANT_CHUNKS, MAX_WANTS, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use kontiki_net::{
    Channel, ControlPayload, DownReason, HandshakeRefusal, NetEvent, Puller, Refusal, SnapshotId, SnapshotOffer, SnapshotRecord,
    SnapshotRefusal, SnapshotSays, SnapshotWant, SnapshotWireError,
};
use support::greeting::{encoded, greet, handshake, hello, lone_node_2, message, record, refusal};
use support::snapshots::{CHUNK, ID, Source, contents, fetch_downs, offer, pulls, said, serve_downs, want, wants};
use support::{Cluster, Raw, addr};

/// The test's own node 1 opens a snapshot's connection to node 2, in session 5.
fn puller(cluster: &mut Cluster) -> (Raw, Raw, Raw) {
    let (control, bulk) = handshake(cluster, 5);
    let nonce = nonce_of(cluster);
    let (raw, welcome) = greet(cluster, 7002, &hello(Channel::Snapshot, 1, 2, 5, nonce));
    assert_eq!(welcome.unwrap().code, 0);
    (control, bulk, raw)
}

/// The nonce that node 2 drew for its newest session.
fn nonce_of(cluster: &Cluster) -> u64 {
    let welcomes = cluster.world.borrow().recorded(addr(7002));
    let bulk = welcomes.iter().rev().find(|bytes| bytes.get(11) == Some(&(Channel::Bulk as u8))).unwrap();
    u64::from_le_bytes(bulk[72..80].try_into().unwrap())
}

/// A part of node 2's snapshot.
fn want_of_2(offset: u64, chunks: u32) -> SnapshotWant {
    SnapshotWant { id: SnapshotId { source: NodeId(2), ..ID }, ..want(offset, chunks) }
}

#[test]
fn only_the_peer_of_the_open_session_gets_a_snapshots_connection() {
    let mut cluster = lone_node_2();
    let early = greet(&mut cluster, 7002, &hello(Channel::Snapshot, 1, 2, 5, 0));
    assert_eq!(refusal(early.1), Some(HandshakeRefusal::NotOpen), "no session yet");
    let (_control, _bulk) = handshake(&mut cluster, 5);
    let nonce = nonce_of(&cluster);
    let right = hello(Channel::Snapshot, 1, 2, 5, nonce);
    for (wrong, why) in [
        (kontiki_net::Hello { nonce: nonce ^ 1, ..right }, HandshakeRefusal::NotOpen),
        (kontiki_net::Hello { session: SessionId(6), ..right }, HandshakeRefusal::NotOpen),
        (kontiki_net::Hello { process_number: 1, ..right }, HandshakeRefusal::Duplicate { incarnation: right.incarnation }),
        (kontiki_net::Hello { from: NodeId(3), ..right }, HandshakeRefusal::UnknownPeer { from: NodeId(3) }),
        (kontiki_net::Hello { from: NodeId(2), ..right }, HandshakeRefusal::OwnId { id: NodeId(2) }),
        (kontiki_net::Hello { to: NodeId(3), ..right }, HandshakeRefusal::Target { to: NodeId(3) }),
        (kontiki_net::Hello { cluster: kontiki_core::ClusterId(9), ..right }, HandshakeRefusal::Cluster),
    ] {
        let (_, answer) = greet(&mut cluster, 7002, &wrong);
        assert_eq!(refusal(answer), Some(why), "{wrong:?}");
    }
    let (_raw, answer) = greet(&mut cluster, 7002, &right);
    assert_eq!(answer.unwrap().code, 0);
    assert_eq!(cluster.hosts[0].session(1), Some(SessionId(5)), "none of it touched the session");
}

#[test]
fn a_puller_that_says_nonsense_loses_its_connection_and_nothing_else() {
    let (good, chunk) = (SnapshotSays::Want(want_of_2(0, 1)), SnapshotSays::Chunk { id: ID, offset: 0 });
    let mut damaged = said(1, good);
    damaged[75] ^= 1;
    let cases: [(Vec<u8>, SnapshotWireError); 8] = [
        (vec![7; 96], SnapshotWireError::Magic),
        (damaged, SnapshotWireError::Checksum),
        (said(2, good), SnapshotWireError::Field),
        (said(1, chunk), SnapshotWireError::Order { kind: 4 }),
        (said(1, SnapshotSays::Which { now: false }), SnapshotWireError::Order { kind: 1 }),
        (said(1, SnapshotSays::Refused(SnapshotRefusal::Gone)), SnapshotWireError::Order { kind: 5 }),
        (said(1, SnapshotSays::Want(want(0, 1))), SnapshotWireError::Field),
        (said(1, SnapshotSays::Want(SnapshotWant { chunks: u32::MAX, ..want_of_2(0, 1) })), SnapshotWireError::Field),
    ];
    for (bytes, error) in cases {
        let mut cluster = lone_node_2();
        let (control, bulk, raw) = puller(&mut cluster);
        raw.write(&bytes);
        cluster.turns(5);
        let host = &cluster.hosts[0];
        assert!(raw.closed() && !control.closed() && !bulk.closed(), "{error}");
        assert_eq!((wants(host), host.session(1)), (vec![], Some(SessionId(5))), "{error}");
        assert_eq!(serve_downs(host), [DownReason::Refused(Refusal::Snapshot(error))]);
        assert_eq!(host.net.counters().refused(), 1);
        // And it may try again.
        let nonce = nonce_of(&cluster);
        let (_raw, answer) = greet(&mut cluster, 7002, &hello(Channel::Snapshot, 1, 2, 5, nonce));
        assert_eq!(answer.unwrap().code, 0);
    }
}

#[test]
fn a_puller_that_wants_far_too_much_is_read_no_further_than_may_be_owed() {
    let mut cluster = lone_node_2();
    let (control, _bulk, raw) = puller(&mut cluster);
    let mut written = 0;
    for n in 1..=2000 {
        if raw.room() < SNAPSHOT_RECORD_BYTES {
            break;
        }
        raw.write(&said(n, SnapshotSays::Want(want_of_2(0, MAX_WANT_CHUNKS))));
        written += 1;
    }
    for n in 2..100 {
        control.write(&record(5, n, ControlPayload::Message(message(n))));
        cluster.turn();
    }
    assert!(written > MAX_WANTS);
    assert_eq!(wants(&cluster.hosts[0]).len(), MAX_WANTS, "no more than may be owed");
    assert!(cluster.hosts[0].messages().len() > 90, "its messages are heard all the same");
    // A newer connection takes the older one's place: there is one for each peer.
    let nonce = nonce_of(&cluster);
    for _ in 0..50 {
        let (_raw, answer) = greet(&mut cluster, 7002, &hello(Channel::Snapshot, 1, 2, 5, nonce));
        assert_eq!(answer.unwrap().code, 0);
    }
    assert!(raw.closed());
    assert!(cluster.hosts[0].io.outstanding() < 20, "{} outstanding", cluster.hosts[0].io.outstanding());
}

#[test]
fn a_source_that_sends_what_was_not_asked_for_loses_its_connection_and_nothing_arrives() {
    let bytes = |offset: u64| contents(offset * CHUNK);
    let chunk = |sequence, id, offset: u64| said(sequence, SnapshotSays::Chunk { id, offset: offset * CHUNK });
    let other = SnapshotId { digest: 5, ..ID };
    let not_wanted = SnapshotWireError::NotWanted;
    for (name, stream, error) in [
        ("another chunk", [chunk(1, ID, 1), bytes(1)].concat(), not_wanted),
        ("of another snapshot", [chunk(1, other, 0), bytes(0)].concat(), not_wanted),
        ("one too many", [chunk(1, ID, 0), bytes(0), chunk(2, ID, 1), bytes(1)].concat(), not_wanted),
        ("twice", [chunk(1, ID, 0), bytes(0), chunk(2, ID, 0)].concat(), not_wanted),
        ("out of sequence", [chunk(2, ID, 0), bytes(0)].concat(), SnapshotWireError::Field),
        ("a want", said(1, SnapshotSays::Want(want(0, 1))), SnapshotWireError::Order { kind: 3 }),
        ("another snapshot than it offered", said(1, SnapshotSays::This { id: ID, bytes: CHUNK }), SnapshotWireError::Order { kind: 2 }),
        ("garbage", vec![0xa5; 4096], SnapshotWireError::Magic),
    ] {
        // Node 1's own answer is held back, since its node takes no events; the test speaks in its place.
        let mut cluster = Cluster::up(2);
        cluster.hosts[0].hold = true;
        let connections = cluster.world.borrow().recorded(addr(7001)).len();
        let now = cluster.hosts[1].io_now();
        cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(0, 1)).unwrap();
        cluster.turns(8);
        let session = cluster.hosts[1].session(1).unwrap();
        let stream = resessioned(&stream, session);
        cluster.world.borrow_mut().inject(addr(7001), connections, &stream);
        for _ in 0..20 {
            cluster.turn();
        }
        let host = &cluster.hosts[1];
        let came = host.events.iter().filter(|event| matches!(event, NetEvent::SnapshotChunk { .. })).count();
        let honest = usize::from(matches!(name, "one too many" | "twice"));
        assert_eq!(came, honest, "{name}");
        assert_eq!(fetch_downs(host), [DownReason::Refused(Refusal::Snapshot(error))], "{name}");
        assert_eq!(host.session(1), Some(session), "{name}");
    }
}

/// The stream with its records in another session.
fn resessioned(stream: &[u8], session: SessionId) -> Vec<u8> {
    let mut bytes = stream.to_vec();
    let mut at = 0;
    while let Some(record) = bytes.get(at..at + SNAPSHOT_RECORD_BYTES).and_then(|bytes| bytes.first_chunk::<SNAPSHOT_RECORD_BYTES>()) {
        let Ok(record) = SnapshotRecord::decode(record) else { break };
        let mut out = [0; SNAPSHOT_RECORD_BYTES];
        SnapshotRecord { session, ..record }.encode(&mut out);
        bytes[at..at + SNAPSHOT_RECORD_BYTES].copy_from_slice(&out);
        at += SNAPSHOT_RECORD_BYTES + if matches!(record.says, SnapshotSays::Chunk { .. }) { SNAPSHOT_CHUNK_BYTES } else { 0 };
    }
    bytes
}

#[test]
fn an_offer_in_another_nodes_name_or_of_nothing_ends_the_session() {
    for bad in [
        SnapshotOffer { id: SnapshotId { source: NodeId(2), ..ID }, ..offer() },
        SnapshotOffer { id: SnapshotId { source: NodeId(3), ..ID }, ..offer() },
        SnapshotOffer { bytes: 5, ..offer() },
        SnapshotOffer { bytes: u64::MAX, ..offer() },
    ] {
        let mut cluster = lone_node_2();
        let (control, _bulk) = handshake(&mut cluster, 5);
        control.write(&record(5, 2, ControlPayload::Offer(bad)));
        cluster.turns(4);
        let host = &cluster.hosts[0];
        assert!(!host.events.iter().any(|event| matches!(event, NetEvent::SnapshotOffered { .. })), "{bad:?}");
        assert!(matches!(host.downs()[..], [DownReason::Refused(Refusal::Control(_))]), "{bad:?}");
    }
}

#[test]
fn a_program_on_this_machine_pulls_a_snapshot_one_at_a_time() {
    let mut cluster = Cluster::up(2);
    let program = kontiki_net::Hello { from: NodeId(0), to: NodeId(0), ..hello(Channel::Snapshot, 0, 0, 5, 0) };
    let (raw, welcome) = greet(&mut cluster, 7001, &program);
    assert_eq!(welcome.unwrap().code, 0);
    let (_, second) = greet(&mut cluster, 7001, &program);
    assert_eq!(refusal(second), Some(HandshakeRefusal::Busy), "one that is served is not pushed out");
    raw.write(&said(1, SnapshotSays::Which { now: false }));
    cluster.turns(3);
    let pull = pulls(&cluster.hosts[0])[0];
    assert_eq!(pull.puller, Puller::Program);
    cluster.hosts[0].net.tell_snapshot(pull, ID, 2 * CHUNK);
    cluster.turns(3);
    assert_eq!(raw.read(), said(1, SnapshotSays::This { id: ID, bytes: 2 * CHUNK }));
    raw.write(&said(2, SnapshotSays::Want(want(0, 2))));
    let mut source = Source::new();
    let mut got = Vec::new();
    for _ in 0..10 {
        source.turn(&mut cluster.hosts[0]);
        cluster.turn();
        got.extend(raw.read());
    }
    let chunk = |sequence, n: u64| [said(sequence, SnapshotSays::Chunk { id: ID, offset: n * CHUNK }), contents(n * CHUNK)].concat();
    assert!(got == [chunk(2, 0), chunk(3, 1)].concat(), "{} bytes", got.len());
    raw.write(&said(3, SnapshotSays::Want(want(0, 1))));
    cluster.turns(3);
    cluster.hosts[0].net.refuse_snapshot(pull, SnapshotRefusal::Unreadable);
    cluster.turns(5);
    assert_eq!(raw.read(), said(4, SnapshotSays::Refused(SnapshotRefusal::Unreadable)));
    assert!(raw.closed());
    let (_raw, third) = greet(&mut cluster, 7001, &program);
    assert_eq!(third.unwrap().code, 0, "its place is free again");
}

/// A snapshot that is made first takes as long as it takes; whoever asks again meanwhile is no program of ours. Once it was
/// told, it is the program's turn, and it does not take its place for ever.
#[test]
fn a_program_waits_for_a_snapshot_and_is_waited_for_then() {
    let mut cluster = Cluster::with(2, |options| options.snapshot_timeout_ns = 50_000_000);
    cluster.settle();
    let program = kontiki_net::Hello { from: NodeId(0), to: NodeId(0), ..hello(Channel::Snapshot, 0, 0, 5, 0) };
    let (raw, _) = greet(&mut cluster, 7001, &program);
    raw.write(&said(1, SnapshotSays::Which { now: true }));
    cluster.turns(200);
    let asked = |event: &NetEvent| if let NetEvent::SnapshotAsked { pull, now: true } = event { Some(*pull) } else { None };
    let pull = cluster.hosts[0].events.iter().find_map(asked).unwrap();
    assert!(!raw.closed() && serve_downs(&cluster.hosts[0]).is_empty());
    cluster.hosts[0].net.tell_snapshot(pull, ID, 2 * CHUNK);
    cluster.turns(3);
    assert_eq!(raw.read(), said(1, SnapshotSays::This { id: ID, bytes: 2 * CHUNK }));
    cluster.turns(30);
    assert!(!raw.closed(), "it has all of the time from then on");
    cluster.turns(40);
    assert_eq!(serve_downs(&cluster.hosts[0]), [DownReason::Unused]);

    let (raw, _) = greet(&mut cluster, 7001, &program);
    raw.write(&[said(1, SnapshotSays::Which { now: true }), said(2, SnapshotSays::Which { now: false })].concat());
    cluster.turns(5);
    assert!(raw.closed());
    let refused = DownReason::Refused(Refusal::Snapshot(SnapshotWireError::Order { kind: 1 }));
    assert_eq!(serve_downs(&cluster.hosts[0]).last(), Some(&refused));
}

#[test]
fn a_program_on_another_machine_is_turned_away_unless_that_is_allowed() {
    let program = kontiki_net::Hello { from: NodeId(0), to: NodeId(0), ..hello(Channel::Snapshot, 0, 0, 5, 0) };
    for (any, expected) in [(false, Some(HandshakeRefusal::NotAdmin)), (true, None)] {
        let mut cluster = Cluster::with(2, |options| options.admin_any = any);
        cluster.settle();
        let raw = Raw::connect_from(&cluster.world, ([192, 0, 2, 7], 60_000).into(), addr(7001));
        raw.write(&encoded(&program));
        cluster.turns(4);
        let answer = raw.read().first_chunk::<HELLO_BYTES>().map(|bytes| kontiki_net::Hello::decode(bytes).unwrap());
        assert_eq!(refusal(answer), expected);
    }
}

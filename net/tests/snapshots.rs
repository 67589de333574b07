//! Snapshots: offered, pulled over a connection of their own, and never at the cost of anything else.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::{LogIndex, NodeId, SessionId, Subterm, Term};
use kontiki_mem::{Block, Pool, PoolBuf};
use kontiki_net::limits::{
    HELLO_BYTES, MAX_WANT_CHUNKS, MAX_WANTS, SERVE_CHUNKS, SNAPSHOT_BUFFERS, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES,
};
use kontiki_net::{
    Channel, ControlPayload, DownReason, HandshakeRefusal, NetEvent, Pull, Puller, Refusal, SendError, SnapshotId, SnapshotOffer,
    SnapshotRecord, SnapshotRefusal, SnapshotSays, SnapshotWant, SnapshotWireError,
};
use support::greeting::{encoded, greet, handshake, hello, lone_node_2, message, record, refusal};
use support::{Cluster, Faults, Host, Raw, addr};

const CHUNK: u64 = SNAPSHOT_CHUNK_BYTES as u64;

/// A snapshot of node 1.
const ID: SnapshotId = SnapshotId { source: NodeId(1), index: LogIndex(500), term: Term(3), digest: 0xabcd_ef01 };

fn want(offset: u64, chunks: u32) -> SnapshotWant {
    SnapshotWant { id: ID, offset: offset * CHUNK, chunks, held: 0 }
}

fn byte(at: u64) -> u8 {
    (at * 31 + at / 251 + at / CHUNK) as u8
}

/// What stands in the file from `offset` on.
fn contents(offset: u64) -> Vec<u8> {
    (offset..offset + CHUNK).map(byte).collect()
}

/// Answers what peers want, as a node does that reads its file.
struct Source {
    pool: Pool,
    /// What was wanted, in order: (connection, id, offset).
    due: Vec<(Pull, SnapshotId, u64)>,
    /// The farthest that a puller said it holds, in bytes.
    held: u64,
    /// The newest connection over which something was wanted.
    seen: Option<Pull>,
}

impl Source {
    fn new() -> Source {
        Source { pool: Pool::new(16, SNAPSHOT_CHUNK_BYTES), due: Vec::new(), held: 0, seen: None }
    }

    fn block(&self, offset: u64) -> Option<Block> {
        let mut buf = self.pool.take()?;
        buf.bytes_mut().copy_from_slice(&contents(offset));
        Some(buf.freeze())
    }

    fn turn(&mut self, host: &mut Host) {
        let mut others = Vec::new();
        for event in host.take_events() {
            match event {
                NetEvent::SnapshotWanted { pull, want } => {
                    self.held = self.held.max(want.held);
                    self.seen = Some(pull);
                    self.due.extend((0..u64::from(want.chunks)).map(|n| (pull, want.id, want.offset + n * CHUNK)));
                }
                NetEvent::SnapshotServeDown { pull, reason } => {
                    self.due.retain(|due| due.0 != pull);
                    others.push(NetEvent::SnapshotServeDown { pull, reason });
                }
                other => others.push(other),
            }
        }
        host.events = others;
        while let Some(&(pull, id, offset)) = self.due.first() {
            if host.net.snapshot_room(pull) == 0 {
                break;
            }
            let Some(block) = self.block(offset) else { break };
            host.net.send_chunk(pull, id, offset, block, 0).unwrap();
            self.due.remove(0);
        }
    }
}

/// Pulls chunks `next..end` from node 1, and whatever breaks, goes on where it was.
struct Receiver {
    next: u64,
    end: u64,
    asked: u64,
    broken: Vec<DownReason>,
}

impl Receiver {
    fn new(end: u64) -> Receiver {
        Receiver { next: 0, end, asked: 0, broken: Vec::new() }
    }

    fn turn(&mut self, host: &mut Host) {
        for event in host.take_events() {
            match event {
                NetEvent::SnapshotChunk { peer, id, offset, chunk } => {
                    assert_eq!((peer, id, offset), (NodeId(1), ID, self.next * CHUNK));
                    assert!(chunk.bytes() == contents(offset), "chunk {}", self.next);
                    self.next += 1;
                }
                NetEvent::SnapshotFetchDown { reason, .. } => {
                    self.asked = self.next;
                    self.broken.push(reason);
                }
                _ => {}
            }
        }
        let now = host.io_now();
        while self.asked < self.end && host.net.want_room(NodeId(1)) > 0 {
            let chunks = (self.end - self.asked).min(3) as u32;
            let part = SnapshotWant { held: self.next * CHUNK, ..want(self.asked, chunks) };
            if host.net.want_snapshot(now, NodeId(1), part).is_err() {
                break;
            }
            self.asked += u64::from(chunks);
        }
    }

    fn done(&self) -> bool {
        self.next == self.end
    }
}

/// Runs until all has come; how many turns that took.
fn pull(cluster: &mut Cluster, source: &mut Source, receiver: &mut Receiver, mut between: impl FnMut(&mut Cluster, usize)) -> usize {
    for n in 0..20_000 {
        if receiver.done() {
            return n;
        }
        source.turn(&mut cluster.hosts[0]);
        receiver.turn(&mut cluster.hosts[1]);
        between(cluster, n);
        cluster.turn();
    }
    panic!("{} of {} chunks came, and {:?}", receiver.next, receiver.end, receiver.broken);
}

fn offer() -> SnapshotOffer {
    SnapshotOffer { id: ID, subterm: Subterm(2), lineage: 7, bytes: 40 * CHUNK }
}

fn fetch_downs(host: &Host) -> Vec<DownReason> {
    let reason = |event: &NetEvent| if let NetEvent::SnapshotFetchDown { reason, .. } = event { Some(*reason) } else { None };
    host.events.iter().filter_map(reason).collect()
}

fn serve_downs(host: &Host) -> Vec<DownReason> {
    let reason = |event: &NetEvent| if let NetEvent::SnapshotServeDown { reason, .. } = event { Some(*reason) } else { None };
    host.events.iter().filter_map(reason).collect()
}

/// The connections over which something was wanted or asked, in order.
fn pulls(host: &Host) -> Vec<Pull> {
    let pull = |event: &NetEvent| match event {
        NetEvent::SnapshotWanted { pull, .. } | NetEvent::SnapshotAsked { pull, .. } => Some(*pull),
        _ => None,
    };
    host.events.iter().filter_map(pull).collect()
}

fn wants(host: &Host) -> Vec<SnapshotWant> {
    let want = |event: &NetEvent| if let NetEvent::SnapshotWanted { want, .. } = event { Some(*want) } else { None };
    host.events.iter().filter_map(want).collect()
}

#[test]
fn an_offer_arrives_as_it_was_made() {
    let mut cluster = Cluster::up(2);
    let (now, session) = (cluster.hosts[0].io_now(), cluster.hosts[0].session(2).unwrap());
    cluster.hosts[0].net.offer_snapshot(now, NodeId(2), session, &offer()).unwrap();
    cluster.turns(3);
    let events = cluster.hosts[1].take_events();
    assert!(
        matches!(events[..], [NetEvent::SnapshotOffered { peer: NodeId(1), session: s, offer: o }] if s == session && o == offer()),
        "{events:?}"
    );
    assert_eq!(cluster.hosts[0].net.offer_snapshot(now, NodeId(2), SessionId(1), &offer()), Err(SendError::NoSession));
}

#[test]
fn chunks_come_in_order_at_any_size_of_receive_in_bounded_memory() {
    for chunk in [usize::MAX, 100_000, 65_536, 4096, 1000] {
        let mut cluster = Cluster::up(2);
        cluster.world.borrow_mut().chunk = chunk;
        let (mut source, mut receiver) = (Source::new(), Receiver::new(40));
        pull(&mut cluster, &mut source, &mut receiver, |_, _| {});
        assert_eq!(receiver.broken, [], "receives of {chunk}");
        assert!(source.held > 0, "the source knows how far its receiver is");
        let counters = [cluster.hosts[0].net.counters().chunks_out, cluster.hosts[1].net.counters().chunks_in];
        assert_eq!(counters, [40, 40]);
        cluster.turns(5);
        assert_eq!(source.pool.available(), 16, "what was sent is given back");
    }
}

#[test]
fn a_node_with_the_lower_id_pulls_from_one_with_the_higher() {
    let mut cluster = Cluster::up(2);
    let id = SnapshotId { source: NodeId(2), ..ID };
    let now = cluster.hosts[0].io_now();
    cluster.hosts[0].net.want_snapshot(now, NodeId(2), SnapshotWant { id, ..want(0, 1) }).unwrap();
    let mut source = Source::new();
    for _ in 0..20 {
        source.turn(&mut cluster.hosts[1]);
        cluster.turn();
    }
    let chunk = cluster.hosts[0].take_events().into_iter().find(|event| matches!(event, NetEvent::SnapshotChunk { .. }));
    assert!(matches!(chunk, Some(NetEvent::SnapshotChunk { peer: NodeId(2), .. })));
}

#[test]
fn parts_may_be_asked_for_again_and_in_any_order() {
    let mut cluster = Cluster::up(2);
    let mut source = Source::new();
    let parts = [(7, 2), (0, 1), (7, 1), (30, 3)];
    let now = cluster.hosts[1].io_now();
    for (offset, chunks) in parts {
        cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(offset, chunks)).unwrap();
    }
    let mut came = Vec::new();
    for _ in 0..40 {
        source.turn(&mut cluster.hosts[0]);
        cluster.turn();
        came.extend(cluster.hosts[1].take_events().into_iter().filter_map(|event| match event {
            NetEvent::SnapshotChunk { offset, .. } => Some(offset / CHUNK),
            _ => None,
        }));
    }
    assert_eq!(came, [7, 8, 0, 7, 30, 31, 32]);
}

#[test]
fn a_broken_connection_is_opened_again_and_the_rest_goes_on() {
    let mut cluster = Cluster::up(2);
    // Every connection from now on breaks somewhere: in a greeting, in a record, in a chunk, between two.
    let places = [1, 127, 128, 130, 128 + 95, 128 + 96, 128 + 97, 128 + 96 + CHUNK, 128 + 96 + CHUNK + 40, 300_000, 128 + 2 * (96 + CHUNK)];
    let first = cluster.world.borrow().connections;
    for (n, place) in places.into_iter().enumerate() {
        let fault = Faults { reset_after: Some(place), ..Faults::default() };
        cluster.world.borrow_mut().plan.insert(first + n, (Faults::default(), fault));
    }
    let (mut source, mut receiver) = (Source::new(), Receiver::new(40));
    pull(&mut cluster, &mut source, &mut receiver, |_, _| {});
    assert_eq!(receiver.broken.len(), places.len(), "{:?}", receiver.broken);
    assert_eq!(cluster.hosts[1].net.counters().sessions_down, 0, "the session did not notice");
    cluster.turns(5);
    assert_eq!(source.pool.available(), 16);
}

#[test]
fn it_ends_with_its_session_and_a_new_process_of_either_side_is_asked_anew() {
    let mut cluster = Cluster::up(2);
    let (mut source, mut receiver) = (Source::new(), Receiver::new(60));
    let mut cuts = 0;
    pull(&mut cluster, &mut source, &mut receiver, |cluster, n| {
        if n % 12 == 11 && cuts < 4 {
            cuts += 1;
            let now = cluster.hosts[cuts % 2].io_now();
            let Host { net, io, .. } = &mut cluster.hosts[cuts % 2];
            net.cut(NodeId(if cuts % 2 == 0 { 2 } else { 1 }), now, io);
        }
    });
    assert_eq!(cuts, 4);
    assert!(receiver.broken.len() >= 2, "{:?}", receiver.broken);
    assert_eq!(cluster.hosts[0].net.counters().refused() + cluster.hosts[1].net.counters().refused(), 0);
}

#[test]
fn heartbeats_and_frames_go_on_while_a_snapshot_fills_every_buffer() {
    let mut cluster = Cluster::up(3);
    cluster.hosts[1].grant(Some(1));
    let (mut source, mut receiver) = (Source::new(), Receiver::new(200));
    let mut frames = support::Frames::new();
    let mut sent = 0;
    // What the receiver's node is told besides is looked at by `messages_in`: `receiver` takes the events.
    pull(&mut cluster, &mut source, &mut receiver, |cluster, n| {
        cluster.hosts[0].send(2, &message(n as u64)).unwrap();
        if n % 4 == 0 && cluster.hosts[0].send_frame(2, frames.make(n as u64 + 1, 2000)).is_ok() {
            sent += 1;
        }
        let in_flight = n as u64 + 1 - cluster.hosts[1].net.counters().messages_in.min(n as u64 + 1);
        assert!(in_flight <= 3, "turn {n}: {in_flight} heartbeats behind");
    });
    cluster.turns(4);
    assert_eq!(cluster.hosts[1].net.counters().frames_in, sent);
    assert_eq!(cluster.hosts[1].net.counters().messages_dropped + cluster.hosts[0].net.counters().messages_dropped, 0);
}

#[test]
fn a_receiver_that_keeps_its_chunks_stops_the_stream_and_loses_nothing() {
    let mut cluster = Cluster::up(2);
    let mut source = Source::new();
    let now = cluster.hosts[1].io_now();
    for n in 0..MAX_WANTS as u64 {
        cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(n * 4, 4)).unwrap();
    }
    assert_eq!(cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(90, 1)), Err(SendError::Full));
    assert_eq!(cluster.hosts[1].net.want_room(NodeId(1)), 0);
    let mut kept: Vec<(u64, PoolBuf)> = Vec::new();
    let mut turn = |cluster: &mut Cluster, kept: &mut Vec<(u64, PoolBuf)>| {
        source.turn(&mut cluster.hosts[0]);
        cluster.turn();
        kept.extend(cluster.hosts[1].take_events().into_iter().filter_map(|event| match event {
            NetEvent::SnapshotChunk { offset, chunk, .. } => Some((offset / CHUNK, chunk)),
            NetEvent::SnapshotFetchDown { reason, .. } => panic!("{reason}"),
            _ => None,
        }));
    };
    // For as long as the source is patient with one that does not read.
    for _ in 0..20_000 {
        turn(&mut cluster, &mut kept);
    }
    assert_eq!(kept.len(), SNAPSHOT_BUFFERS, "no more than there are buffers");
    let waiting = cluster.world.borrow().bytes_waiting();
    assert!(waiting <= 2 * (256 << 10), "{waiting} bytes on the way");
    let mut all = Vec::new();
    for _ in 0..200 {
        all.extend(kept.drain(..).map(|(n, chunk)| {
            assert!(chunk.bytes() == contents(n * CHUNK));
            n
        }));
        turn(&mut cluster, &mut kept);
    }
    assert_eq!(all, (0..4 * MAX_WANTS as u64).collect::<Vec<_>>());
}

#[test]
fn a_node_that_takes_no_events_is_not_overrun() {
    let mut cluster = Cluster::up(2);
    let mut source = Source::new();
    let now = cluster.hosts[1].io_now();
    cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(0, MAX_WANT_CHUNKS)).unwrap();
    cluster.hosts[1].hold = true;
    for n in 0..1500 {
        let _ = cluster.hosts[0].send(2, &message(n));
        source.turn(&mut cluster.hosts[0]);
        cluster.turn();
    }
    cluster.hosts[1].hold = false;
    for _ in 0..200 {
        source.turn(&mut cluster.hosts[0]);
        cluster.turn();
        cluster.hosts[1].events.retain(|event| !matches!(event, NetEvent::SnapshotChunk { .. }));
    }
    assert_eq!(cluster.hosts[1].net.counters().chunks_in, u64::from(MAX_WANT_CHUNKS));
}

#[test]
fn h55_a_stream_that_is_refused_or_left_at_any_byte_closes_and_the_next_begins_afresh() {
    for turns in 0..30 {
        let mut cluster = Cluster::up(2);
        cluster.world.borrow_mut().chunk = 20_000;
        let mut source = Source::new();
        let now = cluster.hosts[1].io_now();
        cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(0, 4)).unwrap();
        for _ in 0..turns {
            source.turn(&mut cluster.hosts[0]);
            cluster.turn();
        }
        source.turn(&mut cluster.hosts[0]);
        // Half of the time the receiver has enough of it, else the source.
        let seen = source.seen.is_some();
        if turns % 2 == 0 {
            let Host { net, io, .. } = &mut cluster.hosts[1];
            net.leave_snapshot(NodeId(1), now, io);
        } else if let Some(pull) = source.seen {
            assert_eq!(pull.puller, Puller::Peer(NodeId(2)));
            cluster.hosts[0].net.refuse_snapshot(pull, SnapshotRefusal::Gone);
            source.due.clear();
        }
        for _ in 0..40 {
            source.turn(&mut cluster.hosts[0]);
            cluster.turn();
        }
        let downs = fetch_downs(&cluster.hosts[1]);
        let expected: &[DownReason] = match (turns % 2, seen) {
            (0, _) => &[DownReason::Cut],
            (_, true) => &[DownReason::SnapshotRefused(SnapshotRefusal::Gone)],
            // Nothing was asked for yet, and there is nobody to refuse.
            (_, false) => continue,
        };
        assert_eq!(downs, expected, "turn {turns}");
        cluster.hosts[1].take_events();
        let mut receiver = Receiver::new(12);
        receiver.next = 5;
        receiver.asked = 5;
        pull(&mut cluster, &mut source, &mut receiver, |_, _| {});
        assert_eq!(receiver.broken, [], "turn {turns}");
        assert_eq!(cluster.hosts[1].net.counters().refused(), 0);
    }
}

#[test]
fn what_the_source_sends_stale_goes_nowhere() {
    let mut cluster = Cluster::up(2);
    let source = Source::new();
    let block = source.block(0).unwrap();
    let ask = |cluster: &mut Cluster| {
        let now = cluster.hosts[1].io_now();
        cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(4, 6)).unwrap();
        cluster.turns(40);
        assert_eq!(wants(&cluster.hosts[0]), [want(4, 6)]);
        let pull = pulls(&cluster.hosts[0])[0];
        cluster.hosts[0].take_events();
        pull
    };
    let pull = ask(&mut cluster);
    let other = SnapshotId { digest: 1, ..ID };
    for (id, offset) in [(ID, 0), (ID, 5 * CHUNK), (other, 4 * CHUNK)] {
        assert_eq!(cluster.hosts[0].net.send_chunk(pull, id, offset, block.clone(), 0), Err(SendError::NotWanted));
    }
    for n in 0..SERVE_CHUNKS as u64 {
        assert_eq!(cluster.hosts[0].net.snapshot_room(pull), SERVE_CHUNKS - n as usize);
        cluster.hosts[0].net.send_chunk(pull, ID, (4 + n) * CHUNK, block.clone(), 0).unwrap();
    }
    assert_eq!(cluster.hosts[0].net.send_chunk(pull, ID, 8 * CHUNK, block.clone(), 0), Err(SendError::Full));
    // The same is asked for over a new connection: what is meant for the old one is not taken for it.
    let now = cluster.hosts[1].io_now();
    let Host { net, io, .. } = &mut cluster.hosts[1];
    net.leave_snapshot(NodeId(1), now, io);
    cluster.turns(2);
    let newer = ask(&mut cluster);
    assert_ne!(newer, pull);
    assert_eq!(cluster.hosts[0].net.send_chunk(pull, ID, 4 * CHUNK, block.clone(), 0), Err(SendError::NoSession));
    assert_eq!(cluster.hosts[0].net.snapshot_room(pull), 0);
    cluster.hosts[0].net.send_chunk(newer, ID, 4 * CHUNK, block, 0).unwrap();
}

#[test]
fn nothing_is_asked_for_between_the_end_of_a_connection_and_the_word_of_it() {
    let mut cluster = Cluster::up(2);
    let now = cluster.hosts[1].io_now();
    cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(0, 1)).unwrap();
    let Host { net, io, .. } = &mut cluster.hosts[1];
    net.leave_snapshot(NodeId(1), now, io);
    assert_eq!((net.want_room(NodeId(1)), net.want_snapshot(now, NodeId(1), want(0, 1))), (0, Err(SendError::Full)));
    cluster.turn();
    assert_eq!(fetch_downs(&cluster.hosts[1]), [DownReason::Cut]);
    assert_eq!(cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(0, 1)), Ok(()));
}

#[test]
fn without_a_session_nothing_is_asked_for_and_another_nodes_snapshot_never() {
    let mut cluster = Cluster::up(2);
    let now = cluster.hosts[1].io_now();
    let net = &mut cluster.hosts[1].net;
    assert_eq!(net.want_snapshot(now, NodeId(9), want(0, 1)), Err(SendError::NoSession));
    let others = SnapshotId { source: NodeId(3), ..ID };
    assert_eq!(net.want_snapshot(now, NodeId(1), SnapshotWant { id: others, ..want(0, 1) }), Err(SendError::NoSession));
    cluster.hosts[0].stop();
    cluster.turns(5);
    assert_eq!(cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(0, 1)), Err(SendError::NoSession));
}

#[test]
fn a_source_that_cannot_be_reached_is_asked_again_with_growing_pauses() {
    let mut cluster = Cluster::up(2);
    // The session stays, but no new connection comes about.
    cluster.world.borrow_mut().black_holes.insert(addr(7001));
    let mut downs = 0;
    for _ in 0..20_000 {
        let now = cluster.hosts[1].io_now();
        let _ = cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(0, 1));
        cluster.turn();
        downs += fetch_downs(&cluster.hosts[1]).len();
        cluster.hosts[1].take_events();
    }
    assert!((4..=10).contains(&downs), "{downs} attempts of two seconds and growing pauses");
    assert!(cluster.hosts[1].io.outstanding() < 16, "{} outstanding", cluster.hosts[1].io.outstanding());
    cluster.world.borrow_mut().black_holes.clear();
    let mut source = Source::new();
    for _ in 0..3000 {
        source.turn(&mut cluster.hosts[0]);
        cluster.turn();
    }
    let came = cluster.hosts[1].events.iter().filter(|event| matches!(event, NetEvent::SnapshotChunk { .. })).count();
    assert!(came >= 1);
}

#[test]
fn a_connection_on_which_nothing_moves_is_closed_on_both_sides() {
    // Nobody wants anything any more.
    let mut cluster = Cluster::up(2);
    let (mut source, mut receiver) = (Source::new(), Receiver::new(3));
    pull(&mut cluster, &mut source, &mut receiver, |_, _| {});
    cluster.turns(31_000);
    assert_eq!(fetch_downs(&cluster.hosts[1]).len(), 1);
    assert_eq!(serve_downs(&cluster.hosts[0]).len(), 1);
    // The source says nothing: its node does not answer.
    let now = cluster.hosts[1].io_now();
    cluster.hosts[1].take_events();
    cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(0, 1)).unwrap();
    cluster.turns(31_000);
    assert_eq!(fetch_downs(&cluster.hosts[1]), [DownReason::Silent]);
    // The receiver does not read.
    let mut cluster = Cluster::up(2);
    let mut source = Source::new();
    let now = cluster.hosts[1].io_now();
    for n in 0..8 {
        cluster.hosts[1].net.want_snapshot(now, NodeId(1), want(16 * n, 16)).unwrap();
    }
    cluster.turns(8);
    source.turn(&mut cluster.hosts[0]);
    cluster.world.borrow_mut().deaf.insert(7002);
    cluster.world.borrow_mut().pipe_bytes = 1000;
    for _ in 0..1000 {
        source.turn(&mut cluster.hosts[0]);
        cluster.turn();
    }
    let held = 16 - source.pool.available();
    assert!(held <= 2 * SERVE_CHUNKS, "{held} chunks are held for one that does not read");
}

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

fn said(sequence: u64, says: SnapshotSays) -> Vec<u8> {
    let mut bytes = [0; SNAPSHOT_RECORD_BYTES];
    SnapshotRecord { session: SessionId(5), sequence, says }.encode(&mut bytes);
    bytes.to_vec()
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
    let chunk = |sequence, id, offset: u64| said_in(sequence, SnapshotSays::Chunk { id, offset: offset * CHUNK });
    let other = SnapshotId { digest: 5, ..ID };
    let not_wanted = SnapshotWireError::NotWanted;
    for (name, stream, error) in [
        ("another chunk", [chunk(1, ID, 1), bytes(1)].concat(), not_wanted),
        ("of another snapshot", [chunk(1, other, 0), bytes(0)].concat(), not_wanted),
        ("one too many", [chunk(1, ID, 0), bytes(0), chunk(2, ID, 1), bytes(1)].concat(), not_wanted),
        ("twice", [chunk(1, ID, 0), bytes(0), chunk(2, ID, 0)].concat(), not_wanted),
        ("out of sequence", [chunk(2, ID, 0), bytes(0)].concat(), SnapshotWireError::Field),
        ("a want", said_in(1, SnapshotSays::Want(want(0, 1))), SnapshotWireError::Order { kind: 3 }),
        ("another snapshot than it offered", said_in(1, SnapshotSays::This { id: ID, bytes: CHUNK }), SnapshotWireError::Order { kind: 2 }),
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

fn said_in(sequence: u64, says: SnapshotSays) -> Vec<u8> {
    said(sequence, says)
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

#[test]
fn stopping_ends_everything_at_any_moment() {
    for turns in 0..25 {
        let mut cluster = Cluster::up(2);
        let (mut source, mut receiver) = (Source::new(), Receiver::new(60));
        for _ in 0..turns {
            source.turn(&mut cluster.hosts[0]);
            receiver.turn(&mut cluster.hosts[1]);
            cluster.turn();
        }
        cluster.hosts[turns % 2].stop();
        cluster.turns(5);
        let host = &cluster.hosts[turns % 2];
        assert!(host.net.idle() && host.io.outstanding() == 0, "turn {turns}");
    }
}

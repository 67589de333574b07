//! Snapshots: offered, pulled over a connection of their own, and never at the cost of anything else.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::{NodeId, SessionId};
use kontiki_mem::PoolBuf;
use kontiki_net::limits::{MAX_WANT_CHUNKS, MAX_WANTS, SERVE_CHUNKS, SNAPSHOT_BUFFERS};
use kontiki_net::{DownReason, NetEvent, Puller, SendError, SnapshotId, SnapshotRefusal, SnapshotWant};
use support::greeting::message;
use support::snapshots::{CHUNK, ID, Receiver, Source, contents, fetch_downs, offer, pull, pulls, serve_downs, want, wants};
use support::{Cluster, Faults, Host, addr};

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

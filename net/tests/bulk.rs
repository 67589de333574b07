//! Frames: verified, in order, into the ring, from one peer at a time, and never at the others' cost.

#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{ClusterId, GroupId, IndexRange, LogIndex, SessionId, Term};
use kontiki_frame::{BODY_OFFSET, FrameError, WireStamp};
use kontiki_net::limits::{HELLO_BYTES, SMALL_BYTES};
use kontiki_net::{DownReason, FrameStamp, NetEvent, Refusal, SendError};
use support::{Cluster, Faults, Frames, Host, World, options};

/// Two nodes in session, node 2 taking frames from node 1; the nth connection made suffers `faults`.
fn granted(faults: Option<(usize, Faults)>) -> Cluster {
    let mut cluster = Cluster::new(2);
    if let Some((nth, fault)) = faults {
        cluster.world.borrow_mut().plan.insert(nth, (fault, Faults::default()));
    }
    cluster.settle();
    cluster.hosts[1].grant(Some(1));
    cluster
}

#[test]
fn frames_arrive_whole_stamped_and_in_order_at_any_chunk_size() {
    let mut frames = Frames::new();
    let sizes = [1, 3900, 3901, 9000, 100, 100, 70_000, 0];
    let sent: Vec<_> = (0..).zip(sizes).map(|(n, bytes)| frames.make(10 + n, bytes)).collect();
    for chunk in [1, 7, 63, 64, 191, 192, 193, 1000, 4095, 4096, 4097, 8192, 50_000, usize::MAX] {
        let mut cluster = granted(None);
        cluster.world.borrow_mut().chunk = chunk;
        for block in &sent {
            cluster.hosts[0].send_frame(2, block.clone()).unwrap();
        }
        for _ in 0..200_000 {
            if cluster.hosts[1].net.counters().frames_in == sizes.len() as u64 {
                break;
            }
            // The clock stands still: a byte at a time would take minutes.
            cluster.hosts.iter_mut().for_each(Host::turn);
        }
        let session = cluster.hosts[1].session(1).unwrap();
        let mut n = 0;
        for event in cluster.hosts[1].take_events() {
            let NetEvent::Frame { peer, session: s, stamp, header, block } = event else { panic!("{event:?}") };
            assert_eq!((peer.0, s, stamp.session, stamp.sequence), (1, session, session, n as u64 + 1));
            assert_eq!((stamp.leader_term, stamp.commit, stamp.round), (Term(9), LogIndex(1), 12));
            assert_eq!(stamp.range, header.meta.range());
            assert_eq!(block.bytes()[64..], sent[n].bytes()[64..], "the sealed part is the leader's, byte for byte");
            n += 1;
        }
        assert_eq!(n, sizes.len(), "chunk {chunk}");
    }
}

#[test]
fn frames_of_one_stream_are_neighbours_in_the_ring() {
    let mut cluster = granted(None);
    let mut frames = Frames::new();
    for round in 0..10 {
        for n in 0..3 {
            cluster.hosts[0].send_frame(2, frames.make(round * 3 + n + 1, 5000)).unwrap();
        }
        cluster.turns(6);
    }
    let blocks: Vec<_> = cluster.hosts[1]
        .take_events()
        .into_iter()
        .map(|event| match event {
            NetEvent::Frame { block, .. } => block.freeze(),
            event => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(blocks.len(), 30);
    let mut span = kontiki_mem::Span::one(blocks[0].clone());
    for block in &blocks[1..] {
        span.push(block.clone()).unwrap();
    }
    assert_eq!(span.len(), 30 * 8192);
    assert_eq!(cluster.hosts[1].ring.held(), 30 * 8192, "an idle stream holds no more than its frames");
}

#[test]
fn a_reset_at_any_byte_delivers_whole_frames_or_none() {
    let mut frames = Frames::new();
    let sent = [frames.make(1, 50), frames.make(2, 50)];
    // Every byte of stamp and header, then some of body and padding, and around the frames' ends.
    let bytes = (0..=200).chain((201..8000).step_by(97)).chain(4090..4300).chain(8185..=8192);
    for byte in bytes {
        let limit = HELLO_BYTES as u64 + byte;
        let mut cluster = granted(Some((1, Faults { reset_after: Some(limit), ..Faults::default() })));
        cluster.world.borrow_mut().chunk = 3000;
        for block in &sent {
            // At byte 0 the connection may break before this.
            let _ = cluster.hosts[0].send_frame(2, block.clone());
        }
        cluster.turns(8);
        let whole = (byte / 4096) as usize;
        assert_eq!(cluster.hosts[1].frames(), (1..=whole as u64).collect::<Vec<_>>(), "byte {byte}");
        assert!(matches!(cluster.hosts[1].downs()[..], [DownReason::Io(_)]), "byte {byte}: {:?}", cluster.hosts[1].downs());
        cluster.hosts[1].take_events();
        assert_eq!(cluster.hosts[1].ring.held(), 0, "no memory is left behind");
        // And the next session starts afresh.
        cluster.settle();
        cluster.hosts[0].send_frame(2, sent[0].clone()).unwrap();
        cluster.turns(8);
        assert_eq!(cluster.hosts[1].frames(), [1]);
    }
}

#[test]
fn h98_a_flipped_bit_anywhere_in_a_frame_is_seen() {
    let mut frames = Frames::new();
    let sent = [frames.make(1, 50), frames.make(2, 50)];
    let bytes = (0..300).chain((300..4096).step_by(211)).chain([4095]);
    for byte in bytes {
        let at = HELLO_BYTES as u64 + 4096 + byte;
        let fault = Faults { flip: Some((at, 1 << (byte % 8))), ..Faults::default() };
        let mut cluster = granted(Some((1, fault)));
        for block in &sent {
            cluster.hosts[0].send_frame(2, block.clone()).unwrap();
        }
        cluster.turns(8);
        assert_eq!(cluster.hosts[1].frames(), [1], "byte {byte}");
        assert!(matches!(cluster.hosts[1].downs()[..], [DownReason::Refused(Refusal::Frame(_))]), "byte {byte}");
        assert_eq!(cluster.hosts[1].net.counters().refused(), 1);
    }
}

#[test]
fn h93_frames_of_other_clusters_groups_or_sizes_are_refused_by_their_header() {
    let mut foreign = Frames::new();
    foreign.cluster = ClusterId(8);
    let mut other_group = Frames::new();
    other_group.group = GroupId(4);
    let mut frames = Frames::new();
    let cases = [
        (foreign.make(1, 10), Refusal::FrameCluster { theirs: ClusterId(8) }),
        (other_group.make(1, 10), Refusal::FrameGroup { theirs: GroupId(4) }),
        (frames.make(1, 100_000), Refusal::FrameLength { bytes: 102_400, limit: 65_536 }),
    ];
    for (block, refusal) in cases {
        let mut cluster = Cluster::with(2, |options| options.max_frame_bytes = 65_536);
        // No more than stamp and header ever arrive: they are enough.
        let fault = Faults { reset_after: Some((HELLO_BYTES + BODY_OFFSET) as u64 + 1), ..Faults::default() };
        cluster.world.borrow_mut().plan.insert(1, (fault, Faults::default()));
        cluster.settle();
        cluster.hosts[1].grant(Some(1));
        if cluster.hosts[0].send_frame(2, block.clone()) == Err(SendError::TooLong { bytes: 102_400, takes: 65_536 }) {
            // A sender that does not keep to what it was told.
            let (leader_term, commit, range) = (Term(9), LogIndex(1), IndexRange { from: LogIndex(1), to: LogIndex(1) });
            let session = cluster.hosts[0].session(2).unwrap();
            let mut bytes = block.bytes().to_vec();
            WireStamp { session, sequence: 1, leader_term, commit, range, round: 3 }.write(bytes.first_chunk_mut().unwrap(), block.bytes());
            cluster.world.borrow_mut().inject(support::addr(7001), 1, &bytes);
        }
        cluster.turns(5);
        assert_eq!(cluster.hosts[1].downs(), [DownReason::Refused(refusal)]);
        assert_eq!(cluster.hosts[1].ring.held(), 0);
    }
}

#[test]
fn a_stamp_that_names_entries_outside_its_frame_is_refused() {
    let mut cluster = granted(None);
    let block = Frames::new().make(5, 10);
    let (now, session) = (cluster.world.borrow().now, cluster.hosts[0].session(2).unwrap());
    let range = IndexRange { from: LogIndex(5), to: LogIndex(6) };
    let stamp = FrameStamp { leader_term: Term(2), commit: LogIndex(0), range, round: 0 };
    cluster.hosts[0].net.send_frame(now, kontiki_core::NodeId(2), session, stamp, block).unwrap();
    cluster.turns(5);
    assert_eq!(cluster.hosts[1].downs(), [DownReason::Refused(Refusal::FrameRange)]);
}

#[test]
fn a_frame_played_twice_is_refused() {
    // A recorded bulk stream, doubled: the second copy has stale sequence numbers.
    let mut cluster = granted(None);
    cluster.hosts[0].send_frame(2, Frames::new().make(1, 10)).unwrap();
    cluster.turns(5);
    assert_eq!(cluster.hosts[1].frames(), [1]);
    let recorded = cluster.world.borrow().recorded(support::addr(7001));
    let frame = &recorded[1][HELLO_BYTES..];
    assert_eq!(frame.len(), 4096);
    cluster.world.borrow_mut().inject(support::addr(7001), 1, frame);
    cluster.turns(5);
    assert_eq!(cluster.hosts[1].frames(), [1]);
    assert_eq!(cluster.hosts[1].downs(), [DownReason::Refused(Refusal::Sequence { expected: 2, theirs: 1 })]);
    // And one of an older session, in a newer one.
    cluster.settle();
    let (session, old) = (cluster.hosts[1].session(1).unwrap(), kontiki_frame::WireStamp::parse(frame).unwrap().session);
    cluster.world.borrow_mut().inject(support::addr(7001), 3, frame);
    cluster.turns(5);
    assert_eq!(cluster.hosts[1].frames(), [0; 0]);
    assert_eq!(cluster.hosts[1].downs(), [DownReason::Refused(Refusal::Session { ours: session, theirs: old })]);
}

#[test]
fn without_the_grant_frames_wait_in_the_socket_and_none_is_lost() {
    let mut cluster = Cluster::up(3);
    let mut frames = Frames::new();
    for n in 1..=5 {
        cluster.hosts[0].send_frame(3, frames.make(n, 5000)).unwrap();
        cluster.hosts[1].send_frame(3, frames.make(100 + n, 5000)).unwrap();
    }
    cluster.turns(5);
    assert_eq!(cluster.hosts[2].frames(), [0; 0]);
    assert_eq!(cluster.hosts[2].ring.held(), 0);
    // The grant moves between frames: nobody loses a session, nothing gets lost.
    cluster.hosts[2].grant(Some(2));
    cluster.turns(6);
    assert_eq!(cluster.hosts[2].frames(), [101, 102, 103, 104, 105]);
    cluster.hosts[2].grant(None);
    cluster.hosts[1].send_frame(3, frames.make(106, 5000)).unwrap();
    cluster.turns(6);
    cluster.hosts[2].take_events();
    cluster.hosts[2].grant(Some(1));
    cluster.turns(6);
    assert_eq!(cluster.hosts[2].frames(), [1, 2, 3, 4, 5]);
    cluster.hosts[2].grant(Some(2));
    cluster.turns(6);
    assert_eq!(cluster.hosts[2].frames(), [1, 2, 3, 4, 5, 106]);
    assert_eq!(cluster.hosts[2].downs(), []);
    assert_eq!(cluster.hosts[2].net.counters().refused(), 0);
}

#[test]
fn the_grant_moves_at_any_byte_and_frames_are_whole_or_the_session_is_replaced() {
    let mut frames = Frames::new();
    let sent: Vec<_> = (1..=3).map(|n| frames.make(n, 50)).collect();
    let mut outcomes = [0, 0];
    for chunk in [1, 64, 191, 192, 193, 1000, 4095, 4096, 4097, 6000] {
        for after in 0..12 {
            let mut cluster = granted(None);
            cluster.world.borrow_mut().chunk = chunk;
            for block in &sent {
                cluster.hosts[0].send_frame(2, block.clone()).unwrap();
            }
            cluster.turns(after);
            cluster.hosts[1].grant(None);
            cluster.turns(3);
            assert!(cluster.hosts[1].ring.held() == cluster.hosts[1].frames().len() * 4096, "nothing else is in the ring any more");
            cluster.world.borrow_mut().chunk = usize::MAX;
            let kept = cluster.hosts[1].downs().is_empty();
            assert!(kept || cluster.hosts[1].downs() == [DownReason::Revoked]);
            let before = cluster.hosts[1].frames();
            cluster.hosts[1].grant(Some(1));
            cluster.turns(60);
            cluster.settle_keeping_events();
            outcomes[usize::from(kept)] += 1;
            if kept {
                assert_eq!(cluster.hosts[1].frames(), [1, 2, 3], "chunk {chunk}, after {after}");
            } else {
                assert_eq!(cluster.hosts[1].frames(), before, "a session's end is told, and what it carried is to be sent again");
            }
        }
    }
    assert!(outcomes.iter().all(|times| *times > 20), "both were tried: {outcomes:?}");
}

#[test]
fn a_full_ring_holds_the_leader_back_and_nothing_is_lost() {
    let world = World::new();
    let hosts = vec![Host::new(&world, options(1, 2, 1)), Host::with_ring(&world, options(2, 2, 1), 64 << 10)];
    world.borrow_mut().pipe_bytes = 20_000;
    let mut cluster = Cluster { world, hosts };
    cluster.settle();
    cluster.hosts[1].grant(Some(1));
    let mut frames = Frames::new();
    let mut next = 1;
    // Nobody lets go of the frames received: the ring is soon full, then the socket, then the leader's queue.
    for _ in 0..300 {
        while cluster.hosts[0].net.bulk_room(kontiki_core::NodeId(2)).frames > 0 && next <= 40 {
            cluster.hosts[0].send_frame(2, frames.make(next, 10_000)).unwrap();
            next += 1;
        }
        cluster.turn();
    }
    let held = cluster.hosts[1].frames();
    assert!((4..=5).contains(&held.len()), "{held:?}");
    assert!(cluster.hosts[1].net.counters().ring_waits > 0);
    assert!(cluster.hosts[1].net.deadline().unwrap() <= cluster.world.borrow().now.plus_ns(1_000_000));
    let mut all = held;
    for _ in 0..100 {
        cluster.hosts[1].take_events();
        cluster.turns(3);
        all.extend(cluster.hosts[1].frames());
    }
    assert_eq!(all, (1..=40).collect::<Vec<_>>());
    assert_eq!(cluster.hosts[1].net.counters().sessions_down, 0);
}

#[test]
fn a_slow_peer_costs_the_others_nothing_and_can_be_cut() {
    let mut cluster = Cluster::up(3);
    let mut frames = Frames::new();
    cluster.hosts[1].grant(Some(1));
    // Node 3 grants nobody: its frames pile up, up to the bound.
    let mut refused = 0;
    let mut sent = 0;
    for n in 1..=600 {
        let block = frames.make(n, 10_000);
        cluster.hosts[0].send_frame(2, block.clone()).unwrap();
        match cluster.hosts[0].send_frame(3, block) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        cluster.turn();
        cluster.hosts[1].events.retain(|event| !matches!(event, NetEvent::Frame { .. }));
        if frames.taken() > 50 {
            break;
        }
    }
    assert!(sent > 20 && refused == 0, "{sent} {refused}");
    cluster.turns(3);
    let n3 = kontiki_core::NodeId(3);
    let pinned = cluster.hosts[0].net.pinning(n3).unwrap();
    let age = cluster.world.borrow().now.since(pinned.since);
    assert!(age >= 20_000_000 && pinned.frames > 20 && pinned.bytes == pinned.frames as u64 * 12_288, "{age} {pinned:?}");
    assert_eq!(cluster.hosts[0].net.pinning(kontiki_core::NodeId(2)), None);
    let now = cluster.world.borrow().now;
    let host = &mut cluster.hosts[0];
    host.net.cut(n3, now, &mut host.io);
    assert!(frames.taken() > 0, "what is under way is held until its completion");
    cluster.turns(4);
    assert_eq!(frames.taken(), 0, "then all of it is back");
    assert_eq!(cluster.hosts[0].downs(), [DownReason::Cut]);
    cluster.settle();
    cluster.hosts[2].grant(Some(1));
    cluster.hosts[0].send_frame(3, frames.make(1, 10)).unwrap();
    cluster.turns(6);
    assert_eq!(cluster.hosts[2].frames(), [1]);
}

#[test]
fn the_queue_is_bounded_in_frames_and_in_bytes() {
    let mut cluster = Cluster::with(2, |options| (options.bulk_queue_frames, options.bulk_queue_bytes) = (4, 20_000));
    cluster.settle();
    let mut frames = Frames::new();
    let (small, large) = (frames.make(1, 10), frames.make(1, 50_000));
    let peer = kontiki_core::NodeId(2);
    assert_eq!(cluster.hosts[0].net.bulk_room(peer).frames, 4);
    for _ in 0..4 {
        cluster.hosts[0].send_frame(2, small.clone()).unwrap();
    }
    assert_eq!(cluster.hosts[0].net.bulk_room(peer).bytes, 20_000 - 4 * 4096);
    assert_eq!(cluster.hosts[0].send_frame(2, small.clone()), Err(SendError::Full));
    cluster.turns(3);
    assert_eq!(cluster.hosts[0].net.bulk_room(peer).frames, 4);
    cluster.hosts[0].send_frame(2, large.clone()).unwrap();
    assert_eq!(cluster.hosts[0].send_frame(2, small.clone()), Err(SendError::Full), "one frame may be larger than the bound, alone");
    cluster.turns(3);
    cluster.hosts[0].send_frame(2, small).unwrap();
    assert_eq!(cluster.hosts[0].net.counters().frames_held_back, 2);
    let now = cluster.world.borrow().now;
    let stamp =
        FrameStamp { leader_term: Term(1), commit: LogIndex(0), range: IndexRange { from: LogIndex(1), to: LogIndex(1) }, round: 0 };
    assert_eq!(cluster.hosts[0].net.send_frame(now, peer, SessionId(3), stamp, large), Err(SendError::NoSession));
}

#[test]
fn h96_bulk_never_delays_control() {
    let mut cluster = Cluster::up(2);
    cluster.world.borrow_mut().pipe_bytes = 8192;
    let mut frames = Frames::new();
    for n in 1..=30 {
        cluster.hosts[0].send_frame(2, frames.make(n, 60_000)).unwrap();
    }
    for n in 0..100 {
        let message = kontiki_core::Message::Accepted { term: Term(1), round: 3, matched: LogIndex(n) };
        cluster.hosts[0].send(2, &message).unwrap();
        cluster.turns(2);
        assert_eq!(cluster.hosts[1].messages().last(), Some(&message), "at once, with the bulk connection jammed");
    }
}

#[test]
fn a_body_that_lies_about_its_entries_is_refused() {
    let mut cluster = granted(None);
    let fault = FrameError::BodyChecksum;
    let mut frames = Frames::new();
    let good = frames.make(1, 500);
    let pool = kontiki_mem::Pool::new(1, 4096);
    let mut bad = pool.take().unwrap();
    kontiki_mem::copy_payload(bad.bytes_mut(), good.bytes());
    bad.bytes_mut()[BODY_OFFSET + 100] ^= 1;
    cluster.hosts[0].send_frame(2, bad.freeze()).unwrap();
    cluster.turns(5);
    assert_eq!(cluster.hosts[1].downs(), [DownReason::Refused(Refusal::Frame(fault))]);
    assert_eq!(SMALL_BYTES, BODY_OFFSET);
}

#[test]
fn stopping_in_the_middle_of_everything_gives_all_memory_back() {
    for turns in 0..12 {
        let mut cluster = granted(None);
        cluster.world.borrow_mut().chunk = 1000;
        let mut frames = Frames::new();
        for n in 1..=20 {
            cluster.hosts[0].send_frame(2, frames.make(n, 5000)).unwrap();
        }
        cluster.turns(turns);
        cluster.hosts.iter_mut().for_each(Host::stop);
        cluster.turns(5);
        for host in &mut cluster.hosts {
            host.take_events();
            assert!(host.net.idle(), "after {turns} turns");
            assert_eq!((host.io.outstanding(), host.ring.held()), (0, 0));
        }
        assert_eq!(frames.taken(), 0);
    }
}

#[test]
fn a_frame_that_cannot_grow_ends_its_session_not_the_node() {
    let mut cluster = granted(None);
    let mut frames = Frames::new();
    // The receive for the first frame also takes the start of the second, which is too long for the block reserved.
    cluster.hosts[0].send_frame(2, frames.make(1, 10)).unwrap();
    cluster.hosts[0].send_frame(2, frames.make(2, 600_000)).unwrap();
    cluster.world.borrow_mut().chunk = 100_000;
    cluster.run_until("one frame is there", |c| c.hosts[1].net.counters().frames_in == 1);
    // Somebody else takes the memory right behind it.
    let other = cluster.hosts[1].ring.reserve(4096).unwrap();
    cluster.run_until("it is given up", |c| c.hosts[1].net.counters().sessions_down == 1);
    cluster.turn();
    assert_eq!(cluster.hosts[1].downs(), [DownReason::NoRoom]);
    drop(other);
    cluster.settle();
    cluster.hosts[0].send_frame(2, frames.make(2, 600_000)).unwrap();
    cluster.turns(12);
    assert_eq!(cluster.hosts[1].frames(), [2]);
}

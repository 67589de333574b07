//! An address book that changes while the node runs.

#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{LogIndex, NodeId, Term, Time};
use kontiki_net::limits::{MAX_ABANDONED_DIALS, SNAPSHOT_CHUNK_BYTES};
use kontiki_net::{
    Address, BookError, Channel, DownReason, HandshakeRefusal, NetEvent, Options, OptionsError, SnapshotId, SnapshotWant, Unreached,
};
use support::greeting::{greet, hello, message, refusal};
use support::{Cluster, Frames, Host, MS, World, addr, options};

/// Nodes 1 to `n`, each with room for others besides.
fn roomy(n: u64) -> Cluster {
    Cluster::with(n, |options| options.further_peers = 3)
}

/// A node that knows of nobody.
fn alone(world: &std::rc::Rc<std::cell::RefCell<World>>, id: u64, incarnation: u64) -> Host {
    Host::new(world, Options { peers: Vec::new(), further_peers: 3, ..options(id, id, incarnation) })
}

fn set_at(host: &mut Host, peer: u64, at: Option<Address>) -> Result<(), BookError> {
    let now = host.io_now();
    host.net.set_peer(NodeId(peer), at, now, &mut host.io)
}

fn set(host: &mut Host, peer: u64) {
    set_at(host, peer, Some(addr(7000 + peer as u16).into())).unwrap();
}

fn remove(host: &mut Host, peer: u64) {
    let now = host.io_now();
    host.net.remove_peer(NodeId(peer), now, &mut host.io);
}

fn now(cluster: &Cluster) -> Time {
    cluster.world.borrow().now
}

#[test]
fn who_is_added_is_reached_and_who_is_removed_is_gone_and_the_others_do_not_notice() {
    let mut cluster = roomy(3);
    cluster.settle();
    let world = cluster.world.clone();
    cluster.hosts.push(alone(&world, 4, 1));
    let sessions = [cluster.hosts[0].session(2), cluster.hosts[0].session(3), cluster.hosts[1].session(3)];
    for host in 0..3 {
        set(&mut cluster.hosts[host], 4);
        set(&mut cluster.hosts[3], host as u64 + 1);
    }
    let begun = now(&cluster);
    cluster.run_until("all", |c| (1..4).all(|id| c.hosts[3].session(id).is_some() && c.hosts[id as usize - 1].session(4).is_some()));
    assert!(now(&cluster).since(begun) / MS < 50, "at once");
    let known: Vec<u64> = cluster.hosts[0].net.peers().map(|id| id.0).collect();
    assert_eq!(known, [2, 3, 4]);
    // The one in the middle goes.
    for host in [0, 2, 3] {
        remove(&mut cluster.hosts[host], 2);
    }
    cluster.turns(5);
    assert_eq!([0, 2, 3].map(|host| cluster.hosts[host].downs()), [const { [DownReason::Removed] }; 3]);
    assert!(cluster.hosts[1].downs().iter().all(|why| matches!(why, DownReason::Closed | DownReason::Io(_))));
    cluster.turns(5000);
    assert_eq!((cluster.hosts[0].session(3), cluster.hosts[2].session(1)), (sessions[1], sessions[1]));
    assert!(cluster.hosts[0].session(4).is_some() && cluster.hosts[1].net.counters().sessions_up == 3);
    // It still looks for the others, and is told that it is none of them.
    assert!(matches!(
        cluster.hosts[1].net.unreached(NodeId(3)),
        Some((Unreached::ByPeer(HandshakeRefusal::UnknownPeer { from: NodeId(2) }), _))
    ));
    assert_eq!(cluster.hosts[0].net.unreached(NodeId(2)), None, "who is no peer is not missed");
    // And comes back where it was: the first place that is free.
    for host in [0, 2, 3] {
        set(&mut cluster.hosts[host], 2);
    }
    let known: Vec<u64> = cluster.hosts[0].net.peers().map(|id| id.0).collect();
    assert_eq!(known, [2, 3, 4]);
    let begun = now(&cluster);
    cluster.run_until("back", |c| [0, 2].iter().all(|&host| c.hosts[host].session(2).is_some()));
    assert!(now(&cluster).since(begun) / MS < 1100, "the longest pause of those who looked for it");
}

#[test]
fn the_book_is_bounded_and_says_so() {
    let mut cluster = roomy(2);
    let host = &mut cluster.hosts[0];
    for peer in 3..=5 {
        set(host, peer);
    }
    assert_eq!(set_at(host, 6, None), Err(BookError::Full { places: 4 }));
    assert_eq!(set_at(host, 0, None), Err(BookError::ZeroId));
    assert_eq!(set_at(host, 1, None), Ok(()), "an entry for this node is skipped");
    assert_eq!(set_at(host, 2, None), Ok(()), "one that is in it needs no place");
    remove(host, 4);
    remove(host, 4);
    assert_eq!(set_at(host, 6, None), Ok(()));
    let known: Vec<u64> = host.net.peers().map(|id| id.0).collect();
    assert_eq!(known, [2, 3, 6, 5]);
    let too_many = Options { further_peers: kontiki_net::limits::MAX_PEERS, ..options(1, 2, 1) };
    assert_eq!(too_many.check(), Err(OptionsError::Bound { what: "peers" }));
}

#[test]
fn a_node_that_is_not_in_the_book_is_turned_away() {
    let mut cluster = roomy(2);
    cluster.settle();
    for (channel, id) in [(Channel::Control, 8), (Channel::Bulk, 8), (Channel::Snapshot, 8)] {
        let (_raw, answer) = greet(&mut cluster, 7002, &hello(channel, id, 2, 77, 0));
        assert_eq!(refusal(answer), Some(HandshakeRefusal::UnknownPeer { from: NodeId(id) }));
    }
    set_at(&mut cluster.hosts[1], 8, None).unwrap();
    let (_raw, answer) = greet(&mut cluster, 7002, &hello(Channel::Control, 8, 2, 77, 0));
    assert_eq!(refusal(answer), None);
    remove(&mut cluster.hosts[1], 8);
    let (_raw, answer) = greet(&mut cluster, 7002, &hello(Channel::Control, 8, 2, 77, 0));
    assert_eq!(refusal(answer), Some(HandshakeRefusal::UnknownPeer { from: NodeId(8) }));
}

/// Frames that wait, frames under way, half a handshake: over and over, and nothing stays.
#[test]
fn a_removed_peer_leaves_nothing_behind() {
    let mut cluster = roomy(3);
    cluster.settle();
    let mut frames = Frames::new();
    cluster.world.borrow_mut().pipe_bytes = 10_000;
    for round in 0..200 {
        // It does not read: what is sent to it stays where it is.
        for n in 0..20 {
            cluster.hosts[0].send_frame(2, frames.make(1 + n, 3000)).unwrap();
            cluster.hosts[0].send(2, &message(n)).unwrap();
            if n == round % 20 {
                cluster.turn();
            }
        }
        assert!(frames.taken() > 0 && cluster.hosts[0].net.pinning(NodeId(2)).is_some());
        remove(&mut cluster.hosts[0], 2);
        assert_eq!(cluster.hosts[0].net.pinning(NodeId(2)), None);
        // What the kernel has comes back when its connection is closed; all else was given back at once.
        cluster.turns(if round % 3 == 0 { 1 } else { 4 });
        if round % 3 != 0 {
            assert_eq!(frames.taken(), 0, "round {round}");
        }
        set(&mut cluster.hosts[0], 2);
        // In a handshake, now and then.
        if round % 5 == 0 {
            cluster.turns(round as usize / 5 % 8);
            remove(&mut cluster.hosts[0], 2);
            set(&mut cluster.hosts[0], 2);
        }
        let begun = now(&cluster);
        cluster.run_until("back", |c| c.hosts[0].session(2).is_some() && c.hosts[0].session(2) == c.hosts[1].session(1));
        assert!(now(&cluster).since(begun) / MS < 100, "round {round}: at once");
        cluster.hosts[1].take_events();
    }
    cluster.turns(10);
    assert_eq!(frames.taken(), 0);
    assert!(cluster.hosts[0].io.outstanding() <= 2 * 2 + 1, "a receive for each connection, and the listener's");
    assert_eq!(cluster.hosts[0].net.counters().sessions_down, 200);
    assert_eq!(cluster.hosts[2].downs(), [], "node 3 has not noticed");
    remove(&mut cluster.hosts[0], 2);
    remove(&mut cluster.hosts[0], 3);
    cluster.hosts[0].stop();
    cluster.turns(10);
    assert!(cluster.hosts[0].net.idle());
}

/// Who is removed while nobody has told the other side of what is queued: all that was started has its end.
#[test]
fn what_was_under_way_with_a_removed_peer_is_told_to_be_over() {
    let mut cluster = roomy(2);
    cluster.settle();
    let id = SnapshotId { source: NodeId(2), index: LogIndex(9), term: Term(1), digest: 4 };
    let at = now(&cluster);
    cluster.hosts[0].net.want_snapshot(at, NodeId(2), SnapshotWant { id, offset: 0, chunks: 2, held: 0 }).unwrap();
    cluster.run_until("wanted", |c| c.hosts[1].events.iter().any(|event| matches!(event, NetEvent::SnapshotWanted { .. })));
    let pull = |host: &Host| {
        host.events.iter().find_map(|event| if let NetEvent::SnapshotWanted { pull, .. } = event { Some(*pull) } else { None }).unwrap()
    };
    let pull = pull(&cluster.hosts[1]);
    let pool = kontiki_mem::Pool::new(1, SNAPSHOT_CHUNK_BYTES);
    let chunk = pool.take().unwrap().freeze();
    cluster.hosts[1].net.send_chunk(pull, id, 0, chunk, 0).unwrap();
    // On both sides in the same turn: the one pulls, the other is pulled from.
    for host in &mut cluster.hosts {
        host.take_events();
    }
    remove(&mut cluster.hosts[0], 2);
    remove(&mut cluster.hosts[1], 1);
    cluster.turns(5);
    let told = |host: &Host| -> Vec<(&str, DownReason)> {
        let end = |event: &NetEvent| match event {
            NetEvent::SnapshotFetchDown { reason, .. } => Some(("fetch", *reason)),
            NetEvent::SnapshotServeDown { pull: down, reason } => {
                assert_eq!(*down, pull, "of the peer, though it is one no more");
                Some(("serve", *reason))
            }
            NetEvent::SessionDown { reason, .. } => Some(("session", *reason)),
            _ => None,
        };
        host.events.iter().filter_map(end).collect()
    };
    let removed = DownReason::Removed;
    assert_eq!(told(&cluster.hosts[0]), [("fetch", removed), ("session", removed)]);
    assert_eq!(told(&cluster.hosts[1]), [("serve", removed), ("session", removed)]);
    assert_eq!(pool.available(), 1, "the chunk is given back");
    // And again, before the end of the last was polled.
    for (host, other) in [(0, 2), (1, 1)] {
        set(&mut cluster.hosts[host], other);
    }
    cluster.settle();
    assert!(cluster.hosts[0].net.want_room(NodeId(2)) > 0);
}

#[test]
fn the_right_to_send_frames_outlives_the_slot() {
    let mut cluster = roomy(3);
    cluster.settle();
    let mut frames = Frames::new();
    cluster.hosts[1].grant(Some(1));
    remove(&mut cluster.hosts[1], 1);
    cluster.turns(3);
    // Its slot goes to another one, which has no such right.
    set(&mut cluster.hosts[1], 9);
    set(&mut cluster.hosts[1], 1);
    assert_eq!(cluster.hosts[1].net.granted(), Some(NodeId(1)));
    cluster.settle_keeping_events();
    cluster.hosts[0].send_frame(2, frames.make(1, 100)).unwrap();
    cluster.hosts[2].send_frame(2, frames.make(2, 100)).unwrap();
    cluster.turns(10);
    assert_eq!(cluster.hosts[1].frames(), [1]);
}

/// The session over the old address stays until there is one over the new.
#[test]
fn a_changed_address_is_dialled_at_once_and_the_session_stays_until_that_stands() {
    for (mover, caller) in [(2u64, 0usize), (1, 1)] {
        let mut cluster = roomy(2);
        if mover == 1 {
            // So that it is the higher id that dials.
            cluster.world.borrow_mut().black_holes.insert(addr(7002));
        }
        cluster.settle();
        let old = cluster.hosts[caller].session(mover).unwrap();
        // Nobody is there yet.
        let to = addr(7020 + mover as u16);
        set_at(&mut cluster.hosts[caller], mover, Some(to.into())).unwrap();
        let dials = cluster.hosts[caller].net.counters().dials;
        cluster.turns(2);
        assert_eq!(cluster.hosts[caller].net.counters().dials, dials + 1, "at once");
        cluster.turns(3000);
        assert_eq!(cluster.hosts[caller].session(mover), Some(old), "it is alive");
        assert!(cluster.hosts[caller].net.counters().dials > dials + 2, "and the new address is tried again");
        // The same process listens there now.
        cluster.world.borrow_mut().forward(to, addr(7000 + mover as u16));
        cluster.run_until("moved", |c| c.hosts[caller].session(mover).is_some_and(|session| session != old));
        let downs = cluster.hosts[caller].downs();
        assert!(matches!(downs[..], [DownReason::Replaced | DownReason::Closed]), "whichever is seen first: {downs:?}");
        cluster.turns(5);
        let session = cluster.hosts[caller].session(mover);
        let dials = cluster.hosts[caller].net.counters().dials;
        cluster.turns(10_000);
        assert_eq!(
            (cluster.hosts[caller].session(mover), cluster.hosts[caller].net.counters().dials),
            (session, dials),
            "and that is that"
        );
        // The same address again is no news.
        set_at(&mut cluster.hosts[caller], mover, Some(to.into())).unwrap();
        cluster.turns(100);
        assert_eq!(cluster.hosts[caller].net.counters().dials, dials);
    }
}

/// The one that did not dial learns of an address: it has a session, and needs none.
#[test]
fn a_changed_address_of_one_that_has_dialled_changes_nothing_now() {
    let mut cluster = roomy(2);
    cluster.settle();
    set_at(&mut cluster.hosts[1], 1, Some(addr(7999).into())).unwrap();
    cluster.turns(5000);
    assert_eq!((cluster.hosts[1].net.counters().dials, cluster.hosts[1].downs().len()), (0, 0));
    assert_eq!(cluster.hosts[1].net.peer_addr(NodeId(1)), Some(addr(7999).into()));
}

/// A kernel has minutes' patience with addresses that do not answer. Whoever is at another one now does not wait for it.
#[test]
fn attempts_that_never_end_do_not_keep_a_new_address_from_being_dialled() {
    for again in [false, true] {
        let mut cluster = roomy(2);
        let silent = addr(7998);
        cluster.world.borrow_mut().black_holes.extend([silent, addr(7001)]);
        set_at(&mut cluster.hosts[0], 2, Some(silent.into())).unwrap();
        cluster.turns(60_000);
        let host = &mut cluster.hosts[0];
        assert!(host.io.outstanding() >= MAX_ABANDONED_DIALS - 1, "they hang");
        if again {
            remove(host, 2);
        }
        set(host, 2);
        let begun = now(&cluster);
        cluster.settle();
        assert!(now(&cluster).since(begun) / MS < 50, "at once");
    }
}

/// What comes of a lookup for one that is gone, or elsewhere by now, is nobody's.
#[test]
fn a_lookup_that_outlives_its_peer_is_nobodys() {
    const OLD: &str = "old.test:7002";
    for next in [Some(addr(7002).into()), Some("new.test:7002".parse().unwrap()), None] {
        for removed in [false, true] {
            let mut cluster = roomy(2);
            // Only node 1 looks for the other.
            set_at(&mut cluster.hosts[1], 1, None).unwrap();
            cluster.world.borrow_mut().names.insert(OLD.into(), vec![]);
            cluster.world.borrow_mut().names.insert("new.test:7002".into(), vec![addr(7002)]);
            set_at(&mut cluster.hosts[0], 2, Some(OLD.parse().unwrap())).unwrap();
            cluster.turns(3000);
            assert_eq!(cluster.hosts[0].net.counters().lookups, 1);
            if removed {
                remove(&mut cluster.hosts[0], 2);
            }
            set_at(&mut cluster.hosts[0], 2, next).unwrap();
            cluster.turns(500);
            let fixed = next.is_some_and(|next: Address| next.socket().is_some());
            assert_eq!(cluster.hosts[0].session(2).is_some(), fixed, "{next:?}: only a name waits for the resolver");
            assert_eq!(cluster.hosts[0].net.counters().lookups, 1, "one at a time");
            // It answers in the end, and somebody else is there.
            cluster.world.borrow_mut().names.insert(OLD.into(), vec![addr(7001)]);
            cluster.turns(500);
            assert_eq!(cluster.hosts[0].session(2).is_some(), next.is_some(), "{next:?}");
            assert_eq!(cluster.hosts[0].net.counters().refused(), 0, "nobody was dialled at the old name's address");
        }
    }
}

/// Books that change all the time, on all nodes at different times, and nodes that restart: once they agree, there is
/// one session for each pair that knows each other, and none else.
#[test]
fn books_that_change_at_random_end_in_the_sessions_that_they_say() {
    for seed in 0..40u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) * below) >> 31
        };
        let n = 4;
        let mut cluster = roomy(n);
        cluster.world.borrow_mut().latency = (seed + 1, (1 + seed % 20) * MS);
        let mut frames = Frames::new();
        let mut incarnations = [1; 4];
        for _ in 0..60 {
            let (host, peer) = (draw(n) as usize, 1 + draw(n));
            match draw(8) {
                0 | 1 => remove(&mut cluster.hosts[host], peer),
                2 | 3 => set(&mut cluster.hosts[host], peer),
                4 => set_at(&mut cluster.hosts[host], peer, None).unwrap(),
                5 => set_at(&mut cluster.hosts[host], peer, Some(addr(7999).into())).unwrap(),
                6 => drop(cluster.hosts[host].send_frame(peer, frames.make(1, 500))),
                _ => {
                    cluster.hosts[host].stop();
                    cluster.turns(8);
                    incarnations[host] += 1;
                    let next = Options { further_peers: 3, ..options(host as u64 + 1, n, incarnations[host]) };
                    let world = cluster.world.clone();
                    cluster.hosts[host] = Host::new(&world, next);
                }
            }
            cluster.turns(draw(40) as usize);
        }
        // They agree: node 4 is out, and the others know each other.
        for host in 0..4 {
            for peer in 1..=4 {
                let both = host < 3 && peer < 4;
                if both { set(&mut cluster.hosts[host], peer) } else { remove(&mut cluster.hosts[host], peer) }
            }
        }
        let pairs = [(0, 1), (0, 2), (1, 2)];
        let up = |c: &Cluster, (a, b): (usize, usize)| {
            let session = c.hosts[a].session(b as u64 + 1);
            session.is_some() && session == c.hosts[b].session(a as u64 + 1)
        };
        let begun = now(&cluster);
        cluster.run_until("they agree", |c| pairs.iter().all(|&pair| up(c, pair)));
        assert!(now(&cluster).since(begun) / MS < 5000, "seed {seed}");
        cluster.turns(3000);
        for host in &mut cluster.hosts {
            host.take_events();
        }
        cluster.turns(5000);
        assert!(pairs.iter().all(|&pair| up(&cluster, pair)) && cluster.hosts.iter().all(|host| host.downs().is_empty()), "seed {seed}");
        assert!((1..4).all(|id| cluster.hosts[3].session(id).is_none()), "seed {seed}");
        assert_eq!(frames.taken(), 0, "seed {seed}");
    }
}

/// It was dialled, and does not know where to. Each attempt says so, with growing pauses.
#[test]
fn a_snapshot_of_a_node_whose_address_is_not_known_is_asked_for_in_vain() {
    let mut cluster = roomy(2);
    set_at(&mut cluster.hosts[1], 1, None).unwrap();
    cluster.settle();
    let id = SnapshotId { source: NodeId(1), index: LogIndex(9), term: Term(1), digest: 4 };
    for _ in 0..10_000 {
        let at = now(&cluster);
        let host = &mut cluster.hosts[1];
        if host.net.want_room(NodeId(1)) > 0 {
            host.net.want_snapshot(at, NodeId(1), SnapshotWant { id, offset: 0, chunks: 1, held: 0 }).unwrap();
        }
        cluster.turn();
    }
    let host = &cluster.hosts[1];
    let downs: Vec<_> = host
        .events
        .iter()
        .filter_map(|event| if let NetEvent::SnapshotFetchDown { reason, .. } = event { Some(*reason) } else { None })
        .collect();
    assert!((5..40).contains(&downs.len()), "{} in ten seconds", downs.len());
    assert!(downs.iter().all(|why| *why == DownReason::NoAddress), "{downs:?}");
    assert_eq!((host.net.counters().sessions_up, host.net.counters().sessions_down), (1, 0), "the session is none the worse");
}

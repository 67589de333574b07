//! Whatever arrives at the port: no panic, no state change, bounded memory.

#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{LogIndex, Message, Term};
use kontiki_net::{Channel, ControlPayload, Request, encode_request, request_bytes};
use proptest::prelude::*;
use support::greeting::{encoded, hello, record};
use support::{Cluster, Frames, Raw, addr};

/// A piece of a stream: noise, or something that looks right.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let channel = prop_oneof![Just(Channel::Control), Just(Channel::Bulk), Just(Channel::Client)];
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (channel, 0..4u64, 0..3u64, 0..3u64)
            .prop_map(|(channel, from, session, nonce)| encoded(&hello(channel, from, 2, session, nonce)).to_vec()),
        (0..3u64, 0..3u64).prop_map(|(session, sequence)| {
            let message = Message::Accepted { term: Term(1), round: 3, matched: LogIndex(2) };
            record(session, sequence, ControlPayload::Message(message))
        }),
        prop::collection::vec(any::<u8>(), 0..100).prop_map(|payload| {
            let request = Request::Propose { session: None, payload: &payload };
            let mut bytes = vec![0; request_bytes(&request)];
            encode_request(1, &request, &mut bytes).unwrap();
            bytes
        }),
        (0..200usize).prop_map(|payload| Frames::new().make(1, payload).bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_of_anything_never_disturb_a_live_session(
        streams in prop::collection::vec(prop::collection::vec(piece(), 1..5), 1..6),
        flips in prop::collection::vec(any::<(u16, u16, u8)>(), 0..4),
        chunk in prop_oneof![Just(usize::MAX), 1..500usize],
    ) {
        // Nodes 2 and 3 are up; node 1, which everyone claims to be, is not there.
        let mut cluster = Cluster::with(3, |options| options.bulk_queue_frames = 8);
        cluster.hosts.remove(0);
        cluster.run_until("up", |c| c.hosts[0].session(3).is_some() && c.hosts[1].session(2).is_some());
        cluster.hosts[0].grant(Some(1));
        cluster.world.borrow_mut().chunk = chunk;
        let session = cluster.hosts[0].session(3);
        let mut raws = Vec::new();
        for (s, stream) in streams.iter().enumerate() {
            let mut bytes = stream.concat();
            for (stream, at, bits) in &flips {
                if *stream as usize % streams.len() == s && !bytes.is_empty() {
                    let at = *at as usize % bytes.len();
                    bytes[at] ^= bits;
                }
            }
            let raw = Raw::connect(&cluster.world, addr(7002));
            raw.write(&bytes);
            raws.push(raw);
            cluster.turns(2);
        }
        cluster.turns(50);
        // Without our nonce nobody opens a session as node 1: so no message and no frame came in.
        prop_assert_eq!(cluster.hosts[0].session(1), None);
        prop_assert_eq!(cluster.hosts[0].session(3), session);
        prop_assert_eq!(cluster.hosts[0].messages(), []);
        prop_assert_eq!(cluster.hosts[0].frames(), [0u64; 0]);
        prop_assert_eq!(cluster.hosts[0].ring.held(), 0);
        drop(raws);
    }

    #[test]
    fn anything_inside_a_session_ends_at_most_that_session(
        control in prop::collection::vec(piece(), 0..4),
        bulk in prop::collection::vec(piece(), 0..4),
        chunk in prop_oneof![Just(usize::MAX), 1..500usize],
    ) {
        let mut cluster = Cluster::up(3);
        cluster.hosts[1].grant(Some(1));
        cluster.world.borrow_mut().chunk = chunk;
        let other = cluster.hosts[1].session(3);
        // Node 1's first connection is its control channel to node 2; its bulk channel is found by its greeting.
        let streams = cluster.world.borrow().recorded(addr(7001));
        let nth = |channel: u8| streams.iter().position(|bytes| bytes[11] == channel && bytes[40] == 2).unwrap();
        cluster.world.borrow_mut().inject(addr(7001), nth(1), &control.concat());
        cluster.world.borrow_mut().inject(addr(7001), nth(2), &bulk.concat());
        cluster.turns(30);
        prop_assert_eq!(cluster.hosts[1].messages(), []);
        prop_assert_eq!(cluster.hosts[1].frames(), [0u64; 0]);
        prop_assert_eq!(cluster.hosts[1].session(3), other);
    }
}

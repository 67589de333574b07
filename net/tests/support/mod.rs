//! A small deterministic world for the transport: hosts, byte pipes and a clock, all under the test's control.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::disallowed_methods, clippy::result_large_err)]

pub mod greeting;
mod hosts;
pub mod snapshots;
mod world;

use std::collections::HashMap;

use kontiki_core::{ClusterId, FrameMeta, GroupId, Incarnation, LogIndex, NodeId, SessionId, Subterm, Term};
use kontiki_frame::{BODY_OFFSET, Header, Kind, frame_bytes, put_entry, seal};
use kontiki_mem::{Block, Pool};
use kontiki_net::limits::HELLO_BYTES;
use kontiki_net::{Channel, Hello, HelloKind, Request, encode_request, request_bytes};

pub use hosts::{Cluster, Host, addr, options};
#[allow(unused_imports, reason = "each test uses a part")]
pub use world::{Faults, Listener, Raw, TestIo, World};

pub const MS: u64 = 1_000_000;

pub const CLUSTER: ClusterId = ClusterId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);

/// Makes sealed frames in pool memory.
pub struct Frames {
    pools: HashMap<usize, Pool>,
    pub cluster: ClusterId,
    pub group: GroupId,
}

impl Frames {
    pub fn new() -> Frames {
        Frames { pools: HashMap::new(), cluster: CLUSTER, group: GroupId(0) }
    }

    /// A frame with one entry of `payload_bytes` at `index`.
    pub fn make(&mut self, index: u64, payload_bytes: usize) -> Block {
        let body = payload_bytes + 4;
        let bytes = frame_bytes(body);
        let pool = self.pools.entry(bytes).or_insert_with(|| Pool::new(64, bytes));
        let mut buf = pool.take().unwrap();
        let payload: Vec<u8> = (0..payload_bytes).map(|i| (i as u64 * 31 + index) as u8).collect();
        put_entry(buf.bytes_mut(), BODY_OFFSET, None, &payload).unwrap();
        let meta = FrameMeta { term: Term(2), first: LogIndex(index), count: 1, prev_term: Term(1) };
        let header = Header {
            kind: Kind::Entries,
            sessions: false,
            cluster: self.cluster,
            group: self.group,
            meta,
            subterm: Subterm(0),
            cluster_ns: 0,
            proposed_ns: 5,
            body_bytes: body as u32,
        };
        seal(buf.bytes_mut(), &header);
        buf.freeze()
    }

    pub fn taken(&self) -> usize {
        self.pools.values().map(|pool| 64 - pool.available()).sum()
    }
}

/// The greeting of a client that takes any node of any cluster.
pub fn client_greeting() -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    Hello {
        kind: HelloKind::Hello,
        channel: Channel::Client,
        code: 0,
        detail: 0,
        cluster: ClusterId(0),
        from: NodeId(0),
        to: NodeId(0),
        incarnation: Incarnation(0),
        process_number: 0,
        session: SessionId(3),
        nonce: 0,
    }
    .encode(&mut bytes);
    bytes
}

/// A proposal on the wire.
pub fn client_request(number: u64, payload: &[u8]) -> Vec<u8> {
    let request = Request::Propose { session: None, payload };
    let mut bytes = vec![0; request_bytes(&request)];
    assert_eq!(encode_request(number, &request, &mut bytes), Some(bytes.len()));
    bytes
}

//! What a node tells its transport at the start.

use std::net::SocketAddr;

use kontiki_core::{ClusterId, GroupId, Incarnation, NodeId};

use crate::address::Address;
use crate::limits::{CLIENT_HEADER_BYTES, FEATURE_LEVEL, MAX_CLIENTS, MAX_PEERS};
use crate::session::parameters::Parameters;

const MS: u64 = 1_000_000;

/// Identity, addresses and bounds of one transport. Times are in nanoseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster: every greeting and every frame must name it.
    pub cluster: ClusterId,
    /// The group whose frames are taken.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// How often this node has started, already durable.
    pub incarnation: Incarnation,
    /// Where to listen, for nodes and clients alike; port zero asks for any.
    pub listen: SocketAddr,
    /// The other nodes and where they listen. An entry for this node is skipped.
    pub peers: Vec<(NodeId, Address)>,
    /// How many other nodes may be added to these while it runs: memory, connections and operations are set aside for
    /// them too.
    pub further_peers: usize,
    /// Longest frame taken from a peer, padding included.
    pub max_frame_bytes: usize,
    /// What peers are told of this node besides; its `takes_frame_bytes` is `max_frame_bytes`, and its
    /// `feature_level` this program's, whatever stands here.
    pub parameters: Parameters,
    /// Most frames waiting to be sent to one peer.
    pub bulk_queue_frames: usize,
    /// Bytes of frames that may wait or be under way to one peer (one frame always may).
    pub bulk_queue_bytes: u64,
    /// Most clients at once.
    pub max_clients: usize,
    /// Longest payload of a client's request.
    pub max_request_bytes: usize,
    /// Longest payload of a response.
    pub max_reply_bytes: usize,
    /// Most requests of one client that are not answered yet; further ones wait in its socket.
    pub max_requests_in_flight: usize,
    /// A connection attempt or handshake that takes longer is given up.
    pub handshake_timeout_ns: u64,
    /// A session is closed after so long a silence on its control channel. Must cover several round trips;
    /// a keepalive goes out after a quarter of it.
    pub idle_timeout_ns: u64,
    /// A client is disconnected if it says nothing, or reads nothing, for so long.
    pub client_idle_timeout_ns: u64,
    /// A snapshot's connection is closed once nothing has moved on it for so long.
    pub snapshot_timeout_ns: u64,
    /// Whether administrative requests are taken from other machines too.
    pub admin_any: bool,
    /// Shortest pause before connecting again.
    pub backoff_min_ns: u64,
    /// Longest pause before connecting again.
    pub backoff_max_ns: u64,
    /// Seed of session ids, nonces and jitter. Take it from the system's randomness (in a simulation:
    /// different for every node and start), since two processes with one id are told apart by it.
    pub seed: u64,
}

impl Options {
    /// Options with the defaults of a small board.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        incarnation: Incarnation,
        listen: SocketAddr,
        peers: Vec<(NodeId, impl Into<Address>)>,
    ) -> Options {
        Options {
            cluster,
            group: GroupId(0),
            node,
            incarnation,
            listen,
            peers: peers.into_iter().map(|(peer, addr)| (peer, addr.into())).collect(),
            further_peers: 0,
            max_frame_bytes: kontiki_frame::MAX_FRAME_BYTES,
            parameters: Parameters::default(),
            bulk_queue_frames: 256,
            bulk_queue_bytes: 4 << 20,
            max_clients: 32,
            max_request_bytes: 64 << 10,
            max_reply_bytes: 2 << 10,
            max_requests_in_flight: 64,
            handshake_timeout_ns: 2_000 * MS,
            idle_timeout_ns: 2_000 * MS,
            client_idle_timeout_ns: 600_000 * MS,
            snapshot_timeout_ns: 30_000 * MS,
            admin_any: false,
            backoff_min_ns: 20 * MS,
            backoff_max_ns: 1_000 * MS,
            seed: 0,
        }
    }

    /// Checks the options against the crate's limits.
    ///
    /// # Errors
    /// The first that is out of bounds.
    pub fn check(&self) -> Result<(), OptionsError> {
        let bad = |what| Err(OptionsError::Bound { what });
        if self.node.0 == 0 || self.peers.iter().any(|(peer, _)| peer.0 == 0) {
            return Err(OptionsError::ZeroId);
        }
        let mut ids: Vec<NodeId> = self.peers.iter().map(|(peer, _)| *peer).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(OptionsError::Twice { peer: pair[0] });
        }
        if self.peer_places() > MAX_PEERS {
            return bad("peers");
        }
        if !self.max_frame_bytes.is_multiple_of(kontiki_frame::BLOCK_BYTES)
            || !(kontiki_frame::BLOCK_BYTES..=kontiki_frame::MAX_FRAME_BYTES).contains(&self.max_frame_bytes)
        {
            return bad("max_frame_bytes");
        }
        if !(1..=1 << 16).contains(&self.bulk_queue_frames) {
            return bad("bulk_queue_frames");
        }
        if self.bulk_queue_bytes == 0 {
            return bad("bulk_queue_bytes");
        }
        if self.max_clients > MAX_CLIENTS {
            return bad("max_clients");
        }
        if !(1..=1 << 26).contains(&self.max_request_bytes) {
            return bad("max_request_bytes");
        }
        if !(256..=1 << 26).contains(&self.max_reply_bytes) {
            return bad("max_reply_bytes");
        }
        if !(1..=1 << 16).contains(&self.max_requests_in_flight) {
            return bad("max_requests_in_flight");
        }
        if self.handshake_timeout_ns == 0 || self.idle_timeout_ns < 4 || self.client_idle_timeout_ns == 0 || self.snapshot_timeout_ns == 0 {
            return bad("timeouts");
        }
        if self.backoff_min_ns == 0 || self.backoff_min_ns > self.backoff_max_ns {
            return bad("backoff_min_ns");
        }
        Ok(())
    }

    /// Most other nodes at once.
    pub(crate) fn peer_places(&self) -> usize {
        self.peers.iter().filter(|(peer, _)| *peer != self.node).count().saturating_add(self.further_peers)
    }

    /// What peers are told of this node.
    pub(crate) fn parameters(&self) -> Parameters {
        let takes_frame_bytes = u32::try_from(self.max_frame_bytes).unwrap_or(u32::MAX);
        Parameters { takes_frame_bytes, feature_level: FEATURE_LEVEL, ..self.parameters }
    }

    /// Room that one response may take, header included: set aside when its request is taken, so that
    /// the response always fits.
    pub(crate) fn response_bytes(&self) -> usize {
        CLIENT_HEADER_BYTES + self.max_reply_bytes
    }
}

/// Why options cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Node ids start at 1.
    #[error("a node has the id 0: ids start at 1")]
    ZeroId,
    /// A peer is named twice.
    #[error("node {peer} is named twice among the peers")]
    Twice {
        /// The peer.
        peer: NodeId,
    },
    /// A value is out of bounds.
    #[error("{what} is out of bounds")]
    Bound {
        /// Which option.
        what: &'static str,
    },
}

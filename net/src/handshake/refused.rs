//! Who was turned away, by whom and why: what an operator asks for when two nodes do not come together.
//!
//! One entry for each kind of refusal and each peer, with a count; strangers share theirs, whatever their addresses.
//! Anybody who reaches the port can make entries: so the table is bounded, and where it is full a stranger's gives way
//! first.

use std::net::SocketAddr;

use kontiki_core::{NodeId, Time};

use crate::handshake::refusal::Refusal;
use crate::limits::MAX_REFUSED;
use crate::net::Net;

/// One kind of refusal, and how often it was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The peer that it is about, if the connection was one's, or was said to be.
    pub peer: Option<NodeId>,
    /// Where the newest of them came from, or went to.
    pub remote: SocketAddr,
    /// The newest of them. [`Refusal::ByPeer`] is the one that the other side meets this node with.
    pub reason: Refusal,
    /// How many there were since the kind was first met.
    pub count: u64,
    /// When the newest was met.
    pub last: Time,
}

impl Refused {
    /// Whether it is the peer that refuses this node.
    pub fn by_peer(&self) -> bool {
        matches!(self.reason, Refusal::ByPeer(_))
    }

    fn is_like(&self, peer: Option<NodeId>, reason: &Refusal) -> bool {
        self.peer == peer && self.reason.topic() == reason.topic() && self.by_peer() == matches!(reason, Refusal::ByPeer(_))
    }
}

/// The table. Memory is set aside at the start.
#[derive(Debug, Default)]
pub(crate) struct RefusedTable(heapless::Vec<Refused, MAX_REFUSED>);

impl RefusedTable {
    pub(crate) fn note(&mut self, peer: Option<NodeId>, remote: SocketAddr, reason: Refusal, now: Time) {
        if let Some(known) = self.0.iter_mut().find(|known| known.is_like(peer, &reason)) {
            *known = Refused { remote, reason, count: known.count + 1, last: now, ..*known };
            return;
        }
        if self.0.is_full() {
            let oldest = (0..).zip(&self.0).min_by_key(|(_, known)| (known.peer.is_some(), known.last)).map(|(at, _)| at);
            self.0.swap_remove(oldest.unwrap_or(0));
        }
        // A place was made.
        let _ = self.0.push(Refused { peer, remote, reason, count: 1, last: now });
    }

    /// A session with the peer is up: what kept it from that is over.
    pub(crate) fn reached(&mut self, peer: NodeId) {
        self.0.retain(|known| known.peer != Some(peer) || !known.reason.is_of_a_handshake());
    }
}

impl Net {
    /// Who was turned away and why, by this node and by others: the newest of each kind, in no order. What kept a peer
    /// from a session is gone once one is up.
    pub fn refused(&self) -> &[Refused] {
        &self.refused.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::hello::HandshakeRefusal;

    fn remote(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn one_entry_a_kind_and_peer_and_strangers_give_way_first() {
        let mut table = RefusedTable::default();
        let cluster = Refusal::Handshake(HandshakeRefusal::Cluster);
        for n in 0..1000 {
            table.note(Some(NodeId(2)), remote(n), cluster, Time(n.into()));
            table.note(None, remote(n), Refusal::Slow, Time(n.into()));
        }
        table.note(Some(NodeId(2)), remote(1), Refusal::ByPeer(HandshakeRefusal::Cluster), Time(5));
        assert_eq!(table.0.len(), 3, "who refuses whom are two things");
        assert_eq!((table.0[0].count, table.0[0].remote, table.0[0].last), (1000, remote(999), Time(999)));
        for peer in 3..100 {
            table.note(Some(NodeId(peer)), remote(1), cluster, Time(10_000 + peer));
        }
        assert!(table.0.is_full() && table.0.iter().all(|known| known.peer.is_some()));
        assert!(table.0.iter().any(|known| known.peer == Some(NodeId(99))));
        table.reached(NodeId(99));
        assert!(table.0.iter().all(|known| known.peer != Some(NodeId(99))));
    }
}

//! Peers that cannot be reached: said once, with why, and once more when they are back.

use kontiki_core::{NodeId, Time};
use kontiki_io::telling::display;
use kontiki_io::{IoError, tell};

use crate::event::NetEvent;
use crate::handshake::hello::HandshakeRefusal;
use crate::log_gate::Topic;
use crate::net::Net;

/// Why there is no session with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// Its name is still being looked up: the resolver does not answer.
    #[error("its name is being looked up, and the resolver does not answer")]
    Name,
    /// Its name could not be looked up.
    #[error("its name could not be looked up: {0}")]
    NoAddress(IoError),
    /// Its address does not answer, or turns us away.
    #[error("cannot connect to it: {0}")]
    Connect(IoError),
    /// It was dialled and did not answer in time.
    #[error("no answer in time")]
    Silent,
    /// It, or whoever is at its address, closed the connection before the handshake was done.
    #[error("the connection was closed before the handshake was done")]
    Closed,
    /// It refused our greeting.
    #[error("it refused: {0}")]
    ByPeer(HandshakeRefusal),
    /// This node refused its greeting, or its answer to ours.
    #[error("this node refuses it: {0}")]
    Refused(HandshakeRefusal),
    /// What answers at its address is no node of this protocol, or does not answer what it was greeted with.
    #[error("what answers at its address is not this node")]
    Stranger,
    /// It has not connected, and nothing has come yet of this node's own attempts, if it knows where to.
    #[error("it has not connected")]
    NotHeard,
}

/// What is known of the way to one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach {
    /// Since when there is no session.
    away_since: Time,
    /// Why the last attempt failed.
    why: Option<Unreached>,
    /// That was an attempt of the node with the lower id: what becomes of the other's, later, says less.
    by_lower: bool,
    /// It is worth a word.
    told: bool,
    /// There was a line in the log, and there is to be one when it is back.
    logged: bool,
}

impl Reach {
    /// Nothing is known yet of why there is no session.
    pub(crate) fn is_fresh(&self) -> bool {
        self.why.is_none()
    }

    pub(crate) fn new(now: Time) -> Reach {
        Reach { away_since: now, ..Reach::default() }
    }
}

impl Net {
    /// Why a peer has no session, and since when; `None` if it has one, or only just lost it.
    pub fn unreached(&self, peer: NodeId) -> Option<(Unreached, Time)> {
        let reach = &self.peers.get(self.peer_index(peer)?)?.reach;
        if reach.told { reach.why.map(|why| (why, reach.away_since)) } else { None }
    }

    /// How long a peer may be away before it is worth a word: a session that broke is back sooner.
    fn patience_ns(&self, p: usize) -> u64 {
        match self.peers.get(p).is_some_and(|peer| peer.we_decide) {
            true => self.options.backoff_max_ns,
            false => 2 * self.options.idle_timeout_ns,
        }
    }

    /// When the operator is to be told that a peer is away.
    pub(crate) fn reach_deadline(&self, p: usize) -> Option<Time> {
        let peer = self.peers.get(p).filter(|peer| !peer.reach.told && peer.up().is_none())?;
        // Where we dial at once, what becomes of the first attempt says why.
        let known = !peer.we_decide || peer.addr.is_none() || peer.reach.why.is_some();
        known.then(|| peer.reach.away_since.plus_ns(self.patience_ns(p)))
    }

    /// An attempt to reach a peer failed: of ours, or of its own to reach us.
    pub(crate) fn not_reached(&mut self, p: usize, ours: bool, why: Unreached) {
        let Some(peer) = self.peers.get_mut(p) else { return };
        let by_lower = ours == peer.we_decide;
        if by_lower || !peer.reach.by_lower {
            (peer.reach.why, peer.reach.by_lower) = (Some(why), by_lower);
        }
    }

    pub(crate) fn tick_reach(&mut self, p: usize, now: Time) {
        if self.reach_deadline(p).is_none_or(|at| at > now) {
            return;
        }
        let Some(peer) = self.peers.get_mut(p) else { return };
        let why = peer.reach.why.unwrap_or(Unreached::NotHeard);
        peer.reach.why = Some(why);
        peer.reach.told = true;
        let (id, addr) = (peer.id, peer.addr.map(display));
        // One that comes and goes is said once a minute.
        peer.reach.logged = self.log.admits(Topic { peer: Some(id), what: "peer cannot be reached" }, None, now);
        if peer.reach.logged {
            tell!(warn, peer = id.0, addr, %why, "peer cannot be reached");
        }
        if self.events.takes_reports() {
            self.events.push(NetEvent::Unreached { peer: id, why });
        }
    }

    /// A session with the peer is up.
    pub(crate) fn reached(&mut self, p: usize, now: Time) {
        let Some(peer) = self.peers.get_mut(p) else { return };
        let reach = std::mem::take(&mut peer.reach);
        self.refused.reached(peer.id);
        if reach.logged {
            tell!(info, peer = peer.id.0, away_s = now.since(reach.away_since) / 1_000_000_000, "peer is back");
        }
    }

    /// The session with the peer is over.
    pub(crate) fn away(&mut self, p: usize, now: Time) {
        if let Some(peer) = self.peers.get_mut(p) {
            peer.reach = Reach::new(now);
        }
    }
}

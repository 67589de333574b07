//! Reaching peers: control channel, then bulk channel, again and again with growing pauses.
//!
//! Whoever knows an address dials: of two nodes the one with the lower id at once, the other one where there has been no
//! session for an idle timeout. Mostly that has one of them dial. Where both do, both handshakes go on, since either may
//! lead nowhere, and the lower id's node decides, alone, when the other's is about to be completed: it refuses that if
//! its own has been answered by that very process, and otherwise takes it and gives up its own. The other one takes
//! whichever is completed first, and that ends its own handshake. So a session that has come up is never closed for
//! another one, but where its node greets anew behind it: then it has lost it.

use std::net::SocketAddr;

use kontiki_core::{SessionId, Time};
use kontiki_io::limits::MAX_ADDRESSES;
use kontiki_io::telling::display;
use kontiki_io::{Io, IoError, IoErrorKind, Op, Output, tell};

use crate::conns::{Purpose, Slot};
use crate::handshake::hello::{Channel, HandshakeRefusal, Hello, HelloError, HelloKind};
use crate::handshake::listen::process;
use crate::handshake::reach::Unreached;
use crate::handshake::refusal::Refusal;
use crate::limits::MAX_ABANDONED_DIALS;
use crate::log_gate::Topic;
use crate::net::Net;
use crate::session::peer::Half;
use crate::token::{Action, token};

impl Net {
    /// When a peer is to be dialled.
    pub(crate) fn dial_deadline(&self, p: usize) -> Option<Time> {
        let peer = self.peers.get(p)?;
        if peer.half.is_some() || peer.session.is_some() && !peer.moved {
            return None;
        }
        let fixed = peer.addr.as_ref()?.socket().is_some();
        let known = fixed || peer.last_found.is_some() || !self.peers.looks_up(p);
        known.then_some(peer.dial_at)
    }

    pub(crate) fn tick_dial(&mut self, p: usize, now: Time, io: &mut dyn Io) {
        if self.dial_deadline(p).is_none_or(|at| at > now) {
            return;
        }
        let Some(addr) = self.next_address(p, now, io) else { return };
        let session = SessionId(self.random.nonzero());
        // A kernel gives up on an address that never answers after minutes; we do sooner, and leave it to that. The last
        // place is for an address that no such attempt goes to.
        let abandoned: usize = self.conns.abandoned(p).count();
        let open =
            abandoned + 1 < MAX_ABANDONED_DIALS || abandoned < MAX_ABANDONED_DIALS && self.conns.abandoned(p).all(|remote| remote != addr);
        let slot = if open { self.conns.open(Purpose::DialControl(p), addr, None) } else { None };
        let Some(slot) = slot else { return self.dial_later(p, now) };
        if let Some(peer) = self.peers.get_mut(p) {
            peer.half = Some(Half { session, nonce: 0, process: None, control: slot, bulk: None });
        }
        self.counters.dials += 1;
        self.conns.set_deadline(slot, Some(now.plus_ns(self.options.handshake_timeout_ns)));
        self.conns.connect(slot, io);
    }

    /// Where to dial a peer next. A name's addresses are tried in turn, and then it is looked up again: `None` until
    /// that is done. A resolver that takes long, or knows nothing, may be down itself: then the peer is looked for
    /// where it was last. (Whoever is there has to say that it is that peer.)
    fn next_address(&mut self, p: usize, now: Time, io: &mut dyn Io) -> Option<SocketAddr> {
        let timeout_ns = self.options.handshake_timeout_ns;
        let under_way = self.peers.looks_up(p);
        let peer = self.peers.get_mut(p)?;
        let addr = peer.addr?;
        let Some(host) = addr.host() else { return addr.socket() };
        if under_way {
            return peer.last_found;
        }
        if let Some(found) = peer.found.get(peer.tried) {
            peer.tried += 1;
            return Some(*found);
        }
        peer.dial_at = now.plus_ns(timeout_ns);
        if peer.reach.is_fresh() {
            self.not_reached(p, true, Unreached::Name);
        }
        self.peers.look_up(p, addr);
        self.counters.lookups += 1;
        io.submit(token(Action::Resolve, p as u16, 0), Op::Resolve { host, port: addr.port() });
        None
    }

    /// A peer's name has been looked up. However long that took: nothing waited for it.
    pub(crate) fn resolved(&mut self, p: usize, result: Result<Output, IoError>, now: Time) {
        let of = self.peers.looked_up(p);
        // The slot may be another peer's by now, or its peer elsewhere.
        let Some(peer) = self.peers.get_mut(p).filter(|peer| peer.addr == of) else { return };
        if peer.session.is_some() && !peer.moved {
            // It was found without.
            return;
        }
        peer.tried = 0;
        peer.found.clear();
        match result {
            Ok(Output::Addresses(found)) if !found.is_empty() => {
                peer.found.extend(found.into_iter().take(MAX_ADDRESSES));
                peer.dial_at = now;
            }
            result => {
                self.counters.dials_failed += 1;
                let error = result.err().unwrap_or(IoError { kind: IoErrorKind::NotFound, errno: 0 });
                peer.found.extend(peer.last_found);
                peer.dial_at = now;
                let nowhere = peer.found.is_empty();
                self.not_reached(p, true, Unreached::NoAddress(error));
                if nowhere {
                    self.dial_later(p, now);
                }
            }
        }
    }

    /// Sets the time of the next attempt: the pause doubles up to its limit, and half of it is drawn.
    pub(crate) fn dial_later(&mut self, p: usize, now: Time) {
        let (min, max) = (self.options.backoff_min_ns, self.options.backoff_max_ns);
        if let Some(peer) = self.peers.get_mut(p) {
            let pause = min.saturating_mul(1 << peer.attempts.min(32)).min(max);
            peer.attempts = peer.attempts.saturating_add(1);
            peer.dial_at = now.plus_ns(self.random.jitter(pause));
        }
    }

    /// Lets go of our handshake with a peer, if one is in progress: it is not needed any more.
    pub(crate) fn half_over(&mut self, p: usize, io: &mut dyn Io) -> bool {
        let Some(half) = self.peers.get_mut(p).and_then(|peer| peer.half.take()) else { return false };
        self.conns.doom(half.control, io);
        if let Some(bulk) = half.bulk {
            self.conns.doom(bulk, io);
        }
        true
    }

    /// Gives up our handshake with a peer, if one is in progress: it came to nothing.
    pub(crate) fn half_failed(&mut self, p: usize, why: Unreached, now: Time, io: &mut dyn Io) {
        if !self.half_over(p, io) {
            return;
        }
        self.counters.dials_failed += 1;
        self.not_reached(p, true, why);
        if let Some((id, addr)) = self.peers.get(p).filter(|peer| peer.up().is_some()).map(|peer| (peer.id, peer.addr.map(display)))
            && self.log.admits(Topic { peer: Some(id), what: "a new address does not lead to its peer" }, None, now)
        {
            tell!(warn, peer = id.0, addr, %why, "a peer's new address does not lead to it: the session over the old one stays");
        }
        match self.peers.get_mut(p) {
            // The name has another address.
            Some(peer) if peer.tried < peer.found.len() => peer.dial_at = now,
            _ => self.dial_later(p, now),
        }
    }

    /// A connect ended.
    pub(crate) fn connected(&mut self, slot: Slot, result: Result<Output, IoError>, now: Time, io: &mut dyn Io) {
        let Some(conn) = self.conns.get(slot) else { return };
        let (p, channel) = match conn.purpose {
            Purpose::DialControl(p) => (p, Channel::Control),
            Purpose::DialBulk(p) => (p, Channel::Bulk),
            Purpose::DialSnapshot(p) => return self.source_connected(p, slot, result, now, io),
            purpose => panic!("{purpose:?} does not connect"),
        };
        if let Err(error) = result {
            return self.half_failed(p, Unreached::Connect(error), now, io);
        }
        let Some((to, half)) = self.peers.get(p).and_then(|peer| Some((peer.id, peer.half.as_ref()?))) else { return };
        let hello = self.hello(HelloKind::Hello, channel, to, half.session, half.nonce);
        if self.greet(slot, &hello, now, io) {
            self.await_greeting(slot, now, io);
        }
    }

    /// A peer answered our greeting.
    pub(crate) fn welcomed(&mut self, p: usize, slot: Slot, answer: Result<Hello, HelloError>, now: Time, io: &mut dyn Io) {
        let Some(purpose) = self.conns.get(slot).map(|conn| conn.purpose) else { return };
        let channel = if purpose == Purpose::DialBulk(p) { Channel::Bulk } else { Channel::Control };
        let welcome = match self.judge_answer(p, channel, answer, now) {
            Ok(welcome) => welcome,
            Err(refusal) => {
                if refusal != Refusal::ByPeer(HandshakeRefusal::Crossed) {
                    self.report(Some(p), slot, refusal, now);
                }
                let why = match refusal {
                    Refusal::ByPeer(refusal) => Unreached::ByPeer(refusal),
                    Refusal::Handshake(refusal) => Unreached::Refused(refusal),
                    _ => Unreached::Stranger,
                };
                return self.half_failed(p, why, now, io);
            }
        };
        if channel != Channel::Bulk {
            return self.control_welcomed(p, slot, &welcome, now, io);
        }
        match self.may_open_session().then(|| self.peers.get_mut(p)?.half.take()).flatten() {
            Some(half) => self.open_session(p, half, slot, true, now, io),
            None => self.half_failed(p, Unreached::Closed, now, io),
        }
    }

    /// Whether an answer is the answer to our greeting, from the one we greeted.
    fn judge_answer(&self, p: usize, channel: Channel, answer: Result<Hello, HelloError>, now: Time) -> Result<Hello, Refusal> {
        let welcome = answer.map_err(|error| match error {
            HelloError::Version { ours, theirs } => Refusal::Handshake(HandshakeRefusal::Version { ours, theirs }),
            error => Refusal::Greeting(error),
        })?;
        let Some((peer, half)) = self.peers.get(p).and_then(|peer| Some((peer, peer.half.as_ref()?))) else {
            return Err(Refusal::Answer);
        };
        if welcome.kind != HelloKind::Welcome {
            return Err(Refusal::Answer);
        }
        if let Some(refusal) = HandshakeRefusal::from_wire(welcome.code, welcome.detail) {
            return Err(Refusal::ByPeer(refusal));
        }
        if welcome.cluster != self.options.cluster {
            return Err(Refusal::Handshake(HandshakeRefusal::Cluster));
        }
        if welcome.from == self.options.node {
            return Err(Refusal::Handshake(HandshakeRefusal::OwnId { id: welcome.from }));
        }
        if welcome.from != peer.id {
            return Err(Refusal::Handshake(HandshakeRefusal::Target { to: peer.id }));
        }
        if welcome.to != self.options.node || welcome.channel != channel || welcome.session != half.session {
            return Err(Refusal::Answer);
        }
        let expected = match channel {
            Channel::Control => true,
            _ => half.process == Some(process(&welcome)) && half.nonce == welcome.nonce,
        };
        if !expected {
            return Err(Refusal::Answer);
        }
        peer.admits(process(&welcome), now).map_err(Refusal::Handshake)?;
        Ok(welcome)
    }

    /// The control channel stands: dials the bulk channel.
    fn control_welcomed(&mut self, p: usize, slot: Slot, welcome: &Hello, now: Time, io: &mut dyn Io) {
        let Some(peer) = self.peers.get_mut(p) else { return };
        // To the same address: another one of the name may be another machine's.
        let bulk = self.conns.get(slot).map(|conn| conn.remote).and_then(|at| self.conns.open(Purpose::DialBulk(p), at, None));
        let (Some(half), Some(conn), Some(bulk)) = (peer.half.as_mut(), self.conns.get_mut(slot), bulk) else {
            return self.half_failed(p, Unreached::Closed, now, io);
        };
        conn.purpose = Purpose::HalfControl(p);
        half.nonce = welcome.nonce;
        half.process = Some(process(welcome));
        half.bulk = Some(bulk);
        let limit = now.plus_ns(self.options.handshake_timeout_ns);
        self.conns.set_deadline(slot, Some(limit));
        self.conns.connect(bulk, io);
    }
}

//! An open session: its control and bulk channels, its pulse, its end.

pub(crate) mod bulk_in;
pub(crate) mod bulk_out;
pub(crate) mod control;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod parameters;
pub(crate) mod peer;

use kontiki_core::{Message, NodeId, SessionId, Time};
use kontiki_io::{Io, tell};
use kontiki_mem::{Block, Ring};

use crate::conns::{Purpose, Slot};
use crate::event::{DownReason, NetEvent};
use crate::handshake::reach::Unreached;
use crate::handshake::refusal::Refusal;
use crate::limits::{CONTROL_MAX_BYTES, MAX_INCARNATION_JUMP, RING_RETRY_NS};
use crate::log_gate::Topic;
use crate::net::Net;
use crate::session::bulk_in::{BulkIn, Next};
use crate::session::bulk_out::{BulkRoom, FrameStamp, Pinning};
use crate::session::control::{Control, ControlError, Payload};
use crate::session::inbox::Inbox;
use crate::session::outbox::Outbox;
use crate::session::parameters::Parameters;
use crate::session::peer::{Half, Process, Seen, Session};
use crate::snapshots::offer::SnapshotOffer;

/// Why something was not queued for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No such session is open with this peer.
    #[error("no such session is open")]
    NoSession,
    /// The peer's queue is full. A message is dropped (the core repeats what matters); a frame is to be offered
    /// again when [`Net::bulk_room`] has grown.
    #[error("the peer's queue is full")]
    Full,
    /// Another chunk of a snapshot is due, or none.
    #[error("not the chunk that is due")]
    NotWanted,
    /// The frame is longer than the peer takes.
    #[error("a frame of {bytes} bytes, the peer takes at most {takes}")]
    TooLong {
        /// The frame's length, in bytes.
        bytes: usize,
        /// What the peer takes, in bytes.
        takes: usize,
    },
}

impl Net {
    /// Queues a control message; it goes out with the next [`Net::tick`].
    ///
    /// # Errors
    /// If the session is gone, or the peer's two send buffers are full: then the message is dropped and counted.
    pub fn send_message(&mut self, now: Time, peer: NodeId, session: SessionId, message: &Message) -> Result<(), SendError> {
        let p = self.open_peer(peer, session)?;
        if !self.queue_control(p, Payload::Message(*message), now) {
            self.counters.messages_dropped += 1;
            return Err(SendError::Full);
        }
        self.counters.messages_out += 1;
        Ok(())
    }

    /// Tells a peer of a snapshot, over the control channel; it goes out with the next [`Net::tick`].
    ///
    /// # Errors
    /// If the session is gone, or the peer's two send buffers are full: then it is to be offered again.
    pub fn offer_snapshot(&mut self, now: Time, peer: NodeId, session: SessionId, offer: &SnapshotOffer) -> Result<(), SendError> {
        assert!(offer.id.source == self.options.node, "a node offers its own snapshots");
        let p = self.open_peer(peer, session)?;
        if !self.queue_control(p, Payload::Offer(*offer), now) {
            return Err(SendError::Full);
        }
        self.counters.offers_out += 1;
        Ok(())
    }

    /// Queues a frame: `block` is the whole sealed frame, in the ring or in a pool; its own first 64 bytes are
    /// not sent, a wire stamp made of `stamp` goes in their place. Goes out with the next [`Net::tick`].
    ///
    /// # Errors
    /// If the session is gone, there is no room (see [`Net::bulk_room`]), or the peer does not take frames of that
    /// length.
    pub fn send_frame(&mut self, now: Time, peer: NodeId, session: SessionId, stamp: FrameStamp, block: Block) -> Result<(), SendError> {
        let p = self.open_peer(peer, session)?;
        let peer = self.peers.get_mut(p).ok_or(SendError::NoSession)?;
        let takes = peer.up().and_then(|open| open.parameters).map_or(0, |parameters| parameters.takes_frame_bytes as usize);
        if block.len() > takes {
            return Err(SendError::TooLong { bytes: block.len(), takes });
        }
        if !peer.bulk_out.push(now, stamp, block) {
            self.counters.frames_held_back += 1;
            return Err(SendError::Full);
        }
        self.counters.frames_out += 1;
        Ok(())
    }

    /// Room for frames to a peer; none without a session.
    pub fn bulk_room(&self, peer: NodeId) -> BulkRoom {
        let peer = self.peer_index(peer).and_then(|p| self.peers.get(p)).filter(|peer| peer.up().is_some());
        peer.map_or(BulkRoom { frames: 0, bytes: 0 }, |peer| peer.bulk_out.room())
    }

    /// What frame memory a peer's queue and send under way hold; `None` if nothing.
    pub fn pinning(&self, peer: NodeId) -> Option<Pinning> {
        self.peers.get(self.peer_index(peer)?)?.bulk_out.pinning()
    }

    /// Ends the session with a peer. What its queue holds is released at once, what is under way with the last
    /// completion. A new session is set up as usual.
    pub fn cut(&mut self, peer: NodeId, now: Time, io: &mut dyn Io) {
        if let Some(p) = self.peer_index(peer) {
            self.session_down(p, DownReason::Cut, now, io);
        }
    }

    /// Takes frames from this peer alone, or from nobody; the others' wait in their sockets. A peer in the
    /// middle of a frame when it loses the grant also loses its session ([`DownReason::Revoked`]).
    pub fn grant_bulk(&mut self, peer: Option<NodeId>, now: Time, io: &mut dyn Io) {
        if peer == self.granted {
            return;
        }
        self.granted = peer;
        let slot = peer.and_then(|peer| self.peer_index(peer));
        if let Some(old) = std::mem::replace(&mut self.granted_slot, slot) {
            let session = self.peers.get(old).and_then(|peer| peer.session.as_ref());
            if session.is_some_and(|session| session.bulk_in.in_ring()) {
                self.session_down(old, DownReason::Revoked, now, io);
            }
        }
    }

    /// Whose frames are taken.
    pub fn granted(&self) -> Option<NodeId> {
        self.granted
    }

    fn open_peer(&self, peer: NodeId, session: SessionId) -> Result<usize, SendError> {
        let p = self.peer_index(peer).ok_or(SendError::NoSession)?;
        let open = self.peers.get(p).and_then(|peer| peer.up()).is_some_and(|open| open.id == session);
        if open { Ok(p) } else { Err(SendError::NoSession) }
    }

    /// Whether a session could be opened and reported now. (Where it replaces another, that one's buffers come back
    /// after its last completion: the pools have enough for both.)
    pub(crate) fn may_open_session(&self) -> bool {
        self.events.room() >= 2 && self.pools.control.available() >= 1 && self.pools.small.available() >= 1
    }

    /// The handshake is complete, ours or the peer's: replaces the peer's older session by the new one, and introduces
    /// this node. The session is up once the peer has done so too. The caller has seen that it may.
    pub(crate) fn open_session(&mut self, p: usize, half: Half, bulk: Slot, ours: bool, now: Time, io: &mut dyn Io) {
        self.session_down(p, DownReason::Replaced, now, io);
        self.handshakes_over(p, half.process.filter(|_| ours), io);
        let Some(peer) = self.peers.get_mut(p) else { return };
        let half = half.process.zip(self.conns.get(half.control)).map(|(process, conn)| (process, conn.remote, half));
        let buffers = self.pools.control.take().zip(self.pools.small.take());
        let (Some((process, remote, half)), Some((inbox, small))) = (half, buffers) else {
            panic!("a session is opened by a complete handshake, with buffers at hand");
        };
        for (slot, purpose) in [(half.control, Purpose::Control(p)), (bulk, Purpose::Bulk(p))] {
            if let Some(conn) = self.conns.get_mut(slot) {
                conn.purpose = purpose;
                conn.small = None;
            }
            self.conns.set_deadline(slot, None);
        }
        peer.bulk_out.reset(half.session);
        peer.moved &= !ours;
        peer.session = Some(Session {
            id: half.session,
            nonce: half.nonce,
            process,
            remote,
            ours,
            parameters: None,
            control: half.control,
            bulk,
            inbox: Inbox::new(inbox),
            outbox: Outbox::default(),
            next_in: 1,
            next_out: 1,
            opened: now,
            heard: now,
            spoken: now,
            sending_since: None,
            bulk_in: BulkIn::new(half.session, small),
            ring_retry: None,
        });
        let parameters = Payload::Parameters(self.options.parameters());
        assert!(self.queue_control(p, parameters, now), "a session's first record finds an empty buffer");
    }

    /// A session opens: ends the handshakes that began before it. Ours, which this one has overtaken; or, where it was
    /// ours, those of the process that has answered it, which will not go on with them.
    fn handshakes_over(&mut self, p: usize, answered: Option<Process>, io: &mut dyn Io) {
        self.half_over(p, io);
        let Some(peer) = self.peers.get_mut(p).filter(|_| answered.is_some()) else { return };
        for half in peer.greeted.iter().filter(|half| half.process == answered) {
            self.conns.doom(half.control, io);
        }
        peer.greeted.retain(|half| half.process != answered);
    }

    /// The peer has said what it takes: the session is up.
    fn introduced(&mut self, p: usize, parameters: Parameters, now: Time) {
        self.reached(p, now);
        let Some(peer) = self.peers.get_mut(p) else { return };
        let Some(session) = peer.session.as_mut() else { return };
        session.parameters = Some(parameters);
        // Its name is looked up anew for the next one: a machine moves.
        (peer.tried, peer.found) = (0, heapless::Vec::new());
        peer.last_found = Some(session.remote).filter(|_| session.ours && peer.addr.is_some_and(|addr| addr.host().is_some()));
        let (id, process, remote) = (session.id, session.process, session.remote);
        let last = peer.seen.map_or(0, |seen| seen.process.incarnation.0);
        let jumps = process.incarnation.0.saturating_sub(last) > MAX_INCARNATION_JUMP;
        let back = process.incarnation.0 < last;
        if jumps {
            self.counters.incarnation_jumps += 1;
        } else {
            peer.seen = Some(Seen { process, until: Time(0) });
        }
        self.counters.incarnations_back += u64::from(back);
        self.counters.sessions_up += 1;
        let (peer, session, incarnation) = (peer.id, id, process.incarnation);
        let mut says = |what| self.log.admits(Topic { peer: Some(peer), what }, Some(remote), now);
        if jumps && says("incarnation: jump") {
            tell!(
                warn, peer = peer.0, incarnation = incarnation.0, last, %remote,
                "a far higher incarnation than the last one: not remembered beyond this session"
            );
        }
        if back && says("incarnation: back") {
            tell!(
                warn, peer = peer.0, incarnation = incarnation.0, last, %remote,
                "an older incarnation than before: an old copy of its data directory, or somebody else had spoken for it"
            );
        }
        if says("session up") {
            tell!(info, peer = peer.0, session = session.0, incarnation = incarnation.0, %remote, "session up");
        }
        self.events.push_start(NetEvent::SessionUp { peer, session, incarnation, remote, parameters });
    }

    /// Ends the session with a peer, if there is one.
    pub(crate) fn session_down(&mut self, p: usize, reason: DownReason, now: Time, io: &mut dyn Io) {
        let Some(peer) = self.peers.get_mut(p) else { return };
        let Some(session) = peer.session.take() else { return };
        peer.bulk_out.reset(SessionId(0));
        if now.since(session.opened) >= self.options.backoff_max_ns {
            peer.attempts = 0;
        }
        // The lower id's node dials again, and whoever had made this one: the way of the other may lead nowhere.
        let (id, dials) = (peer.id, peer.we_decide || session.ours);
        peer.moved = false;
        peer.dial_at = now.plus_ns(self.options.idle_timeout_ns);
        self.fetch_down(p, reason, now, io);
        self.serve_down(p, reason, io);
        self.conns.doom(session.control, io);
        self.conns.doom(session.bulk, io);
        if dials {
            self.dial_later(p, now);
        }
        if session.parameters.is_none() {
            // It was never up: nobody was told of it.
            return self.not_reached(p, session.ours, Unreached::Closed);
        }
        if let Some(seen) = self.peers.get_mut(p).and_then(|peer| peer.seen.as_mut()) {
            seen.until = now.plus_ns(self.options.idle_timeout_ns / 4);
        }
        self.away(p, now);
        self.counters.sessions_down += 1;
        // What it was refused for is in the log already.
        let told = matches!(reason, DownReason::Refused(_));
        if !told && self.log.admits(Topic { peer: Some(id), what: reason.topic() }, None, now) {
            tell!(info, peer = id.0, session = session.id.0, %reason, "session down");
        }
        self.events.push_end(NetEvent::SessionDown { peer: id, session: session.id, reason });
    }

    /// Ends a session over something that its peer sent.
    fn refuse_session(&mut self, p: usize, slot: Slot, refusal: Refusal, now: Time, io: &mut dyn Io) {
        self.report(Some(p), slot, refusal, now);
        self.session_down(p, DownReason::Refused(refusal), now, io);
    }

    /// Hands over the control messages that are there, as far as the event queue has room.
    pub(crate) fn digest_control(&mut self, p: usize, now: Time, io: &mut dyn Io) {
        loop {
            let Some(peer) = self.peers.get_mut(p) else { return };
            let Some(session) = peer.session.as_mut() else { return };
            // A session that comes up needs a place for its end too.
            let needs = if session.parameters.is_some() { 1 } else { 2 };
            if self.events.room() < needs {
                return;
            }
            let slot = session.control;
            let (control, length) = match Control::decode(session.inbox.unread()) {
                Ok(None) => return,
                Ok(Some(decoded)) => decoded,
                Err(error) => return self.refuse_session(p, slot, Refusal::Control(error), now, io),
            };
            if control.session != session.id {
                let refusal = Refusal::Session { ours: session.id, theirs: control.session };
                return self.refuse_session(p, slot, refusal, now, io);
            }
            if control.sequence != session.next_in {
                let refusal = Refusal::Sequence { expected: session.next_in, theirs: control.sequence };
                return self.refuse_session(p, slot, refusal, now, io);
            }
            session.next_in += 1;
            session.inbox.consume(length);
            match (control.payload, session.parameters.is_some()) {
                (Payload::Parameters(parameters), false) => self.introduced(p, parameters, now),
                (Payload::Parameters(_), true) | (_, false) => {
                    let error = ControlError::Order { kind: control.payload.kind() };
                    return self.refuse_session(p, slot, Refusal::Control(error), now, io);
                }
                (Payload::Keepalive, true) => {}
                (Payload::Offer(offer), true) if offer.id.source != peer.id => {
                    return self.refuse_session(p, slot, Refusal::Control(ControlError::Field), now, io);
                }
                (Payload::Offer(offer), true) => {
                    self.counters.offers_in += 1;
                    self.events.push(NetEvent::SnapshotOffered { peer: peer.id, session: session.id, offer });
                }
                (Payload::Message(message), true) => {
                    self.counters.messages_in += 1;
                    self.events.push(NetEvent::Message { peer: peer.id, session: session.id, message });
                }
            }
        }
    }

    /// Hands over the whole frames that are there, as far as the event queue has room. Whatever a peer
    /// without the grant had under way stays where it is.
    pub(crate) fn digest_bulk(&mut self, p: usize, now: Time, io: &mut dyn Io) {
        if self.granted_slot != Some(p) {
            return;
        }
        while self.events.room() > 0 {
            let Some(peer) = self.peers.get_mut(p) else { return };
            // Frames may overtake what introduces their sender: they came on a connection of their own.
            let Some(session) = peer.session.as_mut().filter(|session| session.parameters.is_some()) else { return };
            match session.bulk_in.next_frame(&self.rules) {
                Ok(None) => return,
                Ok(Some((stamp, header, block))) => {
                    self.counters.frames_in += 1;
                    self.events.push(NetEvent::Frame { peer: peer.id, session: session.id, stamp, header, block });
                }
                Err(refusal) => {
                    let slot = session.bulk;
                    return self.refuse_session(p, slot, refusal, now, io);
                }
            }
        }
    }

    /// Appends to the control send buffer. False if it is full.
    fn queue_control(&mut self, p: usize, payload: Payload, now: Time) -> bool {
        let Some(session) = self.peers.get_mut(p).and_then(|peer| peer.session.as_mut()) else { return false };
        let control = Control { session: session.id, sequence: session.next_out, payload };
        let Some(length) = control.encode(session.outbox.room(&self.pools.control)) else { return false };
        session.outbox.wrote(length);
        session.next_out += 1;
        session.spoken = now;
        true
    }

    fn keepalive_ns(&self) -> u64 {
        self.options.idle_timeout_ns / 4
    }

    pub(crate) fn session_deadline(&self, p: usize) -> Option<Time> {
        let session = self.peers.get(p)?.session.as_ref()?;
        let idle_ns = self.options.idle_timeout_ns;
        let silent = session.heard.plus_ns(idle_ns);
        // Either what is being sent is stalled by then, or there is a sign of life to send.
        let own = session.sending_since.map_or_else(|| session.spoken.plus_ns(self.keepalive_ns()), |since| since.plus_ns(idle_ns));
        let first = silent.min(own);
        Some(session.ring_retry.map_or(first, |retry| retry.min(first)))
    }

    pub(crate) fn tick_session(&mut self, p: usize, now: Time, io: &mut dyn Io, ring: &mut Ring) {
        let Some(session) = self.peers.get(p).and_then(|peer| peer.session.as_ref()) else { return };
        // What came was digested at once: it is there still where it found no room.
        let (control, bulk) = (!session.inbox.is_empty(), session.bulk_in.holds_any());
        if control {
            self.digest_control(p, now, io);
        }
        if bulk {
            self.digest_bulk(p, now, io);
        }
        let Some(session) = self.peers.get(p).and_then(|peer| peer.session.as_ref()) else { return };
        let idle_ns = self.options.idle_timeout_ns;
        if now.since(session.heard) >= idle_ns {
            return self.session_down(p, DownReason::Silent, now, io);
        }
        if session.sending_since.is_some_and(|since| now.since(since) >= idle_ns) {
            return self.session_down(p, DownReason::Stalled, now, io);
        }
        let quiet = session.sending_since.is_none() && now.since(session.spoken) >= self.keepalive_ns();
        if quiet && self.queue_control(p, Payload::Keepalive, now) {
            self.counters.keepalives_out += 1;
        }
        self.send_control(p, now, io);
        self.send_bulk(p, io);
        self.recv_control(p, io);
        self.recv_bulk(p, now, io, ring);
    }

    fn send_control(&mut self, p: usize, now: Time, io: &mut dyn Io) {
        let Some(session) = self.peers.get_mut(p).and_then(|peer| peer.session.as_mut()) else { return };
        if !self.conns.may_send(session.control) {
            return;
        }
        if let Some(gather) = session.outbox.take() {
            session.sending_since = Some(now);
            self.counters.bytes_out += self.conns.send(session.control, gather, io);
        }
    }

    fn send_bulk(&mut self, p: usize, io: &mut dyn Io) {
        let Some(peer) = self.peers.get_mut(p) else { return };
        let Some(session) = peer.session.as_ref() else { return };
        if !peer.bulk_out.waits() || !self.conns.may_send(session.bulk) {
            return;
        }
        if let Some(gather) = peer.bulk_out.gather(&self.pools.stamps) {
            self.counters.bytes_out += self.conns.send(session.bulk, gather, io);
        }
    }

    fn recv_control(&mut self, p: usize, io: &mut dyn Io) {
        let Some(session) = self.peers.get_mut(p).and_then(|peer| peer.session.as_mut()) else { return };
        // Without room for events whole messages may wait in the buffer: it stays here until they are handed over.
        if !self.conns.may_receive(session.control) || self.events.room() < 2 {
            return;
        }
        if let Some((buf, at, len)) = session.inbox.lend(CONTROL_MAX_BYTES) {
            self.conns.recv(session.control, kontiki_io::IoBuf::Pool(buf), at, len, io);
        }
    }

    fn recv_bulk(&mut self, p: usize, now: Time, io: &mut dyn Io, ring: &mut Ring) {
        let Some(session) = self.peers.get_mut(p).and_then(|peer| peer.session.as_mut()) else { return };
        session.ring_retry = None;
        if self.granted_slot != Some(p) || session.parameters.is_none() || !self.conns.may_receive(session.bulk) {
            return;
        }
        let slot = session.bulk;
        match session.bulk_in.next(&self.rules, ring) {
            Ok(Next::Post(posting)) => self.conns.recv(slot, posting.buf, posting.at, posting.len, io),
            Ok(Next::Nothing) => {}
            Ok(Next::NoRoomNow) => {
                session.ring_retry = Some(now.plus_ns(RING_RETRY_NS));
                self.counters.ring_waits += 1;
            }
            Ok(Next::NoRoomEver) => self.session_down(p, DownReason::NoRoom, now, io),
            Err(refusal) => self.refuse_session(p, slot, refusal, now, io),
        }
    }
}

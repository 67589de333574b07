//! The receiver's side: a snapshot pulled from a peer, chunk by chunk.

use std::net::SocketAddr;

use heapless::Deque;
use kontiki_core::{NodeId, SessionId, Time};
use kontiki_io::{Gather, Io, IoBuf, IoError, Output, Piece};
use kontiki_mem::{Pool, PoolBuf};

use crate::address::Address;
use crate::conns::{Purpose, Slot};
use crate::event::{DownReason, NetEvent};
use crate::handshake::hello::{Channel, HandshakeRefusal, Hello, HelloError, HelloKind};
use crate::handshake::listen::process;
use crate::handshake::refusal::Refusal;
use crate::limits::{MAX_WANTS, RING_RETRY_NS, SNAPSHOT_BUFFERS, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use crate::net::Net;
use crate::session::{SendError, peer::Session};
use crate::snapshots::ends::{Due, RecordIn};
use crate::snapshots::offer::SnapshotId;
use crate::snapshots::record::{SnapshotRecord, SnapshotSays, SnapshotWant, SnapshotWireError};

#[derive(Clone, Copy, Debug)]
enum State {
    /// To be dialled then.
    Waiting(Time),
    Dialling(Slot),
    Open(Slot),
}

/// A connection over which this node pulls a snapshot, or that is to become one.
#[derive(Debug)]
pub(crate) struct Fetch {
    state: State,
    session: SessionId,
    /// What the node wants and has not been asked for yet.
    wants: Deque<SnapshotWant, MAX_WANTS>,
    /// What was asked for and has not all come.
    due: Deque<Due, MAX_WANTS>,
    record: RecordIn,
    /// The chunk that a record has announced, and how much of it is there.
    coming: Option<(SnapshotId, u64)>,
    chunk: Option<PoolBuf>,
    filled: usize,
    next_out: u64,
    /// When something last came, or was asked for.
    moved: Time,
    /// When to look again for a free buffer.
    retry: Option<Time>,
}

/// What is remembered of a peer between two such connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FetchPause {
    /// Connections since the last chunk.
    attempts: u32,
    /// Not to be dialled before.
    until: Time,
    /// The node has not been told yet that the last one is gone. It would ask once more for what it asks for now.
    untold: bool,
}

impl Net {
    /// Asks a peer for a part of a snapshot. The chunks come as [`NetEvent::SnapshotChunk`], in the order in which they
    /// were asked for. A connection is opened for that, if none is open; after failures with growing pauses. When it ends
    /// ([`NetEvent::SnapshotFetchDown`]), everything that was asked for is forgotten.
    ///
    /// ```
    /// use kontiki_core::Time;
    /// use kontiki_net::{Net, SendError, SnapshotOffer, SnapshotWant};
    ///
    /// /// Asks for the next four chunks of what was offered, if that many may be asked for.
    /// fn ask(net: &mut Net, now: Time, offer: &SnapshotOffer, offset: u64, held: u64) -> Result<(), SendError> {
    ///     if net.want_room(offer.id.source) == 0 {
    ///         return Ok(()); // ask again after the next chunk, or once a session is open
    ///     }
    ///     net.want_snapshot(now, offer.id.source, SnapshotWant { id: offer.id, offset, chunks: 4, held })
    /// }
    /// ```
    ///
    /// # Errors
    /// [`SendError::NoSession`] if no session is open with the peer, or the snapshot is not its own;
    /// [`SendError::Full`] if as much as may be is asked for already, or the end of a connection waits to be polled.
    ///
    /// # Panics
    /// If the part does not begin with a chunk, or is longer than [`MAX_WANT_CHUNKS`](crate::limits::MAX_WANT_CHUNKS).
    pub fn want_snapshot(&mut self, now: Time, peer: NodeId, want: SnapshotWant) -> Result<(), SendError> {
        assert!(want.is_sound(), "{want:?} is no part of a snapshot");
        let p = self.peer_index(peer).filter(|_| want.id.source == peer).ok_or(SendError::NoSession)?;
        let peer = self.peers.get_mut(p).ok_or(SendError::NoSession)?;
        let session = peer.up().ok_or(SendError::NoSession)?.id;
        let fetch = match &mut peer.fetch {
            Some(fetch) => fetch,
            None if peer.fetch_pause.untold || self.events.room() < 2 => return Err(SendError::Full),
            none => {
                self.events.owe();
                none.insert(Box::new(Fetch::new(session, peer.fetch_pause.until, now)))
            }
        };
        if fetch.wants.len() + fetch.due.len() >= MAX_WANTS {
            return Err(SendError::Full);
        }
        // There is room for it.
        let _ = fetch.wants.push_back(want);
        self.chunks.get_or_insert_with(|| Pool::new(SNAPSHOT_BUFFERS, SNAPSHOT_CHUNK_BYTES));
        Ok(())
    }

    /// How many parts may be asked for now, with [`want_snapshot`](Net::want_snapshot); zero without a session.
    pub fn want_room(&self, peer: NodeId) -> usize {
        let peer = self.peer_index(peer).and_then(|p| self.peers.get(p)).filter(|peer| peer.up().is_some());
        let peer = peer.filter(|peer| !peer.fetch_pause.untold);
        peer.map_or(0, |peer| peer.fetch.as_ref().map_or(MAX_WANTS, |fetch| MAX_WANTS - fetch.wants.len() - fetch.due.len()))
    }

    /// Closes the connection over which a snapshot is pulled from a peer: what is on its way is not wanted any more.
    pub fn leave_snapshot(&mut self, peer: NodeId, now: Time, io: &mut dyn Io) {
        if let Some(p) = self.peer_index(peer) {
            self.fetch_down(p, DownReason::Cut, now, io);
        }
    }

    /// Ends a connection over which a snapshot is pulled, if there is one.
    pub(crate) fn fetch_down(&mut self, p: usize, reason: DownReason, now: Time, io: &mut dyn Io) {
        let (min, max) = (self.options.backoff_min_ns, self.options.backoff_max_ns);
        let Some(peer) = self.peers.get_mut(p) else { return };
        let Some(fetch) = peer.fetch.take() else { return };
        if let State::Dialling(slot) | State::Open(slot) = fetch.state {
            self.conns.doom(slot, io);
        }
        let pause = min.saturating_mul(1 << peer.fetch_pause.attempts.min(32)).min(max);
        peer.fetch_pause.attempts = peer.fetch_pause.attempts.saturating_add(1);
        peer.fetch_pause.untold = true;
        peer.fetch_pause.until = now.plus_ns(self.random.jitter(pause));
        let peer = peer.id;
        if self.peers.iter().all(|peer| peer.fetch.is_none()) {
            self.chunks = None;
        }
        self.events.push_end(NetEvent::SnapshotFetchDown { peer, reason });
    }

    /// The node was told that such a connection is gone.
    pub(crate) fn fetch_down_polled(&mut self, peer: NodeId) {
        if let Some(peer) = self.peer_index(peer).and_then(|p| self.peers.get_mut(p)) {
            peer.fetch_pause.untold = false;
        }
    }

    fn refuse_source(&mut self, p: usize, slot: Slot, refusal: Refusal, now: Time, io: &mut dyn Io) {
        self.report(Some(p), slot, refusal, now);
        self.fetch_down(p, DownReason::Refused(refusal), now, io);
    }

    fn fetch_mut(&mut self, p: usize) -> Option<&mut Fetch> {
        self.peers.get_mut(p)?.fetch.as_deref_mut()
    }

    /// A connect ended.
    pub(crate) fn source_connected(&mut self, p: usize, slot: Slot, result: Result<Output, IoError>, now: Time, io: &mut dyn Io) {
        if let Err(error) = result {
            return self.fetch_down(p, DownReason::Io(error), now, io);
        }
        let Some((peer, session)) = self.peers.get(p).and_then(|peer| Some((peer.id, peer.up()?))) else { return };
        let hello = self.hello(HelloKind::Hello, Channel::Snapshot, peer, session.id, session.nonce);
        if self.greet(slot, &hello, now, io) {
            self.await_greeting(slot, now, io);
        }
    }

    /// A peer answered the greeting on such a connection.
    pub(crate) fn fetch_welcomed(&mut self, p: usize, slot: Slot, answer: Result<Hello, HelloError>, now: Time, io: &mut dyn Io) {
        let judged = self.judge_source(p, answer);
        let small = self.pools.small.take();
        match (judged, small) {
            (Err(refusal), _) => self.refuse_source(p, slot, refusal, now, io),
            (Ok(()), None) => self.fetch_down(p, DownReason::Closed, now, io),
            (Ok(()), Some(small)) => {
                if let Some(conn) = self.conns.get_mut(slot) {
                    conn.purpose = Purpose::Fetch(p);
                    conn.small = None;
                }
                self.conns.set_deadline(slot, None);
                self.counters.snapshot_channels += 1;
                if let Some(fetch) = self.fetch_mut(p) {
                    fetch.state = State::Open(slot);
                    fetch.record.received(small, 0);
                    fetch.moved = now;
                }
            }
        }
    }

    fn judge_source(&self, p: usize, answer: Result<Hello, HelloError>) -> Result<(), Refusal> {
        let welcome = answer.map_err(|error| match error {
            HelloError::Version { ours, theirs } => Refusal::Handshake(HandshakeRefusal::Version { ours, theirs }),
            error => Refusal::Greeting(error),
        })?;
        if let Some(refusal) = HandshakeRefusal::from_wire(welcome.code, welcome.detail) {
            return Err(Refusal::ByPeer(refusal));
        }
        let Some((peer, session)) = self.peers.get(p).and_then(|peer| Some((peer, peer.up()?))) else { return Err(Refusal::Answer) };
        let meant = welcome.kind == HelloKind::Welcome
            && welcome.channel == Channel::Snapshot
            && welcome.cluster == self.options.cluster
            && (welcome.from, welcome.to) == (peer.id, self.options.node)
            && (welcome.session, welcome.nonce) == (session.id, session.nonce)
            && process(&welcome) == session.process;
        if meant { Ok(()) } else { Err(Refusal::Answer) }
    }

    /// Takes what a receive brought.
    pub(crate) fn fetch_received(&mut self, p: usize, buf: PoolBuf, bytes: usize, now: Time) {
        let Some(fetch) = self.fetch_mut(p) else { return };
        fetch.moved = now;
        if fetch.coming.is_some() {
            fetch.filled += bytes;
            fetch.chunk = Some(buf);
        } else {
            fetch.record.received(buf, bytes);
        }
    }

    pub(crate) fn fetch_deadline(&self, p: usize) -> Option<Time> {
        let fetch = self.peers.get(p)?.fetch.as_ref()?;
        match fetch.state {
            State::Waiting(at) => Some(at),
            // The connection has a deadline of its own.
            State::Dialling(_) => None,
            State::Open(_) => {
                let silent = fetch.moved.plus_ns(self.options.snapshot_timeout_ns);
                Some(fetch.retry.map_or(silent, |retry| retry.min(silent)))
            }
        }
    }

    pub(crate) fn tick_fetch(&mut self, p: usize, now: Time, io: &mut dyn Io) {
        let Some(fetch) = self.fetch_mut(p) else { return };
        match fetch.state {
            State::Waiting(at) if at <= now => self.dial_source(p, now, io),
            State::Waiting(_) | State::Dialling(_) => {}
            State::Open(slot) => self.tick_open_fetch(p, slot, now, io),
        }
    }

    fn dial_source(&mut self, p: usize, now: Time, io: &mut dyn Io) {
        let Some(addr) = self.peers.get(p).and_then(|peer| source_address(peer.addr, peer.up()?)) else {
            return self.fetch_down(p, DownReason::NoAddress, now, io);
        };
        let Some(slot) = self.conns.open(Purpose::DialSnapshot(p), addr, None) else {
            return self.fetch_down(p, DownReason::Closed, now, io);
        };
        self.conns.set_deadline(slot, Some(now.plus_ns(self.options.handshake_timeout_ns)));
        self.conns.connect(slot, io);
        if let Some(fetch) = self.fetch_mut(p) {
            fetch.state = State::Dialling(slot);
        }
    }

    fn tick_open_fetch(&mut self, p: usize, slot: Slot, now: Time, io: &mut dyn Io) {
        if !self.digest_chunks(p, slot, now, io) {
            return;
        }
        let timeout_ns = self.options.snapshot_timeout_ns;
        let Some(fetch) = self.peers.get_mut(p).and_then(|peer| peer.fetch.as_deref_mut()) else { return };
        if now.since(fetch.moved) >= timeout_ns {
            let reason = if fetch.due.is_empty() && fetch.wants.is_empty() { DownReason::Unused } else { DownReason::Silent };
            return self.fetch_down(p, reason, now, io);
        }
        if !fetch.wants.is_empty()
            && self.conns.may_send(slot)
            && let Some(head) = self.pools.stamps.take()
        {
            if fetch.due.is_empty() {
                fetch.moved = now;
            }
            let gather = fetch.ask(head);
            self.counters.bytes_out += self.conns.send(slot, gather, io);
        }
        fetch.retry = None;
        if !self.conns.may_receive(slot) {
            return;
        }
        if fetch.coming.is_none() {
            return fetch.record.receive(slot, &mut self.conns, io);
        }
        match fetch.chunk.take().or_else(|| self.chunks.as_ref()?.take()) {
            Some(chunk) if fetch.filled < SNAPSHOT_CHUNK_BYTES => {
                self.conns.recv(slot, IoBuf::Pool(chunk), fetch.filled, SNAPSHOT_CHUNK_BYTES - fetch.filled, io);
            }
            // It waits for room in the event queue.
            Some(chunk) => fetch.chunk = Some(chunk),
            None => {
                // That is this node's doing, and no silence of the source.
                fetch.moved = now;
                fetch.retry = Some(now.plus_ns(RING_RETRY_NS));
                self.counters.chunk_waits += 1;
            }
        }
    }

    /// Hands over what is whole, as far as the event queue has room. False if the connection is gone.
    fn digest_chunks(&mut self, p: usize, slot: Slot, now: Time, io: &mut dyn Io) -> bool {
        let Some(peer) = self.peers.get_mut(p) else { return false };
        let Some(fetch) = peer.fetch.as_deref_mut() else { return false };
        if let Some((id, offset)) = fetch.coming {
            if fetch.filled == SNAPSHOT_CHUNK_BYTES
                && self.events.room() > 0
                && let Some(chunk) = fetch.chunk.take()
            {
                (fetch.coming, fetch.filled) = (None, 0);
                peer.fetch_pause = FetchPause::default();
                self.counters.chunks_in += 1;
                self.events.push(NetEvent::SnapshotChunk { peer: peer.id, id, offset, chunk });
            }
            return true;
        }
        let Some(says) = fetch.record.says() else { return true };
        let reason = match says {
            Err(error) => Err(error),
            Ok(SnapshotSays::Chunk { id, offset }) => match fetch.due.front_mut() {
                Some(due) if due.is_next(id, offset) => {
                    if due.took() {
                        fetch.due.pop_front();
                    }
                    fetch.coming = Some((id, offset));
                    fetch.record.took();
                    return true;
                }
                _ => Err(SnapshotWireError::NotWanted),
            },
            Ok(SnapshotSays::Refused(refusal)) => Ok(DownReason::SnapshotRefused(refusal)),
            Ok(says) => Err(SnapshotWireError::Order { kind: says.kind() }),
        };
        match reason {
            Ok(reason) => self.fetch_down(p, reason, now, io),
            Err(error) => self.refuse_source(p, slot, Refusal::Snapshot(error), now, io),
        }
        false
    }
}

/// Where a peer that a session is open with is to be dialled: where this node has reached it.
fn source_address(known: Option<Address>, session: &Session) -> Option<SocketAddr> {
    if session.ours {
        return Some(session.remote);
    }
    known.map(|known| known.socket().unwrap_or_else(|| SocketAddr::new(session.remote.ip(), known.port())))
}

impl Fetch {
    fn new(session: SessionId, dial_at: Time, now: Time) -> Fetch {
        Fetch {
            state: State::Waiting(dial_at),
            session,
            wants: Deque::new(),
            due: Deque::new(),
            record: RecordIn::new(session, None),
            coming: None,
            chunk: None,
            filled: 0,
            next_out: 1,
            moved: now,
            retry: None,
        }
    }

    /// What is wanted as one send.
    fn ask(&mut self, mut head: PoolBuf) -> Gather {
        let mut bytes = 0;
        for out in head.bytes_mut().as_chunks_mut::<SNAPSHOT_RECORD_BYTES>().0 {
            let Some(want) = self.wants.pop_front() else { break };
            SnapshotRecord { session: self.session, sequence: self.next_out, says: SnapshotSays::Want(want) }.encode(out);
            // Both together are no more than that.
            let _ = self.due.push_back(Due::of(&want));
            self.next_out += 1;
            bytes += SNAPSHOT_RECORD_BYTES as u32;
        }
        let mut pieces = heapless::Vec::new();
        // One piece always fits an empty list.
        let _ = pieces.push(Piece::Head(0, bytes));
        Gather { head, pieces }
    }
}

//! The transport: its state, and how calls and completions find their way in it.

use std::net::SocketAddr;

use kontiki_core::{NodeId, SessionId, Time};
use kontiki_io::telling::display;
use kontiki_io::{Completion, Handle, Io, IoBuf, IoError, Output, tell};
use kontiki_mem::{Pool, Ring};

use crate::address::Address;
use crate::book::Book;
use crate::clients::serve::Client;
use crate::conns::{Conns, Purpose, Slot};
use crate::counters::Counters;
use crate::event::{ClientEvent, DownReason, Events, NetEvent};
use crate::handshake::hello::{Channel, HandshakeRefusal, Hello, HelloKind};
use crate::handshake::listen::Listener;
use crate::handshake::reach::Unreached;
use crate::handshake::refusal::Refusal;
use crate::handshake::refused::RefusedTable;
use crate::limits::{
    CONNECTIONS_PER_PEER, CONTROL_BUFFER_BYTES, HELLO_BYTES, MAX_GREETINGS, SMALL_BYTES, SPARE_CLIENTS, STAMPS_BYTES, STATUS_PLACES,
    STATUS_REQUEST_BYTES,
};
use crate::log_gate::{Hushed, LogGate, Topic};
use crate::options::{Options, OptionsError};
use crate::random::Random;
use crate::session::bulk_in::Rules;
use crate::session::parameters::Parameters;
use crate::session::peer::Peer;
use crate::snapshots::serve::Serve;
use crate::token::{Action, parse};

/// Buffers, all set aside at the start.
#[derive(Debug)]
pub(crate) struct Pools {
    /// Greetings, and the starts of frames.
    pub(crate) small: Pool,
    pub(crate) control: Pool,
    pub(crate) stamps: Pool,
    pub(crate) requests: Pool,
    pub(crate) responses: Pool,
    /// Of the places kept for the status.
    pub(crate) status_requests: Pool,
    pub(crate) status_responses: Pool,
}

/// The transport of one node. See the crate's overview.
#[derive(Debug)]
pub struct Net {
    pub(crate) options: Options,
    /// Tells this process from another one of the same node and incarnation.
    pub(crate) process_number: u64,
    pub(crate) rules: Rules,
    pub(crate) random: Random,
    pub(crate) conns: Conns,
    pub(crate) peers: Book,
    pub(crate) clients: Vec<Option<Client>>,
    pub(crate) clients_opened: u64,
    /// Clients that the next tick looks at.
    pub(crate) ready: Vec<usize>,
    pub(crate) events: Events,
    pub(crate) counters: Counters,
    pub(crate) log: LogGate,
    pub(crate) refused: RefusedTable,
    pub(crate) pools: Pools,
    pub(crate) listener: Listener,
    /// The peer whose frames are taken, once it is in the book.
    pub(crate) granted: Option<NodeId>,
    /// Its slot, if it is: asked for in each turn.
    pub(crate) granted_slot: Option<usize>,
    /// Connections over which snapshots of this node are pulled: by each peer, and last by a program.
    pub(crate) serves: Vec<Option<Box<Serve>>>,
    /// How many of them there are.
    pub(crate) serving: usize,
    /// Chunks of snapshots being fetched; while none is, there is no such memory.
    pub(crate) chunks: Option<Pool>,
    pub(crate) stopping: bool,
}

impl Net {
    /// A transport with all its memory, not started.
    ///
    /// # Errors
    /// If the options are out of bounds.
    pub fn new(options: Options) -> Result<Net, OptionsError> {
        options.check()?;
        let mut random = Random::new(options.seed ^ options.node.0.rotate_left(32) ^ options.incarnation.0.rotate_left(48));
        let mut peers = Book::new(options.peer_places());
        for &(id, addr) in options.peers.iter().filter(|(id, _)| *id != options.node) {
            let known = peers.add(Peer::new(id, Some(addr), &options));
            assert!(known.is_some(), "the options say that there is a place for each");
        }
        let peer_places = peers.places();
        // Connections that are being wound down still hold their slot and buffers: hence twice, or a few more.
        let clients = options.max_clients;
        let spare_clients = if clients == 0 { 0 } else { clients + 4 };
        let places = clients + STATUS_PLACES;
        let slots = peer_places * CONNECTIONS_PER_PEER + 2 * MAX_GREETINGS + places + SPARE_CLIENTS;
        let block = |bytes: usize| bytes.next_multiple_of(64);
        let pools = Pools {
            small: Pool::new(2 * slots, SMALL_BYTES),
            control: Pool::new((peer_places * 6).max(1), CONTROL_BUFFER_BYTES),
            // Snapshots have their records there: one send each way, and one each way of a connection that is closing.
            stamps: Pool::new(peer_places * 6 + 2, STAMPS_BYTES),
            requests: Pool::new(spare_clients.max(1), block(options.request_message_bytes())),
            responses: Pool::new((2 * spare_clients).max(1), block(options.max_requests_in_flight * options.response_bytes())),
            status_requests: Pool::new(2 * STATUS_PLACES, STATUS_REQUEST_BYTES),
            status_responses: Pool::new(4 * STATUS_PLACES, block(options.response_bytes())),
        };
        Ok(Net {
            process_number: random.nonzero(),
            rules: Rules { cluster: options.cluster, group: options.group, max_frame_bytes: options.max_frame_bytes },
            random,
            conns: Conns::new(slots),
            events: Events::new(peer_places, places),
            serves: (0..=peer_places).map(|_| None).collect(),
            serving: 0,
            chunks: None,
            peers,
            clients: (0..places).map(|_| None).collect(),
            clients_opened: 0,
            ready: Vec::with_capacity(places),
            counters: Counters::default(),
            log: LogGate::default(),
            refused: RefusedTable::default(),
            pools,
            listener: Listener::default(),
            granted: None,
            granted_slot: None,
            stopping: false,
            options,
        })
    }

    /// Operations that may be outstanding at once: what [`Io::capacity`] must leave to the transport.
    pub fn operations(&self) -> usize {
        // Per connection a receive, a send and a shutdown; the listener's accept and its shutdown; one stray close.
        // And one lookup of each peer's name.
        3 * self.conns.slots() + 3 + self.peers.places()
    }

    /// Opens the listener and lets dialling begin with the next [`Net::tick`].
    pub fn start(&mut self, io: &mut dyn Io, now: Time) {
        self.listen(io);
        for peer in self.peers.iter_mut() {
            peer.seek(self.options.idle_timeout_ns, now);
        }
    }

    /// Takes one completion whose token carries [`crate::TOKEN_TAG`].
    ///
    /// # Panics
    /// If the completion is of no operation of this transport.
    pub fn on_completion(&mut self, now: Time, completion: Completion, io: &mut dyn Io) {
        let Completion { token, result, buf } = completion;
        let Some((action, slot)) = parse(token) else { panic!("{token:?} is none of the transport's") };
        match action {
            Action::Listen | Action::Accept | Action::StopListening | Action::CloseListener | Action::CloseStray => {
                self.listener_completed(action, result, now, io);
            }
            Action::Resolve => self.resolved(usize::from(slot), result, now),
            Action::Connect | Action::Recv | Action::Send | Action::Shutdown | Action::Close => {
                let opened = opened(&result);
                if !self.conns.completed(slot, action, opened, io) {
                    return;
                }
                match action {
                    Action::Connect => self.connected(slot, result, now, io),
                    Action::Recv => self.received(slot, result, buf, now, io),
                    Action::Send => self.sent(slot, result, now, io),
                    _ => {}
                }
            }
        }
    }

    /// Does everything that is due or possible at `now`: call at the end of every turn, after the events were
    /// polled, and at [`Net::deadline`]. Payloads of polled requests end here.
    pub fn tick(&mut self, now: Time, io: &mut dyn Io, ring: &mut Ring) {
        if self.stopping {
            return;
        }
        self.accept(now, io);
        while let Some(slot) = self.conns.overdue(now) {
            self.overdue(slot, now, io);
        }
        for p in 0..self.peers.end() {
            self.tick_session(p, now, io, ring);
            if self.is_sought(p) {
                self.tick_dial(p, now, io);
                self.tick_reach(p, now);
            }
        }
        if self.moves_snapshots() {
            self.tick_snapshots(now, io);
        }
        self.tick_clients(now, io);
        while let Some(Hushed { topic, count, remote }) = self.log.due(now) {
            let (peer, remote) = (topic.peer.map(|peer| peer.0), remote.map(display));
            tell!(warn, peer, remote, count, "{}: more of it since the last line on it", topic.what);
        }
    }

    /// When [`Net::tick`] is next due; a time in the past while events wait to be polled.
    pub fn deadline(&self) -> Option<Time> {
        if !self.events.is_empty() {
            return Some(Time(0));
        }
        if self.stopping {
            return None;
        }
        if !self.ready.is_empty() {
            return Some(Time(0));
        }
        // Asked for once a turn: a plain loop, and no chain of iterators.
        let mut first = None;
        let mut look = |at: Option<Time>| {
            if let Some(at) = at
                && first.is_none_or(|first| at < first)
            {
                first = Some(at);
            }
        };
        for p in 0..self.peers.end() {
            look(self.session_deadline(p));
            if self.is_sought(p) {
                look(self.dial_deadline(p));
                look(self.reach_deadline(p));
            }
        }
        if self.moves_snapshots() {
            look(self.snapshots_deadline());
        }
        look(self.conns.deadline());
        look(self.listener.retry_at());
        look(self.log.deadline());
        first
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<NetEvent> {
        let event = self.events.pop()?;
        if let NetEvent::Client(
            ClientEvent::Propose { client, .. }
            | ClientEvent::Query { client, .. }
            | ClientEvent::Status { client, .. }
            | ClientEvent::Snapshot { client, .. },
        ) = event
        {
            self.polled(client);
        }
        if let NetEvent::SnapshotFetchDown { peer, .. } = event {
            self.fetch_down_polled(peer);
        }
        Some(event)
    }

    /// Closes everything. Keep feeding completions until [`Net::idle`].
    pub fn stop(&mut self, now: Time, io: &mut dyn Io) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        for p in 0..self.peers.end() {
            self.session_down(p, DownReason::Stopped, now, io);
            self.half_failed(p, Unreached::Closed, now, io);
        }
        self.serve_down(self.serves.len() - 1, DownReason::Stopped, io);
        for c in 0..self.clients.len() {
            self.client_gone(c, io);
        }
        for slot in 0..self.conns.slots() as Slot {
            self.conns.doom(slot, io);
        }
        self.stop_listening(io);
    }

    /// Whether nothing is outstanding any more: every connection is closed and all lent memory is back.
    pub fn idle(&self) -> bool {
        self.conns.all_free() && self.listener.idle()
    }

    /// Totals since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether a line about `what`, and about that peer if it is one's, may go to the log now: `most` a minute, and
    /// what exceeds them is counted in a line of its own. For whatever others can make the node say as often as
    /// they like.
    pub fn admits_lines(&mut self, most: u32, peer: Option<NodeId>, what: &'static str, now: Time) -> bool {
        self.log.admits_up_to(most, Topic { peer, what }, None, now)
    }

    /// The address the listener is bound to, once it is.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.listener.addr()
    }

    /// The open session with a peer.
    pub fn session(&self, peer: NodeId) -> Option<SessionId> {
        self.peers.get(self.peer_index(peer)?)?.up().map(|session| session.id)
    }

    /// What a peer said of itself when its session opened: what it takes, and its pace.
    pub fn parameters(&self, peer: NodeId) -> Option<Parameters> {
        self.peers.get(self.peer_index(peer)?)?.up()?.parameters
    }

    /// The other nodes that this one knows of, in the order of their slots: first those of [`Options::peers`].
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().map(|peer| peer.id)
    }

    /// Where a peer listens, for clients that look for the leader.
    pub fn peer_addr(&self, peer: NodeId) -> Option<Address> {
        self.peers.get(self.peer_index(peer)?)?.addr
    }

    fn is_sought(&self, p: usize) -> bool {
        self.peers.get(p).is_some_and(Peer::is_sought)
    }

    pub(crate) fn peer_index(&self, id: NodeId) -> Option<usize> {
        self.peers.slot(id)
    }

    /// A greeting of ours.
    pub(crate) fn hello(&self, kind: HelloKind, channel: Channel, to: NodeId, session: SessionId, nonce: u64) -> Hello {
        Hello {
            kind,
            channel,
            code: 0,
            detail: 0,
            cluster: self.options.cluster,
            from: self.options.node,
            to,
            incarnation: self.options.incarnation,
            process_number: self.process_number,
            session,
            nonce,
        }
    }

    /// Sends a greeting; gives the connection up if there is no buffer for it. Returns whether it went out.
    pub(crate) fn greet(&mut self, slot: Slot, hello: &Hello, now: Time, io: &mut dyn Io) -> bool {
        match self.conns.greet(slot, hello, &self.pools.small, io) {
            Some(bytes) => self.counters.bytes_out += bytes,
            None => self.lost(slot, DownReason::Closed, now, io),
        }
        self.conns.get(slot).is_some()
    }

    /// Counts a refusal and reports it to the operator: a line a reason, peer and minute, since it is others who cause
    /// them.
    pub(crate) fn report(&mut self, peer: Option<usize>, slot: Slot, reason: Refusal, now: Time) {
        self.counters.refuse(&reason);
        let peer = peer.and_then(|p| self.peers.get(p)).map(|peer| peer.id);
        let Some(remote) = self.conns.get(slot).map(|conn| conn.remote) else { return };
        self.refused.note(peer, remote, reason, now);
        // Who only looks whether the port is open is counted, and has said nothing that is worth a line.
        let worth_a_line = reason != Refusal::Gone { bytes: 0 };
        if worth_a_line && self.log.admits(Topic { peer, what: reason.topic() }, Some(remote), now) {
            tell!(warn, peer = peer.map(|peer| peer.0), %remote, %reason, "refused");
        }
        if self.events.takes_reports() {
            self.events.push(NetEvent::Refused { peer, remote, reason });
        }
    }

    fn received(&mut self, slot: Slot, result: Result<Output, IoError>, buf: Option<IoBuf>, now: Time, io: &mut dyn Io) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let (bytes, buf) = match (result, buf) {
            (Ok(Output::Bytes(bytes)), Some(buf)) if bytes > 0 => (bytes, buf),
            (result, _) => {
                if conn.purpose == Purpose::Greeting {
                    let bytes = conn.small_len;
                    self.report(None, slot, Refusal::Gone { bytes }, now);
                }
                let reason = result.err().map_or(DownReason::Closed, DownReason::Io);
                return self.lost(slot, reason, now, io);
            }
        };
        self.counters.bytes_in += bytes as u64;
        match (conn.purpose, buf) {
            (Purpose::Greeting | Purpose::DialControl(_) | Purpose::DialBulk(_) | Purpose::DialSnapshot(_), IoBuf::Pool(small)) => {
                conn.small_len += bytes;
                let like_one = Hello::may_begin(small.bytes().get(..conn.small_len).unwrap_or_default());
                conn.small = Some(small);
                if like_one && conn.small_len < HELLO_BYTES {
                    self.await_greeting(slot, now, io);
                } else {
                    self.greeting_complete(slot, now, io);
                }
            }
            (Purpose::Control(p), IoBuf::Pool(buf)) => {
                if let Some(session) = self.peers.get_mut(p).and_then(|peer| peer.session.as_mut()) {
                    session.inbox.restore(buf, bytes);
                    session.heard = now;
                    self.digest_control(p, now, io);
                }
            }
            (Purpose::Bulk(p), buf) => {
                if let Some(session) = self.peers.get_mut(p).and_then(|peer| peer.session.as_mut()) {
                    session.bulk_in.restore(buf, bytes);
                    self.digest_bulk(p, now, io);
                }
            }
            (Purpose::Client(c), IoBuf::Pool(buf)) => self.client_received(c, buf, bytes, now, io),
            (Purpose::Fetch(p), IoBuf::Pool(buf)) => self.fetch_received(p, buf, bytes, now),
            (Purpose::Serve(k), IoBuf::Pool(buf)) => self.serve_received(k, buf, bytes, now),
            (purpose, buf) => panic!("a receive into {buf:?} for {purpose:?}, which posts none"),
        }
    }

    pub(crate) fn await_greeting(&mut self, slot: Slot, now: Time, io: &mut dyn Io) {
        if !self.conns.await_greeting(slot, &self.pools.small, io) {
            self.lost(slot, DownReason::Closed, now, io);
        }
    }

    /// A whole greeting stands in the connection's small buffer.
    fn greeting_complete(&mut self, slot: Slot, now: Time, io: &mut dyn Io) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.small_len = 0;
        let Some(bytes) = conn.small.as_ref().and_then(|small| small.bytes().first_chunk::<HELLO_BYTES>()) else { return };
        let hello = Hello::decode(bytes);
        match conn.purpose {
            Purpose::Greeting => self.greeted(slot, hello, now, io),
            Purpose::DialControl(p) | Purpose::DialBulk(p) => self.welcomed(p, slot, hello, now, io),
            Purpose::DialSnapshot(p) => self.fetch_welcomed(p, slot, hello, now, io),
            purpose => panic!("a greeting for {purpose:?}, which awaits none"),
        }
    }

    fn sent(&mut self, slot: Slot, result: Result<Output, IoError>, now: Time, io: &mut dyn Io) {
        if let Err(error) = result {
            return self.lost(slot, DownReason::Io(error), now, io);
        }
        let Some(conn) = self.conns.get(slot) else { return };
        match conn.purpose {
            Purpose::Refusing => self.conns.doom(slot, io),
            Purpose::Control(p) => {
                if let Some(session) = self.peers.get_mut(p).and_then(|peer| peer.session.as_mut()) {
                    session.sending_since = None;
                }
            }
            Purpose::Bulk(p) => {
                if let Some(peer) = self.peers.get_mut(p) {
                    peer.bulk_out.sent();
                }
            }
            Purpose::Client(c) => self.client_sent(c, now),
            Purpose::Serve(k) => self.serve_sent(k, now, io),
            Purpose::Greeting
            | Purpose::DialControl(_)
            | Purpose::DialBulk(_)
            | Purpose::DialSnapshot(_)
            | Purpose::HalfControl(_)
            | Purpose::Fetch(_) => {}
        }
    }

    /// A connection is no good any more: gives up what it is part of.
    pub(crate) fn lost(&mut self, slot: Slot, reason: DownReason, now: Time, io: &mut dyn Io) {
        let Some(conn) = self.conns.get(slot) else { return };
        match conn.purpose {
            Purpose::Greeting | Purpose::Refusing => {}
            Purpose::HalfControl(p) if !self.peers.get(p).is_some_and(|peer| peer.dialled(slot)) => {
                self.not_reached(p, false, Unreached::Closed);
                self.greeted_lost(p, slot);
            }
            Purpose::DialControl(p) | Purpose::DialBulk(p) | Purpose::HalfControl(p) => {
                let why = match reason {
                    DownReason::Silent => Unreached::Silent,
                    DownReason::Io(error) => Unreached::Connect(error),
                    _ => Unreached::Closed,
                };
                self.half_failed(p, why, now, io);
            }
            Purpose::Control(p) | Purpose::Bulk(p) => self.session_down(p, reason, now, io),
            Purpose::Client(c) => self.client_gone(c, io),
            Purpose::DialSnapshot(p) | Purpose::Fetch(p) => self.fetch_down(p, reason, now, io),
            Purpose::Serve(k) => self.serve_down(k, reason, io),
        }
        self.conns.doom(slot, io);
    }

    /// A connection's deadline has passed.
    fn overdue(&mut self, slot: Slot, now: Time, io: &mut dyn Io) {
        let Some(conn) = self.conns.get(slot) else { return };
        match conn.purpose {
            Purpose::Greeting => {
                self.report(None, slot, Refusal::Slow, now);
                self.conns.doom(slot, io);
            }
            Purpose::Client(c) => self.client_overdue(c, now, io),
            _ => self.lost(slot, DownReason::Silent, now, io),
        }
    }

    /// Answers a greeting with a refusal, and closes the connection behind it.
    pub(crate) fn refuse_greeting(&mut self, slot: Slot, hello: Option<&Hello>, refusal: HandshakeRefusal, now: Time, io: &mut dyn Io) {
        let peer = hello.filter(|hello| hello.channel != Channel::Client).and_then(|hello| self.peer_index(hello.from));
        if refusal == HandshakeRefusal::Crossed {
            // Nothing is wrong.
            self.counters.crossed += 1;
        } else {
            self.report(peer, slot, Refusal::Handshake(refusal), now);
            if let Some(p) = peer {
                self.not_reached(p, false, Unreached::Refused(refusal));
            }
        }
        let (channel, to, session) =
            hello.map_or((Channel::Control, NodeId(0), SessionId(0)), |hello| (hello.channel, hello.from, hello.session));
        let (code, detail) = refusal.to_wire();
        let welcome = Hello { code, detail, ..self.hello(HelloKind::Welcome, channel, to, session, 0) };
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.purpose = Purpose::Refusing;
        self.conns.set_deadline(slot, Some(now.plus_ns(self.options.handshake_timeout_ns)));
        self.greet(slot, &welcome, now, io);
    }
}

fn opened(result: &Result<Output, IoError>) -> Option<Handle> {
    match result {
        Ok(Output::Opened(handle)) => Some(*handle),
        _ => None,
    }
}

//! Clients: their requests in, the node's responses out.
//!
//! A request's payload is not copied: it stays in the client's receive buffer until the tick after its event was
//! polled. With every request taken, room for its response is set aside; a client that does not read its
//! responses is soon not read from either, and in the end disconnected.
//!
//! A few places are kept for whoever asks for the node's status: they are given out when all others are taken, or when
//! there are none (`max_clients` 0). Whatever else is asked there is turned away, and the place is soon taken back.

use kontiki_core::Time;
use kontiki_io::{Io, IoBuf};
use kontiki_mem::{Pool, PoolBuf};

use crate::clients::client_wire::{ClientWireError, Request, Response, decode_request, encode_response, message_bytes};
use crate::clients::codes;
use crate::clients::long_request::LongRequest;
use crate::conns::{Purpose, Slot};
use crate::event::{ClientEvent, ClientId, NetEvent, Payload};
use crate::handshake::hello::{Channel, HandshakeRefusal, Hello, HelloKind};
use crate::handshake::refusal::Refusal;
use crate::limits::{CLIENT_HEADER_BYTES, CLIENT_SESSION_BYTES};
use crate::net::{Net, Pools};
use crate::options::Options;
use crate::session::inbox::Inbox;
use crate::session::outbox::Outbox;

/// The `detail` of a [`HelloKind::Welcome`] to a client that got a place for the status alone.
pub const STATUS_ALONE: u64 = 1;

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    id: ClientId,
    slot: Slot,
    /// Its place is kept for the status.
    reserved: bool,
    /// It asked for something else there: what it says no longer keeps its place.
    turned_away: bool,
    /// A request that is too long, being read past.
    long: Option<LongRequest>,
    inbox: Inbox,
    outbox: Outbox,
    /// Requests whose events wait to be polled.
    queued: usize,
    /// Requests not answered yet, those queued among them.
    in_flight: usize,
    /// When it last sent or took something.
    alive: Time,
    sending: bool,
    /// Stands in the list of those to be looked at.
    ready: bool,
    /// No buffer was left for its responses: to be disconnected.
    broken: bool,
}

impl Options {
    fn max_payload_bytes(&self) -> usize {
        self.max_request_bytes + CLIENT_SESSION_BYTES
    }

    /// Longest request on the wire, in bytes.
    pub(crate) fn request_message_bytes(&self) -> usize {
        CLIENT_HEADER_BYTES + self.max_payload_bytes()
    }
}

impl Net {
    /// The bytes of a request's payload: between its event and the next [`Net::tick`]. `None` if its client is
    /// gone by now; the request is then to be forgotten.
    pub fn payload(&self, payload: &Payload) -> Option<&[u8]> {
        let client = self.clients.get(self.client_index(payload.client)?)?.as_ref()?;
        client.inbox.part(payload.from as usize, payload.to as usize)
    }

    /// Answers a request: every one exactly once. It goes out with the next [`Net::tick`]. False if the client is gone.
    ///
    /// # Panics
    /// If the client has no request unanswered.
    pub fn respond(&mut self, client: ClientId, request: u64, response: Response<'_>) -> bool {
        let Some(c) = self.client_index(client) else { return false };
        let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return false };
        assert!(client.in_flight > 0, "every request is answered once");
        client.in_flight -= 1;
        let room = client.outbox.room(responses(&self.pools, client.reserved));
        let limit = self.options.response_bytes().min(room.len());
        let room = &mut room[..limit];
        let written = encode_response(request, &response, room).or_else(|| {
            self.counters.responses_too_long += 1;
            let response = Response::Error { code: codes::REPLY_TOO_LONG, text: "the reply is longer than this node may send" };
            encode_response(request, &response, room)
        });
        match written {
            Some(bytes) => client.outbox.wrote(bytes),
            None => client.broken = true,
        }
        self.counters.responses += 1;
        self.make_ready(c);
        true
    }

    /// Clients connected, on whatever place.
    pub fn clients(&self) -> usize {
        self.clients.iter().flatten().count()
    }

    /// Whether a connection may only ask for the status.
    pub(crate) fn has_reserved_place(&self, c: usize) -> bool {
        c >= self.options.max_clients
    }

    /// A place for a new connection: one of the clients', else one that is kept for the status. If those are taken too,
    /// whoever was quiet longest gives way.
    fn client_place(&mut self, io: &mut dyn Io) -> Result<usize, HandshakeRefusal> {
        if let Some(free) = self.clients.iter().position(Option::is_none) {
            return Ok(free);
        }
        let reserved = (0..).zip(&self.clients).skip(self.options.max_clients);
        let quiet = reserved.filter_map(|(c, client)| Some((c, client.as_ref()?))).min_by_key(|(_, client)| client.alive);
        let place = quiet.map(|(c, _)| c).ok_or(HandshakeRefusal::Busy)?;
        self.counters.crowded_out += 1;
        self.client_gone(place, io);
        Ok(place)
    }

    fn client_index(&self, id: ClientId) -> Option<usize> {
        let c = (id.0 & 0xffff) as usize;
        let client = self.clients.get(c)?.as_ref()?;
        (client.id == id).then_some(c)
    }

    fn make_ready(&mut self, c: usize) {
        if let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut)
            && !client.ready
        {
            client.ready = true;
            self.ready.push(c);
        }
    }

    /// The event of a request was taken.
    pub(crate) fn polled(&mut self, id: ClientId) {
        let Some(c) = self.client_index(id) else { return };
        if let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) {
            client.queued -= 1;
            self.make_ready(c);
        }
    }

    pub(crate) fn client_connected(&mut self, slot: Slot, hello: &Hello, now: Time, io: &mut dyn Io) -> Result<(), HandshakeRefusal> {
        if self.events.room() < 2 {
            return Err(HandshakeRefusal::Busy);
        }
        let place = self.client_place(io)?;
        let reserved = self.has_reserved_place(place);
        let requests = if reserved { &self.pools.status_requests } else { &self.pools.requests };
        let inbox = requests.take().ok_or(HandshakeRefusal::Busy)?;
        let mut welcome = self.hello(HelloKind::Welcome, Channel::Client, hello.from, hello.session, 0);
        welcome.detail = if reserved { STATUS_ALONE } else { 0 };
        if !self.greet(slot, &welcome, now, io) {
            return Ok(());
        }
        let Some(conn) = self.conns.get_mut(slot) else { return Ok(()) };
        conn.purpose = Purpose::Client(place);
        let remote = conn.remote;
        self.clients_opened += 1;
        let id = ClientId(self.clients_opened << 16 | place as u64);
        let client = Client {
            id,
            slot,
            reserved,
            turned_away: false,
            long: None,
            inbox: Inbox::new(inbox),
            outbox: Outbox::default(),
            queued: 0,
            in_flight: 0,
            alive: now,
            sending: true,
            ready: false,
            broken: false,
        };
        if let Some(entry) = self.clients.get_mut(place) {
            *entry = Some(client);
        }
        self.conns.set_deadline(slot, Some(now.plus_ns(self.client_idle_ns(reserved))));
        self.counters.clients += 1;
        self.events.push_start(NetEvent::Client(ClientEvent::Connected { client: id, remote }));
        self.make_ready(place);
        Ok(())
    }

    /// Forgets a client, if it is there, and closes its connection.
    pub(crate) fn client_gone(&mut self, c: usize, io: &mut dyn Io) {
        let Some(client) = self.clients.get_mut(c).and_then(Option::take) else { return };
        self.conns.doom(client.slot, io);
        self.events.push_end(NetEvent::Client(ClientEvent::Disconnected { client: client.id }));
    }

    pub(crate) fn client_received(&mut self, c: usize, buf: PoolBuf, bytes: usize, now: Time, io: &mut dyn Io) {
        if let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) {
            client.inbox.restore(buf, bytes);
            client.is_alive(now);
            self.make_ready(c);
            self.digest_client(c, now, io);
        }
    }

    pub(crate) fn client_sent(&mut self, c: usize, now: Time) {
        if let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) {
            client.sending = false;
            client.is_alive(now);
            self.make_ready(c);
        }
    }

    pub(crate) fn client_overdue(&mut self, c: usize, now: Time, io: &mut dyn Io) {
        let idle_ns = self.client_idle_ns(self.has_reserved_place(c));
        let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
        // While it is the node that owes answers, or has only just given them, silence is no fault of the client.
        if !client.sending && (client.in_flight > 0 || client.outbox.len() > 0) {
            client.is_alive(now);
        }
        if now.since(client.alive) >= idle_ns {
            self.counters.clients_idle += 1;
            self.client_gone(c, io);
        } else {
            let (slot, until) = (client.slot, client.alive.plus_ns(idle_ns));
            self.conns.set_deadline(slot, Some(until));
        }
    }

    fn client_idle_ns(&self, reserved: bool) -> u64 {
        if reserved { self.options.handshake_timeout_ns } else { self.options.client_idle_timeout_ns }
    }

    /// Longest payload taken from a client.
    fn max_payload_bytes(&self, c: usize) -> usize {
        if self.has_reserved_place(c) { 0 } else { self.options.max_payload_bytes() }
    }

    /// Hands over the requests that are there: as many as the event queue has room for, the client may have
    /// unanswered, and whose responses are sure of their room.
    fn digest_client(&mut self, c: usize, now: Time, io: &mut dyn Io) {
        let (response_bytes, max_payload_bytes) = (self.options.response_bytes(), self.max_payload_bytes(c));
        let most = if self.has_reserved_place(c) { 1 } else { self.options.max_requests_in_flight };
        let is_admin = self.clients.get(c).and_then(Option::as_ref).is_some_and(|client| self.is_admin(client.slot));
        loop {
            let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
            let reserved = client.outbox.len() + (client.in_flight + 1) * response_bytes;
            if self.events.room() == 0 || reserved > most * response_bytes {
                return;
            }
            if let Some(long) = &mut client.long {
                let passed = long.pass(client.inbox.unread());
                client.inbox.consume(passed);
                match long.is_whole() {
                    None => return,
                    Some(false) => return self.refuse_client(c, ClientWireError::Checksum, now, io),
                    Some(true) => self.answer_long(c),
                }
                continue;
            }
            let start = client.inbox.start();
            let (request, what, length) = match decode_request(client.inbox.unread(), max_payload_bytes) {
                Ok(None) => return,
                Ok(Some(decoded)) => decoded,
                Err(error) => match LongRequest::begin(client.inbox.unread(), error) {
                    Ok(long) => {
                        client.long = Some(long);
                        client.inbox.consume(CLIENT_HEADER_BYTES);
                        continue;
                    }
                    Err(error) => return self.refuse_client(c, error, now, io),
                },
            };
            // The payload ends the message.
            let id = client.id;
            let end = start + length;
            let part = |payload: &[u8]| Payload { client: id, from: (end - payload.len()) as u32, to: end as u32 };
            let event = match what {
                Request::Status => ClientEvent::Status { client: id, request },
                Request::Propose { .. } | Request::Query { .. } | Request::Snapshot if client.reserved => {
                    client.inbox.consume(length);
                    self.turn_away(c, request);
                    continue;
                }
                Request::Snapshot if !is_admin => {
                    client.inbox.consume(length);
                    let text =
                        "administrative requests are taken from the node's own machine alone (admin = \"any\" in its file allows others)";
                    self.answer(c, request, Response::Error { code: codes::NOT_ADMIN, text });
                    continue;
                }
                Request::Snapshot => ClientEvent::Snapshot { client: id, request },
                Request::Propose { payload, .. } if payload.len() > self.options.max_request_bytes => {
                    let bytes = payload.len();
                    client.inbox.consume(length);
                    self.answer_too_long(c, request, bytes);
                    continue;
                }
                Request::Propose { session, payload } => ClientEvent::Propose { client: id, request, session, payload: part(payload) },
                Request::Query { payload } => ClientEvent::Query { client: id, request, payload: part(payload) },
            };
            client.inbox.consume(length);
            client.queued += 1;
            client.in_flight += 1;
            self.counters.requests += 1;
            self.events.push(NetEvent::Client(event));
        }
    }

    /// All of a request that is too long has been read past.
    fn answer_long(&mut self, c: usize) {
        let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
        let Some(long) = client.long.take() else { return };
        if client.reserved { self.turn_away(c, long.request) } else { self.answer_too_long(c, long.request, long.payload_bytes) }
    }

    fn answer_too_long(&mut self, c: usize, request: u64, bytes: usize) {
        self.counters.requests_too_long += 1;
        let mut text = heapless::String::<128>::new();
        let limit = self.options.max_request_bytes;
        let line = format_args!("a request of {bytes} bytes: this node takes at most {limit} (its max_entry_bytes); nothing was done");
        // Two numbers fit.
        let _ = core::fmt::Write::write_fmt(&mut text, line);
        self.answer(c, request, Response::Error { code: codes::REQUEST_TOO_LONG, text: &text });
    }

    /// Whoever has a place for the status asked for something else.
    fn turn_away(&mut self, c: usize, request: u64) {
        self.counters.turned_away += 1;
        let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
        client.turned_away = true;
        let text = "this node serves no clients (max_clients = 0): it answers status alone";
        let off = Response::Error { code: codes::NO_CLIENTS, text };
        self.answer(c, request, if self.options.max_clients == 0 { off } else { Response::Busy });
    }

    /// Answers a request that no event was made of.
    fn answer(&mut self, c: usize, request: u64, response: Response<'_>) {
        let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
        client.in_flight += 1;
        let id = client.id;
        self.respond(id, request, response);
    }

    fn refuse_client(&mut self, c: usize, error: ClientWireError, now: Time, io: &mut dyn Io) {
        let Some(slot) = self.clients.get(c).and_then(Option::as_ref).map(|client| client.slot) else { return };
        self.report(None, slot, Refusal::Request(error), now);
        self.client_gone(c, io);
    }

    pub(crate) fn tick_clients(&mut self, now: Time, io: &mut dyn Io) {
        // Clients that become ready again meanwhile are looked at in the next tick. An entry may be stale.
        let due = self.ready.len();
        for at in 0..due {
            let Some(&c) = self.ready.get(at) else { break };
            if let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut).filter(|client| client.ready) {
                client.ready = false;
                self.tick_client(c, now, io);
            }
        }
        self.ready.drain(..due);
    }

    fn tick_client(&mut self, c: usize, now: Time, io: &mut dyn Io) {
        self.digest_client(c, now, io);
        let max_payload_bytes = self.max_payload_bytes(c);
        let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
        if client.broken {
            return self.client_gone(c, io);
        }
        if self.events.room() == 0 {
            // Requests may wait that no event of this client will bring back to mind.
            self.make_ready(c);
        }
        let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
        if self.conns.may_send(client.slot)
            && let Some(gather) = client.outbox.take()
        {
            client.sending = true;
            self.counters.bytes_out += self.conns.send(client.slot, gather, io);
        }
        // The buffer is the kernel's while a receive is out: so not before every payload in it was used, nor
        // while a whole request in it waits for its turn.
        if client.queued == 0 && self.conns.may_receive(client.slot) {
            let unread = client.inbox.unread();
            let want = match message_bytes(unread, max_payload_bytes) {
                _ if client.long.is_some() => 0,
                Ok(Some(length)) if length <= unread.len() => return,
                Ok(want) => want.unwrap_or(CLIENT_HEADER_BYTES),
                // It waits for room for its answer.
                Err(ClientWireError::Length { .. }) => return,
                Err(error) => return self.refuse_client(c, error, now, io),
            };
            if let Some((buf, at, len)) = client.inbox.lend(want) {
                self.conns.recv(client.slot, IoBuf::Pool(buf), at, len, io);
            }
        }
    }
}

impl Client {
    /// It sent or took something.
    fn is_alive(&mut self, now: Time) {
        if !self.turned_away {
            self.alive = now;
        }
    }
}

/// Where the responses of a place are gathered.
fn responses(pools: &Pools, reserved: bool) -> &Pool {
    if reserved { &pools.status_responses } else { &pools.responses }
}

//! Clients: their requests in, the node's responses out.
//!
//! A request's payload is not copied: it stays in the client's receive buffer until the tick after its event was
//! polled. With every request taken, room for its response is set aside; a client that does not read its
//! responses is soon not read from either, and in the end disconnected.

use kontiki_core::Time;
use kontiki_io::{Io, IoBuf};
use kontiki_mem::PoolBuf;

use crate::client_wire::{ClientWireError, Request, Response, decode_request, encode_response, message_bytes};
use crate::conns::{Purpose, Slot};
use crate::event::{ClientEvent, ClientId, NetEvent, Payload};
use crate::hello::{Channel, HandshakeRefusal, Hello, HelloKind};
use crate::inbox::Inbox;
use crate::limits::{CLIENT_HEADER_BYTES, CLIENT_SESSION_BYTES};
use crate::net::Net;
use crate::options::Options;
use crate::outbox::Outbox;
use crate::refusal::Refusal;

/// The code of [`Response::Error`] for a response that was longer than `max_reply_bytes`.
pub const ERROR_REPLY_TOO_LONG: u64 = 1;

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    id: ClientId,
    slot: Slot,
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
        let room = client.outbox.room(&self.pools.responses);
        let limit = self.options.response_bytes().min(room.len());
        let room = &mut room[..limit];
        let written = encode_response(request, &response, room).or_else(|| {
            self.counters.responses_too_long += 1;
            let response = Response::Error { code: ERROR_REPLY_TOO_LONG, text: "the reply is longer than this node may send" };
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

    /// Clients connected.
    pub fn clients(&self) -> usize {
        self.clients.iter().flatten().count()
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
        let place = self.clients.iter().position(Option::is_none).ok_or(HandshakeRefusal::Busy)?;
        if self.events.room() < 2 {
            return Err(HandshakeRefusal::Busy);
        }
        let inbox = self.pools.requests.take().ok_or(HandshakeRefusal::Busy)?;
        let welcome = self.hello(HelloKind::Welcome, Channel::Client, hello.from, hello.session, 0);
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
        self.conns.set_deadline(slot, Some(now.plus_ns(self.options.client_idle_timeout_ns)));
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
            client.alive = now;
            self.make_ready(c);
            self.digest_client(c, io);
        }
    }

    pub(crate) fn client_sent(&mut self, c: usize, now: Time) {
        if let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) {
            client.sending = false;
            client.alive = now;
            self.make_ready(c);
        }
    }

    pub(crate) fn client_overdue(&mut self, c: usize, now: Time, io: &mut dyn Io) {
        let idle_ns = self.options.client_idle_timeout_ns;
        let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
        // While it is the node that owes answers, or has only just given them, silence is no fault of the client.
        if !client.sending && (client.in_flight > 0 || client.outbox.len() > 0) {
            client.alive = now;
        }
        if now.since(client.alive) >= idle_ns {
            self.counters.clients_idle += 1;
            self.client_gone(c, io);
        } else {
            let (slot, until) = (client.slot, client.alive.plus_ns(idle_ns));
            self.conns.set_deadline(slot, Some(until));
        }
    }

    /// Hands over the requests that are there: as many as the event queue has room for, the client may have
    /// unanswered, and whose responses are sure of their room.
    fn digest_client(&mut self, c: usize, io: &mut dyn Io) {
        let response_bytes = self.options.response_bytes();
        let send_bytes = self.options.max_requests_in_flight * response_bytes;
        loop {
            let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
            let reserved = client.outbox.len() + (client.in_flight + 1) * response_bytes;
            if self.events.room() == 0 || reserved > send_bytes {
                return;
            }
            let start = client.inbox.start();
            let (request, what, length) = match decode_request(client.inbox.unread(), self.options.max_payload_bytes()) {
                Ok(None) => return,
                Ok(Some(decoded)) => decoded,
                Err(error) => return self.refuse_client(c, error, io),
            };
            // The payload ends the message.
            let id = client.id;
            let end = start + length;
            let part = |payload: &[u8]| Payload { client: id, from: (end - payload.len()) as u32, to: end as u32 };
            let event = match what {
                Request::Propose { session, payload } => {
                    if payload.len() > self.options.max_request_bytes {
                        let limit = self.options.max_request_bytes as u32;
                        let error = ClientWireError::Length { length: payload.len() as u32, limit };
                        return self.refuse_client(c, error, io);
                    }
                    ClientEvent::Propose { client: id, request, session, payload: part(payload) }
                }
                Request::Query { payload } => ClientEvent::Query { client: id, request, payload: part(payload) },
                Request::Status => ClientEvent::Status { client: id, request },
            };
            client.inbox.consume(length);
            client.queued += 1;
            client.in_flight += 1;
            self.counters.requests += 1;
            self.events.push(NetEvent::Client(event));
        }
    }

    fn refuse_client(&mut self, c: usize, error: ClientWireError, io: &mut dyn Io) {
        let Some(slot) = self.clients.get(c).and_then(Option::as_ref).map(|client| client.slot) else { return };
        self.report(None, slot, Refusal::Request(error));
        self.client_gone(c, io);
    }

    pub(crate) fn tick_clients(&mut self, io: &mut dyn Io) {
        // Clients that become ready again meanwhile are looked at in the next tick. An entry may be stale.
        let due = self.ready.len();
        for at in 0..due {
            let Some(&c) = self.ready.get(at) else { break };
            if let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut).filter(|client| client.ready) {
                client.ready = false;
                self.tick_client(c, io);
            }
        }
        self.ready.drain(..due);
    }

    fn tick_client(&mut self, c: usize, io: &mut dyn Io) {
        self.digest_client(c, io);
        let Some(client) = self.clients.get_mut(c).and_then(Option::as_mut) else { return };
        if client.broken {
            return self.client_gone(c, io);
        }
        if self.events.room() == 0 {
            // Requests may wait that no event of this client will bring back to mind.
            client.ready = true;
            self.ready.push(c);
        }
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
            let want = match message_bytes(unread, self.options.max_payload_bytes()) {
                Ok(Some(length)) if length <= unread.len() => return,
                Ok(want) => want.unwrap_or(CLIENT_HEADER_BYTES),
                Err(error) => return self.refuse_client(c, error, io),
            };
            if let Some((buf, at, len)) = client.inbox.lend(want) {
                self.conns.recv(client.slot, IoBuf::Pool(buf), at, len, io);
            }
        }
    }
}

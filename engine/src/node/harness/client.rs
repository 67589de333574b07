//! Programs that talk to the node's port.

use std::cell::RefCell;
use std::rc::Rc;

use kontiki_core::{ClusterId, Incarnation, NodeId, SessionId};
use kontiki_net::limits::HELLO_BYTES;
use kontiki_net::{Channel, Hello, HelloKind, Request, decode_response, encode_request, request_bytes};

use super::wire::{Host, Socket, addr};
use super::words;
use super::world::{NODE, World};

pub(super) struct Client {
    pub(super) name: String,
    host: Host,
    socket: Option<Socket>,
    welcomed: bool,
    received: Vec<u8>,
    requests: u64,
}

impl Client {
    pub(super) fn connect(world: &Rc<RefCell<World>>, name: &str, number: u64) -> Client {
        let host = 256 + number;
        let socket = world.borrow_mut().wire.connect(host, addr(NODE));
        let client = Client { name: name.to_owned(), host, socket, welcomed: false, received: Vec::new(), requests: 0 };
        let mut greeting = [0; HELLO_BYTES];
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
            session: SessionId(host),
            nonce: 0,
        }
        .encode(&mut greeting);
        client.send(world, &greeting);
        client
    }

    fn send(&self, world: &Rc<RefCell<World>>, bytes: &[u8]) {
        if let Some(socket) = self.socket {
            world.borrow_mut().wire.send(socket, [bytes].into_iter());
        }
    }

    pub(super) fn ask(&mut self, world: &Rc<RefCell<World>>, request: &Request<'_>) -> u64 {
        self.requests += 1;
        let mut bytes = vec![0; request_bytes(request)];
        encode_request(self.requests, request, &mut bytes);
        self.send(world, &bytes);
        self.requests
    }

    pub(super) fn close(&mut self, world: &Rc<RefCell<World>>) {
        if let Some(socket) = self.socket.take() {
            world.borrow_mut().wire.shut(socket);
        }
        world.borrow_mut().gone(self.host, false);
    }

    /// What it was answered.
    pub(super) fn hear(&mut self, world: &Rc<RefCell<World>>) -> Vec<String> {
        let Some(socket) = self.socket else { return Vec::new() };
        let (mut lines, mut buffer) = (Vec::new(), [0; 4096]);
        while let Some(count) = world.borrow_mut().wire.receive(socket, &mut buffer) {
            if count == 0 {
                self.socket = None;
                lines.push(format!("{}: closed", self.name));
                break;
            }
            self.received.extend(&buffer[..count]);
        }
        if !self.welcomed && self.received.len() >= HELLO_BYTES {
            self.welcomed = true;
            self.received.drain(..HELLO_BYTES);
        }
        while self.welcomed
            && let Some((number, response, length)) = decode_response(&self.received, 1 << 20).unwrap()
        {
            lines.push(format!("{} {number}: {}", self.name, answer(&response)));
            self.received.drain(..length);
        }
        lines
    }
}

fn answer(response: &kontiki_net::Response<'_>) -> String {
    use kontiki_net::Response;
    match response {
        Response::Applied { index, reply } => format!("applied at {index}, reply {}", words::name_of(reply)),
        Response::NotApplied => "not applied".into(),
        Response::Unknown => "unknown".into(),
        Response::NotLeader { leader, address } => {
            let leader = leader.map_or("nobody".into(), |leader| format!("n{leader}"));
            format!("not the leader: {leader} is{}", address.map(|address| format!(", at {address}")).unwrap_or_default())
        }
        Response::Busy => "busy".into(),
        Response::Snapshot(snapshot) => format!("snapshot of {}@{}", snapshot.index, snapshot.term),
        Response::Status(_) => "status".into(),
        Response::Reply(reply) => format!("reply {}", words::name_of(reply)),
        Response::Error { code, text } => format!("error {code}: {text}"),
    }
}

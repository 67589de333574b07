//! What a peer can make a node say: somebody who speaks as a member that is away can say something else in each
//! session, and name ever higher terms. The log stays readable.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kontiki::{AnyIo, Config, Member, Node, Reactor, State};
use kontiki_core::{ClusterId, Incarnation, Message, NodeId, SessionId, Term};
use kontiki_net::limits::HELLO_BYTES;
use kontiki_net::{Channel, Control, ControlPayload, Hello, HelloKind, Parameters};
use support::{LONG, Recorder, free_addrs};

const CLUSTER: u128 = 0xA11CE;

/// How many events of level INFO and above there were.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Node 2, turned by the test, and whoever speaks as node 1.
struct Stage {
    reactor: Reactor<AnyIo, Recorder>,
    addr: SocketAddr,
}

impl Stage {
    fn turns(&mut self, turns: u32) {
        for _ in 0..turns {
            self.reactor.turn(Duration::from_millis(1)).unwrap();
        }
    }

    /// Connects and greets; the connection and the nonce of the answer, unless it was refused.
    fn greet(&mut self, channel: Channel, session: u64, nonce: u64) -> Option<(TcpStream, u64)> {
        let hello = Hello {
            kind: HelloKind::Hello,
            channel,
            code: 0,
            detail: 0,
            cluster: ClusterId(CLUSTER),
            from: NodeId(1),
            to: NodeId(2),
            incarnation: Incarnation(1),
            process_number: 7,
            session: SessionId(session),
            nonce,
        };
        let mut bytes = [0; HELLO_BYTES];
        hello.encode(&mut bytes);
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (mut answer, begun) = (Vec::new(), std::time::Instant::now());
        while answer.len() < HELLO_BYTES {
            assert!(begun.elapsed() < LONG, "no answer");
            self.turns(1);
            let mut part = [0; HELLO_BYTES];
            match stream.read(&mut part) {
                Ok(0) => return None,
                Ok(n) => answer.extend(&part[..n]),
                Err(_) => {}
            }
        }
        let welcome = Hello::decode(answer.first_chunk().unwrap()).unwrap();
        (welcome.code == 0).then_some((stream, welcome.nonce))
    }

    /// One session, in which `payloads` are said. False if it was refused.
    fn session(&mut self, session: u64, payloads: &[ControlPayload]) -> bool {
        let Some((mut control, nonce)) = self.greet(Channel::Control, session, 0) else { return false };
        let Some((bulk, _)) = self.greet(Channel::Bulk, session, nonce) else { return false };
        for (payload, sequence) in payloads.iter().zip(1..) {
            let mut bytes = [0; 256];
            let control_record = Control { session: SessionId(session), sequence, payload: *payload };
            let length = control_record.encode(&mut bytes).unwrap();
            control.write_all(&bytes[..length]).unwrap();
            self.turns(1);
        }
        self.turns(3);
        drop((control, bulk));
        self.turns(5);
        true
    }
}

#[test]
fn what_a_peer_says_again_and_again_is_told_once() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (dir, addrs) = (tempfile::tempdir().unwrap(), free_addrs(2));
    let members = addrs.iter().zip(1..).map(|(addr, id)| Member::new(id, (*addr).into())).collect();
    let config = Config::new(CLUSTER, 2, members, dir.path().join("n2"));
    let reactor = Node::builder(config).driven(Recorder::default()).unwrap();
    let mut stage = Stage { reactor, addr: addrs[1] };
    while stage.reactor.state() != State::Running {
        stage.turns(1);
    }
    let before = lines.0.lock().unwrap().len();
    let mut sessions = 0;
    for n in 1..=120u32 {
        // Other limits and another pace each time, none of which fit; then terms, one higher than the other.
        let parameters = Parameters {
            takes_frame_bytes: n,
            max_frame_bytes: n,
            max_entry_bytes: n,
            heartbeat_ms: 10_000 + n,
            election_min_ms: n,
            election_max_ms: n,
            ..Parameters::default()
        };
        let mut said = vec![ControlPayload::Parameters(parameters)];
        said.extend((1..=3).map(|k| ControlPayload::Message(Message::VoteReply { term: Term(u64::from(10 * n + k)), granted: false })));
        sessions += u32::from(stage.session(u64::from(n), &said));
    }
    assert!(sessions > 60, "most were let in: {sessions}");
    let said = lines.0.lock().unwrap().split_off(before);
    // Thirty-two changes of role, and a line each for what else there is to say.
    assert!(said.len() < 32 + 20, "{} lines of {sessions} sessions:\n{}", said.len(), said.join("\n"));
}

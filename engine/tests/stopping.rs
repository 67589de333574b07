//! A node that is stopped in order notes where its log ends, whatever its peers do: on a lossy medium, which is the
//! default, a start that does not find the note has to doubt the end of the log. So does one that stops by itself, for
//! a reason that is not its log's.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

#[allow(unreachable_pub)]
#[path = "support/proxy.rs"]
mod proxy;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kontiki::{ApplyError, ApplyOn, Config, Entries, Failure, Member, Node, Replies, StartError, State, StateMachine, TurnError};
use proxy::Proxy;
use support::{LONG, Recorder, free_addrs};

/// Where the hard state says that the log ended when it was closed in order; zero while it is open.
fn noted(dir: &Path) -> u64 {
    let bytes = std::fs::read(dir.join("hard-state")).unwrap();
    u64::from_le_bytes(bytes[88..96].try_into().unwrap())
}

fn config(members: &[Member], id: u64, dir: &Path) -> Config {
    let mut config = Config::new(0xA11CE, id, members.to_vec(), dir.join(format!("n{id}")));
    (config.election_min_ms, config.election_max_ms) = (500, 1_000);
    (config.segment_bytes, config.retention_bytes) = (4096 + 4 * (256 << 10), 0);
    config
}

/// Two nodes of three run and write; the third's address is `third`. Both are stopped, one after the other.
fn stop_beside(third: SocketAddr) {
    let mut members: Vec<Member> = free_addrs(2).into_iter().zip(1..).map(|(addr, id)| Member::new(id, addr.into())).collect();
    members.push(Member::new(3, third.into()));
    let dir = tempfile::tempdir().unwrap();
    let nodes = [1, 2].map(|id| Node::builder(config(&members, id, dir.path())).start(Recorder::default()).unwrap());
    let mut written = 0;
    while written < 20 {
        let tickets = nodes.iter().filter_map(|node| node.propose(b"x").ok());
        written += tickets.filter(|ticket| matches!(ticket.wait_timeout(Duration::from_secs(2)), Some(Ok(_)))).count();
    }
    for node in nodes {
        node.shutdown().unwrap();
    }
    let ends = [1, 2].map(|id| noted(&dir.path().join(format!("n{id}"))));
    assert!(ends.iter().all(|end| *end > 0), "stopped in order, and the log's end is not noted: {ends:?}");
}

/// An address that takes a connection request and never answers: a board that is off, behind a switch.
#[test]
fn beside_a_dark_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // Its queue is filled, and nobody takes from it.
    let connect = || TcpStream::connect_timeout(&addr, Duration::from_millis(150)).ok();
    let queue: Vec<_> = std::iter::from_fn(connect).take(5_000).collect();
    stop_beside(addr);
    drop(queue);
}

/// Connections are taken, and nothing that comes is read or answered.
#[test]
fn beside_a_peer_that_does_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let taken: Vec<_> = listener.incoming().collect();
        drop(taken);
    });
    stop_beside(addr);
}

/// Whoever turns a reactor that has ended is told so, however long it would wait.
#[test]
fn turned_after_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut reactor = Node::builder(stopped(dir.path())).driven(Recorder::default()).unwrap();
    reactor.stop();
    while reactor.turn(Duration::from_secs(1)).unwrap() != State::Ended {}
    let (said, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || said.send(reactor.turn(Duration::MAX).ok()));
    assert_eq!(hears.recv_timeout(support::LONG), Ok(Some(State::Ended)));
}

/// A node by itself that wrote something and was stopped.
fn stopped(dir: &Path) -> Config {
    let members = [Member::new(1, free_addrs(1)[0].into())];
    let config = config(&members, 1, dir);
    let node = Node::builder(config.clone()).start(Recorder::default()).unwrap();
    while node.propose(b"x").ok().and_then(|ticket| ticket.wait().ok()).is_none() {}
    node.shutdown().unwrap();
    assert!(noted(&config.dir) > 0);
    config
}

/// After any of its turns, a start that is asked to stop leaves the log closed in order.
#[test]
fn during_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = stopped(dir.path());
    let end = noted(&config.dir);
    let mut was_up = false;
    for turns in 0..200 {
        let mut reactor = Node::builder(config.clone()).driven(Recorder::default()).unwrap();
        for _ in 0..turns {
            was_up |= reactor.turn(Duration::from_millis(5)).unwrap() == State::Running;
        }
        reactor.stop();
        while reactor.turn(Duration::from_secs(1)).unwrap() != State::Ended {}
        if was_up {
            return;
        }
        assert_eq!(noted(&config.dir), end, "stopped after {turns} turns");
    }
    panic!("a start takes fewer turns");
}

/// A start that is refused once the log is open leaves it closed in order, too.
#[test]
fn by_a_start_that_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = stopped(dir.path());
    let _taken = TcpListener::bind(config.members[0].addr.socket().unwrap()).unwrap();
    let mut reactor = Node::builder(config.clone()).driven(Recorder::default()).unwrap();
    let refused = loop {
        match reactor.turn(Duration::from_secs(1)) {
            Ok(state) => assert_ne!(state, State::Running),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, TurnError::Start(StartError::Listen { .. })), "{refused}");
    assert!(noted(&config.dir) > 0);
}

/// A state machine behind a gate: while that is shut, what is applied waits.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn shut(&self, shut: bool) {
        *self.0.0.lock().unwrap() = shut;
        self.0.1.notify_all();
    }
}

impl StateMachine for Gate {
    fn apply(&mut self, entries: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
        let mut shut = self.0.0.lock().unwrap();
        while *shut {
            shut = self.0.1.wait(shut).unwrap();
        }
        let _all = entries.count();
        Ok(())
    }
}

/// Writes until `enough`, through whoever of the first two leads.
fn write_until(nodes: &[Node], payload: &[u8], mut enough: impl FnMut(u64) -> bool) {
    let mut written = 0;
    while !enough(written) {
        let tickets = nodes.iter().filter_map(|node| node.propose(payload).ok());
        written += tickets.filter(|ticket| matches!(ticket.wait_timeout(Duration::from_secs(2)), Some(Ok(_)))).count() as u64;
    }
}

/// Three real nodes, the third of which is in `trouble` by the time that the other two are stopped.
fn stop_beside_a_node(trouble: impl FnOnce(&[Node], &Gate, &Proxy, &Proxy)) {
    let addrs = free_addrs(3);
    let links = [Proxy::to(addrs[2]), Proxy::to(addrs[2])];
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let of = |id: u64| {
        let mut members: Vec<Member> = addrs.iter().zip(1..).map(|(addr, id)| Member::new(id, (*addr).into())).collect();
        if let Some(link) = links.get(id as usize - 1) {
            members[2].addr = link.addr.into();
        }
        let mut config = config(&members, id, dir.path());
        // Little memory, soon taken; and whoever does not go on is soon let go of.
        (config.max_entry_bytes, config.max_frame_bytes, config.ring_bytes, config.window_bytes) = (32 << 10, 64 << 10, 2 << 20, 256 << 10);
        config.hold_back_ms = 100;
        config
    };
    let third = {
        // It does not lead: what is to be stopped is the leader and the other follower.
        let config = Config { election_min_ms: 20_000, election_max_ms: 40_000, election_limit_ms: 40_000, ..of(3) };
        Node::builder(config).start(gate.clone()).unwrap()
    };
    let mut nodes: Vec<Node> = [1, 2].map(|id| Node::builder(of(id)).start(Recorder::default()).unwrap()).into();
    write_until(&nodes, b"x", |written| written >= 20);
    trouble(&nodes, &gate, &links[0], &links[1]);
    for node in nodes.drain(..) {
        node.shutdown().unwrap();
    }
    let ends = [1, 2].map(|id| noted(&dir.path().join(format!("n{id}"))));
    gate.shut(false);
    links.iter().for_each(|link| link.cut(false));
    third.shutdown().unwrap();
    assert!(ends.iter().all(|end| *end > 0), "stopped in order, and the log's end is not noted: {ends:?}");
}

/// What is sent to the third stands on the way, in the middle of frames.
#[test]
fn beside_a_slow_peer() {
    stop_beside_a_node(|nodes, _, first, second| {
        [first, second].into_iter().for_each(|link| link.cut(true));
        let bytes = [7; 30 << 10];
        write_until(nodes, &bytes, |written| written >= 60);
    });
}

/// The third takes nothing more: its memory is full of what its state machine has not applied.
#[test]
fn beside_a_full_peer() {
    stop_beside_a_node(|nodes, gate, _, _| {
        gate.shut(true);
        let bytes = [7; 30 << 10];
        // More than all of its memory, the sockets' and the sender's window hold.
        write_until(nodes, &bytes, |written| written >= 400);
    });
}

/// Fails, in its own way, once it is told to.
struct Failing(fn() -> Result<(), ApplyError>);

impl StateMachine for Failing {
    fn apply(&mut self, mut entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        match entries.any(|entry| entry.payload == b"fail") {
            true => (self.0)(),
            false => {
                replies.push(b"");
                Ok(())
            }
        }
    }
}

/// A node that stops by itself, since its state machine does not go on, has a log that is in order, and leaves it so.
#[test]
fn by_itself_over_a_state_machine_that_fails() {
    let refuses: fn() -> Result<(), ApplyError> = || Err(ApplyError("no more".into()));
    for apply_on in [ApplyOn::Reactor, ApplyOn::Thread] {
        for what in [refuses, || panic!("no more")] {
            let dir = tempfile::tempdir().unwrap();
            let members = [Member::new(1, free_addrs(1)[0].into())];
            let config = Config { apply_on, ..config(&members, 1, dir.path()) };
            let node = Node::builder(config.clone()).start(Failing(what)).unwrap();
            while node.propose(b"x").ok().and_then(|ticket| ticket.wait().ok()).is_none() {}
            let ticket = node.propose(b"fail").unwrap();
            assert!(ticket.wait_timeout(LONG).expect("its caller is told").is_err());
            assert!(matches!(node.failure(), Some(Failure::Apply(_) | Failure::ApplyPanic(_))), "and why: {:?}", node.failure());
            assert!(node.propose(b"more").is_err());
            drop(node);
            assert!(noted(&config.dir) > 0, "{apply_on:?}");
            // With a state machine that does go on, all is there, and nothing is doubted.
            let node = Node::builder(config.clone()).start(Recorder::default()).unwrap();
            while node.propose(b"y").ok().and_then(|ticket| ticket.wait().ok()).is_none() {}
            assert!(!node.status().unwrap().recovering);
        }
    }
}

/// Turned by the product: the turns after the failure close the log, and the last of them says why.
#[test]
fn by_itself_in_the_products_own_loop() {
    let dir = tempfile::tempdir().unwrap();
    let members = [Member::new(1, free_addrs(1)[0].into())];
    let config = config(&members, 1, dir.path());
    let mut reactor = Node::builder(config.clone()).driven(Failing(|| Err(ApplyError("no more".into())))).unwrap();
    let proposer = reactor.proposer();
    while proposer.propose(b"fail").is_err() {
        assert!(matches!(reactor.turn(Duration::from_millis(5)).unwrap(), State::Opening | State::Running));
    }
    let failed = loop {
        match reactor.turn(Duration::from_secs(1)) {
            Ok(State::Closing) => assert!(proposer.failure().is_some(), "it is said at once"),
            Ok(state) => assert_eq!(state, State::Running),
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, TurnError::Failed(Failure::Apply(_))), "{failed}");
    assert_eq!(reactor.turn(Duration::ZERO).unwrap(), State::Ended);
    assert!(noted(&config.dir) > 0);
}

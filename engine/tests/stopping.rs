//! A node that is stopped in order notes where its log ends, whatever its peers do: on a lossy medium, which is the default, a start that does
//! not find the note has to doubt the end of the log.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use kontiki::{Config, Member, Node, StartError, State, TurnError};
use support::{Recorder, free_addrs};

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

//! A log that is full, whatever space its disk has: what is said of it, what goes on, and what makes room again.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kontiki::client::{Client, ClientError, ClientOptions};
use kontiki::{
    ApplyError, ApplyOn, Config, Entries, Event, LogIndex, Lost, Medium, Member, Node, ProposeError, Replies, StateMachine, Ticket, codes,
};

const LONG: Duration = Duration::from_secs(120);
const SEGMENT_BYTES: u64 = 68 << 10;
const MAX_SEGMENTS: u64 = 512;

/// Counts, and writes itself down only when it is told to: from outside, as a thread of a product's would.
#[derive(Clone, Default)]
struct Late {
    applied: Arc<AtomicU64>,
    written: Arc<AtomicBool>,
}

impl StateMachine for Late {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            self.applied.store(entry.index.0, Ordering::SeqCst);
            replies.push(&[1]);
        }
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        LogIndex(if self.written.load(Ordering::SeqCst) { self.applied.load(Ordering::SeqCst) } else { 0 })
    }
}

fn node(dir: &std::path::Path, machine: &Late, apply_on: ApplyOn) -> (Node, std::net::SocketAddr) {
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = Config::new(0xF011, 1, vec![Member::new(1, addr.into())], dir);
    (config.segment_bytes, config.medium, config.apply_on, config.max_clients) = (SEGMENT_BYTES, Medium::Safe, apply_on, 2);
    (config.max_frame_bytes, config.max_entry_bytes, config.retention_bytes) = (16 << 10, 15 << 10, 4 * SEGMENT_BYTES);
    (config.window_bytes, config.ring_bytes) = (64 << 10, 256 << 10);
    let node = Node::builder(config).start(machine.clone()).unwrap();
    assert!(node.wait_leader(LONG).is_some());
    (node, addr)
}

fn until(node: &Node, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "{what}: {}", node.status().unwrap());
        std::thread::yield_now();
    }
}

/// Proposes until that is refused for good: how, and how many were applied. Every ticket ends.
fn fill(node: &Node) -> (ProposeError, u64) {
    let (payload, mut tickets, mut applied) = (vec![7; 14 << 10], Vec::<Ticket>::new(), 0);
    let begun = Instant::now();
    let mut ended = |tickets: Vec<Ticket>| {
        for ticket in tickets {
            match ticket.wait() {
                Ok(_) => applied += 1,
                Err(Lost::NotApplied { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let error = loop {
        assert!(begun.elapsed() < LONG, "the log does not become full: {}", node.status().unwrap());
        match node.propose(&payload) {
            Ok(ticket) => tickets.push(ticket),
            Err(ProposeError::Busy | ProposeError::NotLeader { .. }) => ended(std::mem::take(&mut tickets)),
            Err(error) => break error,
        }
    };
    ended(tickets);
    (error, applied)
}

fn a_full_log(apply_on: ApplyOn) {
    let dir = tempfile::tempdir().unwrap();
    let machine = Late::default();
    let (node, addr) = node(dir.path(), &machine, apply_on);
    let mut events = node.events();
    let (error, applied) = fill(&node);
    assert_eq!(error, ProposeError::LogFull);
    assert!(error.to_string().contains("the log is full") && !error.to_string().contains("disk"), "{error}");
    // Four frames of 16 KiB find room in a segment, but for the no-op's, and for what is kept for those to come.
    assert!(applied > 3 * MAX_SEGMENTS && applied < 4 * MAX_SEGMENTS, "{applied}");
    assert_eq!(machine.applied.load(Ordering::SeqCst), node.status().unwrap().applied.0);
    let files = std::fs::read_dir(dir.path()).unwrap().filter(|file| file.as_ref().unwrap().metadata().unwrap().len() == SEGMENT_BYTES);
    assert_eq!(files.count() as u64, MAX_SEGMENTS);

    // The status goes on, from within and over the wire, and says what it is.
    let status = node.status().unwrap();
    assert_eq!((status.log_full, status.disk_full, status.shortage), (true, false, None));
    assert_eq!(status.commit, status.applied);
    let mut client = Client::connect(addr, ClientOptions::default()).unwrap();
    let text = String::from_utf8(client.status().unwrap().to_vec()).unwrap();
    assert!(text.contains("log_full = true") && text.contains("disk_full = false"), "{text}");
    match client.propose(b"x", None) {
        Err(ClientError::Remote { code: codes::LOG_FULL, text }) => assert!(text.contains("log of this node is full"), "{text}"),
        other => panic!("{other:?}"),
    }
    let told = std::iter::from_fn(|| events.poll()).find(|event| matches!(event, Event::LogFull | Event::DiskFull));
    assert_eq!(told, Some(Event::LogFull));

    // Starts with a full log: it leads, applies all of it again, and is full. So often, a cluster of any size may elect.
    node.shutdown().unwrap();
    for _ in 0..2 {
        machine.applied.store(0, Ordering::SeqCst);
        let (node, _) = self::node(dir.path(), &machine, apply_on);
        until(&node, "what was acknowledged is applied again", || node.status().unwrap().applied >= status.applied);
        node.shutdown().unwrap();
    }
    let (node, _) = self::node(dir.path(), &machine, apply_on);
    let mut events = node.events();
    until(&node, "it says again that it is full", || matches!(node.propose(&[7; 14 << 10]), Err(ProposeError::LogFull)));
    until(&node, "and all is applied", || node.status().unwrap().applied >= status.applied);

    // What is advised: the machine makes its state durable. Nothing is applied meanwhile that it would be asked after.
    machine.written.store(true, Ordering::SeqCst);
    let mut last = None;
    until(&node, "it takes writes again", || {
        last = node.propose(b"more").ok();
        last.is_some()
    });
    assert!(last.unwrap().wait().is_ok());
    let after = node.status().unwrap();
    assert!(!after.log_full && after.first.0 > 1, "{after}");
    assert!(std::iter::from_fn(|| events.poll()).any(|event| event == Event::LogBack));
    node.shutdown().unwrap();
}

#[test]
fn a_full_log_is_said_to_be_one_and_goes_on_once_the_machine_is_durable() {
    a_full_log(ApplyOn::Thread);
}

#[test]
fn the_same_where_the_reactor_applies() {
    a_full_log(ApplyOn::Reactor);
}

//! The product's code, called by a node, that waits for that very node. Nothing goes on before such code returns: who
//! would have to wait is told so, and hangs nobody.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use kontiki::{ApplyError, ApplyOn, Config, Entries, Failure, LogIndex, Member, Node, ProposeError, Proposer, Replies, StateMachine};
use support::{Cluster, LONG};

/// What the product hands to the code that its node calls.
#[derive(Clone, Default)]
struct Own {
    proposer: Arc<Mutex<Option<Proposer>>>,
    node: Arc<Mutex<Option<Node>>>,
}

/// Something that such code does. It gives up where it was told nothing of its node yet.
type Deed = fn(&Own);

impl Own {
    fn proposer(&self) -> Option<Proposer> {
        self.proposer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn node(&self) -> Option<Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn propose(&self) -> Option<kontiki::Ticket> {
        self.proposer()?.propose(b"again").ok()
    }

    fn tell(&self, node: Node) {
        *self.proposer.lock().unwrap() = Some(node.proposer());
        *self.node.lock().unwrap() = Some(node);
    }
}

/// As any runtime does it: the thread sleeps until it is woken.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

fn done<T>(_: T) {}

/// What would wait for ever, or for as long as it was given.
const WAITS: [(&str, Deed); 7] = [
    ("ticket", |own| done(own.propose().map(|ticket| ticket.wait()))),
    ("ticket, for a while", |own| done(own.propose().map(|ticket| ticket.wait_timeout(LONG)))),
    ("ticket, for ever", |own| done(own.propose().map(|ticket| ticket.wait_timeout(Duration::MAX)))),
    ("event", |own| done(own.proposer().map(|own| own.events().wait(LONG)))),
    ("end", |own| done(own.proposer().map(|own| own.wait_stopped()))),
    ("shutdown", |own| done(own.node().map(Node::shutdown))),
    ("leader", |own| done(own.proposer().filter(|own| own.wait_leader(Duration::ZERO).is_none()).map(|own| own.wait_leader(LONG)))),
];

/// What awaits instead: only the state machine is kept from that, since a waker may poll and go on.
const AWAITS: [(&str, Deed); 2] = [
    ("awaited ticket", |own| done(own.propose().map(|mut ticket| block_on(&mut ticket)))),
    ("awaited event", |own| done(own.proposer().map(|own| block_on(own.events().next())))),
];

/// What does not wait.
const LOOKS: [(&str, Deed); 6] = [
    ("status", |own| assert!(own.proposer().is_none_or(|own| own.status().is_some_and(|status| !status.stopped)))),
    ("ticket, not at all", |own| assert!(own.propose().is_none_or(|ticket| ticket.wait_timeout(Duration::ZERO).is_none()))),
    ("ticket, a look", |own| assert!(own.propose().is_none_or(|ticket| ticket.poll().is_none()))),
    ("event, a look", |own| assert!(own.proposer().is_none_or(|own| own.events().poll().is_none()))),
    ("a known leader", |own| assert!(own.proposer().is_none_or(|own| own.wait_leader(LONG).is_some()))),
    ("drop", |own| done(own.node())),
];

/// Where a state machine does it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Apply,
    Durable,
}

struct Inward {
    own: Own,
    does: Deed,
    at: At,
}

impl StateMachine for Inward {
    fn apply(&mut self, _: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
        if self.at == At::Apply {
            (self.does)(&self.own);
        }
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        if self.at == At::Durable {
            (self.does)(&self.own);
        }
        LogIndex(0)
    }
}

fn config(dir: &std::path::Path, apply_on: ApplyOn) -> Config {
    let members = support::free_addrs(1).into_iter().map(|addr| Member::new(1, addr.into())).collect();
    let mut config = Config::new(1, 1, members, dir.join("n"));
    (config.segment_bytes, config.apply_on) = (4 << 20, apply_on);
    config
}

/// What became of a node whose state machine does this.
fn machine(name: &str, does: Deed, at: At, apply_on: ApplyOn) -> Option<Failure> {
    let dir = tempfile::tempdir().unwrap();
    let own = Own::default();
    let started = Node::builder(config(dir.path(), apply_on)).start(Inward { own: own.clone(), does, at }).unwrap();
    let outside = started.proposer();
    assert_eq!(outside.wait_leader(LONG).map(|leader| leader.id), Some(outside.id()));
    own.tell(started);
    // (What the machine does when it is asked what is durable may have ended the node before anything was proposed.)
    let ticket = loop {
        match outside.propose(b"x") {
            Ok(ticket) => break Some(ticket),
            Err(ProposeError::Stopped) => break None,
            Err(_) => thread::yield_now(),
        }
    };
    if let Some(ticket) = ticket {
        ticket.wait_timeout(LONG).unwrap_or_else(|| panic!("{name} in {at:?} on {apply_on:?}: hangs")).ok();
    }
    // (Dropped out here, it is waited for.)
    let failure = outside.failure();
    drop(own.node());
    outside.wait_stopped().err().or(failure)
}

const BOTH: [ApplyOn; 2] = [ApplyOn::Thread, ApplyOn::Reactor];

#[test]
fn a_state_machine_that_waits_for_its_own_node() {
    for (name, does) in WAITS.into_iter().filter(|wait| wait.0 != "leader").chain(AWAITS) {
        for (at, apply_on) in [At::Apply, At::Durable].into_iter().flat_map(|at| BOTH.map(|on| (at, on))) {
            match machine(name, does, at, apply_on) {
                Some(Failure::ApplyPanic(why)) => assert!(why.contains("within StateMachine::apply"), "{name}: {why}"),
                other => panic!("{name} in {at:?} on {apply_on:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_state_machine_that_looks_at_its_own_node() {
    for (name, does) in LOOKS {
        for (at, apply_on) in [At::Apply, At::Durable].into_iter().flat_map(|at| BOTH.map(|on| (at, on))) {
            let failure = machine(name, does, at, apply_on);
            assert!(failure.is_none(), "{name} in {at:?} on {apply_on:?}: {failure:?}");
        }
    }
}

/// Does something when it is woken, and says how that ended.
struct Woken {
    own: Own,
    does: Deed,
    said: Mutex<Sender<bool>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let waited = catch_unwind(AssertUnwindSafe(|| (self.does)(&self.own))).is_ok();
        self.said.lock().unwrap().send(waited).ok();
        assert!(waited, "as it was told");
    }
}

fn woken(own: &Own, does: Deed) -> (Waker, Receiver<bool>) {
    let (said, hears) = channel();
    (Waker::from(Arc::new(Woken { own: own.clone(), does, said: Mutex::new(said) })), hears)
}

struct Calm;

impl StateMachine for Calm {
    fn apply(&mut self, _: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
        Ok(())
    }
}

/// A ticket's waker, called where entries are applied: the panic is that call's, and the node goes on.
#[test]
fn a_tickets_waker_that_waits() {
    for (name, does, panics) in WAITS.iter().map(|(n, d)| (n, d, *n != "leader")).chain(LOOKS.iter().map(|(n, d)| (n, d, false))) {
        for apply_on in BOTH {
            let dir = tempfile::tempdir().unwrap();
            let own = Own::default();
            let node = Node::builder(config(dir.path(), apply_on)).start(Calm).unwrap();
            let outside = node.proposer();
            assert!(outside.wait_leader(LONG).is_some());
            own.tell(node);
            // One that is polled before it is answered: time and again, since the node may be quicker.
            let (_ticket, hears) = loop {
                let Ok(mut ticket) = outside.propose(b"x") else { continue };
                let (waker, hears) = woken(&own, *does);
                if pin!(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending() {
                    break (ticket, hears);
                }
            };
            assert_eq!(hears.recv_timeout(LONG), Ok(!panics), "{name} on {apply_on:?}: hangs, or is let");
            match *name {
                // What it held of the node is gone: the node ends, in order.
                "shutdown" | "drop" => assert!(outside.wait_stopped().is_ok(), "{name} on {apply_on:?}"),
                _ => {
                    let next = loop {
                        if let Ok(ticket) = outside.propose(b"next") {
                            break ticket;
                        }
                    };
                    assert!(next.wait_timeout(LONG).is_some_and(|outcome| outcome.is_ok()), "{name} on {apply_on:?}: it goes on");
                    own.node().unwrap().shutdown().unwrap();
                }
            }
        }
    }
}

/// A waker of events, called by the reactor itself.
#[test]
fn an_events_waker_that_waits() {
    for (name, does) in WAITS {
        let mut cluster = Cluster::start(3, |config| (config.election_min_ms, config.election_max_ms) = (500, 1_000));
        cluster.commit(b"first");
        cluster.wait_connected();
        let watched = (cluster.leader() + 1) % 3;
        let own = Own::default();
        let node = cluster.nodes[watched].take().unwrap();
        let (mut events, outside) = (node.events(), node.proposer());
        let goes = (watched + 1) % 3;
        own.tell(node);
        let (waker, hears) = woken(&own, does);
        while events.poll_next(&mut Context::from_waker(&waker)).is_ready() {}
        cluster.stop(goes);
        let ended = hears.recv_timeout(LONG).unwrap_or_else(|_| panic!("{name}: hangs"));
        match name {
            // It does not lead: nothing was proposed. A leader may be known, or not.
            "ticket" | "ticket, for a while" | "ticket, for ever" | "leader" => {}
            _ => assert!(!ended, "{name}"),
        }
        if name == "shutdown" {
            assert!(outside.wait_stopped().is_ok());
        } else {
            assert!(outside.status().is_some_and(|status| !status.stopped), "{name}");
        }
    }
}

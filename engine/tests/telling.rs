//! A product's `tracing` subscriber is called in the middle of a node's work. Whatever it does, nothing that only tells
//! may stop what works.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use kontiki::{Config, Node, State};
use support::{Cluster, Recorder};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

const CALM: usize = 0;
const REGISTERING: usize = 1;
const ASKED: usize = 2;
const TOLD: usize = 3;
const READING: usize = 4;
const SLOW: usize = 5;

/// Where the subscriber panics just now, and how often it has.
static WAY: AtomicUsize = AtomicUsize::new(CALM);
static TIMES: AtomicU64 = AtomicU64::new(0);

struct Thrown;

/// What it throws throws more as it is dropped.
impl Drop for Thrown {
    fn drop(&mut self) {
        std::panic::panic_any("the subscriber's, as it goes");
    }
}

fn wild(here: usize) {
    if WAY.load(Ordering::SeqCst) == here {
        TIMES.fetch_add(1, Ordering::SeqCst);
        match here {
            SLOW => std::thread::sleep(Duration::from_millis(5)),
            _ => std::panic::panic_any(Thrown),
        }
    }
}

struct Wild;

impl Visit for Wild {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        wild(READING);
        drop(format!("{value:?}"));
    }
}

impl Subscriber for Wild {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        wild(REGISTERING);
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        wild(ASKED);
        true
    }

    fn event(&self, event: &Event<'_>) {
        wild(TOLD);
        wild(SLOW);
        event.record(&mut Wild);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Elections, lost and regained sessions, a start from a log: all that is told of them.
fn live() {
    let mut cluster = Cluster::start(3, |config| (config.election_min_ms, config.election_max_ms) = (300, 600));
    cluster.commit(b"first");
    let leader = cluster.leader();
    cluster.stop(leader);
    cluster.commit(b"without it");
    cluster.boot(leader);
    let last = cluster.commit(b"with it");
    cluster.wait_applied(last);
    assert!((0..3).all(|at| cluster.node(at).failure().is_none()));
    (0..3).for_each(|at| cluster.stop(at));
}

/// The same for a loop of the product's own: its thread unwinds no more than those of the node.
fn driven() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(0, |_| {});
    let members = support::free_addrs(1).into_iter().map(|addr| kontiki::Member::new(1, addr.into())).collect();
    let mut config = Config::new(1, 1, members, dir.path().join("n"));
    config.segment_bytes = 4 << 20;
    drop(cluster);
    let mut reactor = Node::builder(config).driven(Recorder::default()).unwrap();
    let proposer = reactor.proposer();
    let mut ticket = None;
    while reactor.turn(Duration::from_millis(5)).unwrap() != State::Ended {
        match &ticket {
            None => ticket = proposer.propose(b"x").ok(),
            Some(ticket) if ticket.poll().is_some_and(|outcome| outcome.is_ok()) => reactor.stop(),
            Some(_) => {}
        }
    }
}

/// One test, since a process has one subscriber: it panics as it is made known to an event, asked, told, and as it
/// reads; then it is slow.
#[test]
fn a_subscriber_that_panics() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<Thrown>().is_none()
            && info.payload().downcast_ref::<&str>().is_none_or(|s| !s.contains("subscriber's"))
        {
            told(info);
        }
    }));
    tracing::subscriber::set_global_default(Wild).unwrap();
    // In a thread, so that one that hangs is seen to.
    let (done, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        [REGISTERING, ASKED, TOLD, READING, SLOW].into_iter().for_each(in_a_way);
        done.send(()).unwrap();
    });
    hears.recv_timeout(3 * support::LONG).expect("nodes go on");
}

fn in_a_way(way: usize) {
    WAY.store(way, Ordering::SeqCst);
    let before = TIMES.load(Ordering::SeqCst);
    driven();
    live();
    WAY.store(CALM, Ordering::SeqCst);
    assert!(TIMES.load(Ordering::SeqCst) > before, "way {way}: it was called, or this shows nothing");
}

//! The product's own code, called in the middle of ours: payloads, wakers, state machines that panic or do not keep
//! their word. What becomes of it is the caller's matter, and nobody else's.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use kontiki::{ApplyError, Config, Entries, EntryId, Failure, LogIndex, Node, Replies, StartError, StateMachine, Term, Ticket};
use support::{Cluster, LONG, Recorder};

fn slow(config: &mut Config) {
    config.election_min_ms = 500;
    config.election_max_ms = 1_000;
}

/// A payload that may say something else each time it is asked for its bytes.
struct Moody {
    asked: AtomicU32,
    what: fn(u32) -> &'static [u8],
}

impl Moody {
    fn new(what: fn(u32) -> &'static [u8]) -> Moody {
        Moody { asked: AtomicU32::new(0), what }
    }
}

impl AsRef<[u8]> for Moody {
    fn as_ref(&self) -> &[u8] {
        (self.what)(self.asked.fetch_add(1, Ordering::SeqCst))
    }
}

/// Proposes a run with a moody payload in its middle, then one of another caller's; what of the run was applied, by its
/// tickets.
fn beside_others(what: fn(u32) -> &'static [u8], at: usize, run: usize) -> (bool, Vec<usize>) {
    let mut cluster = Cluster::start(1, slow);
    cluster.commit(b"first");
    let payloads: Vec<Moody> = (0..run).map(|n| Moody::new(if n == at { what } else { |_| b"calm" })).collect();
    let mut tickets = Vec::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut taken = 0;
        while taken < run {
            taken += cluster.node(0).propose_many(&payloads[taken..], &mut tickets).unwrap_or(0);
        }
    }));
    let lengths = tickets
        .iter()
        .map(|ticket| {
            assert!(ticket.wait_timeout(LONG).expect("answered").is_ok());
            u64::from_le_bytes(ticket.reply().try_into().unwrap()) as usize
        })
        .collect();
    drop(tickets);
    assert!(cluster.propose(b"next").wait_timeout(LONG).expect("others go on").is_ok());
    assert!(cluster.node(0).failure().is_none());
    // What stands in the log can be read again.
    let before = cluster.applied(0);
    cluster.stop(0);
    cluster.boot(0);
    cluster.commit(b"after");
    assert_eq!(cluster.applied(0)[..before.len()], before);
    (outcome.is_ok(), lengths)
}

#[test]
fn a_payload_that_panics() {
    let panics: fn(u32) -> &'static [u8] = |_| panic!("moody");
    assert_eq!(beside_others(panics, 0, 1), (false, vec![]));
    assert_eq!(beside_others(panics, 2, 5), (false, vec![]), "nothing of its run is taken");
    assert_eq!(beside_others(panics, 100, 130), (false, vec![4; 64]), "runs before it are");
}

#[test]
fn a_payload_that_is_asked_once() {
    // Whatever it would say the second time: longer, shorter, nothing, or a panic.
    for (later, what) in [
        ("longer", (|asked| if asked < 1 { b"payload" } else { b"a longer payload" }) as fn(u32) -> &'static [u8]),
        ("shorter", |asked| if asked < 1 { b"payload" } else { b"pay" }),
        ("empty", |asked| if asked < 1 { b"payload" } else { b"" }),
        ("panics", |asked| if asked < 1 { b"payload" } else { panic!("moody") }),
    ] {
        assert_eq!(beside_others(what, 1, 3), (true, vec![4, 7, 4]), "{later}");
    }
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a caller's waker");
    }
}

#[derive(Default)]
struct Counts(AtomicU64);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A waker that panics where the state machine's thread wakes it: the node goes on, and the others are woken.
#[test]
fn a_waker_that_panics() {
    let cluster = Cluster::start(1, slow);
    cluster.commit(b"first");
    let woken = Arc::new(Counts::default());
    let mut tickets = Vec::new();
    while cluster.node(0).propose_many(&[b"one", b"two", b"six"], &mut tickets).is_err() {}
    for (n, ticket) in tickets.iter_mut().enumerate() {
        let waker = if n == 0 { Waker::from(Arc::new(Panics)) } else { Waker::from(Arc::clone(&woken)) };
        if pin!(ticket).poll(&mut Context::from_waker(&waker)).is_ready() {
            woken.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for ticket in &tickets {
        assert!(ticket.wait_timeout(LONG).expect("answered").is_ok());
    }
    cluster.commit(b"next");
    assert!(cluster.node(0).failure().is_none() && woken.0.load(Ordering::SeqCst) > 0);
}

/// Also where the node ends, and everybody is told so.
#[test]
fn a_waker_that_panics_at_the_end() {
    let mut cluster = Cluster::start(3, slow);
    cluster.commit(b"first");
    let leader = cluster.leader();
    // Nobody answers any more.
    for at in (0..3).filter(|&at| at != leader) {
        cluster.stop(at);
    }
    let woken = Arc::new(Counts::default());
    let mut tickets: Vec<Ticket> = (0..2).map(|_| cluster.node(leader).propose(b"x")).filter_map(Result::ok).collect();
    for (n, ticket) in tickets.iter_mut().enumerate() {
        let waker = if n == 0 { Waker::from(Arc::new(Panics)) } else { Waker::from(Arc::clone(&woken)) };
        assert!(pin!(ticket).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    cluster.stop(leader);
    assert!(tickets.iter().all(|ticket| ticket.poll().expect("nobody waits for ever").is_err()));
    assert_eq!(woken.0.load(Ordering::SeqCst), tickets.len() as u64 - 1);
}

/// `each` of a reap panics half-way: what it was not given is given later.
#[test]
fn a_reaper_that_panics() {
    let cluster = Cluster::start(1, slow);
    cluster.commit(b"first");
    let mut tickets = Vec::new();
    while tickets.len() < 5 {
        let _ = cluster.node(0).propose_many(&[b"x"], &mut tickets);
    }
    tickets.iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
    let mut queue = VecDeque::from(tickets);
    let mut given = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        Ticket::reap(&mut queue, |_, _| {
            assert!(given < 2, "enough");
            given += 1;
        })
    }));
    assert!(outcome.is_err());
    assert_eq!((given, Ticket::reap(&mut queue, |outcome, _| assert!(outcome.is_ok()))), (2, 3));
    cluster.commit(b"next");
}

/// A state machine of functions.
struct Odd {
    inner: Recorder,
    applied: fn() -> u64,
    durable: Box<dyn Fn(u64) -> u64 + Send>,
    answers: fn(usize) -> usize,
}

impl Odd {
    fn new(inner: &Recorder) -> Odd {
        Odd { inner: inner.clone(), applied: || 0, durable: Box::new(|_| 0), answers: |n| n }
    }
}

impl StateMachine for Odd {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        // A copy of the iterator is kept as long as it may be.
        let (kept, count) = (entries.clone(), entries.clone().count());
        let mut applied = self.inner.applied.lock().unwrap();
        for entry in entries {
            applied.push((entry.index, entry.payload.to_vec()));
        }
        assert_eq!(kept.count(), count);
        (0..(self.answers)(count)).for_each(|n| replies.push(&[n as u8]));
        Ok(())
    }

    fn applied(&self) -> EntryId {
        let index = (self.applied)();
        EntryId { index: LogIndex(index), term: Term(u64::from(index > 0)) }
    }

    fn durable(&self) -> LogIndex {
        let last = self.inner.applied.lock().unwrap().last().map_or(0, |last| last.0.0);
        LogIndex((self.durable)(last))
    }
}

fn odd(make: impl FnOnce(&mut Odd)) -> (Result<Node, StartError>, Recorder, tempfile::TempDir) {
    let cluster = Cluster::start(0, slow);
    let members = support::free_addrs(1).into_iter().map(|addr| kontiki::Member::new(1, addr.into())).collect();
    let mut config = Config::new(1, 1, members, cluster.dir.path().join("n"));
    config.segment_bytes = 4 << 20;
    slow(&mut config);
    let recorder = Recorder::default();
    let mut machine = Odd::new(&recorder);
    make(&mut machine);
    (Node::builder(config).start(machine), recorder, cluster.dir)
}

fn commit(node: &Node, payload: &[u8]) -> Result<Ticket, Failure> {
    loop {
        if let Ok(ticket) = node.propose(payload)
            && ticket.wait_timeout(LONG).expect("answered").is_ok()
        {
            return Ok(ticket);
        }
        if let Some(failure) = node.failure() {
            return Err(failure);
        }
    }
}

/// Replies too few, too many, none: each caller has its own or an empty one.
#[test]
fn a_state_machine_that_answers_too_few_or_too_many() {
    for (answers, reply) in [((|_| 0) as fn(usize) -> usize, &[][..]), (|n| n + 3, &[0]), (|n| n, &[0])] {
        let (node, recorder, _dir) = odd(|machine| machine.answers = answers);
        let node = node.unwrap();
        for _ in 0..20 {
            assert_eq!(commit(&node, b"x").unwrap().reply(), reply);
        }
        assert_eq!(recorder.applied.lock().unwrap().len(), 20);
        node.shutdown().unwrap();
    }
}

/// What a state machine says of its durable state goes back, lies ahead of what it applied, alternates: the node goes
/// on.
#[test]
fn a_state_machine_whose_durable_index_is_not_so() {
    let flips = AtomicU64::new(0);
    let alternates = move |at: u64| if flips.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { at } else { 0 };
    let tales: [Box<dyn Fn(u64) -> u64 + Send>; 3] = [Box::new(|at| at + 1_000), Box::new(|_| u64::MAX), Box::new(alternates)];
    for durable in tales {
        let (node, recorder, _dir) = odd(|machine| machine.durable = durable);
        let node = node.unwrap();
        for _ in 0..50 {
            drop(commit(&node, &[7; 1000]).unwrap());
        }
        assert_eq!(recorder.applied.lock().unwrap().len(), 50);
        node.shutdown().unwrap();
    }
}

#[test]
fn a_state_machine_that_panics_when_asked() {
    let (node, _, _dir) = odd(|machine| machine.applied = || panic!("not today"));
    let Err(StartError::StateMachine(why)) = node else { panic!("it starts") };
    assert!(why.contains("not today"), "{why}");
    let (node, _, _dir) = odd(|machine| machine.applied = || u64::MAX);
    assert!(matches!(node, Err(StartError::StateMachine(_))));
    let (node, recorder, _dir) = odd(|machine| machine.durable = Box::new(|at| if at == 0 { 0 } else { panic!("not now") }));
    let node = node.unwrap();
    let failure = loop {
        if let Some(failure) = node.failure() {
            break failure;
        }
        if let Ok(ticket) = node.propose(b"x") {
            let _lost = ticket.wait_timeout(LONG).expect("nobody waits for ever");
        }
    };
    assert!(matches!(&failure, Failure::ApplyPanic(why) if why.contains("not now")), "{failure}");
    assert_eq!(recorder.applied.lock().unwrap().len(), 1, "nothing is applied after it");
}

/// A panic whose own value panics as it is dropped, in `apply`; and a state machine that panics as it goes.
#[test]
fn a_state_machine_that_panics_twice() {
    struct Thrower;
    impl Drop for Thrower {
        fn drop(&mut self) {
            std::panic::panic_any(Thrower);
        }
    }
    struct Wild(Arc<Mutex<bool>>);
    impl StateMachine for Wild {
        fn apply(&mut self, _: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
            std::panic::panic_any(Thrower);
        }
    }
    impl Drop for Wild {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = true;
            panic!("as it goes");
        }
    }
    for apply_on in [kontiki::ApplyOn::Thread, kontiki::ApplyOn::Reactor] {
        let cluster = Cluster::start(0, slow);
        let members = support::free_addrs(1).into_iter().map(|addr| kontiki::Member::new(1, addr.into())).collect();
        let mut config = Config::new(1, 1, members, cluster.dir.path().join("n"));
        (config.segment_bytes, config.apply_on) = (4 << 20, apply_on);
        let gone = Arc::new(Mutex::new(false));
        let node = Node::builder(config).start(Wild(Arc::clone(&gone))).unwrap();
        assert!(matches!(commit(&node, b"x"), Err(Failure::ApplyPanic(_))), "{apply_on:?}");
        assert!(node.shutdown().is_err());
        assert!(*gone.lock().unwrap());
    }
}

/// Of a reply over the limit nothing is kept, and its proposer is told so; it is counted.
#[test]
fn a_state_machine_that_answers_too_long() {
    let (node, _, _dir) = odd(|machine| machine.answers = |n| n);
    node.unwrap().shutdown().unwrap();
    struct Long;
    impl StateMachine for Long {
        fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
            entries.for_each(|entry| replies.push(&vec![7; entry.payload.len()]));
            Ok(())
        }
    }
    let cluster = Cluster::start(0, slow);
    let members = support::free_addrs(1).into_iter().map(|addr| kontiki::Member::new(1, addr.into())).collect();
    let mut config = Config::new(1, 1, members, cluster.dir.path().join("n"));
    (config.segment_bytes, config.reply_bytes) = (4 << 20, 16);
    let node = Node::builder(config).start(Long).unwrap();
    for bytes in [0, 8, 9, 16, 17, 1000] {
        let ticket = loop {
            if let Ok(ticket) = node.propose(&vec![0; bytes]) {
                break ticket;
            }
        };
        match ticket.wait_timeout(LONG).expect("answered") {
            Ok(_) => assert!(bytes <= 16 && ticket.reply() == vec![7; bytes]),
            Err(kontiki::Lost::ReplyTooLong { limit, .. }) => assert!(bytes > 16 && limit == 16 && ticket.reply().is_empty()),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(node.status().unwrap().counters.replies_too_long, 2);
    // What a stopped node says of itself.
    let outside = node.proposer();
    node.shutdown().unwrap();
    let status = outside.status().unwrap();
    assert!(status.stopped && status.role != kontiki::Role::Leader && status.leader.is_none(), "{status}");
    assert_eq!(outside.wait_leader(LONG), None);
}

//! In steady state nothing is allocated, on leader and follower alike, by any thread of the engine or by
//! the caller, but for a few pieces of memory with each snapshot that is begun, however much lies between two; and every
//! payload byte is copied exactly once.
//!
//! The counting allocator is the named exception to the rule on `unsafe`.
#![allow(clippy::unwrap_used, unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kontiki::{ApplyError, Config, Entries, LogIndex, Member, Node, ProposeError, Replies, Role, StateMachine, Ticket};

struct Counting;

static COUNTED: AtomicU64 = AtomicU64::new(0);
static ON: AtomicBool = AtomicBool::new(false);

fn count() {
    if ON.load(Ordering::Relaxed) {
        COUNTED.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed to the system's allocator unchanged; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(ptr, layout, new) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts, and claims to be durable at once, so that segments are released and recycled.
#[derive(Default)]
struct Count(u64, LogIndex);

impl StateMachine for Count {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            self.0 += 1;
            self.1 = entry.index;
            replies.push(&self.0.to_le_bytes());
        }
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        self.1
    }
}

/// Past the retention limit, so that segments are recycled from then on and none is made.
const WARM_UP: u64 = 1_000_000;
const MEASURED: u64 = 1_000_000;
const IN_FLIGHT: usize = 4096;
const PAYLOAD: [u8; 16] = *b"sixteen bytes ok";

/// A closed loop of `entries` proposals with at most `IN_FLIGHT` open.
fn drive(node: &Node, tickets: &mut VecDeque<Ticket>, entries: u64) {
    let mut proposed = 0;
    while proposed < entries || !tickets.is_empty() {
        while proposed < entries && tickets.len() < IN_FLIGHT {
            match node.propose(&PAYLOAD) {
                Ok(ticket) => {
                    tickets.push_back(ticket);
                    proposed += 1;
                }
                Err(ProposeError::Busy) => break,
                Err(error) => panic!("{error}"),
            }
        }
        match tickets.pop_front() {
            Some(ticket) => {
                ticket.wait().unwrap();
            }
            None => std::thread::yield_now(),
        }
    }
}

/// A cluster within this process, and which of its nodes leads.
fn cluster(dir: &std::path::Path, replicas: usize) -> (Vec<Node>, usize) {
    let member = |(addr, id): (std::net::SocketAddr, u64)| Member { id, addr: addr.into(), tag: "https://board.local".parse().unwrap() };
    let members: Vec<Member> = support::free_addrs(replicas).into_iter().zip(1..).map(member).collect();
    let nodes: Vec<Node> = members
        .iter()
        .map(|m| {
            let mut config = Config::new(7, m.id, members.clone(), dir.join(m.id.to_string()));
            config.segment_bytes = 4 << 20; // so that segments are rotated and recycled many times in the measured part
            config.retention_bytes = 4 << 20;
            // So many nodes and a load on two cores that are shared with other tests: an election would be noise here.
            config.election_min_ms = 3_000;
            config.election_max_ms = 6_000;
            Node::builder(config).start(Count::default()).unwrap()
        })
        .collect();
    let leader = leader(&nodes);
    (nodes, leader)
}

/// Waits for one that leads and has committed in its term.
fn leader(nodes: &[Node]) -> usize {
    loop {
        let led = |n: &Node| n.status().is_some_and(|s| s.role == Role::Leader && s.commit >= s.last && s.commit.0 > 0);
        if let Some(at) = nodes.iter().position(led) {
            return at;
        }
        std::thread::yield_now();
    }
}

/// What all threads of this process allocate meanwhile. One test at a time: the counter is one.
fn allocations(run: impl FnOnce()) -> u64 {
    let before = COUNTED.load(Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
    run();
    ON.store(false, Ordering::SeqCst);
    COUNTED.load(Ordering::SeqCst) - before
}

/// How many snapshots these nodes have written so far.
fn snapshots(nodes: &[Node]) -> u64 {
    nodes.iter().map(|node| node.status().unwrap().counters.snapshots_written).sum()
}

/// What making one small snapshot takes: its writer, its buffers, what is handed to and fro meanwhile.
const PER_SNAPSHOT: u64 = 6;

/// What is copied for it: its head and its foot. (They are copied where the copies are counted for all nodes of the process.)
const COPIED_PER_SNAPSHOT: u64 = 192;

/// So many for each snapshot that was begun: written since there were `before`, or on its way on any of the nodes.
fn check(allocated: u64, before: u64, nodes: &[Node], what: &str) {
    let written = snapshots(nodes) - before;
    assert!(allocated <= (written + nodes.len() as u64) * PER_SNAPSHOT, "{allocated} allocations in {what}, {written} snapshots");
}

#[test]
fn steady_state_allocates_nothing_and_copies_once() {
    for replicas in [3, 5] {
        let dir = tempfile::tempdir().unwrap();
        let (mut nodes, leads) = cluster(dir.path(), replicas);
        let mut tickets = VecDeque::with_capacity(IN_FLIGHT);
        drive(&nodes[leads], &mut tickets, WARM_UP);

        let refuses = usize::from(leads == 0);
        assert_eq!(nodes[refuses].wait_leader(support::LONG).map(|leader| leader.id), Some(nodes[leads].id()));
        let refused = allocations(|| {
            for _ in 0..10_000 {
                let Err(ProposeError::NotLeader { leader }) = nodes[refuses].propose(&PAYLOAD) else { panic!("taken") };
                assert!(leader.is_some_and(|leader| leader.tag.as_str().starts_with("http")));
            }
        });
        assert_eq!(refused, 0, "allocations in 10,000 refusals that name the leader");

        let (copied, before) = (nodes[leads].status().unwrap().counters.bytes_copied, snapshots(&nodes));
        let allocated = allocations(|| drive(&nodes[leads], &mut tickets, MEASURED));
        // All nodes live in this process: the copies of the followers would be counted too.
        let copied = nodes[leads].status().unwrap().counters.bytes_copied - copied;
        let replies = MEASURED * 8;
        let heads = (snapshots(&nodes) - before + nodes.len() as u64) * COPIED_PER_SNAPSHOT;
        check(allocated, before, &nodes, &format!("{MEASURED} proposals, {replicas} replicas"));
        assert!(snapshots(&nodes) > before, "none was written meanwhile");
        assert!(
            (MEASURED * 16..=MEASURED * 16 + replies + heads).contains(&copied),
            "{copied} bytes copied for {MEASURED} payloads of 16 bytes (and their replies of 8), beside {heads} at most of snapshots"
        );

        // Another takes over: an election, sessions that end, a first batch, and the load again, on a node that has not led
        // before.
        nodes.remove(leads).shutdown().unwrap();
        let before = snapshots(&nodes);
        let allocated = allocations(|| {
            // Looking at a status allocates: its strings and its list of peers. So it is asked by proposing.
            let mut next = None;
            while next.is_none() {
                std::thread::yield_now();
                next = nodes.iter().position(|node| node.propose(&PAYLOAD).is_ok_and(|ticket| ticket.wait().is_ok()));
            }
            drive(&nodes[next.unwrap()], &mut tickets, MEASURED / 10);
        });
        check(allocated, before, &nodes, &format!("a change of leader, {replicas} replicas"));
    }
}

//! After the start, moving messages, frames and requests allocates nothing.

#![allow(clippy::unwrap_used)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kontiki_core::{LogIndex, Message, NodeId, SessionId, Term};
use kontiki_net::{ClientEvent, FrameStamp, NetEvent, Response};
use support::{Cluster, Frames, Host, MS};

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: hands every call on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.with(Cell::get) {
            ALLOCATIONS.with(|n| n.set(n.get() + 1));
        }
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `f`, counting its allocations. The test's own world allocates: so only calls into the transport are
/// counted, with an `Io` that puts off what they submit.
fn counted<T>(f: impl FnOnce() -> T) -> T {
    COUNTING.with(|c| c.set(true));
    let result = f();
    COUNTING.with(|c| c.set(false));
    result
}

/// An `Io` that keeps what is submitted, in memory set aside, and hands it on later.
struct Later {
    ops: Vec<(kontiki_io::Token, kontiki_io::Op)>,
    now: kontiki_core::Time,
}

impl kontiki_io::Io for Later {
    fn now(&self) -> kontiki_core::Time {
        self.now
    }
    fn wall_ns(&self) -> u64 {
        0
    }
    fn free_bytes(&mut self, _: kontiki_io::Handle) -> Option<u64> {
        None
    }
    fn submit(&mut self, token: kontiki_io::Token, op: kontiki_io::Op) {
        assert!(self.ops.len() < self.ops.capacity());
        self.ops.push((token, op));
    }
    fn capacity(&self) -> usize {
        self.ops.capacity()
    }
    fn turn(&mut self, _: Option<kontiki_core::Time>, _: &mut Vec<kontiki_io::Completion>) -> Result<(), kontiki_io::IoError> {
        Ok(())
    }
    fn bell(&self) -> std::sync::Arc<dyn kontiki_io::Wake> {
        unreachable!()
    }
    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
    fn describe(&self) -> String {
        String::new()
    }
}

/// A node's turn, with every call into the transport counted.
fn turn(host: &mut Host, later: &mut Later, done: &mut Vec<kontiki_io::Completion>, work: &mut dyn FnMut(&mut kontiki_net::Net, NetEvent)) {
    use kontiki_io::Io;
    let now = host.io.now();
    later.now = now;
    host.io.turn(None, done).unwrap();
    for completion in done.drain(..) {
        counted(|| host.net.on_completion(now, completion, later));
    }
    while let Some(event) = counted(|| host.net.poll_event()) {
        work(&mut host.net, event);
    }
    counted(|| host.net.tick(now, later, &mut host.ring));
    assert!(counted(|| host.net.deadline()).is_some());
    for (token, op) in later.ops.drain(..) {
        host.io.submit(token, op);
    }
}

#[test]
fn moving_messages_frames_and_requests_allocates_nothing() {
    let mut cluster = Cluster::up(2);
    let raw = support::Raw::connect(&cluster.world, support::addr(7001));
    raw.write(&support::client_greeting());
    cluster.turns(5);
    raw.read();
    cluster.hosts[1].grant(Some(1));
    let mut later = Later { ops: Vec::with_capacity(64), now: kontiki_core::Time(0) };
    let mut done = Vec::with_capacity(64);
    let mut frames = Frames::new();
    let blocks: Vec<_> = (1..=32).map(|n| frames.make(n, n as usize * 500)).collect();
    let session: SessionId = cluster.hosts[0].session(2).unwrap();
    let request = support::client_request(1, b"abc");
    let (mut messages, mut arrived, mut requests) = (0, 0, 0);
    for round in 0..200u64 {
        let now = cluster.world.borrow().now;
        let message = Message::Accepted { term: Term(1), round: 3, matched: LogIndex(round) };
        let block = blocks[round as usize % 32].clone();
        let range = kontiki_frame::parse_header(block.bytes()).unwrap().meta.range();
        let stamp = FrameStamp { leader_term: Term(1), commit: LogIndex(0), range, round: 0 };
        let net = &mut cluster.hosts[0].net;
        counted(|| net.send_message(now, NodeId(2), session, &message)).unwrap();
        counted(|| net.send_frame(now, NodeId(2), session, stamp, block)).unwrap();
        raw.write(&request);
        for host in &mut cluster.hosts {
            turn(host, &mut later, &mut done, &mut |net, event| match event {
                NetEvent::Message { .. } => messages += 1,
                NetEvent::Frame { .. } => arrived += 1,
                NetEvent::Client(ClientEvent::Propose { client, request, payload, .. }) => {
                    counted(|| {
                        assert_eq!(net.payload(&payload), Some(&b"abc"[..]));
                        net.respond(client, request, Response::Applied { index: 1, reply: b"xyz" })
                    });
                    requests += 1;
                }
                event => panic!("{event:?}"),
            });
        }
        raw.read();
        let mut world = cluster.world.borrow_mut();
        world.now = world.now.plus_ns(MS);
    }
    assert!(messages >= 195 && arrived >= 190 && requests >= 190, "{messages} {arrived} {requests}");
    assert_eq!(ALLOCATIONS.with(Cell::get), 0);
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.with(Cell::get);
    counted(|| std::hint::black_box(Box::new(7)));
    assert_eq!(ALLOCATIONS.with(Cell::get), before + 1);
}

//! After its start a core allocates nothing, leading or following: counted by the allocator.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kontiki_core::{
    Append, Config, Effect, Effects, Event, FrameMeta, IndexRange, LogIndex, Message, NodeId, Raft, Restored, Role, SessionId, Term, Time,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PEER: NodeId = NodeId(2);
const SESSION: SessionId = SessionId(7);

fn core() -> Raft {
    let config = Config {
        id: NodeId(1),
        voters: vec![NodeId(1), PEER, NodeId(3)],
        learners: Vec::new(),
        election_min_ns: 100,
        election_max_ns: 200,
        election_limit_ns: 200,
        heartbeat_ns: 20,
        news_ns: 0,
        window_bytes: 1 << 20,
        window_frames: 64,
        seed: 1,
    };
    let mut raft = Raft::new(config, Restored::default(), Time(0));
    raft.step(Time(0), Event::SessionUp { peer: PEER, session: SESSION }, &mut Vec::new());
    raft
}

fn message(message: Message) -> Event {
    Event::Message { from: PEER, session: SESSION, message }
}

#[test]
fn a_leader_allocates_nothing() {
    let mut raft = core();
    let mut lists: [Effects; 4] = std::array::from_fn(|_| Effects::with_capacity(64));
    let pre_vote = Message::PreVoteReply { term: Term(1), granted: true, last_index: LogIndex(0), last_term: Term(0), recovering: false };
    // The first tick comes late and is excused.
    for event in [Event::Tick, Event::Tick, message(pre_vote), message(Message::VoteReply { term: Term(1), granted: true })] {
        let now = raft.deadline().max(Time(1000));
        turn(&mut raft, now, event, &mut lists);
    }
    assert_eq!(raft.role(), Role::Leader);
    let before = ALLOCATIONS.with(Cell::get);
    for round in 0..1000 {
        let now = Time(2000 + round);
        let frame = raft.next_frame(3).unwrap();
        turn(&mut raft, now, Event::Sealed { frame, bytes: 4096 }, &mut lists);
        let matched = raft.last_index();
        turn(&mut raft, now, message(Message::Accepted { term: Term(1), round: 0, matched }), &mut lists);
        turn(&mut raft, now, Event::Tick, &mut lists);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert!(raft.commit().0 > 3000, "{} committed", raft.commit());
}

#[test]
fn a_follower_allocates_nothing() {
    let mut raft = core();
    let mut lists: [Effects; 4] = std::array::from_fn(|_| Effects::with_capacity(64));
    let mut before = 0;
    for round in 0..1000u64 {
        if round == 2 {
            before = ALLOCATIONS.with(Cell::get);
        }
        let now = Time(200 + round);
        let frame = FrameMeta { term: Term(1), first: LogIndex(1 + round * 3), count: 3, prev_term: Term(u64::from(round > 0)) };
        let append = Append {
            leader_term: Term(1),
            commit: LogIndex(round * 3),
            frame,
            range: IndexRange { from: frame.first, to: frame.last() },
            round,
        };
        turn(&mut raft, now, Event::Append { from: PEER, session: SESSION, append }, &mut lists);
        let heartbeat =
            Message::Heartbeat { term: Term(1), commit: LogIndex(round * 3), round, term_start: LogIndex(1), session_commit: LogIndex(0) };
        turn(&mut raft, now, message(heartbeat), &mut lists);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert!(raft.commit().0 > 2900, "{} committed", raft.commit());
}

/// One turn of a node, on lists that have their room.
fn turn(raft: &mut Raft, now: Time, event: Event, lists: &mut [Effects]) {
    let Some((fx, rest)) = lists.split_first_mut() else { return };
    fx.clear();
    raft.step(now, event, fx);
    raft.flush(now, fx);
    for effect in fx.iter() {
        let answer = match *effect {
            Effect::PersistHardState { write, .. } => Event::HardStateDurable { write },
            Effect::AppendFrame { write, .. } => Event::LogDurable { write },
            Effect::SealNoop { frame } => Event::Sealed { frame, bytes: 4096 },
            Effect::SendFrames { to, session, upto, .. } => Event::FramesSent { peer: to, session, to: upto, bytes: 4096, frames: 1 },
            _ => continue,
        };
        turn(raft, now, answer, rest);
    }
}

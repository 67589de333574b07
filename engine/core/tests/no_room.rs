//! A leader whose log has no room, not even for its no-op, gives way.

use kontiki_core::{Config, Effect, Effects, Event, LogIndex, Message, NodeId, Raft, Restored, Role, SessionId, Term, Time};

const MS: u64 = 1_000_000;
const ELECTION_MAX: u64 = 300 * MS;

fn step(raft: &mut Raft, now: Time, event: Event) -> Effects {
    let mut effects = Effects::new();
    raft.step(now, event, &mut effects);
    raft.flush(now, &mut effects);
    effects
}

fn from_peer(raft: &mut Raft, now: Time, peer: u64, message: Message) -> Effects {
    step(raft, now, Event::Message { from: NodeId(peer), session: SessionId(peer), message })
}

/// Elects node 1 and leaves its `SealNoop` unanswered.
fn speechless_leader() -> (Raft, Time) {
    let config = Config {
        id: NodeId(1),
        voters: (1..=3).map(NodeId).collect(),
        learners: Vec::new(),
        election_min_ns: 150 * MS,
        election_max_ns: ELECTION_MAX,
        election_limit_ns: ELECTION_MAX,
        heartbeat_ns: 40 * MS,
        news_ns: 0,
        window_bytes: 1 << 20,
        window_frames: 16,
        seed: 1,
    };
    let mut raft = Raft::new(config, Restored::default(), Time(0));
    for peer in [2, 3] {
        step(&mut raft, Time(0), Event::SessionUp { peer: NodeId(peer), session: SessionId(peer) });
    }
    let now = raft.deadline();
    step(&mut raft, now, Event::Tick);
    let granted = Message::PreVoteReply { term: Term(1), granted: true, last_index: LogIndex(0), last_term: Term(0), recovering: false };
    let effects = from_peer(&mut raft, now, 2, granted);
    let write = effects.iter().find_map(|e| if let Effect::PersistHardState { write, .. } = e { Some(*write) } else { None });
    step(&mut raft, now, Event::HardStateDurable { write: write.expect("a candidate votes for itself") });
    let effects = from_peer(&mut raft, now, 2, Message::VoteReply { term: Term(1), granted: true });
    assert!(effects.iter().any(|e| matches!(e, Effect::SealNoop { .. })), "{effects:?}");
    assert_eq!(raft.role(), Role::Leader);
    (raft, now)
}

#[test]
fn a_leader_that_cannot_write_its_no_op_steps_down() {
    let (mut raft, elected) = speechless_leader();
    let mut now = elected;
    let mut round = 0;
    while raft.role() == Role::Leader {
        assert!(now.since(elected) <= 4 * ELECTION_MAX, "it leads for ever and can say nothing");
        now = now.plus_ns(10 * MS);
        for peer in [2, 3] {
            round += 1;
            from_peer(
                &mut raft,
                now,
                peer,
                Message::HeartbeatReply { term: Term(1), round, recovering: false, needs_base: false, last_index: LogIndex(0) },
            );
        }
        step(&mut raft, now, Event::Tick);
    }
    assert!(now.since(elected) >= 2 * ELECTION_MAX, "it was given time: {} ns", now.since(elected));
}

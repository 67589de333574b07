//! Seeded runs of small clusters whose network loses, repeats and reorders, whose disks lag, and whose nodes crash:
//! safety at every step, liveness once the faults end.
//!
//! `SEED=n cargo test -p kontiki-core --test random` replays one run; `RUNS=n` sets how many.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod harness;

use harness::net::Network;
use harness::world::{Dice, Faults, PrintSeed, setting};
use harness::{Cluster, ELECTION_MAX, MS, Options};
use kontiki_core::{Event, LogIndex, NodeId, Time};

#[test]
fn clusters_are_safe_under_faults_and_live_after_them() {
    if let Some(seed) = setting("SEED") {
        harness::world::run(seed, 1500, Faults::draw);
        return;
    }
    let runs = setting("RUNS").unwrap_or(2000);
    let committed: u64 = (1..=runs).map(|seed| harness::world::run(seed, 1500, Faults::draw).committed()).sum();
    assert!(committed > runs * 10, "the runs do something: {committed} entries committed");
}

/// H21: all nodes stop and start at once, with equal seeds: the timeouts still differ.
#[test]
fn h21_a_cluster_that_restarts_as_one_elects_soon() {
    for seed in 1..=1000 {
        let _guard = PrintSeed(seed);
        let mut cluster = Cluster::new(Options { seed, ..Options::of(3) });
        cluster.run(10 * ELECTION_MAX);
        assert_eq!(cluster.leaders().len(), 1);
        for id in cluster.ids() {
            cluster.stop(id, 0);
        }
        for id in cluster.ids() {
            cluster.start(id);
        }
        cluster.run(10 * ELECTION_MAX);
        assert_eq!(cluster.leaders().len(), 1);
    }
}

/// A peer may send anything: nothing panics, and what is committed stays.
#[test]
fn hostile_peers_cannot_panic_a_node() {
    use kontiki_core::limits::MAX_EFFECTS;
    use kontiki_core::{Append, Effect, FrameMeta, IndexRange, Message, SessionId, Term};
    for seed in 1..=2000 {
        let _guard = PrintSeed(seed);
        let mut dice = Dice::new(seed);
        let mut cluster = Cluster::new(Options { seed, ..Options::of(3) });
        if dice.chance(70) {
            assert!(cluster.elect(NodeId(1 + dice.roll(3))));
            if let Some(leader) = cluster.leader() {
                for _ in 0..dice.roll(4) {
                    let value = cluster.fresh_value();
                    cluster.propose(leader, vec![value]);
                    cluster.settle();
                }
            }
        }
        let victim = NodeId(1);
        let before = cluster.node(victim).raft.as_ref().unwrap().commit();
        for _ in 0..200 {
            let mut number = || match dice.roll(8) {
                0 => u64::MAX,
                1 => u64::MAX - dice.roll(3),
                2 => u64::MAX / 4 + 1 - dice.roll(3),
                3 => 0,
                _ => dice.roll(12),
            };
            let (any, b, c, d, e) = (number(), number(), number(), number(), number());
            // Most of them in the victim's own term: others it hardly looks at.
            let a = if dice.chance(60) { cluster.node(victim).raft.as_ref().unwrap().term().0 } else { any };
            let (flag, other) = (a % 2 == 0, b % 3 == 0);
            let session = if dice.chance(95) { SessionId(dice.roll(6)) } else { SessionId(u64::MAX) };
            let from = NodeId(dice.roll(5));
            let message = match dice.roll(9) {
                0 => Message::PreVote { term: Term(a), last_index: LogIndex(b), last_term: Term(c) },
                1 => Message::PreVoteReply { term: Term(a), granted: flag, last_index: LogIndex(b), last_term: Term(c), recovering: other },
                2 => Message::Vote { term: Term(a), last_index: LogIndex(b), last_term: Term(c), all_answered: flag },
                3 => Message::VoteReply { term: Term(a), granted: flag },
                4 => Message::Heartbeat {
                    term: Term(a),
                    commit: LogIndex(0),
                    round: b,
                    term_start: LogIndex(c),
                    session_commit: LogIndex(d),
                },
                5 => Message::HeartbeatReply { term: Term(a), round: b, recovering: flag, needs_base: other, last_index: LogIndex(c) },
                6 => Message::Accepted { term: Term(a), round: b, matched: LogIndex(0) },
                7 => Message::Received { term: Term(a), round: c, index: LogIndex(b) },
                _ => Message::Rejected {
                    term: Term(a),
                    round: e,
                    prev: LogIndex(b),
                    last_index: LogIndex(c),
                    conflict_term: Term(d),
                    conflict_first: LogIndex(e),
                },
            };
            let event = if dice.chance(40) {
                let frame = FrameMeta { term: Term(a), first: LogIndex(b), count: (c % 5) as u32, prev_term: Term(d) };
                let range = IndexRange { from: LogIndex(e), to: LogIndex(e.saturating_add(dice.roll(3))) };
                let append = Append { leader_term: Term(a.saturating_add(dice.roll(2))), commit: LogIndex(c), frame, range, round: d };
                Event::Append { from, session, append }
            } else {
                Event::Message { from, session, message }
            };
            cluster.now = cluster.now.plus_ns(dice.roll(3 * MS));
            let now = cluster.now;
            let node = cluster.node_mut(victim);
            let raft = node.raft.as_mut().unwrap();
            let mut effects = Vec::new();
            let now = if dice.chance(10) { Time(raft.deadline().0.min(2_000 * MS)) } else { now };
            raft.step(now, event, &mut effects);
            assert!(effects.len() <= MAX_EFFECTS);
            let stepped = effects.len();
            raft.flush(now, &mut effects);
            assert!(effects.len() - stepped <= MAX_EFFECTS);
            raft.step(now, Event::Tick, &mut effects);
            for effect in effects {
                let answer = match effect {
                    Effect::SealNoop { frame } => Event::Sealed { frame, bytes: 4096 },
                    Effect::PersistHardState { write, .. } => Event::HardStateDurable { write },
                    Effect::AppendFrame { write, .. } if dice.chance(50) => Event::LogDurable { write },
                    Effect::SendFrames { to, session, from, upto, .. } => {
                        let to_index = if dice.chance(70) { upto } else { from.prev() };
                        Event::FramesSent { peer: to, session, to: to_index, bytes: 4096, frames: 1 }
                    }
                    Effect::LookupTerm { index } => Event::TermFound { index, term: None },
                    _ => continue,
                };
                raft.step(now, answer, &mut Vec::new());
            }
            assert!(raft.commit() >= before);
        }
    }
}

/// Nothing waits for ever in a network that is left alone.
#[test]
fn an_idle_cluster_writes_nothing_and_sends_only_heartbeats() {
    let mut cluster = Cluster::new(Options::of(3));
    assert!(cluster.elect(NodeId(1)));
    cluster.run(2 * ELECTION_MAX);
    let sent = |net: &Network| net.sent;
    let before = sent(&cluster.net);
    let writes = |cluster: &Cluster| -> usize { cluster.nodes.iter().map(|node| node.writes_asked).sum() };
    let written = writes(&cluster);
    cluster.run(10 * ELECTION_MAX);
    // 2 s, a heartbeat and its answer to each of two followers every 20 ms.
    let packets = sent(&cluster.net) - before;
    assert!((300..=450).contains(&packets), "{packets} packets");
    assert_eq!(writes(&cluster), written, "idle means no writes");
}

//! Numbers from the ends of their range, in each field of each message and of each frame's stamp and header, to a node
//! in each role, one at a time: nothing panics, no term becomes durable that would end elections, and the cluster lives
//! on.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::net::{Body, Filter, Packet};
use harness::{Cluster, ELECTION_MAX, Options};
use kontiki_core::limits::{MAX_INDEX, MAX_TERM_STEP};
use kontiki_core::{LogIndex, Message, NodeId, Role, Term};

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);

/// What a field is set to.
const EXTREMES: [u64; 8] = [0, 1, MAX_TERM_STEP, 1 << 32, MAX_INDEX, MAX_INDEX + 1, u64::MAX - 1, u64::MAX];

/// Where a message goes, whence, and what its receiver is.
#[derive(Clone, Copy, Debug)]
enum Scene {
    Leader,
    LeaderOfOneThatIsProbed,
    LeaderOfACompactedLog,
    Follower,
    FollowerOfAnother,
    FollowerOfNobody,
    Recovering,
    PreCandidate,
    Candidate,
}

const SCENES: [Scene; 9] = [
    Scene::Leader,
    Scene::LeaderOfOneThatIsProbed,
    Scene::LeaderOfACompactedLog,
    Scene::Follower,
    Scene::FollowerOfAnother,
    Scene::FollowerOfNobody,
    Scene::Recovering,
    Scene::PreCandidate,
    Scene::Candidate,
];

fn hold(cluster: &mut Cluster, to: NodeId, kind: &str) {
    cluster.net.holds.push(Filter { from: None, to: Some(to), kind: kind.into() });
}

/// Time passes for n2 alone until it is what is wanted.
fn until(cluster: &mut Cluster, role: Role) {
    for _ in 0..1_000 {
        if cluster.node(N2).raft.as_ref().unwrap().role() == role {
            return;
        }
        cluster.run_until(cluster.now.plus_ns(ELECTION_MAX / 100), |id| id == N2);
    }
    panic!("n2 never becomes {role:?}")
}

impl Scene {
    /// Sender and receiver.
    fn set(self, cluster: &mut Cluster) -> (NodeId, NodeId) {
        assert!(cluster.elect(N1));
        for _ in 0..4 {
            let value = cluster.fresh_value();
            cluster.propose(N1, vec![value]);
            cluster.settle();
        }
        cluster.run(ELECTION_MAX);
        match self {
            Scene::Leader => (N2, N1),
            Scene::LeaderOfOneThatIsProbed | Scene::LeaderOfACompactedLog => {
                cluster.stop(N2, 9);
                if matches!(self, Scene::LeaderOfACompactedLog) {
                    cluster.compact(N1, LogIndex(4));
                }
                hold(cluster, N2, "frame");
                cluster.start(N2);
                cluster.settle();
                (N2, N1)
            }
            Scene::Follower => (N1, N2),
            Scene::FollowerOfAnother => (N3, N2),
            Scene::FollowerOfNobody => {
                cluster.stop(N1, 9);
                cluster.run_until(cluster.now.plus_ns(ELECTION_MAX * 3 / 4), |_| false);
                (N3, N2)
            }
            Scene::Recovering => {
                cluster.stop(N2, 9);
                cluster.node_mut(N2).disk.damage(2);
                hold(cluster, N2, "frame");
                cluster.start(N2);
                cluster.settle();
                (N1, N2)
            }
            Scene::PreCandidate => {
                cluster.stop(N1, 9);
                hold(cluster, N2, "prevotereply");
                until(cluster, Role::PreCandidate);
                (N3, N2)
            }
            Scene::Candidate => {
                cluster.stop(N1, 9);
                hold(cluster, N2, "votereply");
                until(cluster, Role::Candidate);
                (N3, N2)
            }
        }
    }
}

/// Every message, with numbers that could be true of the receiver.
fn messages(term: Term, last: LogIndex) -> Vec<Message> {
    let next = Term(term.0 + 1);
    let mut all = vec![
        Message::PreVote { term: next, last_index: last, last_term: term },
        Message::HeartbeatReply { term, round: 1, recovering: false, needs_base: false, last_index: last },
        Message::Heartbeat { term, commit: LogIndex(1), round: 1, term_start: LogIndex(1), session_commit: LogIndex(1) },
        Message::Accepted { term, round: 1, matched: LogIndex(1) },
        Message::Received { term, round: 1, index: LogIndex(1) },
        Message::Rejected { term, round: 1, prev: last, last_index: last, conflict_term: term, conflict_first: LogIndex(1) },
        Message::Rejected {
            term,
            round: 1,
            prev: LogIndex(last.0 - 1),
            last_index: last,
            conflict_term: Term(0),
            conflict_first: LogIndex(0),
        },
        Message::VoteReply { term, granted: false },
    ];
    for flag in [false, true] {
        all.push(Message::PreVoteReply { term: next, granted: flag, last_index: last, last_term: term, recovering: !flag });
        all.push(Message::Vote { term: next, last_index: last, last_term: term, all_answered: flag });
    }
    all
}

/// The numbers of a message, in order.
fn fields(message: &mut Message) -> Vec<&mut u64> {
    match message {
        Message::PreVote { term, last_index, last_term }
        | Message::PreVoteReply { term, last_index, last_term, .. }
        | Message::Vote { term, last_index, last_term, .. } => vec![&mut term.0, &mut last_index.0, &mut last_term.0],
        Message::VoteReply { term, .. } => vec![&mut term.0],
        Message::Heartbeat { term, commit, round, term_start, session_commit } => {
            vec![&mut term.0, &mut commit.0, round, &mut term_start.0, &mut session_commit.0]
        }
        Message::HeartbeatReply { term, round, last_index, .. } => vec![&mut term.0, round, &mut last_index.0],
        Message::Accepted { term, round, matched: index } | Message::Received { term, round, index } => {
            vec![&mut term.0, round, &mut index.0]
        }
        Message::Rejected { term, round, prev, last_index, conflict_term, conflict_first } => {
            vec![&mut term.0, round, &mut prev.0, &mut last_index.0, &mut conflict_term.0, &mut conflict_first.0]
        }
    }
}

/// All that is to be tried on a receiver: each message with each of its numbers extreme, with all of them, and the last
/// frame again likewise.
fn bodies(cluster: &Cluster, receiver: NodeId) -> Vec<Body> {
    let raft = cluster.node(receiver).raft.as_ref().unwrap();
    let mut bodies = Vec::new();
    for message in messages(raft.term(), raft.last_index()) {
        for extreme in EXTREMES {
            for which in 0..fields(&mut message.clone()).len() {
                let mut changed = message;
                *fields(&mut changed)[which] = extreme;
                bodies.push(Body::Message(changed));
            }
            let mut changed = message;
            // Two that are extreme alike say the same of a term and an index; all, that no one check stands for another.
            fields(&mut changed).into_iter().for_each(|field| *field = extreme);
            bodies.push(Body::Message(changed));
        }
    }
    let entry = cluster.node(receiver).log.last().unwrap().clone();
    let range = entry.frame.range();
    let append = kontiki_core::Append { leader_term: raft.term(), commit: LogIndex(1), frame: entry.frame, range, round: raft.round() };
    for extreme in EXTREMES {
        for which in 0..8 {
            let mut changed = append;
            match which {
                0 => changed.leader_term.0 = extreme,
                1 => changed.commit.0 = extreme,
                2 => changed.frame.term.0 = extreme,
                3 => changed.frame.first.0 = extreme,
                4 => changed.frame.count = extreme.min(u64::from(u32::MAX)) as u32,
                5 => changed.frame.prev_term.0 = extreme,
                6 => changed.range.from.0 = extreme,
                _ => changed.range.to.0 = extreme,
            }
            bodies.push(Body::Frame(changed, vec![entry.clone()]));
        }
    }
    bodies
}

/// All is well again, but for what was said: a fresh entry is committed everywhere.
fn lives(cluster: &mut Cluster) -> bool {
    cluster.net.holds.clear();
    cluster.net.held.clear();
    for id in cluster.ids() {
        if cluster.node(id).raft.is_none() {
            cluster.start(id);
        }
    }
    cluster.heal();
    let mut proposed = None;
    for _ in 0..40 {
        cluster.run(ELECTION_MAX);
        let done = |index| cluster.nodes.iter().all(|node| node.raft.as_ref().unwrap().commit() >= index);
        if proposed.is_some_and(done) {
            return true;
        }
        if let Some(leader) = cluster.leader() {
            let value = cluster.fresh_value();
            proposed = cluster.propose(leader, vec![value]).or(proposed);
        }
    }
    false
}

#[test]
fn extreme_numbers_do_no_lasting_harm() {
    for scene in SCENES {
        let fresh = || {
            let mut cluster = Cluster::new(Options::of(3));
            // One who lies may well be believed: what the receiver does of its own is what counts.
            cluster.oracle.forged = true;
            let link = scene.set(&mut cluster);
            (cluster, link)
        };
        let (cluster, (_, receiver)) = fresh();
        let tried = bodies(&cluster, receiver);
        assert!(tried.len() > 300);
        for body in tried {
            let (mut cluster, (from, to)) = fresh();
            let session = cluster.net.session(from, to).unwrap();
            let before = cluster.nodes.iter().map(|node| node.disk.record.term).max().unwrap();
            let what = format!("{scene:?}: {body:?}");
            cluster.deliver(Packet { from, to, session, body });
            assert!(lives(&mut cluster), "{what}\n{}", cluster.state());
            let most = Term(before.0 + MAX_TERM_STEP + 64);
            assert!(cluster.nodes.iter().all(|node| node.disk.record.term <= most), "{what}\n{}", cluster.state());
        }
    }
}

/// The greatest number of all, said of everything by one peer to another without end: it may keep these two from
/// working together, not longer.
#[test]
fn a_flood_of_extreme_numbers_wears_nothing_out() {
    for scene in SCENES {
        let mut cluster = Cluster::new(Options::of(3));
        cluster.oracle.forged = true;
        let (from, to) = scene.set(&mut cluster);
        let session = cluster.net.session(from, to).unwrap();
        let before = cluster.nodes.iter().map(|node| node.disk.record.term).max().unwrap();
        let tried = bodies(&cluster, to);
        let begun = cluster.now;
        for body in tried {
            if cluster.net.session(from, to) == Some(session) {
                cluster.deliver(Packet { from, to, session, body });
                cluster.run(ELECTION_MAX / 20);
            }
        }
        let seconds = 1 + cluster.now.since(begun) / 1_000_000_000;
        assert!(lives(&mut cluster), "{scene:?}\n{}", cluster.state());
        // Elections of its own, and a step a second.
        let most = Term(before.0 + MAX_TERM_STEP * (seconds + 1) + 1_000);
        assert!(cluster.nodes.iter().all(|node| node.disk.record.term <= most), "{scene:?}\n{}", cluster.state());
    }
}

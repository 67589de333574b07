//! Limits that the members of a cluster do not share, and those of the port.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::time::{Duration, Instant};

use kontiki::client::{Client, ClientError, ClientOptions};
use kontiki::{Config, LogIndex, Medium, Member, Node, ProposeError, Role, Status};
use support::{LONG, Recorder, free_addrs};
use tempfile::TempDir;

/// Nodes with files of their own: each is changed as `tune` says for its id.
struct Mixed {
    nodes: Vec<Node>,
    members: Vec<Member>,
    _dir: TempDir,
}

impl Mixed {
    fn start(count: u64, tune: impl Fn(u64, &mut Config)) -> Mixed {
        let members: Vec<Member> = free_addrs(count as usize).into_iter().zip(1..).map(|(addr, id)| Member::new(id, addr.into())).collect();
        let dir = tempfile::tempdir().unwrap();
        let start = |id: u64| {
            let mut config = Config::new(0xA11CE, id, members.clone(), dir.path().join(format!("n{id}")));
            (config.election_min_ms, config.election_max_ms) = (500, 1_000);
            (config.segment_bytes, config.medium) = (8 << 20, Medium::Safe);
            tune(id, &mut config);
            Node::builder(config).start(Recorder::default()).unwrap()
        };
        Mixed { nodes: (1..=count).map(start).collect(), members, _dir: dir }
    }

    fn status(&self, id: u64) -> Status {
        self.nodes[id as usize - 1].status().unwrap()
    }

    fn until<T>(&self, what: &str, look: impl Fn(&Mixed) -> Option<T>) -> T {
        let begun = Instant::now();
        while begun.elapsed() < LONG {
            if let Some(seen) = look(self) {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it never came to this: {what}");
    }

    /// The id of a leader among `ids` that has committed something.
    fn leader_of(&self, ids: &[u64]) -> u64 {
        self.until("a leader", |mixed| {
            ids.iter().copied().find(|&id| {
                let status = mixed.status(id);
                status.role == Role::Leader && status.commit.0 > 0
            })
        })
    }

    /// Proposes all of `payloads` at once to one of `ids` that leads; where the last of them stands.
    fn commit_at(&self, ids: &[u64], payloads: &[Vec<u8>]) -> LogIndex {
        let begun = Instant::now();
        while begun.elapsed() < LONG {
            let node = &self.nodes[self.leader_of(ids) as usize - 1];
            let mut tickets = Vec::new();
            let mut taken = 0;
            while taken < payloads.len() {
                match node.propose_many(&payloads[taken..], &mut tickets) {
                    Ok(more) => taken += more,
                    Err(ProposeError::Busy) => {}
                    Err(_) => break,
                }
            }
            if taken == payloads.len()
                && let Some(Ok(applied)) = tickets.pop().map(|ticket| ticket.wait())
            {
                return applied.index;
            }
        }
        panic!("nothing is committed");
    }

    fn all_applied(&self, index: LogIndex) {
        self.until("all have applied it", |mixed| mixed.members.iter().all(|m| mixed.status(m.id).applied >= index).then_some(()));
    }
}

/// Entries and frames of up to a megabyte, but for node 3, which has little memory and never leads: it is the others'
/// frames that matter.
fn the_third_is_small(id: u64, config: &mut Config) {
    if id == 3 {
        (config.max_entry_bytes, config.max_frame_bytes, config.ring_bytes) = (8 << 10, 16 << 10, 256 << 10);
        config.window_bytes = 64 << 10;
        (config.election_min_ms, config.election_max_ms) = (20_000, 30_000);
    } else {
        (config.max_entry_bytes, config.max_frame_bytes) = (512 << 10, 1 << 20);
    }
}

/// A leader whose frames are longer than what a member seals itself (one member's file says otherwise, or a rolling
/// change of it).
#[test]
fn members_that_disagree_about_the_longest_frame() {
    // All seal up to a megabyte but 3, which has the default; 1 and 2 are enough for a quorum.
    let mixed = Mixed::start(3, |id, config| {
        if id == 3 {
            // It never leads: it is the others' frames that matter here.
            (config.election_min_ms, config.election_max_ms) = (20_000, 30_000);
        } else {
            config.max_frame_bytes = 1 << 20;
        }
    });
    let last = mixed.commit_at(&[1, 2], &vec![vec![7u8; 64 << 10]; 15]);
    mixed.all_applied(last);
    assert_eq!(mixed.status(3).counters.sessions, 2, "and no session was lost over it");
}

/// A member with so little memory that it cannot take an entry of the others' size: that is said, for that one, and
/// nothing breaks.
#[test]
fn a_member_that_cannot_take_a_frame_is_named_and_keeps_its_session() {
    let mixed = Mixed::start(3, the_third_is_small);
    let first = mixed.commit_at(&[1, 2], &[vec![1; 100]]);
    mixed.all_applied(first);
    let last = mixed.commit_at(&[1, 2], &[vec![2; 400 << 10]]);
    let leader = mixed.leader_of(&[1, 2]);
    let of_3 = |mixed: &Mixed| mixed.status(leader).peers.into_iter().find(|peer| peer.id.0 == 3).unwrap();
    let peer = mixed.until("the status names it", |mixed| Some(of_3(mixed)).filter(|peer| peer.needs_frame_bytes > 0));
    assert_eq!(peer.takes_frame_bytes, 128 << 10);
    assert_eq!(peer.needs_frame_bytes, (400 << 10) + 4096);
    let sessions = mixed.status(3).counters.sessions;
    let last = mixed.commit_at(&[leader], &vec![vec![3; 100]; 50]).max(last);
    assert!(mixed.status(leader).commit >= last);
    assert!(mixed.status(3).applied < last);
    assert!(of_3(&mixed).connected);
    assert_eq!(mixed.status(3).counters.sessions, sessions, "no session was lost over it");
}

/// While a member is connected that takes shorter frames, batches are kept that short: it follows though entries come
/// by the megabyte.
#[test]
fn batches_are_as_short_as_every_connected_member_takes() {
    let mixed = Mixed::start(3, the_third_is_small);
    let first = mixed.commit_at(&[1, 2], &[vec![1; 100]]);
    mixed.all_applied(first);
    let last = mixed.commit_at(&[1, 2], &vec![vec![2; 4000]; 1000]);
    mixed.all_applied(last);
    assert_eq!(mixed.status(3).counters.sessions, 2);
}

/// Who links the library serves no clients unless it says so: the port answers the status, and nothing else.
#[test]
fn without_clients_the_port_answers_the_status_alone() {
    let mixed = Mixed::start(3, |_, _| {});
    let leader = mixed.leader_of(&[1, 2, 3]);
    let addr = mixed.members[leader as usize - 1].addr.socket().unwrap();
    // Those who only sit there keep nobody out.
    let idle: Vec<Client> = (0..10).map(|_| Client::connect(addr, ClientOptions::default()).unwrap()).collect();
    let mut client = Client::connect(addr, ClientOptions::default()).unwrap();
    let status = String::from_utf8(client.status().unwrap().to_vec()).unwrap();
    assert!(status.contains("role = \"Leader\""), "{status}");
    match client.propose(b"x", None) {
        Err(ClientError::Remote { code: 4, text }) => assert!(text.contains("max_clients = 0"), "{text}"),
        other => panic!("{other:?}"),
    }
    drop(idle);
    assert_eq!(mixed.status(leader).counters.entries_proposed, 0);
}

/// An entry that is too long for the node that leads is answered, and the connection goes on.
#[test]
fn an_entry_that_is_too_long_for_the_leader_is_answered() {
    let mixed = Mixed::start(1, |_, config| (config.max_clients, config.max_entry_bytes) = (2, 10_000));
    let addr = mixed.members[0].addr.socket().unwrap();
    mixed.leader_of(&[1]);
    let mut client = Client::connect(addr, ClientOptions::default()).unwrap();
    for bytes in [10_001, 100_000, 1 << 20] {
        match client.propose(&vec![1; bytes], None) {
            Err(ClientError::Remote { code: 2, text }) => assert!(text.contains("10000"), "{text}"),
            other => panic!("{bytes} bytes: {other:?}"),
        }
    }
    assert_eq!(client.propose(&[1; 10_000], None).unwrap().reply.len(), 8);
}

//! Real nodes, real files, real sockets: elect, replicate, lose a leader, restart.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::VecDeque;
use std::time::Duration;

use kontiki::{ApplyError, ApplyOn, Backend, Config, Entries, Lost, Member, Node, ProposeError, Replies, StateMachine, Ticket};
use support::{Cluster, LONG};

/// For tests of something else than elections: the machine of a test run is small and shared, and only a real
/// absence shall end a leadership.
fn default(config: &mut Config) {
    config.election_min_ms = 500;
    config.election_max_ms = 1_000;
}

fn inline(config: &mut Config) {
    default(config);
    config.apply_on = ApplyOn::Reactor;
}

fn portable(config: &mut Config) {
    default(config);
    config.backend = Backend::Portable;
}

#[test]
fn one_node_commits_and_keeps() {
    let mut cluster = Cluster::start(1, default);
    let ticket = cluster.propose(b"first");
    let applied = ticket.wait_timeout(LONG).unwrap().unwrap();
    assert_eq!(ticket.reply(), 5u64.to_le_bytes());
    cluster.stop(0);
    cluster.boot(0);
    cluster.commit(b"second");
    let log = cluster.applied(0);
    assert_eq!(log[0], (applied.index, b"first".to_vec()));
    assert_eq!(log[1].1, b"second");
}

fn three_nodes_agree(tune: fn(&mut Config)) {
    let cluster = Cluster::start(3, tune);
    let leader = cluster.leader();
    let mut tickets = Vec::new();
    for n in 0..2000u32 {
        tickets.push(cluster.propose(&n.to_le_bytes()));
    }
    let mut last = None;
    for ticket in tickets {
        last = Some(ticket.wait_timeout(LONG).unwrap().unwrap().index);
    }
    cluster.wait_applied(last.unwrap());
    let reference = cluster.applied(leader);
    let payloads: Vec<u32> = reference.iter().map(|(_, p)| u32::from_le_bytes(p[..].try_into().unwrap())).collect();
    assert_eq!(payloads, (0..2000).collect::<Vec<_>>());
    for at in 0..3 {
        assert_eq!(cluster.applied(at), reference, "node {at}");
    }
}

#[test]
fn three_nodes_agree_with_apply_threads() {
    three_nodes_agree(default);
}

#[test]
fn three_nodes_agree_with_inline_apply() {
    three_nodes_agree(inline);
}

#[test]
fn three_nodes_agree_on_the_portable_backend() {
    three_nodes_agree(portable);
}

#[test]
fn a_new_leader_takes_over_and_the_old_one_catches_up() {
    let mut cluster = Cluster::start(3, default);
    let first = cluster.leader();
    cluster.commit(b"before");
    cluster.stop(first);
    for n in 0..500u32 {
        cluster.commit(&n.to_le_bytes());
    }
    cluster.boot(first);
    let last = cluster.commit(b"after");
    cluster.wait_applied(last);
    let reference = cluster.applied(first);
    for at in 0..3 {
        assert_eq!(cluster.applied(at), reference);
    }
}

#[test]
fn followers_name_the_leader() {
    let cluster = Cluster::start(3, default);
    let leader = cluster.leader();
    let last = cluster.commit(b"so that all know");
    cluster.wait_applied(last);
    for at in (0..3).filter(|&at| at != leader) {
        match cluster.node(at).propose(b"x") {
            Err(ProposeError::NotLeader { leader: Some(hint) }) => assert_eq!(hint.addr, cluster.members[leader].addr),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_oversized_entry_is_refused_and_nothing_else_suffers() {
    let cluster = Cluster::start(1, default);
    cluster.leader();
    let limit = cluster.config(0).max_entry_bytes;
    assert_eq!(cluster.node(0).propose(&vec![0; limit + 1]).unwrap_err(), ProposeError::TooLarge { bytes: limit + 1, limit });
    cluster.commit(&vec![7; limit]);
}

#[test]
fn batches_keep_their_order() {
    let cluster = Cluster::start(1, default);
    cluster.leader();
    let payloads: Vec<[u8; 4]> = (0..5000u32).map(u32::to_le_bytes).collect();
    let slices: Vec<&[u8]> = payloads.iter().map(|p| &p[..]).collect();
    let mut tickets = Vec::new();
    let mut taken = 0;
    while taken < slices.len() {
        match cluster.node(0).propose_many(&slices[taken..], &mut tickets) {
            Ok(n) => taken += n,
            Err(ProposeError::Busy) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    for ticket in &tickets {
        ticket.wait_timeout(LONG).unwrap().unwrap();
    }
    assert_eq!(
        cluster.applied(0).iter().map(|(_, p)| p.clone()).collect::<Vec<_>>(),
        payloads.iter().map(|p| p.to_vec()).collect::<Vec<_>>()
    );
}

/// As many in flight as there may be, and every answer makes room for another.
#[test]
fn answers_are_reaped_in_the_order_of_the_log() {
    let cluster = Cluster::start(3, inline);
    let node = cluster.node(cluster.leader());
    let payloads = vec![[7u8; 16]; 64];
    let (mut queue, mut indexes, mut run) = (VecDeque::new(), Vec::new(), Vec::new());
    while indexes.len() < 20_000 {
        match node.propose_many(&payloads, &mut run) {
            Ok(_) => queue.extend(run.drain(..)),
            Err(ProposeError::Busy) => {
                let oldest: &Ticket = queue.front().unwrap();
                oldest.wait_timeout(LONG).unwrap().unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        let before = indexes.len();
        let taken = Ticket::reap(&mut queue, |outcome, _| indexes.push(outcome.unwrap().index));
        assert_eq!(indexes.len() - before, taken);
    }
    assert!(indexes.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "one after the other, none left out");
}

#[test]
fn a_stopped_node_leaves_nobody_waiting() {
    let mut cluster = Cluster::start(3, default);
    let leader = cluster.leader();
    for at in (0..3).filter(|&at| at != leader) {
        cluster.stop(at);
    }
    // Without a majority nothing commits: the ticket stays open until leadership or the node is gone.
    let before = cluster.node(leader).status().unwrap().last;
    let Ok(ticket) = cluster.node(leader).propose(b"never") else { return };
    // Written here, and nowhere else: durable on one node of three is not committed, and must not be applied.
    while ticket.poll().is_none() && cluster.node(leader).status().is_some_and(|s| s.durable <= before) {
        std::thread::yield_now();
    }
    cluster.stop(leader);
    assert_eq!(ticket.wait_timeout(LONG).unwrap().unwrap_err(), Lost::Unknown);
    assert!(cluster.applied(leader).iter().all(|(_, payload)| payload != b"never"), "applied before it was committed");
}

/// Takes longer over each run of entries than an election timeout.
struct Slow;

impl StateMachine for Slow {
    #[allow(clippy::disallowed_methods, reason = "a slow state machine is what the test is about")]
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        std::thread::sleep(Duration::from_millis(1_500));
        entries.for_each(|_| replies.push(b"done"));
        Ok(())
    }
}

#[test]
fn a_slow_state_machine_does_not_cost_the_leadership() {
    let dir = tempfile::tempdir().unwrap();
    let members: Vec<Member> = support::free_addrs(3).into_iter().zip(1..).map(|(addr, id)| Member::new(id, addr.into())).collect();
    let start = |m: &Member| {
        let mut config = Config::new(0x510, m.id, members.clone(), dir.path().join(m.id.to_string()));
        default(&mut config);
        Node::builder(config).start(Slow).unwrap()
    };
    let nodes: Vec<Node> = members.iter().map(start).collect();
    let (leader, first) = loop {
        if let Some(taken) = nodes.iter().find_map(|n| n.propose(b"first").ok().map(|t| (n, t))) {
            break taken;
        }
        std::thread::yield_now();
    };
    let term = leader.status().unwrap().term;
    let second = leader.propose(b"second").unwrap();
    for ticket in [first, second] {
        ticket.wait_timeout(LONG).unwrap().unwrap();
        assert_eq!(ticket.reply(), b"done");
    }
    assert_eq!(leader.status().unwrap().term, term, "an election while the state machine was busy");
}

/// Whoever does not lead says where the product's own clients find the one that does; so do the status, and who waits
/// for a leader.
#[test]
fn the_leader_is_named_with_its_tag() {
    let tag = |id: u64| format!("https://board-{id}.local:8080/a \"path\"");
    let mut cluster = Cluster::start(3, |config| {
        default(config);
        for member in &mut config.members {
            member.tag = format!("https://board-{}.local:8080/a \"path\"", member.id).parse().unwrap();
        }
    });
    cluster.commit(b"first");
    let leader = cluster.leader();
    let named = tag(cluster.members[leader].id);
    for (at, node) in (0..3).map(|at| (at, cluster.node(at))) {
        let known = node.wait_leader(LONG).unwrap();
        assert_eq!((known.tag.as_str(), known.addr), (named.as_str(), cluster.members[leader].addr));
        let status = node.status().unwrap();
        assert_eq!(status.leader, Some(known));
        assert!(status.to_string().contains(&format!("leader_tag = {named:?}\n")), "{status}");
        if at != leader {
            let error = node.propose(b"not here").unwrap_err();
            assert_eq!(error, ProposeError::NotLeader { leader: Some(known) });
            assert!(error.to_string().contains(&named), "{error}");
        }
    }
    cluster.stop(leader);
}

#[test]
fn a_state_machine_that_fails_stops_its_node_and_says_why() {
    struct Refuses;
    impl StateMachine for Refuses {
        fn apply(&mut self, _: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
            Err(ApplyError("cannot count that far".into()))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let members = vec![Member::new(1, support::free_addrs(1)[0].into())];
    let node = Node::builder(Config::new(1, 1, members, dir.path())).start(Refuses).unwrap();
    let ticket = loop {
        match node.propose(b"one too many") {
            Ok(ticket) => break ticket,
            Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(ticket.wait_timeout(LONG).unwrap().unwrap_err(), Lost::Unknown);
    let failure = node.proposer().wait_stopped().unwrap_err();
    assert!(failure.to_string().contains("cannot count that far"), "{failure}");
    assert!(matches!(node.propose(b"more").unwrap_err(), ProposeError::Stopped));
}

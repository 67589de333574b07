//! A gap between what the state machine has applied and where the log begins: what recovery says of a log whose oldest
//! segment has no live frame and whose superseding frame is damaged (first, and the term before it, are those of the
//! segment's header). Nothing vouches for what is said to lie in the gap, so a node that has one does not take part.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::node::Entry;
use harness::{Cluster, Options};
use kontiki_core::{FrameMeta, LogIndex, NodeId, Term};

#[test]
fn what_lies_before_the_first_index_is_not_acknowledged() {
    let cluster = behind_a_gap(false);
    assert!(cluster.node(NodeId(2)).raft.is_none(), "it does not start at all");
}

/// Neither is it where the start looks for what the log presupposes, and tells the core that it is nowhere.
#[test]
fn nor_by_a_node_that_knows_of_the_gap() {
    let cluster = behind_a_gap(true);
    assert!(cluster.node(NodeId(2)).raft.as_ref().unwrap().needs_base());
}

fn behind_a_gap(looks: bool) -> Cluster {
    let (n1, n2, n3) = (NodeId(1), NodeId(2), NodeId(3));
    let mut cluster = Cluster::new(Options::of(3));
    assert!(cluster.elect(n1));
    for n in 0..5 {
        cluster.propose(n1, vec![format!("common{n}")]);
        cluster.settle();
    }
    cluster.run(400_000_000);
    assert_eq!(cluster.node(n2).log.len(), 6);
    // n2 stops. As recovery found it: entries 7 to 14 of term 1 had once stood before its oldest segment, never committed,
    // and superseded by a frame that is damaged now.
    cluster.stop(n2, 9);
    let disk = &mut cluster.node_mut(n2).disk.log;
    for index in 7..=14 {
        let frame = FrameMeta { term: Term(1), first: LogIndex(index), count: 1, prev_term: Term(1) };
        disk.push(Entry { frame, value: "superseded".into() });
    }
    let node = cluster.node_mut(n2);
    (node.disk.begins, node.disk.record.recovering) = (LogIndex(15), true);
    node.looks_for_its_base = looks;
    // n1 leads in term 2 and has ten new entries. n3 voted for it, and gets none of them.
    cluster.stop(n1, 9);
    cluster.start(n1);
    cluster.net.holds.push(harness::net::Filter { from: Some(n1), to: Some(n3), kind: "frame".into() });
    assert!(cluster.elect(n1));
    for n in 0..10 {
        cluster.propose(n1, vec![format!("new{n}")]);
        cluster.settle();
    }
    let before = cluster.node(n1).raft.as_ref().unwrap().commit();
    cluster.start(n2);
    cluster.run(1_000_000_000);
    let after = cluster.node(n1).raft.as_ref().unwrap().commit();
    assert_eq!(before, after, "committed on n1 alone: n2 acknowledged what it does not hold");
    cluster
}

//! What an operator gets wrong: each gives one clear, typed error, and loses nothing.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use kontiki::{Config, Member, Node, StartError};
use support::{Cluster, Recorder};

fn default(_: &mut Config) {}

fn start(config: Config) -> Result<Node, StartError> {
    Node::builder(config).start(Recorder::default())
}

fn message(result: Result<Node, StartError>) -> String {
    result.map(drop).unwrap_err().to_string()
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = message(start(Config::new(1, 1, vec![Member::new(1, addr.into())], dir.path())));
    assert!(error.contains(&addr.to_string()) && error.contains("in use"), "{error}");
}

#[test]
fn a_directory_in_use() {
    let cluster = Cluster::start(1, default);
    let mut config = cluster.config(0);
    config.members[0].addr = support::free_addrs(1)[0].into();
    let error = start(config).map(drop).unwrap_err();
    assert!(matches!(error, StartError::Log(_)), "{error:?}");
    assert!(error.to_string().contains("in use"), "{error}");
    cluster.commit(b"the first one is not disturbed");
}

#[test]
fn a_directory_of_another_cluster_or_node() {
    let mut cluster = Cluster::start(1, default);
    cluster.commit(b"kept");
    cluster.stop(0);
    let mut other = cluster.config(0);
    other.cluster += 1;
    let error = message(start(other));
    assert!(error.contains("cluster"), "{error}");
    let mut other = cluster.config(0);
    other.id = 2;
    other.members[0].id = 2;
    let error = message(start(other));
    assert!(error.contains("node"), "{error}");
    cluster.boot(0);
    cluster.commit(b"and it still starts");
    assert_eq!(cluster.applied(0)[0].1, b"kept");
}

#[test]
fn a_directory_that_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"in the way").unwrap();
    let addr = support::free_addrs(1)[0];
    let error = message(start(Config::new(1, 1, vec![Member::new(1, addr.into())], file.join("data"))));
    assert!(error.contains("data") && error.contains("Not a directory"), "{error}");
}

#[test]
fn a_bad_configuration_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(1, 1, vec![Member::new(2, support::free_addrs(1)[0].into())], dir.path().join("data"));
    let error = message(start(config.clone()));
    assert!(error.contains("`id`"), "{error}");
    config.members[0].id = 1;
    config.election_min_ms = 1;
    let error = message(start(config));
    assert!(error.contains("election_min_ms"), "{error}");
    assert!(!dir.path().join("data").exists());
}

#[test]
fn random_bytes_sent_to_the_port_disturb_nobody() {
    let cluster = Cluster::start(3, default);
    cluster.commit(b"before");
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for round in 0..30 {
        for member in &cluster.members {
            let Ok(mut stream) = TcpStream::connect(member.addr.socket().unwrap()) else { continue };
            let mut bytes = vec![0u8; 1 + round * 97];
            for byte in &mut bytes {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state as u8;
            }
            // The node may close in the middle: that is a fine answer.
            drop(stream.write_all(&bytes));
        }
    }
    let last = cluster.commit(b"after");
    cluster.wait_applied(last);
    let refused: u64 = (0..3).map(|at| cluster.node(at).status().unwrap().counters.refusals).sum();
    assert!(refused > 0, "nothing was counted");
}

#[test]
fn a_stranger_of_another_cluster_is_refused_and_counted() {
    let mut ours = Cluster::start(3, default);
    ours.commit(b"ours");
    ours.stop(2);
    // The same ids and addresses under another cluster id: member 3 of a wrong configuration.
    let dir = tempfile::tempdir().unwrap();
    let mut config = ours.config(2);
    config.cluster += 1;
    config.dir = dir.path().join("n3");
    let stranger = start(config).unwrap();
    while (0..2).all(|at| ours.node(at).status().unwrap().counters.refusals == 0) {
        std::thread::yield_now();
    }
    ours.commit(b"still ours");
    assert_eq!(stranger.status().unwrap().commit.0, 0);
    drop(stranger);
    ours.boot(2);
    let last = ours.commit(b"back");
    ours.wait_applied(last);
    assert_eq!(ours.applied(2), ours.applied(0));
}

#[test]
fn a_second_process_with_the_same_id_is_refused_and_counted() {
    let cluster = Cluster::start(3, |config| {
        // Two processes that both dial as node 1: only a real absence shall end a leadership meanwhile.
        config.election_min_ms = 1_000;
        config.election_max_ms = 2_000;
    });
    cluster.commit(b"before");
    let refused = || (1..3).map(|at| cluster.node(at).status().unwrap().counters.refusals).sum::<u64>();
    let before = refused();
    let dir = tempfile::tempdir().unwrap();
    let mut config = cluster.config(0);
    config.dir = dir.path().join("copy");
    config.listen = Some(support::free_addrs(1)[0]);
    let double = start(config).unwrap();
    while refused() == before {
        std::thread::yield_now();
    }
    cluster.commit(b"after");
    assert_eq!(double.status().unwrap().commit.0, 0, "the double took part");
}

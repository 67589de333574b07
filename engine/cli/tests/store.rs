//! The key-value machine behind `serve`, `put`, `get` and `status`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Servers, bad, good, run, stderr};
use rustix::process::Signal;

#[test]
fn one_replica_keeps_what_was_put_over_stops_and_kills() {
    let mut servers = Servers::start(1);
    let to = servers.to();
    good(&run(&["put", "city", "Lima", "--to", &to]));
    assert_eq!(good(&run(&["get", "city", "--to", &to])), "Lima\n");
    good(&run(&["put", "raw", "00ff", "--hex", "--to", &to]));
    assert_eq!(good(&run(&["get", "raw", "--hex", "--to", &to])), "00ff\n");
    assert!(bad(&run(&["get", "lost", "--to", &to]), 1).contains("no such key: lost"));

    servers.signal(1, Signal::TERM);
    assert_eq!(servers.wait_ended(1), Some(0), "{}", servers.log(1));
    assert!(servers.log(1).contains("stopped"));
    let line = bad(&run(&["get", "city", "--to", &to, "--timeout-ms", "300"]), 1);
    assert!(line.contains("no leader") && line.contains(&to), "{line}");

    servers.spawn(1);
    assert!(servers.wait_answering(1));
    assert_eq!(good(&run(&["get", "city", "--to", &to])), "Lima\n");
    good(&run(&["put", "city", "Callao", "--to", &to]));
    servers.kill(1);
    servers.spawn(1);
    assert!(servers.wait_answering(1));
    assert_eq!(good(&run(&["get", "city", "--to", &to])), "Callao\n");

    servers.signal(1, Signal::INT);
    assert_eq!(servers.wait_ended(1), Some(0), "{}", servers.log(1));
}

#[test]
fn keys_and_values_have_limits() {
    // Refused before anybody is asked.
    let nowhere = "127.0.0.1:1";
    let long = "x".repeat(4096);
    assert!(bad(&run(&["put", "k", &long, "--to", nowhere]), 2).contains("4095"));
    assert!(bad(&run(&["put", "", "v", "--to", nowhere]), 2).contains("key"));
    assert!(bad(&run(&["get", &long, "--to", nowhere]), 2).contains("1024"));
    assert!(bad(&run(&["put", "k", "0", "--hex", "--to", nowhere]), 2).contains("hexadecimal"));
}

#[test]
fn three_replicas_answer_at_any_address_and_survive_their_leader() {
    let mut servers = Servers::start(3);
    good(&run(&["put", "a", "1", "--to", &servers.to()]));
    for id in 1..=3 {
        // Each of them alone leads to the leader.
        assert_eq!(good(&run(&["get", "a", "--to", &servers.addr(id)])), "1\n");
    }
    let table = good(&run(&["status", "--to", &servers.to()]));
    assert_eq!(table.matches("follower").count(), 2, "{table}");

    let leader = servers.wait_leader();
    servers.kill(leader);
    good(&run(&["put", "a", "2", "--to", &servers.to(), "--timeout-ms", "20000"]));
    let next = servers.wait_leader();
    assert_ne!(next, leader);
    let output = run(&["status", "--to", &servers.to()]);
    assert!(stderr(&output).contains(&servers.addr(leader)), "the dead one is named");

    servers.spawn(leader);
    assert!(servers.wait_answering(leader));
    assert_eq!(good(&run(&["get", "a", "--to", &servers.addr(leader), "--timeout-ms", "20000"])), "2\n");
}

#[test]
fn without_a_majority_nothing_is_written() {
    let mut servers = Servers::start(3);
    good(&run(&["put", "a", "1", "--to", &servers.to()]));
    let leader = servers.wait_leader();
    for id in (1..=3).filter(|&id| id != leader) {
        servers.kill(id);
    }
    let line = bad(&run(&["put", "a", "2", "--to", &servers.addr(leader), "--timeout-ms", "1500"]), 1);
    assert!(line.contains("no leader") || line.contains("unknown"), "{line}");
}

#[test]
fn status_of_nobody_is_an_error() {
    let line = bad(&run(&["status", "--to", "127.0.0.1:1"]), 1);
    assert!(line.contains("127.0.0.1:1"), "{line}");
}

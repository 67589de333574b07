//! A replica stopped with SIGSTOP under load: the others go on, and it catches up when it is let go.
//!
//! `KONTIKI_PAUSE_SECONDS=60 cargo test --release -p kontiki-cli --test paused` for the long form.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Servers, good, kontiki, run};
use rustix::process::Signal;

/// A number of a replica's status.
fn number(servers: &Servers, id: u64, key: &str) -> u64 {
    let text = good(&run(&["status", "--full", "--to", &servers.addr(id)]));
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
    line.parse().unwrap()
}

#[test]
fn a_stopped_replica_disturbs_nobody_and_catches_up() {
    let seconds: u64 = std::env::var("KONTIKI_PAUSE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    // The machine of a test run is small and shared: only a real absence shall end a leadership.
    let servers = Servers::start_with(3, "election_min_ms = 1000\nelection_max_ms = 2000\n");
    let leader = servers.wait_leader();
    let paused = leader % 3 + 1;
    let (load, to) = ((seconds + 4).to_string(), servers.to());
    let mut load = kontiki(&["bench", "--json", "--warmup", "0.1", "--in-flight", "64", "--callers", "2", "--seconds", &load, "--to", &to])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let start = number(&servers, leader, "commit");
    while number(&servers, leader, "commit") < start + 1000 {
        assert_eq!(load.try_wait().unwrap(), None, "the load ended before it began");
    }
    let term = number(&servers, leader, "term");
    servers.signal(paused, Signal::STOP);
    let (since, before) = (Instant::now(), number(&servers, leader, "commit"));
    while since.elapsed() < Duration::from_secs(seconds) || number(&servers, leader, "commit") < before + 1000 {}
    let behind = number(&servers, leader, "commit") - before;
    assert_eq!(number(&servers, leader, "term"), term, "the leader lost its place while one follower slept");

    servers.signal(paused, Signal::CONT);
    let let_go = Instant::now();
    let target = number(&servers, leader, "commit");
    while number(&servers, paused, "applied") < target {}
    println!("{behind} entries behind, caught up {:?} after SIGCONT", let_go.elapsed());

    let load = load.wait_with_output().unwrap();
    good(&load);
    // The one that slept campaigns only as a pre-candidate: it deposes nobody.
    assert_eq!(number(&servers, leader, "term"), term);
    let end = number(&servers, leader, "commit");
    while (1..=3).any(|id| number(&servers, id, "applied") < end) {}
}

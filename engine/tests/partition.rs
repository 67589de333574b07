//! A replica cut off under load: the others go on undisturbed, and it catches up when it is back.
//!
//! `KONTIKI_CUT_SECONDS=60 cargo test --release -p kontiki --test partition` for the long form.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout)]

mod support {
    pub mod proxy;
}

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kontiki::{ApplyError, Config, Entries, Medium, Member, Node, ProposeError, Replies, Role, StateMachine, Ticket};
use support::proxy::Proxy;

/// Hashes what is applied, in order.
#[derive(Clone, Default)]
struct Chain(Arc<Mutex<(u64, u64)>>);

impl StateMachine for Chain {
    fn apply(&mut self, entries: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
        let mut chain = self.0.lock().unwrap();
        for entry in entries {
            for &byte in entry.payload {
                chain.1 = (chain.1 ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
            }
            chain.0 += 1;
        }
        Ok(())
    }
}

struct Meshed {
    _dir: tempfile::TempDir,
    nodes: Vec<Node>,
    chains: Vec<Chain>,
    /// `links[i][j]`: how node i reaches node j.
    links: Vec<Vec<Option<Proxy>>>,
}

fn start() -> Meshed {
    let dir = tempfile::tempdir().unwrap();
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let real: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    drop(listeners);
    let links: Vec<Vec<Option<Proxy>>> = (0..3).map(|i| (0..3).map(|j| (i != j).then(|| Proxy::to(real[j]))).collect()).collect();
    let chains: Vec<Chain> = (0..3).map(|_| Chain::default()).collect();
    let nodes = (0..3)
        .map(|i| {
            let addr = |j: usize| links[i][j].as_ref().map_or(real[j], |p: &Proxy| p.addr);
            let members = (0..3).map(|j| Member::new(j as u64 + 1, addr(j).into())).collect();
            let mut config = Config::new(0xCAB1E, i as u64 + 1, members, dir.path().join(i.to_string()));
            config.medium = Medium::Safe;
            config.retention_bytes = 4 << 30;
            // The test machine is small and shared: only a real cut shall end a leadership.
            config.election_min_ms = 1_000;
            config.election_max_ms = 2_000;
            Node::builder(config).start(chains[i].clone()).unwrap()
        })
        .collect();
    Meshed { _dir: dir, nodes, chains, links }
}

impl Meshed {
    fn leader(&self) -> usize {
        loop {
            if let Some(at) = self.nodes.iter().position(|n| n.status().is_some_and(|s| s.role == Role::Leader && s.commit.0 > 0)) {
                return at;
            }
            std::thread::yield_now();
        }
    }

    fn cut_off(&self, node: usize, cut: bool) {
        for (i, row) in self.links.iter().enumerate() {
            for (j, link) in row.iter().enumerate() {
                if let (Some(link), true) = (link, i == node || j == node) {
                    link.cut(cut);
                }
            }
        }
    }

    /// A closed loop on the leader until `until`: entries committed, and the longest wait for one.
    fn load(&self, leader: usize, until: Instant) -> (u64, Duration) {
        let mut tickets: VecDeque<(Instant, Ticket)> = VecDeque::new();
        let (mut committed, mut longest) = (0, Duration::ZERO);
        while Instant::now() < until {
            while tickets.len() < 64 {
                match self.nodes[leader].propose(&[7; 512]) {
                    Ok(ticket) => tickets.push_back((Instant::now(), ticket)),
                    Err(ProposeError::Busy) => break,
                    Err(error) => panic!("the leader was disturbed: {error}"),
                }
            }
            if let Some((since, ticket)) = tickets.pop_front() {
                ticket.wait().expect("the leader keeps its majority");
                committed += 1;
                longest = longest.max(since.elapsed());
            }
        }
        for (_, ticket) in tickets {
            ticket.wait().expect("the leader keeps its majority");
            committed += 1;
        }
        (committed, longest)
    }
}

#[test]
fn a_replica_cut_off_under_load_catches_up_and_disturbs_nobody() {
    let seconds = std::env::var("KONTIKI_CUT_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let cluster = start();
    let leader = cluster.leader();
    let away = (leader + 1) % 3;
    let term = cluster.nodes[leader].status().unwrap().term;

    let (before, _) = cluster.load(leader, Instant::now() + Duration::from_secs(1));
    cluster.cut_off(away, true);
    let (during, longest) = cluster.load(leader, Instant::now() + Duration::from_secs(seconds));
    let behind = cluster.nodes[leader].status().unwrap().commit.0 - cluster.nodes[away].status().unwrap().applied.0;
    cluster.cut_off(away, false);
    let healed = Instant::now();
    let (_, after) = cluster.load(leader, healed + Duration::from_secs(1));
    let last = cluster.nodes[leader].status().unwrap().commit;
    while cluster.nodes.iter().any(|n| n.status().unwrap().applied < last) {
        std::thread::yield_now();
    }
    println!(
        "{before} entries/s before, {} during the cut (longest wait {longest:?}), {behind} behind, caught up {:?} after the cut (longest wait meanwhile {after:?})",
        during / seconds,
        healed.elapsed()
    );
    assert!(behind > 0 && during > 0, "the cut cut nothing");
    assert_eq!(cluster.nodes[leader].status().unwrap().term, term, "the one that was away deposed the leader");
    let chains: Vec<(u64, u64)> = cluster.chains.iter().map(|c| *c.0.lock().unwrap()).collect();
    assert!(chains.iter().all(|c| *c == chains[0]), "{chains:?}");
}

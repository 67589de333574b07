//! A follower that was away: how fast it is given the log from the disk, and what that costs commits meanwhile.
//!
//! ```sh
//! cargo run --release -p kontiki-benches --example catch_up [MiB] [rounds] [window in KiB]
//! ```
//!
//! Three replicas in one process. One is stopped, the others commit so many MiB, and go on with a light load (16 in
//! flight, 128 B) while it comes back. Beside that: the same number of bytes appended durably to a log without a node,
//! on the same disk.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program for people; the load waits as a product would")]

use std::collections::VecDeque;
use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use kontiki::{ApplyOn, Config, Member, Node, ProposeError, Role, Ticket};
use kontiki_benches::{Counter, StoredLog, bench_dir, describe_machine};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const FILL_ENTRY: usize = 1024;
const LIGHT_ENTRY: usize = 128;
const LIGHT_IN_FLIGHT: usize = 16;
/// How long the light load is measured with the follower away.
const ALONE: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mib = arguments.next().transpose()?.unwrap_or(1024);
    let rounds = arguments.next().transpose()?.unwrap_or(3);
    let window = arguments.next().transpose()?.map(|kib| kib << 10);
    describe_machine();
    println!("round   caught up, s    MB/s   appended alone, MB/s   of that   p99 alone, us   p99 meanwhile, us   times");
    for round in 1..=rounds {
        let append = append_alone(mib << 20)?;
        let seen = catch_up(mib << 20, window)?;
        let speed = seen.bytes as f64 / seen.took.as_secs_f64() / 1e6;
        println!(
            "{round:5} {:14.2} {speed:7.0} {append:22.0} {:9.2} {:15.0} {:19.0} {:7.2}",
            seen.took.as_secs_f64(),
            speed / append,
            seen.alone_us,
            seen.meanwhile_us,
            seen.meanwhile_us / seen.alone_us
        );
    }
    Ok(())
}

/// MB/s of durable appends without a node.
fn append_alone(bytes: u64) -> Result<f64> {
    const FRAME: usize = 256 << 10;
    let dir = bench_dir();
    let (mut log, _) = StoredLog::open(dir.path(), kontiki_io::Backend::Auto, 2, true)?;
    let begun = Instant::now();
    log.run(FRAME, 8, bytes / FRAME as u64)?;
    Ok(bytes as f64 / begun.elapsed().as_secs_f64() / 1e6)
}

struct Seen {
    bytes: u64,
    took: Duration,
    alone_us: f64,
    meanwhile_us: f64,
}

fn catch_up(bytes: u64, window: Option<u64>) -> Result<Seen> {
    let dir = bench_dir();
    let listeners = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    let addrs = listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<Vec<_>>>()?;
    let members: Vec<Member> = addrs.into_iter().zip(1..).map(|(addr, id)| Member::new(id, addr.into())).collect();
    drop(listeners);
    let mut nodes = members.iter().map(|m| start(m, &members, dir.path(), window)).collect::<Result<Vec<_>>>()?;
    let leads = |n: &Node| n.status().is_some_and(|s| s.role == Role::Leader && s.commit.0 > 0);
    let leader = loop {
        match nodes.iter().position(leads) {
            Some(at) => break at,
            // Nobody tells a program who leads: it looks.
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let away = (leader + 1) % 3;
    let member = members[away].clone();
    let behind = nodes.remove(away);
    let leader = if away < leader { leader - 1 } else { leader };
    behind.shutdown()?;

    drive(&nodes[leader], &[7; FILL_ENTRY], 4096, |done, _| done * FILL_ENTRY as u64 >= bytes)?;
    let alone = drive(&nodes[leader], &[7; LIGHT_ENTRY], LIGHT_IN_FLIGHT, |_, took| took >= ALONE)?;

    let target = nodes[leader].status().ok_or("no status")?.last;
    let back = start(&member, &members, dir.path(), window)?;
    let begun = Instant::now();
    let (mut looked, mut took) = (begun, None);
    let meanwhile = drive(&nodes[leader], &[7; LIGHT_ENTRY], LIGHT_IN_FLIGHT, |_, _| {
        // A look at its state wakes its reactor: a few times a second.
        if looked.elapsed() > Duration::from_millis(20) {
            looked = Instant::now();
            if back.status().is_some_and(|s| s.durable >= target) {
                took = Some(begun.elapsed());
            }
        }
        took.is_some() || begun.elapsed() > Duration::from_secs(120)
    })?;
    let took = took.ok_or("it did not catch up within two minutes")?;
    back.shutdown()?;
    Ok(Seen { bytes, took, alone_us: p99_us(alone), meanwhile_us: p99_us(meanwhile) })
}

fn start(member: &Member, members: &[Member], dir: &Path, window: Option<u64>) -> Result<Node> {
    let mut config = Config::new(0xCA7C, member.id, members.to_vec(), dir.join(member.id.to_string()));
    config.apply_on = ApplyOn::Reactor;
    config.retention_bytes = 4 << 30;
    config.window_bytes = window.unwrap_or(config.window_bytes);
    (config.election_min_ms, config.election_max_ms) = (2_000, 4_000);
    Ok(Node::builder(config).start(Counter::default())?)
}

/// A closed loop until `enough` (entries answered, time since the start); the latencies.
fn drive(node: &Node, payload: &[u8], in_flight: usize, mut enough: impl FnMut(u64, Duration) -> bool) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    let mut tickets: VecDeque<(Ticket, Instant)> = VecDeque::with_capacity(in_flight);
    let mut latencies = Vec::new();
    while !enough(latencies.len() as u64, begun.elapsed()) {
        while tickets.len() < in_flight {
            match node.propose(payload) {
                Ok(ticket) => tickets.push_back((ticket, Instant::now())),
                Err(ProposeError::Busy) => break,
                Err(error) => return Err(error.into()),
            }
        }
        match tickets.pop_front() {
            Some((ticket, since)) => {
                ticket.wait()?;
                latencies.push(since.elapsed());
            }
            // Busy, and nothing to wait on: the node waits for its disk.
            None => std::thread::sleep(Duration::from_micros(50)),
        }
    }
    tickets.into_iter().try_for_each(|(ticket, _)| ticket.wait().map(drop))?;
    Ok(latencies)
}

fn p99_us(mut latencies: Vec<Duration>) -> f64 {
    latencies.sort_unstable();
    let at = latencies.len() * 99 / 100;
    latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
}

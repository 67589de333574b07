//! The workloads: always the same work, in the same order, without input, output or clocks.

use std::time::Duration;

use kontiki::{Config, Member, Reactor, Role};
use kontiki_benches::{CoreLoad, Counter};
use kontiki_core::{ClusterId, FrameMeta, GroupId, LogIndex, NodeId, Subterm, Term, WriteId};
use kontiki_frame::{BODY_OFFSET, Header, Kind, frame_bytes, put_entry, seal, verify};
use kontiki_io::Io;
use kontiki_mem::{Hold, Outcome, Resolver, Ring, Ticket, Tickets};
use kontiki_sim::{Conditions, Delay, Host, MICROSECOND, Odds, SECOND, Sim, SimIo};
use kontiki_wal::{Opening, Options, Wal};

use crate::counted::{Apart, Meter};

/// Bytes of an entry.
const ENTRY_BYTES: usize = 128;
/// Where every simulated node listens.
const PORT: u16 = 7000;

/// A workload: what it is called, what is counted, how many operations it does, and what does them.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) operations: u64,
    pub(crate) run: fn(&Meter, u64),
}

/// All of them.
pub(crate) const ALL: [Workload; 7] = [
    Workload {
        name: "core-step",
        what: "a frame through the core of a leader of three, sealed to committed",
        operations: 10_000,
        run: core_step,
    },
    Workload { name: "frame-1", what: "sealing and checking a frame of one entry", operations: 5_000, run: |m, n| frame(m, n, 1) },
    Workload { name: "frame-1024", what: "the same of 1,024 entries", operations: 200, run: |m, n| frame(m, n, 1024) },
    Workload { name: "tickets", what: "a ticket taken, resolved, looked at and given back", operations: 20_000, run: tickets },
    Workload {
        name: "wal-append",
        what: "a frame of 4 KiB appended to the log, until it is known to be durable",
        operations: 2_000,
        run: wal_append,
    },
    Workload { name: "proposal", what: "one proposal alone, through three whole nodes", operations: 1_000, run: |m, n| proposals(m, n, 1) },
    Workload { name: "proposal-of-64", what: "the same, in runs of 64", operations: 6_400, run: |m, n| proposals(m, n, 64) },
];

fn core_step(meter: &Meter, operations: u64) {
    let mut load = CoreLoad::elected(3);
    for _ in 0..operations {
        meter.count(|| load.commit(64));
    }
}

/// A header of `count` entries in `body` bytes, the first at `first`.
fn header(first: LogIndex, count: u32, body: usize) -> Header {
    let prev_term = if first == LogIndex(1) { Term(0) } else { Term(1) };
    Header {
        kind: Kind::Entries,
        sessions: false,
        cluster: ClusterId(1),
        group: GroupId(0),
        meta: FrameMeta { term: Term(1), first, count, prev_term },
        subterm: Subterm(0),
        cluster_ns: 0,
        proposed_ns: 0,
        body_bytes: body as u32,
    }
}

fn frame(meter: &Meter, operations: u64, entries: u32) {
    let body = (4 + ENTRY_BYTES) * entries as usize;
    let mut frame = vec![0; frame_bytes(body)];
    let mut at = BODY_OFFSET;
    for _ in 0..entries {
        at = put_entry(&mut frame, at, None, &[7; ENTRY_BYTES]).unwrap_or(at);
    }
    let header = header(LogIndex(10), entries, body);
    for _ in 0..operations {
        let checked = meter.count(|| {
            seal(&mut frame, &header);
            verify(&frame)
        });
        assert_eq!(checked, Ok(header));
    }
}

fn tickets(meter: &Meter, operations: u64) {
    let tickets = Tickets::new(64, 8);
    let slab = Hold::alone((), &tickets);
    let mut resolver = Resolver::new();
    let mut held: Vec<Ticket> = Vec::with_capacity(64);
    for _ in 0..operations / 64 {
        meter.count(|| {
            held.extend(std::iter::from_fn(|| slab.take()).take(64));
            for ticket in &held {
                resolver.resolve(&tickets, ticket.id(), Outcome::Applied { index: 1 }, &[0; 8]);
            }
            resolver.flush();
            held.retain(|ticket| ticket.poll_outcome().is_none());
        });
        assert!(held.is_empty());
    }
}

/// A world in which everything takes the same time, always.
fn even() -> Conditions {
    let mut conditions = Conditions::calm();
    let delay = |us: u64| Delay::between(us * MICROSECOND, us * MICROSECOND);
    let disk = &mut conditions.disk;
    (disk.transfer, disk.flush, disk.metadata) = (delay(50), delay(50), delay(50));
    let network = &mut conditions.network;
    (network.latency, network.small_chunk, network.short_receive) = (delay(20), Odds::NEVER, Odds::NEVER);
    let processor = &mut conditions.processor;
    (processor.turn, processor.wake_up, processor.partial_turn, processor.drift_ppm) = (delay(2), delay(5), Odds::NEVER, 0);
    conditions
}

fn wal_append(meter: &Meter, operations: u64) {
    let sim = Sim::new(1, even());
    let host = sim.add_host();
    let mut io = Apart::new(sim.boot(host), meter);
    let mut ring = Ring::new(1 << 20, 256).unwrap_or_else(|e| panic!("{e}"));
    let options = Options { dir: "/log".into(), cluster: ClusterId(1), node: NodeId(1), retention_bytes: 32 << 20, ..Options::default() };
    let mut done = Vec::with_capacity(64);
    let mut log = open(&sim, &mut io, options);
    for n in 1..=operations {
        let Some(mut block) = ring.reserve(4096) else { panic!("the ring is full") };
        let body = put_entry(block.bytes_mut(), BODY_OFFSET, None, &[7; ENTRY_BYTES]).map_or(0, |end| end - BODY_OFFSET);
        let header = header(log.last_index().next(), 1, body);
        seal(block.bytes_mut(), &header);
        while !log.can_append(4096) {
            turn(&sim, &mut io, &mut done);
            done.drain(..).for_each(|completion| log.on_completion(completion, &mut io));
            log.pump(&mut io);
        }
        meter.count(|| {
            drop(log.append(WriteId(n), block, header.meta.range(), header.meta));
            log.pump(&mut io);
        });
        let mut durable = false;
        while !durable {
            turn(&sim, &mut io, &mut done);
            meter.count(|| {
                for completion in done.drain(..) {
                    log.on_completion(completion, &mut io);
                }
                while log.next_event().is_some() {
                    durable = true;
                }
                log.pump(&mut io);
            });
        }
        log.release(log.last_index());
    }
}

fn open(sim: &Sim, io: &mut Apart<SimIo>, options: Options) -> Wal {
    let mut opening = Opening::start(options, io).unwrap_or_else(|e| panic!("{e}"));
    let mut done = Vec::new();
    loop {
        if let Some(opened) = opening.poll().unwrap_or_else(|e| panic!("{e}")) {
            return opened.wal;
        }
        if opening.wants_bases() {
            opening.set_bases(&[], io);
        }
        turn(sim, io, &mut done);
        done.drain(..).for_each(|completion| opening.on_completion(completion, io));
    }
}

/// The next turn of the only process.
fn turn(sim: &Sim, io: &mut Apart<SimIo>, done: &mut Vec<kontiki_io::Completion>) {
    let limit = sim.now().plus_ns(SECOND);
    assert!(sim.next(limit).is_some(), "nothing happens any more");
    let until = io.now().plus_ns(SECOND);
    io.turn(Some(until), done).unwrap_or_else(|e| panic!("{e}"));
}

type Node = Reactor<Apart<SimIo>, Counter>;

fn proposals(meter: &Meter, operations: u64, run: usize) {
    let sim = Sim::new(1, even());
    let hosts: Vec<Host> = (0..3).map(|_| sim.add_host()).collect();
    let members: Vec<Member> = (1..).zip(&hosts).map(|(id, &host)| Member::new(id, sim.address(host, PORT).into())).collect();
    let node = |(id, &host): (u64, &Host)| -> Node {
        let config = Config { retention_bytes: 32 << 20, seed: id, ..Config::new(1, id, members.clone(), "/node") };
        Reactor::new(config, Apart::new(sim.boot(host), meter), Counter::default()).unwrap_or_else(|e| panic!("{e}"))
    };
    let mut nodes: Vec<Node> = (1..).zip(&hosts).map(node).collect();
    let turn = |nodes: &mut Vec<Node>, counts: bool| {
        let Some(Host(n)) = sim.next(sim.now().plus_ns(SECOND)) else { panic!("nothing happens any more") };
        let node = &mut nodes[n];
        let state = if counts { meter.count(|| node.turn(Duration::MAX)) } else { node.turn(Duration::MAX) };
        state.unwrap_or_else(|e| panic!("{e}"));
    };
    // Until one leads and has settled with the others.
    let settled = sim.now().plus_ns(3 * SECOND);
    while sim.now() < settled {
        turn(&mut nodes, false);
    }
    let Some(leader) = nodes.iter().position(|node| matches!(node.standing(), Some((Role::Leader, _)))) else { panic!("nobody leads") };
    let proposer = nodes[leader].proposer();
    let mut tickets = Vec::with_capacity(run);
    for _ in 0..operations / run as u64 {
        meter.count(|| tickets.extend(std::iter::repeat_with(|| proposer.propose(&[7; ENTRY_BYTES])).take(run)));
        sim.ring(hosts[leader]);
        for ticket in tickets.drain(..) {
            let ticket = ticket.unwrap_or_else(|e| panic!("{e}"));
            while ticket.poll().is_none() {
                turn(&mut nodes, true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_ends() {
        for workload in ALL {
            (workload.run)(&Meter::default(), workload.operations.min(128));
        }
    }
}

//! What the simulated network promises to a process, and what it does not.

#![allow(clippy::unwrap_used)]

mod common;

use common::Bench;
use kontiki_io::{IoErrorKind, Op, Output};
use kontiki_mem::BLOCK_BYTES;
use kontiki_sim::{Conditions, Delay, Injection, MILLISECOND, Odds, OpClass, Random, SECOND};

fn pattern(from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64).map(|n| (n ^ (n >> 8)) as u8).collect()
}

#[test]
fn bytes_arrive_in_order_whatever_the_chunks() {
    for seed in 0..10 {
        let mut conditions = Conditions::calm();
        conditions.network.small_chunk = Odds::one_in(2);
        conditions.network.short_receive = Odds::one_in(2);
        conditions.network.chunk_bytes = 3_000;
        conditions.network.buffer_bytes = 20_000;
        conditions.network.latency = Delay::between(1, 5 * MILLISECOND).with_tail(Odds::one_in(10), 200 * MILLISECOND);
        let mut bench = Bench::with(seed, 2, conditions);
        let (client, server) = bench.pair();
        let mut random = Random::new(seed);
        let (mut sent, mut received, mut send) = (0u64, Vec::new(), None);
        while received.len() < 200_000 {
            if send.is_none() && sent < 200_000 {
                let count = random.between(1, 4 * BLOCK_BYTES as u64) as usize;
                let op = bench.send_op(client, &pattern(sent, count));
                send = Some(bench.submit(0, op));
                sent += count as u64;
            }
            received.extend(bench.recv(1, server, 10_000).unwrap());
            send = send.filter(|&token| !bench.is_done(0, token));
        }
        assert_eq!(received, pattern(0, received.len()));
    }
}

#[test]
fn both_directions_flow_at_once() {
    let mut bench = Bench::new(1, 2);
    let (client, server) = bench.pair();
    bench.send(0, client, b"to the server");
    bench.send(1, server, b"to the client");
    assert_eq!(bench.recv_all(1, server, 13).unwrap(), b"to the server");
    assert_eq!(bench.recv_all(0, client, 13).unwrap(), b"to the client");
}

#[test]
fn a_receiver_that_does_not_read_holds_the_sender_back() {
    let mut conditions = Conditions::calm();
    conditions.network.buffer_bytes = 2 * BLOCK_BYTES as u64;
    let mut bench = Bench::with(2, 2, conditions);
    let (client, server) = bench.pair();
    let op = bench.send_op(client, &pattern(0, 4 * BLOCK_BYTES));
    let send = bench.submit(0, op);
    bench.run(30 * SECOND);
    assert!(!bench.is_done(0, send));
    assert_eq!(bench.recv_all(1, server, 4 * BLOCK_BYTES).unwrap(), pattern(0, 4 * BLOCK_BYTES));
    assert!(bench.wait(0, send).result.is_ok());
}

#[test]
fn nobody_listening_is_refused_and_a_dead_host_is_found_out_late() {
    let mut bench = Bench::new(3, 2);
    let addr = bench.sim.address(bench.hosts[1], 7000);
    let before = bench.sim.now();
    assert_eq!(bench.err(0, Op::Connect { addr }), IoErrorKind::Refused);
    let refused_ns = bench.sim.now().since(before);
    bench.power_cut(1);
    let before = bench.sim.now();
    assert_eq!(bench.err(0, Op::Connect { addr }), IoErrorKind::Refused);
    assert!(bench.sim.now().since(before) > 100 * refused_ns);
    let addr = "192.168.7.7:1".parse().unwrap();
    assert_eq!(bench.err(0, Op::Connect { addr }), IoErrorKind::Refused);
}

#[test]
fn a_connection_waits_for_its_accept_and_keeps_what_was_sent_before() {
    let mut bench = Bench::new(4, 2);
    let listener = bench.listen(1, 7000);
    let addr = bench.sim.address(bench.hosts[1], 7000);
    let Output::Opened(client) = bench.ok(0, Op::Connect { addr }) else { panic!("not connected") };
    bench.send(0, client, b"early");
    bench.run(SECOND);
    let Output::Accepted(server, peer) = bench.ok(1, Op::Accept { listener }) else { panic!("not accepted") };
    assert_eq!(peer.ip(), bench.sim.address(bench.hosts[0], 0).ip());
    assert_eq!(bench.recv_all(1, server, 5).unwrap(), b"early");
}

#[test]
fn ports_are_taken_once_and_given_on_request() {
    let mut bench = Bench::new(5, 2);
    let listener = bench.listen(0, 7000);
    let addr = bench.sim.address(bench.hosts[0], 7000);
    assert_eq!(bench.err(0, Op::Listen { addr }), IoErrorKind::AddressInUse);
    bench.ok(0, Op::Close { handle: listener });
    bench.listen(0, 7000);
    let mut ports = Vec::new();
    for _ in 0..2 {
        let addr = "127.0.0.1:0".parse().unwrap();
        let Output::Listening(_, bound) = bench.ok(0, Op::Listen { addr }) else { panic!("not listening") };
        ports.push(bound.port());
    }
    assert!(ports[0] != 0 && ports[1] != 0 && ports[0] != ports[1]);
    let elsewhere = bench.sim.address(bench.hosts[1], 7000);
    assert_eq!(bench.err(0, Op::Listen { addr: elsewhere }), IoErrorKind::Device);
}

#[test]
fn a_partition_delays_and_a_heal_delivers() {
    let mut bench = Bench::new(6, 2);
    let (client, server) = bench.pair();
    let [a, b] = [bench.hosts[0], bench.hosts[1]];
    bench.sim.partition(&[a], &[b]);
    bench.send(0, client, b"held up");
    let op = bench.recv_op(server, 100);
    let recv = bench.submit(1, op);
    bench.run(2 * SECOND);
    assert!(!bench.is_done(1, recv));
    bench.sim.heal();
    let done = bench.wait(1, recv);
    let mut all = Bench::bytes_of(done).unwrap();
    all.extend(bench.recv_all(1, server, 7 - all.len()).unwrap());
    assert_eq!(all, b"held up");
}

#[test]
fn a_block_works_one_way_only() {
    let mut bench = Bench::new(7, 2);
    let (client, server) = bench.pair();
    bench.sim.block(bench.hosts[0], bench.hosts[1]);
    bench.send(1, server, b"this way");
    assert_eq!(bench.recv_all(0, client, 8).unwrap(), b"this way");
    bench.send(0, client, b"not that");
    let op = bench.recv_op(server, 100);
    let recv = bench.submit(1, op);
    bench.run(2 * SECOND);
    assert!(!bench.is_done(1, recv));
    bench.sim.unblock(bench.hosts[0], bench.hosts[1]);
    assert!(bench.wait(1, recv).result.is_ok());
}

#[test]
fn a_long_partition_breaks_the_sender_and_leaves_the_other_half_open() {
    let mut bench = Bench::new(8, 2);
    let (client, server) = bench.pair();
    let [a, b] = [bench.hosts[0], bench.hosts[1]];
    bench.sim.partition(&[a], &[b]);
    bench.send(0, client, b"lost");
    assert_eq!(bench.recv(0, client, 100).unwrap_err(), IoErrorKind::Disconnected);
    let op = bench.recv_op(server, 100);
    let recv = bench.submit(1, op);
    bench.sim.heal();
    bench.run(60 * SECOND);
    assert!(!bench.is_done(1, recv), "the other side has not heard of it");
    bench.send(1, server, b"anyone?");
    assert_eq!(bench.wait(1, recv).result.unwrap_err().kind, IoErrorKind::Disconnected);
}

#[test]
fn a_crash_ends_its_connections_at_once_and_a_power_cut_in_silence() {
    let mut endings = [0, 0];
    for seed in 0..20 {
        let mut bench = Bench::new(seed, 2);
        let (client, _) = bench.pair();
        bench.crash(1);
        match bench.recv(0, client, 100) {
            Ok(bytes) => {
                assert!(bytes.is_empty());
                endings[0] += 1;
            }
            Err(kind) => {
                assert_eq!(kind, IoErrorKind::Disconnected);
                endings[1] += 1;
            }
        }
    }
    assert!(endings.iter().all(|&count| count > 2), "an end and a reset are both met: {endings:?}");

    let mut bench = Bench::new(9, 2);
    let (client, _) = bench.pair();
    bench.power_cut(1);
    let op = bench.recv_op(client, 100);
    let recv = bench.submit(0, op);
    bench.run(30 * SECOND);
    assert!(!bench.is_done(0, recv), "nobody told it");
    bench.boot(1);
    bench.run(30 * SECOND);
    assert!(!bench.is_done(0, recv), "and it has not asked");
    bench.send(0, client, b"hello?");
    assert_eq!(bench.wait(0, recv).result.unwrap_err().kind, IoErrorKind::Disconnected);
}

#[test]
fn what_was_sent_before_a_close_arrives_then_the_end() {
    let mut bench = Bench::new(10, 2);
    let (client, server) = bench.pair();
    bench.send(0, client, &pattern(0, 9_000));
    bench.ok(0, Op::Close { handle: client });
    assert_eq!(bench.recv_all(1, server, 10_000).unwrap(), pattern(0, 9_000));
    assert!(bench.recv(1, server, 10).unwrap().is_empty());
    bench.ok(1, Op::Close { handle: server });
    bench.run(SECOND);
    assert_eq!(bench.sim.connections(), 0);
}

#[test]
fn a_close_with_bytes_unread_resets() {
    let mut bench = Bench::new(11, 2);
    let (client, server) = bench.pair();
    bench.send(0, client, b"never read");
    bench.run(SECOND);
    bench.ok(1, Op::Close { handle: server });
    assert_eq!(bench.recv(0, client, 10).unwrap_err(), IoErrorKind::Disconnected);
}

#[test]
fn a_shutdown_ends_what_is_outstanding_and_gives_memory_back() {
    for seed in 0..10 {
        let mut conditions = Conditions::calm();
        conditions.network.buffer_bytes = BLOCK_BYTES as u64;
        let mut bench = Bench::with(seed, 2, conditions);
        let (client, server) = bench.pair();
        let all = bench.pool.available();
        let op = bench.recv_op(client, 10);
        let recv = bench.submit(0, op);
        let op = bench.send_op(client, &pattern(0, 4 * BLOCK_BYTES));
        let send = bench.submit(0, op);
        bench.run(SECOND);
        bench.ok(0, Op::Shutdown { socket: client });
        let ended = Bench::bytes_of(bench.wait(0, recv));
        assert_eq!(ended.unwrap_err(), IoErrorKind::Canceled);
        assert_eq!(bench.wait(0, send).result.unwrap_err().kind, IoErrorKind::Canceled);
        assert_eq!(bench.pool.available(), all);
        bench.ok(0, Op::Close { handle: client });
        // The other side finds a part of what was sent, then the end.
        let found = bench.recv_all(1, server, 4 * BLOCK_BYTES).unwrap();
        assert!(found.len() < 4 * BLOCK_BYTES);
        assert_eq!(found, pattern(0, found.len()));
    }
}

#[test]
fn a_shutdown_cancels_an_accept() {
    let mut bench = Bench::new(12, 2);
    let listener = bench.listen(1, 7000);
    let accept = bench.submit(1, Op::Accept { listener });
    bench.run(SECOND);
    bench.ok(1, Op::Shutdown { socket: listener });
    assert_eq!(bench.wait(1, accept).result.unwrap_err().kind, IoErrorKind::Canceled);
    let addr = bench.sim.address(bench.hosts[1], 7000);
    assert_eq!(bench.err(0, Op::Connect { addr }), IoErrorKind::Refused);
    bench.ok(1, Op::Close { handle: listener });
}

#[test]
fn a_paused_process_still_receives_and_finds_it_later() {
    let mut bench = Bench::new(13, 2);
    let (client, server) = bench.pair();
    let op = bench.recv_op(server, 100);
    let recv = bench.submit(1, op);
    bench.run(MILLISECOND);
    bench.sim.pause(bench.hosts[1]);
    bench.send(0, client, b"meanwhile");
    bench.run(10 * SECOND);
    assert!(!bench.is_done(1, recv));
    bench.sim.resume(bench.hosts[1]);
    assert!(bench.wait(1, recv).result.is_ok());
}

#[test]
fn resets_and_flips_happen_as_often_as_asked() {
    let (mut flipped, mut broken) = (0, 0);
    for seed in 0..30 {
        let mut conditions = Conditions::calm();
        conditions.network.reset = Odds::one_in(40);
        conditions.network.flip = Odds::one_in(20);
        conditions.network.chunk_bytes = 1_000;
        let mut bench = Bench::with(seed, 2, conditions);
        let (client, server) = bench.pair();
        let op = bench.send_op(client, &pattern(0, 4 * BLOCK_BYTES));
        bench.submit(0, op);
        match bench.recv_all(1, server, 4 * BLOCK_BYTES) {
            Ok(found) => {
                let expected = pattern(0, found.len());
                flipped += found.iter().zip(&expected).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
            }
            Err(kind) => {
                assert_eq!(kind, IoErrorKind::Disconnected);
                broken += 1;
            }
        }
    }
    assert!(flipped > 3 && broken > 3, "{flipped} bits flipped, {broken} connections broken");
}

#[test]
fn injected_errors_break_the_connection() {
    let mut bench = Bench::new(14, 2);
    let (client, server) = bench.pair();
    let error = IoErrorKind::Device;
    bench.sim.inject(bench.hosts[0], Injection { class: OpClass::Send, after: 1, error, times: 1 });
    bench.send(0, client, b"one");
    let op = bench.send_op(client, b"two");
    assert_eq!(bench.err(0, op), error);
    assert_eq!(bench.recv_all(1, server, 100).unwrap_err(), IoErrorKind::Disconnected);
}

#[test]
#[should_panic(expected = "two Recv are outstanding")]
fn two_receives_at_once_are_a_bug_of_the_caller() {
    let mut bench = Bench::new(15, 2);
    let (client, _) = bench.pair();
    for _ in 0..2 {
        let op = bench.recv_op(client, 10);
        bench.submit(0, op);
    }
}

#[test]
fn everything_lent_comes_back_or_goes_with_its_process() {
    let mut bench = Bench::new(16, 3);
    let all = bench.pool.available();
    let listener = bench.listen(1, 7000);
    let (client, server) = bench.connect(0, 1, listener, 7000);
    bench.connect(2, 1, listener, 7000);
    bench.submit(1, Op::Accept { listener });
    let op = bench.recv_op(server, 10);
    bench.submit(1, op);
    let op = bench.recv_op(client, 10);
    bench.submit(0, op);
    bench.run(SECOND);
    assert_eq!(bench.pool.available(), all - 2);
    bench.power_cut(1);
    assert_eq!(bench.pool.available(), all - 1);
    assert_eq!((bench.sim.outstanding(bench.hosts[1]), bench.sim.open_handles(bench.hosts[1])), (0, 0));
    // Leaving without ado ends a process, too.
    bench.ios[0] = None;
    assert!(!bench.sim.is_running(bench.hosts[0]));
    assert_eq!(bench.pool.available(), all);
    bench.ios[2] = None;
    assert_eq!(bench.sim.connections(), 0);
}

//! Listeners and connections.

use std::net::SocketAddr;

use kontiki_io::limits::MAX_ADDRESSES;
use kontiki_io::{Gather, HostName, IoBuf, IoErrorKind, MAX_PIECES, Op, Output, Piece};
use kontiki_mem::BLOCK_BYTES;

use super::desk::{BUFFER_BYTES, is_filled, pattern};
use super::{Desk, World};

/// Port zero becomes a port; each end sees the other's address.
pub fn both_ends_learn_their_addresses(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let asked = world.address();
    let (listener, addr) = desk.listen(asked);
    assert_eq!(addr.ip(), asked.ip());
    assert_ne!(addr.port(), 0);
    let accept = desk.submit(Op::Accept { listener });
    let connect = desk.submit(Op::Connect { addr });
    assert!(matches!(desk.wait(connect).result, Ok(Output::Opened(_))));
    let Ok(Output::Accepted(_, peer)) = desk.wait(accept).result else { panic!("not accepted") };
    assert_eq!(peer.ip(), addr.ip());
    assert_ne!(peer.port(), addr.port());
}

/// Heads and blocks alternating, of odd lengths, in one send.
pub fn a_gather_of_the_most_pieces_arrives_in_order(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (ours, theirs) = desk.pair(world);
    let head = desk.buffer(1);
    let block = desk.block(16 * BLOCK_BYTES, 2).freeze();
    let mut pieces = heapless::Vec::<Piece, MAX_PIECES>::new();
    let mut expected = Vec::new();
    for n in 0..MAX_PIECES as u32 {
        let (from, to) = (n * 7, n * 7 + 64 + n * 13);
        let piece = if n % 2 == 0 {
            expected.extend_from_slice(&head.bytes()[from as usize..to as usize]);
            Piece::Head(from, to)
        } else {
            let (from, to) = (from, to + n * 1000);
            expected.extend_from_slice(&block.bytes()[from as usize..to as usize]);
            Piece::Block(block.clone(), from, to)
        };
        pieces.push(piece).expect("room for every piece");
    }
    let token = desk.submit(Op::Send { socket: ours, gather: Gather { head, pieces } });
    assert!(desk.receive(theirs, expected.len(), BUFFER_BYTES) == expected, "the pieces arrived otherwise");
    assert!(matches!(desk.wait(token).result, Ok(Output::Done)));
    drop(block);
    assert_eq!(desk.pool.available(), 64, "the head came back");
    assert_eq!(desk.ring.held(), 0, "the blocks came back");
}

/// More than any socket buffer takes at once: whole, and not done before the reader read.
pub fn large_sends_pass_a_slow_reader(world: &mut dyn World) {
    const LEN: usize = 1 << 20;
    const SENDS: u8 = 6;
    let mut desk = Desk::new(world);
    let (ours, theirs) = desk.pair(world);
    for round in 0..SENDS {
        let op = desk.send(ours, LEN, round);
        let token = desk.submit(op);
        // The reader sleeps while the sender fills whatever there is to fill.
        for _ in 0..3 {
            desk.turn(1_000_000);
        }
        let all = desk.receive(theirs, LEN, 10_000);
        assert!(is_filled(&all, round), "round {round}");
        assert!(matches!(desk.wait(token).result, Ok(Output::Done)));
    }
    let stats = desk.io.stats();
    if stats.turns > 0 {
        assert_eq!(stats.bytes_sent, u64::from(SENDS) * LEN as u64);
        assert_eq!(stats.bytes_received, u64::from(SENDS) * LEN as u64);
    }
}

/// A send and a receive on each end, all outstanding together.
pub fn both_directions_at_once(world: &mut dyn World) {
    const LEN: usize = 1 << 20;
    let mut desk = Desk::new(world);
    let (ours, theirs) = desk.pair(world);
    let sends = [desk.send(ours, LEN, 1), desk.send(theirs, LEN, 2)].map(|op| desk.submit(op));
    let mut got = [Vec::new(), Vec::new()];
    let ends = [(theirs, 1), (ours, 2)];
    let mut receives = ends.map(|(socket, _)| {
        let op = desk.recv(socket, BUFFER_BYTES);
        Some(desk.submit(op))
    });
    while receives.iter().any(Option::is_some) {
        desk.turn(super::desk::PATIENCE_NS);
        for end in 0..2 {
            let Some(completion) = receives[end].and_then(|token| desk.try_take(token)) else { continue };
            let (Ok(Output::Bytes(count)), Some(buf)) = (completion.result, completion.buf) else { panic!("no bytes") };
            got[end].extend_from_slice(&buf.bytes()[..count]);
            drop(buf);
            receives[end] = (got[end].len() < LEN).then(|| {
                let op = desk.recv(ends[end].0, BUFFER_BYTES.min(LEN - got[end].len()));
                desk.submit(op)
            });
        }
    }
    for token in sends {
        assert!(matches!(desk.wait(token).result, Ok(Output::Done)));
    }
    for (end, (_, seed)) in ends.into_iter().enumerate() {
        assert!(is_filled(&got[end], seed));
    }
}

/// At `at`, at most `len`, and nothing around it is touched.
pub fn a_receive_lands_where_it_was_told(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (ours, theirs) = desk.pair(world);
    let op = desk.send(ours, BLOCK_BYTES, 4);
    desk.done(op);
    let block = desk.block(2 * BLOCK_BYTES, 0xc0);
    let (at, len) = (1234, 100);
    let token = desk.submit(Op::Recv { socket: theirs, buf: IoBuf::Block(block), at, len });
    let completion = desk.wait(token);
    let (Ok(Output::Bytes(count)), Some(IoBuf::Block(block))) = (completion.result, completion.buf) else {
        panic!("no bytes, or not the same memory")
    };
    assert!((1..=len).contains(&count));
    for (n, byte) in block.bytes().iter().enumerate() {
        let expected = if (at..at + count).contains(&n) { pattern(n - at, 4) } else { pattern(n, 0xc0) };
        assert_eq!(*byte, expected, "byte {n}");
    }
}

/// After everything that was sent before.
pub fn a_closed_peer_is_the_end_of_the_stream(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (ours, theirs) = desk.pair(world);
    let op = desk.send(ours, BLOCK_BYTES, 4);
    desk.done(op);
    desk.close(ours);
    assert!(is_filled(&desk.receive(theirs, BLOCK_BYTES, BLOCK_BYTES), 4));
    for _ in 0..2 {
        let op = desk.recv(theirs, 100);
        let token = desk.submit(op);
        let completion = desk.wait(token);
        assert!(matches!(completion.result, Ok(Output::Bytes(0))), "{completion:?}");
        assert!(completion.buf.is_some());
    }
}

/// A port that was free a moment ago.
pub fn nobody_listening_is_refused(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (listener, addr) = desk.listen(world.address());
    desk.close(listener);
    assert_eq!(desk.fails(Op::Connect { addr }), IoErrorKind::Refused);
}

/// While its listener lives.
pub fn a_taken_address_is_in_use(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (_listener, addr) = desk.listen(world.address());
    assert_eq!(desk.fails(Op::Listen { addr }), IoErrorKind::AddressInUse);
}

/// And whatever is submitted afterwards; the memory comes back; the peer sees the end.
pub fn a_shutdown_cancels_a_receive(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (ours, theirs) = desk.pair(world);
    let op = desk.recv(ours, 100);
    let token = desk.submit(op);
    desk.turn(1_000_000);
    assert!(desk.try_take(token).is_none());
    desk.done(Op::Shutdown { socket: ours });
    for round in 0..2 {
        let token = if round == 0 {
            token
        } else {
            let op = desk.recv(ours, 100);
            desk.submit(op)
        };
        let completion = desk.wait(token);
        assert_eq!(completion.result.expect_err("cancelled").kind, IoErrorKind::Canceled);
        assert!(completion.buf.is_some(), "the memory came back");
    }
    let op = desk.send(ours, BLOCK_BYTES, 1);
    assert_eq!(desk.fails(op), IoErrorKind::Canceled);
    let op = desk.recv(theirs, 100);
    assert!(matches!(desk.run(op), Ok(Output::Bytes(0))));
    desk.close(ours);
    desk.close(theirs);
}

/// One that waits for a peer who does not read.
pub fn a_shutdown_cancels_a_blocked_send(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (ours, _theirs) = desk.pair(world);
    let mut sent = 0usize;
    let blocked = loop {
        assert!(sent < 256 << 20, "{sent} bytes went to a peer who reads nothing");
        let op = desk.send(ours, 1 << 20, 1);
        let token = desk.submit(op);
        let mut turns = 0;
        let completion = loop {
            desk.turn(5_000_000);
            turns += 1;
            match desk.try_take(token) {
                None if turns < 20 => {}
                other => break other,
            }
        };
        match completion {
            Some(completion) => assert!(matches!(completion.result, Ok(Output::Done))),
            None => break token,
        }
        sent += 1 << 20;
    };
    desk.done(Op::Shutdown { socket: ours });
    assert_eq!(desk.wait(blocked).result.expect_err("cancelled").kind, IoErrorKind::Canceled);
    desk.close(ours);
    assert_eq!(desk.ring.held(), 0, "the memory came back");
}

/// The one outstanding, and those submitted later.
pub fn a_shutdown_cancels_an_accept(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (listener, _) = desk.listen(world.address());
    let accept = desk.submit(Op::Accept { listener });
    desk.turn(1_000_000);
    desk.done(Op::Shutdown { socket: listener });
    assert_eq!(desk.wait(accept).result.expect_err("cancelled").kind, IoErrorKind::Canceled);
    assert_eq!(desk.fails(Op::Accept { listener }), IoErrorKind::Canceled);
    desk.close(listener);
}

/// A peer that closes with bytes unread resets the connection, in the middle of a send.
pub fn a_reset_disconnects_a_send(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (ours, theirs) = desk.pair(world);
    let mut theirs = Some(theirs);
    for round in 0..200 {
        let op = desk.send(ours, 1 << 20, 1);
        let token = desk.submit(op);
        if round == 2 || round > 2 && theirs.is_some() {
            desk.turn(1_000_000);
            desk.close(theirs.take().expect("open until now"));
        }
        if theirs.is_some() {
            // Whatever the socket took or did not take: the peer never reads.
            desk.turn(20_000_000);
            match desk.try_take(token) {
                Some(completion) => assert!(matches!(completion.result, Ok(Output::Done))),
                None => {
                    desk.close(theirs.take().expect("open until now"));
                    assert_eq!(desk.wait(token).result.expect_err("reset").kind, IoErrorKind::Disconnected);
                    break;
                }
            }
        } else {
            match desk.wait(token).result {
                Ok(_) => continue,
                Err(error) => {
                    assert_eq!(error.kind, IoErrorKind::Disconnected);
                    break;
                }
            }
        }
        assert!(round < 199, "the reset was never noticed");
    }
    desk.close(ours);
    assert_eq!(desk.ring.held(), 0, "the memory came back");
}

/// Each with a receive outstanding; each gets its own bytes.
pub fn many_connections_at_once(world: &mut dyn World) {
    const COUNT: usize = 30;
    let mut desk = Desk::with_capacity(world, 256);
    let (listener, addr) = desk.listen(world.address());
    let pairs: Vec<_> = (0..COUNT).map(|_| desk.connect(listener, addr)).collect();
    let receives: Vec<_> = pairs
        .iter()
        .map(|(_, theirs)| {
            let op = desk.recv(*theirs, 100);
            desk.submit(op)
        })
        .collect();
    desk.turn(0);
    let sends: Vec<_> = pairs
        .iter()
        .enumerate()
        .rev()
        .map(|(n, (ours, _))| {
            let mut head = desk.pool.take().expect("a buffer");
            head.bytes_mut()[..2].copy_from_slice(&[n as u8, 0x5a]);
            let mut pieces = heapless::Vec::new();
            pieces.push(Piece::Head(0, 2)).expect("room for one");
            desk.submit(Op::Send { socket: *ours, gather: Gather { head, pieces } })
        })
        .collect();
    for (n, token) in receives.into_iter().enumerate() {
        let completion = desk.wait(token);
        let (Ok(Output::Bytes(count)), Some(buf)) = (completion.result, completion.buf) else { panic!("no bytes") };
        assert!(count >= 1 && buf.bytes()[0] == n as u8);
    }
    for token in sends {
        assert!(matches!(desk.wait(token).result, Ok(Output::Done)));
    }
}

/// As a restarted node does, with connections of its former life still about.
pub fn an_address_can_be_taken_again(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (listener, addr) = desk.listen(world.address());
    let (ours, theirs) = desk.connect(listener, addr);
    desk.close(theirs);
    desk.close(listener);
    let (again, found) = desk.listen(addr);
    assert_eq!(found, addr);
    let (ours2, _) = desk.connect(again, addr);
    assert_ne!(ours, ours2);
}

/// A name the world knows, an address as text, and what nobody knows.
pub fn a_name_is_looked_up(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (name, ip) = world.name();
    let lookup = |desk: &mut Desk, host: &HostName, port| match desk.run(Op::Resolve { host: host.clone(), port }) {
        Ok(Output::Addresses(addresses)) => addresses,
        other => panic!("{host}: {other:?}"),
    };
    let found = lookup(&mut desk, &name, 4567);
    assert!(found.contains(&SocketAddr::new(ip, 4567)), "{name}: {found:?}");
    assert!(found.len() <= MAX_ADDRESSES && found.iter().all(|address| address.port() == 4567));
    for text in ["10.1.2.3", "::1", "[::1]"] {
        let host = HostName::new(text).expect("a good name");
        let ip = host.address().expect("an address");
        assert_eq!(lookup(&mut desk, &host, 1), [SocketAddr::new(ip, 1)]);
    }
    // RFC 2606 keeps it free of hosts.
    let nobody = HostName::new("nobody.invalid").expect("a good name");
    assert_eq!(desk.fails(Op::Resolve { host: nobody, port: 1 }), IoErrorKind::NotFound);
    assert_eq!(lookup(&mut desk, &name, 1).len(), found.len(), "a failure is not remembered");
}

/// As many lookups as may be outstanding, and files and connections go on beside them; all of them end.
pub fn a_lookup_holds_up_nothing(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (name, _) = world.name();
    let lookups: Vec<_> = (0..40).map(|port| desk.submit(Op::Resolve { host: name.clone(), port })).collect();
    let dir = desk.dir(world.directory());
    let file = desk.allocated(dir, "data", BLOCK_BYTES as u64);
    let op = desk.write(file, 0, BLOCK_BYTES, 1, true);
    desk.done(op);
    desk.pair(world);
    for (port, token) in lookups.into_iter().enumerate() {
        match desk.wait(token).result {
            Ok(Output::Addresses(found)) => assert!(found.iter().all(|address| usize::from(address.port()) == port)),
            other => panic!("{other:?}"),
        }
    }
    // Dropped with lookups under way, it does not wait for them.
    for port in 0..20 {
        desk.submit(Op::Resolve { host: name.clone(), port });
    }
}

//! Turns: time, deadlines, the bell, and the bounds of a submitter.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kontiki_io::{IoBuf, IoData, Op};
use kontiki_mem::BLOCK_BYTES;

use super::desk::PATIENCE_NS;
use super::{Desk, World};

/// Never back.
pub fn time_moves_on(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let mut last = desk.io.now();
    for _ in 0..1000 {
        desk.turn(0);
        let now = desk.io.now();
        assert!(now >= last);
        last = now;
    }
    assert!(desk.io.wall_ns() > 1_500_000_000_000_000_000, "before 2017");
}

/// Neither without a deadline nor with one that is over, with an operation outstanding that never ends.
pub fn no_deadline_is_no_waiting(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (ours, _theirs) = desk.pair(world);
    let op = desk.recv(ours, 100);
    let token = desk.submit(op);
    let start = desk.io.now();
    let mut done = Vec::new();
    for _ in 0..100 {
        desk.io.turn(None, &mut done).expect("turn");
        desk.io.turn(Some(start), &mut done).expect("turn");
    }
    assert!(done.is_empty());
    assert!(desk.io.now().since(start) < PATIENCE_NS / 2);
    assert!(desk.try_take(token).is_none());
}

/// Not before its time, and without a completion.
pub fn a_deadline_ends_a_turn(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let (ours, _theirs) = desk.pair(world);
    // With nothing but the bell outstanding, and with a receive that never ends.
    for round in 0..2 {
        if round == 1 {
            let op = desk.recv(ours, 100);
            desk.submit(op);
        }
        for wait_ns in [1, 1_000, 1_500_000, 20_000_000] {
            let until = desk.io.now().plus_ns(wait_ns);
            let mut done = Vec::new();
            desk.io.turn(Some(until), &mut done).expect("turn");
            assert!(done.is_empty());
            assert!(desk.io.now() >= until, "{wait_ns} ns: woken before its time, with nothing to show");
        }
    }
}

/// One that began before the turn did; the turn after it sleeps again.
pub fn a_ring_ends_the_next_turn_once(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let bell = desk.io.bell();
    for _ in 0..50 {
        bell.wake();
        bell.wake();
        let start = desk.io.now();
        desk.turn(PATIENCE_NS);
        assert!(desk.io.now().since(start) < PATIENCE_NS / 2, "the ring was not heard");
        let until = desk.io.now().plus_ns(1_000_000);
        let mut done = Vec::new();
        desk.io.turn(Some(until), &mut done).expect("turn");
        assert!(desk.io.now() >= until, "one ring ended two turns");
    }
}

/// And not one less.
pub fn one_more_than_the_capacity_panics(world: &mut dyn World) {
    let mut desk = Desk::with_capacity(world, 8);
    let dir = desk.dir(world.directory());
    let file = desk.allocated(dir, "data", BLOCK_BYTES as u64);
    for _ in 0..desk.io.capacity() {
        desk.submit(Op::Sync { file });
    }
    assert!(catch_unwind(AssertUnwindSafe(|| desk.submit(Op::Sync { file }))).is_err());
}

/// Where one file system would refuse and another let it pass.
pub fn misaligned_transfers_panic(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let file = desk.allocated(dir, "data", 4 * BLOCK_BYTES as u64);
    let write = |desk: &mut Desk, offset, len| {
        let buf = desk.buffer(1);
        Op::Write { file, offset, data: IoData::Pool(buf, len), durable: false }
    };
    let bad = [write(&mut desk, 512, BLOCK_BYTES), write(&mut desk, 0, 100), write(&mut desk, 0, 0), {
        let buf = IoBuf::Pool(desk.buffer(1));
        Op::Read { file, offset: 1, buf, len: BLOCK_BYTES }
    }];
    for op in bad {
        let what = format!("{op:?}");
        assert!(catch_unwind(AssertUnwindSafe(|| desk.submit(op))).is_err(), "{what} passed");
    }
}

/// An `Io` that is dropped in the middle of everything keeps no memory, and gives none back early.
pub fn dropping_with_operations_outstanding_gives_memory_back(world: &mut dyn World) {
    for turned in [true, false] {
        let mut desk = Desk::new(world);
        let (ours, theirs) = desk.pair(world);
        let dir = desk.dir(world.directory());
        let file = desk.allocated(dir, "data", 1 << 20);
        for n in 0..8 {
            let op = desk.write(file, n << 16, 1 << 16, n as u8, n % 2 == 0);
            desk.submit(op);
        }
        let op = desk.recv(ours, 1000);
        desk.submit(op);
        let block = desk.block(1 << 16, 9);
        desk.submit(Op::Recv { socket: theirs, buf: IoBuf::Block(block), at: 0, len: 1 << 16 });
        let send = desk.send(theirs, 4 << 20, 1);
        desk.submit(send);
        if turned {
            desk.turn(0);
        }
        let Desk { io, mut ring, pool, done, .. } = desk;
        drop((io, done));
        assert_eq!(ring.held(), 0, "ring memory came back");
        assert_eq!(pool.available(), 64, "pool memory came back");
    }
}

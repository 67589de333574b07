//! `Io::poll_fd`: a foreign event loop sleeps on the descriptor, and turns without waiting.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::fd::RawFd;

use common::{dir, file, pair, worlds};
use kontiki_io::{Completion, Gather, Io, IoBuf, IoData, Op, Output, Piece, Token, open};
use kontiki_mem::Pool;

/// Whether the descriptor becomes readable within `wait_ms`.
fn readable(fd: RawFd, wait_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, wait_ms) == 1 }
}

/// What such a loop does: sleep on the descriptor, turn, look.
fn poll_until(io: &mut dyn Io, fd: RawFd, done: &mut Vec<Completion>, token: u64) -> Completion {
    for _ in 0..10_000 {
        if let Some(at) = done.iter().position(|completion| completion.token.0 == token) {
            return done.swap_remove(at);
        }
        assert!(readable(fd, 60_000), "asleep, with {token} to find");
        io.turn(None, done).unwrap();
    }
    panic!("readable without end, and {token} not found");
}

/// Readiness must end, or the loop spins.
fn quiet(io: &mut dyn Io, fd: RawFd) {
    let mut done = Vec::new();
    for _ in 0..1000 {
        if !readable(fd, 0) {
            assert!(done.is_empty());
            return;
        }
        io.turn(None, &mut done).unwrap();
    }
    panic!("readable without end, and nothing to find");
}

#[test]
fn the_descriptor_is_readable_for_all_that_a_turn_would_find() {
    for (world, options) in worlds() {
        let pool = Pool::new(8, 4096);
        let mut io = open(&options, &[]).unwrap();
        let io = io.as_mut();
        let (_path, dir) = dir(io);
        let file = file(io, dir, 1 << 16);
        let (ours, theirs) = pair(io);
        let fd = io.poll_fd().unwrap();
        let bell = io.bell();
        let mut done = Vec::new();
        for round in 0..50 {
            // The disk's.
            let data = IoData::Pool(pool.take().unwrap(), 4096);
            io.submit(Token(1), Op::Write { file, offset: 4096, data, durable: round % 2 == 0 });
            io.turn(None, &mut done).unwrap();
            assert!(poll_until(io, fd, &mut done, 1).result.is_ok(), "{world}");
            // The network's: the receive sleeps first.
            let buf = IoBuf::Pool(pool.take().unwrap());
            io.submit(Token(2), Op::Recv { socket: theirs, buf, at: 0, len: 4096 });
            io.turn(None, &mut done).unwrap();
            quiet(io, fd);
            let mut pieces = heapless::Vec::new();
            pieces.push(Piece::Head(0, 100)).unwrap();
            io.submit(Token(3), Op::Send { socket: ours, gather: Gather { head: pool.take().unwrap(), pieces } });
            io.turn(None, &mut done).unwrap();
            assert!(matches!(poll_until(io, fd, &mut done, 2).result, Ok(Output::Bytes(100))), "{world}");
            assert!(poll_until(io, fd, &mut done, 3).result.is_ok(), "{world}");
            // The bell's, from another thread while the loop sleeps, and from this one before it does.
            quiet(io, fd);
            let ringer = std::thread::spawn({
                let bell = bell.clone();
                move || bell.wake()
            });
            assert!(readable(fd, 60_000), "{world}: the ring did not reach the descriptor");
            io.turn(None, &mut done).unwrap();
            ringer.join().unwrap();
            quiet(io, fd);
            bell.wake();
            assert!(readable(fd, 60_000), "{world}: the ring did not reach the descriptor");
            io.turn(None, &mut done).unwrap();
            assert!(done.is_empty());
        }
    }
}

//! One `Io`, several threads: who may turn it, and where it may end.
#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE_NS, dir, pair, run, wait, worlds};
use kontiki_io::{Backend, Io, IoBuf, Op, Options, Output, Region, Token, open};
use kontiki_mem::{Pool, Ring};

#[test]
fn the_first_thread_to_turn_need_not_be_the_one_that_opened() {
    for (world, options) in worlds() {
        let mut io = open(&options, &[]).unwrap();
        let bell = io.bell();
        std::thread::spawn(move || {
            let io = io.as_mut();
            let (_path, dir) = dir(io);
            assert!(matches!(run(io, Op::SyncDir { dir }), Ok(Output::Done)), "{world}");
            bell.wake();
            let start = io.now();
            io.turn(Some(start.plus_ns(PATIENCE_NS)), &mut Vec::new()).unwrap();
            assert!(io.now().since(start) < PATIENCE_NS / 2);
        })
        .join()
        .unwrap();
    }
}

#[test]
fn ended_on_its_own_thread_it_gives_all_memory_back() {
    for (_, options) in worlds() {
        let pool = Pool::new(4, 4096);
        let mut io = open(&options, &[]).unwrap();
        let (ours, theirs) = pair(io.as_mut());
        for (token, socket) in [(1, ours), (2, theirs)] {
            io.submit(Token(token), Op::Recv { socket, buf: IoBuf::Pool(pool.take().unwrap()), at: 0, len: 4096 });
        }
        io.turn(None, &mut Vec::new()).unwrap();
        drop(io);
        assert_eq!(pool.available(), 4);
    }
}

/// A ring that another thread owns cannot be drained, so what the kernel may still write into is never reused.
#[test]
fn ended_on_another_thread_it_keeps_what_the_kernel_may_write() {
    let mut ring = Ring::new(1 << 20, 16).unwrap();
    let options = Options { backend: Backend::Uring, ..Options::default() };
    let Ok(mut io) = open(&options, &[Region::ring(&ring)]) else { return };
    if !io.describe().contains("deferred completions") {
        return;
    }
    let (ours, _theirs) = pair(io.as_mut());
    let block = ring.reserve(4096).unwrap();
    io.submit(Token(1), Op::Recv { socket: ours, buf: IoBuf::Block(block), at: 0, len: 4096 });
    io.turn(None, &mut Vec::new()).unwrap();
    std::thread::spawn(move || drop(io)).join().unwrap();
    assert_eq!(ring.held(), 4096, "memory came back while the kernel held it");
}

#[test]
fn a_handle_that_was_closed_names_nothing() {
    for (world, options) in worlds() {
        let pool = Pool::new(4, 4096);
        let mut io = open(&options, &[]).unwrap();
        let io = io.as_mut();
        let (ours, _) = pair(io);
        assert!(run(io, Op::Close { handle: ours }).is_ok());
        let (again, _) = pair(io);
        assert_ne!(ours, again);
        let buf = IoBuf::Pool(pool.take().unwrap());
        let completion = wait(io, Op::Recv { socket: ours, buf, at: 0, len: 100 });
        assert!(completion.result.is_err() && completion.buf.is_some(), "{world}: {completion:?}");
        assert!(run(io, Op::Shutdown { socket: ours }).is_err());
        assert!(run(io, Op::Close { handle: ours }).is_err());
        assert!(run(io, Op::SyncDir { dir: again }).is_err(), "{world}: a connection is no directory");
    }
}

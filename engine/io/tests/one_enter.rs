//! A turn is one system call, and a turn with nothing to do is none.
#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE_NS, dir, file, pair};
use kontiki_io::{Backend, Gather, IoBuf, IoData, Op, Options, Piece, Token, open};
use kontiki_mem::Pool;

#[test]
fn a_turn_enters_the_kernel_once_at_most() {
    let options = Options { backend: Backend::Uring, ..Options::default() };
    let Ok(mut io) = open(&options, &[]) else { return };
    let pool = Pool::new(8, 4096);
    let io = io.as_mut();
    let (_path, dir) = dir(io);
    let file = file(io, dir, 1 << 16);
    let (ours, theirs) = pair(io);
    let mut done = Vec::new();
    let before = io.stats();
    for _ in 0..100 {
        let buf = IoBuf::Pool(pool.take().unwrap());
        io.submit(Token(1), Op::Recv { socket: theirs, buf, at: 0, len: 100 });
        let data = IoData::Pool(pool.take().unwrap(), 4096);
        io.submit(Token(2), Op::Write { file, offset: 0, data, durable: true });
        let mut pieces = heapless::Vec::new();
        pieces.push(Piece::Head(0, 100)).unwrap();
        pieces.push(Piece::Head(200, 300)).unwrap();
        io.submit(Token(3), Op::Send { socket: ours, gather: Gather { head: pool.take().unwrap(), pieces } });
        let buf = IoBuf::Pool(pool.take().unwrap());
        let until = io.now().plus_ns(PATIENCE_NS);
        while done.len() < 3 {
            io.turn(Some(until), &mut done).unwrap();
        }
        done.clear();
        io.submit(Token(4), Op::Recv { socket: theirs, buf, at: 0, len: 100 });
        while done.is_empty() {
            io.turn(Some(until), &mut done).unwrap();
        }
        done.clear();
    }
    let after = io.stats();
    assert_eq!(after.continued, before.continued, "nothing came up short");
    let (turns, enters) = (after.turns - before.turns, after.enters - before.enters);
    assert!(enters <= turns, "{enters} enters in {turns} turns");
    assert!(turns <= 100 * 4, "{turns} turns for 400 operations");

    // Where the kernel says in the ring when it has work, looking costs nothing.
    if !io.describe().contains("without deferred completions") {
        io.turn(None, &mut done).unwrap();
        let before = io.stats().enters;
        for _ in 0..1000 {
            io.turn(None, &mut done).unwrap();
        }
        assert!(done.is_empty());
        assert_eq!(io.stats().enters, before);
    }
}

//! After its start, moving bytes allocates nothing: on the reactor's thread and on the file worker's.
//!
//! One test alone in its process, since the allocator counts for all threads.
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{PATIENCE_NS, dir, file, pair, worlds};
use kontiki_io::{Completion, Gather, Io, IoBuf, IoData, Op, Piece, Region, Token, open};
use kontiki_mem::{Pool, Ring, Span};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above; every block came from the system's allocator.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One of each operation of the hot path, outstanding together.
fn round(
    io: &mut dyn Io,
    ring: &mut Ring,
    pool: &Pool,
    files: [kontiki_io::Handle; 2],
    ends: (kontiki_io::Handle, kontiki_io::Handle),
    done: &mut Vec<Completion>,
) {
    let block = ring.reserve(16_384).unwrap().freeze();
    for (n, file) in files.into_iter().enumerate() {
        let data = IoData::Span(Span::one(block.clone()));
        io.submit(Token(n as u64), Op::Write { file, offset: 16_384, data, durable: true });
        io.submit(Token(2), Op::Write { file, offset: 0, data: IoData::Pool(pool.take().unwrap(), 4096), durable: n == 1 });
    }
    io.submit(Token(3), Op::Sync { file: files[0] });
    io.submit(Token(4), Op::Read { file: files[0], offset: 8192, buf: IoBuf::Block(ring.reserve(4096).unwrap()), len: 4096 });
    let mut pieces = heapless::Vec::new();
    for _ in 0..8 {
        pieces.push(Piece::Head(0, 64)).unwrap();
        pieces.push(Piece::Block(block.clone(), 64, 16_384)).unwrap();
    }
    io.submit(Token(5), Op::Send { socket: ends.0, gather: Gather { head: pool.take().unwrap(), pieces } });
    drop(block);
    let mut left = 8 * 16_384;
    let mut outstanding = 7;
    let until = io.now().plus_ns(PATIENCE_NS);
    let recv = |io: &mut dyn Io, left: usize| {
        let buf = IoBuf::Pool(pool.take().unwrap());
        io.submit(Token(6), Op::Recv { socket: ends.1, buf, at: 0, len: left.min(4096) });
    };
    recv(io, left);
    outstanding += 1;
    while outstanding > 0 {
        assert!(io.now() < until, "never completed");
        io.turn(Some(until), done).unwrap();
        while let Some(completion) = done.pop() {
            outstanding -= 1;
            match (completion.token.0, completion.result) {
                (6, Ok(kontiki_io::Output::Bytes(count))) => {
                    drop(completion.buf);
                    left -= count;
                    if left > 0 {
                        recv(io, left);
                        outstanding += 1;
                    }
                }
                (_, Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(left, 0);
}

#[test]
fn moving_bytes_allocates_nothing() {
    for (world, options) in worlds() {
        let mut ring = Ring::new(1 << 20, 64).unwrap();
        let pool = Pool::new(8, 4096);
        let mut io = open(&options, &[Region::ring(&ring)]).unwrap();
        let io = io.as_mut();
        let (_one, first) = dir(io);
        let (_two, second) = dir(io);
        let files = [file(io, first, 1 << 20), file(io, second, 1 << 20)];
        let ends = pair(io);
        let bell = io.bell();
        let mut done = Vec::with_capacity(io.capacity());
        // Threads of the standard library make their parts at first use.
        for _ in 0..3 {
            round(io, &mut ring, &pool, files, ends, &mut done);
        }
        let before = COUNT.load(Ordering::Relaxed);
        for _ in 0..200 {
            bell.wake();
            round(io, &mut ring, &pool, files, ends, &mut done);
        }
        let allocated = COUNT.load(Ordering::Relaxed) - before;
        assert_eq!(allocated, 0, "{world}: allocations in 200 rounds");
        let stats = io.stats();
        assert!(stats.bytes_sent >= 200 * 8 * 16_384, "{stats:?}");
    }
}

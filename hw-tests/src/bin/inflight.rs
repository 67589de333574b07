//! Locks a directory, makes a file, and on a line from standard input leaves one long durable write under way: what
//! `tests/killed.rs` kills.
//!
//! `inflight DIR BACKEND BYTES`, where the backend is one of those of `tests/io_conformance.rs`.
#![allow(clippy::print_stdout)] // It talks to the test.

use std::time::Duration;

use kontiki_hw_tests::backends;
use kontiki_io::{Completion, Handle, Io, IoData, Name, Op, Output, Token, open};
use kontiki_mem::Pool;

fn call(io: &mut dyn Io, op: Op) -> Output {
    io.submit(Token(1), op);
    let mut done: Vec<Completion> = Vec::new();
    while done.is_empty() {
        let until = io.now().plus_ns(1_000_000_000);
        io.turn(Some(until), &mut done).expect("turn");
    }
    done.remove(0).result.expect("what was asked for")
}

fn handle(output: Output) -> Handle {
    match output {
        Output::Opened(handle) | Output::File(handle, _) => handle,
        other => panic!("{other:?}"),
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().expect("DIR BACKEND BYTES");
    let (dir, backend, bytes) = (argument(), argument(), argument());
    let bytes: usize = bytes.parse().expect("a number of bytes");
    let (_, options) = backends().into_iter().find(|(name, _)| *name == backend).expect("one of the backends");
    let mut io = open(&options, &[]).expect("a backend");
    let io = io.as_mut();
    let pool = Pool::new(1, bytes);
    let dir = handle(call(io, Op::OpenDir { path: dir.into(), create: true }));
    handle(call(io, Op::Lock { dir, name: name("kontiki.lock") }));
    let file = handle(call(io, Op::Open { dir, name: name("file"), create: true }));
    call(io, Op::Allocate { file, len: bytes as u64 });
    // Written once, so that the write to come changes nothing but data.
    let zeros = pool.take().expect("a buffer");
    call(io, Op::Write { file, offset: 0, data: IoData::Pool(zeros, bytes), durable: true });
    call(io, Op::Sync { file });
    call(io, Op::SyncDir { dir });
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).expect("a line");
    let mut buf = pool.take().expect("a buffer");
    buf.bytes_mut().fill(0xab);
    io.submit(Token(2), Op::Write { file, offset: 0, data: IoData::Pool(buf, bytes), durable: true });
    let mut done = Vec::new();
    // Time for it to get to the disk.
    let until = io.now().plus_ns(100_000_000);
    io.turn(Some(until), &mut done).expect("turn");
    println!("under way");
    loop {
        let until = io.now().plus_ns(1_000_000_000);
        io.turn(Some(until), &mut done).expect("turn");
        if !done.is_empty() {
            println!("done");
            std::thread::sleep(Duration::from_secs(600));
        }
    }
}

//! A process without descriptors: told at start, waited out while it runs. A process of its own, since limits are a
//! process's.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;

use common::{dir, name, opened, run, worlds};
use kontiki_io::{IoErrorKind, Op, OpenError, Options, Output, Token, open};

fn limits() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` has room for the answer.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit
}

fn set(soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is readable across the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// Every descriptor there is.
fn use_up() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// One test, in order: the last limit cannot be taken back by everybody.
#[test]
fn descriptors_are_counted_raised_refused_and_waited_for() {
    let hard = limits().rlim_max;
    for (world, options) in worlds() {
        set(64, hard);
        drop(open(&Options { descriptors: 200, ..options }, &[]).unwrap());
        assert!(limits().rlim_cur >= 200, "{world}: {}", limits().rlim_cur);
    }
    set(64, 64);
    for (world, options) in worlds() {
        match open(&Options { descriptors: 200, ..options.clone() }, &[]) {
            Err(OpenError::Descriptors { needed, limit: 64 }) => assert!((200..300).contains(&needed), "{world}: {needed}"),
            Err(other) => panic!("{world}: {other}"),
            Ok(_) => panic!("{world}: 200 descriptors, of 64"),
        }
        while_running(world, &options);
    }
}

fn while_running(world: &str, options: &Options) {
    let mut io = open(options, &[]).unwrap();
    let io = io.as_mut();
    let (_path, dir) = dir(io);
    let Ok(Output::Listening(listener, addr)) = run(io, Op::Listen { addr: ([127, 0, 0, 1], 0).into() }) else { panic!("{world}") };
    // One connection waits to be accepted, from outside of this `Io`.
    let knocking = std::net::TcpStream::connect(addr).unwrap();
    let file = opened(run(io, Op::Open { dir, name: name("before"), create: true }));
    let none = use_up();
    let short = |result: Result<Output, kontiki_io::IoError>, what: &str| match result {
        Err(error) => {
            assert_eq!(error.kind, IoErrorKind::Shortage, "{world}: {what}: {error}");
            assert!(error.to_string().contains("file descriptors"), "{world}: {what}: {error}");
        }
        Ok(output) => panic!("{world}: {what} gave {output:?} without a descriptor"),
    };
    for round in 0..3 {
        short(run(io, Op::Open { dir, name: name("new"), create: true }), "open");
        short(run(io, Op::List { dir }), "list");
        short(run(io, Op::Lock { dir, name: name("lock") }), "lock");
        short(run(io, Op::Identify { dir }), "identify");
        short(run(io, Op::Connect { addr }), "connect");
        short(run(io, Op::Listen { addr: ([127, 0, 0, 1], 0).into() }), "listen");
        short(run(io, Op::OpenDir { path: ".".into(), create: false }), "open a directory");
        if round == 0 {
            short(run(io, Op::Accept { listener }), "accept");
        }
        // What is open goes on.
        assert!(matches!(run(io, Op::Allocate { file, len: 4096 }), Ok(Output::Done)), "{world}");
        assert!(matches!(run(io, Op::Sync { file }), Ok(Output::Done)), "{world}");
    }
    drop(none);
    opened(run(io, Op::Open { dir, name: name("new"), create: true }));
    assert!(matches!(run(io, Op::Accept { listener }), Ok(Output::Accepted(..))), "{world}: the connection waited on");
    opened(run(io, Op::Lock { dir, name: name("lock") }));
    io.submit(Token(1), Op::Identify { dir });
    io.turn(None, &mut Vec::new()).unwrap();
    drop(knocking);
}

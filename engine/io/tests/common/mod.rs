//! What the tests of this crate share. The checks of meaning are the conformance suite's, in `hw-tests`.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

use std::process::Command;

use kontiki_io::{Backend, Completion, Handle, Io, IoError, Name, Op, Options, Output, Token, Without, open};

/// Ten minutes: what must come, comes before.
pub const PATIENCE_NS: u64 = 600_000_000_000;

/// Every way to run that this machine allows, with its name.
pub fn worlds() -> Vec<(&'static str, Options)> {
    let uring = Options { backend: Backend::Uring, ..Options::default() };
    let mut worlds = vec![
        ("portable", Options { backend: Backend::Portable, ..Options::default() }),
        ("portable, mapped", Options { backend: Backend::Portable, mmap_log: true, ..Options::default() }),
    ];
    match open(&uring, &[]) {
        Ok(_) => {
            worlds.push(("oldest io_uring", Options { without: Without::ALL, ..uring.clone() }));
            worlds.push(("io_uring", uring));
        }
        Err(error) => eprintln!("SKIPPED io_uring: {error}"),
    }
    worlds
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Submits and waits; nothing else may be outstanding that completes.
pub fn run(io: &mut dyn Io, op: Op) -> Result<Output, IoError> {
    wait(io, op).result
}

/// As [`run`], with the memory.
pub fn wait(io: &mut dyn Io, op: Op) -> Completion {
    let mut done = Vec::new();
    io.submit(Token(u64::MAX), op);
    let until = io.now().plus_ns(PATIENCE_NS);
    while done.is_empty() {
        assert!(io.now() < until, "never completed");
        io.turn(Some(until), &mut done).unwrap();
    }
    assert_eq!(done.len(), 1);
    done.pop().unwrap()
}

pub fn opened(output: Result<Output, IoError>) -> Handle {
    match output {
        Ok(Output::Opened(handle) | Output::File(handle, _) | Output::Listening(handle, _)) => handle,
        other => panic!("{other:?}"),
    }
}

/// A fresh directory and its handle.
pub fn dir(io: &mut dyn Io) -> (tempfile::TempDir, Handle) {
    let path = tempfile::tempdir().unwrap();
    let dir = opened(run(io, Op::OpenDir { path: path.path().to_path_buf(), create: false }));
    (path, dir)
}

/// A new file of `len` bytes.
pub fn file(io: &mut dyn Io, dir: Handle, len: u64) -> Handle {
    let file = opened(run(io, Op::Open { dir, name: name("data"), create: true }));
    assert!(matches!(run(io, Op::Allocate { file, len }), Ok(Output::Done)));
    file
}

/// A connection of an `Io` with itself.
pub fn pair(io: &mut dyn Io) -> (Handle, Handle) {
    let Ok(Output::Listening(listener, addr)) = run(io, Op::Listen { addr: ([127, 0, 0, 1], 0).into() }) else { panic!() };
    io.submit(Token(1), Op::Accept { listener });
    io.submit(Token(2), Op::Connect { addr });
    let mut done: Vec<Completion> = Vec::new();
    let until = io.now().plus_ns(PATIENCE_NS);
    while done.len() < 2 {
        assert!(io.now() < until, "never connected");
        io.turn(Some(until), &mut done).unwrap();
    }
    done.sort_by_key(|completion| completion.token.0);
    let mut ends = done.into_iter().map(|completion| match completion.result {
        Ok(Output::Accepted(handle, _) | Output::Opened(handle)) => handle,
        other => panic!("{other:?}"),
    });
    let (theirs, ours) = (ends.next().unwrap(), ends.next().unwrap());
    assert!(matches!(run(io, Op::Close { handle: listener }), Ok(Output::Done)));
    (ours, theirs)
}

/// Runs this test again in a process of its own, as a user without privileges, after the shell command `before`.
/// False if this is that process already, or if there is nobody to become: then the caller goes on itself, or says
/// why not.
pub fn elsewhere(test: &str, before: &str) -> Elsewhere {
    use std::os::unix::process::CommandExt;
    if std::env::var_os("KONTIKI_TEST_CHILD").is_some() {
        return Elsewhere::Here;
    }
    let binary = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{before} && exec \"$0\" \"$@\"")).arg(binary);
    command.args(["--exact", test, "--nocapture"]).env("KONTIKI_TEST_CHILD", "1").current_dir("/");
    if is_root() {
        // Nobody, whose number this is everywhere.
        command.uid(65_534).gid(65_534);
    }
    match command.output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            if !text.contains("running 1 test") {
                eprintln!("SKIPPED: this test cannot run as an unprivileged user: {text}");
                return Elsewhere::Done;
            }
            assert!(output.status.success(), "{text}");
            eprintln!("{text}");
        }
        Err(error) => eprintln!("SKIPPED: this test cannot run as an unprivileged user: {error}"),
    }
    Elsewhere::Done
}

#[derive(PartialEq, Eq)]
pub enum Elsewhere {
    Here,
    Done,
}

pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")))
}

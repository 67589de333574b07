//! What the machine may refuse: memory to lock, permission, space.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::process::Command;

use common::{Elsewhere, dir, elsewhere, file, is_root, name, opened, run, worlds};
use kontiki_io::{Backend, IoData, IoErrorKind, Op, OpenError, Options, Output, Region, open};
use kontiki_mem::{Pool, Ring};

/// With 64 KiB to lock, a ring of a mebibyte is not registered, and all works.
#[test]
fn without_lockable_memory_it_works_unregistered() {
    if elsewhere("without_lockable_memory_it_works_unregistered", "ulimit -l 64") == Elsewhere::Done {
        return;
    }
    let mut ring = Ring::new(1 << 20, 16).unwrap();
    let options = Options { backend: Backend::Uring, capacity: 64, ..Options::default() };
    let mut io = match open(&options, &[Region::ring(&ring)]) {
        Ok(io) => io,
        Err(OpenError::Uring { reason }) => {
            // Before 5.12 the ring itself counts as locked.
            eprintln!("SKIPPED: {reason}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(io.describe().contains("registered memory (RLIMIT_MEMLOCK is too low)"), "{}", io.describe());
    let io = io.as_mut();
    let (_path, dir) = dir(io);
    let file = file(io, dir, 1 << 16);
    let block = ring.reserve(4096).unwrap().freeze();
    let data = IoData::Span(kontiki_mem::Span::one(block));
    assert!(matches!(run(io, Op::Write { file, offset: 0, data, durable: true }), Ok(Output::Done)));
    eprintln!("{}", io.describe());
}

/// Root is above permissions, so this is for somebody else.
#[test]
fn a_directory_that_may_not_be_written_says_so() {
    if elsewhere("a_directory_that_may_not_be_written_says_so", "true") == Elsewhere::Done {
        return;
    }
    if is_root() {
        eprintln!("SKIPPED: root is above permissions");
        return;
    }
    for (world, options) in worlds() {
        let mut io = open(&options, &[]).unwrap();
        let io = io.as_mut();
        let dir = opened(run(io, Op::OpenDir { path: "/proc/self".into(), create: false }));
        let kind = run(io, Op::Open { dir, name: name("environ"), create: false }).unwrap_err().kind;
        assert_eq!(kind, IoErrorKind::Permission, "{world}");
        let path = std::path::PathBuf::from("/usr/kontiki-may-not");
        assert_eq!(run(io, Op::OpenDir { path, create: true }).unwrap_err().kind, IoErrorKind::Permission, "{world}");
        let dir = opened(run(io, Op::OpenDir { path: "/usr".into(), create: false }));
        let create = Op::Open { dir, name: name("kontiki-may-not"), create: true };
        assert_eq!(run(io, create).unwrap_err().kind, IoErrorKind::Permission, "{world}");
    }
}

/// No thread is to be had: one that must be there from the start is missed with its number; whatever finds out later
/// lacks something, and has not begun.
#[test]
fn without_threads_it_says_so() {
    if elsewhere("without_threads_it_says_so", "true") == Elsewhere::Done {
        return;
    }
    if is_root() {
        eprintln!("SKIPPED: root may have any number of threads");
        return;
    }
    let mut ring = open(&Options { backend: Backend::Uring, capacity: 64, ..Options::default() }, &[]);
    let before = ring.as_mut().ok().map(|io| {
        let (path, dir) = dir(io.as_mut());
        (path, dir, file(io.as_mut(), dir, 1 << 16))
    });
    let limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: `limit` is readable across the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &limit) }, 0);
    match open(&Options { backend: Backend::Portable, ..Options::default() }, &[]) {
        Err(error @ OpenError::Threads { limit: 1, .. }) => {
            let text = error.to_string();
            assert!(text.contains("may have 1 processes") && text.contains("pids.max"), "{text}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a thread was had all the same"),
    }
    let (Ok(mut io), Some((_path, dir, file))) = (ring, before) else {
        eprintln!("SKIPPED: no io_uring here");
        return;
    };
    let io = io.as_mut();
    let pool = Pool::new(1, 4096);
    for _ in 0..3 {
        let data = || IoData::Pool(pool.take().unwrap(), 4096);
        for (what, op) in [
            ("sync", Op::Sync { file }),
            ("sync a directory", Op::SyncDir { dir }),
            ("write", Op::Write { file, offset: 0, data: data(), durable: true }),
            ("rename", Op::Rename { dir, from: name("data"), to: name("data") }),
        ] {
            match run(io, op) {
                // Threads that are there already do what comes.
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind, IoErrorKind::Shortage, "{what}: {error}"),
            }
        }
    }
}

/// A small file system of its own, gone with this value.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(kind: &str) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let point = dir.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let script = match kind {
            "tmpfs" => format!("mount -t tmpfs -o size=2m none {point:?}"),
            _ => format!("truncate -s 8M {image:?} && mkfs.ext4 -q -O ^has_journal {image:?} && mount -o loop {image:?} {point:?}"),
        };
        match Command::new("sh").args(["-c", &script]).output() {
            Ok(output) if output.status.success() => Some(Small(dir)),
            Ok(output) => {
                eprintln!("SKIPPED {kind}: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("SKIPPED {kind}: {error}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path().join("mnt")).status();
    }
}

/// Space runs out, is told from failure, and comes back.
#[test]
fn a_full_file_system_says_full_and_recovers() {
    for kind in ["tmpfs", "ext4"] {
        for (world, options) in worlds() {
            let Some(small) = Small::mount(kind) else { break };
            let mut io = open(&options, &[]).unwrap();
            let io = io.as_mut();
            let pool = Pool::new(2, 1 << 16);
            let path = small.0.path().join("mnt");
            let dir = opened(run(io, Op::OpenDir { path, create: false }));
            // Reserving too much.
            let large = opened(run(io, Op::Open { dir, name: name("large"), create: true }));
            assert_eq!(run(io, Op::Allocate { file: large, len: 64 << 20 }).unwrap_err().kind, IoErrorKind::Full, "{kind}, {world}");
            run(io, Op::Allocate { file: large, len: 0 }).unwrap();
            // Writing what was not reserved.
            let file = opened(run(io, Op::Open { dir, name: name("data"), create: true }));
            let mut full = None;
            for n in 0..1000u64 {
                let data = IoData::Pool(pool.take().unwrap(), 1 << 16);
                if let Err(error) = run(io, Op::Write { file, offset: n << 16, data, durable: n % 2 == 0 }) {
                    full = Some((n, error.kind));
                    break;
                }
            }
            let (written, error) = full.unwrap();
            assert_eq!(error, IoErrorKind::Full, "{kind}, {world}");
            assert!(written > 4);
            assert_eq!(pool.available(), 2, "the memory came back");
            // Room again.
            run(io, Op::Allocate { file, len: 1 << 16 }).unwrap();
            run(io, Op::Sync { file }).unwrap();
            let data = IoData::Pool(pool.take().unwrap(), 1 << 16);
            assert!(run(io, Op::Write { file, offset: 0, data, durable: true }).is_ok(), "{kind}, {world}");
            for handle in [large, file, dir] {
                run(io, Op::Close { handle }).unwrap();
            }
        }
    }
}

#[test]
fn options_out_of_bounds_are_refused() {
    for options in [Options { capacity: 0, ..Options::default() }, Options { handles: 1 << 20, ..Options::default() }] {
        assert!(matches!(open(&options, &[]), Err(OpenError::Option { .. })), "{options:?}");
    }
}

#[test]
fn a_full_table_of_handles_fails_the_open_alone() {
    for (world, options) in worlds() {
        let mut io = open(&Options { handles: 3, ..options }, &[]).unwrap();
        let io = io.as_mut();
        let (_path, dir) = dir(io);
        let one = opened(run(io, Op::Open { dir, name: name("one"), create: true }));
        let _two = opened(run(io, Op::Open { dir, name: name("two"), create: true }));
        let error = run(io, Op::Open { dir, name: name("one"), create: false }).unwrap_err();
        assert_eq!(error.errno, 24, "{world}: EMFILE");
        run(io, Op::Close { handle: one }).unwrap();
        opened(run(io, Op::Open { dir, name: name("one"), create: false }));
    }
}

//! The conformance suite over the real backends: io_uring at its best and at its plainest, epoll with a worker,
//! with and without a mapped log.

#![allow(clippy::print_stderr)] // A skipped backend says why.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use kontiki_hw_tests::conformance::{CHECKS, THREADED, World};
use kontiki_io::{Backend, HostName, Io, OpenError, Options, Region, Without, open};
use tempfile::TempDir;

/// The machine this runs on, in a directory of its own (`KONTIKI_TEST_DIR`, or the system's for temporary files).
struct Machine {
    options: Options,
    dir: TempDir,
    dirs: usize,
}

impl World for Machine {
    fn open(&mut self, capacity: usize, memory: &[Region<'_>]) -> Box<dyn Io> {
        match open(&Options { capacity, ..self.options.clone() }, memory) {
            Ok(io) => io,
            Err(error) => panic!("{error}"),
        }
    }

    fn directory(&mut self) -> PathBuf {
        self.dirs += 1;
        self.dir.path().join(format!("d{}", self.dirs))
    }

    fn address(&mut self) -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    fn name(&mut self) -> (HostName, IpAddr) {
        (HostName::new("localhost").expect("a good name"), [127, 0, 0, 1].into())
    }
}

fn suite(options: Options) {
    match open(&options, &[]) {
        Ok(io) => eprintln!("{}", io.describe()),
        Err(OpenError::Uring { reason }) => {
            eprintln!("SKIPPED: {reason}");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let only = std::env::var("KONTIKI_CHECK").unwrap_or_default();
    for &(name, check) in CHECKS.iter().chain(THREADED) {
        if name.contains(&only) {
            eprintln!("  {name}");
            let dir = match std::env::var_os("KONTIKI_TEST_DIR") {
                Some(parent) => TempDir::new_in(parent),
                None => TempDir::new(),
            };
            check(&mut Machine { options: options.clone(), dir: dir.expect("a temporary directory"), dirs: 0 });
        }
    }
}

#[test]
fn uring() {
    suite(Options { backend: Backend::Uring, ..Options::default() });
}

#[test]
fn uring_as_on_the_oldest_kernel() {
    suite(Options { backend: Backend::Uring, without: Without::ALL, ..Options::default() });
}

#[test]
fn uring_without_registration() {
    let without = Without { registered_memory: true, registered_files: true, deferred: true, ..Without::default() };
    suite(Options { backend: Backend::Uring, without, ..Options::default() });
}

#[test]
fn portable() {
    suite(Options { backend: Backend::Portable, ..Options::default() });
}

#[test]
fn portable_with_a_mapped_log() {
    suite(Options { backend: Backend::Portable, mmap_log: true, ..Options::default() });
}

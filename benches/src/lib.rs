//! What measures Kontiki: the floor it is held against, logs without a node, what a machine is, and replicas in one
//! process.
//!
//! `kontiki bench` and the benches of this package share it; no part of the product depends on it.
#![forbid(unsafe_code)]

mod cluster;
mod core_load;
mod environment;
pub mod floor;
mod probe;
mod stored_log;
mod world;

use tempfile::TempDir;

pub use cluster::{Cluster, Counter};
pub use core_load::CoreLoad;
pub use environment::{Environment, guest_halt_poll_ns};
pub use probe::{Probe, probe};
pub use stored_log::{Recovery, Scan, StoredLog, scan};
pub use world::Failed;

/// A directory on the disk to be measured: `KONTIKI_BENCH_DIR`, or the system's temporary directory.
///
/// # Panics
/// If it cannot be made: a bench has nothing else to do then.
pub fn bench_dir() -> TempDir {
    match std::env::var_os("KONTIKI_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).expect("a directory in KONTIKI_BENCH_DIR"),
        None => tempfile::tempdir().expect("a temporary directory"),
    }
}

/// Says on which machine a bench runs, and what the bare machine takes for what a replica does.
#[allow(clippy::print_stderr, reason = "a bench speaks to the person who runs it")]
pub fn describe_machine() {
    // Benches of one run are programs of their own; each says it once.
    let dir = bench_dir();
    eprintln!("\n{}", Environment::here(dir.path()));
    match probe(dir.path()) {
        Ok(probe) => probe.rows().iter().for_each(|(name, value)| eprintln!("{name:>22}: {value}")),
        Err(error) => eprintln!("no probe: {error}"),
    }
    eprintln!();
}

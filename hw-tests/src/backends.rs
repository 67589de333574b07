//! The real backends, at their best and at their plainest.

use kontiki_io::{Backend, Options, Without};

/// Each with its name and how to open it; whether this machine has it, opening will say.
pub fn backends() -> [(&'static str, Options); 5] {
    let uring = |without| Options { backend: Backend::Uring, without, ..Options::default() };
    let portable = |mmap_log| Options { backend: Backend::Portable, mmap_log, ..Options::default() };
    let unregistered = Without { registered_memory: true, registered_files: true, deferred: true, ..Without::default() };
    [
        ("uring", uring(Without::default())),
        ("uring-oldest", uring(Without::ALL)),
        ("uring-unregistered", uring(unregistered)),
        ("portable", portable(false)),
        ("portable-mapped", portable(true)),
    ]
}

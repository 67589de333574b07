//! The io_uring backend: one ring for files and sockets, one enter a turn.
//!
//! - `setup`: making the ring and probing what it can do
//! - `slots`: the table of outstanding operations and the memory they hold
//! - `table`: the files and locks that the ring holds by itself
//! - `start`: from an [`Op`] to submission entries
//! - `finish`: from a completion entry to a [`Completion`], or to the rest of a short transfer
//! - `notice`: a descriptor for foreign event loops
//! - `turn`: entering the kernel, waiting, and letting go at the end
//!
//! # Who may turn it
//! Where the kernel can defer completions (6.1), the first thread that turns the ring owns it. The `Io` may be
//! made on one thread and moved to another before that, not after.

mod finish;
mod notice;
mod setup;
mod slots;
mod start;
mod table;
mod turn;

use std::cell::{OnceCell, UnsafeCell};
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::sync::Arc;

use io_uring::IoUring;
use io_uring::types::Timespec;
use kontiki_core::Time;

use crate::bell::Bell;
use crate::handles::Handles;
use crate::host::Resolver;
use crate::select::{Region, kernel};
use crate::worker::Worker;
use crate::{Completion, Io, IoError, IoStats, Op, Options, Token, Wake, clock, tell};

use notice::Notice;
use setup::{Features, Regions};
use slots::Slots;
use table::Table;

pub use setup::Without;

/// Memory that the kernel reads and writes for the backend's own operations.
#[derive(Debug)]
struct Own {
    /// What a read of the bell's eventfd fills.
    bell: UnsafeCell<u64>,
    /// The timeout of a waiting turn, where the enter takes none.
    timeout: UnsafeCell<Timespec>,
}

/// The world by io_uring.
pub(crate) struct Uring {
    ring: IoUring,
    table: Table,
    features: Features,
    regions: Regions,
    /// Given up only when the kernel is done with them.
    slots: ManuallyDrop<Slots>,
    handles: Handles,
    bell: Arc<Bell>,
    own: ManuallyDrop<Box<Own>>,
    /// Written by the kernel with every completion, once somebody asked for a descriptor to poll.
    notice: OnceCell<Notice>,
    /// A read of the bell is in the kernel, or queued for it.
    bell_armed: bool,
    /// Completed outside of the kernel, or taken from it when its queues were full: for the next turn.
    ready: VecDeque<Completion>,
    /// Operations with the file worker, which is started with the first.
    worker: Option<Worker>,
    resolver: Resolver,
    /// The ring was enabled by the thread that owns it.
    enabled: bool,
    /// Completions that the kernel owes for the backend's own operations, but for timeouts: they hold no memory.
    own_owed: usize,
    /// Being dropped: nothing short is continued.
    draining: bool,
    /// The ring cannot be entered any more: the system's number.
    broken: Option<i32>,
    kernel: String,
    stats: IoStats,
}

// SAFETY: the cells in `own` are accessed by the kernel for operations in flight and by whoever holds `&mut self`;
// no reference into them exists. Everything else is Send by itself.
unsafe impl Send for Uring {}

impl Uring {
    /// The error says why not, for the operator.
    pub(crate) fn open(options: &Options, memory: &[Region<'_>]) -> Result<Uring, String> {
        let (ring, table, features, regions) = setup::make(options, memory)?;
        let bell = Bell::new().map_err(|errno| format!("no eventfd for the bell (errno {errno})"))?;
        let enabled = !features.owned;
        let bell = Arc::new(bell);
        Ok(Uring {
            ring,
            table,
            features,
            regions,
            slots: ManuallyDrop::new(Slots::new(options.capacity)),
            handles: Handles::new(options.handles),
            resolver: Resolver::new(Arc::clone(&bell)),
            bell,
            own: ManuallyDrop::new(Box::new(Own { bell: UnsafeCell::new(0), timeout: UnsafeCell::new(Timespec::new()) })),
            notice: OnceCell::new(),
            bell_armed: false,
            ready: VecDeque::with_capacity(options.capacity),
            worker: None,
            enabled,
            own_owed: 0,
            draining: false,
            broken: None,
            kernel: kernel(),
            stats: IoStats::default(),
        })
    }

    /// The fixed buffer that `len` bytes at `start` lie in.
    fn registered(&self, start: *const u8, len: usize) -> Option<u16> {
        let start = start as usize;
        let index = self.regions.iter().position(|(base, bytes)| start >= *base && start + len <= base + bytes)?;
        Some(index as u16)
    }
}

impl Io for Uring {
    fn now(&self) -> Time {
        clock::now()
    }

    fn wall_ns(&self) -> u64 {
        clock::wall_ns()
    }

    fn free_bytes(&mut self, dir: crate::Handle) -> Option<u64> {
        crate::files::free_bytes(&self.handles.dir(dir).ok()?.file)
    }

    fn submit(&mut self, token: Token, op: Op) {
        op.assert_valid();
        self.stats.ops += 1;
        self.start(token, op);
    }

    fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        self.stats.turns += 1;
        self.run_turn(until, done).map_err(IoError::from_errno)
    }

    fn bell(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as Arc<dyn Wake>
    }

    /// On a ring that is owned by a thread, the first call must come from it or before its first turn; `None` if
    /// it comes too late, or the system gives no descriptor.
    fn poll_fd(&self) -> Option<RawFd> {
        if self.notice.get().is_none() {
            match Notice::new(&self.ring, self.bell.fd()) {
                // Not set before: checked above, and `Uring` is not shared between threads.
                Ok(notice) => drop(self.notice.set(notice)),
                Err(errno) => {
                    tell!(warn, errno, "this io_uring cannot serve a foreign event loop");
                    return None;
                }
            }
            self.bell.serve_foreign_loop();
        }
        self.notice.get().map(Notice::fd)
    }

    fn describe(&self) -> String {
        format!("io_uring on {}: {}", self.kernel, self.features.describe())
    }

    fn stats(&self) -> IoStats {
        let own = self.worker.as_ref().map_or(0, Worker::flush_calls);
        IoStats { flush_calls: self.stats.flush_calls + own, ..self.stats }
    }
}

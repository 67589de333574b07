//! The world as one process sees it: the simulated [`Io`].

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use kontiki_core::Time;
use kontiki_io::{Completion, Handle, Io, IoError, IoErrorKind, IoStats, Op, Token, Wake};

use crate::conditions::SECOND;
use crate::world::World;
use crate::world::host::Host;

/// Wall-clock time at which every world starts: the first of January 2025, UTC, in seconds since the Unix epoch.
const EPOCH_S: u64 = 1_735_689_600;

/// One process's [`Io`]. It never blocks: `turn` hands over what is due now, and [`crate::Sim::next`] says when to turn again.
/// Dropping it ends the process as `exit` would: connections close, locks are released, files keep what was written.
pub struct SimIo {
    world: Rc<RefCell<World>>,
    host: usize,
    boot: u64,
}

impl SimIo {
    pub(crate) fn new(world: Rc<RefCell<World>>, host: usize, boot: u64) -> SimIo {
        SimIo { world, host, boot }
    }

    /// The host this process runs on.
    pub fn host(&self) -> Host {
        Host(self.host)
    }
}

impl fmt::Debug for SimIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimIo").field("host", &self.host).field("boot", &self.boot).finish_non_exhaustive()
    }
}

impl Drop for SimIo {
    fn drop(&mut self) {
        // While a panic unwinds, the world may be borrowed or half changed; then nobody will ask it again.
        if std::thread::panicking() {
            return;
        }
        if let Ok(mut world) = self.world.try_borrow_mut()
            && world.is_current(self.host, self.boot)
        {
            world.end_process(self.host, "exit");
        }
    }
}

impl Io for SimIo {
    fn now(&self) -> Time {
        self.world.borrow().local_time(self.host)
    }

    fn wall_ns(&self) -> u64 {
        let world = self.world.borrow();
        let offset_ns = world.hosts[self.host].clock.wall_offset_ns;
        (EPOCH_S * SECOND).saturating_add(world.now_ns).saturating_add_signed(offset_ns)
    }

    fn free_bytes(&mut self, _: Handle) -> Option<u64> {
        Some(self.world.borrow().hosts[self.host].disk.free_bytes())
    }

    /// After a crash of this process, operations vanish.
    ///
    /// # Panics
    /// At what the contract of [`Op`] forbids: too many outstanding, a handle that is not open or of another kind, two
    /// receives or sends at once on a connection, a close with operations outstanding, a transfer that is not aligned.
    fn submit(&mut self, token: Token, op: Op) {
        self.world.borrow_mut().submit(self.host, self.boot, token, op);
    }

    fn capacity(&self) -> usize {
        self.world.borrow().conditions.processor.capacity
    }

    /// Fails with `Canceled` after a crash of this process.
    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        if self.world.borrow_mut().turn(self.host, self.boot, until, done) {
            Ok(())
        } else {
            Err(IoError { kind: IoErrorKind::Canceled, errno: 0 })
        }
    }

    fn bell(&self) -> Arc<dyn Wake> {
        self.world.borrow().hosts[self.host].process.bell.clone()
    }

    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }

    fn describe(&self) -> String {
        format!("simulated: host {} of the world of seed {}", self.host, self.world.borrow().seed)
    }

    fn stats(&self) -> IoStats {
        self.world.borrow().hosts[self.host].process.stats
    }
}

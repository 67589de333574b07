//! The bell: how another thread ends a sleeping turn, and costs nothing while the reactor is awake.
//!
//! Two flags and an eventfd. No wake-up is lost: the ringer stores `rung` and then loads `sleeping`; the reactor
//! stores `sleeping` and then loads `rung`. All four are sequentially consistent, so they have one total order,
//! and in it at least one of the two loads comes after the other side's store. Either the reactor sees `rung` and
//! does not sleep, or the ringer sees `sleeping` and writes the eventfd, which is level-triggered: it ends a sleep
//! that has begun and one that is about to begin.
//!
//! Of several ringers, the one that takes `sleeping` down writes, so one sleep costs one system call.
//!
//! With a foreign event loop the reactor sleeps outside of `turn`, on `Io::poll_fd`. Then `sleeping` stays up
//! between turns.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::{Wake, errno};

#[derive(Debug)]
pub(crate) struct Bell {
    /// Somebody rang since the last turn ended.
    rung: AtomicBool,
    /// The reactor sleeps, or is about to: a ringer must write the eventfd.
    sleeping: AtomicBool,
    /// Somebody polls `Io::poll_fd`.
    foreign: AtomicBool,
    /// Counts writes. Blocking: a write blocks only after 2^64 - 2 of them, and io_uring arms a poll on a
    /// blocking descriptor where it fails a non-blocking one with EAGAIN.
    event: OwnedFd,
}

impl Bell {
    pub(crate) fn new() -> Result<Bell, i32> {
        // SAFETY: a plain system call without pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(errno::last());
        }
        // SAFETY: `fd` was just made and has no other owner.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Bell { rung: AtomicBool::new(false), sleeping: AtomicBool::new(false), foreign: AtomicBool::new(false), event })
    }

    /// The eventfd: readable after a write.
    pub(crate) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Reactor: about to sleep. False if somebody rang meanwhile, and it must not.
    pub(crate) fn may_sleep(&self) -> bool {
        self.sleeping.store(true, SeqCst);
        if self.rung.load(SeqCst) {
            self.sleeping.store(false, SeqCst);
            return false;
        }
        true
    }

    /// Reactor: awake again, or never slept. True if somebody rang; the next turn may sleep.
    pub(crate) fn answer(&self) -> bool {
        self.sleeping.store(false, SeqCst);
        self.rung.swap(false, SeqCst)
    }

    /// From now on the reactor may also sleep between turns.
    pub(crate) fn serve_foreign_loop(&self) {
        self.foreign.store(true, SeqCst);
        self.leave();
    }

    pub(crate) fn is_foreign(&self) -> bool {
        self.foreign.load(SeqCst)
    }

    /// Reactor: a turn ends. Under a foreign loop this is going to sleep; whoever rang since the last
    /// `answer` did not write, so it is done for them.
    pub(crate) fn leave(&self) {
        if self.is_foreign() && !self.may_sleep() {
            self.write();
        }
    }

    fn write(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the eventfd is open and `one` is eight readable bytes. A failure is impossible short of
        // EAGAIN on a full counter, and a full counter is readable already.
        let _ = unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl Wake for Bell {
    fn wake(&self) {
        self.rung.store(true, SeqCst);
        if self.sleeping.load(SeqCst) && self.sleeping.swap(false, SeqCst) {
            self.write();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn written(bell: &Bell) -> bool {
        let mut poll = libc::pollfd { fd: bell.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, no waiting.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    #[test]
    fn an_awake_reactor_costs_no_system_call_and_sees_the_ring() {
        let bell = Bell::new().unwrap();
        bell.wake();
        assert!(!written(&bell));
        assert!(!bell.may_sleep());
        assert!(bell.answer());
        assert!(!bell.answer());
        assert!(bell.may_sleep());
    }

    #[test]
    fn one_sleep_costs_one_write() {
        let bell = Bell::new().unwrap();
        assert!(bell.may_sleep());
        bell.wake();
        bell.wake();
        assert!(written(&bell));
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes.
        assert_eq!(unsafe { libc::read(bell.fd(), count.as_mut_ptr().cast(), 8) }, 8);
        assert_eq!(u64::from_ne_bytes(count), 1);
        assert!(bell.answer());
    }

    #[test]
    fn a_ring_between_turns_reaches_a_foreign_loop() {
        let bell = Bell::new().unwrap();
        bell.serve_foreign_loop();
        bell.wake();
        assert!(written(&bell));
        // And one that came while the turn ran.
        let bell = Bell::new().unwrap();
        bell.serve_foreign_loop();
        bell.answer();
        bell.wake();
        assert!(!written(&bell));
        bell.leave();
        assert!(written(&bell));
    }
}

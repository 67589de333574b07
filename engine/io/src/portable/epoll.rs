//! An epoll instance: edge-triggered, so that a socket is registered once and never again.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::errno;
use crate::limits::MAX_EVENTS;

/// What happened to which socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    /// As given at [`Epoll::add`].
    pub(super) key: u64,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

pub(super) struct Epoll {
    fd: OwnedFd,
    events: Box<[libc::epoll_event]>,
    /// The kernel waits to the nanosecond (5.11); else to the millisecond.
    precise: bool,
}

impl Epoll {
    pub(super) fn new() -> Result<Epoll, i32> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(errno::last());
        }
        // SAFETY: `fd` was just made and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Epoll { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; MAX_EVENTS].into(), precise: true })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Watches `fd` for both directions until it is closed.
    pub(super) fn add(&self, fd: RawFd, key: u64) -> Result<(), i32> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events as u32, u64: key };
        // SAFETY: `event` is valid across the call.
        let failed = unsafe { libc::epoll_ctl(self.fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } != 0;
        if failed { Err(errno::last()) } else { Ok(()) }
    }

    /// Waits at most `wait_ns` for events, then [`Epoll::events`] has that many. Interrupted, or too early, is none.
    pub(super) fn wait(&mut self, wait_ns: u64) -> Result<usize, i32> {
        let count = if self.precise {
            let time =
                libc::timespec { tv_sec: (wait_ns / 1_000_000_000) as libc::time_t, tv_nsec: (wait_ns % 1_000_000_000) as libc::c_long };
            // SAFETY: the events have room for MAX_EVENTS, the time is valid across the call, no signal mask.
            unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.fd(),
                    self.events.as_mut_ptr(),
                    MAX_EVENTS as libc::c_int,
                    &raw const time,
                    std::ptr::null::<libc::sigset_t>(),
                    0usize,
                ) as i32
            }
        } else {
            // Rounded up: a turn must not end before its time.
            let wait_ms = wait_ns.div_ceil(1_000_000).min(i32::MAX as u64) as i32;
            // SAFETY: the events have room for MAX_EVENTS.
            unsafe { libc::epoll_wait(self.fd(), self.events.as_mut_ptr(), MAX_EVENTS as i32, wait_ms) }
        };
        if count >= 0 {
            return Ok(count as usize);
        }
        match errno::last() {
            libc::EINTR => Ok(0),
            libc::ENOSYS | libc::EPERM if self.precise => {
                self.precise = false;
                self.wait(wait_ns)
            }
            errno => Err(errno),
        }
    }

    /// One of the events of the last wait.
    pub(super) fn event(&self, index: usize) -> Event {
        let event = self.events[index];
        let bits = event.events as i32;
        // An error or a hang-up shows in the next call of either kind.
        let broken = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
        Event {
            key: event.u64,
            readable: broken || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
            writable: broken || bits & libc::EPOLLOUT != 0,
        }
    }
}

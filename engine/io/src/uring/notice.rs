//! The descriptor for foreign event loops: readable when there is something to take from the ring, or the bell rang.
//!
//! The ring's own descriptor will not do: polling it misses completions that are deferred to an enter. An eventfd
//! registered with the ring is written for them too; but not reliably for those that another eventfd's write
//! brings about, which the bell's is (seen on 6.18: the first comes late, later ones never). So an epoll instance
//! watches both eventfds, and the bell is noticed by itself.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::IoUring;

use crate::errno;

#[derive(Debug)]
pub(super) struct Notice {
    /// Written by the kernel with every completion.
    event: OwnedFd,
    /// Watches that and the bell, level-triggered.
    both: OwnedFd,
}

impl Notice {
    /// Registers with the ring. It begins readable: there may be something to take already. The error is the
    /// system's number.
    pub(super) fn new(ring: &IoUring, bell: RawFd) -> Result<Notice, i32> {
        // SAFETY: a plain system call, whose result is a new descriptor without an owner, or an error.
        let event = unsafe { owned(libc::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))? };
        // SAFETY: likewise.
        let both = unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))? };
        for fd in [event.as_raw_fd(), bell] {
            let mut interest = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            // SAFETY: `interest` is valid across the call.
            if unsafe { libc::epoll_ctl(both.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut interest) } != 0 {
                return Err(errno::last());
            }
        }
        ring.submitter().register_eventfd(event.as_raw_fd()).map_err(|error| errno::number(&error))?;
        Ok(Notice { event, both })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.both.as_raw_fd()
    }

    /// Before looking: whatever comes after this makes it readable again.
    pub(super) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes. It does not block, and if it was not readable nothing is to be cleared.
        let _ = unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// A new descriptor, or the error of the call that gave none.
///
/// # Safety
/// A descriptor that is not negative must be open and have no other owner.
unsafe fn owned(fd: RawFd) -> Result<OwnedFd, i32> {
    if fd < 0 {
        return Err(errno::last());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

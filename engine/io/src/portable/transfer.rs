//! Non-blocking socket calls, each until it is done or the kernel has no more to give.

use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::sockets::{self, Blocking};
use crate::{Gather, MAX_PIECES, errno};

/// A call that may have to wait for the socket.
pub(super) enum Attempt<T> {
    Done(T),
    Failed(i32),
    /// Again, once the socket is ready.
    Later,
}

/// Looks at a call's result: transferred bytes, or the error it left.
fn attempt(result: isize) -> Result<usize, i32> {
    if result >= 0 { Ok(result as usize) } else { Err(errno::last()) }
}

/// Receives what there is. Zero bytes are the end of the stream.
pub(super) fn recv(fd: RawFd, buf: &mut [u8]) -> Attempt<usize> {
    loop {
        // SAFETY: `buf` is writable for its length across the call.
        let result = unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) };
        match attempt(result) {
            Ok(count) => return Attempt::Done(count),
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => return Attempt::Later,
            Err(errno) => return Attempt::Failed(errno),
        }
    }
}

/// Sends what the socket takes of `gather` after its first `sent` bytes, counting on in `sent`. `continued` counts
/// the calls after the first.
pub(super) fn send(fd: RawFd, gather: &Gather, total: usize, sent: &mut usize, continued: &mut u64) -> Attempt<()> {
    loop {
        let mut table = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_PIECES];
        let mut count = 0;
        let mut skip = *sent;
        for bytes in gather.slices() {
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            let left = &bytes[skip..];
            skip = 0;
            table[count] = libc::iovec { iov_base: left.as_ptr().cast_mut().cast(), iov_len: left.len() };
            count += 1;
        }
        // SAFETY: a message header is numbers and pointers: all zeros is valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = table.as_mut_ptr();
        message.msg_iovlen = count as _;
        // SAFETY: the pieces are readable for their lengths across the call: `gather` is borrowed.
        let result = unsafe { libc::sendmsg(fd, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
        match attempt(result) {
            Ok(count) => {
                *sent += count;
                if *sent == total {
                    return Attempt::Done(());
                }
                *continued += 1;
            }
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => return Attempt::Later,
            Err(errno) => return Attempt::Failed(errno),
        }
    }
}

/// Accepts one connection.
pub(super) fn accept(fd: RawFd) -> Attempt<(OwnedFd, SocketAddr)> {
    loop {
        let mut raw = sockets::empty_addr();
        let mut len = size_of_val(&raw) as libc::socklen_t;
        // SAFETY: `raw` has room for `len` bytes.
        let result = unsafe { libc::accept4(fd, (&raw mut raw).cast(), &mut len, Blocking::No.flag()) };
        if result >= 0 {
            // SAFETY: the descriptor is new and has no other owner.
            let socket = unsafe { OwnedFd::from_raw_fd(result) };
            return Attempt::Done((socket, sockets::decode(&raw)));
        }
        match errno::last() {
            libc::EINTR => {}
            libc::EAGAIN => return Attempt::Later,
            lost if errno::is_lost_accept(lost) => {}
            errno => return Attempt::Failed(errno),
        }
    }
}

/// Begins to connect.
pub(super) fn connect(fd: RawFd, addr: SocketAddr) -> Attempt<()> {
    let mut raw = sockets::empty_addr();
    let len = sockets::encode(addr, &mut raw);
    // SAFETY: `raw` holds an address of `len` bytes.
    if unsafe { libc::connect(fd, (&raw const raw).cast(), len) } == 0 {
        return Attempt::Done(());
    }
    match errno::last() {
        // An interrupted connect goes on by itself.
        libc::EINPROGRESS | libc::EINTR | libc::EALREADY => Attempt::Later,
        errno => Attempt::Failed(errno),
    }
}

/// How a connect ended, once the socket is writable.
pub(super) fn connected(fd: RawFd) -> Attempt<()> {
    let mut value: i32 = 0;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` has room for `len` bytes.
    let failed = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut value).cast(), &mut len) } != 0;
    if failed {
        return Attempt::Failed(errno::last());
    }
    if value != 0 {
        return Attempt::Failed(value);
    }
    // Writable without an error is connected, unless the event was for an earlier state: the peer's name tells.
    let mut raw = sockets::empty_addr();
    let mut len = size_of_val(&raw) as libc::socklen_t;
    // SAFETY: `raw` has room for `len` bytes.
    if unsafe { libc::getpeername(fd, (&raw mut raw).cast(), &mut len) } == 0 {
        return Attempt::Done(());
    }
    match errno::last() {
        libc::ENOTCONN => Attempt::Later,
        errno => Attempt::Failed(errno),
    }
}

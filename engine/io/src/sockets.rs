//! TCP sockets by system calls: making, binding and tuning them. Errors are the system's numbers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::{errno, limits};

/// Room for any address, as the system wants it.
pub(crate) type RawAddr = libc::sockaddr_storage;

/// Writes an address the system's way; returns its length.
pub(crate) fn encode(addr: SocketAddr, raw: &mut RawAddr) -> libc::socklen_t {
    match addr {
        SocketAddr::V4(addr) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage has the size and alignment for every kind of address.
            unsafe { (raw as *mut RawAddr).cast::<libc::sockaddr_in>().write(v4) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(addr) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: addr.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                sin6_scope_id: addr.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (raw as *mut RawAddr).cast::<libc::sockaddr_in6>().write(v6) };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// Reads an address that the system wrote; the unspecified one if it is no internet address.
pub(crate) fn decode(raw: &RawAddr) -> SocketAddr {
    match i32::from(raw.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which kind of address lies here, and the storage has its alignment.
            let v4 = unsafe { (raw as *const RawAddr).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into()
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { (raw as *const RawAddr).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into()
        }
        _ => (Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}

/// No address yet.
pub(crate) const fn empty_addr() -> RawAddr {
    // SAFETY: sockaddr_storage is plain numbers; all zeros is AF_UNSPEC.
    unsafe { std::mem::zeroed() }
}

/// Whether a socket's calls wait. io_uring wants them to (it arms a poll itself), epoll wants them not to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    Yes,
    No,
}

impl Blocking {
    pub(crate) const fn flag(self) -> i32 {
        match self {
            Blocking::Yes => libc::SOCK_CLOEXEC,
            Blocking::No => libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
        }
    }
}

/// A socket to connect to `addr` with, tuned.
pub(crate) fn make(addr: SocketAddr, blocking: Blocking) -> Result<OwnedFd, i32> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | blocking.flag(), 0) };
    if fd < 0 {
        return Err(errno::last());
    }
    // SAFETY: `fd` was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Options of every connection, made or accepted.
pub(crate) fn tune(fd: RawFd) -> Result<(), i32> {
    // Nagle's algorithm would hold back an answer for up to 40 ms.
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    // The rest makes a silent peer's death known early. A kernel that refuses one of these has its own defaults.
    let _ = set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, limits::KEEPALIVE_IDLE_S);
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, limits::KEEPALIVE_INTERVAL_S);
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, limits::KEEPALIVE_PROBES);
    let _ = set(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, limits::USER_TIMEOUT_MS);
    Ok(())
}

/// A tuned socket to connect with.
pub(crate) fn make_connection(addr: SocketAddr, blocking: Blocking) -> Result<OwnedFd, i32> {
    let fd = make(addr, blocking)?;
    tune(fd.as_raw_fd())?;
    let _ = set(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_SYNCNT, limits::CONNECT_RETRIES);
    Ok(fd)
}

fn set(fd: RawFd, level: i32, option: i32, value: i32) -> Result<(), i32> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is readable for `len` bytes across the call.
    let failed = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) } != 0;
    if failed { Err(errno::last()) } else { Ok(()) }
}

/// Binds and listens; returns the listener and the address that it got.
pub(crate) fn listen(addr: SocketAddr, blocking: Blocking) -> Result<(OwnedFd, SocketAddr), i32> {
    let fd = make(addr, blocking)?;
    // A restarted node must not wait for connections of its former life to leave TIME_WAIT.
    set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    let mut raw = empty_addr();
    let mut len = encode(addr, &mut raw);
    // SAFETY: `raw` holds an address of `len` bytes.
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), len) } != 0 {
        return Err(errno::last());
    }
    // SAFETY: a plain system call on an open descriptor.
    if unsafe { libc::listen(fd.as_raw_fd(), limits::LISTEN_BACKLOG) } != 0 {
        return Err(errno::last());
    }
    len = size_of::<RawAddr>() as libc::socklen_t;
    // SAFETY: `raw` has room for `len` bytes.
    if unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut raw).cast(), &mut len) } != 0 {
        return Err(errno::last());
    }
    Ok((fd, decode(&raw)))
}

/// Shuts a connection down both ways. One that is not connected any more is as good as shut.
pub(crate) fn shutdown(fd: RawFd) {
    // SAFETY: a plain system call on an open descriptor.
    let _ = unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["10.1.2.3:4567", "127.0.0.1:1", "[::1]:65535", "[fe80::1:2%3]:80"] {
            let addr: SocketAddr = text.parse().unwrap();
            let mut raw = empty_addr();
            encode(addr, &mut raw);
            assert_eq!(decode(&raw), addr);
        }
        assert_eq!(decode(&empty_addr()).port(), 0);
    }

    #[test]
    fn a_second_listener_is_refused_the_address() {
        let (_first, addr) = listen("127.0.0.1:0".parse().unwrap(), Blocking::Yes).unwrap();
        assert_ne!(addr.port(), 0);
        assert_eq!(listen(addr, Blocking::Yes).unwrap_err(), libc::EADDRINUSE);
    }
}

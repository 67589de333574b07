//! The system's error numbers, by the classes that Kontiki tells apart.

use crate::{IoError, IoErrorKind};

/// What was being done: the same number means different things to a connect and to a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum During {
    /// A file, directory or listener operation.
    Other,
    /// Something done to an open socket.
    Socket,
    /// A connection being made.
    Connect,
    /// A flush, of a file or of a directory's entries.
    Flush,
}

impl IoError {
    /// The failure that system error number `errno` stands for, outside of connecting.
    pub fn from_errno(errno: i32) -> IoError {
        classify(errno, During::Other)
    }

    /// The lock file is held by another.
    pub(crate) const fn locked() -> IoError {
        IoError { kind: IoErrorKind::Locked, errno: libc::EWOULDBLOCK }
    }

    /// Not begun: the kernel had no thread for it.
    pub(crate) const fn not_begun() -> IoError {
        IoError { kind: IoErrorKind::Shortage, errno: libc::EAGAIN }
    }

    /// Ended by a close or a shutdown of our own.
    pub(crate) const fn canceled() -> IoError {
        IoError { kind: IoErrorKind::Canceled, errno: libc::ECANCELED }
    }
}

/// The class of `errno`. `Device` is whatever has no class of its own.
pub(crate) fn classify(errno: i32, during: During) -> IoError {
    let kind = match errno {
        libc::ENOENT => IoErrorKind::NotFound,
        libc::EEXIST => IoErrorKind::Exists,
        libc::EACCES | libc::EPERM | libc::EROFS => IoErrorKind::Permission,
        // Of a socket: there are no more places in epoll (fs.epoll.max_user_watches).
        libc::ENOSPC if matches!(during, During::Socket | During::Connect) => IoErrorKind::Shortage,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => IoErrorKind::Full,
        libc::EADDRINUSE => IoErrorKind::AddressInUse,
        libc::ECONNREFUSED
        | libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::EADDRNOTAVAIL
        | libc::EAFNOSUPPORT => IoErrorKind::Refused,
        libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE | libc::ENOTCONN | libc::ESHUTDOWN | libc::ETIMEDOUT => match during {
            During::Connect => IoErrorKind::Refused,
            During::Other | During::Socket | During::Flush => IoErrorKind::Disconnected,
        },
        libc::ECANCELED => IoErrorKind::Canceled,
        // Whatever a flush lacked on its way, what it was to write may be gone from the cache.
        _ if is_shortage(errno) && matches!(during, During::Flush) => IoErrorKind::Device,
        _ if is_shortage(errno) => IoErrorKind::Shortage,
        _ => IoErrorKind::Device,
    };
    IoError { kind, errno }
}

/// Whether the system lacks something for now (descriptors, memory, locks, threads), and nothing is broken.
pub(crate) const fn is_shortage(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOLCK | libc::EAGAIN)
}

/// Whether the operation was merely interrupted, or could not be done at once, and is simply done again.
pub(crate) const fn is_transient(errno: i32) -> bool {
    // EWOULDBLOCK is EAGAIN on Linux.
    errno == libc::EINTR || errno == libc::EAGAIN
}

/// Whether a read or write was not done for lack of memory, and nothing is known against doing it again.
pub(crate) const fn lacked_memory(errno: i32) -> bool {
    matches!(errno, libc::ENOMEM | libc::EAGAIN | libc::ENOBUFS)
}

/// Whether an accept failed because of the one connection it would have given, not of the listener (accept(2)).
pub(crate) const fn is_lost_accept(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EOPNOTSUPP
    )
}

/// The number of a failed call of the standard library; EIO if it has none.
pub(crate) fn number(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// The number that the last failed libc call of this thread left.
pub(crate) fn last() -> i32 {
    number(&std::io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_what_was_being_done() {
        assert_eq!(classify(libc::ETIMEDOUT, During::Connect).kind, IoErrorKind::Refused);
        assert_eq!(classify(libc::ETIMEDOUT, During::Other).kind, IoErrorKind::Disconnected);
        assert_eq!(classify(libc::ENOSPC, During::Other).kind, IoErrorKind::Full);
        assert_eq!(classify(libc::ENOSPC, During::Socket).kind, IoErrorKind::Shortage);
        assert_eq!(classify(libc::EIO, During::Other).kind, IoErrorKind::Device);
        assert_eq!(IoError::from_errno(libc::EROFS).kind, IoErrorKind::Permission);
    }

    #[test]
    fn a_shortage_is_no_broken_device() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::ENOLCK, libc::EAGAIN] {
            for during in [During::Other, During::Socket, During::Connect] {
                assert_eq!(classify(errno, during).kind, IoErrorKind::Shortage, "{errno}");
            }
        }
        for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            assert_eq!(IoError::from_errno(errno).kind, IoErrorKind::Full, "{errno}");
        }
        for errno in [libc::EIO, libc::ENXIO, libc::ENODEV, libc::EREMOTEIO, libc::EBADF, libc::EINVAL] {
            assert_eq!(IoError::from_errno(errno).kind, IoErrorKind::Device, "{errno}");
        }
    }

    /// What was to be flushed may be dropped from the cache, and a second flush would then say that all is well.
    #[test]
    fn a_flush_that_lacked_something_has_failed() {
        for errno in [libc::ENOMEM, libc::EAGAIN, libc::ENOBUFS, libc::EMFILE, libc::EIO] {
            assert_eq!(classify(errno, During::Flush).kind, IoErrorKind::Device, "{errno}");
        }
        assert_eq!(classify(libc::ENOSPC, During::Flush).kind, IoErrorKind::Full);
        assert_eq!(IoError::not_begun().kind, IoErrorKind::Shortage);
    }

    #[test]
    fn the_number_is_kept_for_the_operator() {
        assert_eq!(IoError::from_errno(libc::EMFILE), IoError { kind: IoErrorKind::Shortage, errno: libc::EMFILE });
    }
}

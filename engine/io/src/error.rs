//! What an operation can fail with.

use std::fmt;

/// The classes of failure that Kontiki tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoErrorKind {
    /// No such file or directory.
    NotFound,
    /// It exists already.
    Exists,
    /// Not permitted, or a read-only file system.
    Permission,
    /// No space, or a quota is reached.
    Full,
    /// Held by another process.
    Locked,
    /// The address is in use.
    AddressInUse,
    /// Nobody listens there, or the network says no.
    Refused,
    /// The connection is gone (reset, broken pipe, end of stream in mid-operation).
    Disconnected,
    /// The operation was cancelled, by a close or a shutdown.
    Canceled,
    /// The device or file system failed (EIO and whatever has no class of its own).
    Device,
    /// The system has no more of something (descriptors, memory, threads, locks), and nothing is broken: it passes, or
    /// a limit has to be raised. The operation may be submitted again. Of a flush only if it was not begun.
    Shortage,
}

/// A failed operation: its class and the system's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoError {
    /// The class, which the engine acts on.
    pub kind: IoErrorKind,
    /// The operating system's error number, for the operator; zero in simulation.
    pub errno: i32,
}

impl IoError {
    /// What there was no more of, and the limit on it; none if this is no shortage.
    pub fn lacking(&self) -> Option<&'static str> {
        if self.kind != IoErrorKind::Shortage {
            return None;
        }
        Some(match self.errno {
            libc::EMFILE => "file descriptors of this process (RLIMIT_NOFILE)",
            libc::ENFILE => "file descriptors of the machine (fs.file-max)",
            libc::ENOMEM | libc::ENOBUFS => "memory",
            libc::ENOLCK => "file locks",
            libc::EAGAIN => "threads (RLIMIT_NPROC, pids.max) or another resource of the kernel's",
            _ => "resources of the kernel's",
        })
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lacking() {
            Some(what) => write!(f, "no more {what} (errno {})", self.errno),
            // A simulated world, or the class itself is all that is known.
            None if self.errno <= 0 => write!(f, "{:?} (errno {})", self.kind, self.errno),
            None => {
                // The system's own words: an operator knows them, and can look for them.
                let words = std::io::Error::from_raw_os_error(self.errno).to_string();
                let words = words.split(" (os error").next().unwrap_or_default();
                write!(f, "{words} (errno {})", self.errno)
            }
        }
    }
}

impl std::error::Error for IoError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_says_of_what() {
        let text = IoError { kind: IoErrorKind::Shortage, errno: libc::EMFILE }.to_string();
        assert_eq!(text, "no more file descriptors of this process (RLIMIT_NOFILE) (errno 24)");
        assert_eq!(IoError { kind: IoErrorKind::Device, errno: libc::EIO }.lacking(), None);
    }

    #[test]
    fn an_error_speaks_the_systems_words() {
        let text = |kind, errno| IoError { kind, errno }.to_string();
        assert_eq!(text(IoErrorKind::Device, libc::EIO), "Input/output error (errno 5)");
        assert_eq!(text(IoErrorKind::Device, libc::ENOTDIR), "Not a directory (errno 20)");
        assert_eq!(text(IoErrorKind::Refused, libc::ECONNREFUSED), "Connection refused (errno 111)");
        assert_eq!(text(IoErrorKind::Canceled, 0), "Canceled (errno 0)");
    }
}

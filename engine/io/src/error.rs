//! What an operation can fail with.

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
    /// a limit has to be raised.
    Shortage,
}

/// A failed operation: its class and the system's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} (errno {errno})")]
pub struct IoError {
    /// The class, which the engine acts on.
    pub kind: IoErrorKind,
    /// The operating system's error number, for the operator; zero in simulation.
    pub errno: i32,
}

//! What a backend counts.

/// Counters of one `Io` since it was opened. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Calls of `turn`.
    pub turns: u64,
    /// System calls that hand over work or wait for it (`io_uring_enter`, `epoll_pwait2`).
    pub enters: u64,
    /// Operations submitted.
    pub ops: u64,
    /// Bytes written to files by completed writes.
    pub bytes_written: u64,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Durable writes and syncs completed, as the caller asked for them.
    pub flushes: u64,
    /// Flush commands given to the file system for them: fewer, where durable writes share one.
    pub flush_calls: u64,
    /// Bytes sent by completed sends.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Short writes and sends that the backend continued.
    pub continued: u64,
    /// Turns that the bell ended.
    pub rings: u64,
}

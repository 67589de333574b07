//! Operations by kind: what faults are aimed at and what recordings are sorted by.

use kontiki_io::Op;

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the operation of its name, documented there")]
pub enum OpClass {
    OpenDir,
    Identify,
    Lock,
    List,
    Open,
    Allocate,
    Read,
    Write,
    Sync,
    Rename,
    Unlink,
    SyncDir,
    Listen,
    Resolve,
    Accept,
    Connect,
    Recv,
    Send,
    Shutdown,
    Close,
}

impl OpClass {
    /// The kind of `op`.
    pub fn of(op: &Op) -> OpClass {
        match op {
            Op::OpenDir { .. } => OpClass::OpenDir,
            Op::Identify { .. } => OpClass::Identify,
            Op::Lock { .. } => OpClass::Lock,
            Op::List { .. } => OpClass::List,
            Op::Open { .. } => OpClass::Open,
            Op::Allocate { .. } => OpClass::Allocate,
            Op::Read { .. } => OpClass::Read,
            Op::Write { .. } => OpClass::Write,
            Op::Sync { .. } => OpClass::Sync,
            Op::Rename { .. } => OpClass::Rename,
            Op::Unlink { .. } => OpClass::Unlink,
            Op::SyncDir { .. } => OpClass::SyncDir,
            Op::Listen { .. } => OpClass::Listen,
            Op::Resolve { .. } => OpClass::Resolve,
            Op::Accept { .. } => OpClass::Accept,
            Op::Connect { .. } => OpClass::Connect,
            Op::Recv { .. } => OpClass::Recv,
            Op::Send { .. } => OpClass::Send,
            Op::Shutdown { .. } => OpClass::Shutdown,
            Op::Close { .. } => OpClass::Close,
        }
    }

    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            OpClass::OpenDir => "open-dir",
            OpClass::Identify => "identify",
            OpClass::Lock => "lock",
            OpClass::List => "list",
            OpClass::Open => "open",
            OpClass::Allocate => "allocate",
            OpClass::Read => "read",
            OpClass::Write => "write",
            OpClass::Sync => "sync",
            OpClass::Rename => "rename",
            OpClass::Unlink => "unlink",
            OpClass::SyncDir => "sync-dir",
            OpClass::Listen => "listen",
            OpClass::Resolve => "resolve",
            OpClass::Accept => "accept",
            OpClass::Connect => "connect",
            OpClass::Recv => "recv",
            OpClass::Send => "send",
            OpClass::Shutdown => "shutdown",
            OpClass::Close => "close",
        }
    }

    /// Whether it takes a descriptor.
    pub const fn opens(self) -> bool {
        matches!(self, OpClass::OpenDir | OpClass::Lock | OpClass::Open | OpClass::Listen | OpClass::Accept | OpClass::Connect)
    }

    /// Whether the kernel needs memory of its own for it, which it may not have: of those that the network has.
    pub const fn needs_memory(self) -> bool {
        matches!(self, OpClass::Resolve | OpClass::Recv | OpClass::Send)
    }

    /// Whether it concerns the disk (the rest concern the network, or a handle of either kind).
    pub const fn is_storage(self) -> bool {
        !matches!(
            self,
            OpClass::Listen
                | OpClass::Resolve
                | OpClass::Accept
                | OpClass::Connect
                | OpClass::Recv
                | OpClass::Send
                | OpClass::Shutdown
                | OpClass::Close
        )
    }
}

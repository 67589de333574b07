//! What can go wrong with snapshots on their way to and from a disk.

use std::path::PathBuf;

use kontiki_core::Base;
use kontiki_io::{IoError, IoErrorKind, Name};
use thiserror::Error;

use crate::Flaw;

/// A failure of the store, or of one thing that it was to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The data directory cannot be used.
    #[error("data directory {}: {source}", .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What it failed with.
        source: IoError,
    },
    /// An operation failed.
    #[error("cannot {what} {name}: {source}")]
    Io {
        /// What was to be done.
        what: &'static str,
        /// The file.
        name: Name,
        /// What it failed with.
        source: IoError,
    },
    /// The disk is full. Nothing that was there is lost.
    #[error("disk full: cannot {what} {name}; the snapshots and the log are as they were: free some space, or give the disk more")]
    Full {
        /// What was to be done.
        what: &'static str,
        /// The file.
        name: Name,
    },
    /// The system lacks something.
    #[error("cannot {what} {name}: {source}; nothing is damaged: raise the limit, or free some, and try again")]
    Shortage {
        /// What was to be done.
        what: &'static str,
        /// The file.
        name: Name,
        /// What it failed with.
        source: IoError,
    },
    /// A snapshot is another cluster's or group's.
    #[error(
        "{name} belongs to another cluster or group, and was left as it is. If it does not belong here, move it to another directory; if the others \
         here are of that cluster too, this is not the node's data directory"
    )]
    Foreign {
        /// The file.
        name: Name,
    },
    /// A snapshot of a later version of the format.
    #[error("{name} has format version {found}, this program reads up to {}: run the newer program; nothing was changed", crate::VERSION)]
    NewerFormat {
        /// The file.
        name: Name,
        /// Its version.
        found: u16,
    },
    /// What was fetched is not what was offered, or cannot be read back. Another source, or the same one later, may do.
    #[error("the snapshot that was fetched is no use: {flaw}")]
    Fetched {
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// It was given up: see [`Store::abandon`](crate::Store::abandon).
    #[error("given up before its end")]
    Abandoned,
    /// The snapshot became longer than one may be.
    #[error("a snapshot may have {} bytes at most", crate::limits::MAX_BYTES)]
    TooLong,
}

impl StoreError {
    /// The error for a failed operation.
    pub(crate) fn of(what: &'static str, name: Name, source: IoError) -> StoreError {
        match source.kind {
            IoErrorKind::Full => StoreError::Full { what, name },
            IoErrorKind::Shortage => StoreError::Shortage { what, name, source },
            _ => StoreError::Io { what, name, source },
        }
    }
}

/// Why the store does not begin something. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// A snapshot is being written or fetched.
    #[error("a snapshot is being written or fetched")]
    Busy,
    /// There is one as of this entry or a later one.
    #[error("there is a snapshot as of {0} already")]
    NotNewer(Base),
    /// An earlier failure left unknown which names are on the disk.
    #[error("no more snapshots until the next start: {0}")]
    Broken(StoreError),
    /// It is being closed.
    #[error("the store is being closed")]
    Closing,
    /// What is offered is for another cluster or group, or is none.
    #[error("what is offered is no snapshot of this group: its {what} is not")]
    Unfit {
        /// What is wrong.
        what: &'static str,
    },
}

/// Why a read yields nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// It is damaged there, and counts as no snapshot from now on.
    #[error("damaged at chunk {chunk}: {flaw}")]
    Damaged {
        /// The first chunk that is.
        chunk: u64,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// The system lacked something; it may be read again.
    #[error("{0}")]
    Lacking(IoError),
}

//! What is done to a directory, step by step: one operation at a time, each tried again as it was where it lacked
//! something.

use kontiki_io::{IoError, IoErrorKind, Name};

use crate::StoreError;

/// What an operation came to.
#[derive(Debug)]
pub(crate) enum Done {
    /// The next step.
    Goes,
    /// That was the last.
    Over,
    /// The system lacked something, or the disk is full: the same step again, later.
    Lacks(IoError),
    /// It is given up; what is in the directory counts as before.
    Failed(StoreError),
    /// It is given up, and nobody knows which names are on the disk.
    Broken(StoreError),
}

/// What a step's failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// May be done again as it was.
    Plain,
    /// A flush of a file: what failed on its way is not made good by another.
    Flush,
    /// A flush of names.
    Names,
}

/// The failure of a step.
pub(crate) fn failed(kind: Kind, what: &'static str, name: Name, error: IoError) -> Done {
    match (kind, error.kind) {
        (_, IoErrorKind::Shortage) | (Kind::Plain, IoErrorKind::Full) => Done::Lacks(error),
        (Kind::Names, _) => Done::Broken(StoreError::of(what, name, error)),
        _ => Done::Failed(StoreError::of(what, name, error)),
    }
}

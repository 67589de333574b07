//! What can be wrong with the bytes of a snapshot.

use thiserror::Error;

/// What is wrong with a chunk, or with a file of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Flaw {
    /// It ends too early.
    #[error("it ends before its end: no snapshot, or not all of one")]
    CutOff,
    /// A checksum does not fit, or it was never one.
    #[error("a checksum does not fit")]
    Damaged,
    /// The device cannot read it.
    #[error("the device cannot read it")]
    Unreadable,
    /// A later version's.
    #[error("it has format version {found}; this program reads {}", crate::VERSION)]
    NewerFormat {
        /// Its version.
        found: u16,
    },
    /// Its checksum fits, and it says what no snapshot says.
    #[error("its checksum fits, but it says what no snapshot says")]
    Malformed,
    /// It is a chunk of another snapshot.
    #[error("it belongs to another snapshot")]
    OtherSnapshot,
    /// It is a chunk of another place in the file.
    #[error("it belongs to another place: it is chunk {found}")]
    OtherPlace {
        /// Its number.
        found: u64,
    },
    /// The whole is another than was promised: its length, its digest, or what it is of.
    #[error("the whole is not what it was said to be: its {what} differs")]
    Otherwise {
        /// What differs.
        what: &'static str,
    },
    /// There is more behind the end.
    #[error("there is more behind its end")]
    TooLong,
}

//! What the log's next segment lacks: the one thing that keeps a replica, which is well otherwise, from taking writes.

use kontiki_io::IoError;
use kontiki_wal::{Space, Wal};

use crate::events::Event;

/// What is lacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Space on the file system.
    Space,
    /// Segments: the log has as many as it can keep track of, and may forget none.
    Segments,
    /// Something else of the system's, which the error names.
    Resources(IoError),
}

impl Lack {
    /// What a log lacks, if its next segment is not there and not being made.
    pub(crate) fn of(wal: &Wal) -> Option<Lack> {
        match wal.space() {
            Space::Ready | Space::Preparing => None,
            Space::Full if wal.is_full() => Some(Lack::Segments),
            Space::Full => Some(Lack::Space),
            Space::Short(error) => Some(Lack::Resources(error)),
        }
    }

    /// What the product is told when it begins.
    pub(crate) fn begun(self) -> Event {
        match self {
            Lack::Space => Event::DiskFull,
            Lack::Segments => Event::LogFull,
            Lack::Resources(_) => Event::Shortage,
        }
    }

    /// And when it is over.
    pub(crate) fn over(self) -> Event {
        match self {
            Lack::Space => Event::DiskBack,
            Lack::Segments => Event::LogBack,
            Lack::Resources(_) => Event::ShortageOver,
        }
    }

    /// Whether both are of one kind: what the operator is told of once.
    pub(crate) fn is_like(self, other: Lack) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    /// As one word, never zero, for whoever refuses proposals.
    pub(crate) fn word(self) -> u8 {
        match self {
            Lack::Space => 1,
            Lack::Segments => 2,
            Lack::Resources(_) => 3,
        }
    }
}

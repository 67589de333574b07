//! What recovery found, as a new core is told, and what cannot be true of it.

use alloc::vec::Vec;
use core::fmt;

use crate::limits::{MAX_INDEX, MAX_TERM};
use crate::{LogIndex, NodeId, Term};

/// What recovery found, handed to a new core.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Current term.
    pub term: Term,
    /// Vote in that term.
    pub vote: Option<NodeId>,
    /// Whether the node is recovering.
    pub recovering: bool,
    /// First index the log holds (1 on an empty, never compacted log; zero counts as 1).
    pub first: LogIndex,
    /// Term of the entry before `first`.
    pub prev_term: Term,
    /// Runs of equal term, ascending: (first index, term). At least the newest runs; empty only if the log is.
    pub runs: Vec<(LogIndex, Term)>,
    /// Last index of the log; one before `first` if it is empty.
    pub last: LogIndex,
    /// Index to which the state machine is already applied (may exceed `last`). What the log no longer holds must lie
    /// within it: that it was applied is what says that it was ever committed.
    pub applied: LogIndex,
}

/// Why a core cannot begin with a [`Restored`]: what it says contradicts itself, or is past every limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoredError {
    /// The state machine lacks entries that the log no longer holds: nothing says that what the log says about them is
    /// true.
    Gap {
        /// Applied up to here.
        applied: LogIndex,
        /// The log begins here.
        first: LogIndex,
    },
    /// The log ends more than one entry before it begins.
    Ends {
        /// It begins here.
        first: LogIndex,
        /// It ends here.
        last: LogIndex,
    },
    /// The terms along the log fall, or lie outside of it, or there are none.
    Terms {
        /// Near this index.
        at: LogIndex,
    },
    /// An index is past the greatest that there can be.
    Index {
        /// Which.
        index: LogIndex,
    },
    /// A term is past the greatest that there can be.
    Term {
        /// Which.
        term: Term,
    },
}

impl fmt::Display for RestoredError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoredError::Gap { applied, first } => {
                write!(f, "the state machine has applied {applied}, but the log begins at {first}: what lies between is nowhere")
            }
            RestoredError::Ends { first, last } => write!(f, "the log begins at {first} and ends at {last}"),
            RestoredError::Terms { at } => write!(f, "the terms of the log's entries contradict each other near {at}"),
            RestoredError::Index { index } => write!(f, "index {index} is past the greatest, {MAX_INDEX}"),
            RestoredError::Term { term } => write!(f, "term {term} is past the greatest, {MAX_TERM}"),
        }
    }
}

impl core::error::Error for RestoredError {}

impl Restored {
    /// Whether a core can begin with this. To be asked of whatever a disk or a state machine has said.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn validate(&self) -> Result<(), RestoredError> {
        let first = self.first.max(LogIndex(1));
        if let Some(index) = [first, self.last, self.applied].into_iter().find(|index| index.0 > MAX_INDEX) {
            return Err(RestoredError::Index { index });
        }
        let newest = self.runs.last().map_or(self.prev_term, |(_, term)| *term);
        if let Some(term) = [self.term, self.prev_term, newest].into_iter().find(|term| term.0 > MAX_TERM) {
            return Err(RestoredError::Term { term });
        }
        if self.applied < first.prev() {
            return Err(RestoredError::Gap { applied: self.applied, first });
        }
        if self.last < first.prev() {
            return Err(RestoredError::Ends { first, last: self.last });
        }
        self.validate_terms(first)
    }

    fn validate_terms(&self, first: LogIndex) -> Result<(), RestoredError> {
        if self.last >= first && self.runs.is_empty() {
            return Err(RestoredError::Terms { at: self.last });
        }
        let mut before: Option<(LogIndex, Term)> = None;
        for &(at, term) in &self.runs {
            let rises = before.is_none_or(|(earlier, lower)| earlier < at && lower <= term);
            if !rises || at > self.last || term < self.prev_term || term.0 == 0 {
                return Err(RestoredError::Terms { at });
            }
            before = Some((at, term));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// Entries 5 to 9, of terms 2 and 3, after one of term 1; applied up to 6.
    fn good() -> Restored {
        Restored {
            term: Term(3),
            first: LogIndex(5),
            prev_term: Term(1),
            runs: vec![(LogIndex(5), Term(2)), (LogIndex(8), Term(3))],
            last: LogIndex(9),
            applied: LogIndex(6),
            ..Restored::default()
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        assert_eq!(Restored::default().validate(), Ok(()));
        assert_eq!(good().validate(), Ok(()));
        let bad = |change: fn(&mut Restored)| {
            let mut restored = good();
            change(&mut restored);
            restored.validate().err()
        };
        let terms = |at| Some(RestoredError::Terms { at: LogIndex(at) });
        assert_eq!(bad(|r| r.applied = LogIndex(4)), None, "all that is gone was applied");
        assert_eq!(bad(|r| r.applied = LogIndex(3)), Some(RestoredError::Gap { applied: LogIndex(3), first: LogIndex(5) }));
        assert_eq!(bad(|r| r.last = LogIndex(3)), Some(RestoredError::Ends { first: LogIndex(5), last: LogIndex(3) }));
        assert_eq!(bad(|r| (r.last, r.runs) = (LogIndex(4), vec![])), None, "an empty log");
        assert_eq!(bad(|r| r.last = LogIndex(7)), terms(8));
        assert_eq!(bad(|r| r.runs.clear()), terms(9));
        assert_eq!(bad(|r| r.runs.reverse()), terms(5));
        assert_eq!(bad(|r| r.runs = vec![(LogIndex(5), Term(3)), (LogIndex(8), Term(2))]), terms(8));
        assert_eq!(bad(|r| r.prev_term = Term(3)), terms(5));
        assert_eq!(bad(|r| (r.prev_term, r.runs) = (Term(0), vec![(LogIndex(5), Term(0))])), terms(5));
        assert_eq!(bad(|r| r.applied = LogIndex(u64::MAX)), Some(RestoredError::Index { index: LogIndex(u64::MAX) }));
        assert_eq!(bad(|r| r.last = LogIndex(MAX_INDEX + 1)), Some(RestoredError::Index { index: LogIndex(MAX_INDEX + 1) }));
        assert_eq!(bad(|r| r.first = LogIndex(u64::MAX)), Some(RestoredError::Index { index: LogIndex(u64::MAX) }));
        assert_eq!(bad(|r| r.term = Term(MAX_TERM + 1)), Some(RestoredError::Term { term: Term(MAX_TERM + 1) }));
        assert_eq!(bad(|r| r.runs[1].1 = Term(u64::MAX)), Some(RestoredError::Term { term: Term(u64::MAX) }));
    }
}

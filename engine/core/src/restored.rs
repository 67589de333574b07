//! What recovery found, as a new core is told, and what cannot be true of it.

use alloc::vec::Vec;
use core::fmt;

use crate::limits::{MAX_INDEX, MAX_TERM};
use crate::{Base, EntryId, LogIndex, NodeId, Term};

/// What recovery found, handed to a new core.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Current term.
    pub term: Term,
    /// Vote in that term.
    pub vote: Option<NodeId>,
    /// Whether the node is recovering.
    pub recovering: bool,
    /// What the log presupposes: it holds what comes after (the default on a log that was never compacted).
    pub base: Base,
    /// Runs of equal term, ascending: (first index, term), each behind the base. At least the newest runs; empty only if
    /// the log is.
    pub runs: Vec<(LogIndex, Term)>,
    /// Last index of the log; its base's if it is empty.
    pub last: LogIndex,
    /// Index up to which everything is known to be committed (may exceed `last`): a snapshot of it is at hand, or the
    /// state machine has applied it. What the log no longer holds must lie within it, unless `needs_base`.
    pub committed: LogIndex,
    /// The last entry that the state machine has applied.
    pub applied: EntryId,
    /// What the log presupposes is nowhere at hand: neither applied nor in a snapshot. The node takes no part before it
    /// has been given a snapshot.
    pub needs_base: bool,
}

/// Why a core cannot begin with a [`Restored`]: what it says contradicts itself, or is past every limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoredError {
    /// Entries that the log no longer holds are not known to be committed: nothing says that what the log says about
    /// them is true.
    Gap {
        /// Known to be committed up to here.
        committed: LogIndex,
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
    /// What the state machine says it has applied is not what the log presupposes, or can be no entry.
    Applied {
        /// What it says.
        applied: EntryId,
        /// What the log presupposes.
        base: Base,
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
            RestoredError::Gap { committed, first } => {
                write!(
                    f,
                    "what is applied or in a snapshot ends at {committed}, but the log begins at {first}: what lies between is nowhere"
                )
            }
            RestoredError::Ends { first, last } => write!(f, "the log begins at {first} and ends at {last}"),
            RestoredError::Terms { at } => write!(f, "the terms of the log's entries contradict each other near {at}"),
            RestoredError::Applied { applied, base } => {
                write!(f, "the state machine has applied {applied}, but the log comes after {base}: they are not of one history")
            }
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
        let (base, applied, first) = (self.base, self.applied, self.base.next());
        let indexes = [base.index, self.last, self.committed, applied.index];
        if let Some(index) = indexes.into_iter().find(|index| index.0 > MAX_INDEX) {
            return Err(RestoredError::Index { index });
        }
        let newest = self.runs.last().map_or(base.term, |(_, term)| *term);
        if let Some(term) = [self.term, base.term, newest, applied.term].into_iter().find(|term| term.0 > MAX_TERM) {
            return Err(RestoredError::Term { term });
        }
        if self.committed.max(applied.index) < base.index && !self.needs_base {
            return Err(RestoredError::Gap { committed: self.committed.max(applied.index), first });
        }
        if self.last < base.index {
            return Err(RestoredError::Ends { first, last: self.last });
        }
        // Terms never fall along a log, and each of its entries has one.
        if (applied.index.0 == 0) != (applied.term.0 == 0) || !applied.may_share_a_log_with(base.id()) {
            return Err(RestoredError::Applied { applied, base });
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
            if !rises || at < first || at > self.last || term < self.base.term || term.0 == 0 {
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
            base: Base { index: LogIndex(4), term: Term(1), ..Base::default() },
            runs: vec![(LogIndex(5), Term(2)), (LogIndex(8), Term(3))],
            last: LogIndex(9),
            committed: LogIndex(6),
            applied: EntryId { index: LogIndex(6), term: Term(2) },
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
        let begins_at_4 = |r: &mut Restored| (r.committed, r.applied) = (LogIndex(4), EntryId::default());
        assert_eq!(bad(begins_at_4), None, "all that is gone is in a snapshot");
        let gap = |committed| Some(RestoredError::Gap { committed: LogIndex(committed), first: LogIndex(5) });
        assert_eq!(bad(|r| (r.committed, r.applied) = (LogIndex(3), EntryId::default())), gap(3));
        assert_eq!(bad(|r| r.committed = LogIndex(0)), None, "all that is gone was applied");
        assert_eq!(bad(|r| (r.committed, r.applied, r.needs_base) = (LogIndex(3), EntryId::default(), true)), None, "and says so");
        for (index, term, fits) in [(4, 1, true), (4, 2, false), (3, 1, true), (3, 2, false), (9, 1, true), (9, 0, false), (0, 1, false)] {
            let applied = EntryId { index: LogIndex(index), term: Term(term) };
            let error = Restored { applied, ..good() }.validate().err();
            assert_eq!(error, (!fits).then_some(RestoredError::Applied { applied, base: good().base }), "applied {applied}");
        }
        assert_eq!(bad(|r| r.last = LogIndex(3)), Some(RestoredError::Ends { first: LogIndex(5), last: LogIndex(3) }));
        assert_eq!(bad(|r| (r.last, r.runs) = (LogIndex(4), vec![])), None, "an empty log");
        assert_eq!(bad(|r| r.last = LogIndex(7)), terms(8));
        assert_eq!(bad(|r| r.runs.clear()), terms(9));
        assert_eq!(bad(|r| r.runs[0].0 = LogIndex(4)), terms(4), "that entry is the base");
        assert_eq!(bad(|r| (r.last, r.runs) = (LogIndex(4), vec![(LogIndex(3), Term(2))])), terms(3), "an empty log has none");
        assert_eq!(bad(|r| r.runs.reverse()), terms(5));
        assert_eq!(bad(|r| r.runs = vec![(LogIndex(5), Term(3)), (LogIndex(8), Term(2))]), terms(8));
        assert_eq!(bad(|r| (r.base.term, r.applied) = (Term(3), EntryId::default())), terms(5));
        assert_eq!(bad(|r| (r.base.term, r.runs) = (Term(0), vec![(LogIndex(5), Term(0))])), terms(5));
        assert_eq!(bad(|r| r.committed = LogIndex(u64::MAX)), Some(RestoredError::Index { index: LogIndex(u64::MAX) }));
        assert_eq!(bad(|r| r.last = LogIndex(MAX_INDEX + 1)), Some(RestoredError::Index { index: LogIndex(MAX_INDEX + 1) }));
        assert_eq!(bad(|r| r.base.index = LogIndex(u64::MAX)), Some(RestoredError::Index { index: LogIndex(u64::MAX) }));
        assert_eq!(bad(|r| r.term = Term(MAX_TERM + 1)), Some(RestoredError::Term { term: Term(MAX_TERM + 1) }));
        assert_eq!(bad(|r| r.runs[1].1 = Term(u64::MAX)), Some(RestoredError::Term { term: Term(u64::MAX) }));
    }
}

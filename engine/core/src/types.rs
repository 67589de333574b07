//! The newtypes every crate of Kontiki speaks in.

use core::fmt;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

newtype!(
    /// A Raft term (paper, section 5.1). Zero is "before any election".
    Term(u64)
);
newtype!(
    /// The position of an entry in the replicated log, from 1; zero is "before the first entry".
    LogIndex(u64)
);
newtype!(
    /// One replica. Unique within its cluster for ever, never zero on a real node.
    NodeId(u64)
);
newtype!(
    /// One consensus group within a cluster. Always zero today; in every format from the first day.
    GroupId(u64)
);
newtype!(
    /// One cluster: drawn once, in every format, so that two clusters can never mix.
    ClusterId(u128)
);
newtype!(
    /// One connection between two nodes. A new connection is a new session; nothing is carried over.
    SessionId(u64)
);
newtype!(
    /// How often a node has started (its boot number), durable before the node speaks.
    Incarnation(u64)
);
newtype!(
    /// One write that the core asked for. Counts up from 1, over log and hard state together.
    WriteId(u64)
);
newtype!(
    /// A stretch of a term during which a leader counts the same replicas. Always zero until there are witnesses.
    Subterm(u32)
);
newtype!(
    /// A point of monotonic time, in nanoseconds from an arbitrary start. Never the wall clock.
    Time(u64)
);

impl LogIndex {
    /// The index after this one; the greatest stays itself.
    pub const fn next(self) -> Self {
        LogIndex(self.0.saturating_add(1))
    }
    /// The index before this one; zero stays zero.
    pub const fn prev(self) -> Self {
        LogIndex(self.0.saturating_sub(1))
    }
}

impl Time {
    /// This point plus `ns` nanoseconds.
    pub const fn plus_ns(self, ns: u64) -> Self {
        Time(self.0.saturating_add(ns))
    }
    /// Nanoseconds since `earlier`, zero if that is later.
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One entry, named so that a superseded one is told apart from the one that took its place: by index *and* term.
///
/// The [`Default`] is "before the first entry".
///
/// Source: the paper, figure 3, the log matching property.
///
/// ```
/// use kontiki_core::{EntryId, LogIndex, Term};
///
/// let superseded = EntryId { index: LogIndex(7), term: Term(2) };
/// let in_its_place = EntryId { index: LogIndex(7), term: Term(3) };
/// assert_ne!(superseded, in_its_place);
/// assert!(EntryId::default() < superseded, "nothing comes before the first entry");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The entry's index.
    pub index: LogIndex,
    /// The term in which a leader made it.
    pub term: Term,
}

impl EntryId {
    /// Whether one log could hold both: along a log terms never fall, and an index holds one entry.
    pub(crate) const fn may_share_a_log_with(&self, other: EntryId) -> bool {
        if self.index.0 == other.index.0 {
            self.term.0 == other.term.0
        } else if self.index.0 < other.index.0 {
            self.term.0 <= other.term.0
        } else {
            self.term.0 >= other.term.0
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of term {}", self.index, self.term)
    }
}

/// What a log presupposes: everything up to and with `index`, whose entry had `term` and `subterm`.
///
/// A snapshot holds it, or the state that a machine keeps by itself. The [`Default`] presupposes nothing: a log with
/// it begins at its very first entry.
///
/// Source: the paper, section 7: `lastIncludedIndex` and `lastIncludedTerm`.
///
/// ```
/// use kontiki_core::{Base, LogIndex, Subterm, Term};
///
/// let base = Base { index: LogIndex(1_000), term: Term(3), subterm: Subterm(0) };
/// assert_eq!(base.next(), LogIndex(1_001), "where the log behind it begins");
/// assert_eq!(Base::default().next(), LogIndex(1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Base {
    /// The last index that is presupposed; zero where nothing is.
    pub index: LogIndex,
    /// The term of the entry at `index`.
    pub term: Term,
    /// The subterm of the entry at `index`.
    pub subterm: Subterm,
}

impl Base {
    /// The first index of the log behind it.
    pub const fn next(&self) -> LogIndex {
        self.index.next()
    }
    /// The last entry that is presupposed.
    pub const fn id(&self) -> EntryId {
        EntryId { index: self.index, term: self.term }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id(), f)
    }
}

/// An inclusive, never empty range of log indexes: those of a frame that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRange {
    /// First index that counts.
    pub from: LogIndex,
    /// Last index that counts, at least `from`.
    pub to: LogIndex,
}

/// What the sealed header of a frame says about its entries: everything the core ever knows of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// Term of every entry in the frame.
    pub term: Term,
    /// Index of the first entry of the sealed frame.
    pub first: LogIndex,
    /// Number of entries, at least 1.
    pub count: u32,
    /// Term of the entry before `first`.
    pub prev_term: Term,
}

impl FrameMeta {
    /// Index of the last entry of the sealed frame.
    pub const fn last(&self) -> LogIndex {
        LogIndex(self.first.0 + self.count as u64 - 1)
    }
    /// The whole frame as a range.
    pub const fn range(&self) -> IndexRange {
        IndexRange { from: self.first, to: self.last() }
    }
    /// Term of the entry before `from`, where `from` lies inside the frame: the frame's own term but at its very start.
    pub const fn term_before(&self, from: LogIndex) -> Term {
        if from.0 > self.first.0 { self.term } else { self.prev_term }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_base_names_its_entry_and_where_the_log_behind_it_begins() {
        let base = Base { index: LogIndex(7), term: Term(2), subterm: Subterm(1) };
        assert_eq!(base.id(), EntryId { index: LogIndex(7), term: Term(2) });
        assert_eq!(base.next(), LogIndex(8));
        assert_eq!(base.to_string(), "entry 7 of term 2");
        assert_eq!(Base { index: LogIndex(u64::MAX), ..base }.next(), LogIndex(u64::MAX), "the end of all logs");
    }

    #[test]
    fn nothing_is_presupposed_by_default() {
        assert_eq!(Base::default().next(), LogIndex(1));
        assert_eq!(Base::default().id(), EntryId::default());
        assert_eq!(EntryId::default(), EntryId { index: LogIndex(0), term: Term(0) });
    }

    #[test]
    fn entries_stand_in_the_order_of_the_log() {
        let at = |index, term| EntryId { index: LogIndex(index), term: Term(term) };
        assert!(at(6, 3) < at(7, 2), "by index first");
        assert!(at(7, 2) < at(7, 3), "then by term");
        for (other, fits) in [(at(7, 2), true), (at(7, 3), false), (at(6, 3), false), (at(6, 2), true), (at(8, 1), false), (at(8, 9), true)]
        {
            assert_eq!(at(7, 2).may_share_a_log_with(other), fits, "{other}");
        }
    }
}

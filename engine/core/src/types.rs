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

//! What the core knows of the log: its ends, its terms, what awaits the disk and what is durable.

use heapless::Deque;

use crate::limits::PENDING_WRITES;
use crate::lookup::Lookups;
use crate::runs::TermRuns;
use crate::{Base, IndexRange, LogIndex, Restored, Term, Time, WriteId};

/// What is known of one entry's term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryTerm {
    /// This is it.
    Known(Term),
    /// The entry is there, its term is older than the tables.
    Unknown,
    /// The log holds no such entry.
    Absent,
}

/// A write on its way to the disk: afterwards the log is durable to `to`, which is lowered where a later frame
/// supersedes part of it.
#[derive(Clone, Copy, Debug)]
struct PendingWrite {
    write: WriteId,
    to: LogIndex,
    since: Time,
}

/// The log without its payloads. Invariants: `durable <= last`, and `durable` covers only entries that still stand, or
/// that the base holds; `base.index <= durable`, but while a log that began anew is on its way to the disk.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    base: Base,
    last: LogIndex,
    last_term: Term,
    durable: LogIndex,
    runs: TermRuns,
    lookups: Lookups,
    pending: Deque<PendingWrite, PENDING_WRITES>,
}

impl Log {
    /// The log that recovery found, which [validates](Restored::validate): all of it is durable.
    pub(crate) fn new(restored: &Restored) -> Log {
        let (base, last) = (restored.base, restored.last);
        let mut log = Log {
            base,
            last,
            last_term: base.term,
            durable: last,
            runs: TermRuns::default(),
            lookups: Lookups::default(),
            pending: Deque::new(),
        };
        for (at, term) in &restored.runs {
            log.runs.append(*at, *term);
            log.last_term = *term;
        }
        log
    }

    /// What it presupposes.
    pub(crate) fn base(&self) -> Base {
        self.base
    }

    pub(crate) fn first(&self) -> LogIndex {
        self.base.next()
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    pub(crate) fn last_term(&self) -> Term {
        self.last_term
    }

    /// Last index of the contiguous durable prefix.
    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Whether a log that ends in (`term`, `index`) is at least as up to date as this one (paper, section 5.4.1).
    pub(crate) fn is_covered_by(&self, term: Term, index: LogIndex) -> bool {
        (term, index) >= (self.last_term, self.last)
    }

    /// The term at `index`; the base's entry counts as held.
    pub(crate) fn term(&self, index: LogIndex) -> EntryTerm {
        if index > self.last || index < self.base.index {
            return EntryTerm::Absent;
        }
        if index == self.last {
            return EntryTerm::Known(self.last_term);
        }
        if index == self.base.index {
            return EntryTerm::Known(self.base.term);
        }
        match self.runs.term(index).or_else(|| self.lookups.term(index)) {
            Some(term) => EntryTerm::Known(term),
            None => EntryTerm::Unknown,
        }
    }

    /// First index known of the run of equal terms that `index` lies in.
    pub(crate) fn run_start(&self, index: LogIndex) -> LogIndex {
        if index <= self.base.index { index } else { self.runs.start(index).unwrap_or(index) }
    }

    /// The greatest index not past `bound` whose term is not above `term`; `None` if that is not known.
    pub(crate) fn last_not_above(&self, term: Term, bound: LogIndex) -> Option<LogIndex> {
        let found = self.runs.last_not_above(term, bound.min(self.last));
        if found.is_none() && self.runs.known_from().is_none_or(|from| from <= self.first()) {
            return Some(self.base.index.min(bound));
        }
        found
    }

    /// Whether the term of `index` should be asked for now.
    pub(crate) fn ask(&mut self, index: LogIndex) -> bool {
        self.lookups.ask(index)
    }

    /// Takes the answer to a question. `false` if nobody waited for it.
    pub(crate) fn answer(&mut self, index: LogIndex, term: Option<Term>) -> bool {
        let waited = self.lookups.answer(index, term);
        if let (true, Some(term)) = (waited, term) {
            self.runs.extend_down(index, term);
        }
        waited
    }

    /// Whether another write fits the table.
    pub(crate) fn has_room(&self) -> bool {
        !self.pending.is_full()
    }

    /// Whether any write awaits the disk.
    pub(crate) fn is_writing(&self) -> bool {
        !self.pending.is_empty()
    }

    /// How many writes await the disk.
    pub(crate) fn writes(&self) -> usize {
        self.pending.len()
    }

    /// When the oldest write that awaits the disk was asked for.
    pub(crate) fn writing_since(&self) -> Option<Time> {
        self.pending.front().map(|pending| pending.since)
    }

    /// Appends `range`, all of `term`, as `write`. What stood at `range.from` and after is superseded at once, in
    /// memory and in what counts as durable.
    ///
    /// # Panics
    /// If the range leaves a gap, a term falls, or the table has no room.
    pub(crate) fn append(&mut self, write: WriteId, range: IndexRange, term: Term, now: Time) {
        assert!(self.base.index < range.from && range.from <= self.last.next() && range.from <= range.to, "a log without gaps");
        if range.from <= self.last {
            self.supersede(range.from);
        }
        self.runs.append(range.from, term);
        self.last = range.to;
        self.last_term = term;
        let pushed = self.pending.push_back(PendingWrite { write, to: range.to, since: now });
        assert!(pushed.is_ok(), "asked for room before");
    }

    /// Begins anew behind `base`, as `write`: empty. Up to `kept` the old log stays true until that is durable.
    ///
    /// # Panics
    /// If the table has no room.
    pub(crate) fn rebase(&mut self, write: WriteId, base: Base, kept: LogIndex, now: Time) {
        self.durable = self.durable.min(kept);
        for pending in &mut self.pending {
            pending.to = pending.to.min(self.durable);
        }
        (self.base, self.last, self.last_term) = (base, base.index, base.term);
        self.runs.clear();
        self.lookups = Lookups::default();
        let pushed = self.pending.push_back(PendingWrite { write, to: base.index, since: now });
        assert!(pushed.is_ok(), "asked for room before");
    }

    fn supersede(&mut self, from: LogIndex) {
        self.runs.truncate(from);
        self.lookups.truncate(from);
        self.durable = self.durable.min(from.prev());
        for pending in &mut self.pending {
            pending.to = pending.to.min(from.prev());
        }
    }

    /// Every log write up to and with `write` is durable. Returns whether the durable prefix grew.
    pub(crate) fn written(&mut self, write: WriteId) -> bool {
        let before = self.durable;
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.write <= write) {
            self.durable = self.durable.max(pending.to);
        }
        assert!(self.durable <= self.last, "durable is a prefix of the log");
        self.durable > before
    }

    /// The log now presupposes `base`. Going back is ignored.
    ///
    /// # Panics
    /// If more would go than is durable here.
    pub(crate) fn compact(&mut self, base: Base) {
        if base.index <= self.base.index {
            return;
        }
        assert!(base.index <= self.durable, "only what is durable is compacted");
        self.base = base;
        if base.index >= self.last {
            self.runs.clear();
        } else {
            self.runs.compact(base.next());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn range(from: u64, to: u64) -> IndexRange {
        IndexRange { from: LogIndex(from), to: LogIndex(to) }
    }

    fn base(index: u64, term: u64) -> Base {
        Base { index: LogIndex(index), term: Term(term), ..Base::default() }
    }

    fn empty() -> Log {
        Log::new(&Restored::default())
    }

    #[test]
    fn an_empty_log_has_a_zero_before_it() {
        let log = empty();
        assert_eq!((log.first(), log.last(), log.last_term()), (LogIndex(1), LogIndex(0), Term(0)));
        assert_eq!(log.term(LogIndex(0)), EntryTerm::Known(Term(0)));
        assert_eq!(log.term(LogIndex(1)), EntryTerm::Absent);
        assert_eq!(log.last_not_above(Term(0), LogIndex(0)), Some(LogIndex(0)));
    }

    /// A durable prefix never includes indexes superseded by a frame that is not durable.
    #[test]
    fn superseding_takes_back_durability() {
        let mut log = empty();
        log.append(WriteId(1), range(1, 10), Term(1), Time(0));
        log.append(WriteId(2), range(7, 8), Term(2), Time(1));
        assert_eq!(log.last(), LogIndex(8));
        assert!(log.written(WriteId(1)));
        assert_eq!(log.durable(), LogIndex(6), "7 to 10 of the first write no longer stand");
        assert_eq!(log.writing_since(), Some(Time(1)));
        assert!(log.written(WriteId(2)));
        assert_eq!(log.durable(), LogIndex(8));
        log.append(WriteId(3), range(3, 3), Term(3), Time(2));
        assert_eq!((log.durable(), log.last()), (LogIndex(2), LogIndex(3)));
        assert!(!log.written(WriteId(2)), "an old completion says nothing new");
    }

    #[test]
    fn an_older_table_is_asked_and_extended() {
        let restored = Restored { last: LogIndex(30), runs: vec![(LogIndex(20), Term(5))], term: Term(5), ..Restored::default() };
        let mut log = Log::new(&restored);
        assert_eq!(log.term(LogIndex(19)), EntryTerm::Unknown);
        assert_eq!(log.last_not_above(Term(4), LogIndex(30)), None);
        assert!(log.ask(LogIndex(10)));
        assert!(log.answer(LogIndex(10), Some(Term(5))));
        assert_eq!(log.term(LogIndex(15)), EntryTerm::Known(Term(5)));
    }

    /// A log that began anew is durable once that write is, whatever of the old one was still under way.
    #[test]
    fn a_log_that_begins_anew_is_durable_with_that_write() {
        let mut log = empty();
        log.append(WriteId(1), range(1, 4), Term(1), Time(0));
        log.written(WriteId(1));
        log.append(WriteId(2), range(5, 9), Term(1), Time(0));
        log.rebase(WriteId(3), base(7, 2), LogIndex(3), Time(1));
        log.append(WriteId(4), range(8, 8), Term(2), Time(2));
        assert_eq!((log.first(), log.last(), log.durable()), (LogIndex(8), LogIndex(8), LogIndex(3)));
        assert_eq!([6, 7, 8].map(|at| log.term(LogIndex(at))), [EntryTerm::Absent, EntryTerm::Known(Term(2)), EntryTerm::Known(Term(2))]);
        assert!(!log.written(WriteId(2)), "5 to 9 of term 1 no longer stand");
        assert!(log.written(WriteId(3)));
        assert_eq!(log.durable(), LogIndex(7));
        assert!(log.written(WriteId(4)));
        assert_eq!(log.durable(), LogIndex(8));
    }

    #[test]
    fn compacts_to_its_end() {
        let mut log = empty();
        log.append(WriteId(1), range(1, 4), Term(1), Time(0));
        log.written(WriteId(1));
        log.compact(base(4, 1));
        assert_eq!((log.first(), log.last(), log.last_term()), (LogIndex(5), LogIndex(4), Term(1)));
        assert_eq!(log.term(LogIndex(4)), EntryTerm::Known(Term(1)));
        assert_eq!(log.term(LogIndex(3)), EntryTerm::Absent);
        log.append(WriteId(2), range(5, 5), Term(2), Time(0));
        assert_eq!(log.term(LogIndex(5)), EntryTerm::Known(Term(2)));
    }

    #[test]
    fn a_run_begins_where_its_term_does() {
        let mut log = empty();
        log.append(WriteId(1), range(1, 3), Term(1), Time(0));
        log.append(WriteId(2), range(4, 9), Term(3), Time(0));
        assert_eq!([2, 4, 9].map(|at| log.run_start(LogIndex(at)).0), [1, 4, 4]);
        log.written(WriteId(2));
        log.compact(base(5, 3));
        assert_eq!([5, 6, 9].map(|at| log.run_start(LogIndex(at)).0), [5, 6, 6]);
    }

    /// Compacting to the last entry keeps its term.
    #[test]
    fn the_last_entry_is_known_after_all_before_it_went() {
        let mut log = empty();
        log.append(WriteId(1), range(1, 4), Term(1), Time(0));
        log.written(WriteId(1));
        log.compact(base(3, 1));
        log.append(WriteId(2), range(5, 5), Term(2), Time(0));
        assert_eq!(log.term(LogIndex(4)), EntryTerm::Known(Term(1)));
    }
}

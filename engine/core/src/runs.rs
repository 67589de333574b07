//! Which term stands where: the newest runs of equal term, in a bounded table.

use heapless::Deque;

use crate::limits::TERM_RUNS;
use crate::{LogIndex, Term};

/// Entries of one term, from `first` to where the next run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: LogIndex,
    term: Term,
}

/// The newest runs of a log. Invariant: first indexes ascend strictly and terms never fall; equal terms in
/// neighbouring runs do not occur.
#[derive(Clone, Debug, Default)]
pub(crate) struct TermRuns {
    runs: Deque<Run, TERM_RUNS>,
}

impl TermRuns {
    /// First index whose term the table knows. `None` if it knows nothing.
    pub(crate) fn known_from(&self) -> Option<LogIndex> {
        self.runs.front().map(|run| run.first)
    }

    /// The term at `index`, which must not be past the log's end. `None` if the run is older than the table.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        self.run_of(index).map(|run| run.term)
    }

    /// First index known of the run that `index` lies in.
    pub(crate) fn start(&self, index: LogIndex) -> Option<LogIndex> {
        self.run_of(index).map(|run| run.first)
    }

    fn run_of(&self, index: LogIndex) -> Option<&Run> {
        // From the newest: nearly every question is about the tail.
        self.runs.iter().rev().find(|run| run.first <= index)
    }

    /// The greatest index not past `bound` whose term is not above `term`. `None` if the table does not say.
    pub(crate) fn last_not_above(&self, term: Term, bound: LogIndex) -> Option<LogIndex> {
        let mut end = bound;
        for run in self.runs.iter().rev().filter(|run| run.first <= bound) {
            if run.term <= term {
                return Some(end);
            }
            end = run.first.prev();
        }
        None
    }

    /// Notes that entries from `first` on, the new end of the log, have `term`.
    ///
    /// # Panics
    /// If index or term would fall along the log.
    pub(crate) fn append(&mut self, first: LogIndex, term: Term) {
        if let Some(newest) = self.runs.back() {
            assert!(newest.first < first && newest.term <= term, "terms never fall along the log");
            if newest.term == term {
                return;
            }
        }
        if self.runs.is_full() {
            self.runs.pop_front();
        }
        let pushed = self.runs.push_back(Run { first, term });
        assert!(pushed.is_ok(), "room was just made");
    }

    /// Forgets everything from `from` on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        while self.runs.back().is_some_and(|run| run.first >= from) {
            self.runs.pop_back();
        }
    }

    /// Learns that entries from `index` to where the table begins have the table's oldest term.
    pub(crate) fn extend_down(&mut self, index: LogIndex, term: Term) {
        if let Some(oldest) = self.runs.front_mut()
            && oldest.term == term
            && index < oldest.first
        {
            oldest.first = index;
        }
    }

    /// Forgets everything before `first`.
    pub(crate) fn compact(&mut self, first: LogIndex) {
        while self.runs.get(1).is_some_and(|second| second.first <= first) {
            self.runs.pop_front();
        }
        if let Some(oldest) = self.runs.front_mut() {
            oldest.first = oldest.first.max(first);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(list: &[(u64, u64)]) -> TermRuns {
        let mut runs = TermRuns::default();
        for (first, term) in list {
            runs.append(LogIndex(*first), Term(*term));
        }
        runs
    }

    #[test]
    fn answers_like_a_list_of_terms() {
        let table = runs(&[(1, 1), (4, 3), (5, 7)]);
        let terms = [1, 1, 1, 3, 7, 7];
        for (at, term) in terms.iter().enumerate() {
            assert_eq!(table.term(LogIndex(at as u64 + 1)), Some(Term(*term)));
        }
        for bound in 1..=6 {
            for term in 0..=8 {
                let expected = (1..=bound).rev().find(|i| terms.get(*i as usize - 1).is_some_and(|t| *t <= term)).map(LogIndex);
                assert_eq!(table.last_not_above(Term(term), LogIndex(bound)), expected, "bound {bound} term {term}");
            }
        }
        assert_eq!(table.start(LogIndex(3)), Some(LogIndex(1)));
    }

    #[test]
    fn forgets_the_oldest_when_full() {
        let mut table = TermRuns::default();
        for k in 1..=TERM_RUNS as u64 + 10 {
            table.append(LogIndex(k), Term(k));
        }
        assert_eq!(table.known_from(), Some(LogIndex(11)));
        assert_eq!(table.term(LogIndex(10)), None);
        table.extend_down(LogIndex(9), Term(11));
        assert_eq!(table.term(LogIndex(10)), Some(Term(11)));
    }

    #[test]
    fn truncates_and_compacts() {
        let mut table = runs(&[(1, 1), (4, 3), (5, 7)]);
        table.truncate(LogIndex(5));
        assert_eq!(table.term(LogIndex(9)), Some(Term(3)), "past the end is the caller's to check");
        table.compact(LogIndex(3));
        assert_eq!((table.term(LogIndex(2)), table.term(LogIndex(3))), (None, Some(Term(1))));
        table.compact(LogIndex(4));
        assert_eq!(table.known_from(), Some(LogIndex(4)));
        table.clear();
        assert_eq!(table.known_from(), None);
    }
}

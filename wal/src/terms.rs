//! Runs of equal term in the live log: the newest few, in memory.

use kontiki_core::{LogIndex, Term};

use crate::limits::MAX_TERM_RUNS;

/// Runs in ascending order, each from its first index to where the next begins. Terms never fall along the live log
/// (paper, section 5.3). The oldest runs are forgotten at the bound, so the first run may begin after the log does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TermRuns {
    runs: heapless::Vec<(LogIndex, Term), MAX_TERM_RUNS>,
}

impl TermRuns {
    /// The entries from `from` on are of `term`.
    pub(crate) fn push(&mut self, from: LogIndex, term: Term) {
        if self.runs.last().is_some_and(|run| run.1 == term) {
            return;
        }
        if self.runs.is_full() {
            self.runs.remove(0);
        }
        let pushed = self.runs.push((from, term));
        assert!(pushed.is_ok(), "a place was made");
    }

    /// Forgets the entries from `from` on.
    pub(crate) fn cut(&mut self, from: LogIndex) {
        while self.runs.last().is_some_and(|run| run.0 >= from) {
            self.runs.pop();
        }
    }

    /// Forgets the entries before `first`.
    pub(crate) fn release(&mut self, first: LogIndex) {
        let gone = self.runs.iter().skip(1).take_while(|run| run.0 <= first).count();
        for _ in 0..gone {
            self.runs.remove(0);
        }
        if let Some(run) = self.runs.first_mut()
            && run.0 < first
        {
            run.0 = first;
        }
    }

    /// Term of an entry not past the log's end; `None` if it is older than the runs that are known.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        let after = self.runs.partition_point(|run| run.0 <= index);
        self.runs.get(after.checked_sub(1)?).map(|run| run.1)
    }

    pub(crate) fn as_slice(&self) -> &[(LogIndex, Term)] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(of: &[(u64, u64)]) -> TermRuns {
        let mut runs = TermRuns::default();
        for &(index, term) in of {
            runs.push(LogIndex(index), Term(term));
        }
        runs
    }

    #[test]
    fn pushed_cut_and_released() {
        let mut it = runs(&[(1, 1), (5, 1), (8, 3), (9, 4)]);
        assert_eq!(it, runs(&[(1, 1), (8, 3), (9, 4)]));
        assert_eq!([0, 1, 7, 8, 9, 100].map(|i| it.term_at(LogIndex(i)).map(|t| t.0)), [None, Some(1), Some(1), Some(3), Some(4), Some(4)]);
        it.cut(LogIndex(9));
        it.release(LogIndex(4));
        assert_eq!(it, runs(&[(4, 1), (8, 3)]));
        it.release(LogIndex(8));
        assert_eq!(it, runs(&[(8, 3)]));
        it.cut(LogIndex(8));
        assert_eq!(it, runs(&[]));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut it = TermRuns::default();
        for n in 1..=MAX_TERM_RUNS as u64 + 2 {
            it.push(LogIndex(n), Term(n));
        }
        assert_eq!(it.as_slice().len(), MAX_TERM_RUNS);
        assert_eq!(it.term_at(LogIndex(2)), None);
        assert_eq!(it.term_at(LogIndex(3)), Some(Term(3)));
    }
}

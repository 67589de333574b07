//! Terms of entries older than the term-run table, asked of the log and answered later.

use heapless::Vec;

use crate::limits::LOOKUP_ANSWERS;
use crate::{LogIndex, Term};

/// The question in flight and the newest answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lookups {
    asked: Option<LogIndex>,
    answers: Vec<(LogIndex, Term), LOOKUP_ANSWERS>,
}

impl Lookups {
    /// What the answers say about `index`. Terms never fall along a log, so between two equal answers lies the same.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        let below = self.answers.iter().filter(|(at, _)| *at <= index).max_by_key(|(at, _)| *at)?;
        let above = self.answers.iter().filter(|(at, _)| *at >= index).min_by_key(|(at, _)| *at)?;
        (below.1 == above.1).then_some(below.1)
    }

    /// Whether `index` is to be asked for now: not if that question is in flight.
    pub(crate) fn ask(&mut self, index: LogIndex) -> bool {
        self.asked.replace(index) != Some(index)
    }

    /// Takes an answer. `false` if it is not the one that was waited for.
    pub(crate) fn answer(&mut self, index: LogIndex, term: Option<Term>) -> bool {
        if self.asked != Some(index) {
            return false;
        }
        self.asked = None;
        if let Some(term) = term {
            if self.answers.is_full() {
                self.answers.remove(0);
            }
            let kept = self.answers.push((index, term));
            assert!(kept.is_ok(), "room was just made");
        }
        true
    }

    /// Forgets answers from `from` on, and the question if it lies there: those entries are gone.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        self.answers.retain(|(at, _)| *at < from);
        self.asked = self.asked.filter(|at| *at < from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infers_between_equal_answers_only() {
        let mut lookups = Lookups::default();
        for (at, term) in [(3, 2), (9, 2), (12, 5)] {
            assert!(lookups.ask(LogIndex(at)));
            assert!(!lookups.ask(LogIndex(at)), "one question at a time");
            assert!(lookups.answer(LogIndex(at), Some(Term(term))));
        }
        assert_eq!(lookups.term(LogIndex(6)), Some(Term(2)));
        assert_eq!(lookups.term(LogIndex(10)), None);
        assert_eq!(lookups.term(LogIndex(2)), None);
        lookups.truncate(LogIndex(9));
        assert_eq!([3, 6, 9, 12].map(|at| lookups.term(LogIndex(at))), [Some(Term(2)), None, None, None]);
        assert!(!lookups.answer(LogIndex(6), Some(Term(1))), "nobody asked");
    }

    /// The answer to a question about an entry that is gone says nothing of what stands there now.
    #[test]
    fn a_question_is_forgotten_with_its_entry() {
        for (at, kept) in [(4, true), (5, false), (6, false)] {
            let mut lookups = Lookups::default();
            assert!(lookups.ask(LogIndex(at)));
            lookups.truncate(LogIndex(5));
            assert_eq!(lookups.answer(LogIndex(at), Some(Term(1))), kept, "asked for {at}");
        }
    }
}

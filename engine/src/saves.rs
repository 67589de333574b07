//! Hard-state writes on their way to the log: at most one there, and the newest behind it, however fast terms change.

use kontiki_core::WriteId;
use kontiki_wal::HardState;

/// A newer hard state covers all older ones, so one that is overtaken while it waits is never written by itself.
#[derive(Debug, Default)]
pub(crate) struct Saves {
    under_way: Option<WriteId>,
    next: Option<(WriteId, HardState)>,
    /// Newest durable one.
    durable: WriteId,
}

impl Saves {
    /// A hard state is to be made durable. What to hand to the log now, if anything.
    pub(crate) fn ask(&mut self, write: WriteId, state: HardState) -> Option<(WriteId, HardState)> {
        self.next = Some((write, state));
        self.hand_over()
    }

    /// The log has made `write` durable. What to hand to it next.
    pub(crate) fn done(&mut self, write: WriteId) -> Option<(WriteId, HardState)> {
        self.durable = self.durable.max(write);
        self.under_way = self.under_way.filter(|&under_way| under_way > write);
        self.hand_over()
    }

    fn hand_over(&mut self) -> Option<(WriteId, HardState)> {
        if self.under_way.is_some() {
            return None;
        }
        let next = self.next.take()?;
        self.under_way = Some(next.0);
        Some(next)
    }

    /// Whether `write`, if it is a hard-state write, is durable or covered by a newer one that is.
    pub(crate) fn is_durable(&self, write: WriteId) -> bool {
        let newest = self.next.map(|(newest, _)| newest).or(self.under_way);
        write <= self.durable || newest.is_none_or(|newest| newest < write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_core::Term;

    fn state(term: u64) -> HardState {
        HardState { term: Term(term), ..HardState::default() }
    }

    #[test]
    fn a_flood_of_terms_is_one_write_under_way_and_one_behind_it() {
        let mut saves = Saves::default();
        assert_eq!(saves.ask(WriteId(1), state(1)), Some((WriteId(1), state(1))));
        for n in 2..=1000 {
            assert_eq!(saves.ask(WriteId(n), state(n)), None);
        }
        assert!(!saves.is_durable(WriteId(1)) && !saves.is_durable(WriteId(500)) && !saves.is_durable(WriteId(1000)));
        assert_eq!(saves.done(WriteId(1)), Some((WriteId(1000), state(1000))));
        assert!(saves.is_durable(WriteId(1)) && !saves.is_durable(WriteId(2)));
        assert_eq!(saves.done(WriteId(1000)), None);
        assert!(saves.is_durable(WriteId(2)) && saves.is_durable(WriteId(1000)));
        assert!(saves.is_durable(WriteId(1001)), "a write of the log is none of these");
    }

    /// Nothing is handed over behind a write that is still under way.
    #[test]
    fn an_older_answer_ends_nothing() {
        let mut saves = Saves::default();
        saves.ask(WriteId(2), state(2));
        assert_eq!((saves.ask(WriteId(3), state(3)), saves.done(WriteId(1))), (None, None));
        assert!(saves.is_durable(WriteId(1)) && !saves.is_durable(WriteId(2)));
        assert_eq!(saves.done(WriteId(2)), Some((WriteId(3), state(3))));
    }
}

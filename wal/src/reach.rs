//! What a log's beginning rests on.

use kontiki_core::{Base, LogIndex};

use crate::index::{KnownTerm, LiveLog};

/// What vouches for everything before a log's first entry. A log that nothing reaches is of no use: its entries can
/// never be applied.
///
/// Whoever has an intact snapshot newer than the log's end, or one that contradicts the log, installs it as one that
/// has just come: a crash cut that short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It begins with the first entry of all: nothing is presupposed.
    Beginning,
    /// The newest intact snapshot that the log goes on from: it is of an entry that the log holds, or of the one before
    /// its first.
    Snapshot(Base),
    /// The state machine has applied what is presupposed.
    Machine,
    /// Nothing: there is a gap between what is there and the log.
    Nothing,
}

impl Reach {
    /// What reaches the log, of these intact snapshots and a state machine that has applied so much.
    pub(crate) fn of(log: &LiveLog, applied: LogIndex, snapshots: &[Base]) -> Reach {
        let base = log.base();
        let goes_on = |snapshot: &&Base| match log.term_at(snapshot.index) {
            KnownTerm::Term(term) => term == snapshot.term,
            KnownTerm::OnDisk => true,
            KnownTerm::Absent => false,
        };
        if base.index == LogIndex(0) {
            Reach::Beginning
        } else if let Some(snapshot) = snapshots.iter().filter(goes_on).max_by_key(|snapshot| snapshot.index) {
            Reach::Snapshot(*snapshot)
        } else if base.index <= applied {
            Reach::Machine
        } else {
            Reach::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_core::{FrameMeta, IndexRange, Subterm, Term};

    fn base(index: u64, term: u64) -> Base {
        Base { index: LogIndex(index), term: Term(term), subterm: Subterm(0) }
    }

    /// Entries 11 to 15 of term 3, behind entry 10 of term 2.
    fn log() -> LiveLog {
        let mut log = LiveLog::new(1 << 20, base(10, 2));
        log.open_segment(4);
        let meta = FrameMeta { term: Term(3), first: LogIndex(11), count: 5, prev_term: Term(2) };
        log.push((4 << 20) + 4096, 4096, &meta, IndexRange { from: LogIndex(11), to: LogIndex(15) });
        log
    }

    /// H50: what does not join the log leaves a gap, or stands in its place.
    #[test]
    fn only_what_joins_the_log_reaches_it() {
        let of = |applied: u64, snapshots: &[Base]| Reach::of(&log(), LogIndex(applied), snapshots);
        assert_eq!(of(0, &[]), Reach::Nothing);
        assert_eq!((of(9, &[]), of(10, &[]), of(100, &[])), (Reach::Nothing, Reach::Machine, Reach::Machine));
        for (snapshot, reaches) in [
            (base(9, 2), false),
            (base(10, 2), true),
            (base(10, 1), false),
            (base(11, 3), true),
            (base(15, 3), true),
            (base(15, 4), false),
            (base(16, 3), false),
        ] {
            assert_eq!(of(0, &[snapshot]), if reaches { Reach::Snapshot(snapshot) } else { Reach::Nothing }, "{snapshot}");
        }
        assert_eq!(of(0, &[base(10, 2), base(14, 3), base(15, 9), base(90, 9)]), Reach::Snapshot(base(14, 3)), "the newest of them");
        assert_eq!(Reach::of(&LiveLog::new(1 << 20, base(0, 0)), LogIndex(0), &[]), Reach::Beginning);
    }
}

//! Frames that arrive: which fit, what of them is new, what they supersede (paper, section 5.3).

use crate::limits::{MAX_INDEX, MAX_TERM};
use crate::log::EntryTerm;
use crate::raft::{Raft, Role};
use crate::{Append, Effect, Effects, FrameMeta, IndexRange, LogIndex, Term};

/// What is to become of a frame.
enum Verdict {
    /// It contradicts what is committed, or its sender: only a broken peer sends it.
    Refused,
    /// It cannot be judged before the log has told an old entry's term.
    Asked,
    /// The state machine has applied another entry where the leader has one of this term.
    Diverged(Term),
    /// The log does not hold the entry before it.
    Rejected,
    /// It fits, from this index on it is new; past its end: nothing is.
    Fits(LogIndex),
}

impl Raft {
    /// A frame arrived.
    pub(crate) fn append(&mut self, peer: usize, append: Append, fx: &mut Effects) {
        if !is_well_formed(&append) {
            return self.refuse();
        }
        if !self.hear_leader(peer, append.leader_term, append.round, fx) {
            return;
        }
        // Nothing says yet that what this log presupposes was ever committed: what comes behind it is not acknowledged.
        if self.needs_base {
            return;
        }
        let Append { frame, range, commit, .. } = append;
        let prev = range.from.prev();
        match self.judge(&frame, range, fx) {
            Verdict::Refused => return self.refuse(),
            Verdict::Diverged(term) => {
                fx.push(Effect::Diverged { applied: self.applied, term });
                return self.refuse();
            }
            Verdict::Asked => return,
            Verdict::Rejected => {
                // The first of a turn speaks for those behind it.
                self.following.rejected.get_or_insert(prev);
                return;
            }
            Verdict::Fits(new) if new > range.to => self.following.acknowledge(),
            Verdict::Fits(_) if !self.log.has_room() => {
                self.following.crowded.get_or_insert(prev);
                return;
            }
            Verdict::Fits(new) => self.write(IndexRange { from: new, to: range.to }, frame.term, fx),
        }
        self.following.verified = self.following.verified.max(range.to.min(self.log.last()));
        self.hear_commit(commit);
    }

    /// A frame of the present leader waits for room. It is no sign of life: it may have waited for long.
    pub(crate) fn offered(&mut self, peer: usize, append: Append, fx: &mut Effects) {
        let led = self.role == Role::Follower && self.leader.is_some() && self.leader == self.peers.get(peer).map(|peer| peer.id);
        if !led || self.needs_base || append.leader_term != self.hard.term || !is_well_formed(&append) {
            return;
        }
        if let Verdict::Fits(new) = self.judge(&append.frame, append.range, fx) {
            // What it fits behind, and what of it is there already.
            self.following.verified = self.following.verified.max(new.prev().min(append.range.to));
        }
    }

    /// Writes `range`, superseding what stands there.
    fn write(&mut self, range: IndexRange, term: Term, fx: &mut Effects) {
        assert!(range.from > self.commit_here(), "what is committed is never superseded");
        let write = self.next_write();
        if range.from <= self.log.last() {
            fx.push(Effect::Truncated { from: range.from });
        }
        self.log.append(write, range, term, self.now);
        fx.push(Effect::AppendFrame { write, range });
    }

    fn judge(&mut self, frame: &FrameMeta, range: IndexRange, fx: &mut Effects) -> Verdict {
        let committed = self.commit_here();
        let prev = range.from.prev();
        if prev > self.log.last() {
            return Verdict::Rejected;
        }
        // All of a frame's entries have its term, and terms never fall: its last committed entry speaks for them.
        if range.from <= committed && self.contradicts(range.to.min(committed), frame.term) {
            return Verdict::Refused;
        }
        if prev <= committed {
            // Every leader's log holds what is committed (leader completeness): it fits, whatever the tables still know.
            if self.contradicts(prev, frame.term_before(range.from)) {
                return Verdict::Refused;
            }
        } else {
            match self.term_or_ask(prev, fx) {
                None => return Verdict::Asked,
                Some(term) if term != frame.term_before(range.from) => return Verdict::Rejected,
                Some(_) => {}
            }
        }
        let held = IndexRange { from: range.from.max(committed.next()), to: range.to.min(self.log.last()) };
        match self.first_conflict(held, frame.term, fx) {
            None => Verdict::Asked,
            // Within a term a leader never changes its log.
            Some(new) if new <= self.following.verified.min(range.to) => Verdict::Refused,
            Some(new) => self.measure_applied(frame, range, fx).unwrap_or(Verdict::Fits(new)),
        }
    }

    /// What a frame that fits says about the entry that the state machine had applied last when the node started: as the
    /// leader's log is known to equal this one up to the frame, that holds the same entry there, or something was lost on
    /// more disks than a cluster can bear.
    fn measure_applied(&mut self, frame: &FrameMeta, range: IndexRange, fx: &mut Effects) -> Option<Verdict> {
        let at = self.applied.index;
        if at <= self.following.verified.max(self.log.base().index) || at > range.to {
            return None;
        }
        let term = match () {
            () if at >= range.from => frame.term,
            () if at.next() == range.from => frame.term_before(range.from),
            () => match self.term_or_ask(at, fx) {
                Some(term) => term,
                None => return Some(Verdict::Asked),
            },
        };
        (term != self.applied.term).then_some(Verdict::Diverged(term))
    }

    /// Whether the entry at `index` is known to have another term.
    fn contradicts(&self, index: LogIndex, term: Term) -> bool {
        matches!(self.log.term(index), EntryTerm::Known(known) if known != term)
    }

    /// The first index of `held`, entries of this log, whose term is not `term`; one past its end if all agree. `None`
    /// if an old entry's term had to be asked for. By the log matching property, agreement at one index is agreement
    /// before it, so the search bisects.
    fn first_conflict(&mut self, held: IndexRange, term: Term, fx: &mut Effects) -> Option<LogIndex> {
        if held.from > held.to || self.term_or_ask(held.to, fx)? == term {
            return Some(held.to.next().max(held.from));
        }
        let (mut low, mut high) = (held.from, held.to);
        while low < high {
            let middle = LogIndex(low.0 + (high.0 - low.0) / 2);
            if self.term_or_ask(middle, fx)? == term {
                low = middle.next();
            } else {
                high = middle;
            }
        }
        Some(high)
    }

    /// The term of an entry that the log holds; `None`: it has been asked for.
    pub(crate) fn term_or_ask(&mut self, index: LogIndex, fx: &mut Effects) -> Option<Term> {
        match self.log.term(index) {
            EntryTerm::Known(term) => Some(term),
            EntryTerm::Unknown | EntryTerm::Absent => {
                if self.log.ask(index) {
                    fx.push(Effect::LookupTerm { index });
                }
                None
            }
        }
    }
}

/// Whether a frame and its stamp can be a correct leader's.
fn is_well_formed(append: &Append) -> bool {
    let Append { leader_term, frame, range, .. } = append;
    let sized = frame.count > 0 && (1..=MAX_INDEX).contains(&frame.first.0) && leader_term.0 <= MAX_TERM;
    // Only now is the last index sure not to overflow.
    sized
        && frame.first <= range.from
        && range.from <= range.to
        && range.to <= frame.last()
        && frame.term.0 > 0
        && frame.term <= *leader_term
        && frame.prev_term <= frame.term
        && (frame.first.0 > 1 || frame.prev_term.0 == 0)
        && (frame.first.0 == 1 || frame.prev_term.0 > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each bound by itself, with all else in order.
    #[test]
    fn what_no_correct_leader_sends() {
        let at = |first, from, to, count, term, prev_term, leader| Append {
            leader_term: Term(leader),
            commit: LogIndex(0),
            frame: FrameMeta { term: Term(term), first: LogIndex(first), count, prev_term: Term(prev_term) },
            range: IndexRange { from: LogIndex(from), to: LogIndex(to) },
            round: 0,
        };
        let good = [
            at(1, 1, 1, 1, 1, 0, 1),
            at(1, 2, 3, 4, 2, 0, 3),
            at(7, 7, 9, 3, 5, 5, 5),
            at(MAX_INDEX, MAX_INDEX, MAX_INDEX, 1, MAX_TERM, MAX_TERM, MAX_TERM),
        ];
        for append in good {
            assert!(is_well_formed(&append), "{append:?}");
        }
        let bad = [
            ("no entries", at(7, 7, 7, 0, 5, 4, 5)),
            ("begins at zero", at(0, 0, 0, 1, 5, 0, 5)),
            ("begins past the greatest index", at(u64::MAX, u64::MAX, u64::MAX, 1, 5, 4, 5)),
            ("leader's term past the greatest", at(7, 7, 9, 3, 5, 4, MAX_TERM + 1)),
            ("range before the frame", at(7, 6, 9, 3, 5, 4, 5)),
            ("range that is empty", at(7, 9, 8, 3, 5, 4, 5)),
            ("range past the frame", at(7, 7, 10, 3, 5, 4, 5)),
            ("term zero", at(1, 1, 1, 1, 0, 0, 1)),
            ("entries newer than their leader", at(7, 7, 9, 3, 6, 4, 5)),
            ("terms that fall", at(7, 7, 9, 3, 5, 6, 7)),
            ("a term before the first entry", at(1, 1, 1, 1, 5, 4, 5)),
            ("no term before a later entry", at(7, 7, 9, 3, 5, 0, 5)),
        ];
        for (what, append) in bad {
            assert!(!is_well_formed(&append), "{what}: {append:?}");
        }
    }
}

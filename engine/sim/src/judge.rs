//! What must hold whatever happens: the judge hears of everything the replicas and clients do and says what was broken.
//!
//! It knows nothing of how the engine works. It keeps the one history that all replicas must share, the entry at each
//! index as whoever applied it first saw it, and holds every later event against it.

pub(crate) mod history;
pub(crate) mod linearize;
mod violation;

use std::collections::BTreeMap;

use crate::cluster::workload::{REGISTERS, is_read, key_of};
use crate::judge::linearize::INITIAL;

pub use violation::Violation;

/// How a proposal ended, as its client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may or may not be applied; so begins every proposal.
    Open,
    /// Applied at this index.
    Applied(u64),
    /// Not applied, and never to be.
    Never,
    /// Nobody can tell.
    Unknown,
}

/// Hears everything that replicas and clients do, and says what was broken.
#[derive(Debug, Default)]
pub struct Judge {
    history: BTreeMap<u64, (u64, u64)>,
    /// Where each applied value stands.
    places: BTreeMap<u64, u64>,
    proposals: BTreeMap<u64, Proposal>,
    leaders: BTreeMap<u64, u64>,
    /// Last index applied, in the life of its state.
    applied: BTreeMap<u64, u64>,
    violations: Vec<Violation>,
    acknowledged: u64,
}

#[derive(Clone, Copy, Debug)]
struct Proposal {
    node: u64,
    fate: Fate,
}

impl Judge {
    /// A judge who has seen nothing.
    pub fn new() -> Judge {
        Judge::default()
    }

    /// A node took a proposal. Values are never reused.
    pub fn proposed(&mut self, node: u64, value: u64) {
        if self.proposals.insert(value, Proposal { node, fate: Fate::Open }).is_some() {
            self.violations.push(Violation::Misresolved { value });
        }
    }

    /// A client learned how its proposal ended.
    pub fn ended(&mut self, value: u64, fate: Fate) {
        let found = self.places.get(&value).copied();
        match self.proposals.get_mut(&value) {
            Some(proposal) if proposal.fate == Fate::Open && fate != Fate::Open => proposal.fate = fate,
            _ => self.violations.push(Violation::Misresolved { value }),
        }
        match (fate, found) {
            (Fate::Applied(index), found) => {
                self.acknowledged += 1;
                if found != Some(index) {
                    self.violations.push(Violation::FalselyAcknowledged { value, index, found });
                }
            }
            (Fate::Never, Some(index)) => self.violations.push(Violation::FalselyDenied { value, index }),
            _ => {}
        }
    }

    /// A node says that it leads in a term.
    pub fn leads(&mut self, node: u64, term: u64) {
        let first = *self.leaders.entry(term).or_insert(node);
        if first != node {
            self.violations.push(Violation::TwoLeaders { term, nodes: [first, node] });
        }
    }

    /// A node starts with a state that holds everything up to `applied`; zero for one that starts empty.
    pub fn started(&mut self, node: u64, applied: u64) {
        self.applied.insert(node, applied);
    }

    /// A replica applied an entry.
    pub fn applied(&mut self, node: u64, index: u64, term: u64, value: u64) {
        let from = self.applied.insert(node, index).unwrap_or(0);
        if index <= from {
            self.violations.push(Violation::WentBack { node, from, to: index });
            return;
        }
        if let Some((&passed, _)) = self.history.range(from + 1..index).next() {
            self.violations.push(Violation::Skipped { node, index: passed });
        }
        match self.history.get(&index).copied() {
            Some(first) if first == (term, value) => return,
            Some(first) => {
                self.violations.push(Violation::Diverged { index, node, first, second: (term, value) });
                return;
            }
            None => {}
        }
        if self.history.range(index..).next().is_some() {
            // Somebody applied a later entry without this one.
            self.violations.push(Violation::Skipped { node, index });
        }
        if let Some((_, &(before, _))) = self.history.range(..index).next_back()
            && before > term
        {
            self.violations.push(Violation::TermFell { index, terms: [before, term] });
        }
        self.history.insert(index, (term, value));
        match self.proposals.get(&value).copied() {
            None => self.violations.push(Violation::Invented { node, index, value }),
            Some(proposal) => {
                if proposal.fate == Fate::Never {
                    self.violations.push(Violation::FalselyDenied { value, index });
                }
                // Whoever took it led in the term it was logged in.
                self.leads(proposal.node, term);
            }
        }
        if let Some(other) = self.places.insert(value, index) {
            self.violations.push(Violation::Twice { value, indexes: [other, index] });
        }
    }

    /// A replica took the state of a snapshot for its own: `registers` are all that it holds. Every entry before was applied by
    /// whoever made it, or by whoever that one got its own from.
    pub fn restored(&mut self, node: u64, index: u64, registers: &[u64; REGISTERS], intact: bool) {
        let from = self.applied.insert(node, index).unwrap_or(0);
        if index < from {
            self.violations.push(Violation::WentBack { node, from, to: index });
        }
        let mut state = [INITIAL; REGISTERS];
        for &(_, value) in self.history.range(..=index).map(|(_, entry)| entry) {
            if let Some(register) = state.get_mut(key_of(value) as usize).filter(|_| !is_read(value)) {
                *register = value;
            }
        }
        if !intact || registers.iter().any(|value| *value != INITIAL && !self.proposals.contains_key(value)) {
            self.violations.push(Violation::GarbledState { node, index });
        } else if state != *registers {
            self.violations.push(Violation::WrongState { node, index });
        }
    }

    /// A replica applied what it takes for this value, but not in the form in which it was proposed.
    pub fn garbled(&mut self, node: u64, index: u64, value: u64) {
        self.violations.push(Violation::Invented { node, index, value });
    }

    /// Something that was due did not happen.
    pub fn not_live(&mut self, what: &'static str, within_ns: u64) {
        self.violations.push(Violation::NotLive { what, within_ns });
    }

    /// A node stopped by itself.
    pub fn stopped_for_nothing(&mut self, node: u64, reason: String) {
        self.violations.push(Violation::StoppedForNothing { node, reason });
    }

    /// The last entry of the history.
    pub fn last_index(&self) -> u64 {
        self.history.last_key_value().map_or(0, |(&index, _)| index)
    }

    /// How far a replica is.
    pub fn applied_by(&self, node: u64) -> u64 {
        self.applied.get(&node).copied().unwrap_or(0)
    }

    /// Everything is healed and quiet: every replica must have everything that was acknowledged.
    pub fn settle(&mut self, nodes: impl IntoIterator<Item = u64>) {
        let history = self.last_index();
        for node in nodes {
            let applied = self.applied_by(node);
            // A snapshot may end with an entry of the engine's own, which no machine has seen.
            if applied < history {
                self.violations.push(Violation::Lags { node, applied, history });
            }
        }
        for (&value, proposal) in &self.proposals {
            if let Fate::Applied(index) = proposal.fate
                && self.places.get(&value) != Some(&index)
            {
                let found = self.places.get(&value).copied();
                self.violations.push(Violation::FalselyAcknowledged { value, index, found });
            }
        }
    }

    /// How a proposal ended so far; `Unknown` if there was none of this value.
    pub fn fate(&self, value: u64) -> Fate {
        self.proposals.get(&value).map_or(Fate::Unknown, |proposal| proposal.fate)
    }

    /// What was found elsewhere.
    pub fn found(&mut self, violations: impl IntoIterator<Item = Violation>) {
        self.violations.extend(violations);
    }

    /// What was broken so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Entries applied so far, by whoever was first.
    pub fn entries(&self) -> u64 {
        self.history.len() as u64
    }

    /// Terms in which somebody was seen to lead.
    pub fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::workload::command;

    /// Values 1 to 9, proposed at node 1.
    fn judge() -> Judge {
        let mut judge = Judge::new();
        (1..10).for_each(|value| judge.proposed(1, value));
        judge
    }

    fn only(judge: &Judge) -> &Violation {
        assert_eq!(judge.violations().len(), 1, "{:?}", judge.violations());
        &judge.violations()[0]
    }

    #[test]
    fn a_good_run_is_good() {
        let mut judge = judge();
        for node in [1, 2, 3] {
            judge.started(node, 0);
            // Indexes 1 and 4 are the engine's own entries.
            for (index, term, value) in [(2, 1, 5), (3, 1, 6), (5, 2, 7)] {
                judge.applied(node, index, term, value);
            }
        }
        judge.ended(5, Fate::Applied(2));
        judge.ended(6, Fate::Unknown);
        judge.ended(8, Fate::Never);
        judge.started(2, 0);
        for (index, term, value) in [(2, 1, 5), (3, 1, 6), (5, 2, 7)] {
            judge.applied(2, index, term, value);
        }
        judge.settle([1, 2, 3]);
        assert_eq!(judge.violations(), []);
        assert_eq!((judge.acknowledged(), judge.entries(), judge.terms()), (1, 3, 2));
    }

    #[test]
    fn a_snapshot_is_what_the_history_leads_to() {
        let at_five = command(1, 5, false);
        let mut judge = Judge::new();
        let values = [at_five, command(2, 5, true), command(3, 6, false)];
        for (index, value) in (2..).zip(values) {
            judge.proposed(1, value);
            judge.applied(1, index, 1, value);
        }
        let mut registers = [INITIAL; REGISTERS];
        registers[5] = at_five;
        judge.started(2, 0);
        judge.restored(2, 3, &registers, true);
        judge.applied(2, 4, 1, values[2]);
        assert_eq!(judge.violations(), []);
        // That one has the entry at index 4 already.
        judge.restored(2, 3, &registers, true);
        assert_eq!(only(&judge), &Violation::WentBack { node: 2, from: 4, to: 3 });
        judge.started(2, 0);
        judge.restored(2, 4, &registers, true);
        assert_eq!(judge.violations().last(), Some(&Violation::WrongState { node: 2, index: 4 }));
        let invented = registers.map(|_| command(9, 1, false));
        for (registers, intact) in [(registers, false), (invented, true)] {
            judge.started(2, 0);
            judge.restored(2, 3, &registers, intact);
            assert_eq!(judge.violations().last(), Some(&Violation::GarbledState { node: 2, index: 3 }));
        }
        // What a snapshot holds is not applied again.
        judge.started(3, 0);
        judge.restored(3, 3, &registers, true);
        judge.applied(3, 3, 1, values[1]);
        assert_eq!(judge.violations().last(), Some(&Violation::WentBack { node: 3, from: 3, to: 3 }));
    }

    #[test]
    fn two_leaders_in_a_term_are_seen() {
        let mut judge = judge();
        judge.leads(1, 4);
        judge.leads(1, 4);
        judge.leads(2, 5);
        assert_eq!(judge.violations(), []);
        judge.leads(3, 5);
        assert_eq!(only(&judge), &Violation::TwoLeaders { term: 5, nodes: [2, 3] });
        // Entries tell as well: each was logged in the term of whoever took it.
        let mut judge = self::judge();
        judge.proposed(2, 20);
        judge.applied(3, 1, 1, 1);
        judge.applied(3, 2, 1, 20);
        assert_eq!(only(&judge), &Violation::TwoLeaders { term: 1, nodes: [1, 2] });
    }

    #[test]
    fn different_entries_at_an_index_are_seen() {
        for (term, value) in [(1, 4), (2, 3)] {
            let mut judge = judge();
            judge.applied(1, 5, 1, 3);
            judge.applied(2, 5, term, value);
            assert_eq!(only(&judge), &Violation::Diverged { index: 5, node: 2, first: (1, 3), second: (term, value) });
        }
    }

    #[test]
    fn going_back_is_seen_but_not_in_a_new_life() {
        let mut judge = judge();
        judge.applied(1, 5, 1, 3);
        judge.started(1, 0);
        judge.applied(1, 5, 1, 3);
        assert_eq!(judge.violations(), []);
        judge.applied(1, 5, 1, 3);
        assert_eq!(only(&judge), &Violation::WentBack { node: 1, from: 5, to: 5 });
    }

    #[test]
    fn skipping_is_seen_from_both_sides() {
        let mut judge = judge();
        judge.applied(1, 2, 1, 1);
        judge.applied(1, 3, 1, 2);
        judge.applied(2, 3, 1, 2);
        assert_eq!(only(&judge), &Violation::Skipped { node: 2, index: 2 });

        let mut judge = self::judge();
        judge.applied(2, 3, 1, 2);
        judge.applied(1, 2, 1, 1);
        assert_eq!(only(&judge), &Violation::Skipped { node: 1, index: 2 });
        // A state that starts with the entry has not skipped it.
        let mut judge = self::judge();
        judge.applied(1, 2, 1, 1);
        judge.applied(1, 3, 1, 2);
        judge.started(2, 2);
        judge.applied(2, 3, 1, 2);
        assert_eq!(judge.violations(), []);
    }

    #[test]
    fn falling_terms_inventions_and_repetitions_are_seen() {
        let mut judge = judge();
        judge.applied(1, 2, 5, 1);
        judge.applied(1, 3, 4, 2);
        assert_eq!(only(&judge), &Violation::TermFell { index: 3, terms: [5, 4] });
        let mut judge = self::judge();
        judge.applied(1, 2, 5, 77);
        assert_eq!(only(&judge), &Violation::Invented { node: 1, index: 2, value: 77 });
        let mut judge = self::judge();
        judge.applied(1, 2, 5, 1);
        judge.applied(1, 3, 5, 1);
        assert_eq!(only(&judge), &Violation::Twice { value: 1, indexes: [2, 3] });
    }

    #[test]
    fn wrong_outcomes_are_seen() {
        let mut judge = judge();
        judge.ended(1, Fate::Applied(4));
        assert_eq!(only(&judge), &Violation::FalselyAcknowledged { value: 1, index: 4, found: None });
        let mut judge = self::judge();
        judge.applied(1, 2, 1, 1);
        judge.ended(1, Fate::Never);
        assert_eq!(only(&judge), &Violation::FalselyDenied { value: 1, index: 2 });
        let mut judge = self::judge();
        judge.ended(1, Fate::Never);
        judge.applied(1, 2, 1, 1);
        assert_eq!(only(&judge), &Violation::FalselyDenied { value: 1, index: 2 });
        for twice in [Fate::Unknown, Fate::Never] {
            let mut judge = self::judge();
            judge.ended(1, Fate::Unknown);
            judge.ended(1, twice);
            assert_eq!(only(&judge), &Violation::Misresolved { value: 1 });
        }
    }

    #[test]
    fn a_replica_left_behind_is_seen_in_the_end() {
        let mut judge = judge();
        judge.started(2, 0);
        judge.applied(1, 2, 1, 1);
        judge.settle([1, 2]);
        assert_eq!(only(&judge), &Violation::Lags { node: 2, applied: 0, history: 2 });
    }
}

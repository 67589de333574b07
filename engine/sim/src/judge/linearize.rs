//! Whether what clients saw can be explained: a checker of linearizability for registers.
//!
//! A history is linearizable if every operation can be given one moment between its invocation and its response such that, taken in
//! the order of these moments, each read returns what was written last (Herlihy and Wing, 1990). Registers are independent,
//! so each is searched on its own, by the search of Wing and Gong with the memory that Lowe added ("Testing for
//! linearizability", 2017): a set of operations done and a value, once found to lead nowhere, is not tried again. Nor is a value
//! overwritten that somebody still has to read and nobody will write again: where values are unique, that leaves little to search.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// What every register holds before it is written.
pub const INITIAL: u64 = 0;

/// Configurations (operations done, value) that a search may remember; a history that needs more is left undecided.
const MAX_CONFIGURATIONS: usize = 2_000_000;

/// What an operation does to its register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets it to this value.
    Write(u64),
    /// Finds this value in it.
    Read(u64),
}

/// One operation of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its register.
    pub key: u64,
    /// What it does.
    pub action: Action,
    /// When it was invoked, on a clock that all operations share, in any unit.
    pub invoked: u64,
    /// When its response came; an operation that returned at the same time as another was invoked is concurrent with it. `None`: its
    /// outcome is unknown, and it may take effect at any time after its invocation, or never.
    pub returned: Option<u64>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Write(value) => write!(f, "register {} := {value:#x}", self.key)?,
            Action::Read(value) => write!(f, "register {} is {value:#x}", self.key)?,
        }
        match self.returned {
            Some(returned) => write!(f, " ({} to {returned})", self.invoked),
            None => write!(f, " ({} to nobody knows)", self.invoked),
        }
    }
}

/// What a check came to, if not to the proof that the history is linearizable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// There is no such order. The longest attempt ended where this operation had to take effect and could not, or still had to
    /// read what another one had to overwrite.
    NotLinearizable(Operation),
    /// The search over this register would take too much memory.
    Undecided {
        /// The register.
        key: u64,
    },
}

/// Checks a history, its operations in any order.
///
/// # Errors
/// The first objection, by register.
pub fn check(history: &[Operation]) -> Result<(), Objection> {
    let mut registers: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        registers.entry(operation.key).or_default().push(*operation);
    }
    registers.into_iter().try_for_each(|(key, operations)| Search::new(settle(operations)).run(key))
}

/// Takes what is unknown out of a register's operations, as far as that changes nothing.
///
/// A read without a response says nothing. A write of unknown outcome whose value no read returned may as well never have taken
/// effect: nothing of an order that holds it becomes wrong without it. One whose value was read, and that nobody else wrote, did take
/// effect, and before the first of these reads returned.
fn settle(mut operations: Vec<Operation>) -> Vec<Operation> {
    let mut first_read: BTreeMap<u64, u64> = BTreeMap::new();
    let mut writers: BTreeMap<u64, usize> = BTreeMap::from([(INITIAL, 1)]);
    for operation in &operations {
        match (operation.action, operation.returned) {
            (Action::Write(value), _) => *writers.entry(value).or_default() += 1,
            (Action::Read(value), Some(returned)) => {
                let first = first_read.entry(value).or_insert(returned);
                *first = returned.min(*first);
            }
            (Action::Read(_), None) => {}
        }
    }
    operations.retain_mut(|operation| match (operation.action, operation.returned) {
        (_, Some(_)) => true,
        (Action::Read(_), None) => false,
        (Action::Write(value), None) => {
            let read = first_read.get(&value).copied();
            if writers.get(&value) == Some(&1) {
                operation.returned = read;
            }
            read.is_some()
        }
    });
    operations.sort_by_key(|operation| (operation.invoked, operation.returned));
    operations
}

/// The calls and returns that are left, in the order of time: a linked list in arrays. Of `n` operations, node `i` is the
/// call of operation `i`, node `n + i` its return, and node `2n` stands before the first and after the last.
struct Events {
    operations: usize,
    next: Vec<usize>,
    previous: Vec<usize>,
    has_return: Vec<bool>,
}

impl Events {
    fn new(operations: &[Operation]) -> Events {
        let n = operations.len();
        let calls = operations.iter().enumerate().map(|(i, operation)| (operation.invoked, i));
        let returns = operations.iter().enumerate().filter_map(|(i, operation)| Some((operation.returned?, n + i)));
        let mut order: Vec<(u64, usize)> = calls.chain(returns).collect();
        // At one time, calls come first: what touches is concurrent.
        order.sort_unstable();
        let mut events = Events {
            operations: n,
            next: vec![0; 2 * n + 1],
            previous: vec![0; 2 * n + 1],
            has_return: operations.iter().map(|operation| operation.returned.is_some()).collect(),
        };
        let mut last = 2 * n;
        for (_, node) in order.into_iter().chain([(0, 2 * n)]) {
            (events.next[last], events.previous[node]) = (node, last);
            last = node;
        }
        events
    }

    fn first(&self) -> usize {
        self.next[2 * self.operations]
    }

    /// The nodes of an operation: its call, and its return if it has one.
    fn nodes(&self, operation: usize) -> [Option<usize>; 2] {
        [Some(operation), self.has_return[operation].then_some(self.operations + operation)]
    }

    /// Takes an operation out.
    fn lift(&mut self, operation: usize) {
        for node in self.nodes(operation).into_iter().flatten() {
            let (previous, next) = (self.previous[node], self.next[node]);
            (self.next[previous], self.previous[next]) = (next, previous);
        }
    }

    /// Puts the operation back that was taken out last.
    fn unlift(&mut self, operation: usize) {
        for node in self.nodes(operation).into_iter().rev().flatten() {
            let (previous, next) = (self.previous[node], self.next[node]);
            (self.next[previous], self.previous[next]) = (node, node);
        }
    }
}

/// A set of operations, by number. Most of what is done forms a prefix, so that what must be remembered of it is short.
struct Done(Vec<u64>);

impl Done {
    fn flip(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
    }

    fn has(&self, operation: usize) -> bool {
        self.0[operation / 64] & (1 << (operation % 64)) != 0
    }

    /// The set without its full words in front and its empty ones behind: (number of the first word, words).
    fn key(&self) -> (usize, Box<[u64]>) {
        let full = self.0.iter().take_while(|&&word| word == u64::MAX).count();
        let empty = self.0[full..].iter().rev().take_while(|&&word| word == 0).count();
        (full, self.0[full..self.0.len() - empty].into())
    }
}

#[derive(Default)]
struct Ahead {
    reads: usize,
    writes: usize,
}

struct Search {
    operations: Vec<Operation>,
    events: Events,
    done: Done,
    value: u64,
    /// Of each value, the reads with a response and the writes that are not done.
    ahead: HashMap<u64, Ahead>,
    /// What was done, in order, each with the value before.
    path: Vec<(usize, u64)>,
    /// Operations with a response that are not done.
    left: usize,
}

impl Search {
    /// `operations` in the order of their invocations.
    fn new(operations: Vec<Operation>) -> Search {
        let mut ahead: HashMap<u64, Ahead> = HashMap::from([(INITIAL, Ahead::default())]);
        for operation in &operations {
            match operation.action {
                Action::Write(value) => ahead.entry(value).or_default().writes += 1,
                Action::Read(value) => ahead.entry(value).or_default().reads += 1,
            }
        }
        Search {
            ahead,
            events: Events::new(&operations),
            done: Done(vec![0; operations.len().div_ceil(64)]),
            value: INITIAL,
            path: Vec::new(),
            left: operations.iter().filter(|operation| operation.returned.is_some()).count(),
            operations,
        }
    }

    fn run(mut self, key: u64) -> Result<(), Objection> {
        let n = self.operations.len();
        let mut tried = HashSet::new();
        let (mut longest, mut stuck) = (0, 0);
        let mut at = self.events.first();
        while self.left > 0 {
            if at < n {
                if let Some(after) = self.effect(at) {
                    self.done.flip(at);
                    if tried.insert((self.done.key(), after)) {
                        if tried.len() > MAX_CONFIGURATIONS {
                            return Err(Objection::Undecided { key });
                        }
                        self.take(at, after);
                        at = self.events.first();
                        continue;
                    }
                    self.done.flip(at);
                }
                at = self.events.next[at];
            } else {
                // The end of the list cannot be met: while something is left, its return stands in it.
                if self.path.len() >= longest {
                    (longest, stuck) = (self.path.len() + 1, self.blocking(at - n));
                }
                let Some(undone) = self.give_back() else {
                    return Err(Objection::NotLinearizable(self.operations[stuck]));
                };
                at = self.events.next[undone];
            }
        }
        Ok(())
    }

    /// The value after an operation, if it may take effect now.
    fn effect(&self, operation: usize) -> Option<u64> {
        match self.operations[operation].action {
            Action::Read(value) => (value == self.value).then_some(value),
            Action::Write(value) => {
                let ahead = &self.ahead[&self.value];
                (value == self.value || ahead.reads == 0 || ahead.writes > 0).then_some(value)
            }
        }
    }

    /// What stands in the way of an operation that has to take effect now and cannot: a late read of what is there, or itself.
    fn blocking(&self, overdue: usize) -> usize {
        if self.ahead[&self.value].writes > 0 {
            return overdue;
        }
        let late = |&operation: &usize| !self.done.has(operation) && self.operations[operation].action == Action::Read(self.value);
        (0..self.operations.len()).rev().find(late).unwrap_or(overdue)
    }

    /// What is still to be done of the kind and value of this operation.
    fn ahead(&mut self, operation: usize) -> &mut usize {
        let (value, is_read) = match self.operations[operation].action {
            Action::Read(value) => (value, true),
            Action::Write(value) => (value, false),
        };
        let ahead = self.ahead.entry(value).or_default();
        if is_read { &mut ahead.reads } else { &mut ahead.writes }
    }

    /// An operation takes effect now.
    fn take(&mut self, operation: usize, after: u64) {
        self.path.push((operation, self.value));
        self.value = after;
        *self.ahead(operation) -= 1;
        self.events.lift(operation);
        self.left -= usize::from(self.events.has_return[operation]);
    }

    /// The last one does not take effect now.
    fn give_back(&mut self) -> Option<usize> {
        let (operation, before) = self.path.pop()?;
        self.done.flip(operation);
        self.value = before;
        *self.ahead(operation) += 1;
        self.events.unlift(operation);
        self.left += usize::from(self.events.has_return[operation]);
        Some(operation)
    }
}

#[cfg(test)]
#[path = "linearize_tests.rs"]
mod tests;

//! What the clients saw: who asked for what and when, and what was answered.

use std::collections::BTreeMap;

use crate::cluster::workload::{is_read, key_of};
use crate::judge::linearize::{self, Action, Objection, Operation};
use crate::judge::{Fate, Violation};

/// The history of all clients of one run. Its clock counts the events, so that no two are at the same time.
#[derive(Debug, Default)]
pub(crate) struct History {
    clock: u64,
    /// When each proposal that has not ended was made.
    open: BTreeMap<u64, u64>,
    ended: Vec<Operation>,
    violations: Vec<Violation>,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A node took a proposal.
    pub(crate) fn proposed(&mut self, value: u64) {
        let now = self.tick();
        self.open.insert(value, now);
    }

    /// A client learned how its proposal ended, with what reply.
    pub(crate) fn ended(&mut self, value: u64, fate: Fate, reply: &[u8]) {
        let now = self.tick();
        let Some(invoked) = self.open.remove(&value) else { return };
        let returned = match fate {
            Fate::Applied(_) => Some(now),
            // It never takes effect. The judge sees whether a replica applies it nevertheless.
            Fate::Never => return,
            Fate::Open | Fate::Unknown => None,
        };
        let action = if !is_read(value) {
            Action::Write(value)
        } else if returned.is_none() {
            return;
        } else {
            match reply.try_into().map(u64::from_le_bytes) {
                Ok(seen) => Action::Read(seen),
                Err(_) => return self.violations.push(Violation::Misanswered { value }),
            }
        };
        // A write is answered with its own value.
        if returned.is_some() && !is_read(value) && reply != value.to_le_bytes() {
            self.violations.push(Violation::Misanswered { value });
        }
        self.ended.push(Operation { key: key_of(value), action, invoked, returned });
    }

    /// Operations whose outcome is known, or may have been.
    pub(crate) fn operations(&self) -> u64 {
        self.ended.len() as u64
    }

    /// Reads that were answered.
    pub(crate) fn reads(&self) -> u64 {
        self.ended.iter().filter(|operation| matches!(operation.action, Action::Read(_))).count() as u64
    }

    /// What is wrong with it; and whether it could be judged at all.
    pub(crate) fn verdict(&self) -> (Vec<Violation>, bool) {
        let mut violations = self.violations.clone();
        let open = self.open.iter().filter(|(value, _)| !is_read(**value));
        let open = open.map(|(&value, &invoked)| Operation { key: key_of(value), action: Action::Write(value), invoked, returned: None });
        let all: Vec<Operation> = self.ended.iter().copied().chain(open).collect();
        let decided = match linearize::check(&all) {
            Ok(()) => true,
            Err(Objection::NotLinearizable(operation)) => {
                violations.push(Violation::NotLinearizable { operation });
                true
            }
            Err(Objection::Undecided { .. }) => false,
        };
        (violations, decided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::workload::command;

    #[test]
    fn what_clients_saw_is_held_against_them() {
        let (write, other, read, late) = (command(1, 3, false), command(2, 3, false), command(3, 3, true), command(4, 3, true));
        let run = |seen: u64| {
            let mut history = History::default();
            history.proposed(write);
            history.ended(write, Fate::Applied(1), &write.to_le_bytes());
            history.proposed(other);
            history.ended(other, Fate::Unknown, &[]);
            history.proposed(read);
            history.ended(read, Fate::Applied(3), &seen.to_le_bytes());
            history.proposed(late);
            history.ended(late, Fate::Never, &[]);
            assert_eq!((history.operations(), history.reads()), (3, 1));
            history.verdict()
        };
        assert_eq!(run(write), (vec![], true));
        assert_eq!(run(other), (vec![], true));
        assert!(matches!(run(0).0[..], [Violation::NotLinearizable { .. }]));
    }

    #[test]
    fn a_wrong_or_missing_reply_is_seen() {
        for (value, reply) in [(command(1, 0, false), &7u64.to_le_bytes()[..]), (command(1, 0, false), &[]), (command(1, 0, true), &[1, 2])]
        {
            let mut history = History::default();
            history.proposed(value);
            history.ended(value, Fate::Applied(1), reply);
            assert_eq!(history.verdict(), (vec![Violation::Misanswered { value }], true));
        }
    }
}

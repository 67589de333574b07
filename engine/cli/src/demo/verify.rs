//! The proof at the end of a demo: what the replicas applied, against what the proposers were told.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::demo::ledger::{Record, Records};
use crate::demo::payload::{Name, Payloads};
use crate::error::Error;
use crate::outcomes::{Outcome, Outcomes};

/// How many findings are kept; the count goes on.
const MAX_FINDINGS: usize = 10;

/// Something that must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Two replicas applied different entries at one place of the order.
    Differ { place: u64, replica: u64, with: u64 },
    /// One replica applied fewer entries than another.
    Short { replica: u64, applied: u64, with: u64, other: u64 },
    /// Indexes do not grow.
    Order { index: u64, after: u64 },
    /// An entry was applied with other bytes than were proposed.
    Bytes { index: u64, name: Name },
    /// An entry that nobody proposed was applied.
    Alien { index: u64, name: Name },
    /// An entry was applied a second time.
    Twice { index: u64, name: Name },
    /// An entry was applied that its proposer was told never would be.
    Refused { index: u64, name: Name },
    /// An entry was applied at another index than its proposer was told.
    Elsewhere { index: u64, name: Name, told: u64 },
    /// An acknowledged entry is missing.
    Missing { name: Name, told: u64 },
    /// An entry proposed after another was acknowledged stands before it.
    Before { name: Name, index: u64, floor: u64 },
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of client {}", self.number, self.client)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Finding::Differ { place, replica, with } => {
                write!(f, "replica {replica} applied another entry than replica {with} at place {place}")
            }
            Finding::Short { replica, applied, with, other } => {
                write!(f, "replica {replica} applied {applied} entries, replica {with} {other}")
            }
            Finding::Order { index, after } => write!(f, "an entry with index {index} was applied after one with index {after}"),
            Finding::Bytes { index, name } => write!(f, "{name} was applied at index {index} with other bytes than were proposed"),
            Finding::Alien { index, name } => write!(f, "{name} was applied at index {index}, and nobody proposed it"),
            Finding::Twice { index, name } => write!(f, "{name} was applied a second time, at index {index}"),
            Finding::Refused { index, name } => {
                write!(f, "{name} was applied at index {index}, and its proposer was told that it never would be")
            }
            Finding::Elsewhere { index, name, told } => write!(f, "{name} was applied at index {index}, and acknowledged at index {told}"),
            Finding::Missing { name, told } => write!(f, "{name} was acknowledged at index {told}, and is missing"),
            Finding::Before { name, index, floor } => {
                write!(f, "{name} stands at index {index}, and was proposed after index {floor} was acknowledged")
            }
        }
    }
}

/// What the comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Entries applied by each replica, where all agree.
    pub(crate) applied: u64,
    /// Acknowledged entries present exactly once.
    pub(crate) acknowledged: u64,
    /// Entries of unknown outcome that turned out to be applied.
    pub(crate) unknown_applied: u64,
    /// Entries of unknown outcome that turned out not to be.
    pub(crate) unknown_absent: u64,
    /// Refused entries, none of which is present.
    pub(crate) refused: u64,
    /// A checksum over all records in order: the same on each replica.
    pub(crate) checksum: u32,
    /// How many things must not be.
    pub(crate) wrong: u64,
    /// The first of them.
    pub(crate) findings: Vec<Finding>,
}

impl Verdict {
    fn find(&mut self, finding: Finding) {
        self.wrong += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

/// Compares the replicas' ledgers with each other, and with what each client (by id) was told.
///
/// # Errors
/// A ledger cannot be read. What is wrong in them is in the verdict.
pub(crate) fn verify(ledgers: &[(u64, PathBuf)], clients: &BTreeMap<u32, Outcomes>, entry_bytes: usize) -> Result<Verdict, Error> {
    let mut verdict = Verdict::default();
    let mut replicas = Vec::new();
    for (id, path) in ledgers {
        replicas.push((*id, path, Records::open(path)?));
    }
    let Some(((first_id, first_path, first), others)) = replicas.split_first_mut() else {
        return Err(Error::Finding("there is no ledger to verify".into()));
    };
    verdict.applied = first.left();
    for (id, _, records) in others.iter() {
        if records.left() != verdict.applied {
            verdict.find(Finding::Short { replica: *id, applied: records.left(), with: *first_id, other: verdict.applied });
        }
    }

    let mut seen: BTreeMap<u32, Vec<bool>> = clients.iter().map(|(&id, o)| (id, vec![false; o.len()])).collect();
    let mut checks = Checks { payloads: Payloads::new(entry_bytes), clients, hash: crc32fast::Hasher::new(), last: 0 };
    let mut differs = vec![false; others.len()];
    let mut place = 0;
    while let Some(record) = first.next().map_err(Error::file("cannot read", first_path))? {
        for ((id, path, records), differs) in others.iter_mut().zip(differs.iter_mut()) {
            let other = records.next().map_err(Error::file("cannot read", path))?;
            // One finding per replica: after the first difference all that follows may differ.
            if other.is_some_and(|other| other != record) && !*differs {
                *differs = true;
                verdict.find(Finding::Differ { place, replica: *id, with: *first_id });
            }
        }
        place += 1;
        checks.record(record, &mut seen, &mut verdict);
    }
    verdict.checksum = checks.hash.finalize();

    for (&client, outcomes) in clients {
        if let Some(o) = outcomes.out_of_order() {
            verdict.find(Finding::Before { name: Name { client, number: o.number }, index: o.index, floor: o.floor });
        }
        let seen = seen.get(&client).map_or(&[][..], Vec::as_slice);
        for (number, seen) in (0..).zip(seen) {
            match (outcomes.get(number), seen) {
                (Some(Outcome::Acknowledged(_)), true) => verdict.acknowledged += 1,
                (Some(Outcome::Acknowledged(told)), false) => verdict.find(Finding::Missing { name: Name { client, number }, told }),
                (Some(Outcome::Unknown), true) => verdict.unknown_applied += 1,
                (Some(Outcome::Unknown), false) => verdict.unknown_absent += 1,
                (Some(Outcome::Refused), _) => verdict.refused += 1,
                (None, _) => {}
            }
        }
    }
    Ok(verdict)
}

/// The checks on one record, in order.
struct Checks<'a> {
    payloads: Payloads,
    clients: &'a BTreeMap<u32, Outcomes>,
    hash: crc32fast::Hasher,
    last: u64,
}

impl Checks<'_> {
    fn record(&mut self, record: Record, seen: &mut BTreeMap<u32, Vec<bool>>, verdict: &mut Verdict) {
        let Record { index, term, name, checksum } = record;
        for word in [index, term, name.number, u64::from(name.client), u64::from(checksum)] {
            self.hash.update(&word.to_le_bytes());
        }
        if index <= self.last {
            verdict.find(Finding::Order { index, after: self.last });
        }
        self.last = index;
        if checksum != self.payloads.checksum(name) {
            verdict.find(Finding::Bytes { index, name });
        }
        let place = seen.get_mut(&name.client).and_then(|s| s.get_mut(name.number as usize));
        let outcome = self.clients.get(&name.client).and_then(|o| o.get(name.number));
        let (Some(place), Some(outcome)) = (place, outcome) else {
            return verdict.find(Finding::Alien { index, name });
        };
        if std::mem::replace(place, true) {
            return verdict.find(Finding::Twice { index, name });
        }
        match outcome {
            Outcome::Acknowledged(told) if told != index => verdict.find(Finding::Elsewhere { index, name, told }),
            Outcome::Refused => verdict.find(Finding::Refused { index, name }),
            Outcome::Acknowledged(_) | Outcome::Unknown => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::demo::ledger::tests::written;

    const BYTES: usize = 32;

    /// Client 0 proposed five: acknowledged at 2, 3, 5; then unknown, refused.
    fn told() -> BTreeMap<u32, Outcomes> {
        let mut o = Outcomes::default();
        for index in [2, 3, 5] {
            let (floor, number) = (o.floor(), o.propose());
            o.acknowledge(number, index, floor);
        }
        o.propose();
        let refused = o.propose();
        o.refuse(refused);
        BTreeMap::from([(0, o)])
    }

    const GOOD: &[(u64, u32, u64)] = &[(2, 0, 0), (3, 0, 1), (5, 0, 2)];

    fn check(ledgers: &[&[(u64, u32, u64)]]) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let ledgers: Vec<(u64, PathBuf)> = (1..)
            .zip(ledgers)
            .map(|(id, entries)| {
                let path = dir.path().join(format!("{id}"));
                written(&path, BYTES, entries);
                (id, path)
            })
            .collect();
        verify(&ledgers, &told(), BYTES).unwrap()
    }

    #[test]
    fn a_good_run_passes() {
        let verdict = check(&[GOOD, GOOD, GOOD]);
        assert_eq!(verdict.findings, []);
        assert_eq!((verdict.wrong, verdict.applied, verdict.acknowledged), (0, 3, 3));
        assert_eq!((verdict.unknown_applied, verdict.unknown_absent, verdict.refused), (0, 1, 1));
    }

    #[test]
    fn an_unknown_entry_may_be_present_once() {
        let with = [GOOD, &[(6, 0, 3)]].concat();
        let verdict = check(&[&with, &with]);
        assert_eq!((verdict.wrong, verdict.unknown_applied, verdict.unknown_absent), (0, 1, 0));
        let twice = [GOOD, &[(6, 0, 3), (7, 0, 3)]].concat();
        assert_eq!(check(&[&twice]).findings, [Finding::Twice { index: 7, name: Name { client: 0, number: 3 } }]);
    }

    #[test]
    fn every_planted_fault_is_found() {
        let name = |number| Name { client: 0, number };
        let missing = &GOOD[..2];
        assert_eq!(check(&[missing, missing]).findings, [Finding::Missing { name: name(2), told: 5 }]);
        assert_eq!(check(&[GOOD, missing]).findings, [Finding::Short { replica: 2, applied: 2, with: 1, other: 3 }]);
        let swapped: &[(u64, u32, u64)] = &[(2, 0, 1), (3, 0, 0), (5, 0, 2)];
        assert!(check(&[GOOD, swapped]).findings.contains(&Finding::Differ { place: 0, replica: 2, with: 1 }));
        assert!(check(&[swapped]).findings.contains(&Finding::Elsewhere { index: 2, name: name(1), told: 3 }));
        let twice = [GOOD, &[(6, 0, 2)]].concat();
        assert!(check(&[&twice]).findings.contains(&Finding::Twice { index: 6, name: name(2) }));
        let refused = [GOOD, &[(6, 0, 4)]].concat();
        assert!(check(&[&refused]).findings.contains(&Finding::Refused { index: 6, name: name(4) }));
        let alien = [GOOD, &[(6, 0, 5)]].concat();
        assert!(check(&[&alien]).findings.contains(&Finding::Alien { index: 6, name: name(5) }));
        let alien = [GOOD, &[(6, 9, 0)]].concat();
        assert!(check(&[&alien]).findings.contains(&Finding::Alien { index: 6, name: Name { client: 9, number: 0 } }));
        let falling: &[(u64, u32, u64)] = &[(2, 0, 0), (3, 0, 1), (5, 0, 2), (4, 0, 3)];
        assert!(check(&[falling]).findings.contains(&Finding::Order { index: 4, after: 5 }));
    }

    #[test]
    fn other_bytes_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1");
        written(&path, BYTES + 1, GOOD);
        let verdict = verify(&[(1, path)], &told(), BYTES).unwrap();
        assert_eq!(verdict.wrong, 3);
        assert!(matches!(verdict.findings[0], Finding::Bytes { index: 2, .. }));
    }
}

//! What each proposer of a proof was told: the one side that the replicas' ledgers are checked against.

/// How one proposal ended, as its proposer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Applied, at this index.
    Acknowledged(u64),
    /// In no log, and never will be.
    Refused,
    /// Nobody can say. Never proposed again.
    Unknown,
}

const UNKNOWN: u64 = 0;
const REFUSED: u64 = u64::MAX;

/// An acknowledgement that contradicts an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfOrder {
    /// Number of the entry.
    pub(crate) number: u64,
    /// Where it was acknowledged.
    pub(crate) index: u64,
    /// Where an entry stands that had been acknowledged before this one was proposed.
    pub(crate) floor: u64,
}

/// All outcomes of one proposer, by number: eight bytes each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcomes {
    by_number: Vec<u64>,
    /// Highest index acknowledged.
    highest: u64,
    /// The first acknowledgement out of order, if any.
    out_of_order: Option<OutOfOrder>,
}

/// Counts of outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Acknowledged.
    pub(crate) acknowledged: u64,
    /// Refused.
    pub(crate) refused: u64,
    /// Unknown.
    pub(crate) unknown: u64,
}

impl Outcomes {
    /// Room for so many without growing.
    pub(crate) fn with_capacity(entries: usize) -> Outcomes {
        Outcomes { by_number: Vec::with_capacity(entries), ..Outcomes::default() }
    }

    /// A new proposal: its number. Its outcome is unknown until told.
    pub(crate) fn propose(&mut self) -> u64 {
        self.by_number.push(UNKNOWN);
        self.by_number.len() as u64 - 1
    }

    /// The highest index acknowledged until now: a proposal made from now on must come to stand after it.
    pub(crate) fn floor(&self) -> u64 {
        self.highest
    }

    /// Entry `number` was acknowledged at `index`; `floor` is what [`floor`](Outcomes::floor) said when it was
    /// proposed.
    pub(crate) fn acknowledge(&mut self, number: u64, index: u64, floor: u64) {
        if index <= floor && self.out_of_order.is_none() {
            self.out_of_order = Some(OutOfOrder { number, index, floor });
        }
        self.highest = self.highest.max(index);
        self.set(number, index);
    }

    /// Entry `number` was refused for certain.
    pub(crate) fn refuse(&mut self, number: u64) {
        self.set(number, REFUSED);
    }

    fn set(&mut self, number: u64, value: u64) {
        if let Some(place) = self.by_number.get_mut(number as usize) {
            *place = value;
        }
    }

    /// How entry `number` ended; `None` if it was never proposed.
    pub(crate) fn get(&self, number: u64) -> Option<Outcome> {
        self.by_number.get(usize::try_from(number).ok()?).map(|&value| match value {
            UNKNOWN => Outcome::Unknown,
            REFUSED => Outcome::Refused,
            index => Outcome::Acknowledged(index),
        })
    }

    /// How many were proposed.
    pub(crate) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// The first acknowledgement out of order, if any.
    pub(crate) fn out_of_order(&self) -> Option<OutOfOrder> {
        self.out_of_order
    }

    /// Counts.
    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for &value in &self.by_number {
            match value {
                UNKNOWN => tally.unknown += 1,
                REFUSED => tally.refused += 1,
                _ => tally.acknowledged += 1,
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_kept_by_number() {
        let mut o = Outcomes::with_capacity(4);
        let numbers = [o.propose(), o.propose(), o.propose()];
        assert_eq!(numbers, [0, 1, 2]);
        o.acknowledge(0, 7, 0);
        o.refuse(2);
        assert_eq!(o.get(0), Some(Outcome::Acknowledged(7)));
        assert_eq!(o.get(1), Some(Outcome::Unknown));
        assert_eq!(o.get(2), Some(Outcome::Refused));
        assert_eq!(o.get(3), None);
        assert_eq!(o.tally(), Tally { acknowledged: 1, refused: 1, unknown: 1 });
        assert_eq!(o.floor(), 7);
        assert_eq!(o.out_of_order(), None);
    }

    #[test]
    fn an_acknowledgement_before_an_older_one_is_noticed() {
        let mut o = Outcomes::default();
        let first = o.propose();
        o.acknowledge(first, 9, 0);
        let floor = o.floor();
        let second = o.propose();
        o.acknowledge(second, 9, floor);
        assert_eq!(o.out_of_order(), Some(OutOfOrder { number: 1, index: 9, floor: 9 }));
    }
}

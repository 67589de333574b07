//! Who counts: the voters, apart from who this node has sessions with, and questions that are put to all of them.
//!
//! A question is a function from a voter to its value, so nothing here knows about sessions or progress. This node may be
//! no voter at all, and a peer with a session may count for nothing.

use heapless::Vec;

use crate::NodeId;
use crate::config::Config;
use crate::limits::MAX_VOTERS;
use crate::quorum::{self, Poll};

/// Where what is known of a voter lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is this node itself.
    Own,
    /// In the table of peers, at this slot. A peer keeps its slot, so nobody has to look for it.
    Slot(u8),
}

/// One voter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voter {
    pub(crate) id: NodeId,
    pub(crate) place: Place,
}

/// The voters of the group.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    voters: Vec<Voter, MAX_VOTERS>,
}

impl Membership {
    /// The voters that a configuration names, which [validates](Config::validate). Each other member has its slot.
    pub(crate) fn of(config: &Config) -> Membership {
        let others = || config.members().filter(|member| *member != config.id);
        let place = |id| others().position(|other| other == id).map_or(Place::Own, |at| Place::Slot(at as u8));
        let own = config.voters.iter().filter(|id| **id == config.id);
        // This node comes last: mostly it is ahead of the others, and what is in order is sorted soon.
        let voters = config.voters.iter().filter(|id| **id != config.id).chain(own);
        Membership { voters: voters.map(|id| Voter { id: *id, place: place(*id) }).collect() }
    }

    /// Whether `node` is a voter.
    pub(crate) fn counts(&self, node: NodeId) -> bool {
        self.voters.iter().any(|voter| voter.id == node)
    }

    /// Whether `node` is the only voter: what it decides is decided.
    pub(crate) fn is_sole(&self, node: NodeId) -> bool {
        self.voters.len() == 1 && self.counts(node)
    }

    /// Whether the others cannot be a majority without `node`.
    pub(crate) fn needs(&self, node: NodeId) -> bool {
        let others = self.voters.len() - usize::from(self.counts(node));
        others < quorum::majority(self.voters.len())
    }

    /// Whether something holds of every voter.
    pub(crate) fn all(&self, holds: impl Fn(&Voter) -> bool) -> bool {
        self.voters.iter().all(holds)
    }

    /// The greatest value that a majority has reached.
    pub(crate) fn reached<T: Ord + Copy>(&self, value: impl Fn(&Voter) -> T) -> Option<T> {
        let mut values: Vec<T, MAX_VOTERS> = self.voters.iter().map(value).collect();
        quorum::reached_by_majority(&mut values)
    }

    /// How a poll stands, by each voter's answer, if it gave one.
    pub(crate) fn poll(&self, answer: impl Fn(&Voter) -> Option<bool>) -> Poll {
        let count = |wanted| self.voters.iter().filter(|voter| answer(voter) == Some(wanted)).count();
        quorum::poll(self.voters.len(), count(true), count(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(voters: &[u64]) -> Membership {
        Membership { voters: voters.iter().map(|id| Voter { id: NodeId(*id), place: Place::Own }).collect() }
    }

    #[test]
    fn only_voters_are_asked() {
        let membership = of(&[3, 5, 9]);
        assert!(membership.counts(NodeId(5)) && !membership.counts(NodeId(4)));
        assert_eq!(membership.reached(|voter| voter.id.0 * 10), Some(50));
        assert_eq!(membership.poll(|voter| (voter.id.0 > 3).then_some(true)), Poll::Won);
        assert_eq!(membership.poll(|voter| (voter.id.0 > 3).then_some(false)), Poll::Lost);
        assert_eq!(membership.poll(|voter| (voter.id.0 > 5).then_some(true)), Poll::Pending);
        assert!(membership.all(|voter| voter.id.0 % 2 == 1) && !membership.all(|voter| voter.id.0 > 3));
    }

    /// What a majority is does not depend on who asks.
    #[test]
    fn a_node_is_needed_where_the_others_are_no_majority() {
        for (voters, needed) in [(&[1][..], true), (&[1, 2], true), (&[1, 2, 3], false), (&[1, 2, 3, 4], false)] {
            assert_eq!(of(voters).needs(NodeId(1)), needed, "{voters:?}");
            assert!(!of(voters).needs(NodeId(99)), "not a voter");
            assert_eq!(of(voters).is_sole(NodeId(1)), voters.len() == 1);
            assert!(!of(voters).is_sole(NodeId(99)), "alone among strangers is not the only voter");
        }
    }
}

//! What may be said and counted, while some of the log is still on its way to the disk.
//!
//! omnipaxos takes its storage to be durable when a call returns. Ours is not, so two things are kept back:
//!
//! - A message that says something of the sender's own log (a promise, what it has accepted) leaves when that is on
//!   its disk. Entries for the followers leave at once.
//! - The leader counts itself as having accepted all it appended. So it is told that a follower accepted an index only
//!   as far as a majority is durable to there: the second of the three, its own disk and what the two said.

use std::collections::VecDeque;

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{Accepted, PaxosMessage, PaxosMsg};

use crate::storage::Command;

/// What is kept back until the disk has caught up.
#[derive(Default)]
pub struct Durability {
    /// Number of the newest write.
    written: u64,
    /// Writes under way, oldest first.
    writes: VecDeque<Write>,
    /// Length of the own log on disk.
    durable: usize,
    /// Messages that wait for the write of a number.
    outgoing: VecDeque<(u64, Message<Command>)>,
    /// What followers said last.
    accepted: Vec<Claim>,
}

struct Write {
    number: u64,
    /// Of what the log is after it, as much as still stands.
    len: usize,
}

/// What a follower says it has accepted.
struct Claim {
    message: PaxosMessage<Command>,
    ballot: Ballot,
    index: usize,
    /// As far as the engine has been told.
    told: usize,
}

impl Durability {
    /// A write begins, after which the log has this length; before it, nothing behind the cut stands. Returns its number.
    pub fn write(&mut self, len: usize, cut: Option<usize>) -> u64 {
        if let Some(cut) = cut {
            self.durable = self.durable.min(cut);
            self.writes.iter_mut().for_each(|w| w.len = w.len.min(cut));
        }
        self.written += 1;
        self.writes.push_back(Write { number: self.written, len });
        self.written
    }

    /// The write of this number, and those before it, are on disk.
    pub fn durable(&mut self, number: u64) {
        while let Some(write) = self.writes.pop_front_if(|w| w.number <= number) {
            self.durable = self.durable.max(write.len);
        }
    }

    /// Passes a message on, now or when the disk is as far as it says.
    pub fn outgoing(&mut self, message: Message<Command>, send: impl FnOnce(Message<Command>)) {
        if self.writes.is_empty() || !speaks_of_own_log(&message) {
            send(message);
        } else {
            self.outgoing.push_back((self.written, message));
        }
    }

    /// The next message that had to wait and need not any more.
    pub fn released(&mut self) -> Option<Message<Command>> {
        let oldest = self.writes.front().map_or(u64::MAX, |w| w.number);
        self.outgoing.pop_front_if(|(number, _)| *number < oldest).map(|(_, message)| message)
    }

    /// Takes note of what a follower accepted; any other message is given back.
    pub fn incoming(&mut self, message: Message<Command>) -> Option<Message<Command>> {
        let Message::SequencePaxos(paxos) = message else { return Some(message) };
        let PaxosMsg::Accepted(Accepted { n: ballot, accepted_idx: index }) = paxos.msg else {
            return Some(Message::SequencePaxos(paxos));
        };
        match self.accepted.iter_mut().find(|c| c.message.from == paxos.from) {
            Some(claim) if claim.ballot == ballot => claim.index = claim.index.max(index),
            Some(claim) => *claim = Claim { message: paxos, ballot, index, told: 0 },
            None => self.accepted.push(Claim { message: paxos, ballot, index, told: 0 }),
        }
        None
    }

    /// What the engine may be told now of what followers accepted.
    pub fn countable(&mut self) -> Option<Message<Command>> {
        let newest = self.accepted.iter().map(|c| c.ballot).max()?;
        let mut known: Vec<usize> = self.accepted.iter().filter(|c| c.ballot == newest).map(|c| c.index).collect();
        known.push(self.durable);
        known.sort_unstable_by(|a, b| b.cmp(a));
        let majority = *known.get(1)?;
        let claim = self.accepted.iter_mut().find(|c| c.ballot == newest && c.index.min(majority) > c.told)?;
        claim.told = claim.index.min(majority);
        let msg = PaxosMsg::Accepted(Accepted { n: claim.ballot, accepted_idx: claim.told });
        Some(Message::SequencePaxos(PaxosMessage { msg, ..claim.message.clone() }))
    }
}

fn speaks_of_own_log(message: &Message<Command>) -> bool {
    match message {
        Message::SequencePaxos(paxos) => {
            use PaxosMsg::{AcceptDecide, AcceptSync, Compaction, Decide};
            !matches!(paxos.msg, AcceptDecide(_) | AcceptSync(_) | Decide(_) | Compaction(_))
        }
        Message::BLE(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use omnipaxos::messages::sequence_paxos::Decide;
    use omnipaxos::util::SequenceNumber;

    use super::*;

    const LEADER: u64 = 1;

    fn ballot(n: u32) -> Ballot {
        Ballot { n, pid: LEADER, ..Ballot::default() }
    }

    fn message(from: u64, msg: PaxosMsg<Command>) -> Message<Command> {
        Message::SequencePaxos(PaxosMessage { from, to: LEADER, msg })
    }

    fn accepted(from: u64, n: u32, index: usize) -> Message<Command> {
        message(from, PaxosMsg::Accepted(Accepted { n: ballot(n), accepted_idx: index }))
    }

    /// All that may be counted now: follower and index.
    fn counted(durability: &mut Durability) -> Vec<(u64, usize)> {
        std::iter::from_fn(|| durability.countable())
            .map(|m| match m {
                Message::SequencePaxos(PaxosMessage { from, msg: PaxosMsg::Accepted(a), .. }) => (from, a.accepted_idx),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_follower_is_counted_as_far_as_two_disks_are() {
        let mut d = Durability::default();
        let first = d.write(10, None);
        let second = d.write(20, None);
        assert!(d.incoming(accepted(2, 1, 20)).is_none());
        assert_eq!(counted(&mut d), [], "the leader's disk has nothing");
        d.durable(first);
        assert_eq!(counted(&mut d), [(2, 10)]);
        assert!(d.incoming(accepted(3, 1, 15)).is_none());
        assert_eq!(counted(&mut d), [(2, 15), (3, 15)], "two followers are a majority without the leader");
        d.durable(second);
        assert_eq!(counted(&mut d), [(2, 20)]);
        assert_eq!(counted(&mut d), [], "once");
    }

    #[test]
    fn what_was_cut_off_or_accepted_in_another_round_does_not_count() {
        let mut d = Durability::default();
        let old = d.write(30, None);
        let cut = d.write(12, Some(5));
        d.durable(old);
        assert!(d.incoming(accepted(2, 1, 30)).is_none());
        assert_eq!(counted(&mut d), [(2, 5)], "of the old log, the prefix stands");
        assert!(d.incoming(accepted(3, 2, 12)).is_none());
        assert_eq!(counted(&mut d), [(3, 5)]);
        d.durable(cut);
        assert_eq!(counted(&mut d), [(3, 12)]);
    }

    #[test]
    fn what_speaks_of_the_own_log_waits_for_the_disk_and_the_rest_does_not() {
        let mut d = Durability::default();
        let write = d.write(1, None);
        let mut sent = 0;
        let decide = Decide { n: ballot(1), seq_num: SequenceNumber::default(), decided_idx: 1 };
        d.outgoing(message(LEADER, PaxosMsg::Decide(decide)), |_| sent += 1);
        assert_eq!(sent, 1);
        d.outgoing(accepted(2, 1, 1), |_| sent += 1);
        assert_eq!(sent, 1);
        assert!(d.released().is_none());
        let later = d.write(2, None);
        d.durable(write);
        assert!(d.released().is_some(), "a later write does not hold it up");
        d.outgoing(accepted(2, 1, 2), |_| sent += 1);
        d.durable(later);
        assert!(d.released().is_some() && d.released().is_none());
        assert_eq!(sent, 1);
    }
}

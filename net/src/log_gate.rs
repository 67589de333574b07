//! What goes to the log when others can make it happen as often as they like: one line a topic and minute, with a
//! count.
//!
//! A topic is a reason and the peer that it is about, if it is one's. Strangers share theirs, whatever their addresses:
//! so they can neither fill the log nor this table.

use std::net::SocketAddr;

use kontiki_core::{NodeId, Time};

/// For how long one line speaks for all of its topic, in nanoseconds.
pub(crate) const LOG_PERIOD_NS: u64 = 60_000_000_000;

/// Topics told apart at once; what finds no room shares the last.
const TOPICS: usize = 128;

/// Reasons that found the table full.
const OTHERS: Topic = Topic { peer: None, what: "other reasons" };

/// What lines are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) peer: Option<NodeId>,
    pub(crate) what: &'static str,
}

/// What was kept out of the log in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hushed {
    pub(crate) topic: Topic,
    pub(crate) count: u64,
    /// The newest of them came from there.
    pub(crate) remote: Option<SocketAddr>,
}

#[derive(Debug)]
struct Entry {
    until: Time,
    /// Written in this period.
    lines: u32,
    hushed: Hushed,
}

/// The table. Memory is set aside at the start.
#[derive(Debug, Default)]
pub(crate) struct LogGate {
    entries: heapless::Vec<Entry, TOPICS>,
    /// Not later than the earliest end of a period.
    earliest: Option<Time>,
}

impl LogGate {
    /// Whether a line of this topic may be written now; if not, it is counted.
    pub(crate) fn admits(&mut self, topic: Topic, remote: Option<SocketAddr>, now: Time) -> bool {
        self.admits_up_to(1, topic, remote, now)
    }

    /// The same of a topic with so many lines a period.
    pub(crate) fn admits_up_to(&mut self, most: u32, topic: Topic, remote: Option<SocketAddr>, now: Time) -> bool {
        let place = self.entries.iter().position(|entry| entry.hushed.topic == topic);
        // The last place is kept for all that find no other.
        let full = place.is_none() && self.entries.len() >= TOPICS - 1;
        let topic = if full { OTHERS } else { topic };
        let place = place.or_else(|| self.entries.iter().position(|entry| entry.hushed.topic == topic));
        if let Some(entry) = place.and_then(|at| self.entries.get_mut(at)) {
            if entry.lines < most && entry.until > now {
                entry.lines += 1;
                return true;
            }
            entry.hushed.count += 1;
            entry.hushed.remote = remote;
            return false;
        }
        let until = now.plus_ns(LOG_PERIOD_NS);
        let hushed = Hushed { topic, count: 0, remote };
        self.earliest = Some(self.earliest.map_or(until, |earliest| earliest.min(until)));
        self.entries.push(Entry { until, lines: 1, hushed }).is_ok()
    }

    /// A topic whose period is over and that was kept out of the log since: its count is to be written now, and that
    /// line begins its next period.
    pub(crate) fn due(&mut self, now: Time) -> Option<Hushed> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return None;
        }
        self.entries.retain(|entry| entry.until > now || entry.hushed.count > 0);
        let due = self.entries.iter_mut().find(|entry| entry.until <= now).map(|entry| {
            let hushed = entry.hushed;
            (entry.hushed.count, entry.lines) = (0, 1);
            entry.until = now.plus_ns(LOG_PERIOD_NS);
            hushed
        });
        self.earliest = self.entries.iter().map(|entry| entry.until).min();
        due
    }

    /// When [`LogGate::due`] may have something to say.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.entries.iter().filter(|entry| entry.hushed.count > 0).map(|entry| entry.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Topic = Topic { peer: None, what: "slow" };

    fn after(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn one_line_a_topic_and_minute_and_the_rest_is_counted() {
        let mut gate = LogGate::default();
        assert!(gate.admits(SLOW, None, after(1)));
        assert_eq!(gate.deadline(), None, "nothing was kept back yet");
        for _ in 0..2000 {
            assert!(!gate.admits(SLOW, None, after(2)));
        }
        let peer = Topic { peer: Some(NodeId(3)), ..SLOW };
        assert!(gate.admits(peer, None, after(2)), "a peer's is another topic than a stranger's");
        assert_eq!(gate.deadline(), Some(after(61)));
        assert_eq!(gate.due(after(60)), None);
        assert_eq!(gate.due(after(61)), Some(Hushed { topic: SLOW, count: 2000, remote: None }));
        assert!(!gate.admits(SLOW, None, after(62)), "the count's line began the next minute");
        assert_eq!(gate.due(after(121)), Some(Hushed { topic: SLOW, count: 1, remote: None }));
        assert_eq!(gate.due(after(181)), None);
        assert!(gate.admits(SLOW, None, after(182)), "after a quiet minute it is news again");
    }

    #[test]
    fn a_topic_may_have_several_lines_a_minute() {
        let mut gate = LogGate::default();
        let lines = |gate: &mut LogGate, second| (0..100).filter(|_| gate.admits_up_to(5, SLOW, None, after(second))).count();
        assert_eq!((lines(&mut gate, 1), lines(&mut gate, 59)), (5, 0));
        assert_eq!(gate.due(after(61)).map(|hushed| hushed.count), Some(195));
        // The count's line is the first of the next minute.
        assert_eq!(lines(&mut gate, 62), 4);
    }

    #[test]
    fn the_table_is_bounded_and_what_does_not_fit_is_counted_together() {
        let mut gate = LogGate::default();
        let topics: Vec<Topic> = (0..1000).map(|id| Topic { peer: Some(NodeId(id)), what: "x" }).collect();
        let lines = topics.iter().filter(|&&topic| gate.admits(topic, None, after(1))).count();
        assert_eq!(lines, TOPICS, "the others' first one too");
        assert_eq!(gate.due(after(61)).map(|hushed| (hushed.topic, hushed.count)), Some((OTHERS, 1000 - TOPICS as u64)));
    }
}

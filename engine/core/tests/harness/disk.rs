//! A simulated node's disk: the log and the hard state that are durable, and the writes under way.

use std::collections::VecDeque;

use kontiki_core::{Base, Event, LogIndex, NodeId, Term, Time, WriteId};

use super::node::Entry;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HardRecord {
    pub(crate) term: Term,
    pub(crate) vote: Option<NodeId>,
    pub(crate) recovering: bool,
}

/// A log write under way.
#[derive(Clone, Debug)]
struct LogWrite {
    write: WriteId,
    due: Time,
    what: Written,
}

/// What a log write brings.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) from: LogIndex,
    pub(crate) entries: Vec<Entry>,
    /// The log begins anew with it, behind this. The entries are what the snapshot holds, then.
    pub(crate) base: Option<Base>,
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// The log that is durable. Index 1 stands first: what was before `begins` is for the oracles alone.
    pub(crate) log: Vec<Entry>,
    /// Here it begins.
    pub(crate) begins: LogIndex,
    /// The writes that made it so, in their order: a log is written on and on, and what is superseded stays where it
    /// is.
    written: Vec<Written>,
    pub(crate) record: HardRecord,
    log_writes: VecDeque<LogWrite>,
    hard_writes: VecDeque<(WriteId, HardRecord, Time)>,
    hard_durable: WriteId,
    /// What a flush takes: of a log write one, of a hard state one for each copy. Writes of a kind are flushed one
    /// after the other.
    pub(crate) flush_ns: u64,
    /// Withhold completions of hard-state writes, of log writes.
    hold_hard: bool,
    hold_log: bool,
}

impl Disk {
    pub(crate) fn new() -> Disk {
        Disk {
            log: Vec::new(),
            begins: LogIndex(1),
            written: Vec::new(),
            record: HardRecord::default(),
            log_writes: VecDeque::new(),
            hard_writes: VecDeque::new(),
            hard_durable: WriteId(0),
            flush_ns: 0,
            hold_hard: false,
            hold_log: false,
        }
    }

    /// A new core counts its writes from one.
    pub(crate) fn counts_anew(&mut self) {
        self.hard_durable = WriteId(0);
    }

    /// The newest hard state that is durable.
    pub(crate) fn hard_durable(&self) -> WriteId {
        self.hard_durable
    }

    /// What is under way is lost.
    pub(crate) fn stop(&mut self) {
        self.log_writes.clear();
        self.hard_writes.clear();
    }

    /// Whether the oldest write of a kind ends by itself now.
    pub(crate) fn may_complete(&self, hard: bool, now: Time) -> bool {
        self.due(hard).is_some_and(|due| due <= now)
    }

    /// When the oldest write of a kind ends by itself.
    fn due(&self, hard: bool) -> Option<Time> {
        match hard {
            true => self.hard_writes.front().map(|write| write.2).filter(|_| !self.hold_hard),
            false => self.log_writes.front().map(|write| write.due).filter(|_| !self.hold_log),
        }
    }

    /// When the next write ends by itself.
    pub(crate) fn next_completion(&self) -> Option<Time> {
        self.due(true).into_iter().chain(self.due(false)).min()
    }

    /// A hard state is to be written: at most one is under way, and the newest behind it, as the node has it.
    pub(crate) fn save(&mut self, write: WriteId, record: HardRecord, now: Time) {
        if self.flush_ns > 0 && self.hard_writes.len() > 1 {
            self.hard_writes.pop_back();
        }
        let begun = self.hard_writes.back().map_or(now, |write| write.2.max(now));
        self.hard_writes.push_back((write, record, begun.plus_ns(2 * self.flush_ns)));
    }

    pub(crate) fn hold_mut(&mut self, hard: bool) -> &mut bool {
        if hard { &mut self.hold_hard } else { &mut self.hold_log }
    }

    pub(crate) fn writes_under_way(&self, hard: bool) -> usize {
        if hard { self.hard_writes.len() } else { self.log_writes.len() }
    }

    /// The oldest write of a kind reaches the disk.
    pub(crate) fn complete(&mut self, hard: bool) -> Option<Event> {
        if hard {
            let (write, record, _) = self.hard_writes.pop_front()?;
            assert!(record.term >= self.record.term, "durable terms never fall");
            let revote = record.term == self.record.term && self.record.vote.is_some() && record.vote != self.record.vote;
            assert!(!revote, "a durable vote is for good in its term");
            self.record = record;
            self.hard_durable = write;
            Some(Event::HardStateDurable { write })
        } else {
            let LogWrite { write, what, .. } = self.log_writes.pop_front()?;
            let at = what.from.0 as usize - 1;
            self.log.truncate(at);
            assert_eq!(self.log.len(), at, "writes leave no gap on the disk");
            self.log.extend_from_slice(&what.entries);
            self.begins = what.base.map_or(self.begins, |base| base.next());
            self.written.push(what);
            Some(Event::LogDurable { write })
        }
    }

    /// The medium loses the last `writes` of a stopped node's log, and recovery marks the node. What those had
    /// superseded stands in the log again. What the log presupposes is told by more than they.
    pub(crate) fn damage(&mut self, writes: usize) {
        let begins = self.begins;
        let lost = self.written.iter().rev().take_while(|what| what.base.is_none() && what.from >= begins).take(writes).count();
        self.written.truncate(self.written.len() - lost);
        self.log.clear();
        for Written { from, entries, .. } in &self.written {
            self.log.truncate(from.0 as usize - 1);
            self.log.extend_from_slice(entries);
        }
        self.record.recovering = true;
    }

    /// A log write is under way, behind those that are.
    pub(crate) fn write(&mut self, write: WriteId, what: Written, now: Time) {
        let begun = self.log_writes.back().map_or(now, |write| write.due.max(now));
        self.log_writes.push_back(LogWrite { write, due: begun.plus_ns(self.flush_ns), what });
    }

    /// How many writes have to be lost for something superseded to stand again, at least; `None`: nothing was
    /// superseded.
    pub(crate) fn back_to_superseded(&self) -> Option<usize> {
        let reached = self.written.iter().scan(0, |last, Written { from, entries, .. }| {
            let superseding = from.0 <= *last;
            *last = from.0 - 1 + entries.len() as u64;
            Some(superseding)
        });
        let newest = reached.enumerate().filter(|(_, superseding)| *superseding).last()?.0;
        Some(self.written.len() - newest)
    }
}

//! The state machine that the simulated nodes replicate: a table of registers, and a ledger of what it did, for the judge.
//!
//! Its snapshots are the table, a hash of it, and a filler whose length and bytes follow from that: so that many take several chunks, and that a
//! byte out of its place is noticed.

use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kontiki::{ApplyError, Entries, EntryId, LogIndex, Replies, Restore, SnapshotError, SnapshotSource, StateMachine};

use crate::cluster::workload::{REGISTERS, is_read, key_of, value_of};
use crate::judge::linearize::INITIAL;
use crate::random::Random;
use crate::world::trace::hash_bytes;

/// Longest filler of a snapshot, in bytes.
const MOST_FILLER_BYTES: u64 = 200_000;

/// One entry as a replica applied it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) value: u64,
    /// The payload was just as proposed.
    pub(crate) intact: bool,
}

/// One thing that a machine did.
#[derive(Clone, Copy, Debug)]
pub(crate) enum News {
    Applied(Applied),
    /// It has taken a snapshot's state for its own: all that its registers hold now.
    Restored {
        index: u64,
        registers: [u64; REGISTERS],
        /// The stream was just as it was given, on whatever node.
        intact: bool,
    },
}

#[derive(Debug, Default)]
struct Kept {
    /// Last entry applied.
    applied: EntryId,
    /// What was written last to each register.
    registers: [u64; REGISTERS],
    news: Vec<News>,
    /// What has come of a snapshot that is being restored, and the entry that it stands at.
    coming: (EntryId, Vec<u8>),
}

impl Kept {
    /// Carries a command out: a read is answered with what is there, a write with what it wrote.
    fn carry_out(&mut self, value: u64) -> u64 {
        match self.registers.get_mut(key_of(value) as usize) {
            Some(register) if is_read(value) => *register,
            Some(register) => {
                *register = value;
                value
            }
            None => unreachable!("a key is below the number of registers"),
        }
    }
}

/// What a machine did, shared with whoever watches. With `durable`, it is the machine's own disk as well: a restarted
/// machine goes on from there.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    kept: Arc<Mutex<Kept>>,
    durable: bool,
}

impl Ledger {
    /// The last entry that a restart keeps.
    pub(crate) fn durable(&self) -> u64 {
        if self.durable { self.kept().applied.index.0 } else { 0 }
    }

    pub(crate) fn new(durable: bool) -> Ledger {
        Ledger { kept: Arc::default(), durable }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was applied since this was asked last.
    pub(crate) fn news(&self) -> Vec<News> {
        std::mem::take(&mut self.kept().news)
    }

    /// The index that a machine starting now begins after.
    pub(crate) fn start(&self) -> u64 {
        let mut kept = self.kept();
        kept.news.clear();
        kept.coming = <_>::default();
        if !self.durable {
            (kept.applied, kept.registers) = (EntryId::default(), [INITIAL; REGISTERS]);
        }
        kept.applied.index.0
    }
}

#[derive(Debug)]
pub(crate) struct Machine(pub(crate) Ledger);

impl StateMachine for Machine {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        let mut kept = self.0.kept();
        for entry in entries {
            let (value, intact) = value_of(entry.payload);
            kept.applied = entry.id();
            kept.news.push(News::Applied(Applied { index: entry.index.0, term: entry.term.0, value, intact }));
            let reply = kept.carry_out(value);
            replies.push(&reply.to_le_bytes());
        }
        Ok(())
    }

    fn applied(&self) -> EntryId {
        self.0.kept().applied
    }

    fn durable(&self) -> LogIndex {
        if self.0.durable { self.0.kept().applied.index } else { LogIndex(0) }
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        let kept = self.0.kept();
        Ok(Box::new(Cursor::new(stream(&kept.registers))))
    }

    fn snapshot_bytes(&self) -> u64 {
        MOST_FILLER_BYTES + 8 * (REGISTERS as u64 + 1)
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        let mut kept = self.0.kept();
        match part {
            Restore::Begin { index, term, bytes: _ } => kept.coming = (EntryId { index, term }, Vec::new()),
            Restore::Chunk(bytes) => kept.coming.1.extend_from_slice(bytes),
            Restore::End => {
                let (at, bytes) = std::mem::take(&mut kept.coming);
                let (words, _) = bytes.as_chunks::<8>();
                let mut registers = [INITIAL; REGISTERS];
                for (register, word) in registers.iter_mut().zip(words) {
                    *register = u64::from_le_bytes(*word);
                }
                let intact = bytes == stream(&registers);
                kept.news.push(News::Restored { index: at.index.0, registers, intact });
                (kept.applied, kept.registers) = (at, registers);
            }
        }
        Ok(())
    }
}

/// The stream of a snapshot of these registers. What entry it is of is for the engine to say: entries of its own come behind the last that the
/// machine has seen.
fn stream(registers: &[u64; REGISTERS]) -> Vec<u8> {
    let mut bytes: Vec<u8> = registers.iter().flat_map(|register| register.to_le_bytes()).collect();
    let hash = hash_bytes(&bytes);
    bytes.extend(hash.to_le_bytes());
    let mut random = Random::stream(hash, 0);
    let filler = if random.coin() { random.below(MOST_FILLER_BYTES) } else { 0 };
    bytes.extend((0..filler).map(|n| (n % 251) as u8 ^ hash as u8));
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kontiki::Term;

    use super::*;

    /// Moves a snapshot of one machine into another in pieces of so many bytes, the last byte changed if it is to be `spoiled`.
    fn moved(spoiled: bool) -> (Ledger, News) {
        let (from, to) = (Ledger::new(false), Ledger::new(false));
        {
            let mut kept = from.kept();
            kept.applied = EntryId { index: LogIndex(40), term: Term(3) };
            kept.registers[5] = 77;
        }
        let mut source = Machine(from).snapshot().unwrap();
        let mut bytes = Vec::new();
        let mut piece = [0; 100];
        while let count @ 1.. = source.read(&mut piece).unwrap() {
            bytes.extend_from_slice(&piece[..count]);
        }
        *bytes.last_mut().unwrap() ^= u8::from(spoiled);
        let mut machine = Machine(to.clone());
        machine.restore(Restore::Begin { index: LogIndex(40), term: Term(3), bytes: bytes.len() as u64 }).unwrap();
        bytes.chunks(33).for_each(|chunk| machine.restore(Restore::Chunk(chunk)).unwrap());
        assert!(to.news().is_empty() && to.kept().applied == EntryId::default(), "nothing shows before the end");
        machine.restore(Restore::End).unwrap();
        let news = to.news()[0];
        (to, news)
    }

    #[test]
    fn a_snapshot_brings_what_it_was_made_of() {
        let (to, news) = moved(false);
        assert!(matches!(news, News::Restored { index: 40, registers, intact: true } if registers[5] == 77));
        assert_eq!(to.kept().applied, EntryId { index: LogIndex(40), term: Term(3) });
    }

    #[test]
    fn a_byte_that_changed_is_noticed() {
        let (_, news) = moved(true);
        assert!(matches!(news, News::Restored { intact: false, .. }));
    }
}

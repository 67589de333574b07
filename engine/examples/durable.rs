//! A machine with a durable state of its own: a meter that counts, in a file. `cargo run --example durable -p kontiki`
//!
//! The file says which entry it includes, by index and term, and changes whole or not at all. So `applied` after a
//! start is what the state really includes, and `durable` is said of what was flushed, not of what was applied. The log
//! forgets what is durable here. A snapshot is for others: for a node that is too far behind for what the log still
//! holds.
#![allow(clippy::print_stdout, reason = "an example speaks to its reader")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a product's own files are its own business")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};

use kontiki::{
    ApplyError, Config, Entries, EntryId, LogIndex, Member, Node, Replies, Restore, SnapshotError, SnapshotSource, StateMachine, Term,
};

/// After so many entries the state is saved: what a start has to apply again at most.
const SAVE_EVERY: u64 = 100;

/// What each meter has counted; which entry that includes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    applied: EntryId,
    meters: BTreeMap<u64, u64>,
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let header = [self.applied.index.0, self.applied.term.0];
        header.into_iter().chain(self.meters.iter().flat_map(|(&meter, &count)| [meter, count])).flat_map(u64::to_le_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> io::Result<State> {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (pairs, odd) = words.as_chunks::<2>();
        match (pairs.split_first(), odd, rest) {
            (Some((&[index, term], meters)), [], []) => {
                let applied = EntryId { index: LogIndex(index), term: Term(term) };
                Ok(State { applied, meters: meters.iter().map(|&[meter, count]| (meter, count)).collect() })
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

struct Meters {
    state: State,
    /// Up to here the file has it.
    durable: LogIndex,
    file: PathBuf,
    /// A snapshot that is being taken, as it will be saved.
    coming: Option<State>,
    bytes: Vec<u8>,
}

impl Meters {
    /// What an earlier process saved, or nothing.
    fn open(file: PathBuf) -> io::Result<Meters> {
        let state = match std::fs::read(&file) {
            Ok(bytes) => State::decode(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        Ok(Meters { durable: state.applied.index, state, file, coming: None, bytes: Vec::new() })
    }

    /// Another file, flushed, takes the name of the old one; then the directory is flushed. Only then it is durable.
    fn save(&mut self) -> io::Result<()> {
        let fresh = self.file.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&self.state.encode())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.file)?;
        File::open(self.file.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        self.durable = self.state.applied.index;
        Ok(())
    }
}

fn failed(error: io::Error) -> ApplyError {
    ApplyError(format!("the meters' file: {error}"))
}

impl StateMachine for Meters {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            // Anybody may propose anything: what names no meter is passed over, by every replica alike.
            if let Ok(meter) = entry.payload.try_into().map(u64::from_le_bytes) {
                *self.state.meters.entry(meter).or_default() += 1;
            }
            self.state.applied = entry.id();
            replies.push(&[]);
        }
        if self.state.applied.index.0 >= self.durable.0 + SAVE_EVERY { self.save().map_err(failed) } else { Ok(()) }
    }

    fn applied(&self) -> EntryId {
        self.state.applied
    }

    fn durable(&self) -> LogIndex {
        self.durable
    }

    /// A copy, bounded by what is held: the state is small. A large one is rather a file that is only ever replaced,
    /// and a source that reads the file as it was.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        Ok(Box::new(Cursor::new(self.state.encode())))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        match part {
            Restore::Begin { index, term, .. } => {
                self.coming = Some(State { applied: EntryId { index, term }, ..State::default() });
                self.bytes.clear();
            }
            Restore::Chunk(bytes) => self.bytes.extend(bytes),
            // The old state stands until now; the new one is durable before this returns.
            Restore::End => {
                let coming = self.coming.take().ok_or_else(|| ApplyError("a snapshot without a beginning".into()))?;
                let State { meters, .. } = State::decode(&std::mem::take(&mut self.bytes)).map_err(failed)?;
                self.state = State { meters, ..coming };
                self.save().map_err(failed)?;
            }
        }
        Ok(())
    }

    fn snapshot_bytes(&self) -> u64 {
        16 * (self.state.meters.len() as u64 + 1)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let members = vec![Member::new(1, ([127, 0, 0, 1], 0).into())];
    let config = Config::new(0x3e7e45, 1, members, dir.path().join("log"));
    for start in 1..=3 {
        let meters = Meters::open(dir.path().join("meters"))?;
        println!("start {start}: {} meters, durable up to entry {}", meters.state.meters.len(), meters.durable);
        let node = Node::builder(config.clone()).start(meters)?;
        wait_for_leader(&node);
        let mut last = None;
        for meter in 0..150u64 {
            last = Some(node.propose(&meter.to_le_bytes())?);
        }
        if let Some(ticket) = last {
            println!("  applied up to entry {}", ticket.wait()?.index);
        }
        node.shutdown()?;
    }
    Ok(())
}

/// A fresh node elects itself within an election timeout.
fn wait_for_leader(node: &Node) {
    while node.status().is_none_or(|s| s.leader.is_none_or(|l| l.id != s.id)) {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn counted(file: &Path, meters: u64, index: u64) -> Meters {
        let mut machine = Meters::open(file.to_path_buf()).unwrap();
        machine.state.meters = (0..meters).map(|meter| (meter, index)).collect();
        machine.state.applied = EntryId { index: LogIndex(index), term: Term(2) };
        machine
    }

    fn stream(machine: &mut Meters) -> Vec<u8> {
        let (mut view, mut stream, mut piece) = (machine.snapshot().unwrap(), Vec::new(), [0; 100]);
        while let count @ 1.. = view.read(&mut piece).unwrap() {
            stream.extend(&piece[..count]);
        }
        stream
    }

    #[test]
    fn durable_is_what_a_later_process_finds() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("meters");
        let mut machine = counted(&file, 5, 70);
        assert_eq!((machine.applied().index, machine.durable()), (LogIndex(70), LogIndex(0)));
        machine.save().unwrap();
        machine.state.applied.index = LogIndex(90);
        let again = Meters::open(file).unwrap();
        assert_eq!((again.applied().index, again.durable(), machine.durable()), (LogIndex(70), LogIndex(70), LogIndex(70)));
        assert_eq!(again.state.meters, machine.state.meters);
    }

    #[test]
    fn a_snapshot_is_taken_whole_and_durably_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = stream(&mut counted(&dir.path().join("from"), 9, 500));
        let file = dir.path().join("to");
        counted(&file, 2, 30).save().unwrap();
        let mut machine = Meters::open(file.clone()).unwrap();
        machine.restore(Restore::Begin { index: LogIndex(500), term: Term(2), bytes: snapshot.len() as u64 }).unwrap();
        for chunk in snapshot.chunks(7) {
            machine.restore(Restore::Chunk(chunk)).unwrap();
        }
        assert_eq!((machine.state.meters.len(), Meters::open(file.clone()).unwrap().state.meters.len()), (2, 2));
        machine.restore(Restore::End).unwrap();
        let again = Meters::open(file).unwrap();
        assert_eq!((machine.applied(), machine.durable()), (again.applied(), again.durable()));
        assert_eq!((again.state.meters.len(), again.durable()), (9, LogIndex(500)));
    }
}

//! A machine in memory with snapshots, of a few long values; it may keep its state over a restart, and fail on request.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kontiki::{ApplyError, Entries, EntryId, LogIndex, Replies, Restore, SnapshotError, SnapshotSource, StateMachine};

/// What the next snapshots come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Good,
    Refuses,
    Fails,
    FailsLater,
    Panics,
    PanicsLater,
    Waits,
}

#[derive(Default)]
pub struct Shared {
    /// What was written last to each place, and how many entries there were.
    pub state: Mutex<(BTreeMap<u8, Vec<u8>>, u64)>,
    pub applied: AtomicU64,
    pub restored: AtomicU64,
    pub mood: Mutex<Mood>,
    pub node: Mutex<Option<kontiki::Proposer>>,
    /// Last entry in the state.
    pub at: Mutex<EntryId>,
    /// Every entry is durable in the machine's own state as soon as it is applied: what is shared is its disk.
    pub durable: AtomicBool,
    /// What its snapshots hold besides, in bytes: of no use to anybody.
    pub ballast: AtomicU64,
}

/// A table of a few long values.
#[derive(Clone, Default)]
pub struct Table {
    pub shared: Arc<Shared>,
    coming: Vec<u8>,
    coming_at: EntryId,
}

/// Gives a piece, and then something else.
struct Moody(Mood, Cursor<Vec<u8>>);

impl SnapshotSource for Moody {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SnapshotError> {
        match self.0 {
            Mood::FailsLater if self.1.position() > 0 => Err(SnapshotError::Failed("the copy is gone".into())),
            Mood::PanicsLater if self.1.position() > 0 => panic!("the copy is gone"),
            _ => {
                // As much as it likes.
                let most = into.len().min(5_000);
                self.1.read(&mut into[..most])
            }
        }
    }
}

impl StateMachine for Table {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        let mut state = self.shared.state.lock().unwrap();
        for entry in entries {
            state.0.insert(entry.payload[0], entry.payload.to_vec());
            state.1 += 1;
            self.shared.applied.fetch_add(1, Ordering::SeqCst);
            *self.shared.at.lock().unwrap() = entry.id();
            replies.push(&state.1.to_le_bytes());
        }
        Ok(())
    }

    fn applied(&self) -> EntryId {
        if self.shared.durable.load(Ordering::SeqCst) { *self.shared.at.lock().unwrap() } else { EntryId::default() }
    }

    fn durable(&self) -> LogIndex {
        self.applied().index
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        let mood = *self.shared.mood.lock().unwrap();
        match mood {
            Mood::Refuses => return Err(SnapshotError::NotSupported),
            Mood::Fails => return Err(SnapshotError::Failed("no memory for a copy".into())),
            Mood::Panics => panic!("no memory for a copy"),
            Mood::Waits => {
                let node = self.shared.node.lock().unwrap().clone();
                drop(node.unwrap().snapshot());
            }
            Mood::Good | Mood::FailsLater | Mood::PanicsLater => {}
        }
        let state = self.shared.state.lock().unwrap();
        let mut bytes = state.1.to_le_bytes().to_vec();
        for value in state.0.values() {
            bytes.extend((value.len() as u32).to_le_bytes());
            bytes.extend(value);
        }
        let ballast = self.shared.ballast.load(Ordering::SeqCst);
        bytes.extend((ballast as u32).to_le_bytes());
        bytes.extend(std::iter::repeat_n(0xBA, ballast as usize));
        Ok(Box::new(Moody(mood, Cursor::new(bytes))))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        match part {
            Restore::Begin { index, term, bytes } => {
                self.coming_at = EntryId { index, term };
                self.coming.clear();
                self.coming.reserve(bytes as usize);
                self.shared.restored.store(index.0, Ordering::SeqCst);
            }
            Restore::Chunk(bytes) => self.coming.extend(bytes),
            Restore::End => {
                let (count, mut rest) = self.coming.split_at(8);
                let mut state = self.shared.state.lock().unwrap();
                *state = (BTreeMap::new(), u64::from_le_bytes(count.try_into().unwrap()));
                while let Some((length, more)) = rest.split_at_checked(4) {
                    let (value, more) = more.split_at(u32::from_le_bytes(length.try_into().unwrap()) as usize);
                    if !more.is_empty() {
                        state.0.insert(value[0], value.to_vec());
                    }
                    rest = more;
                }
                *self.shared.at.lock().unwrap() = self.coming_at;
            }
        }
        Ok(())
    }

    fn snapshot_bytes(&self) -> u64 {
        512 << 10
    }
}

impl Table {
    /// All that it holds, and how many entries made it so.
    pub fn state(&self) -> (BTreeMap<u8, Vec<u8>>, u64) {
        self.shared.state.lock().unwrap().clone()
    }
}

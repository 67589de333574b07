//! A machine in memory, with snapshots: the newest reading of each sensor. `cargo run --example snapshots -p kontiki`
//!
//! Its state is in memory alone. What keeps its log from growing for ever are snapshots: the engine asks for one
//! whenever the log has grown by `snapshot_log_bytes`, forgets what two of them hold, and begins the next start with
//! the newest.
#![allow(clippy::print_stdout, reason = "an example speaks to its reader")]

use std::collections::BTreeMap;
use std::sync::Arc;

use kontiki::{ApplyError, Config, Entries, Member, Node, Replies, Restore, SnapshotError, SnapshotSource, StateMachine};

/// A reading: sensor and value, as proposed.
fn reading(sensor: u32, value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    for (place, byte) in bytes.iter_mut().zip(sensor.to_le_bytes().into_iter().chain(value.to_le_bytes())) {
        *place = byte;
    }
    bytes
}

fn read(bytes: &[u8]) -> Option<(u32, u32)> {
    let (sensor, value) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*sensor), u32::from_le_bytes(value.try_into().ok()?)))
}

#[derive(Default)]
struct Newest {
    /// Shared with a snapshot that is being read, and copied if it changes meanwhile: once a snapshot, as much as is
    /// held. (A larger state lies better in many such pieces, of which only those that change are copied.)
    readings: Arc<BTreeMap<u32, u32>>,
    /// What came of a snapshot that is being taken.
    coming: Vec<u8>,
}

impl StateMachine for Newest {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            // Anybody may propose anything: what is no reading is passed over, by every replica alike.
            if let Some((sensor, value)) = read(entry.payload) {
                Arc::make_mut(&mut self.readings).insert(sensor, value);
            }
            replies.push(&(self.readings.len() as u32).to_le_bytes());
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        Ok(Box::new(View { readings: Arc::clone(&self.readings), after: None }))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        match part {
            Restore::Begin { .. } => self.coming.clear(),
            Restore::Chunk(bytes) => self.coming.extend(bytes),
            // Only now, and at once.
            Restore::End => {
                let readings = self.coming.chunks(8).map(read).collect::<Option<_>>();
                self.readings = Arc::new(readings.ok_or_else(|| ApplyError("a snapshot is whole readings".into()))?);
                self.coming = Vec::new();
            }
        }
        Ok(())
    }

    fn snapshot_bytes(&self) -> u64 {
        8 * self.readings.len() as u64
    }
}

/// The readings as they were, one after the other.
struct View {
    readings: Arc<BTreeMap<u32, u32>>,
    after: Option<u32>,
}

impl SnapshotSource for View {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SnapshotError> {
        let next = self.after.map_or(Some(0), |after| after.checked_add(1));
        let rest = next.map(|next| self.readings.range(next..));
        let mut places = into.chunks_exact_mut(8);
        let mut given = 0;
        for ((&sensor, &value), place) in rest.into_iter().flatten().zip(&mut places) {
            place.iter_mut().zip(reading(sensor, value)).for_each(|(place, byte)| *place = byte);
            (self.after, given) = (Some(sensor), given + 8);
        }
        Ok(given)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let members = vec![Member::new(1, ([127, 0, 0, 1], 0).into())];
    let config = Config::new(0x5e45, 1, members, dir.path());
    for start in 1..=2u32 {
        let node = Node::builder(config.clone()).start(Newest::default())?;
        wait_for_leader(&node);
        let mut last = None;
        for sensor in 0..20 {
            last = Some(node.propose(&reading(sensor * start, 100 * start + sensor))?);
        }
        if let Some(ticket) = last {
            let applied = ticket.wait()?;
            let sensors = u32::from_le_bytes(ticket.reply().try_into()?);
            println!("start {start}: entry {}, {sensors} sensors known", applied.index);
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

    #[test]
    fn a_snapshot_is_of_one_moment_and_comes_back() {
        let readings = (0..1000).map(|sensor| (sensor * 7, sensor)).collect();
        let mut machine = Newest { readings: Arc::new(readings), ..Newest::default() };
        let before = machine.readings.clone();
        let mut view = machine.snapshot().unwrap();
        let (mut stream, mut piece) = (Vec::new(), [0; 100]);
        while let count @ 1.. = view.read(&mut piece).unwrap() {
            stream.extend(&piece[..count]);
            Arc::make_mut(&mut machine.readings).insert(stream.len() as u32, 0);
        }
        assert_eq!(stream.len(), 8000);
        let mut other = Newest::default();
        other.restore(Restore::Begin { index: kontiki::LogIndex(9), term: kontiki::Term(1), bytes: 8000 }).unwrap();
        for chunk in stream.chunks(33) {
            other.restore(Restore::Chunk(chunk)).unwrap();
            assert!(other.readings.is_empty());
        }
        other.restore(Restore::End).unwrap();
        assert_eq!(other.readings, before);
        assert_eq!(other.snapshot_bytes(), 8000);
        other.restore(Restore::Begin { index: kontiki::LogIndex(9), term: kontiki::Term(1), bytes: 9 }).unwrap();
        other.restore(Restore::Chunk(&stream[..9])).unwrap();
        assert!(other.restore(Restore::End).is_err());
    }
}

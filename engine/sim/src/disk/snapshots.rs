//! The snapshots on a disk: what the world knows of them by itself, and what a bad disk does to them.
//!
//! * Every file that gets a snapshot's name is, byte for byte, one that some node made of its own state.
//! * Behind what a log begins with there is always a snapshot that holds it, or a state machine that does.
//! * A bad disk spoils snapshots and takes them away. A node without any needs a leader to send it one, so where the good disks are no
//!   majority, one that the log goes on from is spared; and where nothing may be lost, all are.

use std::path::Path;

use kontiki_core::LogIndex;
use kontiki_io::{Name, Op};
use kontiki_mem::BLOCK_BYTES;
use kontiki_snapshot::names;

use crate::conditions::Harm;
use crate::disk::decay::{contents, u64_at};
use crate::disk::{Disk, FileId};
use crate::world::World;
use crate::world::host::HostState;
use crate::world::op_class::OpClass;
use crate::world::trace::hash_bytes;

/// Where the second copy of the hard state lies.
const SECOND_COPY: u64 = 4 << 20;
/// Where a snapshot's head says whether it is a full one.
const FLAGS: u64 = 64 + 60;

fn dir() -> &'static Path {
    Path::new(crate::cluster::DIR)
}

fn is_of_snapshot(name: &Name) -> bool {
    name.as_str().starts_with("snapshot")
}

/// A snapshot under its name.
#[derive(Clone, Copy, Debug)]
struct Stored {
    index: u64,
    file: FileId,
}

impl Disk {
    /// A hash of all that a file holds.
    fn hash_of(&self, file: FileId) -> Option<u64> {
        contents(self, file, 0, self.length(file) as usize).map(|bytes| hash_bytes(&bytes))
    }

    fn stored(&self) -> Vec<Stored> {
        let named = |(name, file): (&Name, &FileId)| Some(Stored { index: names::index(name)?.0, file: *file });
        self.directories.get(dir()).into_iter().flat_map(|directory| directory.durable.iter().filter_map(named)).collect()
    }

    fn durable_file(&self, name: &str) -> Option<FileId> {
        let name = Name::new(name)?;
        self.directories.get(dir())?.durable.get(&name).copied()
    }

    /// The last entry before the log, as the hard state and the segment say that it names; none where one of them cannot be read, or there is no log.
    pub(crate) fn presupposes(&self) -> Option<u64> {
        let file = self.durable_file("hard-state")?;
        let copies = [0, SECOND_COPY].into_iter().filter_map(|offset| contents(self, file, offset, BLOCK_BYTES));
        let newest = copies.filter(|copy| copy.starts_with(b"KtkH")).max_by_key(|copy| u64_at(copy, 16))?;
        let number = u64_at(&newest, 96);
        let segment = self.durable_file(&format!("log-{number:016x}.seg"))?;
        let header = contents(self, segment, 0, BLOCK_BYTES)?;
        (header.starts_with(b"KtkS") && u64_at(&header, 16) == number).then(|| u64_at(&header, 56))
    }

    /// The newest entry that a full snapshot here is as of, whose name is durable: a small one has nothing of the state machine's.
    pub(crate) fn newest_snapshot(&self) -> u64 {
        let full = |stored: &Stored| contents(self, stored.file, FLAGS, 1).is_some_and(|flags| flags[0] & 1 != 0);
        self.stored().into_iter().filter(full).map(|stored| stored.index).max().unwrap_or(0)
    }

    fn name_of(&self, file: FileId) -> Option<&Name> {
        self.directories.get(dir())?.seen.iter().find(|(_, found)| **found == file).map(|(name, _)| name)
    }
}

/// What of a host's snapshots the world remembers.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// Files that were struck.
    struck: Vec<FileId>,
    /// None is left from which the log goes on.
    pub(crate) bare: bool,
    /// A file that no node made has got a snapshot's name: that of this entry.
    pub(crate) forged: Option<u64>,
    /// What the log presupposes may have changed.
    pub(crate) stirred: bool,
}

impl World {
    /// A file has a new name.
    pub(crate) fn note_renamed(&mut self, host: usize, from: &Name, to: &Name) {
        let Some(LogIndex(index)) = names::index(to) else { return };
        let state = &mut self.hosts[host];
        let Some(file) = state.disk.find(dir(), to) else { return };
        let struck = state.snapshots.struck.contains(&file);
        state.snapshots.bare &= struck;
        let Some(hash) = state.disk.hash_of(file) else { return };
        if from.as_str() == names::NEW {
            self.made.insert((index, hash));
        } else if !struck && !self.made.contains(&(index, hash)) {
            state.snapshots.forged = Some(index);
        }
    }

    /// Counts an operation on a snapshot that failed.
    pub(crate) fn note_failed(&mut self, host: usize, op: &Op, class: OpClass) {
        let of_snapshot = match op {
            Op::Open { name, .. } | Op::Unlink { name, .. } => is_of_snapshot(name),
            Op::Rename { to, .. } => is_of_snapshot(to),
            Op::Read { file, .. } | Op::Write { file, .. } | Op::Sync { file } | Op::Allocate { file, .. } => {
                let disk = &self.hosts[host].disk;
                self.file(host, *file).is_some_and(|file| disk.name_of(file).is_some_and(is_of_snapshot))
            }
            _ => false,
        };
        if of_snapshot {
            self.counts.add(match class {
                OpClass::Open => "snapshot: file not opened",
                OpClass::Unlink => "snapshot: file not removed",
                OpClass::Rename => "snapshot: file not renamed",
                OpClass::Read => "snapshot: read failed",
                OpClass::Write => "snapshot: write failed",
                OpClass::Sync => "snapshot: flush failed",
                _ => "snapshot: no space set aside",
            });
        }
    }

    /// A bit rots of a snapshot that is being read, if it may.
    pub(crate) fn rot_in_snapshot(&mut self, host: usize, file: FileId, offset: u64, length: usize) {
        let state = &mut self.hosts[host];
        if state.disk.name_of(file).is_some_and(is_of_snapshot) && may_strike(state, file) {
            let at = offset + state.disk_random.below(length as u64);
            self.spoil(host, file, at);
        }
    }

    /// A bit of a snapshot rots where it lies, if it may: of a whole one, or one in the making. False if there is none.
    pub(crate) fn rot_a_snapshot(&mut self, host: usize) -> bool {
        let Some(file) = self.victim(host, false) else { return false };
        let HostState { disk, disk_random, .. } = &mut self.hosts[host];
        let length = disk.length(file);
        if length == 0 {
            return false;
        }
        let at = disk_random.below(length);
        self.spoil(host, file, at);
        true
    }

    fn spoil(&mut self, host: usize, file: FileId, at: u64) {
        let state = &mut self.hosts[host];
        let bit = state.disk_random.below(8) as u8;
        if state.disk.flip_in(file, at, bit) {
            state.snapshots.struck.push(file);
            state.snapshots.bare |= usable(state).is_empty();
            self.record(host, "snapshot rot", at, 0, 0);
            self.counts.add("rot in a snapshot");
        }
    }

    /// A snapshot is not there any more when its node comes back, if it may be missing. False if there is none.
    pub(crate) fn lose_a_snapshot(&mut self, host: usize) -> bool {
        let Some(file) = self.victim(host, true) else { return false };
        let state = &mut self.hosts[host];
        let Some(name) = state.disk.name_of(file).cloned() else { return false };
        state.disk.remove(dir(), &name);
        state.snapshots.bare |= usable(state).is_empty();
        self.record(host, "snapshot gone", 0, 0, 0);
        self.counts.add("snapshot file gone");
        true
    }

    fn victim(&mut self, host: usize, whole: bool) -> Option<FileId> {
        let state = &mut self.hosts[host];
        let seen = state.disk.directories.get(dir())?.seen.iter();
        let of_kind = |name: &Name| is_of_snapshot(name) && (!whole || names::index(name).is_some());
        let files: Vec<FileId> = seen.filter(|(name, _)| of_kind(name)).map(|(_, file)| *file).collect();
        let files: Vec<FileId> = files.into_iter().filter(|&file| may_strike(state, file)).collect();
        state.disk_random.pick(&files).copied()
    }
}

/// Snapshots that are as they were made, and from which the log goes on.
fn usable(state: &HostState) -> Vec<FileId> {
    let Some(base) = state.disk.presupposes() else { return Vec::new() };
    let stored = state.disk.stored().into_iter();
    stored.filter(|stored| stored.index >= base && !state.snapshots.struck.contains(&stored.file)).map(|stored| stored.file).collect()
}

fn may_strike(state: &HostState, file: FileId) -> bool {
    match state.disk_conditions.snapshots {
        Harm::None => false,
        Harm::Sparing => usable(state).iter().any(|&other| other != file),
        Harm::Any => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::conditions::Conditions;

    /// A world of one host, whose log begins behind `base`, with snapshots as of these entries.
    fn world(base: u64, snapshots: &[u64], harm: Harm) -> World {
        let mut world = World::new(1, Conditions::calm());
        world.add_host();
        let mut conditions = Conditions::calm().disk;
        conditions.snapshots = harm;
        world.hosts[0].disk_conditions = conditions;
        let disk = &mut world.hosts[0].disk;
        disk.open_directory(dir(), true).unwrap();
        let block = |magic: &[u8; 4], fields: &[(usize, u64)]| {
            let mut block = vec![0; BLOCK_BYTES];
            block[..4].copy_from_slice(magic);
            fields.iter().for_each(|&(at, value)| block[at..at + 8].copy_from_slice(&value.to_le_bytes()));
            block
        };
        file(disk, "hard-state", &block(b"KtkH", &[(16, 7), (96, 3)]));
        file(disk, "log-0000000000000003.seg", &block(b"KtkS", &[(16, 3), (56, base)]));
        for &index in snapshots {
            file(disk, names::snapshot(LogIndex(index)).as_str(), &[index as u8 | 1; 8192]);
        }
        world
    }

    fn file(disk: &mut Disk, name: &str, bytes: &[u8]) -> Name {
        let name = Name::new(name).unwrap();
        let (file, _) = disk.open(dir(), &name, true).unwrap();
        disk.write(file, 0, bytes, true, &mut |_| true).unwrap();
        let covers = disk.clock();
        disk.sync_directory(dir(), covers).unwrap();
        name
    }

    fn left(world: &World) -> Vec<u64> {
        world.hosts[0].disk.stored().iter().map(|stored| stored.index).collect()
    }

    #[test]
    fn what_a_log_presupposes_is_read_from_its_disk() {
        let mut world = world(12, &[10, 20], Harm::None);
        file(&mut world.hosts[0].disk, names::snapshot(LogIndex(30)).as_str(), &[2; 8192]);
        assert_eq!((world.hosts[0].disk.presupposes(), world.hosts[0].disk.newest_snapshot()), (Some(12), 20));
        assert_eq!(Disk::new(1).presupposes(), None);
    }

    #[test]
    fn one_that_the_log_goes_on_from_is_spared() {
        let mut none = world(10, &[10, 20], Harm::None);
        assert!(!none.lose_a_snapshot(0) && !none.rot_a_snapshot(0));
        let mut sparing = world(10, &[10, 20], Harm::Sparing);
        assert!(sparing.lose_a_snapshot(0) && !sparing.lose_a_snapshot(0) && !sparing.rot_a_snapshot(0));
        assert_eq!((left(&sparing).len(), sparing.hosts[0].snapshots.bare), (1, false));
        let mut rebased = world(15, &[10, 20], Harm::Sparing);
        assert!(rebased.lose_a_snapshot(0) && !rebased.lose_a_snapshot(0));
        assert_eq!(left(&rebased), [20]);
        let mut any = world(10, &[10, 20], Harm::Any);
        while any.lose_a_snapshot(0) {}
        assert!(left(&any).is_empty() && any.hosts[0].snapshots.bare);
    }

    #[test]
    fn one_that_rotted_spares_no_other() {
        let mut world = world(10, &[20], Harm::Any);
        assert!(world.rot_a_snapshot(0) && world.hosts[0].snapshots.bare);
        let name = file(&mut world.hosts[0].disk, "snapshot-0000000000000030.ksn", &[1; 8192]);
        world.note_renamed(0, &Name::new(names::NEW).unwrap(), &name);
        assert!(!world.hosts[0].snapshots.bare, "there is another");
        assert_eq!(usable(&world.hosts[0]).len(), 1);
    }

    #[test]
    fn a_file_that_no_node_made_so_is_noticed() {
        let mut world = world(10, &[], Harm::None);
        let (new, part) = (Name::new(names::NEW).unwrap(), Name::new(names::PART).unwrap());
        for (index, from, byte, forged) in [(20, &new, 5, None), (20, &part, 5, None), (20, &part, 6, Some(20)), (21, &part, 5, Some(21))] {
            let name = names::snapshot(LogIndex(index));
            world.hosts[0].disk.remove(dir(), &name);
            file(&mut world.hosts[0].disk, name.as_str(), &[byte; 8192]);
            world.note_renamed(0, from, &name);
            assert_eq!(world.hosts[0].snapshots.forged.take(), forged, "{index} {from} {byte}");
        }
    }
}

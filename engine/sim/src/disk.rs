//! One disk and the file system on it: what programs see, and what would survive a power cut.
//!
//! The two differ until something is flushed. File contents differ by sectors, directory entries by changes
//! (create, rename, unlink), files by their length. A power cut decides each difference on its own, which is the
//! worst that the guarantees of POSIX allow; what `Sync`, `SyncDir` and durable writes promise is never undone.

pub(crate) mod decay;
pub(crate) mod inode;
mod late_writes;
pub(crate) mod snapshots;
pub(crate) mod storage;
mod tamper;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kontiki_io::{IoErrorKind, Name};
use kontiki_mem::BLOCK_BYTES;

use crate::disk::inode::{Inode, KnownBlocks};
use crate::world::trace::hash_bytes;

/// Names a file, whatever its directory entries say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId(pub(crate) u64);

/// One thing a power cut decides: does it reach the medium, or is it lost?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unflushed {
    /// A written sector that no flush has covered.
    Sector {
        /// Offset of the sector in its file, in bytes.
        offset: u64,
    },
    /// A file's new length.
    Length {
        /// The new length in bytes.
        bytes: u64,
    },
    /// A change of a directory.
    Entry {
        /// The entry that was made, renamed or removed (its new name).
        name: Name,
    },
}

#[derive(Clone, Debug)]
enum Change {
    Link { name: Name, file: FileId },
    Rename { from: Name, to: Name, file: FileId },
    Unlink { name: Name },
}

#[derive(Clone, Debug, Default)]
struct Directory {
    seen: BTreeMap<Name, FileId>,
    durable: BTreeMap<Name, FileId>,
    /// What was done to `seen` since, in order, each with when it was done.
    changes: Vec<(u64, Change)>,
}

impl Directory {
    fn change(&mut self, now: u64, change: Change) {
        apply(&mut self.seen, &change);
        self.changes.push((now, change));
    }
}

fn apply(entries: &mut BTreeMap<Name, FileId>, change: &Change) {
    match change {
        Change::Link { name, file } => {
            entries.insert(name.clone(), *file);
        }
        Change::Rename { from, to, file } => {
            if entries.get(from) == Some(file) {
                entries.remove(from);
            }
            entries.insert(to.clone(), *file);
        }
        Change::Unlink { name } => {
            entries.remove(name);
        }
    }
}

/// One host's disk. A clone is a copy of the medium with its caches: the state a crash-point enumeration branches from.
#[derive(Clone, Debug)]
pub struct Disk {
    directories: BTreeMap<PathBuf, Directory>,
    files: BTreeMap<FileId, Inode>,
    next_file: u64,
    /// Counts changes: what a flush that began at some count covers.
    clock: u64,
    capacity_bytes: u64,
    /// Power cuts so far: the machine of a disk that was cut starts anew.
    cuts: u64,
    /// How often the medium was changed: pulled and put back, rolled back, put in from elsewhere.
    changes: u64,
}

type Done<T> = Result<T, IoErrorKind>;

impl Disk {
    /// An empty disk for files of `capacity_bytes` in all.
    pub fn new(capacity_bytes: u64) -> Disk {
        Disk { directories: BTreeMap::new(), files: BTreeMap::new(), next_file: 0, clock: 0, capacity_bytes, cuts: 0, changes: 0 }
    }

    /// Sets what files may take up in all, in bytes.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// From now on this counts as another medium, with the same contents.
    pub fn change_medium(&mut self) {
        self.changes += 1;
    }

    /// What [`Disk::cut`] did was no power cut: the machine runs on, and the medium was pulled out and put back.
    pub(crate) fn was_pulled(&mut self) {
        self.cuts -= 1;
        self.changes += 1;
    }

    /// Comes into the place of `before`, as another medium.
    pub(crate) fn replaces(&mut self, before: &Disk) {
        self.changes = self.changes.max(before.changes) + 1;
    }

    /// Power cuts, and changes of the medium, so far.
    pub(crate) fn past(&self) -> (u64, u64) {
        (self.cuts, self.changes)
    }

    /// Bytes that files take up, by their lengths as seen. One that has no name any more takes up none.
    pub fn used_bytes(&self) -> u64 {
        let named = self.directories.values().flat_map(|directory| directory.seen.values());
        named.filter_map(|file| self.files.get(file)).map(Inode::length).sum()
    }

    /// How much is left, in bytes.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes())
    }

    /// Length of a file in bytes, as seen; zero if it is not there.
    pub(crate) fn length(&self, file: FileId) -> u64 {
        self.files.get(&file).map_or(0, Inode::length)
    }

    /// Changes so far: a flush covers what was done before it began.
    pub(crate) fn clock(&self) -> u64 {
        self.clock
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(crate) fn open_directory(&mut self, path: &Path, create: bool) -> Done<()> {
        if !self.directories.contains_key(path) {
            if !create {
                return Err(IoErrorKind::NotFound);
            }
            self.directories.insert(path.to_path_buf(), Directory::default());
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path) -> Done<&mut Directory> {
        self.directories.get_mut(path).ok_or(IoErrorKind::NotFound)
    }

    pub(crate) fn list(&mut self, path: &Path) -> Done<Vec<(Name, u64)>> {
        let seen = self.directory(path)?.seen.clone();
        Ok(seen.into_iter().map(|(name, id)| (name, self.files.get(&id).map_or(0, Inode::length))).collect())
    }

    pub(crate) fn open(&mut self, path: &Path, name: &Name, create: bool) -> Done<(FileId, u64)> {
        let now = self.tick();
        let id = FileId(self.next_file);
        let directory = self.directory(path)?;
        match (directory.seen.get(name).copied(), create) {
            (Some(_), true) => Err(IoErrorKind::Exists),
            (None, false) => Err(IoErrorKind::NotFound),
            (Some(found), false) => Ok((found, self.files.get(&found).map_or(0, Inode::length))),
            (None, true) => {
                directory.change(now, Change::Link { name: name.clone(), file: id });
                self.next_file += 1;
                self.files.insert(id, Inode::default());
                Ok((id, 0))
            }
        }
    }

    /// The file of a name, as programs see it.
    pub(crate) fn find(&self, path: &Path, name: &Name) -> Option<FileId> {
        self.directories.get(path)?.seen.get(name).copied()
    }

    pub(crate) fn rename(&mut self, path: &Path, from: &Name, to: &Name) -> Done<()> {
        let now = self.tick();
        let directory = self.directory(path)?;
        let file = directory.seen.get(from).copied().ok_or(IoErrorKind::NotFound)?;
        if from != to {
            directory.change(now, Change::Rename { from: from.clone(), to: to.clone(), file });
        }
        Ok(())
    }

    pub(crate) fn unlink(&mut self, path: &Path, name: &Name) -> Done<()> {
        let now = self.tick();
        let directory = self.directory(path)?;
        if !directory.seen.contains_key(name) {
            return Err(IoErrorKind::NotFound);
        }
        directory.change(now, Change::Unlink { name: name.clone() });
        Ok(())
    }

    /// Makes every directory change up to `covers` durable.
    pub(crate) fn sync_directory(&mut self, path: &Path, covers: u64) -> Done<()> {
        let directory = self.directory(path)?;
        let covered = directory.changes.partition_point(|(at, _)| *at <= covers);
        for (_, change) in directory.changes.drain(..covered) {
            apply(&mut directory.durable, &change);
        }
        Ok(())
    }

    pub(crate) fn allocate(&mut self, file: FileId, length: u64) -> Done<()> {
        let now = self.tick();
        self.reserve(file, length)?;
        self.inode(file)?.set_length(length, now);
        Ok(())
    }

    /// Whether `file` may be `length` bytes long.
    fn reserve(&mut self, file: FileId, length: u64) -> Done<()> {
        let grows = length.saturating_sub(self.inode(file)?.length());
        if grows > 0 && self.used_bytes().saturating_add(grows) > self.capacity_bytes {
            return Err(IoErrorKind::Full);
        }
        Ok(())
    }

    fn inode(&mut self, file: FileId) -> Done<&mut Inode> {
        self.files.get_mut(&file).ok_or(IoErrorKind::NotFound)
    }

    /// Reads what a program sees; returns how much there was before the end of the file.
    pub(crate) fn read(&self, file: FileId, offset: u64, into: &mut [u8]) -> Done<usize> {
        Ok(self.files.get(&file).ok_or(IoErrorKind::NotFound)?.read(offset, into))
    }

    /// Writes those sectors of `data` that `reaches` names (by their number within the write), for now or for good.
    pub(crate) fn write(
        &mut self,
        file: FileId,
        offset: u64,
        data: &[u8],
        durable: bool,
        reaches: &mut dyn FnMut(usize) -> bool,
    ) -> Done<()> {
        let now = self.tick();
        self.reserve(file, offset.saturating_add(data.len() as u64))?;
        self.inode(file)?.write(offset, data, durable, now, reaches);
        Ok(())
    }

    /// Makes every write and the length of `file` as they stood at `covers` durable.
    pub(crate) fn sync(&mut self, file: FileId, covers: u64) -> Done<()> {
        self.inode(file)?.sync(covers);
        Ok(())
    }

    /// A flush that failed: `reaches` says of each unflushed sector whether it got to the medium. The rest stays visible,
    /// but no later flush knows of it (as Linux marks such pages clean).
    pub(crate) fn fail_sync(&mut self, file: FileId, reaches: &mut dyn FnMut() -> bool) -> Done<()> {
        self.inode(file)?.fail_sync(reaches);
        Ok(())
    }

    /// Cuts the power. `kept` decides for each unflushed thing whether it reached the medium; the choices come in a
    /// fixed order, so that an enumeration can count through them.
    pub fn cut(&mut self, kept: &mut dyn FnMut(Unflushed) -> bool) {
        self.cuts += 1;
        for directory in self.directories.values_mut() {
            for (_, change) in std::mem::take(&mut directory.changes) {
                let (Change::Link { name, .. } | Change::Rename { to: name, .. } | Change::Unlink { name }) = &change;
                if kept(Unflushed::Entry { name: name.clone() }) {
                    apply(&mut directory.durable, &change);
                }
            }
            directory.seen = directory.durable.clone();
        }
        self.collect();
        for inode in self.files.values_mut() {
            inode.cut(kept);
        }
    }

    /// Everything a power cut would decide now, in the order in which [`Disk::cut`] asks.
    pub fn unflushed(&self) -> Vec<Unflushed> {
        let mut found = Vec::new();
        self.clone().cut(&mut |choice| {
            found.push(choice);
            // Kept, so that the contents of files with unflushed names are asked for as well.
            true
        });
        found
    }

    /// Forgets that something is unflushed where the medium holds the same: a power cut decides nothing there.
    pub(crate) fn settle(&mut self) {
        self.files.values_mut().for_each(Inode::settle);
    }

    /// Of the `nth` unflushed sector, in the order of [`Disk::unflushed`], only the first half is ever going to reach the medium.
    /// False if there are not so many.
    pub(crate) fn tear(&mut self, mut nth: usize) -> bool {
        self.files.values_mut().any(|inode| inode.tear(&mut nth))
    }

    /// A hash of all that is on the medium, by names: equal disks have equal ones.
    pub(crate) fn fingerprint(&self, known: &KnownBlocks) -> u64 {
        let mut bytes = Vec::new();
        for (path, directory) in &self.directories {
            bytes.extend(hash_bytes(path.as_os_str().as_encoded_bytes()).to_le_bytes());
            for (name, file) in &directory.durable {
                bytes.extend(hash_bytes(name.as_str().as_bytes()).to_le_bytes());
                if let Some(inode) = self.files.get(file) {
                    inode.fingerprint(known, &mut bytes);
                }
            }
        }
        hash_bytes(&bytes)
    }

    /// Hashes the blocks on the medium once, for fingerprints of disks that share them.
    pub(crate) fn remember(&self, known: &mut KnownBlocks) {
        self.files.values().for_each(|inode| inode.remember(known));
    }

    /// Forgets files that no directory names, now or after a power cut. Not while such a file may be open.
    pub(crate) fn collect(&mut self) {
        let mut named: Vec<FileId> = Vec::new();
        for directory in self.directories.values() {
            named.extend(directory.seen.values().chain(directory.durable.values()));
            named.extend(directory.changes.iter().filter_map(|(_, change)| match change {
                Change::Link { file, .. } | Change::Rename { file, .. } => Some(*file),
                Change::Unlink { .. } => None,
            }));
        }
        named.sort_unstable();
        self.files.retain(|id, _| named.binary_search(id).is_ok());
    }

    /// Flips one bit of a file, in what programs see and on the medium. False if the file is not there or shorter.
    pub fn flip(&mut self, path: &Path, name: &Name, offset: u64, bit: u8) -> bool {
        let found = self.find(path, name);
        found.is_some_and(|id| self.flip_in(id, offset, bit))
    }

    pub(crate) fn flip_in(&mut self, file: FileId, offset: u64, bit: u8) -> bool {
        self.files.get_mut(&file).is_some_and(|inode| inode.flip(offset, bit))
    }

    /// Takes a name away, for good.
    pub(crate) fn remove(&mut self, path: &Path, name: &Name) {
        if let Some(directory) = self.directories.get_mut(path) {
            directory.seen.remove(name);
            directory.durable.remove(name);
        }
        self.collect();
    }

    /// Exchanges two names, for good. Not while the directory has changes that are not flushed.
    pub(crate) fn swap(&mut self, path: &Path, one: &Name, other: &Name) {
        let Some(directory) = self.directories.get_mut(path) else { return };
        for entries in [&mut directory.seen, &mut directory.durable] {
            if let (Some(a), Some(b)) = (entries.get(one).copied(), entries.get(other).copied()) {
                entries.insert(one.clone(), b);
                entries.insert(other.clone(), a);
            }
        }
    }

    /// Makes one file what another is.
    pub(crate) fn copy_over(&mut self, file: FileId, from: FileId) {
        if let Some(inode) = self.files.get(&from).cloned() {
            self.files.insert(file, inode);
        }
    }

    /// Makes a file what the file of the same name was on an older disk. False if that makes no difference, or there was none.
    pub(crate) fn roll_back(&mut self, path: &Path, name: &Name, file: FileId, older: &Disk) -> bool {
        let Some(old) = older.find(path, name).and_then(|old| older.files.get(&old)) else { return false };
        let known = KnownBlocks::default();
        let print = |inode: &Inode| {
            let mut bytes = Vec::new();
            inode.fingerprint(&known, &mut bytes);
            hash_bytes(&bytes)
        };
        let differs = self.files.get(&file).is_some_and(|now| print(now) != print(old));
        if differs {
            self.files.insert(file, old.clone());
        }
        differs
    }

    /// Overwrites part of a file on the medium, as an erase group that lost its charge would.
    pub(crate) fn garble(&mut self, file: FileId, offset: u64, bytes: u64, random: &mut dyn FnMut() -> u64) {
        let end = offset.saturating_add(bytes);
        let mut at = offset;
        while at < end {
            let mut block = [0u8; BLOCK_BYTES];
            for word in block.as_chunks_mut::<8>().0 {
                *word = random().to_le_bytes();
            }
            let length = (end - at).min(BLOCK_BYTES as u64) as usize;
            if let (Some(inode), Some(garbage)) = (self.files.get_mut(&file), block.get(..length)) {
                inode.write(at, garbage, true, self.clock, &mut |_| true);
            }
            at += length as u64;
        }
    }
}

#[cfg(test)]
mod tests;

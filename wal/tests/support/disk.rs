//! A disk in memory that remembers what was flushed, by sectors of 512 bytes.

use std::collections::BTreeMap;

use kontiki_io::{IoErrorKind, Name};

pub const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];

#[derive(Clone, Debug, Default)]
struct File {
    len: u64,
    durable_len: u64,
    /// Sectors that are not all zeros: what programs see, and where the medium differs from that (`None`: zeros there).
    seen: BTreeMap<u64, Sector>,
    older: BTreeMap<u64, Option<Sector>>,
}

#[derive(Clone, Debug)]
enum Change {
    Link(Name, usize),
    Rename(Name, Name),
    Unlink(Name),
}

fn apply(entries: &mut BTreeMap<Name, usize>, change: &Change) {
    match change {
        Change::Link(name, file) => {
            entries.insert(name.clone(), *file);
        }
        Change::Rename(from, to) => {
            if let Some(file) = entries.remove(from) {
                entries.insert(to.clone(), file);
            }
        }
        Change::Unlink(name) => {
            entries.remove(name);
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: Vec<File>,
    seen: BTreeMap<Name, usize>,
    durable: BTreeMap<Name, usize>,
    changes: Vec<Change>,
    pub capacity: Option<u64>,
    /// Boot and place; unknown if a test does not say.
    pub identity: kontiki_io::Identity,
}

impl Disk {
    /// The same, where a start finds this identity.
    pub fn at(mut self, identity: kontiki_io::Identity) -> Disk {
        self.identity = identity;
        self
    }

    pub fn list(&self) -> Vec<(Name, u64)> {
        self.seen.iter().map(|(name, &file)| (name.clone(), self.files[file].len)).collect()
    }

    pub fn open(&mut self, name: &Name, create: bool) -> Result<(usize, u64), IoErrorKind> {
        match (self.seen.get(name), create) {
            (Some(_), true) => Err(IoErrorKind::Exists),
            (None, false) => Err(IoErrorKind::NotFound),
            (Some(&file), false) => Ok((file, self.files[file].len)),
            (None, true) => {
                let file = self.files.len();
                self.files.push(File::default());
                self.change(Change::Link(name.clone(), file));
                Ok((file, 0))
            }
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.changes.push(change);
    }

    pub fn rename(&mut self, from: &Name, to: &Name) -> Result<(), IoErrorKind> {
        if !self.seen.contains_key(from) {
            return Err(IoErrorKind::NotFound);
        }
        self.change(Change::Rename(from.clone(), to.clone()));
        Ok(())
    }

    pub fn unlink(&mut self, name: &Name) -> Result<(), IoErrorKind> {
        if !self.seen.contains_key(name) {
            return Err(IoErrorKind::NotFound);
        }
        self.change(Change::Unlink(name.clone()));
        Ok(())
    }

    pub fn sync_dir(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            apply(&mut self.durable, &change);
        }
    }

    pub fn allocate(&mut self, file: usize, len: u64) -> Result<(), IoErrorKind> {
        let used: u64 = self.seen.values().map(|&other| if other == file { len } else { self.files[other].len }).sum();
        if self.capacity.is_some_and(|capacity| used > capacity) {
            return Err(IoErrorKind::Full);
        }
        self.files[file].len = len;
        Ok(())
    }

    pub fn read(&self, file: usize, offset: u64, into: &mut [u8]) -> usize {
        let file = &self.files[file];
        let len = (file.len.saturating_sub(offset)).min(into.len() as u64) as usize;
        for (n, chunk) in into[..len].chunks_mut(SECTOR as usize).enumerate() {
            match file.seen.get(&(offset / SECTOR + n as u64)) {
                Some(sector) => chunk.copy_from_slice(&sector[..chunk.len()]),
                None => chunk.fill(0),
            }
        }
        len
    }

    /// Writes the sectors that `reaches` names by their place in the write.
    pub fn write(&mut self, file: usize, offset: u64, data: &[u8], durable: bool, reaches: &mut dyn FnMut(u64) -> bool) {
        assert!(offset.is_multiple_of(4096) && data.len().is_multiple_of(4096), "direct writes are aligned");
        let file = &mut self.files[file];
        assert!(offset + data.len() as u64 <= file.len, "a write does not grow a file");
        for (n, chunk) in data.chunks_exact(SECTOR as usize).enumerate() {
            if !reaches(n as u64) {
                continue;
            }
            let at = offset / SECTOR + n as u64;
            let sector: Sector = chunk.try_into().unwrap();
            let before = if sector == [0; SECTOR as usize] { file.seen.remove(&at) } else { file.seen.insert(at, sector) };
            if durable {
                file.older.remove(&at);
            } else {
                file.older.entry(at).or_insert(before);
            }
        }
    }

    pub fn sync(&mut self, file: usize) {
        let file = &mut self.files[file];
        file.older.clear();
        file.durable_len = file.len;
    }

    /// The power fails: `kept` says of each unflushed thing whether it reached the medium.
    pub fn cut(&mut self, kept: &mut dyn FnMut() -> bool) {
        for change in std::mem::take(&mut self.changes) {
            if kept() {
                apply(&mut self.durable, &change);
            }
        }
        self.seen = self.durable.clone();
        for file in &mut self.files {
            for (at, older) in std::mem::take(&mut file.older) {
                if !kept() {
                    match older {
                        Some(sector) => file.seen.insert(at, sector),
                        None => file.seen.remove(&at),
                    };
                }
            }
            if file.durable_len != file.len && !kept() {
                file.len = file.durable_len;
                let end = file.len / SECTOR;
                file.seen.retain(|&at, _| at < end);
            }
            file.durable_len = file.len;
        }
    }

    fn find(&self, name: &str) -> usize {
        self.seen[&Name::new(name).unwrap()]
    }

    pub fn len(&self, name: &str) -> u64 {
        self.files[self.find(name)].len
    }

    /// Contents of a whole file.
    pub fn contents(&self, name: &str) -> Vec<u8> {
        let mut bytes = vec![0; self.len(name) as usize];
        self.read(self.find(name), 0, &mut bytes);
        bytes
    }

    /// Changes bytes on the medium behind everybody's back.
    pub fn patch(&mut self, name: &str, offset: u64, change: impl FnOnce(&mut [u8])) {
        let file = self.find(name);
        let start = offset / 4096 * 4096;
        let mut bytes = vec![0; 8192.min((self.files[file].len - start) as usize)];
        self.read(file, start, &mut bytes);
        change(&mut bytes[(offset - start) as usize..]);
        self.write(file, start, &bytes, true, &mut |_| true);
    }

    pub fn flip(&mut self, name: &str, offset: u64, bit: u8) {
        self.patch(name, offset, |bytes| bytes[0] ^= 1 << bit);
    }

    /// The file ends at `len`, a multiple of the sector.
    pub fn truncate(&mut self, name: &str, len: u64) {
        let at = self.find(name);
        let file = &mut self.files[at];
        (file.len, file.durable_len) = (len, len);
        file.seen.retain(|sector, _| sector * SECTOR < len);
        file.older.retain(|sector, _| sector * SECTOR < len);
    }

    pub fn remove(&mut self, name: &str) {
        self.unlink(&Name::new(name).unwrap()).unwrap();
        self.sync_dir();
    }

    pub fn names(&self) -> Vec<String> {
        self.seen.keys().map(|name| name.as_str().to_owned()).collect()
    }
}

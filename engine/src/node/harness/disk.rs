//! A disk in memory. What is written is durable: what a power cut leaves is the log's and the simulator's concern.

use std::collections::BTreeMap;

use kontiki_io::{IoErrorKind, Name};

#[derive(Debug, Default)]
pub(super) struct Disk {
    files: Vec<Vec<u8>>,
    names: BTreeMap<Name, usize>,
    /// Nothing more can be allocated, for this reason.
    pub(super) lacks: Option<IoErrorKind>,
}

impl Disk {
    pub(super) fn list(&self) -> Vec<(Name, u64)> {
        self.names.iter().map(|(name, &file)| (name.clone(), self.files[file].len() as u64)).collect()
    }

    /// A file and its length in bytes.
    pub(super) fn open(&mut self, name: &Name, create: bool) -> Result<(usize, u64), IoErrorKind> {
        match (self.names.get(name), create) {
            (Some(_), true) => Err(IoErrorKind::Exists),
            (None, false) => Err(IoErrorKind::NotFound),
            (Some(&file), false) => Ok((file, self.files[file].len() as u64)),
            (None, true) => {
                self.files.push(Vec::new());
                self.names.insert(name.clone(), self.files.len() - 1);
                Ok((self.files.len() - 1, 0))
            }
        }
    }

    pub(super) fn allocate(&mut self, file: usize, len: u64) -> Result<(), IoErrorKind> {
        if let Some(kind) = self.lacks.filter(|_| len > self.files[file].len() as u64) {
            return Err(kind);
        }
        self.files[file].resize(len as usize, 0);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Name, to: &Name) -> Result<(), IoErrorKind> {
        let file = self.names.remove(from).ok_or(IoErrorKind::NotFound)?;
        self.names.insert(to.clone(), file);
        Ok(())
    }

    pub(super) fn unlink(&mut self, name: &Name) -> Result<(), IoErrorKind> {
        self.names.remove(name).map(|_| ()).ok_or(IoErrorKind::NotFound)
    }

    /// What stands at an offset of a file, as far as it goes.
    pub(super) fn at(&self, file: usize, offset: u64, len: usize) -> &[u8] {
        let bytes = self.files[file].get(offset as usize..).unwrap_or_default();
        &bytes[..len.min(bytes.len())]
    }

    pub(super) fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) {
        let end = offset as usize + bytes.len();
        if self.files[file].len() < end {
            self.files[file].resize(end, 0);
        }
        self.files[file][offset as usize..end].copy_from_slice(bytes);
    }

    /// Flips a bit of a file. False if there is none there.
    pub(super) fn spoil(&mut self, name: &Name, at: usize) -> bool {
        let byte = self.names.get(name).and_then(|&file| self.files[file].get_mut(at));
        byte.map(|byte| *byte ^= 1).is_some()
    }

    /// Flips a bit of every copy of the bytes in the segments that `is_it` picks, block by block.
    pub(super) fn rot(&mut self, is_it: impl Fn(&[u8]) -> bool) -> usize {
        let mut hit = 0;
        for (name, &file) in &self.names {
            if kontiki_wal::names::segment_number(name).is_none() {
                continue;
            }
            for block in self.files[file].chunks_mut(kontiki_mem::BLOCK_BYTES) {
                if is_it(block) {
                    block[kontiki_frame::BODY_OFFSET] ^= 1;
                    hit += 1;
                }
            }
        }
        hit
    }
}

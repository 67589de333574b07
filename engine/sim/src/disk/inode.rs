//! One file: what programs see of it and what is on the medium, sector by sector.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kontiki_mem::BLOCK_BYTES;

use crate::disk::Unflushed;
use crate::limits::{SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::world::trace::hash_bytes;

/// Shared among the copies of a disk until one of them is written.
type Bytes = Arc<[u8; BLOCK_BYTES]>;

/// A block that reads as zeros everywhere is not kept at all.
#[derive(Clone, Debug, Default)]
struct FileBlock {
    /// On the medium; `None` is zeros.
    durable: Option<Bytes>,
    /// As programs see it, where that differs; boxed in `Cached`, since few blocks have it.
    cached: Option<Box<Cached>>,
}

#[derive(Clone, Debug)]
struct Cached {
    bytes: [u8; BLOCK_BYTES],
    /// Sectors that a flush would write, one a bit.
    dirty: u8,
    /// Sectors that differ from the medium and that no flush will write: a flush of them failed.
    lost: u8,
    /// When each dirty sector was written.
    since: [u64; SECTORS_PER_BLOCK],
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    length: u64,
    length_since: u64,
    durable_length: u64,
    blocks: BTreeMap<u64, FileBlock>,
}

/// Hashes of blocks, which are kept alive here so that no other comes to lie where they are.
#[derive(Debug, Default)]
pub(crate) struct KnownBlocks(HashMap<*const [u8; BLOCK_BYTES], (Bytes, u64)>);

const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

impl FileBlock {
    fn medium(&self) -> &[u8; BLOCK_BYTES] {
        self.durable.as_deref().unwrap_or(&ZEROS)
    }

    fn seen(&self) -> &[u8; BLOCK_BYTES] {
        self.cached.as_ref().map_or(self.medium(), |cached| &cached.bytes)
    }

    fn medium_mut(&mut self) -> &mut [u8; BLOCK_BYTES] {
        Arc::make_mut(self.durable.get_or_insert_with(|| Arc::new(ZEROS)))
    }

    fn cached_mut(&mut self) -> &mut Cached {
        let FileBlock { durable, cached } = self;
        cached.get_or_insert_with(|| {
            let bytes = durable.as_deref().copied().unwrap_or(ZEROS);
            Box::new(Cached { bytes, dirty: 0, lost: 0, since: [0; SECTORS_PER_BLOCK] })
        })
    }

    /// A cached sector reaches the medium.
    fn flush(&mut self, sector: usize) {
        let Some(mut cached) = self.cached.take() else { return };
        copy_sector(self.medium_mut(), &cached.bytes, sector);
        cached.dirty &= !(1 << sector);
        cached.lost &= !(1 << sector);
        self.cached = Some(cached);
    }

    /// Drops what need not be kept; false if nothing is left.
    fn tidy(&mut self) -> bool {
        if self.cached.as_ref().is_some_and(|cached| cached.dirty | cached.lost == 0) {
            self.cached = None;
        }
        if self.durable.as_deref() == Some(&ZEROS) {
            self.durable = None;
        }
        self.durable.is_some() || self.cached.is_some()
    }
}

fn sector_range(sector: usize) -> core::ops::Range<usize> {
    sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES
}

fn copy_sector(to: &mut [u8; BLOCK_BYTES], from: &[u8; BLOCK_BYTES], sector: usize) {
    to[sector_range(sector)].copy_from_slice(&from[sector_range(sector)]);
}

fn bits(mask: u8) -> impl Iterator<Item = usize> {
    (0..SECTORS_PER_BLOCK).filter(move |sector| mask & (1 << sector) != 0)
}

impl Inode {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn set_length(&mut self, length: u64, now: u64) {
        // A flush under way that promised an earlier length covers this one as well.
        if self.length == self.durable_length {
            self.length_since = now;
        }
        if length < self.length {
            self.erase_from(length, now);
        }
        self.length = length;
    }

    /// What is cut off reads as zeros should the file grow again; until a flush, what was there may come back by sectors.
    fn erase_from(&mut self, length: u64, now: u64) {
        for (number, block) in self.blocks.range_mut(length / BLOCK_BYTES as u64..) {
            let kept = length.saturating_sub(number * BLOCK_BYTES as u64) as usize;
            let cached = block.cached_mut();
            for at in kept..BLOCK_BYTES {
                cached.bytes[at] = 0;
            }
            for sector in kept / SECTOR_BYTES..SECTORS_PER_BLOCK {
                if cached.dirty & (1 << sector) == 0 {
                    cached.since[sector] = now;
                }
                cached.dirty |= 1 << sector;
                cached.lost &= !(1 << sector);
            }
        }
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let there = self.length.saturating_sub(offset).min(into.len() as u64) as usize;
        let mut done = 0;
        while done < there {
            let at = offset + done as u64;
            let (number, within) = (at / BLOCK_BYTES as u64, (at % BLOCK_BYTES as u64) as usize);
            let take = (BLOCK_BYTES - within).min(there - done);
            let block = self.blocks.get(&number).map_or(&ZEROS, FileBlock::seen);
            into[done..done + take].copy_from_slice(&block[within..within + take]);
            done += take;
        }
        there
    }

    /// `data` starts and ends on sector boundaries.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], durable: bool, now: u64, reaches: &mut dyn FnMut(usize) -> bool) {
        assert!(offset.is_multiple_of(SECTOR_BYTES as u64), "a write at {offset} is not aligned to sectors");
        assert!(data.len().is_multiple_of(SECTOR_BYTES), "a write of {} bytes is not whole sectors", data.len());
        let first = offset / SECTOR_BYTES as u64;
        for (n, bytes) in data.chunks_exact(SECTOR_BYTES).enumerate() {
            if !reaches(n) {
                continue;
            }
            let at = first + n as u64;
            let (number, sector) = (at / SECTORS_PER_BLOCK as u64, (at % SECTORS_PER_BLOCK as u64) as usize);
            let block = self.blocks.entry(number).or_default();
            if durable {
                block.medium_mut()[sector_range(sector)].copy_from_slice(bytes);
                if let Some(cached) = &mut block.cached {
                    cached.bytes[sector_range(sector)].copy_from_slice(bytes);
                    cached.dirty &= !(1 << sector);
                    cached.lost &= !(1 << sector);
                }
            } else {
                // Of a version that stood here unflushed, either nothing is left, or it went to the medium before: a
                // disk is free to do both. A flush under way that promised it covers the new version as well.
                let overwrites = block.cached.as_ref().is_some_and(|cached| cached.dirty & (1 << sector) != 0);
                let flushed_before = overwrites && (now ^ at) & 1 == 0;
                if flushed_before {
                    block.flush(sector);
                }
                let cached = block.cached_mut();
                if !overwrites || flushed_before {
                    cached.since[sector] = now;
                }
                cached.bytes[sector_range(sector)].copy_from_slice(bytes);
                cached.dirty |= 1 << sector;
                cached.lost &= !(1 << sector);
            }
            let last_of_block = sector + 1 == SECTORS_PER_BLOCK || (n + 1) * SECTOR_BYTES == data.len();
            if durable && last_of_block && !block.tidy() {
                self.blocks.remove(&number);
            }
        }
        let end = offset + data.len() as u64;
        if end > self.length {
            self.set_length(end, now);
        }
        if durable {
            self.durable_length = self.durable_length.max(end);
        }
    }

    pub(crate) fn sync(&mut self, covers: u64) {
        if self.length_since <= covers {
            self.durable_length = self.length;
        }
        self.blocks.retain(|_, block| {
            let dirty = block.cached.as_ref().map_or(0, |cached| cached.dirty);
            for sector in bits(dirty) {
                if block.cached.as_ref().is_some_and(|cached| cached.since[sector] <= covers) {
                    block.flush(sector);
                }
            }
            block.tidy()
        });
    }

    pub(crate) fn fail_sync(&mut self, reaches: &mut dyn FnMut() -> bool) {
        self.blocks.retain(|_, block| {
            let dirty = block.cached.as_ref().map_or(0, |cached| cached.dirty);
            for sector in bits(dirty) {
                if reaches() {
                    block.flush(sector);
                } else if let Some(cached) = &mut block.cached {
                    cached.dirty &= !(1 << sector);
                    cached.lost |= 1 << sector;
                }
            }
            block.tidy()
        });
    }

    pub(crate) fn cut(&mut self, kept: &mut dyn FnMut(Unflushed) -> bool) {
        if self.length != self.durable_length && kept(Unflushed::Length { bytes: self.length }) {
            self.durable_length = self.length;
        }
        self.length = self.durable_length;
        self.length_since = 0;
        self.blocks.retain(|number, block| {
            let dirty = block.cached.as_ref().map_or(0, |cached| cached.dirty);
            for sector in bits(dirty) {
                let offset = number * BLOCK_BYTES as u64 + (sector * SECTOR_BYTES) as u64;
                if kept(Unflushed::Sector { offset }) {
                    block.flush(sector);
                }
            }
            block.cached = None;
            block.tidy()
        });
    }

    /// Forgets that sectors are unflushed if the medium holds the same.
    pub(crate) fn settle(&mut self) {
        self.blocks.retain(|_, block| {
            let FileBlock { durable, cached } = block;
            if let Some(cached) = cached {
                let medium = durable.as_deref().unwrap_or(&ZEROS);
                for sector in bits(cached.dirty) {
                    if medium[sector_range(sector)] == cached.bytes[sector_range(sector)] {
                        cached.dirty &= !(1 << sector);
                    }
                }
            }
            block.tidy()
        });
    }

    /// Of the `nth` unflushed sector, counted on in `nth` from file to file, only the first half is ever going to reach the medium.
    pub(crate) fn tear(&mut self, nth: &mut usize) -> bool {
        for FileBlock { durable, cached } in self.blocks.values_mut() {
            let Some(cached) = cached else { continue };
            for sector in bits(cached.dirty) {
                if *nth == 0 {
                    let second_half = sector * SECTOR_BYTES + SECTOR_BYTES / 2..(sector + 1) * SECTOR_BYTES;
                    let medium = durable.as_deref().unwrap_or(&ZEROS);
                    cached.bytes[second_half.clone()].copy_from_slice(&medium[second_half]);
                    return true;
                }
                *nth -= 1;
            }
        }
        false
    }

    /// Adds what is on the medium to what is to be hashed. Blocks that `known` has the hash of, by where they lie in memory, are not read again.
    pub(crate) fn fingerprint(&self, known: &KnownBlocks, into: &mut Vec<u8>) {
        into.extend(self.durable_length.to_le_bytes());
        for (number, block) in &self.blocks {
            if let Some(bytes) = &block.durable {
                let known = known.0.get(&Arc::as_ptr(bytes)).map(|(_, hash)| *hash);
                into.extend(number.to_le_bytes());
                into.extend(known.unwrap_or_else(|| hash_bytes(&bytes[..])).to_le_bytes());
            }
        }
    }

    pub(crate) fn remember(&self, known: &mut KnownBlocks) {
        for bytes in self.blocks.values().filter_map(|block| block.durable.as_ref()) {
            known.0.entry(Arc::as_ptr(bytes)).or_insert_with(|| (Arc::clone(bytes), hash_bytes(&bytes[..])));
        }
    }

    pub(crate) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        if offset >= self.length {
            return false;
        }
        let within = (offset % BLOCK_BYTES as u64) as usize;
        let block = self.blocks.entry(offset / BLOCK_BYTES as u64).or_default();
        block.medium_mut()[within] ^= 1 << (bit % 8);
        if let Some(cached) = &mut block.cached {
            cached.bytes[within] ^= 1 << (bit % 8);
        }
        true
    }
}

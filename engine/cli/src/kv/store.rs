//! The pairs of the key-value machine, and their snapshots.
//!
//! The map lies in shards, which a snapshot shares: nothing is copied when one is asked for. A shard is copied when a key in
//! it is put while the snapshot still needs it. That happens once a shard and snapshot, so both together hold at most
//! twice the pairs, and no copy is of more than about one 4096th of them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// How many shards there are; a key's checksum says which is its.
const SHARDS: usize = 4096;
/// Before each pair in a stream: the lengths of key and value.
const LENGTHS_BYTES: usize = 4;
/// At the beginning of a stream: what it is, and the number of pairs.
const HEADER_BYTES: usize = 16;
const MAGIC: &[u8; 8] = b"KtkPairs";

type Shard = BTreeMap<Box<[u8]>, Vec<u8>>;

/// Keys and values.
#[derive(Debug)]
pub(crate) struct Pairs {
    shards: Vec<Arc<Shard>>,
    count: u64,
    /// Bytes of all keys and values.
    bytes: u64,
}

impl Default for Pairs {
    fn default() -> Self {
        // One empty shard stands for all, until there is something in them.
        Pairs { shards: vec![Arc::default(); SHARDS], count: 0, bytes: 0 }
    }
}

impl Pairs {
    fn place(key: &[u8]) -> usize {
        crc32fast::hash(key) as usize % SHARDS
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Vec<u8>> {
        self.shards.get(Pairs::place(key))?.get(key)
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        let Some(shard) = self.shards.get_mut(Pairs::place(key)) else { return };
        let shard = Arc::make_mut(shard);
        if let Some(old) = shard.get_mut(key) {
            self.bytes -= old.len() as u64;
            old.clear();
            old.extend(value);
        } else {
            shard.insert(key.into(), value.to_vec());
            (self.count, self.bytes) = (self.count + 1, self.bytes + key.len() as u64);
        }
        self.bytes += value.len() as u64;
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Length of a snapshot's stream.
    pub(crate) fn stream_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.count * LENGTHS_BYTES as u64 + self.bytes
    }

    /// All of it as it is now, to be read while it changes.
    pub(crate) fn view(&self) -> View {
        let mut pending = Vec::from(MAGIC);
        pending.extend(self.count.to_le_bytes());
        let mut shards = self.shards.clone();
        shards.reverse();
        View { shards, pending, given: 0 }
    }
}

/// A consistent view, as a stream.
#[derive(Debug)]
pub(crate) struct View {
    /// What is not in the stream yet, the next one last.
    shards: Vec<Arc<Shard>>,
    /// One shard of the stream, and how much of it was given.
    pending: Vec<u8>,
    given: usize,
}

impl Read for View {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.pending.len() {
            let Some(shard) = self.shards.pop() else { return Ok(0) };
            self.pending.clear();
            self.given = 0;
            for (key, value) in shard.iter() {
                for length in [key.len(), value.len()] {
                    self.pending.extend((length as u16).to_le_bytes());
                }
                self.pending.extend(&key[..]);
                self.pending.extend(value);
            }
        }
        let count = Read::read(&mut self.pending.get(self.given..).unwrap_or_default(), into)?;
        self.given += count;
        Ok(count)
    }
}

/// Pairs on their way out of a stream, which may be cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct Restoring {
    pairs: Pairs,
    /// The number of pairs, once the stream has said it.
    expected: Option<u64>,
    /// The beginning of what is not whole yet.
    rest: Vec<u8>,
}

impl Restoring {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        self.rest.extend(bytes);
        let rest = std::mem::take(&mut self.rest);
        let mut at = &rest[..];
        if self.expected.is_none() {
            let Some((header, behind)) = at.split_first_chunk::<HEADER_BYTES>() else {
                self.rest = rest;
                return Ok(());
            };
            let (magic, count) = header.split_at(MAGIC.len());
            if magic != MAGIC {
                return Err("it begins with something else");
            }
            self.expected = count.first_chunk().map(|count| u64::from_le_bytes(*count));
            at = behind;
        }
        while let Some(&[key_low, key_high, value_low, value_high]) = at.first_chunk::<LENGTHS_BYTES>() {
            let [key, value] = [[key_low, key_high], [value_low, value_high]].map(|length| usize::from(u16::from_le_bytes(length)));
            if key == 0 || key > MAX_KEY_BYTES || value > MAX_VALUE_BYTES {
                return Err("a pair is too long");
            }
            let Some((pair, behind)) = at.get(LENGTHS_BYTES..).and_then(|at| at.split_at_checked(key + value)) else { break };
            let (key, value) = pair.split_at(key);
            if self.pairs.get(key).is_some() {
                return Err("a key stands there twice");
            }
            self.pairs.put(key, value);
            at = behind;
        }
        self.rest = at.to_vec();
        Ok(())
    }

    /// The pairs, if that was all of them.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn end(self) -> Result<Pairs, &'static str> {
        if self.expected != Some(self.pairs.count) || !self.rest.is_empty() {
            return Err("not as many pairs as it says");
        }
        Ok(self.pairs)
    }
}

//! A log file written through memory: the copy lands in the page cache, a flush makes it durable.
//!
//! Only for files whose blocks were reserved by this `Io` (`Op::Allocate`): a store into a hole on a full disk is
//! a signal, not an error.

use std::fs::File;

use crate::tell;
use memmap2::MmapMut;

/// The whole of one allocated file.
#[derive(Debug)]
pub(crate) struct Mapped {
    memory: MmapMut,
}

impl Mapped {
    /// Maps the file's first `len` bytes, all of which are reserved; None if the system will not (no address space).
    pub(crate) fn new(file: &File, len: u64) -> Option<Mapped> {
        let len = usize::try_from(len).ok().filter(|len| *len > 0)?;
        // SAFETY: the file lies in a directory under our exclusive lock, and we shorten it only after its
        // mapping was dropped (the worker does both), so no page of the mapping ever loses its backing. Nobody
        // else holds a reference into it: it is written by `write` alone and read with pread.
        let memory = unsafe { memmap2::MmapOptions::new().len(len).map_mut(file) };
        match memory {
            Ok(memory) => Some(Mapped { memory }),
            Err(error) => {
                tell!(warn, %error, len, "log file could not be mapped: written with pwrite");
                None
            }
        }
    }

    /// Copies `data` to `offset`. False if it does not fit: the caller writes it another way.
    pub(crate) fn write(&mut self, data: &[u8], offset: u64) -> bool {
        let Ok(from) = usize::try_from(offset) else { return false };
        let Some(to) = from.checked_add(data.len()) else { return false };
        match self.memory.get_mut(from..to) {
            Some(place) => {
                place.copy_from_slice(data);
                true
            }
            None => false,
        }
    }
}

//! A stream of bytes becomes chunks, in runs that are written at once.

use kontiki_mem::{Block, Pool, PoolBuf, copy_payload};

use crate::Digest;
use crate::chunk::{Part, seal};
use crate::digest::Digester;
use crate::head::{Foot, Head, Info, Sections};
use crate::limits::{CHUNK_BYTES, CHUNK_HEADER_BYTES, DATA_BYTES, RUN_BYTES};

/// Chunks that are to be written: where in the file, and how many bytes.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) offset: u64,
    pub(crate) bytes: Block,
}

/// Makes a snapshot's chunks of what its sections hold.
#[derive(Debug)]
pub(crate) struct Encoder {
    head: Head,
    identity: Digest,
    digester: Digester,
    sections: Sections,
    part: Part,
    /// Chunks sealed.
    number: u64,
    pool: Pool,
    /// The run being filled: where in the file it begins, and its sealed chunks in bytes.
    run: Option<PoolBuf>,
    run_offset: u64,
    sealed: usize,
    /// Data in the open chunk.
    filled: usize,
}

impl Encoder {
    /// `pool` has buffers of [`RUN_BYTES`].
    pub(crate) fn new(head: Head, pool: Pool) -> Encoder {
        assert_eq!(pool.buffer_bytes(), RUN_BYTES, "a buffer is a run");
        let bytes = head.encode();
        let mut encoder = Encoder {
            head,
            identity: Digest::of(&bytes),
            digester: Digester::new(),
            sections: Sections::default(),
            part: Part::Head,
            number: 0,
            run: pool.take(),
            pool,
            run_offset: 0,
            sealed: 0,
            filled: 0,
        };
        encoder.fill(&bytes);
        encoder
    }

    /// Takes bytes of a section: how many. None are taken while there is no memory for a run.
    ///
    /// # Panics
    /// If the sections do not come in their order, or the machine's is not in this snapshot.
    pub(crate) fn push(&mut self, part: Part, bytes: &[u8]) -> usize {
        assert!(part >= self.part && (part < Part::Machine || self.head.full), "{part:?} after {:?}", self.part);
        if bytes.is_empty() || !self.begin(part) {
            return 0;
        }
        let mut taken = 0;
        while taken < bytes.len() && self.room() {
            taken += self.fill(&bytes[taken..]);
        }
        let section = match part {
            Part::Configuration => &mut self.sections.configuration,
            Part::Sessions => &mut self.sections.sessions,
            Part::Machine => &mut self.sections.machine,
            Part::Head | Part::Foot => panic!("{part:?} is no section"),
        };
        *section += taken as u64;
        taken
    }

    /// Ends it with its foot: what it became. None, and nothing is done, while there is no memory for it.
    pub(crate) fn finish(&mut self) -> Option<Info> {
        if !self.begin(Part::Foot) {
            return None;
        }
        let bytes = (self.number + 1) * CHUNK_BYTES as u64;
        let foot = Foot { bytes, digest: self.digester.digest(), sections: self.sections };
        self.fill(&foot.encode());
        self.seal();
        Some(Info { head: self.head, digest: foot.digest, bytes, sections: foot.sections })
    }

    /// A full run, or with `all` whatever is sealed.
    pub(crate) fn take(&mut self, all: bool) -> Option<Run> {
        if self.sealed < RUN_BYTES && !(all && self.sealed > 0 && self.filled == 0) {
            return None;
        }
        let (offset, length) = (self.run_offset, self.sealed);
        let run = self.run.take()?.freeze();
        self.run_offset += length as u64;
        (self.run, self.sealed) = (self.pool.take(), 0);
        Some(Run { offset, bytes: run.slice(0, length) })
    }

    /// Whether there is a chunk to fill.
    fn room(&mut self) -> bool {
        if self.run.is_none() {
            self.run = self.pool.take();
        }
        self.run.is_some() && self.sealed < RUN_BYTES
    }

    /// Opens a chunk of `part`; the one before of another is sealed.
    fn begin(&mut self, part: Part) -> bool {
        if part != self.part && self.filled > 0 {
            self.seal();
        }
        let room = self.room();
        if room {
            self.part = part;
        }
        room
    }

    fn fill(&mut self, bytes: &[u8]) -> usize {
        let Some(run) = &mut self.run else { return 0 };
        let length = bytes.len().min(DATA_BYTES - self.filled);
        let at = self.sealed + CHUNK_HEADER_BYTES + self.filled;
        copy_payload(&mut run.bytes_mut()[at..at + length], &bytes[..length]);
        self.filled += length;
        if self.filled == DATA_BYTES {
            self.seal();
        }
        length
    }

    fn seal(&mut self) {
        let Some(run) = &mut self.run else { return };
        let chunk = &mut run.bytes_mut()[self.sealed..self.sealed + CHUNK_BYTES];
        seal(chunk, self.part, self.number, self.identity, self.filled);
        if self.part != Part::Foot {
            self.digester.add(chunk);
        }
        self.number += 1;
        self.sealed += CHUNK_BYTES;
        self.filled = 0;
    }
}

/// A whole snapshot in memory: for tests, and for whoever makes one of what is known already.
///
/// ```
/// use kontiki_snapshot::{Check, Head, Part, encode};
///
/// let file = encode(Head { full: true, ..Head::default() }, &[(Part::Machine, b"state")]);
/// let mut check = Check::new();
/// for chunk in file.chunks(65536) {
///     check.take(chunk).unwrap();
/// }
/// assert_eq!(check.whole().unwrap().sections.machine, 5);
/// ```
///
/// # Panics
/// If the sections do not come in their order.
pub fn encode(head: Head, sections: &[(Part, &[u8])]) -> Vec<u8> {
    let mut encoder = Encoder::new(head, Pool::new(1, RUN_BYTES));
    let mut file = Vec::new();
    let mut take = |encoder: &mut Encoder, all| {
        while let Some(run) = encoder.take(all) {
            file.extend_from_slice(run.bytes.bytes());
        }
    };
    for (part, mut bytes) in sections.iter().copied() {
        while !bytes.is_empty() {
            bytes = &bytes[encoder.push(part, bytes)..];
            take(&mut encoder, false);
        }
    }
    while encoder.finish().is_none() {
        take(&mut encoder, false);
    }
    take(&mut encoder, true);
    file
}

//! Reads of snapshots, each chunk checked before anybody gets it.

use kontiki_io::{Handle, Io, IoBuf, IoError, IoErrorKind, Name, Op, Output};

use crate::Digest;
use crate::chunk::Chunk;
use crate::flaw::Flaw;
use crate::limits::{CHUNK_BYTES, MAX_READ_CHUNKS, MAX_READS, READ_ATTEMPTS};
use crate::store::{Kept, StoreEvent};
use crate::token::Purpose;
use crate::{ReadError, names};

#[derive(Clone, Copy, Debug)]
struct Read {
    tag: u64,
    file: Handle,
    /// Of the snapshot's head: what every chunk names.
    identity: Digest,
    chunk: u64,
    bytes: usize,
    attempts: u32,
}

/// The reads in progress.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    slots: [Option<Read>; MAX_READS],
}

impl Reads {
    pub(crate) fn in_progress(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    pub(crate) fn begin(
        &mut self,
        files: &mut [Kept],
        tag: u64,
        digest: Digest,
        chunk: u64,
        buf: IoBuf,
        io: &mut dyn Io,
    ) -> Result<(), IoBuf> {
        let length = buf.len();
        assert!(
            length.is_multiple_of(CHUNK_BYTES) && (1..=MAX_READ_CHUNKS).contains(&(length / CHUNK_BYTES)),
            "{length} bytes are not 1 to {MAX_READ_CHUNKS} chunks"
        );
        let found = files.iter_mut().find_map(|kept| {
            let info = kept.state.ok().filter(|info| info.digest == digest && chunk < info.chunks())?;
            Some((kept, info))
        });
        let found = found.and_then(|(kept, info)| Some((kept.file?, kept, info)));
        let (Some((file, kept, info)), Some(slot)) = (found, self.slots.iter().position(Option::is_none)) else { return Err(buf) };
        let bytes = (info.bytes - chunk * CHUNK_BYTES as u64).min(length as u64) as usize;
        kept.reads += 1;
        let read = Read { tag, file, identity: Digest::of(&info.head.encode()), chunk, bytes, attempts: 1 };
        self.slots[slot] = Some(read);
        submit(slot, &read, buf, io);
        Ok(())
    }

    /// What a read came to, and what it found damaged. None if it is tried again.
    pub(crate) fn done(
        &mut self,
        files: &mut [Kept],
        slot: usize,
        result: Result<Output, IoError>,
        buf: Option<IoBuf>,
        io: &mut dyn Io,
    ) -> Option<(StoreEvent, Option<(Name, Flaw)>)> {
        let (Some(mut read), Some(buf)) = (self.slots.get(slot).copied().flatten(), buf) else { panic!("no read has slot {slot}") };
        let result = match result {
            Err(error) if error.kind == IoErrorKind::Shortage => Err(ReadError::Lacking(error)),
            Err(_) if read.attempts < READ_ATTEMPTS => {
                read.attempts += 1;
                self.slots[slot] = Some(read);
                submit(slot, &read, buf, io);
                return None;
            }
            Err(_) => Err(ReadError::Damaged { chunk: read.chunk, flaw: Flaw::Unreadable }),
            Ok(Output::Bytes(got)) => check(&read, &buf.bytes()[..got.min(read.bytes)]),
            Ok(other) => panic!("a read yielded {other:?}"),
        };
        self.slots[slot] = None;
        let mut damage = None;
        if let Some(kept) = files.iter_mut().find(|kept| kept.file == Some(read.file)) {
            kept.reads -= 1;
            if let (Err(ReadError::Damaged { flaw, .. }), Ok(_)) = (result, kept.state) {
                kept.state = Err(flaw);
                damage = Some((names::snapshot(kept.index), flaw));
            }
        }
        Some((StoreEvent::Read { tag: read.tag, buf, result }, damage))
    }
}

fn submit(slot: usize, read: &Read, buf: IoBuf, io: &mut dyn Io) {
    let op = Op::Read { file: read.file, offset: read.chunk * CHUNK_BYTES as u64, buf, len: read.bytes };
    io.submit(Purpose::Read(slot).token(), op);
}

fn check(read: &Read, bytes: &[u8]) -> Result<usize, ReadError> {
    let chunks = read.bytes / CHUNK_BYTES;
    for (at, chunk) in (0..chunks).zip(read.chunk..) {
        let damaged = |flaw| Err(ReadError::Damaged { chunk, flaw });
        match Chunk::parse(bytes.get(at * CHUNK_BYTES..(at + 1) * CHUNK_BYTES).unwrap_or_default()) {
            Err(flaw) => return damaged(flaw),
            Ok(found) if found.identity != read.identity => return damaged(Flaw::OtherSnapshot),
            Ok(found) if found.number != chunk => return damaged(Flaw::OtherPlace { found: found.number }),
            Ok(_) => {}
        }
    }
    Ok(chunks)
}

/// The chunks in the memory that a read gave back ([`StoreEvent::Read`]), in their order: `count` is its result.
///
/// ```
/// use kontiki_io::IoBuf;
/// use kontiki_mem::Pool;
/// use kontiki_snapshot::limits::CHUNK_BYTES;
/// use kontiki_snapshot::{Head, Part, chunks, encode};
///
/// let file = encode(Head { full: true, ..Head::default() }, &[(Part::Machine, b"state")]);
/// let mut buf = Pool::new(1, file.len()).take().expect("a buffer");
/// buf.bytes_mut().copy_from_slice(&file);
/// let parts: Vec<Part> = chunks(&IoBuf::Pool(buf), 3).map(|chunk| chunk.part).collect();
/// assert_eq!(parts, [Part::Head, Part::Machine, Part::Foot]);
/// ```
pub fn chunks(buf: &IoBuf, count: usize) -> impl Iterator<Item = Chunk<'_>> {
    buf.bytes().chunks(CHUNK_BYTES).take(count).filter_map(|chunk| Chunk::parse(chunk).ok())
}

//! A log on disk without a node around it: to append to, to open again, and to compare with merely reading it.

use std::path::Path;
use std::time::{Duration, Instant};

use kontiki_core::{ClusterId, FrameMeta, GroupId, LogIndex, NodeId, Subterm, Term, WriteId};
use kontiki_frame::{BODY_OFFSET, Header, Kind, put_entry, seal};
use kontiki_io::{Backend, Io, IoBuf, Name, Op, Output, Token};
use kontiki_mem::Pool;
use kontiki_wal::limits::{RECOVERY_READ_BYTES, RECOVERY_READS};
use kontiki_wal::{Opening, Options, Wal, WalEvent, names};

use crate::world::{Failed, PATIENCE_NS, World, failed};

/// Memory for the frames under way, in bytes.
const RING_BYTES: usize = 8 << 20;

/// What opening a log took.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Bytes of the log's frames.
    pub bytes: u64,
    /// From the start until the log could be appended to.
    pub took: Duration,
    /// What recovery found, in its own words.
    pub report: String,
}

/// An open log, its memory and its world.
pub struct StoredLog {
    wal: Wal,
    world: World,
    write: u64,
    durable: u64,
    /// Whether what is durable may be recycled.
    keep: bool,
}

impl std::fmt::Debug for StoredLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredLog").field("last", &self.wal.last_index()).finish_non_exhaustive()
    }
}

/// Options of a log in `dir`.
fn options(dir: &Path, writes_in_flight: usize) -> Options {
    Options {
        dir: dir.to_owned(),
        cluster: ClusterId(1),
        node: NodeId(1),
        segment_bytes: 32 << 20,
        retention_bytes: 32 << 20,
        writes_in_flight,
        ..Options::default()
    }
}

impl StoredLog {
    /// Opens the log in `dir`, or makes one. With `keep` it only grows, else it is recycled as it goes.
    ///
    /// # Errors
    /// The backend or the log cannot be opened.
    pub fn open(dir: &Path, backend: Backend, writes_in_flight: usize, keep: bool) -> Result<(StoredLog, Recovery), Failed> {
        let mut world = World::open(RING_BYTES, backend)?;
        let start = Instant::now();
        let mut opening = Opening::start(options(dir, writes_in_flight), &mut world.io).map_err(|e| failed("log", e))?;
        let mut done = Vec::new();
        loop {
            if let Some(opened) = opening.poll().map_err(|e| failed("log", e))? {
                let recovery = Recovery { bytes: opened.report.bytes, took: start.elapsed(), report: opened.report.to_string() };
                return Ok((StoredLog { wal: opened.wal, world, write: 0, durable: 0, keep }, recovery));
            }
            if opening.wants_bases() {
                opening.set_bases(&[], &mut world.io);
            }
            let until = world.io.now().plus_ns(PATIENCE_NS);
            world.io.turn(Some(until), &mut done).map_err(|e| failed("backend", e))?;
            done.drain(..).for_each(|completion| opening.on_completion(completion, &mut world.io));
        }
    }

    /// The backend, in its own words.
    pub fn backend(&self) -> String {
        self.world.io.describe()
    }

    /// Appends one frame of `bytes` with one entry, if log and ring have room.
    fn append(&mut self, bytes: usize, payload: &[u8]) -> bool {
        if !self.wal.can_append(bytes) {
            return false;
        }
        let Some(mut block) = self.world.ring.reserve(bytes) else { return false };
        let Some(end) = put_entry(block.bytes_mut(), BODY_OFFSET, None, payload) else { return false };
        let last = self.wal.last_index();
        let prev_term = if last == LogIndex(0) { Term(0) } else { Term(1) };
        let meta = FrameMeta { term: Term(1), first: last.next(), count: 1, prev_term };
        let header = Header {
            kind: Kind::Entries,
            sessions: false,
            cluster: ClusterId(1),
            group: GroupId(0),
            meta,
            subterm: Subterm(0),
            cluster_ns: 0,
            proposed_ns: 0,
            body_bytes: (end - BODY_OFFSET) as u32,
        };
        seal(block.bytes_mut(), &header);
        self.write += 1;
        drop(self.wal.append(WriteId(self.write), block, meta.range(), meta));
        true
    }

    /// Appends `frames` frames of `bytes` each (a multiple of 4,096), at most `depth` of them not durable at a time,
    /// and waits for all.
    ///
    /// # Errors
    /// The log failed, or the disk is full.
    pub fn run(&mut self, bytes: usize, depth: u64, frames: u64) -> Result<(), Failed> {
        let payload = vec![0xA5; bytes.saturating_sub(BODY_OFFSET + kontiki_frame::ENTRY_LENGTH_BYTES)];
        let end = self.write + frames;
        let mut done = Vec::new();
        let mut progress = self.world.io.now();
        while self.durable < end {
            while self.write < end && self.write - self.durable < depth && self.append(bytes, &payload) {}
            let io = &mut self.world.io;
            self.wal.pump(io);
            let now = io.now();
            io.turn(Some(now.plus_ns(100_000_000)), &mut done).map_err(|e| failed("backend", e))?;
            for completion in done.drain(..) {
                self.wal.on_completion(completion, io);
            }
            while let Some(event) = self.wal.next_event() {
                if let WalEvent::LogDurable { write } = event {
                    (self.durable, progress) = (write.0, now);
                }
            }
            if let Some(error) = self.wal.poisoned() {
                return Err(failed("log", error));
            }
            if now.since(progress) > PATIENCE_NS {
                return Err(failed("log", format_args!("nothing became durable for a minute ({:?})", self.wal.space())));
            }
            if !self.keep {
                self.wal.release(self.wal.last_index());
            }
        }
        Ok(())
    }
}

/// What reading a log took.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    /// Bytes read.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Checksum over all of it.
    pub checksum: u32,
}

/// Reads the first `most` bytes of a log's segments past the page cache, in the sizes and depth that recovery reads in,
/// and takes a checksum of it: the least that any recovery must do.
///
/// # Errors
/// The files cannot be read.
pub fn scan(dir: &Path, backend: Backend, most: u64) -> Result<Scan, Failed> {
    let mut world = World::open(64 << 10, backend)?;
    let buffers = Pool::new(RECOVERY_READS, RECOVERY_READ_BYTES);
    let start = Instant::now();
    let dir = world.open_one("directory", Op::OpenDir { path: dir.to_owned(), create: false })?;
    let Output::Listing(listing) = world.call("directory", Op::List { dir })? else { return Err(failed("directory", "no listing")) };
    let mut segments: Vec<(u64, Name, u64)> =
        listing.into_iter().filter_map(|(name, length)| Some((names::segment_number(&name)?, name, length))).collect();
    segments.sort_by_key(|(number, ..)| *number);

    let mut sum = crc32fast::Hasher::new();
    let mut bytes = 0;
    let mut done = Vec::new();
    for (_, name, length) in segments {
        if bytes >= most {
            break;
        }
        let file = world.open_one("segment", Op::Open { dir, name, create: false })?;
        let end = length.min(most - bytes).next_multiple_of(kontiki_mem::BLOCK_BYTES as u64).min(length);
        // Reads end in any order; their bytes are taken in order of their place.
        let (mut asked, mut taken) = (0, 0);
        let mut held: Vec<(u64, IoBuf, usize)> = Vec::with_capacity(RECOVERY_READS);
        while taken < end {
            while asked < end
                && let Some(buffer) = buffers.take()
            {
                let len = (end - asked).min(RECOVERY_READ_BYTES as u64) as usize;
                world.io.submit(Token(asked), Op::Read { file, offset: asked, buf: IoBuf::Pool(buffer), len });
                asked += len as u64;
            }
            let until = world.io.now().plus_ns(PATIENCE_NS);
            world.io.turn(Some(until), &mut done).map_err(|e| failed("backend", e))?;
            for completion in done.drain(..) {
                match (completion.result, completion.buf) {
                    (Ok(Output::Bytes(read)), Some(buf)) if read > 0 => held.push((completion.token.0, buf, read)),
                    (Ok(_), _) => return Err(failed("segment", "shorter than its length")),
                    (Err(error), _) => return Err(failed("segment", error)),
                }
            }
            while let Some(at) = held.iter().position(|(offset, ..)| *offset == taken) {
                let (_, buffer, read) = held.swap_remove(at);
                sum.update(&buffer.bytes()[..read]);
                taken += read as u64;
            }
        }
        bytes += taken;
        world.call("segment", Op::Close { handle: file })?;
    }
    Ok(Scan { bytes, took: start.elapsed(), checksum: sum.finalize() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_appended_is_found_again_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, fresh) = StoredLog::open(dir.path(), Backend::Auto, 2, true).unwrap();
        assert_eq!(fresh.bytes, 0);
        log.run(64 << 10, 4, 1000).unwrap();
        drop(log);
        let (log, recovery) = StoredLog::open(dir.path(), Backend::Auto, 2, true).unwrap();
        assert_eq!(recovery.bytes, 1000 * (64 << 10));
        drop(log);
        let all = scan(dir.path(), Backend::Auto, recovery.bytes).unwrap();
        assert_eq!(all.bytes, recovery.bytes, "two segments, the second not to its end");
        let again = scan(dir.path(), Backend::Portable, recovery.bytes).unwrap();
        assert_eq!(all.checksum, again.checksum);
    }
}

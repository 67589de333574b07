//! The durable log under every peer: one thread that writes all that is queued as one frame, flushes it with
//! `fdatasync`, and then says so.
//!
//! Callers encode straight into the buffer that is written next; while one frame is flushed, the next fills.
//!
//! A frame is `len u32 | crc32 u32 | log id u64 | number u64 | last index u64 | records`, little-endian; the checksum
//! covers all that follows it, `len` counts the records. A record is `len u32 | body`; the body is the peer's.
//! The log id is new at every start, so that what an earlier run left in a segment is never taken for ours.

use std::io;
use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::segments::{self, Layout, Segments};

/// Bytes before the records of a frame.
const HEADER: usize = 32;
/// Where what the checksum covers begins.
const COVERED: usize = 8;

/// `fdatasync` calls of this process that returned.
static FLUSHES: AtomicU64 = AtomicU64::new(0);

/// How many times this process has flushed its log.
pub fn flushes() -> u64 {
    FLUSHES.load(Ordering::Relaxed)
}

type Durable = Box<dyn FnOnce() + Send>;

struct Queue {
    /// The next frame, its header still empty.
    frame: Vec<u8>,
    last: u64,
    waiting: Vec<Durable>,
    /// The log thread sleeps.
    idle: bool,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    keep_from: AtomicU64,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replica's log.
pub struct Log {
    shared: Arc<Shared>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Log {
    /// An empty log in a directory; segments found there are used again.
    ///
    /// # Errors
    /// The segments cannot be made.
    pub fn create(dir: &Path) -> io::Result<Log> {
        Log::with_layout(dir, Layout::default())
    }

    /// The same, with segments of another size.
    ///
    /// # Errors
    /// The segments cannot be made.
    pub fn with_layout(dir: &Path, layout: Layout) -> io::Result<Log> {
        std::fs::create_dir_all(dir)?;
        let segments = Segments::open(dir, layout)?;
        let id = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        let queue = Queue { frame: vec![0; HEADER], last: 0, waiting: Vec::new(), idle: false, closed: false };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), wake: Condvar::new(), keep_from: AtomicU64::new(0) });
        let writer = Writer { shared: shared.clone(), segments, id, number: 0 };
        let writer = thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
        Ok(Log { shared, writer: Some(writer) })
    }

    /// Queues records, which `encode` appends with [`record`]. `durable` is called, on the log's thread, after the
    /// `fdatasync` that covers them has returned; in the order of the calls.
    ///
    /// `last` is the highest index among them, 0 if there is none.
    pub fn append(&self, last: u64, encode: impl FnOnce(&mut Vec<u8>), durable: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue();
        encode(&mut queue.frame);
        queue.last = queue.last.max(last);
        queue.waiting.push(Box::new(durable));
        let wake = mem::take(&mut queue.idle);
        drop(queue);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    /// Entries under this index are needed no more: their segments may be taken again.
    pub fn keep_from(&self, index: u64) {
        self.shared.keep_from.fetch_max(index, Ordering::Relaxed);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take() {
            // It ends the process rather than panic.
            drop(writer.join());
        }
    }
}

/// Appends a record to what is written next.
pub fn record(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    crate::wire::frame(out, body);
}

struct Writer {
    shared: Arc<Shared>,
    segments: Segments,
    id: u64,
    number: u64,
}

impl Writer {
    fn run(mut self) {
        let mut frame = vec![0; HEADER];
        let mut waiting = Vec::new();
        while let Some(last) = self.take(&mut frame, &mut waiting) {
            if let Err(error) = self.write(&mut frame, last) {
                // Nothing may be acknowledged any more.
                eprintln!("the log cannot be written: {error}");
                std::process::exit(1);
            }
            frame.truncate(HEADER);
            waiting.drain(..).for_each(|durable| durable());
        }
    }

    /// Swaps all that is queued for the empty buffers; `None` when the log is closed.
    fn take(&self, frame: &mut Vec<u8>, waiting: &mut Vec<Durable>) -> Option<u64> {
        let mut queue = self.shared.queue();
        while queue.waiting.is_empty() {
            if queue.closed {
                return None;
            }
            queue.idle = true;
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.idle = false;
        mem::swap(&mut queue.frame, frame);
        mem::swap(&mut queue.waiting, waiting);
        Some(mem::take(&mut queue.last))
    }

    fn write(&mut self, frame: &mut [u8], last: u64) -> io::Result<()> {
        self.number += 1;
        let len = u32::try_from(frame.len() - HEADER).map_err(|_| io::ErrorKind::FileTooLarge)?;
        frame[8..16].copy_from_slice(&self.id.to_le_bytes());
        frame[16..24].copy_from_slice(&self.number.to_le_bytes());
        frame[24..32].copy_from_slice(&last.to_le_bytes());
        let crc = crc32fast::hash(&frame[COVERED..]);
        frame[..4].copy_from_slice(&len.to_le_bytes());
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        self.segments.write(frame, last, self.shared.keep_from.load(Ordering::Relaxed))?;
        FLUSHES.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What is on disk of the newest log in a directory.
#[derive(Debug, Default)]
pub struct Found {
    /// The highest index.
    pub last: u64,
    /// Frames without a gap between them, up to the newest.
    pub frames: u64,
    /// Their records, in order.
    pub records: Vec<Vec<u8>>,
}

/// Reads the newest log in a directory back from its segments.
///
/// # Errors
/// A segment cannot be read.
pub fn read_back(dir: &Path) -> io::Result<Found> {
    let mut frames = Vec::new();
    for number in 0.. {
        match std::fs::read(segments::path(dir, number)) {
            Ok(bytes) => frames_of(&bytes, &mut frames),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    let newest = frames.iter().map(|f| f.id).max().unwrap_or(0);
    frames.retain(|f| f.id == newest);
    frames.sort_by_key(|f| f.number);
    // From the back: what lies before a gap has been overwritten in part.
    let gap = frames.windows(2).rposition(|pair| pair[0].number + 1 != pair[1].number);
    frames.drain(..gap.map_or(0, |at| at + 1));
    let mut found = Found { frames: frames.len() as u64, ..Found::default() };
    for frame in frames {
        found.last = found.last.max(frame.last);
        found.records.extend(frame.records);
    }
    Ok(found)
}

struct Frame {
    id: u64,
    number: u64,
    last: u64,
    records: Vec<Vec<u8>>,
}

fn frames_of(mut bytes: &[u8], frames: &mut Vec<Frame>) {
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let len = word(0) as usize;
        if len > rest.len() || crc32fast::hash(&bytes[COVERED..HEADER + len]) != word(4) {
            return;
        }
        let (mut body, after) = rest.split_at(len);
        let mut records = Vec::new();
        while let Some((record, next)) = crate::wire::split(body) {
            records.push(record.to_vec());
            body = next;
        }
        frames.push(Frame { id: long(8), number: long(16), last: long(24), records });
        bytes = after;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SMALL: Layout = Layout { segment_bytes: 4096, segments: 3 };

    fn append_waiting(log: &Log, index: u64) {
        let (sender, receiver) = mpsc::channel();
        log.append(index, |out| record(out, |body| body.extend(index.to_le_bytes().repeat(20))), move || sender.send(()).unwrap());
        receiver.recv().unwrap();
    }

    #[test]
    fn what_was_said_to_be_durable_is_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::with_layout(dir.path(), SMALL).unwrap();
        for index in 1..=500 {
            append_waiting(&log, index);
            log.keep_from(index.saturating_sub(10));
        }
        let found = read_back(dir.path()).unwrap();
        assert_eq!(found.last, 500);
        assert!(found.records.len() >= 10, "{} records", found.records.len());
        let indices: Vec<u64> = found.records.iter().map(|r| u64::from_le_bytes(r[..8].try_into().unwrap())).collect();
        assert_eq!(indices, (501 - indices.len() as u64..=500).collect::<Vec<_>>());
        drop(log);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), SMALL.segments, "segments are taken again");
    }

    #[test]
    fn entries_that_are_kept_are_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::with_layout(dir.path(), SMALL).unwrap();
        (1..=200).for_each(|index| append_waiting(&log, index));
        assert_eq!(read_back(dir.path()).unwrap().records.len(), 200);
    }

    #[test]
    fn a_torn_frame_and_an_older_log_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::with_layout(dir.path(), SMALL).unwrap();
        (1..=40).for_each(|index| append_waiting(&log, index));
        drop(log);
        let log = Log::with_layout(dir.path(), SMALL).unwrap();
        (1..=5).for_each(|index| append_waiting(&log, index));
        drop(log);
        assert_eq!(read_back(dir.path()).unwrap().last, 5);
        // A new log begins in the segment that was made last.
        let path = segments::path(dir.path(), SMALL.segments - 1);
        let mut bytes = std::fs::read(&path).unwrap();
        let frame = HEADER + 4 + 160;
        bytes[5 * frame - 1] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read_back(dir.path()).unwrap().last, 4);
    }
}

//! Files of a fixed size, written with zeros once and used again and again.
//!
//! A write into blocks that exist changes no metadata of the file, so that `fdatasync` has the data alone to
//! flush. A segment is taken again when all entries in it are older than what the replica keeps; until then
//! the log grows by another.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How the log is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Bytes of a segment: the longest frame as well.
    pub segment_bytes: u64,
    /// Segments written in advance.
    pub segments: usize,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { segment_bytes: 32 << 20, segments: 4 }
    }
}

/// Zeros are written in pieces of this size.
const PIECE: usize = 1 << 20;

struct Segment {
    file: File,
    /// The highest index in it.
    last: u64,
}

/// The segments, the one that is written at the back.
pub struct Segments {
    dir: PathBuf,
    layout: Layout,
    ring: VecDeque<Segment>,
    made: usize,
    at: u64,
}

impl Segments {
    /// Opens the segments in a directory, and makes those that are missing.
    ///
    /// # Errors
    /// A file cannot be made, filled or flushed.
    pub fn open(dir: &Path, layout: Layout) -> io::Result<Segments> {
        let mut all = Segments { dir: dir.to_owned(), layout, ring: VecDeque::new(), made: 0, at: 0 };
        for _ in 0..layout.segments.max(1) {
            all.grow()?;
        }
        Ok(all)
    }

    /// Writes one frame and returns when it is durable.
    ///
    /// `last` is the highest index in it; entries under `keep_from` are needed no more.
    ///
    /// # Errors
    /// The write or the flush failed, or the frame is longer than a segment.
    pub fn write(&mut self, frame: &[u8], last: u64, keep_from: u64) -> io::Result<()> {
        let len = frame.len() as u64;
        if len > self.layout.segment_bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a frame is longer than a segment"));
        }
        if self.at + len > self.layout.segment_bytes {
            self.next(keep_from)?;
        }
        let current = self.ring.back_mut().ok_or(io::ErrorKind::NotFound)?;
        current.file.write_all_at(frame, self.at)?;
        current.file.sync_data()?;
        current.last = current.last.max(last);
        self.at += len;
        Ok(())
    }

    fn next(&mut self, keep_from: u64) -> io::Result<()> {
        if self.ring.front().is_some_and(|oldest| oldest.last < keep_from) && self.ring.len() > 1 {
            self.ring.rotate_left(1);
            if let Some(taken) = self.ring.back_mut() {
                taken.last = 0;
            }
        } else {
            self.grow()?;
        }
        self.at = 0;
        Ok(())
    }

    fn grow(&mut self) -> io::Result<()> {
        let path = path(&self.dir, self.made);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() != self.layout.segment_bytes {
            fill(&file, self.layout.segment_bytes)?;
            File::open(&self.dir)?.sync_all()?;
        }
        self.ring.push_back(Segment { file, last: 0 });
        self.made += 1;
        Ok(())
    }
}

/// The file of a segment.
pub fn path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("segment-{number:03}"))
}

fn fill(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE];
    file.set_len(bytes)?;
    let mut at = 0;
    while at < bytes {
        let piece = (bytes - at).min(PIECE as u64);
        file.write_all_at(&zeros[..piece as usize], at)?;
        at += piece;
    }
    file.sync_all()
}

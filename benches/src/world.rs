//! An [`Io`] for measuring programs: the backend, a ring, and operations that are waited for one by one.

use std::fmt;
use std::path::Path;

use kontiki_io::{Backend, Completion, Handle, Io, IoData, Name, Op, Output, Region, Token};
use kontiki_mem::{Pool, Ring};

/// Why something could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(String);

pub(crate) fn failed(what: &str, error: impl fmt::Display) -> Failed {
    Failed(format!("{what}: {error}"))
}

/// Longest wait for another process, or for a file, in nanoseconds.
pub(crate) const PATIENCE_NS: u64 = 60_000_000_000;

/// Token of an operation that is waited for.
const CALL: u64 = 0xff << 56;
/// Zeros are written in pieces of this many bytes.
const ZERO_BYTES: usize = 256 << 10;

/// The backend, and the memory that it may know.
pub(crate) struct World {
    // Dropped first: it may have the memory registered.
    pub(crate) io: Box<dyn Io + Send>,
    pub(crate) ring: Ring,
}

impl World {
    pub(crate) fn open(ring_bytes: usize, backend: Backend) -> Result<World, Failed> {
        let ring = Ring::new(ring_bytes, 2048).map_err(|e| failed("memory", e))?;
        let options = kontiki_io::Options { backend, ..kontiki_io::Options::default() };
        let io = kontiki_io::open(&options, &[Region::ring(&ring)]).map_err(|e| failed("backend", e))?;
        Ok(World { io, ring })
    }

    /// Does one operation and waits for it. Nothing else may be under way.
    pub(crate) fn complete(&mut self, what: &str, op: Op) -> Result<Completion, Failed> {
        self.io.submit(Token(CALL), op);
        let until = self.io.now().plus_ns(PATIENCE_NS);
        let mut done: Vec<Completion> = Vec::with_capacity(1);
        loop {
            self.io.turn(Some(until), &mut done).map_err(|e| failed(what, e))?;
            match done.pop() {
                Some(Completion { result: Err(error), .. }) => return Err(failed(what, error)),
                Some(completion) => return Ok(completion),
                None if self.io.now() >= until => return Err(failed(what, "not within a minute")),
                None => {}
            }
        }
    }

    /// The same, for what comes of it.
    pub(crate) fn call(&mut self, what: &str, op: Op) -> Result<Output, Failed> {
        self.complete(what, op)?.result.map_err(|e| failed(what, e))
    }

    /// The same, for what opens something.
    pub(crate) fn open_one(&mut self, what: &str, op: Op) -> Result<Handle, Failed> {
        match self.call(what, op)? {
            Output::Opened(handle) | Output::File(handle, _) | Output::Listening(handle, _) | Output::Accepted(handle, _) => Ok(handle),
            other => Err(failed(what, format_args!("{other:?}"))),
        }
    }

    /// Makes files in `dir`, every block of them written, all durable: the directory and the files.
    pub(crate) fn written_files(&mut self, dir: &Path, count: u32, bytes: u64) -> Result<(Handle, Vec<Handle>), Failed> {
        let zeros = Pool::new(1, ZERO_BYTES);
        let dir = self.open_one("directory", Op::OpenDir { path: dir.to_owned(), create: true })?;
        let mut files = Vec::new();
        for n in 0..count {
            let name = Name::format(format_args!("written-{n:03}")).ok_or_else(|| failed("file", "no name"))?;
            let file = self.open_one("file", Op::Open { dir, name, create: true })?;
            self.call("file", Op::Allocate { file, len: bytes })?;
            let mut offset = 0;
            while offset < bytes {
                let buffer = zeros.take().ok_or_else(|| failed("file", "no buffer"))?;
                let length = (bytes - offset).min(ZERO_BYTES as u64);
                self.call("file", Op::Write { file, offset, data: IoData::Pool(buffer, length as usize), durable: false })?;
                offset += length;
            }
            self.call("file", Op::Sync { file })?;
            files.push(file);
        }
        self.call("directory", Op::SyncDir { dir })?;
        Ok((dir, files))
    }
}

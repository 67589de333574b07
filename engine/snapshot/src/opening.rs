//! From a directory to a store: which snapshots are there.
//!
//! The directory is locked by whoever opens the log in it. Nothing is changed here; one operation at a time.

use kontiki_io::{Completion, Handle, Io, IoBuf, IoError, IoErrorKind, Name, Op, Output};
use kontiki_mem::{Pool, PoolBuf};

use crate::check::ends;
use crate::flaw::Flaw;
use crate::head::Info;
use crate::limits::{CHUNK_BYTES, KEPT, MAX_BYTES, READ_ATTEMPTS};
use crate::store::{Kept, Store};
use crate::token::Purpose;
use crate::{Options, StoreError, names};

#[derive(Debug)]
enum Step {
    OpenDir,
    SyncDir,
    List,
    Open,
    ReadFirst,
    ReadLast,
    CloseDamaged,
    OpenSpace,
    Done,
    Failing,
}

/// A store on its way up: start it, hand it its completions, and poll for the end.
#[derive(Debug)]
pub struct Opening {
    options: Options,
    step: Step,
    end: Option<Result<Store, StoreError>>,
    failure: Option<StoreError>,
    pool: Pool,
    dir: Option<Handle>,
    /// Snapshots to be looked at, the newest last.
    names: Vec<(Name, u64)>,
    space: Option<u64>,
    space_file: Option<(Handle, u64)>,
    open: Option<Handle>,
    first: Option<PoolBuf>,
    attempts: u32,
    found: Vec<Kept>,
    unneeded: Vec<Name>,
    /// Whether an earlier fetch left something.
    part: bool,
}

impl Opening {
    /// Starts: submits the first operation.
    pub fn start(options: Options, io: &mut dyn Io) -> Opening {
        io.submit(Purpose::Step.token(), Op::OpenDir { path: options.dir.clone(), create: false });
        Opening {
            options,
            step: Step::OpenDir,
            end: None,
            failure: None,
            pool: Pool::new(2, CHUNK_BYTES),
            dir: None,
            names: Vec::new(),
            space: None,
            space_file: None,
            open: None,
            first: None,
            attempts: 0,
            found: Vec::new(),
            unneeded: Vec::new(),
            part: false,
        }
    }

    /// The opened store, once.
    ///
    /// # Errors
    /// Why it cannot be opened, once everything that was opened is closed again.
    pub fn poll(&mut self) -> Result<Option<Store>, StoreError> {
        self.end.take().transpose()
    }

    /// Takes a completion whose token is the store's (top byte [`crate::OWNER`]).
    pub fn on_completion(&mut self, completion: Completion, io: &mut dyn Io) {
        if let Step::Failing = self.step {
            return self.close_next(io);
        }
        match self.advance(completion.result, completion.buf) {
            Ok(Some((step, op))) => {
                self.step = step;
                io.submit(Purpose::Step.token(), op);
            }
            Ok(None) => {
                self.step = Step::Done;
                let Some(dir) = self.dir else { return };
                let files = std::mem::take(&mut self.found);
                let unneeded = std::mem::take(&mut self.unneeded);
                self.end = Some(Ok(Store::new(self.options.clone(), dir, files, self.space_file, unneeded, self.part)));
            }
            Err(error) => {
                self.step = Step::Failing;
                self.failure = Some(error);
                self.close_next(io);
            }
        }
    }

    fn close_next(&mut self, io: &mut dyn Io) {
        let space = self.space_file.take().map(|(file, _)| file);
        let found = self.found.iter_mut().find_map(|kept| kept.file.take());
        let next = self.open.take().or(space).or(found).or_else(|| self.dir.take());
        match next {
            Some(handle) => io.submit(Purpose::Step.token(), Op::Close { handle }),
            None => self.end = self.failure.take().map(Err),
        }
    }

    fn advance(&mut self, result: Result<Output, IoError>, buf: Option<IoBuf>) -> Result<Option<(Step, Op)>, StoreError> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::OpenDir => match result {
                Ok(Output::Opened(dir)) => {
                    self.dir = Some(dir);
                    // What a killed process had renamed may not be on the disk yet, and is about to be believed.
                    Ok(Some((Step::SyncDir, Op::SyncDir { dir })))
                }
                other => Err(self.directory(other)),
            },
            Step::SyncDir => match (result, self.dir) {
                (Ok(_), Some(dir)) => Ok(Some((Step::List, Op::List { dir }))),
                (other, _) => Err(self.directory(other)),
            },
            Step::List => match result {
                Ok(Output::Listing(listing)) => {
                    self.listed(listing);
                    Ok(self.next())
                }
                other => Err(self.directory(other)),
            },
            Step::Open => match (result, self.names.last()) {
                (Ok(Output::File(file, bytes)), Some((name, _))) => {
                    let name = name.clone();
                    self.open = Some(file);
                    if bytes < 2 * CHUNK_BYTES as u64 || !bytes.is_multiple_of(CHUNK_BYTES as u64) || bytes > MAX_BYTES {
                        return self.judge(&name, Err(Flaw::CutOff));
                    }
                    self.set_bytes(bytes);
                    Ok(Some(self.read(Step::ReadFirst, file, 0)))
                }
                // What the device does not give is damaged; what is not permitted, or lacking, is for the operator.
                (Err(source), Some((name, _))) if source.kind == IoErrorKind::Device => {
                    let name = name.clone();
                    self.judge(&name, Err(Flaw::Unreadable))
                }
                (Err(source), Some((name, _))) => Err(StoreError::of("open", name.clone(), source)),
                (other, _) => panic!("opening a file yielded {other:?}"),
            },
            step @ (Step::ReadFirst | Step::ReadLast) => self.was_read(step, result, buf),
            Step::CloseDamaged => Ok(self.next()),
            Step::OpenSpace => match result {
                Ok(Output::File(file, bytes)) => {
                    self.space_file = Some((file, bytes));
                    Ok(None)
                }
                Err(source) => Err(StoreError::of("open", names::plain(names::NEW), source)),
                other => panic!("opening a file yielded {other:?}"),
            },
            Step::Done | Step::Failing => panic!("a completion after the end"),
        }
    }

    fn directory(&self, result: Result<Output, IoError>) -> StoreError {
        match result {
            Err(source) => StoreError::Directory { dir: self.options.dir.clone(), source },
            Ok(other) => panic!("a directory yielded {other:?}"),
        }
    }

    fn listed(&mut self, listing: Vec<(Name, u64)>) {
        for (name, bytes) in listing {
            if name.as_str() == names::NEW {
                self.space = Some(bytes);
            } else if name.as_str() == names::PART {
                self.part = true;
            } else if names::index(&name).is_some() {
                self.names.push((name, bytes));
            }
        }
        // By name is by index.
        self.names.sort();
    }

    fn next(&mut self) -> Option<(Step, Op)> {
        let dir = self.dir?;
        if self.found.iter().filter(|kept| kept.state.is_ok()).count() == KEPT {
            // What is older is not needed.
            self.unneeded = self.names.drain(..).map(|(name, _)| name).collect();
        }
        if let Some((name, _)) = self.names.last() {
            return Some((Step::Open, Op::Open { dir, name: name.clone(), create: false }));
        }
        self.space?;
        Some((Step::OpenSpace, Op::Open { dir, name: names::plain(names::NEW), create: false }))
    }

    fn set_bytes(&mut self, bytes: u64) {
        if let Some(last) = self.names.last_mut() {
            last.1 = bytes;
        }
    }

    fn read(&mut self, step: Step, file: Handle, offset: u64) -> (Step, Op) {
        let Some(buf) = self.pool.take() else { panic!("two chunks are read at most") };
        self.attempts = 1;
        (step, Op::Read { file, offset, buf: IoBuf::Pool(buf), len: CHUNK_BYTES })
    }

    fn was_read(&mut self, step: Step, result: Result<Output, IoError>, buf: Option<IoBuf>) -> Result<Option<(Step, Op)>, StoreError> {
        let (Some(file), Some((name, bytes)), Some(IoBuf::Pool(buf))) = (self.open, self.names.last().cloned(), buf) else {
            panic!("a read of nothing")
        };
        let last = matches!(step, Step::ReadLast);
        match result {
            Err(source) if source.kind == IoErrorKind::Shortage => Err(StoreError::of("read", name, source)),
            Err(_) if self.attempts < READ_ATTEMPTS => {
                self.attempts += 1;
                let offset = if last { bytes - CHUNK_BYTES as u64 } else { 0 };
                Ok(Some((step, Op::Read { file, offset, buf: IoBuf::Pool(buf), len: CHUNK_BYTES })))
            }
            Err(_) => self.judge(&name, Err(Flaw::Unreadable)),
            Ok(Output::Bytes(CHUNK_BYTES)) if last => {
                let first = self.first.take();
                let found = ends(first.as_ref().map_or(&[], PoolBuf::bytes), buf.bytes(), bytes);
                self.judge(&name, found)
            }
            Ok(Output::Bytes(CHUNK_BYTES)) => {
                self.first = Some(buf);
                Ok(Some(self.read(Step::ReadLast, file, bytes - CHUNK_BYTES as u64)))
            }
            Ok(_) => self.judge(&name, Err(Flaw::CutOff)),
        }
    }

    fn judge(&mut self, name: &Name, found: Result<Info, Flaw>) -> Result<Option<(Step, Op)>, StoreError> {
        self.first = None;
        let Some(index) = names::index(name) else { panic!("only snapshots are looked at") };
        match &found {
            Ok(info) if info.head.cluster != self.options.cluster || info.head.group != self.options.group => {
                return Err(StoreError::Foreign { name: name.clone() });
            }
            Err(Flaw::NewerFormat { found }) => return Err(StoreError::NewerFormat { name: name.clone(), found: *found }),
            _ => {}
        }
        let state = match found {
            Ok(info) if info.base().index != index => Err(Flaw::Otherwise { what: "index" }),
            other => other,
        };
        self.names.pop();
        let file = self.open.take();
        if let (Err(_), Some(handle)) = (&state, file) {
            self.found.push(Kept::new(index, state, None));
            return Ok(Some((Step::CloseDamaged, Op::Close { handle })));
        }
        self.found.push(Kept::new(index, state, file));
        Ok(self.next())
    }
}

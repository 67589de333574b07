//! The portable backend, for kernels and containers without io_uring: epoll for sockets, one worker thread for files.
//!
//! Sockets are edge-triggered: a call is attempted at once, and again when the kernel says that the socket became
//! ready. Files go to the worker in the order of submission, and come back with a ring of the bell.

mod epoll;
pub(crate) mod mapped;
mod transfer;

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use kontiki_core::Time;

use crate::bell::Bell;
use crate::errno::{During, classify};
use crate::files::{self, DataFile};
use crate::handles::{Handles, Object, Open};
use crate::host::Resolver;
use crate::identity;
use crate::lock::Lock;
use crate::select::kernel;
use crate::sockets::{self, Blocking};
use crate::worker::{Finished, Task, Worker, Yield};
use crate::{Completion, Gather, Handle, Io, IoBuf, IoError, IoStats, Op, Options, Output, Token, Wake, clock};

use epoll::{Epoll, Event};
use transfer::Attempt;

/// Epoll's key of the bell; every other key is a handle.
const BELL: u64 = u64::MAX;

/// What an outstanding operation does, with the memory it holds.
#[derive(Debug)]
enum Work {
    /// No operation: the slot is free.
    Free,
    /// With the file worker; an open waits to hear whether its directory honours RWF_DSYNC.
    File,
    /// With the resolver.
    Lookup,
    Recv {
        fd: RawFd,
        buf: IoBuf,
        at: usize,
        len: usize,
    },
    Send {
        fd: RawFd,
        gather: Gather,
        sent: usize,
        total: usize,
    },
    Accept {
        fd: RawFd,
    },
    Connect {
        fd: RawFd,
        handle: Handle,
    },
}

#[derive(Debug)]
struct Slot {
    token: Token,
    handle: Option<Handle>,
    work: Work,
}

/// The world by epoll and a file worker.
pub(crate) struct Portable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Dropped before the handles, among which a lock may be: it ends when its last write has.
    worker: Worker,
    handles: Handles,
    epoll: Epoll,
    bell: Arc<Bell>,
    resolver: Resolver,
    /// Socket operations submitted since the last turn: attempted by the next.
    fresh: VecDeque<u32>,
    /// Completed, for the next turn.
    ready: VecDeque<Completion>,
    mmap_log: bool,
    description: String,
    stats: IoStats,
}

impl Portable {
    /// `reason`: why not io_uring, for the operator. The error says what could not be made.
    pub(crate) fn open(options: &Options, reason: &str) -> Result<Portable, (&'static str, i32)> {
        let capacity = options.capacity;
        let bell = Arc::new(Bell::new().map_err(|errno| ("the bell's eventfd", errno))?);
        let epoll = Epoll::new().map_err(|errno| ("the epoll instance", errno))?;
        epoll.add(bell.fd(), BELL).map_err(|errno| ("the bell's place in epoll", errno))?;
        let worker = Worker::start(capacity, Arc::clone(&bell)).map_err(|errno| ("the file worker", errno))?;
        let log = if options.mmap_log { "log files mapped" } else { "log files by pwrite" };
        let resolver = Resolver::new(Arc::clone(&bell));
        Ok(Portable {
            slots: (0..capacity).map(|_| Slot { token: Token(0), handle: None, work: Work::Free }).collect(),
            free: (0..capacity as u32).rev().collect(),
            handles: Handles::new(options.handles),
            epoll,
            bell,
            worker,
            resolver,
            fresh: VecDeque::with_capacity(capacity),
            ready: VecDeque::with_capacity(capacity),
            mmap_log: options.mmap_log,
            description: format!("epoll and a file worker on {}: {log}, fdatasync ({reason})", kernel()),
            stats: IoStats::default(),
        })
    }

    /// Starts the operation in its slot. On an error nothing was started; memory to give back is in `lent`.
    fn begin(&mut self, slot: u32, op: Op, lent: &mut Option<IoBuf>) -> Result<(), i32> {
        match op {
            Op::OpenDir { path, create } => {
                let dir = files::open_dir(&path, create)?;
                self.opened(slot, Object::Dir(Arc::new(dir)), Output::Opened)
            }
            Op::Lock { dir, name } => {
                let dir = self.handles.dir(dir)?;
                match Lock::take(&dir.file, &name) {
                    Ok(lock) => self.opened(slot, Object::Lock(lock), Output::Opened),
                    // Its holder may be going: not to be waited for on this thread.
                    Err(libc::EWOULDBLOCK) => self.hand_over(slot, Task::Lock { dir, name }),
                    Err(errno) => Err(errno),
                }
            }
            Op::Identify { dir } => {
                let identity = identity::identify(&self.handles.dir(dir)?.file)?;
                self.conclude(slot, Ok(Output::Identity(identity)), None);
                Ok(())
            }
            Op::List { dir } => {
                let files = files::list(&self.handles.dir(dir)?.file)?;
                self.conclude(slot, Ok(Output::Listing(files)), None);
                Ok(())
            }
            Op::Open { dir, name, create } => {
                // A mapping and direct access to the same file would each miss what the other did.
                let direct = !self.mmap_log;
                let dir = self.handles.dir(dir)?;
                self.hand_over(slot, Task::Open { dir, name, create, direct })
            }
            Op::Allocate { file, len } => {
                let file = self.handles.file(file)?;
                self.hand_over(slot, Task::Allocate { file, len, map: self.mmap_log })
            }
            Op::Read { file, offset, buf, len } => match self.handles.file(file) {
                Ok(file) => self.hand_over(slot, Task::Read { file, offset, buf, len }),
                Err(errno) => {
                    *lent = Some(buf);
                    Err(errno)
                }
            },
            Op::Write { file, offset, data, durable } => {
                let file = self.handles.file(file)?;
                self.hand_over(slot, Task::Write { file, offset, data, durable })
            }
            Op::Sync { file } => {
                let file = self.handles.file(file)?;
                self.hand_over(slot, Task::Sync { file })
            }
            Op::SyncDir { dir } => {
                let dir = self.handles.dir(dir)?;
                self.hand_over(slot, Task::SyncDir { dir })
            }
            Op::Rename { dir, from, to } => {
                let dir = self.handles.dir(dir)?;
                self.hand_over(slot, Task::Rename { dir, from, to })
            }
            Op::Unlink { dir, name } => {
                let dir = self.handles.dir(dir)?;
                self.hand_over(slot, Task::Unlink { dir, name })
            }
            Op::Listen { addr } => {
                let listening = sockets::listen(addr, Blocking::No).and_then(|(fd, bound)| Ok((self.watch(fd, Object::Listener)?, bound)));
                let result = listening.map(|(handle, bound)| Output::Listening(handle, bound));
                self.conclude(slot, result.map_err(|errno| classify(errno, During::Socket)), None);
                Ok(())
            }
            Op::Resolve { host, port } => match host.address() {
                Some(ip) => {
                    self.conclude(slot, Ok(Output::Addresses(vec![(ip, port).into()])), None);
                    Ok(())
                }
                None => {
                    self.slot(slot).work = Work::Lookup;
                    self.resolver.submit(slot, host, port)
                }
            },
            Op::Accept { listener } => {
                let (fd, open) = self.handles.listener(listener)?;
                if open.shut {
                    return Err(libc::ECANCELED);
                }
                assert!(open.reader.is_none(), "a second accept outstanding on {listener:?}");
                open.reader = Some(slot);
                self.wait_in(slot, Work::Accept { fd });
                Ok(())
            }
            Op::Connect { addr } => {
                if let Err(errno) = self.connect(slot, addr) {
                    self.conclude(slot, Err(classify(errno, During::Connect)), None);
                }
                Ok(())
            }
            Op::Recv { socket, buf, at, len } => match self.reader(slot, socket) {
                Ok(fd) => {
                    self.wait_in(slot, Work::Recv { fd, buf, at, len });
                    Ok(())
                }
                Err(errno) => {
                    *lent = Some(buf);
                    Err(errno)
                }
            },
            Op::Send { socket, gather } => {
                let (fd, open) = self.handles.connection(socket)?;
                if open.shut {
                    return Err(libc::ECANCELED);
                }
                assert!(open.writer.is_none(), "a second send outstanding on {socket:?}");
                open.writer = Some(slot);
                let total = gather.len();
                self.wait_in(slot, Work::Send { fd, gather, sent: 0, total });
                Ok(())
            }
            Op::Shutdown { socket } => self.shut_down(slot, socket),
            Op::Close { handle } => {
                // This close counts too.
                let busy = self.handles.get(handle).ok_or(libc::EBADF)?.busy;
                assert!(busy == 1, "close of {handle:?} with {} operations outstanding", busy - 1);
                if let Some(Open { object: Object::Lock(lock), .. }) = self.handles.remove(handle) {
                    lock.release();
                }
                self.conclude(slot, Ok(Output::Done), None);
                Ok(())
            }
        }
    }

    fn reader(&mut self, slot: u32, socket: Handle) -> Result<RawFd, i32> {
        let (fd, open) = self.handles.connection(socket)?;
        if open.shut {
            return Err(libc::ECANCELED);
        }
        assert!(open.reader.is_none(), "a second receive outstanding on {socket:?}");
        open.reader = Some(slot);
        Ok(fd)
    }

    fn connect(&mut self, slot: u32, addr: std::net::SocketAddr) -> Result<(), i32> {
        let socket = sockets::make_connection(addr, Blocking::No)?;
        let fd = socket.as_raw_fd();
        // Watched only once it is on its way: before that it would look hung up.
        let begun = transfer::connect(fd, addr);
        if let Attempt::Failed(errno) = begun {
            return Err(errno);
        }
        let handle = self.watch(socket, Object::Connection)?;
        if let Some(open) = self.handles.get(handle) {
            open.writer = Some(slot);
        }
        self.wait_in(slot, Work::Connect { fd, handle });
        Ok(())
    }

    /// Takes a socket into the table, and its events into the turn.
    fn watch(&mut self, socket: OwnedFd, object: impl FnOnce(OwnedFd) -> Object) -> Result<Handle, i32> {
        let fd = socket.as_raw_fd();
        let handle = self.handles.insert(object(socket)).ok_or(libc::EMFILE)?;
        match self.epoll.add(fd, u64::from(handle.0)) {
            Ok(()) => Ok(handle),
            Err(errno) => {
                self.handles.remove(handle);
                Err(errno)
            }
        }
    }

    fn shut_down(&mut self, slot: u32, handle: Handle) -> Result<(), i32> {
        let open = self.handles.get(handle).ok_or(libc::EBADF)?;
        let accept = match &open.object {
            Object::Connection(fd) => {
                sockets::shutdown(fd.as_raw_fd());
                None
            }
            Object::Listener(_) => open.reader,
            _ => return Err(libc::ENOTSOCK),
        };
        open.shut = true;
        let (reader, writer) = (open.reader, open.writer);
        if let Some(accept) = accept {
            self.conclude(accept, Err(IoError::canceled()), None);
        } else {
            // What waits finds the end of its stream now; no need to wait for the event.
            self.fresh.extend(reader.into_iter().chain(writer));
        }
        self.conclude(slot, Ok(Output::Done), None);
        Ok(())
    }

    fn opened(&mut self, slot: u32, object: Object, output: impl FnOnce(Handle) -> Output) -> Result<(), i32> {
        let handle = self.handles.insert(object).ok_or(libc::EMFILE)?;
        self.conclude(slot, Ok(output(handle)), None);
        Ok(())
    }

    fn hand_over(&mut self, slot: u32, task: Task) -> Result<(), i32> {
        self.slot(slot).work = Work::File;
        self.worker.submit(slot, task);
        Ok(())
    }

    /// A socket operation: attempted by the next turn, and whenever its socket becomes ready.
    fn wait_in(&mut self, slot: u32, work: Work) {
        self.slot(slot).work = work;
        self.fresh.push_back(slot);
    }

    fn slot(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    /// Completes an operation and frees its slot, and with it whatever memory it still holds.
    fn conclude(&mut self, slot: u32, result: Result<Output, IoError>, buf: Option<IoBuf>) {
        let place = self.slot(slot);
        place.work = Work::Free;
        let (token, handle) = (place.token, place.handle);
        self.free.push(slot);
        if let Some(handle) = handle {
            self.handles.end(handle, slot);
        }
        self.ready.push_back(Completion { token, result, buf });
    }

    /// Tries a socket operation; it stays in its slot if the socket is not ready.
    fn attempt(&mut self, slot: u32) {
        let handle = self.slot(slot).handle;
        let work = std::mem::replace(&mut self.slot(slot).work, Work::Free);
        match work {
            // Completed in the meantime, by an event or a shutdown.
            Work::Free => {}
            Work::File => self.slot(slot).work = Work::File,
            Work::Lookup => self.slot(slot).work = Work::Lookup,
            Work::Recv { fd, mut buf, at, len } => match transfer::recv(fd, &mut buf.bytes_mut()[at..at + len]) {
                Attempt::Later => self.slot(slot).work = Work::Recv { fd, buf, at, len },
                // The end of a stream that we shut down ourselves is no news from the peer.
                Attempt::Done(0) | Attempt::Failed(_) if self.is_shut(handle) => {
                    self.conclude(slot, Err(IoError::canceled()), Some(buf));
                }
                Attempt::Done(count) => {
                    self.stats.bytes_received += count as u64;
                    self.conclude(slot, Ok(Output::Bytes(count)), Some(buf));
                }
                Attempt::Failed(errno) => self.conclude(slot, Err(classify(errno, During::Other)), Some(buf)),
            },
            Work::Send { fd, gather, mut sent, total } => match transfer::send(fd, &gather, total, &mut sent, &mut self.stats.continued) {
                Attempt::Later => self.slot(slot).work = Work::Send { fd, gather, sent, total },
                Attempt::Done(()) => {
                    self.stats.bytes_sent += total as u64;
                    self.conclude(slot, Ok(Output::Done), None);
                }
                Attempt::Failed(_) if self.is_shut(handle) => self.conclude(slot, Err(IoError::canceled()), None),
                Attempt::Failed(errno) => self.conclude(slot, Err(classify(errno, During::Other)), None),
            },
            Work::Accept { fd } => match transfer::accept(fd) {
                Attempt::Later => self.slot(slot).work = Work::Accept { fd },
                Attempt::Failed(errno) => self.conclude(slot, Err(classify(errno, During::Other)), None),
                Attempt::Done((socket, peer)) => {
                    let taken = sockets::tune(socket.as_raw_fd()).and_then(|()| self.watch(socket, Object::Connection));
                    let result = taken.map(|handle| Output::Accepted(handle, peer));
                    self.conclude(slot, result.map_err(|errno| classify(errno, During::Socket)), None);
                }
            },
            Work::Connect { fd, handle } => match transfer::connected(fd) {
                Attempt::Later => self.slot(slot).work = Work::Connect { fd, handle },
                Attempt::Done(()) => {
                    if let Some(open) = self.handles.get(handle) {
                        open.writer = None;
                    }
                    self.conclude(slot, Ok(Output::Opened(handle)), None);
                }
                Attempt::Failed(errno) => {
                    self.handles.remove(handle);
                    self.conclude(slot, Err(classify(errno, During::Connect)), None);
                }
            },
        }
    }

    fn is_shut(&mut self, handle: Option<Handle>) -> bool {
        handle.is_some_and(|handle| self.handles.is_shut(handle))
    }

    /// Attempts what waits for a socket that became ready.
    fn wake_up(&mut self, event: Event) {
        // A handle that was closed since is stale, and finds nothing.
        let Some(open) = self.handles.get(Handle(event.key as u32)) else { return };
        let (reader, writer) = (open.reader.filter(|_| event.readable), open.writer.filter(|_| event.writable));
        for slot in reader.into_iter().chain(writer) {
            self.attempt(slot);
        }
    }

    /// Takes a job back from the file worker.
    fn finish_file(&mut self, finished: Finished) {
        let result = match finished.result {
            Ok(Yield::Done) => Ok(Output::Done),
            Ok(Yield::Flushed) => {
                self.stats.flushes += 1;
                Ok(Output::Done)
            }
            Ok(Yield::Read(count)) => {
                self.stats.bytes_read += count as u64;
                Ok(Output::Bytes(count))
            }
            Ok(Yield::Written(count, durable)) => {
                self.stats.bytes_written += count as u64;
                self.stats.flushes += u64::from(durable);
                Ok(Output::Done)
            }
            Ok(Yield::Opened(file, len)) => {
                let file = Arc::new(DataFile::new(file, false, None));
                self.handles.insert(Object::File(file)).map(|handle| Output::File(handle, len)).ok_or(IoError::from_errno(libc::EMFILE))
            }
            Ok(Yield::Locked(Some(lock))) => {
                self.handles.insert(Object::Lock(lock)).map(Output::Opened).ok_or(IoError::from_errno(libc::EMFILE))
            }
            Ok(Yield::Locked(None)) => Err(IoError::locked()),
            Err(error) => Err(error),
        };
        self.conclude(finished.slot, result, finished.buf);
    }

    /// Everything that can be completed without waiting.
    fn progress(&mut self) {
        // What an attempt adds is for a handle that just became ready; bounded by the operations outstanding.
        while let Some(slot) = self.fresh.pop_front() {
            self.attempt(slot);
        }
        while let Some(finished) = self.worker.next() {
            self.finish_file(finished);
        }
        while let Some((slot, found)) = self.resolver.next() {
            self.conclude(slot, found.map(Output::Addresses).map_err(IoError::from_errno), None);
        }
    }

    fn run_turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), i32> {
        let before = done.len();
        loop {
            self.progress();
            let mut wait_ns = 0;
            if self.ready.is_empty() {
                wait_ns = until.map_or(0, |until| until.since(clock::now()));
            }
            let sleeps = wait_ns > 0 && self.bell.may_sleep();
            self.stats.enters += 1;
            let events = self.epoll.wait(if sleeps { wait_ns } else { 0 });
            let mut rung = self.bell.answer();
            for index in 0..events? {
                let event = self.epoll.event(index);
                if event.key == BELL {
                    rung = true;
                } else {
                    self.wake_up(event);
                }
            }
            self.progress();
            self.stats.rings += u64::from(rung);
            done.extend(self.ready.drain(..));
            if done.len() > before || rung || wait_ns == 0 {
                self.bell.leave();
                return Ok(());
            }
        }
    }
}

impl Io for Portable {
    fn now(&self) -> Time {
        clock::now()
    }

    fn wall_ns(&self) -> u64 {
        clock::wall_ns()
    }

    fn free_bytes(&mut self, dir: Handle) -> Option<u64> {
        files::free_bytes(&self.handles.dir(dir).ok()?.file)
    }

    fn submit(&mut self, token: Token, op: Op) {
        op.assert_valid();
        self.stats.ops += 1;
        let handle = op.handle();
        let Some(slot) = self.free.pop() else {
            panic!("more than {} operations outstanding: the submitter must keep to Io::capacity", self.slots.len())
        };
        let place = self.slot(slot);
        place.token = token;
        place.handle = handle;
        if let Some(handle) = handle {
            self.handles.begin(handle);
        }
        let mut lent = None;
        if let Err(errno) = self.begin(slot, op, &mut lent) {
            self.conclude(slot, Err(classify(errno, During::Other)), lent);
        }
    }

    fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        self.stats.turns += 1;
        self.run_turn(until, done).map_err(IoError::from_errno)
    }

    fn bell(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as Arc<dyn Wake>
    }

    fn poll_fd(&self) -> Option<RawFd> {
        self.bell.serve_foreign_loop();
        Some(self.epoll.fd())
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn stats(&self) -> IoStats {
        IoStats { flush_calls: self.worker.flush_calls(), ..self.stats }
    }
}

//! From an operation to submission entries. What does not go through the ring is done here and now.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use io_uring::types::{Fd, Fixed, FsyncFlags};
use io_uring::{opcode, squeue};

use super::Uring;
use super::finish::Tag;
use super::slots::{Layout, Read, Work, Write};
use crate::errno::{During, classify};
use crate::files::{self, Dir};
use crate::handles::Object;
use crate::identity;
use crate::limits::MAX_TRANSFER_BYTES;
use crate::lock::Lock;
use crate::sockets::{self, Blocking};
use crate::worker::{Task, Worker};
use crate::{Completion, Handle, IoBuf, IoError, Op, Output, Token};

/// `$make` with the file by its place in the registered table, or by its descriptor.
macro_rules! on_file {
    ($file:expr, $fixed:expr, |$fd:ident| $make:expr) => {
        match $fixed {
            Some(index) => {
                let $fd = Fixed(index);
                $make
            }
            None => {
                let $fd = Fd($file.file.as_raw_fd());
                $make
            }
        }
    };
}

/// Where a read or receive puts its bytes.
fn place(buf: &mut IoBuf) -> *mut u8 {
    match buf {
        IoBuf::Block(block) => block.as_mut_ptr(),
        IoBuf::Pool(pool) => pool.as_mut_ptr(),
    }
}

impl Uring {
    pub(super) fn start(&mut self, token: Token, op: Op) {
        let handle = op.handle();
        let slot = self.slots.take(token, handle);
        if let Some(handle) = handle {
            self.handles.begin(handle);
        }
        let mut lent = None;
        if let Err(errno) = self.begin(slot, op, &mut lent) {
            self.conclude(slot, Err(classify(errno, During::Other)), lent);
        }
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
                    Ok(lock) => {
                        let handle = self.lock_taken(lock)?;
                        self.conclude(slot, Ok(Output::Opened(handle)), None);
                        Ok(())
                    }
                    // Its holder may be going: not to be waited for on this thread.
                    Err(libc::EWOULDBLOCK) => self.hand_over(slot, None, Task::Lock { dir, name }),
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
                let dir = self.handles.dir(dir)?;
                if !self.features.open {
                    let direct = self.features.direct;
                    return self.hand_over(slot, Some(Arc::clone(&dir)), Task::Open { dir, name, create, direct });
                }
                self.slots.set_name(slot, 0, &name);
                self.push_open(slot, dir, create, self.features.direct);
                Ok(())
            }
            Op::Allocate { file, len } => {
                let file = self.handles.file(file)?;
                if !self.features.allocate || len == 0 {
                    return self.hand_over(slot, None, Task::Allocate { file, len, map: false });
                }
                let entry = opcode::Fallocate::new(Fd(file.file.as_raw_fd()), len).build();
                self.queue(slot, Work::Allocate { file, len }, entry);
                Ok(())
            }
            Op::Read { file, offset, buf, len } => {
                let file = match self.handles.file(file) {
                    Ok(file) => file,
                    Err(errno) => {
                        *lent = Some(buf);
                        return Err(errno);
                    }
                };
                let fixed = file.place;
                self.push_read(slot, Read { file, fixed, buf, offset, len, done: 0 });
                Ok(())
            }
            Op::Write { file, offset, data, durable } => {
                let file = self.handles.file(file)?;
                let fixed = file.place;
                self.push_write(slot, Write { file, fixed, data, offset, done: 0, durable, linked: false });
                Ok(())
            }
            Op::Sync { file } => {
                let file = self.handles.file(file)?;
                let entry = opcode::Fsync::new(Fd(file.file.as_raw_fd())).build();
                self.queue(slot, Work::Sync { file }, entry);
                Ok(())
            }
            Op::SyncDir { dir } => {
                let dir = self.handles.dir(dir)?;
                let entry = opcode::Fsync::new(Fd(dir.file.as_raw_fd())).build();
                self.queue(slot, Work::SyncDir { dir }, entry);
                Ok(())
            }
            Op::Rename { dir, from, to } => {
                let dir = self.handles.dir(dir)?;
                if !self.features.rename {
                    return self.hand_over(slot, None, Task::Rename { dir, from, to });
                }
                let at = Fd(dir.file.as_raw_fd());
                let (from, to) = (self.slots.set_name(slot, 0, &from), self.slots.set_name(slot, 1, &to));
                self.queue(slot, Work::Rename { dir }, opcode::RenameAt::new(at, from, at, to).build());
                Ok(())
            }
            Op::Unlink { dir, name } => {
                let dir = self.handles.dir(dir)?;
                if !self.features.unlink {
                    return self.hand_over(slot, None, Task::Unlink { dir, name });
                }
                let name = self.slots.set_name(slot, 0, &name);
                let entry = opcode::UnlinkAt::new(Fd(dir.file.as_raw_fd()), name).build();
                self.queue(slot, Work::Unlink { dir }, entry);
                Ok(())
            }
            Op::Listen { addr } => {
                let (fd, bound) = sockets::listen(addr, Blocking::Yes)?;
                self.opened(slot, Object::Listener(fd), |handle| Output::Listening(handle, bound))
            }
            Op::Resolve { host, port } => match host.address() {
                Some(ip) => {
                    self.conclude(slot, Ok(Output::Addresses(vec![(ip, port).into()])), None);
                    Ok(())
                }
                None => {
                    self.slots.get(slot).work = Work::Lookup;
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
                self.push_accept(slot, fd);
                Ok(())
            }
            Op::Connect { addr } => {
                let socket = match sockets::make_connection(addr, Blocking::Yes) {
                    Ok(socket) => socket,
                    Err(errno) => {
                        self.conclude(slot, Err(classify(errno, During::Connect)), None);
                        return Ok(());
                    }
                };
                let addr_len = self.slots.set_addr(slot, addr);
                self.push_connect(slot, socket, addr_len);
                Ok(())
            }
            Op::Recv { socket, buf, at, len } => {
                let fd = match self.handles.connection(socket) {
                    Ok((_, open)) if open.shut => Err(libc::ECANCELED),
                    Ok((fd, open)) => {
                        assert!(open.reader.is_none(), "a second receive outstanding on {socket:?}");
                        open.reader = Some(slot);
                        Ok(fd)
                    }
                    Err(errno) => Err(errno),
                };
                match fd {
                    Ok(fd) => {
                        self.push_recv(slot, fd, buf, at, len);
                        Ok(())
                    }
                    Err(errno) => {
                        *lent = Some(buf);
                        Err(errno)
                    }
                }
            }
            Op::Send { socket, gather } => {
                let (fd, open) = self.handles.connection(socket)?;
                if open.shut {
                    return Err(libc::ECANCELED);
                }
                assert!(open.writer.is_none(), "a second send outstanding on {socket:?}");
                open.writer = Some(slot);
                let total = gather.len();
                self.push_send(slot, fd, gather, 0, total);
                Ok(())
            }
            Op::Shutdown { socket } => self.shut_down(slot, socket),
            Op::Close { handle } => {
                // This close counts too.
                let busy = self.handles.get(handle).ok_or(libc::EBADF)?.busy;
                assert!(busy == 1, "close of {handle:?} with {} operations outstanding", busy - 1);
                match self.handles.remove(handle).map(|open| open.object) {
                    Some(Object::File(file)) => file.place.into_iter().for_each(|place| self.table.leave(&self.ring, place)),
                    Some(Object::Lock(lock)) => {
                        lock.places.iter().for_each(|place| self.table.leave(&self.ring, *place));
                        lock.release();
                    }
                    _ => {}
                }
                self.conclude(slot, Ok(Output::Done), None);
                Ok(())
            }
        }
    }

    /// The ring holds the lock too, and lets go of it when its last operation has ended.
    pub(super) fn lock_taken(&mut self, mut lock: Lock) -> Result<Handle, i32> {
        self.enable();
        let mut places = heapless::Vec::new();
        let entered = lock.descriptors().try_for_each(|fd| {
            // As many places as descriptors.
            let _ = places.push(self.table.enter_lock(&self.ring, fd)?);
            Ok(())
        });
        if let Err(errno) = entered {
            places.iter().for_each(|place| self.table.leave(&self.ring, *place));
            return Err(errno);
        }
        lock.places = places.clone();
        let handle = self.handles.insert(Object::Lock(lock));
        if handle.is_none() {
            places.iter().for_each(|place| self.table.leave(&self.ring, *place));
        }
        handle.ok_or(libc::EMFILE)
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
        match accept {
            Some(target) => {
                let entry = opcode::AsyncCancel::new(Tag::Part { slot: target, part: 0 }.pack()).build();
                self.queue(slot, Work::Cancel, entry);
            }
            None => self.conclude(slot, Ok(Output::Done), None),
        }
        Ok(())
    }

    /// Installs an object and completes with what `output` makes of its handle.
    pub(super) fn opened(&mut self, slot: u32, object: Object, output: impl FnOnce(Handle) -> Output) -> Result<(), i32> {
        let handle = self.handles.insert(object).ok_or(libc::EMFILE)?;
        self.conclude(slot, Ok(output(handle)), None);
        Ok(())
    }

    /// Hands a job to the file worker, starting it with the first.
    pub(super) fn hand_over(&mut self, slot: u32, dir: Option<Arc<Dir>>, task: Task) -> Result<(), i32> {
        self.need_worker()?;
        self.slots.get(slot).work = Work::Worker { dir };
        if let Some(worker) = &self.worker {
            worker.submit(slot, task);
        }
        Ok(())
    }

    /// Starts the file worker, if it is not there. The error is the system's number: no thread is to be had.
    pub(super) fn need_worker(&mut self) -> Result<(), i32> {
        if self.worker.is_none() {
            self.worker = Some(Worker::start(self.slots.capacity(), Arc::clone(&self.bell))?);
        }
        Ok(())
    }

    /// A completion that did not come from the ring.
    pub(super) fn conclude(&mut self, slot: u32, result: Result<Output, IoError>, buf: Option<IoBuf>) {
        let completion = self.release(slot, result, buf);
        self.ready.push_back(completion);
    }

    /// Frees the slot, and with it whatever memory it still holds.
    pub(super) fn release(&mut self, slot: u32, result: Result<Output, IoError>, buf: Option<IoBuf>) -> Completion {
        let (token, handle) = self.slots.release(slot);
        if let Some(handle) = handle {
            self.handles.end(handle, slot);
        }
        Completion { token, result, buf }
    }

    /// Queues the one entry of an operation.
    fn queue(&mut self, slot: u32, work: Work, entry: squeue::Entry) {
        let place = self.slots.get(slot);
        place.work = work;
        place.owed = 1;
        self.push(&[entry.user_data(Tag::Part { slot, part: 0 }.pack())]);
    }

    pub(super) fn push_open(&mut self, slot: u32, dir: Arc<Dir>, create: bool, direct: bool) {
        let flags = if direct || !self.features.direct { files::open_flags(create, direct) } else { files::buffered_flags(create) };
        let name = self.slots.name(slot, 0);
        let entry = opcode::OpenAt::new(Fd(dir.file.as_raw_fd()), name).flags(flags).mode(files::FILE_MODE).build();
        self.queue(slot, Work::Open { dir, create, direct }, entry);
    }

    pub(super) fn push_read(&mut self, slot: u32, mut read: Read) {
        // In bounds: `done` never exceeds `len`, and `len` never exceeds the buffer.
        let from = place(&mut read.buf).wrapping_add(read.done);
        let len = (read.len - read.done).min(MAX_TRANSFER_BYTES);
        let at = read.offset + read.done as u64;
        let file = &read.file;
        let entry = match self.registered(from, len) {
            Some(index) => on_file!(file, read.fixed, |fd| opcode::ReadFixed::new(fd, from, len as u32, index).offset(at).build()),
            None => on_file!(file, read.fixed, |fd| opcode::Read::new(fd, from, len as u32).offset(at).build()),
        };
        self.queue(slot, Work::Read(read), entry);
    }

    pub(super) fn push_write(&mut self, slot: u32, mut write: Write) {
        let left = &write.data.bytes()[write.done..];
        let (from, len) = (left.as_ptr(), left.len().min(MAX_TRANSFER_BYTES));
        let at = write.offset + write.done as u64;
        write.linked = write.durable && !write.file.dsync();
        let flags = if write.durable && !write.linked { libc::RWF_DSYNC } else { 0 };
        let (file, fixed) = (&write.file, write.fixed);
        let entry = match self.registered(from, len) {
            Some(index) => {
                on_file!(file, fixed, |fd| opcode::WriteFixed::new(fd, from, len as u32, index).offset(at).rw_flags(flags).build())
            }
            None => on_file!(file, fixed, |fd| opcode::Write::new(fd, from, len as u32).offset(at).rw_flags(flags).build()),
        };
        if !write.linked {
            return self.queue(slot, Work::Write(write), entry);
        }
        // The flush begins when the write has ended; a write that fails or comes up short cancels it.
        let flush = on_file!(file, fixed, |fd| opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build());
        let entry = entry.flags(squeue::Flags::IO_LINK).user_data(Tag::Part { slot, part: 0 }.pack());
        let flush = flush.user_data(Tag::Part { slot, part: 1 }.pack());
        let place = self.slots.get(slot);
        place.work = Work::Write(write);
        place.owed = 2;
        self.push(&[entry, flush]);
    }

    pub(super) fn push_accept(&mut self, slot: u32, fd: RawFd) {
        let (addr, len) = self.slots.accept_addr(slot);
        let entry = opcode::Accept::new(Fd(fd), addr, len).flags(Blocking::Yes.flag()).build();
        self.queue(slot, Work::Accept { fd }, entry);
    }

    pub(super) fn push_connect(&mut self, slot: u32, socket: OwnedFd, addr_len: libc::socklen_t) {
        let addr = self.slots.addr_place(slot);
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), addr, addr_len).build();
        self.queue(slot, Work::Connect { socket, addr_len }, entry);
    }

    pub(super) fn push_recv(&mut self, slot: u32, fd: RawFd, mut buf: IoBuf, at: usize, len: usize) {
        let len32 = len.min(MAX_TRANSFER_BYTES) as u32;
        let entry = opcode::Recv::new(Fd(fd), place(&mut buf).wrapping_add(at), len32).build();
        self.queue(slot, Work::Recv { fd, buf, at, len }, entry);
    }

    pub(super) fn push_send(&mut self, slot: u32, fd: RawFd, gather: crate::Gather, done: usize, total: usize) {
        // The kernel goes on with a short send by itself where it can (5.19).
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = match self.slots.set_pieces(slot, &gather, done) {
            Layout::One(from, len) => opcode::Send::new(Fd(fd), from, len.min(MAX_TRANSFER_BYTES) as u32).flags(flags).build(),
            Layout::Many(message) => opcode::SendMsg::new(Fd(fd), message).flags(flags as u32).build(),
        };
        self.queue(slot, Work::Send { fd, gather, done, total }, entry);
    }
}

/// Takes ownership of a descriptor that the kernel just gave in a completion.
pub(super) fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the completion of an open or accept carries a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

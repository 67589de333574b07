//! From a completion entry to a completion, or to the next part of an operation that came up short.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kontiki_mem::BLOCK_BYTES;

use super::Uring;
use super::slots::{Read, Work, Write};
use super::start::owned;
use crate::errno::{During, classify, is_lost_accept, is_transient, lacked_memory};
use crate::files::{self, DataFile, Dir};
use crate::handles::Object;
use crate::sockets;
use crate::worker::{Finished, Task, Yield};
use crate::{Completion, IoBuf, IoError, Output, tell};

/// What a completion entry belongs to, as the entry's user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// A part of the operation in a slot: the operation itself, or the flush linked to a write.
    Part { slot: u32, part: u8 },
    /// The read of the bell.
    Bell,
    /// The timeout of a waiting turn.
    Timeout,
    /// A cancellation, at the end.
    Cancel,
}

impl Tag {
    pub(super) const fn pack(self) -> u64 {
        match self {
            Tag::Part { slot, part } => (part as u64) << 32 | slot as u64,
            Tag::Bell => 1 << 56,
            Tag::Timeout => 2 << 56,
            Tag::Cancel => 3 << 56,
        }
    }

    pub(super) const fn unpack(data: u64) -> Tag {
        match data >> 56 {
            0 => Tag::Part { slot: data as u32, part: (data >> 32) as u8 },
            1 => Tag::Bell,
            2 => Tag::Timeout,
            _ => Tag::Cancel,
        }
    }
}

/// How a part of an operation ended.
enum Ended {
    /// The operation is over.
    Over(Result<Output, IoError>, Option<IoBuf>),
    /// Another part is under way.
    Goes,
}

impl Ended {
    fn failed(errno: i32) -> Ended {
        Ended::Over(Err(classify(errno, During::Other)), None)
    }
}

impl Uring {
    /// Takes one completion entry of a slot.
    pub(super) fn finish(&mut self, index: u32, part: u8, result: i32, done: &mut Vec<Completion>) {
        let slot = self.slots.get(index);
        assert!(slot.owed > 0, "completion for slot {index}, which awaits none");
        slot.owed -= 1;
        slot.results[usize::from(part & 1)] = result;
        if slot.owed > 0 {
            return;
        }
        let results = slot.results;
        let work = std::mem::replace(&mut slot.work, Work::Free);
        if let Ended::Over(result, buf) = self.end(index, work, results) {
            let completion = self.release(index, result, buf);
            done.push(completion);
        }
    }

    fn end(&mut self, slot: u32, work: Work, results: [i32; 2]) -> Ended {
        let result = results[0];
        // An operation that did nothing and says "again" goes again, unless everything is coming to an end.
        let again = result < 0 && is_transient(-result) && !self.draining;
        // The kernel had no thread for it: it then says that it was cancelled, and has not begun.
        let not_begun = result == -libc::ECANCELED && !self.draining;
        // For lack of memory, or of a thread: the file worker waits and does it from the beginning. Pushed again at once, it
        // would be a loop that keeps the processor from whatever could end it.
        let lacking = not_begun || result < 0 && lacked_memory(-result) && !self.draining;
        if lacking && may_go_again(&work, not_begun) && self.need_worker().is_ok() {
            return self.go_on_aside(slot, work);
        }
        if not_begun && work.is_of_files() {
            return Ended::Over(Err(IoError::not_begun()), if let Work::Read(read) = work { Some(read.buf) } else { None });
        }
        match work {
            Work::Read(read) if result == -libc::EINTR && again => {
                self.push_read(slot, read);
                Ended::Goes
            }
            Work::Read(read) => self.end_read(slot, read, result),
            Work::Write(write) if result == -libc::EINTR && again => {
                self.push_write(slot, write);
                Ended::Goes
            }
            Work::Write(write) => self.end_write(slot, write, result, results[1]),
            Work::Recv { fd, buf, at, len } => {
                if again {
                    self.push_recv(slot, fd, buf, at, len);
                    return Ended::Goes;
                }
                let result = match result {
                    // The end of a stream that we shut down ourselves is no news from the peer.
                    ended if ended <= 0 && self.is_shut(slot) => Err(IoError::canceled()),
                    0.. => Ok(Output::Bytes(result as usize)),
                    failed => Err(classify(-failed, During::Other)),
                };
                if let Ok(Output::Bytes(count)) = &result {
                    self.stats.bytes_received += *count as u64;
                }
                Ended::Over(result, Some(buf))
            }
            Work::Send { fd, gather, done, total } => {
                if result <= 0 && !again {
                    let shut = self.is_shut(slot);
                    let error =
                        if shut { IoError::canceled() } else { classify(if result == 0 { libc::EPIPE } else { -result }, During::Other) };
                    return Ended::Over(Err(error), None);
                }
                let done = done + result.max(0) as usize;
                if done < total {
                    if self.draining {
                        return Ended::Over(Err(IoError::canceled()), None);
                    }
                    self.stats.continued += 1;
                    self.push_send(slot, fd, gather, done, total);
                    return Ended::Goes;
                }
                self.stats.bytes_sent += total as u64;
                Ended::Over(Ok(Output::Done), None)
            }
            Work::Accept { fd } => {
                if result >= 0 {
                    return self.accepted(slot, result);
                }
                if (again || is_lost_accept(-result)) && !self.is_shut(slot) && !self.draining {
                    self.push_accept(slot, fd);
                    return Ended::Goes;
                }
                if self.is_shut(slot) { Ended::Over(Err(IoError::canceled()), None) } else { Ended::failed(-result) }
            }
            Work::Connect { socket, addr_len } => {
                if again {
                    self.push_connect(slot, socket, addr_len);
                    return Ended::Goes;
                }
                // Interrupted and asked again, it may have come about in between.
                if result < 0 && -result != libc::EISCONN {
                    return Ended::Over(Err(classify(-result, During::Connect)), None);
                }
                self.hand_out(Object::Connection(socket), Output::Opened)
            }
            Work::Open { dir, create, direct } => {
                if again && result == -libc::EINTR {
                    self.push_open(slot, dir, create, direct);
                    return Ended::Goes;
                }
                if -result == libc::EINVAL && direct && !self.draining {
                    files::note_buffered();
                    self.push_open(slot, dir, create, false);
                    return Ended::Goes;
                }
                if result < 0 {
                    return Ended::failed(-result);
                }
                let file = File::from(owned(result));
                match files::length(&file) {
                    Ok(len) => self.file_opened(&dir, file, len),
                    Err(errno) => Ended::failed(errno),
                }
            }
            Work::Allocate { file, len } => {
                if (matches!(-result, libc::EOPNOTSUPP | libc::ENOSYS) || again) && !self.draining {
                    // Reserving by writing zeros takes long: not on this thread.
                    return match self.hand_over(slot, None, Task::Allocate { file, len, map: false }) {
                        Ok(()) => Ended::Goes,
                        Err(errno) => Ended::failed(errno),
                    };
                }
                let result = if result < 0 { Err(-result) } else { files::trim(&file.file, len) };
                match result {
                    Ok(()) => Ended::Over(Ok(Output::Done), None),
                    Err(errno) => Ended::failed(errno),
                }
            }
            Work::Sync { .. } => self.flushed(if result < 0 { Err(-result) } else { Ok(()) }),
            Work::SyncDir { .. } => self.flushed(files::dir_synced(if result < 0 { Err(-result) } else { Ok(()) })),
            Work::Rename { .. } | Work::Unlink { .. } => {
                if result < 0 {
                    Ended::failed(-result)
                } else {
                    Ended::Over(Ok(Output::Done), None)
                }
            }
            // Found and cancelled, or already over: both is what was asked for.
            Work::Cancel => Ended::Over(Ok(Output::Done), None),
            Work::Free | Work::Lookup | Work::Worker { .. } => unreachable!("slot {slot} has nothing in the kernel"),
        }
    }

    /// Gives a read or write, whole, to the file worker: what is written anew and flushed is durable whatever came
    /// before.
    fn go_on_aside(&mut self, slot: u32, work: Work) -> Ended {
        let task = match work {
            Work::Read(Read { file, buf, offset, len, .. }) => Task::Read { file, offset, buf, len },
            Work::Write(Write { file, data, offset, durable, .. }) => Task::Write { file, offset, data, durable },
            other => unreachable!("{other:?} is not done aside"),
        };
        tell!(warn, ?task, "the kernel lacks memory or threads: the operation is tried again by the file worker");
        match self.hand_over(slot, None, task) {
            Ok(()) => Ended::Goes,
            Err(errno) => Ended::failed(errno),
        }
    }

    fn end_read(&mut self, slot: u32, mut read: Read, result: i32) -> Ended {
        if result < 0 {
            return Ended::Over(Err(classify(-result, During::Other)), Some(read.buf));
        }
        read.done += result as usize;
        // Nothing more, or the last part of a block: the end of the file.
        if read.done < read.len && result > 0 && read.done.is_multiple_of(BLOCK_BYTES) && !self.draining {
            self.push_read(slot, read);
            return Ended::Goes;
        }
        self.stats.bytes_read += read.done as u64;
        Ended::Over(Ok(Output::Bytes(read.done)), Some(read.buf))
    }

    fn end_write(&mut self, slot: u32, mut write: Write, result: i32, flushed: i32) -> Ended {
        // Refused as such, before anything was written.
        if -result == libc::EOPNOTSUPP && write.durable && !write.linked && !self.draining {
            tell!(warn, "this file system takes no RWF_DSYNC: a flush follows each durable write");
            write.file.dsync.store(false, Ordering::Relaxed);
            self.push_write(slot, write);
            return Ended::Goes;
        }
        if result <= 0 {
            let during = if write.may_have_flushed() { During::Flush } else { During::Other };
            // A disk that takes nothing and gives no reason is broken.
            return Ended::Over(Err(classify(if result == 0 { libc::EIO } else { -result }, during)), None);
        }
        let total = write.data.bytes().len();
        write.done += result as usize;
        if write.done < total {
            if self.draining {
                return Ended::Over(Err(IoError::canceled()), None);
            }
            self.stats.continued += 1;
            self.push_write(slot, write);
            return Ended::Goes;
        }
        // The kernel had no thread for the flush: all is done again, by the file worker.
        if write.linked && flushed == -libc::ECANCELED && !self.draining && self.need_worker().is_ok() {
            return self.go_on_aside(slot, Work::Write(write));
        }
        if write.linked && flushed < 0 {
            return Ended::Over(Err(classify(-flushed, During::Flush)), None);
        }
        self.stats.bytes_written += total as u64;
        self.stats.flushes += u64::from(write.durable);
        self.stats.flush_calls += u64::from(write.durable);
        Ended::Over(Ok(Output::Done), None)
    }

    fn accepted(&mut self, slot: u32, fd: i32) -> Ended {
        let socket = owned(fd);
        let peer = self.slots.addr(slot);
        match sockets::tune(socket.as_raw_fd()) {
            Ok(()) => self.hand_out(Object::Connection(socket), |handle| Output::Accepted(handle, peer)),
            Err(errno) => Ended::failed(errno),
        }
    }

    fn hand_out(&mut self, object: Object, output: impl FnOnce(crate::Handle) -> Output) -> Ended {
        match self.handles.insert(object) {
            Some(handle) => Ended::Over(Ok(output(handle)), None),
            None => Ended::failed(libc::EMFILE),
        }
    }

    fn file_opened(&mut self, dir: &Dir, file: File, len: u64) -> Ended {
        self.enable();
        // Only files are registered, of the handles that are worked with: their operations are short. Before 6.13 an
        // entry that was taken out is held until operations that began before are over, and a receive may take for ever.
        let place = self.table.enter(&self.ring, file.as_raw_fd());
        let file = Arc::new(DataFile::new(file, dir.honours_dsync && self.features.dsync, place));
        match self.handles.insert(Object::File(file)) {
            Some(handle) => Ended::Over(Ok(Output::File(handle, len)), None),
            None => {
                place.into_iter().for_each(|place| self.table.leave(&self.ring, place));
                Ended::failed(libc::EMFILE)
            }
        }
    }

    fn flushed(&mut self, result: Result<(), i32>) -> Ended {
        match result {
            Ok(()) => {
                self.stats.flushes += 1;
                self.stats.flush_calls += 1;
                Ended::Over(Ok(Output::Done), None)
            }
            Err(errno) => Ended::Over(Err(classify(errno, During::Flush)), None),
        }
    }

    fn is_shut(&mut self, slot: u32) -> bool {
        let handle = self.slots.get(slot).handle;
        handle.is_some_and(|handle| self.handles.is_shut(handle))
    }

    /// Takes a job back from the file worker.
    pub(super) fn finish_worker(&mut self, finished: Finished) {
        let slot = finished.slot;
        let work = std::mem::replace(&mut self.slots.get(slot).work, Work::Free);
        let ended = match (finished.result, work) {
            (Err(error), _) => Ended::Over(Err(error), None),
            (Ok(Yield::Opened(file, len)), Work::Worker { dir: Some(dir) }) => self.file_opened(&dir, file, len),
            (Ok(Yield::Locked(None)), _) => Ended::Over(Err(IoError::locked()), None),
            (Ok(Yield::Locked(Some(lock))), _) => match self.lock_taken(lock) {
                Ok(handle) => Ended::Over(Ok(Output::Opened(handle)), None),
                Err(errno) => Ended::failed(errno),
            },
            (Ok(Yield::Opened(..)), _) => unreachable!("an open keeps its directory"),
            (Ok(Yield::Read(count)), _) => {
                self.stats.bytes_read += count as u64;
                Ended::Over(Ok(Output::Bytes(count)), None)
            }
            (Ok(Yield::Written(count, durable)), _) => {
                self.stats.bytes_written += count as u64;
                self.stats.flushes += u64::from(durable);
                Ended::Over(Ok(Output::Done), None)
            }
            (Ok(Yield::Done | Yield::Flushed), _) => Ended::Over(Ok(Output::Done), None),
        };
        if let Ended::Over(result, buf) = ended {
            self.conclude(slot, result, buf.or(finished.buf));
        }
    }
}

/// Whether it may be done again from its beginning.
fn may_go_again(work: &Work, not_begun: bool) -> bool {
    match work {
        Work::Read(_) => true,
        Work::Write(write) => not_begun || !write.may_have_flushed(),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use kontiki_mem::Pool;

    use super::*;
    use crate::{Handle, Io, IoData, IoErrorKind, Name, Op, Options, Region, Token};

    fn call(io: &mut Uring, op: Op) -> Completion {
        io.submit(Token(1), op);
        wait(io)
    }

    fn wait(io: &mut Uring) -> Completion {
        let mut done = Vec::new();
        while done.is_empty() {
            let until = io.now().plus_ns(1_000_000_000);
            io.turn(Some(until), &mut done).unwrap();
        }
        done.remove(0)
    }

    fn handle(completion: Completion) -> Handle {
        match completion.result {
            Ok(Output::Opened(handle) | Output::File(handle, _)) => handle,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_kernel_had_no_memory_or_thread_for_is_done_all_the_same() {
        const B: usize = BLOCK_BYTES;
        let pool = Pool::new(2, B);
        let Ok(mut io) = Uring::open(&Options::default(), &[Region::pool(&pool)]) else { return };
        let path = tempfile::tempdir().unwrap();
        let dir = handle(call(&mut io, Op::OpenDir { path: path.path().into(), create: false }));
        let open = handle(call(&mut io, Op::Open { dir, name: Name::new("data").unwrap(), create: true }));
        call(&mut io, Op::Allocate { file: open, len: B as u64 }).result.unwrap();
        for errno in [libc::ENOMEM, libc::EAGAIN, libc::ECANCELED] {
            // As if the kernel had answered so.
            let file = io.handles.file(open).unwrap();
            let mut buf = pool.take().unwrap();
            buf.bytes_mut().fill(errno as u8);
            let write = Write {
                file: Arc::clone(&file),
                fixed: None,
                data: IoData::Pool(buf, B),
                offset: 0,
                done: 0,
                durable: true,
                linked: false,
            };
            let slot = io.slots.take(Token(7), Some(open));
            io.handles.begin(open);
            assert!(matches!(io.end(slot, Work::Write(write), [-errno, 0]), Ended::Goes));
            let written = wait(&mut io);
            assert!(written.token == Token(7) && matches!(written.result, Ok(Output::Done)), "{written:?}");
            let read = Read { file, fixed: None, buf: IoBuf::Pool(pool.take().unwrap()), offset: 0, len: B, done: 0 };
            let slot = io.slots.take(Token(8), Some(open));
            io.handles.begin(open);
            assert!(matches!(io.end(slot, Work::Read(read), [-errno, 0]), Ended::Goes));
            let read = wait(&mut io);
            assert!(matches!(read.result, Ok(Output::Bytes(B))), "{read:?}");
            assert!(read.buf.unwrap().bytes().iter().all(|byte| *byte == errno as u8));
        }
        assert_eq!(pool.available(), 2);
    }

    /// What was not begun may be submitted again, flushes too; what a flush lacked on its way is its failure.
    #[test]
    fn a_flush_is_short_of_something_only_if_it_was_not_begun() {
        const B: usize = BLOCK_BYTES;
        let pool = Pool::new(1, B);
        let Ok(mut io) = Uring::open(&Options::default(), &[Region::pool(&pool)]) else { return };
        let path = tempfile::tempdir().unwrap();
        let open_dir = handle(call(&mut io, Op::OpenDir { path: path.path().into(), create: false }));
        let open = handle(call(&mut io, Op::Open { dir: open_dir, name: Name::new("data").unwrap(), create: true }));
        call(&mut io, Op::Allocate { file: open, len: B as u64 }).result.unwrap();
        let file = io.handles.file(open).unwrap();
        let dir = io.handles.dir(open_dir).unwrap();
        // As if the kernel had answered so.
        let mut answer = |handle, work, results| {
            let slot = io.slots.take(Token(7), Some(handle));
            io.handles.begin(handle);
            match io.end(slot, work, results) {
                Ended::Over(result, buf) => io.release(slot, result, buf).result,
                Ended::Goes => wait(&mut io).result,
            }
        };
        let kind = |result: Result<Output, IoError>| result.unwrap_err().kind;
        for (errno, expected) in
            [(libc::ECANCELED, IoErrorKind::Shortage), (libc::ENOMEM, IoErrorKind::Device), (libc::EAGAIN, IoErrorKind::Device)]
        {
            assert_eq!(kind(answer(open, Work::Sync { file: Arc::clone(&file) }, [-errno, 0])), expected, "{errno}");
            assert_eq!(kind(answer(open_dir, Work::SyncDir { dir: Arc::clone(&dir) }, [-errno, 0])), expected, "{errno}");
        }
        for errno in [libc::ECANCELED, libc::ENOMEM] {
            assert_eq!(kind(answer(open_dir, Work::Unlink { dir: Arc::clone(&dir) }, [-errno, 0])), IoErrorKind::Shortage);
            assert_eq!(kind(answer(open_dir, Work::Rename { dir: Arc::clone(&dir) }, [-errno, 0])), IoErrorKind::Shortage);
            assert_eq!(kind(answer(open, Work::Allocate { file: Arc::clone(&file), len: 0 }, [-errno, 0])), IoErrorKind::Shortage);
        }
        // A write that was whole when its flush was not begun is done again with it; a flush that failed ends it.
        let write = |file: &Arc<DataFile>| {
            let data = IoData::Pool(pool.take().unwrap(), B);
            Work::Write(Write { file: Arc::clone(file), fixed: None, data, offset: 0, done: 0, durable: true, linked: true })
        };
        assert!(matches!(answer(open, write(&file), [B as i32, -libc::ECANCELED]), Ok(Output::Done)));
        for errno in [libc::ENOMEM, libc::EIO] {
            assert_eq!(kind(answer(open, write(&file), [B as i32, -errno])), IoErrorKind::Device);
        }
        // Through the page cache a failure may be that of the flush, and may have cost others what they wrote.
        let cached = File::options().read(true).write(true).open(path.path().join("data")).unwrap();
        let cached = Arc::new(DataFile::new(cached, true, None));
        let Work::Write(durable) = write(&cached) else { unreachable!() };
        let durable = Work::Write(Write { linked: false, ..durable });
        assert_eq!(kind(answer(open, durable, [-libc::ENOMEM, 0])), IoErrorKind::Device);
    }

    #[test]
    fn a_tag_survives_the_kernel() {
        let tags = [Tag::Part { slot: 0, part: 0 }, Tag::Part { slot: u32::MAX, part: 1 }, Tag::Bell, Tag::Timeout, Tag::Cancel];
        for tag in tags {
            assert_eq!(Tag::unpack(tag.pack()), tag);
        }
    }
}

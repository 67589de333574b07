//! The file worker: one thread that runs blocking file operations, for the portable backend and for what a
//! kernel's io_uring lacks.
//!
//! Jobs run in order. Durable writes to one file that wait behind each other share one flush. Both queues have
//! their full size from the start.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::bell::Bell;
use crate::errno::{During, classify, lacked_memory};
use crate::files::{self, DataFile, Dir};
use crate::limits::{MEMORY_PATIENCE_MS, MEMORY_RETRY_MS};
use crate::lock::Lock;
use crate::portable::mapped::Mapped;
use crate::{IoBuf, IoData, IoError, Name, Wake, clock};

/// What to do.
#[derive(Debug)]
pub(crate) enum Task {
    Lock { dir: Arc<Dir>, name: Name },
    Open { dir: Arc<Dir>, name: Name, create: bool, direct: bool },
    Allocate { file: Arc<DataFile>, len: u64, map: bool },
    Read { file: Arc<DataFile>, offset: u64, buf: IoBuf, len: usize },
    Write { file: Arc<DataFile>, offset: u64, data: IoData, durable: bool },
    Sync { file: Arc<DataFile> },
    Rename { dir: Arc<Dir>, from: Name, to: Name },
    Unlink { dir: Arc<Dir>, name: Name },
    SyncDir { dir: Arc<Dir> },
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Yield {
    Done,
    /// Bytes read.
    Read(usize),
    /// Bytes written, and whether they are durable.
    Written(usize, bool),
    /// A flush that was asked for.
    Flushed,
    /// A lock; none if another holds on to it.
    Locked(Option<Lock>),
    /// The file and its length.
    Opened(File, u64),
}

/// A finished job: its slot, its outcome, and the memory that a read was lent.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) slot: u32,
    pub(crate) result: Result<Yield, IoError>,
    pub(crate) buf: Option<IoBuf>,
}

#[derive(Debug)]
struct Job {
    slot: u32,
    task: Task,
}

#[derive(Debug)]
struct Queue {
    jobs: VecDeque<Job>,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    finished: Mutex<VecDeque<Finished>>,
    /// Something lies in `finished`: spares the reactor the lock.
    any: AtomicBool,
    flush_calls: AtomicU64,
    bell: Arc<Bell>,
}

#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// No lock is held across anything that can panic, so a poisoned one is still whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// Starts the thread, with room for `capacity` jobs; the bell is rung after each batch of finished ones.
    pub(crate) fn start(capacity: usize, bell: Arc<Bell>) -> Result<Worker, i32> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { jobs: VecDeque::with_capacity(capacity), stop: false }),
            more: Condvar::new(),
            finished: Mutex::new(VecDeque::with_capacity(capacity)),
            any: AtomicBool::new(false),
            flush_calls: AtomicU64::new(0),
            bell,
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("kontiki-files".into())
            .spawn(move || run(&theirs, capacity))
            .map_err(|error| crate::errno::number(&error))?;
        Ok(Worker { shared, thread: Some(thread) })
    }

    pub(crate) fn submit(&self, slot: u32, task: Task) {
        locked(&self.shared.queue).jobs.push_back(Job { slot, task });
        self.shared.more.notify_one();
    }

    /// The next finished job, if there is one. Costs one load if there is none.
    pub(crate) fn next(&self) -> Option<Finished> {
        if !self.shared.any.load(Ordering::Acquire) {
            return None;
        }
        let mut finished = locked(&self.shared.finished);
        let next = finished.pop_front();
        if finished.is_empty() {
            // Under the lock, where the worker also sets it.
            self.shared.any.store(false, Ordering::Release);
        }
        next
    }

    pub(crate) fn flush_calls(&self) -> u64 {
        self.shared.flush_calls.load(Ordering::Relaxed)
    }
}

impl Drop for Worker {
    /// Every job queued is still carried out: it was handed to the world.
    fn drop(&mut self) {
        locked(&self.shared.queue).stop = true;
        self.shared.more.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the worker's was a broken invariant and has been reported by its thread.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, capacity: usize) {
    let mut batch: VecDeque<Job> = VecDeque::with_capacity(capacity);
    loop {
        {
            let mut queue = locked(&shared.queue);
            while queue.jobs.is_empty() && !queue.stop {
                queue = shared.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.jobs.is_empty() {
                return;
            }
            std::mem::swap(&mut batch, &mut queue.jobs);
        }
        while let Some(job) = batch.pop_front() {
            match job.task {
                Task::Write { ref file, durable: true, .. } => {
                    let file = Arc::clone(file);
                    write_group(shared, &file, job, &mut batch);
                }
                _ => {
                    let done = finish(shared, job);
                    give_back(shared, std::iter::once(done));
                }
            }
        }
    }
}

/// Writes `first` and the durable writes to the same file right behind it, then flushes once for all.
fn write_group(shared: &Shared, file: &Arc<DataFile>, first: Job, batch: &mut VecDeque<Job>) {
    /// Writes that share a flush: enough that the flush's cost disappears, few enough to wait for.
    const MOST: usize = 64;
    let mut group = heapless::Vec::<(u32, usize, Result<(), IoError>), MOST>::new();
    let mut next = Some(first);
    while let Some(job) = next.take() {
        if let Job { slot, task: Task::Write { file, offset, data, .. } } = job {
            let result = patient(|| write(&file, &data, offset)).map_err(IoError::from_errno);
            // Never full: checked before the next one was taken.
            let _ = group.push((slot, data.bytes().len(), result));
        }
        let belongs = |task: &Task| matches!(task, Task::Write { file: other, durable: true, .. } if Arc::ptr_eq(other, file));
        if !group.is_full() && batch.front().is_some_and(|job| belongs(&job.task)) {
            next = batch.pop_front();
        }
    }
    shared.flush_calls.fetch_add(1, Ordering::Relaxed);
    let flushed = files::sync_data(&file.file).map_err(of_flush);
    give_back(
        shared,
        group.into_iter().map(|(slot, len, result)| Finished {
            slot,
            result: result.and(flushed).map(|()| Yield::Written(len, true)),
            buf: None,
        }),
    );
}

fn give_back(shared: &Shared, done: impl Iterator<Item = Finished>) {
    let mut finished = locked(&shared.finished);
    finished.extend(done);
    shared.any.store(true, Ordering::Release);
    drop(finished);
    shared.bell.wake();
}

fn finish(shared: &Shared, job: Job) -> Finished {
    let mut lent = None;
    let flush = matches!(job.task, Task::Sync { .. } | Task::SyncDir { .. });
    let result = match job.task {
        Task::Lock { dir, name } => Lock::wait(&dir.file, &name).map(Yield::Locked),
        Task::Open { dir, name, create, direct } => {
            files::open(&dir, &name, create, direct).and_then(|file| files::length(&file).map(|len| Yield::Opened(file, len)))
        }
        Task::Allocate { file, len, map } => allocate(&file, len, map).map(|()| Yield::Done),
        Task::Read { file, offset, mut buf, len } => {
            let read = patient(|| files::read(&file.file, &mut buf.bytes_mut()[..len], offset));
            lent = Some(buf);
            read.map(Yield::Read)
        }
        Task::Write { file, offset, data, .. } => {
            patient(|| write(&file, &data, offset)).map(|()| Yield::Written(data.bytes().len(), false))
        }
        Task::Sync { file } => {
            shared.flush_calls.fetch_add(1, Ordering::Relaxed);
            files::sync(&file.file).map(|()| Yield::Flushed)
        }
        Task::Rename { dir, from, to } => files::rename(&dir.file, &from, &to).map(|()| Yield::Done),
        Task::Unlink { dir, name } => files::unlink(&dir.file, &name).map(|()| Yield::Done),
        Task::SyncDir { dir } => {
            shared.flush_calls.fetch_add(1, Ordering::Relaxed);
            files::sync_dir(&dir.file).map(|()| Yield::Flushed)
        }
    };
    let result = result.map_err(if flush { of_flush } else { IoError::from_errno });
    Finished { slot: job.slot, result, buf: lent }
}

fn of_flush(errno: i32) -> IoError {
    classify(errno, During::Flush)
}

/// Does again, for a while, what only a lack of memory keeps from being done. Not for flushes: after one that failed
/// nothing is known.
fn patient<T>(mut call: impl FnMut() -> Result<T, i32>) -> Result<T, i32> {
    let until = clock::now().plus_ns(MEMORY_PATIENCE_MS * 1_000_000);
    loop {
        match call() {
            Err(errno) if lacked_memory(errno) && clock::now() < until => {
                std::thread::sleep(Duration::from_millis(MEMORY_RETRY_MS));
            }
            other => return other,
        }
    }
}

fn allocate(file: &DataFile, len: u64, map: bool) -> Result<(), i32> {
    let mut place = locked(&file.map);
    // Before the file may get shorter.
    *place = None;
    files::allocate(&file.file, len)?;
    if map {
        *place = Mapped::new(&file.file, len);
    }
    Ok(())
}

fn write(file: &DataFile, data: &IoData, offset: u64) -> Result<(), i32> {
    let mapped = locked(&file.map).as_mut().is_some_and(|map| map.write(data.bytes(), offset));
    if mapped {
        return Ok(());
    }
    files::write(&file.file, data.bytes(), offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_memory_is_waited_out_and_nothing_else_is() {
        let mut left = 3;
        let result = patient(|| {
            left -= 1;
            if left > 0 { Err(libc::ENOMEM) } else { Ok(()) }
        });
        assert_eq!((result, left), (Ok(()), 0));
        let mut calls = 0;
        let result: Result<(), i32> = patient(|| {
            calls += 1;
            Err(libc::EIO)
        });
        assert_eq!((result, calls), (Err(libc::EIO), 1));
    }
}

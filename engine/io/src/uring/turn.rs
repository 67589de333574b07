//! Entering the kernel: flush, wait, take completions; and the end, when nothing may be let go too early.

use std::mem::{ManuallyDrop, MaybeUninit};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, cqueue, opcode, squeue};
use kontiki_core::Time;

use super::Uring;
use super::finish::Tag;
use crate::limits::DRAIN_MS;
use crate::lock::Lock;
use crate::worker::Worker;
use crate::{Completion, IoError, Output, clock, errno, tell};

/// Completion entries taken at a time.
const TAKE: usize = 32;

impl Uring {
    pub(super) fn run_turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), i32> {
        let before = done.len();
        self.enable();
        if let Some(notice) = self.notice.get() {
            notice.clear();
        }
        loop {
            if let Some(errno) = self.broken {
                return Err(errno);
            }
            self.arm_bell();
            self.deliver(done);
            let mut left_ns = 0;
            if done.len() == before {
                left_ns = until.map_or(0, |until| until.since(clock::now()));
            }
            let sleeps = left_ns > 0 && self.ring.completion().is_empty() && self.bell.may_sleep();
            self.enter(if sleeps { left_ns } else { 0 });
            let rung = self.bell.answer();
            let own = self.take(done);
            self.deliver(done);
            if rung || own.bell {
                self.stats.rings += 1;
            }
            if done.len() > before || rung || own.bell || left_ns == 0 {
                break;
            }
            // A signal, an early timeout, or a short transfer that goes on: sleep for what is left.
        }
        if self.bell.is_foreign() {
            // That loop sleeps outside: the bell must be listened to, and nothing may lie in the queue.
            self.arm_bell();
            if self.queued() > 0 {
                self.enter(0);
            }
            self.bell.leave();
        }
        self.broken.map_or(Ok(()), Err)
    }

    /// Moves what was completed outside of the ring to the caller.
    fn deliver(&mut self, done: &mut Vec<Completion>) {
        while let Some(finished) = self.worker.as_ref().and_then(Worker::next) {
            self.finish_worker(finished);
        }
        while let Some((slot, found)) = self.resolver.next() {
            self.conclude(slot, found.map(Output::Addresses).map_err(IoError::from_errno), None);
        }
        done.extend(self.ready.drain(..));
    }

    /// The ring was made disabled, so that the thread that turns it becomes its owner, not the one that made it.
    pub(super) fn enable(&mut self) {
        if !self.enabled {
            self.enabled = true;
            if let Err(error) = self.ring.submitter().register_enable_rings() {
                self.broken = Some(errno::number(&error));
            }
        }
    }

    fn arm_bell(&mut self) {
        if self.bell_armed {
            return;
        }
        self.bell_armed = true;
        self.own_owed += 1;
        let read = opcode::Read::new(Fd(self.bell.fd()), self.own.bell.get().cast(), 8);
        self.push(&[read.build().user_data(Tag::Bell.pack())]);
    }

    /// Entries that the kernel has not taken yet.
    fn queued(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Queues entries next to each other, making room by an extra enter if there is none.
    pub(super) fn push(&mut self, entries: &[squeue::Entry]) {
        self.enable();
        loop {
            // SAFETY: whatever the entries point to (buffers, names, addresses, message headers) is owned by the
            // slot they are tagged with, or by `own`, and stays in place until their last completion.
            if unsafe { self.ring.submission().push_multiple(entries) }.is_ok() {
                return;
            }
            let before = self.queued();
            self.enter(0);
            if self.broken.is_some() {
                return;
            }
            if self.queued() == before {
                // The kernel takes nothing until completions are taken from it.
                let mut done = Vec::new();
                self.take(&mut done);
                self.ready.extend(done);
            }
        }
    }

    /// Submits everything queued and, with `wait_ns`, waits that long for one completion. Anything but a broken
    /// ring is left to the next enter.
    fn enter(&mut self, wait_ns: u64) {
        let time = Timespec::new().sec(wait_ns / 1_000_000_000).nsec((wait_ns % 1_000_000_000) as u32);
        if wait_ns > 0 && !self.features.timed_enter {
            // SAFETY: the kernel read the last timeout when it was submitted, before that enter returned.
            unsafe { self.own.timeout.get().write(time) };
            let timeout = opcode::Timeout::new(self.own.timeout.get()).count(1);
            self.push(&[timeout.build().user_data(Tag::Timeout.pack())]);
        }
        loop {
            let queue = self.ring.submission();
            let queued = queue.len();
            // Where the kernel says so in the ring, a turn that neither submits nor waits costs no system call
            // unless there is work to fetch.
            if queued == 0 && wait_ns == 0 && self.features.flags_work && !queue.taskrun() && !queue.cq_overflow() {
                return;
            }
            drop(queue);
            self.stats.enters += 1;
            let least = u32::from(wait_ns > 0);
            let flags = EnterFlags::GETEVENTS;
            let submitter = self.ring.submitter();
            let result = if wait_ns > 0 && self.features.timed_enter {
                let args = SubmitArgs::new().timespec(&time);
                // SAFETY: with EXT_ARG the kernel reads a structure of this size, which lives across the call.
                unsafe { submitter.enter(queued as u32, least, (flags | EnterFlags::EXT_ARG).bits(), Some(&args)) }
            } else {
                // SAFETY: no argument.
                unsafe { submitter.enter::<libc::sigset_t>(queued as u32, least, flags.bits(), None) }
            };
            match result {
                // It stopped at an entry that failed (and completed): the rest, and then the wait.
                Ok(taken) if taken < queued => {}
                Ok(_) => return,
                Err(error) => match errno::number(&error) {
                    // Time is up, a signal came, or completions must be taken first: the turn looks again.
                    libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN => return,
                    errno => {
                        self.broken = Some(errno);
                        return;
                    }
                },
            }
        }
    }

    /// Takes completion entries off the ring, finishing what they belong to.
    fn take(&mut self, done: &mut Vec<Completion>) -> Own {
        let mut own = Own::default();
        loop {
            let mut space = [const { MaybeUninit::<cqueue::Entry>::uninit() }; TAKE];
            let entries = self.ring.completion().fill(&mut space);
            if entries.is_empty() {
                return own;
            }
            for entry in entries {
                let result = entry.result();
                match Tag::unpack(entry.user_data()) {
                    Tag::Bell => {
                        self.own_owed -= 1;
                        self.bell_armed = false;
                        own.bell = true;
                    }
                    // Nothing of ours is with the kernel for it any more.
                    Tag::Timeout => {}
                    Tag::Cancel => self.own_owed -= 1,
                    Tag::Part { slot, part } => self.finish(slot, part, result, done),
                }
            }
        }
    }

    /// Cancels everything and waits until the kernel holds none of our memory. False if it does not let go.
    fn drain(&mut self) -> bool {
        // The worker finishes what it has; its thread ends here.
        self.worker = None;
        if !self.enabled {
            // The kernel never saw an entry.
            return true;
        }
        self.draining = true;
        let held: Vec<u64> = self.slots.in_kernel().flat_map(|slot| [0, 1].map(|part| Tag::Part { slot, part }.pack())).collect();
        let until = clock::now().plus_ns(DRAIN_MS * 1_000_000);
        for target in held.into_iter().chain(self.bell_armed.then_some(Tag::Bell.pack())) {
            self.own_owed += 1;
            self.push(&[opcode::AsyncCancel::new(target).build().user_data(Tag::Cancel.pack())]);
        }
        let mut done = Vec::new();
        while self.broken.is_none() {
            self.take(&mut done);
            done.clear();
            if self.own_owed == 0 && self.slots.in_kernel().next().is_none() {
                return true;
            }
            let left = until.since(clock::now());
            if left == 0 {
                return false;
            }
            self.enter(left.min(100_000_000));
        }
        false
    }
}

/// Which of the backend's own operations completed.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    bell: bool,
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.drain() {
            // Nothing is under way: no need for the ring, which the kernel takes apart later, to hold on to a lock.
            self.handles.locks().for_each(Lock::release);
            // SAFETY: the kernel owes no completion, so it touches none of this any more; neither is used again.
            unsafe {
                ManuallyDrop::drop(&mut self.slots);
                ManuallyDrop::drop(&mut self.own);
            }
        } else {
            // Leaked, not freed: the kernel may still read or write it.
            let held = self.slots.in_kernel().count();
            tell!(error, held, "io_uring did not let go of its operations (a disk that hangs, or dropped off its thread): memory leaked");
        }
    }
}

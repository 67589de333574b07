//! Which instructions count: callgrind collects while it is inside of a function whose name it was told, and each
//! further such function turns that over.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use kontiki_core::Time;
use kontiki_io::{Completion, Handle, Io, IoError, IoStats, Op, Token, Wake};

/// The names of the two functions below, and of none else, as callgrind is told them.
pub(crate) const PATTERN: &str = "*instructions_toggled_*";

/// What is done in here counts.
#[inline(never)]
fn instructions_toggled_on<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// What is done in here, within the other, does not.
#[inline(never)]
fn instructions_toggled_off<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// Whether what is done at the moment counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Rc<Cell<bool>>);

impl Meter {
    /// Counts what `work` does.
    pub(crate) fn count<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.set(true);
        let value = instructions_toggled_on(work);
        self.0.set(false);
        value
    }

    /// Leaves out what `work` does, if it would count.
    fn leave_out<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.0.get() { instructions_toggled_off(work) } else { work() }
    }
}

/// A world whose own instructions do not count.
#[derive(Debug)]
pub(crate) struct Apart<I> {
    io: I,
    meter: Meter,
}

impl<I: Io> Apart<I> {
    pub(crate) fn new(io: I, meter: &Meter) -> Apart<I> {
        Apart { io, meter: meter.clone() }
    }
}

impl<I: Io> Io for Apart<I> {
    fn now(&self) -> Time {
        self.meter.leave_out(|| self.io.now())
    }
    fn wall_ns(&self) -> u64 {
        self.meter.leave_out(|| self.io.wall_ns())
    }
    fn free_bytes(&mut self, dir: Handle) -> Option<u64> {
        let io = &mut self.io;
        self.meter.leave_out(|| io.free_bytes(dir))
    }

    fn submit(&mut self, token: Token, op: Op) {
        let io = &mut self.io;
        self.meter.leave_out(|| io.submit(token, op));
    }
    fn capacity(&self) -> usize {
        self.io.capacity()
    }
    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        let io = &mut self.io;
        self.meter.leave_out(|| io.turn(until, done))
    }
    fn bell(&self) -> Arc<dyn Wake> {
        self.io.bell()
    }
    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        self.io.poll_fd()
    }
    fn describe(&self) -> String {
        self.io.describe()
    }
    fn stats(&self) -> IoStats {
        self.meter.leave_out(|| self.io.stats())
    }
}

//! An `Io` around another one that shows every submission and completion to an observer, in their order.
//!
//! It changes nothing, so it goes around the real backends as well as the simulated one. The durability proof is built
//! on it: an observer that knows which sends depend on which writes can say whether one left too early. What counts as
//! "left" is the submission of the send, what counts as "durable" is the completion of the write as the node sees it.

use std::sync::Arc;

use kontiki_core::Time;
use kontiki_io::{Completion, Handle, Io, IoError, IoStats, Op, Token, Wake};

/// Sees what goes through a [`Recording`].
pub trait Observer {
    /// An operation is about to be submitted. Its memory can be looked at: it is what will be written or sent.
    fn submitted(&mut self, now: Time, token: Token, op: &Op);

    /// An operation has completed and is about to be handed over.
    fn completed(&mut self, now: Time, completion: &Completion);
}

/// A pair of closures observes.
impl<S: FnMut(Time, Token, &Op), C: FnMut(Time, &Completion)> Observer for (S, C) {
    fn submitted(&mut self, now: Time, token: Token, op: &Op) {
        (self.0)(now, token, op);
    }

    fn completed(&mut self, now: Time, completion: &Completion) {
        (self.1)(now, completion);
    }
}

/// `inner`, observed.
#[derive(Debug)]
pub struct Recording<I, O> {
    inner: I,
    observer: O,
}

impl<I: Io, O: Observer> Recording<I, O> {
    /// Puts `observer` around `inner`.
    pub fn new(inner: I, observer: O) -> Recording<I, O> {
        Recording { inner, observer }
    }

    /// The observer.
    pub fn observer(&self) -> &O {
        &self.observer
    }

    /// The observer, to be asked or changed.
    pub fn observer_mut(&mut self) -> &mut O {
        &mut self.observer
    }

    /// Both parts again.
    pub fn into_parts(self) -> (I, O) {
        (self.inner, self.observer)
    }
}

impl<I: Io, O: Observer> Io for Recording<I, O> {
    fn now(&self) -> Time {
        self.inner.now()
    }

    fn wall_ns(&self) -> u64 {
        self.inner.wall_ns()
    }

    fn free_bytes(&mut self, dir: Handle) -> Option<u64> {
        self.inner.free_bytes(dir)
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.observer.submitted(self.inner.now(), token, &op);
        self.inner.submit(token, op);
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        let before = done.len();
        let result = self.inner.turn(until, done);
        let now = self.inner.now();
        for completion in done.iter().skip(before) {
            self.observer.completed(now, completion);
        }
        result
    }

    fn bell(&self) -> Arc<dyn Wake> {
        self.inner.bell()
    }

    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        self.inner.poll_fd()
    }

    fn describe(&self) -> String {
        format!("{}, recorded", self.inner.describe())
    }

    fn stats(&self) -> IoStats {
        self.inner.stats()
    }
}

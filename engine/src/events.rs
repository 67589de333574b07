//! What a product wants to hear of, as it happens: leadership, peers, disk, recovery. A bounded board; whoever reads
//! slower than things happen is told how many it missed, and holds nobody up.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kontiki_core::{LogIndex, NodeId, Term};
use kontiki_mem::Hold;

use crate::foreign::{self, Place};
use crate::limits::MAX_EVENTS;
use crate::shared::Shared;

/// Something that happened to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This replica leads, from this term on.
    LeadershipGained {
        /// The term that it leads in.
        term: Term,
    },
    /// It does not any more.
    LeadershipLost {
        /// The term that it is in now.
        term: Term,
    },
    /// A session with this peer is open.
    PeerUp {
        /// The peer.
        peer: NodeId,
    },
    /// The session with this peer is closed: it cannot be reached until it is up again.
    PeerDown {
        /// The peer.
        peer: NodeId,
    },
    /// This replica leads, and its log no longer holds what this peer needs.
    PeerBehind {
        /// The peer.
        peer: NodeId,
    },
    /// This replica still leads, and serves that peer from its log again.
    PeerCaughtUp {
        /// The peer.
        peer: NodeId,
    },
    /// The disk has no space for the next segment of the log. Once the one in use is full, writes are refused.
    DiskFull,
    /// It has again.
    DiskBack,
    /// The log has as many segments as it can keep track of, and may forget none, whatever space the disk has: the
    /// state machine makes too little of it durable ([`StateMachine::durable`](crate::StateMachine::durable)). Once
    /// the segment in use is full, writes are refused.
    LogFull,
    /// It may have another segment again.
    LogBack,
    /// The system is short of something else that the next segment takes, file descriptors or memory: the log says of
    /// what. Waited out like a full disk.
    Shortage,
    /// It is not any more.
    ShortageOver,
    /// The replica refetches what its medium lost, and does not vote.
    Recovering,
    /// It has what it lost, and votes.
    Recovered,
    /// A snapshot of this replica's own is durable, as of this entry.
    SnapshotWritten {
        /// The entry.
        index: LogIndex,
        /// Whether the state machine's state is in it. It is not in a small one, of a machine that is durable by itself.
        full: bool,
    },
    /// A snapshot could not be made, or fetched: the log says why. It is tried again, after pauses that grow
    /// while that comes to nothing.
    SnapshotFailed,
    /// A snapshot is sent to this peer, which needs what this log no longer holds.
    SnapshotSending {
        /// The peer.
        peer: NodeId,
        /// As of which entry.
        index: LogIndex,
    },
    /// The peer has it, and goes on with the log.
    SnapshotSent {
        /// The peer.
        peer: NodeId,
        /// As of which entry.
        index: LogIndex,
    },
    /// The peer takes it so slowly that the log has no room to be kept for it any longer: it begins anew with a newer one. The
    /// log says how slowly.
    SnapshotTooSlow {
        /// The peer.
        peer: NodeId,
    },
    /// This replica fetches a snapshot from this peer: it needs what the leader's log no longer holds.
    SnapshotFetching {
        /// The peer.
        peer: NodeId,
        /// As of which entry.
        index: LogIndex,
    },
    /// A snapshot has taken the place of what this replica lacked.
    SnapshotInstalled {
        /// As of which entry.
        index: LogIndex,
    },
    /// What this replica's log presupposes is nowhere here: it takes no part before it has been given a snapshot.
    BaseLost,
    /// So many events were not read in time, and are forgotten.
    Missed {
        /// How many.
        count: u64,
    },
}

struct Inner {
    /// The newest, oldest first.
    events: VecDeque<Event>,
    /// The number of the first of them.
    first: u64,
    /// Whoever reads has a place, and leaves a waker there.
    readers: Vec<Reader>,
    ended: bool,
}

/// A place for one that reads.
enum Reader {
    Free,
    Here(Option<Waker>),
}

/// Where the reactor pins what happened.
pub(crate) struct Board {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Board {
    pub(crate) fn new() -> Board {
        let inner = Inner { events: VecDeque::with_capacity(MAX_EVENTS), first: 0, readers: Vec::new(), ended: false };
        Board { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never allocates, and waits for nobody.
    pub(crate) fn tell(&self, event: Event) {
        let mut inner = self.inner();
        if inner.events.len() == MAX_EVENTS {
            inner.events.pop_front();
            inner.first += 1;
        }
        inner.events.push_back(event);
        drop(inner);
        self.wake();
    }

    /// No more will come.
    pub(crate) fn end(&self) {
        self.inner().ended = true;
        self.wake();
    }

    fn wake(&self) {
        self.changed.notify_all();
        // One by one, outside of the lock: a waker is foreign code. One that comes back at once has its turn with the next
        // event.
        let readers = self.inner().readers.len();
        for at in 0..readers {
            let waker = match self.inner().readers.get_mut(at) {
                Some(Reader::Here(waker)) => waker.take(),
                Some(Reader::Free) | None => None,
            };
            if let Some(waker) = waker {
                drop(foreign::call(|| waker.wake()));
            }
        }
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Inner {
    /// The number of the next event to come.
    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// A place for one more that reads.
    fn join(&mut self) -> usize {
        let at = self.readers.iter().position(|reader| matches!(reader, Reader::Free)).unwrap_or(self.readers.len());
        if at == self.readers.len() {
            self.readers.push(Reader::Free);
        }
        if let Some(reader) = self.readers.get_mut(at) {
            *reader = Reader::Here(None);
        }
        at
    }

    /// Leaves a waker at a place, or takes the place back; the waker that was there, to be dropped out of the lock:
    /// that is foreign code.
    fn put(&mut self, at: usize, reader: Reader) -> Option<Waker> {
        match self.readers.get_mut(at).map(|place| std::mem::replace(place, reader)) {
            Some(Reader::Here(waker)) => waker,
            Some(Reader::Free) | None => None,
        }
    }

    /// The event of number `next`, or how many were missed; moves `next` on.
    fn read(&self, next: &mut u64) -> Option<Event> {
        if *next < self.first {
            let count = self.first - *next;
            *next = self.first;
            return Some(Event::Missed { count });
        }
        let event = self.events.get((*next - self.first) as usize).copied()?;
        *next += 1;
        Some(event)
    }
}

/// A stream of what happens to a replica, from the moment it was asked for ([`Node::events`](crate::Node::events)).
/// Poll it, wait on it or await it. At most [`MAX_EVENTS`] are kept: whoever reads too slowly is given
/// [`Event::Missed`]. What was the case before the first event (recovery, a leader, peers that were never up) is in the
/// status: ask for the stream first, then for [`Node::status`](crate::Node::status).
///
/// ```no_run
/// # fn example(node: &kontiki::Node) {
/// let mut events = node.events();
/// while let Some(event) = events.wait(std::time::Duration::MAX) {
///     println!("{event:?}");
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    shared: Hold<Shared>,
    next: u64,
    /// Its place among those who read.
    place: usize,
}

impl Drop for Events {
    fn drop(&mut self) {
        let left = self.shared.events.inner().put(self.place, Reader::Free);
        drop(left);
    }
}

impl Events {
    pub(crate) fn new(shared: Hold<Shared>) -> Events {
        let mut inner = shared.events.inner();
        let (next, place) = (inner.next(), inner.join());
        drop(inner);
        Events { shared, next, place }
    }

    /// The next event, if there is one already.
    pub fn poll(&mut self) -> Option<Event> {
        self.shared.events.inner().read(&mut self.next)
    }

    /// Blocks until there is an event, for `limit` at most. `None`: there is none yet, or the node has stopped and
    /// there will be none.
    ///
    /// # Panics
    /// Within the state machine or a waker of the same node, if it would have to wait: see
    /// [`StateMachine`](crate::StateMachine).
    pub fn wait(&mut self, limit: Duration) -> Option<Event> {
        let board = &self.shared.events;
        let next = self.next;
        let nothing = |inner: &mut Inner| !inner.ended && next >= inner.next();
        if !limit.is_zero() && nothing(&mut board.inner()) {
            self.shared.may_wait("waiting for an event");
        }
        let (inner, _) = board.changed.wait_timeout_while(board.inner(), limit, nothing).unwrap_or_else(PoisonError::into_inner);
        inner.read(&mut self.next)
    }

    /// The next event, as a future polls for it; `None` once the node has stopped and all were read.
    ///
    /// # Panics
    /// Within the state machine of the same node, unless there is one: [`Events::poll`] looks and no more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        // Outside of the lock: a waker's clone is foreign code.
        let waker = cx.waker().clone();
        let mut inner = self.shared.events.inner();
        if let Some(event) = inner.read(&mut self.next) {
            return Poll::Ready(Some(event));
        }
        if inner.ended {
            return Poll::Ready(None);
        }
        let before = inner.put(self.place, Reader::Here(Some(waker)));
        drop(inner);
        drop(before);
        if self.shared.place() == Place::InMachine {
            self.shared.may_wait("awaiting an event");
        }
        Poll::Pending
    }

    /// Awaits the next event; `None` once the node has stopped and all were read.
    ///
    /// # Panics
    /// As [`Events::poll_next`].
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who reads too slowly is told how many events are gone, and goes on with the oldest that is left.
    #[test]
    fn what_is_not_read_in_time() {
        let board = Board::new();
        let event = |n: u64| Event::PeerUp { peer: NodeId(n) };
        let (mut slow, mut quick) = (0, 0);
        for n in 0..MAX_EVENTS as u64 + 7 {
            board.tell(event(n));
            assert_eq!(board.inner().read(&mut quick), Some(event(n)));
        }
        assert_eq!(board.inner().read(&mut quick), None);
        assert_eq!(board.inner().read(&mut slow), Some(Event::Missed { count: 7 }));
        for n in 7..MAX_EVENTS as u64 + 7 {
            assert_eq!(board.inner().read(&mut slow), Some(event(n)));
        }
        assert_eq!(board.inner().read(&mut slow), None);
        assert!(board.inner().events.capacity() >= MAX_EVENTS);
    }
}

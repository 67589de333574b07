//! Room: what may still be appended, and letting go of what is not needed, to make some.
//!
//! What callers propose never uses the last two segments ([`KEPT_SEGMENTS`]), neither of those that are prepared nor of
//! those that the table takes. They are for what makes room: a leader commits nothing before the first entry of its
//! term, a start that finds something torn goes on in a fresh segment, and a snapshot's chain begins in one. If they were
//! taken, a cluster whose logs are all full would lead nowhere, apply nothing, and never hear that it may forget.

use kontiki_core::{Base, LogIndex};
use kontiki_io::{IoError, IoErrorKind};

use super::Wal;
use crate::limits::{KEPT_SEGMENTS, MAX_SEGMENTS};

/// Whether there is room to append what callers propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// At least one spare segment is ready, beside those that are kept.
    Ready,
    /// A spare segment is being prepared.
    Preparing,
    /// The disk is full, or the log has as many segments as it can keep track of. Preparation is tried again by itself;
    /// releasing log helps.
    Full,
    /// The system lacks something else that a segment takes: descriptors, memory. It is waited for likewise, and the
    /// error says what it is.
    Short(IoError),
}

/// Whether the log may take more of the disk: what lets it forget comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Growth {
    /// It may.
    #[default]
    Free,
    /// Not now: the next snapshot's space is being set aside. No new file is made; what was released is used again.
    Held,
    /// The disk has no space for the next snapshot: what is released goes, beyond what the log keeps for its own elections.
    Full,
}

impl Wal {
    /// Says whether the log may take more of the disk, from the next [`Wal::pump`] on: true if it may again.
    pub fn set_growth(&mut self, growth: Growth) -> bool {
        let before = std::mem::replace(&mut self.growth, growth);
        growth == Growth::Free && before != Growth::Free
    }

    /// What was said of that last.
    pub fn growth(&self) -> Growth {
        self.growth
    }

    /// Whether there is room ahead.
    pub fn space(&self) -> Space {
        if self.segments.prepared.len() > KEPT_SEGMENTS {
            Space::Ready
        } else if self.is_full() {
            Space::Full
        } else {
            match self.lacking.error() {
                Some(error) if error.kind == IoErrorKind::Shortage => Space::Short(error),
                Some(_) => Space::Full,
                None if self.growth == Growth::Full => Space::Full,
                None => Space::Preparing,
            }
        }
    }

    /// Whether the log has as many segments as it can keep track of, whatever space the disk has: releasing log helps,
    /// and nothing else.
    pub fn is_full(&self) -> bool {
        let none = self.segments.prepared.len() <= KEPT_SEGMENTS && self.segments.made.is_none() && self.segments.retired.is_empty();
        none && self.segments.len() >= MAX_SEGMENTS
    }

    /// Whether what callers propose, in a frame of `bytes`, finds no place, and none will be made for it before there is
    /// space (or whatever else was short) again, or log is released.
    pub fn out_of_space(&self, bytes: usize) -> bool {
        let full = matches!(self.space(), Space::Full | Space::Short(_));
        full && !(self.has_place_here(bytes) && self.is_for_proposals())
    }

    /// Whether a frame of `bytes` can be appended now, and leaves the room alone that is kept: one that holds what callers
    /// propose.
    pub fn can_propose(&self, bytes: usize) -> bool {
        let next = || self.has_next() && (self.segments.linked.is_empty() || self.segments.prepared.len() > KEPT_SEGMENTS);
        self.takes(bytes) && if self.has_place_here(bytes) { self.is_for_proposals() } else { next() }
    }

    /// Whether a frame of `bytes` can be appended now: there is room in the current segment or in a prepared one, and
    /// in the queue.
    pub fn can_append(&self, bytes: usize) -> bool {
        self.takes(bytes) && (self.has_place_here(bytes) || self.has_next())
    }

    /// Whether a frame of `bytes` is taken, if there is a place for it.
    fn takes(&self, bytes: usize) -> bool {
        self.poison.is_none() && self.closing.is_none() && self.appender.has_room() && bytes <= self.options.max_frame_bytes
    }

    /// Whether the segment in use has room for a frame of `bytes`.
    fn has_place_here(&self, bytes: usize) -> bool {
        !self.fresh
            && self.log.has_extent()
            && matches!((self.log.end(), self.log.limit()), (Some(end), Some(limit)) if limit - end >= bytes as u64)
    }

    /// Whether the segment in use is none of those that are kept. (A log that is still in its first waits for none.)
    fn is_for_proposals(&self) -> bool {
        let first = self.segments.linked.len() <= 1 && self.lacking.error().is_none();
        first || self.segments.prepared.len() >= KEPT_SEGMENTS
    }

    /// Whether the next segment could be opened now.
    pub(super) fn has_next(&self) -> bool {
        !self.segments.prepared.is_empty() && self.headers.available() > 0
    }

    /// Entries up to `upto` are needed no more: they are applied, and the state machine will not ask for them again.
    /// Segments wholly of such entries go, but for the newest `retention_bytes`, and the log begins at a segment
    /// that says truly what it continues. Returns what it presupposes from then on, if that moved. After a crash the log
    /// may begin earlier again.
    pub fn release(&mut self, upto: LogIndex) -> Option<Base> {
        self.release_while(upto, self.options.retention_bytes, |_| true)
    }

    /// Where there is no room, lets what is retained go as well, oldest first, as far as it makes some: of the entries up to
    /// `upto`, which are needed no more. Followers that were away need a snapshot then. Returns as [`Wal::release`] does.
    pub fn make_room(&mut self, upto: LogIndex) -> Option<Base> {
        self.release_while(upto, 0, Wal::wants_room)
    }

    fn release_while(&mut self, upto: LogIndex, retention: u64, more: impl Fn(&Wal) -> bool) -> Option<Base> {
        let before = self.log.base();
        while more(self)
            && let Some(count) = self.log.releasable(upto, self.appender.durable(), retention)
        {
            for _ in 0..count {
                self.log.release_oldest();
                self.segments.retire_oldest();
            }
        }
        assert_eq!(self.log.oldest_segment(), self.segments.linked.front().map(|segment| segment.number), "index and files agree");
        if self.log.base() == before {
            return None;
        }
        // What was released is to be used again, and not to be made: that needs no space.
        self.lacking.at_once();
        Some(self.log.base())
    }

    /// Whether there is no room, and what was released will not make enough.
    fn wants_room(&self) -> bool {
        if self.growth == Growth::Full {
            // Bit by bit: what goes may be enough.
            return self.segments.retired.is_empty();
        }
        let coming = self.segments.prepared.len() + self.segments.retired.len() + usize::from(self.segments.made.is_some());
        coming < self.options.prepared() && (self.lacking.error().is_some() || self.segments.len() >= MAX_SEGMENTS)
    }
}

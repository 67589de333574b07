//! Where the live log lies: per segment, a table of extents of fixed size.
//!
//! The log only appends. A frame whose range begins at or before the last index *supersedes* what stood from there
//! on: that is Raft's truncation (paper, section 5.3), and no byte is erased for it. An [`Extent`] says that the
//! entries from `index` on are found from `position` on. Not every frame gets one, but every superseding frame does,
//! and so the live extents ascend in index and position alike, and what a frame between two extents still holds alive
//! is what lies below the next extent's index. A reader finds an entry by scanning forward from its extent.

use std::collections::VecDeque;

use kontiki_core::{Base, FrameMeta, IndexRange, LogIndex, Subterm, Term};
use kontiki_frame::BLOCK_BYTES;

use crate::Cause;
use crate::limits::{EXTENTS_BY_STRIDE, MAX_EXTENTS, MAX_SEGMENTS};
use crate::terms::TermRuns;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    index: LogIndex,
    position: u64,
}

/// The first live frame of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FirstLive {
    /// What comes before it.
    prev: Base,
    /// Where the frame ends.
    end: u64,
}

#[derive(Clone, Debug)]
struct Mapped {
    number: u64,
    /// Where its frames end.
    end: u64,
    extents: heapless::Vec<Extent, MAX_EXTENTS>,
    /// Last index of the log when the segment was opened, as its header says, and whether that entry was superseded
    /// since: then the header names an entry that never was committed.
    prev: LogIndex,
    prev_is_dead: bool,
    first_live: Option<FirstLive>,
}

/// A place to start reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) position: u64,
}

/// Term of an entry, as far as memory knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownTerm {
    /// The log holds it (or, at one before the first index, remembers it).
    Term(Term),
    /// The log holds it; its term is in its frame.
    OnDisk,
    /// The log does not hold it.
    Absent,
}

/// The live log: its bounds, its terms, and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct LiveLog {
    segment_bytes: u64,
    segments: VecDeque<Mapped>,
    base: Base,
    last: LogIndex,
    runs: TermRuns,
}

impl LiveLog {
    /// An empty log behind `base`.
    pub(crate) fn new(segment_bytes: u64, base: Base) -> LiveLog {
        let segments = VecDeque::with_capacity(MAX_SEGMENTS);
        LiveLog { segment_bytes, segments, base, last: base.index, runs: TermRuns::default() }
    }

    /// What the log presupposes: everything before its first entry.
    pub(crate) fn base(&self) -> Base {
        self.base
    }

    pub(crate) fn first(&self) -> LogIndex {
        self.base.next()
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    /// The log's end as what a log behind it presupposes: its last entry, or the base if it is empty.
    pub(crate) fn tip(&self) -> Base {
        self.runs.as_slice().last().map_or(self.base, |run| Base { index: self.last, term: run.1, subterm: Subterm(0) })
    }

    pub(crate) fn runs(&self) -> &[(LogIndex, Term)] {
        self.runs.as_slice()
    }

    pub(crate) fn term_at(&self, index: LogIndex) -> KnownTerm {
        if index > self.last || index < self.base.index {
            KnownTerm::Absent
        } else if index == self.base.index {
            KnownTerm::Term(self.base.term)
        } else {
            self.runs.term_at(index).map_or(KnownTerm::OnDisk, KnownTerm::Term)
        }
    }

    /// Where the newest segment's frames end; `None` before the first segment.
    pub(crate) fn end(&self) -> Option<u64> {
        self.segments.back().map(|segment| segment.end)
    }

    /// Where the frames of segment `number` end.
    pub(crate) fn end_of(&self, number: u64) -> Option<u64> {
        self.find(number).and_then(|at| self.segments.get(at)).map(|segment| segment.end)
    }

    /// Where the newest segment's file ends, as a position.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.segments.back().map(|segment| (segment.number + 1) * self.segment_bytes)
    }

    pub(crate) fn oldest_segment(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.number)
    }

    /// Nothing of it counts any more: the log behind `base` is another chain, and the next segment its first.
    pub(crate) fn begin_chain(&mut self, base: Base) {
        self.segments.clear();
        self.runs = TermRuns::default();
        (self.base, self.last) = (base, base.index);
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.segments.binary_search_by_key(&number, |segment| segment.number).ok()
    }

    /// The next frame opens segment `number`.
    pub(crate) fn open_segment(&mut self, number: u64) {
        assert!(self.segments.back().is_none_or(|newest| newest.number < number), "segment numbers grow");
        let end = number * self.segment_bytes + BLOCK_BYTES as u64;
        self.segments.push_back(Mapped {
            number,
            end,
            extents: heapless::Vec::new(),
            prev: self.last,
            prev_is_dead: false,
            first_live: None,
        });
    }

    /// Whether the newest segment's table takes another superseding frame.
    pub(crate) fn has_extent(&self) -> bool {
        self.segments.back().is_some_and(|newest| !newest.extents.is_full())
    }

    /// Whether a frame of `bytes` with this range can go into the newest segment: room in the file, and, for a
    /// superseding one, in the table.
    pub(crate) fn fits(&self, bytes: u64, range: IndexRange) -> bool {
        let (Some(end), Some(limit)) = (self.end(), self.limit()) else { return false };
        limit - end >= bytes && (range.from > self.last || self.has_extent())
    }

    /// Checks that a frame continues the live log: no hole before it, and the entry before it has the term that the
    /// frame says.
    pub(crate) fn admits(&self, meta: &FrameMeta, range: IndexRange) -> Result<(), Cause> {
        let broken = Err(Cause::Discontinuous { from: range.from, last: self.last });
        if range.from > self.last.next() {
            return broken;
        }
        match self.term_at(range.from.prev()) {
            KnownTerm::Term(term) if term != meta.term_before(range.from) => broken,
            _ => Ok(()),
        }
    }

    /// The frame at `position`, where the newest segment's frames end, with what counts of it. A range that reaches
    /// before the first index replaces the whole log: older segments, which held what it continues, were released.
    pub(crate) fn push(&mut self, position: u64, bytes: u64, meta: &FrameMeta, range: IndexRange) {
        assert!(self.fits(bytes, range), "a frame of {bytes} bytes does not fit into the segment that it goes to");
        assert_eq!(self.end(), Some(position), "frames lie one after the other");
        let superseding = range.from <= self.last;
        if superseding {
            self.cut(range.from);
        }
        let prev = Base { index: range.from.prev(), term: meta.term_before(range.from), subterm: Subterm(0) };
        if prev.index < self.base.index {
            self.base = prev;
        }
        self.runs.push(range.from, meta.term);
        self.last = range.to;
        let stride = self.segment_bytes / EXTENTS_BY_STRIDE;
        let Some(newest) = self.segments.back_mut() else { return };
        newest.end = position + bytes;
        newest.first_live.get_or_insert(FirstLive { prev, end: newest.end });
        let due = newest.extents.last().is_none_or(|extent| position - extent.position >= stride);
        if superseding || due {
            // Full is possible only for the sake of the stride; then the scan from the last extent is longer.
            let pushed = newest.extents.push(Extent { index: range.from, position });
            assert!(pushed.is_ok() || !superseding, "a superseding frame has its extent");
        }
    }

    /// Forgets the entries from `from` on.
    fn cut(&mut self, from: LogIndex) {
        self.runs.cut(from);
        for segment in self.segments.iter_mut().rev() {
            segment.prev_is_dead |= segment.prev >= from;
            let Some(first_live) = segment.first_live else { continue };
            while segment.extents.last().is_some_and(|extent| extent.index >= from) {
                segment.extents.pop();
            }
            if first_live.prev.next() < from {
                break;
            }
            segment.first_live = None;
        }
    }

    /// Where to start scanning for `index`, if the log holds it.
    pub(crate) fn locate(&self, index: LogIndex) -> Option<Place> {
        if index < self.first() || index > self.last {
            return None;
        }
        self.segments.iter().rev().find_map(|segment| {
            let after = segment.extents.partition_point(|extent| extent.index <= index);
            let extent = segment.extents.get(after.checked_sub(1)?)?;
            Some(Place { segment: segment.number, position: extent.position })
        })
    }

    /// What of the frame at `position` with `range` is alive.
    pub(crate) fn live(&self, position: u64, range: IndexRange) -> Option<IndexRange> {
        let from = range.from.max(self.first());
        let next = self
            .segments
            .iter()
            .skip_while(|segment| segment.end <= position)
            .find_map(|segment| segment.extents.iter().find(|extent| extent.position > position));
        let last = next.map_or(self.last, |extent| extent.index.prev());
        let to = range.to.min(last);
        (from <= to).then_some(IndexRange { from, to })
    }

    /// How many of the oldest segments may go together, if any: no live entry after `upto` is in them, what follows is
    /// durable (the log is, up to `durable`), and `retention` bytes of segments stay. The log begins at a segment
    /// then whose header names a live entry up to `upto`: what lies behind may be damaged, and the header alone be
    /// left to say what the log continues. So a segment without a live frame goes with its predecessor.
    pub(crate) fn releasable(&self, upto: LogIndex, durable: u64, retention: u64) -> Option<usize> {
        let begins = |segment: &Mapped| segment.first_live.filter(|_| !segment.prev_is_dead);
        let (count, first_live) = self.segments.iter().enumerate().skip(1).find_map(|(at, segment)| Some((at, begins(segment)?)))?;
        let kept = (self.segments.len() - count) as u64 * self.segment_bytes;
        // The first live frame says where the log begins from then on, so it must be there after a power cut.
        (kept >= retention && first_live.prev.index <= upto && first_live.end <= durable).then_some(count)
    }

    /// Forgets the oldest segment.
    pub(crate) fn release_oldest(&mut self) {
        self.segments.pop_front();
        let Some(next) = self.segments.iter().find_map(|segment| segment.first_live) else { return };
        self.base = next.prev;
        self.runs.release(self.base.next());
    }
}

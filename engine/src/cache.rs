//! The newest frames of the log, still in memory: what followers are sent and what apply reads.
//! Only a cache: whatever is durable may leave it at any time and is then read from the log.

use std::collections::VecDeque;

use kontiki_core::{IndexRange, LogIndex};
use kontiki_frame::Header;
use kontiki_mem::Block;

use crate::limits::MAX_CACHED_FRAMES;

/// One frame in memory and the part of it that is live.
#[derive(Clone, Debug)]
pub(crate) struct Cached {
    pub(crate) header: Header,
    pub(crate) range: IndexRange,
    pub(crate) block: Block,
}

/// Frames by ascending, gapless ranges.
#[derive(Debug)]
pub(crate) struct FrameCache {
    frames: VecDeque<Cached>,
}

impl FrameCache {
    pub(crate) fn new() -> FrameCache {
        FrameCache { frames: VecDeque::with_capacity(MAX_CACHED_FRAMES) }
    }

    /// Adds the log's newest frame; entries it supersedes leave.
    pub(crate) fn push(&mut self, frame: Cached) {
        self.truncate(frame.range.from);
        if self.frames.back().is_some_and(|b| b.range.to.next() != frame.range.from) {
            self.frames.clear();
        }
        if self.frames.len() == MAX_CACHED_FRAMES {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
    }

    /// Entries from `from` on are gone.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        while self.frames.back().is_some_and(|b| b.range.from >= from) {
            self.frames.pop_back();
        }
        if let Some(back) = self.frames.back_mut() {
            back.range.to = LogIndex(back.range.to.0.min(from.prev().0));
        }
    }

    /// The frame that holds `index`.
    pub(crate) fn get(&self, index: LogIndex) -> Option<&Cached> {
        let at = self.frames.partition_point(|f| f.range.to < index);
        self.frames.get(at).filter(|f| f.range.from <= index)
    }

    /// The oldest index in memory.
    pub(crate) fn first(&self) -> Option<LogIndex> {
        self.frames.front().map(|f| f.range.from)
    }

    /// Whether all of the oldest frame is at or below `upto`.
    pub(crate) fn may_evict(&self, upto: LogIndex) -> bool {
        self.frames.front().is_some_and(|f| f.range.to <= upto)
    }

    /// Lets the oldest frame go if all of it is at or below `upto`: durable, so that the log can give it back.
    pub(crate) fn evict(&mut self, upto: LogIndex) -> bool {
        let may = self.may_evict(upto);
        if may {
            self.frames.pop_front();
        }
        may
    }

    /// Lets everything go.
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.frames.len() == MAX_CACHED_FRAMES
    }
}

//! The durable half of a process of the floor: batches go to the segments in order, many in one write, and the position
//! up to which all is durable goes up.

use std::collections::VecDeque;

use kontiki_io::{Handle, Io, IoData, Op, Token};
use kontiki_mem::{Block, Span};

use super::WRITE;

/// A write under way.
#[derive(Clone, Copy, Debug)]
struct Write {
    /// Position in the stream behind it.
    end: u64,
    done: bool,
}

/// The log.
pub(super) struct Log {
    segments: Vec<Handle>,
    segment_bytes: u64,
    max_write: usize,
    depth: usize,
    /// Where the next write goes.
    segment: usize,
    offset: u64,
    queue: VecDeque<Block>,
    /// Oldest first; the first has number `first`.
    writes: VecDeque<Write>,
    first: u64,
    /// Position behind what was submitted, and behind what is durable.
    submitted: u64,
    durable: u64,
}

impl Log {
    pub(super) fn new(segments: Vec<Handle>, options: &super::Options) -> Log {
        Log {
            segments,
            segment_bytes: options.segment_bytes,
            max_write: options.max_write_bytes,
            depth: options.writes_in_flight,
            segment: 0,
            offset: 0,
            queue: VecDeque::with_capacity(2048),
            writes: VecDeque::with_capacity(options.writes_in_flight),
            first: 0,
            submitted: 0,
            durable: 0,
        }
    }

    pub(super) fn append(&mut self, batch: Block) {
        self.queue.push_back(batch);
    }

    /// Everything before this position of the stream is durable.
    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether a batch that is appended now is written at once.
    pub(super) fn is_ready(&self) -> bool {
        self.queue.is_empty() && self.writes.len() < self.depth
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.writes.is_empty()
    }

    /// Submits what may be written now: neighbours in one write.
    pub(super) fn pump(&mut self, io: &mut dyn Io) {
        while self.writes.len() < self.depth {
            let Some(batch) = self.queue.pop_front() else { return };
            if self.offset + batch.len() as u64 > self.segment_bytes {
                (self.segment, self.offset) = ((self.segment + 1) % self.segments.len(), 0);
            }
            let room = self.max_write.min((self.segment_bytes - self.offset) as usize);
            let mut span = Span::one(batch);
            while let Some(next) = self.queue.front()
                && span.len() + next.len() <= room
                && span.push(next.clone()).is_ok()
            {
                self.queue.pop_front();
            }
            let (file, offset, length) = (self.segments[self.segment], self.offset, span.len() as u64);
            self.submitted += length;
            self.offset += length;
            let number = self.first + self.writes.len() as u64;
            self.writes.push_back(Write { end: self.submitted, done: false });
            io.submit(Token(WRITE | number), Op::Write { file, offset, data: IoData::Span(span), durable: true });
        }
    }

    /// Write `number` is done; they may end in any order.
    pub(super) fn written(&mut self, number: u64) {
        if let Some(write) = self.writes.get_mut((number - self.first) as usize) {
            write.done = true;
        }
        while let Some(write) = self.writes.front().filter(|write| write.done) {
            self.durable = write.end;
            self.first += 1;
            self.writes.pop_front();
        }
    }
}

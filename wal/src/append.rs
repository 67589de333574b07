//! Frames on their way to the disk: queued, gathered into writes, several writes in flight.

use std::collections::VecDeque;

use kontiki_core::WriteId;
use kontiki_io::{Handle, Io, IoData, Op};
use kontiki_mem::{Block, PoolBuf, Span};

use crate::limits::{MAX_QUEUED, MAX_WRITES_IN_FLIGHT};
use crate::margin::Range;
use crate::token::Purpose;

#[derive(Debug)]
enum Content {
    /// A segment's header: a write of its own, before the segment's first frame.
    Header(PoolBuf),
    Frame(WriteId, Block),
}

#[derive(Debug)]
struct Item {
    file: Handle,
    /// Offset in the file, and position in the log.
    offset: u64,
    position: u64,
    content: Content,
}

impl Item {
    fn lies_in(&self, barred: Option<Range>) -> bool {
        barred.is_some_and(|range| {
            let bytes = match &self.content {
                Content::Header(block) => block.len(),
                Content::Frame(_, frame) => frame.len(),
            };
            range.overlaps(self.position, self.position + bytes as u64)
        })
    }
}

/// One write in flight.
#[derive(Debug)]
struct Flight {
    /// Where the last frame in it ends, and the write that this frame is; `None` for a header.
    frames: Option<(u64, WriteId)>,
    done: bool,
}

#[derive(Debug)]
pub(crate) struct Appender {
    queue: VecDeque<Item>,
    /// In the order of submission, which is the order of the log.
    flights: VecDeque<Flight>,
    /// Number of the oldest flight.
    oldest: u64,
    writes_in_flight: usize,
    max_write_bytes: usize,
    /// The log is durable up to here.
    durable: u64,
    /// Newest write of the durable prefix that was not told yet.
    news: Option<WriteId>,
    /// A write failed: what completes counts for nothing.
    given_up: bool,
}

impl Appender {
    pub(crate) fn new(durable: u64, writes_in_flight: usize, max_write_bytes: usize) -> Appender {
        Appender {
            queue: VecDeque::with_capacity(MAX_QUEUED),
            flights: VecDeque::with_capacity(MAX_WRITES_IN_FLIGHT),
            oldest: 0,
            writes_in_flight,
            max_write_bytes,
            durable,
            news: None,
            given_up: false,
        }
    }

    /// Position up to which the log is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Room for a frame and, before it, a header.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() + 2 <= MAX_QUEUED
    }

    pub(crate) fn idle(&self) -> bool {
        self.queue.is_empty() && self.flights.is_empty()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn push_header(&mut self, file: Handle, position: u64, block: PoolBuf) {
        self.queue.push_back(Item { file, offset: 0, position, content: Content::Header(block) });
    }

    pub(crate) fn push_frame(&mut self, file: Handle, offset: u64, position: u64, write: WriteId, frame: Block) {
        assert!(self.queue.len() < MAX_QUEUED, "can_append was asked");
        self.queue.push_back(Item { file, offset, position, content: Content::Frame(write, frame) });
    }

    /// Submits writes while slots are free. What would lie in `barred`, where zeros are being written, waits, and all behind it.
    pub(crate) fn pump(&mut self, barred: Option<Range>, io: &mut dyn Io) {
        while self.flights.len() < self.writes_in_flight
            && self.queue.front().is_some_and(|item| !item.lies_in(barred))
            && let Some(Item { file, offset, position, content }) = self.queue.pop_front()
        {
            let (data, frames) = match content {
                Content::Header(block) => {
                    let length = block.len();
                    (IoData::Pool(block, length), None)
                }
                Content::Frame(write, frame) => {
                    let (span, frames) = self.gather(file, position, write, frame, barred);
                    (IoData::Span(span), Some(frames))
                }
            };
            let number = self.oldest + self.flights.len() as u64;
            self.flights.push_back(Flight { frames, done: false });
            io.submit(Purpose::Write(number).token(), Op::Write { file, offset, data, durable: true });
        }
    }

    /// Takes the frames that follow in the file and in memory along, up to the bound.
    fn gather(&mut self, file: Handle, position: u64, write: WriteId, frame: Block, barred: Option<Range>) -> (Span, (u64, WriteId)) {
        let mut end = position + frame.len() as u64;
        let mut newest = write;
        let mut span = Span::one(frame);
        while let Some(Item { content: Content::Frame(_, next), .. }) = self.queue.front()
            && span.len() + next.len() <= self.max_write_bytes
            && !self.queue.front().is_some_and(|item| item.lies_in(barred))
            && let Some(Item { file: next_file, offset, position, content: Content::Frame(write, next) }) = self.queue.pop_front()
        {
            let length = next.len() as u64;
            let refused = if next_file == file && position == end { span.push(next).err() } else { Some(next) };
            if let Some(next) = refused {
                self.queue.push_front(Item { file: next_file, offset, position, content: Content::Frame(write, next) });
                break;
            }
            end += length;
            newest = write;
        }
        (span, (end, newest))
    }

    /// Nothing more becomes durable, and what waits is not written.
    pub(crate) fn give_up(&mut self) {
        self.queue.clear();
        self.given_up = true;
    }

    /// A write has completed: it is durable, unless the log was given up. Only the contiguous prefix counts.
    pub(crate) fn written(&mut self, number: u64) {
        let flight = number.checked_sub(self.oldest).and_then(|at| self.flights.get_mut(at as usize));
        let Some(flight) = flight else { panic!("a completion for a write that is not in flight") };
        assert!(!flight.done, "a write completes once");
        flight.done = true;
        while self.flights.front().is_some_and(|flight| flight.done)
            && let Some(flight) = self.flights.pop_front()
        {
            self.oldest += 1;
            if let Some((end, write)) = flight.frames
                && !self.given_up
            {
                assert!(end > self.durable, "positions grow");
                self.durable = end;
                self.news = Some(write);
            }
        }
    }

    /// Newest write of the durable prefix, if it grew since the last call.
    pub(crate) fn news(&mut self) -> Option<WriteId> {
        self.news.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_mem::Pool;

    #[test]
    fn the_queue_has_an_end() {
        let blocks = Pool::new(MAX_QUEUED, 64);
        let mut appender = Appender::new(0, 1, 64);
        assert!(appender.idle());
        while appender.has_room()
            && let Some(block) = blocks.take()
        {
            appender.push_header(Handle(0), 0, block);
            assert!(!appender.idle(), "what is queued is not written");
        }
        assert_eq!((appender.queued(), appender.in_flight()), (MAX_QUEUED - 1, 0), "a frame and its header fit, or nothing");
    }
}

//! Frames on their way to the disk: queued, gathered into writes, several writes in flight.

use std::collections::VecDeque;

use kontiki_core::WriteId;
use kontiki_io::{Handle, Io, IoData, Op};
use kontiki_mem::{Block, Span};

use crate::limits::{MAX_QUEUED, MAX_WRITES_IN_FLIGHT};
use crate::margin::Range;
use crate::token::Purpose;

#[derive(Debug)]
struct Item {
    file: Handle,
    /// Offset in the file, and position in the log.
    offset: u64,
    position: u64,
    block: Block,
    what: What,
}

/// What is written. A header is a write of its own, before its segment's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Header,
    /// The header of a segment that a new chain begins in.
    Base(WriteId),
    Frame(WriteId),
}

/// A new chain's first header, on its way. Nothing behind it is written before that is durable, and the hard state says
/// durably that the log begins there: what is acknowledged in the new chain must not be looked for in the old one.
#[derive(Clone, Copy, Debug)]
struct Chain {
    write: WriteId,
    header: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Queued,
    Written,
    Durable,
}

impl Item {
    fn lies_in(&self, barred: Option<Range>) -> bool {
        barred.is_some_and(|range| range.overlaps(self.position, self.position + self.block.len() as u64))
    }
}

/// One write in flight.
#[derive(Debug)]
struct Flight {
    file: Handle,
    offset: u64,
    /// What is written, until it has been.
    data: Option<Span>,
    /// Where the last frame in it ends (or a chain's header), and the write that this is; `None` for any other header.
    frames: Option<(u64, WriteId)>,
    /// The system lacked something for it: nothing is outstanding, and it is to be tried again.
    waits: bool,
}

impl Flight {
    fn submit(&self, number: u64, io: &mut dyn Io) {
        let Some(data) = self.data.clone() else { panic!("what is written is not written again") };
        let op = Op::Write { file: self.file, offset: self.offset, data: IoData::Span(data), durable: true };
        io.submit(Purpose::Write(number).token(), op);
    }
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
    chain: Option<Chain>,
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
            chain: None,
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
        self.queue.is_empty() && self.flights.is_empty() && self.chain.is_none()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn push_header(&mut self, file: Handle, position: u64, block: Block) {
        self.queue.push_back(Item { file, offset: 0, position, block, what: What::Header });
    }

    /// The header that a new chain begins with. It is answered once [`Appender::chain_is_named`] was said.
    pub(crate) fn push_base(&mut self, file: Handle, position: u64, block: Block, write: WriteId) {
        assert!(!self.begins_chain(), "one new chain at a time");
        self.chain = Some(Chain { write, header: Progress::Queued });
        self.queue.push_back(Item { file, offset: 0, position, block, what: What::Base(write) });
    }

    /// Whether a new chain is beginning, and not yet begun for good.
    pub(crate) fn begins_chain(&self) -> bool {
        self.chain.is_some()
    }

    /// Whether a new chain's first header is durable, and the hard state has to name it.
    pub(crate) fn chain_is_due(&self) -> bool {
        self.chain.is_some_and(|chain| chain.header == Progress::Durable)
    }

    /// The hard state says durably that the log begins there: the chain has begun.
    pub(crate) fn chain_is_named(&mut self) {
        if let Some(chain) = self.chain.take_if(|chain| chain.header == Progress::Durable) {
            self.news = Some(chain.write);
        }
    }

    pub(crate) fn push_frame(&mut self, file: Handle, offset: u64, position: u64, write: WriteId, frame: Block) {
        assert!(self.queue.len() < MAX_QUEUED, "can_append was asked");
        self.queue.push_back(Item { file, offset, position, block: frame, what: What::Frame(write) });
    }

    /// Submits writes while slots are free. What would lie in `barred`, where zeros are being written, waits, and all
    /// behind it.
    pub(crate) fn pump(&mut self, barred: Option<Range>, io: &mut dyn Io) {
        while self.flights.len() < self.writes_in_flight
            && self.chain.is_none_or(|chain| chain.header == Progress::Queued)
            && self.queue.front().is_some_and(|item| !item.lies_in(barred))
            && let Some(Item { file, offset, position, block, what }) = self.queue.pop_front()
        {
            let (data, frames) = match what {
                What::Header => (Span::one(block), None),
                What::Base(write) => {
                    self.chain = Some(Chain { write, header: Progress::Written });
                    let end = position + block.len() as u64;
                    (Span::one(block), Some((end, write)))
                }
                What::Frame(write) => {
                    let (span, frames) = self.gather(file, position, write, block, barred);
                    (span, Some(frames))
                }
            };
            let flight = Flight { file, offset, data: Some(data), frames, waits: false };
            flight.submit(self.oldest + self.flights.len() as u64, io);
            self.flights.push_back(flight);
        }
    }

    /// Takes the frames that follow in the file and in memory along, up to the bound.
    fn gather(&mut self, file: Handle, position: u64, write: WriteId, frame: Block, barred: Option<Range>) -> (Span, (u64, WriteId)) {
        let mut end = position + frame.len() as u64;
        let mut newest = write;
        let mut span = Span::one(frame);
        while let Some(next) = self.queue.front()
            && matches!(next.what, What::Frame(_))
            && (next.file, next.position) == (file, end)
            && span.len() + next.block.len() <= self.max_write_bytes
            && !next.lies_in(barred)
            && let Some(Item { file, offset, position, block, what: What::Frame(write) }) = self.queue.pop_front()
        {
            let length = block.len() as u64;
            if let Err(block) = span.push(block) {
                self.queue.push_front(Item { file, offset, position, block, what: What::Frame(write) });
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
        self.chain = None;
        self.given_up = true;
        for flight in self.flights.iter_mut().filter(|flight| flight.waits) {
            (flight.data, flight.waits) = (None, false);
        }
        self.settle();
    }

    fn flight(&mut self, number: u64) -> &mut Flight {
        let flight = number.checked_sub(self.oldest).and_then(|at| self.flights.get_mut(at as usize));
        let Some(flight) = flight else { panic!("a completion for a write that is not in flight") };
        assert!(flight.data.is_some() && !flight.waits, "a write completes once");
        flight
    }

    /// A write found too little of something: it waits to be tried again, whole.
    pub(crate) fn lacked(&mut self, number: u64) {
        self.flight(number).waits = true;
    }

    /// Whether a write waits to be tried again.
    pub(crate) fn waits(&self) -> bool {
        self.flights.iter().any(|flight| flight.waits)
    }

    /// Tries again what waits for that.
    pub(crate) fn again(&mut self, io: &mut dyn Io) {
        for (number, flight) in (self.oldest..).zip(&mut self.flights) {
            if std::mem::take(&mut flight.waits) {
                flight.submit(number, io);
            }
        }
    }

    /// A write has completed: it is durable, unless the log was given up. Only the contiguous prefix counts.
    pub(crate) fn written(&mut self, number: u64) {
        self.flight(number).data = None;
        self.settle();
    }

    fn settle(&mut self) {
        while self.flights.front().is_some_and(|flight| flight.data.is_none())
            && let Some(flight) = self.flights.pop_front()
        {
            self.oldest += 1;
            if let Some((end, write)) = flight.frames
                && !self.given_up
            {
                assert!(end > self.durable, "positions grow");
                self.durable = end;
                match &mut self.chain {
                    Some(chain) if chain.write == write => chain.header = Progress::Durable,
                    _ => self.news = Some(write),
                }
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
            appender.push_header(Handle(0), 0, block.freeze());
            assert!(!appender.idle(), "what is queued is not written");
        }
        assert_eq!((appender.queued(), appender.in_flight()), (MAX_QUEUED - 1, 0), "a frame and its header fit, or nothing");
    }
}

//! The segment files of a running log: those it lives in, those it left, those it will go to.

use std::collections::VecDeque;

use kontiki_io::Handle;

use crate::limits::MAX_SEGMENTS;

/// One open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) file: Handle,
    /// How often the file was recycled.
    pub(crate) generation: u64,
    /// Whether the file has a segment's length; one that has not is never used again.
    pub(crate) whole: bool,
    /// Reads of it, and writes of zeros to it, in progress: until they are done it stays what it is.
    pub(crate) readers: u32,
    /// Of a prepared one: the file holds zeros, durably, from its first frame's place to this offset.
    pub(crate) blank_to: u64,
}

/// All of them. Numbers only grow: `next_number` is above every file's, so a name is never given twice.
#[derive(Debug)]
pub(crate) struct Segments {
    /// The log, oldest first. Mirrors the segments of the live log's index.
    pub(crate) linked: VecDeque<Segment>,
    /// What recovery left aside: evidence of what was lost, not written again before [`Segments::retire_aside`]. By
    /// number.
    pub(crate) aside: Vec<Segment>,
    /// Written with zeros or recycled, under their names: the next frames go there. By number.
    pub(crate) prepared: VecDeque<Segment>,
    /// A new file, under its name, until the hard state names it too.
    pub(crate) made: Option<Segment>,
    /// Released, to be recycled or removed in this order.
    pub(crate) retired: VecDeque<Segment>,
    pub(crate) next_number: u64,
}

impl Segments {
    pub(crate) fn none() -> Segments {
        let table = || VecDeque::with_capacity(MAX_SEGMENTS);
        Segments { linked: table(), aside: Vec::new(), prepared: table(), made: None, retired: table(), next_number: 1 }
    }

    pub(crate) fn len(&self) -> usize {
        self.linked.len() + self.aside.len() + self.prepared.len() + usize::from(self.made.is_some()) + self.retired.len()
    }

    pub(crate) fn current(&self) -> Option<&Segment> {
        self.linked.back()
    }

    /// The segment of this number, in the log or released from it.
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Segment> {
        self.linked.iter_mut().chain(self.retired.iter_mut()).find(|segment| segment.number == number)
    }

    /// Retires the oldest segment of the log, and before it everything aside below its successor: what lies between the
    /// two must not be found without the first, and of what lies before it the lowest is where recovery starts as
    /// long as there is any.
    pub(crate) fn retire_oldest(&mut self) {
        let Some(oldest) = self.linked.pop_front() else { return };
        let Some(successor) = self.linked.front().map(|segment| segment.number) else { return };
        self.retire_aside(successor);
        self.retired.push_back(oldest);
        assert!(self.len() <= MAX_SEGMENTS, "retiring makes no segments");
    }

    /// The log is a new chain from now on, and this its first segment: all that was before retires.
    pub(crate) fn begin_chain(&mut self, segment: Segment) {
        self.retire_aside(segment.number);
        self.retired.extend(self.linked.drain(..));
        self.linked.push_back(segment);
    }

    /// Retires what was left aside below `number`, a segment of the log that holds a durable frame: the walk of a
    /// recovery goes from before it to that segment, and needs nothing in between. Highest number first: whichever
    /// files a power cut finds gone, the oldest is the one that it was.
    pub(crate) fn retire_aside(&mut self, number: u64) {
        let from = self.retired.len();
        self.retired.extend(self.aside.extract_if(.., |segment| segment.number < number));
        self.retired.make_contiguous().get_mut(from..).unwrap_or_default().reverse();
    }

    /// Every handle, to be closed.
    pub(crate) fn into_handles(self) -> impl Iterator<Item = Handle> {
        self.linked.into_iter().chain(self.aside).chain(self.prepared).chain(self.made).chain(self.retired).map(|segment| segment.file)
    }
}

//! Zeros behind the log's end, so that the end can be recognised on a medium that may lose what was flushed.
//!
//! What such a medium loses reads as anything but zeros. So where a block of zeros stands behind the last frame,
//! nothing was written, and nothing can have been lost; where something else stands, as in a recycled segment, that
//! cannot be known. In a segment that was filled with zeros all is in place. In a recycled one a margin of zeros is
//! kept ahead of the log while frames are small: written between them and ahead of them, so that none waits for it.
//! Large frames leave no margin: one block of zeros is written once the log rests for a while.

use kontiki_core::Time;
use kontiki_frame::BLOCK_BYTES;

use crate::limits::{LIGHT_FRAME_BYTES, MARGIN_BYTES, REST_NS};

/// Positions from here, up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Range {
    pub(crate) fn overlaps(&self, from: u64, to: u64) -> bool {
        self.from < to && from < self.to
    }
}

#[derive(Debug)]
pub(crate) struct Margin {
    /// On a safe medium nothing is lost, and nothing has to be recognised.
    wanted: bool,
    /// What lies between the log's end and this position is zeros, durably.
    blank_to: u64,
    /// Being zeroed, in this segment.
    flight: Option<(Range, u64)>,
    /// Length of frames, on average over the last few, in bytes.
    typical: usize,
    /// Nothing is written since.
    resting: Option<Time>,
}

impl Margin {
    pub(crate) fn new(wanted: bool, blank_to: u64) -> Margin {
        Margin { wanted, blank_to, flight: None, typical: 0, resting: None }
    }

    /// The log goes on in a segment of which this much is zeros.
    pub(crate) fn enter(&mut self, blank_to: u64) {
        self.blank_to = blank_to;
    }

    /// A frame is appended.
    pub(crate) fn appended(&mut self, bytes: usize) {
        self.typical = (7 * self.typical + bytes) / 8;
        self.resting = None;
    }

    /// What is being zeroed: no frame goes there before that is done.
    pub(crate) fn under_way(&self) -> Option<Range> {
        self.flight.map(|(range, _)| range)
    }

    fn is_light(&self) -> bool {
        self.typical <= LIGHT_FRAME_BYTES
    }

    /// What is to be zeroed, now that no frame waits or is being written. `end`: of the log; `limit`: of its segment.
    pub(crate) fn due(&mut self, end: u64, limit: u64, now: Time) -> Option<Range> {
        if !self.wanted || self.flight.is_some() {
            return None;
        }
        let since = *self.resting.get_or_insert(now);
        let from = self.blank_to.max(end);
        let (least, most) = if self.is_light() { (MARGIN_BYTES / 2, MARGIN_BYTES) } else { (BLOCK_BYTES, BLOCK_BYTES) };
        let short = from < limit.min(end + least as u64);
        let to = limit.min(end + most as u64);
        (short && (self.is_light() || now >= since.plus_ns(REST_NS))).then_some(Range { from, to })
    }

    /// When [`Margin::due`] is to be asked again though nothing happens.
    pub(crate) fn deadline(&self, end: u64, limit: u64) -> Option<Time> {
        let due = self.wanted && self.flight.is_none() && self.blank_to.max(end) == end && end < limit;
        self.resting.filter(|_| due).map(|since| since.plus_ns(REST_NS))
    }

    /// Its zeros are being written to this segment.
    pub(crate) fn begin(&mut self, range: Range, segment: u64) {
        self.flight = Some((range, segment));
    }

    /// The system lacked something for them, and they are due again. The segment they were for.
    pub(crate) fn lacked(&mut self) -> u64 {
        let Some((_, segment)) = self.flight.take() else { panic!("a completion for zeros that are not being written") };
        segment
    }

    /// They are durable. The segment they are in.
    pub(crate) fn done(&mut self, now_in: Option<u64>) -> u64 {
        let Some((range, segment)) = self.flight.take() else { panic!("a completion for zeros that are not being written") };
        if now_in == Some(segment) {
            self.blank_to = range.to;
        }
        segment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_BYTES as u64;
    const LIMIT: u64 = 100 * BLOCK;

    fn done(margin: &mut Margin, range: Range) {
        margin.begin(range, 0);
        assert_eq!(margin.due(range.from, LIMIT, Time(0)), None, "one at a time");
        margin.done(Some(0));
    }

    /// Small frames: zeros are ahead of the log, and refilled long before a frame comes to their end.
    #[test]
    fn ahead_of_small_frames() {
        let mut margin = Margin::new(true, 0);
        let (mut end, mut zeroed, mut least) = (BLOCK, 0, u64::MAX);
        for _ in 0..60 {
            margin.appended(BLOCK_BYTES);
            end += BLOCK;
            if let Some(range) = margin.due(end, LIMIT, Time(0)) {
                assert!(range.from >= end && range.to <= LIMIT);
                least = if zeroed > 0 { least.min(range.from - end) } else { least };
                zeroed += range.to - range.from;
                done(&mut margin, range);
            }
        }
        assert!(least >= MARGIN_BYTES as u64 / 2 - BLOCK, "{least}");
        assert!(zeroed <= 60 * BLOCK + MARGIN_BYTES as u64, "a byte of zeros for a byte of frames: {zeroed}");
        assert_eq!(margin.deadline(end, LIMIT), None, "a log that rests is left in peace");
    }

    /// Large frames: one block, and only at rest.
    #[test]
    fn behind_large_frames_at_rest() {
        let mut margin = Margin::new(true, 0);
        (0..30).for_each(|_| margin.appended(8 * LIGHT_FRAME_BYTES));
        assert_eq!(margin.due(BLOCK, LIMIT, Time(7)), None);
        let due = margin.deadline(BLOCK, LIMIT).map(|at| at.0);
        assert_eq!(due, Some(7 + REST_NS));
        margin.appended(8 * LIGHT_FRAME_BYTES);
        assert_eq!(margin.due(BLOCK, LIMIT, Time(REST_NS)), None, "it did not rest");
        let range = margin.due(BLOCK, LIMIT, Time(2 * REST_NS)).unwrap_or_else(|| panic!("it rests"));
        assert_eq!(range, Range { from: BLOCK, to: 2 * BLOCK });
        done(&mut margin, range);
        assert_eq!((margin.due(BLOCK, LIMIT, Time(9 * REST_NS)), margin.deadline(BLOCK, LIMIT)), (None, None));
    }

    #[test]
    fn where_nothing_is_to_be_zeroed() {
        assert_eq!(Margin::new(false, 0).due(BLOCK, LIMIT, Time(0)), None, "a safe medium");
        assert_eq!(Margin::new(true, LIMIT).due(BLOCK, LIMIT, Time(0)), None, "a segment of zeros");
        assert_eq!(Margin::new(true, 0).due(LIMIT, LIMIT, Time(0)), None, "a full one");
        let mut margin = Margin::new(true, LIMIT - BLOCK);
        assert_eq!(
            margin.due(LIMIT - 2 * BLOCK, LIMIT, Time(0)),
            Some(Range { from: LIMIT - BLOCK, to: LIMIT }),
            "no further than it goes"
        );
    }
}

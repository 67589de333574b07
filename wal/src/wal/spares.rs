//! Keeping segments ready ahead of use, and letting go of those that are not needed any more.
//!
//! The end of a log cannot vouch for itself: a file that is gone leaves no trace. So the hard state names the segments
//! that the log may lie in, and does so before it matters. No frame enters a segment that is not named durably; nobody
//! waits for that, for a segment is named when it is prepared. No file of the log goes before the hard state says
//! durably that the log begins behind it. One update says both when a released file is to become the next spare: it
//! names the spare before the file is renamed, and what a crash leaves in between is a released file under its old
//! name.

use kontiki_frame::BLOCK_BYTES;
use kontiki_io::{Io, IoError, tell};

use super::{Growth, Wal};
use crate::hard_state::SegmentSpan;
use crate::limits::{KEPT_SEGMENTS, LACKING_TOLD_NS, MAX_SEGMENTS};
use crate::prepare::Outcome;
use crate::token::Purpose;

impl Wal {
    pub(super) fn wants_new(&self) -> bool {
        self.segments.prepared.len() < self.options.prepared() && self.segments.len() < MAX_SEGMENTS
    }

    /// Position of the first frame in the current segment: what lies behind it, lies in this segment. Behind everything
    /// if there is none.
    fn current_begins(&self) -> u64 {
        self.segments.current().map_or(u64::MAX, |segment| segment.number * self.options.segment_bytes + BLOCK_BYTES as u64)
    }

    /// Lets go of what recoveries put aside, once the log has gone on behind it and the node has again what it lost;
    /// sooner if there would be no room for the log: a node with a bad disk refetches again and again, and its
    /// state machine may need all of the log.
    fn release_evidence(&mut self) {
        if self.segments.aside.is_empty() || self.saver.recovering() && self.segments.len() <= MAX_SEGMENTS / 2 {
            return;
        }
        if let Some(number) = self.segments.current().map(|segment| segment.number)
            && self.appender.durable() > self.current_begins()
        {
            self.segments.retire_aside(number);
        }
    }

    /// What the hard state is to say: where the log begins now, and the newest segment.
    fn span(&self, newest: u64, generation: u64, source: u64) -> SegmentSpan {
        // Of a chain that is beginning nothing is said before its first header is durable; and what was said is not taken back.
        let oldest = self.log.oldest_segment().filter(|_| !self.appender.begins_chain()).unwrap_or(self.saver.span().oldest);
        SegmentSpan { oldest, newest, generation, source }
    }

    pub(super) fn note(&mut self, span: SegmentSpan, io: &mut dyn Io) {
        self.saver.note(span);
        self.saver.pump(self.appender.durable(), io);
    }

    /// What was made is ready once it is named durably.
    pub(super) fn named(&mut self) {
        if self.segments.made.as_ref().is_some_and(|made| made.number <= self.saver.named().newest) {
            self.segments.prepared.extend(self.segments.made.take());
        }
    }

    /// Starts the next job of preparation, if any: first what was released, oldest first, then a new file. One job, or
    /// one note of it in the hard state, at a time.
    pub(super) fn prepare(&mut self, io: &mut dyn Io) {
        if self.preparer.waits() && !self.lacking.holds(io.now()) {
            let again = self.preparer.again();
            again.into_iter().for_each(|op| io.submit(Purpose::Prepare.token(), op));
        }
        if self.preparer.busy() || !self.saver.noted() {
            return;
        }
        // With the segments it is noted how far the log was durable. If that lies in the current segment, neither a file that
        // is gone nor what stood in it when it was prepared passes for all of it.
        let begins = self.current_begins();
        if self.appender.durable() > begins {
            if self.saver.watermark() <= begins {
                return self.note(self.saver.named(), io);
            }
        } else if !self.appender.idle() {
            // (Nor is a log idle in which a new chain is beginning: as long as it is, nothing of the old one goes.)
            return;
        }
        self.release_evidence();
        if self.lacking.error().is_some() && self.lacking.holds(io.now()) {
            return;
        }
        let noted = self.saver.named();
        let number = self.segments.next_number;
        // One more spare than asked for: a segment released just after a new one was made is not thrown away.
        let room = self.segments.prepared.len() <= self.options.prepared();
        let op = if let Some(front) = self.segments.retired.front().filter(|segment| segment.readers == 0) {
            // Files between others are needed by nobody once the log has gone on; only where it begins has to be known.
            let free = self.log.oldest_segment().is_none_or(|oldest| front.number > oldest) || front.number < noted.oldest;
            // What is named already becomes a spare: under that name there will be no other.
            let named = (noted.newest, noted.source) == (number, front.number);
            let gives = self.growth == Growth::Full && self.segments.prepared.len() > KEPT_SEGMENTS && !named;
            let recycle = room && front.whole && !gives;
            if recycle && !named {
                return self.note(self.span(number, front.generation + 1, front.number), io);
            }
            if !free {
                return self.note(self.span(noted.newest, noted.generation, noted.source), io);
            }
            let Some(segment) = self.segments.retired.pop_front() else { return };
            if recycle {
                self.segments.next_number += 1;
                self.preparer.recycle(segment, number)
            } else {
                self.preparer.remove(segment)
            }
        } else if self.growth == Growth::Free && self.wants_new() && noted.newest < number {
            self.segments.next_number += 1;
            self.preparer.create(number)
        } else {
            return;
        };
        io.submit(Purpose::Prepare.token(), op);
    }

    pub(super) fn prepared(&mut self, outcome: Outcome, io: &mut dyn Io) {
        match outcome {
            Outcome::Next(op) => io.submit(Purpose::Prepare.token(), op),
            Outcome::Prepared(segment) => {
                self.lacking.over();
                // A new file is named once it is there. Until then no frame goes into it.
                let span = self.span(segment.number, segment.generation, 0);
                self.segments.made = Some(segment);
                if self.saver.named().newest < span.newest {
                    self.note(span, io);
                }
                self.named();
            }
            Outcome::Removed => self.lacking.over(),
            Outcome::Waits(error, segment) => {
                // The number was not used. Numbers have no gaps, so that a file that is missing is known to be.
                self.segments.next_number -= 1;
                if let Some(segment) = segment {
                    self.segments.retired.push_front(segment);
                }
                self.prepare_later(error, io);
            }
            Outcome::Again(error) => self.prepare_later(error, io),
        }
    }

    fn prepare_later(&mut self, error: IoError, io: &dyn Io) {
        // Said once, and again only if it is something else: it may last for days. Or come and go with each segment.
        let (now, since) = (io.now(), self.lacking_told.filter(|&(told, _)| told == error).map(|(_, since)| since));
        let news = self.lacking.error() != Some(error);
        let pause = self.lacking.lacked(error, now);
        if news && since.is_none_or(|since| now.since(since) >= LACKING_TOLD_NS) {
            self.lacking_told = Some((error, now));
            tell!(
                warn, %error,
                "no space to prepare a log segment, or too little of something else: appends stop when the current one is full"
            );
        } else {
            tell!(debug, %error, retry_ms = pause / 1_000_000, "still nothing to prepare a log segment with");
        }
    }
}

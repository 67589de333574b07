//! A new chain: the log behind a snapshot that was installed.
//!
//! The old log is of no use where it lacks the snapshot's last entry, and nothing of it may be found behind the
//! snapshot. So the log goes on in a segment whose header is flagged *base*, and says what it presupposes. Four steps,
//! each durable before the next: the snapshot, under its name (whoever calls has done that); the header; the hard state,
//! which says that the log begins there; then frames, and the answer. A start takes the newest intact base segment for
//! the log's beginning, so after a power cut between the second and the third the log is the new one already, and empty:
//! nothing was acknowledged in it. What is left of the old chain is recycled after the third.

use kontiki_core::{Base, WriteId};
use kontiki_frame::BLOCK_BYTES;
use kontiki_io::{Io, tell};

use super::Wal;
use crate::hard_state::SegmentSpan;

impl Wal {
    /// Whether [`Wal::rebase`] can be called: a segment is prepared for it, and no other new chain is beginning. Where there
    /// is none and no space for one, [`Wal::make_room`] up to the snapshot's index may find one in the old log.
    pub fn can_rebase(&self) -> bool {
        self.poison.is_none() && self.closing.is_none() && self.appender.has_room() && self.has_next() && !self.appender.begins_chain()
    }

    /// Begins the log anew behind a snapshot of `base` with this digest, as write `write`: the log is empty from now on,
    /// and goes on at `base.next()`. The snapshot must be durable under its name. Covered by
    /// [`WalEvent::LogDurable`](crate::WalEvent::LogDurable), once nothing of the old log can come back. Term and vote
    /// stay as they are.
    ///
    /// # Panics
    /// If [`Wal::can_rebase`] says no: a bug of the caller.
    pub fn rebase(&mut self, write: WriteId, base: Base, digest: u128) {
        assert!(self.can_rebase(), "can_rebase is asked first");
        let (segment, header) = self.next_segment(base, Some(digest));
        tell!(info, %base, segment = segment.number, was = %self.log.last(), "the log begins anew behind a snapshot");
        let position = segment.number * self.options.segment_bytes;
        self.appender.push_base(segment.file, position, header, write);
        self.log.begin_chain(base);
        self.log.open_segment(segment.number);
        self.segments.begin_chain(segment);
        self.end = position + BLOCK_BYTES as u64;
    }

    /// A new chain's first header is durable, and the chain is due: has the hard state say that the log begins there. Then
    /// it has begun, and frames follow.
    pub(crate) fn name_chain(&mut self, io: &mut dyn Io) {
        let Some(number) = self.log.oldest_segment() else { panic!("the chain has its first segment") };
        let named = self.saver.named();
        if named.oldest >= number {
            self.appender.chain_is_named();
            // The old chain's segments are to be used again: that needs no space.
            self.lacking.at_once();
        } else if self.saver.noted() {
            self.note(SegmentSpan { oldest: number, ..named }, io);
        }
    }
}

//! Frames read back from the log: for followers that fell behind memory, and for an apply stage that did.
//!
//! For a follower the next piece is read while the last one is under way to it: otherwise its disk and this one would
//! take turns.

use kontiki_core::{LogIndex, NodeId, SessionId, Term};
use kontiki_mem::{Block, Pool};
use kontiki_wal::{FrameAt, Frames};

use crate::limits::READ_BUFFERS;

/// Who a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The apply stage of this node.
    Apply,
    /// A follower, from this index on.
    Peer { peer: NodeId, from: LogIndex },
    /// Nobody any more: what is read is not of this log.
    Nobody,
}

impl Reader {
    /// One read at a time for each.
    fn is_same(&self, other: &Reader) -> bool {
        match (self, other) {
            (Reader::Apply, Reader::Apply) => true,
            (Reader::Peer { peer: a, .. }, Reader::Peer { peer: b, .. }) => a == b,
            (Reader::Apply, Reader::Peer { .. }) | (Reader::Peer { .. }, Reader::Apply) => false,
            (Reader::Nobody, _) | (_, Reader::Nobody) => false,
        }
    }
}

/// What the core wants sent, in answer to which it hears what was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) peer: NodeId,
    pub(crate) session: SessionId,
    pub(crate) from: LogIndex,
    pub(crate) upto: LogIndex,
    pub(crate) max_bytes: u64,
    pub(crate) max_frames: u32,
}

/// What was read for a follower and is not sent yet.
#[derive(Debug)]
pub(crate) struct Piece {
    peer: NodeId,
    /// The term in which this node led, and what was read stood in its log.
    term: Term,
    block: Block,
    frames: Frames,
    /// How many of the frames were sent.
    sent: usize,
}

impl Piece {
    pub(crate) fn new(peer: NodeId, term: Term, block: Block, frames: Frames) -> Piece {
        Piece { peer, term, block, frames, sent: 0 }
    }

    /// The next frame to send.
    pub(crate) fn next(&self) -> Option<(FrameAt, Block)> {
        let frame = *self.frames.get(self.sent)?;
        Some((frame, self.block.slice(frame.offset, frame.bytes)))
    }

    /// That one was sent.
    pub(crate) fn advance(&mut self) {
        self.sent += 1;
    }
}

/// Reads in progress, by tag: one for apply, one per peer. And what came of those that were ahead of what is asked for.
#[derive(Debug)]
pub(crate) struct CatchUp {
    readers: Vec<Option<Reader>>,
    /// Asked for, and being read: one per peer at most.
    asks: Vec<Ask>,
    /// One per peer at most.
    pieces: Vec<Piece>,
    pub(crate) pool: Pool,
}

impl CatchUp {
    pub(crate) fn new(buffer_bytes: usize, members: usize) -> CatchUp {
        CatchUp {
            readers: vec![None; members + 1],
            asks: Vec::with_capacity(members),
            pieces: Vec::with_capacity(members),
            pool: Pool::new(READ_BUFFERS.max(members + 1), buffer_bytes),
        }
    }

    /// Whether a peer may have a buffer now. The last one is apply's. A peer that has not yet read what was sent to it,
    /// and one whose next piece is read ahead, leaves one for each of the others: one that does not read at all
    /// starves nobody.
    pub(crate) fn has_buffer(&self, modest: bool) -> bool {
        let others = self.readers.len() - 2;
        self.pool.available() > if modest { others } else { 1 }
    }

    /// A tag for a new read, if this reader has none in progress and there is a place.
    pub(crate) fn begin(&mut self, reader: Reader) -> Option<u64> {
        if self.reading(reader).is_some() {
            return None;
        }
        let at = self.readers.iter().position(Option::is_none)?;
        *self.readers.get_mut(at)? = Some(reader);
        Some(at as u64)
    }

    /// The read in progress for whom `reader` is for.
    pub(crate) fn reading(&self, reader: Reader) -> Option<Reader> {
        self.readers.iter().flatten().find(|r| r.is_same(&reader)).copied()
    }

    /// The reader a finished read was for.
    pub(crate) fn end(&mut self, tag: u64) -> Option<Reader> {
        self.readers.get_mut(tag as usize)?.take().filter(|reader| *reader != Reader::Nobody)
    }

    /// The log begins anew: what is being read is not of it.
    pub(crate) fn forget_log(&mut self) {
        self.readers.iter_mut().flatten().for_each(|reader| *reader = Reader::Nobody);
        self.asks.clear();
        self.pieces.clear();
    }

    /// To be answered when the read in progress for that peer is done. An older one, of an earlier session, is nobody's
    /// any more.
    pub(crate) fn ask(&mut self, ask: Ask) {
        self.asks.retain(|older| older.peer != ask.peer);
        self.asks.push(ask);
    }

    /// What is to be answered now.
    pub(crate) fn asked(&mut self, peer: NodeId) -> Option<Ask> {
        let at = self.asks.iter().position(|ask| ask.peer == peer)?;
        Some(self.asks.swap_remove(at))
    }

    pub(crate) fn keep(&mut self, piece: Piece) {
        self.pieces.retain(|older| older.peer != piece.peer);
        self.pieces.push(piece);
    }

    /// What was read ahead for a peer, if it goes on from there, and was read in this term: within one a leader's log
    /// never changes, but between two of them others may have led. Else it is of no use any more.
    pub(crate) fn piece(&mut self, peer: NodeId, term: Term, from: LogIndex) -> Option<Piece> {
        let at = self.pieces.iter().position(|piece| piece.peer == peer)?;
        let piece = self.pieces.swap_remove(at);
        let goes_on = piece.next().is_some_and(|(frame, _)| frame.range.from == from);
        (goes_on && piece.term == term).then_some(piece)
    }

    /// This follower is gone, and what was read for it of no use.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        self.pieces.retain(|piece| piece.peer != peer);
    }

    /// This node leads no more.
    pub(crate) fn forget_all(&mut self) {
        self.pieces.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use kontiki_core::{FrameMeta, IndexRange};

    use super::*;

    const FRAME: usize = 4096;
    const TERM: Term = Term(5);

    /// Two frames of ten entries each, from `first` on.
    fn piece(catchup: &CatchUp, peer: u64, first: u64) -> Piece {
        let frame = |n: usize| {
            let from = first + 10 * n as u64;
            let meta = FrameMeta { term: Term(3), first: LogIndex(from), count: 10, prev_term: Term(3) };
            let range = IndexRange { from: LogIndex(from), to: LogIndex(from + 9) };
            FrameAt { offset: n * FRAME, bytes: FRAME, meta, range }
        };
        Piece::new(NodeId(peer), TERM, catchup.pool.take().unwrap().freeze(), [frame(0), frame(1)].into_iter().collect())
    }

    #[test]
    fn what_was_read_ahead_serves_only_who_goes_on_from_there_in_that_term() {
        let mut catchup = CatchUp::new(2 * FRAME, 3);
        for (peer, term, from, found) in [(2, 5, 10, true), (2, 5, 11, false), (2, 6, 10, false), (3, 5, 10, false)] {
            let ahead = piece(&catchup, 2, 10);
            catchup.keep(ahead);
            assert_eq!(catchup.piece(NodeId(peer), Term(term), LogIndex(from)).is_some(), found, "{peer} {term} {from}");
            catchup.forget(NodeId(2));
            assert_eq!(catchup.pool.available(), READ_BUFFERS, "what is of no use is not kept");
        }
    }

    #[test]
    fn a_piece_is_sent_frame_by_frame() {
        let mut catchup = CatchUp::new(2 * FRAME, 3);
        let mut ahead = piece(&catchup, 2, 10);
        ahead.advance();
        catchup.keep(ahead);
        let mut rest = catchup.piece(NodeId(2), TERM, LogIndex(20)).unwrap();
        assert_eq!(rest.next().unwrap().0.offset, FRAME);
        rest.advance();
        assert!(rest.next().is_none());
    }

    #[test]
    fn one_reads_and_asks_for_one_thing_at_a_time() {
        let mut catchup = CatchUp::new(FRAME, 3);
        let reader = |from| Reader::Peer { peer: NodeId(2), from: LogIndex(from) };
        let tag = catchup.begin(reader(10)).unwrap();
        assert!(catchup.begin(reader(20)).is_none());
        assert_eq!(catchup.reading(reader(20)), Some(reader(10)));
        assert!(catchup.begin(Reader::Apply).is_some());
        let ask = |session| Ask {
            peer: NodeId(2),
            session: SessionId(session),
            from: LogIndex(10),
            upto: LogIndex(99),
            max_bytes: 1,
            max_frames: 1,
        };
        catchup.ask(ask(1));
        catchup.ask(ask(2));
        assert_eq!(catchup.asked(NodeId(2)).map(|ask| ask.session), Some(SessionId(2)));
        assert!(catchup.asked(NodeId(2)).is_none());
        assert_eq!(catchup.end(tag), Some(reader(10)));
    }

    /// Two followers that take nothing leave a buffer for each other and one for apply.
    #[test]
    fn who_is_modest_leaves_buffers_to_others() {
        let catchup = CatchUp::new(FRAME, 3);
        let _one = catchup.pool.take();
        assert!(catchup.has_buffer(true) && catchup.has_buffer(false));
        let _two = catchup.pool.take();
        assert!(!catchup.has_buffer(true) && catchup.has_buffer(false));
        let _three = catchup.pool.take();
        assert!(!catchup.has_buffer(false), "the last one is apply's");
    }
}

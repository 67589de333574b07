//! Frames on their way to one peer: a bounded queue, and at most one gathering send under way.

use std::collections::VecDeque;

use kontiki_core::{IndexRange, LogIndex, SessionId, Term, Time};
use kontiki_frame::{STAMP_BYTES, WireStamp};
use kontiki_io::{Gather, Piece};
use kontiki_mem::{Block, Pool};

use crate::limits::{BYTES_PER_SEND, FRAMES_PER_SEND};

/// What a leader says of a frame that it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameStamp {
    /// Its current term (not the term of the entries).
    pub leader_term: Term,
    /// Its commit index.
    pub commit: LogIndex,
    /// Which of the frame's entries it means.
    pub range: IndexRange,
    /// Its round of confirmation.
    pub round: u64,
}

/// What one peer's queue keeps from being reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinning {
    /// When the oldest frame was queued.
    pub since: Time,
    /// Frames queued or under way.
    pub frames: usize,
    /// Bytes queued or under way.
    pub bytes: u64,
}

/// Room in one peer's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkRoom {
    /// Frames that would be taken now.
    pub frames: usize,
    /// Bytes that would be taken now; one frame of any size is taken if nothing waits.
    pub bytes: u64,
}

#[derive(Debug)]
struct Outgoing {
    block: Block,
    stamp: WireStamp,
    queued: Time,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    frames: usize,
    bytes: u64,
    since: Time,
}

#[derive(Debug)]
pub(crate) struct BulkOut {
    queue: VecDeque<Outgoing>,
    queued_bytes: u64,
    under_way: Option<UnderWay>,
    session: SessionId,
    sequence: u64,
    max_frames: usize,
    max_bytes: u64,
}

impl BulkOut {
    pub(crate) fn new(max_frames: usize, max_bytes: u64) -> Self {
        BulkOut {
            queue: VecDeque::with_capacity(max_frames),
            queued_bytes: 0,
            under_way: None,
            session: SessionId(0),
            sequence: 0,
            max_frames,
            max_bytes,
        }
    }

    /// Forgets everything and numbers the frames of `session` from 1.
    pub(crate) fn reset(&mut self, session: SessionId) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.under_way = None;
        self.session = session;
        self.sequence = 0;
    }

    fn pinned_bytes(&self) -> u64 {
        self.queued_bytes + self.under_way.map_or(0, |way| way.bytes)
    }

    pub(crate) fn room(&self) -> BulkRoom {
        BulkRoom { frames: self.max_frames - self.queue.len(), bytes: self.max_bytes.saturating_sub(self.pinned_bytes()) }
    }

    /// Queues a frame. False if there is no room for it.
    pub(crate) fn push(&mut self, now: Time, stamp: FrameStamp, block: Block) -> bool {
        let bytes = block.len() as u64;
        let room = self.room();
        if room.frames == 0 || (room.bytes < bytes && self.pinned_bytes() > 0) {
            return false;
        }
        self.sequence += 1;
        let FrameStamp { leader_term, commit, range, round } = stamp;
        let stamp = WireStamp { session: self.session, sequence: self.sequence, leader_term, commit, range, round };
        self.queue.push_back(Outgoing { block, stamp, queued: now });
        self.queued_bytes += bytes;
        true
    }

    pub(crate) fn waits(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes the next frames out of the queue as one send: per frame its stamp, from a buffer of
    /// `heads`, and its sealed part, where it lies. `None` if nothing waits or the pool is empty.
    pub(crate) fn gather(&mut self, heads: &Pool) -> Option<Gather> {
        let since = self.queue.front()?.queued;
        let mut head = heads.take()?;
        let mut pieces = heapless::Vec::new();
        let mut way = UnderWay { frames: 0, bytes: 0, since };
        for stamp_out in head.bytes_mut().as_chunks_mut::<STAMP_BYTES>().0.iter_mut().take(FRAMES_PER_SEND) {
            if way.bytes >= BYTES_PER_SEND as u64 {
                break;
            }
            let Some(Outgoing { block, stamp, .. }) = self.queue.pop_front() else { break };
            stamp.write(stamp_out, block.bytes());
            let (at, len) = ((way.frames * STAMP_BYTES) as u32, block.len() as u32);
            way.frames += 1;
            way.bytes += u64::from(len);
            let whole = pieces.push(Piece::Head(at, at + STAMP_BYTES as u32)).is_ok()
                && pieces.push(Piece::Block(block, STAMP_BYTES as u32, len)).is_ok();
            assert!(whole, "FRAMES_PER_SEND frames fit MAX_PIECES");
        }
        self.queued_bytes -= way.bytes;
        self.under_way = Some(way);
        Some(Gather { head, pieces })
    }

    /// The send under way has completed.
    pub(crate) fn sent(&mut self) {
        self.under_way = None;
    }

    pub(crate) fn pinning(&self) -> Option<Pinning> {
        let oldest = self.queue.front().map(|frame| frame.queued);
        let since = self.under_way.map(|way| way.since).or(oldest)?;
        let frames = self.queue.len() + self.under_way.map_or(0, |way| way.frames);
        Some(Pinning { since, frames, bytes: self.pinned_bytes() })
    }
}

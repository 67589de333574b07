//! Frames arriving from one peer, straight into the ring.
//!
//! Between two frames the connection waits with a *small* receive: at most the 192 bytes of a stamp
//! and a header, into a buffer of its own. Only when they have shown that a frame is on its way, and how long it
//! is, is ring memory reserved and the rest received in place, with as much of what follows as fits. So
//! an idle connection holds no ring memory, and the right to send can move on without touching the
//! connection: the small receive stays posted, and what it catches is kept. Only a frame that is half
//! received when that happens costs its connection.
//!
//! The 192 bytes are copied into the ring; no byte of a payload is.

use kontiki_core::{ClusterId, GroupId, SessionId};
use kontiki_frame::{BLOCK_BYTES, BODY_OFFSET, Header, WireStamp, parse_header, verify};
use kontiki_io::IoBuf;
use kontiki_mem::{BlockMut, PoolBuf, Ring};

use crate::handshake::refusal::Refusal;
use crate::limits::{RECEIVE_BYTES, SMALL_BYTES};

/// What frames must be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) cluster: ClusterId,
    pub(crate) group: GroupId,
    pub(crate) max_frame_bytes: usize,
}

/// A receive to post.
#[derive(Debug)]
pub(crate) struct Posting {
    pub(crate) buf: IoBuf,
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// What to do next about receiving.
#[derive(Debug)]
pub(crate) enum Next {
    /// Post this.
    Post(Posting),
    /// A receive is outstanding, or whole frames wait to be taken first.
    Nothing,
    /// The ring has no room now.
    NoRoomNow,
    /// The ring has room, but not behind this frame, and never will have.
    NoRoomEver,
}

#[derive(Debug)]
pub(crate) struct BulkIn {
    session: SessionId,
    /// Sequence number of the next frame.
    sequence: u64,
    small: Option<PoolBuf>,
    small_len: usize,
    block: Option<BlockMut>,
    /// Bytes received into the block.
    filled: usize,
    /// The ring block is lent to a receive.
    lent: bool,
    /// Header and stamp of the frame at the block's start passed their checks; its length in bytes.
    checked: Option<usize>,
}

impl BulkIn {
    pub(crate) fn new(session: SessionId, small: PoolBuf) -> Self {
        BulkIn { session, sequence: 1, small: Some(small), small_len: 0, block: None, filled: 0, lent: false, checked: None }
    }

    /// Whether a frame is received in part, or a receive into the ring is outstanding.
    pub(crate) fn in_ring(&self) -> bool {
        self.lent || self.block.is_some()
    }

    /// Whether what was received of a frame is at hand: not while a receive into it is outstanding.
    pub(crate) fn holds_any(&self) -> bool {
        self.block.is_some()
    }

    /// Takes back the memory of a receive, with `received` more bytes in it.
    pub(crate) fn restore(&mut self, buf: IoBuf, received: usize) {
        match buf {
            IoBuf::Pool(small) => {
                self.small_len += received;
                assert!(self.small_len <= SMALL_BYTES, "no more came than was asked for");
                self.small = Some(small);
            }
            IoBuf::Block(block) => {
                self.filled += received;
                assert!(self.filled <= block.len() && self.lent, "no more came than was asked for");
                self.lent = false;
                self.block = Some(block);
            }
        }
    }

    /// Checks stamp and header of the frame that starts `bytes`; its length.
    fn check(&self, bytes: &[u8], rules: &Rules) -> Result<usize, Refusal> {
        let header = parse_header(bytes).map_err(Refusal::Frame)?;
        if header.cluster != rules.cluster {
            return Err(Refusal::FrameCluster { theirs: header.cluster });
        }
        if header.group != rules.group {
            return Err(Refusal::FrameGroup { theirs: header.group });
        }
        let length = header.frame_bytes();
        if length > rules.max_frame_bytes {
            return Err(Refusal::FrameLength { bytes: length as u64, limit: rules.max_frame_bytes as u64 });
        }
        let stamp = WireStamp::parse(bytes).map_err(Refusal::Frame)?;
        if stamp.session != self.session {
            return Err(Refusal::Session { ours: self.session, theirs: stamp.session });
        }
        if stamp.sequence != self.sequence {
            return Err(Refusal::Sequence { expected: self.sequence, theirs: stamp.sequence });
        }
        header.check_range(stamp.range).map_err(|_| Refusal::FrameRange)?;
        Ok(length)
    }

    /// The next whole frame, verified; `None` if there is none yet (or the ring has no handle for it now).
    pub(crate) fn next_frame(&mut self, rules: &Rules) -> Result<Option<(WireStamp, Header, BlockMut)>, Refusal> {
        let Some(block) = &self.block else { return Ok(None) };
        if self.filled < BODY_OFFSET {
            return Ok(None);
        }
        let length = match self.checked {
            Some(length) => length,
            None => self.check(&block.bytes()[..BODY_OFFSET], rules)?,
        };
        self.checked = Some(length);
        if self.filled < length {
            return Ok(None);
        }
        let frame = &block.bytes()[..length];
        let header = verify(frame).map_err(Refusal::Frame)?;
        let stamp = WireStamp::parse(frame).map_err(Refusal::Frame)?;
        let Some(frame) = self.take(length) else { return Ok(None) };
        self.checked = None;
        self.sequence += 1;
        Ok(Some((stamp, header, frame)))
    }

    /// The first `length` bytes as a block of their own. What the last frame of a receive leaves over
    /// goes back to the ring first, so that the next frame will be its neighbour.
    fn take(&mut self, length: usize) -> Option<BlockMut> {
        if self.filled == length {
            let mut block = self.block.take()?;
            block.truncate(length);
            self.filled = 0;
            return Some(block);
        }
        let frame = self.block.as_mut()?.split_to(length)?;
        self.filled -= length;
        Some(frame)
    }

    /// What to receive next, and into what. Call after `next_frame` had nothing more.
    pub(crate) fn next(&mut self, rules: &Rules, ring: &mut Ring) -> Result<Next, Refusal> {
        if self.lent {
            return Ok(Next::Nothing);
        }
        if self.block.is_none() {
            match self.small.take() {
                None => return Ok(Next::Nothing),
                Some(small) if self.small_len < SMALL_BYTES => {
                    let at = self.small_len;
                    return Ok(Next::Post(Posting { buf: IoBuf::Pool(small), at, len: SMALL_BYTES - at }));
                }
                Some(small) => {
                    let begun = self.begin(&small, rules, ring);
                    self.small = Some(small);
                    if !begun? {
                        return Ok(Next::NoRoomNow);
                    }
                }
            }
        }
        Ok(self.go_on(ring))
    }

    /// Sets ring memory aside for the frame that the small buffer announces. False if there is none now.
    fn begin(&mut self, small: &PoolBuf, rules: &Rules, ring: &mut Ring) -> Result<bool, Refusal> {
        let start = &small.bytes()[..SMALL_BYTES];
        let length = self.check(start, rules)?;
        if length > ring.capacity() {
            return Err(Refusal::FrameLength { bytes: length as u64, limit: ring.capacity() as u64 });
        }
        let generous = length.max(RECEIVE_BYTES);
        let Some(mut block) = ring.reserve(generous).or_else(|| ring.reserve(length)) else { return Ok(false) };
        // Stamp and header: not payload, so not counted as such.
        #[allow(clippy::disallowed_methods)]
        block.bytes_mut()[..SMALL_BYTES].copy_from_slice(start);
        self.block = Some(block);
        self.filled = SMALL_BYTES;
        self.small_len = 0;
        self.checked = Some(length);
        Ok(true)
    }

    /// The receive that continues in the block, grown as far as it needs, and further if the ring has room.
    fn go_on(&mut self, ring: &mut Ring) -> Next {
        let Some(mut block) = self.block.take() else { return Next::Nothing };
        let need = self.checked.unwrap_or(BLOCK_BYTES);
        if self.filled >= need {
            // A whole frame waits for room in the event queue.
            self.block = Some(block);
            return Next::Nothing;
        }
        if block.len() - self.filled < RECEIVE_BYTES / 2 {
            let wanted = (need.max(RECEIVE_BYTES)).saturating_sub(block.len());
            let needed = need.saturating_sub(block.len());
            let grown = wanted == 0 || ring.extend(&mut block, wanted) || needed == 0 || ring.extend(&mut block, needed);
            if !grown {
                self.block = Some(block);
                return if ring.free() >= needed { Next::NoRoomEver } else { Next::NoRoomNow };
            }
        }
        self.lent = true;
        let (at, len) = (self.filled, block.len() - self.filled);
        Next::Post(Posting { buf: IoBuf::Block(block), at, len })
    }
}

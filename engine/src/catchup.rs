//! Frames read back from the log: for followers that fell behind memory, and for an apply stage that did.

use kontiki_core::{LogIndex, NodeId, SessionId};
use kontiki_mem::Pool;

use crate::limits::READ_BUFFERS;

/// Who a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The apply stage of this node.
    Apply,
    /// A follower, in the session that asked.
    Peer { peer: NodeId, session: SessionId, from: LogIndex, max_frames: u32 },
}

/// Reads in progress, by tag: one for apply, one per peer.
#[derive(Debug)]
pub(crate) struct CatchUp {
    readers: Vec<Option<Reader>>,
    pub(crate) pool: Pool,
}

impl CatchUp {
    pub(crate) fn new(buffer_bytes: usize, members: usize) -> CatchUp {
        CatchUp { readers: vec![None; members + 1], pool: Pool::new(READ_BUFFERS.max(members + 1), buffer_bytes) }
    }

    /// Whether a peer may have a buffer now. The last one is apply's; and a peer that has not yet read what was sent to it
    /// leaves one for each of the others, so that one that does not read at all starves nobody.
    pub(crate) fn has_buffer(&self, pinning: bool) -> bool {
        let others = self.readers.len() - 2;
        self.pool.available() > if pinning { others } else { 1 }
    }

    /// A tag for a new read, if this reader has none in progress and there is a place.
    pub(crate) fn begin(&mut self, reader: Reader) -> Option<u64> {
        if self.reading(reader) {
            return None;
        }
        let at = self.readers.iter().position(Option::is_none)?;
        *self.readers.get_mut(at)? = Some(reader);
        Some(at as u64)
    }

    /// Whether a read for this reader (whatever the session) is in progress.
    pub(crate) fn reading(&self, reader: Reader) -> bool {
        self.readers.iter().flatten().any(|r| match (r, &reader) {
            (Reader::Apply, Reader::Apply) => true,
            (Reader::Peer { peer: a, .. }, Reader::Peer { peer: b, .. }) => a == b,
            _ => false,
        })
    }

    /// The reader a finished read was for.
    pub(crate) fn end(&mut self, tag: u64) -> Option<Reader> {
        self.readers.get_mut(tag as usize)?.take()
    }
}

//! What both ends of a snapshot's connection keep: the next record, as it comes in, and the chunks that are due.

use kontiki_core::SessionId;
use kontiki_io::{Io, IoBuf};
use kontiki_mem::PoolBuf;

use crate::conns::{Conns, Slot};
use crate::limits::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use crate::snapshots::offer::SnapshotId;
use crate::snapshots::record::{SnapshotRecord, SnapshotSays, SnapshotWant, SnapshotWireError};

/// The next record of one direction of a connection.
#[derive(Debug)]
pub(crate) struct RecordIn {
    session: SessionId,
    sequence: u64,
    /// It comes in here; `None` while a receive is under way, or before the connection is open.
    buf: Option<PoolBuf>,
    filled: usize,
}

impl RecordIn {
    /// The first record of a connection that belongs to `session`.
    pub(crate) fn new(session: SessionId, buf: Option<PoolBuf>) -> RecordIn {
        RecordIn { session, sequence: 1, buf, filled: 0 }
    }

    /// A receive has brought so many bytes, or the connection is open and brings the first.
    pub(crate) fn received(&mut self, buf: PoolBuf, bytes: usize) {
        self.filled += bytes;
        self.buf = Some(buf);
    }

    /// Receives what is missing, over a connection on which no receive is under way.
    pub(crate) fn receive(&mut self, slot: Slot, conns: &mut Conns, io: &mut dyn Io) {
        if self.filled < SNAPSHOT_RECORD_BYTES
            && let Some(buf) = self.buf.take()
        {
            conns.recv(slot, IoBuf::Pool(buf), self.filled, SNAPSHOT_RECORD_BYTES - self.filled, io);
        }
    }

    /// What it says, once it is whole.
    pub(crate) fn says(&self) -> Option<Result<SnapshotSays, SnapshotWireError>> {
        let bytes = self.buf.as_ref().filter(|_| self.filled == SNAPSHOT_RECORD_BYTES)?.bytes();
        Some(SnapshotRecord::decode_next(bytes.first_chunk()?, self.session, self.sequence))
    }

    /// It was taken: the one behind it may come.
    pub(crate) fn took(&mut self) {
        self.filled = 0;
        self.sequence += 1;
    }
}

/// Chunks that were asked for and have not all been handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    id: SnapshotId,
    offset: u64,
    chunks: u32,
}

impl Due {
    pub(crate) fn of(want: &SnapshotWant) -> Due {
        Due { id: want.id, offset: want.offset, chunks: want.chunks }
    }

    /// Whether this is the next chunk of it.
    pub(crate) fn is_next(&self, id: SnapshotId, offset: u64) -> bool {
        (self.id, self.offset) == (id, offset)
    }

    /// One chunk less; whether that was the last.
    pub(crate) fn took(&mut self) -> bool {
        self.offset += SNAPSHOT_CHUNK_BYTES as u64;
        self.chunks -= 1;
        self.chunks == 0
    }
}

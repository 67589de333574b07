//! Frames to followers: from memory where they are, else read back from the log.

use kontiki_core::{Event, IndexRange, LogIndex, NodeId, Role, SessionId, Time};
use kontiki_io::Io;
use kontiki_mem::PoolBuf;
use kontiki_net::FrameStamp;
use kontiki_wal::{Frames, ReadError};

use super::{Replica, Window};
use crate::catchup::Reader;
use crate::error::Failure;
use crate::limits::CATCH_UP_BYTES;

impl Replica {
    /// Sends from memory what is there, else reads it back from the log.
    pub(super) fn send_frames(&mut self, peer: NodeId, session: SessionId, window: Window, now: Time, io: &mut dyn Io) {
        let Window { from, upto, max_bytes, max_frames } = window;
        let (mut next, mut bytes, mut frames) = (from, 0u64, 0u32);
        while next <= upto && frames < max_frames && (frames == 0 || bytes < max_bytes) {
            let Some(cached) = self.cache.get(next) else { break };
            let stamp = self.stamp(IndexRange { from: next, to: cached.range.to });
            if self.net.send_frame(now, peer, session, stamp, cached.block.clone()).is_err() {
                break;
            }
            bytes += cached.block.len() as u64;
            frames += 1;
            next = cached.range.to.next();
        }
        if frames == 0 && next <= upto && self.cache.get(next).is_none() {
            self.read_for(Reader::Peer { peer, session, from, max_frames }, from, upto, now, io);
            return;
        }
        self.raft.step(now, Event::FramesSent { peer, session, to: next.prev(), bytes, frames }, &mut self.fx);
    }

    pub(super) fn stamp(&self, range: IndexRange) -> FrameStamp {
        FrameStamp { leader_term: self.raft.term(), commit: self.raft.commit(), range }
    }

    pub(super) fn read_for(&mut self, reader: Reader, from: LogIndex, upto: LogIndex, now: Time, io: &mut dyn Io) {
        let refused = |this: &mut Self| {
            if let Reader::Peer { peer, session, from, .. } = reader {
                this.raft.step(now, Event::FramesSent { peer, session, to: from.prev(), bytes: 0, frames: 0 }, &mut this.fx);
            }
        };
        if from < self.wal.first_index() {
            if let Reader::Peer { peer, session, .. } = reader {
                let first = self.wal.first_index();
                self.raft.step(now, Event::FramesGone { peer, session, first }, &mut self.fx);
            }
            return;
        }
        if self.catchup.reading(reader) {
            return refused(self);
        }
        let inflight = |id: NodeId| self.raft.progress().find(|p| p.peer == id).map_or(0, |p| p.inflight_bytes);
        if let Reader::Peer { peer, .. } = reader
            && inflight(peer) >= CATCH_UP_BYTES
        {
            // Asked again with its next answer.
            return refused(self);
        }
        if let Reader::Peer { peer, .. } = reader
            && !self.catchup.has_buffer(self.net.pinning(peer).is_some())
        {
            return refused(self);
        }
        let Some(buf) = self.catchup.pool.take() else { return refused(self) };
        let Some(tag) = self.catchup.begin(reader) else { return refused(self) };
        if self.wal.read(tag, from, upto, buf, io).is_err() {
            self.catchup.end(tag);
            refused(self);
        }
    }

    pub(super) fn read_done(
        &mut self,
        tag: u64,
        buf: PoolBuf,
        result: Result<Frames, ReadError>,
        now: Time,
        io: &mut dyn Io,
    ) -> Result<(), Failure> {
        let Some(reader) = self.catchup.end(tag) else { return Ok(()) };
        let frames = match (result, reader) {
            (Ok(frames), _) => frames,
            (Err(ReadError::Gone { first }), Reader::Peer { peer, session, .. }) => {
                self.step(now, Event::FramesGone { peer, session, first }, io);
                return Ok(());
            }
            (Err(ReadError::NotDurable), Reader::Peer { peer, session, from, .. }) => {
                self.step(now, Event::FramesSent { peer, session, to: from.prev(), bytes: 0, frames: 0 }, io);
                return Ok(());
            }
            (Err(ReadError::NotDurable), Reader::Apply) => return Ok(()),
            // What this node once held whole is damaged: it cannot serve it, and must not hide it.
            (Err(error), _) => return Err(Failure::Log(error.to_string())),
        };
        let block = buf.freeze();
        match reader {
            Reader::Apply => self.apply_read(&block, &frames, now),
            Reader::Peer { peer, session, from, max_frames } => {
                let (mut next, mut bytes, mut count) = (from, 0u64, 0u32);
                // Leadership may be gone since the read began, and a stamp names the sender's present term as one it
                // leads: the receiver would take this node for the leader of somebody else's term.
                let leads = self.raft.role() == Role::Leader;
                for f in frames.iter().take(if leads { max_frames as usize } else { 0 }) {
                    let stamp = self.stamp(f.range);
                    if self.net.send_frame(now, peer, session, stamp, block.slice(f.offset, f.bytes)).is_err() {
                        break;
                    }
                    bytes += f.bytes as u64;
                    count += 1;
                    next = f.range.to.next();
                }
                self.step(now, Event::FramesSent { peer, session, to: next.prev(), bytes, frames: count }, io);
            }
        }
        Ok(())
    }

    pub(super) fn lookup_term(&mut self, index: LogIndex, now: Time, io: &mut dyn Io) {
        if !self.wal.lookup_term(0, index, io) {
            // Too many at once: as if the log did not hold it, and the core falls back to a probe.
            self.raft.step(now, Event::TermFound { index, term: None }, &mut self.fx);
        }
    }
}

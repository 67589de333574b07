//! Frames to followers: from memory where they are, else read back from the log.

use kontiki_core::{Event, IndexRange, LogIndex, NodeId, Role, SessionId, Time};
use kontiki_io::Io;
use kontiki_mem::PoolBuf;
use kontiki_net::{FrameStamp, SendError};
use kontiki_wal::{Frames, ReadError};

use super::group::{Group, Window};
use super::host::Host;
use crate::catchup::{Ask, Piece, Reader};
use crate::error::Failure;
use crate::limits::CATCH_UP_BYTES;

impl Group {
    /// Sends from memory what is there, else reads it back from the log.
    pub(super) fn send_frames(&mut self, host: &mut Host, peer: NodeId, session: SessionId, window: Window, now: Time, io: &mut dyn Io) {
        let Window { from, upto, max_bytes, max_frames } = window;
        let (mut next, mut bytes, mut frames, mut needs) = (from, 0u64, 0u32, 0);
        while next <= upto && frames < max_frames && (frames == 0 || bytes < max_bytes) {
            let Some(cached) = self.cache.get(next) else { break };
            let stamp = self.stamp(IndexRange { from: next, to: cached.range.to });
            match host.net.send_frame(now, peer, session, stamp, cached.block.clone()) {
                Ok(()) => {}
                Err(SendError::TooLong { bytes, .. }) if frames == 0 => {
                    needs = bytes;
                    break;
                }
                Err(_) => break,
            }
            bytes += cached.block.len() as u64;
            frames += 1;
            next = cached.range.to.next();
        }
        if frames == 0 && next <= upto && self.cache.get(next).is_none() {
            return self.send_from_log(host, Ask { peer, session, from, upto, max_bytes, max_frames }, now, io);
        }
        if frames > 0 || needs > 0 {
            self.needs_frame(host, peer, needs, now);
        }
        if frames > 0 {
            // From memory again: what was read ahead is of no use.
            self.catchup.forget(peer);
        }
        self.raft.step(now, Event::FramesSent { peer, session, to: next.prev(), bytes, frames }, &mut self.fx);
    }

    pub(super) fn stamp(&self, range: IndexRange) -> FrameStamp {
        FrameStamp { leader_term: self.raft.term(), commit: self.raft.commit(), range, round: self.raft.round() }
    }

    /// The core asks again with the follower's next answer.
    fn send_nothing(&mut self, ask: Ask, now: Time) {
        let Ask { peer, session, from, .. } = ask;
        self.raft.step(now, Event::FramesSent { peer, session, to: from.prev(), bytes: 0, frames: 0 }, &mut self.fx);
    }

    fn send_from_log(&mut self, host: &mut Host, ask: Ask, now: Time, io: &mut dyn Io) {
        let Ask { peer, session, from, upto, .. } = ask;
        let first = host.wal.first_index();
        if from < first {
            self.raft.step(now, Event::FramesGone { peer, session, first }, &mut self.fx);
            return;
        }
        if let Some(piece) = self.catchup.piece(peer, self.raft.term(), from) {
            return self.send_piece(host, piece, ask, now, io);
        }
        if let Some(reading) = self.catchup.reading(Reader::Peer { peer, from }) {
            match reading == (Reader::Peer { peer, from }) {
                true => self.catchup.ask(ask),
                false => self.send_nothing(ask, now),
            }
            return;
        }
        let may = self.room_under_way(peer) > 0 && self.catchup.has_buffer(host.net.pinning(peer).is_some());
        if may && self.begin_read(host, Reader::Peer { peer, from }, from, upto, io) {
            self.catchup.ask(ask);
        } else {
            self.send_nothing(ask, now);
        }
    }

    /// What more may be under way to a follower that is served from the log, in bytes.
    fn room_under_way(&self, peer: NodeId) -> u64 {
        let inflight = self.raft.progress().find(|p| p.peer == peer).map_or(0, |p| p.inflight_bytes);
        CATCH_UP_BYTES.saturating_sub(inflight)
    }

    fn send_piece(&mut self, host: &mut Host, mut piece: Piece, ask: Ask, now: Time, io: &mut dyn Io) {
        let Ask { peer, session, from, upto, max_bytes, max_frames } = ask;
        let room = self.room_under_way(peer).min(max_bytes);
        let (mut next, mut bytes, mut frames, mut needs) = (from, 0u64, 0u32, 0);
        let done = loop {
            let Some((frame, block)) = piece.next() else { break true };
            if bytes >= room || frames >= max_frames || frame.range.to > upto {
                break false;
            }
            match host.net.send_frame(now, peer, session, self.stamp(frame.range), block) {
                Ok(()) => {}
                Err(SendError::TooLong { bytes, .. }) if frames == 0 => {
                    needs = bytes;
                    break false;
                }
                Err(_) => break false,
            }
            piece.advance();
            bytes += frame.bytes as u64;
            frames += 1;
            next = frame.range.to.next();
        };
        if frames > 0 || needs > 0 {
            self.needs_frame(host, peer, needs, now);
        }
        if done {
            self.read_ahead(host, peer, next, upto, io);
        } else {
            self.catchup.keep(piece);
        }
        self.raft.step(now, Event::FramesSent { peer, session, to: next.prev(), bytes, frames }, &mut self.fx);
    }

    /// Reads what a follower will be in need of while it writes what it has got. Not what is in memory, and not with a
    /// buffer that somebody else may need.
    fn read_ahead(&mut self, host: &mut Host, peer: NodeId, from: LogIndex, upto: LogIndex, io: &mut dyn Io) {
        if from <= upto && self.cache.get(from).is_none() && self.catchup.has_buffer(true) {
            self.begin_read(host, Reader::Peer { peer, from }, from, upto, io);
        }
    }

    /// Begins a read for `reader`. False if one is in progress, or there is no memory or place for it now.
    pub(super) fn begin_read(&mut self, host: &mut Host, reader: Reader, from: LogIndex, upto: LogIndex, io: &mut dyn Io) -> bool {
        let Some(tag) = self.catchup.begin(reader) else { return false };
        let begun = self.catchup.pool.take().is_some_and(|buf| host.wal.read(tag, from, upto, buf, io).is_ok());
        if !begun {
            self.catchup.end(tag);
        }
        begun
    }

    pub(super) fn read_done(
        &mut self,
        host: &mut Host,
        tag: u64,
        buf: PoolBuf,
        result: Result<Frames, ReadError>,
        now: Time,
        io: &mut dyn Io,
    ) -> Result<(), Failure> {
        let Some(reader) = self.catchup.end(tag) else { return Ok(()) };
        let Reader::Peer { peer, from } = reader else {
            match result {
                Ok(frames) => self.apply_read(&buf.freeze(), &frames, now),
                Err(ReadError::NotDurable) => {}
                Err(error) => return Err(Failure::Log(error.to_string())),
            }
            return Ok(());
        };
        let ask = self.catchup.asked(peer);
        match (result, ask) {
            // Leadership may be gone since the read began, and a stamp names the sender's present term as one it
            // leads: the receiver would take this node for the leader of somebody else's term.
            (Ok(frames), ask) if self.raft.role() == Role::Leader => {
                let piece = Piece::new(peer, self.raft.term(), buf.freeze(), frames);
                match ask {
                    Some(ask) if ask.from == from => self.send_piece(host, piece, ask, now, io),
                    ask => {
                        // Nobody would come for it otherwise.
                        if host.net.bulk_room(peer).frames > 0 {
                            self.catchup.keep(piece);
                        }
                        ask.into_iter().for_each(|ask| self.send_nothing(ask, now));
                    }
                }
            }
            (Ok(_) | Err(ReadError::NotDurable), ask) => ask.into_iter().for_each(|ask| self.send_nothing(ask, now)),
            (Err(ReadError::Gone { first }), Some(Ask { peer, session, .. })) => {
                self.raft.step(now, Event::FramesGone { peer, session, first }, &mut self.fx);
            }
            (Err(ReadError::Gone { .. }), None) => {}
            // What this node once held whole is damaged: it cannot serve it, and must not hide it.
            (Err(error), _) => return Err(Failure::Log(error.to_string())),
        }
        self.carry_out(host, now, io);
        Ok(())
    }

    pub(super) fn lookup_term(&mut self, host: &mut Host, index: LogIndex, now: Time, io: &mut dyn Io) {
        if !host.wal.lookup_term(0, index, io) {
            // Too many at once: as if the log did not hold it, and the core falls back to a probe.
            self.raft.step(now, Event::TermFound { index, term: None }, &mut self.fx);
        }
    }
}

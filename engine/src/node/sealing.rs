//! Proposals become frames: when the open batch is sealed, and what becomes of one that cannot be.

use kontiki_core::{ClusterId, Event, Subterm, Time};
use kontiki_frame::{self as frame, Header, Kind};
use kontiki_io::Io;
use kontiki_mem::{Batch, Outcome, Sealed};

use super::group::{Group, Hand};
use super::host::Host;
use kontiki_core::Role;

impl Group {
    /// What callers wrote into a batch that will never be sealed: in no log, and never will be.
    pub(super) fn discard_unsealed(&mut self) {
        while let Some((_, mut batch)) = self.shared.batch.poll_sealed() {
            let hint = self.shared.leader_id();
            for entry in 0..batch.len() {
                self.resolver.resolve_one(&mut batch, entry, Outcome::NotApplied { hint }, &[]);
            }
        }
        self.resolver.flush();
    }

    pub(super) fn seal_noop(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        let Some(meta) = self.noop else { return };
        let bytes = frame::frame_bytes(frame::ENTRY_LENGTH_BYTES);
        if !host.wal.can_append(bytes) || !self.raft.can_append() {
            return;
        }
        let Some(mut block) = host.ring.reserve(bytes) else { return };
        self.noop = None;
        let cluster = ClusterId(host.config.cluster);
        frame::seal_noop(block.bytes_mut(), cluster, self.id, meta, io.wall_ns());
        let Ok(header) = frame::parse_header(block.bytes()) else { panic!("a frame just sealed does not parse") };
        self.sealed(host, Hand { block, header }, now, io);
    }

    pub(super) fn sealed(&mut self, host: &mut Host, hand: Hand, now: Time, io: &mut dyn Io) {
        let (meta, bytes) = (hand.header.meta, hand.block.len() as u32);
        self.counters.frames_sealed += 1;
        self.hand = Some(hand);
        self.step(host, now, Event::Sealed { frame: meta, bytes }, io);
        // Not taken: the term ended meanwhile. The frame is in no log; its tickets fall with the leadership.
        self.hand = None;
    }

    pub(super) fn seal(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        if self.role != Role::Leader {
            self.discard_unsealed();
            return;
        }
        self.seal_noop(host, now, io);
        if self.noop.is_some() {
            return;
        }
        loop {
            while self.may_seal(host)
                && let Some((mut sealed, tickets)) = self.shared.batch.poll_sealed()
            {
                // The next opens right behind it, before the work that this one makes: callers who find none give up.
                sealed.block.truncate(frame::frame_bytes(sealed.body_bytes));
                self.open_batches(host);
                self.seal_batch(host, sealed, tickets, now, io);
            }
            self.open_batches(host);
            if !(self.wants_seal(host, now) && self.shared.batch.seal()) {
                return;
            }
        }
    }

    /// Gives a sealed batch its place in the log.
    pub(super) fn seal_batch(&mut self, host: &mut Host, sealed: Sealed, tickets: Batch, now: Time, io: &mut dyn Io) {
        let Sealed { mut block, body_bytes, count } = sealed;
        let Some(meta) = self.raft.next_frame(count) else { panic!("asked for a place in the log without a look first") };
        let header = Header {
            kind: Kind::Entries,
            sessions: false,
            cluster: ClusterId(host.config.cluster),
            group: self.id,
            meta,
            subterm: Subterm(0),
            cluster_ns: 0,
            proposed_ns: io.wall_ns(),
            body_bytes: body_bytes as u32,
        };
        frame::seal(block.bytes_mut(), &header);
        self.counters.entries_proposed += u64::from(count);
        self.gather.sealed(now, count, 2 * body_bytes > self.neighbours.seal_bytes);
        self.pending.push(meta, now, tickets);
        self.sealed(host, Hand { block, header }, now, io);
    }

    /// Opens the next batch at the tail of the ring, and as many behind it as callers lately filled, where memory
    /// allows.
    pub(super) fn open_batches(&mut self, host: &mut Host) {
        if self.is_out_of_space(host) {
            return;
        }
        while !self.shared.batch.is_open() || self.shared.batch.spares() < self.gather.ahead {
            let Some(block) = host.ring.reserve(host.config.max_frame_bytes) else { return };
            if self.shared.batch.open(block).is_err() {
                return;
            }
        }
    }
}

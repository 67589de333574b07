//! What the operator sees, and the end.

use std::sync::atomic::Ordering;

use kontiki_core::{LogIndex, NodeId, Time};
use kontiki_io::Io;
use kontiki_wal::Space;

use super::Replica;
use crate::status::{PeerStatus, Status};

impl Replica {
    /// Tells the operator when the disk is full, and when it is not any more.
    pub(super) fn watch_space(&mut self) {
        let full = self.wal.space() == Space::Full;
        if full != self.disk_full {
            self.disk_full = full;
            if full {
                tracing::warn!("disk full: once the segment in use is full, writes are refused until there is space for the next");
            } else {
                tracing::info!("disk space is back");
            }
        }
    }

    /// The last word of a node that ends.
    pub(crate) fn publish(&mut self, io: &dyn Io) {
        let status = self.status(io);
        self.shared.publish(0, status);
    }

    pub(super) fn status(&self, io: &dyn Io) -> Status {
        let mut counters = self.counters;
        let (net, stats) = (self.net.counters(), io.stats());
        counters.entries_applied = self.queue.entries();
        counters.disk_bytes_written = stats.bytes_written;
        counters.flushes = stats.flushes;
        counters.net_bytes_sent = stats.bytes_sent;
        counters.enters = stats.enters;
        counters.bytes_copied = kontiki_mem::copied_bytes();
        counters.refusals = net.refused() + self.raft.refusals();
        counters.busy = self.shared.busy.load(Ordering::Relaxed);
        let progress = |id: NodeId| self.raft.progress().find(|p| p.peer == id);
        let peers = self.config.members.iter().map(|m| NodeId(m.id)).filter(|id| id.0 != self.config.id);
        let peers = peers
            .map(|id| {
                let p = progress(id);
                PeerStatus {
                    id,
                    connected: self.net.session(id).is_some(),
                    matched: p.map_or(LogIndex(0), |p| p.matched),
                    next: p.map_or(LogIndex(0), |p| p.next),
                    inflight_bytes: p.map_or(0, |p| p.inflight_bytes),
                    probing: p.is_some_and(|p| p.probing),
                }
            })
            .collect();
        Status {
            id: NodeId(self.config.id),
            incarnation: self.incarnation,
            role: self.raft.role(),
            term: self.raft.term(),
            leader: self.shared.leader(),
            commit: self.commit,
            applied: self.queue.applied(),
            first: self.wal.first_index(),
            last: self.raft.last_index(),
            durable: self.raft.durable(),
            recovering: self.raft.recovering(),
            disk_full: self.disk_full,
            peers,
            counters,
            flush_latency: self.flush_latency.clone(),
            commit_latency: self.commit_latency.clone(),
            backend: io.describe(),
            recovery: self.recovery.clone(),
        }
    }

    /// No more proposals, no more messages; what is under way ends.
    pub(crate) fn begin_close(&mut self, now: Time, io: &mut dyn Io) {
        self.shared.batch.close();
        self.discard_unsealed();
        self.stalled.clear();
        self.cache.clear();
        self.net.stop(now, io);
        self.wal.pump(io);
    }

    /// True once nothing is outstanding.
    pub(crate) fn close(&mut self, now: Time, io: &mut dyn Io) -> bool {
        while self.wal.next_event().is_some() {}
        while self.net.poll_event().is_some() {}
        self.wal.pump(io);
        self.net.tick(now, io, &mut self.ring);
        if self.net.idle() && self.wal.idle() {
            self.wal.close(io);
        }
        self.net.idle() && self.wal.closed()
    }
}

//! What the operator sees, and the end.

use std::sync::atomic::Ordering;

use kontiki_core::{LogIndex, NodeId, Role, Time};
use kontiki_io::{Io, tell};
use kontiki_wal::Space;

use super::Replica;
use crate::events::Event;
use crate::limits;
use crate::shared::NoRoom;
use crate::status::{PeerStatus, Status};

const MS: u64 = 1_000_000;

/// What there is too little of for the log's next segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// Space on the disk.
    Disk,
    /// Places for segments.
    Log,
    /// Descriptors, memory.
    Other,
}

impl Lacking {
    fn begun(self) -> Event {
        match self {
            Lacking::Disk => Event::DiskFull,
            Lacking::Log => Event::LogFull,
            Lacking::Other => Event::Shortage,
        }
    }

    fn over(self) -> Event {
        match self {
            Lacking::Disk => Event::DiskBack,
            Lacking::Log => Event::LogBack,
            Lacking::Other => Event::ShortageOver,
        }
    }
}

impl Replica {
    /// Tells operator and product when there is no next segment for the log, and why; and when that is over.
    pub(super) fn watch_space(&mut self) {
        let space = self.wal.space();
        let lacking = match space {
            Space::Ready | Space::Preparing => None,
            Space::Full if self.wal.is_full() => Some(Lacking::Log),
            Space::Full => Some(Lacking::Disk),
            Space::Short(_) => Some(Lacking::Other),
        };
        if lacking == self.lacking {
            return;
        }
        let before = std::mem::replace(&mut self.lacking, lacking);
        if let Some(before) = before {
            self.shared.events.tell(before.over());
        }
        if let Some(lacking) = lacking {
            self.shared.events.tell(lacking.begun());
        }
        match space {
            Space::Short(error) => {
                tell!(warn, %error, "no next segment for now: once the one in use is full, writes are refused until there is");
            }
            Space::Full if lacking == Some(Lacking::Log) => tell!(
                warn,
                "log full: it has as many segments as it can keep track of, and the state machine has made nothing durable that it may forget"
            ),
            Space::Full => {
                tell!(warn, "disk full: once the segment in use is full, writes are refused until there is space for the next");
            }
            Space::Ready | Space::Preparing => match before {
                Some(Lacking::Log) => tell!(info, "the log may grow again"),
                Some(Lacking::Other) => tell!(info, "what the next segment lacked is there again"),
                Some(Lacking::Disk) | None => tell!(info, "disk space is back"),
            },
        }
    }

    /// A follower needs what this log no longer holds.
    pub(super) fn falls_behind(&mut self, peer: NodeId) {
        if self.neighbours.is_behind(peer, true) {
            self.shared.events.tell(Event::PeerBehind { peer });
        }
    }

    /// Tells the product when a follower that needed what this log no longer holds goes on with what it holds.
    pub(super) fn watch_followers(&mut self) {
        if !self.neighbours.any_behind() {
            return;
        }
        for follower in self.raft.progress().filter(|follower| !follower.probing) {
            if self.neighbours.is_behind(follower.peer, false) {
                self.shared.events.tell(Event::PeerCaughtUp { peer: follower.peer });
            }
        }
    }

    /// Tells the operator when elections wait longer than configured, as this disk is slow, and when they do not any more: each time that what
    /// they wait has doubled, or is back to half.
    pub(super) fn watch_pace(&mut self) {
        let (min, max) = self.raft.election_timeouts_ns();
        let told = self.told_election_ns;
        if max == told || max / 2 < told && told / 2 < max && self.raft.is_disk_slow() {
            return;
        }
        self.told_election_ns = max;
        let (min_ms, max_ms, flush_ms) = (min / MS, max / MS, self.raft.flush_ns() / MS);
        if !self.raft.is_disk_slow() {
            tell!(info, min_ms, max_ms, "the disk is quick again: election timeouts as configured");
        } else if max_ms < self.config.election_limit_ms {
            tell!(warn, flush_ms, min_ms, max_ms, "the disk is slow: an election waits for its flushes, so election timeouts are longer");
        } else {
            tell!(
                warn,
                flush_ms,
                min_ms,
                max_ms,
                "the disk is slower than election_limit_ms allows for: elections may fail again and again. Raise it, or use a quicker medium"
            );
        }
    }

    /// Where nothing more can be written until there is space again, callers are told so, and so are those whose proposals were taken: they
    /// are in no log, and would wait for as long as that takes.
    pub(super) fn watch_room(&mut self) {
        let none = self.wal.out_of_space(self.config.max_frame_bytes);
        let why = match self.wal.space() {
            Space::Short(_) => NoRoom::Shortage,
            _ if self.wal.is_full() => NoRoom::Log,
            _ => NoRoom::Disk,
        };
        self.shared.set_no_room(none.then_some(why));
        if none && self.role == Role::Leader {
            self.shared.batch.close();
            self.discard_unsealed();
        }
    }

    /// Tells the product when this replica has lost something, and when it has it again.
    pub(super) fn watch_recovery(&mut self) {
        let recovering = self.raft.recovering();
        if recovering != self.recovering {
            self.recovering = recovering;
            self.shared.events.tell(if recovering { Event::Recovering } else { Event::Recovered });
        }
    }

    /// Answers whoever waits for a status.
    pub(crate) fn tell_status(&mut self, io: &dyn Io) {
        if let Some(number) = self.shared.status_wanted() {
            let status = self.status(io);
            self.shared.publish(number, status);
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
        counters.replies_too_long = self.queue.replies_too_long();
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
                    takes_frame_bytes: self.neighbours.frames(id).0 as u64,
                    needs_frame_bytes: self.neighbours.frames(id).1 as u64,
                    unreached: self.net.unreached(id).map(|(why, _)| why),
                }
            })
            .collect();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            stopped: false,
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
            disk_full: self.lacking == Some(Lacking::Disk),
            log_full: self.lacking == Some(Lacking::Log),
            shortage: self.lacking == Some(Lacking::Other),
            election_ms: (self.raft.election_timeouts_ns().0 / MS, self.raft.election_timeouts_ns().1 / MS),
            flush_ns: self.raft.flush_ns(),
            disk_slow: self.raft.is_disk_slow(),
            peers,
            counters,
            flush_latency: self.flush_latency.clone(),
            commit_latency: self.commit_latency.clone(),
            backend: io.describe(),
            recovery: self.recovery.clone(),
        }
    }

    /// No more proposals, no more messages; what is under way ends. The log is closed as soon as its own writes are done, whatever peers do.
    pub(crate) fn begin_close(&mut self, now: Time, io: &mut dyn Io) {
        self.shared.batch.close();
        self.discard_unsealed();
        self.stalled.clear();
        self.cache.clear();
        self.net.stop(now, io);
        self.wal.close(io);
    }

    /// True once nothing is outstanding.
    pub(crate) fn close(&mut self, now: Time, io: &mut dyn Io) -> bool {
        while self.wal.next_event().is_some() {}
        while self.net.poll_event().is_some() {}
        self.wal.pump(io);
        self.net.tick(now, io, &mut self.ring);
        self.net.idle() && self.wal.closed()
    }

    /// When [`Replica::close`] is to be called again though nothing completes.
    pub(crate) fn close_deadline(&self) -> Time {
        self.wal.deadline().unwrap_or(Time(u64::MAX))
    }

    /// How long the end of this node may take in all, as things stand, in ns.
    pub(crate) fn patience_ns(&self) -> u64 {
        if self.wal.closed() { limits::CLOSE_NET_NS } else { limits::CLOSE_LOG_NS }
    }
}

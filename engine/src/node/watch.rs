//! What the operator sees, and the end.

use std::sync::atomic::Ordering;

use kontiki_core::{LogIndex, NodeId, Role, Time};
use kontiki_io::{Io, tell};

use super::group::Group;
use super::host::Host;
use crate::events::Event;
use crate::lack::Lack;
use crate::status::{Fetching, PeerStatus, Refused, Sent, Status};

const MS: u64 = 1_000_000;

impl Group {
    /// Tells the product when there is no next segment for the log, and why; and when that is over.
    pub(super) fn tell_of_space(&mut self, before: Option<Lack>, lacking: Option<Lack>) {
        if let Some(before) = before {
            self.shared.events.tell(before.over());
        }
        if let Some(lacking) = lacking {
            self.shared.events.tell(lacking.begun());
        }
    }

    /// What callers, product and operator are told of from turn to turn.
    pub(super) fn watch(&mut self, host: &mut Host) {
        self.watch_room(host);
        self.watch_recovery();
        self.watch_pace(host);
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

    /// Tells the operator when elections wait longer than configured, as this disk is slow, and when they do not any
    /// more: each time that what they wait has doubled, or is back to half.
    fn watch_pace(&mut self, host: &mut Host) {
        let (min, max) = self.raft.election_timeouts_ns();
        let told = self.told_election_ns;
        if max == told || max / 2 < told && told / 2 < max && self.raft.is_disk_slow() {
            return;
        }
        self.told_election_ns = max;
        let (min_ms, max_ms, flush_ms) = (min / MS, max / MS, self.raft.flush_ns() / MS);
        if !self.raft.is_disk_slow() {
            tell!(info, min_ms, max_ms, "the disk is quick again: election timeouts as configured");
        } else if max_ms < host.config.election_limit_ms {
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

    /// Where nothing more can be written until there is space again, callers are told so, and so are those whose
    /// proposals were taken: they are in no log, and would wait for as long as that takes.
    fn watch_room(&mut self, host: &mut Host) {
        let none = self.is_out_of_space(host);
        self.shared.set_no_room(if none { Lack::of(&host.wal) } else { None });
        if none && self.role == Role::Leader {
            self.shared.batch.close();
            self.discard_unsealed();
        }
    }

    /// Tells the product when this replica has lost something, and when it has it again.
    fn watch_recovery(&mut self) {
        let recovering = self.raft.recovering();
        if recovering != self.recovering {
            self.recovering = recovering;
            self.shared.events.tell(if recovering { Event::Recovering } else { Event::Recovered });
        }
    }

    /// Answers whoever waits for a status.
    pub(super) fn tell_status(&mut self, host: &Host, io: &dyn Io) {
        if let Some(number) = self.shared.status_wanted() {
            let status = self.status(host, io);
            self.shared.publish(number, status);
        }
    }

    /// The last word of a node that ends.
    pub(super) fn publish(&mut self, host: &Host, io: &dyn Io) {
        let status = self.status(host, io);
        self.shared.publish(0, status);
    }

    pub(super) fn status(&self, host: &Host, io: &dyn Io) -> Status {
        let mut counters = self.counters;
        let (net, stats) = (host.net.counters(), io.stats());
        (counters.turns, counters.sessions) = (host.turns, host.sessions);
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
        let peers = host
            .net
            .peers()
            .map(|id| {
                let p = progress(id);
                PeerStatus {
                    id,
                    connected: host.net.session(id).is_some(),
                    matched: p.map_or(LogIndex(0), |p| p.matched),
                    next: p.map_or(LogIndex(0), |p| p.next),
                    inflight_bytes: p.map_or(0, |p| p.inflight_bytes),
                    probing: p.is_some_and(|p| p.probing),
                    takes_frame_bytes: self.neighbours.frames(id).0 as u64,
                    needs_frame_bytes: self.neighbours.frames(id).1 as u64,
                    behind: p.is_some_and(|p| p.behind),
                    snapshot: self.sending.to(id).map(|(index, held, bytes)| Sent { index, held, bytes }),
                    unreached: host.net.unreached(id).map(|(why, _)| why),
                }
            })
            .collect();
        let now = io.now();
        let mut refused: Vec<Refused> = host.net.refused().iter().map(|met| refused(met, now)).collect();
        refused.sort_by_key(|met| met.ago_ns);
        let mut snapshots = host.store.snapshots().map(|info| (info.base().index, info.head.full));
        let ((snapshot, snapshot_full), (snapshot_older, snapshot_older_full)) =
            (snapshots.next().unwrap_or_default(), snapshots.next().unwrap_or_default());
        Status {
            version: env!("CARGO_PKG_VERSION"),
            stopped: false,
            id: NodeId(host.config.id),
            incarnation: host.incarnation,
            role: self.raft.role(),
            term: self.raft.term(),
            leader: self.shared.leader(),
            commit: self.commit,
            applied: self.queue.applied(),
            first: host.wal.first_index(),
            last: self.raft.last_index(),
            durable: self.raft.durable(),
            snapshot,
            snapshot_full,
            snapshot_older,
            snapshot_older_full,
            snapshot_writing: host.store.writing().map(|(base, bytes)| (base.index, bytes)),
            snapshot_fetching: host.store.fetching().map(|progress| Fetching {
                from: progress.offer.source,
                index: progress.offer.base.index,
                taken: progress.taken,
                bytes: progress.offer.bytes,
            }),
            needs_base: self.raft.needs_base(),
            restoring: self.snapshots.is_restoring(),
            recovering: self.raft.recovering(),
            disk_full: host.lacking == Some(Lack::Space),
            log_full: host.lacking == Some(Lack::Segments),
            shortage: if let Some(Lack::Resources(error)) = host.lacking { Some(error) } else { None },
            election_ms: (self.raft.election_timeouts_ns().0 / MS, self.raft.election_timeouts_ns().1 / MS),
            flush_ns: self.raft.flush_ns(),
            disk_slow: self.raft.is_disk_slow(),
            peers,
            refused,
            snapshot_troubles: self.snapshot_troubles(host, now),
            counters,
            flush_latency: self.flush_latency.clone(),
            commit_latency: self.commit_latency.clone(),
            backend: io.describe(),
            recovery: host.recovery.clone(),
        }
    }

    /// No more proposals, no more messages.
    pub(super) fn begin_close(&mut self) {
        // Nobody is to be sent here any more, with what is not in the log either.
        self.shared.set_leader(None);
        self.shared.batch.close();
        self.discard_unsealed();
        self.stalled.clear();
        self.cache.clear();
    }
}

fn refused(met: &kontiki_net::Refused, now: Time) -> Refused {
    let kontiki_net::Refused { peer, remote, reason, count, last } = *met;
    let why = match reason {
        kontiki_net::Refusal::Handshake(why) | kontiki_net::Refusal::ByPeer(why) => why.to_string(),
        other => other.to_string(),
    };
    Refused { by_peer: met.by_peer(), peer, remote, kind: reason.topic(), reason: why, count, ago_ns: now.since(last) }
}

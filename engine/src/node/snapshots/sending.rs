//! Snapshots to others: offered to a follower that the log cannot serve, then read and sent, chunk by chunk, to whoever
//! pulls one.
//!
//! While a follower gets on with what it pulls, the file stays, and so does the log behind it: else it would be in need
//! of the next one by the time it has this. A log that has no room left lets go of one that is too slow.

use std::collections::VecDeque;

use kontiki_core::{Base, LogIndex, NodeId, Role, SessionId, Time};
use kontiki_io::{Io, IoBuf, tell};
use kontiki_mem::{Block, Pool};
use kontiki_net::{Pull, Puller, SendError, SnapshotId, SnapshotOffer, SnapshotRefusal, SnapshotWant};
use kontiki_snapshot::{Digest, Info, ReadError};

use crate::events::Event;
use crate::limits::{FETCH_PATIENCE_NS, OFFER_HOLD_NS, SEND_BUFFERS, SEND_BYTES, SEND_HOLD_NS, SNAPSHOT_RETRY_NS};
use crate::node::group::Group;
use crate::node::host::Host;

const CHUNK: u64 = kontiki_snapshot::limits::CHUNK_BYTES as u64;

/// What was read and not sent yet.
#[derive(Debug)]
struct Ready {
    id: SnapshotId,
    offset: u64,
    block: Block,
    /// Which bytes of the block.
    from: usize,
    upto: usize,
}

/// Somebody pulls a snapshot over a connection.
#[derive(Debug)]
struct Pulling {
    pull: Pull,
    /// By which its reads are known.
    tag: u64,
    /// What it wants and was not read yet.
    wants: VecDeque<SnapshotWant>,
    ready: VecDeque<Ready>,
    reading: bool,
}

/// A file that is kept for somebody, and the log behind it.
#[derive(Debug)]
struct Held {
    puller: Puller,
    base: Base,
    digest: Digest,
    bytes: u64,
    /// How much of it the receiver had when it began, and has by now, and when that was.
    from: u64,
    began: Time,
    holds: u64,
    advanced: Time,
    /// The log is not kept for it: it is too slow.
    too_slow: bool,
    /// Nor where this node does not lead, and nobody pulls: another's log will serve it then.
    left: bool,
}

impl Held {
    fn is_due(&self, now: Time) -> bool {
        now.since(self.advanced) >= SEND_HOLD_NS
    }

    /// Bytes per second so far, and how long the rest takes at that, in ns.
    fn pace(&self, now: Time) -> (u64, u64) {
        let (moved, took) = (u128::from(self.holds - self.from), u128::from(now.since(self.began).max(1)));
        let rest = u128::from(self.bytes.saturating_sub(self.holds)) * took / moved.max(1);
        let fits = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
        (fits(moved * 1_000_000_000 / took), fits(rest))
    }
}

/// A follower that has its snapshot, and is to catch up with the log before that forgets what it needs.
#[derive(Clone, Copy, Debug)]
struct Catching {
    peer: NodeId,
    /// Where the log ended when it had the snapshot, or had come so far; and how many entries it lacked then.
    upto: LogIndex,
    gap: u64,
    matched: LogIndex,
    advanced: Time,
}

/// What a group sends of its snapshots.
#[derive(Debug, Default)]
pub(in crate::node) struct Sending {
    pulls: Vec<Pulling>,
    held: Vec<Held>,
    catching: Vec<Catching>,
    pool: Option<Pool>,
    /// Reads that have been begun: each connection's have a tag of their own.
    tags: u64,
    /// A follower needs a snapshot from which this log goes on, and there is none.
    lacks: bool,
    /// The log stays behind this entry until then: a snapshot as of it is offered, or made for a follower.
    promised: Option<(LogIndex, Time)>,
    /// Nothing is read before.
    retry_at: Option<Time>,
}

impl Sending {
    /// Whether a snapshot is to be made for a follower.
    pub(super) fn lacks(&self) -> bool {
        self.lacks
    }

    /// One is taken as of this entry; if a follower needs it, the log stays behind it.
    pub(super) fn takes_one(&mut self, at: LogIndex, now: Time) {
        if self.lacks {
            self.promised = Some((at, now.plus_ns(OFFER_HOLD_NS)));
        }
    }

    /// It is there, or not: who needs one asks again.
    pub(super) fn made_one(&mut self, now: Time) {
        self.lacks = false;
        self.still_promised(now);
    }

    /// What is promised is so from now on again.
    fn still_promised(&mut self, now: Time) {
        if let Some((_, until)) = &mut self.promised {
            *until = now.plus_ns(OFFER_HOLD_NS);
        }
    }

    /// Up to where the log may go, for all that pull a snapshot, or are offered one.
    pub(in crate::node) fn spares(&self) -> LogIndex {
        let kept = self.held.iter().filter(|held| !held.too_slow && !held.left && matches!(held.puller, Puller::Peer(_)));
        let kept = kept.map(|held| held.base.index).chain(self.promised.map(|(index, _)| index));
        let kept = kept.chain(self.catching.iter().map(|catching| catching.matched));
        kept.min().unwrap_or(LogIndex(u64::MAX))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pulls.is_empty() && self.held.is_empty() && self.promised.is_none() && self.catching.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        if self.is_idle() {
            return None;
        }
        let holds = self.held.iter().map(|held| held.advanced.plus_ns(SEND_HOLD_NS));
        self.retry_at.into_iter().chain(holds).chain(self.promised.map(|(_, until)| until)).min()
    }

    /// What a peer holds of the snapshot that it pulls: as of which entry, how many bytes, of how many.
    pub(in crate::node) fn to(&self, peer: NodeId) -> Option<(LogIndex, u64, u64)> {
        let held = self.held.iter().find(|held| held.puller == Puller::Peer(peer))?;
        Some((held.base.index, held.holds, held.bytes))
    }
}

impl Group {
    /// A follower is to be offered a snapshot from which the log goes on, which begins with `first`: the one that it pulls
    /// already, or the newest; or one is made.
    pub(in crate::node) fn offer(&mut self, host: &mut Host, peer: NodeId, session: SessionId, first: LogIndex, now: Time) {
        let serves = |info: &&Info| info.head.full && info.base().next() >= first;
        let pulled = self.sending.held.iter().find(|held| held.puller == Puller::Peer(peer) && !held.too_slow);
        let pulled = pulled.and_then(|held| host.store.snapshots().filter(serves).find(|info| info.digest == held.digest));
        let Some(info) = pulled.or_else(|| host.store.snapshots().find(serves)).copied() else {
            self.sending.lacks = true;
            if self.snapshots.unsupported && host.net.admits_lines(1, Some(peer), "nothing to offer", now) {
                tell!(
                    error, %peer,
                    "a follower needs entries that are no longer in this log, and the state machine makes no snapshots: it cannot be brought back, and \
                     the others go on without it. A larger retention_bytes on all members keeps more for one that is away"
                );
            }
            return;
        };
        self.sending.lacks = false;
        let (base, head) = (info.base(), info.head);
        let id = SnapshotId { source: NodeId(host.config.id), index: base.index, term: base.term, digest: info.digest.0 };
        let offer = SnapshotOffer { id, subterm: base.subterm, lineage: head.lineage, bytes: info.bytes };
        // Where it cannot be sent now, it is offered again.
        self.sending.promised = Some((base.index, now.plus_ns(OFFER_HOLD_NS)));
        if host.net.offer_snapshot(now, peer, session, &offer).is_ok() && host.net.admits_lines(1, Some(peer), "offers a snapshot", now) {
            tell!(info, %peer, snapshot = %info, "a follower needs what is no longer in this log: it is offered a snapshot");
        }
    }

    /// Somebody wants a part of a snapshot.
    pub(in crate::node) fn snapshot_wanted(&mut self, host: &mut Host, pull: Pull, want: SnapshotWant, now: Time) {
        let id = want.id;
        let is_it = |info: &&Info| {
            let base = info.base();
            (NodeId(host.config.id), base.index, base.term, info.digest.0) == (id.source, id.index, id.term, id.digest)
        };
        let Some(info) = host.store.snapshots().find(is_it).copied() else {
            self.forget_pull(pull);
            return host.net.refuse_snapshot(pull, SnapshotRefusal::Gone);
        };
        self.hold(host, pull.puller, &info, want.held.min(info.bytes), now);
        let sending = &mut self.sending;
        sending.pool.get_or_insert_with(|| Pool::new(SEND_BUFFERS, SEND_BYTES));
        let at = sending.pulls.iter().position(|pulling| pulling.pull == pull).unwrap_or_else(|| {
            sending.tags += 1;
            let (wants, ready) = (VecDeque::new(), VecDeque::new());
            sending.pulls.push(Pulling { pull, tag: sending.tags, wants, ready, reading: false });
            sending.pulls.len() - 1
        });
        if let Some(pulling) = sending.pulls.get_mut(at) {
            pulling.wants.push_back(want);
        }
    }

    /// Nobody pulls over that connection any more. A peer may come back for the rest.
    pub(in crate::node) fn snapshot_unwanted(&mut self, host: &mut Host, pull: Pull) {
        self.forget_pull(pull);
        if pull.puller == Puller::Program {
            self.let_go(host, |held| held.puller == Puller::Program);
        }
    }

    fn forget_pull(&mut self, pull: Pull) {
        self.sending.pulls.retain(|pulling| pulling.pull != pull);
        if self.sending.pulls.is_empty() {
            self.sending.pool = None;
        }
    }

    /// Keeps a snapshot for whoever pulls it.
    pub(super) fn hold(&mut self, host: &mut Host, puller: Puller, info: &Info, holds: u64, now: Time) {
        self.let_go(host, |held| held.puller == puller && held.digest != info.digest);
        match self.sending.held.iter_mut().find(|held| held.puller == puller) {
            Some(held) if holds > held.holds => (held.holds, held.advanced) = (holds, now),
            Some(_) => {}
            None => {
                if let Puller::Peer(peer) = puller {
                    tell!(info, %peer, snapshot = %info, from = holds, "a snapshot is sent");
                    self.shared.events.tell(Event::SnapshotSending { peer, index: info.base().index });
                }
                host.store.hold(info.digest);
                let (base, digest, bytes) = (info.base(), info.digest, info.bytes);
                if self.sending.promised.is_some_and(|(index, _)| index == base.index) {
                    self.sending.promised = None;
                }
                let held =
                    Held { puller, base, digest, bytes, from: holds, began: now, holds, advanced: now, too_slow: false, left: false };
                self.sending.held.push(held);
            }
        }
    }

    fn let_go(&mut self, host: &mut Host, mut whom: impl FnMut(&Held) -> bool) {
        self.sending.held.retain(|held| {
            let goes = whom(held);
            if goes {
                host.store.unhold(held.digest);
                host.store_stirred = true;
            }
            !goes
        });
    }

    /// Reads and sends on, as far as connections and disk allow; and lets go of what is kept for nobody any more.
    pub(super) fn send_on(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        self.sending.retry_at = self.sending.retry_at.filter(|&due| due > now);
        if self.sending.lacks && self.snapshots.is_making() {
            self.sending.still_promised(now);
        }
        let in_need = host.lacking.is_some();
        self.sending.promised = self.sending.promised.filter(|&(_, until)| until > now && !in_need);
        for at in 0..self.sending.pulls.len() {
            self.send_ready(host, at);
            self.read_on(host, at, now, io);
        }
        for held in &mut self.sending.held {
            held.left = self.role != Role::Leader && !self.sending.pulls.iter().any(|pulling| pulling.pull.puller == held.puller);
        }
        let raft = &self.raft;
        let has_it = |held: &Held| {
            let Puller::Peer(peer) = held.puller else { return false };
            raft.progress().any(|follower| follower.peer == peer && !follower.behind && follower.matched >= held.base.index)
        };
        if self.sending.held.iter().any(|held| held.is_due(now) || has_it(held)) {
            let mut sent = Vec::new();
            for held in self.sending.held.iter().filter(|held| has_it(held)) {
                if let Puller::Peer(peer) = held.puller {
                    sent.push((peer, held.base.index));
                }
            }
            for (peer, index) in sent {
                tell!(info, %peer, index = index.0, "the follower has the snapshot, and goes on with the log");
                self.counters.snapshots_sent += 1;
                self.shared.events.tell(Event::SnapshotSent { peer, index });
                self.let_go(host, |held| held.puller == Puller::Peer(peer));
                self.sending.catching.retain(|catching| catching.peer != peer);
                let upto = self.raft.last_index();
                self.sending.catching.push(Catching { peer, upto, gap: upto.0.saturating_sub(index.0), matched: index, advanced: now });
            }
            self.let_go(host, |held| held.is_due(now));
        }
        let in_need = host.lacking.is_some();
        self.sending.catching.retain_mut(|catching| {
            let follower = self.raft.progress().find(|follower| follower.peer == catching.peer && !follower.behind);
            let matched = follower.map_or(LogIndex(0), |follower| follower.matched);
            if matched > catching.matched {
                (catching.matched, catching.advanced) = (matched, now);
            }
            let stuck = follower.is_none() || now.since(catching.advanced) >= FETCH_PATIENCE_NS;
            if in_need || stuck {
                return false;
            }
            if matched >= catching.upto {
                // On, as long as that brings it nearer to the end; one that is slower than the load would hold the log for ever.
                let upto = self.raft.last_index();
                let gap = upto.0.saturating_sub(matched.0);
                let nearer = gap > 0 && gap <= catching.gap / 4 * 3;
                (catching.upto, catching.gap) = (upto, gap);
                return nearer;
            }
            true
        });
        self.watch_pace_of_pulls(host, now);
    }

    /// A log without room is not kept for one that would take too long: it is given a newer snapshot then.
    fn watch_pace_of_pulls(&mut self, host: &mut Host, now: Time) {
        if host.lacking.is_none() {
            return;
        }
        let most_ns = host.config.hold_max_s * 1_000_000_000;
        let mut refused = Vec::new();
        for held in self.sending.held.iter_mut().filter(|held| !held.too_slow) {
            let (bytes_per_s, rest_ns) = held.pace(now);
            if let Puller::Peer(peer) = held.puller
                && rest_ns > most_ns
                && now.since(held.began) >= SNAPSHOT_RETRY_NS
            {
                held.too_slow = true;
                refused.push(held.puller);
                tell!(
                    warn, %peer, bytes_per_s, bytes = held.bytes, rest_s = rest_ns / 1_000_000_000,
                    "a follower takes a snapshot so slowly that this log has no room to be kept for it any longer: it begins anew with a newer one. A \
                     larger retention_bytes, a quicker link, or fewer writes bring it back"
                );
                self.shared.events.tell(Event::SnapshotTooSlow { peer });
            }
        }
        for puller in refused {
            let pulls: Vec<Pull> = self.sending.pulls.iter().map(|pulling| pulling.pull).filter(|pull| pull.puller == puller).collect();
            for pull in pulls {
                host.net.refuse_snapshot(pull, SnapshotRefusal::Gone);
                self.forget_pull(pull);
            }
            self.let_go(host, |held| held.puller == puller);
        }
    }

    fn send_ready(&mut self, host: &mut Host, at: usize) {
        let Some(pulling) = self.sending.pulls.get_mut(at) else { return };
        while let Some(ready) = pulling.ready.front_mut() {
            match host.net.send_chunk(pulling.pull, ready.id, ready.offset, ready.block.clone(), ready.from) {
                Ok(()) => (ready.offset, ready.from) = (ready.offset + CHUNK, ready.from + CHUNK as usize),
                Err(SendError::Full) => return,
                // Not wanted any more.
                Err(_) => ready.from = ready.upto,
            }
            if ready.from >= ready.upto {
                pulling.ready.pop_front();
            }
        }
    }

    fn read_on(&mut self, host: &mut Host, at: usize, now: Time, io: &mut dyn Io) {
        let Sending { pulls, pool: Some(pool), retry_at: None, .. } = &mut self.sending else { return };
        let Some(pulling) = pulls.get_mut(at) else { return };
        // One piece goes out while the next is read.
        let Some(want) = pulling.wants.front().filter(|_| !pulling.reading && pulling.ready.len() < 2) else { return };
        let Some(buf) = pool.take() else { return };
        let (digest, chunk) = (Digest(want.id.digest), want.offset / CHUNK);
        if host.store.read(pulling.tag, digest, chunk, IoBuf::Pool(buf), io).is_ok() {
            pulling.reading = true;
        } else if host.store.snapshots().any(|info| info.digest == digest && chunk < info.chunks()) {
            // Too much is being read.
            self.sending.retry_at = Some(now.plus_ns(SNAPSHOT_RETRY_NS));
        } else {
            let pull = pulling.pull;
            host.net.refuse_snapshot(pull, SnapshotRefusal::Gone);
            self.forget_pull(pull);
        }
    }

    /// What was read for a connection of this tag.
    pub(super) fn send_read(&mut self, host: &mut Host, tag: u64, buf: IoBuf, result: Result<usize, ReadError>, now: Time) {
        let Some(pulling) = self.sending.pulls.iter_mut().find(|pulling| pulling.tag == tag) else { return };
        pulling.reading = false;
        match (result, buf) {
            (Ok(count), IoBuf::Pool(buf)) => {
                let Some(want) = pulling.wants.front_mut() else { return };
                let chunks = want.chunks.min(count as u32);
                let upto = chunks as usize * CHUNK as usize;
                pulling.ready.push_back(Ready { id: want.id, offset: want.offset, block: buf.freeze(), from: 0, upto });
                (want.offset, want.chunks) = (want.offset + upto as u64, want.chunks - chunks);
                if want.chunks == 0 {
                    pulling.wants.pop_front();
                }
            }
            (Err(ReadError::Lacking(_)), _) => self.sending.retry_at = Some(now.plus_ns(SNAPSHOT_RETRY_NS)),
            _ => {
                let pull = pulling.pull;
                host.net.refuse_snapshot(pull, SnapshotRefusal::Unreadable);
                self.forget_pull(pull);
                self.let_go(host, |held| held.puller == pull.puller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It would be past for ever, and the node turn without a pause: only what goes on sending looks at it.
    #[test]
    fn once_nobody_pulls_nothing_is_due() {
        let mut sending = Sending { retry_at: Some(Time(7)), promised: Some((LogIndex(1), Time(9))), ..Sending::default() };
        assert_eq!(sending.deadline(), Some(Time(7)));
        sending.promised = None;
        assert_eq!(sending.deadline(), None);
    }
}

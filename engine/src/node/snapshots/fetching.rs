//! A snapshot of another node's, pulled into this one's store: what is offered and taken, and asked for bit by bit.

use kontiki_core::{NodeId, SessionId, Time, Verdict};
use kontiki_io::{Io, tell};
use kontiki_mem::PoolBuf;
use kontiki_net::{DownReason, SnapshotId, SnapshotOffer, SnapshotRefusal, SnapshotWant};
use kontiki_snapshot::{Digest, Info, Offer, Refused, StoreError};

use super::trouble::Kind;
use super::{Step, Writing};
use crate::apply::Task;
use crate::error::Failure;
use crate::events::Event;
use crate::limits::{FETCH_LIMIT_NS, FETCH_PATIENCE_NS};
use crate::node::group::Group;
use crate::node::host::Host;
use crate::state_machine::SnapshotError;

const CHUNK: u64 = kontiki_snapshot::limits::CHUNK_BYTES as u64;

/// A fetch under way.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    peer: NodeId,
    id: SnapshotId,
    /// Asked for up to here, in bytes.
    asked: u64,
    /// Chunks that were asked for and have not come.
    due: u32,
    /// Bytes taken, and when the last was.
    taken: u64,
    advanced: Time,
}

/// What a group fetches.
#[derive(Debug, Default)]
pub(in crate::node) struct Fetching {
    now: Option<Fetch>,
    /// To be fetched once the store is free for it.
    next: Option<(NodeId, SnapshotOffer)>,
}

impl Fetching {
    pub(super) fn is_idle(&self) -> bool {
        self.now.is_none() && self.next.is_none()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.now.map(|fetch| fetch.advanced.plus_ns(FETCH_LIMIT_NS))
    }
}

/// An offer, as the store knows it.
fn as_stored(offer: &SnapshotOffer) -> Offer {
    Offer { source: offer.id.source, base: offer.base(), lineage: offer.lineage, digest: Digest(offer.id.digest), bytes: offer.bytes }
}

impl Group {
    /// Whether this node lacks anything of what a snapshot of `base` holds: the log, or the state machine, as far as the log
    /// cannot give it that. One that needs a base lacks it, even where its machine is durable by itself and ahead.
    fn lacks(&self, host: &Host, base: kontiki_core::Base, log: bool) -> bool {
        let machine = self.next_apply <= base.index && self.next_apply < host.wal.first_index();
        log || machine || self.raft.needs_base()
    }

    /// A peer offers a snapshot.
    pub(in crate::node) fn snapshot_offered(&mut self, host: &mut Host, peer: NodeId, session: SessionId, offer: SnapshotOffer, now: Time) {
        if host.net.session(peer) != Some(session) || offer.id.source != peer || self.installing.is_some() {
            return;
        }
        if let Some(fetch) = self.fetching.now {
            if fetch.id != offer.id && now.since(fetch.advanced) >= FETCH_PATIENCE_NS {
                self.give_up_fetch(host);
                self.fetching.next = Some((peer, offer));
            }
            return;
        }
        match self.raft.judge_snapshot(offer.base()) {
            Verdict::Takes { log } if self.lacks(host, offer.base(), log) => self.fetching.next = Some((peer, offer)),
            Verdict::Takes { .. } => {}
            Verdict::Contradicts => {
                if host.net.admits_lines(1, Some(peer), "a snapshot of another history", now) {
                    tell!(
                        error, %peer, base = %offer.base(),
                        "a snapshot is offered that contradicts what is committed here, or ends before this log begins: it is not taken"
                    );
                }
            }
        }
    }

    /// Begins what was offered, once the store is free; and asks for more of what is under way.
    pub(super) fn fetch_on(&mut self, host: &mut Host, now: Time) {
        if let Some((peer, offer)) = self.fetching.next
            && self.fetching.now.is_none()
        {
            self.begin_fetch(host, peer, offer, now);
        }
        let Some(fetch) = &mut self.fetching.now else { return };
        let Some(progress) = host.store.fetching() else { return };
        if progress.taken > fetch.taken {
            (fetch.taken, fetch.advanced) = (progress.taken, now);
        }
        if now.since(fetch.advanced) >= FETCH_LIMIT_NS {
            let (peer, taken) = (fetch.peer, fetch.taken);
            // Where it waits for this disk, that is told already.
            if host.store.lacking().is_none() {
                let reason = format!(
                    "nothing more of it has come from node {peer} for {} s, {taken} bytes are here",
                    FETCH_LIMIT_NS / 1_000_000_000
                );
                self.meets(Kind::NotFetched, &reason, now);
            }
            return self.give_up_fetch(host);
        }
        let Some(want) = host.store.want() else { return };
        // What came out of order was of no use; what has come is not asked for again.
        if fetch.due == 0 || fetch.asked < want.offset {
            fetch.asked = want.offset;
        }
        let end = want.offset + want.bytes;
        while fetch.asked < end && host.net.want_room(fetch.peer) > 0 {
            let chunks = ((end - fetch.asked) / CHUNK).min(u64::from(kontiki_net::limits::MAX_WANT_CHUNKS)) as u32;
            let part = SnapshotWant { id: fetch.id, offset: fetch.asked, chunks, held: progress.durable };
            if chunks == 0 || host.net.want_snapshot(now, fetch.peer, part).is_err() {
                break;
            }
            fetch.asked += u64::from(chunks) * CHUNK;
            fetch.due += chunks;
        }
    }

    fn begin_fetch(&mut self, host: &mut Host, peer: NodeId, offer: SnapshotOffer, now: Time) {
        match self.raft.judge_snapshot(offer.base()) {
            Verdict::Takes { log } if self.lacks(host, offer.base(), log) => {}
            _ => {
                self.fetching.next = None;
                return;
            }
        }
        self.give_up_own(host, now);
        match host.store.fetch(as_stored(&offer)) {
            Ok(()) => {
                tell!(info, %peer, base = %offer.base(), bytes = offer.bytes, "a snapshot is fetched");
                self.shared.events.tell(Event::SnapshotFetching { peer, index: offer.id.index });
                self.fetching.now = Some(Fetch { peer, id: offer.id, asked: 0, due: 0, taken: 0, advanced: now });
            }
            Err(Refused::Busy) => return,
            // Nothing but a start helps, and without the snapshot it is of no use.
            Err(Refused::Broken(error)) => self.queue.fail(Failure::Snapshots(error.to_string())),
            Err(refused) => self.meets(Kind::NotFetched, &format!("node {peer} offers one: {refused}"), now),
        }
        self.fetching.next = None;
    }

    /// This node's own snapshot gives way to the one that it needs.
    pub(super) fn give_up_own(&mut self, host: &mut Host, now: Time) {
        match self.snapshots.step {
            Step::Asked { .. } => {
                self.snapshots.unheard += 1;
                self.snapshots.step = Step::Idle;
            }
            Step::Taken { .. } => self.snapshots.step = Step::Idle,
            Step::Writing(Writing { is_full: full, .. }) => {
                host.store.abandon();
                self.snapshots.step = Step::Ending { full };
            }
            Step::Idle | Step::Ending { .. } | Step::Restoring(_) => return,
        }
        self.queue.put_first(Task::Forget);
        let why = "this node needs another node's".to_owned();
        self.answer_snapshot(host, &Err(SnapshotError::Failed(why)), now);
    }

    fn give_up_fetch(&mut self, host: &mut Host) {
        host.store.abandon();
        host.store_stirred = true;
    }

    /// A chunk has come.
    pub(in crate::node) fn snapshot_chunk(
        &mut self,
        host: &mut Host,
        peer: NodeId,
        id: SnapshotId,
        offset: u64,
        chunk: &PoolBuf,
        now: Time,
    ) {
        let Some(fetch) = self.fetching.now.as_mut().filter(|fetch| (fetch.peer, fetch.id) == (peer, id)) else { return };
        fetch.due = fetch.due.saturating_sub(1);
        let expected = host.store.want().map(|want| want.offset);
        host.store_stirred = true;
        if let Err(flaw) = host.store.accept(offset, chunk.bytes())
            && expected == Some(offset)
        {
            // It is asked for again, and all behind it.
            fetch.asked = offset;
            if host.net.admits_lines(1, Some(peer), "bad chunk of a snapshot", now) {
                tell!(warn, %peer, offset, %flaw, "a chunk of a snapshot is not as it should be: fetched again");
            }
        }
    }

    /// The connection to the source is gone. Whatever it may be, it is opened again: with growing pauses.
    pub(in crate::node) fn snapshot_fetch_down(&mut self, host: &mut Host, peer: NodeId, reason: DownReason) {
        let Some(fetch) = self.fetching.now.as_mut().filter(|fetch| fetch.peer == peer) else { return };
        fetch.due = 0;
        if let DownReason::SnapshotRefused(refusal) = reason
            && refusal != SnapshotRefusal::Busy
        {
            tell!(info, %peer, %refusal, "the source of a snapshot does not send it any more");
            self.give_up_fetch(host);
        }
    }

    /// The fetch is over; whether this node's it was.
    fn fetch_over(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) -> Option<NodeId> {
        let fetch = self.fetching.now.take()?;
        host.net.leave_snapshot(fetch.peer, now, io);
        Some(fetch.peer)
    }

    /// It is whole, and durable under its name.
    pub(super) fn fetched(&mut self, host: &mut Host, info: Info, now: Time, io: &mut dyn Io) {
        let from = self.fetch_over(host, now, io);
        tell!(info, from = from.map(|from| from.0), snapshot = %info, "a snapshot is fetched whole, and durable");
        self.is_over(Kind::NotFetched, now);
        self.counters.snapshots_fetched += 1;
        self.install(info);
    }

    pub(super) fn not_fetched(&mut self, host: &mut Host, error: &StoreError, now: Time, io: &mut dyn Io) {
        let peer = self.fetch_over(host, now, io);
        if *error != StoreError::Abandoned {
            let from = peer.map_or(String::new(), |peer| format!("from node {peer}: "));
            self.meets(Kind::NotFetched, &format!("{from}{error}"), now);
        }
        self.shared.events.tell(Event::SnapshotFailed);
    }
}

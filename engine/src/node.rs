//! One replica: the one file where core, log and transport meet.
//!
//! Everything arrives as a completion and leaves as an operation. A turn hands completions to the log
//! and the transport, steps the core with what came of them, carries its effects out in order, and
//! flushes it once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kontiki_core::{
    Append, ClusterId, Effect, Effects, Event, FrameMeta, GroupId, Incarnation, IndexRange, LogIndex, Message, NodeId, Raft, Role,
    SessionId, Term, Time, WriteId,
};
use kontiki_frame::{self as frame, Header, Kind};
use kontiki_io::{Completion, Io, Wake};
use kontiki_mem::{Batch, Block, BlockMut, OpenBatch, Outcome, PoolBuf, Resolver, Ring, Sealed, Tickets};
use kontiki_net::{ClientEvent, FrameStamp, Net, NetError, NetEvent, Response};
use kontiki_wal::{FrameAt, Frames, HardState, ReadError, Space, Wal, WalEvent};

use crate::apply::{ApplyQueue, Work};
use crate::cache::{Cached, FrameCache};
use crate::catchup::{CatchUp, Reader};
use crate::clients::Clients;
use crate::config::Config;
use crate::error::{Failure, ProposeError};
use crate::limits::{self, MAX_DEFERRED_SENDS, MAX_FRAME_ENTRIES};
use crate::pending::Pending;
use crate::shared::Shared;
use crate::status::{Counters, Latency, PeerStatus, Status};

/// A frame in hand while the core decides what of it is written.
struct Hand {
    block: BlockMut,
    header: Header,
}

/// A message that waits for a write.
struct Deferred {
    after: WriteId,
    to: NodeId,
    session: SessionId,
    message: Message,
}

/// A frame from a peer that waits for room in the log.
struct Stalled {
    from: NodeId,
    session: SessionId,
    append: Append,
    hand: Hand,
}

/// What the core asks to be sent to a follower.
struct Window {
    from: LogIndex,
    upto: LogIndex,
    max_bytes: u64,
    max_frames: u32,
}

/// What a replica is made of, once its log is recovered.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) incarnation: Incarnation,
    pub(crate) raft: Raft,
    pub(crate) wal: Wal,
    pub(crate) net: Net,
    pub(crate) ring: Ring,
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<ApplyQueue>,
    pub(crate) recovery: String,
}

pub(crate) struct Replica {
    config: Config,
    incarnation: Incarnation,
    raft: Raft,
    wal: Wal,
    net: Net,
    ring: Ring,
    cache: FrameCache,
    pending: Pending,
    catchup: CatchUp,
    clients: Clients,
    shared: Arc<Shared>,
    queue: Arc<ApplyQueue>,
    resolver: Resolver,
    fx: Effects,
    spare_fx: Effects,
    hand: Option<Hand>,
    stalled: VecDeque<Stalled>,
    deferred: Vec<Deferred>,
    /// Log writes not durable yet, oldest first, with when they were queued.
    writes: VecDeque<(WriteId, Time)>,
    /// Hard-state writes not durable yet.
    saves: VecDeque<WriteId>,
    noop: Option<FrameMeta>,
    role: Role,
    commit: LogIndex,
    /// Next index to hand to apply.
    next_apply: LogIndex,
    /// What the state machine had made durable when the log was last released.
    released: LogIndex,
    counters: Counters,
    flush_latency: Latency,
    commit_latency: Latency,
    disk_full: bool,
    recovery: String,
}

/// What callers' threads share with the replica of `config`.
pub(crate) fn shared(config: &Config, bell: Arc<dyn Wake>) -> Shared {
    let entries = MAX_FRAME_ENTRIES.min(config.max_in_flight);
    let batch = OpenBatch::new(frame::BODY_OFFSET, entries, limits::SIDE_TABLES);
    let tickets = Tickets::new(config.max_in_flight, config.reply_bytes);
    let members = config.members.iter().map(|m| (NodeId(m.id), m.addr)).collect();
    Shared::new(batch, tickets, NodeId(config.id), members, config.max_entry_bytes, bell)
}

impl Replica {
    /// A replica over what recovery found.
    pub(crate) fn new(parts: Parts) -> Replica {
        let Parts { config, raft, wal, net, ring, shared, queue, recovery, incarnation } = parts;
        let applied = queue.applied();
        let peers = config.members.len();
        let resolver = shared.tickets.resolver();
        Replica {
            commit: LogIndex(0),
            next_apply: applied.next(),
            catchup: CatchUp::new(limits::READ_BYTES.max(config.max_frame_bytes), peers),
            clients: Clients::new(config.max_in_flight),
            role: raft.role(),
            config,
            incarnation,
            raft,
            wal,
            net,
            ring,
            cache: FrameCache::new(),
            pending: Pending::new(),
            shared,
            queue,
            resolver,
            fx: Effects::with_capacity(256),
            spare_fx: Effects::with_capacity(256),
            released: LogIndex(0),
            hand: None,
            stalled: VecDeque::with_capacity(limits::MAX_RING_BLOCKS),
            deferred: Vec::with_capacity(MAX_DEFERRED_SENDS),
            writes: VecDeque::with_capacity(limits::MAX_CACHED_FRAMES),
            saves: VecDeque::with_capacity(64),
            noop: None,
            counters: Counters::default(),
            flush_latency: Latency::default(),
            commit_latency: Latency::default(),
            disk_full: false,
            recovery,
        }
    }

    /// When a turn is due although nothing happens.
    pub(crate) fn standing(&self) -> (Role, Term) {
        (self.raft.role(), self.raft.term())
    }

    pub(crate) fn deadline(&self) -> Time {
        let wal = self.wal.deadline().unwrap_or(Time(u64::MAX));
        let net = self.net.deadline().unwrap_or(Time(u64::MAX));
        self.raft.deadline().min(net).min(wal)
    }

    pub(crate) fn on_completion(&mut self, completion: Completion, now: Time, io: &mut dyn Io) {
        match (completion.token.0 >> 56) as u8 {
            kontiki_wal::OWNER => self.wal.on_completion(completion, io),
            kontiki_net::TOKEN_TAG => self.net.on_completion(now, completion, io),
            owner => panic!("a completion for nobody: owner {owner}"),
        }
    }

    /// Everything that follows from the completions of a turn.
    pub(crate) fn advance(&mut self, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
        self.counters.turns += 1;
        if let Some(error) = self.wal.poisoned() {
            return Err(Failure::Log(error.to_string()));
        }
        if let Some(failure) = self.queue.failure() {
            return Err(failure);
        }
        self.wal_events(now, io)?;
        self.watch_space();
        self.net_events(now, io)?;
        if now >= self.raft.deadline() {
            self.step(now, Event::Tick, io);
        }
        self.retry_stalled(now, io);
        self.seal(now, io);
        self.raft.flush(now, &mut self.fx);
        self.carry_out(now, io);
        self.wal.pump(io);
        self.make_room(now, io);
        self.hand_to_apply(now, io);
        self.release();
        self.answer_clients();
        self.net.tick(now, io, &mut self.ring);
        self.shared.set_eager(self.role == Role::Leader && self.wal.writes_in_flight() == 0);
        if self.role == Role::Leader && self.wants_seal() {
            // An entry that came between the look above and the flag: its caller saw a reactor that was not eager.
            self.shared.ring();
        }
        if self.shared.status_wanted() {
            self.publish(io);
        }
        Ok(())
    }

    /// Inline apply has run: hand over more, answer, release.
    pub(crate) fn applied(&mut self, now: Time, io: &mut dyn Io) {
        self.hand_to_apply(now, io);
        self.release();
        self.answer_clients();
        self.net.tick(now, io, &mut self.ring);
    }

    /// Whether the port is open: `None` until that is known.
    pub(crate) fn poll_listening(&mut self) -> Option<Result<(), NetError>> {
        match self.net.poll_event()? {
            NetEvent::Listening { addr } => {
                tracing::info!(%addr, "listening");
                Some(Ok(()))
            }
            NetEvent::Fatal(error) => Some(Err(error)),
            // Nobody can have connected before the port was open.
            _ => None,
        }
    }

    // ---- events -------------------------------------------------------------------------------

    fn wal_events(&mut self, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
        while let Some(event) = self.wal.next_event() {
            match event {
                WalEvent::LogDurable { write } => {
                    while let Some(&(id, queued)) = self.writes.front() {
                        if id > write {
                            break;
                        }
                        self.flush_latency.record(now.since(queued));
                        self.writes.pop_front();
                    }
                    self.step(now, Event::LogDurable { write }, io);
                    self.release_sends(now);
                }
                WalEvent::HardStateDurable { write } => {
                    while self.saves.front().is_some_and(|&id| id <= write) {
                        self.saves.pop_front();
                    }
                    self.step(now, Event::HardStateDurable { write }, io);
                    self.release_sends(now);
                }
                WalEvent::Read { tag, buf, result } => self.read_done(tag, buf, result, now, io)?,
                WalEvent::Term { index, result, .. } => {
                    let term = result.map_err(|e| Failure::Log(e.to_string()))?;
                    self.step(now, Event::TermFound { index, term }, io);
                }
            }
        }
        Ok(())
    }

    fn net_events(&mut self, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
        while let Some(event) = self.net.poll_event() {
            match event {
                NetEvent::Message { peer, session, message } => self.step(now, Event::Message { from: peer, session, message }, io),
                NetEvent::Frame { peer, session, stamp, header, block } => {
                    let append = Append { leader_term: stamp.leader_term, commit: stamp.commit, frame: header.meta, range: stamp.range };
                    let stalled = Stalled { from: peer, session, append, hand: Hand { block, header } };
                    self.stalled.push_back(stalled);
                    self.retry_stalled(now, io);
                }
                NetEvent::SessionUp { peer, session, incarnation, remote } => {
                    tracing::info!(%peer, %session, %incarnation, %remote, "session open");
                    self.counters.sessions += 1;
                    self.step(now, Event::SessionUp { peer, session }, io);
                }
                NetEvent::SessionDown { peer, session, reason } => {
                    tracing::info!(%peer, %session, %reason, "session closed");
                    self.deferred.retain(|d| d.session != session || d.to != peer);
                    self.stalled.retain(|s| s.session != session || s.from != peer);
                    self.step(now, Event::SessionDown { peer, session }, io);
                }
                NetEvent::Client(event) => self.client(event, io),
                NetEvent::Refused { peer, remote, reason } => tracing::warn!(?peer, %remote, %reason, "refused"),
                NetEvent::Listening { addr } => tracing::info!(%addr, "listening"),
                NetEvent::Fatal(error) => return Err(Failure::Net(error.to_string())),
            }
        }
        Ok(())
    }

    /// Frames in the order they came, while the log has room. What waits keeps its ring memory, so the
    /// sender is slowed down by its own window.
    fn retry_stalled(&mut self, now: Time, io: &mut dyn Io) {
        while let Some(front) = self.stalled.front() {
            if !self.wal.can_append(front.hand.block.len()) || !self.raft.can_append() {
                return;
            }
            let Some(Stalled { from, session, append, hand }) = self.stalled.pop_front() else { return };
            self.hand = Some(hand);
            self.step(now, Event::Append { from, session, append }, io);
            // Not taken by an effect: a duplicate, a stranger's, or one that does not fit. Dropped.
            self.hand = None;
        }
    }

    fn step(&mut self, now: Time, event: Event, io: &mut dyn Io) {
        self.raft.step(now, event, &mut self.fx);
        self.carry_out(now, io);
    }

    // ---- effects ------------------------------------------------------------------------------

    fn carry_out(&mut self, now: Time, io: &mut dyn Io) {
        // Sending is answered with events of its own, which have effects of their own: until none is left.
        while !self.fx.is_empty() {
            let mut effects = std::mem::replace(&mut self.fx, std::mem::take(&mut self.spare_fx));
            for effect in effects.drain(..) {
                self.effect(effect, now, io);
            }
            self.spare_fx = effects;
        }
    }

    fn effect(&mut self, effect: Effect, now: Time, io: &mut dyn Io) {
        match effect {
            Effect::PersistHardState { write, term, vote, recovering } => {
                self.saves.push_back(write);
                self.wal.save_hard_state(write, HardState { term, vote, recovering });
            }
            Effect::AppendFrame { write, range } => self.append(write, range, now),
            Effect::SealNoop { frame } => {
                self.noop = Some(frame);
                self.seal_noop(now, io);
            }
            Effect::Send { to, session, message, after } => self.send(to, session, message, after, now),
            Effect::SendFrames { to, session, from, upto, max_bytes, max_frames } => {
                let window = Window { from, upto, max_bytes, max_frames };
                self.send_frames(to, session, window, now, io);
            }
            Effect::Committed { index } => self.commit = index,
            Effect::Role { role, term, leader } => self.role_changed(role, term, leader, now, io),
            Effect::Truncated { from } => {
                tracing::info!(%from, "entries superseded by a newer leader's");
                self.cache.truncate(from);
            }
            Effect::LookupTerm { index } => self.lookup_term(index, now, io),
            Effect::FollowerBehind { peer, needs, first } => {
                tracing::error!(%peer, %needs, %first, "a follower needs entries that are no longer in this log: raise retention_bytes, or rebuild it");
            }
        }
    }

    /// Writes the frame in hand.
    fn append(&mut self, write: WriteId, range: IndexRange, now: Time) {
        let hand = self.hand.take();
        let Some(Hand { block, header }) = hand else { panic!("the core wants a frame written that is not in hand") };
        if self.role != Role::Leader {
            self.counters.frames_received += 1;
        }
        let block = self.wal.append(write, block, range, header.meta);
        self.writes.push_back((write, now));
        if self.cache.is_full() {
            self.cache.evict(self.raft.durable());
        }
        self.cache.push(Cached { header, range, block });
    }

    fn send(&mut self, to: NodeId, session: SessionId, message: Message, after: Option<WriteId>, now: Time) {
        match after {
            Some(write) if !self.is_durable(write) => {
                if self.deferred.len() < MAX_DEFERRED_SENDS {
                    self.deferred.push(Deferred { after: write, to, session, message });
                }
            }
            _ => {
                // A full queue drops it and counts; every message is repeated or asked for again.
                let _ = self.net.send_message(now, to, session, &message);
            }
        }
    }

    fn is_durable(&self, write: WriteId) -> bool {
        !self.saves.contains(&write) && self.writes.front().is_none_or(|&(oldest, _)| write < oldest || !self.writes.iter().any(|w| w.0 == write))
    }

    fn release_sends(&mut self, now: Time) {
        let mut at = 0;
        while let Some(d) = self.deferred.get(at) {
            if self.is_durable(d.after) {
                let Deferred { to, session, message, .. } = self.deferred.remove(at);
                let _ = self.net.send_message(now, to, session, &message);
            } else {
                at += 1;
            }
        }
    }

    fn role_changed(&mut self, role: Role, term: Term, leader: Option<NodeId>, now: Time, io: &mut dyn Io) {
        tracing::info!(?role, %term, leader = leader.map(|l| l.0), "role");
        let led = self.role == Role::Leader;
        self.role = role;
        self.shared.set_leader(leader);
        if led && role != Role::Leader {
            self.shared.batch.close();
            self.noop = None;
            self.discard_unsealed();
            self.pending.lose(self.commit, &mut self.resolver);
        }
        if role == Role::Leader && !led {
            self.counters.elections_won += 1;
        }
        let me = NodeId(self.config.id);
        let from = if role == Role::Follower { leader.filter(|&l| l != me) } else { None };
        self.net.grant_bulk(from, now, io);
    }

    /// What callers wrote into a batch that will never be sealed: in no log, and never will be.
    fn discard_unsealed(&mut self) {
        while let Some((_, batch)) = self.shared.batch.poll_sealed() {
            let hint = self.shared.leader_id();
            for &ticket in batch.tickets() {
                self.resolver.resolve(ticket, Outcome::NotApplied { hint }, &[]);
            }
        }
        self.resolver.flush();
    }

    // ---- sealing ------------------------------------------------------------------------------

    fn seal_noop(&mut self, now: Time, io: &mut dyn Io) {
        let Some(meta) = self.noop else { return };
        let bytes = frame::frame_bytes(frame::ENTRY_LENGTH_BYTES);
        if !self.wal.can_append(bytes) || !self.raft.can_append() {
            return;
        }
        let Some(mut block) = self.ring.reserve(bytes) else { return };
        self.noop = None;
        let cluster = ClusterId(self.config.cluster);
        frame::seal_noop(block.bytes_mut(), cluster, GroupId(0), meta, io.wall_ns());
        let Ok(header) = frame::parse_header(block.bytes()) else { panic!("a frame just sealed does not parse") };
        self.sealed(Hand { block, header }, now, io);
    }

    fn sealed(&mut self, hand: Hand, now: Time, io: &mut dyn Io) {
        let (meta, bytes) = (hand.header.meta, hand.block.len() as u32);
        self.counters.frames_sealed += 1;
        self.hand = Some(hand);
        self.step(now, Event::Sealed { frame: meta, bytes }, io);
        assert!(self.hand.is_none(), "the core did not take the frame it asked for");
    }

    /// Whether what waits in the open batch is to be sealed now: at once if no write is in flight; else
    /// when the batch is about full, so that the next can fill while this one is written.
    fn wants_seal(&self) -> bool {
        let (entries, bytes) = self.shared.batch.waiting();
        if entries == 0 || self.raft.next_frame(1).is_none() || !self.wal.can_append(self.config.max_frame_bytes) || !self.pending.has_room() {
            return false;
        }
        self.wal.writes_in_flight() == 0 || bytes + self.config.max_entry_bytes.min(self.config.max_frame_bytes / 4) >= self.config.max_frame_bytes
            || entries as usize >= MAX_FRAME_ENTRIES.min(self.config.max_in_flight)
    }

    fn seal(&mut self, now: Time, io: &mut dyn Io) {
        if self.role != Role::Leader {
            self.discard_unsealed();
            return;
        }
        self.seal_noop(now, io);
        if self.noop.is_some() {
            return;
        }
        loop {
            if self.pending.has_room() && self.wal.can_append(self.config.max_frame_bytes)
                && self.raft.next_frame(1).is_some()
                && let Some((sealed, tickets)) = self.shared.batch.poll_sealed()
            {
                self.seal_batch(sealed, tickets, now, io);
            }
            self.open_batch();
            if !(self.wants_seal() && self.shared.batch.seal()) {
                return;
            }
        }
    }
}

impl Replica {
    /// Gives a sealed batch its place in the log.
    fn seal_batch(&mut self, sealed: Sealed, tickets: Batch, now: Time, io: &mut dyn Io) {
        let Sealed { mut block, body_bytes, count } = sealed;
        let Some(meta) = self.raft.next_frame(count) else { panic!("asked for a place in the log without a look first") };
        block.truncate(frame::frame_bytes(body_bytes));
        let header = Header {
            kind: Kind::Entries,
            sessions: false,
            cluster: ClusterId(self.config.cluster),
            group: GroupId(0),
            meta,
            proposed_ns: io.wall_ns(),
            body_bytes: body_bytes as u32,
        };
        frame::seal(block.bytes_mut(), &header);
        self.counters.entries_proposed += u64::from(count);
        self.pending.push(meta, now, tickets);
        self.sealed(Hand { block, header }, now, io);
    }

    /// Opens the next batch at the tail of the ring, where memory allows.
    fn open_batch(&mut self) {
        if self.shared.batch.is_open() {
            return;
        }
        if let Some(block) = self.ring.reserve(self.config.max_frame_bytes) {
            drop(self.shared.batch.open(block));
        }
    }

    /// Keeps half of the ring free: the oldest frames leave the cache once they are durable. A peer whose
    /// connection still pins old memory then loses the connection; it catches up from the log.
    fn make_room(&mut self, now: Time, io: &mut dyn Io) {
        let wanted = self.ring.capacity() / 2;
        while self.ring.free() < wanted && self.cache.evict(self.raft.durable()) {}
        if self.ring.free() < self.ring.capacity() / 4 {
            for member in &self.config.members {
                let peer = NodeId(member.id);
                if self.net.pinning(peer).is_some_and(|p| p.bytes as usize > self.ring.capacity() / 4) {
                    tracing::warn!(%peer, "does not read: connection cut, it will catch up from the log");
                    self.net.cut(peer, now, io);
                }
            }
        }
    }

    // ---- replication --------------------------------------------------------------------------

    /// Sends from memory what is there, else reads it back from the log.
    fn send_frames(&mut self, peer: NodeId, session: SessionId, window: Window, now: Time, io: &mut dyn Io) {
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

    fn stamp(&self, range: IndexRange) -> FrameStamp {
        FrameStamp { leader_term: self.raft.term(), commit: self.raft.commit(), range }
    }

    fn read_for(&mut self, reader: Reader, from: LogIndex, upto: LogIndex, now: Time, io: &mut dyn Io) {
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
        let Some(buf) = self.catchup.pool.take() else { return refused(self) };
        let Some(tag) = self.catchup.begin(reader) else { return refused(self) };
        if self.wal.read(tag, from, upto, buf, io).is_err() {
            self.catchup.end(tag);
            refused(self);
        }
    }

    fn read_done(&mut self, tag: u64, buf: PoolBuf, result: Result<Frames, ReadError>, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
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
                for f in frames.iter().take(max_frames as usize) {
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

    fn lookup_term(&mut self, index: LogIndex, now: Time, io: &mut dyn Io) {
        if !self.wal.lookup_term(0, index, io) {
            // Too many at once: as if the log did not hold it, and the core falls back to a probe.
            self.raft.step(now, Event::TermFound { index, term: None }, &mut self.fx);
        }
    }

    /// Tells the operator when the disk is full, and when it is not any more.
    fn watch_space(&mut self) {
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

    // ---- apply --------------------------------------------------------------------------------

    /// Hands committed frames over, in order, as far as the stage has room.
    fn hand_to_apply(&mut self, now: Time, io: &mut dyn Io) {
        let share = self.ring.capacity() / 4;
        let mut any = false;
        while self.next_apply <= self.commit {
            if !self.queue.has_room(share) {
                break;
            }
            let Some(cached) = self.cache.get(self.next_apply) else {
                if self.queue.is_empty() {
                    self.read_for(Reader::Apply, self.next_apply, self.commit, now, io);
                }
                break;
            };
            let range = IndexRange { from: self.next_apply, to: cached.range.to.min(self.commit) };
            let (block, header) = (cached.block.clone(), cached.header);
            if !self.hand_over(block, header, range, now) {
                break;
            }
            any = true;
        }
        self.queue.want_bell(self.next_apply <= self.commit || !self.clients.is_empty());
        if any {
            self.queue.announce();
        }
    }

    /// False if it must wait: a caller's batch is answered whole.
    fn hand_over(&mut self, block: Block, header: Header, range: IndexRange, now: Time) -> bool {
        let mut tickets = None;
        if let Some(meta) = self.pending.first_in(range) {
            if meta == header.meta {
                if range.to < meta.last() && self.role == Role::Leader {
                    return false;
                }
                if let Some((batch, sealed)) = self.pending.pop() {
                    self.commit_latency.record(now.since(sealed));
                    tickets = Some(batch);
                }
            }
        }
        self.next_apply = range.to.next();
        self.queue.push(Work { block, header, range, tickets });
        true
    }

    fn apply_read(&mut self, block: &Block, frames: &[FrameAt], now: Time) {
        for f in frames {
            // Only what follows on: the queue may have been fed from memory meanwhile.
            if f.range.from > self.next_apply || f.range.to < self.next_apply || !self.queue.has_room(usize::MAX) {
                continue;
            }
            let range = IndexRange { from: self.next_apply, to: f.range.to.min(self.commit) };
            let part = block.slice(f.offset, f.bytes);
            let Ok(header) = frame::parse_header(part.bytes()) else { panic!("a frame that the log has checked does not parse") };
            if range.to < range.from || !self.hand_over(part, header, range, now) {
                break;
            }
        }
        self.queue.announce();
    }

    /// What the state machine has made durable need not stay in the log, beyond the retention limit.
    fn release(&mut self) {
        let durable = self.queue.durable().min(self.queue.applied());
        if durable <= self.released {
            return;
        }
        self.released = durable;
        if let Some((first, prev_term)) = self.wal.release(durable) {
            self.raft.compacted(first, prev_term);
        }
    }

    // ---- clients ------------------------------------------------------------------------------

    fn client(&mut self, event: ClientEvent, io: &mut dyn Io) {
        match event {
            ClientEvent::Propose { client, request, payload, .. } => {
                let Some(bytes) = self.net.payload(&payload) else { return };
                let outcome = self.shared.propose_raw(bytes);
                match outcome {
                    Ok(ticket) => self.clients.push(client, request, ticket),
                    Err(error) => {
                        self.net.respond(client, request, refusal(&error));
                    }
                }
            }
            ClientEvent::Status { client, request } => {
                let text = self.status(io).to_string();
                self.net.respond(client, request, Response::Status(text.as_bytes()));
            }
            ClientEvent::Query { client, request, .. } => {
                let text = "this node answers no queries: propose a read through the log";
                self.net.respond(client, request, Response::Error { code: 1, text });
            }
            ClientEvent::Connected { client, remote } => tracing::debug!(?client, %remote, "client connected"),
            ClientEvent::Disconnected { client } => tracing::debug!(?client, "client gone"),
        }
    }

    fn answer_clients(&mut self) {
        while let Some((client, request, outcome, ticket)) = self.clients.pop_ready() {
            let response = match outcome {
                Outcome::Applied { index } => Response::Applied { index, reply: ticket.reply() },
                Outcome::NotApplied { .. } => Response::NotApplied,
                Outcome::Unknown => Response::Unknown,
            };
            self.net.respond(client, request, response);
        }
    }

    // ---- watching and ending ------------------------------------------------------------------

    pub(crate) fn publish(&mut self, io: &dyn Io) {
        let status = self.status(io);
        self.shared.publish(status);
    }

    fn status(&self, io: &dyn Io) -> Status {
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

/// What a client is told of a proposal that was not taken.
fn refusal(error: &ProposeError) -> Response<'static> {
    match error {
        ProposeError::NotLeader { leader } => Response::NotLeader { leader: leader.map(|l| l.id), address: leader.map(|l| l.addr) },
        ProposeError::Busy => Response::Busy,
        ProposeError::TooLarge { .. } => Response::Error { code: 2, text: "the entry is over this cluster's limit (max_entry_bytes)" },
        ProposeError::Stopped => Response::NotLeader { leader: None, address: None },
    }
}

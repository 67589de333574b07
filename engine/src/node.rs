//! One replica: the one file where core, log and transport meet.
//!
//! Everything arrives as a completion and leaves as an operation. A turn hands completions to the log
//! and the transport, steps the core with what came of them, carries its effects out in order, and
//! flushes it once.

mod gather;
mod handover;
#[cfg(test)]
mod harness;
mod neighbours;
mod replication;
mod reserve;
mod room;
mod sealing;
mod service;
mod watch;

use std::collections::VecDeque;
use std::sync::Arc;

use kontiki_core::{
    Append, Effect, Effects, Event, FrameMeta, Incarnation, IndexRange, LogIndex, Message, NodeId, Raft, Role, SessionId, Term, Time,
    WriteId,
};
use kontiki_frame::{self as frame, Header};
use kontiki_io::{Completion, Io, Wake, tell};
use kontiki_mem::{BlockMut, Hold, OpenBatch, Resolver, Ring, Tickets};
use kontiki_net::{Net, NetError, NetEvent};
use kontiki_wal::{HardState, ReadError, Wal, WalEvent};

use crate::apply::ApplyQueue;
use crate::cache::{Cached, FrameCache};
use crate::catchup::CatchUp;
use crate::clients::Clients;
use crate::config::Config;
use crate::error::{Failure, LeaderHint};
use crate::events::Event as ProductEvent;
use crate::lack::Lack;
use crate::limits::{self, MAX_DEFERRED_SENDS, MAX_FRAME_ENTRIES, ROLE_LINES};
use crate::pending::Pending;
use crate::saves::Saves;
use crate::shared::Shared;
use crate::status::{Counters, Latency};
use gather::Gather;
use neighbours::Neighbours;

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
    pub(crate) shared: Hold<Shared>,
    pub(crate) queue: Arc<ApplyQueue>,
    pub(crate) recovery: String,
    /// In bytes, of what the log holds: however long frames may be by now.
    pub(crate) longest_frame: usize,
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
    shared: Hold<Shared>,
    queue: Arc<ApplyQueue>,
    resolver: Resolver,
    fx: Effects,
    spare_fx: Effects,
    hand: Option<Hand>,
    stalled: VecDeque<Stalled>,
    deferred: Vec<Deferred>,
    /// Log writes not durable yet, oldest first, with when they were queued.
    writes: VecDeque<(WriteId, Time)>,
    saves: Saves,
    noop: Option<FrameMeta>,
    role: Role,
    commit: LogIndex,
    /// Frames past this one are kept in memory for a follower that is held on to.
    awaited: LogIndex,
    /// Next index to hand to apply.
    next_apply: LogIndex,
    /// What the state machine had made durable when the log was last released.
    released: LogIndex,
    counters: Counters,
    flush_latency: Latency,
    commit_latency: Latency,
    gather: Gather,
    neighbours: Neighbours,
    /// What the next segment of the log lacks.
    lacking: Option<Lack>,
    /// When the state machine is to be asked what is durable though nothing was applied.
    ask_durable_at: Time,
    recovering: bool,
    /// The longest election timeout that the operator was last told of, in ns.
    told_election_ns: u64,
    recovery: String,
}

/// What callers' threads share with the replica of `config`.
pub(crate) fn shared(config: &Config, bell: Arc<dyn Wake>) -> Hold<Shared> {
    let entries = MAX_FRAME_ENTRIES.min(config.max_in_flight);
    let tickets = Tickets::new(config.max_in_flight, config.reply_bytes);
    let batch = OpenBatch::new(tickets, frame::BODY_OFFSET, config.max_frame_bytes - frame::BODY_OFFSET, entries, limits::SIDE_TABLES);
    let members = config.members.iter().map(LeaderHint::from).collect();
    Shared::new(batch, NodeId(config.id), members, config.max_entry_bytes, bell)
}

impl Replica {
    /// A replica over what recovery found.
    pub(crate) fn new(parts: Parts) -> Replica {
        let Parts { config, raft, wal, net, ring, shared, queue, recovery, incarnation, longest_frame } = parts;
        let applied = queue.applied();
        let peers = config.members.len();
        let resolver = Resolver::new();
        let told_election_ns = raft.election_timeouts_ns().1;
        Replica {
            commit: LogIndex(0),
            awaited: LogIndex(u64::MAX),
            next_apply: applied.next(),
            catchup: CatchUp::new(limits::READ_BYTES.max(config.takes_frame_bytes()).max(longest_frame), peers),
            clients: Clients::new(config.max_in_flight),
            neighbours: Neighbours::new(&config),
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
            saves: Saves::default(),
            noop: None,
            counters: Counters::default(),
            flush_latency: Latency::default(),
            commit_latency: Latency::default(),
            gather: Gather::default(),
            lacking: None,
            ask_durable_at: Time(u64::MAX),
            recovering: false,
            told_election_ns,
            recovery,
        }
    }

    /// Role and term of this moment.
    pub(crate) fn standing(&self) -> (Role, Term) {
        (self.raft.role(), self.raft.term())
    }

    /// Durable here up to this index.
    pub(crate) fn durable(&self) -> LogIndex {
        self.raft.durable()
    }

    /// When a turn is due although nothing happens.
    pub(crate) fn deadline(&self) -> Time {
        let wal = self.wal.deadline().unwrap_or(Time(u64::MAX));
        let net = self.net.deadline().unwrap_or(Time(u64::MAX));
        let held = self.held_until().unwrap_or(Time(u64::MAX));
        self.raft.deadline().min(net).min(wal).min(held).min(self.ask_durable_at)
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
        self.watch_room();
        self.watch_recovery();
        self.watch_pace();
        self.net_events(now, io)?;
        if now >= self.raft.deadline() {
            self.step(now, Event::Tick, io);
        }
        self.retry_stalled(now, io);
        self.seal(now, io);
        let held_up = !self.may_seal();
        self.raft.flush(now, &mut self.fx);
        self.carry_out(now, io);
        self.wal.pump(io);
        self.make_room(now, io);
        if self.role == Role::Leader && self.noop.is_none() {
            self.open_batches();
        }
        self.watch_followers();
        self.ask_durable(now);
        self.hand_to_apply(now, io);
        self.release();
        self.answer_clients();
        self.net.tick(now, io, &mut self.ring);
        self.shared.set_eager(self.is_eager(now));
        if self.role == Role::Leader && (self.wants_seal(now) || held_up && self.may_seal()) {
            // An entry that came between the look above and the flag: its caller saw a reactor that was not eager.
            // Or a batch that was sealed, and there was no room for it until just now.
            self.shared.ring();
        }
        self.tell_status(io);
        Ok(())
    }

    /// How long inline apply may hold up a turn, but for the frame in hand, in ns.
    pub(crate) fn apply_limit_ns(&self) -> u64 {
        self.config.heartbeat_ms * 1_000_000 / 4
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
                tell!(info, %addr, "listening");
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
                        self.gather.wrote(now.since(queued));
                        self.writes.pop_front();
                    }
                    self.step(now, Event::LogDurable { write }, io);
                    self.release_sends(now);
                }
                WalEvent::HardStateDurable { write } => {
                    if let Some((next, state)) = self.saves.done(write) {
                        self.wal.save_hard_state(next, state);
                    }
                    self.step(now, Event::HardStateDurable { write }, io);
                    self.release_sends(now);
                }
                WalEvent::Read { tag, buf, result } => self.read_done(tag, buf, result, now, io)?,
                WalEvent::Term { index, result, .. } => {
                    let term = match result {
                        Ok(term) => term,
                        // Superseded or released while it was looked up: the log does not hold it any more.
                        Err(ReadError::Gone { .. } | ReadError::NotDurable) => None,
                        Err(error) => return Err(Failure::Log(error.to_string())),
                    };
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
                NetEvent::SessionUp { peer, session, parameters, .. } => {
                    self.counters.sessions += 1;
                    self.shared.events.tell(ProductEvent::PeerUp { peer });
                    self.introduced(peer, parameters, now);
                    self.step(now, Event::SessionUp { peer, session }, io);
                }
                NetEvent::SessionDown { peer, session, .. } => {
                    self.agree();
                    self.deferred.retain(|d| d.session != session || d.to != peer);
                    self.stalled.retain(|s| s.session != session || s.from != peer);
                    self.catchup.forget(peer);
                    self.shared.events.tell(ProductEvent::PeerDown { peer });
                    self.step(now, Event::SessionDown { peer, session }, io);
                }
                NetEvent::Client(event) => self.client(event, io),
                // Counted, and in the log, by the transport.
                NetEvent::Refused { .. } | NetEvent::Unreached { .. } => {}
                NetEvent::Listening { addr } => tell!(info, %addr, "listening"),
                NetEvent::Fatal(error) => return Err(Failure::Net(error.to_string())),
            }
        }
        Ok(())
    }

    /// Frames in the order they came, while the log has room. What waits keeps its ring memory, so the
    /// sender is slowed down by its own window.
    fn retry_stalled(&mut self, now: Time, io: &mut dyn Io) {
        while let Some(front) = self.stalled.front() {
            if !self.has_room_for(front) || !self.raft.can_append() {
                if self.raft.commit_here() < self.raft.commit() {
                    // It cannot be written, and nothing can be released for it before it has shown what the log holds.
                    let (from, session, append) = (front.from, front.session, front.append);
                    self.step(now, Event::Offered { from, session, append }, io);
                }
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
                if let Some((write, state)) = self.saves.ask(write, HardState { term, vote, recovering }) {
                    self.wal.save_hard_state(write, state);
                }
            }
            Effect::AppendFrame { write, range } => self.append(write, range, now),
            // Sealed later in this turn, where effects are not under way.
            Effect::SealNoop { frame } => self.noop = Some(frame),
            Effect::Send { to, session, message, after } => self.send(to, session, message, after, now),
            Effect::SendFrames { to, session, from, upto, max_bytes, max_frames } => {
                let window = Window { from, upto, max_bytes, max_frames };
                self.send_frames(to, session, window, now, io);
            }
            Effect::Committed { index } => self.commit = index,
            Effect::Role { role, term, leader } => self.role_changed(role, term, leader, now, io),
            Effect::Truncated { from } => {
                if self.net.admits_lines(1, None, "entries superseded", now) {
                    tell!(info, %from, "entries superseded by a newer leader's");
                }
                self.cache.truncate(from);
            }
            Effect::LookupTerm { index } => self.lookup_term(index, now, io),
            Effect::FollowerBehind { peer, needs, first } => {
                self.falls_behind(peer);
                if self.net.admits_lines(1, Some(peer), "a follower is behind the log", now) {
                    tell!(
                        error, %peer, %needs, %first,
                        "a follower needs entries that are no longer in this log: it cannot catch up (there are no snapshots yet), and the others go on \
                         without it. A larger retention_bytes on all members keeps more for one that is away"
                    );
                }
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
                // The newest of a kind says it all: one peer that asks again and again leaves what others wait for its place.
                let kind = std::mem::discriminant(&message);
                self.deferred.retain(|d| d.to != to || d.session != session || std::mem::discriminant(&d.message) != kind);
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
        self.saves.is_durable(write)
            && self.writes.front().is_none_or(|&(oldest, _)| write < oldest || !self.writes.iter().any(|w| w.0 == write))
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
        if self.net.admits_lines(ROLE_LINES, None, "role", now) {
            tell!(info, ?role, %term, leader = leader.map(|l| l.0), "role");
        }
        let led = self.role == Role::Leader;
        self.role = role;
        self.shared.set_leader(leader);
        if led && role != Role::Leader {
            self.shared.events.tell(ProductEvent::LeadershipLost { term });
            self.shared.batch.close();
            self.noop = None;
            self.discard_unsealed();
            self.catchup.forget_all();
            self.neighbours.serves_none();
            self.pending.lose(self.commit, &mut self.resolver);
        }
        if role == Role::Leader && !led {
            self.counters.elections_won += 1;
            self.shared.events.tell(ProductEvent::LeadershipGained { term });
        }
        let me = NodeId(self.config.id);
        // A follower that only wonders whether its leader lives keeps listening to it: withdrawing the right to
        // stream in the middle of a frame would cost the session.
        match role {
            Role::Follower | Role::PreCandidate => {
                if let Some(leader) = leader.filter(|&l| l != me) {
                    self.net.grant_bulk(Some(leader), now, io);
                }
            }
            Role::Candidate | Role::Leader => self.net.grant_bulk(None, now, io),
        }
    }
}

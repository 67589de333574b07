//! A Raft group: the one place where core, log and transport meet.
//!
//! What the log and the transport have to tell comes in, the core is stepped with it, and its effects are carried out
//! in order. Whatever it needs of the host's it is handed.

use std::collections::VecDeque;
use std::sync::Arc;

use kontiki_core::{
    Append, Effect, Effects, Event, FrameMeta, GroupId, IndexRange, LogIndex, Message, NodeId, Raft, Role, SessionId, Term, Time, WriteId,
};
use kontiki_frame::{Header, WireStamp};
use kontiki_io::{Io, tell};
use kontiki_mem::{BlockMut, Hold, Resolver};
use kontiki_net::NetEvent;
use kontiki_wal::{HardState, ReadError, WalEvent};

use super::gather::Gather;
use super::host::Host;
use super::neighbours::Neighbours;
use super::snapshots::asked::Asker;
use super::snapshots::fetching::Fetching;
use super::snapshots::installing::Installing;
use super::snapshots::sending::Sending;
use super::snapshots::{Snapshots, Troubles};
use crate::apply::ApplyQueue;
use crate::cache::{Cached, FrameCache};
use crate::catchup::CatchUp;
use crate::clients::Clients;
use crate::error::Failure;
use crate::events::Event as ProductEvent;
use crate::limits::{self, MAX_DEFERRED_SENDS, ROLE_LINES};
use crate::pending::Pending;
use crate::saves::Saves;
use crate::shared::Shared;
use crate::status::{Counters, Latency};

/// A frame in hand while the core decides what of it is written.
pub(super) struct Hand {
    pub(super) block: BlockMut,
    pub(super) header: Header,
}

/// A message that waits for a write.
pub(super) struct Deferred {
    pub(super) after: WriteId,
    pub(super) to: NodeId,
    pub(super) session: SessionId,
    pub(super) message: Message,
}

/// A frame from a peer that waits for room in the log.
pub(super) struct Stalled {
    pub(super) from: NodeId,
    pub(super) session: SessionId,
    pub(super) append: Append,
    pub(super) hand: Hand,
}

/// What the core asks to be sent to a follower.
pub(super) struct Window {
    pub(super) from: LogIndex,
    pub(super) upto: LogIndex,
    pub(super) max_bytes: u64,
    pub(super) max_frames: u32,
}

pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) raft: Raft,
    pub(super) cache: FrameCache,
    pub(super) pending: Pending,
    pub(super) catchup: CatchUp,
    pub(super) clients: Clients,
    pub(super) shared: Hold<Shared>,
    pub(super) queue: Arc<ApplyQueue>,
    pub(super) snapshots: Snapshots,
    /// What goes wrong with them.
    pub(super) troubles: Troubles,
    pub(super) sending: Sending,
    pub(super) fetching: Fetching,
    pub(super) installing: Option<Installing>,
    pub(super) resolver: Resolver,
    pub(super) fx: Effects,
    pub(super) spare_fx: Effects,
    pub(super) hand: Option<Hand>,
    pub(super) stalled: VecDeque<Stalled>,
    pub(super) deferred: Vec<Deferred>,
    /// Log writes not durable yet, oldest first, with when they were queued.
    pub(super) writes: VecDeque<(WriteId, Time)>,
    pub(super) saves: Saves,
    pub(super) noop: Option<FrameMeta>,
    pub(super) role: Role,
    pub(super) commit: LogIndex,
    /// Frames past this one are kept in memory for a follower that is held on to.
    pub(super) awaited: LogIndex,
    /// Next index to hand to apply.
    pub(super) next_apply: LogIndex,
    /// What the state machine had made durable when the log was last released.
    pub(super) released: LogIndex,
    pub(super) counters: Counters,
    pub(super) flush_latency: Latency,
    pub(super) commit_latency: Latency,
    pub(super) gather: Gather,
    pub(super) neighbours: Neighbours,
    /// When the state machine is to be asked what is durable though nothing was applied.
    pub(super) ask_durable_at: Time,
    pub(super) recovering: bool,
    /// The longest election timeout that the operator was last told of, in ns.
    pub(super) told_election_ns: u64,
}

impl Group {
    /// The group of `raft`, whose log the host holds; its frames may be as long as `longest_frame`, and `mark` is its
    /// position where the newest snapshot was taken.
    pub(super) fn new(
        id: GroupId,
        host: &Host,
        raft: Raft,
        shared: Hold<Shared>,
        queue: Arc<ApplyQueue>,
        longest_frame: usize,
        mark: u64,
    ) -> Group {
        let config = &host.config;
        let applied = queue.applied();
        let told_election_ns = raft.election_timeouts_ns().1;
        Group {
            id,
            commit: LogIndex(0),
            awaited: LogIndex(u64::MAX),
            next_apply: applied.next(),
            catchup: CatchUp::new(limits::READ_BYTES.max(config.takes_frame_bytes()).max(longest_frame), config.members.len()),
            clients: Clients::new(config.max_in_flight),
            neighbours: Neighbours::new(config),
            role: raft.role(),
            raft,
            cache: FrameCache::new(),
            pending: Pending::new(),
            shared,
            queue,
            snapshots: Snapshots::new(mark),
            troubles: Troubles::default(),
            sending: Sending::default(),
            fetching: Fetching::default(),
            installing: None,
            resolver: Resolver::new(),
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
            ask_durable_at: Time(u64::MAX),
            recovering: false,
            told_election_ns,
        }
    }

    /// Role and term of this moment.
    pub(super) fn standing(&self) -> (Role, Term) {
        (self.raft.role(), self.raft.term())
    }

    /// Durable here up to this index.
    pub(super) fn durable(&self) -> LogIndex {
        self.raft.durable()
    }

    /// When a turn is due for this group although nothing happens.
    pub(super) fn deadline(&self, host: &Host) -> Time {
        let held = self.held_until(host).unwrap_or(Time(u64::MAX));
        self.raft.deadline().min(held).min(self.ask_durable_at).min(self.snapshot_deadline())
    }

    /// # Errors
    /// The apply stage has failed.
    pub(super) fn may_go_on(&self) -> Result<(), Failure> {
        if self.queue.has_failed() { self.queue.failure().map_or(Ok(()), Err) } else { Ok(()) }
    }

    /// What follows of a turn's events: what waits is retried and sealed, and the core is flushed. Whether what callers
    /// proposed was held up for lack of room.
    pub(super) fn take_part(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) -> bool {
        if now >= self.raft.deadline() {
            self.step(host, now, Event::Tick, io);
        }
        self.retry_stalled(host, now, io);
        self.seal(host, now, io);
        let held_up = !self.may_seal(host);
        self.raft.flush(now, &mut self.fx);
        self.carry_out(host, now, io);
        self.move_snapshots(host, now, io);
        held_up
    }

    /// After the log has taken its writes: room is made, and what is committed handed on.
    pub(super) fn hand_on(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        self.make_room(host, now, io);
        if self.role == Role::Leader && self.noop.is_none() {
            self.open_batches(host);
        }
        self.watch_followers();
        self.ask_durable(host, now);
        self.applied(host, now, io);
    }

    /// Hands over more, releases, answers.
    pub(super) fn applied(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        self.hand_to_apply(host, now, io);
        self.release(host);
        self.answer_clients(host);
    }

    /// The end of a turn: callers see whether they need to ring.
    pub(super) fn look_again(&mut self, host: &Host, held_up: bool, now: Time) {
        self.shared.set_eager(self.is_eager(host, now));
        if self.role == Role::Leader && (self.wants_seal(host, now) || held_up && self.may_seal(host)) {
            // An entry that came between the look above and the flag: its caller saw a reactor that was not eager.
            // Or a batch that was sealed, and there was no room for it until just now.
            self.shared.ring();
        }
    }

    // ---- events -------------------------------------------------------------------------------

    /// What the log has done.
    pub(super) fn on_log(&mut self, host: &mut Host, event: WalEvent, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
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
                self.step(host, now, Event::LogDurable { write }, io);
                self.release_sends(host, now);
            }
            WalEvent::HardStateDurable { write } => {
                if let Some((next, state)) = self.saves.done(write) {
                    host.wal.save_hard_state(next, state);
                }
                self.step(host, now, Event::HardStateDurable { write }, io);
                self.release_sends(host, now);
            }
            WalEvent::Read { tag, buf, result } => self.read_done(host, tag, buf, result, now, io)?,
            WalEvent::Term { index, result, .. } => {
                let term = match result {
                    Ok(term) => term,
                    // Superseded or released while it was looked up: the log does not hold it any more.
                    Err(ReadError::Gone { .. } | ReadError::NotDurable) => None,
                    Err(error) => return Err(Failure::Log(error.to_string())),
                };
                self.step(host, now, Event::TermFound { index, term }, io);
            }
        }
        Ok(())
    }

    /// What peers and clients have done.
    pub(super) fn on_net(&mut self, host: &mut Host, event: NetEvent, now: Time, io: &mut dyn Io) {
        match event {
            NetEvent::Message { peer, session, message } => self.step(host, now, Event::Message { from: peer, session, message }, io),
            NetEvent::Frame { peer, session, stamp, header, block } => {
                let WireStamp { leader_term, commit, range, round, .. } = stamp;
                let append = Append { leader_term, commit, frame: header.meta, range, round };
                let stalled = Stalled { from: peer, session, append, hand: Hand { block, header } };
                self.stalled.push_back(stalled);
                self.retry_stalled(host, now, io);
            }
            NetEvent::SessionUp { peer, session, parameters, .. } => {
                self.shared.events.tell(ProductEvent::PeerUp { peer });
                self.introduced(host, peer, parameters, now);
                self.step(host, now, Event::SessionUp { peer, session }, io);
            }
            NetEvent::SessionDown { peer, session, .. } => {
                self.agree(host);
                self.deferred.retain(|d| d.session != session || d.to != peer);
                self.stalled.retain(|s| s.session != session || s.from != peer);
                self.catchup.forget(peer);
                self.shared.events.tell(ProductEvent::PeerDown { peer });
                self.step(host, now, Event::SessionDown { peer, session }, io);
            }
            NetEvent::Client(event) => self.client(host, event, io),
            NetEvent::SnapshotWanted { pull, want } => self.snapshot_wanted(host, pull, want, now),
            NetEvent::SnapshotAsked { pull, now: make } => self.snapshot_asked(host, pull, make, now),
            NetEvent::SnapshotServeDown { pull, .. } => {
                self.asker_is_gone(|by| by == Asker::Program(pull));
                self.snapshot_unwanted(host, pull);
            }
            NetEvent::SnapshotOffered { peer, session, offer } => self.snapshot_offered(host, peer, session, offer, now),
            NetEvent::SnapshotChunk { peer, id, offset, chunk } => self.snapshot_chunk(host, peer, id, offset, &chunk, now),
            NetEvent::SnapshotFetchDown { peer, reason } => self.snapshot_fetch_down(host, peer, reason),
            // The host's.
            NetEvent::Refused { .. } | NetEvent::Unreached { .. } | NetEvent::Listening { .. } | NetEvent::Fatal(_) => {}
        }
    }

    /// Frames in the order they came, while the log has room. What waits keeps its ring memory, so the
    /// sender is slowed down by its own window.
    fn retry_stalled(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        while let Some(front) = self.stalled.front() {
            if !self.has_room_for(host, front) || !self.raft.can_append() {
                if self.raft.commit_here() < self.raft.commit() {
                    // It cannot be written, and nothing can be released for it before it has shown what the log holds.
                    let (from, session, append) = (front.from, front.session, front.append);
                    self.step(host, now, Event::Offered { from, session, append }, io);
                }
                return;
            }
            let Some(Stalled { from, session, append, hand }) = self.stalled.pop_front() else { return };
            self.hand = Some(hand);
            self.step(host, now, Event::Append { from, session, append }, io);
            // Not taken by an effect: a duplicate, a stranger's, or one that does not fit. Dropped.
            self.hand = None;
        }
    }

    pub(super) fn step(&mut self, host: &mut Host, now: Time, event: Event, io: &mut dyn Io) {
        self.raft.step(now, event, &mut self.fx);
        self.carry_out(host, now, io);
    }

    // ---- effects ------------------------------------------------------------------------------

    pub(super) fn carry_out(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        // Sending is answered with events of its own, which have effects of their own: until none is left.
        while !self.fx.is_empty() {
            let mut effects = std::mem::replace(&mut self.fx, std::mem::take(&mut self.spare_fx));
            for effect in effects.drain(..) {
                self.effect(host, effect, now, io);
            }
            self.spare_fx = effects;
        }
    }

    fn effect(&mut self, host: &mut Host, effect: Effect, now: Time, io: &mut dyn Io) {
        match effect {
            Effect::PersistHardState { write, term, vote, recovering } => {
                if let Some((write, state)) = self.saves.ask(write, HardState { term, vote, recovering }) {
                    host.wal.save_hard_state(write, state);
                }
            }
            Effect::AppendFrame { write, range } => self.append(host, write, range, now),
            // Sealed later in this turn, where effects are not under way.
            Effect::SealNoop { frame } => self.noop = Some(frame),
            Effect::Send { to, session, message, after } => self.send(host, to, session, message, after, now),
            Effect::SendFrames { to, session, from, upto, max_bytes, max_frames } => {
                let window = Window { from, upto, max_bytes, max_frames };
                self.send_frames(host, to, session, window, now, io);
            }
            Effect::Committed { index } => self.commit = index,
            Effect::Role { role, term, leader } => self.role_changed(host, role, term, leader, now, io),
            Effect::Truncated { from } => {
                if host.net.admits_lines(1, None, "entries superseded", now) {
                    tell!(info, %from, "entries superseded by a newer leader's");
                }
                self.cache.truncate(from);
            }
            Effect::LookupTerm { index } => self.lookup_term(host, index, now, io),
            Effect::OfferSnapshot { peer, session, first, .. } => self.offer(host, peer, session, first, now),
            Effect::Rebase { write, base } => self.begin_anew(write, base, now),
            Effect::Diverged { applied, term } => {
                self.queue.fail(Failure::Diverged { index: applied.index.0, applied: applied.term.0, counts: term.0 });
            }
            Effect::FollowerBehind { peer, needs, first } => {
                self.falls_behind(peer);
                if host.net.admits_lines(1, Some(peer), "a follower is behind the log", now) {
                    tell!(
                        warn, %peer, %needs, %first,
                        "a follower needs entries that are no longer in this log: it is offered a snapshot, and does not count towards a majority before \
                         it has one. If that does not come to an end, its own messages say why (no room on its disk, say). If it was away for longer than \
                         the log is kept, a larger retention_bytes on all members keeps more for the next that is"
                    );
                }
            }
        }
    }

    /// Writes the frame in hand.
    fn append(&mut self, host: &mut Host, write: WriteId, range: IndexRange, now: Time) {
        let hand = self.hand.take();
        let Some(Hand { block, header }) = hand else { panic!("the core wants a frame written that is not in hand") };
        if self.role != Role::Leader {
            self.counters.frames_received += 1;
        }
        let block = host.wal.append(write, block, range, header.meta);
        self.writes.push_back((write, now));
        if self.cache.is_full() {
            self.cache.evict(self.raft.durable());
        }
        self.cache.push(Cached { header, range, block });
    }

    fn send(&mut self, host: &mut Host, to: NodeId, session: SessionId, message: Message, after: Option<WriteId>, now: Time) {
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
                let _ = host.net.send_message(now, to, session, &message);
            }
        }
    }

    fn is_durable(&self, write: WriteId) -> bool {
        self.saves.is_durable(write)
            && self.writes.front().is_none_or(|&(oldest, _)| write < oldest || !self.writes.iter().any(|w| w.0 == write))
    }

    fn release_sends(&mut self, host: &mut Host, now: Time) {
        let mut at = 0;
        while let Some(d) = self.deferred.get(at) {
            if self.is_durable(d.after) {
                let Deferred { to, session, message, .. } = self.deferred.remove(at);
                let _ = host.net.send_message(now, to, session, &message);
            } else {
                at += 1;
            }
        }
    }

    fn role_changed(&mut self, host: &mut Host, role: Role, term: Term, leader: Option<NodeId>, now: Time, io: &mut dyn Io) {
        if host.net.admits_lines(ROLE_LINES, None, "role", now) {
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
        let me = NodeId(host.config.id);
        // A follower that only wonders whether its leader lives keeps listening to it: withdrawing the right to
        // stream in the middle of a frame would cost the session.
        match role {
            Role::Follower | Role::PreCandidate => {
                if let Some(leader) = leader.filter(|&l| l != me) {
                    host.net.grant_bulk(Some(leader), now, io);
                }
            }
            Role::Candidate | Role::Leader => host.net.grant_bulk(None, now, io),
        }
    }
}

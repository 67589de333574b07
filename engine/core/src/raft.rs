//! The state machine itself: its state, the dispatch of events, and the changes of role.

use heapless::Vec;

use crate::config::Config;
use crate::election::Campaign;
use crate::follower::Following;
use crate::hard_state::HardState;
use crate::leader::Leading;
use crate::limits::{MAX_INDEX, MAX_PEERS};
use crate::log::Log;
use crate::membership::Membership;
use crate::pace::Pace;
use crate::peer::Peer;
use crate::progress::Mode;
use crate::restored::Restored;
use crate::rng::Rng;
use crate::terms::Belief;
use crate::{Base, Effect, Effects, EntryId, Event, FrameMeta, LogIndex, Message, NodeId, SessionId, Term, Time, WriteId};

/// What a replica is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win an election (thesis, section 9.6).
    PreCandidate,
    /// Campaigns (paper, section 5.2).
    Candidate,
    /// Leads.
    Leader,
}

/// How far one follower is.
#[derive(Clone, Copy, Debug)]
pub struct PeerProgress {
    /// The follower.
    pub peer: NodeId,
    /// Known durable and matching.
    pub matched: LogIndex,
    /// Next index to send.
    pub next: LogIndex,
    /// Bytes sent and not acknowledged.
    pub inflight_bytes: u64,
    /// Whether frames are not sent ahead to it: where the logs agree is being looked for, or it is behind this log.
    pub probing: bool,
    /// Whether what it needs next is behind this leader's log.
    pub behind: bool,
    /// Time of its last sign of life.
    pub heard: Time,
    /// When its acknowledged position last rose, or what it is to acknowledge was first sent.
    pub advanced: Time,
}

/// One replica's consensus core.
///
/// Pure: the same events at the same times give the same effects. Invariants, asserted in every build:
/// the term never falls and is voted in once; the commit index never falls and nothing at or below it is
/// superseded; `matched < next` for every follower; a durable prefix holds only entries that still stand.
///
/// A peer may send anything: what contradicts the protocol is dropped and counted in [`Raft::refusals`].
#[derive(Clone, Debug)]
pub struct Raft {
    pub(crate) config: Config,
    /// Who counts.
    pub(crate) membership: Membership,
    /// Whom this node may have sessions with; whether they count says the membership.
    pub(crate) peers: Vec<Peer, MAX_PEERS>,
    pub(crate) hard: HardState,
    pub(crate) log: Log,
    pub(crate) role: Role,
    pub(crate) leader: Option<NodeId>,
    /// Known committed. At start what is applied or in a snapshot, which may lie past the log's end.
    pub(crate) commit: LogIndex,
    /// What the state machine had applied when the node started.
    pub(crate) applied: EntryId,
    /// What the log presupposes is not at hand.
    pub(crate) needs_base: bool,
    /// An installed snapshot that the log has still to be told of.
    pub(crate) installing: Option<Base>,
    pub(crate) campaign: Campaign,
    pub(crate) following: Following,
    pub(crate) leading: Leading,
    /// The newest time seen; it never goes back.
    pub(crate) now: Time,
    /// Not a leader: when to start an election.
    pub(crate) election_at: Time,
    /// Since when it waits for that.
    pub(crate) waits_since: Time,
    /// No candidate is heard before this (leader stickiness; thesis, section 4.2.3).
    pub(crate) sticky_until: Time,
    /// The last late tick was forgiven; the next is not.
    pub(crate) excused: bool,
    pub(crate) rng: Rng,
    pub(crate) pace: Pace,
    pub(crate) belief: Belief,
    /// Some peer spoke as the leader of an older term, and was not told so yet.
    pub(crate) any_outdated: bool,
    /// How often a leader says that it lives: the configuration's, or less if a follower needs it.
    pub(crate) heartbeat_ns: u64,
    last_write: WriteId,
    /// What the last [`Effect::Role`] said.
    announced: (Role, Term, Option<NodeId>),
    refusals: u64,
}

impl Raft {
    /// A core as recovery left it, a follower at `now`.
    ///
    /// A log that ends in a greater term than the hard state's moves the term up: frames may reach the disk before
    /// the record of the term they came in, though never an answer to them.
    ///
    /// # Panics
    /// If `config` or `restored` does not validate (see [`Config::validate`], [`Restored::validate`]).
    pub fn new(config: Config, restored: Restored, now: Time) -> Raft {
        if let Err(error) = config.validate() {
            panic!("configuration of the core: {error}");
        }
        if let Err(error) = restored.validate() {
            panic!("what recovery found: {error}");
        }
        let log = Log::new(&restored);
        let mut hard = HardState::new(restored.term, restored.vote, restored.recovering);
        if log.last_term() > hard.term {
            hard.enter(log.last_term());
        }
        let others = config.members().filter(|member| *member != config.id);
        let peers = others.map(|member| Peer::new(member, now)).collect();
        let mut raft = Raft {
            membership: Membership::of(&config),
            peers,
            announced: (Role::Follower, hard.term, None),
            belief: Belief::new(hard.term, now),
            hard,
            role: Role::Follower,
            leader: None,
            commit: restored.committed.max(restored.applied.index),
            applied: restored.applied,
            needs_base: restored.needs_base,
            installing: None,
            log,
            campaign: Campaign::default(),
            following: Following::default(),
            leading: Leading::new(now),
            now,
            election_at: now,
            waits_since: now,
            pace: Pace::new(&config),
            // Before it stopped this node may have promised a leader to be sticky.
            sticky_until: now.plus_ns(config.election_min_ns),
            excused: false,
            rng: Rng::new(config.seed, config.id.0),
            any_outdated: false,
            heartbeat_ns: config.heartbeat_ns,
            last_write: WriteId(0),
            refusals: 0,
            config,
        };
        raft.following = Following::new(raft.commit_here(), now);
        if !raft.is_alone() {
            raft.wait_for_election();
        }
        raft
    }

    /// Takes one event; appends what must happen to `effects`.
    pub fn step(&mut self, now: Time, event: Event, effects: &mut Effects) {
        self.now = self.now.max(now);
        match event {
            Event::Tick => self.tick(effects),
            Event::SessionUp { peer, session } => self.session_up(peer, session, effects),
            Event::SessionDown { peer, session } => self.session_down(peer, session),
            Event::Message { from, session, message } => {
                if let Some(peer) = self.peer_in_session(from, session) {
                    self.message(peer, message, effects);
                }
            }
            Event::Append { from, session, append } => {
                if let Some(peer) = self.peer_in_session(from, session) {
                    self.append(peer, append, effects);
                }
            }
            Event::Offered { from, session, append } => {
                if let Some(peer) = self.peer_in_session(from, session) {
                    self.offered(peer, append, effects);
                }
            }
            Event::Sealed { frame, bytes: _ } => self.sealed(frame, effects),
            Event::LogDurable { write } => {
                self.check_asked(write);
                self.log_durable(write);
            }
            Event::HardStateDurable { write } => {
                self.check_asked(write);
                self.hard_state_durable(write, effects);
            }
            Event::FramesSent { peer, session, to, bytes, frames } => {
                if let Some(peer) = self.peer_in_session(peer, session) {
                    self.frames_sent(peer, to, bytes, frames);
                }
            }
            Event::FramesGone { peer, session, first } => {
                if let Some(peer) = self.peer_in_session(peer, session) {
                    self.frames_gone(peer, first, effects);
                }
            }
            Event::TermFound { index, term } => {
                let waited = self.log.answer(index, term);
                // The log does not hold what it should: it is left as it is.
                if waited && term.is_none() {
                    self.installing = self.installing.filter(|base| base.index != index);
                }
            }
            Event::Installed { base } => self.installed(base, effects),
            Event::BaseLost => self.base_lost(effects),
        }
        self.persist(effects);
    }

    /// Ends a turn: coalesced answers, replication, commit. Called once after the steps of a turn.
    pub fn flush(&mut self, now: Time, effects: &mut Effects) {
        self.now = self.now.max(now);
        if let Some(base) = self.installing {
            self.take_installed(base, effects);
        }
        self.advance_commit(effects);
        self.finish_recovering();
        if self.role == Role::Leader {
            self.lead(effects);
        } else {
            self.answer_leader(effects);
        }
        self.tell_outdated(effects);
        self.persist(effects);
    }

    fn message(&mut self, peer: usize, message: Message, fx: &mut Effects) {
        match message {
            Message::PreVote { term, last_index, last_term } => self.pre_vote(peer, term, last_index, last_term, fx),
            Message::PreVoteReply { term, granted, last_index, last_term, recovering } => {
                self.pre_vote_reply(peer, term, granted, last_index, last_term, recovering, fx);
            }
            Message::Vote { term, last_index, last_term, all_answered } => {
                self.vote(peer, term, last_index, last_term, all_answered, fx);
            }
            Message::VoteReply { term, granted } => self.vote_reply(peer, term, granted, fx),
            Message::Heartbeat { term, commit, round, term_start, session_commit } => {
                self.heartbeat(peer, term, commit, round, term_start, session_commit, fx);
            }
            Message::HeartbeatReply { term, round, recovering: _, needs_base, last_index } => {
                if self.follower_answers(peer, term, round, fx) {
                    self.heartbeat_reply(peer, round, needs_base, last_index);
                }
            }
            Message::Accepted { term, round, matched } => {
                if self.follower_answers(peer, term, round, fx) {
                    self.accepted(peer, matched);
                }
            }
            Message::Received { term, round, index } => {
                if self.follower_answers(peer, term, round, fx) {
                    self.received(peer, index);
                }
            }
            Message::Rejected { term, round, prev, last_index, conflict_term, conflict_first } => {
                if self.follower_answers(peer, term, round, fx) {
                    self.rejected(peer, prev, last_index, conflict_term, conflict_first);
                }
            }
        }
    }

    fn session_up(&mut self, peer: NodeId, session: SessionId, fx: &mut Effects) {
        let commit = self.commit;
        let next = self.probe_start();
        let now = self.now;
        let Some(at) = self.peers.iter().position(|known| known.id == peer) else {
            return self.refuse();
        };
        if let Some(peer) = self.peers.get_mut(at) {
            peer.session = Some(session);
            peer.session_commit = commit;
            peer.heartbeat_at = None;
            peer.news_at = None;
            peer.outdated = false;
            peer.progress = crate::progress::Progress::new(next, now);
            peer.ballot = None;
            peer.needs_base = false;
            peer.offered_at = None;
        }
        // While none is known it may be that of the leader of this term who was, and will be again.
        if self.leader.is_none_or(|leader| leader == peer) {
            self.following.session_changed();
        }
        self.ask_for_vote(at, fx);
    }

    fn session_down(&mut self, peer: NodeId, session: SessionId) {
        if let Some(at) = self.peer_in_session(peer, session)
            && let Some(peer) = self.peers.get_mut(at)
        {
            peer.session = None;
            peer.progress.sending = None;
        }
    }

    /// Becomes a follower in `term`, of `leader` if known. Keeps the vote within a term (hazard H05).
    pub(crate) fn follow(&mut self, term: Term, leader: Option<NodeId>, fx: &mut Effects) {
        let was_leader = self.role == Role::Leader;
        if term > self.hard.term {
            self.hard.enter(term);
            self.following = Following::new(self.commit_here(), self.now);
        } else if was_leader {
            self.following = Following::new(self.commit_here(), self.now);
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.campaign = Campaign::default();
        if was_leader {
            self.wait_for_election();
        }
        self.announce(fx);
    }

    /// Tells the node of a change of role, term or leader.
    pub(crate) fn announce(&mut self, fx: &mut Effects) {
        let current = (self.role, self.hard.term, self.leader);
        if current != self.announced {
            self.announced = current;
            fx.push(Effect::Role { role: current.0, term: current.1, leader: current.2 });
        }
    }

    /// Sends a message that rests on nothing still to be written.
    pub(crate) fn send(&self, peer: usize, message: Message, fx: &mut Effects) {
        self.send_after(peer, message, None, fx);
    }

    /// Answers: not before the term and vote that the answer rests on are durable (hazard H04).
    pub(crate) fn answer(&mut self, peer: usize, message: Message, fx: &mut Effects) {
        self.persist(fx);
        self.send_after(peer, message, self.hard.outstanding(), fx);
    }

    fn send_after(&self, peer: usize, message: Message, after: Option<WriteId>, fx: &mut Effects) {
        if let Some(peer) = self.peers.get(peer)
            && let Some(session) = peer.session
        {
            fx.push(Effect::Send { to: peer.id, session, message, after });
        }
    }

    /// The peer with that id, if `session` is its current one.
    fn peer_in_session(&self, id: NodeId, session: SessionId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id && peer.session == Some(session))
    }

    pub(crate) fn peer_at(&self, id: NodeId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    /// Whether this node is the only voter: it waits for nobody.
    pub(crate) fn is_alone(&self) -> bool {
        self.membership.is_sole(self.config.id)
    }

    fn check_asked(&self, write: WriteId) {
        assert!(write <= self.last_write, "a write that was never asked for cannot be durable");
    }

    pub(crate) fn next_write(&mut self) -> WriteId {
        self.last_write.0 += 1;
        self.last_write
    }

    /// Counts something that a correct peer would not have sent.
    pub(crate) fn refuse(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
    }

    /// How far this log itself is known to hold what is committed; nothing past it may be released.
    ///
    /// After a restart an entry at or below the applied index need not be the one that was applied. Damage, or a power
    /// cut before the disk had what others committed, ends a log before frames that superseded earlier ones, and
    /// those stand in it again. So only that counts which a leader's frames have shown to be equal. (A leader's own
    /// log is what its followers' are measured by.)
    pub fn commit_here(&self) -> LogIndex {
        let leads = self.role == Role::Leader && !self.hard.recovering;
        let sound = if leads { self.log.last() } else { self.following.verified.max(self.log.base().index) };
        self.commit.min(sound)
    }

    /// When the core next wants a `Tick`.
    pub fn deadline(&self) -> Time {
        self.next_deadline()
    }

    /// Leader only, and only when it may append now (its no-op stands in the log, and the table of pending writes
    /// has room): what the next sealed frame's header must say for `count` entries. `None` also for a count of zero.
    pub fn next_frame(&self, count: u32) -> Option<FrameMeta> {
        let ready = self.role == Role::Leader && self.leading.term_start.0 > 0;
        (ready && count > 0).then(|| self.frame_of(count)).flatten()
    }

    /// Whether the table of pending writes has room: a frame stepped without it is dropped.
    pub fn can_append(&self) -> bool {
        self.log.has_room()
    }

    /// The frame that would follow the log's end.
    pub(crate) fn frame_of(&self, count: u32) -> Option<FrameMeta> {
        let frame = FrameMeta { term: self.hard.term, first: self.log.last().next(), count, prev_term: self.log.last_term() };
        let fits = self.log.has_room() && self.log.last().0 + u64::from(count) <= MAX_INDEX;
        fits.then_some(frame)
    }

    /// What this replica is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The current term, perhaps not yet durable.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// The leader of the current term, once known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The highest index known to be committed, as of the last flush. On a follower all of it is durable here. At
    /// start it is what is applied or in a snapshot, which may exceed [`Raft::last_index`].
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// Last index of the log, durable or not.
    pub fn last_index(&self) -> LogIndex {
        self.log.last()
    }

    /// Last index durable on this node.
    pub fn durable(&self) -> LogIndex {
        self.log.durable()
    }

    /// Whether this node is recovering: it neither campaigns nor votes until it holds again what it may have lost.
    pub fn recovering(&self) -> bool {
        self.hard.recovering
    }

    /// How often a peer sent what a correct one would not have sent. Anything but zero deserves a look at that peer.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Progress of every peer, while leading.
    pub fn progress(&self) -> impl Iterator<Item = PeerProgress> + '_ {
        let leading = self.role == Role::Leader;
        self.peers.iter().filter(move |_| leading).map(|peer| PeerProgress {
            peer: peer.id,
            matched: peer.progress.matched(),
            next: peer.progress.next(),
            inflight_bytes: peer.progress.inflight.bytes(),
            probing: peer.progress.mode != Mode::Replicate,
            behind: matches!(peer.progress.mode, Mode::Behind { .. }),
            heard: peer.heard,
            advanced: peer.progress.advanced,
        })
    }

    /// Tells the core that the log was compacted: it now begins behind `base`. A leader's log that keeps its last entry can be
    /// compared with any other; without one, a follower's whose log is longer is compared only with the next entry.
    ///
    /// # Panics
    /// If more is gone than is committed and durable here.
    pub fn compacted(&mut self, base: Base) {
        assert!(base.index <= self.commit, "only what is committed is compacted");
        self.log.compact(base);
    }
}

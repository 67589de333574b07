//! Snapshots, as the core sees them: whom one is offered, what one that arrived is good for, and what the log becomes
//! behind it (paper, section 7).
//!
//! The core never sees a snapshot, only its base. Term and vote are not touched by one.

use crate::limits::{MAX_INDEX, MAX_TERM, MAX_TERM_STEP};
use crate::log::EntryTerm;
use crate::raft::{Raft, Role};
use crate::{Base, Effect, Effects, EntryId};

/// What a snapshot is good for, as far as the core can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is of another history than what this node knows to be committed, or ends before a log begins whose own base is
    /// lost. It must not be installed.
    Contradicts,
    /// It is of this node's history.
    Takes {
        /// Whether the log lacks the entry that it ends with. Such a log begins anew behind it.
        log: bool,
    },
}

impl Raft {
    /// What a snapshot of `base` is good for: to be asked when one is offered, and again before it is installed.
    ///
    /// ```
    /// use kontiki_core::{Base, Config, LogIndex, NodeId, Raft, Restored, Term, Time, Verdict};
    ///
    /// # let config = Config {
    /// #     id: NodeId(1), voters: vec![NodeId(1), NodeId(2), NodeId(3)], learners: vec![], election_min_ns: 150, election_max_ns: 300,
    /// #     election_limit_ns: 300, heartbeat_ns: 40, news_ns: 0, window_bytes: 1, window_frames: 1, seed: 1,
    /// # };
    /// let core = Raft::new(config, Restored { term: Term(2), ..Restored::default() }, Time(0));
    /// let base = Base { index: LogIndex(1_000), term: Term(2), ..Base::default() };
    /// assert_eq!(core.judge_snapshot(base), Verdict::Takes { log: true }, "an empty log takes it");
    /// assert_eq!(core.judge_snapshot(Base::default()), Verdict::Contradicts, "of nothing there is no snapshot");
    /// ```
    pub fn judge_snapshot(&self, base: Base) -> Verdict {
        // A leader's log holds all that is committed, whatever its tables know of it (leader completeness).
        let (held, leads) = (self.holds(base), self.role == Role::Leader);
        let log = if leads { held == Some(false) } else { held != Some(true) };
        if self.may_be_committed(base) && !(leads && log) { Verdict::Takes { log } } else { Verdict::Contradicts }
    }

    /// Whether this node's state lacks what its log presupposes: it takes no part before it has been given a snapshot.
    pub fn needs_base(&self) -> bool {
        self.needs_base
    }

    /// Whether nothing that is known to be committed speaks against a snapshot of `base`.
    fn may_be_committed(&self, base: Base) -> bool {
        let numbers = (1..=MAX_INDEX).contains(&base.index.0)
            && (1..=MAX_TERM).contains(&base.term.0)
            && base.term.0 <= self.hard.term.0.saturating_add(MAX_TERM_STEP);
        let (own, here) = (self.log.base(), self.commit_here());
        // A log whose base is lost may say something untrue of it. One that ends before such a log begins is of no use: what
        // the log holds may be acknowledged, and is not given up for it.
        let begins = if self.needs_base { own.index <= base.index } else { own.id().may_share_a_log_with(base.id()) };
        let committed = match self.log.term(here) {
            EntryTerm::Known(term) => EntryId { index: here, term }.may_share_a_log_with(base.id()),
            _ => true,
        };
        let within = base.index > here || !matches!(self.log.term(base.index), EntryTerm::Known(term) if term != base.term);
        numbers && begins && committed && within && self.applied.may_share_a_log_with(base.id())
    }

    /// Whether the log holds what a snapshot of `base` ends with, or begins after that; `None` if it has to be looked up.
    fn holds(&self, base: Base) -> Option<bool> {
        if base.index < self.log.base().index {
            return Some(true);
        }
        match self.log.term(base.index) {
            EntryTerm::Known(term) => Some(term == base.term),
            EntryTerm::Absent => Some(false),
            EntryTerm::Unknown => (base.index <= self.commit_here()).then_some(true),
        }
    }

    /// A snapshot is durable under its name. A node that stands for election does so with a log that is over (hazard
    /// H56).
    pub(crate) fn installed(&mut self, base: Base, fx: &mut Effects) {
        if self.judge_snapshot(base) == Verdict::Contradicts {
            return self.refuse();
        }
        let stands = matches!(self.role, Role::PreCandidate | Role::Candidate);
        // Entries of a term may reach the disk before the record of that term; so may a snapshot.
        if stands || base.term > self.hard.term {
            self.follow(self.hard.term.max(base.term), None, fx);
            self.wait_for_election();
        }
        self.needs_base = false;
        if self.applied.index < base.index {
            self.applied = base.id();
        }
        if self.installing.is_none_or(|other| other.index < base.index) {
            self.installing = Some(base);
        }
        self.look_up_installed(fx);
    }

    /// Whether an installed snapshot has still to be taken over into the log: no frame is to be appended meanwhile, as the log
    /// may begin anew.
    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// What the log presupposes is nowhere any more. A leader without a state is of no use, and others have one.
    pub(crate) fn base_lost(&mut self, fx: &mut Effects) {
        self.needs_base = true;
        if self.role != Role::Follower {
            self.follow(self.hard.term, None, fx);
            self.wait_for_election();
        }
    }

    /// Asks for the term that decides whether the log goes on behind an installed snapshot.
    pub(crate) fn look_up_installed(&mut self, fx: &mut Effects) {
        if let Some(base) = self.installing
            && self.holds(base).is_none()
            && self.log.ask(base.index)
        {
            fx.push(Effect::LookupTerm { index: base.index });
        }
    }

    /// Takes an installed snapshot over into the log, once that is possible: its term is known, and the table of writes
    /// has room.
    pub(crate) fn take_installed(&mut self, base: Base, fx: &mut Effects) {
        match self.holds(base) {
            Some(true) => {}
            // A peer has said since what contradicts it, or this node leads by now.
            Some(false) if self.judge_snapshot(base) == Verdict::Contradicts => {
                self.installing = None;
                return self.refuse();
            }
            Some(false) if self.log.has_room() => self.rebase(base, fx),
            Some(false) | None => return,
        }
        self.installing = None;
        // What a snapshot holds is committed, so it equals every leader's log.
        self.following.verified = self.following.verified.max(base.index.min(self.log.last()));
        self.hear_commit(base.index);
        // The leader learns at once where this log ends now, without a new proposal (hazard H57).
        self.following.acknowledge();
    }

    /// The log begins anew behind `base`. What stood in it is over: it ended before, or it contradicts the snapshot
    /// (hazard H45).
    fn rebase(&mut self, base: Base, fx: &mut Effects) {
        assert!(self.commit_here() < base.index, "what is committed here is never given up");
        let write = self.next_write();
        if base.index < self.log.last() {
            fx.push(Effect::Truncated { from: base.next() });
        }
        self.log.rebase(write, base, self.commit_here(), self.now);
        self.commit = self.commit.max(base.index);
        self.following.verified = self.following.verified.min(base.index);
        fx.push(Effect::Rebase { write, base });
    }

    /// Offers a snapshot to a follower that the log cannot serve, or that says it needs one (never to another: hazard H59,
    /// so only [`Raft::replicate`] comes here). Repeated while it stays so: an offer may be lost with its session, or the
    /// follower may have had to give up.
    pub(crate) fn offer_snapshot(&mut self, at: usize, fx: &mut Effects) {
        let (now, first, pause_ns) = (self.now, self.log.first(), self.config.election_max_ns);
        let Some(peer) = self.peers.get_mut(at) else { return };
        let Some(session) = peer.session else { return };
        if peer.offered_at.is_none_or(|offered| now.since(offered) >= pause_ns) {
            peer.offered_at = Some(now);
            let (needs, first) = match peer.needs_base {
                // Its log goes on from no snapshot that ends before, and nobody else may make a newer one.
                true => (peer.progress.reported_last.next(), first.max(peer.progress.reported_last.next())),
                false => (peer.progress.next(), first),
            };
            fx.push(Effect::OfferSnapshot { peer: peer.id, session, needs, first });
        }
    }
}

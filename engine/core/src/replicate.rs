//! The leader's side of replication: what is sent to a follower, and what its answers mean (paper, section 5.3).

use crate::log::EntryTerm;
use crate::progress::{Mode, Progress, Sending};
use crate::raft::{Raft, Role};
use crate::{Effect, Effects, LogIndex, Term};

impl Raft {
    /// Where probing of a follower of whom nothing is known begins: at the last entry, so that even an idle leader
    /// learns from one frame whether the logs agree.
    pub(crate) fn probe_start(&self) -> LogIndex {
        self.log.last().max(self.log.first())
    }

    /// Sends what a follower lacks and its window allows; a snapshot is offered where the log cannot help.
    pub(crate) fn replicate(&mut self, at: usize, fx: &mut Effects) {
        let (last, commit) = (self.log.last(), self.commit);
        let Some(peer) = self.peers.get_mut(at) else { return };
        let (Some(session), progress) = (peer.session, &mut peer.progress) else { return };
        if peer.needs_base {
            return self.offer_snapshot(at, fx);
        }
        // As mostly: it lacks nothing. (One that is behind does: what it needs next lies before the log's first entry.)
        if progress.next() > last {
            return;
        }
        let (max_bytes, max_frames) = match progress.mode {
            Mode::Probe { sent: None } => (self.config.window_bytes, 1),
            Mode::Probe { sent: Some(_) } => return,
            Mode::Behind { .. } => return self.offer_snapshot(at, fx),
            Mode::Replicate => (
                self.config.window_bytes.saturating_sub(progress.inflight.bytes()),
                self.config.window_frames.saturating_sub(progress.inflight.frames()),
            ),
        };
        if progress.sending.is_some() || max_bytes == 0 || max_frames == 0 {
            return;
        }
        let from = progress.next();
        progress.sending = Some(Sending { from, upto: last, commit, void: false });
        fx.push(Effect::SendFrames { to: peer.id, session, from, upto: last, max_bytes, max_frames });
    }

    fn progress_of(&mut self, peer: usize) -> Option<&mut Progress> {
        self.peers.get_mut(peer).map(|peer| &mut peer.progress)
    }

    /// The node handed frames to the transport.
    pub(crate) fn frames_sent(&mut self, at: usize, to: LogIndex, bytes: u64, frames: u32) {
        let (round, now, leading) = (self.leading.next_round(), self.now, self.role == Role::Leader);
        let Some(peer) = self.peers.get_mut(at) else { return };
        if !leading {
            peer.progress.sending = None;
            return;
        }
        if peer.progress.sending.is_some_and(|sending| to >= sending.from) {
            peer.frames_at = now;
        }
        peer.progress.sent(to, bytes, frames, round, now);
    }

    /// The log no longer holds what a follower needs.
    pub(crate) fn frames_gone(&mut self, at: usize, first: LogIndex, fx: &mut Effects) {
        let (leading, now) = (self.role == Role::Leader, self.now);
        let Some(peer) = self.peers.get_mut(at) else { return };
        let Some(sending) = peer.progress.sending.take() else { return };
        if !leading || sending.void {
            return;
        }
        peer.progress.behind(now);
        if !core::mem::replace(&mut peer.progress.behind_told, true) {
            fx.push(Effect::FollowerBehind { peer: peer.id, needs: sending.from, first });
        }
    }

    /// A follower is durable up to `matched` and equal to this log.
    pub(crate) fn accepted(&mut self, peer: usize, matched: LogIndex) {
        if matched > self.log.last() {
            return self.refuse();
        }
        let now = self.now;
        let more = self.progress_of(peer).is_some_and(|progress| progress.accepted(matched, now));
        self.leading.durable_news |= more;
    }

    /// A follower holds everything up to `index` in memory.
    pub(crate) fn received(&mut self, peer: usize, index: LogIndex) {
        if index > self.log.last() {
            return self.refuse();
        }
        let now = self.now;
        if let Some(progress) = self.progress_of(peer) {
            progress.received(index, now);
        }
    }

    /// A follower refused a frame: goes back to where the logs may agree. One term run of the follower's is skipped a
    /// round trip, so that a divergence heals in as many round trips as it has terms, whatever its length.
    pub(crate) fn rejected(&mut self, peer: usize, prev: LogIndex, last_index: LogIndex, conflict_term: Term, conflict_first: LogIndex) {
        let next = self.next_after_rejection(prev, last_index, conflict_term, conflict_first);
        let now = self.now;
        let Some(progress) = self.progress_of(peer) else { return };
        // Late answers: to a frame that was since accepted, or to an earlier probe (hazard H31).
        let current = match progress.mode {
            Mode::Replicate => prev >= progress.matched() && prev < progress.next(),
            Mode::Probe { .. } => prev == progress.next().prev(),
            Mode::Behind { .. } => false,
        };
        if current {
            progress.reports(last_index, now);
            progress.probe_from(next);
        }
    }

    /// Next index to try after a rejection; never above the refused one.
    fn next_after_rejection(&self, prev: LogIndex, last_index: LogIndex, conflict_term: Term, conflict_first: LogIndex) -> LogIndex {
        let bound = prev.min(last_index).min(self.log.last());
        let agree = match self.log.last_not_above(conflict_term, bound) {
            // Both logs have that term: the entry here with it is the best guess.
            Some(index) if self.log.term(index) == EntryTerm::Known(conflict_term) => index,
            // This log lacks the term: all of the follower's run is wrong.
            Some(index) => index.min(conflict_first.prev()),
            None => bound.min(conflict_first.prev()),
        };
        // Where the tables do not say, that is a guess. No snapshot takes the log's place before the log was tried from its
        // very beginning, but where the follower has another entry there (hazard H59).
        let base = self.log.base();
        let other = conflict_first <= base.index && conflict_term != base.term;
        let untried = agree < base.index && base.index < prev && base.index <= last_index;
        if untried && !other { base.next() } else { agree.next() }
    }

    /// A heartbeat came back: what was sent before it and has left no trace is sent again (hazard H40).
    pub(crate) fn heartbeat_reply(&mut self, at: usize, round: u64, needs_base: bool, last_index: LogIndex) {
        let (now, heartbeat_ns, patience_ns) = (self.now, self.config.heartbeat_ns, self.config.election_max_ns);
        let (first, last) = (self.log.first(), self.log.last());
        let Some(peer) = self.peers.get_mut(at) else { return };
        peer.needs_base = needs_base;
        let progress = &mut peer.progress;
        progress.reports(last_index, now);
        let held = last_index.min(last);
        match progress.mode {
            Mode::Probe { sent: Some(probe) } => {
                if round >= probe.round && now.since(probe.at) >= progress.patience_ns {
                    let doubled = progress.patience_ns.max(heartbeat_ns / 2).saturating_mul(2).min(patience_ns);
                    progress.probe_from(progress.next().min(held.next()));
                    progress.patience_ns = doubled;
                }
            }
            Mode::Probe { sent: None } if held.next() < progress.next() => progress.probe_from(held.next()),
            Mode::Probe { sent: None } => {}
            Mode::Replicate => {
                if let Some(next) = progress.lost_from(patience_ns, now) {
                    progress.probe_from(next);
                }
            }
            Mode::Behind { seen, since } => {
                let worth_a_try = last_index != seen || now.since(since) >= patience_ns;
                if worth_a_try && last_index.0.saturating_add(1) >= first.0 {
                    progress.probe_from(held.next());
                }
            }
        }
    }
}

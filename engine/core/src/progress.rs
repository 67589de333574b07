//! How far one follower is, as its leader knows: match and next index, what is in flight, whether it is probed.

use heapless::Deque;

use crate::limits::INFLIGHT_GROUPS;
use crate::{LogIndex, Time};

/// How entries are sent to a follower (the states of etcd's raft).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Where the logs agree is not known: one frame at a time.
    Probe {
        /// The frame in flight, if any.
        sent: Option<Probe>,
    },
    /// The logs agree up to `next - 1`: frames are sent ahead of their answers.
    Replicate,
    /// The follower needs what this log no longer holds. Nothing is sent until its log ends elsewhere than at `seen`,
    /// or a while has passed: what it answered may have been wrong.
    Behind {
        /// Its last index when that was found.
        seen: LogIndex,
        /// When that was found.
        since: Time,
    },
}

/// A frame sent as a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// A heartbeat of this round or later left after the frame.
    pub(crate) round: u64,
    /// When it was sent.
    pub(crate) at: Time,
}

/// A request to send that the node has not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sending {
    /// First index asked for.
    pub(crate) from: LogIndex,
    /// Last index allowed.
    pub(crate) upto: LogIndex,
    /// The commit index that goes along in the stamps.
    pub(crate) commit: LogIndex,
    /// `next` was moved meanwhile: the answer only ends the request.
    pub(crate) void: bool,
}

/// Frames handed to the transport together.
#[derive(Clone, Copy, Debug)]
struct Group {
    last: LogIndex,
    bytes: u64,
    frames: u32,
}

/// What was sent and is not acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inflight {
    groups: Deque<Group, INFLIGHT_GROUPS>,
    bytes: u64,
    frames: u32,
}

impl Inflight {
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The newest index in flight.
    fn last(&self) -> Option<LogIndex> {
        self.groups.back().map(|group| group.last)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    fn clear(&mut self) {
        *self = Inflight::default();
    }

    fn push(&mut self, last: LogIndex, bytes: u64, frames: u32) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.frames = self.frames.saturating_add(frames);
        let Err(group) = self.groups.push_back(Group { last, bytes, frames }) else { return };
        // At the bound the newest group grows: coarser release, same sums.
        if let Some(newest) = self.groups.back_mut() {
            newest.last = group.last;
            newest.bytes = newest.bytes.saturating_add(group.bytes);
            newest.frames = newest.frames.saturating_add(group.frames);
        }
    }

    fn release(&mut self, matched: LogIndex) {
        while let Some(group) = self.groups.pop_front_if(|group| group.last <= matched) {
            self.bytes = self.bytes.saturating_sub(group.bytes);
            self.frames = self.frames.saturating_sub(group.frames);
        }
    }
}

/// One follower's progress. Invariant: `matched < next`.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    matched: LogIndex,
    next: LogIndex,
    pub(crate) mode: Mode,
    pub(crate) inflight: Inflight,
    pub(crate) sending: Option<Sending>,
    /// Highest index that the follower is known to hold, durable or not, equal to ours.
    holds: LogIndex,
    /// Last index of the follower's log, by its newest report.
    pub(crate) reported_last: LogIndex,
    /// When anything last moved: beyond a timeout with frames in flight, they are taken for lost.
    pub(crate) moved: Time,
    /// When its acknowledged position last rose, or the first frame of a window was sent.
    pub(crate) advanced: Time,
    /// How long a probe waits before it is repeated: doubles, so that a slow link is not filled with copies.
    pub(crate) patience_ns: u64,
    /// The highest round that it has echoed in this term and session.
    pub(crate) echoed: u64,
    /// The follower was told this commit index.
    pub(crate) told_commit: LogIndex,
    /// The node was told that this follower is behind the log, in this session.
    pub(crate) behind_told: bool,
}

impl Progress {
    /// A follower of whom nothing is known, to be probed from `next` on.
    pub(crate) fn new(next: LogIndex, now: Time) -> Progress {
        Progress {
            matched: LogIndex(0),
            next: next.max(LogIndex(1)),
            mode: Mode::Probe { sent: None },
            inflight: Inflight::default(),
            sending: None,
            holds: LogIndex(0),
            reported_last: LogIndex(0),
            moved: now,
            advanced: now,
            patience_ns: 0,
            echoed: 0,
            told_commit: LogIndex(0),
            behind_told: false,
        }
    }

    /// Begins anew in the same session. A request to the node that is not answered yet stays one: there is at most
    /// one at a time.
    pub(crate) fn restart(&mut self, next: LogIndex, now: Time) {
        let sending = self.sending.map(|sending| Sending { void: true, ..sending });
        *self = Progress::new(next, now);
        self.sending = sending;
    }

    /// Highest index known durable there and equal to ours.
    pub(crate) fn matched(&self) -> LogIndex {
        self.matched
    }

    /// Next index to send.
    pub(crate) fn next(&self) -> LogIndex {
        self.next
    }

    fn check(&self) {
        assert!(self.matched < self.next, "matched {} must be below next {}", self.matched, self.next);
    }

    /// Goes (back) to probing, from `next` on; never below what is matched.
    pub(crate) fn probe_from(&mut self, next: LogIndex) {
        self.next = next.max(self.matched.next());
        self.mode = Mode::Probe { sent: None };
        self.inflight.clear();
        self.patience_ns = 0;
        if let Some(sending) = &mut self.sending {
            sending.void = true;
        }
        self.check();
    }

    /// The logs agree up to `next - 1`: sends ahead from `next` on, or from behind the probe that is in flight.
    fn replicate_from(&mut self, next: LogIndex) {
        let next = self.inflight.last().map_or(next, |last| next.max(last.next()));
        if let Some(sending) = &mut self.sending {
            // What is being sent begins elsewhere: it is sent, but not counted.
            sending.void |= sending.from != next;
        }
        self.next = next;
        self.mode = Mode::Replicate;
        self.check();
    }

    /// The follower is durable and equal up to `matched`. Returns whether that is news.
    pub(crate) fn accepted(&mut self, matched: LogIndex, now: Time) -> bool {
        let news = matched > self.matched;
        if news {
            self.matched = matched;
            self.moved = now;
            self.advanced = now;
            self.inflight.release(matched);
        }
        self.holds = self.holds.max(matched);
        match self.mode {
            Mode::Replicate if self.next <= matched => self.replicate_from(matched.next()),
            Mode::Replicate => {}
            Mode::Probe { .. } | Mode::Behind { .. } if matched.next() >= self.next => self.replicate_from(matched.next()),
            Mode::Probe { .. } | Mode::Behind { .. } => {}
        }
        self.next = self.next.max(self.matched.next());
        self.check();
        news
    }

    /// The follower holds everything up to `index`, equal to ours, in memory.
    pub(crate) fn received(&mut self, index: LogIndex, now: Time) {
        self.holds = self.holds.max(index);
        self.moved = now;
        if matches!(self.mode, Mode::Probe { .. }) && index >= self.next {
            self.replicate_from(index.next());
        }
    }

    /// The follower's log ends at `last`.
    pub(crate) fn reports(&mut self, last: LogIndex, now: Time) {
        if last > self.reported_last {
            self.moved = now;
        }
        self.reported_last = last;
    }

    /// Replicating: where to go back to, if what is in flight left no trace for `patience_ns`: to what is not known to
    /// be held there; or, if all is held but the follower no longer says that it awaits its disk, to what is not
    /// acknowledged.
    pub(crate) fn lost_from(&self, patience_ns: u64, now: Time) -> Option<LogIndex> {
        let next = if self.holds.next() < self.next { self.holds.next() } else { self.matched.next() };
        let silent = self.inflight.is_empty() || now.since(self.moved) >= patience_ns;
        (next < self.next && silent).then_some(next)
    }

    /// The node handed frames up to `to` to the transport. `round` is the next heartbeat's.
    pub(crate) fn sent(&mut self, to: LogIndex, bytes: u64, frames: u32, round: u64, now: Time) {
        let Some(sending) = self.sending.take() else { return };
        if to < sending.from {
            return;
        }
        assert!(to <= sending.upto, "the node sent past what was asked");
        self.told_commit = self.told_commit.max(sending.commit);
        if sending.void {
            return;
        }
        if self.inflight.is_empty() {
            self.moved = now;
            self.advanced = now;
        }
        match &mut self.mode {
            Mode::Probe { sent } => *sent = Some(Probe { round, at: now }),
            Mode::Replicate => self.next = self.next.max(to.next()),
            Mode::Behind { .. } => return,
        }
        self.inflight.push(to, bytes, frames);
        self.check();
    }

    /// The log no longer holds what this follower needs.
    pub(crate) fn behind(&mut self, now: Time) {
        self.sending = None;
        self.inflight.clear();
        self.mode = Mode::Behind { seen: self.reported_last, since: now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(0);

    fn ask(progress: &mut Progress, upto: u64) {
        progress.sending = Some(Sending { from: progress.next(), upto: LogIndex(upto), commit: LogIndex(0), void: false });
    }

    #[test]
    fn the_window_is_released_by_acknowledgements_alone() {
        let mut progress = Progress::new(LogIndex(1), NOW);
        assert!(!progress.accepted(LogIndex(0), NOW));
        assert_eq!(progress.mode, Mode::Replicate, "an empty log matches an empty log");
        for k in 1..=INFLIGHT_GROUPS as u64 + 5 {
            ask(&mut progress, k);
            progress.sent(LogIndex(k), 100, 1, 1, NOW);
        }
        let sent = INFLIGHT_GROUPS as u64 + 5;
        assert_eq!((progress.inflight.bytes(), progress.inflight.frames()), (sent * 100, sent as u32));
        progress.received(LogIndex(sent), NOW);
        assert_eq!(progress.inflight.bytes(), sent * 100);
        assert!(progress.accepted(LogIndex(3), NOW));
        assert_eq!(progress.inflight.bytes(), (sent - 3) * 100);
        assert!(!progress.accepted(LogIndex(2), NOW), "an older answer is no news");
        assert_eq!(progress.matched(), LogIndex(3));
        assert!(progress.accepted(LogIndex(sent), NOW));
        assert!(progress.inflight.is_empty() && progress.inflight.bytes() == 0);
    }

    #[test]
    fn an_answer_to_a_void_request_counts_nothing() {
        let mut progress = Progress::new(LogIndex(5), NOW);
        progress.accepted(LogIndex(4), NOW);
        ask(&mut progress, 9);
        progress.probe_from(LogIndex(2));
        progress.sent(LogIndex(9), 10, 1, 1, NOW);
        assert_eq!((progress.next(), progress.inflight.bytes()), (LogIndex(5), 0), "never below matched + 1");
        assert!(progress.sending.is_none());
    }

    /// Replicating from 5 on, with a frame of entries 5 to 9 in flight.
    fn replicating() -> Progress {
        let mut progress = Progress::new(LogIndex(5), NOW);
        progress.accepted(LogIndex(4), NOW);
        ask(&mut progress, 9);
        progress.sent(LogIndex(9), 10, 1, 1, NOW);
        assert_eq!((progress.mode, progress.next()), (Mode::Replicate, LogIndex(10)));
        progress
    }

    /// An answer to an earlier frame ends a probe only where it says that the logs agree up to the probe.
    #[test]
    fn a_probe_ends_with_an_answer_to_it() {
        for received in [false, true] {
            let answer = |progress: &mut Progress, index| match received {
                true => progress.received(LogIndex(index), NOW),
                false => assert!(progress.accepted(LogIndex(index), NOW)),
            };
            let mut progress = Progress::new(LogIndex(10), NOW);
            ask(&mut progress, 12);
            progress.sent(LogIndex(12), 10, 1, 1, NOW);
            answer(&mut progress, 4);
            assert!(matches!(progress.mode, Mode::Probe { .. }) && progress.next() == LogIndex(10));
            answer(&mut progress, 10);
            assert_eq!((progress.mode, progress.next()), (Mode::Replicate, LogIndex(13)), "the probe itself is not sent again");
        }
    }

    /// A request that begins where replicating goes on counts; any other is sent and not counted.
    #[test]
    fn requests_under_way_when_replicating_begins() {
        for (matched, next, bytes) in [(4, 10, 10), (6, 7, 0)] {
            let mut progress = Progress::new(LogIndex(5), NOW);
            ask(&mut progress, 9);
            progress.accepted(LogIndex(matched), NOW);
            assert_eq!(progress.mode, Mode::Replicate);
            progress.sent(LogIndex(9), 10, 1, 1, NOW);
            assert_eq!((progress.next().0, progress.inflight.bytes()), (next, bytes), "matched {matched}");
        }
        // A void one stays void, wherever replicating goes on.
        let mut progress = Progress::new(LogIndex(5), NOW);
        ask(&mut progress, 9);
        progress.probe_from(LogIndex(5));
        progress.accepted(LogIndex(4), NOW);
        progress.sent(LogIndex(9), 10, 1, 1, NOW);
        assert_eq!((progress.next().0, progress.inflight.bytes()), (5, 0));
        // Nor does one of an earlier term count.
        let mut progress = Progress::new(LogIndex(5), NOW);
        ask(&mut progress, 9);
        progress.restart(LogIndex(5), NOW);
        progress.sent(LogIndex(9), 10, 1, 1, NOW);
        assert_eq!((progress.mode, progress.inflight.bytes()), (Mode::Probe { sent: None }, 0));
        // Acknowledged past what is being sent.
        let mut progress = replicating();
        ask(&mut progress, 12);
        progress.accepted(LogIndex(11), NOW);
        progress.sent(LogIndex(12), 10, 1, 1, NOW);
        assert_eq!((progress.next().0, progress.inflight.bytes()), (12, 0));
    }

    #[test]
    fn what_is_lost_is_what_left_no_trace() {
        let later = Time(100);
        for (holds, lost) in [(4, 5), (6, 7), (8, 9), (9, 5)] {
            let mut progress = replicating();
            progress.received(LogIndex(holds), NOW);
            assert_eq!(progress.lost_from(101, later), None, "patience");
            assert_eq!(progress.lost_from(100, later), Some(LogIndex(lost)), "it holds {holds}");
        }
        let mut progress = replicating();
        progress.accepted(LogIndex(9), NOW);
        assert_eq!(progress.lost_from(100, later), None, "nothing is missing");
    }

    #[test]
    fn a_longer_log_is_a_sign_of_life() {
        let mut progress = replicating();
        progress.reports(LogIndex(6), Time(50));
        assert_eq!(progress.lost_from(100, Time(149)), None);
        progress.reports(LogIndex(6), Time(60));
        progress.reports(LogIndex(5), Time(70));
        assert_eq!(progress.lost_from(100, Time(150)), Some(LogIndex(5)));
        progress.behind(Time(80));
        assert_eq!(progress.mode, Mode::Behind { seen: LogIndex(5), since: Time(80) });
    }
}

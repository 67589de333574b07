//! How slow this node's own disk is, and how long elections wait on that account.
//!
//! Others are silent in an election while their disks make term and vote durable: a candidate before it asks, a voter
//! before it answers. Each of the two saves its hard state, in two copies one after the other. Timeouts shorter than
//! that condemn every candidate before its votes can have come. So they stretch with what this node's own flushes take,
//! up to a limit; where flushes are quick they are as configured.
//!
//! A leader's heartbeats wait for no disk, and how quick the others' disks are need not be known: a vote that comes
//! late still counts (`election.rs`), and nobody grants a pre-vote while its own vote is on its way to the disk.

use crate::config::Config;
use crate::raft::{Raft, Role};
use crate::{Effects, Time, WriteId};

/// Flushes between an election's begin and its end: those of the candidate's hard state, then those of a voter's.
const FLUSHES_OF_AN_ELECTION: u64 = 4;

/// Flushes of one hard state: each copy is durable before the other is begun.
const FLUSHES_OF_A_SAVE: u64 = 2;

/// What a single measure of a log write weighs: one of so many.
const SMOOTHING: u64 = 8;

/// What was measured, and the timeouts that follow from it. Nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// What a flush takes, smoothed.
    flush_ns: u64,
    /// When the last log write, the last hard state became durable: what was asked for before began no earlier.
    logged_at: Time,
    saved_at: Time,
    election_min_ns: u64,
    election_max_ns: u64,
}

impl Pace {
    pub(crate) fn new(config: &Config) -> Pace {
        Pace {
            flush_ns: 0,
            logged_at: Time(0),
            saved_at: Time(0),
            election_min_ns: config.election_min_ns,
            election_max_ns: config.election_max_ns,
        }
    }

    /// A hard state that was asked for at `since` is durable. Its measure counts whole where it is longer: the election
    /// that it is part of waits for as much from others.
    fn saved(&mut self, since: Time, now: Time, config: &Config) {
        let flush_ns = now.since(since.max(self.saved_at)) / FLUSHES_OF_A_SAVE;
        self.saved_at = now;
        if flush_ns > self.flush_ns {
            self.set(flush_ns, config);
        } else {
            self.smooth(flush_ns, config);
        }
    }

    /// Log writes, the oldest of them asked for at `since`, are durable. One that takes long once in a while says
    /// little about elections.
    fn logged(&mut self, since: Time, now: Time, config: &Config) {
        let begun = since.max(self.logged_at);
        let together = core::mem::replace(&mut self.logged_at, now) == now;
        // Several may have gone in one write.
        if !together {
            self.smooth(now.since(begun), config);
        }
    }

    fn smooth(&mut self, flush_ns: u64, config: &Config) {
        self.set(self.flush_ns - self.flush_ns / SMOOTHING + flush_ns / SMOOTHING, config);
    }

    fn set(&mut self, flush_ns: u64, config: &Config) {
        let Config { election_min_ns: min, election_max_ns: max, election_limit_ns: limit, heartbeat_ns, .. } = *config;
        // Beyond the limit more makes no difference, but would take longer to forget: a process that was stopped for an hour in
        // the middle of a write.
        self.flush_ns = flush_ns.min(limit);
        // A heartbeat interval stands for the round trip.
        let needed = flush_ns.saturating_mul(FLUSHES_OF_AN_ELECTION).saturating_add(heartbeat_ns);
        (self.election_min_ns, self.election_max_ns) = (min, max);
        if needed > min {
            // Both by the same factor: what keeps two candidates apart has to grow too.
            self.election_max_ns = scaled(needed, max, min).min(limit);
            self.election_min_ns = scaled(self.election_max_ns, min, max);
        }
    }
}

/// `value * by / of`.
fn scaled(value: u64, by: u64, of: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(by) / u128::from(of.max(1))).unwrap_or(u64::MAX)
}

impl Raft {
    /// Shortest and longest election timeout in effect, in nanoseconds: as configured, unless this node's flushes are
    /// too slow for that. Then they are as much longer as an election needs, up to [`Config::election_limit_ns`].
    pub fn election_timeouts_ns(&self) -> (u64, u64) {
        (self.pace.election_min_ns, self.pace.election_max_ns)
    }

    /// What a flush takes here, smoothed, in nanoseconds; zero before the first.
    pub fn flush_ns(&self) -> u64 {
        self.pace.flush_ns
    }

    /// Whether elections wait longer than configured.
    pub fn is_disk_slow(&self) -> bool {
        self.pace.election_min_ns > self.config.election_min_ns
    }

    pub(crate) fn election_max_ns(&self) -> u64 {
        self.pace.election_max_ns
    }

    /// Log writes up to and with `write` are durable.
    pub(crate) fn log_durable(&mut self, write: WriteId) {
        let (since, before) = (self.log.writing_since(), self.log.writes());
        if self.log.written(write) {
            self.following.acknowledge();
            self.leading.durable_news = true;
        }
        if let Some(since) = since.filter(|_| self.log.writes() < before) {
            self.pace.logged(since, self.now, &self.config);
        }
    }

    /// A hard-state write is durable.
    pub(crate) fn hard_state_durable(&mut self, write: WriteId, fx: &mut Effects) {
        let Some(since) = self.hard.written(write) else { return };
        self.pace.saved(since, self.now, &self.config);
        if !self.hard.is_saving() {
            self.resume_waiting(since);
            self.self_vote_durable(fx);
        }
    }

    /// Term and vote are durable, after a write that began at `since`. What the disk took is not the others' silence:
    /// the wait for them goes on where it stood, or begins anew where elections take long.
    fn resume_waiting(&mut self, since: Time) {
        if self.role == Role::Leader {
            return;
        }
        if self.is_disk_slow() {
            self.wait_for_election();
        } else {
            self.election_at = self.election_at.plus_ns(self.now.since(since.max(self.waits_since)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    const MS: u64 = 1_000_000;

    fn config() -> Config {
        Config {
            id: NodeId(1),
            voters: alloc::vec![NodeId(1), NodeId(2), NodeId(3)],
            learners: alloc::vec![],
            election_min_ns: 150 * MS,
            election_max_ns: 300 * MS,
            election_limit_ns: 10_000 * MS,
            heartbeat_ns: 40 * MS,
            news_ns: 0,
            window_bytes: 1,
            window_frames: 1,
            seed: 0,
        }
    }

    fn timeouts(pace: &Pace) -> (u64, u64) {
        (pace.election_min_ns / MS, pace.election_max_ns / MS)
    }

    #[test]
    fn timeouts_follow_the_flushes_up_to_the_limit() {
        // What a save takes in ms, and the timeouts.
        for (save, expected) in [
            (0, (150, 300)),
            (54, (150, 300)),
            (60, (160, 320)),
            (800, (1_640, 3_280)),
            (2_400, (4_840, 9_680)),
            (2_600, (5_000, 10_000)),
            (u64::MAX / MS, (5_000, 10_000)),
        ] {
            let (config, mut pace) = (config(), Pace::new(&config()));
            pace.saved(Time(0), Time(save * MS), &config);
            assert_eq!(timeouts(&pace), expected, "a save of {save} ms");
        }
    }

    #[test]
    fn one_long_write_is_forgotten_and_many_are_not() {
        let (config, mut pace, mut now) = (config(), Pace::new(&config()), Time(0));
        let mut write = |pace: &mut Pace, ms: u64| {
            let begun = now;
            now = now.plus_ns(ms * MS);
            pace.logged(begun, now, &config);
        };
        write(&mut pace, 3_000);
        assert_eq!(timeouts(&pace), (1_540, 3_080));
        (0..40).for_each(|_| write(&mut pace, 2));
        assert_eq!(timeouts(&pace), (150, 300));
        (0..40).for_each(|_| write(&mut pace, 400));
        assert!(timeouts(&pace).0 > 1_600, "{pace:?}");
        // However long it was: a process that was stopped meanwhile, a clock that jumped.
        write(&mut pace, 3_600_000);
        assert_eq!(timeouts(&pace), (5_000, 10_000));
        (0..60).for_each(|_| write(&mut pace, 2));
        assert_eq!(timeouts(&pace), (150, 300));
    }

    /// Writes that waited for others took no longer than from one end to the next; several in one took as long as one.
    #[test]
    fn waiting_in_line_is_not_flushing() {
        let (config, mut pace) = (config(), Pace::new(&config()));
        for k in 1..=100 {
            pace.logged(Time(0), Time(k * 10 * MS), &config);
            pace.logged(Time(0), Time(k * 10 * MS), &config);
        }
        assert!((9 * MS..=10 * MS).contains(&pace.flush_ns), "{pace:?}");
    }
}

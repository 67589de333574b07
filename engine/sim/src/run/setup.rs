//! What a seed draws before anything happens: the cluster, how much it writes, and whose disks are bad.

use kontiki::{Config, Medium};

use crate::cluster::Setup;
use crate::conditions::{Conditions, Delay, DiskConditions, MILLISECOND};
use crate::faults::{Fault, Faults};
use crate::random::{Odds, Random};

/// How much log a run makes, one of these, in bytes, and how much of it is kept where the state machines are durable: half, so that segments
/// are recycled, and a node that was away finds what it missed. Every boot reads it back, which is most of the work of a long run.
const LOG_BYTES: [u64; 4] = [1 << 20, 2 << 20, 4 << 20, 16 << 20];
/// Segments that the log has at least, and at most: it may have 512, and a recovery that drops something opens one.
const LOG_SEGMENTS: std::ops::RangeInclusive<u64> = 10..=200;

/// Which disks are bad. Mostly so few that every entry that was acknowledged, by a majority, has a good one: then nothing may be lost, and
/// everything must heal. In one of four such seeds more of them, up to all: then a node may stop for good, and the cluster with it; see
/// [`Cluster::objections`] for what is demanded nevertheless.
pub(super) fn bad_disks(seed: u64, members: usize, always: bool) -> Vec<bool> {
    let mut random = Random::stream(seed, 12);
    let (kind, most) = (random.below(if always { 4 } else { 12 }), members / 2);
    let count = match kind {
        0 => random.between(most as u64 + 1, members as u64),
        1..4 => random.between(most.min(1) as u64, most as u64),
        _ => 0,
    };
    let mut bad: Vec<bool> = (0..members as u64).map(|n| n < count).collect();
    random.shuffle(&mut bad);
    bad
}

/// What kind of a world a seed is, apart from what strikes it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    /// Flushes are slow, on all disks.
    pub(super) slow: bool,
    /// The nodes have limits and times of their own.
    pub(super) own_limits: bool,
    /// A node may have others at its next start.
    pub(super) new_limits: bool,
    /// This node is away most of the time.
    pub(super) away: Option<usize>,
    /// Much is written and little of it kept: who was away is behind the log, and needs a snapshot.
    pub(super) forgetful: bool,
}

/// Segments that a forgetful log runs through, at least: some of them while whoever is away is.
const FORGETFUL_SEGMENTS: u64 = 60;

/// Flushes of a slow world, at most, and what a stall takes then, in milliseconds.
const SLOW_FLUSH_MS: std::ops::RangeInclusive<u64> = 50..=400;
const SLOW_STALL_MS: u64 = 3_000;
/// One of so many flushes is a stall: so that each run of a world that stalls meets some.
const SLOW_STALLS: std::ops::RangeInclusive<u64> = 30..=200;

/// The longest frame that a node may have set, in bytes.
const MOST_FRAME_BYTES: usize = 64 << 10;

impl Kind {
    pub(super) fn drawn(seed: u64, members: usize, faults: Faults) -> Kind {
        let mut random = Random::stream(seed, 13);
        let mut one_in = |n: u64| random.below(n) == 0;
        // A sole voter is judged by what slow disks do to it, above all.
        let slow = one_in(if members == 1 { 2 } else { 4 });
        let (own_limits, new_limits, away) = (one_in(4), one_in(5), one_in(5));
        let who = random.below(members as u64) as usize;
        let forgetful = random.coin();
        let away = away || forgetful;
        Kind {
            forgetful,
            slow: slow && faults.has(Fault::SlowFlush),
            own_limits: own_limits && faults.has(Fault::OwnLimits),
            new_limits: new_limits && faults.has(Fault::NewLimits),
            away: (away && members > 2 && faults.has(Fault::Away)).then_some(who),
        }
    }

    /// Makes the disks as slow as they are in this world, and leaves the timeouts as they are by default.
    pub(super) fn slow_down(&self, seed: u64, disk: &mut DiskConditions, config: &mut Config) {
        if !self.slow {
            return;
        }
        let mut random = Random::stream(seed, 14);
        let most_ms = random.between(*SLOW_FLUSH_MS.start(), *SLOW_FLUSH_MS.end());
        let least_ms = random.between(most_ms / 4, most_ms);
        disk.flush = Delay::between(least_ms * MILLISECOND, most_ms * MILLISECOND);
        if random.coin() {
            let stalls = random.between(*SLOW_STALLS.start(), *SLOW_STALLS.end()) as u32;
            disk.flush = disk.flush.with_tail(Odds::one_in(stalls), SLOW_STALL_MS * MILLISECOND);
        }
        let Config { election_min_ms, election_max_ms, heartbeat_ms, .. } = Config::default();
        (config.election_min_ms, config.election_max_ms, config.heartbeat_ms) = (election_min_ms, election_max_ms, heartbeat_ms);
    }

    /// Where nodes have limits of their own, clients write what fills frames, and segments have room for the largest.
    pub(super) fn make_room(&self, seed: u64, config: &mut Config, log_bytes: &mut u64) {
        if self.own_limits || self.new_limits {
            let mut random = Random::stream(seed, 16);
            config.max_frame_bytes = MOST_FRAME_BYTES;
            config.ring_bytes = 16 * MOST_FRAME_BYTES;
            config.window_bytes = config.window_bytes.max(MOST_FRAME_BYTES as u64);
            config.max_entry_bytes = 1 << random.between(13, 15);
            config.segment_bytes = config.segment_bytes.max(4096 + 4 * MOST_FRAME_BYTES as u64);
            *log_bytes = (*log_bytes).clamp(LOG_SEGMENTS.start() * config.segment_bytes, LOG_SEGMENTS.end() * config.segment_bytes);
            config.retention_bytes = *log_bytes / 2;
            *config = draw_snapshots(seed, config.clone());
        }
    }

    /// In a forgetful world segments are small and many, snapshots as frequent, and nothing is retained behind them.
    pub(super) fn forget(&self, seed: u64, config: &mut Config, log_bytes: &mut u64) {
        if !self.forgetful {
            return;
        }
        let mut random = Random::stream(seed, 18);
        config.segment_bytes = 4096 + 4 * config.max_frame_bytes as u64;
        let least = FORGETFUL_SEGMENTS * config.segment_bytes;
        *log_bytes = (*log_bytes).clamp(least, LOG_SEGMENTS.end() * config.segment_bytes);
        config.retention_bytes = random.below(2) * random.below(3) * config.segment_bytes;
        config.snapshot_log_bytes = random.between(1, 6) * config.segment_bytes / 2;
    }

    /// The limits and times of one node from its `start`th start on, in place of those of the whole cluster.
    pub(super) fn config_of(&self, seed: u64, base: &Config, n: usize, start: u64) -> Option<Config> {
        let changes = self.new_limits && start > 0;
        if !(self.own_limits && start == 0 || changes) {
            return None;
        }
        let mut random = Random::stream(seed, (1 << 34) + ((n as u64) << 24) + start);
        if changes && random.below(3) > 0 {
            return None;
        }
        let max_frame_bytes = MOST_FRAME_BYTES >> random.below(3);
        let mut config = Config {
            max_frame_bytes,
            max_entry_bytes: (1 << random.between(12, 15)).min(base.max_entry_bytes).min(max_frame_bytes / 2),
            max_in_flight: 1 << random.between(4, 9),
            ring_bytes: (16 * max_frame_bytes).next_power_of_two() << random.below(2),
            window_bytes: max_frame_bytes as u64 * random.between(1, 16),
            window_frames: random.between(1, 64) as u32,
            hold_back_ms: random.pick(&[0, 20, 100]).copied().unwrap_or(0),
            writes_in_flight: random.between(1, 4) as usize,
            reply_bytes: random.between(8, 64) as usize,
            ..base.clone()
        };
        if !self.slow {
            config.election_min_ms = random.between(100, 400);
            config.election_max_ms = config.election_min_ms + random.between(50, 400);
            config.heartbeat_ms = config.election_min_ms / random.between(3, 6);
        }
        Some(config)
    }
}

/// Takes kinds of faults out that the conditions hold; what was drawn for the others stays.
pub(super) fn leave_out(conditions: &mut Conditions, faults: Faults) {
    if !faults.has(Fault::Reset) {
        conditions.network.reset = Odds::NEVER;
    }
    if !faults.has(Fault::Flip) {
        conditions.network.flip = Odds::NEVER;
    }
    if !faults.has(Fault::Stall) {
        for delay in [&mut conditions.disk.transfer, &mut conditions.network.latency, &mut conditions.processor.turn] {
            *delay = Delay { tail: Odds::NEVER, ..*delay };
        }
    }
}

/// A cluster, and the bytes of log that its run is to make.
pub(super) fn draw_setup(seed: u64, random: &mut Random) -> (Setup, u64) {
    let members = random.pick(&[1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7]).copied().unwrap_or(3);
    let max_frame_bytes = 16 << 10 << random.below(3);
    let election_min_ms = random.between(100, 400);
    let segment_bytes = 4096 + max_frame_bytes as u64 * random.between(4, 16);
    let log_bytes = random.pick(&LOG_BYTES).map_or(0, |&bytes| bytes);
    let log_bytes = log_bytes.clamp(LOG_SEGMENTS.start() * segment_bytes, LOG_SEGMENTS.end() * segment_bytes);
    let config = Config {
        cluster: u128::from(seed) << 1 | 1,
        election_min_ms,
        election_max_ms: election_min_ms + random.between(50, 400),
        heartbeat_ms: election_min_ms / random.between(3, 6),
        max_entry_bytes: 1 << random.between(4, 13),
        max_frame_bytes,
        max_in_flight: 256,
        ring_bytes: (16 * max_frame_bytes).next_power_of_two(),
        window_bytes: max_frame_bytes as u64 * random.between(1, 16),
        window_frames: random.between(1, 64) as u32,
        hold_back_ms: random.pick(&[0, 20, 100]).copied().unwrap_or(0),
        segment_bytes,
        retention_bytes: log_bytes / 2,
        writes_in_flight: random.between(1, 4) as usize,
        medium: if random.coin() { Medium::Safe } else { Medium::Lossy },
        seed: seed | 1 << 63,
        ..Config::default()
    };
    (Setup { members, config: draw_snapshots(seed, config), durable_state: random.coin() }, log_bytes)
}

/// How often machines in memory make snapshots: mostly behind a few segments, so that there are many; and how fast. And how much
/// of the log is retained behind them: often next to nothing, so that one that was away needs a snapshot.
pub(super) fn draw_snapshots(seed: u64, config: Config) -> Config {
    let mut random = Random::stream(seed, 17);
    let often = random.below(4) > 0;
    let segments = random.between(1, 6);
    let slow = random.below(8) == 0;
    let little = random.below(4) > 0;
    Config {
        retention_bytes: if little { random.below(4) * config.segment_bytes } else { config.retention_bytes },
        snapshot_log_bytes: if often { segments * config.segment_bytes } else { 0 },
        snapshot_bytes_per_s: if slow { random.between(64 << 10, 4 << 20).max(kontiki::limits::MIN_SNAPSHOT_BYTES_PER_S) } else { 0 },
        ..config
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kontiki::Member;

    use super::*;

    #[test]
    fn every_kind_of_a_world_is_drawn_and_every_configuration_is_one() {
        let (mut slow, mut own, mut new, mut away, mut forgetful) = (0, 0, 0, 0, 0);
        let mut frames = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut random = Random::stream(seed, 10);
            let (mut setup, mut log_bytes) = draw_setup(seed, &mut random);
            let kind = Kind::drawn(seed, setup.members, Faults::ALL);
            kind.make_room(seed, &mut setup.config, &mut log_bytes);
            kind.forget(seed, &mut setup.config, &mut log_bytes);
            kind.slow_down(seed, &mut Conditions::calm().disk, &mut setup.config);
            slow += u32::from(kind.slow);
            own += u32::from(kind.own_limits);
            new += u32::from(kind.new_limits);
            away += u32::from(kind.away.is_some());
            forgetful += u32::from(kind.forgetful);
            assert!((10..=200).contains(&(log_bytes / setup.config.segment_bytes)), "seed {seed}: {log_bytes} bytes of log");
            assert!(kind.away.is_none_or(|n| n < setup.members));
            for start in 0..6 {
                let Some(config) = kind.config_of(seed, &setup.config, 0, start) else { continue };
                let members = vec![Member::new(1, "10.0.0.1:7000".parse().unwrap())];
                let config = Config { id: 1, members, dir: "/kontiki".into(), ..config };
                frames.insert(config.max_frame_bytes);
                assert_eq!(config.check(), Ok(()), "seed {seed}, start {start}");
            }
        }
        let counts = [slow, own, new, away, forgetful];
        assert!(counts.iter().all(|&n| (15..150).contains(&n)), "slow, own limits, new limits, away, forgetful: {counts:?}");
        assert_eq!(frames.len(), 3);
    }
}

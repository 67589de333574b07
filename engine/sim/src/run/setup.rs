//! What a seed draws before anything happens: the cluster, how much it writes, and whose disks are bad.

use kontiki::{Config, Medium};

use crate::cluster::Setup;
use crate::conditions::{Conditions, Delay};
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
    let members = random.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7]).copied().unwrap_or(3);
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
    (Setup { members, config, durable_state: random.coin() }, log_bytes)
}

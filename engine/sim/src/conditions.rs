//! What the world is like: how long things take and what goes wrong, and how often.

use crate::limits;
use crate::random::{Odds, Random};

/// One microsecond, in nanoseconds.
pub const MICROSECOND: u64 = 1_000;
/// One millisecond, in nanoseconds.
pub const MILLISECOND: u64 = 1_000_000;
/// One second, in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// How long something takes: evenly between two bounds, but now and then far longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// At least this, in nanoseconds.
    pub min_ns: u64,
    /// Usually at most this, in nanoseconds.
    pub max_ns: u64,
    /// How often it takes longer than `max_ns`.
    pub tail: Odds,
    /// Then at most this, in nanoseconds.
    pub tail_max_ns: u64,
}

impl Delay {
    /// Between two bounds, never longer.
    pub const fn between(min_ns: u64, max_ns: u64) -> Delay {
        Delay { min_ns, max_ns, tail: Odds::NEVER, tail_max_ns: max_ns }
    }

    /// The same, with a tail.
    pub const fn with_tail(self, tail: Odds, tail_max_ns: u64) -> Delay {
        Delay { tail, tail_max_ns, ..self }
    }

    /// One delay, in nanoseconds.
    pub fn draw(&self, random: &mut Random) -> u64 {
        if random.happens(self.tail) { random.between(self.max_ns, self.tail_max_ns) } else { random.between(self.min_ns, self.max_ns) }
    }
}

/// One host's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConditions {
    /// A read or a write, apart from moving the bytes; its tail is the stall of a flash card.
    pub transfer: Delay,
    /// A flush, and what a durable write takes on top.
    pub flush: Delay,
    /// Opening, renaming, listing and the like.
    pub metadata: Delay,
    /// Bytes moved per second.
    pub bytes_per_s: u64,
    /// What files may take up in all, in bytes; more gives `Full`.
    pub capacity_bytes: u64,
    /// A read fails with `Device`.
    pub read_error: Odds,
    /// A write fails with `Device`; any of its sectors may have been written.
    pub write_error: Odds,
    /// A flush of a file or directory fails with `Device`; what it should have flushed may be lost, and a second flush does not bring it back.
    pub flush_error: Odds,
    /// A flush or a durable write says that it is done, and has flushed nothing: a drive that no engine can survive, for tests of
    /// the judge.
    pub lie: Odds,
    /// A bit of what is read has rotted, for good. This and the next two happen only where they leave evidence, see `decay.rs`.
    pub rot: Odds,
    /// A durable write of frames turns out to have gone astray: something else is overwritten, and its own place holds what it held before.
    pub astray: Odds,
    /// A read returns what one of its blocks held before it was written last.
    pub stale: Odds,
    /// A power cut also garbles what stands before a write in flight, back to a multiple of this many bytes; zero: it never does.
    pub erase_group_bytes: u64,
    /// Its files are mixed up now and then while no process runs.
    pub tampered: bool,
    /// What may become of the snapshots on it: bits rot at the odds of `rot`, and files are gone where it is `tampered`.
    pub snapshots: Harm,
}

/// What may be struck of the snapshots on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    None,
    /// Whatever leaves one from which the log goes on.
    Sparing,
    /// Anything.
    Any,
}

impl DiskConditions {
    /// Whether it forgets or mixes up what it was given.
    pub(crate) fn decays(&self) -> bool {
        self.tampered || [self.rot, self.astray, self.stale].iter().any(|&odds| odds != Odds::NEVER)
    }
}

/// The network between the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConditions {
    /// One way, one packet; its tail stands for loss and retransmission.
    pub latency: Delay,
    /// Bytes per second of one connection.
    pub bytes_per_s: u64,
    /// Bytes that a connection holds, per direction, between the sender's call and the receiver's.
    pub buffer_bytes: u64,
    /// Largest chunk in which bytes arrive.
    pub chunk_bytes: u64,
    /// A chunk is much smaller than it need be.
    pub small_chunk: Odds,
    /// A receive returns less than is there.
    pub short_receive: Odds,
    /// A connection breaks as a chunk arrives.
    pub reset: Odds,
    /// One bit of a chunk flips unnoticed by TCP.
    pub flip: Odds,
    /// How long a sender retries in vain before its connection breaks.
    pub give_up: Delay,
    /// How long after a link heals its connections move again (retransmission backs off).
    pub recover: Delay,
    /// Looking up a host's name.
    pub lookup: Delay,
    /// How long a connection attempt waits before it tries again.
    pub connect_retry: Delay,
    /// When a connection attempt fails for good.
    pub connect_timeout_ns: u64,
}

/// The processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessorConditions {
    /// What one turn of a node costs.
    pub turn: Delay,
    /// From an event to the completion that tells of it.
    pub wake_up: Delay,
    /// A turn delivers only some of what has completed.
    pub partial_turn: Odds,
    /// Largest drift of a host's clock, either way, in parts per million.
    pub drift_ppm: u32,
    /// Operations that one node may have outstanding ([`kontiki_io::Io::capacity`]).
    pub capacity: usize,
    /// How often a write that a killed process had under way is carried out by the kernel all the same, and later. Otherwise it is
    /// done in part, or not at all, as the process dies.
    pub late_write: Odds,
    /// How long after the kill such a write lands.
    pub late: Delay,
    /// The lock of a directory is free only when the last write of the process that held it has ended: what every backend
    /// has to see to.
    pub lock_waits: bool,
}

/// All of it. Hosts take their disk's conditions from here when they are added; they can be changed one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Every disk.
    pub disk: DiskConditions,
    /// The network.
    pub network: NetworkConditions,
    /// Every processor.
    pub processor: ProcessorConditions,
    /// Occurrences kept for reading after a failure.
    pub keep_trace: usize,
}

impl Conditions {
    /// Nothing goes wrong, and everything takes a little, varying time.
    pub fn calm() -> Conditions {
        Conditions {
            disk: DiskConditions {
                transfer: Delay::between(20 * MICROSECOND, 200 * MICROSECOND),
                flush: Delay::between(50 * MICROSECOND, 2 * MILLISECOND),
                metadata: Delay::between(10 * MICROSECOND, 100 * MICROSECOND),
                bytes_per_s: 400 << 20,
                capacity_bytes: 4 << 30,
                read_error: Odds::NEVER,
                write_error: Odds::NEVER,
                flush_error: Odds::NEVER,
                lie: Odds::NEVER,
                rot: Odds::NEVER,
                astray: Odds::NEVER,
                stale: Odds::NEVER,
                erase_group_bytes: 0,
                tampered: false,
                snapshots: Harm::None,
            },
            network: NetworkConditions {
                latency: Delay::between(20 * MICROSECOND, 300 * MICROSECOND),
                bytes_per_s: 120 << 20,
                buffer_bytes: 256 << 10,
                chunk_bytes: 64 << 10,
                small_chunk: Odds::one_in(20),
                short_receive: Odds::one_in(10),
                reset: Odds::NEVER,
                flip: Odds::NEVER,
                give_up: Delay::between(5 * SECOND, 20 * SECOND),
                recover: Delay::between(MILLISECOND, 400 * MILLISECOND),
                lookup: Delay::between(20 * MICROSECOND, 5 * MILLISECOND).with_tail(Odds::one_in(20), 5 * SECOND),
                connect_retry: Delay::between(200 * MILLISECOND, 1_200 * MILLISECOND),
                connect_timeout_ns: 8 * SECOND,
            },
            processor: ProcessorConditions {
                turn: Delay::between(MICROSECOND, 20 * MICROSECOND),
                wake_up: Delay::between(MICROSECOND, 30 * MICROSECOND),
                partial_turn: Odds::one_in(16),
                drift_ppm: 100,
                capacity: limits::CAPACITY,
                late_write: Odds::NEVER,
                late: Delay::between(MICROSECOND, 10 * MILLISECOND).with_tail(Odds::one_in(10), 3 * SECOND),
                lock_waits: true,
            },
            keep_trace: 0,
        }
    }

    /// Conditions drawn for one seed: slow flash or fast drives, near or far hosts, stalls, lost packets and broken
    /// connections. Nothing that a node may answer by stopping (those are switched on one by one).
    pub fn drawn(random: &mut Random) -> Conditions {
        let mut drawn = Conditions::calm();
        if random.coin() {
            drawn.disk.flush = Delay::between(500 * MICROSECOND, 30 * MILLISECOND);
        }
        if random.coin() {
            drawn.disk.transfer = drawn.disk.transfer.with_tail(Odds::one_in(2_000), random.between(100, 1_200) * MILLISECOND);
        }
        let far = random.between(200 * MICROSECOND, 10 * MILLISECOND);
        drawn.network.latency = Delay::between(far / 10, far);
        if random.coin() {
            drawn.network.latency = drawn.network.latency.with_tail(Odds::one_in(200), 250 * MILLISECOND);
        }
        if random.coin() {
            drawn.network.reset = Odds::one_in(random.between(300, 10_000) as u32);
        }
        if random.coin() {
            drawn.network.flip = Odds::one_in(random.between(300, 10_000) as u32);
        }
        drawn.network.buffer_bytes = 16 << random.between(10, 16);
        drawn.network.chunk_bytes = 1 << random.between(12, 17);
        drawn.processor.turn = drawn.processor.turn.with_tail(Odds::one_in(5_000), 40 * MILLISECOND);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_keep_their_bounds_and_show_their_tail() {
        let delay = Delay::between(10, 20).with_tail(Odds::one_in(4), 1_000);
        let mut random = Random::new(5);
        let drawn: Vec<u64> = (0..1_000).map(|_| delay.draw(&mut random)).collect();
        assert!(drawn.iter().all(|ns| (10..=1_000).contains(ns)));
        let long = drawn.iter().filter(|&&ns| ns > 20).count();
        assert!((150..350).contains(&long), "{long}");
    }

    #[test]
    fn drawn_conditions_follow_the_seed() {
        assert_eq!(Conditions::drawn(&mut Random::new(1)), Conditions::drawn(&mut Random::new(1)));
        assert_ne!(Conditions::drawn(&mut Random::new(1)), Conditions::drawn(&mut Random::new(2)));
    }
}

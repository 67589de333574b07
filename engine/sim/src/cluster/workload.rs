//! What clients propose: unique values in payloads that can be checked wherever they turn up again.
//!
//! A value is also a command to a replicated table of registers: to write the value to its register, or to read that.

use crate::random::{Odds, Random};

/// Bytes before the filler of a payload: its value.
const VALUE_BYTES: usize = 8;

/// Registers of the replicated state.
pub const REGISTERS: usize = 16;

/// The value of the `number`th command: it writes itself to the register `key`, or reads that.
pub const fn command(number: u64, key: u64, is_read: bool) -> u64 {
    (number * REGISTERS as u64 + key) << 1 | is_read as u64
}

/// The register that a value is about.
pub const fn key_of(value: u64) -> u64 {
    (value >> 1) % REGISTERS as u64
}

/// Whether a value asks for what its register holds, rather than setting it.
pub const fn is_read(value: u64) -> bool {
    value & 1 == 1
}

/// What the clients of one run do.
#[derive(Clone, Debug)]
pub struct Workload {
    random: Random,
    /// Commands so far.
    commands: u64,
    /// Registers in use: few of them make for more contention.
    registers: u64,
    /// How many of the commands read.
    reads: Odds,
    /// Proposals outstanding at once, in all.
    pub in_flight: usize,
    /// Longest pause between two proposals, in nanoseconds.
    pub pause_ns: u64,
    /// Longest payload, in bytes.
    pub payload_bytes: usize,
    /// Proposals that come at once.
    pub burst: usize,
}

impl Workload {
    /// A workload drawn from `random`, with payloads of at most `payload_bytes` (at least eight).
    pub fn drawn(mut random: Random, payload_bytes: usize) -> Workload {
        assert!(payload_bytes >= VALUE_BYTES, "a payload has room for its value");
        let in_flight = 1 << random.between(0, 6);
        let pause_ns = 1 << random.between(16, 26);
        let longest = random.between(VALUE_BYTES as u64, payload_bytes as u64);
        let payload_bytes = if random.coin() { longest.min(200) } else { longest } as usize;
        let registers = random.between(1, REGISTERS as u64);
        let reads = random.pick(&[Odds::one_in(10), Odds::one_in(3), Odds::one_in(2)]).copied().unwrap_or(Odds::NEVER);
        Workload { random, commands: 0, registers, reads, in_flight, pause_ns, payload_bytes, burst: 1 }
    }

    /// The same, with proposals that come in bursts, half of the time.
    #[must_use]
    pub fn in_bursts(mut self) -> Workload {
        self.burst = if self.random.coin() { 1 } else { 1 << self.random.between(2, 5) };
        self.in_flight = self.in_flight.max(self.burst);
        self
    }

    /// Slows down so that what is proposed within `within_ns` takes about `log_bytes` of log at most: a log without snapshots is finite.
    pub fn fit(&mut self, within_ns: u64, log_bytes: u64) {
        let frame_bytes = kontiki_frame::frame_bytes(kontiki_frame::ENTRY_LENGTH_BYTES + self.payload_bytes) as u64;
        // The mean pause is half the longest.
        let pause_ns = 2 * u128::from(within_ns) * u128::from(frame_bytes) * self.burst as u128 / u128::from(log_bytes.max(1));
        self.pause_ns = self.pause_ns.max(u64::try_from(pause_ns).unwrap_or(u64::MAX));
    }

    /// A value that was never used, and its payload.
    pub fn propose(&mut self) -> (u64, Vec<u8>) {
        self.commands += 1;
        let key = self.random.below(self.registers);
        let value = command(self.commands, key, self.random.happens(self.reads));
        let length = self.random.between(VALUE_BYTES as u64, self.payload_bytes as u64) as usize;
        (value, payload(value, length))
    }

    /// When the next proposal comes, in nanoseconds from now.
    pub fn pause(&mut self) -> u64 {
        self.random.below(self.pause_ns)
    }

    /// One of `count` nodes to propose to.
    pub fn any_of(&mut self, count: usize) -> usize {
        self.random.below(count as u64) as usize
    }

    /// Whether the next proposal goes to any node rather than to the one thought to lead.
    pub fn wanders(&mut self) -> bool {
        self.random.below(16) == 0
    }
}

/// The payload of a value: itself, then bytes that follow from it and the length.
pub fn payload(value: u64, length: usize) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    let mut filler = Random::stream(value, length as u64);
    while bytes.len() < length {
        bytes.extend(filler.bits().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The value of a payload, and whether the rest is what was proposed with it.
pub fn value_of(bytes: &[u8]) -> (u64, bool) {
    match bytes.first_chunk::<VALUE_BYTES>() {
        Some(value) => {
            let value = u64::from_le_bytes(*value);
            (value, payload(value, bytes.len()) == bytes)
        }
        None => (0, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_say_what_they_are() {
        let mut seen = std::collections::BTreeSet::new();
        for (number, key) in (1..5).flat_map(|number| (0..REGISTERS as u64).map(move |key| (number, key))) {
            for read in [false, true] {
                let value = command(number, key, read);
                assert_eq!((key_of(value), is_read(value)), (key, read));
                assert!(value != crate::judge::linearize::INITIAL && seen.insert(value));
            }
        }
    }

    #[test]
    fn what_comes_at_once_comes_less_often() {
        let paced = |burst| {
            let mut workload = Workload { burst, pause_ns: 0, payload_bytes: 1000, ..Workload::drawn(Random::new(4), 1000) };
            workload.fit(60 * 1_000_000_000, 1 << 20);
            workload.pause_ns
        };
        assert!(paced(1) > 0 && paced(8) / 8 == paced(1), "{} {}", paced(1), paced(8));
        let drawn: Vec<usize> = (0..50).map(|seed| Workload::drawn(Random::new(seed), 1000).in_bursts().burst).collect();
        assert!(drawn.contains(&1) && drawn.iter().any(|&burst| burst > 8), "{drawn:?}");
    }

    #[test]
    fn payloads_are_recognised_and_damage_is_seen() {
        let mut workload = Workload::drawn(Random::new(4), 1000);
        let mut values = std::collections::BTreeSet::new();
        for _ in 1..100 {
            let (value, mut bytes) = workload.propose();
            assert!(values.insert(value), "values are never used twice");
            assert_eq!(value_of(&bytes), (value, true));
            bytes.push(0);
            assert!(!value_of(&bytes).1 || bytes.len() == VALUE_BYTES);
        }
        let mut bytes = payload(7, 100);
        bytes[50] ^= 1;
        assert_eq!(value_of(&bytes), (7, false));
        assert_eq!(value_of(&[1, 2]), (0, false));
    }
}

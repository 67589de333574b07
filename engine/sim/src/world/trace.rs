//! What happened, as one number: equal traces are equal runs.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// One thing that happened in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// World time, in nanoseconds.
    pub at_ns: u64,
    /// The host it happened on.
    pub host: usize,
    /// What it was.
    pub what: &'static str,
    /// A first detail: a token, an offset, another host.
    pub a: u64,
    /// A second detail: a length, a result.
    pub b: u64,
    /// Hash of the content that was moved, zero if none was.
    pub content: u64,
}

impl fmt::Display for Occurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, ns) = (self.at_ns / 1_000_000_000, self.at_ns % 1_000_000_000);
        write!(f, "{s:>5}.{ns:09} h{} {:<12} {:#x} {:#x}", self.host, self.what, self.a, self.b)?;
        if self.content != 0 { write!(f, " [{:016x}]", self.content) } else { Ok(()) }
    }
}

/// The running hash of all that happened, and the last of it in a form one can read.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    length: u64,
    kept: VecDeque<Occurrence>,
    keep: usize,
}

impl Trace {
    pub(crate) fn new(keep: usize) -> Trace {
        Trace { hash: 0xCBF2_9CE4_8422_2325, length: 0, kept: VecDeque::with_capacity(keep), keep }
    }

    pub(crate) fn record(&mut self, occurrence: Occurrence) {
        let Occurrence { at_ns, host, what, a, b, content } = occurrence;
        let mut hash = mix(self.hash, at_ns);
        hash = mix(hash, host as u64);
        hash = mix(hash, hash_bytes(what.as_bytes()));
        for word in [a, b, content] {
            hash = mix(hash, word);
        }
        self.hash = hash;
        self.length += 1;
        if self.keep > 0 {
            if self.kept.len() == self.keep {
                self.kept.pop_front();
            }
            self.kept.push_back(occurrence);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn tail(&self) -> Vec<Occurrence> {
        self.kept.iter().copied().collect()
    }
}

const fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9FB2_1C65_1E98_DF25);
    mixed ^ (mixed >> 32)
}

/// Bytes hashed side by side: each word of a stripe has a running hash of its own, so that none waits for another.
const STRIPE_BYTES: usize = 32;
const LANES: usize = STRIPE_BYTES / 8;

/// A 64-bit hash of some bytes: for telling runs apart, not for security.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut lanes = [0x2545_F491_4F6C_DD1D, 0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB];
    let (stripes, rest) = bytes.as_chunks::<STRIPE_BYTES>();
    for stripe in stripes {
        lanes = mix_stripe(lanes, stripe);
    }
    let mut last = [0u8; STRIPE_BYTES];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let length = mix(0, bytes.len() as u64);
    mix_stripe(lanes, &last).into_iter().fold(length, mix)
}

fn mix_stripe(lanes: [u64; LANES], stripe: &[u8; STRIPE_BYTES]) -> [u64; LANES] {
    let (words, _) = stripe.as_chunks::<8>();
    std::array::from_fn(|lane| mix(lanes[lane], u64::from_le_bytes(words[lane])))
}

/// How often each kind of thing happened: the faults injected, and the marks of what should sometimes happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, what: &'static str) {
        self.add_many(what, 1);
    }

    /// Counts `n` more.
    pub fn add_many(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    /// How often it happened.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(&what, &n)| (what, n))
    }

    /// Adds another's counts to these.
    pub fn merge(&mut self, other: &Counts) {
        for (what, n) in other.iter() {
            self.add_many(what, n);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (what, count)) in self.iter().enumerate() {
            write!(f, "{}{what} {count}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence() -> Occurrence {
        Occurrence { at_ns: 1, host: 2, what: "write", a: 3, b: 4, content: 5 }
    }

    #[test]
    fn every_field_and_the_order_change_the_hash() {
        let hash = |list: &[Occurrence]| {
            let mut trace = Trace::new(0);
            list.iter().for_each(|&o| trace.record(o));
            trace.hash()
        };
        let base = occurrence();
        let variants = [
            Occurrence { at_ns: 9, ..base },
            Occurrence { host: 9, ..base },
            Occurrence { what: "read", ..base },
            Occurrence { a: 9, ..base },
            Occurrence { b: 9, ..base },
            Occurrence { content: 9, ..base },
        ];
        for variant in variants {
            assert_ne!(hash(&[base]), hash(&[variant]));
            assert_ne!(hash(&[base, variant]), hash(&[variant, base]));
        }
        assert_eq!(hash(&[base, base]), hash(&[base, base]));
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut trace = Trace::new(3);
        for a in 0..10 {
            trace.record(Occurrence { a, ..occurrence() });
        }
        assert_eq!(trace.tail().iter().map(|o| o.a).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(trace.length(), 10);
    }

    #[test]
    fn content_hashes_tell_lengths_and_bytes_apart() {
        assert_ne!(hash_bytes(b""), hash_bytes(b"\0"));
        assert_ne!(hash_bytes(b"12345678"), hash_bytes(b"12345678\0"));
        assert_ne!(hash_bytes(b"1234567890"), hash_bytes(b"1234567809"));
    }
}

//! Seeded numbers for session ids, nonces and back-off jitter. Not for secrets.

/// splitmix64 (Steele, Lea and Flood, 2014): small, and every seed is good.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number that can stand for "set": never zero.
    pub(crate) fn nonzero(&mut self) -> u64 {
        self.next().max(1)
    }

    /// Between half of `ns` and all of it.
    pub(crate) fn jitter(&mut self, ns: u64) -> u64 {
        let half = ns / 2;
        half + self.next() % (ns - half + 1)
    }
}

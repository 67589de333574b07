//! The 128-bit digest: XXH3-128. It finds accidents, not attackers.

use std::fmt;

/// A 128-bit digest (XXH3-128): of a whole snapshot, or of the head that names one.
///
/// ```
/// use kontiki_snapshot::Digest;
/// assert_eq!(Digest(0xab).to_string(), "000000000000000000000000000000ab");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u128);

impl Digest {
    /// Of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Digest {
        Digest(twox_hash::xxhash3_128::Hasher::oneshot(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A digest in the making.
#[derive(Clone)]
pub(crate) struct Digester(twox_hash::xxhash3_128::Hasher);

impl Digester {
    pub(crate) fn new() -> Digester {
        Digester(twox_hash::xxhash3_128::Hasher::new())
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest(self.0.finish_128())
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Digester").field(&self.digest()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference implementation's value for nothing: what is on disks today is read for ever.
    #[test]
    fn it_is_xxh3_with_128_bits() {
        assert_eq!(Digest::of(b""), Digest(0x99aa_06d3_0147_98d8_6001_c324_468d_497f));
        assert_eq!(Digester::new().digest(), Digest::of(b""));
    }

    #[test]
    fn in_pieces_it_is_the_same() {
        let bytes: Vec<u8> = (0..10_000u32).map(|n| (n * 7) as u8).collect();
        for piece in [1, 64, 1000, 4096] {
            let mut digester = Digester::new();
            bytes.chunks(piece).for_each(|part| digester.add(part));
            assert_eq!(digester.digest(), Digest::of(&bytes));
        }
    }
}

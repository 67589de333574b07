//! The one source of chance: small, our own, and the same on every build of the same source.

/// A chance in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Odds(pub u32);

impl Odds {
    /// It never happens.
    pub const NEVER: Odds = Odds(0);
    /// It always happens.
    pub const ALWAYS: Odds = Odds(1_000_000);

    /// One time in `n`; never if `n` is zero.
    pub const fn one_in(n: u32) -> Odds {
        match 1_000_000u32.checked_div(n) {
            Some(parts) => Odds(parts),
            None => Odds::NEVER,
        }
    }
}

/// A generator of pseudo-random numbers: xoshiro256** (Blackman and Vigna), seeded through SplitMix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// A generator; equal seeds give equal sequences.
    pub fn new(seed: u64) -> Random {
        let mut mixer = seed;
        Random { state: core::array::from_fn(|_| split_mix(&mut mixer)) }
    }

    /// A generator of its own for one purpose, so that draws made for another do not shift this one's.
    pub fn stream(seed: u64, purpose: u64) -> Random {
        let mut mixer = purpose.wrapping_mul(0xA24B_AED4_963E_E407);
        Random::new(seed ^ split_mix(&mut mixer))
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number below `bound`; zero if `bound` is zero. (Multiply-shift: the bias of at most 2^-64 x bound does not matter here.)
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included; `low` if `high` is smaller.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// Whether a thing of these odds happens now. Draws nothing when it is certain, so that a fault that is off costs nothing.
    pub fn happens(&mut self, odds: Odds) -> bool {
        match odds {
            Odds(0) => false,
            Odds(parts) => parts >= Odds::ALWAYS.0 || self.below(1_000_000) < u64::from(parts),
        }
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.bits() >> 63 == 1
    }

    /// One of the items; `None` if there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// Puts the items in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_generator() {
        // Reference: xoshiro256** from the state {1, 2, 3, 4} (first outputs of the authors' C code).
        let mut random = Random { state: [1, 2, 3, 4] };
        let expected = [11520, 0, 1509978240, 1215971899390074240];
        assert_eq!([random.bits(), random.bits(), random.bits(), random.bits()], expected);
    }

    #[test]
    fn equal_seeds_agree_and_streams_differ() {
        let draw = |mut random: Random| [random.bits(), random.bits(), random.bits()];
        assert_eq!(draw(Random::new(7)), draw(Random::new(7)));
        assert_ne!(draw(Random::new(7)), draw(Random::new(8)));
        assert_ne!(draw(Random::stream(7, 1)), draw(Random::stream(7, 2)));
    }

    #[test]
    fn draws_stay_in_their_bounds_and_reach_both_ends() {
        let mut random = Random::new(1);
        let mut seen = [0u32; 6];
        for _ in 0..6000 {
            let drawn = random.between(10, 15);
            assert!((10..=15).contains(&drawn));
            seen[drawn as usize - 10] += 1;
        }
        assert!(seen.iter().all(|&count| count > 800), "{seen:?}");
        assert_eq!(random.between(3, 3), 3);
        assert_eq!(random.below(0), 0);
        assert!(random.pick::<u8>(&[]).is_none());
    }

    #[test]
    fn odds_are_kept() {
        let mut random = Random::new(2);
        let hits = (0..100_000).filter(|_| random.happens(Odds::one_in(10))).count();
        assert!((9_000..11_000).contains(&hits), "{hits}");
        assert!(!random.happens(Odds::NEVER));
        assert!(random.happens(Odds::ALWAYS));
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..50).collect();
        Random::new(3).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}

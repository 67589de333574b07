//! The seeded generator behind the election jitter.

/// SplitMix64 (Steele, Lea and Flood, 2014): small, full period, good enough to keep timeouts apart.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// A generator for one node: equal seeds on two nodes still give different timeouts (hazard H21).
    pub(crate) fn new(seed: u64, node: u64) -> Rng {
        let mut mixed = Rng(node);
        Rng(seed ^ mixed.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `min` to `max`, both included. `min` must not exceed `max`.
    pub(crate) fn between(&mut self, min: u64, max: u64) -> u64 {
        debug_assert!(min <= max);
        match (max - min).checked_add(1) {
            Some(span) => min + self.next() % span,
            None => self.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_in_range_and_differs_by_node() {
        let (mut a, mut b) = (Rng::new(7, 1), Rng::new(7, 2));
        let mut same = 0;
        for _ in 0..1000 {
            let (x, y) = (a.between(100, 200), b.between(100, 200));
            assert!((100..=200).contains(&x) && (100..=200).contains(&y));
            same += u32::from(x == y);
        }
        assert!(same < 50, "{same} of 1000 timeouts equal");
        assert_eq!(Rng::new(1, 1).between(5, 5), 5);
        Rng::new(1, 1).between(0, u64::MAX);
    }
}

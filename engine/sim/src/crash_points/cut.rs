//! Which of the unflushed things a power cut keeps: all subsets of a few, a sample of many.

use std::fmt;
use std::str::FromStr;

use crate::disk::{Disk, Unflushed};
use crate::random::Random;

/// Up to so many unflushed things, every subset is tried.
pub(super) const ALL_SUBSETS: usize = 12;

/// One way to lose power. The unflushed things are numbered in the order in which [`Disk::cut`] asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Those whose bits are set are kept.
    Mask(u64),
    /// The first so many are kept.
    First(usize),
    /// All but the first so many are kept.
    From(usize),
    /// One is kept.
    Only(usize),
    /// One is lost.
    But(usize),
    /// Drawn from a seed.
    Random(u64),
    /// Of this unflushed sector, counted among the sectors alone, only the first half reaches the medium; the rest is kept, or drawn from the seed if it is not zero.
    Torn(usize, u64),
}

impl Cut {
    /// The disk after the cut.
    pub(super) fn of(self, disk: &Disk) -> Disk {
        let mut disk = disk.clone();
        let (mut n, mut random) = (0, Random::new(0));
        match self {
            Cut::Random(seed) | Cut::Torn(_, seed) => random = Random::new(seed),
            _ => {}
        }
        if let Cut::Torn(nth, _) = self {
            disk.tear(nth);
        }
        disk.cut(&mut |_| {
            n += 1;
            let at = n - 1;
            match self {
                Cut::Mask(mask) => mask >> at.min(63) & 1 == 1,
                Cut::First(count) => at < count,
                Cut::From(count) => at >= count,
                Cut::Only(one) => at == one,
                Cut::But(one) => at != one,
                Cut::Torn(_, 0) => true,
                Cut::Random(_) | Cut::Torn(..) => random.coin(),
            }
        });
        disk
    }

    /// The cuts to try on a disk with these things unflushed, drawing `sample` ones where there are too many.
    pub(super) fn all(unflushed: &[Unflushed], sample: usize, seed: u64) -> Vec<Cut> {
        let count = unflushed.len();
        let sectors = unflushed.iter().filter(|thing| matches!(thing, Unflushed::Sector { .. })).count();
        let mut cuts: Vec<Cut> = if count <= ALL_SUBSETS {
            (0..1 << count).map(Cut::Mask).collect()
        } else {
            let one_by_one = (0..count).flat_map(|n| [Cut::First(n), Cut::From(n), Cut::Only(n), Cut::But(n)]);
            one_by_one.chain((0..sample as u64).map(|n| Cut::Random(seed.wrapping_add(n)))).collect()
        };
        cuts.extend((0..sectors).flat_map(|n| [Cut::Torn(n, 0), Cut::Torn(n, seed | 1)]));
        cuts
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Mask(mask) => write!(f, "mask:{mask}"),
            Cut::First(n) => write!(f, "first:{n}"),
            Cut::From(n) => write!(f, "from:{n}"),
            Cut::Only(n) => write!(f, "only:{n}"),
            Cut::But(n) => write!(f, "but:{n}"),
            Cut::Random(seed) => write!(f, "random:{seed}"),
            Cut::Torn(n, seed) => write!(f, "torn:{n}:{seed}"),
        }
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Cut, String> {
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or_else(|| format!("`{text}`: a number is missing"));
        let first = number()?;
        Ok(match kind {
            "mask" => Cut::Mask(first),
            "first" => Cut::First(first as usize),
            "from" => Cut::From(first as usize),
            "only" => Cut::Only(first as usize),
            "but" => Cut::But(first as usize),
            "random" => Cut::Random(first),
            "torn" => Cut::Torn(first as usize, number()?),
            _ => return Err(format!("`{text}`: expected mask, first, from, only, but, random or torn, and a number")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_read_as_they_are_written() {
        let sectors = |count: u64| (0..count).map(|n| Unflushed::Sector { offset: 512 * n }).collect::<Vec<_>>();
        for count in [0, 3, 12, 13, 40] {
            let cuts = Cut::all(&sectors(count), 10, 7);
            assert!(cuts.len() >= if count <= 12 { 1 << count } else { 4 * count as usize });
            for cut in cuts {
                assert_eq!(cut.to_string().parse(), Ok(cut));
            }
        }
        assert!("mask".parse::<Cut>().is_err() && "some:1".parse::<Cut>().is_err());
    }
}

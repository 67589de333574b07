//! Which versions of the protocol a program speaks: a range, named in every greeting.

use std::fmt;

use crate::handshake::hello::Channel;
use crate::limits::{OLDEST_CLIENT_VERSION, OLDEST_NODE_VERSION, PROTOCOL_VERSION};

/// The lowest and the highest version that one side speaks, and every one between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    lowest: u16,
    highest: u16,
}

impl Versions {
    /// A range; `None` if it is empty, or begins at zero.
    ///
    /// ```
    /// use kontiki_net::Versions;
    /// let (ours, theirs) = (Versions::new(2, 4), Versions::new(3, 9));
    /// assert_eq!(ours.zip(theirs).and_then(|(ours, theirs)| ours.common(theirs)), Some(4));
    /// assert_eq!(Versions::new(3, 2), None);
    /// ```
    pub fn new(lowest: u16, highest: u16) -> Option<Versions> {
        (lowest > 0 && lowest <= highest).then_some(Versions { lowest, highest })
    }

    /// What this program speaks on a channel.
    pub fn ours(channel: Channel) -> Versions {
        let lowest = if channel == Channel::Client { OLDEST_CLIENT_VERSION } else { OLDEST_NODE_VERSION };
        Versions { lowest, highest: PROTOCOL_VERSION }
    }

    /// The lowest.
    pub fn lowest(self) -> u16 {
        self.lowest
    }

    /// The highest.
    pub fn highest(self) -> u16 {
        self.highest
    }

    /// The version that two sides speak with each other: the highest that both know.
    pub fn common(self, other: Versions) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }

    /// Both numbers in one, the lowest above the highest.
    pub(crate) fn pack(self) -> u32 {
        u32::from(self.lowest) << 16 | u32::from(self.highest)
    }

    /// The inverse of [`Versions::pack`]. What no range packs to becomes the nearest range.
    pub(crate) fn unpack(packed: u32) -> Versions {
        let highest = (packed as u16).max(1);
        Versions { lowest: ((packed >> 16) as u16).clamp(1, highest), highest }
    }
}

/// One version alone.
impl From<u16> for Versions {
    fn from(version: u16) -> Versions {
        Versions { lowest: version, highest: version }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lowest == self.highest {
            true => write!(f, "{}", self.highest),
            false => write!(f, "{} to {}", self.lowest, self.highest),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn range(lowest: u16, highest: u16) -> Versions {
        Versions::new(lowest, highest).unwrap()
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        for (a, b, common) in [
            (range(2, 2), range(2, 2), Some(2)),
            (range(1, 2), range(2, 7), Some(2)),
            (range(1, 9), range(3, 4), Some(4)),
            (range(1, 2), range(3, 4), None),
            (range(1, u16::MAX), range(u16::MAX, u16::MAX), Some(u16::MAX)),
        ] {
            assert_eq!(a.common(b), common, "{a} and {b}");
            assert_eq!(b.common(a), common, "both sides come to the same");
        }
    }

    #[test]
    fn any_number_unpacks_to_a_range() {
        for packed in [0, 1, 0x0001_0000, 0x0009_0002, 0x0002_0009, u32::MAX] {
            let versions = Versions::unpack(packed);
            assert!(versions.lowest >= 1 && versions.lowest <= versions.highest, "{packed:#x}: {versions}");
        }
        assert_eq!(Versions::unpack(range(2, 9).pack()), range(2, 9));
    }
}

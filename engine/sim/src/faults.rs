//! The kinds of faults that a run injects, each of which can be left out: so a failure is narrowed down.

use std::fmt;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process is killed; the page cache survives.
    Crash,
    /// A host loses its power, and with it any part of what was not flushed.
    PowerCut,
    /// All processes are killed, or all hosts lose their power, at once.
    AllAtOnce,
    /// A process gets no processor for a while.
    Pause,
    /// One host is cut off from all others.
    Isolation,
    /// The hosts are split into two groups.
    Split,
    /// Two hosts are cut off from each other, and from nobody else.
    Partial,
    /// Nothing gets from one host to another; the way back is open.
    OneWay,
    /// The ways between some hosts become slow.
    SlowLink,
    /// A wall clock jumps.
    ClockJump,
    /// A disk is full, and has space again later.
    FullDisk,
    /// Connections break in the middle of anything.
    Reset,
    /// Bits flip on the wire, unnoticed by TCP.
    Flip,
    /// Disks, packets and processors sometimes take far longer than usual.
    Stall,
    /// Reads, writes and flushes fail (bad disks only).
    DiskError,
    /// Bits on a medium rot (bad disks only).
    Rot,
    /// A write lands elsewhere (bad disks only).
    Astray,
    /// A read returns what was there before (bad disks only).
    StaleRead,
    /// A power cut garbles what stands before a write in flight (bad disks only).
    EraseGroup,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 19] = [
        Fault::Crash,
        Fault::PowerCut,
        Fault::AllAtOnce,
        Fault::Pause,
        Fault::Isolation,
        Fault::Split,
        Fault::Partial,
        Fault::OneWay,
        Fault::SlowLink,
        Fault::ClockJump,
        Fault::FullDisk,
        Fault::Reset,
        Fault::Flip,
        Fault::Stall,
        Fault::DiskError,
        Fault::Rot,
        Fault::Astray,
        Fault::StaleRead,
        Fault::EraseGroup,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Crash => "crash",
            Fault::PowerCut => "power-cut",
            Fault::AllAtOnce => "all-at-once",
            Fault::Pause => "pause",
            Fault::Isolation => "isolation",
            Fault::Split => "split",
            Fault::Partial => "partial",
            Fault::OneWay => "one-way",
            Fault::SlowLink => "slow-link",
            Fault::ClockJump => "clock-jump",
            Fault::FullDisk => "full-disk",
            Fault::Reset => "reset",
            Fault::Flip => "flip",
            Fault::Stall => "stall",
            Fault::DiskError => "disk-error",
            Fault::Rot => "rot",
            Fault::Astray => "astray",
            Fault::StaleRead => "stale-read",
            Fault::EraseGroup => "erase-group",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

/// A set of kinds of faults.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Faults(u32);

impl Faults {
    /// Every kind.
    pub const ALL: Faults = Faults((1 << Fault::ALL.len()) - 1);

    /// All of these but one kind.
    #[must_use]
    pub const fn without(self, fault: Fault) -> Faults {
        Faults(self.0 & !(1 << fault as u32))
    }

    /// Whether a kind is among them.
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }

    /// Those that are among them.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |&fault| self.has(fault))
    }

    /// Those that are not.
    pub fn missing(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |&fault| !self.has(fault))
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_name_and_place() {
        for fault in Fault::ALL {
            assert_eq!(Fault::named(fault.name()), Some(fault));
            let others = Faults::ALL.without(fault);
            assert!(Faults::ALL.has(fault) && !others.has(fault));
            assert_eq!(others.iter().count(), Fault::ALL.len() - 1);
            assert_eq!(others.missing().collect::<Vec<_>>(), [fault]);
        }
        assert_eq!(Fault::named("nothing"), None);
    }
}

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
    /// What a killed process was writing lands later: after the kill, and under the next process if the lock lets that in.
    LateWrite,
    /// The device of a disk is pulled out and put back, while the machine runs on.
    Device,
    /// An older image takes a disk's place (too many bad disks only: nothing can show it).
    Image,
    /// While a node is down, segment files go, change places, or become what they were earlier (bad disks only).
    File,
    /// All flushes of the world are slow: up to 400 ms, and sometimes seconds.
    SlowFlush,
    /// The nodes have limits and times of their own.
    OwnLimits,
    /// A node has other limits and times at its next start.
    NewLimits,
    /// A node is stopped in order; beside peers that are dark, slow or full.
    Stop,
    /// One node is away most of the time.
    Away,
    /// A host has no descriptors to give, and little memory for its network, for a while.
    Shortage,
    /// Nothing strikes for a while and at least a majority is up: then there must be a leader. No fault, but what makes their absence count.
    Lull,
    /// A node that doubts its log without a reason breaks a promise. No fault either.
    Doubt,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 31] = [
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
        Fault::LateWrite,
        Fault::Device,
        Fault::Image,
        Fault::File,
        Fault::SlowFlush,
        Fault::OwnLimits,
        Fault::NewLimits,
        Fault::Stop,
        Fault::Away,
        Fault::Shortage,
        Fault::Lull,
        Fault::Doubt,
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
            Fault::LateWrite => "late-write",
            Fault::Device => "device",
            Fault::Image => "image",
            Fault::File => "file",
            Fault::SlowFlush => "slow-flush",
            Fault::OwnLimits => "own-limits",
            Fault::NewLimits => "new-limits",
            Fault::Stop => "stop",
            Fault::Away => "away",
            Fault::Shortage => "shortage",
            Fault::Lull => "lull",
            Fault::Doubt => "doubt",
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

    /// What a run injects unless it is told otherwise.
    pub const USUAL: Faults = Faults::ALL;

    /// These and one kind more.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Faults {
        Faults(self.0 | (1 << fault as u32))
    }

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

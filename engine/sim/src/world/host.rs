//! One host of the world: its power, its clock, its disk, and the one process that runs on it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kontiki_io::{Completion, Handle, IoErrorKind, IoStats, Name, Op, Token, Wake};

use kontiki_wal::limits::READ_ATTEMPTS;

use crate::conditions::DiskConditions;
use crate::disk::decay::Decay;
use crate::disk::snapshots::Snapshots;
use crate::disk::{Disk, FileId};
use crate::random::Random;
use crate::world::op_class::OpClass;

/// One host, by its number in the world, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub usize);

#[derive(Debug, Default)]
pub(crate) struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Bell {
    pub(crate) fn is_rung(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

/// A host's monotonic clock: its own start and its own rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// World time at which it read `start_ns`.
    since_ns: u64,
    start_ns: u64,
    /// How much faster than the world's it runs, in parts per million.
    drift_ppm: i32,
    /// What the wall clock adds to world time.
    pub(crate) wall_offset_ns: i64,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    pub(crate) fn new(since_ns: u64, start_ns: u64, drift_ppm: i32) -> Clock {
        Clock { since_ns, start_ns, drift_ppm, wall_offset_ns: 0 }
    }

    pub(crate) fn drift_ppm(&self) -> i32 {
        self.drift_ppm
    }

    /// What this clock reads at a world time.
    pub(crate) fn local_ns(&self, world_ns: u64) -> u64 {
        let passed = i128::from(world_ns.saturating_sub(self.since_ns));
        let local = passed * (MILLION + i128::from(self.drift_ppm)) / MILLION;
        self.start_ns.saturating_add(u64::try_from(local).unwrap_or(u64::MAX))
    }

    /// The first world time at which this clock reads at least `local_ns`.
    pub(crate) fn world_ns(&self, local_ns: u64) -> u64 {
        let ahead = i128::from(local_ns.saturating_sub(self.start_ns));
        let rate = MILLION + i128::from(self.drift_ppm);
        let passed = (ahead * MILLION + rate - 1) / rate;
        self.since_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// What a handle stands for.
#[derive(Clone, Debug)]
pub(crate) enum Resource {
    Directory(PathBuf),
    Lock(PathBuf, Name),
    File(FileId),
    Listener(u64),
    Socket { connection: u64, side: usize },
}

#[derive(Debug)]
pub(crate) struct HandleEntry {
    pub(crate) resource: Resource,
    /// Operations on it that the process has not seen completed.
    pub(crate) outstanding: u32,
}

/// An operation between its submission and its completion. It owns the memory lent with it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) token: Token,
    pub(crate) class: OpClass,
    pub(crate) op: Op,
    /// Handed to the world by a turn.
    pub(crate) started: bool,
    /// Its end is on the agenda.
    pub(crate) ending: bool,
    /// Bytes of a send that the connection has taken.
    pub(crate) sent: usize,
    /// What a flush covers: the disk's clock as it began.
    pub(crate) covers: u64,
}

/// Operations of one class that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Which operations.
    pub class: OpClass,
    /// How many of them succeed first.
    pub after: u64,
    /// With what they fail.
    pub error: IoErrorKind,
    /// How many fail; then all is well again.
    pub times: u64,
}

/// A write that outlives its process.
#[derive(Debug)]
pub(crate) struct LateWrite {
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) durable: bool,
    /// The process that made it.
    pub(crate) boot: u64,
}

pub(crate) struct HostState {
    pub(crate) powered: bool,
    /// Counts processes started here: what tells a stale completion or a stale `SimIo`.
    pub(crate) boot: u64,
    pub(crate) running: bool,
    pub(crate) paused: bool,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) disk_conditions: DiskConditions,
    pub(crate) disk_random: Random,
    pub(crate) decay: Decay,
    /// Its kernel says which boot and which medium this is.
    pub(crate) identity_known: bool,
    pub(crate) injections: Vec<Injection>,
    pub(crate) held: Vec<OpClass>,
    pub(crate) withheld: Vec<u64>,
    /// Writes of processes that were killed, which the kernel still carries out, by number.
    pub(crate) late_writes: BTreeMap<u64, LateWrite>,
    /// Locks of killed processes that are not free before those writes have ended.
    pub(crate) late_locks: Vec<(PathBuf, Name)>,
    /// The process was refused a lock for that.
    pub(crate) lock_refused: bool,
    /// The hard state last written says that the node is recovering.
    pub(crate) recovering: bool,
    /// Something may have been lost: a power cut met writes under way, or the disk was struck. Until a recovery has found the log whole,
    /// or made it whole.
    pub(crate) doubtful: bool,
    /// The log of the process that ran last may have ended so lately, after heavy frames, that nothing marks its end
    /// yet.
    pub(crate) unmarked: bool,
    /// The hard state last written says that the log was closed in order.
    pub(crate) closed: bool,
    /// Boot number of the hard state last written.
    pub(crate) saved_boot: u64,
    /// The disk as it was earlier.
    pub(crate) older: Option<Disk>,
    /// The longest frame that the node makes by itself, in bytes: a longer one comes from a peer with another limit.
    pub(crate) own_frame_bytes: usize,
    /// There are no descriptors to give.
    pub(crate) short: bool,
    /// Operations that were refused for that.
    pub(crate) refused_in_shortage: u64,
    /// How often the node began to recover though nothing can have been lost.
    pub(crate) needless: u64,
    /// What was done to segment files: the next start has to notice, which is known by a greater boot number than the hard state had.
    pub(crate) unnoticed: Option<(u64, &'static str)>,
    /// The same, once it did not.
    pub(crate) overlooked: Option<&'static str>,
    pub(crate) snapshots: Snapshots,
    pub(crate) process: Process,
}

/// What a crash wipes out: all that the kernel keeps for one process.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) bell: Arc<Bell>,
    pub(crate) operations: BTreeMap<u64, Pending>,
    /// Submitted, and not yet handed over by a turn.
    pub(crate) queued: Vec<u64>,
    pub(crate) ready: VecDeque<(Completion, Option<Handle>)>,
    pub(crate) handles: BTreeMap<u32, HandleEntry>,
    pub(crate) next_handle: u32,
    pub(crate) locks: Vec<(PathBuf, Name)>,
    pub(crate) stats: IoStats,
    /// World time at which the process wants its next turn whatever happens.
    pub(crate) wake_at_ns: Option<u64>,
    /// World time before which it has no processor.
    pub(crate) busy_until_ns: u64,
    /// Places (file, offset) that its recovery was refused, and how often: it tries again, and at last takes them for lost.
    pub(crate) refused: BTreeMap<(u32, u64), usize>,
    /// The incarnation that the disk knew when it began to read: until it has saved its own, it is recovering the log.
    pub(crate) began_at: Option<u64>,
    /// It has saved a hard state of its own: what it found at its start is flushed.
    pub(crate) has_started: bool,
    /// When the last write of frames or headers to its log ended, in world time; zero while the first is under way.
    pub(crate) logged_at_ns: Option<u64>,
    /// One of them was so long that the log is marked only once it rests.
    pub(crate) is_heavy: bool,
}

impl Process {
    /// Operations whose memory or completion the world still holds.
    pub(crate) fn outstanding(&self) -> usize {
        self.operations.len() + self.ready.len()
    }

    /// Whether its recovery was refused a place as often as it tries; says so once.
    pub(crate) fn gave_up_reading(&mut self) -> bool {
        std::mem::take(&mut self.refused).values().any(|&times| times >= READ_ATTEMPTS)
    }

    pub(crate) fn add_handle(&mut self, resource: Resource) -> Handle {
        self.next_handle += 1;
        self.handles.insert(self.next_handle, HandleEntry { resource, outstanding: 0 });
        Handle(self.next_handle)
    }

    /// What a handle stands for.
    ///
    /// # Panics
    /// If it is not open: the process uses a handle that it never had or has closed.
    pub(crate) fn resource(&self, handle: Handle) -> &Resource {
        match self.handles.get(&handle.0) {
            Some(entry) => &entry.resource,
            None => panic!("handle {} is not open: the caller closed it, or never had it", handle.0),
        }
    }

    /// World time of its next turn, `None` if it waits for something else to happen.
    pub(crate) fn next_turn_ns(&self, now_ns: u64) -> Option<u64> {
        let wanted = if !self.ready.is_empty() || !self.queued.is_empty() || self.bell.is_rung() { Some(now_ns) } else { self.wake_at_ns };
        wanted.map(|at| at.max(self.busy_until_ns).max(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_drift_and_convert_back() {
        for drift in [-500, 0, 1, 333, 50_000] {
            let clock = Clock::new(1_000, 77, drift);
            assert_eq!(clock.local_ns(1_000), 77);
            for world in [1_000, 1_001, 123_456_789, 5_000_000_000_000_000] {
                let local = clock.local_ns(world);
                let back = clock.world_ns(local);
                assert!(back <= world, "drift {drift}: {world} -> {local} -> {back}");
                assert!(clock.local_ns(back) >= local, "a sleeper must not wake before its time");
            }
        }
        assert!(Clock::new(0, 0, 100).local_ns(1_000_000_000) > 1_000_000_000);
    }
}

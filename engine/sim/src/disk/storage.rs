//! Operations on files: how long they take, when they take effect, and what goes wrong with them.

use std::path::PathBuf;

use kontiki_io::{Handle, Identity, IoBuf, IoErrorKind, Name, Op, Output};
use kontiki_wal::limits::LIGHT_FRAME_BYTES;

use crate::cluster::marks;
use crate::conditions::{MILLISECOND, SECOND};
use crate::disk::FileId;
use crate::disk::decay::u64_at;
use crate::world::World;
use crate::world::host::{HostState, Pending, Resource};
use crate::world::op_class::OpClass;
use crate::world::trace::hash_bytes;

/// Counts the times at which a majority of the disks is damaged, and an entry that was acknowledged may be lost.
pub(crate) const BEYOND: &str = "damage on a majority of disks";

/// How soon a log at rest has marked its end, in nanoseconds: its own patience, and that of a slow processor.
const MARKED_WITHIN_NS: u64 = 100 * MILLISECOND;

/// A value of its own for these three, never zero.
fn one_of(a: u64, b: u64, c: u64) -> u128 {
    let mut bytes = [0; 24];
    for (to, from) in bytes.iter_mut().zip([a, b, c].iter().flat_map(|word| word.to_le_bytes())) {
        *to = from;
    }
    u128::from(hash_bytes(&bytes)) << 64 | u128::from(c) << 1 | 1
}

type Ended = Result<Output, IoErrorKind>;

/// Whether a write is that of a node's hard state, and then whether it says that the node is recovering (`docs/format.md`).
fn says_recovering(bytes: &[u8]) -> Option<bool> {
    let flags = bytes.starts_with(b"KtkH").then(|| bytes.get(10))??;
    Some(flags & 1 != 0)
}

/// Whether these bytes are of a log, and more than such as are written with zeros behind them at once.
pub(super) fn is_heavy_frame(bytes: &[u8]) -> bool {
    is_of_log(bytes) && bytes.len() > LIGHT_FRAME_BYTES
}

/// Whether a write is one of frames or of a segment's header, and neither zeros nor a hard state: all of those have a
/// magic number.
fn is_of_log(bytes: &[u8]) -> bool {
    says_recovering(bytes).is_none() && bytes.first_chunk::<4>().is_some_and(|magic| *magic != [0; 4])
}

impl World {
    pub(crate) fn start_storage(&mut self, host: usize, operation: u64) {
        let state = &mut self.hosts[host];
        let Some(pending) = state.process.operations.get_mut(&operation) else { return };
        if let Op::Write { data, .. } = &pending.op
            && is_of_log(data.bytes())
        {
            state.process.logged_at_ns.get_or_insert(0);
        }
        let conditions = &state.disk_conditions;
        let random = &mut state.disk_random;
        let moving = |bytes: usize| (bytes as u64).saturating_mul(SECOND) / conditions.bytes_per_s.max(1);
        pending.covers = state.disk.clock();
        let after_ns = match &pending.op {
            Op::Read { len, .. } => conditions.transfer.draw(random) + moving(*len),
            Op::Write { data, durable, .. } => {
                let len = data.bytes().len();
                let flush = if *durable { conditions.flush.draw(random) } else { 0 };
                conditions.transfer.draw(random) + moving(len) + flush
            }
            Op::Sync { .. } | Op::SyncDir { .. } => conditions.flush.draw(random),
            _ => conditions.metadata.draw(random),
        };
        self.end_after(host, operation, after_ns);
    }

    /// The operation takes effect now, or fails.
    pub(crate) fn end_storage(&mut self, host: usize, mut pending: Pending, injected: Option<IoErrorKind>) {
        let failed = injected.or_else(|| self.drawn_error(host, pending.class));
        let result = match failed {
            Some(kind) => {
                self.fail_storage(host, &pending);
                Err(kind)
            }
            None => self.carry_out(host, &mut pending),
        };
        if let Err(kind) = result {
            if kind == IoErrorKind::Full {
                self.counts.add("refused by a full disk");
            }
            if kind != IoErrorKind::NotFound {
                self.note_failed(host, &pending.op, pending.class);
            }
        }
        self.finish(host, pending, result);
    }

    fn drawn_error(&mut self, host: usize, class: OpClass) -> Option<IoErrorKind> {
        let state = &mut self.hosts[host];
        let (odds, what) = match class {
            OpClass::Read => (state.disk_conditions.read_error, "read error"),
            OpClass::Write => (state.disk_conditions.write_error, "write error"),
            OpClass::Sync | OpClass::SyncDir => (state.disk_conditions.flush_error, "flush error"),
            _ => return None,
        };
        if !state.disk_random.happens(odds) {
            return None;
        }
        self.counts.add(what);
        Some(IoErrorKind::Device)
    }

    pub(crate) fn file(&self, host: usize, file: Handle) -> Option<FileId> {
        match self.hosts[host].process.resource(file) {
            Resource::File(id) => Some(*id),
            _ => None,
        }
    }

    fn carry_out(&mut self, host: usize, pending: &mut Pending) -> Ended {
        let covers = pending.covers;
        match &mut pending.op {
            Op::OpenDir { path, create } => {
                let state = &mut self.hosts[host];
                state.disk.open_directory(path, *create)?;
                Ok(Output::Opened(state.process.add_handle(Resource::Directory(path.clone()))))
            }
            Op::Read { file, offset, buf, len } => self.read(host, *file, *offset, buf, *len),
            Op::Write { file, offset, data, durable } => {
                let Some(id) = self.file(host, *file) else { return Err(IoErrorKind::NotFound) };
                let bytes = data.bytes();
                let durable = *durable && !self.lies(host);
                if says_recovering(bytes) == Some(true) && self.hosts[host].process.gave_up_reading() {
                    // What its recovery could not read, and all behind it, it gives up, though the disk still has it.
                    let incarnation = self.hosts[host].decay.incarnation();
                    self.strike_in(host, incarnation, "log given up for a read error");
                }
                self.write(host, id, *offset, bytes, durable)?;
                let started = self.note_hard_state(host, bytes);
                self.note_written(host, bytes, started);
                if kontiki_frame::parse_header(bytes).is_ok_and(|header| header.frame_bytes() > self.hosts[host].own_frame_bytes) {
                    self.marks.add(marks::LONGER_FRAME);
                }
                self.record(host, "written", *offset, bytes.len() as u64, hash_bytes(bytes));
                Ok(Output::Done)
            }
            Op::Allocate { file, len } => {
                let Some(id) = self.file(host, *file) else { return Err(IoErrorKind::NotFound) };
                self.hosts[host].disk.allocate(id, *len)?;
                Ok(Output::Done)
            }
            Op::Sync { file } => {
                let Some(id) = self.file(host, *file) else { return Err(IoErrorKind::NotFound) };
                if !self.lies(host) {
                    self.hosts[host].disk.sync(id, covers)?;
                }
                Ok(Output::Done)
            }
            other => self.carry_out_in_directory(host, other, covers),
        }
    }

    /// Notes what a living process has written.
    fn note_written(&mut self, host: usize, bytes: &[u8], started: bool) {
        let now_ns = self.now_ns;
        let HostState { process, unmarked, .. } = &mut self.hosts[host];
        if started {
            process.has_started = true;
            *unmarked = false;
        } else if is_of_log(bytes) {
            process.logged_at_ns = Some(now_ns);
            process.is_heavy |= is_heavy_frame(bytes);
        }
    }

    /// Whether a log has had no time yet to mark its end: zeros are written once it rests, where frames are heavy.
    pub(crate) fn is_unmarked(&self, host: usize) -> bool {
        let HostState { process, paused, .. } = &self.hosts[host];
        let rests = process.logged_at_ns.is_some_and(|at| self.now_ns.saturating_sub(at) >= MARKED_WITHIN_NS);
        process.is_heavy && (*paused || !rests)
    }

    /// Reads in a hard state what its node believes; whether it is the first of a process.
    pub(crate) fn note_hard_state(&mut self, host: usize, bytes: &[u8]) -> bool {
        let Some(recovering) = says_recovering(bytes) else { return false };
        let state = &mut self.hosts[host];
        state.closed = u64_at(bytes, 88) != 0;
        state.snapshots.stirred = true;
        let boot = u64_at(bytes, 24);
        let started = std::mem::replace(&mut state.saved_boot, boot) != boot;
        let before = std::mem::replace(&mut state.recovering, recovering);
        if recovering && !before && !state.doubtful {
            state.needless += 1;
        }
        if before && !recovering {
            self.marks.add(marks::RECOVERED);
            state.decay.made_good();
        }
        if recovering {
            state.unnoticed = None;
        } else if let Some((_, what)) = state.unnoticed.take_if(|(before, _)| *before < boot) {
            state.overlooked = Some(what);
        }
        if started || before {
            // What a start finds out about the log stands in the hard state that it saves with its boot number.
            state.doubtful &= recovering || state.decay.is_struck();
        }
        started
    }

    fn lies(&mut self, host: usize) -> bool {
        let state = &mut self.hosts[host];
        let lies = state.disk_random.happens(state.disk_conditions.lie);
        if lies {
            self.counts.add("flush that was a lie");
        }
        lies
    }

    fn read(&mut self, host: usize, file: Handle, offset: u64, buf: &mut IoBuf, len: usize) -> Ended {
        let Some(id) = self.file(host, file) else { return Err(IoErrorKind::NotFound) };
        let into = &mut buf.bytes_mut()[..len];
        let HostState { disk, disk_random: random, disk_conditions, decay, process, .. } = &mut self.hosts[host];
        process.began_at.get_or_insert(decay.incarnation());
        let rots = random.happens(disk_conditions.rot);
        let rotten = if rots { decay.rot(disk, random, id, offset, len) } else { None };
        if rots {
            self.rot_in_snapshot(host, id, offset, len);
        }
        let HostState { disk, disk_random: random, disk_conditions, decay, .. } = &mut self.hosts[host];
        let read = disk.read(id, offset, into)?;
        let stale = random.happens(disk_conditions.stale) && read > 0;
        let stale = if stale { decay.stale(disk, random, id, offset, &mut into[..read]) } else { None };
        for (what, at) in [("rot", rotten), ("stale read", stale)] {
            if let Some(at) = at {
                self.record(host, what, at, 0, 0);
                self.strike(host, what);
            }
        }
        Ok(Output::Bytes(read))
    }

    pub(crate) fn write(&mut self, host: usize, file: FileId, offset: u64, bytes: &[u8], durable: bool) -> Result<(), IoErrorKind> {
        let HostState { disk, disk_random: random, disk_conditions, decay, boot, .. } = &mut self.hosts[host];
        let followed = durable && disk_conditions.decays();
        if followed {
            let astray = random.happens(disk_conditions.astray);
            decay.writing(disk, *boot, file, offset, bytes, astray);
        }
        disk.write(file, offset, bytes, durable, &mut |_| true)?;
        if followed {
            decay.written(file, offset, bytes);
            self.find_stray(host);
        }
        Ok(())
    }

    /// A write that was reported done turns out to have landed elsewhere, now that there is evidence of it.
    fn find_stray(&mut self, host: usize) {
        let updating = self.updates_hard_state(host);
        let HostState { disk, disk_random: random, decay, boot, .. } = &mut self.hosts[host];
        if let Some(at) = decay.stray(disk, random, *boot, updating) {
            self.record(host, "astray", at, 0, 0);
            self.strike(host, "write gone astray");
        }
    }

    fn updates_hard_state(&self, host: usize) -> bool {
        let mut operations = self.hosts[host].process.operations.values();
        operations.any(|pending| matches!(&pending.op, Op::Write { data, .. } if says_recovering(data.bytes()).is_some()))
    }

    /// A bit rots of what lies on a disk.
    pub(crate) fn rot_at_rest(&mut self, host: usize) {
        if self.hosts[host].disk_random.below(3) == 0 && self.rot_a_snapshot(host) {
            return;
        }
        let updating = self.updates_hard_state(host);
        let HostState { disk, disk_random: random, decay, .. } = &mut self.hosts[host];
        if decay.rot_at_rest(disk, random, updating) {
            self.record(host, "rot", 0, 0, 0);
            self.strike(host, "rot");
        }
    }

    /// Counts damage to what was durable; and whether so many disks have some at once that nothing need be left of an entry.
    pub(crate) fn strike(&mut self, host: usize, what: &'static str) {
        let HostState { decay, process, .. } = &self.hosts[host];
        // A recovery that is under way may have read that place before: it is for the next one to see.
        let under_way = process.began_at == Some(decay.incarnation());
        self.strike_in(host, decay.incarnation() + u64::from(under_way), what);
    }

    fn strike_in(&mut self, host: usize, incarnation: u64, what: &'static str) {
        self.counts.add(what);
        self.hosts[host].decay.strike(incarnation);
        self.hosts[host].doubtful = true;
        // What is damaged later may hide what was done to files before.
        self.hosts[host].unnoticed = None;
        let struck = self.hosts.iter().filter(|state| state.decay.is_struck()).count();
        if struck > self.hosts.len() / 2 {
            self.counts.add(BEYOND);
        }
    }

    fn carry_out_in_directory(&mut self, host: usize, op: &Op, covers: u64) -> Ended {
        let (Op::Identify { dir }
        | Op::Lock { dir, .. }
        | Op::List { dir }
        | Op::Open { dir, .. }
        | Op::Rename { dir, .. }
        | Op::Unlink { dir, .. }
        | Op::SyncDir { dir }) = op
        else {
            unreachable!("{:?} is no operation on a directory", OpClass::of(op));
        };
        let state = &mut self.hosts[host];
        let Resource::Directory(path) = state.process.resource(*dir).clone() else { return Err(IoErrorKind::NotFound) };
        match op {
            Op::Lock { name, .. } => {
                // It is the directory's, whatever the file is called or became of it.
                let of_this = |(locked, _): &(PathBuf, Name)| *locked == path;
                state.lock_refused = state.late_locks.iter().any(of_this);
                if state.lock_refused || state.process.locks.iter().any(of_this) {
                    return Err(IoErrorKind::Locked);
                }
                let lock = (path.clone(), name.clone());
                if state.disk.find(&path, name).is_none() {
                    state.disk.open(&path, name, true)?;
                }
                state.process.locks.push(lock);
                Ok(Output::Opened(state.process.add_handle(Resource::Lock(path, name.clone()))))
            }
            Op::Identify { .. } if !state.identity_known => Ok(Output::Identity(Identity::default())),
            Op::Identify { .. } => {
                let (cuts, changes) = state.disk.past();
                let place = hash_bytes(path.as_os_str().as_encoded_bytes());
                Ok(Output::Identity(Identity {
                    boot: one_of(self.seed, host as u64, cuts),
                    place: one_of(self.seed ^ place, host as u64, changes),
                }))
            }
            Op::List { .. } => {
                let mut found = state.disk.list(&path)?;
                // No file system promises an order.
                state.disk_random.shuffle(&mut found);
                Ok(Output::Listing(found))
            }
            Op::Open { name, create, .. } => {
                let (id, length) = state.disk.open(&path, name, *create)?;
                Ok(Output::File(state.process.add_handle(Resource::File(id)), length))
            }
            Op::Rename { from, to, .. } => {
                state.disk.rename(&path, from, to)?;
                if from.as_str().ends_with(".seg") {
                    self.marks.add(marks::RECYCLED);
                }
                self.note_renamed(host, from, to);
                Ok(Output::Done)
            }
            Op::Unlink { name, .. } => {
                state.snapshots.stirred = true;
                state.disk.unlink(&path, name).map(|()| Output::Done)
            }
            _ => state.disk.sync_directory(&path, covers).map(|()| Output::Done),
        }
    }

    /// What a failed operation leaves behind: any part of a write, and a flush that will not be made good.
    fn fail_storage(&mut self, host: usize, pending: &Pending) {
        match &pending.op {
            Op::Write { file, offset, data, .. } => {
                if let Some(id) = self.file(host, *file) {
                    let state = &mut self.hosts[host];
                    let (disk, random) = (&mut state.disk, &mut state.disk_random);
                    // It may not even fit: then nothing was written.
                    let _ = disk.write(id, *offset, data.bytes(), false, &mut |_| random.coin());
                }
            }
            Op::Sync { file } => {
                if let Some(id) = self.file(host, *file) {
                    let state = &mut self.hosts[host];
                    let (disk, random) = (&mut state.disk, &mut state.disk_random);
                    // The file is open, so it is there.
                    let _ = disk.fail_sync(id, &mut || random.coin());
                }
            }
            Op::Read { file, offset, .. } => {
                let HostState { process, decay, .. } = &mut self.hosts[host];
                if process.began_at.is_none_or(|incarnation| incarnation == decay.incarnation()) {
                    *process.refused.entry((file.0, *offset)).or_default() += 1;
                }
            }
            _ => {}
        }
    }

    /// The process died in the middle of this operation. It happens, happens in part, or does not: on the caches, as after
    /// a completion without a flush; a power cut then decides over each sector and entry.
    pub(crate) fn abandon_storage(&mut self, host: usize, pending: &mut Pending, everything: bool) {
        if !pending.started || !pending.class.is_storage() {
            return;
        }
        if let Op::Write { file, offset, data, .. } = &pending.op {
            let Some(id) = self.file(host, *file) else { return };
            let state = &mut self.hosts[host];
            let (disk, random) = (&mut state.disk, &mut state.disk_random);
            let (whole, none) = (everything || random.coin(), random.coin());
            // A full disk: then nothing was written.
            let _ = disk.write(id, *offset, data.bytes(), false, &mut |_| whole || (!none && random.coin()));
        } else if matches!(pending.class, OpClass::Open | OpClass::Rename | OpClass::Unlink | OpClass::Allocate)
            && (everything || self.hosts[host].disk_random.coin())
        {
            // Its answer has nobody left to hear it.
            let _ = self.carry_out(host, pending);
        }
    }

    /// Writes under way on a host, as (file, offset, bytes).
    pub(crate) fn writes_under_way(&self, host: usize) -> Vec<(FileId, u64, u64)> {
        let operations = self.hosts[host].process.operations.values();
        let writes = operations.filter(|pending| pending.started).filter_map(|pending| match &pending.op {
            Op::Write { file, offset, data, .. } => Some((self.file(host, *file)?, *offset, data.bytes().len() as u64)),
            _ => None,
        });
        let late = self.hosts[host].late_writes.values().map(|late| (late.file, late.offset, late.bytes.len() as u64));
        writes.chain(late).collect()
    }
}

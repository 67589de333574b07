//! The hand on the world: hosts, processes, faults and time, for whoever drives a simulation.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use kontiki_core::Time;
use kontiki_io::{HostName, Wake};

use crate::conditions::{Conditions, DiskConditions};
use crate::disk::{Disk, FileId, Unflushed};
use crate::network::host_ip;
use crate::world::host::{Clock, Host, Injection, Process};
use crate::world::op_class::OpClass;
use crate::world::sim_io::SimIo;
use crate::world::trace::{Counts, Occurrence};
use crate::world::{Happening, World};

/// A simulated world. Cheap to clone: every clone is a hand on the same world.
///
/// A driver boots a process on each host, gives its [`SimIo`] to a reactor, and then, for as long as it likes, asks
/// [`Sim::next`] whose turn it is and turns that reactor once. Everything follows from the seed and the driver's calls.
///
/// ```
/// use kontiki_io::{Io, Op, Output, Token};
/// use kontiki_sim::{Conditions, Sim};
///
/// let sim = Sim::new(7, Conditions::calm());
/// let host = sim.add_host();
/// let mut io = sim.boot(host);
/// io.submit(Token(1), Op::OpenDir { path: "/data".into(), create: true });
/// let mut done = Vec::new();
/// while done.is_empty() {
///     let turning = sim.next(kontiki_core::Time(1_000_000_000)).expect("the process has something to do");
///     assert_eq!(turning, host);
///     io.turn(Some(kontiki_core::Time(u64::MAX)), &mut done).expect("the process is alive");
/// }
/// assert!(matches!(done[0].result, Ok(Output::Opened(_))));
/// ```
#[derive(Clone)]
pub struct Sim(Rc<RefCell<World>>);

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let world = self.0.borrow();
        write!(f, "Sim(seed {}, {} ns, trace {:016x})", world.seed, world.now_ns, world.trace.hash())
    }
}

impl Sim {
    /// A world without hosts, at time zero.
    pub fn new(seed: u64, conditions: Conditions) -> Sim {
        Sim(Rc::new(RefCell::new(World::new(seed, conditions))))
    }

    /// One more host: powered, with an empty disk and no process.
    pub fn add_host(&self) -> Host {
        self.0.borrow_mut().add_host()
    }

    /// Starts a process on a host, switching it on first if need be.
    ///
    /// # Panics
    /// If one is running there.
    pub fn boot(&self, host: Host) -> SimIo {
        let boot = self.0.borrow_mut().boot(host.0);
        SimIo::new(Rc::clone(&self.0), host.0, boot)
    }

    /// Moves time to the next turn that a process is due and says whose, not past `limit` (world time). `None`: nobody
    /// is due by then, and it is `limit` now. The driver must turn that process's reactor, or end the process.
    pub fn next(&self, limit: Time) -> Option<Host> {
        self.0.borrow_mut().next(limit.0)
    }

    /// World time: what a perfect clock would read.
    pub fn now(&self) -> Time {
        Time(self.0.borrow().now_ns)
    }

    /// The address of a port of a host.
    pub fn address(&self, host: Host, port: u16) -> SocketAddr {
        SocketAddr::new(host_ip(host.0), port)
    }

    /// Kills a process (SIGKILL): what it had under way happens, happens in part or not at all, or happens later, as the
    /// conditions say; the page cache is kept; its connections are closed or reset by the kernel. Nothing if none is running. Its `SimIo` is dead from now on.
    pub fn crash(&self, host: Host) {
        let mut world = self.0.borrow_mut();
        if world.hosts[host.0].running {
            world.counts.add("crash");
            world.end_process(host.0, "crash");
        }
    }

    /// Cuts a host's power: of what was not flushed each sector, length and directory entry reached the medium or not,
    /// drawn one by one. Its peers are told nothing. [`Sim::boot`] switches it on again.
    pub fn power_cut(&self, host: Host) {
        let mut world = self.0.borrow_mut();
        // Mostly a mixture, sometimes all or nothing.
        let (all, none) = (world.random.below(8) == 0, world.random.below(8) == 0);
        let mut chance = world.hosts[host.0].disk_random.clone();
        world.power_cut(host.0, &mut |_| all || (!none && chance.coin()));
        world.hosts[host.0].disk_random = chance;
    }

    /// Pulls out the device that a host's disk is on, and puts it back: of what was not flushed any part is lost, as in a power cut,
    /// and the process is killed; the machine runs on, and its peers hear that their connections are gone.
    pub fn pull(&self, host: Host) {
        let mut world = self.0.borrow_mut();
        world.counts.add("device pulled");
        if world.hosts[host.0].running {
            world.end_process(host.0, "device pulled");
        }
        let mut chance = world.hosts[host.0].disk_random.clone();
        world.lose_unflushed(host.0, &[], &mut |_| chance.coin());
        world.hosts[host.0].disk.was_pulled();
        world.hosts[host.0].disk_random = chance;
    }

    /// An older image of a host's disk takes the place of what is there.
    ///
    /// # Panics
    /// If a process is running there.
    pub(crate) fn roll_back(&self, host: Host, image: Disk) {
        self.install_disk(host, image);
        let mut world = self.0.borrow_mut();
        world.counts.add("image rolled back");
        let state = &mut world.hosts[host.0];
        (state.recovering, state.doubtful) = (false, true);
        state.decay.rolled_back();
    }

    /// Cuts a host's power, with the caller choosing what is kept.
    pub fn power_cut_with(&self, host: Host, mut kept: impl FnMut(Unflushed) -> bool) {
        self.0.borrow_mut().power_cut(host.0, &mut kept);
    }

    /// A copy of a host's disk as a power cut would meet it now, with the writes under way counted as unflushed: what a
    /// crash-point enumeration cuts in every way it can think of, and installs into worlds of their own.
    pub fn disk_for_cut(&self, host: Host) -> Disk {
        self.0.borrow_mut().disk_for_cut(host.0)
    }

    /// From now on a copy of a host's disk is kept, as a power cut would find it, whenever an operation on it has started or ended.
    pub fn keep_crash_points(&self, host: Host) {
        self.0.borrow_mut().crash_points = Some((host.0, Vec::new()));
    }

    /// The copies kept since this was asked last, each with the kind of operation.
    pub fn take_crash_points(&self) -> Vec<(OpClass, Disk)> {
        self.0.borrow_mut().crash_points.as_mut().map(|(_, points)| std::mem::take(points)).unwrap_or_default()
    }

    /// A host's card is pulled and put back, or its image rolled back to what [`Sim::with_disk`] makes of it: from now on
    /// [`kontiki_io::Op::Identify`] gives another place. Nothing else changes.
    pub fn change_medium(&self, host: Host) {
        let mut world = self.0.borrow_mut();
        world.hosts[host.0].disk.change_medium();
        world.record(host.0, "medium changed", 0, 0, 0);
    }

    /// Whether a host knows the identity of its boot and of its directories; else [`kontiki_io::Op::Identify`] gives zeros. It does.
    pub fn set_identity_known(&self, host: Host, known: bool) {
        self.0.borrow_mut().hosts[host.0].identity_known = known;
    }

    /// Gives a name these addresses, for every host; none takes the name away. An address as text is its own.
    /// [`Sim::hold`] makes its lookups hang, [`Sim::inject`] makes them fail.
    ///
    /// # Panics
    /// If `name` is no host name.
    pub fn set_name(&self, name: &str, addresses: &[IpAddr]) {
        let Some(host_name) = HostName::new(name) else { panic!("{name:?} is no host name") };
        let mut world = self.0.borrow_mut();
        if addresses.is_empty() {
            world.network.names.remove(&host_name);
        } else {
            world.network.names.insert(host_name, addresses.to_vec());
        }
    }

    /// Replaces a host's disk, by one that counts as another medium.
    ///
    /// # Panics
    /// If a process is running there.
    pub fn install_disk(&self, host: Host, mut disk: Disk) {
        let mut world = self.0.borrow_mut();
        assert!(!world.hosts[host.0].running, "the disk of host {} is in use", host.0);
        world.hosts[host.0].late_writes.clear();
        world.hosts[host.0].late_locks.clear();
        world.hosts[host.0].unnoticed = None;
        disk.replaces(&world.hosts[host.0].disk);
        world.hosts[host.0].disk = disk;
    }

    /// Lets a caller look at or change a host's disk: capacity, bits flipped at rest.
    pub fn with_disk<T>(&self, host: Host, change: impl FnOnce(&mut Disk) -> T) -> T {
        let mut world = self.0.borrow_mut();
        let result = change(&mut world.hosts[host.0].disk);
        world.record(host.0, "disk touched", 0, 0, 0);
        result
    }

    /// A bit rots of what lies on a host's disk, where that leaves evidence.
    pub(crate) fn rot(&self, host: Host) {
        self.0.borrow_mut().rot_at_rest(host.0);
    }

    /// Says what the longest frame is that a host's node makes by itself, in bytes.
    pub(crate) fn set_own_frame_bytes(&self, host: Host, bytes: usize) {
        self.0.borrow_mut().hosts[host.0].own_frame_bytes = bytes;
    }

    /// Mixes up segment files of a host whose node is down, where that leaves evidence.
    pub(crate) fn tamper(&self, host: Host) {
        self.0.borrow_mut().tamper(host.0);
    }

    /// From now on a host has no descriptors to give: whatever would open one fails, and some of what needs memory for the network. Or it has
    /// them again.
    pub fn set_short(&self, host: Host, short: bool) {
        let mut world = self.0.borrow_mut();
        world.hosts[host.0].short = short;
    }

    /// Operations that a host's process was refused for want of descriptors.
    pub(crate) fn refused_in_shortage(&self, host: Host) -> u64 {
        self.0.borrow().hosts[host.0].refused_in_shortage
    }

    /// How often a kind of fault has happened so far.
    pub(crate) fn counted(&self, what: &str) -> u64 {
        self.0.borrow().counts.get(what)
    }

    /// Whether something is damaged on a host's disk.
    pub(crate) fn is_struck(&self, host: Host) -> bool {
        self.0.borrow().hosts[host.0].decay.is_struck()
    }

    /// Whether no snapshot is left on a host's disk from which its log goes on, by what was done to them.
    pub(crate) fn is_bare(&self, host: Host) -> bool {
        self.0.borrow().hosts[host.0].snapshots.bare
    }

    /// The entry of a snapshot that a host took for whole, though no node made it so; says so once.
    pub(crate) fn take_forged(&self, host: Host) -> Option<u64> {
        self.0.borrow_mut().hosts[host.0].snapshots.forged.take()
    }

    /// Where what a log presupposes may have changed: the last entry before it, and the newest that a snapshot is as of; says so once.
    pub(crate) fn take_presupposed(&self, host: Host) -> Option<(u64, u64)> {
        let mut world = self.0.borrow_mut();
        let state = &mut world.hosts[host.0];
        if !std::mem::take(&mut state.snapshots.stirred) {
            return None;
        }
        Some((state.disk.presupposes()?, state.disk.newest_snapshot()))
    }

    /// Whether the last process of a host was refused a lock, since writes of one that was killed were under way.
    pub(crate) fn was_lock_refused(&self, host: Host) -> bool {
        self.0.borrow().hosts[host.0].lock_refused
    }

    /// Whether the hard state on a host's disk says that the log was closed in order.
    pub(crate) fn is_closed(&self, host: Host) -> bool {
        self.0.borrow().hosts[host.0].closed
    }

    /// Whether something is being written on a host.
    pub fn is_writing(&self, host: Host) -> bool {
        !self.0.borrow().writes_under_way(host.0).is_empty()
    }

    /// Whether a power cut would take nothing from a host's disk: nothing is being written, and nothing is unflushed.
    pub fn is_at_rest(&self, host: Host) -> bool {
        let mut world = self.0.borrow_mut();
        world.writes_under_way(host.0).is_empty() && world.disk_for_cut(host.0).unflushed().is_empty()
    }

    /// How often a host's node began to recover though nothing can have been lost of its log.
    pub(crate) fn needless_recoveries(&self, host: Host) -> u64 {
        self.0.borrow().hosts[host.0].needless
    }

    /// What had been done to segment files of a host's node that it started without noticing; says so once.
    pub(crate) fn take_overlooked(&self, host: Host) -> Option<&'static str> {
        self.0.borrow_mut().hosts[host.0].overlooked.take()
    }

    /// Whether the hard state on a host's disk says that its node is recovering.
    pub(crate) fn is_recovering(&self, host: Host) -> bool {
        self.0.borrow().hosts[host.0].recovering
    }

    /// The conditions of one host's disk.
    pub fn disk_conditions(&self, host: Host) -> DiskConditions {
        self.0.borrow().hosts[host.0].disk_conditions.clone()
    }

    /// Changes the conditions of one host's disk.
    pub fn set_disk_conditions(&self, host: Host, conditions: DiskConditions) {
        let mut world = self.0.borrow_mut();
        world.hosts[host.0].disk.set_capacity(conditions.capacity_bytes);
        world.hosts[host.0].disk_conditions = conditions;
    }

    /// Changes the conditions of everything but the disks.
    pub fn set_conditions(&self, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.0.borrow_mut().conditions);
    }

    /// Stops a process (SIGSTOP): it gets no turns; the kernel goes on receiving for it.
    pub fn pause(&self, host: Host) {
        let mut world = self.0.borrow_mut();
        world.hosts[host.0].paused = true;
        world.counts.add("pause");
        world.record(host.0, "pause", 0, 0, 0);
    }

    /// Lets a stopped process go on.
    pub fn resume(&self, host: Host) {
        let mut world = self.0.borrow_mut();
        world.hosts[host.0].paused = false;
        world.record(host.0, "resume", 0, 0, 0);
    }

    /// Nothing gets from one host to another, until [`Sim::unblock`] or [`Sim::heal`].
    pub fn block(&self, from: Host, to: Host) {
        let mut world = self.0.borrow_mut();
        world.network.links[from.0][to.0].blocked = true;
        world.record(from.0, "block", to.0 as u64, 0, 0);
    }

    /// Opens the way from one host to another.
    pub fn unblock(&self, from: Host, to: Host) {
        let mut world = self.0.borrow_mut();
        world.network.links[from.0][to.0].blocked = false;
        world.record(from.0, "unblock", to.0 as u64, 0, 0);
        world.unstall();
    }

    /// Cuts two groups of hosts off from each other, both ways.
    pub fn partition(&self, one: &[Host], other: &[Host]) {
        self.0.borrow_mut().counts.add("partition");
        for (&a, &b) in one.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
            self.block(a, b);
            self.block(b, a);
        }
    }

    /// Opens every way.
    pub fn heal(&self) {
        let mut world = self.0.borrow_mut();
        for link in world.network.links.iter_mut().flatten() {
            *link = Default::default();
        }
        world.record(0, "heal", 0, 0, 0);
        world.unstall();
    }

    /// Everything on the way from one host to another takes this much longer.
    pub fn slow(&self, from: Host, to: Host, extra_ns: u64) {
        let mut world = self.0.borrow_mut();
        world.network.links[from.0][to.0].extra_ns = extra_ns;
        world.record(from.0, "slow", to.0 as u64, extra_ns, 0);
    }

    /// Moves a host's wall clock.
    pub fn jump_wall_clock(&self, host: Host, by_ns: i64) {
        let mut world = self.0.borrow_mut();
        world.counts.add("wall clock jump");
        let clock = &mut world.hosts[host.0].clock;
        clock.wall_offset_ns = clock.wall_offset_ns.saturating_add(by_ns);
    }

    /// Lets some operations of a host fail; see [`Injection`].
    pub fn inject(&self, host: Host, injection: Injection) {
        self.0.borrow_mut().hosts[host.0].injections.push(injection);
    }

    /// Operations of this kind on this host do not take effect, and do not complete, until [`Sim::release`].
    pub fn hold(&self, host: Host, class: OpClass) {
        self.0.borrow_mut().hosts[host.0].held.push(class);
    }

    /// What was held back of this kind takes effect now.
    pub fn release(&self, host: Host, class: OpClass) {
        self.0.borrow_mut().release(host.0, class);
    }

    /// Whether a process is running on a host.
    pub fn is_running(&self, host: Host) -> bool {
        self.0.borrow().hosts[host.0].running
    }

    /// Operations of a host's process that it has not seen completed: the memory lent to the world.
    pub fn outstanding(&self, host: Host) -> usize {
        self.0.borrow().hosts[host.0].process.outstanding()
    }

    /// Handles that a host's process has open.
    pub fn open_handles(&self, host: Host) -> usize {
        self.0.borrow().hosts[host.0].process.handles.len()
    }

    /// Connections that some host still knows of.
    pub fn connections(&self) -> usize {
        self.0.borrow().network.connections.len()
    }

    /// Hash of everything that happened so far.
    pub fn trace_hash(&self) -> u64 {
        self.0.borrow().trace.hash()
    }

    /// How many things happened so far.
    pub fn trace_length(&self) -> u64 {
        self.0.borrow().trace.length()
    }

    /// The last things that happened, as many as the conditions say to keep.
    pub fn trace_tail(&self) -> Vec<Occurrence> {
        self.0.borrow().trace.tail()
    }

    /// Adds a driver's own doing to the trace.
    pub fn mark(&self, host: Host, what: &'static str, a: u64, b: u64) {
        self.0.borrow_mut().record(host.0, what, a, b, 0);
    }

    /// Counts a fault of a driver's own.
    pub fn count(&self, what: &'static str) {
        self.0.borrow_mut().counts.add(what);
    }

    /// Counts something that should sometimes happen.
    pub fn meet(&self, mark: &'static str) {
        self.0.borrow_mut().marks.add(mark);
    }

    /// What should sometimes happen and did, by kind.
    pub fn met(&self) -> Counts {
        self.0.borrow().marks.clone()
    }

    /// Faults so far, by kind.
    pub fn counts(&self) -> Counts {
        self.0.borrow().counts.clone()
    }
}

impl World {
    fn boot(&mut self, host: usize) -> u64 {
        let now_ns = self.now_ns;
        let was_powered = self.hosts[host].powered;
        let state = &mut self.hosts[host];
        assert!(!state.running, "a process is running on host {host}: crash it, cut its power, or drop its SimIo first");
        if !was_powered {
            // Monotonic clocks start anew with the machine.
            let start_ns = state.disk_random.below(60_000_000_000);
            let wall_offset_ns = state.clock.wall_offset_ns;
            state.clock = Clock::new(now_ns, start_ns, state.clock.drift_ppm());
            state.clock.wall_offset_ns = wall_offset_ns;
        }
        state.powered = true;
        state.running = true;
        state.paused = false;
        state.boot += 1;
        state.refused_in_shortage = 0;
        state.process = Process { wake_at_ns: Some(now_ns), ..Process::default() };
        let boot = state.boot;
        self.record(host, "boot", boot, u64::from(was_powered), 0);
        if !was_powered {
            self.unstall();
        }
        boot
    }

    /// The process is gone, the kernel lives.
    pub(crate) fn end_process(&mut self, host: usize, how: &'static str) {
        self.record(host, how, self.hosts[host].boot, 0, 0);
        self.hosts[host].unmarked |= self.is_unmarked(host);
        self.leave_writes_behind(host);
        self.abandon(host, false);
        let boot = self.hosts[host].boot;
        for (connection, side) in self.network.sides_of(host, boot) {
            let abort = self.random.coin();
            self.close_side(connection, side, abort);
        }
        let listeners = self.network.listeners.iter();
        let own: Vec<u64> = listeners.filter(|(_, listener)| listener.host == host).map(|(&id, _)| id).collect();
        for id in own {
            self.close_listener(id);
        }
        self.wipe(host);
    }

    /// Writes under way reach the caches first, sector by sector undecided like everything unflushed; then the disk decides.
    fn power_cut(&mut self, host: usize, kept: &mut dyn FnMut(Unflushed) -> bool) {
        self.record(host, "power cut", self.hosts[host].boot, 0, 0);
        self.counts.add("power cut");
        let writes = self.writes_under_way(host);
        self.abandon(host, true);
        self.lose_unflushed(host, &writes, kept);
        let boot = self.hosts[host].boot;
        for (connection, side) in self.network.sides_of(host, boot) {
            self.lose_side(connection, side);
        }
        self.network.listeners.retain(|_, listener| listener.host != host);
        self.wipe(host);
        self.hosts[host].powered = false;
    }

    /// The disk is left with what was flushed, and any part of the rest.
    fn lose_unflushed(&mut self, host: usize, writes: &[(FileId, u64, u64)], kept: &mut dyn FnMut(Unflushed) -> bool) {
        let state = &self.hosts[host];
        // A process that only started has nothing under way that its log consists of: hard states, and zeros.
        let idle = state.process.has_started && state.process.logged_at_ns.is_none() && state.late_writes.is_empty();
        let unmarked = state.unmarked || self.is_unmarked(host);
        self.abandon_late_writes(host);
        let state = &mut self.hosts[host];
        let mut choices = 0u64;
        let mut losses = 0u64;
        state.disk.cut(&mut |choice| {
            let keep = kept(choice);
            choices += 1;
            losses += u64::from(!keep);
            keep
        });
        if choices > 0 {
            // What becomes of names and contents now may undo what was done to them.
            state.unnoticed = None;
        }
        // With nothing unflushed and nothing under way, a power cut takes nothing.
        state.doubtful |= choices > 0 && !idle || unmarked;
        let mut garbled = 0;
        for &(file, offset, _) in writes {
            let group = state.disk_conditions.erase_group_bytes;
            let Some(from) = offset.checked_div(group).map(|groups| groups * group) else { continue };
            if from < offset && state.disk_random.coin() {
                let random = &mut state.disk_random;
                state.disk.garble(file, from, offset - from, &mut || random.bits());
                garbled += 1;
            }
        }
        (0..garbled).for_each(|_| self.strike(host, "erase group garbled"));
        self.record(host, "lost", choices, losses, 0);
        self.counts.add_many("unflushed and lost", losses);
    }

    /// What the process had under way on the disk.
    fn abandon(&mut self, host: usize, everything: bool) {
        for mut pending in std::mem::take(&mut self.hosts[host].process.operations).into_values() {
            self.abandon_storage(host, &mut pending, everything);
        }
    }

    /// All that the kernel kept for the process; the memory lent with its operations is given up here.
    fn wipe(&mut self, host: usize) {
        self.network.attempts.retain(|_, attempt| attempt.host != host);
        let state = &mut self.hosts[host];
        state.process = Process::default();
        state.running = false;
        state.paused = false;
        state.held.clear();
        state.withheld.clear();
        state.disk.collect();
    }

    /// Keeps the disk if somebody wants to know what a power cut would find now.
    pub(crate) fn crash_point(&mut self, host: usize, class: OpClass) {
        if self.crash_points.as_ref().is_some_and(|(watched, _)| *watched == host) {
            let disk = self.disk_for_cut(host);
            self.crash_points.iter_mut().for_each(|(_, points)| points.push((class, disk.clone())));
        }
    }

    fn disk_for_cut(&mut self, host: usize) -> Disk {
        let mut copy = self.hosts[host].disk.clone();
        std::mem::swap(&mut copy, &mut self.hosts[host].disk);
        // What is under way is done to the disk that stands in the world meanwhile, and that disk is then taken out.
        let random = self.hosts[host].disk_random.clone();
        let mut operations = std::mem::take(&mut self.hosts[host].process.operations);
        let handles = self.hosts[host].process.next_handle;
        for pending in operations.values_mut() {
            self.abandon_storage(host, pending, true);
        }
        let state = &mut self.hosts[host];
        state.process.operations = operations;
        state.process.handles.retain(|&handle, _| handle <= handles);
        state.process.next_handle = handles;
        state.disk_random = random;
        std::mem::replace(&mut state.disk, copy)
    }

    fn release(&mut self, host: usize, class: OpClass) {
        let boot = self.hosts[host].boot;
        let state = &mut self.hosts[host];
        state.held.retain(|&held| held != class);
        let process = &state.process;
        let (freed, kept): (Vec<u64>, Vec<u64>) = std::mem::take(&mut state.withheld)
            .into_iter()
            .partition(|operation| process.operations.get(operation).is_some_and(|pending| pending.class == class));
        state.withheld = kept;
        for operation in freed {
            self.schedule(0, Happening::End { host, boot, operation });
        }
    }
}

impl Sim {
    /// Rings the bell of a host's process, as a caller in another thread would.
    pub fn ring(&self, host: Host) {
        self.0.borrow().hosts[host.0].process.bell.wake();
    }
}

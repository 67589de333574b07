//! The hand on the world: hosts, processes, faults and time, for whoever drives a simulation.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use kontiki_core::Time;
use kontiki_io::{HostName, Wake};

use crate::conditions::{Conditions, DiskConditions};
use crate::disk::{Disk, Unflushed};
use crate::network::host_ip;
use crate::world::World;
use crate::world::host::{Host, Injection};
use crate::world::op_class::OpClass;
use crate::world::sim_io::SimIo;
use crate::world::trace::{Counts, Occurrence};

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

    /// Rings the bell of a host's process, as a caller in another thread would.
    pub fn ring(&self, host: Host) {
        self.0.borrow().hosts[host.0].process.bell.wake();
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

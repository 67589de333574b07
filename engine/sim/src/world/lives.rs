//! How a process begins and ends: booted, killed, its host's power cut; and what is left of the disk then.

use crate::disk::{Disk, FileId, Unflushed};
use crate::world::World;
use crate::world::host::{Clock, Process};
use crate::world::op_class::OpClass;

impl World {
    pub(crate) fn boot(&mut self, host: usize) -> u64 {
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
    pub(crate) fn power_cut(&mut self, host: usize, kept: &mut dyn FnMut(Unflushed) -> bool) {
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
    pub(crate) fn lose_unflushed(&mut self, host: usize, writes: &[(FileId, u64, u64)], kept: &mut dyn FnMut(Unflushed) -> bool) {
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

    pub(crate) fn disk_for_cut(&mut self, host: usize) -> Disk {
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
}

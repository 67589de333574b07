//! What strikes a cluster, and how: one blow at a time, each drawn from a stream of random numbers of its own.

use super::chaos::{Chaos, Plan, STOP_NS};
use crate::cluster::marks;
use crate::conditions::{MILLISECOND, SECOND};
use crate::faults::Fault;
use crate::random::Random;
use crate::world::host::Host;

/// What strikes, the more often the more often it stands here.
const STRIKES: [Fault; 28] = [
    Fault::Crash,
    Fault::Crash,
    Fault::PowerCut,
    Fault::PowerCut,
    Fault::Pause,
    Fault::Isolation,
    Fault::Split,
    Fault::Partial,
    Fault::OneWay,
    Fault::SlowLink,
    Fault::SlowLink,
    Fault::Rot,
    Fault::Rot,
    Fault::ClockJump,
    Fault::FullDisk,
    Fault::AllAtOnce,
    Fault::AllAtOnce,
    Fault::Device,
    Fault::Image,
    Fault::File,
    Fault::File,
    Fault::Stop,
    Fault::Stop,
    Fault::Shortage,
    Fault::Shortage,
    Fault::Lull,
    Fault::Lull,
    Fault::Lull,
];

impl Chaos<'_> {
    /// Whoever leads is struck more often.
    fn victim(&self, random: &mut Random) -> usize {
        let (leader, any) = (random.below(3) == 0, random.below(self.cluster.len() as u64) as usize);
        if leader { self.cluster.guess() } else { any }
    }

    fn hosts(&self, wanted: impl Fn(usize) -> bool) -> Vec<Host> {
        (0..self.cluster.len()).filter(|&n| wanted(n)).map(|n| self.cluster.host(n)).collect()
    }

    pub(super) fn strike(&mut self, random: &mut Random) {
        let fault = random.pick(&STRIKES).copied().unwrap_or(Fault::Crash);
        let longest_ns = random.pick(&[MILLISECOND, 100 * MILLISECOND, SECOND, 8 * SECOND]).copied().unwrap_or(SECOND);
        let away_ns = random.below(longest_ns);
        let (n, m) = (self.victim(random), self.victim(random));
        if !self.faults.has(fault) {
            return;
        }
        let sim = self.cluster.sim().clone();
        let (host, other) = (self.cluster.host(n), self.cluster.host(m));
        self.cluster.say(format_args!(
            "{} strikes node {} (of the rest first node {}), for {} ms",
            fault.name(),
            n + 1,
            m + 1,
            away_ns / MILLISECOND
        ));
        match fault {
            Fault::Crash => {
                if self.cluster.is_up(n) {
                    sim.meet(marks::KILLED);
                }
                self.cluster.crash(n);
                self.plan_after(away_ns, Plan::Start(n));
            }
            Fault::PowerCut => {
                self.cluster.power_cut(n);
                self.plan_after(away_ns, Plan::Start(n));
            }
            Fault::AllAtOnce => {
                // As when the lights go out.
                let power = random.coin();
                sim.count("all at once");
                for m in 0..self.cluster.len() {
                    if power {
                        self.cluster.power_cut(m)
                    } else {
                        self.cluster.crash(m)
                    }
                    self.plan_after(random.below(longest_ns), Plan::Start(m));
                }
            }
            // A process that was asked to stop is not kept from it.
            Fault::Pause if self.cluster.is_stopping(n) => {}
            Fault::Pause => {
                sim.pause(host);
                self.plan_after(away_ns, Plan::Resume(n));
            }
            Fault::Isolation => {
                sim.partition(&[host], &self.hosts(|m| m != n));
                self.plan_after(away_ns, Plan::Heal);
            }
            Fault::Split => {
                let sides: Vec<bool> = (0..self.cluster.len()).map(|_| random.coin()).collect();
                sim.partition(&self.hosts(|m| sides[m]), &self.hosts(|m| !sides[m]));
                self.plan_after(away_ns, Plan::Heal);
            }
            Fault::Partial => {
                if m != n {
                    sim.count("partial partition");
                    sim.block(host, other);
                    sim.block(other, host);
                    self.plan_after(away_ns, Plan::Heal);
                }
            }
            Fault::OneWay => {
                if m != n {
                    sim.count("one-way block");
                    sim.block(host, other);
                    self.plan_after(away_ns, Plan::Heal);
                }
            }
            Fault::SlowLink => {
                sim.count("slow links");
                let most_ms = random.pick(&[20, 200, 3_000]).copied().unwrap_or(20);
                let extra_ns = random.between(MILLISECOND, most_ms * MILLISECOND);
                let (to, both) = (if random.coin() { vec![other] } else { self.hosts(|m| m != n) }, random.coin());
                for to in to {
                    sim.slow(host, to, extra_ns);
                    if both {
                        sim.slow(to, host, extra_ns);
                    }
                }
                self.plan_after(away_ns, Plan::Heal);
            }
            Fault::ClockJump => {
                let by_ns = random.pick(&[SECOND, 3_600 * SECOND, 1 << 62]).copied().unwrap_or(0) as i64;
                sim.jump_wall_clock(host, if random.coin() { by_ns } else { -by_ns });
            }
            Fault::FullDisk => {
                let everywhere = random.below(4) == 0;
                for n in (0..self.cluster.len()).filter(|&m| everywhere || m == n) {
                    // From nothing more at all to some segments.
                    let room = random.below(5) * random.below(256 << 10);
                    self.fill(n, room);
                    // Long enough for a segment to become full.
                    self.plan_after(away_ns + random.below(8 * SECOND), Plan::Space(n));
                }
            }
            Fault::Rot => {
                let bad: Vec<usize> = (0..self.bad.len()).filter(|&n| self.bad[n]).collect();
                if let Some(&n) = random.pick(&bad)
                    // A recovery under way has seen some of the log already: then nobody could say whether it sees this.
                    && (self.cluster.is_serving(n) || !self.cluster.is_up(n))
                {
                    sim.rot(self.cluster.host(n));
                }
            }
            Fault::Device => {
                self.cluster.pull(n);
                self.plan_after(away_ns, Plan::Start(n));
            }
            Fault::Image => self.roll_back(n, away_ns),
            Fault::File => {
                let bad: Vec<usize> = (0..self.bad.len()).filter(|&n| self.bad[n]).collect();
                if let Some(&n) = random.pick(&bad) {
                    if random.coin() {
                        self.cluster.power_cut(n);
                    } else {
                        self.cluster.crash(n);
                    }
                    // Once the writes of the dead have landed, mostly.
                    self.plan_after(away_ns, Plan::Tamper(n));
                    self.plan_after(away_ns, Plan::Start(n));
                }
            }
            Fault::Stop => self.stop(n, away_ns, random),
            Fault::Shortage => {
                let everywhere = random.below(4) == 0;
                for n in (0..self.cluster.len()).filter(|&m| everywhere || m == n) {
                    sim.count("descriptors run out");
                    self.cluster.set_short(n, true);
                    self.plan_after(away_ns, Plan::Plenty(n));
                }
            }
            Fault::Lull => self.lull(random),
            // These are conditions of the world, or of bad disks.
            Fault::Reset
            | Fault::Flip
            | Fault::Stall
            | Fault::DiskError
            | Fault::Astray
            | Fault::StaleRead
            | Fault::EraseGroup
            | Fault::LateWrite
            | Fault::SlowFlush
            | Fault::OwnLimits
            | Fault::NewLimits
            | Fault::Away
            | Fault::Doubt => {}
        }
    }

    /// An older image of a node's disk takes its place, if there is one; else one is made. Only where acknowledged entries may be lost anyhow: an
    /// older disk is as good as any, and nothing on it says what is gone.
    fn roll_back(&mut self, n: usize, away_ns: u64) {
        if self.is_survivable() {
            return;
        }
        let (sim, host) = (self.cluster.sim().clone(), self.cluster.host(n));
        match self.images[n].take() {
            None => {
                let mut image = sim.disk_for_cut(host);
                image.cut(&mut |_| true);
                self.images[n] = Some(image);
            }
            Some(image) => {
                self.cluster.power_cut(n);
                sim.roll_back(host, image);
                self.cluster.forget_votes();
                self.cluster.set_may_stop(n, true);
                self.plan_after(away_ns, Plan::Start(n));
            }
        }
    }

    /// A node is asked to stop, beside peers of some kind.
    fn stop(&mut self, n: usize, away_ns: u64, random: &mut Random) {
        let sim = self.cluster.sim().clone();
        let (host, peers) = (self.cluster.host(n), self.hosts(|m| m != n));
        let kind = random.below(4);
        // At once, or when the links are full of what nobody takes.
        let after_ns = random.below(2) * random.below(3 * SECOND);
        let mark = match kind {
            1 if !peers.is_empty() => {
                sim.partition(&[host], &peers);
                self.plan_after(after_ns + away_ns + SECOND, Plan::Heal);
                marks::STOP_BESIDE_DARK
            }
            2 if !peers.is_empty() => {
                sim.count("slow links");
                let extra_ns = random.between(100, 5_000) * MILLISECOND;
                for &peer in &peers {
                    sim.slow(peer, host, extra_ns);
                    sim.slow(host, peer, extra_ns);
                }
                self.plan_after(after_ns + away_ns + SECOND, Plan::Heal);
                marks::STOP_BESIDE_SLOW
            }
            3 if !peers.is_empty() => {
                for m in (0..self.cluster.len()).filter(|&m| m != n) {
                    self.fill(m, 0);
                    self.plan_after(after_ns + away_ns + 4 * SECOND, Plan::Space(m));
                }
                marks::STOP_BESIDE_FULL
            }
            _ => marks::STOP_NOTED,
        };
        self.plan_after(after_ns, Plan::Stop(n, mark));
    }

    pub(super) fn ask_to_stop(&mut self, n: usize, mark: &'static str) {
        // One that gets no processor cannot stop.
        let is_paused = self.plans.iter().any(|(_, plan)| matches!(plan, Plan::Resume(m) if *m == n));
        if self.cluster.is_up(n) && !is_paused {
            self.cluster.sim().count("orderly stop");
            self.cluster.stop_beside(n, mark);
            self.plan_after(STOP_NS, Plan::Ended(n, self.cluster.starts(n)));
        }
    }

    pub(super) fn end_shortage(&mut self, n: usize) {
        let refused = self.cluster.sim().refused_in_shortage(self.cluster.host(n));
        self.cluster.set_short(n, false);
        if refused > 0 && self.cluster.is_serving(n) {
            self.cluster.sim().meet(marks::SHORTAGE_OVER);
        }
    }

    /// A disk takes only `room` bytes more, until there is space again.
    fn fill(&mut self, n: usize, room: u64) {
        let sim = self.cluster.sim();
        sim.count("disk filled");
        sim.with_disk(self.cluster.host(n), |disk| disk.set_capacity(disk.used_bytes() + room));
        self.cluster.set_full(n, true);
    }

    pub(super) fn make_space(&mut self, n: usize) {
        let host = self.cluster.host(n);
        let conditions = self.cluster.sim().disk_conditions(host);
        self.cluster.sim().set_disk_conditions(host, conditions);
        self.cluster.set_full(n, false);
    }
}

//! A run while faults strike: what is under way, what is to be undone later, and when the next blow comes.

use kontiki::{Config, Medium};
use kontiki_core::Time;

use super::report::Extent;
use super::setup::Kind;
use crate::cluster::Cluster;
use crate::conditions::{Harm, MILLISECOND, SECOND};
use crate::disk::Disk;
use crate::faults::{Fault, Faults};
use crate::random::{Odds, Random};

/// Something to undo, or to do, later.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    Start(usize),
    /// Its segment files are mixed up, if it is down.
    Tamper(usize),
    Resume(usize),
    Heal,
    /// The disk has space again.
    Space(usize),
    /// There are descriptors again.
    Plenty(usize),
    /// Whoever is away most of the time goes.
    Leave(usize),
    /// It is asked to stop.
    Stop(usize, &'static str),
    /// This process of a node, which was asked to stop, has ended.
    Ended(usize, u64),
    /// The power fails again as soon as this process of a node serves.
    Flicker(usize, u64),
    /// The power fails, if this process still runs.
    Cut(usize, u64),
}

/// The streams of random numbers that strikes draw from, one each: so that one left out changes nothing of the others.
const STRIKE_STREAMS: u64 = 1 << 32;

/// What an orderly stop takes at most, in nanoseconds: the transport's patience, and slow flushes.
pub(super) const STOP_NS: u64 = 10 * SECOND;
/// How long whoever is away most of the time stays at most, and how long it is away, in nanoseconds.
const AWAY_UP_NS: u64 = 3 * SECOND;
const AWAY_NS: std::ops::Range<u64> = 5 * SECOND..40 * SECOND;
/// The same in a forgetful world: long enough for the log to be gone, and as long again for a snapshot to come, or not quite.
const FORGETFUL_UP_NS: u64 = 6 * SECOND;
const FORGETFUL_AWAY_NS: std::ops::Range<u64> = 2 * SECOND..16 * SECOND;
/// After one of so many starts the power fails again; and how often it is looked whether the start is done, in
/// nanoseconds.
const FLICKERS: u64 = 6;
const FLICKER_NS: u64 = MILLISECOND / 2;

pub(super) struct Chaos<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) plans: Vec<(Time, Plan)>,
    pub(super) faults: Faults,
    /// Nodes with bad disks.
    pub(super) bad: Vec<bool>,
    pub(super) kind: Kind,
    /// What the nodes are configured with, unless they have limits of their own.
    pub(super) base: Config,
    /// Older images of the disks.
    pub(super) images: Vec<Option<Disk>>,
}

impl Chaos<'_> {
    pub(super) fn now(&self) -> Time {
        self.cluster.sim().now()
    }

    pub(super) fn run(mut self, extent: Extent) {
        let end = self.now().plus_ns(extent.chaos_ns);
        for n in 0..self.cluster.len() {
            self.plan(SECOND / 2, Plan::Start(n));
        }
        if self.bad.contains(&true) {
            self.cluster.sim().count(if self.is_survivable() { "seed with bad disks" } else { "seed with too many bad disks" });
        }
        self.spoil_disks(extent);
        self.cluster.set_judges_doubt(self.faults.has(Fault::Doubt));
        self.cluster.sim().set_conditions(|conditions| conditions.processor.lock_waits = !extent.free_locks);
        if self.faults.has(Fault::LateWrite) {
            let odds = self.random_of(15).pick(&[Odds::one_in(4), Odds::one_in(2), Odds::ALWAYS]).copied().unwrap_or(Odds::NEVER);
            self.cluster.sim().set_conditions(|conditions| conditions.processor.late_write = odds);
        }
        self.cluster.set_clients(true);
        // Blow upon blow in one world, time to settle between them in another.
        let pace_ns = (200 * MILLISECOND) << self.random.below(9);
        let mut strike_at = self.now().plus_ns(self.random.below(pace_ns));
        let mut strikes = 0;
        while self.now() < end {
            let next = self.plans.iter().map(|(at, _)| *at).min().unwrap_or(end).min(strike_at).min(end);
            self.cluster.run_until(next);
            self.carry_out_due();
            self.restart_the_stopped();
            if self.now() >= strike_at {
                let mut random = Random::stream(self.seed, STRIKE_STREAMS + strikes);
                strikes += 1;
                strike_at = self.now().plus_ns(1 + random.below(2 * pace_ns));
                self.strike(&mut random);
            }
            if !self.cluster.objections().is_empty() {
                return;
            }
        }
        self.heal_and_demand();
    }

    fn spoil_disks(&mut self, extent: Extent) {
        for n in 0..self.cluster.len() {
            let mut disk = self.cluster.sim().disk_conditions(self.cluster.host(n));
            if extent.lying_disks {
                // Now and then, or no node would get far enough to be believed. A node that notices may stop.
                disk.lie = Odds::one_in(8);
                self.cluster.set_may_stop(n, true);
            }
            if self.bad[n] {
                let mut random = Random::stream(self.seed, 3_000 + n as u64);
                let mut odds = |most: u64| Odds::one_in(random.between(50, most) as u32);
                // Flushes are rare: frames and hard states are durable writes.
                let errors = [odds(2_000), odds(5_000), odds(200)];
                let (rot, astray, stale) = (odds(2_000), odds(5_000), odds(300));
                let groups = random.below(8);
                if extent.faults.has(Fault::DiskError) {
                    [disk.read_error, disk.write_error, disk.flush_error] = errors;
                }
                if extent.faults.has(Fault::Rot) {
                    disk.rot = rot;
                }
                if extent.faults.has(Fault::Astray) {
                    disk.astray = astray;
                }
                if extent.faults.has(Fault::StaleRead) {
                    disk.stale = stale;
                }
                disk.tampered = extent.faults.has(Fault::File);
                disk.snapshots = self.harm();
                if extent.faults.has(Fault::EraseGroup) && self.cluster.medium() == Medium::Lossy {
                    disk.erase_group_bytes = 4096 << groups;
                }
                self.cluster.set_may_stop(n, true);
            }
            self.cluster.sim().set_disk_conditions(self.cluster.host(n), disk);
        }
    }

    /// What may become of snapshots on bad disks. A node without any needs a leader, which others have to elect; and a sole one is at an end.
    fn harm(&self) -> Harm {
        let bad = self.bad.iter().filter(|&&bad| bad).count();
        if bad <= (self.bad.len() - 1) / 2 {
            Harm::Any
        } else if self.is_survivable() {
            Harm::None
        } else {
            Harm::Sparing
        }
    }

    /// Nodes that stopped by themselves are started again, as an operator would.
    fn restart_the_stopped(&mut self) {
        for n in 0..self.cluster.len() {
            let planned = self.plans.iter().any(|(_, plan)| matches!(plan, Plan::Start(m) if *m == n));
            if !self.cluster.is_up(n) && !planned {
                self.plan(2 * SECOND, Plan::Start(n));
            }
        }
    }

    /// Some time within `within_ns` from now.
    fn plan(&mut self, within_ns: u64, plan: Plan) {
        let after_ns = self.random.below(within_ns);
        self.plan_after(after_ns, plan);
    }

    pub(super) fn plan_after(&mut self, after_ns: u64, plan: Plan) {
        let at = self.now().plus_ns(after_ns);
        self.plans.push((at, plan));
    }

    /// A stream of random numbers of its own.
    fn random_of(&self, purpose: u64) -> Random {
        Random::stream(self.seed, purpose)
    }

    /// Starts a node, with limits of its own where it has some.
    pub(super) fn start(&mut self, n: usize) {
        if self.cluster.is_up(n) {
            return;
        }
        if let Some(config) = self.kind.config_of(self.seed, &self.base, n, self.cluster.starts(n)) {
            self.cluster.set_config(n, config);
        }
        self.cluster.start(n);
        if self.random.below(FLICKERS) == 0 && self.faults.has(Fault::PowerCut) {
            self.plan_after(FLICKER_NS, Plan::Flicker(n, self.cluster.starts(n)));
        }
        if self.kind.away == Some(n) {
            self.plans.retain(|(_, plan)| !matches!(plan, Plan::Leave(m) if *m == n));
            self.plan(if self.kind.forgetful { FORGETFUL_UP_NS } else { AWAY_UP_NS }, Plan::Leave(n));
        }
    }

    /// Power that comes back flickers: a process that has just started loses it again, with nothing of its own written
    /// yet.
    fn flicker(&mut self, n: usize, start: u64) {
        if self.cluster.starts(n) != start || !self.cluster.is_up(n) {
            return;
        }
        if self.cluster.is_serving(n) {
            let flush_ns = self.cluster.sim().disk_conditions(self.cluster.host(n)).flush.max_ns;
            self.plan(2 * flush_ns, Plan::Cut(n, start));
        } else {
            self.plan_after(FLICKER_NS, Plan::Flicker(n, start));
        }
    }

    /// Whoever is away most of the time goes, one way or the other, for long.
    fn leave(&mut self, n: usize) {
        if !self.cluster.is_up(n) {
            return;
        }
        self.cluster.sim().count("away");
        let away = if self.kind.forgetful { FORGETFUL_AWAY_NS } else { AWAY_NS };
        let away_ns = away.start + self.random.below(away.end - away.start);
        match self.random.below(if self.kind.forgetful { 3 } else { 2 }) {
            0 => self.cluster.crash(n),
            1 => self.cluster.power_cut(n),
            _ => {
                // It hears and says nothing, and what it has under way waits.
                let others = (0..self.cluster.len()).filter(|&m| m != n).map(|m| self.cluster.host(m)).collect::<Vec<_>>();
                self.cluster.sim().partition(&[self.cluster.host(n)], &others);
                self.plan_after(away_ns, Plan::Heal);
                let up_ns = self.random.below(FORGETFUL_UP_NS);
                self.plan_after(away_ns + up_ns, Plan::Leave(n));
                return;
            }
        }
        self.plans.retain(|(_, plan)| !matches!(plan, Plan::Start(m) if *m == n));
        self.plan_after(away_ns, Plan::Start(n));
    }

    fn carry_out_due(&mut self) {
        let now = self.now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.plans).into_iter().partition(|(at, _)| *at <= now);
        self.plans = later;
        for (_, plan) in due {
            match plan {
                Plan::Start(n) => self.start(n),
                Plan::Tamper(n) => self.cluster.sim().tamper(self.cluster.host(n)),
                Plan::Resume(n) => self.cluster.sim().resume(self.cluster.host(n)),
                Plan::Heal => self.cluster.sim().heal(),
                Plan::Space(n) => self.make_space(n),
                Plan::Plenty(n) => self.end_shortage(n),
                Plan::Leave(n) => self.leave(n),
                Plan::Stop(n, mark) => self.ask_to_stop(n, mark),
                Plan::Flicker(n, start) => self.flicker(n, start),
                Plan::Cut(n, start) => {
                    if self.cluster.starts(n) == start && self.cluster.is_up(n) {
                        self.cluster.sim().count("power flickered");
                        self.cluster.power_cut(n);
                        self.plan(SECOND, Plan::Start(n));
                    }
                }
                Plan::Ended(n, start) => {
                    if self.cluster.starts(n) == start && self.cluster.is_stopping(n) {
                        self.cluster.judge_mut().not_live("an orderly stop ends", STOP_NS);
                    }
                }
            }
        }
    }
}

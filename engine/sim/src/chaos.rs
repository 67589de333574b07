//! One run from one seed: a cluster is set up, faults strike it while clients write, then everything is healed and must work.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kontiki::{Config, Medium};
use kontiki_core::Time;

use crate::cluster::{Cluster, Setup};
use crate::conditions::{Conditions, Delay, MILLISECOND, SECOND};
use crate::faults::{Fault, Faults};
use crate::host::Host;
use crate::judge::{Fate, Violation};
use crate::listener::Listener;
use crate::marks;
use crate::random::{Odds, Random};
use crate::sim::Sim;
use crate::trace::{Counts, Occurrence};
use crate::workload::Workload;

/// What came of one seed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Nodes.
    pub members: usize,
    /// Simulated time, in nanoseconds.
    pub simulated_ns: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Entries applied.
    pub entries: u64,
    /// Terms with a leader.
    pub terms: u64,
    /// Operations of clients that were judged as one history.
    pub operations: u64,
    /// Those of them that read.
    pub reads: u64,
    /// Whether the history of the clients could be judged: a search for an order may take too much memory.
    pub decided: bool,
    /// Faults, by kind.
    pub counts: Counts,
    /// What should sometimes happen, and how often it did.
    pub marks: Counts,
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// How many things happened.
    pub trace_length: u64,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// A broken assertion of the engine, or of the world.
    pub panic: Option<String>,
    /// How the nodes stood at the end, a line each.
    pub standings: Vec<String>,
    /// What the nodes said, and what struck them: the end of it, as many lines as of the trace.
    pub log: Vec<String>,
    /// The end of the trace, as much as was asked for.
    pub tail: Vec<Occurrence>,
}

impl Report {
    /// Whether all was well.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.panic.is_none()
    }
}

/// How much to run.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Simulated time with faults, in nanoseconds.
    pub chaos_ns: u64,
    /// The clients write at a pace at which the log lasts for so long, in nanoseconds: at least `chaos_ns`. A run of the same pace
    /// that ends sooner is the beginning of the longer one.
    pub pace_ns: u64,
    /// Kinds of faults that may happen.
    pub faults: Faults,
    /// Occurrences of the trace to keep.
    pub keep_trace: usize,
    /// Some disks are bad in every seed, not in a third of them only: errors, rot, writes gone astray, stale reads, damage in power cuts.
    pub bad_disks: bool,
    /// All disks lie about their flushes. No engine survives that: the judge must notice.
    pub lying_disks: bool,
}

impl Extent {
    /// So much simulated time with faults, in nanoseconds: all of them.
    pub const fn of(chaos_ns: u64) -> Extent {
        Extent { chaos_ns, pace_ns: chaos_ns, faults: Faults::ALL, keep_trace: 0, bad_disks: false, lying_disks: false }
    }
}

/// How long the node furthest behind may make no progress once everything is healed, in nanoseconds of simulated time.
const RECOVERY_NS: u64 = 60 * SECOND;
/// How often nodes may stop after everything is healed, for rot that they come upon only then.
const MAX_FINDS: u32 = 50;
/// What the simulated TCP takes at most to get going again after a heal (retransmission and connection retries back off).
const TRANSPORT_NS: u64 = 4 * SECOND;

/// How much log a run makes, one of these, in bytes, and how much of it is kept where the state machines are durable: half, so that segments
/// are recycled, and a node that was away finds what it missed. Every boot reads it back, which is most of the work of a long run.
const LOG_BYTES: [u64; 4] = [1 << 20, 2 << 20, 4 << 20, 16 << 20];
/// Segments that the log has at least, and at most: it may have 512, and a recovery that drops something opens one.
const LOG_SEGMENTS: std::ops::RangeInclusive<u64> = 10..=200;

/// Runs one seed.
pub fn run(seed: u64, extent: Extent) -> Report {
    let mut random = Random::stream(seed, 10);
    let mut conditions = Conditions::drawn(&mut random);
    leave_out(&mut conditions, extent.faults);
    conditions.keep_trace = extent.keep_trace;
    let sim = Sim::new(seed, conditions);
    let (mut setup, log_bytes) = draw_setup(seed, &mut random);
    let members = setup.members;
    let bad = bad_disks(seed, members, extent.bad_disks);
    let keeps_all = bad.contains(&true) && !seed.is_multiple_of(4);
    if keeps_all {
        // All of the log, so that the others still have whatever a bad disk loses.
        setup.config.retention_bytes = 2 * log_bytes;
    }
    let mut workload = Workload::drawn(Random::stream(seed, 11), setup.config.max_entry_bytes);
    workload.fit(extent.pace_ns.max(extent.chaos_ns), log_bytes);
    let mut cluster = Cluster::new(sim.clone(), setup, workload);
    let listener = Listener::keeping(extent.keep_trace);
    cluster.set_listener(listener.clone());
    let chaos = Chaos { cluster: &mut cluster, seed, random, plans: Vec::new(), faults: extent.faults, bad: bad.clone() };
    let outcome = tracing::subscriber::with_default(listener.clone(), || catch_unwind(AssertUnwindSafe(|| chaos.run(extent))));
    let panic = outcome.err().map(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
    });
    let decided = panic.is_some() || cluster.judge_history();
    if !decided {
        sim.count("history too entangled to judge");
    }
    let mut met = sim.met();
    met.merge(&listener.counts());
    met.add_many(marks::LEADER_CHANGES, cluster.judge().terms().saturating_sub(1));
    met.add_many(marks::POWER_CUTS, sim.counted("power cut"));
    let mut violations = cluster.objections();
    if !keeps_all && met.get(marks::BEHIND) > 0 {
        // What a bad disk lost, or a node that was away for most of a short run missed, the others have released. Without snapshots
        // that node has to be rebuilt, and the leader has said so.
        sim.count("node to be rebuilt");
        violations.retain(|violation| !matches!(violation, Violation::Lags { .. } | Violation::NotLive { .. }));
    }
    let (history, judge) = (cluster.history(), cluster.judge());
    let report = Report {
        seed,
        members,
        simulated_ns: sim.now().0,
        acknowledged: judge.acknowledged(),
        entries: judge.entries(),
        terms: judge.terms(),
        operations: history.operations(),
        reads: history.reads(),
        decided,
        counts: sim.counts(),
        marks: met,
        trace_hash: sim.trace_hash(),
        trace_length: sim.trace_length(),
        violations,
        standings: cluster.standings(),
        log: listener.lines(),
        tail: sim.trace_tail(),
        panic,
    };
    if report.panic.is_some() {
        // What was in the middle of something is not asked to clean up.
        std::mem::forget(cluster);
    }
    report
}

/// Which disks are bad. Mostly so few that every entry that was acknowledged, by a majority, has a good one: then nothing may be lost, and
/// everything must heal. In one of four such seeds more of them, up to all: then a node may stop for good, and the cluster with it; see
/// [`Cluster::objections`] for what is demanded nevertheless.
fn bad_disks(seed: u64, members: usize, always: bool) -> Vec<bool> {
    let mut random = Random::stream(seed, 12);
    let (kind, most) = (random.below(if always { 4 } else { 12 }), members / 2);
    let count = match kind {
        0 => random.between(most as u64 + 1, members as u64),
        1..4 => random.between(most.min(1) as u64, most as u64),
        _ => 0,
    };
    let mut bad: Vec<bool> = (0..members as u64).map(|n| n < count).collect();
    random.shuffle(&mut bad);
    bad
}

/// Takes kinds of faults out that the conditions hold; what was drawn for the others stays.
fn leave_out(conditions: &mut Conditions, faults: Faults) {
    if !faults.has(Fault::Reset) {
        conditions.network.reset = Odds::NEVER;
    }
    if !faults.has(Fault::Flip) {
        conditions.network.flip = Odds::NEVER;
    }
    if !faults.has(Fault::Stall) {
        for delay in [&mut conditions.disk.transfer, &mut conditions.network.latency, &mut conditions.processor.turn] {
            *delay = Delay { tail: Odds::NEVER, ..*delay };
        }
    }
}

/// A cluster, and the bytes of log that its run is to make.
fn draw_setup(seed: u64, random: &mut Random) -> (Setup, u64) {
    let members = random.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7]).copied().unwrap_or(3);
    let max_frame_bytes = 16 << 10 << random.below(3);
    let election_min_ms = random.between(100, 400);
    let segment_bytes = 4096 + max_frame_bytes as u64 * random.between(4, 16);
    let log_bytes = random.pick(&LOG_BYTES).map_or(0, |&bytes| bytes);
    let log_bytes = log_bytes.clamp(LOG_SEGMENTS.start() * segment_bytes, LOG_SEGMENTS.end() * segment_bytes);
    let config = Config {
        cluster: u128::from(seed) << 1 | 1,
        election_min_ms,
        election_max_ms: election_min_ms + random.between(50, 400),
        heartbeat_ms: election_min_ms / random.between(3, 6),
        max_entry_bytes: 1 << random.between(4, 13),
        max_frame_bytes,
        max_in_flight: 256,
        ring_bytes: (16 * max_frame_bytes).next_power_of_two(),
        window_bytes: max_frame_bytes as u64 * random.between(1, 16),
        window_frames: random.between(1, 64) as u32,
        hold_back_ms: random.pick(&[0, 20, 100]).copied().unwrap_or(0),
        segment_bytes,
        retention_bytes: log_bytes / 2,
        writes_in_flight: random.between(1, 4) as usize,
        medium: if random.coin() { Medium::Safe } else { Medium::Lossy },
        seed: seed | 1 << 63,
        ..Config::default()
    };
    (Setup { members, config, durable_state: random.coin() }, log_bytes)
}

/// Something to undo, or to do, later.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Start(usize),
    Resume(usize),
    Heal,
    /// The disk has space again.
    Space(usize),
}

/// What strikes, the more often the more often it stands here.
const STRIKES: [Fault; 17] = [
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
];

/// The streams of random numbers that strikes draw from, one each: so that one left out changes nothing of the others.
const STRIKE_STREAMS: u64 = 1 << 32;

struct Chaos<'a> {
    cluster: &'a mut Cluster,
    seed: u64,
    random: Random,
    plans: Vec<(Time, Plan)>,
    faults: Faults,
    /// Nodes with bad disks.
    bad: Vec<bool>,
}

impl Chaos<'_> {
    fn now(&self) -> Time {
        self.cluster.sim().now()
    }

    fn run(mut self, extent: Extent) {
        let end = self.now().plus_ns(extent.chaos_ns);
        for n in 0..self.cluster.len() {
            self.plan(SECOND / 2, Plan::Start(n));
        }
        if self.bad.contains(&true) {
            self.cluster.sim().count(if self.is_survivable() { "seed with bad disks" } else { "seed with too many bad disks" });
        }
        self.spoil_disks(extent);
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
                if extent.faults.has(Fault::EraseGroup) && self.cluster.medium() == Medium::Lossy {
                    disk.erase_group_bytes = 4096 << groups;
                }
                self.cluster.set_may_stop(n, true);
            }
            self.cluster.sim().set_disk_conditions(self.cluster.host(n), disk);
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

    fn plan_after(&mut self, after_ns: u64, plan: Plan) {
        let at = self.now().plus_ns(after_ns);
        self.plans.push((at, plan));
    }

    fn carry_out_due(&mut self) {
        let now = self.now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.plans).into_iter().partition(|(at, _)| *at <= now);
        self.plans = later;
        for (_, plan) in due {
            match plan {
                Plan::Start(n) => self.cluster.start(n),
                Plan::Resume(n) => self.cluster.sim().resume(self.cluster.host(n)),
                Plan::Heal => self.cluster.sim().heal(),
                Plan::Space(n) => self.make_space(n),
            }
        }
    }

    /// Whoever leads is struck more often.
    fn victim(&self, random: &mut Random) -> usize {
        let (leader, any) = (random.below(3) == 0, random.below(self.cluster.len() as u64) as usize);
        if leader { self.cluster.guess() } else { any }
    }

    fn hosts(&self, wanted: impl Fn(usize) -> bool) -> Vec<Host> {
        (0..self.cluster.len()).filter(|&n| wanted(n)).map(|n| self.cluster.host(n)).collect()
    }

    fn strike(&mut self, random: &mut Random) {
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
            // These are conditions of the world, or of bad disks.
            Fault::Reset | Fault::Flip | Fault::Stall | Fault::DiskError | Fault::Astray | Fault::StaleRead | Fault::EraseGroup => {}
        }
    }

    /// A disk takes only `room` bytes more, until there is space again.
    fn fill(&mut self, n: usize, room: u64) {
        let sim = self.cluster.sim();
        sim.count("disk filled");
        sim.with_disk(self.cluster.host(n), |disk| disk.set_capacity(disk.used_bytes() + room));
        self.cluster.set_full(n, true);
    }

    fn make_space(&mut self, n: usize) {
        let host = self.cluster.host(n);
        let conditions = self.cluster.sim().disk_conditions(host);
        self.cluster.sim().set_disk_conditions(host, conditions);
        self.cluster.set_full(n, false);
    }

    /// Everything works again: then a fresh write must succeed soon, and all replicas become equal.
    fn heal_and_demand(mut self) {
        self.cluster.say(format_args!("everything is healed"));
        let sim = self.cluster.sim().clone();
        sim.set_conditions(|conditions| {
            let calm = Conditions::calm();
            conditions.network.latency = calm.network.latency;
            (conditions.network.reset, conditions.network.flip) = (Odds::NEVER, Odds::NEVER);
            conditions.processor = calm.processor;
        });
        self.cluster.set_clients(false);
        for n in 0..self.cluster.len() {
            sim.set_disk_conditions(self.cluster.host(n), Conditions::calm().disk);
            self.cluster.set_full(n, false);
            sim.resume(self.cluster.host(n));
            self.cluster.start(n);
        }
        sim.heal();
        let all = |cluster: &mut Cluster| {
            // A node with rot on its disk may stop once more as it reads it.
            (0..cluster.len()).for_each(|n| cluster.start(n));
            (0..cluster.len()).all(|n| cluster.is_serving(n))
        };
        if !self.cluster.run_until_holds(RECOVERY_NS, all) {
            return self.overdue("every node serves again", RECOVERY_NS);
        }
        // Who lost something fetches it again first, as fast as window and disks allow: until then there may be no majority.
        let recovered = |cluster: &mut Cluster| {
            (0..cluster.len()).for_each(|n| cluster.start(n));
            !cluster.is_any_recovering()
        };
        let ten_timeouts_ns = 10 * self.cluster.election_timeout_ns();
        let mut finds = 0;
        loop {
            self.cluster.run_while_it_gets_on(RECOVERY_NS, recovered);
            let (mut fresh, mut stopped) = (None, false);
            let acknowledged = self.cluster.run_until_holds(TRANSPORT_NS + ten_timeouts_ns, |cluster| {
                let fate = fresh.map_or(Fate::Never, |value| cluster.judge().fate(value));
                if matches!(fate, Fate::Never | Fate::Unknown) {
                    fresh = cluster.propose_to(cluster.guess());
                }
                // It found more rot, and has to fetch again what that cost.
                stopped = (0..cluster.len()).any(|n| !cluster.is_up(n));
                stopped || matches!(fate, Fate::Applied(_))
            });
            if acknowledged && !stopped {
                break;
            }
            finds += 1;
            if !stopped || finds > MAX_FINDS {
                return self.overdue("a fresh write is acknowledged", TRANSPORT_NS + ten_timeouts_ns);
            }
        }
        self.converge();
        // And once more, from what is on the disks.
        for n in 0..self.cluster.len() {
            self.cluster.power_cut(n);
            self.cluster.start(n);
        }
        self.converge();
    }

    fn converge(&mut self) {
        let quiet = |cluster: &mut Cluster| {
            (0..cluster.len()).for_each(|n| cluster.start(n));
            cluster.outstanding() == 0 && cluster.is_converged()
        };
        if !self.cluster.run_while_it_gets_on(RECOVERY_NS, quiet) && self.cluster.outstanding() > 0 {
            self.overdue("every proposal is resolved", RECOVERY_NS);
        }
        if self.is_survivable() {
            self.cluster.settle();
        }
    }

    /// Whether every entry that was acknowledged has a good disk.
    fn is_survivable(&self) -> bool {
        self.bad.iter().filter(|&&bad| bad).count() <= self.bad.len() / 2
    }

    fn overdue(&mut self, what: &'static str, within_ns: u64) {
        if self.is_survivable() {
            self.cluster.judge_mut().not_live(what, within_ns);
        } else {
            self.cluster.sim().count("cluster stopped for good by damage");
        }
    }
}

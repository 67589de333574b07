//! The end of a run: everything is healed, and then it must work.

use super::chaos::Chaos;
use crate::cluster::Cluster;
use crate::conditions::{Conditions, Delay, SECOND};
use crate::judge::Fate;
use crate::random::Odds;

/// How long the node furthest behind may make no progress once everything is healed, in nanoseconds of simulated time.
const RECOVERY_NS: u64 = 60 * SECOND;
/// How often nodes may stop after everything is healed, for rot that they come upon only then.
const MAX_FINDS: u32 = 50;
/// What the simulated TCP takes at most to get going again after a heal (retransmission and connection retries back off).
pub(super) const TRANSPORT_NS: u64 = 4 * SECOND;

impl Chaos<'_> {
    /// Everything works again: then a fresh write must succeed soon, and all replicas become equal.
    pub(super) fn heal_and_demand(mut self) {
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
            let mut disk = Conditions::calm().disk;
            if self.kind.slow {
                // It stays what it is: a world in which one has to live.
                let flush = sim.disk_conditions(self.cluster.host(n)).flush;
                disk.flush = Delay { tail: Odds::NEVER, ..flush };
            }
            sim.set_disk_conditions(self.cluster.host(n), disk);
            self.cluster.set_full(n, false);
            self.cluster.set_short(n, false);
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
    pub(super) fn is_survivable(&self) -> bool {
        self.bad.iter().filter(|&&bad| bad).count() <= self.bad.len() / 2
    }

    pub(super) fn overdue(&mut self, what: &'static str, within_ns: u64) {
        if self.is_survivable() {
            self.cluster.judge_mut().not_live(what, within_ns);
        } else {
            self.cluster.sim().count("cluster stopped for good by damage");
        }
    }
}

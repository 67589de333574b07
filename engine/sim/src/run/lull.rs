//! A lull: nothing strikes, and at least a majority is up. Then there must be a leader, within a bounded number of timeouts.

use super::chaos::{Chaos, Plan};
use super::healing::TRANSPORT_NS;
use crate::cluster::marks;
use crate::random::Random;

/// Election timeouts that it may take until somebody leads: votes split, and a candidate whose log is behind has to give way.
const TIMEOUTS: u64 = 20;

impl Chaos<'_> {
    /// Ends what can be ended of the faults, starts some of those that are down, a majority at least, and demands a leader.
    pub(super) fn lull(&mut self, random: &mut Random) {
        let count = self.cluster.len();
        let majority = count / 2 + 1;
        let sim = self.cluster.sim().clone();
        sim.heal();
        for n in 0..count {
            sim.resume(self.cluster.host(n));
            self.make_space(n);
            self.end_shortage(n);
        }
        self.plans.retain(|(_, plan)| matches!(plan, Plan::Start(_) | Plan::Leave(_) | Plan::Ended(..)));
        // Those that are up stay; of the rest some come, whoever is away most of the time as the last.
        let mut order: Vec<usize> = (0..count).collect();
        random.shuffle(&mut order);
        order.sort_by_key(|&n| (!self.cluster.is_up(n), self.kind.away == Some(n)));
        let wanted = random.between(majority as u64, count as u64) as usize;
        order.iter().take(wanted).for_each(|&n| self.start(n));
        let limit_ns = TRANSPORT_NS + TIMEOUTS * self.cluster.election_timeout_ns();
        // Since when a majority could elect somebody, and did not.
        let mut since = None;
        self.cluster.run_until_holds(2 * limit_ns, |cluster| {
            let able = (0..count).filter(|&n| cluster.is_able(n)).count();
            let now = cluster.sim().now();
            since = if able >= majority { since.or(Some(now)) } else { None };
            cluster.has_leader() || since.is_some_and(|since| now.since(since) >= limit_ns)
        });
        let overdue = since.is_some_and(|since| self.now().since(since) >= limit_ns);
        if self.cluster.has_leader() {
            sim.meet(marks::LED_IN_LULL);
        } else if overdue && !self.cluster.is_beyond() {
            self.overdue("a leader, while a majority is up", limit_ns);
        } else {
            sim.count("lull without a majority");
        }
    }
}

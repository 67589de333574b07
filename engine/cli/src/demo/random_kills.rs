//! Kills at random: one, two or all of the replicas that run, while one more is away half of the time.

use std::time::{Duration, Instant};

use super::{ELECTION_LIMIT, Run};
use crate::error::Error;
use crate::ports;
use crate::table;

/// How long a replica may be refused its own directory: until the last write of its killed process has ended.
const LOCK_LIMIT: Duration = Duration::from_secs(20);

impl Run<'_> {
    /// Kills some of those that run, and starts them again at once. There must be a leader then, and a write that is
    /// proposed after the kill must be acknowledged: with three replicas and one away, too.
    pub(super) fn kill_some(&mut self, number: u32, away: &mut Option<u64>) -> Result<(), Error> {
        self.come_and_go(away)?;
        let mut up: Vec<u64> = self.cluster.replicas.iter().map(|replica| replica.id).filter(|id| Some(*id) != *away).collect();
        let count = 1 + below(up.len());
        while up.len() > count {
            up.swap_remove(below(up.len()));
        }
        let leader = self.cluster.wait_leader(0, ELECTION_LIMIT, self.stop)?;
        up.iter().for_each(|&id| self.count_gone(id));
        let watch = self.pulse();
        for &id in &up {
            self.cluster.replica(id)?.kill();
        }
        watch.watch();
        self.mark(format!("kill {number}"));
        for &id in &up {
            self.start_again(id)?;
        }
        let after = if up.contains(&leader.id) { leader.term } else { 0 };
        let next = self.cluster.wait_leader(after, ELECTION_LIMIT, self.stop)?;
        let refused = self.wait_write(&format!("kill {number}"))?;
        let gone = away.map_or(String::new(), |id| format!(", node {id} away"));
        self.tell(format_args!(
            "kill {number}: nodes {up:?}{gone}; node {} leads, writes again after {}",
            next.id,
            table::duration(refused)
        ));
        Ok(())
    }

    /// Whoever is away comes back, or somebody goes: so that one is away half of the time.
    fn come_and_go(&mut self, away: &mut Option<u64>) -> Result<(), Error> {
        if below(2) == 0 {
            return Ok(());
        }
        match away.take() {
            Some(id) => self.start_again(id),
            None => {
                let id = 1 + below(self.cluster.replicas.len()) as u64;
                self.count_gone(id);
                self.cluster.replica(id)?.kill();
                *away = Some(id);
                Ok(())
            }
        }
    }

    /// Starts a replica that was killed, and waits until it answers. It may be refused at first: what its process was
    /// writing has not ended.
    pub(super) fn start_again(&mut self, id: u64) -> Result<(), Error> {
        let deadline = Instant::now() + LOCK_LIMIT;
        let stop = self.stop;
        loop {
            let replica = self.cluster.replica(id)?;
            replica.spawn()?;
            match replica.wait_answering(stop) {
                Err(Error::ReplicaEnded { last, .. }) if last.contains("in use by another process") && Instant::now() < deadline => {
                    std::thread::sleep(crate::cluster::POLL);
                }
                ended => return ended.map(drop),
            }
        }
    }
}

fn below(count: usize) -> usize {
    (ports::random() % count.max(1) as u64) as usize
}

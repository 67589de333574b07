//! Replicas as a user names them: HOST:PORT, where HOST is an address or a name. A name may stand for several
//! addresses, and for others tomorrow: it is looked up whenever it is used, and all of its addresses are tried.

use std::collections::VecDeque;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long a leader that could not be reached is not asked again at another's hint.
const GRACE: Duration = Duration::from_millis(300);

/// One replica, or the name of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target(String);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let must = || "must be HOST:PORT, for example 10.0.0.1:7000 or node1:7000 or [fe80::1]:7000".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(must)?;
        let bare = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || bare || host.contains(char::is_whitespace) || port.parse::<u16>().is_err() {
            return Err(must());
        }
        Ok(Target(text.to_owned()))
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Target {
        Target(addr.to_string())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Target {
    /// Looks it up, now.
    ///
    /// # Errors
    /// Why it has no address, in words.
    pub(crate) fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let found: Vec<SocketAddr> = self.0.to_socket_addrs().map_err(|error| format!("cannot look the name up ({error})"))?.collect();
        if found.is_empty() { Err("the name has no address".into()) } else { Ok(found) }
    }
}

/// Whom to ask next: the leader that somebody named, else every address of every target in turn.
#[derive(Debug)]
pub(crate) struct Rota {
    targets: Vec<Target>,
    next: usize,
    waiting: VecDeque<SocketAddr>,
    /// Who could not be reached at a hint, and when.
    failed: Option<(SocketAddr, Instant)>,
}

impl Rota {
    /// Begins with the target of this number.
    pub(crate) fn new(targets: Vec<Target>, first: usize) -> Rota {
        Rota { targets, next: first, waiting: VecDeque::new(), failed: None }
    }

    /// Whom to ask now. A hint at somebody who was just found to be unreachable is not followed: the others come first.
    ///
    /// # Errors
    /// Which name could not be looked up, and why; the next call goes on with the next target.
    pub(crate) fn next(&mut self, hint: Option<SocketAddr>) -> Result<SocketAddr, String> {
        let failed = self.failed.filter(|(_, at)| at.elapsed() < GRACE).map(|(addr, _)| addr);
        if let Some(hint) = hint.filter(|&hint| Some(hint) != failed) {
            return Ok(hint);
        }
        if self.waiting.is_empty() {
            let target = self.targets.get(self.next % self.targets.len().max(1)).ok_or("nobody to ask")?;
            self.next = self.next.wrapping_add(1);
            self.waiting.extend(target.addresses().map_err(|error| format!("{target}: {error}"))?);
        }
        self.waiting.pop_front().ok_or_else(|| "nobody to ask".into())
    }

    /// This one could not be reached.
    pub(crate) fn failed(&mut self, addr: SocketAddr) {
        self.failed = Some((addr, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn what_is_a_target() {
        for good in ["10.0.0.1:7000", "node1:7000", "[::1]:7000", "node1.local:0"] {
            assert_eq!(target(good).to_string(), good);
        }
        for bad in ["", "node1", ":7000", "node1:", "node1:70000", "::1:7000", "no de:1", "node1:x"] {
            assert!(bad.parse::<Target>().unwrap_err().contains("HOST:PORT"), "{bad}");
        }
    }

    /// Everybody is asked, however many there are and whoever hints at whom.
    #[test]
    fn a_hint_at_a_dead_leader_keeps_nobody_from_being_asked() {
        for count in 1..5u16 {
            let mut rota = Rota::new((1..=count).map(|port| target(&addr(port).to_string())).collect(), 0);
            let dead = addr(99);
            let mut asked = Vec::new();
            let mut hint = None;
            for _ in 0..2 * count {
                let next = rota.next(hint.take()).unwrap();
                if next == dead {
                    rota.failed(dead);
                    continue;
                }
                asked.push(next.port());
                hint = Some(dead);
            }
            asked.sort_unstable();
            asked.dedup();
            assert_eq!(asked, (1..=count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_name_is_tried_whole_and_one_that_cannot_be_looked_up_is_passed_over() {
        let mut rota = Rota::new(vec![target("no.such.host.invalid:1"), target("localhost:7")], 0);
        assert!(rota.next(None).unwrap_err().contains("no.such.host.invalid:1"));
        let all = target("localhost:7").addresses().unwrap();
        let asked: Vec<_> = all.iter().map(|_| rota.next(None).unwrap()).collect();
        assert_eq!(asked, all);
        assert!(rota.next(None).is_err(), "and round again");
        assert!(Rota::new(Vec::new(), 0).next(None).is_err());
    }
}

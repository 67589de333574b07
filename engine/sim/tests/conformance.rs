//! The simulated world is held to the same checks as the real backends.

#![allow(clippy::print_stdout)] // A failed check is named.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use kontiki_core::Time;
use kontiki_hw_tests::conformance::{CHECKS, World};
use kontiki_io::{Completion, Handle, HostName, Io, IoError, IoStats, Op, Region, Token, Wake};
use kontiki_sim::{Conditions, Host, Random, Sim, SimIo};

/// A `SimIo` that waits, as a real one does: it moves the world on itself until its turn has something to show.
struct Waiting {
    sim: Sim,
    io: SimIo,
}

impl Io for Waiting {
    fn now(&self) -> Time {
        self.io.now()
    }

    fn wall_ns(&self) -> u64 {
        self.io.wall_ns()
    }

    fn free_bytes(&mut self, dir: Handle) -> Option<u64> {
        self.io.free_bytes(dir)
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.io.submit(token, op);
    }

    fn capacity(&self) -> usize {
        self.io.capacity()
    }

    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        let (before, rings) = (done.len(), self.io.stats().rings);
        self.io.turn(until, done)?;
        while done.len() == before && self.io.stats().rings == rings && until.is_some_and(|until| self.io.now() < until) {
            let turning = self.sim.next(Time(u64::MAX));
            assert_eq!(turning, Some(self.io.host()), "nothing will ever happen");
            self.io.turn(until, done)?;
        }
        Ok(())
    }

    fn bell(&self) -> Arc<dyn Wake> {
        self.io.bell()
    }

    fn poll_fd(&self) -> Option<i32> {
        self.io.poll_fd()
    }

    fn describe(&self) -> String {
        self.io.describe()
    }

    fn stats(&self) -> IoStats {
        self.io.stats()
    }
}

/// One host of a world, whose processes follow one another.
struct Simulated {
    sim: Sim,
    host: Host,
    directories: usize,
}

impl World for Simulated {
    fn open(&mut self, capacity: usize, _: &[Region<'_>]) -> Box<dyn Io> {
        self.sim.set_conditions(|conditions| conditions.processor.capacity = capacity);
        Box::new(Waiting { sim: self.sim.clone(), io: self.sim.boot(self.host) })
    }

    fn directory(&mut self) -> PathBuf {
        self.directories += 1;
        PathBuf::from(format!("/d{}", self.directories))
    }

    fn address(&mut self) -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    fn name(&mut self) -> (HostName, IpAddr) {
        let ip = IpAddr::from([10, 0, 0, 7]);
        self.sim.set_name("board-7", &[[10, 0, 0, 8].into(), ip]);
        (HostName::new("board-7").expect("a good name"), ip)
    }
}

#[test]
fn the_simulated_world_does_what_every_backend_must() {
    for &(name, check) in CHECKS {
        for seed in 0..3 {
            println!("{name}, seed {seed}");
            let mut conditions = if seed == 0 { Conditions::calm() } else { Conditions::drawn(&mut Random::new(seed)) };
            // What the checks take for granted: a network that does not break by itself.
            (conditions.network.reset, conditions.network.flip) = Default::default();
            let sim = Sim::new(seed, conditions);
            let host = sim.add_host();
            check(&mut Simulated { sim, host, directories: 0 });
        }
    }
}

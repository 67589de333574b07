//! Random lives: snapshots written, given up, fetched from sources that come, go and lie; disks that fill, fail and
//! lack; damage; power cuts and kills. What was durable and undamaged stays, files do not pile up, and once the world
//! is well again the next one succeeds.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use kontiki_io::IoErrorKind;
use kontiki_snapshot::{Digest, Flaw, Part, names};
use support::{CHUNK, Disk, Node, Random, World, file_of, offer_of, state};

const SIZES: [usize; 5] = [0, 3_000, 70_000, 300_000, 900_000];

fn size_of(index: u64) -> usize {
    SIZES[index as usize % SIZES.len()]
}

struct Life {
    node: Node,
    random: Random,
    index: u64,
    /// What is pushed, and how much of it was.
    pushing: Option<(u64, usize)>,
    fetching: Option<(u64, Vec<u8>)>,
    held: Option<Digest>,
    /// Indexes that an event told of and nothing damaged, by what they are.
    durable: BTreeMap<u64, Digest>,
    begun: BTreeSet<u64>,
    made: u64,
    restarts: u64,
}

impl Life {
    fn new(seed: u64) -> Life {
        let node = Node::open(Disk::default());
        let (durable, begun) = (BTreeMap::new(), BTreeSet::new());
        let mut life =
            Life { node, random: Random(seed), index: 0, pushing: None, fetching: None, held: None, durable, begun, made: 0, restarts: 0 };
        life.node.world.plan.patient = true;
        life
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.random.next().is_multiple_of(n)
    }

    fn next_index(&mut self) -> u64 {
        self.index += 1 + self.random.next() % 3;
        self.begun.insert(self.index);
        self.index
    }

    fn hear(&mut self) {
        self.node.take_events();
        for info in self.node.written.drain(..).chain(self.node.fetched.drain(..)) {
            self.durable.insert(info.base().index.0, info.digest);
            self.made += 1;
        }
        for name in self.node.damaged.drain(..) {
            self.durable.retain(|&index, _| names::snapshot(kontiki_core::LogIndex(index)).as_str() != name);
        }
        for index in self.node.gave_up.drain(..) {
            self.durable.remove(&index);
        }
        // Of the others the newest two stay.
        while self.durable.len() > 2 {
            self.durable.pop_first();
        }
    }

    /// What is found is what was told, or was begun later than all of it.
    fn check(&self, what: &str) {
        let found = self.node.indexes();
        let newest = self.durable.keys().next_back().copied().unwrap_or(0);
        for index in self.durable.keys() {
            assert!(
                found.contains(index) || found.iter().filter(|other| *other > index).count() >= 2,
                "{what}: {index} of {:?} is not in {found:?}",
                self.durable
            );
        }
        assert!(found.iter().all(|index| self.begun.contains(index)), "{what}: {found:?}");
        assert!(found.first().copied().unwrap_or(0) >= newest, "{what}: {found:?}");
    }

    fn act(&mut self) {
        match self.random.next() % 16 {
            0 | 1 => {
                let index = self.next_index();
                if self.node.begin(index).is_ok() {
                    self.pushing = Some((index, 0));
                }
            }
            2 => {
                let index = self.next_index();
                let file = file_of(index, size_of(index));
                if self.node.store.fetch(offer_of(&file)).is_ok() {
                    self.fetching = Some((index, file));
                }
            }
            3 if self.one_in(3) => self.node.store.abandon(),
            4 if self.one_in(6) => self.node.store.forget_fetch(),
            5 => {
                let more = self.random.next() % 1_500_000;
                let used: u64 = self.node.world.disk.list().iter().map(|(_, bytes)| bytes).sum();
                self.node.world.disk.capacity = if self.one_in(2) { None } else { Some(used + more) };
            }
            6 => {
                let kind = [IoErrorKind::Full, IoErrorKind::Shortage, IoErrorKind::Device][self.random.next() as usize % 3];
                // Names that are not known to be durable end it until the next start, which comes in time.
                let at = self.random.next() % 4;
                self.node.world.fail(at, kind, |op| !matches!(op, kontiki_io::Op::Close { .. } | kontiki_io::Op::Read { .. }));
            }
            7 => match self.held.take() {
                Some(digest) => self.node.store.unhold(digest),
                None => {
                    let digest = self.node.store.snapshots().last().map(|info| info.digest);
                    self.held = digest.filter(|&digest| self.node.store.hold(digest));
                }
            },
            8 if self.one_in(4) => {
                let condemned = self.node.store.snapshots().next().copied();
                if let Some(info) = condemned {
                    self.node.store.condemn(info.digest, Flaw::Damaged);
                }
            }
            9 if self.one_in(5) => self.restart(),
            10 => {
                let bytes = self.random.next() % 1_000_000;
                self.node.store.expect(if bytes.is_multiple_of(5) { None } else { Some(kontiki_snapshot::Expected::Full(bytes)) });
            }
            _ => {}
        }
        self.feed();
        self.node.step();
        self.hear();
    }

    /// The source gives more, and whoever is fetched from sends.
    fn feed(&mut self) {
        if let Some((index, given)) = &mut self.pushing {
            let state = state(*index, size_of(*index));
            *given += self.node.store.push(Part::Machine, &state[*given..]);
            if *given == state.len() && self.node.store.finish() {
                self.pushing = None;
            }
        }
        if self.node.store.writing().is_none() {
            self.pushing = None;
        }
        if let (Some(want), Some((_, file))) = (self.node.store.want(), &self.fetching) {
            let mut chunk = file[want.offset as usize..][..CHUNK as usize].to_vec();
            if self.random.next().is_multiple_of(9) {
                let at = self.random.next() as usize % chunk.len();
                chunk[at] ^= 1;
            }
            let _ = self.node.store.accept(want.offset, &chunk);
        }
        if self.node.store.fetching().is_none() {
            self.fetching = None;
        }
    }

    fn restart(&mut self) {
        let seed = self.random.next();
        let disk = if self.one_in(2) { self.node.world.kill(seed) } else { self.node.world.cut(seed) };
        let mut world = World::new(disk);
        world.plan.patient = true;
        self.node = Node::start(world).unwrap().unwrap_or_else(|_| panic!("the power does not fail"));
        (self.pushing, self.fetching, self.held) = (None, None, None);
        self.restarts += 1;
        // What was condemned was intact: it is there again.
        self.check("after a restart");
        for info in self.node.store.snapshots().copied().take(2) {
            self.durable.entry(info.base().index.0).or_insert(info.digest);
        }
        self.hear();
    }

    /// The world is well, and nobody is in the way.
    fn heal(&mut self) {
        self.node.world.disk.capacity = None;
        (self.node.world.plan.fail, self.node.world.plan.fails) = (None, None);
        if let Some(digest) = self.held.take() {
            self.node.store.unhold(digest);
        }
        if self.node.store.broken().is_some() {
            self.restart();
        }
        self.node.store.abandon();
        self.node.run();
        self.hear();
        assert_eq!(self.node.store.lacking(), None);
        for _ in 0..2 {
            let index = self.next_index();
            let info = self.node.write(index, size_of(index)).unwrap();
            self.node.run();
            self.hear();
            assert!(self.node.machine(info.digest).unwrap() == state(index, size_of(index)));
        }
        self.check("healed");
        assert_eq!(self.node.store.bases().len(), 2);
        self.node.store.expect(None);
        let names = self.node.world.disk.names();
        let snapshots = names.iter().filter(|name| name.ends_with(".ksn")).count();
        assert!(snapshots == 2 && names.len() <= 3 && !names.iter().any(|name| name == names::PART), "{names:?}");
    }
}

#[test]
fn whatever_happens_what_was_durable_stays_and_the_next_one_succeeds() {
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(12);
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed.parse().unwrap()..=seed.parse().unwrap(),
        Err(_) => 0..=runs,
    };
    let (mut made, mut restarts) = (0, 0);
    for seed in seeds {
        let mut life = Life::new(seed);
        for _ in 0..3 {
            for _ in 0..120 {
                life.act();
                life.check(&format!("seed {seed}"));
            }
            life.heal();
        }
        (made, restarts) = (made + life.made, restarts + life.restarts);
    }
    assert!(made > 30 && restarts > 3, "{made} made, {restarts} restarts");
}

//! The power fails between any two operations, and any subset of unflushed sectors, names and lengths is lost: what was
//! said to be durable is there, complete, and nothing that is not. H49, H50, H54.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::collections::BTreeSet;

use support::{CHUNK, Disk, Node, Random, World, file_of, offer_of, state};

/// What has been promised, and what else may be found.
#[derive(Clone, Debug, Default)]
struct Promised {
    /// The newest that an event told of.
    newest: u64,
    begun: BTreeSet<u64>,
}

fn bytes_of(index: u64) -> usize {
    [40, 70_000, 300_000, 600_000][index as usize % 4]
}

/// A start finds what was promised, whole.
fn check(node: &mut Node, promised: &mut Promised) -> bool {
    let found = node.indexes();
    assert!(found.first().copied().unwrap_or(0) >= promised.newest, "{found:?}, promised {promised:?}");
    assert!(found.iter().all(|index| promised.begun.contains(index)), "{found:?}, begun {:?}", promised.begun);
    assert_eq!(node.store.damaged().count(), 0, "a name is a whole snapshot's");
    let stop_at = node.world.plan.stop_at.take();
    // A third one is on its way out.
    for info in node.store.snapshots().copied().take(2).collect::<Vec<_>>() {
        let index = info.base().index.0;
        assert!(node.machine(info.digest).unwrap() == state(index, bytes_of(index)), "snapshot {index}");
    }
    node.world.plan.stop_at = stop_at.map(|stop_at| stop_at.max(node.world.done));
    promised.newest = found.first().copied().unwrap_or(0);
    true
}

/// Snapshots are written and fetched, in turn. None once the power fails.
fn life(node: &mut Node, promised: &mut Promised, seed: u64) -> Option<()> {
    let mut random = Random(seed);
    node.store.expect(Some(kontiki_snapshot::Expected::Full(200_000)));
    let mut index = promised.begun.last().copied().unwrap_or(0);
    for _ in 0..5 {
        index += 1 + random.next() % 3;
        promised.begun.insert(index);
        let made = if random.next().is_multiple_of(3) {
            let file = file_of(index, bytes_of(index));
            while node.store.fetch(offer_of(&file)).is_err() {
                node.step().then_some(())?;
            }
            // Now and then a chunk is bad.
            let ended = node.serve(&file, u64::MAX, &mut |at, chunk| {
                if (at / CHUNK + random.next()).is_multiple_of(7) {
                    chunk[100] ^= 1;
                }
            });
            (ended && !node.fetched.is_empty()).then(|| node.fetched.remove(0))
        } else {
            // Now and then one is begun, and given up.
            if random.next().is_multiple_of(2) {
                begin(node, index)?;
                node.store.push(kontiki_snapshot::Part::Machine, &state(index, 600_000));
                node.step();
                node.store.abandon();
            }
            begin(node, index)?;
            node.not_written.clear();
            write_on(node, index)
        };
        promised.newest = made?.base().index.0;
    }
    node.run();
    (!node.world.stopped()).then_some(())
}

fn begin(node: &mut Node, index: u64) -> Option<()> {
    while let Err(refused) = node.begin(index) {
        assert_eq!(refused, kontiki_snapshot::Refused::Busy);
        node.step().then_some(())?;
    }
    Some(())
}

fn write_on(node: &mut Node, index: u64) -> Option<kontiki_snapshot::Info> {
    let state = state(index, bytes_of(index));
    let (mut rest, mut ended) = (&state[..], false);
    while node.written.is_empty() {
        rest = &rest[node.store.push(kontiki_snapshot::Part::Machine, rest)..];
        ended = ended || rest.is_empty() && node.store.finish();
        node.step().then_some(())?;
    }
    node.written.pop()
}

fn run(disk: Disk, stop_at: u64, seed: u64, promised: &mut Promised) -> (Disk, bool) {
    let mut world = World::new(disk);
    world.plan.stop_at = Some(stop_at);
    let end = |world: &World| if seed.is_multiple_of(3) { world.kill(seed) } else { world.cut(seed) };
    match Node::start(world).unwrap_or_else(|error| panic!("it does not start: {error}")) {
        Err(world) => (end(&world), false),
        Ok(mut node) => {
            check(&mut node, promised);
            let ended = life(&mut node, promised, seed % 5).is_some();
            (end(&node.world), ended)
        }
    }
}

fn scenario(stop_at: u64, seed: u64) -> bool {
    let mut promised = Promised::default();
    let (disk, ended) = run(Disk::default(), stop_at, seed, &mut promised);
    // The power fails twice more on the way up, or soon after.
    let (disk, _) = run(disk, Random(stop_at ^ seed).next() % 60, seed + 1, &mut promised);
    let (disk, _) = run(disk, Random(stop_at + seed).next() % 90, seed + 2, &mut promised);
    let mut node = Node::open(disk);
    check(&mut node, &mut promised);
    assert!(life(&mut node, &mut promised, seed).is_some());
    check(&mut Node::open(node.world.cut(seed)), &mut promised);
    ended
}

#[test]
fn h49_at_every_operation() {
    for seed in 0..3 {
        let mut stop_at = 0;
        while !scenario(stop_at, seed) {
            stop_at += 1;
        }
        assert!(stop_at > 50, "the life has operations: {stop_at}");
    }
}

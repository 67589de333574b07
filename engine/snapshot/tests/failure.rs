//! Every operation of a store's life fails once, with each kind of error: what was durable stays, what was begun ends
//! with a reason, and the next attempt succeeds; or no more is made until the next start, which finds all.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::collections::BTreeSet;

use kontiki_io::{IoErrorKind, Op};
use kontiki_snapshot::{Expected, Refused, StoreError};
use support::{Disk, Node, World, file_of, offer_of, state};

fn any(op: &Op) -> bool {
    !matches!(op, Op::Close { .. } | Op::Read { .. })
}

/// What an operation is, without its numbers.
fn kind_of(operation: &str) -> String {
    operation.chars().filter(|c| !c.is_ascii_digit()).collect::<String>().split(" +").next().unwrap().trim().to_owned()
}

const SIZES: [usize; 4] = [100_000, 400_000, 300_000, 5_000_000];

/// Lets operation number `at` of a life fail. What it was, and what became of what was made; none if there are not so
/// many.
fn scenario(at: u64, kind: IoErrorKind) -> Option<(String, String)> {
    let mut world = World::new(Disk::default());
    world.plan.patient = true;
    let mut node = Node::start(world).unwrap().unwrap_or_else(|_| panic!("the power does not fail"));
    node.store.expect(Some(Expected::Full(150_000)));
    node.write(1, 50_000).unwrap();
    node.run();
    node.world.fail(at, kind, any);
    let mut durable = vec![1];
    let mut refused = None;
    for (index, size) in (2..).zip(SIZES) {
        if index == 4 {
            let file = file_of(index, size);
            match node.store.fetch(offer_of(&file)) {
                Ok(()) => assert!(node.serve(&file, u64::MAX, &mut |_, _| {}), "it ends"),
                Err(why) => refused = Some(why),
            }
        } else {
            match node.begin(index) {
                Ok(()) => write_on(&mut node, index, size),
                Err(why) => refused = Some(why),
            }
        }
        node.run();
        if node.written.iter().chain(&node.fetched).any(|info| info.base().index.0 == index) {
            durable.push(index);
        }
        assert_eq!(node.indexes().first(), durable.last(), "{kind:?} at {at}, {:?}", node.world.failed);
    }
    let failed = node.world.failed.first().cloned()?;
    assert_eq!(node.world.outstanding(), 0);
    let errors: Vec<StoreError> = node.not_written.drain(..).chain(node.not_fetched.drain(..)).collect();
    let outcome = match (&refused, &errors[..]) {
        (Some(Refused::Broken(_)), _) => "broken",
        (None, []) => "waited",
        (None, [_]) => "failed",
        other => panic!("{kind:?} at {at}, {failed}: {other:?}"),
    };
    if outcome == "failed" {
        assert_eq!(durable.len(), 4, "the next attempt succeeds");
    }
    // Whatever happened, the next start finds what was durable, and goes on.
    let mut after = Node::open(node.close());
    let newest = after.indexes().first().copied().unwrap();
    assert!(newest >= *durable.last().unwrap());
    let digest = after.store.newest_full().unwrap().digest;
    let size = if newest == 1 { 50_000 } else { SIZES[newest as usize - 2] };
    assert!(after.machine(digest).unwrap() == state(newest, size));
    after.write(100, 1000).unwrap();
    Some((kind_of(&failed), outcome.to_owned()))
}

fn write_on(node: &mut Node, index: u64, size: usize) {
    let state = state(index, size);
    let (mut rest, mut ended) = (&state[..], false);
    let before = node.written.len() + node.not_written.len();
    while node.written.len() + node.not_written.len() == before {
        rest = &rest[node.store.push(kontiki_snapshot::Part::Machine, rest)..];
        ended = ended || rest.is_empty() && node.store.finish();
        assert!(node.step() || node.store.writing().is_none(), "it ends");
    }
}

fn all(kind: IoErrorKind) -> BTreeSet<(String, String)> {
    let mut met = BTreeSet::new();
    let mut at = 0;
    while let Some(what) = scenario(at, kind) {
        met.insert(what);
        at += 1;
    }
    assert!(at > 50, "a life has operations: {at}");
    met
}

fn has(met: &BTreeSet<(String, String)>, operation: &str, outcome: &str) -> bool {
    met.iter().any(|(what, ends)| what == operation && ends == outcome)
}

#[test]
fn a_shortage_is_waited_for() {
    let met = all(IoErrorKind::Shortage);
    assert!(met.iter().all(|(_, outcome)| outcome == "waited"), "{met:?}");
    for operation in [
        "open snapshot.new create=true",
        "open snapshot.part create=true",
        "allocate",
        "write",
        "sync",
        "rename snapshot.new snapshot-.ksn",
        "unlink snapshot-.ksn",
        "sync dir",
    ] {
        assert!(has(&met, operation, "waited"), "{operation} is none of {met:?}");
    }
}

/// A full disk is made room on, or ends the attempt; a flush that it fails is a failed flush. H54.
#[test]
fn h54_a_full_disk_ends_an_attempt_at_most() {
    let met = all(IoErrorKind::Full);
    assert!(has(&met, "allocate", "waited") && has(&met, "sync", "failed") && has(&met, "sync dir", "broken"), "{met:?}");
    assert!(met.iter().all(|(what, outcome)| outcome != "broken" || what == "sync dir"), "{met:?}");
}

#[test]
fn a_device_that_fails_ends_an_attempt_and_no_more() {
    let met = all(IoErrorKind::Device);
    assert!(
        has(&met, "write", "failed")
            && has(&met, "sync", "failed")
            && has(&met, "rename snapshot.part snapshot-.ksn", "failed")
            && has(&met, "sync dir", "broken"),
        "{met:?}"
    );
    assert!(met.iter().all(|(what, outcome)| outcome != "broken" || what == "sync dir"), "{met:?}");
}

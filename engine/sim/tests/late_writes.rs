//! What a killed process was writing: it lands when the process is gone, and whoever starts meanwhile must wait for it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, name};
use kontiki_io::{IoErrorKind, Op};
use kontiki_sim::{Conditions, Delay, MILLISECOND, Odds};

/// A process with a locked directory is killed with a write under way, which lands three milliseconds later, and another is started.
fn killed(seed: u64, lock_waits: bool) -> Bench {
    let mut conditions = Conditions::calm();
    conditions.processor.late_write = Odds::ALWAYS;
    conditions.processor.late = Delay::between(3 * MILLISECOND, 3 * MILLISECOND);
    conditions.processor.lock_waits = lock_waits;
    let mut bench = Bench::with(seed, 1, conditions);
    let dir = bench.open_dir(0);
    bench.ok(0, Op::Lock { dir, name: name("LOCK") });
    let file = bench.durable_file(0, dir, "a");
    bench.write(0, file, 0, 1, true);
    let op = bench.write_op(file, 0, 2, true);
    bench.submit(0, op);
    bench.step(MILLISECOND);
    bench.crash(0);
    bench.boot(0);
    bench
}

#[test]
fn a_write_of_the_dead_lands_and_the_lock_waits_for_it() {
    let mut bench = killed(1, true);
    let dir = bench.open_dir(0);
    let (file, _) = bench.open(0, dir, "a", false);
    assert_eq!(bench.sectors(0, file, 0), [1; 8], "it has not landed yet");
    assert_eq!(bench.err(0, Op::Lock { dir, name: name("LOCK") }), IoErrorKind::Locked);
    bench.run(4 * MILLISECOND);
    bench.ok(0, Op::Lock { dir, name: name("LOCK") });
    assert_eq!(bench.sectors(0, file, 0), [2; 8]);
    // It was durable.
    bench.power_cut(0);
    bench.boot(0);
    let dir = bench.open_dir(0);
    let (file, _) = bench.open(0, dir, "a", false);
    assert_eq!(bench.sectors(0, file, 0), [2; 8]);
}

/// What the lock is there to prevent.
#[test]
fn without_that_it_lands_on_what_the_next_process_wrote() {
    let mut bench = killed(2, false);
    let dir = bench.open_dir(0);
    bench.ok(0, Op::Lock { dir, name: name("LOCK") });
    let (file, _) = bench.open(0, dir, "a", false);
    bench.write(0, file, 0, 3, false);
    bench.run(4 * MILLISECOND);
    assert_eq!(bench.sectors(0, file, 0), [2; 8]);
}

#[test]
fn a_power_cut_decides_over_what_has_not_landed() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let mut bench = killed(seed, true);
        bench.power_cut(0);
        bench.boot(0);
        let dir = bench.open_dir(0);
        bench.ok(0, Op::Lock { dir, name: name("LOCK") });
        let (file, _) = bench.open(0, dir, "a", false);
        bench.run(10 * MILLISECOND);
        seen.extend(bench.sectors(0, file, 0));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2], "each sector reached the medium or did not");
}

//! What takes real threads.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use kontiki_io::{IoErrorKind, Op, Output};
use rustix::fs::{FlockOperation, flock};

use super::desk::{PATIENCE_NS, name_of};
use super::{Desk, World};

/// The sleeper sleeps for long; only the bell can end it in time.
pub fn a_ring_from_another_thread_wakes_a_sleeper(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let bell = desk.io.bell();
    let (asleep, rings) = mpsc::channel::<()>();
    let ringer = std::thread::spawn(move || {
        while rings.recv().is_ok() {
            std::thread::yield_now();
            bell.wake();
        }
    });
    for _ in 0..300 {
        asleep.send(()).expect("the ringer lives");
        let start = desk.io.now();
        desk.turn(PATIENCE_NS);
        assert!(desk.io.now().since(start) < PATIENCE_NS / 2, "slept through the bell");
    }
    drop(asleep);
    ringer.join().expect("the ringer");
}

/// A counter is raised before each ring, and the next ring comes only when the sleeper has seen it: a ring lost
/// would leave both waiting.
pub fn no_ring_is_lost_in_a_race(world: &mut dyn World) {
    const RINGS: u64 = 20_000;
    let mut desk = Desk::new(world);
    let bell = desk.io.bell();
    let raised = Arc::new(AtomicU64::new(0));
    let seen = Arc::new(AtomicU64::new(0));
    let ringer = std::thread::spawn({
        let (raised, seen) = (Arc::clone(&raised), Arc::clone(&seen));
        move || {
            for n in 1..=RINGS {
                raised.store(n, Ordering::Release);
                bell.wake();
                // A short spin first: the ring should fall on every point of the sleeper's way to sleep.
                for spin in 0.. {
                    if seen.load(Ordering::Acquire) >= n {
                        break;
                    }
                    if spin > 100 {
                        std::thread::yield_now();
                    }
                }
            }
        }
    });
    let start = desk.io.now();
    loop {
        let now = raised.load(Ordering::Acquire);
        seen.store(now, Ordering::Release);
        if now == RINGS {
            break;
        }
        if raised.load(Ordering::Acquire) == now {
            desk.turn(PATIENCE_NS);
        }
    }
    assert!(desk.io.now().since(start) < PATIENCE_NS / 2, "a ring was lost, and a deadline came to the rescue");
    ringer.join().expect("the ringer");
}

/// Two instances, one directory.
pub fn a_lock_excludes_another_io(world: &mut dyn World) {
    let path = world.directory();
    let mut one = Desk::new(world);
    let mut two = Desk::new(world);
    let dirs = (one.dir(path.clone()), two.dir(path));
    let lock = |dir| Op::Lock { dir, name: name_of("lock") };
    assert!(matches!(one.run(lock(dirs.0)), Ok(Output::Opened(_))));
    assert_eq!(two.fails(lock(dirs.1)), IoErrorKind::Locked);
    // However it ends.
    drop(one);
    assert!(matches!(two.run(lock(dirs.1)), Ok(Output::Opened(_))));
}

/// Whoever gets the lock finds what those writes left, and it stays so.
pub fn a_dropped_io_keeps_its_lock_until_its_writes_have_ended(world: &mut dyn World) {
    const LEN: usize = 1 << 16;
    const WRITES: u64 = 64;
    for turned in [true, false] {
        let path = world.directory();
        let mut desk = Desk::with_capacity(world, 256);
        let dir = desk.dir(path.clone());
        let file = desk.allocated(dir, "data", WRITES * LEN as u64);
        assert!(matches!(desk.run(Op::Lock { dir, name: name_of("lock") }), Ok(Output::Opened(_))));
        for n in 0..WRITES {
            let op = desk.write(file, n * LEN as u64, LEN, n as u8 + 1, true);
            desk.submit(op);
            // A flush of its own after each: where operations go one by one, the last write comes long after the first.
            desk.submit(Op::Sync { file });
        }
        if turned {
            desk.turn(0);
        }
        let data = path.join("data");
        let (at_lock, after) = std::thread::scope(|scope| {
            let next = scope.spawn(|| {
                // As the next process does, but at once.
                let held = File::open(&path).expect("the directory");
                while flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
                    std::thread::yield_now();
                }
                std::fs::read(&data).expect("the file")
            });
            drop(desk);
            let after = std::fs::read(&data).expect("the file");
            (next.join().expect("the next holder"), after)
        });
        assert!(at_lock == after, "written to after its lock was free, turned: {turned}");
    }
}

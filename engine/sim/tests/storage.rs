//! What the simulated disk promises to a process, and what it does not.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{Bench, name};
use kontiki_io::{IoBuf, IoErrorKind, Op, Output};
use kontiki_mem::BLOCK_BYTES;
use kontiki_sim::{Injection, OpClass};

#[test]
fn files_are_made_written_read_listed_renamed_and_removed() {
    let mut bench = Bench::new(1, 1);
    let dir = bench.open_dir(0);
    assert_eq!(bench.err(0, Op::Open { dir, name: name("a"), create: false }), IoErrorKind::NotFound);
    let file = bench.durable_file(0, dir, "a");
    assert_eq!(bench.err(0, Op::Open { dir, name: name("a"), create: true }), IoErrorKind::Exists);
    bench.write(0, file, 1, 7, true);
    assert_eq!(bench.sectors(0, file, 0), [0; 8]);
    assert_eq!(bench.sectors(0, file, 1), [7; 8]);
    bench.ok(0, Op::Rename { dir, from: name("a"), to: name("b") });
    let (again, length) = bench.open(0, dir, "b", false);
    assert_eq!(length, 4 * BLOCK_BYTES as u64);
    assert_eq!(bench.sectors(0, again, 1), [7; 8]);
    bench.open(0, dir, "c", true);
    let Output::Listing(mut listed) = bench.ok(0, Op::List { dir }) else { panic!("no listing") };
    listed.sort();
    assert_eq!(listed, [(name("b"), length), (name("c"), 0)]);
    bench.ok(0, Op::Unlink { dir, name: name("c") });
    assert_eq!(bench.err(0, Op::Unlink { dir, name: name("c") }), IoErrorKind::NotFound);
    assert_eq!(bench.err(0, Op::Rename { dir, from: name("c"), to: name("d") }), IoErrorKind::NotFound);
    assert_eq!(bench.err(0, Op::OpenDir { path: "/none".into(), create: false }), IoErrorKind::NotFound);
}

#[test]
fn a_read_is_short_at_the_end_of_the_file_only() {
    let mut bench = Bench::new(2, 1);
    let dir = bench.open_dir(0);
    let (file, _) = bench.open(0, dir, "a", true);
    bench.ok(0, Op::Allocate { file, len: 5000 });
    let read = |bench: &mut Bench, offset| {
        let buf = IoBuf::Pool(bench.buffer(9));
        let done = bench.call(0, Op::Read { file, offset, buf, len: 2 * BLOCK_BYTES });
        match (done.result, done.buf) {
            (Ok(Output::Bytes(bytes)), Some(_)) => bytes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(&mut bench, 0), 5000);
    assert_eq!(read(&mut bench, 4096), 904);
    assert_eq!(read(&mut bench, 8192), 0);
}

#[test]
fn a_lock_is_exclusive_and_dies_with_its_handle_or_its_process() {
    let mut bench = Bench::new(3, 1);
    let lock = |bench: &mut Bench| {
        let dir = bench.open_dir(0);
        bench.call(0, Op::Lock { dir, name: name("LOCK") }).result.map_err(|error| error.kind)
    };
    let Ok(Output::Opened(held)) = lock(&mut bench) else { panic!("not locked") };
    assert_eq!(lock(&mut bench).unwrap_err(), IoErrorKind::Locked);
    bench.ok(0, Op::Close { handle: held });
    assert!(lock(&mut bench).is_ok());
    for ending in [Bench::crash, Bench::power_cut] {
        ending(&mut bench, 0);
        bench.boot(0);
        assert!(lock(&mut bench).is_ok());
        assert!(lock(&mut bench).is_err());
    }
}

#[test]
fn a_crash_keeps_what_completed_and_a_power_cut_only_what_is_durable() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut bench = Bench::new(seed, 1);
        let dir = bench.open_dir(0);
        let file = bench.durable_file(0, dir, "a");
        bench.write(0, file, 0, 1, true);
        bench.write(0, file, 1, 2, false);
        bench.ok(0, Op::Sync { file });
        bench.write(0, file, 2, 3, false);
        bench.crash(0);
        bench.boot(0);
        let dir = bench.open_dir(0);
        let (file, _) = bench.open(0, dir, "a", false);
        let seen = [0, 1, 2, 3].map(|block| bench.sectors(0, file, block));
        assert_eq!(seen, [vec![1; 8], vec![2; 8], vec![3; 8], vec![0; 8]]);
        bench.power_cut(0);
        bench.boot(0);
        let dir = bench.open_dir(0);
        let (file, _) = bench.open(0, dir, "a", false);
        assert_eq!(bench.sectors(0, file, 0), [1; 8]);
        assert_eq!(bench.sectors(0, file, 1), [2; 8]);
        let uncertain = bench.sectors(0, file, 2);
        assert!(uncertain.iter().all(|byte| [0, 3].contains(byte)));
        lost += uncertain.iter().filter(|&&byte| byte == 0).count();
    }
    assert!((20..140).contains(&lost), "some is lost and some is not: {lost}");
}

#[test]
fn a_write_under_way_is_torn_by_sectors_in_a_power_cut() {
    let mut mixtures = BTreeSet::new();
    for seed in 0..40 {
        let mut bench = Bench::new(seed, 1);
        let dir = bench.open_dir(0);
        let file = bench.durable_file(0, dir, "a");
        bench.write(0, file, 0, 1, true);
        let op = bench.write_op(file, 0, 2, true);
        let token = bench.submit(0, op);
        bench.step(1_000_000);
        assert!(!bench.is_done(0, token));
        bench.power_cut(0);
        bench.boot(0);
        let dir = bench.open_dir(0);
        let (file, _) = bench.open(0, dir, "a", false);
        let found = bench.sectors(0, file, 0);
        assert!(found.iter().all(|byte| [1, 2].contains(byte)));
        mixtures.insert(found);
    }
    assert!(mixtures.len() > 20, "{mixtures:?}");
    assert!(mixtures.contains(&vec![1; 8]) && mixtures.contains(&vec![2; 8]));
}

#[test]
fn what_was_submitted_but_never_handed_over_does_not_happen() {
    let mut bench = Bench::new(4, 1);
    let dir = bench.open_dir(0);
    let file = bench.durable_file(0, dir, "a");
    let op = bench.write_op(file, 0, 2, true);
    bench.submit(0, op);
    bench.sim.power_cut_with(bench.hosts[0], |_| true);
    bench.ios[0] = None;
    bench.boot(0);
    let dir = bench.open_dir(0);
    let (file, _) = bench.open(0, dir, "a", false);
    assert_eq!(bench.sectors(0, file, 0), [0; 8]);
}

#[test]
fn a_new_file_whose_directory_was_not_flushed_can_vanish() {
    let mut found = BTreeSet::new();
    for seed in 0..20 {
        let mut bench = Bench::new(seed, 1);
        let dir = bench.open_dir(0);
        let (file, _) = bench.open(0, dir, "a", true);
        bench.write(0, file, 0, 1, true);
        bench.ok(0, Op::Sync { file });
        bench.power_cut(0);
        bench.boot(0);
        let dir = bench.open_dir(0);
        let opened = bench.call(0, Op::Open { dir, name: name("a"), create: false }).result;
        if let Ok(Output::File(file, length)) = opened {
            assert_eq!(length, BLOCK_BYTES as u64);
            assert_eq!(bench.sectors(0, file, 0), [1; 8], "its contents were durable all the same");
        }
        found.insert(opened.is_ok());
    }
    assert_eq!(found.len(), 2, "both outcomes must be met");
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let mut bench = Bench::new(5, 1);
    let dir = bench.open_dir(0);
    let file = bench.durable_file(0, dir, "a");
    bench.sim.with_disk(bench.hosts[0], |disk| disk.set_capacity(5 * BLOCK_BYTES as u64));
    let (other, _) = bench.open(0, dir, "b", true);
    assert_eq!(bench.err(0, Op::Allocate { file: other, len: 2 * BLOCK_BYTES as u64 }), IoErrorKind::Full);
    let op = bench.write_op(other, 1, 1, true);
    assert_eq!(bench.err(0, op), IoErrorKind::Full);
    bench.write(0, file, 3, 1, true);
    bench.ok(0, Op::Allocate { file: other, len: BLOCK_BYTES as u64 });
    bench.ok(0, Op::Unlink { dir, name: name("a") });
    bench.ok(0, Op::SyncDir { dir });
    bench.crash(0);
    bench.boot(0);
    let dir = bench.open_dir(0);
    let (other, _) = bench.open(0, dir, "b", false);
    bench.ok(0, Op::Allocate { file: other, len: 5 * BLOCK_BYTES as u64 });
}

#[test]
fn injected_errors_hit_the_operation_they_were_aimed_at() {
    let mut bench = Bench::new(6, 1);
    let dir = bench.open_dir(0);
    let file = bench.durable_file(0, dir, "a");
    let error = IoErrorKind::Device;
    bench.sim.inject(bench.hosts[0], Injection { class: OpClass::Write, after: 2, error, times: 1 });
    bench.sim.inject(bench.hosts[0], Injection { class: OpClass::Sync, after: 0, error, times: 1 });
    bench.write(0, file, 0, 1, true);
    bench.write(0, file, 1, 1, true);
    let op = bench.write_op(file, 2, 1, true);
    assert_eq!(bench.err(0, op), error);
    bench.write(0, file, 2, 1, false);
    assert_eq!(bench.err(0, Op::Sync { file }), error);
    bench.ok(0, Op::Sync { file });
    assert_eq!(bench.sectors(0, file, 2), [1; 8]);
    assert_eq!(bench.sim.counts().get("injected error"), 2);
    // A second flush, though it succeeds, says nothing of what the failed one should have written.
    bench.sim.power_cut_with(bench.hosts[0], |_| false);
    bench.ios[0] = None;
    bench.boot(0);
    let dir = bench.open_dir(0);
    let (file, _) = bench.open(0, dir, "a", false);
    let found = bench.sectors(0, file, 2);
    assert!(found.contains(&0), "nothing of the failed flush was lost: {found:?}");
}

#[test]
fn operations_held_back_take_effect_when_released() {
    let mut bench = Bench::new(7, 1);
    let dir = bench.open_dir(0);
    let file = bench.durable_file(0, dir, "a");
    bench.sim.hold(bench.hosts[0], OpClass::Write);
    let op = bench.write_op(file, 0, 1, true);
    let write = bench.submit(0, op);
    bench.run(1_000_000_000);
    assert!(!bench.is_done(0, write));
    assert_eq!(bench.sectors(0, file, 0), [0; 8]);
    assert_eq!(bench.sim.outstanding(bench.hosts[0]), 1);
    bench.sim.release(bench.hosts[0], OpClass::Write);
    assert!(bench.wait(0, write).result.is_ok());
    assert_eq!(bench.sectors(0, file, 0), [1; 8]);
}

#[test]
fn several_writes_in_flight_complete_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..20 {
        let mut bench = Bench::new(seed, 1);
        let dir = bench.open_dir(0);
        let file = bench.durable_file(0, dir, "a");
        let tokens: Vec<u64> = (0..3)
            .map(|block| {
                let op = bench.write_op(file, block, 1, true);
                bench.submit(0, op)
            })
            .collect();
        let mut order = Vec::new();
        while order.len() < 3 {
            bench.step(1_000_000_000);
            let news: Vec<u64> = tokens.iter().copied().filter(|&token| bench.is_done(0, token) && !order.contains(&token)).collect();
            order.extend(news);
        }
        orders.insert(order);
    }
    assert!(orders.len() >= 4, "{orders:?}");
}

#[test]
#[should_panic(expected = "both must be multiples of 4096")]
fn an_unaligned_write_is_a_bug_of_the_caller() {
    let mut bench = Bench::new(8, 1);
    let dir = bench.open_dir(0);
    let file = bench.durable_file(0, dir, "a");
    let data = kontiki_io::IoData::Pool(bench.buffer(1), 100);
    bench.call(0, Op::Write { file, offset: 0, data, durable: true });
}

#[test]
#[should_panic(expected = "is not open")]
fn a_closed_handle_is_a_bug_of_the_caller() {
    let mut bench = Bench::new(9, 1);
    let dir = bench.open_dir(0);
    bench.ok(0, Op::Close { handle: dir });
    bench.call(0, Op::List { dir });
}

#[test]
#[should_panic(expected = "operations outstanding on it")]
fn a_close_under_an_operation_is_a_bug_of_the_caller() {
    let mut bench = Bench::new(10, 1);
    let dir = bench.open_dir(0);
    bench.submit(0, Op::List { dir });
    bench.submit(0, Op::Close { handle: dir });
}

#[test]
#[should_panic(expected = "operations are outstanding already")]
fn more_operations_than_the_capacity_are_a_bug_of_the_caller() {
    let mut bench = Bench::new(11, 1);
    let dir = bench.open_dir(0);
    for _ in 0..=kontiki_sim::limits::CAPACITY {
        bench.submit(0, Op::List { dir });
    }
}

#[test]
fn every_way_a_power_cut_can_end_is_enumerated_from_one_moment() {
    let mut bench = Bench::new(12, 1);
    let dir = bench.open_dir(0);
    let file = bench.durable_file(0, dir, "a");
    bench.write(0, file, 0, 1, true);
    bench.ok(0, Op::Rename { dir, from: name("a"), to: name("b") });
    // A write under way counts as unflushed, though it asks for durability.
    let op = bench.write_op(file, 0, 2, true);
    let token = bench.submit(0, op);
    bench.step(1_000_000);
    assert!(!bench.is_done(0, token));
    let before = bench.sim.disk_for_cut(bench.hosts[0]);
    let choices = before.unflushed();
    assert_eq!(choices.len(), 9, "{choices:?}");
    let mut states = BTreeSet::new();
    for mask in 0..1u32 << choices.len() {
        let mut disk = before.clone();
        let mut asked = 0;
        disk.cut(&mut |choice| {
            assert_eq!(Some(&choice), choices.get(asked));
            asked += 1;
            mask >> (asked - 1) & 1 == 1
        });
        assert_eq!(asked, choices.len());
        let mut after = Bench::new(1, 0);
        let host = after.sim.add_host();
        after.sim.install_disk(host, disk);
        after.ios.push(Some(after.sim.boot(host)));
        let dir = after.open_dir(0);
        let Output::Listing(listed) = after.ok(0, Op::List { dir }) else { panic!("no listing") };
        assert_eq!(listed.len(), 1);
        let (file, _) = after.open(0, dir, listed[0].0.as_str(), false);
        states.insert((listed[0].0.clone(), after.sectors(0, file, 0)));
    }
    assert_eq!(states.len(), 1 << 9);
    // Looking changed nothing.
    assert!(bench.wait(0, token).result.is_ok());
    assert_eq!(bench.sectors(0, file, 0), [2; 8]);
    assert_eq!(bench.sim.open_handles(bench.hosts[0]), 2);
}

#[test]
fn a_cut_can_garble_the_erase_group_before_a_write_but_nothing_else() {
    let mut garbled = 0;
    for seed in 0..20 {
        let mut conditions = kontiki_sim::Conditions::calm();
        conditions.disk.erase_group_bytes = 2 * BLOCK_BYTES as u64;
        let mut bench = Bench::with(seed, 1, conditions);
        let dir = bench.open_dir(0);
        let file = bench.durable_file(0, dir, "a");
        for block in 0..4 {
            bench.write(0, file, block, 1, true);
        }
        let op = bench.write_op(file, 3, 2, true);
        bench.submit(0, op);
        bench.step(1_000_000);
        bench.power_cut(0);
        bench.boot(0);
        let dir = bench.open_dir(0);
        let (file, _) = bench.open(0, dir, "a", false);
        assert_eq!(bench.sectors(0, file, 0), [1; 8]);
        assert_eq!(bench.sectors(0, file, 1), [1; 8]);
        garbled += u32::from(bench.sectors(0, file, 2) != [1; 8]);
    }
    assert!((3..18).contains(&garbled), "{garbled}");
}

#[test]
fn drawn_errors_come_as_often_as_asked_and_rot_where_it_leaves_evidence() {
    let mut conditions = kontiki_sim::Conditions::calm();
    let often = kontiki_sim::Odds::one_in(4);
    let disk = &mut conditions.disk;
    (disk.read_error, disk.write_error, disk.flush_error, disk.rot) = (often, often, often, often);
    let mut bench = Bench::new(13, 1);
    let dir = bench.open_dir(0);
    let file = bench.durable_file(0, dir, "a");
    bench.sim.set_disk_conditions(bench.hosts[0], conditions.disk);
    for _ in 0..100 {
        let op = bench.write_op(file, 0, 0, false);
        bench.call(0, op);
        bench.call(0, Op::Sync { file });
        let buf = IoBuf::Pool(bench.buffer(9));
        let done = bench.call(0, Op::Read { file, offset: 0, buf, len: BLOCK_BYTES });
        assert!(done.buf.is_some(), "memory comes back from a failed read as well");
    }
    let counts = bench.sim.counts();
    for what in ["read error", "write error", "flush error"] {
        assert!((10..45).contains(&counts.get(what)), "{what}: {counts}");
    }
    // A file that is none of the log's holds no evidence of what it held (`decay.rs`).
    assert_eq!(counts.get("rot"), 0);
}

#[test]
fn a_power_cut_is_another_boot_and_a_changed_medium_another_place() {
    let mut bench = Bench::new(14, 2);
    let identify = |bench: &mut Bench, host: usize| {
        let dir = bench.open_dir(host);
        match bench.ok(host, Op::Identify { dir }) {
            Output::Identity(identity) => identity,
            other => panic!("{other:?}"),
        }
    };
    let first = identify(&mut bench, 0);
    assert!(first.is_same(&identify(&mut bench, 0)));
    let elsewhere = identify(&mut bench, 1);
    assert!(elsewhere.boot != first.boot && elsewhere.place != first.place);
    bench.crash(0);
    bench.boot(0);
    assert!(first.is_same(&identify(&mut bench, 0)), "a killed process is no power cut");
    bench.power_cut(0);
    bench.boot(0);
    let second = identify(&mut bench, 0);
    assert!(second.boot != first.boot && second.place == first.place);
    bench.sim.change_medium(bench.hosts[0]);
    let third = identify(&mut bench, 0);
    assert!(third.boot == second.boot && third.place != second.place);
    // An image from before is another medium too, and a cut one another boot.
    let mut disk = bench.sim.disk_for_cut(bench.hosts[0]);
    disk.cut(&mut |_| true);
    bench.crash(0);
    bench.sim.install_disk(bench.hosts[0], disk);
    bench.boot(0);
    let fourth = identify(&mut bench, 0);
    assert!(fourth.boot != third.boot && fourth.place != third.place);
    bench.sim.set_identity_known(bench.hosts[0], false);
    let unknown = identify(&mut bench, 0);
    assert_eq!(unknown, kontiki_io::Identity::default());
    assert!(!unknown.is_same(&unknown));
}

#[test]
fn names_change_hang_and_fail_as_they_are_told() {
    let mut bench = Bench::new(15, 1);
    let (sim, host) = (bench.sim.clone(), bench.hosts[0]);
    let lookup = || Op::Resolve { host: kontiki_io::HostName::new("board").unwrap(), port: 7 };
    assert_eq!(bench.err(0, lookup()), IoErrorKind::NotFound);
    for ip in [[10, 0, 0, 1], [10, 0, 0, 2]] {
        sim.set_name("board", &[ip.into()]);
        let Output::Addresses(found) = bench.ok(0, lookup()) else { panic!("no addresses") };
        assert_eq!(found, [(ip, 7).into()]);
    }
    sim.hold(host, OpClass::Resolve);
    let token = bench.submit(0, lookup());
    bench.run(30 * kontiki_sim::SECOND);
    assert!(!bench.is_done(0, token));
    // What it finds is what is so when it ends.
    sim.set_name("board", &[]);
    sim.release(host, OpClass::Resolve);
    assert_eq!(bench.wait(0, token).result.unwrap_err().kind, IoErrorKind::NotFound);
    sim.set_name("board", &[[10, 0, 0, 3].into()]);
    sim.inject(host, Injection { class: OpClass::Resolve, after: 0, error: IoErrorKind::Shortage, times: 1 });
    assert_eq!(bench.err(0, lookup()), IoErrorKind::Shortage);
    bench.ok(0, lookup());
}

//! Sites that lose their power, while one board of three is away: those that are left must go on. For killed processes see `kills.rs`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "common/directed.rs"]
mod directed;

use directed::{TIMEOUT, heal, leader, leads, recycled, run, three_of, write};
use kontiki::Medium;
use kontiki_sim::{Cluster, MILLISECOND, Random, SECOND};

const MEDIA: [(&str, Medium); 2] = [("safe", Medium::Safe), ("lossy", Medium::Lossy)];

/// Cuts the power of all three under load, or kills them, and starts all but one of them again. Whether something was in flight on one of
/// those: then a lossy medium may have lost what was acknowledged, and that one must not vote before it knows.
fn site_outage(cluster: &mut Cluster, first: usize, power: bool) -> bool {
    let dead = (first + 1) % 3;
    cluster.set_clients(true);
    run(cluster, 50 * MILLISECOND);
    let in_flight = (0..3).any(|n| n != dead && !cluster.sim().is_at_rest(cluster.host(n)));
    (0..3).for_each(|n| if power { cluster.power_cut(n) } else { cluster.crash(n) });
    cluster.set_clients(false);
    (0..3).filter(|&n| n != dead).for_each(|n| cluster.start(n));
    in_flight
}

/// The site loses its power once, and one board of three does not come back. Nothing on any disk is damaged.
#[test]
fn a_site_loses_power_and_one_board_stays_dead() {
    let mut doubted = 0;
    for (name, medium) in MEDIA {
        for seed in 1..11 {
            let (mut cluster, first) = recycled(seed, medium);
            let in_flight = site_outage(&mut cluster, first, true);
            if !leads(&mut cluster) {
                assert!(medium == Medium::Lossy && in_flight, "{name}, seed {seed}: {:?}", cluster.standings());
                doubted += 1;
            }
        }
    }
    assert!(doubted < 5, "of ten cuts under load on a lossy medium {doubted} hit a write at the very end of a log");
}

/// The same with segments that were never used before: zeros stand behind the end from the beginning.
#[test]
fn the_same_before_segments_are_recycled() {
    let mut doubted = 0;
    for power in [false, true] {
        for seed in 1..11 {
            let (mut cluster, first) = three_of(seed, |setup| setup.config.medium = Medium::Lossy);
            write(&mut cluster, 500);
            let in_flight = site_outage(&mut cluster, first, power);
            if !leads(&mut cluster) {
                assert!(power && in_flight, "power cut {power}, seed {seed}: {:?}", cluster.standings());
                doubted += 1;
            }
        }
    }
    assert!(doubted < 5, "of ten cuts under load on a lossy medium {doubted} hit a write at the very end of a log");
}

/// Power cuts of idle clusters of three, on both media: one, two or all of those that are up, while one is away half of the time. Where
/// nothing was in flight, somebody leads again each time. `RUNS=200` makes it the long form, `SEED=n` repeats one.
#[test]
fn idle_clusters_lose_their_power() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, runs) = number("SEED").map_or((1, number("RUNS").unwrap_or(20)), |seed| (seed, 1));
    let (mut idle, mut stuck) = (0, Vec::new());
    for seed in first..first + runs {
        let mut random = Random::stream(seed, 20);
        let (name, medium) = MEDIA[random.below(2) as usize];
        let (mut cluster, _) = if random.coin() { recycled(seed, medium) } else { three_of(seed, |setup| setup.config.medium = medium) };
        let away = random.coin().then(|| random.below(3) as usize);
        away.into_iter().for_each(|n| cluster.power_cut(n));
        let up: Vec<usize> = (0..3).filter(|&n| Some(n) != away).collect();
        assert!(leads(&mut cluster), "seed {seed}: {:?}", cluster.standings());
        write(&mut cluster, 1 + random.below(50));
        let at_rest = |cluster: &mut Cluster| up.iter().all(|&n| cluster.sim().is_at_rest(cluster.host(n)));
        let rests = cluster.run_until_holds(10 * SECOND, at_rest);
        let count = random.between(1, up.len() as u64) as usize;
        up.iter().take(count).for_each(|&n| cluster.power_cut(n));
        run(&mut cluster, random.below(2 * SECOND));
        up.iter().for_each(|&n| cluster.start(n));
        if !rests {
            continue;
        }
        idle += 1;
        let stands = |cluster: &mut Cluster| up.iter().all(|&n| cluster.is_serving(n)) && leader(cluster).is_some();
        if !cluster.run_until_holds(100 * TIMEOUT, stands) {
            stuck.push(format!("seed {seed}, {name}, {count} of {up:?}: {:?}", cluster.standings()));
            continue;
        }
        // Whoever is away may be behind what the log still has: that one would have to be rebuilt.
        write(&mut cluster, 1);
        assert_eq!(cluster.judge().violations(), [], "seed {seed}");
    }
    println!("{idle} of {runs} were idle");
    assert!(2 * idle > runs, "only {idle} of {runs} were idle");
    assert!(stuck.is_empty(), "no leader:\n{}", stuck.join("\n"));
}

fn term(cluster: &Cluster) -> u64 {
    let of = |line: &String| line.split("of term ").nth(1)?.split(',').next()?.parse::<u64>().ok();
    cluster.standings().iter().filter_map(of).max().unwrap_or(0)
}

/// Disks that a log fills at once.
fn small_disks(cluster: &mut Cluster) {
    for n in 0..3 {
        let host = cluster.host(n);
        let mut conditions = cluster.sim().disk_conditions(host);
        conditions.capacity_bytes = 6 << 20;
        cluster.sim().set_disk_conditions(host, conditions);
        cluster.set_full(n, true);
    }
}

/// All disks are full of log, long before as much is written as is to be retained, and the power fails everywhere: they elect,
/// forget and go on, again and again.
#[test]
fn full_disks_of_all_three_forget_and_go_on() {
    for seed in 1..5 {
        let (mut cluster, _) = three_of(seed, |setup| {
            setup.durable_state = false;
            setup.config.medium = if seed % 2 == 0 { Medium::Lossy } else { Medium::Safe };
        });
        small_disks(&mut cluster);
        for round in 0..3 {
            let before = cluster.judge().acknowledged();
            cluster.set_clients(true);
            let enough = |cluster: &mut Cluster| cluster.judge().acknowledged() >= before + 2_000;
            assert!(cluster.run_until_holds(300 * SECOND, enough), "seed {seed}, round {round}: {:#?}", cluster.standings());
            (0..3).for_each(|n| cluster.power_cut(n));
            cluster.set_clients(false);
            (0..3).for_each(|n| cluster.start(n));
        }
        heal(&mut cluster);
        let counts = cluster.sim().counts();
        assert!(counts.get("refused by a full disk") > 0, "seed {seed}: {counts:?}");
    }
}

/// All disks are full, and nothing may be forgotten: a cluster that waits for an operator does not wear its disks out with elections.
#[test]
fn full_disks_and_no_leader() {
    let (mut cluster, _) = three_of(7, |setup| {
        setup.durable_state = false;
        setup.config.medium = Medium::Lossy;
    });
    small_disks(&mut cluster);
    (0..3).for_each(|n| cluster.set_may_stop(n, true));
    cluster.set_clients(true);
    run(&mut cluster, 60 * SECOND);
    cluster.set_clients(false);
    run(&mut cluster, 5 * SECOND);
    (0..3).for_each(|n| cluster.power_cut(n));
    (0..3).for_each(|n| cluster.start(n));
    run(&mut cluster, 10 * SECOND);
    let before = term(&cluster);
    run(&mut cluster, 600 * SECOND);
    let after = term(&cluster);
    assert!(after - before < 20, "{} terms, each two durable writes of the same two blocks on every node", after - before);
}

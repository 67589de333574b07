//! A cluster in a calm world, for simulations that arrange what happens.
// Each test file uses some of these.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use kontiki::{Config, Medium};
use kontiki_io::IoErrorKind;
use kontiki_sim::{Cluster, Conditions, Host, Injection, MILLISECOND, OpClass, Random, SECOND, Setup, Sim, Workload};

/// The longest election timeout.
pub const TIMEOUT: u64 = 300 * MILLISECOND;

/// Three nodes in a calm world, all started, one of them leading. The ring holds a few dozen small frames: what is older is read from the disk.
pub fn three(seed: u64) -> (Cluster, usize) {
    three_of(seed, |_| ())
}

/// The same, set up otherwise.
pub fn three_of(seed: u64, change: impl FnOnce(&mut Setup)) -> (Cluster, usize) {
    let config = Config {
        cluster: u128::from(seed) << 1 | 1,
        election_min_ms: 150,
        election_max_ms: TIMEOUT / MILLISECOND,
        heartbeat_ms: 40,
        max_entry_bytes: 2048,
        max_frame_bytes: 16 << 10,
        max_in_flight: 256,
        ring_bytes: 256 << 10,
        window_bytes: 64 << 10,
        window_frames: 16,
        segment_bytes: 4096 + (128 << 10),
        retention_bytes: 100 * (128 << 10),
        seed,
        ..Config::default()
    };
    let mut setup = Setup { members: 3, config, durable_state: true };
    change(&mut setup);
    let mut workload = Workload::drawn(Random::stream(seed, 1), 1024);
    (workload.in_flight, workload.pause_ns) = (16, 2 * MILLISECOND);
    let mut cluster = Cluster::new(Sim::new(seed, Conditions::calm()), setup, workload);
    (0..3).for_each(|n| cluster.start(n));
    let led = |cluster: &mut Cluster| leader(cluster).is_some() && (0..3).all(|n| cluster.is_serving(n));
    assert!(cluster.run_until_holds(10 * TIMEOUT, led), "{:#?}", cluster.standings());
    write(&mut cluster, 20);
    let (first, _) = leader(&cluster).unwrap();
    (cluster, first)
}

/// Three nodes whose segments are recycled, as they are after a while in a product: what stands behind a log's end is never zeros of the file's.
pub fn recycled(seed: u64, medium: Medium) -> (Cluster, usize) {
    let (mut cluster, first) = three_of(seed, |setup| {
        setup.config.medium = medium;
        setup.config.retention_bytes = 0;
        setup.config.segment_bytes = 4096 + (64 << 10);
    });
    write(&mut cluster, 2000);
    (cluster, first)
}

/// Goes on until somebody leads; false if nobody does within a hundred timeouts.
pub fn leads(cluster: &mut Cluster) -> bool {
    cluster.run_until_holds(100 * TIMEOUT, |cluster| leader(cluster).is_some())
}

/// Who leads in the highest term, and that term.
pub fn leader(cluster: &Cluster) -> Option<(usize, u64)> {
    let standings = cluster.standings();
    let term = |line: &String| line.split("Leader of term ").nth(1)?.split(',').next()?.parse().ok();
    let leaders = standings.iter().enumerate().filter_map(|(n, line)| Some((n, term(line)?)));
    leaders.max_by_key(|(_, term)| *term)
}

pub fn run(cluster: &mut Cluster, ns: u64) {
    cluster.run_until(cluster.sim().now().plus_ns(ns));
}

/// Clients write until so many more are acknowledged.
pub fn write(cluster: &mut Cluster, count: u64) {
    let enough = cluster.judge().acknowledged() + count;
    cluster.set_clients(true);
    let written = cluster.run_until_holds(20 * SECOND, |cluster| cluster.judge().acknowledged() >= enough);
    cluster.set_clients(false);
    assert!(written, "{:#?}", cluster.standings());
}

pub fn others(cluster: &Cluster, n: usize) -> Vec<Host> {
    (0..cluster.len()).filter(|&m| m != n).map(|m| cluster.host(m)).collect()
}

pub fn isolate(cluster: &Cluster, n: usize) {
    cluster.sim().partition(&[cluster.host(n)], &others(cluster, n));
}

/// Everything works again: a fresh write is acknowledged, every proposal ends, all replicas are equal, and nothing was broken.
pub fn heal(cluster: &mut Cluster) {
    cluster.sim().heal();
    (0..cluster.len()).for_each(|n| cluster.start(n));
    write(cluster, 1);
    let quiet = cluster.run_until_holds(60 * SECOND, |cluster| cluster.outstanding() == 0 && cluster.is_converged());
    assert!(quiet, "{:#?}", cluster.standings());
    cluster.settle();
    assert_eq!(cluster.judge().violations(), []);
}

pub fn fail_once(cluster: &mut Cluster, n: usize, class: OpClass) {
    cluster.set_may_stop(n, true);
    cluster.sim().inject(cluster.host(n), Injection { class, after: 0, error: IoErrorKind::Device, times: 1 });
}

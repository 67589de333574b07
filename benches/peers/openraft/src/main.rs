//! openraft: a current-thread tokio runtime per node, over the log that all peers share and a pipelined append stream
//! of its own.
//!
//! Several tasks in the leader's process propose batches with `client_write_many`; together they keep the number in
//! flight.

mod network;
mod state_machine;
mod storage;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{FutureExt, StreamExt};
use openraft::{Config, EmptyNode, Raft, SnapshotPolicy};
use peer_common::cluster::IDS;
use peer_common::payload::Pool;
use peer_common::{Load, Log, Measured, Meter, Node, Payload, Peer};
use tokio::sync::mpsc;

use state_machine::Counter;

/// Tasks that propose, if there are as many in flight: each has its share.
const PROPOSERS: usize = 8;
/// Entries between two snapshots, which are a number.
const SNAPSHOT_EVERY: u64 = 50_000;
/// Entries that stay in memory behind a snapshot.
const KEEP: u64 = 16 << 10;
/// How long the first may take to lead.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long to wait before it is asked again.
const START_PAUSE: Duration = Duration::from_millis(20);

openraft::declare_raft_types!(
    /// The types; a node has no data, its address is known from the start.
    pub(crate) Types:
        D = Payload,
        R = u64,
        Node = EmptyNode,
);

type Engine = Raft<Types, Counter>;

fn main() -> ExitCode {
    peer_common::main(&Peer { name: "openraft", version: "0.10.0-alpha.37", run })
}

fn run(node: Node, load: Option<Load>) -> Result<Measured> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(replica(node, load))
}

async fn replica(node: Node, load: Option<Load>) -> Result<Measured> {
    // The first is to lead: the others are in no hurry to take its place.
    let patience = if load.is_some() { 1 } else { 4 };
    let config = Config {
        heartbeat_interval: 300,
        election_timeout_min: 1500 * patience,
        election_timeout_max: 3000 * patience,
        max_payload_entries: 1024,
        api_batch_capacity: 4096,
        // Followers get entries before the leader's own log has them.
        broadcast_submitted_on_append: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP,
        purge_batch_size: 1024,
        ..Config::default()
    };
    let log = storage::Recent::new(Log::create(&node.dir)?);
    let addrs = network::Addrs(IDS.into_iter().zip(node.addrs).collect());
    let engine = Engine::new(node.id, Arc::new(config.validate()?), addrs, log, Counter::default()).await?;
    let serving = tokio::spawn(network::serve(node.listener, engine.clone()));
    let Some(load) = load else { return Err(serving.await?.expect_err("a server does not end by itself")) };
    let members: BTreeMap<u64, EmptyNode> = IDS.into_iter().map(|id| (id, EmptyNode {})).collect();
    engine.initialize(members).await?;
    engine.wait(Some(START_LIMIT)).current_leader(node.id, "the first leads").await?;
    // It leads when it has committed something in its term.
    let begun = Instant::now();
    while let Err(error) = engine.client_write(Payload::default()).await {
        if begun.elapsed() > START_LIMIT {
            return Err(error.into());
        }
        tokio::time::sleep(START_PAUSE).await;
    }
    drive(&engine, load).await
}

async fn drive(engine: &Engine, load: Load) -> Result<Measured> {
    let proposers = PROPOSERS.min(load.in_flight);
    let (mut meter, pool) = (load.meter, Arc::new(Mutex::new(load.pool)));
    meter.begin(Instant::now());
    let meter = Arc::new(Mutex::new(meter));
    let (sender, mut results) = mpsc::channel(1);
    for n in 0..proposers {
        let share = load.in_flight / proposers + usize::from(n < load.in_flight % proposers);
        let (engine, meter, pool, sender) = (engine.clone(), meter.clone(), pool.clone(), sender.clone());
        tokio::spawn(async move {
            if let Some(result) = propose(&engine, share, &meter, &pool).await.transpose() {
                // The first result is the run's.
                drop(sender.send(result).await);
            }
        });
    }
    drop(sender);
    results.recv().await.context("nobody proposes")?
}

/// Proposes a batch again and again, each when the last is applied; ends when the run is measured.
async fn propose(engine: &Engine, share: usize, meter: &Mutex<Meter>, pool: &Mutex<Pool>) -> Result<Option<Measured>> {
    loop {
        let entries: Vec<Payload> = {
            let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
            (0..share).map(|_| pool.entry()).collect()
        };
        let since = Instant::now();
        let mut answers = engine.client_write_many(entries).await?.fuse();
        while let Some(answer) = answers.next().await {
            answer??;
            let mut count = 1;
            while let Some(Some(answer)) = answers.next().now_or_never() {
                answer??;
                count += 1;
            }
            let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
            meter.applied(count, since, Instant::now());
            if let Some(measured) = meter.take() {
                return measured.map(Some);
            }
        }
    }
}

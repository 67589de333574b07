//! From nothing to a replica that takes part: the log is opened and recovered, then the port.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use kontiki_core::{ClusterId, GroupId, NodeId, Raft, Restored, RestoredError, Time};
use kontiki_io::{Completion, Io};
use kontiki_mem::{Hold, Ring};
use kontiki_net::{Net, NetError};

use crate::apply::ApplyQueue;
use crate::config::{Config, Medium};
use crate::error::StartError;
use crate::limits::{self, NEWS_SHARE};
use crate::node::{Parts, Replica};
use crate::reactor::TurnError;
use crate::shared::Shared;

const MS: u64 = 1_000_000;

enum Step {
    Log(Box<kontiki_wal::Opening>),
    Port(Box<Replica>),
    Done,
}

/// A node on its way up.
pub(crate) struct Opening {
    config: Config,
    shared: Hold<Shared>,
    queue: Arc<ApplyQueue>,
    ring: Option<Ring>,
    step: Step,
    began: Time,
}

impl Opening {
    pub(crate) fn start(
        config: Config,
        shared: Hold<Shared>,
        queue: Arc<ApplyQueue>,
        ring: Ring,
        io: &mut dyn Io,
    ) -> Result<Opening, StartError> {
        let options = kontiki_wal::Options {
            dir: config.dir.clone(),
            cluster: ClusterId(config.cluster),
            node: NodeId(config.id),
            group: GroupId(0),
            segment_bytes: config.segment_bytes,
            retention_bytes: config.retention_bytes,
            writes_in_flight: config.writes_in_flight,
            medium: match config.medium {
                Medium::Safe => kontiki_wal::Medium::Safe,
                Medium::Lossy => kontiki_wal::Medium::Lossy,
            },
            max_frame_bytes: config.takes_frame_bytes(),
            sole_voter: config.members.len() == 1,
            ..kontiki_wal::Options::default()
        };
        let began = io.now();
        let log = kontiki_wal::Opening::start(options, io)?;
        Ok(Opening { config, shared, queue, ring: Some(ring), step: Step::Log(Box::new(log)), began })
    }

    pub(crate) fn deadline(&self) -> Time {
        match &self.step {
            Step::Port(replica) => replica.deadline(),
            Step::Log(_) | Step::Done => Time(u64::MAX),
        }
    }

    pub(crate) fn on_completion(&mut self, completion: Completion, io: &mut dyn Io) {
        let now = io.now();
        match &mut self.step {
            Step::Log(log) => log.on_completion(completion, io),
            Step::Port(replica) => replica.on_completion(completion, now, io),
            Step::Done => {}
        }
    }

    /// The replica, once it is up.
    pub(crate) fn poll(&mut self, now: Time, io: &mut dyn Io) -> Result<Option<Replica>, TurnError> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Log(mut log) => match log.poll().map_err(StartError::Log)? {
                None => self.step = Step::Log(log),
                Some(opened) => {
                    let replica = self.log_is_open(opened, now, io)?;
                    self.step = Step::Port(Box::new(replica));
                }
            },
            Step::Port(mut replica) => match replica.poll_listening() {
                None => self.step = Step::Port(replica),
                Some(Ok(())) => return Ok(Some(*replica)),
                Some(Err(NetError::AddressInUse { addr })) => {
                    return Err(StartError::Listen { addr, reason: "the address is in use: is another node running here?".into() }.into());
                }
                Some(Err(NetError::Listen { addr, source })) => return Err(StartError::Listen { addr, reason: source.to_string() }.into()),
            },
            Step::Done => {}
        }
        Ok(None)
    }

    fn log_is_open(&mut self, opened: kontiki_wal::Opened, now: Time, io: &mut dyn Io) -> Result<Replica, StartError> {
        let config = self.config.clone();
        let kontiki_wal::Opened { wal, hard_state, incarnation, restored, report } = opened;
        let took = now.since(self.began);
        let recovery = describe(&report, took);
        if hard_state.recovering {
            tracing::warn!(%recovery, "log recovered with losses: this replica refetches from its peers and does not vote until it has what it lost");
        } else {
            tracing::info!(%recovery, "log recovered");
        }
        let applied = self.queue.applied();
        let restored = Restored { applied, ..restored };
        restored.validate().map_err(|error| match error {
            RestoredError::Gap { applied, first } => StartError::StateBehindLog { applied: applied.0, first: first.0 },
            error => StartError::Restored(error),
        })?;
        if applied > restored.last {
            tracing::error!(
                applied = applied.0,
                last = restored.last.0,
                "the state machine has applied entries that the log has lost: this replica neither leads nor votes for a log without them. If no \
                 replica can lead, no log holds them any more: restore one from a backup, or give up all that was applied since"
            );
        }
        let seed = seed(&config, incarnation.0);
        let core = kontiki_core::Config {
            id: NodeId(config.id),
            voters: config.members.iter().map(|m| NodeId(m.id)).collect(),
            election_min_ns: config.election_min_ms * MS,
            election_max_ns: config.election_max_ms * MS,
            election_limit_ns: config.election_limit_ms.max(config.election_max_ms) * MS,
            heartbeat_ns: config.heartbeat_ms * MS,
            news_ns: config.heartbeat_ms * MS / NEWS_SHARE,
            window_bytes: config.window_bytes,
            window_frames: config.window_frames,
            seed,
        };
        let raft = Raft::new(core, restored, now);
        let Some(listen) = config.listen_addr() else {
            return Err(StartError::Config(crate::ConfigError::Value {
                name: "id",
                value: config.id.to_string(),
                must: "must be the id of one of `members`".into(),
            }));
        };
        let peers = config.members.iter().filter(|m| m.id != config.id).map(|m| (NodeId(m.id), m.addr)).collect();
        let mut options = kontiki_net::Options::new(ClusterId(config.cluster), NodeId(config.id), incarnation, listen, peers);
        options.max_frame_bytes = config.takes_frame_bytes();
        options.parameters = parameters(&config);
        options.bulk_queue_frames = config.window_frames as usize;
        options.bulk_queue_bytes = config.window_bytes;
        options.max_clients = config.max_clients;
        options.max_requests_in_flight = limits::CLIENT_REQUESTS as usize;
        options.max_request_bytes = config.max_entry_bytes;
        options.max_reply_bytes = config.reply_bytes.max(limits::STATUS_BYTES);
        options.seed = seed;
        let mut net = Net::new(options).map_err(|e| StartError::Listen { addr: listen, reason: e.to_string() })?;
        net.start(io, now);
        let Some(ring) = self.ring.take() else { panic!("the log opens once") };
        let (shared, queue) = (self.shared.clone(), Arc::clone(&self.queue));
        Ok(Replica::new(Parts { config, incarnation, raft, wal, net, ring, shared, queue, recovery }))
    }
}

/// What peers are told of this node.
fn parameters(config: &Config) -> kontiki_net::Parameters {
    let told = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    kontiki_net::Parameters {
        takes_frame_bytes: told(config.takes_frame_bytes() as u64),
        max_frame_bytes: told(config.max_frame_bytes as u64),
        max_entry_bytes: told(config.max_entry_bytes as u64),
        heartbeat_ms: told(config.heartbeat_ms),
        election_min_ms: told(config.election_min_ms),
        election_max_ms: told(config.election_max_ms),
    }
}

/// One line for the operator.
fn describe(report: &kontiki_wal::RecoveryReport, took_ns: u64) -> String {
    let seconds = took_ns.max(1) as f64 / 1e9;
    let mib = report.bytes as f64 / f64::from(1 << 20);
    format!("{report}; {mib:.1} MiB in {seconds:.3} s ({:.0} MiB/s)", mib / seconds)
}

/// The configured seed, different for every node and start; or the process's own randomness.
fn seed(config: &Config, incarnation: u64) -> u64 {
    if config.seed == 0 {
        return std::collections::hash_map::RandomState::new().build_hasher().finish();
    }
    // Multiplied by odd constants, so that neighbours differ in every bit of what the generators make of it.
    config.seed ^ config.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ incarnation.wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

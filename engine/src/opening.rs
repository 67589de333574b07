//! From nothing to a replica that takes part: the log is opened and recovered, then the port.

mod files;

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use kontiki_core::{Base, ClusterId, GroupId, LogIndex, NodeId, Raft, Restored, RestoredError, Time};
use kontiki_io::{Completion, Io, tell};
use kontiki_mem::{Hold, Ring};
use kontiki_net::{Net, NetError};
use kontiki_snapshot::{Expected, Store};
use kontiki_wal::{Reach, Wal};

use crate::apply::ApplyQueue;
use crate::config::{Admin, Config, Medium};
use crate::error::{LeaderHint, StartError};
use crate::events::Event;
use crate::limits::{self, NEWS_SHARE};
use crate::node::{Parts, Replica, restoring};
use crate::reactor::TurnError;
use crate::shared::Shared;
use files::{Closing, Files, Found};

const MS: u64 = 1_000_000;

enum Step {
    Files(Box<Files>),
    Port(Box<Replica>),
    /// The start ends here: as it was asked to, or for this reason. The log is closed in order first, so that the next
    /// start finds it so.
    Ending(Ending, Option<StartError>),
    Done,
}

/// What is closed.
enum Ending {
    Files(Closing),
    Node(Box<Replica>),
}

/// What came of a start so far.
pub(crate) enum Opened {
    NotYet,
    Up(Box<Replica>),
    /// It was asked to stop, and has.
    Stopped,
}

/// A node on its way up.
pub(crate) struct Opening {
    config: Config,
    shared: Hold<Shared>,
    queue: Arc<ApplyQueue>,
    ring: Option<Ring>,
    step: Step,
    began: Time,
    /// Asked to stop, or ending by itself, since then.
    ending: Option<Time>,
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
            applied: queue.applied(),
            ..kontiki_wal::Options::default()
        };
        let began = io.now();
        let files = Files::start(&config, options, io)?;
        Ok(Opening { config, shared, queue, ring: Some(ring), step: Step::Files(Box::new(files)), began, ending: None })
    }

    pub(crate) fn deadline(&self) -> Time {
        match (&self.step, self.ending) {
            (step, Some(began)) => began.plus_ns(limits::CLOSE_LOG_NS).min(match step {
                Step::Ending(Ending::Node(replica), _) => replica.close_deadline(),
                Step::Ending(Ending::Files(files), _) => files.deadline().unwrap_or(Time(u64::MAX)),
                _ => Time(u64::MAX),
            }),
            (Step::Port(replica), None) => replica.deadline(),
            (Step::Files(_) | Step::Ending(..) | Step::Done, None) => Time(u64::MAX),
        }
    }

    /// Gives the start up: where the log is open already, it is closed in order.
    pub(crate) fn stop(&mut self, now: Time, io: &mut dyn Io) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(now);
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Files(mut files) => {
                files.stop();
                self.step = Step::Files(files);
            }
            Step::Port(replica) => self.end_node(replica, None, now, io),
            step => self.step = step,
        }
    }

    fn end_files(&mut self, mut files: Closing, why: Option<StartError>, now: Time, io: &mut dyn Io) {
        self.ending.get_or_insert(now);
        files.poll(io);
        self.step = Step::Ending(Ending::Files(files), why);
    }

    fn end_node(&mut self, mut replica: Box<Replica>, why: Option<StartError>, now: Time, io: &mut dyn Io) {
        self.ending.get_or_insert(now);
        replica.begin_close(now, io);
        self.step = Step::Ending(Ending::Node(replica), why);
    }

    pub(crate) fn on_completion(&mut self, completion: Completion, io: &mut dyn Io) {
        let now = io.now();
        match &mut self.step {
            Step::Files(files) => files.on_completion(completion, io),
            Step::Port(replica) | Step::Ending(Ending::Node(replica), _) => replica.on_completion(completion, now, io),
            Step::Ending(Ending::Files(files), _) => files.on_completion(completion, io),
            Step::Done => {}
        }
    }

    /// Goes on, as far as it can.
    pub(crate) fn poll(&mut self, now: Time, io: &mut dyn Io) -> Result<Opened, TurnError> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Files(mut files) => match files.poll(io) {
                Found::NotYet => self.step = Step::Files(files),
                Found::Stopped => return Ok(Opened::Stopped),
                Found::Failed(error) => return Err(error.into()),
                Found::Open(opened, store) => match self.files_are_open(*opened, store, now, io) {
                    Ok(replica) => self.step = Step::Port(replica),
                    Err((files, why)) => self.end_files(files, why, now, io),
                },
            },
            Step::Port(mut replica) => match replica.poll_listening() {
                None => self.step = Step::Port(replica),
                Some(Ok(())) => return Ok(Opened::Up(replica)),
                Some(Err(error)) => {
                    let why = match error {
                        NetError::AddressInUse { addr } => {
                            StartError::Listen { addr, reason: "the address is in use: is another node running here?".into() }
                        }
                        NetError::Listen { addr, source } => StartError::Listen { addr, reason: source.to_string() },
                    };
                    self.end_node(replica, Some(why), now, io);
                }
            },
            Step::Ending(mut what, why) => {
                let done = match &mut what {
                    Ending::Node(replica) => replica.close(now, io),
                    Ending::Files(files) => files.poll(io),
                };
                if !done && !self.is_overdue(now) {
                    self.step = Step::Ending(what, why);
                } else {
                    return why.map_or(Ok(Opened::Stopped), |why| Err(why.into()));
                }
            }
            Step::Done => {}
        }
        if self.is_overdue(now) { Ok(Opened::Stopped) } else { Ok(Opened::NotYet) }
    }

    fn is_overdue(&self, now: Time) -> bool {
        self.ending.is_some_and(|began| now.since(began) >= limits::CLOSE_LOG_NS)
    }

    /// The replica over an open log and its snapshots; or those, and why there is none: because it was asked to stop (`None`), or
    /// because it cannot be.
    fn files_are_open(
        &mut self,
        opened: kontiki_wal::Opened,
        mut store: Box<Store>,
        now: Time,
        io: &mut dyn Io,
    ) -> Result<Box<Replica>, (Closing, Option<StartError>)> {
        let kontiki_wal::Opened { wal, hard_state, incarnation, restored, reaches, report } = opened;
        let wal = Box::new(wal);
        if self.ending.is_some() {
            return Err((Closing { wal, store }, None));
        }
        let config = self.config.clone();
        let took = now.since(self.began);
        let mut recovery = describe(&report, took);
        if hard_state.recovering {
            recovery = format!("{recovery}; recovering, to be settled by others: {}", what_settles(&config));
        }
        // (What is damaged the log has told already; the status says it with the rest.)
        let told = kontiki_wal::RecoveryReport { damage: None, ..report.clone() };
        let told = recovery.replace(&report.to_string(), &told.to_string());
        if hard_state.recovering {
            tell!(warn, recovery = %told, "log recovered with losses: this replica refetches from its peers and does not vote until it has what it lost");
        } else {
            tell!(info, recovery = %told, "log recovered");
        }
        tell_damaged(&store);
        let start = self.queue.applied();
        let restore = restoring::at_start(store.snapshots(), restored.base.next(), start);
        // A crash while it was installed, or a log that lost more than its machine: the log takes what it lacks.
        let install = store.newest_full().copied().filter(|info| lacks(&restored, reaches, info.base()));
        let lost = install.is_none() && (reaches == Reach::Nothing || reaches == Reach::Machine && lost_small(&restored, &store));
        let needs_base = lost && config.members.len() > 1;
        if lost && !needs_base && reaches == Reach::Machine {
            tell!(
                warn,
                first = restored.base.next().0,
                "the snapshots here are damaged: the only member goes on with what its state machine and its log have"
            );
        }
        if needs_base {
            tell!(
                error,
                first = restored.base.next().0,
                "what this log presupposes is lost, in damaged snapshots or with the state machine: this replica takes no part before a leader has sent \
                 it a snapshot"
            );
            self.shared.events.tell(Event::BaseLost);
        }
        // Nothing is applied before: what lies between is nowhere.
        let restore = restore.filter(|_| !needs_base);
        let applied = restore.map_or(start, |info| info.base().index);
        let mark = mark(&restored, store.snapshots().next().map(|newest| newest.base().index), &wal, report.bytes);
        // A machine that has said how long its snapshots are makes some: room is set aside before the log takes it.
        let makes = store.newest_full().is_some() || start == LogIndex(0) && self.queue.snapshot_bytes() > 0;
        store.expect(match self.queue.durable() {
            LogIndex(0) => makes.then(|| Expected::Full(self.queue.snapshot_bytes())),
            _ => Some(Expected::Small),
        });
        let committed = applied.max(install.map_or(LogIndex(0), |info| info.base().index));
        let restored = Restored { committed, applied: self.queue.began(), needs_base, ..restored };
        if let Err(error) = restored.validate() {
            return Err((
                Closing { wal, store },
                Some(match error {
                    RestoredError::Gap { committed, first } => StartError::StateBehindLog { applied: committed.0, first: first.0 },
                    error => StartError::Restored(error),
                }),
            ));
        }
        if applied > restored.last && install.is_some() {
            tell!(
                warn,
                applied = applied.0,
                last = restored.last.0,
                "the log ends before what its snapshot holds: it goes on behind the snapshot, and the others send what came after"
            );
        } else if applied > restored.last {
            tell!(
                error,
                applied = applied.0,
                last = restored.last.0,
                "the state machine has applied entries that the log has lost: this replica neither leads nor votes for a log without them. If no \
                 replica can lead, no log holds them any more: what was applied since is then only in the state machines that have it"
            );
        }
        let seed = seed(&config, incarnation.0);
        let core = kontiki_core::Config {
            id: NodeId(config.id),
            voters: config.members.iter().map(|m| NodeId(m.id)).collect(),
            learners: Vec::new(),
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
            let must = "must be the id of one of `members`".into();
            let error = crate::ConfigError::Value { name: "id", value: config.id.to_string(), must };
            return Err((Closing { wal, store }, Some(StartError::Config(error))));
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
        options.admin_any = config.admin == Admin::Any;
        options.seed = seed;
        let mut net = match Net::new(options) {
            Ok(net) => net,
            Err(error) => return Err((Closing { wal, store }, Some(StartError::Listen { addr: listen, reason: error.to_string() }))),
        };
        net.start(io, now);
        self.shared.set_members(config.members.iter().map(LeaderHint::from).collect());
        let Some(ring) = self.ring.take() else { panic!("the log opens once") };
        let (shared, queue) = (self.shared.clone(), Arc::clone(&self.queue));
        Ok(Box::new(Replica::new(Parts {
            group: GroupId(0),
            config,
            incarnation,
            raft,
            wal: *wal,
            store: *store,
            restore,
            install,
            mark,
            net,
            ring,
            shared,
            queue,
            recovery,
            longest_frame: report.longest_frame,
        })))
    }
}

/// Whether a log lacks what a snapshot of `base` ends with: it ends before, or holds another entry there, or its own
/// beginning rests on nothing.
fn lacks(restored: &Restored, reaches: Reach, base: Base) -> bool {
    let run = restored.runs.iter().rev().find(|(from, _)| *from <= base.index);
    // What is older than the runs that are known is taken to be the same: nobody knows better before it is read.
    let other = base.index > restored.base.index && run.is_some_and(|&(_, term)| term != base.term);
    base.index > restored.last || other || reaches == Reach::Nothing && base.index >= restored.base.index
}

/// Whether a log behind which the machine stands has lost what else it presupposes: its snapshots are damaged, and none
/// that it goes on from is left. Where there never was one, there is nothing to lose; nor behind the first entry of all.
fn lost_small(restored: &Restored, store: &Store) -> bool {
    let goes_on = store.snapshots().any(|info| info.base().index >= restored.base.index);
    !goes_on && store.damaged().next().is_some()
}

/// Each snapshot that is no use, by name and flaw, and what serves in its place.
fn tell_damaged(store: &Store) {
    for (name, flaw) in store.damaged() {
        match store.snapshots().next() {
            Some(serves) => tell!(
                warn, %name, %flaw, %serves,
                "a snapshot is damaged, and counts as none: another serves in its place. It is removed once there are two again"
            ),
            None => tell!(
                warn, %name, %flaw,
                "a snapshot is damaged, and counts as none, and there is no other: what the log and the state machine hold must do. It is removed once \
                 there are two again"
            ),
        }
    }
}

/// Position of the log where the newest snapshot was taken, about, where the log holds so many bytes.
fn mark(restored: &Restored, newest: Option<LogIndex>, wal: &Wal, bytes: u64) -> u64 {
    let entries = (restored.last.0 + 1).saturating_sub(restored.base.next().0);
    let since = newest.map_or(entries, |newest| restored.last.0.saturating_sub(newest.0).min(entries));
    let part = u128::from(bytes) * u128::from(since) / u128::from(entries.max(1));
    wal.durable_position().saturating_sub(part as u64)
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
        ..kontiki_net::Parameters::default()
    }
}

/// One line for the operator.
fn describe(report: &kontiki_wal::RecoveryReport, took_ns: u64) -> String {
    let seconds = took_ns.max(1) as f64 / 1e9;
    let mib = report.bytes as f64 / f64::from(1 << 20);
    format!("{report}; {mib:.1} MiB in {seconds:.3} s ({:.0} MiB/s)", mib / seconds)
}

/// Who has to be there so that a replica which may have lost something learns whether it has, for the operator.
fn what_settles(config: &Config) -> String {
    let others: Vec<String> = config.members.iter().filter(|m| m.id != config.id).map(|m| m.id.to_string()).collect();
    let majority = config.members.len() / 2 + 1;
    let ids = others.join(", ");
    if majority <= others.len() {
        format!(
            "{majority} of nodes {ids} up and not recovering themselves elect a leader, which gives this one what it lacks; where every \
             member is recovering, all of them must be up"
        )
    } else {
        format!("nodes {ids} are no majority without this one's vote; where every member is recovering, all of them up elect a leader")
    }
}

/// The configured seed, different for every node and start; or the process's own randomness.
fn seed(config: &Config, incarnation: u64) -> u64 {
    if config.seed == 0 {
        return std::collections::hash_map::RandomState::new().build_hasher().finish();
    }
    // Multiplied by odd constants, so that neighbours differ in every bit of what the generators make of it.
    config.seed ^ config.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ incarnation.wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

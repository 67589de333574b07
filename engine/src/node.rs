//! One replica, once its log is recovered: a [`Host`], which is what the process has once, and a [`Group`], which is
//! what takes part in a consensus. There is one group today; nothing of a group's assumes that it is alone.
//!
//! Everything arrives as a completion and leaves as an operation. A turn hands completions to the log and the
//! transport; what came of them goes to the group that it names, which steps its core with it and carries the effects
//! out in order. Then everything is flushed once.

mod gather;
mod group;
mod handover;
#[cfg(test)]
mod harness;
mod host;
mod neighbours;
mod replication;
mod reserve;
mod room;
mod sealing;
mod service;
mod snapshots;
mod watch;

use std::sync::Arc;

use kontiki_core::{GroupId, Incarnation, LogIndex, NodeId, Raft, Role, Term, Time};
use kontiki_frame as frame;
use kontiki_io::{Completion, Io, Wake, tell};
use kontiki_mem::{Hold, OpenBatch, Ring, Tickets};
use kontiki_net::{Net, NetError, NetEvent};
use kontiki_snapshot::{Info, Store};
use kontiki_wal::Wal;

use crate::apply::ApplyQueue;
use crate::config::Config;
use crate::error::Failure;
use crate::limits::{self, MAX_FRAME_ENTRIES};
use crate::shared::Shared;
use group::Group;
use host::Host;
pub(crate) use snapshots::restoring;

/// What a replica is made of, once its log is recovered.
pub(crate) struct Parts {
    pub(crate) group: GroupId,
    pub(crate) config: Config,
    pub(crate) incarnation: Incarnation,
    pub(crate) raft: Raft,
    pub(crate) wal: Wal,
    pub(crate) store: Store,
    /// What the machine is to be given first.
    pub(crate) restore: Option<Info>,
    /// What the log lacks as well.
    pub(crate) install: Option<Info>,
    /// Position of the log where the newest snapshot was taken, as far as is known.
    pub(crate) mark: u64,
    pub(crate) net: Net,
    pub(crate) ring: Ring,
    pub(crate) shared: Hold<Shared>,
    pub(crate) queue: Arc<ApplyQueue>,
    pub(crate) recovery: String,
    /// In bytes, of what the log holds: however long frames may be by now.
    pub(crate) longest_frame: usize,
}

/// What callers' threads share with the replica of `config`.
pub(crate) fn shared(config: &Config, bell: Arc<dyn Wake>) -> Hold<Shared> {
    let entries = MAX_FRAME_ENTRIES.min(config.max_in_flight);
    let tickets = Tickets::new(config.max_in_flight, config.reply_bytes);
    let batch = OpenBatch::new(tickets, frame::BODY_OFFSET, config.max_frame_bytes - frame::BODY_OFFSET, entries, limits::SIDE_TABLES);
    Shared::new(batch, NodeId(config.id), config.max_entry_bytes, bell)
}

/// A host and its group.
pub(crate) struct Replica {
    host: Host,
    group: Group,
}

impl Replica {
    /// A replica over what recovery found.
    pub(crate) fn new(parts: Parts) -> Replica {
        let Parts {
            group,
            config,
            raft,
            wal,
            store,
            restore,
            install,
            mark,
            net,
            ring,
            shared,
            queue,
            recovery,
            incarnation,
            longest_frame,
        } = parts;
        let host = Host::new(config, incarnation, recovery, wal, store, net, ring);
        let mut group = Group::new(group, &host, raft, shared, queue, longest_frame, mark);
        if let Some(info) = restore {
            group.restore_from(info);
        }
        if let Some(info) = install {
            group.install(info);
        }
        Replica { host, group }
    }

    /// Role and term of this moment.
    pub(crate) fn standing(&self) -> (Role, Term) {
        self.group.standing()
    }

    /// Durable here up to this index.
    pub(crate) fn durable(&self) -> LogIndex {
        self.group.durable()
    }

    /// When a turn is due although nothing happens.
    pub(crate) fn deadline(&self) -> Time {
        self.host.deadline().min(self.group.deadline(&self.host))
    }

    pub(crate) fn on_completion(&mut self, completion: Completion, now: Time, io: &mut dyn Io) {
        self.host.on_completion(completion, now, io);
    }

    /// Everything that follows from the completions of a turn.
    pub(crate) fn advance(&mut self, now: Time, io: &mut dyn Io) -> Result<(), Failure> {
        let Replica { host, group } = self;
        host.turns += 1;
        if let Some(error) = host.wal.poisoned() {
            return Err(Failure::Log(error.to_string()));
        }
        group.may_go_on()?;
        while let Some(event) = host.wal.next_event() {
            group.on_log(host, event, now, io)?;
        }
        group.tend_snapshots(host, now, io)?;
        if let Some((before, lacking)) = host.watch_space(now) {
            group.tell_of_space(before, lacking);
        }
        group.watch(host);
        while let Some(event) = host.net.poll_event() {
            match event {
                // Counted, and in the log, by the transport.
                NetEvent::Refused { .. } | NetEvent::Unreached { .. } => {}
                NetEvent::Listening { addr } => tell!(info, %addr, "listening"),
                NetEvent::Fatal(error) => return Err(Failure::Net(error.to_string())),
                event => {
                    host.sessions += u64::from(matches!(event, NetEvent::SessionUp { .. }));
                    group.on_net(host, event, now, io);
                }
            }
        }
        let held_up = group.take_part(host, now, io);
        host.pump(now, io);
        group.hand_on(host, now, io);
        host.net.tick(now, io, &mut host.ring);
        group.look_again(host, held_up, now);
        group.tell_status(host, io);
        Ok(())
    }

    /// How long inline apply may hold up a turn, but for the frame in hand, in ns.
    pub(crate) fn apply_limit_ns(&self) -> u64 {
        self.host.config.heartbeat_ms * 1_000_000 / 4
    }

    /// Inline apply has run: hand over more, answer, release.
    pub(crate) fn applied(&mut self, now: Time, io: &mut dyn Io) {
        let Replica { host, group } = self;
        group.applied(host, now, io);
        host.net.tick(now, io, &mut host.ring);
    }

    /// Waits, awake and not for long, for callers that were just answered. Whether any came.
    pub(crate) fn linger(&mut self, io: &dyn Io) -> bool {
        self.group.linger(&self.host, io)
    }

    /// Whether the port is open: `None` until that is known.
    pub(crate) fn poll_listening(&mut self) -> Option<Result<(), NetError>> {
        self.host.poll_listening()
    }

    /// Answers whoever waits for a status.
    pub(crate) fn tell_status(&mut self, io: &dyn Io) {
        self.group.tell_status(&self.host, io);
    }

    /// The last word of a node that ends.
    pub(crate) fn publish(&mut self, io: &dyn Io) {
        self.group.publish(&self.host, io);
    }

    /// No more proposals, no more messages; what is under way ends. The log is closed as soon as its own writes are
    /// done, whatever peers do.
    pub(crate) fn begin_close(&mut self, now: Time, io: &mut dyn Io) {
        self.group.begin_close();
        self.host.begin_close(now, io);
    }

    /// True once nothing is outstanding.
    pub(crate) fn close(&mut self, now: Time, io: &mut dyn Io) -> bool {
        self.host.close(now, io)
    }

    /// When [`Replica::close`] is to be called again though nothing completes.
    pub(crate) fn close_deadline(&self) -> Time {
        self.host.close_deadline()
    }

    /// How long the end of this node may take in all, as things stand, in ns.
    pub(crate) fn patience_ns(&self) -> u64 {
        self.host.patience_ns()
    }
}

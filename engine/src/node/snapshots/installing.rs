//! A snapshot that is durable here and that this node lacks something of: log and state machine each take what they
//! lack. One that was just fetched, or that a start has found.

use kontiki_core::{Base, Event as CoreEvent, Time, Verdict, WriteId};
use kontiki_io::{Io, tell};
use kontiki_snapshot::{Flaw, Info};

use crate::events::Event;
use crate::node::group::Group;
use crate::node::host::Host;

/// A snapshot on its way into log and machine.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Installing {
    info: Info,
    /// The core has been told.
    told: bool,
    /// The write by which the log begins anew, where it waits for a segment.
    rebase: Option<WriteId>,
}

impl Group {
    /// This snapshot is taken over, bit by bit.
    pub(in crate::node) fn install(&mut self, info: Info) {
        self.installing = Some(Installing { info, told: false, rebase: None });
    }

    /// Whether frames must wait: the log may begin anew.
    pub(in crate::node) fn log_waits(&self) -> bool {
        self.installing.is_some_and(|installing| installing.told)
    }

    pub(super) fn install_on(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        let Some(Installing { info, told, .. }) = self.installing else { return };
        let base = info.base();
        if !told {
            match self.raft.judge_snapshot(base) {
                Verdict::Contradicts => {
                    tell!(error, snapshot = %info, "a snapshot contradicts what is committed here, or ends before this log begins: it is not installed");
                    host.store.condemn(info.digest, Flaw::Otherwise { what: "history" });
                    self.installing = None;
                    return;
                }
                // It waits for a segment: what the log may forget is forgotten for it, and space waited for.
                Verdict::Takes { log: true } if !host.wal.can_rebase() => return,
                Verdict::Takes { .. } => {}
            }
            self.installing = Some(Installing { info, told: true, rebase: None });
            self.step(host, now, CoreEvent::Installed { base }, io);
        }
        if let Some(installing) = &mut self.installing
            && let Some(write) = installing.rebase.take_if(|_| host.wal.can_rebase())
        {
            host.wal.rebase(write, base, info.digest.0);
        }
        if !self.raft.is_installing() && self.installing.is_some_and(|installing| installing.rebase.is_none()) {
            self.take_over(host, &info, now);
        }
    }

    /// The log has it, or begins anew behind it. Now the machine, if it lacks it.
    fn take_over(&mut self, host: &mut Host, info: &Info, now: Time) {
        let index = info.base().index;
        let lacks = self.next_apply <= index;
        if lacks && self.snapshots.is_restoring() {
            // An older one is on its way into the machine.
            return;
        }
        self.installing = None;
        self.counters.snapshots_installed += 1;
        self.shared.events.tell(Event::SnapshotInstalled { index });
        tell!(info, snapshot = %info, machine = lacks, "a snapshot is installed");
        self.snapshots.mark = host.wal.durable_position();
        if lacks {
            self.give_up_own(host, now);
            self.pending.skip(index, &mut self.resolver);
            self.restore_from(*info);
        }
    }

    /// The log is to begin anew behind the snapshot that is being installed. Nothing comes behind that write before it does.
    pub(in crate::node) fn begin_anew(&mut self, write: WriteId, base: Base, now: Time) {
        let Some(installing) = self.installing.as_mut().filter(|installing| installing.info.base() == base) else {
            panic!("the log begins anew behind {base}, and no such snapshot is being installed");
        };
        installing.rebase = Some(write);
        self.writes.push_back((write, now));
        self.cache.clear();
        self.catchup.forget_log();
    }
}

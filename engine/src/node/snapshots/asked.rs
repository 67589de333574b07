//! Snapshots that programs ask for: each is answered once one is durable that holds all that was applied when it asked.

use kontiki_core::{NodeId, Time};
use kontiki_net::{ClientId, Pull, Response, SnapshotId, SnapshotRefusal, WrittenSnapshot, codes};
use kontiki_snapshot::Info;

use crate::limits::{MAX_REASON_CHARS, MAX_SNAPSHOT_ASKERS};
use crate::node::group::Group;
use crate::node::host::Host;
use crate::state_machine::SnapshotError;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Asker {
    /// To have one: a client, by its request of that number.
    Client(ClientId, u64),
    /// To copy it.
    Program(Pull),
}

/// Who is still to be answered, in the order in which they asked, and the numbers under which they did.
#[derive(Debug, Default)]
pub(super) struct Askers(Vec<(u64, Asker)>);

impl Askers {
    /// Whether the machine's state must be in it: it is to be copied.
    pub(super) fn want_full(&self) -> bool {
        self.0.iter().any(|(_, by)| matches!(by, Asker::Program(_)))
    }
}

impl Group {
    /// Somebody asks for a snapshot of what is applied by now. One that is being made may lack some of it: whoever asks
    /// meanwhile is answered by the next, all by the same.
    pub(in crate::node) fn ask_snapshot(&mut self, host: &mut Host, by: Asker) {
        if self.snapshots.askers.0.len() < MAX_SNAPSHOT_ASKERS {
            self.snapshots.askers.0.push((self.shared.ask_snapshot(), by));
            return;
        }
        match by {
            Asker::Client(client, request) => {
                host.net.respond(client, request, Response::Busy);
            }
            Asker::Program(pull) => host.net.refuse_snapshot(pull, SnapshotRefusal::Busy),
        }
    }

    /// Whoever asked is gone. What was asked for is made all the same.
    pub(in crate::node) fn asker_is_gone(&mut self, is_it: impl Fn(Asker) -> bool) {
        self.snapshots.askers.0.retain(|&(_, by)| !is_it(by));
    }

    /// Answers all that the snapshot was made for: it is durable, or there is none.
    pub(super) fn answer_snapshot(&mut self, host: &mut Host, outcome: &Result<Info, SnapshotError>, now: Time) {
        let number = self.snapshots.answers;
        self.shared.answer_snapshot(number, outcome.clone().map(|info| info.base().id()));
        let answered = self.snapshots.askers.0.iter().take_while(|(asked, _)| *asked <= number).count();
        let askers: Vec<(u64, Asker)> = self.snapshots.askers.0.drain(..answered).collect();
        for (_, by) in askers {
            match (by, outcome) {
                (Asker::Client(client, request), Ok(info)) => {
                    let base = info.base();
                    let (index, term, full) = (base.index.0, base.term.0, info.head.full);
                    let written = WrittenSnapshot { index, term, full, bytes: info.bytes, digest: info.digest.0 };
                    host.net.respond(client, request, Response::Snapshot(written));
                }
                (Asker::Client(client, request), Err(error)) => {
                    let text = in_a_line(&error.to_string());
                    host.net.respond(client, request, Response::Error { code: codes::NO_SNAPSHOT, text: &text });
                }
                (Asker::Program(pull), Ok(info)) => self.tell_snapshot(host, pull, info, now),
                (Asker::Program(pull), Err(SnapshotError::NotSupported)) => host.net.refuse_snapshot(pull, SnapshotRefusal::None),
                (Asker::Program(pull), Err(_)) => host.net.refuse_snapshot(pull, SnapshotRefusal::NotMade),
            }
        }
    }

    /// A program wants to know which snapshot it may copy: the newest, or one that is made first.
    pub(in crate::node) fn snapshot_asked(&mut self, host: &mut Host, pull: Pull, make: bool, now: Time) {
        match host.store.newest_full().copied() {
            _ if make && self.snapshots.unsupported => host.net.refuse_snapshot(pull, SnapshotRefusal::None),
            _ if make => self.ask_snapshot(host, Asker::Program(pull)),
            Some(info) => self.tell_snapshot(host, pull, &info, now),
            None => host.net.refuse_snapshot(pull, SnapshotRefusal::None),
        }
    }

    /// The machine turns out to make no full ones: nobody is given a copy.
    pub(super) fn refuse_copies(&mut self, host: &mut Host) {
        self.snapshots.askers.0.retain(|&(_, by)| {
            if let Asker::Program(pull) = by {
                host.net.refuse_snapshot(pull, SnapshotRefusal::None);
            }
            matches!(by, Asker::Client(..))
        });
    }

    /// It stays from now on, until the program is gone or asks for nothing more.
    fn tell_snapshot(&mut self, host: &mut Host, pull: Pull, info: &Info, now: Time) {
        self.hold(host, pull.puller, info, 0, now);
        let base = info.base();
        let id = SnapshotId { source: NodeId(host.config.id), index: base.index, term: base.term, digest: info.digest.0 };
        host.net.tell_snapshot(pull, id, info.bytes);
    }
}

/// What a state machine had to say, as far as it fits a line: it may be of any length, and hold anything.
fn in_a_line(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_machine_says_is_a_line() {
        assert_eq!(in_a_line("no room\nfor \u{1b}[2Jit"), "no room for  [2Jit");
        let long = in_a_line(&"\u{20ac}".repeat(100_000));
        assert!(long.chars().all(|c| c == '\u{20ac}') && long.len() < crate::limits::STATUS_BYTES);
    }
}

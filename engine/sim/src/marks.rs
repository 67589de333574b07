//! What should sometimes happen in a run: rare but healthy ways through the engine, seen from outside. A mark that is
//! never met over many seeds means that the faults do not reach what they should.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kontiki::Role;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::trace::Counts;

pub(crate) const LEADER_ELECTED: &str = "leader elected";
pub(crate) const STEPPED_DOWN: &str = "leader stepped down in its own term";
pub(crate) const DEPOSED: &str = "leader deposed by a newer term";
pub(crate) const PRE_VOTE_LOST: &str = "pre-vote without success";
pub(crate) const ELECTION_LOST: &str = "election without success";
pub(crate) const LEADER_READ: &str = "leader read its log back";
pub(crate) const FOLLOWER_READ: &str = "follower read its log back";
pub(crate) const RECYCLED: &str = "segment recycled";
pub(crate) const RECOVERED: &str = "recovering node has what it lost";
pub(crate) const LEADER_CHANGES: &str = "leader changes";
pub(crate) const POWER_CUTS: &str = "power cuts";
pub(crate) const HEALED: &str = "healed damages";
pub(crate) const BUSY: &str = "proposal refused: busy";
pub(crate) const NEVER: &str = "outcome: never applied";
pub(crate) const UNKNOWN: &str = "outcome: unknown";

const DAMAGE: &str = "damage in acknowledged log found";
const LOSSES: &str = "node came back with losses";
pub(crate) const BEHIND: &str = "follower behind the log";

/// What the engine says to its operator: the beginning of a message, and the mark it stands for.
const SAID: [(&str, &str); 11] = [
    ("entries superseded by a newer leader's", "divergence healed"),
    ("log recovered with losses", LOSSES),
    ("acknowledged log is damaged", DAMAGE),
    ("one copy of the hard state", "hard state repaired"),
    ("disk full: ", "disk full noticed"),
    ("disk space is back", "disk space is back"),
    ("no space to prepare a log segment", "segment not prepared: disk full"),
    ("the log is poisoned", "log poisoned"),
    ("node stopped", "node stopped by itself"),
    ("does not read: connection cut", "slow reader cut off"),
    ("a follower needs entries that are no longer", BEHIND),
];

/// Every mark, met or not.
pub fn marks() -> impl Iterator<Item = &'static str> {
    let own = [
        LEADER_ELECTED,
        STEPPED_DOWN,
        DEPOSED,
        PRE_VOTE_LOST,
        ELECTION_LOST,
        LEADER_READ,
        FOLLOWER_READ,
        RECYCLED,
        RECOVERED,
        LEADER_CHANGES,
        POWER_CUTS,
        HEALED,
        BUSY,
        NEVER,
        UNKNOWN,
    ];
    // Without snapshots a follower that is behind the log stays there: an end, and no way through that should be met.
    own.into_iter().chain(SAID.into_iter().map(|(_, mark)| mark)).filter(|mark| *mark != BEHIND)
}

/// What a replica's change of role and term from one turn to the next stands for.
pub(crate) fn of_roles(before: (Role, u64), after: (Role, u64)) -> Option<&'static str> {
    let same_term = before.1 == after.1;
    match (before.0, after.0) {
        (Role::Leader, Role::Leader) if same_term => None,
        (_, Role::Leader) => Some(LEADER_ELECTED),
        (Role::Leader, _) => Some(if same_term { STEPPED_DOWN } else { DEPOSED }),
        (Role::PreCandidate, Role::Follower) => Some(PRE_VOTE_LOST),
        (Role::Candidate, Role::Follower | Role::PreCandidate) => Some(ELECTION_LOST),
        (Role::Candidate, Role::Candidate) if !same_term => Some(ELECTION_LOST),
        _ => None,
    }
}

/// Listens to what the engine says, and counts the marks in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listener(Arc<Heard>);

#[derive(Debug, Default)]
struct Heard {
    counts: Mutex<Counts>,
    damages: AtomicU64,
    losses: AtomicU64,
}

impl Listener {
    pub(crate) fn counts(&self) -> Counts {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often a recovery has found damage, and how often one has found that something may be lost.
    pub(crate) fn damages_and_losses(&self) -> (u64, u64) {
        (self.0.damages.load(Ordering::Relaxed), self.0.losses.load(Ordering::Relaxed))
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("kontiki")
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if let Some((_, mark)) = SAID.iter().find(|(said, _)| message.0.starts_with(said)) {
            self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).add(mark);
            self.0.damages.fetch_add(u64::from(*mark == DAMAGE), Ordering::Relaxed);
            self.0.losses.fetch_add(u64::from(*mark == LOSSES), Ordering::Relaxed);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_counted() {
        let listener = Listener::default();
        tracing::subscriber::with_default(listener.clone(), || {
            tracing::info!(from = 7, "entries superseded by a newer leader's");
            tracing::warn!(peer = 2, "does not read: connection cut, it will catch up from the log");
            tracing::info!("something else");
        });
        let counts: Vec<_> = listener.counts().iter().collect();
        assert_eq!(counts, [("divergence healed", 1), ("slow reader cut off", 1)]);
    }

    #[test]
    fn roles_tell_how_a_leader_came_and_went() {
        use Role::{Candidate, Follower, Leader, PreCandidate};
        let of = |a, b| of_roles(a, b);
        assert_eq!(of((Candidate, 3), (Leader, 3)), Some(LEADER_ELECTED));
        assert_eq!(of((Leader, 3), (Leader, 3)), None);
        assert_eq!(of((Leader, 3), (Follower, 3)), Some(STEPPED_DOWN));
        assert_eq!(of((Leader, 3), (PreCandidate, 3)), Some(STEPPED_DOWN));
        assert_eq!(of((Leader, 3), (Follower, 4)), Some(DEPOSED));
        assert_eq!(of((PreCandidate, 3), (Follower, 3)), Some(PRE_VOTE_LOST));
        assert_eq!(of((PreCandidate, 3), (Candidate, 4)), None);
        assert_eq!(of((Candidate, 4), (Candidate, 5)), Some(ELECTION_LOST));
        assert_eq!(of((Follower, 4), (Follower, 5)), None);
    }

    #[test]
    fn every_mark_has_its_own_name() {
        let names: Vec<_> = marks().collect();
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    }
}

//! What should sometimes happen in a run: rare but healthy ways through the engine, seen from outside. A mark that is
//! never met over many seeds means that the faults do not reach what they should.

use kontiki::Role;

pub(crate) const LEADER_ELECTED: &str = "leader elected";
pub(crate) const STEPPED_DOWN: &str = "leader stepped down in its own term";
pub(crate) const DEPOSED: &str = "leader deposed by a newer term";
pub(crate) const PRE_VOTE_LOST: &str = "pre-vote without success";
pub(crate) const ELECTION_LOST: &str = "election without success";
pub(crate) const LEADER_READ: &str = "leader read its log back";
pub(crate) const FOLLOWER_READ: &str = "follower read its log back";
pub(crate) const RECYCLED: &str = "segment recycled";
pub(crate) const RECOVERED: &str = "recovering node has what it lost";
pub(crate) const RESTORED: &str = "machine restored from a snapshot";
pub(crate) const LEADER_CHANGES: &str = "leader changes";
pub(crate) const POWER_CUTS: &str = "power cuts";
pub(crate) const HEALED: &str = "healed damages";
pub(crate) const BUSY: &str = "proposal refused: busy";
pub(crate) const LATE_WRITE: &str = "late write of a dead process landed";
pub(crate) const LOCK_WAITED: &str = "start refused while the dead write";
pub(crate) const KILLED: &str = "killed within one boot";
pub(crate) const STOP_NOTED: &str = "orderly stop noted";
pub(crate) const STOP_BESIDE_DARK: &str = "orderly stop noted beside a dark peer";
pub(crate) const STOP_BESIDE_SLOW: &str = "orderly stop noted beside a slow peer";
pub(crate) const STOP_BESIDE_FULL: &str = "orderly stop noted beside a full peer";
pub(crate) const LED_IN_LULL: &str = "leader while a majority was up";
pub(crate) const SLOW_ELECTION: &str = "election in a slow world";
pub(crate) const LONGER_FRAME: &str = "frame longer than a node's own limit taken";
pub(crate) const SHORTAGE_OVER: &str = "shortage waited out";
pub(crate) const NEVER: &str = "outcome: never applied";
pub(crate) const UNKNOWN: &str = "outcome: unknown";

pub(crate) const DAMAGE: &str = "damage in acknowledged log found";
pub(crate) const LOSSES: &str = "node came back with losses";
pub(crate) const BEHIND: &str = "follower behind the log";

/// What the engine says to its operator: the beginning of a message, and the mark it stands for.
const SAID: [(&str, &str); 26] = [
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
    ("snapshot written", "snapshot written"),
    ("small snapshot written", "small snapshot written"),
    ("no snapshot: the log grows", "snapshot given up, and tried again"),
    ("a snapshot is fetched whole", "snapshot fetched"),
    ("a snapshot is fetched", "snapshot fetch begun"),
    ("no snapshot fetched: this replica stays", "snapshot fetch failed"),
    ("the source of a snapshot does not send", "snapshot refused by its source"),
    ("the follower has the snapshot", "snapshot sent"),
    ("a snapshot is damaged", "damaged snapshot found"),
    ("what this log presupposes is lost", "node started in need of a base"),
    ("every snapshot here is damaged", "node came to need a base"),
    ("too little space for a new snapshot", "older snapshot given up for space"),
    ("a snapshot is installed", "snapshot installed"),
    ("the log begins anew behind a snapshot", "log begun anew"),
    ("a chunk of a snapshot is not as", "chunk of a snapshot fetched again"),
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
        RESTORED,
        LEADER_CHANGES,
        POWER_CUTS,
        HEALED,
        LATE_WRITE,
        LOCK_WAITED,
        KILLED,
        STOP_NOTED,
        STOP_BESIDE_DARK,
        STOP_BESIDE_SLOW,
        STOP_BESIDE_FULL,
        LED_IN_LULL,
        SLOW_ELECTION,
        LONGER_FRAME,
        SHORTAGE_OVER,
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

/// The mark that a message of the engine stands for.
pub(crate) fn of_message(message: &str) -> Option<&'static str> {
    SAID.iter().find(|(said, _)| message.starts_with(said)).map(|(_, mark)| *mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_known_by_their_beginnings() {
        assert_eq!(of_message("entries superseded by a newer leader's"), Some("divergence healed"));
        assert_eq!(of_message("does not read: connection cut, it will catch up from the log"), Some("slow reader cut off"));
        assert_eq!(of_message("something else"), None);
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

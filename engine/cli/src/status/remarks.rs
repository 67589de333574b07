//! What of a replica's status is said in words: short notes in its row, and lines below the table.

use std::time::Duration;

use super::{Refused, View};
use crate::table;

/// What stands in its row.
pub(super) fn notes_of(view: &View) -> Vec<&str> {
    let notes = [
        (view.recovering, "recovering"),
        (view.needs_base, "needs a snapshot"),
        (view.snapshot_fetching.is_some(), "fetches a snapshot"),
        (view.restoring, "restores its state"),
        (view.peers.iter().any(|peer| peer.snapshot.is_some()), "sends a snapshot"),
        (view.disk_full, "disk full"),
        (view.log_full, "log full"),
        (view.shortage.is_some(), "shortage"),
        (view.disk_slow, "disk slow"),
    ];
    let troubles = view.snapshot_troubles.iter().map(|trouble| trouble.kind.as_str());
    let mut notes: Vec<&str> = notes.iter().filter(|n| n.0).map(|n| n.1).chain(troubles).collect();
    notes.dedup();
    notes
}

/// For how long a refusal that was met no more is still told, where it keeps nobody away now.
const RECENT_MS: u64 = 60_000;

/// What one replica says of those around it that is not as it should be.
pub(super) fn remarks_of(view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let me = format!("node {}", view.id);
    if let Some(shortage) = &view.shortage {
        lines.push(format!("{me}: its log's next segment cannot be made: {shortage}"));
    }
    lines.extend(of_snapshots(view, &me));
    for peer in &view.peers {
        match &peer.unreached {
            Some(why) => lines.push(format!("{me} cannot reach node {}: {why}", peer.id)),
            None if !peer.connected => lines.push(format!("{me} has no session with node {} yet", peer.id)),
            None => {}
        }
        if peer.behind {
            lines.push(format!("node {} needs entries that the log of {me}, which leads, no longer holds", peer.id));
        }
        if let Some(index) = peer.snapshot {
            let far = far(peer.snapshot_held_bytes, peer.snapshot_bytes);
            lines.push(format!("{me} sends node {} its snapshot as of entry {}: {far}", peer.id, table::count(index)));
        }
    }
    let away = |id: u64| view.peers.iter().any(|peer| peer.id == id && !peer.connected);
    // (Who only looks whether the port is open is no news, as those who watch services do all the time.)
    let news = |refused: &&Refused| refused.kind != "looked" && (refused.ago_ms <= RECENT_MS || refused.peer.is_some_and(away));
    for refused in view.refused.iter().filter(news) {
        let Refused { remote, reason, count, ago_ms, .. } = refused;
        let who = match (refused.by_peer, refused.peer) {
            (true, Some(peer)) => format!("node {peer} ({remote}) refuses {me}"),
            (true, None) => format!("{remote} refuses {me}"),
            (false, Some(peer)) => format!("{me} refuses node {peer} ({remote})"),
            (false, None) => format!("{me} refuses {remote}"),
        };
        let times = if *count == 1 { "once".into() } else { format!("{} times, the last", table::count(*count)) };
        lines.push(format!("{who}: {reason} ({times} {} ago)", table::duration(Duration::from_millis(*ago_ms))));
    }
    lines
}

/// What it lacks, fetches, and cannot do with snapshots.
fn of_snapshots(view: &View, me: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if view.needs_base {
        let leader = match view.leader {
            Some(leader) => format!("node {leader}, which leads, sends it one"),
            None => "none leads: those that have a base must be up, and be a majority, for that".into(),
        };
        lines.push(format!("{me} has lost what its log goes on from, and takes no part before a leader has sent it a snapshot: {leader}"));
    }
    if let Some(index) = view.snapshot_fetching {
        let (from, far) = (view.snapshot_fetching_from, far(view.snapshot_fetched_bytes, view.snapshot_fetching_bytes));
        lines.push(format!("{me} fetches the snapshot as of entry {} from node {from}: {far}", table::count(index)));
    }
    if view.restoring {
        lines.push(format!("{me}: its state machine is getting its state from a snapshot"));
    }
    lines.extend(view.snapshot_troubles.iter().map(|trouble| format!("{me}: {}: {}", trouble.kind, trouble.reason)));
    lines
}

/// `3 of 4 bytes (75 %)`.
fn far(bytes: u64, all: u64) -> String {
    let percent = u128::from(bytes) * 100 / u128::from(all.max(1));
    format!("{} of {} bytes ({percent} %)", table::count(bytes), table::count(all))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn view(more: &str) -> View {
        let text = "id = 1\nincarnation = 2\nrole = \"Follower\"\nterm = 3\ncommit = 4\napplied = 4\nfirst = 1\nlast = 5\ndurable = 5\n";
        View::parse(&format!("{text}{more}")).unwrap()
    }

    #[test]
    fn where_all_is_well_nothing_is_said() {
        let view = view("needs_base = false\nrestoring = false\nleader = 2\n[[peers]]\nid = 2\nconnected = true\nmatched = 4\n");
        assert!(notes_of(&view).is_empty() && remarks_of(&view).is_empty());
    }

    /// Who needs a snapshot, whether somebody leads who can send it one, who fetches one and how far that is.
    #[test]
    fn who_needs_a_snapshot_and_who_gets_one_is_said_without_asking_for_everything() {
        let fetching =
            "snapshot_fetching = 80\nsnapshot_fetching_from = 2\nsnapshot_fetched_bytes = 250000\nsnapshot_fetching_bytes = 1000000\n";
        let view_led = view(&format!("leader = 2\nneeds_base = true\n{fetching}"));
        assert_eq!(notes_of(&view_led), ["needs a snapshot", "fetches a snapshot"]);
        let lines = remarks_of(&view_led);
        assert!(lines[0].starts_with("node 1 has lost what its log goes on from") && lines[0].contains("node 2, which leads"), "{lines:?}");
        assert!(lines[1].contains("fetches") && lines[1].contains("from node 2") && lines[1].ends_with("(25 %)"), "{lines:?}");
        let alone = remarks_of(&view("needs_base = true\n"));
        assert!(alone[0].contains("none leads"), "{alone:?}");
        assert_eq!(notes_of(&view("restoring = true\n")), ["restores its state"]);
    }

    #[test]
    fn who_sends_a_snapshot_and_how_far_that_is() {
        let sending = "snapshot = 80\nsnapshot_held_bytes = 500\nsnapshot_bytes = 1000\n";
        let view = view(&format!("leader = 1\n[[peers]]\nid = 3\nconnected = true\nbehind = true\n{sending}"));
        assert_eq!(notes_of(&view), ["sends a snapshot"]);
        let lines = remarks_of(&view);
        assert!(lines[1].starts_with("node 1 sends node 3 its snapshot as of entry 80") && lines[1].ends_with("(50 %)"), "{lines:?}");
    }

    #[test]
    fn what_goes_wrong_with_snapshots_is_a_note_and_a_line() {
        let view = view("[[snapshot_troubles]]\nkind = \"no snapshot\"\nreason = \"13 attempts have failed\"\n");
        assert_eq!(notes_of(&view), ["no snapshot"]);
        assert_eq!(remarks_of(&view), ["node 1: no snapshot: 13 attempts have failed"]);
    }
}

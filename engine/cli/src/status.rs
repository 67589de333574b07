//! `kontiki status`: what each replica says of itself.

mod remarks;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use self::remarks::{notes_of, remarks_of};
use crate::connection::Connection;
use crate::error::Error;
use crate::output::{complain, say};
use crate::put_get::To;
use crate::table;
use crate::target::Target;

/// Show what replicas say of themselves: role, term, progress; below that, who cannot be reached, who refuses whom, and
/// why.
#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    to: To,
    /// Print everything, as TOML
    #[arg(long)]
    full: bool,
    /// Print everything, as JSON: a list with an object for each of --to, with its `status`, or the `error` that kept
    /// it from telling
    #[arg(long, conflicts_with = "full")]
    json: bool,
}

/// What this program uses of a replica's status. More may be there.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct View {
    /// The replica.
    pub(crate) id: u64,
    /// Its boot number.
    pub(crate) incarnation: u64,
    /// Its role: "Leader", "Follower", and so on.
    pub(crate) role: String,
    /// Its term.
    pub(crate) term: u64,
    /// The leader, if it knows one.
    pub(crate) leader: Option<u64>,
    /// Committed up to here.
    pub(crate) commit: u64,
    /// Applied up to here.
    pub(crate) applied: u64,
    /// First index in its log.
    pub(crate) first: u64,
    /// Last index in its log.
    pub(crate) last: u64,
    /// Durable up to here.
    pub(crate) durable: u64,
    /// Whether it refetches what its medium lost.
    #[serde(default)]
    pub(crate) recovering: bool,
    /// Whether it refuses writes for lack of space.
    #[serde(default)]
    pub(crate) disk_full: bool,
    /// Whether it refuses writes since its log is full.
    #[serde(default)]
    pub(crate) log_full: bool,
    /// What else it lacks for the next segment of its log.
    #[serde(default)]
    pub(crate) shortage: Option<String>,
    /// Whether elections wait longer than configured, as its disk is slow.
    #[serde(default)]
    pub(crate) disk_slow: bool,
    /// Whether it has lost what its log goes on from, and takes no part before it has been given a snapshot.
    #[serde(default)]
    needs_base: bool,
    /// Whether its state machine is getting its state from a snapshot.
    #[serde(default)]
    restoring: bool,
    /// The snapshot that it fetches: as of which entry, from whom, how many bytes of how many it has.
    snapshot_fetching: Option<u64>,
    #[serde(default)]
    snapshot_fetching_from: u64,
    #[serde(default)]
    snapshot_fetched_bytes: u64,
    #[serde(default)]
    snapshot_fetching_bytes: u64,
    /// What is not as it should be with its snapshots.
    #[serde(default)]
    snapshot_troubles: Vec<SnapshotTrouble>,
    /// The backend for input and output.
    #[serde(default)]
    pub(crate) backend: String,
    /// What it found in its log at the start.
    #[serde(default)]
    pub(crate) recovery: String,
    /// Counts since its start.
    #[serde(default)]
    pub(crate) counters: Counters,
    /// Its peers.
    #[serde(default)]
    pub(crate) peers: Vec<Peer>,
    /// Who refuses whom, as far as it takes part in it.
    #[serde(default)]
    pub(crate) refused: Vec<Refused>,
}

/// Counts since a replica's start.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Counters {
    /// Entries it sealed as a leader.
    pub(crate) entries_proposed: u64,
    /// Entries it applied.
    pub(crate) entries_applied: u64,
    /// Frames it sealed as a leader.
    pub(crate) frames_sealed: u64,
    /// Bytes written to its disk.
    pub(crate) disk_bytes_written: u64,
    /// Durable writes and flushes.
    pub(crate) flushes: u64,
}

/// A peer of a replica.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Peer {
    /// Its id.
    pub(crate) id: u64,
    /// Whether a session is open.
    pub(crate) connected: bool,
    /// Whether it needs what the leader's log does not hold any more.
    #[serde(default)]
    pub(crate) behind: bool,
    /// The snapshot that is sent to it: as of which entry, how many bytes of how many it has said to have.
    snapshot: Option<u64>,
    #[serde(default)]
    snapshot_held_bytes: u64,
    #[serde(default)]
    snapshot_bytes: u64,
    /// Why it cannot be reached.
    pub(crate) unreached: Option<String>,
}

/// What is not as it should be with a replica's snapshots, as long as it lasts.
#[derive(Clone, Debug, Deserialize)]
struct SnapshotTrouble {
    kind: String,
    reason: String,
}

/// One kind of refusal.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Refused {
    by_peer: bool,
    peer: Option<u64>,
    remote: String,
    kind: String,
    reason: String,
    count: u64,
    ago_ms: u64,
}

impl View {
    /// Whether it leads.
    pub(crate) fn leads(&self) -> bool {
        self.role == "Leader"
    }

    fn parse(text: &str) -> Result<View, String> {
        toml::from_str(text).map_err(|e| format!("its status is not understood: {}", e.message()))
    }
}

/// Asks one replica.
///
/// # Errors
/// It does not answer within `limit`, or not with a status.
pub(crate) fn fetch(addr: SocketAddr, limit: Duration) -> Result<View, String> {
    View::parse(&fetch_text(addr, limit)?)
}

/// Asks the first address of a target that answers.
///
/// # Errors
/// What the last of them said.
pub(crate) fn fetch_of(target: &Target, limit: Duration) -> Result<(SocketAddr, View), String> {
    let (addr, text) = fetch_text_of(target, limit)?;
    Ok((addr, View::parse(&text)?))
}

fn fetch_text_of(target: &Target, limit: Duration) -> Result<(SocketAddr, String), String> {
    let mut last = String::new();
    for addr in target.addresses()? {
        match fetch_text(addr, limit) {
            Ok(text) => return Ok((addr, text)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What keeps a replica, or its cluster, from taking writes, if it says so.
pub(crate) fn trouble(view: &View) -> Option<String> {
    let what = if view.disk_full {
        "its disk is full"
    } else if view.log_full {
        "its log is full: its state machine lets it forget nothing"
    } else if let Some(shortage) = &view.shortage {
        return Some(format!("node {} says that its log cannot grow: {shortage}", view.id));
    } else if view.recovering {
        "it is recovering what its disk lost"
    } else if view.leader.is_none() && view.peers.iter().all(|peer| !peer.connected) && !view.peers.is_empty() {
        "it reaches none of its peers"
    } else {
        return None;
    };
    Some(format!("node {} says that {what}", view.id))
}

fn fetch_text(addr: SocketAddr, limit: Duration) -> Result<String, String> {
    let mut connection = Connection::open(addr, limit).map_err(|e| e.to_string())?;
    connection.status(limit).map_err(|e| e.to_string())
}

/// Asks all at once: one that does not answer holds up none of the others.
fn ask_all(to: &To) -> Vec<Result<(SocketAddr, String), String>> {
    thread::scope(|scope| {
        let ask = |target| scope.spawn(move || fetch_text_of(target, to.limit()));
        let asked: Vec<_> = to.targets.iter().map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("asking it failed".into()))).collect()
    })
}

/// Runs the command.
///
/// # Errors
/// No replica answered.
pub(crate) fn run(command: &Status) -> Result<(), Error> {
    let mut silent = Vec::new();
    let mut rows = table::table(["node", "address", "role", "term", "leader", "first", "durable", "commit", "applied", "peers", "notes"]);
    let mut answers = 0;
    let mut remarks = Vec::new();
    let mut objects = Vec::new();
    for (target, answer) in command.to.targets.iter().zip(ask_all(&command.to)) {
        let (addr, text) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                objects.push(serde_json::json!({ "target": target.to_string(), "error": error }));
                silent.push(format!("{target}: {error}"));
                continue;
            }
        };
        answers += 1;
        if command.json {
            objects.push(object(target, addr, &text));
            continue;
        }
        if command.full {
            say(format_args!("# {addr}\n{}", text.trim_end()));
            continue;
        }
        match View::parse(&text) {
            Ok(view) => {
                rows.add_row(row(addr, &view));
                remarks.extend(remarks_of(&view));
            }
            Err(error) => silent.push(format!("{target}: {error}")),
        }
    }
    if command.json {
        say(serde_json::Value::Array(objects));
    }
    if answers == 0 {
        return Err(Error::Unreachable(silent.join("; ")));
    }
    if !command.full && !command.json {
        say(rows);
        remarks.iter().for_each(say);
    }
    for line in silent {
        complain(line);
    }
    Ok(())
}

/// What a program reads of one replica.
fn object(target: &Target, addr: SocketAddr, text: &str) -> serde_json::Value {
    let status = toml::from_str::<toml::Table>(text).map_err(|e| e.message().to_owned());
    match status.and_then(|status| serde_json::to_value(status).map_err(|e| e.to_string())) {
        Ok(status) => serde_json::json!({ "target": target.to_string(), "address": addr.to_string(), "status": status }),
        Err(error) => serde_json::json!({ "target": target.to_string(), "address": addr.to_string(), "error": error }),
    }
}

fn row(addr: SocketAddr, view: &View) -> [String; 11] {
    let connected = view.peers.iter().filter(|p| p.connected).count();
    [
        view.id.to_string(),
        addr.to_string(),
        view.role.to_lowercase(),
        view.term.to_string(),
        view.leader.map_or("-".into(), |l| l.to_string()),
        table::count(view.first),
        table::count(view.durable),
        table::count(view.commit),
        table::count(view.applied),
        format!("{connected}/{}", view.peers.len()),
        notes_of(view).join(", "),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_status_with_more_than_is_known_is_read() {
        let text = "id = 1\nincarnation = 2\nrole = \"Leader\"\nterm = 3\nleader = 1\nleader_addr = \"127.0.0.1:1\"\ncommit = 4\napplied = 4\n\
                    first = 1\nlast = 5\ndurable = 5\nnew = 7\n[counters]\nflushes = 9\nnewer = 1\n[[peers]]\nid = 2\nconnected = true\nmatched = 4\n\
                    [[refused]]\nby_peer = false\nremote = \"10.0.0.9:1\"\nkind = \"slow\"\nreason = \"r\"\ncount = 3\nago_ms = 1500\n";
        let view = View::parse(text).unwrap();
        assert!(view.leads());
        assert_eq!((view.term, view.leader, view.counters.flushes, view.peers.len()), (3, Some(1), 9, 1));
        assert_eq!(remarks_of(&view), ["node 1 refuses 10.0.0.9:1: r (3 times, the last 1.50 s ago)"]);
        assert!(View::parse("role = 1").unwrap_err().contains("not understood"));
    }
}

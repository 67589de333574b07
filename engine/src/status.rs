//! What a replica says of itself: status, counters, latencies.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use kontiki_core::{Incarnation, LogIndex, NodeId, Role, Term};
use kontiki_io::IoError;

use kontiki_net::Unreached;

use crate::error::LeaderHint;

/// One peer, as a leader sees it (a follower knows only whether it is connected).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its id.
    pub id: NodeId,
    /// Whether a session with it is open.
    pub connected: bool,
    /// Known durable there and equal to the leader's log.
    pub matched: LogIndex,
    /// Next index to be sent to it.
    pub next: LogIndex,
    /// Bytes sent to it and not acknowledged.
    pub inflight_bytes: u64,
    /// Whether the leader still looks for where the logs agree.
    pub probing: bool,
    /// Longest frame that it takes, as it said when its last session opened, in bytes; zero if it has not spoken yet.
    pub takes_frame_bytes: u64,
    /// The frame that it needs next and does not take, in bytes; zero if there is none. It gets no further until it
    /// takes more.
    pub needs_frame_bytes: u64,
    /// What it needs next is behind this leader's log: it is not held there any more.
    pub behind: bool,
    /// The snapshot that it takes from this replica, if it takes one.
    pub snapshot: Option<Sent>,
    /// Why it cannot be reached, once the operator was told so.
    pub unreached: Option<Unreached>,
}

/// One kind of refusal, by this replica or by another: what keeps two nodes apart, or who else knocks at the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whether it is the other side that refuses this replica.
    pub by_peer: bool,
    /// The peer that it is about, if it is one, or says so.
    pub peer: Option<NodeId>,
    /// Where the newest of them came from, or went to.
    pub remote: SocketAddr,
    /// The kind, for programs.
    pub kind: &'static str,
    /// Why, for people: of the newest.
    pub reason: String,
    /// How many there were since this kind was first met.
    pub count: u64,
    /// How long ago the newest was, in nanoseconds.
    pub ago_ns: u64,
}

/// Counts since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Entries this node sealed as a leader.
    pub entries_proposed: u64,
    /// Entries applied.
    pub entries_applied: u64,
    /// Frames sealed as a leader.
    pub frames_sealed: u64,
    /// Frames received and written as a follower.
    pub frames_received: u64,
    /// Bytes written to the disk.
    pub disk_bytes_written: u64,
    /// Durable writes and flushes.
    pub flushes: u64,
    /// Bytes sent over the network.
    pub net_bytes_sent: u64,
    /// Times the kernel was entered for input and output.
    pub enters: u64,
    /// Turns of the reactor.
    pub turns: u64,
    /// Payload bytes copied in this process.
    pub bytes_copied: u64,
    /// Sessions opened with peers.
    pub sessions: u64,
    /// Connections, frames and messages refused.
    pub refusals: u64,
    /// Times this node became leader.
    pub elections_won: u64,
    /// Proposals refused because no memory or disk space was ready.
    pub busy: u64,
    /// Snapshots of its own state that this node wrote.
    pub snapshots_written: u64,
    /// Attempts at one that failed.
    pub snapshots_failed: u64,
    /// Snapshots that a follower took from this replica, and went on from.
    pub snapshots_sent: u64,
    /// Snapshots of others that became durable here.
    pub snapshots_fetched: u64,
    /// Snapshots that took the place of what this replica lacked.
    pub snapshots_installed: u64,
    /// Replies of the state machine that were longer than `reply_bytes`, and not kept.
    pub replies_too_long: u64,
}

/// A latency, as a histogram of powers of two. Nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// `buckets[n]` counts durations of at least 2^n and less than 2^(n+1) nanoseconds.
    pub buckets: [u64; 40],
    /// The longest.
    pub max_ns: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { buckets: [0; 40], max_ns: 0 }
    }
}

impl Latency {
    pub(crate) fn record(&mut self, ns: u64) {
        let bucket = (63 - ns.max(1).leading_zeros() as usize).min(self.buckets.len() - 1);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// An upper bound of the quantile `q` (0 to 1), within a factor of two; zero if nothing was recorded.
    pub fn quantile_ns(&self, q: f64) -> u64 {
        let wanted = (self.count() as f64 * q).ceil() as u64;
        let mut seen = 0;
        for (n, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return (1u64 << (n + 1)).min(self.max_ns);
            }
        }
        0
    }
}

/// A snapshot that is being fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetching {
    /// From whom.
    pub from: NodeId,
    /// The entry that it is as of.
    pub index: LogIndex,
    /// Bytes of it that are here.
    pub taken: u64,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// A snapshot on its way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The entry that it is as of.
    pub index: LogIndex,
    /// Bytes of it that the peer holds durably, as far as it has said.
    pub held: u64,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// Something that is not as it should be with a replica's snapshots, as long as it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTrouble {
    /// The kind, in a few words.
    pub kind: &'static str,
    /// What it is, for how long, and what to do, for people.
    pub reason: String,
}

/// What one replica knows of itself and its cluster. A copy, taken at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This replica.
    pub id: NodeId,
    /// The version of this library.
    pub version: &'static str,
    /// Whether the node has stopped, and this is its last word; then it has no role, and [`Follower`](Role::Follower)
    /// stands for none.
    pub stopped: bool,
    /// Its boot number.
    pub incarnation: Incarnation,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader of that term, once known.
    pub leader: Option<LeaderHint>,
    /// Committed up to here, as far as this replica may apply.
    pub commit: LogIndex,
    /// Applied up to here.
    pub applied: LogIndex,
    /// First index its log holds.
    pub first: LogIndex,
    /// Last index of its log.
    pub last: LogIndex,
    /// Durable on this replica up to here.
    pub durable: LogIndex,
    /// The entry that the newest snapshot here is as of; zero if there is none.
    pub snapshot: LogIndex,
    /// Whether the state machine's state is in it. It is not in a small one, of a machine that is durable by itself.
    pub snapshot_full: bool,
    /// The entry that the older one is as of: the log may forget up to here. Zero if there is only one, or none.
    pub snapshot_older: LogIndex,
    /// Whether the state machine's state is in that.
    pub snapshot_older_full: bool,
    /// The snapshot that is being written: as of which entry, and how many bytes are written.
    pub snapshot_writing: Option<(LogIndex, u64)>,
    /// The snapshot of another that is being fetched, if one is.
    pub snapshot_fetching: Option<Fetching>,
    /// Whether what its log presupposes is nowhere here: it takes no part before it has been given a snapshot.
    pub needs_base: bool,
    /// Whether the state machine is getting its state from a snapshot.
    pub restoring: bool,
    /// Whether it lost acknowledged entries to its medium and refetches them; it does not vote until it has them.
    pub recovering: bool,
    /// Whether its disk has no space for the log's next segment: once the one in use is full, it refuses writes.
    pub disk_full: bool,
    /// Whether its log has as many segments as it can keep track of, and may forget none: likewise.
    pub log_full: bool,
    /// What else the log's next segment lacks, of the system's resources: writes are refused until there is enough of
    /// it again.
    pub shortage: Option<IoError>,
    /// Shortest and longest election timeout in effect, in milliseconds: as configured, or longer where this replica's
    /// flushes are slow.
    pub election_ms: (u64, u64),
    /// What a flush takes here, smoothed, in nanoseconds: what the election timeouts adapt to. Zero before the first.
    pub flush_ns: u64,
    /// Whether the disk is so slow that elections wait longer than configured.
    pub disk_slow: bool,
    /// Peers.
    pub peers: Vec<PeerStatus>,
    /// Who refuses whom and why, as far as this replica takes part in it: the newest of each kind, at most
    /// [`MAX_REFUSED`](crate::limits::MAX_REFUSED), the newest first.
    pub refused: Vec<Refused>,
    /// What is not as it should be with its snapshots: none can be made, or fetched; one is damaged.
    pub snapshot_troubles: Vec<SnapshotTrouble>,
    /// Counts since start.
    pub counters: Counters,
    /// From a write's submission to its durability.
    pub flush_latency: Latency,
    /// From sealing a batch to its commit, on the leader.
    pub commit_latency: Latency,
    /// The backend and what its probe found.
    pub backend: String,
    /// What recovery found at start.
    pub recovery: String,
}

/// TOML, so that people and programs can read it.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counters;
        writeln!(f, "version = {:?}\nstopped = {}", self.version, self.stopped)?;
        writeln!(f, "id = {}\nincarnation = {}\nrole = \"{:?}\"\nterm = {}", self.id, self.incarnation, self.role, self.term)?;
        if let Some(leader) = self.leader {
            writeln!(f, "leader = {}\nleader_addr = \"{}\"", leader.id, leader.addr)?;
            if !leader.tag.is_empty() {
                // Text without control characters: escaped like this it is TOML.
                writeln!(f, "leader_tag = \"{}\"", leader.tag.as_str().replace('\\', "\\\\").replace('"', "\\\""))?;
            }
        }
        writeln!(
            f,
            "commit = {}\napplied = {}\nfirst = {}\nlast = {}\ndurable = {}",
            self.commit, self.applied, self.first, self.last, self.durable
        )?;
        writeln!(f, "snapshot = {}\nsnapshot_full = {}", self.snapshot, self.snapshot_full)?;
        writeln!(f, "snapshot_older = {}\nsnapshot_older_full = {}", self.snapshot_older, self.snapshot_older_full)?;
        writeln!(f, "restoring = {}", self.restoring)?;
        if let Some((index, bytes)) = self.snapshot_writing {
            writeln!(f, "snapshot_writing = {index}\nsnapshot_written_bytes = {bytes}")?;
        }
        if let Some(Fetching { from, index, taken, bytes }) = self.snapshot_fetching {
            writeln!(f, "snapshot_fetching = {index}\nsnapshot_fetching_from = {from}\nsnapshot_fetched_bytes = {taken}")?;
            writeln!(f, "snapshot_fetching_bytes = {bytes}")?;
        }
        writeln!(f, "needs_base = {}", self.needs_base)?;
        writeln!(
            f,
            "recovering = {}\ndisk_full = {}\nlog_full = {}\ndisk_slow = {}",
            self.recovering, self.disk_full, self.log_full, self.disk_slow
        )?;
        if let Some(error) = self.shortage {
            writeln!(f, "shortage = {:?}", error.to_string())?;
        }
        let (min, max) = self.election_ms;
        writeln!(f, "election_min_ms = {min}\nelection_max_ms = {max}\nflush_us = {}", self.flush_ns / 1000)?;
        writeln!(f, "backend = {:?}\nrecovery = {:?}", self.backend, self.recovery)?;
        writeln!(f, "\n[counters]\nentries_proposed = {}\nentries_applied = {}", c.entries_proposed, c.entries_applied)?;
        writeln!(f, "frames_sealed = {}\nframes_received = {}", c.frames_sealed, c.frames_received)?;
        writeln!(f, "disk_bytes_written = {}\nflushes = {}\nnet_bytes_sent = {}", c.disk_bytes_written, c.flushes, c.net_bytes_sent)?;
        writeln!(f, "enters = {}\nturns = {}\nbytes_copied = {}", c.enters, c.turns, c.bytes_copied)?;
        writeln!(
            f,
            "sessions = {}\nrefusals = {}\nelections_won = {}\nbusy = {}\nreplies_too_long = {}",
            c.sessions, c.refusals, c.elections_won, c.busy, c.replies_too_long
        )?;
        writeln!(
            f,
            "snapshots_written = {}\nsnapshots_failed = {}\nsnapshots_sent = {}",
            c.snapshots_written, c.snapshots_failed, c.snapshots_sent
        )?;
        writeln!(f, "snapshots_fetched = {}\nsnapshots_installed = {}", c.snapshots_fetched, c.snapshots_installed)?;
        for (name, l) in [("flush_latency", &self.flush_latency), ("commit_latency", &self.commit_latency)] {
            writeln!(
                f,
                "\n[{name}]\ncount = {}\np50_us = {}\np99_us = {}\nmax_us = {}",
                l.count(),
                l.quantile_ns(0.5) / 1000,
                l.quantile_ns(0.99) / 1000,
                l.max_ns / 1000
            )?;
        }
        for p in &self.peers {
            writeln!(
                f,
                "\n[[peers]]\nid = {}\nconnected = {}\nmatched = {}\nnext = {}\ninflight_bytes = {}\nprobing = {}",
                p.id, p.connected, p.matched, p.next, p.inflight_bytes, p.probing
            )?;
            writeln!(f, "behind = {}\ntakes_frame_bytes = {}\nneeds_frame_bytes = {}", p.behind, p.takes_frame_bytes, p.needs_frame_bytes)?;
            if let Some(Sent { index, held, bytes }) = p.snapshot {
                writeln!(f, "snapshot = {index}\nsnapshot_held_bytes = {held}\nsnapshot_bytes = {bytes}")?;
            }
            if let Some(why) = p.unreached {
                writeln!(f, "unreached = {:?}", why.to_string())?;
            }
        }
        for SnapshotTrouble { kind, reason } in &self.snapshot_troubles {
            writeln!(f, "\n[[snapshot_troubles]]\nkind = {kind:?}\nreason = {reason:?}")?;
        }
        for r in &self.refused {
            writeln!(f, "\n[[refused]]\nby_peer = {}", r.by_peer)?;
            if let Some(peer) = r.peer {
                writeln!(f, "peer = {peer}")?;
            }
            writeln!(f, "remote = \"{}\"\nkind = {:?}\nreason = {:?}", r.remote, r.kind, r.reason)?;
            writeln!(f, "count = {}\nago_ms = {}", r.count, r.ago_ns / 1_000_000)?;
        }
        Ok(())
    }
}

impl Status {
    /// The same as [`Display`](fmt::Display) writes, in so many bytes at most: what is said of refusals gives way
    /// first, oldest first, then what is free text.
    pub(crate) fn within(mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes);
        loop {
            text.clear();
            // Writing into a string does not fail.
            let _ = write!(text, "{self}");
            if text.len() <= bytes {
                return text;
            }
            if self.refused.pop().is_none() {
                let longest = if self.recovery.len() > self.backend.len() { &mut self.recovery } else { &mut self.backend };
                if longest.is_empty() {
                    if self.snapshot_troubles.pop().is_some() {
                        continue;
                    }
                    return text;
                }
                let half = (0..=longest.len() / 2).rev().find(|&at| longest.is_char_boundary(at));
                longest.truncate(half.unwrap_or(0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quantiles_bound_what_was_recorded() {
        let mut l = Latency::default();
        assert_eq!(l.quantile_ns(0.5), 0);
        for ns in [0, 1, 100, 1000, u64::MAX] {
            l.record(ns);
        }
        assert_eq!(l.count(), 5);
        assert!(l.quantile_ns(0.5) >= 100 && l.quantile_ns(0.5) <= 200);
        assert_eq!(l.max_ns, u64::MAX);
    }

    /// The largest status there can be, and what is left of it where there is less room: peers and numbers always.
    #[test]
    fn a_status_is_bounded() {
        let most = crate::limits::MAX_VOTERS as u64 - 1;
        let peer = |id| PeerStatus {
            id: NodeId(u64::MAX - id),
            connected: false,
            matched: LogIndex(u64::MAX),
            next: LogIndex(u64::MAX),
            inflight_bytes: u64::MAX,
            probing: false,
            takes_frame_bytes: u64::MAX,
            needs_frame_bytes: u64::MAX,
            behind: false,
            snapshot: Some(Sent { index: LogIndex(u64::MAX), held: u64::MAX, bytes: u64::MAX }),
            unreached: Some(Unreached::Refused(kontiki_net::HandshakeRefusal::OwnId { id: NodeId(u64::MAX) })),
        };
        let refused = |n: u64| Refused {
            by_peer: false,
            peer: Some(NodeId(u64::MAX)),
            remote: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
            kind: "handshake: unknown peer",
            reason: "a reason \"in quotes\" ".repeat(12),
            count: u64::MAX,
            ago_ns: n,
        };
        let max = u64::MAX;
        let counters =
            Counters { entries_proposed: max, frames_received: max, disk_bytes_written: max, refusals: max, ..Counters::default() };
        let status = Status {
            id: NodeId(max),
            version: "1000.1000.1000-alpha",
            stopped: false,
            incarnation: Incarnation(max),
            role: Role::PreCandidate,
            term: Term(max),
            leader: Some(LeaderHint {
                id: NodeId(max),
                addr: format!("{}.example:65535", "n".repeat(48)).parse().unwrap(),
                tag: "t".repeat(64).parse().unwrap(),
            }),
            commit: LogIndex(max),
            applied: LogIndex(max),
            first: LogIndex(max),
            last: LogIndex(max),
            durable: LogIndex(max),
            snapshot: LogIndex(max),
            snapshot_full: false,
            snapshot_older: LogIndex(max),
            snapshot_older_full: false,
            snapshot_writing: Some((LogIndex(max), max)),
            snapshot_fetching: Some(Fetching { from: NodeId(max), index: LogIndex(max), taken: max, bytes: max }),
            needs_base: false,
            restoring: false,
            recovering: false,
            disk_full: false,
            log_full: false,
            shortage: Some(IoError { kind: kontiki_io::IoErrorKind::Shortage, errno: 11 }),
            election_ms: (max, max),
            flush_ns: max,
            disk_slow: false,
            peers: (0..most).map(peer).collect(),
            refused: (0..crate::limits::MAX_REFUSED as u64).map(refused).collect(),
            snapshot_troubles: vec![SnapshotTrouble { kind: "no snapshot fetched", reason: "why ".repeat(80) }; 5],
            counters,
            flush_latency: Latency::default(),
            commit_latency: Latency::default(),
            backend: "backend ".repeat(40),
            recovery: "recovery ".repeat(400),
        };
        assert!(status.to_string().len() > crate::limits::STATUS_BYTES);
        for bytes in [crate::limits::STATUS_BYTES, crate::limits::STATUS_BYTES - 1000] {
            let text = status.clone().within(bytes);
            assert!(text.len() <= bytes, "{}", text.len());
            assert_eq!(text.matches("[[peers]]").count() as u64, most);
            assert!(text.ends_with('\n') && text.contains("takes_frame_bytes"));
        }
        let mut less = status;
        (less.recovery, less.peers, less.snapshot_troubles) = ("short".into(), Vec::new(), Vec::new());
        let text = less.within(crate::limits::STATUS_BYTES);
        assert!(text.contains("recovery = \"short\"") && text.matches("[[refused]]").count() > 8, "the newest stay: {text}");
    }
}

//! What peers have said of themselves, and what this node makes of it: which frames it seals, how often it says that it
//! leads.

use kontiki_core::{NodeId, Time};
use kontiki_io::tell;
use kontiki_net::Parameters;

use super::group::Group;
use super::host::Host;
use crate::config::Config;
use crate::limits::{LEAST_SEAL_BYTES, LEAST_TOLD_HEARTBEAT_NS};

const MS: u64 = 1_000_000;

/// One peer.
#[derive(Clone, Copy, Debug)]
struct Neighbour {
    id: NodeId,
    /// What it said when its last session opened.
    said: Parameters,
    /// The frame that it needs next and does not take, in bytes; zero if there is none.
    needs_bytes: usize,
    /// It needs what this log no longer holds.
    behind: bool,
}

/// All peers that have spoken since they are peers of this node.
#[derive(Debug)]
pub(super) struct Neighbours {
    known: Vec<Neighbour>,
    /// Longest frame to seal now, in bytes.
    pub(super) seal_bytes: usize,
}

impl Neighbours {
    pub(super) fn new(config: &Config) -> Neighbours {
        Neighbours { known: Vec::with_capacity(kontiki_net::limits::MAX_PEERS), seal_bytes: config.max_frame_bytes }
    }

    fn get(&self, id: NodeId) -> Option<&Neighbour> {
        self.known.iter().find(|known| known.id == id)
    }

    /// The longest frame that a peer takes and the one that it needs and does not take, in bytes; zero where nothing is
    /// known of that.
    pub(super) fn frames(&self, id: NodeId) -> (usize, usize) {
        self.get(id).map_or((0, 0), |known| (known.said.takes_frame_bytes as usize, known.needs_bytes))
    }

    /// Notes what a peer says; whether that is news.
    fn hears(&mut self, id: NodeId, said: Parameters) -> bool {
        match self.known.iter_mut().find(|known| known.id == id) {
            Some(known) => {
                let news = known.said != said;
                (known.said, known.needs_bytes) = (said, 0);
                news
            }
            None => {
                self.known.push(Neighbour { id, said, needs_bytes: 0, behind: false });
                true
            }
        }
    }

    /// Notes whether a peer needs what this log no longer holds; whether that is news.
    pub(super) fn is_behind(&mut self, id: NodeId, behind: bool) -> bool {
        let Some(known) = self.known.iter_mut().find(|known| known.id == id) else { return false };
        std::mem::replace(&mut known.behind, behind) != behind
    }

    pub(super) fn any_behind(&self) -> bool {
        self.known.iter().any(|known| known.behind)
    }

    /// This node does not lead any more, and knows of nobody's needs.
    pub(super) fn serves_none(&mut self) {
        self.known.iter_mut().for_each(|known| known.behind = false);
    }

    /// Notes the frame that a peer needs and does not take, zero for none; whether that is news.
    fn needs(&mut self, id: NodeId, bytes: usize) -> bool {
        let Some(known) = self.known.iter_mut().find(|known| known.id == id) else { return false };
        std::mem::replace(&mut known.needs_bytes, bytes) != bytes
    }
}

impl Group {
    /// A session with a peer is up.
    pub(super) fn introduced(&mut self, host: &mut Host, peer: NodeId, said: Parameters, now: Time) {
        // Those that are peers no more make room.
        self.neighbours.known.retain(|known| host.net.peers().any(|peer| peer == known.id));
        if self.neighbours.hears(peer, said) {
            self.compare(host, peer, said, now);
        }
        self.agree(host);
    }

    /// Says where a peer's limits and this node's differ so that it matters: once, and where it says something else
    /// each time, once a minute.
    fn compare(&mut self, host: &mut Host, peer: NodeId, said: Parameters, now: Time) {
        let mut says = |what| host.net.admits_lines(1, Some(peer), what, now);
        let config = &host.config;
        let (entry, heartbeat, election) = (u64::from(said.max_entry_bytes), u64::from(said.heartbeat_ms), u64::from(said.election_min_ms));
        if entry != 0 && entry != config.max_entry_bytes as u64 && says("longest entries differ") {
            tell!(
                warn, %peer, theirs = entry, ours = config.max_entry_bytes,
                "max_entry_bytes differs: how long an entry may be depends on which node leads. Give all members the same"
            );
        }
        if (said.takes_frame_bytes as usize) < config.max_frame_bytes && says("a peer takes shorter frames") {
            tell!(
                warn, %peer, takes = said.takes_frame_bytes, max_frame_bytes = config.max_frame_bytes,
                "a peer takes shorter frames than this node may seal: while it is connected, batches are kept that short"
            );
        }
        let fit = heartbeat <= config.election_min_ms / 3 && (election == 0 || config.heartbeat_ms <= election / 3);
        if !fit && says("heartbeats and timeouts do not fit") {
            tell!(
                warn, %peer, their_heartbeat_ms = heartbeat, their_election_min_ms = election, our_heartbeat_ms = config.heartbeat_ms,
                our_election_min_ms = config.election_min_ms,
                "heartbeats and election timeouts of two members do not fit: whoever leads sends heartbeats as often as its followers need"
            );
        }
    }

    /// Goes by what all connected peers take and need.
    pub(super) fn agree(&mut self, host: &mut Host) {
        let connected = self.neighbours.known.iter().filter(|known| host.net.session(known.id).is_some());
        let (mut takes, mut heartbeat_ns) = (usize::MAX, u64::MAX);
        for Neighbour { said, .. } in connected {
            takes = takes.min(said.takes_frame_bytes as usize);
            if said.election_min_ms > 0 {
                heartbeat_ns = heartbeat_ns.min(u64::from(said.election_min_ms) * MS / 3);
            }
        }
        // Nobody can make this node seal, or send, at a rate that is of no use: what peers say is not proven by anything.
        self.neighbours.seal_bytes = takes.max(LEAST_SEAL_BYTES).min(host.config.max_frame_bytes);
        self.shared.batch.keep_to(self.neighbours.seal_bytes - kontiki_frame::BODY_OFFSET);
        self.raft.limit_heartbeat(heartbeat_ns.max(LEAST_TOLD_HEARTBEAT_NS));
    }

    /// A follower needs a frame that it does not take; zero: it does not any more.
    pub(super) fn needs_frame(&mut self, host: &mut Host, peer: NodeId, bytes: usize, now: Time) {
        if !self.neighbours.needs(peer, bytes) {
            return;
        }
        let (takes, _) = self.neighbours.frames(peer);
        let what = if bytes > 0 { "a follower cannot take a frame" } else { "a follower takes its frames again" };
        if !host.net.admits_lines(1, Some(peer), what, now) {
            return;
        }
        if bytes > 0 {
            tell!(
                error, %peer, takes, needs = bytes,
                "a follower cannot take the frame that it needs next: give it ring_bytes of at least twice that (and segments that hold it) and \
                 start it again. Until then it does not count towards a majority"
            );
        } else {
            tell!(info, %peer, "the follower takes the frames that it needs again");
        }
    }
}

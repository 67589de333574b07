//! Peers of the node under test: a real transport each, and a core whose part the script plays.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use kontiki_core::{ClusterId, GroupId, Incarnation, LogIndex, Message, NodeId, Term, Time};
use kontiki_frame::{BODY_OFFSET, ENTRY_LENGTH_BYTES, Header, Kind, frame_bytes, put_entry, seal, seal_noop};
use kontiki_io::Io as _;
use kontiki_mem::Ring;
use kontiki_net::{FrameStamp, Net, NetEvent, Options, Pull, SnapshotOffer, SnapshotWant};

use super::snapshots::Source;
use super::wire::{Host, addr};
use super::words::{self, FrameWords};
use super::world::{Endpoint, NODE, World};
use crate::config::Config;

pub(super) struct Peer {
    pub(super) id: Host,
    pub(super) net: Net,
    pub(super) io: Endpoint,
    pub(super) ring: Ring,
    /// Grants every vote.
    pub(super) votes: bool,
    /// Takes frames and answers heartbeats as a follower whose disk is quick.
    pub(super) follows: bool,
    /// Last index of the log it would have.
    pub(super) last: LogIndex,
    /// The script made it say something.
    pub(super) spoke: bool,
    /// The snapshot that it has.
    pub(super) source: Option<Source>,
    /// What is wanted of it.
    pub(super) wanted: VecDeque<(Pull, SnapshotWant)>,
    /// The one that it was offered last.
    pub(super) offered: Option<SnapshotOffer>,
}

impl Peer {
    pub(super) fn new(world: &Rc<RefCell<World>>, config: &Config, id: Host, incarnation: u64) -> Peer {
        let mut io = Endpoint::new(world, id);
        let peers = config.members.iter().map(|member| (NodeId(member.id), member.addr)).collect();
        let mut options = Options::new(ClusterId(config.cluster), NodeId(id), Incarnation(incarnation), addr(id), peers);
        options.max_frame_bytes = config.max_frame_bytes;
        options.seed = id << 8 | incarnation;
        let mut net = Net::new(options).unwrap();
        let now = io.now();
        net.start(&mut io, now);
        net.grant_bulk(Some(NodeId(NODE)), now, &mut io);
        let ring = Ring::new(4 << 20, 1024).unwrap();
        Peer {
            id,
            net,
            io,
            ring,
            votes: false,
            follows: false,
            last: LogIndex(0),
            spoke: false,
            source: None,
            wanted: VecDeque::new(),
            offered: None,
        }
    }

    pub(super) fn deadline(&self) -> Time {
        self.net.deadline().unwrap_or(Time(u64::MAX))
    }

    /// One turn, if anything happened. Whether it did.
    pub(super) fn turn(&mut self, world: &Rc<RefCell<World>>, heartbeats: bool) -> bool {
        let now = world.borrow().now;
        let worked = world.borrow_mut().work(self.id);
        if !worked && !std::mem::take(&mut self.spoke) && self.deadline() > now {
            return false;
        }
        let mut done = Vec::new();
        self.io.turn(None, &mut done).unwrap();
        for completion in done {
            self.net.on_completion(now, completion, &mut self.io);
        }
        while let Some(event) = self.net.poll_event() {
            let line = match event {
                NetEvent::Message { message: Message::Heartbeat { term, round, .. }, .. } if !heartbeats => {
                    self.hear(Message::Heartbeat {
                        term,
                        round,
                        commit: LogIndex(0),
                        term_start: LogIndex(0),
                        session_commit: LogIndex(0),
                    });
                    continue;
                }
                NetEvent::Message { message, .. } => {
                    self.hear(message);
                    format!("to n{}: {}", self.id, words::compact(&message))
                }
                NetEvent::Frame { stamp, header, .. } => {
                    self.take(stamp.leader_term, stamp.round, stamp.range.from.prev(), stamp.range.to);
                    let (from, to, of) = (stamp.range.from, stamp.range.to, header.meta.term);
                    format!("to n{}: frame {from}..{to}@{of} term={} commit={}", self.id, stamp.leader_term, stamp.commit)
                }
                NetEvent::SessionUp { .. } => format!("n{}: session up", self.id),
                NetEvent::SessionDown { reason, .. } => format!("n{}: session down, {reason}", self.id),
                NetEvent::Listening { .. } | NetEvent::Client(_) | NetEvent::Unreached { .. } => continue,
                NetEvent::Refused { reason, .. } => format!("n{}: refused, {reason}", self.id),
                NetEvent::SnapshotOffered { offer, .. } => {
                    self.offered = Some(offer);
                    format!("to n{}: snapshot of {}, {} bytes", self.id, offer.base().id(), offer.bytes)
                }
                NetEvent::SnapshotWanted { pull, want } => {
                    self.wanted.push_back((pull, want));
                    format!("to n{}: wants {} chunks at {}", self.id, want.chunks, want.offset)
                }
                NetEvent::SnapshotChunk { offset, .. } => format!("to n{}: chunk at {offset}", self.id),
                NetEvent::SnapshotFetchDown { reason, .. } => format!("n{}: fetch down, {reason}", self.id),
                NetEvent::SnapshotServeDown { pull, .. } => {
                    self.wanted.retain(|(over, _)| *over != pull);
                    continue;
                }
                NetEvent::SnapshotAsked { .. } => continue,
                NetEvent::Fatal(error) => format!("n{}: {error}", self.id),
            };
            let mut world = world.borrow_mut();
            if world.told.0 {
                world.trace.push(line);
            }
        }
        self.serve();
        self.net.tick(now, &mut self.io, &mut self.ring);
        true
    }

    /// Answers as a peer that votes, or follows, would.
    fn hear(&mut self, message: Message) {
        let answer = match message {
            Message::PreVote { term, .. } if self.votes => {
                Message::PreVoteReply { term, granted: true, last_index: LogIndex(0), last_term: Term(0), recovering: false }
            }
            Message::Vote { term, .. } if self.votes => Message::VoteReply { term, granted: true },
            Message::Heartbeat { term, round, .. } if self.follows => {
                Message::HeartbeatReply { term, round, recovering: false, needs_base: false, last_index: self.last }
            }
            _ => return,
        };
        let _ = self.say(&answer);
    }

    fn take(&mut self, term: Term, round: u64, prev: LogIndex, to: LogIndex) {
        if !self.follows {
            return;
        }
        let answer = if prev > self.last {
            Message::Rejected { term, round, prev, last_index: self.last, conflict_term: Term(0), conflict_first: LogIndex(0) }
        } else {
            self.last = to;
            Message::Accepted { term, round, matched: to }
        };
        let _ = self.say(&answer);
    }

    pub(super) fn say(&mut self, message: &Message) -> Result<(), String> {
        let session = self.net.session(NodeId(NODE)).ok_or("no session")?;
        self.spoke = true;
        self.net.send_message(self.io.now(), NodeId(NODE), session, message).map_err(|error| error.to_string())
    }

    pub(super) fn send(&mut self, cluster: u128, frame: &FrameWords) -> Result<(), String> {
        let session = self.net.session(NodeId(NODE)).ok_or("no session")?;
        let cluster = ClusterId(cluster);
        let body: usize = frame.entries.iter().map(|payload| ENTRY_LENGTH_BYTES + payload.len()).sum();
        let mut block = self.ring.reserve(frame_bytes(body)).ok_or("the peer's ring is full")?;
        if frame.entries == [b"noop".to_vec()] {
            block.truncate(frame_bytes(ENTRY_LENGTH_BYTES));
            seal_noop(block.bytes_mut(), cluster, GroupId(0), frame.meta, 0);
        } else {
            let mut at = BODY_OFFSET;
            for payload in &frame.entries {
                at = put_entry(block.bytes_mut(), at, None, payload).ok_or("too long")?;
            }
            let (kind, body_bytes) = (Kind::Entries, body as u32);
            let (subterm, cluster_ns) = (kontiki_core::Subterm(0), 0);
            let header = Header {
                kind,
                sessions: false,
                cluster,
                group: GroupId(0),
                meta: frame.meta,
                subterm,
                cluster_ns,
                proposed_ns: 0,
                body_bytes,
            };
            seal(block.bytes_mut(), &header);
        }
        let stamp = FrameStamp { leader_term: frame.leader_term, commit: frame.commit, range: frame.range, round: frame.round };
        self.spoke = true;
        self.net.send_frame(self.io.now(), NodeId(NODE), session, stamp, block.freeze()).map_err(|error| error.to_string())
    }
}

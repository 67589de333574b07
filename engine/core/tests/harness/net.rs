//! The simulated network: a queue of packets, sessions between pairs, cut links.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use kontiki_core::{Append, Message, NodeId, SessionId};

use super::node::Entry;

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Message(Message),
    Frame(Append, Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) session: SessionId,
    pub(crate) body: Body,
}

/// Which packets are captured instead of delivered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) from: Option<NodeId>,
    pub(crate) to: Option<NodeId>,
    /// The start of the kind's name, as `Packet::kind` has it; empty: all.
    pub(crate) kind: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    pub(crate) queue: VecDeque<Packet>,
    pub(crate) holds: Vec<Filter>,
    pub(crate) held: Vec<Packet>,
    sessions: BTreeMap<(NodeId, NodeId), SessionId>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Trace each packet as it is sent.
    pub(crate) wire: bool,
    pub(crate) trace: Vec<String>,
    /// Packets of any kind ever sent.
    pub(crate) sent: u64,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}->n{} {}", self.from, self.to, self.kind())?;
        match &self.body {
            Body::Frame(Append { leader_term, commit, range, frame, round }, _) => {
                write!(f, " t{leader_term} {}..{}@{} commit {commit} round {round}", range.from, range.to, frame.term)
            }
            Body::Message(message) => match *message {
                Message::PreVote { term, last_index, last_term } => write!(f, " t{term} last {last_index}@{last_term}"),
                Message::PreVoteReply { term, granted, last_index, last_term, recovering } => {
                    let recovering = if recovering { " recovering" } else { "" };
                    write!(f, " t{term} {} last {last_index}@{last_term}{recovering}", answer(granted))
                }
                Message::Vote { term, last_index, last_term, all_answered } => {
                    write!(f, " t{term} last {last_index}@{last_term}{}", if all_answered { " all answered" } else { "" })
                }
                Message::VoteReply { term, granted } => write!(f, " t{term} {}", answer(granted)),
                Message::Heartbeat { term, commit, round, term_start, session_commit } => {
                    write!(f, " t{term} commit {commit} round {round} start {term_start} named {session_commit}")
                }
                Message::HeartbeatReply { term, round, recovering, needs_base, last_index } => {
                    let recovering = if recovering { " recovering" } else { "" };
                    let needs_base = if needs_base { " needs a base" } else { "" };
                    write!(f, " t{term} round {round} last {last_index}{recovering}{needs_base}")
                }
                Message::Accepted { term, round, matched } => write!(f, " t{term} round {round} matched {matched}"),
                Message::Received { term, round, index } => write!(f, " t{term} round {round} index {index}"),
                Message::Rejected { term, round, prev, last_index, conflict_term, conflict_first } => {
                    write!(f, " t{term} round {round} prev {prev} last {last_index} conflict {conflict_first}@{conflict_term}")
                }
            },
        }
    }
}

fn answer(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}

impl Packet {
    pub(crate) fn kind(&self) -> &'static str {
        match &self.body {
            Body::Frame(..) => "frame",
            Body::Message(message) => match message {
                Message::PreVote { .. } => "prevote",
                Message::PreVoteReply { .. } => "prevotereply",
                Message::Vote { .. } => "vote",
                Message::VoteReply { .. } => "votereply",
                Message::Heartbeat { .. } => "heartbeat",
                Message::HeartbeatReply { .. } => "heartbeatreply",
                Message::Accepted { .. } => "accepted",
                Message::Received { .. } => "received",
                Message::Rejected { .. } => "rejected",
            },
        }
    }
}

impl Filter {
    fn matches(&self, packet: &Packet) -> bool {
        self.from.is_none_or(|from| from == packet.from)
            && self.to.is_none_or(|to| to == packet.to)
            && (self.kind.is_empty() || self.kind == packet.kind())
    }
}

impl Network {
    pub(crate) fn session(&self, a: NodeId, b: NodeId) -> Option<SessionId> {
        self.sessions.get(&pair(a, b)).copied()
    }

    pub(crate) fn open(&mut self, a: NodeId, b: NodeId, session: SessionId) {
        self.sessions.insert(pair(a, b), session);
    }

    pub(crate) fn close(&mut self, a: NodeId, b: NodeId) -> Option<SessionId> {
        self.queue.retain(|packet| pair(packet.from, packet.to) != pair(a, b));
        self.sessions.remove(&pair(a, b))
    }

    pub(crate) fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.contains(&pair(a, b))
    }

    pub(crate) fn set_cut(&mut self, a: NodeId, b: NodeId, cut: bool) {
        if cut {
            self.cut.insert(pair(a, b));
        } else {
            self.cut.remove(&pair(a, b));
        }
    }

    /// Sends, if the session is the current one; captures what a hold matches.
    pub(crate) fn send(&mut self, packet: Packet) {
        if self.session(packet.from, packet.to) != Some(packet.session) {
            return;
        }
        self.sent += 1;
        if self.wire {
            self.trace.push(packet.to_string());
        }
        if self.holds.iter().any(|filter| filter.matches(&packet)) {
            self.held.push(packet);
        } else {
            self.queue.push_back(packet);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Packet> {
        self.queue.pop_front()
    }

    /// Drops captured packets that match.
    pub(crate) fn discard(&mut self, filter: &Filter) -> usize {
        let before = self.held.len();
        self.held.retain(|packet| !filter.matches(packet));
        before - self.held.len()
    }

    /// Puts captured packets that match back on their way, a copy if `copy`. They go even if their session is gone:
    /// what a receiver does with a stale session is under test too.
    pub(crate) fn release(&mut self, filter: &Filter, copy: bool) -> usize {
        let (matching, rest): (Vec<Packet>, Vec<Packet>) = self.held.drain(..).partition(|packet| filter.matches(packet));
        self.held = rest;
        if copy {
            self.held.extend(matching.iter().cloned());
        }
        let count = matching.len();
        self.queue.extend(matching);
        count
    }
}

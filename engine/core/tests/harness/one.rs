//! One core, stepped by hand, and what it is told and says.

use kontiki_core::{
    Append, Config, Effect, Effects, Event, FrameMeta, LogIndex, Message, NodeId, Raft, Restored, Role, SessionId, Term, Time, WriteId,
};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const ELECTION_MAX: u64 = 300 * MS;
pub(crate) const HEARTBEAT: u64 = 40 * MS;

/// Node 1 of a cluster; its session with node `n` has the number `n`.
pub(crate) struct One {
    pub(crate) raft: Raft,
    pub(crate) now: Time,
    pub(crate) voters: u64,
}

impl One {
    pub(crate) fn start(voters: u64, restored: Restored) -> One {
        One::among((1..=voters).collect(), vec![], restored)
    }

    pub(crate) fn among(voters: Vec<u64>, learners: Vec<u64>, restored: Restored) -> One {
        let members = voters.iter().chain(&learners).copied().filter(|id| *id != 1).collect::<Vec<u64>>();
        let config = Config {
            id: NodeId(1),
            voters: voters.iter().copied().map(NodeId).collect(),
            learners: learners.iter().copied().map(NodeId).collect(),
            election_min_ns: ELECTION_MAX / 2,
            election_max_ns: ELECTION_MAX,
            election_limit_ns: ELECTION_MAX,
            heartbeat_ns: HEARTBEAT,
            news_ns: 0,
            window_bytes: 1 << 20,
            window_frames: 16,
            seed: 1,
        };
        let mut one = One { raft: Raft::new(config, restored, Time(0)), now: Time(0), voters: voters.len() as u64 };
        for peer in members {
            one.connect(peer, peer);
        }
        one
    }

    /// One event and the end of its turn.
    pub(crate) fn step(&mut self, event: Event) -> Effects {
        let mut effects = Effects::new();
        self.raft.step(self.now, event, &mut effects);
        self.raft.flush(self.now, &mut effects);
        effects
    }

    pub(crate) fn connect(&mut self, peer: u64, session: u64) -> Effects {
        self.step(Event::SessionUp { peer: NodeId(peer), session: SessionId(session) })
    }

    pub(crate) fn hear(&mut self, peer: u64, message: Message) -> Effects {
        self.hear_in(peer, peer, message)
    }

    pub(crate) fn hear_in(&mut self, peer: u64, session: u64, message: Message) -> Effects {
        self.step(Event::Message { from: NodeId(peer), session: SessionId(session), message })
    }

    /// Ticks `late` nanoseconds after the deadline.
    pub(crate) fn tick(&mut self, late: u64) -> Effects {
        self.now = self.raft.deadline().plus_ns(late);
        self.step(Event::Tick)
    }

    /// The newest hard state asked for in `effects` is durable.
    pub(crate) fn save(&mut self, effects: &Effects) -> Effects {
        let write = effects.iter().find_map(|e| if let Effect::PersistHardState { write, .. } = e { Some(*write) } else { None });
        self.step(Event::HardStateDurable { write: write.unwrap() })
    }

    /// Campaigns, with its own vote durable; `recovering`: so says every peer of itself.
    pub(crate) fn campaign(&mut self, recovering: bool) {
        self.tick(0);
        assert_eq!(self.raft.role(), Role::PreCandidate);
        // A refusal names the voter's own term.
        let term = Term(self.raft.term().0 + u64::from(!recovering));
        let mut effects = Effects::new();
        for peer in 2..=self.voters {
            if self.raft.role() == Role::PreCandidate {
                effects = self.hear(peer, pre_vote_reply(term, !recovering, recovering));
            }
        }
        assert_eq!(self.raft.role(), Role::Candidate);
        self.save(&effects);
    }

    /// Leads; returns the no-op that it asks for.
    pub(crate) fn lead(&mut self, recovering: bool) -> FrameMeta {
        self.campaign(recovering);
        let term = self.raft.term();
        for peer in 2..=self.voters {
            let effects = self.hear(peer, Message::VoteReply { term, granted: true });
            if let Some(noop) = effects.iter().find_map(|e| if let Effect::SealNoop { frame } = e { Some(*frame) } else { None }) {
                return noop;
            }
        }
        panic!("not elected: {:?}", self.raft.role())
    }

    pub(crate) fn seal(&mut self, frame: FrameMeta) -> Effects {
        self.step(Event::Sealed { frame, bytes: 4096 })
    }
}

pub(crate) fn pre_vote_reply(term: Term, granted: bool, recovering: bool) -> Message {
    Message::PreVoteReply { term, granted, last_index: LogIndex(0), last_term: Term(0), recovering }
}

/// A log of entries `1..=last`, all of term 1.
pub(crate) fn log(last: u64) -> Restored {
    let runs = if last == 0 { vec![] } else { vec![(LogIndex(1), Term(1))] };
    Restored { term: Term(1), last: LogIndex(last), runs, ..Restored::default() }
}

pub(crate) fn heartbeat(term: u64) -> Message {
    Message::Heartbeat { term: Term(term), commit: LogIndex(0), round: 1, term_start: LogIndex(0), session_commit: LogIndex(0) }
}

pub(crate) fn heartbeat_reply(term: Term, last_index: u64) -> Message {
    Message::HeartbeatReply { term, round: 0, recovering: false, needs_base: false, last_index: LogIndex(last_index) }
}

/// The frame of one entry of `term` at `index`, after an entry of `prev_term`.
pub(crate) fn frame_of(from: u64, term: u64, index: u64, prev_term: u64) -> Event {
    let frame = FrameMeta { term: Term(term), first: LogIndex(index), count: 1, prev_term: Term(prev_term) };
    let append = Append { leader_term: Term(term), commit: LogIndex(0), frame, range: frame.range(), round: 0 };
    Event::Append { from: NodeId(from), session: SessionId(from), append }
}

pub(crate) fn writes(effects: &Effects) -> Option<WriteId> {
    effects.iter().find_map(|e| if let Effect::AppendFrame { write, .. } = e { Some(*write) } else { None })
}

pub(crate) fn sends(effects: &Effects, kind: impl Fn(&Message) -> bool) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Send { message, .. } if kind(message)))
}

pub(crate) fn asks_for_pre_votes(effects: &Effects) -> bool {
    sends(effects, |m| matches!(m, Message::PreVote { .. }))
}

/// From where frames are to be sent to `peer`.
pub(crate) fn sent_from(effects: &Effects, peer: u64) -> Option<u64> {
    effects.iter().find_map(|e| match e {
        Effect::SendFrames { to, from, .. } if to.0 == peer => Some(from.0),
        _ => None,
    })
}

pub(crate) fn behind(effects: &Effects) -> bool {
    effects.iter().any(|e| matches!(e, Effect::FollowerBehind { .. }))
}

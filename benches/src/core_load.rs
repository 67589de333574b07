//! A consensus core that leads, and a world that answers every effect at once: what consensus itself costs, without
//! input, output or payloads.

use std::collections::VecDeque;

use kontiki_core::{Config, Effect, Effects, Event, LogIndex, Message, NodeId, Raft, Restored, Role, SessionId, Term, Time};

/// Size of a frame, as the core is told, in bytes.
const FRAME_BYTES: u32 = 4096;
/// Time between two steps, in nanoseconds.
const STEP_NS: u64 = 1_000;

/// The core and its world.
#[derive(Debug)]
pub struct CoreLoad {
    raft: Raft,
    now: Time,
    effects: Effects,
    events: VecDeque<Event>,
}

impl CoreLoad {
    /// One of `voters` nodes, elected.
    ///
    /// # Panics
    /// If it does not come to lead: then the core is broken.
    pub fn elected(voters: u64) -> CoreLoad {
        let config = Config {
            id: NodeId(1),
            voters: (1..=voters).map(NodeId).collect(),
            learners: Vec::new(),
            election_min_ns: 150_000_000,
            election_max_ns: 300_000_000,
            election_limit_ns: 10_000_000_000,
            heartbeat_ns: 40_000_000,
            news_ns: 2_500_000,
            window_bytes: 4 << 20,
            window_frames: 64,
            seed: 1,
        };
        let restored = Restored::default();
        let sessions = (2..=voters).map(|peer| Event::SessionUp { peer: NodeId(peer), session: SessionId(peer) });
        let mut load = CoreLoad {
            raft: Raft::new(config, restored, Time(1)),
            now: Time(1),
            effects: Effects::with_capacity(64),
            events: VecDeque::with_capacity(64),
        };
        load.events.extend(sessions);
        for _ in 0..1000 {
            load.settle();
            if load.raft.role() == Role::Leader && load.raft.commit().0 > 0 {
                return load;
            }
            load.now = load.now.max(load.raft.deadline());
            load.events.push_back(Event::Tick);
        }
        panic!("a core whose peers grant everything was not elected");
    }

    /// One frame of `entries`: sealed, written, sent, acknowledged, committed. The commit index then.
    ///
    /// # Panics
    /// If the core does not lead any more.
    pub fn commit(&mut self, entries: u32) -> LogIndex {
        let Some(frame) = self.raft.next_frame(entries) else { panic!("the core no longer leads") };
        self.events.push_back(Event::Sealed { frame, bytes: FRAME_BYTES });
        self.settle();
        self.raft.commit()
    }

    /// Steps and flushes until nothing is left to answer.
    fn settle(&mut self) {
        loop {
            self.now = self.now.plus_ns(STEP_NS);
            while let Some(event) = self.events.pop_front() {
                self.raft.step(self.now, event, &mut self.effects);
                self.answer();
            }
            self.raft.flush(self.now, &mut self.effects);
            self.answer();
            if self.events.is_empty() {
                return;
            }
        }
    }

    /// What a world without delays answers to each effect.
    fn answer(&mut self) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::PersistHardState { write, .. } => self.events.push_back(Event::HardStateDurable { write }),
                Effect::AppendFrame { write, .. } => self.events.push_back(Event::LogDurable { write }),
                Effect::SealNoop { frame } => self.events.push_back(Event::Sealed { frame, bytes: FRAME_BYTES }),
                Effect::SendFrames { to, session, upto, .. } => {
                    let (bytes, frames) = (u64::from(FRAME_BYTES), 1);
                    self.events.push_back(Event::FramesSent { peer: to, session, to: upto, bytes, frames });
                    let message = Message::Accepted { term: self.raft.term(), round: self.raft.round(), matched: upto };
                    self.events.push_back(Event::Message { from: to, session, message });
                }
                Effect::Send { to, session, message, .. } => {
                    if let Some(message) = reply(message) {
                        self.events.push_back(Event::Message { from: to, session, message });
                    }
                }
                _ => {}
            }
        }
    }
}

/// The answer of a peer that agrees with everything.
fn reply(message: Message) -> Option<Message> {
    match message {
        Message::PreVote { term, .. } => {
            Some(Message::PreVoteReply { term, granted: true, last_index: LogIndex(0), last_term: Term(0), recovering: false })
        }
        Message::Vote { term, .. } => Some(Message::VoteReply { term, granted: true }),
        Message::Heartbeat { term, round, .. } => {
            Some(Message::HeartbeatReply { term, round, recovering: false, needs_base: false, last_index: LogIndex(0) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_committed_at_once() {
        for voters in [1, 3, 5] {
            let mut load = CoreLoad::elected(voters);
            let start = load.commit(10);
            for n in 1..1000 {
                assert_eq!(load.commit(10).0, start.0 + 10 * n, "{voters} voters");
            }
        }
    }
}

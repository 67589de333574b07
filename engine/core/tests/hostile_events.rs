//! Every event and every message, in random order, with numbers from the ends of their range, to a core that began with
//! any log: nothing panics, and nothing known goes back.
//!
//! What comes from peers and from the disk may say anything. What the node says of its own doing keeps to what the docs
//! of [`Event`] ask of it, and to nothing more.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeMap;

use harness::MS;
use harness::one::One;
use harness::world::{Dice, PrintSeed, setting};
use kontiki_core::limits::{MAX_EFFECTS, MAX_INDEX, MAX_TERM, MAX_TERM_STEP};
use kontiki_core::{
    Append, Base, Effect, EntryId, Event, FrameMeta, IndexRange, LogIndex, Message, NodeId, Restored, Role, SessionId, Subterm, Term,
    WriteId,
};

/// Kinds of events, and of messages in their place.
const KINDS: usize = 22;

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Tick => "tick",
        Event::SessionUp { .. } => "session up",
        Event::SessionDown { .. } => "session down",
        Event::Message { message, .. } => match message {
            Message::PreVote { .. } => "pre-vote",
            Message::PreVoteReply { .. } => "pre-vote reply",
            Message::Vote { .. } => "vote",
            Message::VoteReply { .. } => "vote reply",
            Message::Heartbeat { .. } => "heartbeat",
            Message::HeartbeatReply { .. } => "heartbeat reply",
            Message::Accepted { .. } => "accepted",
            Message::Received { .. } => "received",
            Message::Rejected { .. } => "rejected",
        },
        Event::Append { .. } => "append",
        Event::Offered { .. } => "offered",
        Event::Sealed { .. } => "sealed",
        Event::LogDurable { .. } => "log durable",
        Event::HardStateDurable { .. } => "hard state durable",
        Event::FramesSent { .. } => "frames sent",
        Event::FramesGone { .. } => "frames gone",
        Event::Installed { .. } => "installed",
        Event::BaseLost => "base lost",
        Event::TermFound { .. } => "term found",
    }
}

/// Node 1 of one to three voters, and what it has asked for.
struct Victim {
    one: One,
    dice: Dice,
    /// Term of the log's last entry.
    last_term: Term,
    last_write: WriteId,
    sending: BTreeMap<NodeId, (SessionId, LogIndex)>,
    asked: Option<LogIndex>,
    noop: Option<FrameMeta>,
    /// So many events more help it to lead.
    favours: u64,
    sent: BTreeMap<&'static str, u64>,
}

impl Victim {
    fn new(seed: u64) -> Victim {
        let mut dice = Dice::new(seed);
        let restored = restored(&mut dice);
        let last_term = restored.runs.last().map_or(restored.base.term, |(_, term)| *term);
        let one = One::start(1 + dice.roll(3), restored);
        let (sending, sent) = (BTreeMap::new(), BTreeMap::new());
        Victim { one, dice, last_term, last_write: WriteId(0), sending, asked: None, noop: None, favours: 0, sent }
    }

    /// An extreme number, or one that means something to this node.
    fn number(&mut self) -> u64 {
        let raft = &self.one.raft;
        let near = [raft.term().0, raft.last_index().0, raft.commit().0, raft.commit_here().0, raft.durable().0, self.last_term.0];
        let far = [0, u64::MAX, MAX_INDEX, MAX_TERM, MAX_TERM_STEP, raft.term().0 + MAX_TERM_STEP, u64::from(u32::MAX)];
        let of = if self.dice.chance(70) { &near[..] } else { &far[..] };
        let number = of[self.dice.pick(of.len()).unwrap()];
        match self.dice.roll(4) {
            0 => number.saturating_add(1 + self.dice.roll(3)),
            1 => number.saturating_sub(1 + self.dice.roll(3)),
            _ => number,
        }
    }

    /// A term that is listened to, mostly.
    fn term(&mut self) -> Term {
        if self.dice.chance(60) { self.one.raft.term() } else { Term(self.number()) }
    }

    fn index(&mut self) -> LogIndex {
        LogIndex(self.number())
    }

    fn flag(&mut self) -> bool {
        self.dice.chance(50)
    }

    /// A node and its session, mostly.
    fn link(&mut self) -> (NodeId, SessionId) {
        let leader = self.one.raft.leader().filter(|_| self.dice.chance(60));
        let any = if self.dice.chance(90) { 2 + self.dice.roll(2) } else { self.dice.roll(5) };
        let from = leader.unwrap_or(NodeId(any));
        (from, if self.dice.chance(95) { SessionId(from.0) } else { SessionId(self.number()) })
    }

    fn message(&mut self) -> Message {
        let term = self.term();
        let next = Term(self.one.raft.term().0 + 1);
        match self.dice.roll(9) {
            0 => Message::PreVote { term, last_index: self.index(), last_term: self.term() },
            1 => Message::PreVoteReply {
                term: if self.dice.chance(60) { next } else { term },
                granted: self.flag(),
                last_index: self.index(),
                last_term: self.term(),
                recovering: self.flag(),
            },
            2 => Message::Vote { term, last_index: self.index(), last_term: self.term(), all_answered: self.flag() },
            3 => Message::VoteReply { term, granted: self.dice.chance(80) },
            4 => Message::Heartbeat {
                term,
                commit: self.index(),
                round: self.number(),
                term_start: self.index(),
                session_commit: self.index(),
            },
            5 => Message::HeartbeatReply {
                term,
                round: self.number(),
                recovering: self.flag(),
                needs_base: self.dice.chance(20),
                last_index: self.index(),
            },
            6 => Message::Accepted { term, round: self.number(), matched: self.index() },
            7 => Message::Received { term, round: self.number(), index: self.index() },
            _ => Message::Rejected {
                term,
                round: self.number(),
                prev: self.index(),
                last_index: self.index(),
                conflict_term: self.term(),
                conflict_first: self.index(),
            },
        }
    }

    /// A frame that fits behind the log's end, but for a number of it, perhaps; or any frame.
    fn append(&mut self) -> Append {
        let (term, first) = (self.term(), self.one.raft.last_index().next());
        let frame = FrameMeta { term, first, count: 1 + self.dice.roll(4) as u32, prev_term: self.last_term };
        let range = IndexRange { from: first, to: LogIndex(first.0.saturating_add(u64::from(frame.count) - 1)) };
        let mut append = Append { leader_term: term, commit: self.index(), frame, range, round: self.number() };
        let changes = [0, 1, 1, 8][self.dice.roll(4) as usize];
        for _ in 0..changes {
            let number = self.number();
            match self.dice.roll(7) {
                0 => append.leader_term.0 = number,
                1 => append.frame.term.0 = number,
                2 => append.frame.first.0 = number,
                3 => append.frame.count = number.min(u64::from(u32::MAX)) as u32,
                4 => append.frame.prev_term.0 = number,
                5 => append.range.from.0 = number,
                _ => append.range.to.0 = number,
            }
        }
        // Entries from further down, which may stand there already or supersede what does.
        if self.dice.chance(20) {
            let down = self.dice.roll(4);
            append.frame.first.0 = append.frame.first.0.saturating_sub(down);
            append.range.from.0 = append.range.from.0.saturating_sub(down);
        }
        append
    }

    /// The last entry of a snapshot that a peer has sent, or that lies on the disk.
    fn base(&mut self) -> Base {
        Base { index: self.index(), term: self.term(), subterm: Subterm(self.number() as u32) }
    }

    /// A write that was asked for.
    fn write(&mut self) -> WriteId {
        match self.dice.chance(50) {
            true => self.last_write,
            false => WriteId(self.dice.roll(self.last_write.0 + 1)),
        }
    }

    /// What lets it win an election, and put its no-op into the log.
    fn favour(&mut self) -> Option<Event> {
        let (from, term) = (NodeId(2 + self.dice.roll(2)), self.one.raft.term());
        let reply =
            Message::PreVoteReply { term: Term(term.0 + 1), granted: true, last_index: LogIndex(0), last_term: Term(0), recovering: false };
        let message = if self.flag() { reply } else { Message::VoteReply { term, granted: true } };
        Some(match self.dice.roll(5) {
            0 => Event::Tick,
            1 => Event::HardStateDurable { write: self.last_write },
            2 => Event::Sealed { frame: self.noop.take()?, bytes: 4096 },
            _ => Event::Message { from, session: SessionId(from.0), message },
        })
    }

    fn event(&mut self) -> Option<Event> {
        if self.dice.chance(1) {
            self.favours = 30;
        }
        if self.favours > 0 {
            self.favours -= 1;
            return self.favour();
        }
        let (peer, session) = self.link();
        Some(match self.dice.roll(23) {
            0 => Event::Tick,
            1 => Event::SessionUp { peer, session },
            2 if self.dice.chance(20) => Event::SessionDown { peer, session },
            2..=8 => Event::Message { from: peer, session, message: self.message() },
            9..=13 => Event::Append { from: peer, session, append: self.append() },
            14 => Event::Offered { from: peer, session, append: self.append() },
            15 => {
                let count = self.number() as u32;
                let said = self.noop.take().or_else(|| self.one.raft.next_frame(count));
                Event::Sealed { frame: said?, bytes: self.number() as u32 }
            }
            16 => Event::LogDurable { write: self.write() },
            17 => Event::HardStateDurable { write: self.write() },
            18 => {
                let (&peer, &(session, upto)) = self.sending.first_key_value()?;
                self.sending.remove(&peer);
                let (to, frames) = (self.index().min(upto), self.number() as u32);
                Event::FramesSent { peer, session, to, bytes: self.number(), frames }
            }
            19 => {
                let (&peer, &(session, _)) = self.sending.last_key_value()?;
                self.sending.remove(&peer);
                Event::FramesGone { peer, session, first: self.index() }
            }
            20 => Event::Installed { base: self.base() },
            21 if self.dice.chance(5) => Event::BaseLost,
            _ => {
                let (index, term) = (self.asked.unwrap_or(self.index()), self.term());
                Event::TermFound { index, term: self.dice.chance(80).then_some(term) }
            }
        })
    }

    fn step(&mut self) {
        self.one.now = match self.dice.roll(4) {
            0 => self.one.raft.deadline().max(self.one.now).min(self.one.now.plus_ns(1_000 * MS)),
            _ => self.one.now.plus_ns(self.dice.roll(3 * MS)),
        };
        let Some(event) = self.event() else { return };
        if self.favours > 0 && event == Event::Tick {
            self.one.now = self.one.raft.deadline().max(self.one.now).min(self.one.now.plus_ns(1_000 * MS));
        }
        *self.sent.entry(kind(&event)).or_default() += 1;
        let (term, commit) = (self.one.raft.term(), self.one.raft.commit());
        let mut effects = Vec::new();
        self.one.raft.step(self.one.now, event, &mut effects);
        assert!(effects.len() <= MAX_EFFECTS);
        // A turn may end after several events.
        let stepped = effects.len();
        if self.dice.chance(70) {
            self.one.raft.flush(self.one.now, &mut effects);
            assert!(effects.len() - stepped <= MAX_EFFECTS);
        }
        for effect in effects {
            self.note(effect, &event);
        }
        let raft = &self.one.raft;
        assert!(term <= raft.term() && commit <= raft.commit(), "{event:?} took something back");
        assert!(raft.term().0 <= term.0 + MAX_TERM_STEP + 1, "{event:?} was believed");
        assert!(raft.durable() <= raft.last_index(), "{event:?}");
        let last = raft.last_index();
        if raft.commit_here() == last && raft.durable() == last && self.dice.chance(5) {
            self.one.raft.compacted(Base { index: last, term: self.last_term, ..Base::default() });
        }
        let base = self.base();
        self.one.raft.judge_snapshot(base);
    }

    fn note(&mut self, effect: Effect, event: &Event) {
        match effect {
            Effect::PersistHardState { write, .. } => self.last_write = write,
            Effect::AppendFrame { write, range } => {
                let (Event::Append { append: Append { frame, .. }, .. } | Event::Sealed { frame, .. }) = event else {
                    panic!("nothing to write came with {event:?}")
                };
                assert!(frame.first <= range.from && range.to <= frame.last(), "{event:?}: {range:?}");
                (self.last_write, self.last_term) = (write, frame.term);
            }
            Effect::Rebase { write, base } => (self.last_write, self.last_term) = (write, base.term),
            Effect::SealNoop { frame } => self.noop = Some(frame),
            Effect::SendFrames { to, session, upto, .. } => _ = self.sending.insert(to, (session, upto)),
            Effect::LookupTerm { index } => self.asked = Some(index),
            Effect::Role { role, .. } if role != Role::Leader => self.noop = None,
            _ => {}
        }
    }
}

/// Whatever a disk may say, as far as a start goes on from it.
fn restored(dice: &mut Dice) -> Restored {
    loop {
        let top = [12, MAX_INDEX][dice.roll(4) as usize / 3];
        let index = |dice: &mut Dice| LogIndex(top - dice.roll(13));
        let term = |dice: &mut Dice| Term([4, MAX_TERM][dice.roll(8) as usize / 7] - dice.roll(4));
        let base = match dice.chance(50) {
            true => Base::default(),
            false => Base { index: index(dice), term: term(dice), subterm: Subterm(dice.roll(3) as u32) },
        };
        let mut runs: Vec<(LogIndex, Term)> = (0..dice.roll(4)).map(|_| (index(dice), term(dice))).collect();
        runs.sort_unstable();
        let applied = match dice.chance(50) {
            true => EntryId::default(),
            false => EntryId { index: index(dice), term: term(dice) },
        };
        let restored = Restored {
            term: term(dice),
            vote: dice.chance(30).then_some(NodeId(1)),
            recovering: dice.chance(20),
            base,
            runs,
            last: index(dice),
            committed: index(dice),
            applied,
            needs_base: dice.chance(15),
        };
        if restored.validate().is_ok() {
            return restored;
        }
    }
}

/// `SEED=n` replays one run, `RUNS=n` sets how many.
#[test]
fn hostile_peers_cannot_panic_a_node() {
    let seeds = match setting("SEED") {
        Some(seed) => seed..=seed,
        None => 1..=setting("RUNS").unwrap_or(3000),
    };
    let mut sent = BTreeMap::new();
    let mut led = 0;
    for seed in seeds.clone() {
        let _guard = PrintSeed(seed);
        let mut victim = Victim::new(seed);
        for _ in 0..300 {
            victim.step();
            led += u64::from(victim.one.raft.role() == Role::Leader);
        }
        victim.sent.iter().for_each(|(kind, times)| *sent.entry(*kind).or_default() += times);
    }
    if seeds.count() > 100 {
        let rare: Vec<(&str, u64)> = sent.iter().map(|(kind, times)| (*kind, *times)).filter(|(_, times)| *times < 200).collect();
        assert!(sent.len() == KINDS && rare.is_empty(), "{} kinds, and seldom {rare:?}", sent.len());
        assert!(led > 10_000, "it led {led} times");
    }
}

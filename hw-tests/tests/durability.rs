//! Durability is real: nothing leaves a node before the writes it depends on are durable there, and no ticket
//! resolves before a majority is.
//!
//! A recording `Io` around the real backend of each of three nodes reads every write and every send as
//! the bytes they are. It knows nothing of the engine but its formats. A second test puts a liar between
//! engine and recorder, which reports writes durable before they are: the recorder must notice.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use kontiki::{ApplyError, Config, Entries, Medium, Member, ProposeError, Reactor, Replies, Role, StateMachine, Ticket};
use kontiki_core::{Message, Time};
use kontiki_frame::{DiskStamp, parse_header};
use kontiki_io::{Backend, Completion, Handle, Io, IoData, IoError, IoStats, Op, Options, Output, Piece, Token, Wake};
use kontiki_net::{Control, ControlPayload};
use kontiki_sim::{Observer, Recording};

/// A log write as submitted: the ranges of its frames.
struct LogWrite {
    token: Token,
    ranges: Vec<(u64, u64)>,
    done: bool,
}

/// What one node has been seen to do.
#[derive(Default)]
struct Ledger {
    id: u64,
    log: VecDeque<LogWrite>,
    /// Indexes that are durable here.
    durable: BTreeSet<u64>,
    /// Hard-state writes under way: token, copy, term, vote.
    saves: Vec<(Token, u64, u64, u64)>,
    /// Newest durable (term, vote) of each copy.
    copies: [(u64, u64); 2],
    checked: Checked,
    violations: Vec<String>,
}

/// How often each rule was put to the test.
#[derive(Clone, Copy, Debug, Default)]
struct Checked {
    acknowledgements: u64,
    grants: u64,
    candidacies: u64,
    answers: u64,
}

impl Ledger {
    fn wrote(&mut self, token: Token, offset: u64, bytes: &[u8]) {
        if bytes.starts_with(b"KtkH") {
            let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            self.saves.push((token, u64::from(offset != 0), field(32), field(40)));
            return;
        }
        let mut ranges = Vec::new();
        let mut rest = bytes;
        while let (Ok(stamp), Ok(header)) = (DiskStamp::parse(rest), parse_header(rest)) {
            ranges.push((stamp.range.from.0, stamp.range.to.0));
            rest = &rest[header.frame_bytes()..];
            if rest.is_empty() {
                break;
            }
        }
        if !ranges.is_empty() {
            self.log.push_back(LogWrite { token, ranges, done: false });
        }
    }

    fn completed(&mut self, completion: &Completion) {
        let ok = matches!(completion.result, Ok(Output::Done | Output::Bytes(_)));
        if let Some(at) = self.saves.iter().position(|s| s.0 == completion.token) {
            let (_, copy, term, vote) = self.saves.remove(at);
            if ok {
                self.copies[copy as usize] = (term, vote);
            }
        }
        if let Some(write) = self.log.iter_mut().find(|w| w.token == completion.token && !w.done) {
            write.done = ok;
        }
        while self.log.front().is_some_and(|w| w.done) {
            for (from, to) in self.log.pop_front().unwrap().ranges {
                self.durable.split_off(&from);
                self.durable.extend(from..=to);
            }
        }
    }

    fn require(&mut self, holds: bool, what: impl Fn() -> String) {
        if !holds {
            self.violations.push(format!("node {}: {}", self.id, what()));
        }
    }

    fn says(&mut self, message: Message) {
        let (term, vote) = self.copies[0].min(self.copies[1]);
        let answered = match message {
            Message::PreVoteReply { .. } | Message::PreVote { .. } => None,
            Message::Vote { term, .. } => Some(term),
            Message::VoteReply { term, .. }
            | Message::Heartbeat { term, .. }
            | Message::HeartbeatReply { term, .. }
            | Message::Accepted { term, .. }
            | Message::Received { term, .. }
            | Message::Rejected { term, .. } => Some(term),
        };
        if let Some(said) = answered {
            self.checked.answers += 1;
            self.require(term >= said.0, || format!("{message:?} left while term {term} was durable"));
        }
        match message {
            Message::Accepted { matched, .. } => {
                self.checked.acknowledgements += 1;
                let last = self.durable.last().copied().unwrap_or(0);
                self.require(last >= matched.0, || format!("acknowledged {matched} with {last} durable"));
            }
            Message::VoteReply { term: said, granted: true } => {
                self.checked.grants += 1;
                self.require(term > said.0 || vote != 0, || format!("granted a vote in {said} that is not durable"));
            }
            Message::Vote { .. } => {
                self.checked.candidacies += 1;
                let id = self.id;
                self.require(vote == id, || format!("asked for votes with vote {vote} durable"));
            }
            _ => {}
        }
    }
}

/// The ledger, as an observer of one node's `Io`.
struct Clerk(Rc<RefCell<Ledger>>);

impl Observer for Clerk {
    fn submitted(&mut self, _: Time, token: Token, op: &Op) {
        let mut ledger = self.0.borrow_mut();
        match op {
            Op::Write { offset, data, .. } => match data {
                IoData::Span(span) => ledger.wrote(token, *offset, span.bytes()),
                IoData::Pool(buf, len) => ledger.wrote(token, *offset, &buf.bytes()[..*len]),
            },
            Op::Send { gather, .. } => {
                for piece in &gather.pieces {
                    let Piece::Head(from, to) = piece else { continue };
                    let mut rest = &gather.head.bytes()[*from as usize..*to as usize];
                    while let Ok(Some((control, length))) = Control::decode(rest) {
                        if let ControlPayload::Message(message) = control.payload {
                            ledger.says(message);
                        }
                        rest = &rest[length..];
                    }
                }
            }
            _ => {}
        }
    }

    fn completed(&mut self, _: Time, completion: &Completion) {
        self.0.borrow_mut().completed(completion);
    }
}

/// Reports each durable write as done at once, and does it a few turns later.
struct Liar<I> {
    inner: I,
    late: VecDeque<(u32, Token, Op)>,
    lies: Vec<Token>,
    swallow: Vec<Token>,
    on: Rc<RefCell<bool>>,
}

impl<I: Io> Io for Liar<I> {
    fn now(&self) -> Time {
        self.inner.now()
    }
    fn wall_ns(&self) -> u64 {
        self.inner.wall_ns()
    }
    fn free_bytes(&mut self, dir: Handle) -> Option<u64> {
        self.inner.free_bytes(dir)
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Write { durable: true, data: IoData::Span(span), file, offset } if *self.on.borrow() => {
                self.lies.push(token);
                self.late.push_back((50, token, Op::Write { durable: true, data: IoData::Span(span), file, offset }));
            }
            op => self.inner.submit(token, op),
        }
    }
    fn capacity(&self) -> usize {
        self.inner.capacity()
    }
    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        for write in &mut self.late {
            write.0 = write.0.saturating_sub(1);
        }
        while self.late.front().is_some_and(|w| w.0 == 0) {
            let (_, token, op) = self.late.pop_front().unwrap();
            self.swallow.push(token);
            self.inner.submit(token, op);
        }
        let result = self.inner.turn(until, done);
        let swallow = &mut self.swallow;
        done.retain(|c| match swallow.iter().position(|&t| t == c.token) {
            Some(at) => {
                swallow.swap_remove(at);
                false
            }
            None => true,
        });
        done.extend(self.lies.drain(..).map(|token| Completion { token, result: Ok(Output::Done), buf: None }));
        result
    }
    fn bell(&self) -> std::sync::Arc<dyn Wake> {
        self.inner.bell()
    }
    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        self.inner.poll_fd()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn stats(&self) -> IoStats {
        self.inner.stats()
    }
}

struct Quiet;

impl StateMachine for Quiet {
    fn apply(&mut self, _: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
        Ok(())
    }
}

type Watched = Reactor<Liar<Recording<Box<dyn Io + Send>, Clerk>>, Quiet>;

struct World {
    _dir: tempfile::TempDir,
    nodes: Vec<Watched>,
    ledgers: Vec<Rc<RefCell<Ledger>>>,
    lying: Rc<RefCell<bool>>,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let listeners: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let members: Vec<Member> = listeners.iter().zip(1..).map(|(l, id)| Member::new(id, l.local_addr().unwrap().into())).collect();
        drop(listeners);
        let lying = Rc::new(RefCell::new(false));
        let (mut nodes, mut ledgers) = (Vec::new(), Vec::new());
        for member in &members {
            let ledger = Rc::new(RefCell::new(Ledger { id: member.id, ..Ledger::default() }));
            let mut config = Config::new(0xD0, member.id, members.clone(), dir.path().join(member.id.to_string()));
            config.segment_bytes = 4 << 20;
            config.medium = Medium::Safe;
            let real = kontiki_io::open(&Options { backend: Backend::Auto, capacity: 512, ..Options::default() }, &[]).unwrap();
            let recorded = Recording::new(real, Clerk(Rc::clone(&ledger)));
            let io = Liar { inner: recorded, late: VecDeque::new(), lies: Vec::new(), swallow: Vec::new(), on: Rc::clone(&lying) };
            nodes.push(Reactor::new(config, io, Quiet).unwrap());
            ledgers.push(ledger);
        }
        World { _dir: dir, nodes, ledgers, lying }
    }

    fn turn(&mut self) {
        for node in &mut self.nodes {
            node.turn(Duration::from_micros(200)).unwrap();
        }
    }

    fn majority_holds(&self, index: u64) -> bool {
        self.ledgers.iter().filter(|l| l.borrow().durable.contains(&index)).count() >= 2
    }

    /// Commits `entries`, in turns of the one thread there is; checks each ticket at the moment it resolves.
    fn commit(&mut self, entries: usize) -> Vec<String> {
        let mut open: VecDeque<Ticket> = VecDeque::new();
        let (mut taken, mut early) = (0, Vec::new());
        while taken < entries || !open.is_empty() {
            while taken < entries && open.len() < 100 {
                let mut result = None;
                for node in &self.nodes {
                    match node.proposer().propose(b"a payload to be kept") {
                        Ok(ticket) => result = Some(ticket),
                        Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => continue,
                        Err(error) => panic!("{error}"),
                    }
                    break;
                }
                let Some(ticket) = result else { break };
                open.push_back(ticket);
                taken += 1;
            }
            self.turn();
            while let Some(outcome) = open.front().and_then(Ticket::poll) {
                open.pop_front();
                if let Ok(applied) = outcome
                    && !self.majority_holds(applied.index.0)
                {
                    early.push(format!("ticket of index {} resolved before a majority was durable", applied.index));
                }
            }
        }
        early
    }

    fn violations(&self) -> Vec<String> {
        self.ledgers.iter().flat_map(|l| l.borrow().violations.clone()).collect()
    }
}

#[test]
fn nothing_leaves_before_what_it_depends_on_is_durable() {
    let mut world = World::new();
    let early = world.commit(3000);
    // A second election, so that votes are cast by nodes with a log.
    let leader = world.nodes.iter().position(|n| n.proposer().propose(b"who leads").is_ok()).unwrap();
    let down = world.nodes.remove(leader);
    drop(down);
    world.ledgers.remove(leader);
    let early: Vec<String> = early.into_iter().chain(world.commit_with_two(500)).collect();
    assert_eq!(early, Vec::<String>::new());
    assert_eq!(world.violations(), Vec::<String>::new());
    let sum = world.ledgers.iter().map(|l| l.borrow().checked).fold(Checked::default(), |a, b| Checked {
        acknowledgements: a.acknowledgements + b.acknowledgements,
        grants: a.grants + b.grants,
        candidacies: a.candidacies + b.candidacies,
        answers: a.answers + b.answers,
    });
    assert!(sum.acknowledgements > 10 && sum.grants > 0 && sum.candidacies > 0 && sum.answers > 20, "too little was checked: {sum:?}");
}

impl World {
    /// The same with one node gone: both others are the majority.
    fn commit_with_two(&mut self, entries: usize) -> Vec<String> {
        assert_eq!(self.nodes.len(), 2);
        self.commit(entries)
    }
}

#[test]
fn a_planted_early_acknowledgement_is_noticed() {
    let mut world = World::new();
    assert_eq!(world.commit(10), Vec::<String>::new());
    *world.lying.borrow_mut() = true;
    let early = world.commit(50);
    assert!(!early.is_empty(), "tickets resolved early and nobody noticed");
    assert!(world.violations().iter().any(|v| v.contains("acknowledged")), "early acknowledgements and nobody noticed");
}

#[test]
fn the_roles_are_as_usual_under_the_recorder() {
    let mut world = World::new();
    world.commit(1);
    let leaders = world.nodes.iter().filter(|n| n.proposer().propose(b"x").is_ok()).count();
    assert_eq!(leaders, 1, "{:?}", Role::Leader);
}

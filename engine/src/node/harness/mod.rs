//! One real replica under a script's control: completions, peers, clients, callers and time come in, operations go out.
//!
//! Core, log, transport, memory and apply stage are real; so are the transports of the peers. The disk, the wire and
//! the clock are the script's: an operation is done as soon as it is submitted, unless the script holds its kind, and
//! the clock moves only when told. The reactor turns when it would be woken, and not more often: a bell that is not
//! rung is seen as something that does not happen.
//!
//! The scripts lie in `engine/tests/node`; their language is described in [`script`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, clippy::result_large_err)]

mod client;
mod disk;
mod machine;
mod peer;
mod script;
mod snapshots;
mod wire;
mod words;
mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kontiki_core::{LogIndex, NodeId, Role, Term, Time};
use kontiki_mem::Ring;

use self::client::Client;
use self::machine::Machine;
use self::peer::Peer;
use self::wire::Host;
use self::world::{Endpoint, Meanwhile, NODE, World};
use super::Replica;
use crate::apply::ApplyStage;
use crate::config::Config;
use crate::error::{Lost, ProposeError};
use crate::events::Events;
use crate::handle::Proposer;
use crate::limits::MAX_RING_BLOCKS;
use crate::reactor::{Reactor, State, TurnError};
use crate::ticket::Ticket;

const MS: u64 = 1_000_000;

/// What a script was told last of the node.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    standing: (Role, Term),
    leader: u64,
    commit: LogIndex,
    first: LogIndex,
}

/// The node while it runs.
struct Running {
    reactor: Reactor<Endpoint, Machine>,
    /// The state machine, where a thread would drive it.
    stage: Option<ApplyStage<Machine>>,
    proposer: Proposer,
    rung: Arc<AtomicBool>,
    meanwhile: Meanwhile,
    seen: Option<Seen>,
    events: Events,
    /// The status that was asked for last.
    asked: u64,
    turns: u64,
}

pub(super) struct Bench {
    config: Config,
    /// Apply has a thread of its own, so to speak.
    threaded: bool,
    /// It does not run until told.
    apply_held: bool,
    world: Rc<RefCell<World>>,
    machine: Machine,
    running: Option<Running>,
    peers: Vec<Peer>,
    clients: Vec<Client>,
    tickets: Rc<RefCell<Vec<(String, Ticket)>>>,
    /// Starts of peers, and clients, so far.
    started: u64,
    heartbeats: bool,
    /// The node waits awake after each turn.
    lingers: bool,
    /// What is proposed while it does next, so many microseconds after it began.
    coming: Vec<(u64, Vec<u8>)>,
}

impl Bench {
    /// A node that has started, and its peers with it.
    fn new(config: Config, threaded: bool, up: bool) -> Bench {
        let mut bench = Bench {
            config,
            threaded,
            apply_held: false,
            world: World::new(),
            machine: Machine::default(),
            running: None,
            peers: Vec::new(),
            clients: Vec::new(),
            tickets: Rc::default(),
            started: 0,
            heartbeats: false,
            lingers: false,
            coming: Vec::new(),
        };
        bench.start();
        for id in bench.members().filter(|_| up) {
            bench.up(id);
        }
        bench.pass(200 * MS, |bench| bench.connected() == bench.peers.len());
        bench.world.borrow_mut().trace.clear();
        bench.world.borrow_mut().told.0 = true;
        bench
    }

    /// The ids of the peers.
    fn members(&self) -> impl Iterator<Item = Host> + use<> {
        2..=self.config.members.len() as u64
    }

    fn start(&mut self) {
        let mut io = Endpoint::new(&self.world, NODE);
        io.spent = Arc::clone(&self.machine.spent);
        let (rung, meanwhile) = (io.rung(), Rc::clone(&io.meanwhile));
        let ring = Ring::new(self.config.ring_bytes, MAX_RING_BLOCKS).unwrap();
        let mut reactor = Reactor::with_ring(self.config.clone(), io, ring, self.machine.clone()).unwrap();
        let stage = if self.threaded { reactor.take_stage() } else { None };
        let proposer = reactor.proposer();
        let events = proposer.events();
        self.running = Some(Running { reactor, stage, proposer, rung, meanwhile, seen: None, events, asked: 0, turns: 0 });
    }

    fn kill(&mut self, late: bool) {
        self.running = None;
        self.world.borrow_mut().gone(NODE, late);
        self.tell_outcomes();
    }

    fn up(&mut self, id: Host) {
        self.down(id);
        self.started += 1;
        self.peers.push(Peer::new(&self.world, &self.config, id, self.started));
        self.peers.sort_by_key(|peer| peer.id);
    }

    fn down(&mut self, id: Host) {
        self.peers.retain(|peer| peer.id != id);
        self.world.borrow_mut().gone(id, false);
    }

    fn peer(&mut self, id: Host) -> Result<&mut Peer, String> {
        self.peers.iter_mut().find(|peer| peer.id == id).ok_or(format!("n{id} is not up"))
    }

    fn replica(&self) -> Option<&Replica> {
        self.running.as_ref()?.reactor.replica()
    }

    fn connected(&self) -> usize {
        self.replica().map_or(0, |replica| self.peers.iter().filter(|peer| replica.host.net.session(NodeId(peer.id)).is_some()).count())
    }

    fn tell(&self, line: String) {
        self.world.borrow_mut().trace.push(line);
    }

    /// Turns everything until nothing moves any more. Time stands still.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = self.turn_node();
            for peer in &mut self.peers {
                moved |= peer.turn(&self.world, self.heartbeats);
            }
            while !self.apply_held && self.apply() {
                moved = true;
            }
            for client in &mut self.clients {
                let lines = client.hear(&self.world);
                moved |= !lines.is_empty();
                self.world.borrow_mut().trace.extend(lines);
            }
            if !moved {
                return;
            }
        }
        panic!("the node does not come to rest: {:?}", self.world.borrow().trace.iter().rev().take(20).collect::<Vec<_>>());
    }

    /// One turn of the node, if it would be woken.
    fn turn_node(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        let worked = self.world.borrow_mut().work(NODE);
        let rung = running.rung.swap(false, Ordering::SeqCst);
        if !worked && !rung && running.reactor.due() > self.world.borrow().now {
            return false;
        }
        running.turns += 1;
        let outcome = running.reactor.turn(Duration::ZERO);
        self.look();
        match outcome {
            Ok(State::Ended) => self.ended("the node has ended".into()),
            Ok(State::Running) if self.lingers => {
                self.linger();
            }
            Ok(_) => {}
            Err(error) => self.stops(&error),
        }
        true
    }

    /// The node waits awake for callers, and some come. How long it did, in microseconds.
    fn linger(&mut self) -> u64 {
        let begun = self.world.borrow().now;
        let Some(Running { reactor, proposer, meanwhile, .. }) = &mut self.running else { return 0 };
        let (proposer, tickets, coming) =
            (proposer.clone(), Rc::clone(&self.tickets), Rc::new(RefCell::new(std::mem::take(&mut self.coming))));
        let left = Rc::clone(&coming);
        meanwhile.set(Some(Box::new(move |now| {
            let mut coming = coming.borrow_mut();
            while coming.first().is_some_and(|(after, _)| *after <= now.since(begun) / 1_000) {
                let (_, payload) = coming.remove(0);
                if let Ok(ticket) = proposer.propose(&payload) {
                    tickets.borrow_mut().push((words::name_of(&payload), ticket));
                }
            }
        })));
        let outcome = reactor.linger();
        meanwhile.set(None);
        let took = self.world.borrow().now.since(begun) / 1_000;
        if took == 0 {
            // It did not wait: they come the next time.
            self.coming = left.take();
        }
        self.look();
        if let Err(error) = outcome {
            self.stops(&error);
        }
        took
    }

    /// Told without where in which file: that is the format's matter.
    fn stops(&mut self, error: &TurnError) {
        let text = error.to_string();
        let what = text.split(" at position").next().unwrap_or_default();
        self.ended(format!("the node stops: {what}"));
    }

    fn ended(&mut self, line: String) {
        self.tell_outcomes();
        self.tell(line);
        self.kill(true);
    }

    /// The apply thread's work on one frame. Whether there was one.
    fn apply(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        let Some(stage) = &mut running.stage else { return false };
        let applied = stage.poll();
        let queue = running.reactor.queue();
        // A thread whose machine has failed rings, and is gone.
        if applied && (queue.bell_is_wanted() || queue.failure().is_some()) {
            running.rung.store(true, Ordering::SeqCst);
        }
        self.world.borrow_mut().trace.append(&mut self.machine.memory().trace);
        self.tell_outcomes();
        applied
    }

    /// Tells what has changed of the node.
    fn look(&mut self) {
        if let Some(replica) = self.replica() {
            let now = Seen {
                standing: replica.standing(),
                // Of a leader its role says it.
                leader: if replica.standing().0 == Role::Leader { 0 } else { replica.group.shared.leader_id() },
                commit: replica.group.commit,
                first: replica.host.wal.first_index(),
            };
            let running = self.running.as_mut().unwrap();
            let fresh = Seen { standing: (Role::Follower, Term(0)), leader: 0, commit: LogIndex(0), first: LogIndex(1) };
            let seen = running.seen.replace(now).unwrap_or(fresh);
            if (seen.standing, seen.leader) != (now.standing, now.leader) {
                let (role, term) = now.standing;
                let of = if role == Role::Leader || now.leader == 0 { String::new() } else { format!(" of n{}", now.leader) };
                self.tell(format!("{role:?}{of} t{term}"));
            }
            if seen.commit != now.commit {
                self.tell(format!("commit {}", now.commit));
            }
            if seen.first != now.first {
                self.tell(format!("log begins at {}", now.first));
            }
        }
        self.world.borrow_mut().trace.append(&mut self.machine.memory().trace);
        self.tell_outcomes();
    }

    /// Tells which tickets have their answer.
    fn tell_outcomes(&self) {
        let mut told = Vec::new();
        self.tickets.borrow_mut().retain(|(name, ticket)| {
            let Some(outcome) = ticket.poll() else { return true };
            let what = match outcome {
                Ok(_) if ticket.reply() == format!("re:{name}").as_bytes() => "applied".to_owned(),
                Ok(_) => format!("applied, reply {}", words::name_of(ticket.reply())),
                Err(Lost::NotApplied { leader }) => {
                    format!("not applied, {}", leader.map_or("nobody leads".into(), |leader| format!("n{} leads", leader.id)))
                }
                Err(Lost::Unknown) => "unknown".to_owned(),
                Err(lost @ Lost::ReplyTooLong { .. }) => lost.to_string(),
            };
            told.push((what, name.clone()));
            false
        });
        self.tell_of(told);
    }

    /// Tells what befell whom; neighbours of the same fate in one line.
    fn tell_of(&self, fates: Vec<(String, String)>) {
        for run in fates.chunk_by(|a, b| a.0 == b.0) {
            let names: Vec<String> = run.iter().map(|(_, name)| name.clone()).collect();
            self.tell(format!("{}: {}", run[0].0, words::brief(&names)));
        }
    }

    /// Lets time pass, from deadline to deadline, until `enough`. Whether it came to that.
    fn pass(&mut self, ns: u64, enough: impl Fn(&Bench) -> bool) -> bool {
        let until = self.world.borrow().now.plus_ns(ns);
        loop {
            self.settle();
            if enough(self) {
                return true;
            }
            let now = self.world.borrow().now;
            if now >= until {
                return false;
            }
            let due = self.running.as_ref().map_or(Time(u64::MAX), |running| running.reactor.due());
            let due = self.peers.iter().map(Peer::deadline).fold(due, Time::min);
            self.world.borrow_mut().now = due.clamp(now.plus_ns(1), until);
        }
    }

    /// Proposes entries, one after the other.
    fn propose(&self, payloads: impl Iterator<Item = Vec<u8>>) {
        let Some(running) = &self.running else { return self.tell("nobody is there".into()) };
        let mut refused = Vec::new();
        for payload in payloads {
            let name = words::name_of(&payload);
            match running.proposer.propose(&payload) {
                Ok(ticket) => self.tickets.borrow_mut().push((name, ticket)),
                Err(ProposeError::NotLeader { leader }) => {
                    let leader = leader.map_or("nobody leads".into(), |leader| format!("n{} leads", leader.id));
                    refused.push((format!("not the leader, {leader}"), name));
                }
                Err(error) => refused.push((words::compact(&error).to_lowercase(), name)),
            }
        }
        self.tell_of(refused);
    }
}

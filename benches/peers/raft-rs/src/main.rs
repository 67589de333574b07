//! raft-rs: one protocol thread with asynchronous `Ready`s, over the log and the links that all peers share.
//!
//! The leader sends entries before its own log has them; what a replica says of its own log waits for its disk.
//! All that came in is stepped before the next `Ready`, and all free proposals go in as one message.

mod storage;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use peer_common::cluster::IDS;
use peer_common::transport::{self, Links};
use peer_common::{ClosedLoop, Load, Log, Measured, Node, Peer, log};
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Config, RawNode, Ready, StateRole};

use storage::Recent;

/// Raft's clock; a heartbeat every third, an election after twenty.
const TICK: Duration = Duration::from_millis(100);
/// Entries that stay in memory after they are applied, for whoever is a little behind.
const KEEP: u64 = 16 << 10;

fn main() -> ExitCode {
    peer_common::main(&Peer { name: "raft-rs", version: "0.7.0", run })
}

enum Event {
    Received(Vec<Message>),
    /// The log has all up to the `Ready` of this number.
    Durable(u64),
}

/// A `Ready` whose log write, or that of one before it, is under way.
struct Unsettled {
    number: u64,
    durable: bool,
    /// What must not be said before.
    messages: Vec<Message>,
}

struct Replica {
    raft: RawNode<Recent>,
    log: Log,
    links: Links,
    sender: Sender<Event>,
    unsettled: VecDeque<Unsettled>,
    /// The state machine: a counter.
    count: u64,
    applied: u64,
    compacted: u64,
}

fn run(node: Node, load: Option<Load>) -> Result<Measured> {
    let config = Config {
        id: node.id,
        // The first is to lead: the others are in no hurry to take its place while it starts.
        election_tick: if load.is_some() { 20 } else { 100 },
        heartbeat_tick: 3,
        pre_vote: true,
        check_quorum: true,
        max_inflight_msgs: 1024,
        max_size_per_msg: raft::NO_LIMIT,
        batch_append: true,
        skip_bcast_commit: true,
        ..Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let log = Log::create(&node.dir)?;
    let links = Links::connect(&node)?;
    let raft = RawNode::new(&config, Recent::new(&IDS), &logger)?;
    let (sender, receiver) = mpsc::channel();
    let received = sender.clone();
    transport::listen(
        node.listener,
        |frame| Ok(Message::parse_from_carllerche_bytes(frame)?),
        move |messages| received.send(Event::Received(messages)).is_ok(),
    )?;
    let replica = Replica { raft, log, links, sender, unsettled: VecDeque::new(), count: 0, applied: 0, compacted: 0 };
    replica.run(&receiver, load.map(ClosedLoop::new))
}

impl Replica {
    fn run(mut self, inbox: &Receiver<Event>, mut load: Option<ClosedLoop>) -> Result<Measured> {
        if load.is_some() {
            self.raft.campaign()?;
        }
        let mut tick = Instant::now() + TICK;
        loop {
            if let Some(load) = &mut load {
                if let Some(measured) = load.take() {
                    return measured;
                }
                self.propose(load)?;
            }
            while self.raft.has_ready() {
                let counted = self.count;
                self.ready()?;
                if let Some(load) = &mut load {
                    load.applied((self.count - counted) as usize);
                    self.propose(load)?;
                }
            }
            self.links.flush()?;
            let now = Instant::now();
            if now >= tick {
                self.raft.tick();
                tick = now + TICK;
                continue;
            }
            match inbox.recv_timeout(tick - now) {
                Ok(event) => {
                    self.handle(event)?;
                    inbox.try_iter().try_for_each(|event| self.handle(event))?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the transport is gone"),
            }
        }
    }

    fn propose(&mut self, load: &mut ClosedLoop) -> Result<()> {
        if self.raft.raft.state != StateRole::Leader || self.applied == 0 {
            return Ok(());
        }
        let entry = |payload: peer_common::Payload| Entry { data: payload.0, ..Entry::default() };
        let entries: Vec<Entry> = load.propose().map(entry).collect();
        if !entries.is_empty() {
            let mut message = Message { from: self.raft.raft.id, entries: entries.into(), ..Message::default() };
            message.set_msg_type(MessageType::MsgPropose);
            self.raft.step(message).context("the leader refused a proposal")?;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            // A message from another term is refused, and that is well.
            Event::Received(messages) => messages.into_iter().for_each(|m| drop(self.raft.step(m))),
            Event::Durable(number) => {
                self.unsettled.iter_mut().take_while(|u| u.number <= number).for_each(|u| u.durable = true);
                self.settle()?;
            }
        }
        Ok(())
    }

    /// Tells raft, and the others, what the disk has.
    fn settle(&mut self) -> Result<()> {
        while let Some(front) = self.unsettled.pop_front_if(|u| u.durable) {
            self.raft.on_persist_ready(front.number);
            self.send(front.messages)?;
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) -> Result<()> {
        for message in messages {
            let mut written = Ok(());
            self.links.send(message.to, |out| written = message.write_to_vec(out));
            written?;
        }
        Ok(())
    }

    fn ready(&mut self) -> Result<()> {
        let mut ready = self.raft.ready();
        if !ready.snapshot().is_empty() {
            bail!("a snapshot came, and nobody sends one");
        }
        // Only a leader has such: the others write while it does.
        self.send(ready.take_messages())?;
        self.links.flush()?;
        self.apply(&ready.take_committed_entries());
        let messages = ready.take_persisted_messages();
        let number = ready.number();
        let durable = !self.write(&mut ready)?;
        self.unsettled.push_back(Unsettled { number, durable, messages });
        self.raft.advance_append_async(ready);
        self.raft.advance_apply_to(self.applied);
        self.settle()?;
        self.compact();
        Ok(())
    }

    /// Gives to the log what must be durable; false if there is nothing.
    fn write(&mut self, ready: &mut Ready) -> Result<bool> {
        let (entries, must_sync) = (ready.take_entries(), ready.must_sync());
        if let Some(hard) = ready.hs() {
            self.raft.mut_store().set_hard(hard.clone());
        }
        if entries.is_empty() && !must_sync {
            return Ok(false);
        }
        let (number, sender) = (ready.number(), self.sender.clone());
        let last = entries.last().map_or(0, |e| e.index);
        let mut written = Ok(());
        let encode = |out: &mut Vec<u8>| {
            written = entries.iter().try_for_each(|entry| record(out, entry));
            if let (Ok(()), Some(hard)) = (&written, ready.hs()) {
                written = record(out, hard);
            }
        };
        // If nobody listens, the node has ended.
        self.log.append(last, encode, move || drop(sender.send(Event::Durable(number))));
        written?;
        self.raft.mut_store().append(entries);
        Ok(true)
    }

    fn apply(&mut self, entries: &[Entry]) {
        // A new leader's first entry is empty, and nobody's.
        self.count += entries.iter().filter(|e| !e.data.is_empty()).count() as u64;
        self.applied = entries.last().map_or(self.applied, |e| e.index);
    }

    /// Drops what all have; a follower cannot know that, and keeps some.
    fn compact(&mut self) {
        if self.applied < self.compacted + 2 * KEEP {
            return;
        }
        let behind = match self.raft.raft.state {
            StateRole::Leader => self.raft.raft.prs().iter().map(|(_, p)| p.matched).min().unwrap_or(0),
            _ => self.applied,
        };
        self.compacted = behind.min(self.applied - KEEP);
        self.raft.mut_store().compact(self.compacted);
        self.log.keep_from(self.compacted);
    }
}

fn record(out: &mut Vec<u8>, message: &impl protobuf::Message) -> protobuf::ProtobufResult<()> {
    let mut written = Ok(());
    log::record(out, |out| written = message.write_to_vec(out));
    written
}

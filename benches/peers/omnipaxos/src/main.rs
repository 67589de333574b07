//! omnipaxos: one protocol thread, over the log and the links that all peers share.
//!
//! It is Sequence Paxos with its own leader election, not Raft; the guarantee and the work are the same. All free
//! proposals go in as one message, as if a client's server had forwarded them: the engine then appends and sends them
//! at once rather than one by one.

mod durability;
mod storage;

use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg};
use omnipaxos::{ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig};
use peer_common::cluster::IDS;
use peer_common::transport::{self, Links};
use peer_common::{ClosedLoop, Load, Log, Measured, Node, Peer, wire};

use durability::Durability;
use storage::{Command, Pending, Recent};

/// The engine's clock: election every twenty.
const TICK: Duration = Duration::from_millis(50);
/// Entries that stay in memory after they are decided.
const KEEP: usize = 16 << 10;

fn main() -> ExitCode {
    peer_common::main(&Peer { name: "omnipaxos", version: "0.2.4", run })
}

enum Event {
    Received(Vec<Message<Command>>),
    /// The log has all up to the write of this number.
    Durable(u64),
}

struct Replica {
    id: u64,
    engine: OmniPaxos<Command, Recent>,
    storage: Recent,
    durability: Durability,
    log: Log,
    links: Links,
    sender: Sender<Event>,
    pending: Pending,
    messages: Vec<Message<Command>>,
    /// The state machine: a counter.
    count: u64,
    applied: usize,
    trimmed: usize,
}

fn run(node: Node, load: Option<Load>) -> Result<Measured> {
    let log = Log::create(&node.dir)?;
    let links = Links::connect(&node)?;
    let storage = Recent::default();
    let config = OmniPaxosConfig {
        cluster_config: ClusterConfig { configuration_id: 1, nodes: IDS.to_vec(), flexible_quorum: None },
        server_config: ServerConfig {
            pid: node.id,
            election_tick_timeout: 20,
            resend_message_tick_timeout: 40,
            batch_size: 1,
            leader_priority: u32::from(load.is_some()),
            ..ServerConfig::default()
        },
    };
    let engine = config.build(storage.clone()).map_err(|e| anyhow!("{e:?}"))?;
    let (sender, receiver) = mpsc::channel();
    let received = sender.clone();
    transport::listen(node.listener, wire::decode, move |messages| received.send(Event::Received(messages)).is_ok())?;
    let replica = Replica {
        id: node.id,
        engine,
        storage,
        durability: Durability::default(),
        log,
        links,
        sender,
        pending: Pending::default(),
        messages: Vec::new(),
        count: 0,
        applied: 0,
        trimmed: 0,
    };
    replica.run(&receiver, load.map(ClosedLoop::new))
}

impl Replica {
    fn run(mut self, inbox: &Receiver<Event>, mut load: Option<ClosedLoop>) -> Result<Measured> {
        if load.is_some() {
            self.engine.try_become_leader();
        }
        let mut tick = Instant::now() + TICK;
        loop {
            let applied = self.apply();
            if let Some(load) = &mut load {
                load.applied(applied);
                if let Some(measured) = load.take() {
                    return measured;
                }
                self.propose(load);
                self.trim();
            }
            self.write_and_send()?;
            self.log.keep_from(self.engine.get_compacted_idx() as u64);
            let now = Instant::now();
            if now >= tick {
                self.engine.tick();
                tick = now + TICK;
                continue;
            }
            match inbox.recv_timeout(tick - now) {
                Ok(event) => {
                    self.handle(event);
                    inbox.try_iter().for_each(|event| self.handle(event));
                    while let Some(message) = self.durability.countable() {
                        self.engine.handle_incoming(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the transport is gone"),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Received(messages) => {
                for message in messages {
                    if let Some(message) = self.durability.incoming(message) {
                        self.engine.handle_incoming(message);
                    }
                }
            }
            Event::Durable(number) => {
                self.durability.durable(number);
                while let Some(message) = self.durability.released() {
                    send(&mut self.links, &message);
                }
            }
        }
    }

    fn apply(&mut self) -> usize {
        let decided = self.engine.get_decided_idx();
        let count = self.count;
        self.storage.apply(self.applied, decided, |_| self.count += 1);
        self.applied = decided;
        (self.count - count) as usize
    }

    fn propose(&mut self, load: &mut ClosedLoop) {
        if self.engine.get_current_leader() != Some((self.id, true)) {
            return;
        }
        let entries: Vec<Command> = load.propose().map(Command).collect();
        if !entries.is_empty() {
            let msg = PaxosMsg::ProposalForward(entries);
            self.engine.handle_incoming(Message::SequencePaxos(PaxosMessage { from: self.id, to: self.id, msg }));
        }
    }

    /// Starts the write of what changed, after what the followers can begin with has left.
    fn write_and_send(&mut self) -> Result<()> {
        let write = self.storage.take_pending(&mut self.pending);
        let number = write.then(|| self.durability.write(self.pending.len, self.pending.cut.take()));
        self.engine.take_outgoing_messages(&mut self.messages);
        for message in self.messages.drain(..) {
            self.durability.outgoing(message, |message| send(&mut self.links, &message));
        }
        self.links.flush()?;
        if let Some(number) = number {
            let (sender, records) = (self.sender.clone(), &mut self.pending.records);
            // If nobody listens, the node has ended.
            self.log.append(self.pending.len as u64, |out| out.append(records), move || drop(sender.send(Event::Durable(number))));
        }
        Ok(())
    }

    /// The leader drops what all have accepted, and says so to the others.
    fn trim(&mut self) {
        let to = self.applied.saturating_sub(KEEP);
        if to > self.trimmed + KEEP && self.engine.trim(Some(to)).is_ok() {
            self.trimmed = to;
        }
    }
}

fn send(links: &mut Links, message: &Message<Command>) {
    links.send(message.get_receiver(), |out| wire::encode(out, message));
}

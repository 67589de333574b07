//! Starting a node: the builder, and the one place where threads begin.
#![allow(clippy::disallowed_methods, reason = "the one file that launches threads")]

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kontiki_io::{Io, Region};
use kontiki_mem::Ring;

use crate::config::{ApplyOn, Backend, Config};
use crate::error::{Failure, StartError};
use crate::foreign;
use crate::handle::Node;
use crate::limits::{self, MAX_RING_BLOCKS};
use crate::reactor::{Reactor, State, TurnError};
use crate::shared::Life;
use crate::state_machine::StateMachine;

/// The backend a started node runs on, chosen by configuration and probe.
pub type AnyIo = Box<dyn Io + Send>;

/// Starts a node from its configuration.
#[derive(Clone, Debug)]
pub struct Builder {
    config: Config,
}

impl Node {
    /// A builder for a node of this configuration.
    pub fn builder(config: Config) -> Builder {
        Builder { config }
    }
}

impl Builder {
    /// Starts the node on threads of its own and returns once its log is recovered and it listens.
    ///
    /// # Errors
    /// [`StartError`]: what was wrong, and nothing runs.
    pub fn start<M: StateMachine>(self, machine: M) -> Result<Node, StartError> {
        let id = self.config.id;
        let own_thread = self.config.apply_on == ApplyOn::Thread;
        let mut reactor = self.driven(machine)?;
        let shared = reactor.shared();
        let mut threads = Vec::with_capacity(2);
        if let Some(apply) = own_thread.then(|| reactor.take_stage()).flatten() {
            let bell = shared.bell();
            threads.push(spawn(format!("kontiki-apply-{id}"), move || apply.run(&*bell))?);
        }
        let (queue, stage) = (reactor.queue(), shared.stage());
        let (opened, is_open) = mpsc::sync_channel(1);
        let life = shared.clone();
        let work = move || {
            // (The reactor's drop ends the apply thread, after this has said why.)
            if let Err(panic) = foreign::call(|| run(&mut reactor, &opened)) {
                // A broken invariant of ours: callers must not wait for ever on a node that is gone.
                life.end(Life::Failed(Failure::Panic(panic)));
            }
            // The product's state machine may panic as it goes; nobody hears of a thread that ends in one.
            drop(foreign::call(|| drop(reactor)));
        };
        let body = move || foreign::at_work(stage, work);
        match spawn(format!("kontiki-{id}"), body) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                queue.close();
                return Err(error);
            }
        }
        let node = Node::new(shared, threads);
        match is_open.recv() {
            Ok(Ok(())) => Ok(node),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Stopped(node.failure().map_or_else(|| "it was asked to stop".to_owned(), |f| f.to_string()))),
        }
    }

    /// A node without threads: the caller turns it, and its state machine runs in those turns.
    ///
    /// # Errors
    /// [`StartError`] for a bad configuration, or if no backend works here.
    pub fn driven<M: StateMachine>(self, machine: M) -> Result<Reactor<AnyIo, M>, StartError> {
        self.config.check()?;
        let (io, ring) = open_io(&self.config)?;
        Reactor::with_ring(self.config, io, ring, machine)
    }
}

fn run<M: StateMachine>(reactor: &mut Reactor<AnyIo, M>, opened: &mpsc::SyncSender<Result<(), StartError>>) {
    let mut announced = false;
    loop {
        match reactor.turn(Duration::MAX) {
            Ok(State::Opening | State::Closing) => {}
            Ok(State::Running) => {
                if !announced {
                    announced = true;
                    drop(opened.send(Ok(())));
                }
                if reactor.linger().is_err() {
                    return;
                }
            }
            Ok(State::Ended) | Err(TurnError::Failed(_)) => return,
            Err(TurnError::Start(error)) => {
                drop(opened.send(Err(error)));
                return;
            }
        }
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    thread::Builder::new().name(name).spawn(body).map_err(StartError::Thread)
}

/// The memory for frames, and a world that knows it.
fn open_io(config: &Config) -> Result<(AnyIo, Ring), StartError> {
    let ring = Ring::new(config.ring_bytes, MAX_RING_BLOCKS)?;
    let backend = match config.backend {
        Backend::Auto => kontiki_io::Backend::Auto,
        Backend::Uring => kontiki_io::Backend::Uring,
        Backend::Portable => kontiki_io::Backend::Portable,
    };
    let (members, clients) = (config.members.len(), config.max_clients);
    let (capacity, handles) = (limits::io_capacity(members, clients), limits::io_handles(members, clients));
    let descriptors = limits::descriptors(config);
    let options = kontiki_io::Options { backend, capacity, handles, descriptors, ..kontiki_io::Options::default() };
    let io = kontiki_io::open(&options, &[Region::ring(&ring)])?;
    Ok((io, ring))
}

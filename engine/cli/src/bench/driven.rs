//! A replica without threads of its own: the caller's thread turns it, and proposes between two turns, as a product
//! with an event loop would.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use kontiki::{AnyIo, Config, Node, Reactor, Role, State, TurnError};

use super::events::{BEGIN, Event, FILL, tell};
use super::fill::fill;
use super::load::{Load, Pace};
use super::machine::Counter;
use super::recorder::Measured;
use super::window::Window;
use crate::error::Error;

/// How long a turn waits at most, so that the standard input is looked at.
const LOOK: Duration = Duration::from_millis(20);

type Driven = Reactor<AnyIo, Counter>;

/// Runs one replica until its standard input ends.
///
/// # Errors
/// The node could not start, or stopped by itself.
pub(super) fn run(config: Config, load: &Load, lines: &Receiver<String>) -> Result<(), Error> {
    let mut reactor = Node::builder(config.clone()).driven(Counter::default())?;
    let mut leads = false;
    while turn(&mut reactor, LOOK)? != State::Ended {
        if !leads && let Some((Role::Leader, term)) = reactor.standing() {
            leads = true;
            tell(&Event::Leading { term: term.0 });
        }
        match lines.try_recv() {
            Ok(line) if line.trim() == BEGIN => match drive(&mut reactor, load) {
                Ok(measured) => tell(&Event::Finished(Box::new(measured))),
                Err(reason) => tell(&Event::Lost { reason }),
            },
            Ok(line) if line.trim() == FILL => {
                let proposer = reactor.proposer();
                let filled = fill(&config, &proposer, |_| turn(&mut reactor, LOOK).map(|_| ()).map_err(|e| e.to_string()));
                tell(&filled.map_or_else(|reason| Event::Lost { reason }, |()| Event::Filled));
            }
            Err(TryRecvError::Disconnected) => reactor.stop(),
            Ok(_) | Err(TryRecvError::Empty) => {}
        }
    }
    Ok(())
}

fn turn(reactor: &mut Driven, wait: Duration) -> Result<State, Error> {
    reactor.turn(wait).map_err(|error| match error {
        TurnError::Start(error) => Error::Start(error),
        TurnError::Failed(failure) => Error::Stopped(failure),
    })
}

/// Proposes and turns until the load is over.
fn drive(reactor: &mut Driven, load: &Load) -> Result<Measured, String> {
    if load.rate.is_some() {
        Pace::sharpen();
    }
    let started_at = Instant::now() + load.warmup();
    let mut window = Window::new(reactor.proposer(), load);
    let (mut started, mut over) = (false, false);
    while !over || window.oldest().is_some() {
        let mut wait = LOOK;
        if !over {
            let now = window.propose()?;
            over = window.is_over(now);
            if let Some(due) = window.due() {
                wait = wait.min(due.saturating_duration_since(now));
            }
            if !started && now >= started_at {
                started = true;
                tell(&Event::Started);
            }
        }
        if turn(reactor, wait).map_err(|e| e.to_string())? == State::Ended {
            return Err("the node stopped".into());
        }
        window.take()?;
    }
    Ok(window.finish())
}

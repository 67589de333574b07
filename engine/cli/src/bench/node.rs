//! One replica of a bench, in a process of its own. The one that leads runs the load in its own process.
//!
//! It talks to the process that started it in lines of JSON on standard output, and is told to begin by
//! a line on standard input; at the end of that input it stops.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use clap::Args;
use kontiki::{ApplyError, Entries, LogIndex, Node, Replies, Role, StateMachine};
use serde::{Deserialize, Serialize};

use super::callers::{self, Load};
use super::report::Measured;
use crate::error::Error;
use crate::serve;

/// How often a replica looks whether it leads.
const LOOK: Duration = Duration::from_millis(20);

/// Run one replica of a bench.
#[derive(Args, Debug)]
pub(crate) struct BenchNode {
    /// Configuration
    #[arg(long)]
    config: PathBuf,
    #[command(flatten)]
    load: Load,
}

/// What a replica of a bench tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// It leads.
    Leading {
        /// In this term.
        term: u64,
    },
    /// The warm-up is over: what is measured begins.
    Started,
    /// What is measured is over.
    Finished(Measured),
    /// It could not run the load to its end.
    Lost {
        /// Why.
        reason: String,
    },
}

/// What begins the load.
pub(crate) const BEGIN: &str = "begin";

/// The machine: it counts. What it has counted is never needed again, so it calls it durable at once, and the
/// log is recycled as with a product that takes snapshots.
#[derive(Debug, Default)]
struct Counter {
    count: u64,
    last: LogIndex,
}

impl StateMachine for Counter {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            self.count += 1;
            self.last = entry.index;
            replies.push(&self.count.to_le_bytes());
        }
        Ok(())
    }

    fn durable(&self) -> LogIndex {
        self.last
    }
}

/// Runs the command.
///
/// # Errors
/// The node could not start, or stopped by itself.
pub(crate) fn run(command: &BenchNode) -> Result<(), Error> {
    serve::log_to_stderr();
    let node = Node::builder(serve::read_config(&command.config)?).start(Counter::default())?;
    let lines = stdin_lines()?;
    let mut term = 0;
    loop {
        match lines.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Disconnected) => break,
            Ok(line) if line.trim() == BEGIN => match callers::run(&node, &command.load, &|| tell(&Event::Started)) {
                Ok(measured) => tell(&Event::Finished(measured)),
                Err(reason) => tell(&Event::Lost { reason }),
            },
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                if let Some(failure) = node.failure() {
                    return Err(failure.into());
                }
                // Looked at until it leads, and never while it is measured.
                if term == 0
                    && let Some(status) = node.status().filter(|s| s.role == Role::Leader)
                {
                    term = status.term.0;
                    tell(&Event::Leading { term });
                }
            }
        }
    }
    node.shutdown()?;
    Ok(())
}

/// Lines of standard input; disconnected at its end.
fn stdin_lines() -> Result<Receiver<String>, Error> {
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("stdin".into()).spawn(read).map_err(Error::system("cannot start a thread"))?;
    Ok(receiver)
}

fn tell(event: &Event) {
    // If nobody listens any more, standard input ends as well, and so does this process.
    if let Ok(line) = serde_json::to_string(event) {
        drop(writeln!(std::io::stdout().lock(), "{line}"));
    }
}

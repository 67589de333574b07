//! One replica of a bench, in a process of its own. The one that leads runs the load in its own process, unless the
//! load comes from outside.

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use clap::Args;
use kontiki::{Node, Role};

use super::events::{BEGIN, Event, FILL, stdin_lines, tell};
use super::fill::fill;
use super::load::Load;
use super::machine::Counter;
use super::{callers, driven};
use crate::error::Error;
use crate::log::Messages;
use crate::serve;

/// How often a replica looks whether it leads.
const LOOK: Duration = Duration::from_millis(20);

/// Run one replica of a bench.
#[derive(Args, Debug)]
pub(crate) struct BenchNode {
    /// Configuration
    #[arg(long)]
    config: PathBuf,
    /// The caller turns it
    #[arg(long)]
    driven: bool,
    #[command(flatten)]
    load: Load,
}

/// Runs the command.
///
/// # Errors
/// The node could not start, or stopped by itself.
pub(crate) fn run(command: &BenchNode) -> Result<(), Error> {
    let _messages = Messages::to_stderr();
    let config = serve::read_config(&command.config)?;
    let lines = stdin_lines()?;
    if command.driven {
        return driven::run(config, &command.load, &lines);
    }
    let node = Node::builder(config.clone()).start(Counter::default())?;
    let mut term = 0;
    loop {
        match lines.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Disconnected) => break,
            Ok(line) if line.trim() == BEGIN => match callers::run(&node, &command.load, &|| tell(&Event::Started)) {
                Ok(measured) => tell(&Event::Finished(Box::new(measured))),
                Err(reason) => tell(&Event::Lost { reason }),
            },
            Ok(line) if line.trim() == FILL => {
                let filled = fill(&config, &node.proposer(), |ticket| {
                    match ticket {
                        Some(ticket) => _ = ticket.wait(),
                        None => std::thread::sleep(LOOK),
                    }
                    Ok(())
                });
                tell(&filled.map_or_else(|reason| Event::Lost { reason }, |()| Event::Filled));
            }
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

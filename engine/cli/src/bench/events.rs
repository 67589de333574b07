//! How the processes of a bench talk: lines of JSON on standard output, and words on standard input. At the end
//! of their standard input they stop.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde::{Deserialize, Serialize};

use super::recorder::Measured;
use crate::error::Error;

/// What lets the leader fill its log; see `fill.rs`.
pub(super) const FILL: &str = "fill";
/// What begins the load.
pub(super) const BEGIN: &str = "begin";

/// What a process of a bench tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// A replica leads.
    Leading {
        /// In this term.
        term: u64,
    },
    /// A follower of the floor listens.
    Listening {
        /// Here.
        addr: SocketAddr,
    },
    /// The log is as full as it will be.
    Filled,
    /// A client is connected.
    Connected,
    /// The warm-up is over: what is measured begins.
    Started,
    /// What is measured is over.
    Finished(Box<Measured>),
    /// It could not run the load to its end.
    Lost {
        /// Why.
        reason: String,
    },
}

/// Tells whoever started this process.
pub(super) fn tell(event: &Event) {
    // If nobody listens any more, standard input ends as well, and so does this process.
    if let Ok(line) = serde_json::to_string(event) {
        drop(writeln!(std::io::stdout().lock(), "{line}"));
    }
}

/// Lines of standard input; disconnected at its end.
///
/// # Errors
/// No thread can be started.
pub(super) fn stdin_lines() -> Result<Receiver<String>, Error> {
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

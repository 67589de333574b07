//! `kontiki snapshot --to`: has running replicas make a snapshot each.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use kontiki::NodeId;
use kontiki::client::ClientError;
use kontiki_net::WrittenSnapshot;

use crate::connection::Connection;
use crate::error::Error;
use crate::output::say;
use crate::serve::read_config;
use crate::table::count;
use crate::target::Target;

/// How a connection fails that the other end has closed.
const CLOSED: [ErrorKind; 3] = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Who is to make one, and for how long they are waited for.
#[derive(Args, Debug)]
pub(crate) struct Take {
    /// Replicas that are to make one, as HOST:PORT
    #[arg(long = "to", value_name = "ADDR", value_delimiter = ',', required_unless_present = "all")]
    targets: Vec<Target>,
    /// All members that this configuration of a replica names, instead of --to
    #[arg(long, value_name = "FILE", conflicts_with = "targets")]
    all: Option<PathBuf>,
    /// How long to wait for each, in milliseconds: making one takes as long as its disk takes. One that is not waited for is
    /// made all the same
    #[arg(long, value_name = "MS", default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout_ms: u64,
}

impl Take {
    fn targets(&self) -> Result<Vec<Target>, Error> {
        let Some(path) = &self.all else { return Ok(self.targets.clone()) };
        let members = read_config(path)?.members;
        let target = |addr: String| addr.parse().map_err(|error| Error::Usage(format!("{addr}: {error}")));
        members.iter().map(|member| target(member.addr.to_string())).collect()
    }
}

/// Asks all at once: one that takes long, or does not answer, holds up none of the others.
///
/// # Errors
/// Not each has one.
pub(crate) fn run(command: &Take) -> Result<(), Error> {
    let (targets, limit) = (command.targets()?, Duration::from_millis(command.timeout_ms));
    let answers: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = targets.iter().map(|target| scope.spawn(move || ask(target, limit))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("asking it failed".into()))).collect()
    });
    let mut without = Vec::new();
    for (target, answer) in targets.iter().zip(answers) {
        match answer {
            Ok((node, WrittenSnapshot { index, term, full, bytes, digest })) => {
                let kind = if full { "a full one" } else { "a small one" };
                say(format_args!(
                    "node {node} at {target}: {kind}, as of entry {index} of term {term}, {} bytes, digest {digest:032x}",
                    count(bytes)
                ));
            }
            Err(reason) => without.push(format!("{target}: {reason}")),
        }
    }
    if without.is_empty() { Ok(()) } else { Err(Error::NoSnapshot(without.join("; "))) }
}

fn ask(target: &Target, limit: Duration) -> Result<(NodeId, WrittenSnapshot), String> {
    let mut last = String::new();
    for addr in target.addresses()? {
        match Connection::open(addr, limit.min(CONNECT)) {
            Ok(mut connection) => return connection.snapshot(limit).map_err(|error| reason(&error)),
            Err(error) => last = reason(&error),
        }
    }
    Err(last)
}

/// Why there is none, as far as is known.
fn reason(error: &ClientError) -> String {
    match error {
        // Whoever asks for more than the status in a place that is kept for that is the first to be sent away.
        ClientError::Io { source, .. } if CLOSED.contains(&source.kind()) => format!(
            "{error}: it stopped, or is busy, with as many clients as it takes (max_clients); try again. Where it had begun one, that may have been \
             made all the same: `snapshot` in `kontiki status --full` is the newest"
        ),
        ClientError::Timeout(_) | ClientError::Io { .. } => {
            format!("{error}; it may have been made all the same: `snapshot` in `kontiki status --full` is the newest")
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where too many ask at once, some are sent away without a word: they are told what that means.
    #[test]
    fn a_place_that_was_taken_back_is_told_as_busy() {
        let addr = ([127, 0, 0, 1], 7000).into();
        for kind in CLOSED {
            let closed = reason(&ClientError::Io { addr, source: kind.into() });
            assert!(closed.contains("busy") && closed.contains("max_clients") && closed.contains("try again"), "{closed}");
        }
        let refused = reason(&ClientError::Io { addr, source: ErrorKind::ConnectionRefused.into() });
        assert!(!refused.contains("max_clients"), "{refused}");
    }
}

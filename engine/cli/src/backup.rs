//! `kontiki backup`: a running replica's state, as of one entry, in a file.

mod part;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kontiki::NodeId;
use kontiki::client::{ClientError, ClientOptions, SnapshotClient};
use kontiki_net::limits::SNAPSHOT_CHUNK_BYTES;
use kontiki_net::{HandshakeRefusal, SnapshotId, SnapshotRefusal};
use kontiki_snapshot::Info;

use self::part::Part;
use crate::error::Error;
use crate::output::say;
use crate::signals;
use crate::table::count;
use crate::target::Target;

const CHUNK: u64 = SNAPSHOT_CHUNK_BYTES as u64;
/// Chunks that are asked for as one part; several parts are under way.
const CHUNKS_PER_WANT: u64 = 4;
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for the next chunk.
const STALL: Duration = Duration::from_secs(30);
/// Attempts in a row to go on that bring nothing, before the copy is given up.
const TRIES: u32 = 5;
/// The pause before each.
const PAUSE: Duration = Duration::from_millis(500);

/// Copy the state of a running replica into a file: a snapshot, made now
///
/// The replica goes on meanwhile. The copy is checked as it comes, and whole at the end, as `kontiki snapshot verify` does;
/// only then does it get its name. Until then it is FILE.part. What an earlier copy left there is written over; anything else
/// of that name is not, unless --force is given.
///
/// Replicas take this from programs on their own machine alone, unless their configuration says admin = "any".
///
/// Exit codes: 0 it is there, whole and durable; 1 it is not; 2 bad arguments: FILE or FILE.part is there already, for example.
#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The file to write
    file: PathBuf,
    /// The replica, as HOST:PORT; a follower holds the same as the leader, a moment later
    #[arg(long = "to", value_name = "ADDR", required = true)]
    target: Target,
    /// Take the newest snapshot that the replica has already, rather than one made now; go on with FILE.part if that is a
    /// part of it
    #[arg(long)]
    newest: bool,
    /// Replace FILE if it is there, and FILE.part, whatever it holds. FILE stays as it is until the copy is whole
    #[arg(long)]
    force: bool,
    /// How long to wait for the snapshot to be made, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout_ms: u64,
}

/// Why the copy does not go on.
enum Stop {
    /// For now: connection or chunk were no good.
    Broken(String),
    /// For good.
    Ended(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Ended(error)
    }
}

/// What is copied.
#[derive(Clone, Copy)]
struct Source {
    id: SnapshotId,
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// The copy is not under that name. What has come of it is in FILE.part.
pub(crate) fn run(command: &Backup) -> Result<(), Error> {
    signals::errors_are_errors()?;
    part::may_write(&command.file, command.force)?;
    let mut part = Part::open(&command.file, command.newest, command.force)?;
    match copy(command, &mut part) {
        Ok(info) => {
            say(format_args!("{}: {info}", command.file.display()));
            Ok(())
        }
        Err(error) => {
            part.drop_if_empty();
            Err(error)
        }
    }
}

fn copy(command: &Backup, part: &mut Part) -> Result<Info, Error> {
    let (mut node, source) = ask(command)?;
    let bar = bar(source.bytes);
    let mut tries = TRIES;
    loop {
        let before = part.offset();
        match pull(&mut node, source, part, &bar) {
            Ok(()) => break,
            Err(Stop::Ended(error)) => {
                bar.finish_and_clear();
                return Err(error);
            }
            Err(Stop::Broken(reason)) => {
                // The node serves one program at a time: its place is to be free for the next connection.
                drop(node);
                tries = if part.offset() > before { TRIES } else { tries - 1 };
                match again(command, source, &mut tries) {
                    Some(again) => node = again,
                    None => {
                        bar.finish_and_clear();
                        return Err(broken_off(part, source, &reason));
                    }
                }
            }
        }
    }
    bar.finish_and_clear();
    let info = part.whole(source.id, source.bytes)?;
    part.publish(&command.file, command.force, &info)?;
    Ok(info)
}

/// Connects, and asks which snapshot is to be copied.
fn ask(command: &Backup) -> Result<(SnapshotClient, Source), Error> {
    let mut last = String::new();
    for addr in command.target.addresses().map_err(|error| Error::Unreachable(format!("{}: {error}", command.target)))? {
        let mut node = match connect(addr, None) {
            Ok(node) => node,
            Err(ClientError::Refused(refusal)) => return Err(refused(addr, &refusal)),
            Err(error) => {
                last = format!("{addr}: {error}");
                continue;
            }
        };
        let spinner = ProgressBar::new_spinner();
        if !command.newest {
            spinner.set_message(format!("node {} makes a snapshot", node.node()));
            spinner.enable_steady_tick(Duration::from_millis(100));
        }
        node.set_timeout(Duration::from_millis(command.timeout_ms));
        let told = node.which(!command.newest);
        spinner.finish_and_clear();
        let (id, bytes) = told.map_err(|error| match error {
            ClientError::NoSnapshot(refusal) => Error::Refused { addr, reason: why(refusal, addr) },
            ClientError::Timeout(_) => Error::TooSlow(format!(
                "{addr} did not say within {} ms which snapshot there is: --timeout-ms sets how long one may take to be made",
                command.timeout_ms
            )),
            error => Error::Unreachable(format!("{addr}: {error} (did it stop?)")),
        })?;
        return Ok((node, Source { id, bytes }));
    }
    Err(Error::Unreachable(last))
}

fn connect(addr: SocketAddr, node: Option<NodeId>) -> Result<SnapshotClient, ClientError> {
    SnapshotClient::connect(addr, ClientOptions { timeout: CONNECT, node, ..ClientOptions::default() })
}

/// Why there is no copy, and what to do.
fn why(refusal: SnapshotRefusal, addr: SocketAddr) -> String {
    match refusal {
        SnapshotRefusal::NotMade => {
            format!(
                "the node could not make a snapshot: `kontiki snapshot --to {addr}` says why; --newest takes the one that it has, if it has one"
            )
        }
        SnapshotRefusal::Unreadable => {
            format!("{refusal}, and takes it for damaged from now on: the same command, given again, copies another")
        }
        other => other.to_string(),
    }
}

fn refused(addr: SocketAddr, refusal: &HandshakeRefusal) -> Error {
    let reason = match refusal {
        HandshakeRefusal::Busy => "another copy is being taken from it: there is one at a time".into(),
        other => other.to_string(),
    };
    Error::Refused { addr, reason }
}

/// Connects again to the node whose snapshot it is.
fn again(command: &Backup, source: Source, tries: &mut u32) -> Option<SnapshotClient> {
    while *tries > 0 {
        thread::sleep(PAUSE);
        for addr in command.target.addresses().unwrap_or_default() {
            if let Ok(node) = connect(addr, Some(source.id.source)) {
                return Some(node);
            }
        }
        *tries -= 1;
    }
    None
}

/// Pulls what is missing.
fn pull(node: &mut SnapshotClient, source: Source, part: &mut Part, bar: &ProgressBar) -> Result<(), Stop> {
    let Source { id, bytes } = source;
    node.set_timeout(STALL);
    if part.offset() > 0 && !part.is_known() {
        // An earlier copy left it. If it is of the same snapshot, it begins with the same chunk, byte by byte.
        node.want(id, 0, 1).map_err(|error| stop(node, error))?;
        let head = node.chunk().map_err(|error| stop(node, error))?;
        part.keep_if_of(&head)?;
    }
    part.begin(bytes)?;
    bar.set_position(part.offset());
    let mut asked = part.offset();
    while part.offset() < bytes {
        while asked < bytes && node.room() > 0 {
            let chunks = ((bytes - asked) / CHUNK).min(CHUNKS_PER_WANT);
            node.want(id, asked, chunks as u32).map_err(|error| stop(node, error))?;
            asked += chunks * CHUNK;
        }
        let chunk = node.chunk().map_err(|error| stop(node, error))?;
        part.take(&chunk)?.map_err(|flaw| Stop::Broken(format!("a chunk came damaged ({flaw})")))?;
        bar.set_position(part.offset());
    }
    Ok(())
}

fn stop(node: &SnapshotClient, error: ClientError) -> Stop {
    match error {
        ClientError::NoSnapshot(refusal @ SnapshotRefusal::Busy) => Stop::Broken(refusal.to_string()),
        ClientError::NoSnapshot(refusal) => Stop::Ended(Error::Refused { addr: node.addr(), reason: why(refusal, node.addr()) }),
        error => Stop::Broken(error.to_string()),
    }
}

fn broken_off(part: &Part, source: Source, reason: &str) -> Error {
    if part.offset() == 0 {
        return Error::Finding(format!("the copy was broken off before anything had come of it: {reason}"));
    }
    Error::Finding(format!(
        "the copy was broken off after {} of {} bytes: {reason}; {} holds them, and --newest goes on with it as long as that snapshot is the newest",
        count(part.offset()),
        count(source.bytes),
        part.path().display()
    ))
}

fn bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Where a copy lies until it is whole.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let addr = ([127, 0, 0, 1], 7000).into();
        assert!(why(SnapshotRefusal::NotMade, addr).contains("`kontiki snapshot --to 127.0.0.1:7000` says why"));
        assert!(why(SnapshotRefusal::Unreadable, addr).contains("given again, copies another"));
    }
}

//! `kontiki snapshot`: has snapshots made, or looks into a snapshot's file, and changes nothing there.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use kontiki_snapshot::offline::{OfflineError, verify};
use kontiki_snapshot::{Head, Info, names};

use crate::error::Error;
use crate::kind_of_file::open_file;
use crate::output::say;
use crate::table::count;
use crate::take_snapshot::{self, Take};
use time::OffsetDateTime;

/// Snapshots: the state as of one entry, in one file. Have running replicas make one now, or check a file
///
/// Each replica makes its own, in its data directory, of all that it has applied by now; its log forgets what two of them
/// hold. One that it is making already does not count: another follows it. For a copy elsewhere see `kontiki backup`.
///
/// Replicas take this from programs on their own machine alone, unless their configuration says admin = "any".
///
/// Exit codes: 0 each has one, durable; 1 one or more have not; 2 bad arguments or configuration.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    command: Option<SnapshotCommand>,
    #[command(flatten)]
    take: Take,
}

#[derive(Subcommand, Debug)]
enum SnapshotCommand {
    /// Check every byte of a snapshot's file; say what it is of, or where it is damaged
    ///
    /// The file may be a replica's own, while that runs, or a copy. Nothing is changed.
    ///
    /// Exit codes: 0 intact, 1 damaged or not readable, 2 bad arguments.
    Verify {
        /// The file: `snapshot-....ksn` in a replica's data directory, or a backup
        file: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// What is no snapshot, not all of one, or damaged.
pub(crate) fn run(command: &Snapshot) -> Result<(), Error> {
    match &command.command {
        None => take_snapshot::run(&command.take),
        Some(SnapshotCommand::Verify { file }) => verify_file(file),
    }
}

fn verify_file(file: &Path) -> Result<(), Error> {
    let info = check(file)?;
    describe(&info.head);
    let parts = info.sections;
    say(format_args!(
        "{} bytes in {} chunks: configuration {}, sessions {}, machine {}",
        count(info.bytes),
        count(info.chunks()),
        count(parts.configuration),
        count(parts.sessions),
        count(parts.machine)
    ));
    say(format_args!("digest {}", info.digest));
    say(format_args!("a replica takes it under the name {}", names::snapshot(info.base().index)));
    say("intact");
    Ok(())
}

/// What it is of, if it is intact.
///
/// # Errors
/// What it is instead.
pub(crate) fn check(path: &Path) -> Result<Info, Error> {
    let mut file = open_file(path)?;
    let bytes = file.metadata().map_err(Error::file("cannot read", path))?.len();
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
    let bar = ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let read = |into: &mut [u8]| loop {
        match file.read(into) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    };
    let found = verify(read, |at| bar.set_position(at));
    bar.finish_and_clear();
    found.map_err(|error| match error {
        OfflineError::Read(source) => Error::file("cannot read", path)(source),
        OfflineError::Flawed { ref head, .. } => {
            if let Some(head) = head {
                describe(head);
            }
            Error::Finding(format!("{}: {error}", path.display()))
        }
    })
}

/// A point in time, in ns since 1970, as a date in UTC.
fn date(ns: u64) -> String {
    match OffsetDateTime::from_unix_timestamp_nanos(ns.into()) {
        Ok(at) => format!("{} {:02}:{:02}:{:02} UTC", at.date(), at.hour(), at.minute(), at.second()),
        Err(_) => format!("{ns} ns since 1970"),
    }
}

fn describe(head: &Head) {
    let kind = if head.full { "full: the machine's state is in it" } else { "small: the machine keeps its own state" };
    say(format_args!("snapshot as of {}, {kind}", head.base));
    say(format_args!("cluster {:032x}, group {}", head.cluster.0, head.group));
    let made = head.made;
    say(format_args!("made by node {}, start number {}, at {} by its clock", made.node, made.incarnation, date(made.wall_ns)));
}

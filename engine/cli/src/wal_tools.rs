//! `kontiki wal`: reads a log whose replica is not running.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::error::Error;

/// Read the log in a data directory, without a replica.
#[derive(Args, Debug)]
pub(crate) struct Wal {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Subcommand, Debug)]
enum WalCommand {
    /// Check every frame, name each segment, and the first damage if there is any (exit code 1)
    Verify(Dir),
    /// As verify, and name every frame
    Dump(Dir),
}

#[derive(Args, Debug)]
struct Dir {
    /// The data directory: `dir` of the replica's configuration
    dir: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Not a log, or a damaged one.
pub(crate) fn run(command: &Wal) -> Result<(), Error> {
    let (WalCommand::Verify(Dir { dir }) | WalCommand::Dump(Dir { dir })) = &command.command;
    Err(Error::Usage(format!("{}: not yet", dir.display())))
}

//! How a command ends: one clear line on standard error, and an exit code.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kontiki::{ConfigError, Failure, StartError};

/// Exit code of a command that was told something that cannot be: arguments or configuration.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Exit code of a command that failed while it ran.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Exit code of a command stopped by SIGINT or SIGTERM before it was done, as shells have it.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Why a command failed. Its text is the one line that the user sees: what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The configuration file, or a `--set`, cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A configuration file cannot be.
    #[error("configuration file {path}: {}", .source.to_string().trim_start_matches("configuration: "))]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: ConfigError,
    },
    /// An argument cannot be, in a way that the argument parser does not know of.
    #[error("{0}")]
    Usage(String),
    /// A replica could not start.
    #[error("cannot start: {0}")]
    Start(#[from] StartError),
    /// A running replica stopped by itself.
    #[error("the node stopped: {0}")]
    Stopped(#[from] Failure),
    /// A file or directory.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried: "cannot write", for example.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused something that is not a file.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// No replica took the request in time.
    #[error("no leader took the request within {} ms: {reason}", limit.as_millis())]
    NoLeader {
        /// How long was tried.
        limit: Duration,
        /// What was heard last, and what the replicas say of themselves.
        reason: String,
    },
    /// Whoever could take the request had no room for it, for all of the time.
    #[error("nobody had room for the request within {} ms, and nothing of it was done: {reason}", limit.as_millis())]
    NoRoom {
        /// How long was tried.
        limit: Duration,
        /// Who was asked last, and what it lacks.
        reason: String,
    },
    /// The request was sent, and nobody can say what became of it.
    #[error("the outcome is unknown ({0}): the write may or may not have been applied; read the key back before writing again")]
    Unknown(String),
    /// None of the addresses answered.
    #[error("no replica answered: {0}")]
    Unreachable(String),
    /// Replicas that were to make a snapshot made none: which, and why.
    #[error("no snapshot: {0}")]
    NoSnapshot(String),
    /// The request was not taken, and nothing of it was done.
    #[error("{addr} does not take it: {reason}")]
    Refused {
        /// Who.
        addr: SocketAddr,
        /// Its words.
        reason: String,
    },
    /// A reply that this program does not understand.
    #[error("{addr} sent a reply that is not one of the key-value machine ({reason}): does `kontiki serve` run there, in this version?")]
    Reply {
        /// Who.
        addr: SocketAddr,
        /// What was wrong.
        reason: String,
    },
    /// `get` of a key that is not there.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// A replica of a cluster that this program started ended when it should not have.
    #[error("replica {id} ended by itself ({how}); its log is {log}{last}")]
    ReplicaEnded {
        /// Which.
        id: u64,
        /// Its exit status.
        how: String,
        /// Where its messages are.
        log: PathBuf,
        /// Its last message, on a line of its own, if any.
        last: String,
    },
    /// A cluster that this program started did not do in time what it must.
    #[error("{0}")]
    TooSlow(String),
    /// A check failed: the command did its work, and the finding is bad.
    #[error("{0}")]
    Finding(String),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) | Error::ConfigFile { .. } | Error::Usage(_) | Error::Start(StartError::Config(_)) => EXIT_USAGE,
            Error::Interrupted => EXIT_INTERRUPTED,
            _ => EXIT_FAILED,
        }
    }

    /// A file error, for `map_err`.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { what, path, source }
    }

    /// A system error, for `map_err`.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::System { what, source }
    }
}

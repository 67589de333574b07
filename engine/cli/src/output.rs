//! Where a command's words go: standard output and standard error, a line at a time, and never a panic.
//!
//! Words that could not be written are a failure of the command, told at its end. Only a reader that went away
//! (a closed pipe) is quiet: it has what it wanted.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::Error;

/// The first line that could not be written.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);
/// How long the last word of a command may take where nobody reads standard error.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Writes a line to standard output. See [`finish`] for what becomes of one that cannot be written.
pub(crate) fn say(text: impl Display) {
    keep(writeln!(io::stdout().lock(), "{text}"));
}

/// Writes bytes as they are to standard output, as [`say`] does a line.
pub(crate) fn say_bytes(bytes: &[u8]) {
    keep(io::stdout().lock().write_all(bytes));
}

fn keep(result: io::Result<()>) {
    let Err(error) = result else { return };
    if error.kind() != ErrorKind::BrokenPipe {
        FAILED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Whether all that was said was written.
///
/// # Errors
/// The first failure, if its reader had not just gone away.
pub(crate) fn finish() -> Result<(), Error> {
    keep(io::stdout().lock().flush());
    match FAILED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(source) => Err(Error::System { what: "cannot write to standard output", source }),
        None => Ok(()),
    }
}

/// Writes a line to standard error.
pub(crate) fn complain(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Writes the last line of a process to standard error. A reader that does not read holds the exit up for a moment
/// only.
pub(crate) fn last_word(text: &str) {
    let (done, wait) = mpsc::channel();
    let line = text.to_owned();
    let write = move || {
        complain(line);
        // Nobody may wait any more.
        let _ = done.send(());
    };
    match thread::Builder::new().name("last-word".into()).spawn(write) {
        Ok(_) => drop(wait.recv_timeout(LAST_WORD)),
        Err(_) => complain(text),
    }
}

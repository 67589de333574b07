//! Where a command's words go: standard output, a line at a time, and never a panic if nobody reads it.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to standard output. A reader that has gone away (a closed pipe) is not an error of the
/// command: what it did is done, and its exit code still says how it went.
pub(crate) fn say(text: impl Display) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// Writes a line to standard error.
pub(crate) fn complain(text: impl Display) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

//! The directory of a self-started cluster: removed at the end, unless it is needed.
//!
//! Whatever ends this program, SIGKILL included: a helper process waits for that and clears away what is left.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::error::Error;
use crate::output::{complain, finish, say_bytes};

/// Magic numbers of file systems that live in memory: tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// What the helper is told when the directory is to stay, or is gone already.
const LEAVE: u8 = b'.';
/// How long the helper tries: replicas that outlive this program by a moment still write.
const CLEAR_LIMIT: Duration = Duration::from_secs(30);
/// The helper's pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// The directory.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    helper: Child,
}

impl Scratch {
    /// A fresh directory in `parent`, or in the system's temporary directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn new(parent: Option<&Path>, prefix: &str) -> Result<Scratch, Error> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        std::fs::create_dir_all(&parent).map_err(Error::file("cannot make the directory", &parent))?;
        // Absolute, since the replicas read it from their configuration.
        let parent = parent.canonicalize().map_err(Error::file("cannot use the directory", &parent))?;
        let mut helper = helper(&parent, prefix).map_err(Error::system("cannot start a process"))?;
        if let Some(stdin) = &helper.stdin {
            // Replicas inherit it: the helper's input ends with the last of them, and none makes anew what was cleared away.
            rustix::io::fcntl_setfd(stdin, rustix::io::FdFlags::empty())
                .map_err(|error| Error::System { what: "cannot keep a pipe open for replicas", source: error.into() })?;
        }
        let mut path = Vec::new();
        let told = helper.stdout.take().map(|mut out| out.read_to_end(&mut path));
        told.transpose().map_err(Error::system("cannot read from a process"))?;
        if path.is_empty() {
            let mut why = String::new();
            // What it said is all there is to say; if it cannot be read, then where it was to be.
            let _ = helper.stderr.take().map(|mut err| err.read_to_string(&mut why));
            let why = why.trim().strip_prefix("kontiki: ").map(str::to_owned);
            return Err(Error::Finding(why.unwrap_or_else(|| format!("cannot make a directory in {}", parent.display()))));
        }
        Ok(Scratch { path: PathBuf::from(OsString::from_vec(path)), helper })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, or keeps it and says so.
    pub(crate) fn end(mut self, keep: bool) {
        if keep {
            complain(format_args!("the replicas' directories are kept in {}", self.path.display()));
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            complain(format_args!("cannot remove {}: {error}", self.path.display()));
        }
        // It may have been killed: then there is nobody to tell.
        if let Some(mut stdin) = self.helper.stdin.take() {
            drop(stdin.write_all(&[LEAVE]));
        }
        drop(self.helper.wait());
    }
}

/// Starts this program once more, to make the directory, and to clear it away if this process goes without a word. In a
/// process group of its own: what a terminal sends to this one does not reach it.
fn helper(parent: &Path, prefix: &str) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["clear-away".as_ref(), parent.as_os_str(), prefix.as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Make a directory, print its path, and remove it once standard input ends without a word.
#[derive(Args, Debug)]
pub(crate) struct ClearAway {
    parent: PathBuf,
    prefix: String,
}

/// Runs `clear-away`.
///
/// # Errors
/// The directory cannot be made, or is still there after half a minute of trying.
pub(crate) fn clear_away(command: &ClearAway) -> Result<(), Error> {
    let made = tempfile::Builder::new().prefix(&command.prefix).tempdir_in(&command.parent);
    let path = made.map_err(Error::file("cannot make a directory in", &command.parent))?.keep();
    say_bytes(path.as_os_str().as_bytes());
    close_output()?;
    let mut word = [0; 1];
    if matches!(std::io::stdin().lock().read(&mut word), Ok(1..)) {
        return Ok(());
    }
    let deadline = Instant::now() + CLEAR_LIMIT;
    loop {
        match std::fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(Error::file("cannot remove", &path)(error)),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Nothing more is told: who waits for the path has all of it. Whoever started this process may be gone by the time
/// anything else is said.
fn close_output() -> Result<(), Error> {
    finish()?;
    let nowhere = std::fs::File::options().write(true).open("/dev/null").map_err(Error::system("cannot open /dev/null"))?;
    rustix::stdio::dup2_stdout(&nowhere)
        .and_then(|()| rustix::stdio::dup2_stderr(&nowhere))
        .map_err(|error| Error::System { what: "cannot close standard output", source: error.into() })
}

/// A word of warning if nothing in this directory is ever flushed to a medium.
pub(crate) fn medium_note(dir: &Path) -> Option<String> {
    let kind = rustix::fs::statfs(dir).ok()?.f_type as u64;
    IN_MEMORY
        .contains(&kind)
        .then(|| format!("note: {} is in memory, so flushes cost nothing there; --dir names a directory on a disk", dir.display()))
}

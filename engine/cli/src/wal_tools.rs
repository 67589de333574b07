//! `kontiki wal`: reads a log whose replica is not running, and changes nothing.

mod found;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use kontiki_frame::Kind;
use kontiki_io::limits::{LOCK_PATIENCE_MS, LOCK_RETRY_MS};
use kontiki_io::{Identity, Name};
use kontiki_snapshot::Info;
use kontiki_wal::offline::{self, CopyInfo, End, FrameInfo, Part, SegmentInfo, Verdict};
use kontiki_wal::{Reach, names};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::kind_of_file::named;
use crate::output::say;
use crate::table::{self, count};
use found::snapshots;

/// Read the log in a data directory, without a replica.
///
/// The replica must not run: its lock on the directory is respected, and nothing is changed.
#[derive(Args, Debug)]
pub(crate) struct Wal {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Subcommand, Debug)]
enum WalCommand {
    /// Check every frame of the log, and the snapshots; name each segment, and the first damage if there is any
    ///
    /// Exit codes: 0 intact, 1 damaged, not readable, or nothing that every replica starts on, 2 bad arguments.
    Verify(Dir),
    /// Print every frame of the log, then what `verify` prints
    ///
    /// Exit codes: 0 intact, 1 damaged, not readable, or nothing that every replica starts on, 2 bad arguments.
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
/// Not a log, one that is in use, or a damaged one.
pub(crate) fn run(command: &Wal) -> Result<(), Error> {
    let (dir, dump) = match &command.command {
        WalCommand::Verify(Dir { dir }) => (dir, false),
        WalCommand::Dump(Dir { dir }) => (dir, true),
    };
    if let Ok(there) = fs::metadata(dir)
        && !there.is_dir()
    {
        return Err(Error::Finding(format!(
            "cannot read {}: it is {}, and a directory is needed",
            dir.display(),
            named(there.file_type())
        )));
    }
    let _lock = lock(dir)?;
    let files = list(dir)?;
    let mut open = HashMap::new();
    let mut read = |name: &Name, offset: u64, buffer: &mut [u8]| read_at(dir, &mut open, name, offset, buffer);
    let mut seen = Seen { dump, ..Seen::default() };
    let snapshots = snapshots(dir)?;
    let bases: Vec<_> = snapshots.intact().filter(|info| info.head.full).map(Info::base).collect();
    let verdict = offline::examine(&files, &bases, &mut read, &mut |frame| seen.frame(&frame))
        .map_err(|error| Error::Finding(format!("{}: {error}", dir.display())))?;
    if dump {
        say("");
    }
    say(segments(&verdict, &seen));
    for (which, copy) in ["first", "second"].iter().zip(&verdict.hard_state) {
        say(format_args!("hard state, {which} copy: {}", describe(copy)));
    }
    snapshots.describe();
    say(format_args!("node {}: {}", verdict.node, verdict.report));
    if let Some(told) = reaches(&verdict) {
        say(told);
    }
    // What cannot be found out is unknown.
    judge(dir, &verdict, &Identity::of(dir).unwrap_or_default())?;
    snapshots.judge(dir, &verdict)?;
    say("intact");
    Ok(())
}

/// What a log rests on that does not begin with the first entry.
fn reaches(verdict: &Verdict) -> Option<String> {
    let base = verdict.report.base;
    match verdict.reaches {
        Reach::Beginning => None,
        Reach::Snapshot(snapshot) if snapshot.index == base.index => Some(format!("the log goes on behind the snapshot of {base}")),
        Reach::Snapshot(snapshot) => Some(format!("the log goes on behind {base}, and the snapshot of {snapshot} has that")),
        Reach::Machine | Reach::Nothing => Some(format!(
            "the log goes on behind {base}, and no full snapshot here has that: it is of use to a state machine alone that has applied that entry, and \
             keeps its state by itself"
        )),
    }
}

/// The error, if the log is not intact.
fn judge(dir: &Path, verdict: &Verdict, here: &Identity) -> Result<(), Error> {
    let dir = dir.display();
    if let Some(damage) = verdict.damage() {
        let entries = format!("entries after {} are not readable", verdict.report.last);
        return Err(Error::Finding(format!(
            "{dir}: {damage}; {entries}. In a cluster, start the replica: it fetches them from the others. A single replica does not start on this, and no \
             command starts one from a backup alone yet: if a file was moved or is missing, put it back as it was"
        )));
    }
    if let Some(error) = &verdict.hard_state_error {
        return Err(Error::Finding(format!("{dir}: {error}")));
    }
    if !verdict.intact() {
        return Err(Error::Finding(format!("{dir}: one copy of the hard state is damaged; the next start repairs it from the other")));
    }
    let told = match verdict.end(here) {
        End::Whole => None,
        End::Killed => Some(
            "a write that a kill cut off stands at the end of the log. The machine was not switched off since the last start: a start on it drops that \
             write, and nothing acknowledged is missing",
        ),
        End::PowerCut => Some(
            "something unreadable stands at the end of the log, and the machine was switched off, or the medium was away, since the last start. A start with \
             medium = \"safe\" drops it; with \"lossy\", where it may have been acknowledged, the replica recovers from the others",
        ),
        End::Unknown => Some(
            "something unreadable stands at the end of the log, and whether the machine was switched off since the last start cannot be known: taken for a \
             power cut. A start with medium = \"safe\" drops it; with \"lossy\", where it may have been acknowledged, the replica recovers from the others",
        ),
    };
    if let Some(told) = told {
        say(told);
    }
    Ok(())
}

/// Keeps a replica from starting on the directory while it is read: on the directory itself, as the replica does, and
/// on the lock file, where there is one (a copy may have none).
fn lock(dir: &Path) -> Result<Vec<File>, Error> {
    let mut held = Vec::new();
    for path in [dir.to_path_buf(), dir.join(names::LOCK)] {
        let file = match open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !held.is_empty() => continue,
            Err(error) => return Err(Error::file("cannot open", &path)(error)),
        };
        match wait_shared(&file) {
            Ok(()) => held.push(file),
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Finding(format!("{} is in use by a running replica: stop it first, or read a copy", dir.display())));
            }
            // Not every file system locks directories; the file then does.
            Err(_) if held.is_empty() => held.push(file),
            Err(error) => return Err(Error::file("cannot lock", &path)(error.into())),
        }
    }
    Ok(held)
}

/// A killed replica holds its lock until its last write has ended: as long as a replica would, it is waited for.
fn wait_shared(file: &File) -> Result<(), Errno> {
    let until = Instant::now() + Duration::from_millis(LOCK_PATIENCE_MS);
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(Duration::from_millis(LOCK_RETRY_MS)),
            other => return other,
        }
    }
}

/// Opens what should be a file or a directory: a pipe in its place would make an ordinary open wait for somebody at its
/// other end.
fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

/// The files of a directory, with their lengths. What is no file is none of the log's, for a replica too.
fn list(dir: &Path) -> Result<Vec<(Name, u64)>, Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::file("cannot read the directory", dir))? {
        let entry = entry.map_err(Error::file("cannot read the directory", dir))?;
        // What has no plain name is not one of the log's files.
        if let Some(name) = entry.file_name().to_str().and_then(Name::new) {
            let about = entry.metadata().map_err(Error::file("cannot read", &entry.path()))?;
            if about.is_file() {
                files.push((name, about.len()));
            }
        }
    }
    Ok(files)
}

fn read_at(dir: &Path, opened: &mut HashMap<String, File>, name: &Name, offset: u64, mut buffer: &mut [u8]) -> std::io::Result<usize> {
    let file = match opened.get(name.as_str()) {
        Some(file) => file,
        None => opened.entry(name.as_str().to_owned()).or_insert(open(&dir.join(name.as_str()))?),
    };
    let wanted = buffer.len();
    let mut at = offset;
    while !buffer.is_empty() {
        match file.read_at(buffer, at) {
            Ok(0) => break,
            Ok(bytes) => {
                at += bytes as u64;
                buffer = buffer.get_mut(bytes..).unwrap_or_default();
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(wanted - buffer.len())
}

/// What the frames of one segment hold.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    frames: u64,
    first: u64,
    last: u64,
}

/// What the walk has seen.
#[derive(Debug, Default)]
struct Seen {
    dump: bool,
    segments: HashMap<u64, Held>,
}

impl Seen {
    fn frame(&mut self, frame: &FrameInfo<'_>) {
        let FrameInfo { stamp, header, .. } = frame;
        let held = self.segments.entry(frame.segment).or_default();
        if self.dump {
            if held.frames == 0 {
                say(names::segment(frame.segment));
            }
            let kind = match header.kind {
                Kind::Entries => String::new(),
                other => format!(", {other:?}"),
            };
            say(format_args!(
                "  offset {:>9}  {:>7} bytes  position {}  term {}  entries {} to {} of {} to {}  boot {}  generation {}  durable to {}{kind}",
                frame.offset,
                frame.frame.len(),
                stamp.position,
                header.meta.term,
                stamp.range.from,
                stamp.range.to,
                header.meta.first,
                header.meta.last(),
                stamp.boot,
                stamp.generation,
                stamp.watermark,
            ));
        }
        if held.frames == 0 {
            held.first = stamp.range.from.0;
        }
        held.frames += 1;
        held.last = stamp.range.to.0;
    }
}

fn segments(verdict: &Verdict, seen: &Seen) -> comfy_table::Table {
    let mut rows = table::table(["segment", "what", "bytes", "generation", "boot", "frames", "entries"]);
    for SegmentInfo { name, number, bytes, header, part } in &verdict.segments {
        let held = seen.segments.get(number).copied().unwrap_or_default();
        rows.add_row([
            name.to_string(),
            match part {
                Part::Log if header.is_some_and(|h| h.digest.is_some()) => "log, base",
                Part::Log => "log",
                Part::Spare => "spare",
                Part::Aside => "set aside",
            }
            .to_owned(),
            count(*bytes),
            header.map_or("-".into(), |h| h.generation.to_string()),
            header.map_or("-".into(), |h| h.boot.to_string()),
            count(held.frames),
            if held.frames == 0 { "-".into() } else { format!("{} to {}", held.first, held.last) },
        ]);
    }
    rows
}

fn describe(copy: &CopyInfo) -> String {
    match copy {
        CopyInfo::Damaged => "damaged, or not there".into(),
        CopyInfo::Intact { sequence, incarnation, state } => {
            let vote = state.vote.map_or("no vote".into(), |node| format!("vote for node {node}"));
            let recovering = if state.recovering { ", recovering" } else { "" };
            format!("update {sequence}, start number {incarnation}, term {}, {vote}{recovering}", state.term)
        }
    }
}

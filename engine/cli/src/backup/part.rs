//! A copy that is not whole yet: FILE.part, and how it becomes FILE.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kontiki_net::SnapshotId;
use kontiki_snapshot::{Check, Flaw, Info};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, fstatvfs, renameat_with};
use rustix::io::Errno;

use super::{CHUNK, part_of};
use crate::error::Error;
use crate::kind_of_file::named;
use crate::snapshot_tools;
use crate::table::count;

/// The part, locked: nobody else writes it.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// What of it is checked, from its beginning.
    check: Check,
    /// What is checked of it is known to be a part of what is being copied.
    known: bool,
    /// It was whole when it was opened, and is not to be replaced: somebody's copy has this name.
    keep: bool,
}

/// Whether a copy may get this name.
///
/// # Errors
/// Something is there already, and is not to be replaced, or cannot be.
pub(super) fn may_write(file: &Path, force: bool) -> Result<(), Error> {
    if file.as_os_str() == "-" {
        return Err(Error::Usage("a copy is a file, not written to standard output: name one (./- is a file called -)".into()));
    }
    if file.file_name().is_none() {
        return Err(Error::Usage(format!("{:?} names no file", file.display().to_string())));
    }
    match fs::symlink_metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("cannot write", file)(error)),
        // The copy is renamed over what is there: a link or a device would be gone.
        Ok(there) if !there.is_file() => Err(Error::Usage(format!("{} is {}: name a file", file.display(), named(there.file_type())))),
        Ok(_) if !force => Err(is_there(file)),
        Ok(_) => Ok(()),
    }
}

fn is_there(file: &Path) -> Error {
    Error::Usage(format!("{} is there already: name another file, or replace it with --force", file.display()))
}

impl Part {
    /// Opens what an earlier copy left, or a new one; checks what is there. With `force`, whatever is there is replaced; without,
    /// only what is part of a snapshot, and with `newest` a whole one that turns out to be the one that is copied.
    ///
    /// # Errors
    /// It cannot be written, somebody writes it, or it is something else of somebody's.
    pub(super) fn open(file: &Path, newest: bool, force: bool) -> Result<Part, Error> {
        let path = part_of(file);
        let part = loop {
            if let Ok(there) = fs::symlink_metadata(&path)
                && !there.is_file()
            {
                return Err(no_file(&path, there.file_type()));
            }
            // A pipe is not waited for, and a link is not written through.
            let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
            let part = File::options().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(&path);
            let part = part.map_err(Error::file("cannot write", &path))?;
            let opened = part.metadata().map_err(Error::file("cannot write", &path))?;
            if !opened.is_file() {
                return Err(no_file(&path, opened.file_type()));
            }
            // On a file system without locks nobody keeps two backups apart.
            if let Err(Errno::WOULDBLOCK) = flock(&part, FlockOperation::NonBlockingLockExclusive) {
                return Err(Error::Finding(format!("another backup is writing {}", path.display())));
            }
            // Whoever had the lock before may have renamed the file by now: then it is a whole copy, and not to be touched.
            let is_it = |named: fs::Metadata| (named.dev(), named.ino()) == (opened.dev(), opened.ino());
            if fs::symlink_metadata(&path).is_ok_and(is_it) {
                break part;
            }
        };
        let check = checked(&part).map_err(Error::file("cannot read", &path))?;
        let there = part.metadata().map_err(Error::file("cannot read", &path))?.len() > 0;
        let whole = check.whole().is_some();
        if !force && there && check.offset() == 0 {
            return Err(Error::Usage(format!(
                "{} is there, and is no part of a snapshot; the copy would be written over it: move it away, name another file, or replace it with --force",
                path.display()
            )));
        }
        if !force && whole && !newest {
            return Err(is_whole(&path));
        }
        Ok(Part { path, file: part, check, known: false, keep: whole && !force })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How much of it is there, and checked, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.check.offset()
    }

    /// Whether it is known to be a part of what is being copied.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// Keeps what is there if it begins with this chunk, byte by byte; else begins anew.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn keep_if_of(&mut self, head: &[u8]) -> Result<(), Error> {
        let mut ours = vec![0; CHUNK as usize];
        self.file.read_exact_at(&mut ours, 0).map_err(Error::file("cannot read", &self.path))?;
        if ours != head {
            if self.keep {
                return Err(is_whole(&self.path));
            }
            self.check = Check::new();
        }
        Ok(())
    }

    /// From now on the rest is taken, of a snapshot of so many bytes. Cuts off what is not checked: all of it, if it is
    /// longer than that snapshot.
    ///
    /// # Errors
    /// It cannot be written, or its file system has no room for the rest: that is known before any of it comes.
    pub(super) fn begin(&mut self, bytes: u64) -> Result<(), Error> {
        if self.offset() > bytes {
            self.check = Check::new();
        }
        self.known = true;
        self.keep = false;
        self.file.set_len(self.offset()).map_err(Error::file("cannot write", &self.path))?;
        let rest = bytes - self.offset();
        match fstatvfs(&self.file).map(|there| there.f_bavail.saturating_mul(there.f_frsize)) {
            Ok(free) if free < rest => Err(Error::Finding(format!(
                "{}: no room: {} bytes are to come, and the file system has {} free. Make room, or name a file elsewhere{}",
                self.path.display(),
                count(rest),
                count(free),
                self.holds()
            ))),
            // A file system that does not say so fails the writes.
            _ => Ok(()),
        }
    }

    /// Where what has come stays, for an error; nothing if nothing has.
    pub(super) fn holds(&self) -> String {
        match self.offset() {
            0 => String::new(),
            bytes => format!("; {} holds the first {} bytes, and may be removed", self.path.display(), count(bytes)),
        }
    }

    /// Takes the next chunk, if it is intact and the next.
    ///
    /// # Errors
    /// It cannot be written; within: what is wrong with the chunk.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Result<Result<(), Flaw>, Error> {
        let at = self.offset();
        let mut next = self.check.clone();
        if let Err(flaw) = next.take(chunk) {
            return Ok(Err(flaw));
        }
        self.file
            .write_all_at(chunk, at)
            .map_err(|error| Error::Finding(format!("cannot write {}: {error}{}", self.path.display(), self.holds())))?;
        self.check = next;
        Ok(Ok(()))
    }

    /// What it is, now that all of it has come.
    ///
    /// # Errors
    /// It is another snapshot than the node said: nothing of it is kept.
    pub(super) fn whole(&mut self, id: SnapshotId, bytes: u64) -> Result<Info, Error> {
        let is_it = |info: &Info| (info.base().index, info.base().term, info.digest.0, info.bytes) == (id.index, id.term, id.digest, bytes);
        self.check.whole().filter(is_it).ok_or_else(|| {
            self.check = Check::new();
            Error::Finding(format!("node {} sent another snapshot than it said, or not all of it: nothing of it is kept", id.source))
        })
    }

    /// Flushes the copy, reads every byte of it back, and gives it its name.
    ///
    /// # Errors
    /// It does not have that name.
    pub(super) fn publish(&mut self, file: &Path, force: bool, info: &Info) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::file("cannot flush", &self.path))?;
        if snapshot_tools::check(&self.path)? != *info {
            return Err(Error::Finding(format!("{} holds something else than was written to it", self.path.display())));
        }
        self.rename(file, force)?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::file("cannot flush", dir))
    }

    fn rename(&self, file: &Path, force: bool) -> Result<(), Error> {
        let failed = Error::file("cannot rename to", file);
        if force {
            return fs::rename(&self.path, file).map_err(failed);
        }
        match renameat_with(CWD, &self.path, CWD, file, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(is_there(file)),
            // The file system knows no such rename. A file that another program makes just now is replaced.
            Err(Errno::INVAL | Errno::NOSYS) => {
                may_write(file, false)?;
                fs::rename(&self.path, file).map_err(failed)
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Removes the part if nothing has come, and nothing was there.
    pub(super) fn drop_if_empty(&self) {
        let empty = self.known || self.file.metadata().is_ok_and(|there| there.len() == 0);
        if self.offset() == 0 && empty {
            drop(fs::remove_file(&self.path));
        }
    }
}

fn no_file(path: &Path, kind: fs::FileType) -> Error {
    Error::Usage(format!("{} is {}: remove it, or name another file", path.display(), named(kind)))
}

fn is_whole(path: &Path) -> Error {
    Error::Usage(format!(
        "{} is a whole snapshot, and would be written over: give it another name, name another file, or replace it with --force",
        path.display()
    ))
}

/// How far a part is intact, from its beginning.
fn checked(part: &File) -> std::io::Result<Check> {
    let (mut check, mut chunk) = (Check::new(), vec![0; CHUNK as usize]);
    loop {
        match part.read_exact_at(&mut chunk, check.offset()) {
            Ok(()) if check.take(&chunk).is_ok() => {}
            Ok(()) => return Ok(check),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(check),
            Err(error) => return Err(error),
        }
    }
}

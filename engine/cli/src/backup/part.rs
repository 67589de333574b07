//! A copy that is not whole yet: FILE.part, and how it becomes FILE.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kontiki_net::SnapshotId;
use kontiki_snapshot::{Check, Flaw, Info};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::{CHUNK, part_of};
use crate::error::Error;
use crate::snapshot_tools;

/// The part, locked: nobody else writes it.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// What of it is checked, from its beginning.
    check: Check,
    /// What is checked of it is known to be a part of what is being copied.
    known: bool,
}

/// Whether a copy may get this name.
///
/// # Errors
/// Something is there already, and is not to be replaced, or cannot be.
pub(super) fn may_write(file: &Path, force: bool) -> Result<(), Error> {
    if file.file_name().is_none() {
        return Err(Error::Usage(format!("{:?} names no file", file.display().to_string())));
    }
    match fs::symlink_metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("cannot write", file)(error)),
        Ok(there) if there.is_dir() => Err(Error::Usage(format!("{} is a directory: name a file", file.display()))),
        // The copy is renamed over what is there: a link or a device would be gone.
        Ok(there) if !there.is_file() => Err(Error::Usage(format!("{} is a link, a pipe or a device: name a file", file.display()))),
        Ok(_) if !force => Err(is_there(file)),
        Ok(_) => Ok(()),
    }
}

fn is_there(file: &Path) -> Error {
    Error::Usage(format!("{} is there already: name another file, or replace it with --force", file.display()))
}

impl Part {
    /// Opens what an earlier copy left, or a new one; checks what is there.
    ///
    /// # Errors
    /// It cannot be written, or somebody writes it.
    pub(super) fn open(file: &Path) -> Result<Part, Error> {
        let path = part_of(file);
        let part = loop {
            // A pipe is not waited for, and a link is not written through.
            let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
            let part = File::options().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(&path);
            let part = part.map_err(Error::file("cannot write", &path))?;
            let opened = part.metadata().map_err(Error::file("cannot write", &path))?;
            if !opened.is_file() {
                return Err(Error::Usage(format!("{} is no file: remove it, or name another file", path.display())));
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
        Ok(Part { path, file: part, check, known: false })
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
            self.check = Check::new();
        }
        Ok(())
    }

    /// From now on the rest is taken, of a snapshot of so many bytes. Cuts off what is not checked: all of it, if it is
    /// longer than that snapshot.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn begin(&mut self, bytes: u64) -> Result<(), Error> {
        if self.offset() > bytes {
            self.check = Check::new();
        }
        self.known = true;
        self.file.set_len(self.offset()).map_err(Error::file("cannot write", &self.path))
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
        self.file.write_all_at(chunk, at).map_err(Error::file("cannot write", &self.path))?;
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

    /// Removes the part if nothing has come.
    pub(super) fn drop_if_empty(&self) {
        if self.offset() == 0 {
            drop(fs::remove_file(&self.path));
        }
    }
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

//! The directory of a self-started cluster: removed at the end, unless it is needed.

use std::path::Path;

use tempfile::TempDir;

use crate::error::Error;
use crate::output::complain;

/// Magic numbers of file systems that live in memory: tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The directory.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

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
        let dir =
            tempfile::Builder::new().prefix(prefix).tempdir_in(&parent).map_err(Error::file("cannot make a directory in", &parent))?;
        Ok(Scratch(dir))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes it, or keeps it and says so.
    pub(crate) fn end(self, keep: bool) {
        if keep {
            let path = self.0.keep();
            complain(format_args!("the replicas' directories are kept in {}", path.display()));
        } else {
            let path = self.0.path().to_owned();
            if let Err(error) = self.0.close() {
                complain(format_args!("cannot remove {}: {error}", path.display()));
            }
        }
    }
}

/// A word of warning if nothing in this directory is ever flushed to a medium.
pub(crate) fn medium_note(dir: &Path) -> Option<String> {
    let kind = rustix::fs::statfs(dir).ok()?.f_type as u64;
    IN_MEMORY
        .contains(&kind)
        .then(|| format!("note: {} is in memory, so flushes cost nothing there; --dir names a directory on a disk", dir.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_goes_or_stays() {
        let parent = tempfile::tempdir().unwrap();
        let inner = parent.path().join("a/b");
        for keep in [false, true] {
            let scratch = Scratch::new(Some(&inner), "x-").unwrap();
            let path = scratch.path().to_owned();
            scratch.end(keep);
            assert_eq!(path.exists(), keep);
        }
    }
}

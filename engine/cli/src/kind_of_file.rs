//! What stands under a name that a user gave, where that is not what it should be.

use std::fs::{self, File, FileType};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::Error;

/// The kind of file, with its article.
pub(crate) fn named(kind: FileType) -> &'static str {
    if kind.is_file() {
        "a file"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Opens a file, behind links too, that is to be read. Anything else is refused before it is opened: a pipe would make the
/// caller wait for somebody at its other end, and a device may never end.
///
/// # Errors
/// It cannot be opened, or what else it is.
pub(crate) fn open_file(path: &Path) -> Result<File, Error> {
    let wrong = |kind| Error::Finding(format!("cannot read {}: it is {}, and a file is needed", path.display(), named(kind)));
    let kind = fs::metadata(path).map_err(Error::file("cannot open", path))?.file_type();
    if !kind.is_file() {
        return Err(wrong(kind));
    }
    // It may have been replaced since.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(Error::file("cannot open", path))?;
    let kind = file.metadata().map_err(Error::file("cannot read", path))?.file_type();
    if kind.is_file() { Ok(file) } else { Err(wrong(kind)) }
}

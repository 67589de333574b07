//! The exclusive lock of a directory.
//!
//! It is held twice. On the directory itself, which has no name that could be taken from under it: whoever removes the
//! lock file lets nobody in, and neither does a second way to the directory (a link, a bind mount, a new name). And on
//! the lock file, which scripts can test (`flock -n`), and which holds where directories cannot be locked.
//!
//! Both are locks of open files (flock): they conflict between processes and within one, and last until the last
//! descriptor of each is gone, however a process ends. io_uring keeps two of its own, in the ring's table of files: the
//! ring outlives a killed process until its last operation has ended, and so does the lock.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::files::{self, CName};
use crate::limits::{LOCK_PATIENCE_MS, LOCK_RETRY_MS};
use crate::{Name, clock, errno, tell};

/// How often the lock file may be replaced while it is being locked, before it counts as another's.
const ATTEMPTS: usize = 8;

#[derive(Debug)]
pub(crate) struct Lock {
    /// The directory, opened once more; none where the file system locks no directories.
    dir: Option<OwnedFd>,
    file: OwnedFd,
    /// Their places in the ring's table of files.
    pub(crate) places: heapless::Vec<u32, 2>,
}

impl Lock {
    /// Takes the lock, making the lock file if it is missing. `EWOULDBLOCK`: another has it.
    pub(crate) fn take(dir: &File, name: &Name) -> Result<Lock, i32> {
        // An opening of its own, so that the lock does not hang on any other use of the directory.
        let own = files::open_at(dir.as_raw_fd(), c".".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)?;
        let own = match flock(own.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) {
            Ok(()) => Some(own),
            // NFS locks only what is open for writing, which a directory never is; others lock no directories at all.
            Err(libc::EBADF | libc::EINVAL | libc::EISDIR | libc::EOPNOTSUPP | libc::ENOSYS) => {
                tell!(warn, "this file system locks no directories: whoever removes the lock file lets a second process in");
                None
            }
            Err(errno) => return Err(errno),
        };
        let name = CName::new(name);
        for _ in 0..ATTEMPTS {
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC | libc::O_NOFOLLOW;
            let file = files::open_at(dir.as_raw_fd(), name.as_ptr(), flags)?;
            flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB)?;
            // Removed between the two calls, it would be a lock on nothing.
            if is_named(dir.as_raw_fd(), &name, file.as_raw_fd())? {
                return Ok(Lock { dir: own, file, places: heapless::Vec::new() });
            }
        }
        Err(libc::EWOULDBLOCK)
    }

    /// The same, waiting a while for a holder that is going. None: it stays.
    pub(crate) fn wait(dir: &File, name: &Name) -> Result<Option<Lock>, i32> {
        let until = clock::now().plus_ns(LOCK_PATIENCE_MS * 1_000_000);
        loop {
            match Lock::take(dir, name) {
                Err(libc::EWOULDBLOCK) if clock::now() >= until => return Ok(None),
                Err(libc::EWOULDBLOCK) => std::thread::sleep(Duration::from_millis(LOCK_RETRY_MS)),
                other => return other.map(Some),
            }
        }
    }

    /// The descriptors that hold it.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.dir.iter().chain([&self.file]).map(AsRawFd::as_raw_fd)
    }

    /// Gives it up, also where a child that was forked meanwhile has the descriptors too.
    pub(crate) fn release(self) {
        for fd in self.descriptors() {
            // Closing does it otherwise.
            let _ = flock(fd, libc::LOCK_UN);
        }
    }
}

fn flock(fd: RawFd, how: i32) -> Result<(), i32> {
    loop {
        // SAFETY: a plain system call on an open descriptor.
        if unsafe { libc::flock(fd, how) } == 0 {
            return Ok(());
        }
        match errno::last() {
            libc::EINTR => {}
            errno => return Err(errno),
        }
    }
}

/// Whether that name still is that of the open file.
fn is_named(dir: RawFd, name: &CName, fd: RawFd) -> Result<bool, i32> {
    let mut stats = [const { std::mem::MaybeUninit::<libc::stat64>::zeroed() }; 2];
    let [named, open] = &mut stats;
    // SAFETY: the name is NUL-terminated, the descriptors are open, and both places have room for the answer.
    let failed = unsafe {
        (libc::fstatat64(dir, name.as_ptr(), named.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW) != 0)
            || (libc::fstat64(fd, open.as_mut_ptr()) != 0)
    };
    if failed {
        return match errno::last() {
            libc::ENOENT => Ok(false),
            errno => Err(errno),
        };
    }
    // SAFETY: all zeros is a valid stat, and so is what the calls wrote.
    let [named, open] = stats.map(|stat| unsafe { stat.assume_init() });
    Ok(named.st_ino == open.st_ino && named.st_dev == open.st_dev)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name::new("lock").unwrap()
    }

    #[test]
    fn removing_the_lock_file_lets_nobody_in() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        std::fs::create_dir(&path).unwrap();
        let dir = File::open(&path).unwrap();
        let held = Lock::take(&dir, &name()).unwrap();
        std::fs::remove_file(path.join("lock")).unwrap();
        assert_eq!(Lock::take(&dir, &name()).unwrap_err(), libc::EWOULDBLOCK);
        // Nor does another way to the same directory.
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(Lock::take(&File::open(&link).unwrap(), &name()).unwrap_err(), libc::EWOULDBLOCK);
        let moved = parent.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(Lock::take(&File::open(&moved).unwrap(), &name()).unwrap_err(), libc::EWOULDBLOCK);
        // A directory made in its place is another one.
        std::fs::create_dir(&path).unwrap();
        Lock::take(&File::open(&path).unwrap(), &name()).unwrap();
        held.release();
        Lock::take(&dir, &name()).unwrap();
    }

    #[test]
    fn a_script_that_holds_the_file_is_respected_and_leaves_nothing_held() {
        let path = tempfile::tempdir().unwrap();
        let dir = File::open(path.path()).unwrap();
        let script = File::create(path.path().join("lock")).unwrap();
        flock(script.as_raw_fd(), libc::LOCK_EX).unwrap();
        assert_eq!(Lock::take(&dir, &name()).unwrap_err(), libc::EWOULDBLOCK);
        drop(script);
        let _held = Lock::take(&dir, &name()).unwrap();
        // And the other way about.
        let script = File::open(path.path().join("lock")).unwrap();
        assert_eq!(flock(script.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB).unwrap_err(), libc::EWOULDBLOCK);
    }

    #[test]
    fn a_released_lock_is_free_though_a_copy_of_its_descriptors_lives() {
        let path = tempfile::tempdir().unwrap();
        let dir = File::open(path.path()).unwrap();
        let held = Lock::take(&dir, &name()).unwrap();
        // As a forked child has them.
        let copies: Vec<OwnedFd> = [&held.file].into_iter().chain(&held.dir).map(|fd| fd.try_clone().unwrap()).collect();
        held.release();
        let held = Lock::take(&dir, &name()).unwrap();
        drop(copies);
        assert_eq!(Lock::take(&dir, &name()).unwrap_err(), libc::EWOULDBLOCK);
        drop(held);
    }

    #[test]
    fn what_holds_the_lock_is_not_inherited() {
        let path = tempfile::tempdir().unwrap();
        let held = Lock::take(&File::open(path.path()).unwrap(), &name()).unwrap();
        for fd in held.descriptors() {
            // SAFETY: a plain system call on an open descriptor.
            assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }
}

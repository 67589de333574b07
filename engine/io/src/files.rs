//! Files and directories by blocking system calls: what the file worker runs, and what io_uring is not asked for.
//!
//! Errors are the system's numbers.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use kontiki_mem::BLOCK_BYTES;

use crate::name::MAX_NAME_BYTES;
use crate::portable::mapped::Mapped;
use crate::{Name, errno, limits, tell};

/// Who may read the files we make: the owner writes, the group reads.
pub(crate) const FILE_MODE: libc::mode_t = 0o640;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) file: File,
    /// The file system is known to honour RWF_DSYNC: a write with it is durable when it completes.
    pub(crate) honours_dsync: bool,
}

/// An open data file.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub(crate) file: File,
    /// Durable writes go with RWF_DSYNC; else a flush follows them.
    pub(crate) dsync: AtomicBool,
    /// Its place in the ring's table of files, if it stands there.
    pub(crate) place: Option<u32>,
    /// Its mapping, where the portable log writes through memory. Only the file worker takes the lock.
    pub(crate) map: Mutex<Option<Mapped>>,
}

impl DataFile {
    pub(crate) fn new(file: File, dsync: bool, place: Option<u32>) -> DataFile {
        DataFile { file, dsync: AtomicBool::new(dsync), place, map: Mutex::new(None) }
    }

    pub(crate) fn dsync(&self) -> bool {
        self.dsync.load(Ordering::Relaxed)
    }

    /// Whether it is read and written past the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        // SAFETY: a plain system call on an open descriptor.
        let flags = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETFL) };
        flags >= 0 && flags & libc::O_DIRECT != 0
    }
}

/// A file name with its NUL, for the system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CName([u8; MAX_NAME_BYTES + 1]);

impl CName {
    pub(crate) fn new(name: &Name) -> CName {
        let mut bytes = [0; MAX_NAME_BYTES + 1];
        for (to, from) in bytes.iter_mut().zip(name.as_str().as_bytes()) {
            *to = *from;
        }
        CName(bytes)
    }

    /// The bytes, up to and with at least one NUL.
    pub(crate) const fn bytes(&self) -> &[u8; MAX_NAME_BYTES + 1] {
        &self.0
    }

    pub(crate) fn as_ptr(&self) -> *const libc::c_char {
        self.0.as_ptr().cast()
    }
}

/// How a data file is opened.
pub(crate) const fn open_flags(create: bool, direct: bool) -> i32 {
    let create = if create { libc::O_CREAT | libc::O_EXCL } else { 0 };
    let direct = if direct { libc::O_DIRECT } else { 0 };
    libc::O_RDWR | libc::O_CLOEXEC | libc::O_LARGEFILE | libc::O_NOFOLLOW | create | direct
}

/// How to open it again after EINVAL, past a file system that knows no direct access. Some make the file before
/// they refuse, so `O_EXCL` would then find our own file; that it did not exist before was settled the first time.
pub(crate) const fn buffered_flags(create: bool) -> i32 {
    open_flags(create, false) & !libc::O_EXCL
}

/// Opens what `name` is in a directory.
pub(crate) fn open_at(dir: RawFd, name: *const libc::c_char, flags: i32) -> Result<OwnedFd, i32> {
    loop {
        // SAFETY: every caller passes a NUL-terminated string that lives across the call.
        let fd = unsafe { libc::openat(dir, name, flags, FILE_MODE as libc::c_uint) };
        if fd >= 0 {
            // SAFETY: `fd` was just opened and has no other owner.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        let errno = errno::last();
        if errno != libc::EINTR {
            return Err(errno);
        }
    }
}

/// Retries an interrupted call of the standard library.
fn retry<T>(mut call: impl FnMut() -> std::io::Result<T>) -> Result<T, i32> {
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(error) => match errno::number(&error) {
                libc::EINTR => {}
                number => return Err(number),
            },
        }
    }
}

/// Opens a directory; with `create`, makes what is missing on the way, each durable in its parent.
pub(crate) fn open_dir(path: &Path, create: bool) -> Result<Dir, i32> {
    let open = |path: &Path| retry(|| File::open(path));
    let file = match open(path) {
        Err(libc::ENOENT) if create => {
            let mut missing: Vec<PathBuf> = Vec::new();
            let mut at = path;
            while !at.as_os_str().is_empty() && !at.exists() {
                missing.push(at.to_path_buf());
                let Some(parent) = at.parent() else { break };
                at = parent;
            }
            for dir in missing.iter().rev() {
                match retry(|| std::fs::create_dir(dir)) {
                    Ok(()) | Err(libc::EEXIST) => {}
                    Err(errno) => return Err(errno),
                }
                let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                sync_dir(&open(parent)?)?;
            }
            open(path)?
        }
        other => other?,
    };
    if !retry(|| file.metadata())?.is_dir() {
        return Err(libc::ENOTDIR);
    }
    let honours_dsync = honours_dsync(&file);
    Ok(Dir { file, honours_dsync })
}

/// File systems whose write path, direct writes included, ends in the kernel's own flush for RWF_DSYNC, on every
/// kernel since 5.10. Network, stacked and user-space file systems have write paths of their own, which may accept
/// the flag and do nothing: there a flush of its own follows each durable write. (FUSE does flush on 6.18.)
fn honours_dsync(dir: &File) -> bool {
    const KNOWN: [u32; 5] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683e, // btrfs
        0xf2f5_2010, // F2FS
        0x0102_1994, // tmpfs: nothing to make durable
    ];
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and `stat` has room for the answer.
    let failed = unsafe { libc::fstatfs(dir.as_raw_fd(), stat.as_mut_ptr()) } != 0;
    // SAFETY: all zeros is a valid statfs, and so is what the call wrote.
    let stat = unsafe { stat.assume_init() };
    // The type of `f_type` differs between targets; every magic number has 32 bits.
    !failed && KNOWN.contains(&(stat.f_type as u32))
}

/// How much of its file system is free for this process, in bytes. `None`: it does not say.
pub(crate) fn free_bytes(dir: &File) -> Option<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::statvfs64>::zeroed();
    // SAFETY: the descriptor is open and `stat` has room for the answer.
    let failed = unsafe { libc::fstatvfs64(dir.as_raw_fd(), stat.as_mut_ptr()) } != 0;
    // SAFETY: all zeros is a valid statvfs, and so is what the call wrote.
    let stat = unsafe { stat.assume_init() };
    // The types of both differ between targets.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let (blocks, bytes) = (stat.f_bavail as u64, stat.f_frsize as u64);
    (!failed).then(|| blocks.saturating_mul(bytes))
}

/// Plain files and their lengths. Whatever could not be one of ours (by its name or kind) is left out.
pub(crate) fn list(dir: &File) -> Result<Vec<(Name, u64)>, i32> {
    // A descriptor of its own: reading moves its position, and `fdopendir` takes it over.
    let fd = open_at(dir.as_raw_fd(), c".".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)?;
    // SAFETY: an open directory descriptor; the stream owns it from here on, if there is a stream.
    let stream = unsafe { libc::fdopendir(fd.as_raw_fd()) };
    if stream.is_null() {
        return Err(errno::last());
    }
    std::mem::forget(fd);
    let mut files = Vec::new();
    let result = loop {
        // SAFETY: errno is this thread's own. readdir tells the end from a failure by it alone.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: the stream is open and used by this thread alone.
        let entry = unsafe { libc::readdir64(stream) };
        if entry.is_null() {
            match errno::last() {
                0 => break Ok(files),
                errno => break Err(errno),
            }
        }
        // SAFETY: readdir's entry lives until the next call, and its name is NUL-terminated.
        let name = unsafe { CStr::from_ptr((&raw const (*entry).d_name).cast()) };
        let Some(known) = name.to_str().ok().and_then(Name::new) else { continue };
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        match open_at(dir.as_raw_fd(), name.as_ptr(), flags).map(File::from) {
            Ok(file) => match retry(|| file.metadata()) {
                Ok(meta) if meta.is_file() => files.push((known, meta.len())),
                Ok(_) => {}
                Err(errno) => break Err(errno),
            },
            // Gone between the two calls.
            Err(libc::ENOENT) => {}
            Err(errno) => break Err(errno),
        }
    };
    // SAFETY: the stream is open and not used again.
    unsafe { libc::closedir(stream) };
    result
}

/// Opens a data file, past the page cache where `direct` says so and the file system allows it.
pub(crate) fn open(dir: &Dir, name: &Name, create: bool, direct: bool) -> Result<File, i32> {
    let name = CName::new(name);
    let at = dir.file.as_raw_fd();
    match open_at(at, name.as_ptr(), open_flags(create, direct)) {
        Err(libc::EINVAL) if direct => {
            note_buffered();
            open_at(at, name.as_ptr(), buffered_flags(create)).map(File::from)
        }
        other => other.map(File::from),
    }
}

/// Says that direct access was refused.
pub(crate) fn note_buffered() {
    tell!(info, "this file system has no direct access: files go through the page cache");
}

/// The length of an open file; an error if it is no plain file.
pub(crate) fn length(file: &File) -> Result<u64, i32> {
    let meta = retry(|| file.metadata())?;
    if meta.is_file() { Ok(meta.len()) } else { Err(libc::EINVAL) }
}

/// Reserves a file's first `len` bytes and sets its length.
pub(crate) fn allocate(file: &File, len: u64) -> Result<(), i32> {
    if len > 0 {
        match fallocate(file, len) {
            Ok(()) => {}
            Err(libc::EOPNOTSUPP | libc::ENOSYS) => write_zeros(file, len)?,
            Err(errno) => return Err(errno),
        }
    }
    trim(file, len)
}

/// Sets the length, where reserving (which only ever grows a file) has not.
pub(crate) fn trim(file: &File, len: u64) -> Result<(), i32> {
    if length(file)? == len { Ok(()) } else { retry(|| file.set_len(len)) }
}

fn fallocate(file: &File, len: u64) -> Result<(), i32> {
    let len = libc::off64_t::try_from(len).map_err(|_| libc::EFBIG)?;
    loop {
        // SAFETY: a plain system call on an open descriptor.
        if unsafe { libc::fallocate64(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        match errno::last() {
            libc::EINTR => {}
            errno => return Err(errno),
        }
    }
}

/// Reserves by writing, where there is no other way. What the file already has is kept.
fn write_zeros(file: &File, len: u64) -> Result<(), i32> {
    // Aligned by hand: the file may be open for direct access.
    let memory = vec![0u8; limits::ZERO_CHUNK_BYTES + BLOCK_BYTES];
    let skip = memory.as_ptr().align_offset(BLOCK_BYTES);
    let zeros = &memory[skip..skip + limits::ZERO_CHUNK_BYTES];
    let mut at = length(file)?.next_multiple_of(BLOCK_BYTES as u64);
    while at < len {
        let chunk = (len - at).min(zeros.len() as u64) as usize;
        write(file, &zeros[..chunk], at)?;
        at += chunk as u64;
    }
    Ok(())
}

/// Fills `buf` from `offset`; less only at the end of the file.
pub(crate) fn read(file: &File, buf: &mut [u8], offset: u64) -> Result<usize, i32> {
    let mut done = 0;
    while done < buf.len() {
        match retry(|| file.read_at(&mut buf[done..], offset + done as u64))? {
            0 => break,
            n => done += n,
        }
        // A direct read that ends within a block has reached the end, and could not go on from there.
        if !done.is_multiple_of(BLOCK_BYTES) {
            break;
        }
    }
    Ok(done)
}

/// Writes all of `data` at `offset`.
pub(crate) fn write(file: &File, data: &[u8], offset: u64) -> Result<(), i32> {
    let mut done = 0;
    while done < data.len() {
        match retry(|| file.write_at(&data[done..], offset + done as u64))? {
            // A disk that takes nothing and gives no reason.
            0 => return Err(libc::EIO),
            n => done += n,
        }
    }
    Ok(())
}

/// Data, length and all metadata.
pub(crate) fn sync(file: &File) -> Result<(), i32> {
    flush(|| file.sync_all())
}

/// Data, and what is needed to read it again.
pub(crate) fn sync_data(file: &File) -> Result<(), i32> {
    flush(|| file.sync_data())
}

/// A failed flush is never tried again: the kernel may have dropped the pages. (An interrupted one did nothing.)
fn flush(call: impl FnMut() -> std::io::Result<()>) -> Result<(), i32> {
    retry(call)
}

/// A directory's entries.
pub(crate) fn sync_dir(dir: &File) -> Result<(), i32> {
    dir_synced(sync(dir))
}

/// A file system that cannot sync a directory says EINVAL. It has no way to do it, so this is no failure of the
/// medium; it is reported and accepted.
pub(crate) fn dir_synced(result: Result<(), i32>) -> Result<(), i32> {
    if result == Err(libc::EINVAL) {
        tell!(warn, "this file system cannot sync directories: new names may be lost with the power");
        return Ok(());
    }
    result
}

pub(crate) fn rename(dir: &File, from: &Name, to: &Name) -> Result<(), i32> {
    let (from, to) = (CName::new(from), CName::new(to));
    let at = dir.as_raw_fd();
    // SAFETY: both names are NUL-terminated and live across the call.
    if unsafe { libc::renameat(at, from.as_ptr(), at, to.as_ptr()) } == 0 { Ok(()) } else { Err(errno::last()) }
}

pub(crate) fn unlink(dir: &File, name: &Name) -> Result<(), i32> {
    let name = CName::new(name);
    // SAFETY: the name is NUL-terminated and lives across the call.
    if unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) } == 0 { Ok(()) } else { Err(errno::last()) }
}

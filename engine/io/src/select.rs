//! Which backend: options, the choice by probe, and the reason for it.

use std::fmt;
use std::marker::PhantomData;

use kontiki_mem::{Pool, Ring};

use crate::limits::{DEFAULT_CAPACITY, DEFAULT_HANDLES, LOCK_PLACES, MAX_CAPACITY, MAX_HANDLES};
use crate::portable::Portable;
use crate::uring::{Uring, Without};
use crate::{Io, descriptors, errno, tell};

/// Which backend to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring where the kernel has it and allows it, else the portable one.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// epoll and a file worker.
    Portable,
}

/// How to open the world.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which backend.
    pub backend: Backend,
    /// Operations outstanding at once, at most [`MAX_CAPACITY`].
    pub capacity: usize,
    /// Directories, files, listeners and connections open at once, at most [`MAX_HANDLES`].
    pub handles: usize,
    /// File descriptors that must be to be had beyond those open now; the process's soft limit is raised to that,
    /// and towards `handles`, as far as the hard one allows. Zero: the limit is left as it is.
    pub descriptors: usize,
    /// Portable backend: files that were allocated are written through a memory mapping.
    pub mmap_log: bool,
    /// io_uring: what to do without though the kernel has it. For a kernel whose feature is broken, and for tests.
    pub without: Without,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            backend: Backend::Auto,
            capacity: DEFAULT_CAPACITY,
            handles: DEFAULT_HANDLES,
            descriptors: 0,
            mmap_log: false,
            without: Without::default(),
        }
    }
}

/// Memory to register with the kernel, once, instead of pinning it with every read and write.
///
/// It must outlive the `Io`: operations on memory that was later mapped at the same address would read and write
/// the pages registered here.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    pub(crate) base: *mut u8,
    pub(crate) len: usize,
    memory: PhantomData<&'a ()>,
}

impl<'a> Region<'a> {
    /// A frame ring's memory.
    pub fn ring(ring: &'a Ring) -> Region<'a> {
        let (base, len) = ring.registration();
        Region { base, len, memory: PhantomData }
    }

    /// A pool's memory.
    pub fn pool(pool: &'a Pool) -> Region<'a> {
        let (base, len) = pool.registration();
        Region { base, len, memory: PhantomData }
    }
}

impl fmt::Debug for Region<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes)", self.len)
    }
}

/// Why no backend could be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// An option is out of its bounds.
    #[error("{option} is {value}: must be between 1 and {most}")]
    Option {
        /// Which.
        option: &'static str,
        /// What it was.
        value: usize,
        /// Its upper bound.
        most: usize,
    },
    /// io_uring was asked for, and is not to be had.
    #[error("io_uring is not usable: {reason}. Open with Backend::Auto to fall back to epoll")]
    Uring {
        /// What the probe found.
        reason: String,
    },
    /// The process may not have as many file descriptors as are needed.
    #[error(
        "{needed} file descriptors are needed and {limit} may be had (RLIMIT_NOFILE): raise the limit (ulimit -n, LimitNOFILE= of a \
         unit, --ulimit nofile= of a container)"
    )]
    Descriptors {
        /// How many in all, those open already included.
        needed: u64,
        /// How many the hard limit allows.
        limit: u64,
    },
    /// No thread could be made.
    #[error(
        "no thread may be had for {what} (errno {errno}): this user may have {limit} processes and threads (RLIMIT_NPROC), its control group \
         perhaps fewer (pids.max). Raise the limit (ulimit -u, LimitNPROC= and TasksMax= of a unit, --pids-limit of a container)"
    )]
    Threads {
        /// What for.
        what: &'static str,
        /// How many this user may have, others' included; all bits are set where there is no such limit.
        limit: u64,
        /// The system's error number.
        errno: i32,
    },
    /// The system gave no descriptor or memory.
    #[error("{what} could not be made (errno {errno}): raise the process's limits on descriptors and memory")]
    System {
        /// What was being made.
        what: &'static str,
        /// The system's error number.
        errno: i32,
    },
}

/// Opens the world. What was chosen and why goes to the log, and into [`Io::describe`].
///
/// # Errors
/// If an option is out of bounds, io_uring was demanded and cannot be had, or the system lacks resources.
pub fn open(options: &Options, memory: &[Region<'_>]) -> Result<Box<dyn Io + Send>, OpenError> {
    for (option, value, most) in [("capacity", options.capacity, MAX_CAPACITY), ("handles", options.handles, MAX_HANDLES)] {
        if value == 0 || value > most {
            return Err(OpenError::Option { option, value, most });
        }
    }
    if options.descriptors > 0 {
        // The ring's table of files may have no more places than the soft limit says.
        descriptors::reserve(options.descriptors, options.handles + LOCK_PLACES)?;
    }
    let io: Box<dyn Io + Send> = match options.backend {
        Backend::Uring => Box::new(Uring::open(options, memory).map_err(|reason| OpenError::Uring { reason })?),
        Backend::Portable => Box::new(portable(options, "asked for")?),
        Backend::Auto => match Uring::open(options, memory) {
            Ok(uring) => Box::new(uring),
            Err(reason) => Box::new(portable(options, &reason)?),
        },
    };
    tell!(info, backend = %io.describe(), "world opened");
    Ok(io)
}

fn portable(options: &Options, reason: &str) -> Result<Portable, OpenError> {
    Portable::open(options, reason).map_err(|(what, errno)| match errno {
        libc::EAGAIN => OpenError::Threads { what, limit: descriptors::most_threads(), errno },
        _ => OpenError::System { what, errno },
    })
}

/// The running kernel's release, for the operator.
pub(crate) fn kernel() -> String {
    let mut name = std::mem::MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: `name` has room for the answer.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return format!("kernel unknown (errno {})", errno::last());
    }
    // SAFETY: all zeros is a valid utsname, and so is what the call wrote.
    let name = unsafe { name.assume_init() };
    // SAFETY: the call NUL-terminates every field.
    let release = unsafe { std::ffi::CStr::from_ptr(name.release.as_ptr()) };
    format!("Linux {}", release.to_string_lossy())
}

//! File descriptors: whether as many as are needed may be had, counted before the first is missing.

use crate::{OpenError, errno, tell};

/// Descriptors of a backend's own: ring or epoll, bell, notice, what is open for a moment.
const OWN: usize = 8;

/// Where it cannot be counted how many are open already.
const OPEN_ELSEWHERE: usize = 16;

/// Sees to it that `wanted` descriptors more than are open now may be had, by raising the process's limit on them
/// (RLIMIT_NOFILE) as far as that takes; `useful` is what it is raised to where that is allowed.
pub(crate) fn reserve(wanted: usize, useful: usize) -> Result<(), OpenError> {
    let open = std::fs::read_dir("/proc/self/fd").map_or(OPEN_ELSEWHERE, Iterator::count);
    let needed = (open + OWN + wanted) as u64;
    let (soft, hard) = limits()?;
    if soft >= needed.max(useful as u64) {
        return Ok(());
    }
    if hard < needed {
        return Err(OpenError::Descriptors { needed, limit: hard });
    }
    let raised = needed.max(useful as u64).min(hard);
    match raise(raised, hard) {
        Ok(()) => {
            tell!(info, from = soft, to = raised, "limit on file descriptors raised");
            Ok(())
        }
        Err(_) if soft >= needed => Ok(()),
        Err(_) => Err(OpenError::Descriptors { needed, limit: soft }),
    }
}

/// What this process may have now, and what it may ask for.
fn limits() -> Result<(u64, u64), OpenError> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` has room for the answer.
    if unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(OpenError::System { what: "the count of file descriptors", errno: errno::last() });
    }
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// How many processes and threads this user may have.
pub(crate) fn most_threads() -> u64 {
    let mut limit = libc::rlimit64 { rlim_cur: u64::MAX, rlim_max: u64::MAX };
    // SAFETY: `limit` has room for the answer; where there is none it stays as it is.
    unsafe { libc::getrlimit64(libc::RLIMIT_NPROC, &mut limit) };
    limit.rlim_cur
}

fn raise(soft: u64, hard: u64) -> Result<(), i32> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is readable across the call.
    if unsafe { libc::setrlimit64(libc::RLIMIT_NOFILE, &limit) } == 0 { Ok(()) } else { Err(errno::last()) }
}

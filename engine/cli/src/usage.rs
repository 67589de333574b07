//! What other processes use: processor time and memory, from `/proc`.

use std::fs;

/// Clock ticks per second in `/proc/PID/stat`: 100 on every Linux there is (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// Processor time that a process has used so far, in nanoseconds, over all its threads; `None` if it is gone.
///
/// From the scheduler's own count (`schedstat`, exact), or where the kernel has none from `stat` (in 10 ms).
pub(crate) fn cpu_ns(pid: u32) -> Option<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let path = task.ok()?.path().join("schedstat");
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(path) else { continue };
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    if total > 0 { Some(total) } else { cpu_ns_from_stat(pid) }
}

fn cpu_ns_from_stat(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field behind it.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks * (1_000_000_000 / TICKS_PER_SECOND))
}

/// Resident memory of a process, in bytes; `None` if it is gone.
pub(crate) fn rss_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let pid = std::process::id();
        let before = cpu_ns(pid).unwrap();
        let mut x = 1u64;
        while cpu_ns_from_stat(pid).unwrap() == 0 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(cpu_ns(pid).unwrap() > before);
        assert!(rss_bytes(pid).unwrap() > 100_000);
        assert_eq!(cpu_ns(u32::MAX), None);
        assert_eq!(rss_bytes(u32::MAX), None);
    }
}

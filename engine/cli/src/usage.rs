//! What other processes use: processor time, memory and disk, from `/proc`.

use std::fs;

use serde::Serialize;

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

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Resident now (`VmRSS`). A page counts as often as it is mapped: the frame ring, mapped twice back to back,
    /// twice.
    pub(crate) rss_bytes: u64,
    /// The most that was ever resident (`VmHWM`), counted likewise.
    pub(crate) peak_rss_bytes: u64,
    /// Resident now, each page once, and shared ones in part (`Pss`): what the machine would gain if the process ended.
    pub(crate) pss_bytes: Option<u64>,
}

/// Memory of a process; `None` if it is gone. The kernel walks all its pages for this: not to be asked while something
/// is measured.
pub(crate) fn memory(pid: u32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Memory {
        rss_bytes: kib(&text, "VmRSS:")?,
        peak_rss_bytes: kib(&text, "VmHWM:")?,
        // Not in every kernel, and not readable for everybody.
        pss_bytes: fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok().and_then(|text| kib(&text, "Pss:")),
    })
}

/// Resident memory of a process in bytes, as in [`Memory::rss_bytes`]; `None` if it is gone.
pub(crate) fn rss_bytes(pid: u32) -> Option<u64> {
    kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

/// Bytes that a process has caused to be written to a medium so far, as the kernel counts them; `None` if it is gone or
/// does not say.
pub(crate) fn written_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// The number of a line like `VmRSS:    12 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
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
        let memory_now = memory(pid).unwrap();
        assert!(memory_now.rss_bytes > 100_000 && memory_now.peak_rss_bytes >= memory_now.rss_bytes);
        assert_eq!(cpu_ns(u32::MAX), None);
        assert_eq!(memory(u32::MAX), None);
        assert_eq!(written_bytes(u32::MAX), None);
    }
}

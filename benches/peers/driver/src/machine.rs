//! What it was measured on.

use std::fmt;
use std::path::Path;

use nix::sys::statfs::{self, FsType};
use serde::Serialize;

/// The machine, as far as figures depend on it.
#[derive(Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    /// The load is on memory: nothing is durable.
    pub(crate) in_memory: bool,
}

impl Machine {
    /// This one, with logs in a directory.
    pub(crate) fn look(dir: &Path) -> Machine {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = text("/proc/cpuinfo");
        let model = info.lines().find(|l| l.starts_with("model name") || l.starts_with("Model")).and_then(|l| l.split_once(':'));
        const IN_MEMORY: [FsType; 2] = [statfs::TMPFS_MAGIC, FsType(0x8584_58f6)]; // tmpfs, ramfs
        Machine {
            processor: model.map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            in_memory: statfs::statfs(dir).is_ok_and(|fs| IN_MEMORY.contains(&fs.filesystem_type())),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let medium = if self.in_memory { "logs in memory: not durable" } else { "logs on a disk" };
        write!(f, "{} · {} cores · Linux {} · {medium}", self.processor, self.cores, self.kernel)
    }
}

//! What a figure was measured on: without it, no figure says anything.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kontiki_io::{Backend, Io};
use serde::Serialize;

use crate::world::World;

/// The machine, as far as it says.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// Make and model.
    pub machine: String,
    /// Processors: how many, and of what model.
    pub processors: String,
    /// Frequency governor of the first processor.
    pub governor: Option<String>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Release of the kernel.
    pub kernel: String,
    /// The disk under the measured directory: name, model, scheduler, write cache.
    pub disk: String,
    /// The file system there, and how it is mounted.
    pub file_system: String,
    /// Directory measured in.
    pub directory: PathBuf,
    /// Backend for input and output, and what its probe found.
    pub backend: String,
    /// How long a halted virtual processor polls before it sleeps, in nanoseconds, where that governs.
    pub guest_halt_poll_ns: Option<u64>,
    /// Load average over a minute, before anything was measured.
    pub load: Option<String>,
    /// Version of this code, and whether it was built with optimisation.
    pub version: String,
}

impl Environment {
    /// What is found here, for measurements in `dir`, which must exist.
    pub fn here(dir: &Path) -> Environment {
        let backend = match World::open(64 << 10, Backend::Auto) {
            Ok(world) => world.io.describe(),
            Err(error) => error.to_string(),
        };
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let device = fs::metadata(&dir).ok().and_then(|meta| block_device(meta.dev()));
        let info = text("/proc/cpuinfo").unwrap_or_default();
        let count = std::thread::available_parallelism().map_or(0, usize::from);
        let model = ["model name", "Model", "Hardware", "Processor"].iter().find_map(|key| field(&info, key));
        Environment {
            machine: machine(),
            processors: format!("{count} x {}", model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_bytes: text("/proc/meminfo")
                .and_then(|info| field(&info, "MemTotal")?.strip_suffix(" kB")?.trim().parse::<u64>().ok())
                .map(|kib| kib * 1024),
            kernel: format!("Linux {}", text("/proc/sys/kernel/osrelease").unwrap_or_default()),
            disk: device.map_or_else(|| "not a block device".into(), |device| disk(&device)),
            file_system: file_system(&dir),
            directory: dir,
            backend,
            guest_halt_poll_ns: guest_halt_poll_ns(),
            load: text("/proc/loadavg").and_then(|load| load.split(' ').next().map(str::to_owned)),
            version: format!("{}{}", env!("CARGO_PKG_VERSION"), if cfg!(debug_assertions) { ", without optimisation" } else { "" }),
        }
    }

    /// Names and values, for people.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("machine", self.machine.clone()),
            ("processors", self.processors.clone()),
            ("kernel", self.kernel.clone()),
            ("disk", self.disk.clone()),
            ("file system", self.file_system.clone()),
            ("directory", self.directory.display().to_string()),
            ("input and output", self.backend.clone()),
            ("version", self.version.clone()),
        ];
        let optional = [
            ("memory", self.memory_bytes.map(|bytes| format!("{} MiB", bytes >> 20))),
            ("governor", self.governor.clone()),
            ("halt polling", self.guest_halt_poll_ns.map(|ns| format!("{} us", ns / 1000))),
            ("load average before", self.load.clone()),
        ];
        rows.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        rows
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows().iter().try_for_each(|(name, value)| writeln!(f, "{name:>20}: {value}"))
    }
}

/// The setting of the haltpoll module, if it governs this machine.
pub fn guest_halt_poll_ns() -> Option<u64> {
    let driver = text("/sys/devices/system/cpu/cpuidle/current_driver")?;
    let ns = text("/sys/module/haltpoll/parameters/guest_halt_poll_ns")?;
    if driver == "haltpoll" { ns.parse().ok() } else { None }
}

/// A small file of the kernel's, trimmed; `None` if it is not there or empty.
fn text(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim_matches(['\0', '\n', ' ']).to_owned();
    (!text.is_empty()).then_some(text)
}

/// The value of a line `key : value`.
fn field(text: &str, key: &str) -> Option<String> {
    let value = |line: &str| Some(line.strip_prefix(key)?.trim_start().strip_prefix(':')?.trim().to_owned());
    text.lines().find_map(value)
}

fn machine() -> String {
    // Boards have a device tree, the others a firmware that knows.
    text("/proc/device-tree/model").unwrap_or_else(|| {
        let dmi = |name: &str| text(Path::new("/sys/class/dmi/id").join(name));
        let words: Vec<String> = ["sys_vendor", "product_name"].iter().filter_map(|name| dmi(name)).collect();
        if words.is_empty() { "unknown".into() } else { words.join(" ") }
    })
}

/// The directory in `/sys` of the whole disk that a device number belongs to.
fn block_device(number: u64) -> Option<PathBuf> {
    let (major, minor) = (((number >> 8) & 0xfff) | ((number >> 32) & !0xfff), (number & 0xff) | ((number >> 12) & !0xff));
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A partition stands inside its disk.
    if device.join("partition").exists() { device.parent().map(Path::to_owned) } else { Some(device) }
}

fn disk(device: &Path) -> String {
    let name = device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let model = text(device.join("device/model")).or_else(|| text(device.join("device/name"))).unwrap_or_else(|| "model unknown".into());
    let scheduler = text(device.join("queue/scheduler"))
        .and_then(|all| Some(all.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .unwrap_or_else(|| "unknown".into());
    let cache = text(device.join("queue/write_cache")).unwrap_or_else(|| "cache unknown".into());
    let turns = text(device.join("queue/rotational")).is_some_and(|turns| turns == "1");
    format!("{name} ({model}), scheduler {scheduler}, {cache}{}", if turns { ", rotational" } else { "" })
}

fn file_system(dir: &Path) -> String {
    let mounts = text("/proc/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?, words.next()?))
    };
    let best = mounts.lines().filter_map(mount).filter(|(_, at, ..)| dir.starts_with(at)).max_by_key(|(_, at, ..)| at.len());
    best.map_or_else(|| "unknown".into(), |(device, at, kind, options)| format!("{kind} on {device} at {at} ({options})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_what_it_is() {
        let here = Environment::here(&std::env::temp_dir());
        assert!(here.kernel.len() > "Linux ".len() && !here.backend.is_empty(), "{here}");
        assert!(here.file_system.contains(" on "), "{here}");
        assert!(here.to_string().contains("processors: "), "{here}");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field("processor\t: 0\nmodel name\t: A B\n", "model name").as_deref(), Some("A B"));
        assert_eq!(field("models: 1", "model"), None);
    }
}

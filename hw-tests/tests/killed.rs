//! A killed process has no more writes under way when its lock is free: real processes, killed with SIGKILL.

#![allow(clippy::print_stderr)] // What is skipped says why.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kontiki_hw_tests::backends;
use kontiki_io::{IoErrorKind, Name, Op, Options, Token, open};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tempfile::TempDir;

/// For what must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// `inflight`, which has locked a directory.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(dir: &Path, backend: &str, bytes: usize) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inflight"));
        command.arg(dir).args([backend, &bytes.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("inflight");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut process = Process { child, input, output };
        process.says("ready");
        process
    }

    fn says(&mut self, expected: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        assert_eq!(line.trim_end(), expected);
    }

    /// Leaves its write under way.
    fn write(&mut self) {
        self.input.write_all(b"go\n").expect("its input");
        self.says("under way");
    }

    fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("its end");
    }

    /// A descriptor of its ring, in this process: the ring then outlives it, as one with a write under way does.
    fn ring(&self) -> Result<OwnedFd, String> {
        let pid = self.child.id();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|error| format!("/proc/{pid}/fd: {error}"))?;
        let ring = open.filter_map(Result::ok).find(|entry| {
            let target = fs::read_link(entry.path());
            target.is_ok_and(|target| target.to_string_lossy().contains("[io_uring]"))
        });
        let ring = ring.ok_or("no ring among its descriptors")?;
        let number = ring.file_name().to_string_lossy().parse().map_err(|_| "a descriptor that is no number")?;
        let pid = Pid::from_raw(pid as i32).ok_or("no process id")?;
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| format!("pidfd_open: {error}"))?;
        pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).map_err(|error| format!("pidfd_getfd: {error}"))
    }
}

/// Whether this machine has the backend.
fn is_here(name: &str, options: &Options) -> bool {
    match open(options, &[]) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED {name}: {error}");
            false
        }
    }
}

fn is_free(path: &Path) -> bool {
    flock(File::open(path).expect("it is there"), FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// When the directory and its lock file are both free.
fn wait_until_free(dir: &Path) {
    let until = Instant::now() + PATIENCE;
    while !(is_free(dir) && is_free(&dir.join("kontiki.lock"))) {
        assert!(Instant::now() < until, "the lock of a killed process was never free");
        std::thread::yield_now();
    }
}

/// What the next process gets that wants the lock.
fn lock(options: &Options, dir: &Path) -> Result<(), IoErrorKind> {
    let mut io = open(options, &[]).expect("a backend");
    let mut call = |op| {
        io.submit(Token(1), op);
        let mut done = Vec::new();
        while done.is_empty() {
            let until = io.now().plus_ns(1_000_000_000);
            io.turn(Some(until), &mut done).expect("turn");
        }
        done.remove(0).result
    };
    let Ok(kontiki_io::Output::Opened(dir)) = call(Op::OpenDir { path: dir.into(), create: false }) else { panic!("no directory") };
    call(Op::Lock { dir, name: Name::new("kontiki.lock").expect("a good name") }).map(drop).map_err(|error| error.kind)
}

#[test]
fn the_lock_of_a_killed_process_lasts_as_long_as_its_ring() {
    for (name, options) in backends() {
        if !name.starts_with("uring") || !is_here(name, &options) {
            continue;
        }
        let parent = TempDir::new().expect("a temporary directory");
        let dir = parent.path().join("data");
        let process = Process::start(&dir, name, 4096);
        let ring = match process.ring() {
            Ok(ring) => ring,
            Err(reason) => {
                eprintln!("SKIPPED {name}: its ring cannot be had ({reason})");
                process.kill();
                continue;
            }
        };
        process.kill();
        assert!(!is_free(&dir), "{name}: the directory is free while the ring is there");
        assert!(!is_free(&dir.join("kontiki.lock")), "{name}: the lock file is free while the ring is there");
        assert_eq!(lock(&options, &dir), Err(IoErrorKind::Locked), "{name}");
        fs::remove_file(dir.join("kontiki.lock")).expect("the lock file");
        assert_eq!(lock(&options, &dir), Err(IoErrorKind::Locked), "{name}: removing the lock file let a second process in");
        drop(ring);
        // The kernel takes a ring apart when it gets round to it.
        assert_eq!(lock(&options, &dir), Ok(()), "{name}");
    }
}

#[test]
fn a_killed_process_can_be_started_again_at_once() {
    for (name, options) in backends() {
        if !is_here(name, &options) {
            continue;
        }
        let parent = TempDir::new().expect("a temporary directory");
        for round in 0..20 {
            let mut process = Process::start(parent.path(), name, 1 << 20);
            process.write();
            process.kill();
            assert_eq!(lock(&options, parent.path()), Ok(()), "{name}, round {round}");
            fs::remove_file(parent.path().join("file")).expect("its file");
        }
    }
}

/// A disk of 64 MiB that takes 256 KiB a second from whom it is told to.
struct SlowDisk {
    parent: TempDir,
    device: String,
    group: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(output) } else { Err(format!("{program} {}: {}", arguments.join(" "), output.status)) }
}

impl SlowDisk {
    /// The error says what is missing here.
    fn make() -> Result<SlowDisk, String> {
        let parent = TempDir::new().map_err(|error| error.to_string())?;
        let image = parent.path().join("image");
        File::create(&image).and_then(|file| file.set_len(64 << 20)).map_err(|error| error.to_string())?;
        let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("a path that is no text");
        let group = PathBuf::from(format!("/sys/fs/cgroup/blkio/kontiki-{}", std::process::id()));
        run("mkfs.ext4", &["-q", &text(&image)?])?;
        fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
        let mut disk = SlowDisk { parent, device: String::new(), group };
        let attached = run("losetup", &["-f", "--show", "--direct-io=on", &text(&image)?])?;
        disk.device = String::from_utf8_lossy(&attached.stdout).trim().to_owned();
        let mount = disk.mount();
        fs::create_dir(&mount).map_err(|error| error.to_string())?;
        run("mount", &[&disk.device, &text(&mount)?])?;
        Ok(disk)
    }

    fn mount(&self) -> PathBuf {
        self.parent.path().join("mount")
    }

    /// From now on all threads of a process wait for it.
    fn slow_down(&self, pid: u32) -> Result<(), String> {
        let name = Path::new(&self.device).file_name().ok_or("no device")?.to_string_lossy().into_owned();
        let numbers = fs::read_to_string(format!("/sys/block/{name}/dev")).map_err(|error| error.to_string())?;
        let limit = format!("{} {}", numbers.trim(), 256 << 10);
        fs::write(self.group.join("blkio.throttle.write_bps_device"), limit).map_err(|error| error.to_string())?;
        for thread in fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?.filter_map(Result::ok) {
            let id = thread.file_name().to_string_lossy().into_owned();
            fs::write(self.group.join("tasks"), id).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What is on the medium.
    fn read(&self, file: &Path, bytes: usize) -> Vec<u8> {
        let (from, count) = (format!("if={}", file.display()), format!("count={}", bytes >> 12));
        run("dd", &[&from, "bs=4096", &count, "iflag=direct", "status=none"]).expect("dd").stdout
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let until = Instant::now() + PATIENCE;
        while run("umount", &[&self.mount().to_string_lossy()]).is_err() && self.mount().is_dir() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
        }
        if !self.device.is_empty() {
            drop(run("losetup", &["-d", &self.device]));
        }
        drop(fs::remove_dir(&self.group));
    }
}

#[test]
fn a_write_under_way_on_a_slow_disk_keeps_the_lock() {
    const BYTES: usize = 512 << 10;
    for (name, options) in backends() {
        if !is_here(name, &options) {
            continue;
        }
        let disk = match SlowDisk::make() {
            Ok(disk) => disk,
            Err(reason) => {
                eprintln!("SKIPPED: no slow disk (root, loop devices, mkfs.ext4 and the blkio cgroup of version 1 make one): {reason}");
                return;
            }
        };
        let dir = disk.mount().join("data");
        let mut process = Process::start(&dir, name, BYTES);
        if let Err(reason) = disk.slow_down(process.child.id()) {
            eprintln!("SKIPPED: the disk cannot be slowed down: {reason}");
            process.kill();
            return;
        }
        process.write();
        process.kill();
        let killed = Instant::now();
        wait_until_free(&dir);
        let held = killed.elapsed();
        let at_once = disk.read(&dir.join("file"), BYTES);
        // Longer than the whole write takes: what is to come has come.
        std::thread::sleep(Duration::from_secs(3));
        let later = disk.read(&dir.join("file"), BYTES);
        let landed = later.iter().filter(|byte| **byte == 0xab).count();
        eprintln!("{name}: the lock was free after {} ms, with {landed} of {BYTES} bytes written", held.as_millis());
        assert!(at_once == later, "{name}: written to after its lock was free");
    }
}

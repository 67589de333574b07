//! How a replica's process ends, and that nothing which only tells can end it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{CLUSTER, Servers, bad, config, free_addrs, good, kontiki, run, until, wait};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn every_signal_that_asks_to_stop_stops_in_order() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut servers = Servers::start(1);
        servers.wait_leader();
        servers.signal(1, signal);
        assert_eq!(servers.wait_ended(1), Some(0), "{signal:?}: {}", servers.log(1));
        assert!(servers.log(1).contains("stopping"), "{}", servers.log(1));
    }
}

#[test]
fn others_tell_the_status_and_end_nothing() {
    let mut servers = Servers::start(1);
    servers.wait_leader();
    for (n, signal) in [Signal::USR1, Signal::USR2].into_iter().enumerate() {
        servers.signal(1, signal);
        until("no status in the messages", || servers.log(1).matches(" status ").count() > n);
    }
    // A file that may not grow, a reader that went away: errors of the call that meets them.
    for signal in [Signal::XFSZ, Signal::PIPE] {
        servers.signal(1, signal);
    }
    good(&run(&["put", "--to", &servers.to(), "key", "value"]));
    servers.signal(1, Signal::TERM);
    assert_eq!(servers.wait_ended(1), Some(0));
}

#[test]
fn under_nohup_a_hangup_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let (addrs, file) = (free_addrs(1), dir.path().join("node.toml"));
    std::fs::write(&file, config(CLUSTER, 1, &addrs, &dir.path().join("data"))).unwrap();
    let log = File::create(dir.path().join("log")).unwrap();
    let program = kontiki(&[]).get_program().to_owned();
    let mut command = Command::new("nohup");
    command.arg(program).args(["serve", "--config"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let Ok(child) = command.spawn() else { return println!("skipped: nohup is not installed") };
    let to = addrs[0].to_string();
    until("no answer", || run(&["status", "--to", &to, "--timeout-ms", "500"]).status.success());
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    good(&run(&["put", "--to", &to, "key", "value"]));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(wait(child).code(), Some(0));
}

/// A library that lets every flush hang as long as a file is there.
fn hanging_flushes(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("hang.c"), dir.join("hang.so"));
    let text = "#define _GNU_SOURCE\n#include <stdlib.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
                static void hang(void) { const char *f = getenv(\"HANG\"); while (f && access(f, F_OK) == 0) usleep(10000); }\n\
                int fdatasync(int fd) { hang(); return syscall(SYS_fdatasync, fd); }\n\
                int fsync(int fd) { hang(); return syscall(SYS_fsync, fd); }\n";
    std::fs::write(&source, text).unwrap();
    let compiled = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    compiled.is_ok_and(|status| status.success()).then_some(library)
}

#[test]
fn a_second_signal_ends_a_replica_whose_disk_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = hanging_flushes(dir.path()) else { return println!("skipped: no C compiler (cc)") };
    let (addrs, file, hang) = (free_addrs(1), dir.path().join("node.toml"), dir.path().join("hang"));
    let text = format!("backend = \"portable\"\n{}", config(CLUSTER, 1, &addrs, &dir.path().join("data")));
    std::fs::write(&file, text).unwrap();
    let log = dir.path().join("log");
    let start = || {
        let log = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = kontiki(&["serve", "--config"]);
        command.arg(&file).env("LD_PRELOAD", &library).env("HANG", &hang);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    };
    let text = || std::fs::read_to_string(&log).unwrap();
    let to = addrs[0].to_string();

    let child = start();
    until("no answer", || run(&["status", "--to", &to, "--timeout-ms", "500"]).status.success());
    good(&run(&["put", "--to", &to, "key", "value"]));
    std::fs::write(&hang, "").unwrap();
    assert!(!run(&["put", "--to", &to, "--timeout-ms", "300", "key", "other"]).status.success());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    until("the first signal is not heard", || text().contains("a second signal"));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(wait(child).code(), Some(128 + 15), "{}", text());

    // The same while the log is being read: the first is enough then.
    let child = start();
    until("the signal handlers are not installed", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&caught, 16).unwrap() & (1 << 14) != 0
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = wait(child);
    assert_eq!(status.code(), Some(0), "{status:?} {:?}: {}", status.signal(), text());
    std::fs::remove_file(&hang).unwrap();
}

#[test]
fn a_reader_of_messages_that_is_gone_full_or_slow_stops_nothing() {
    for kind in ["gone", "full", "slow"] {
        let dir = tempfile::tempdir().unwrap();
        let (addrs, file) = (free_addrs(1), dir.path().join("node.toml"));
        std::fs::write(&file, config(CLUSTER, 1, &addrs, &dir.path().join("data"))).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let stderr: Stdio = match kind {
            "full" => File::options().write(true).open("/dev/full").unwrap().into(),
            _ => writer.into(),
        };
        let mut command = kontiki(&["serve", "--config"]);
        // Everything is told: more than a pipe holds.
        command.arg(&file).env("RUST_LOG", "trace").stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().unwrap();
        drop(command);
        let reader = (kind != "gone").then_some(reader);
        let to = addrs[0].to_string();
        until("no answer", || run(&["status", "--to", &to, "--timeout-ms", "500"]).status.success());
        for n in 0..50 {
            good(&run(&["put", "--to", &to, &format!("key{n}"), "value"]));
        }
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(wait(child).code(), Some(0), "{kind}");
        drop(reader);
    }
}

#[test]
fn words_that_could_not_be_written_are_a_failure_and_a_closed_pipe_is_none() {
    for arguments in [&["serve", "--example-config"][..], &["--help"], &["completions", "bash"], &["man"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = kontiki(arguments).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = kontiki(arguments).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", common::stderr(&output));
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let line = bad(&kontiki(&["serve", "--example-config"]).stdout(full).output().unwrap(), 1);
    assert!(line.contains("standard output"), "{line}");
}

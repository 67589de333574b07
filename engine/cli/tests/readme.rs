//! The README's replicas, started as it says, on other ports.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::free_addrs;
use rustix::process::{Pid, Signal, kill_process_group};

/// The shell's lines of the README behind a heading.
fn block(heading: &str) -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let (_, rest) = text.split_once(heading).unwrap();
    let (_, rest) = rest.split_once("```sh\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn three_replicas_as_the_readme_starts_them() {
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_kontiki"));
    let mut script = format!("set -e\nexport PATH=\"{}:$PATH\"\n", program.parent().unwrap().display());
    script.push_str(&block("## Run it without linking"));
    // The ports of the example may be somebody's here: the files are as the program prints them but for that.
    let mut ports = String::from("sed -i");
    for (n, addr) in free_addrs(3).iter().enumerate() {
        ports.push_str(&format!(" -e 's/127.0.0.1:700{}/{addr}/'", n + 1));
        script = script.replace(&format!("127.0.0.1:700{}", n + 1), &addr.to_string());
    }
    let script = script.replacen("kontiki serve --config node1.toml", &format!("{ports} node?.toml\nkontiki serve --config node1.toml"), 1);
    let mut shell = Command::new("sh");
    // All in one process group, to be ended together.
    shell.arg("-c").arg(&script).current_dir(dir.path()).stdin(Stdio::null()).process_group(0);
    let (out, errors) = (dir.path().join("out"), dir.path().join("errors"));
    shell.stdout(std::fs::File::create(&out).unwrap()).stderr(std::fs::File::create(&errors).unwrap());
    let child = shell.spawn().unwrap();
    let group = Pid::from_child(&child);
    let status = common::wait(child);
    let _ = kill_process_group(group, Signal::KILL);
    let (out, errors) = (std::fs::read_to_string(&out).unwrap(), std::fs::read_to_string(&errors).unwrap());
    assert!(status.success(), "{out}\n{errors}");
    assert!(out.lines().any(|line| line == "value"), "{out}\n{errors}");
    // A header and a row for each that is up by then: at least the majority that took the write.
    assert!(out.lines().filter(|line| line.contains("leader") || line.contains("follower")).count() >= 3, "{out}");
}

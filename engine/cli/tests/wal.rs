//! `wal verify` and `wal dump` on logs that a replica wrote.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{CLUSTER, Servers, bad, good, run, stdout};
use kontiki_core::{Base, ClusterId, LogIndex, Term};
use kontiki_snapshot::{Head, Part, encode, names};
use rustix::process::Signal;

/// A log of some frames, left by a clean stop.
fn log() -> (Servers, PathBuf) {
    let mut servers = Servers::start(1);
    for n in 0..10 {
        good(&run(&["put", &format!("key-{n}"), "value", "--to", &servers.to()]));
    }
    servers.signal(1, Signal::TERM);
    assert_eq!(servers.wait_ended(1), Some(0), "{}", servers.log(1));
    let data = servers.data(1);
    (servers, data)
}

fn wal(what: &str, data: &Path) -> std::process::Output {
    run(&["wal", what, data.to_str().unwrap()])
}

/// Flips one bit.
fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

#[test]
fn a_good_log_is_intact_and_every_frame_is_named() {
    let (_servers, data) = log();
    let text = good(&wal("verify", &data));
    assert!(text.contains("log-0000000000000001.seg") && text.ends_with("intact\n"), "{text}");
    // The leader's first entry and ten puts, each proposed alone.
    let dump = good(&wal("dump", &data));
    assert_eq!(dump.matches("  offset ").count(), 11, "{dump}");
    assert!(dump.contains("entries 11 to 11 of 11 to 11"), "{dump}");
}

#[test]
fn snapshots_are_looked_at_too() {
    let (_servers, data) = log();
    let base = Base { index: LogIndex(5), term: Term(1), ..Base::default() };
    let head = Head { cluster: ClusterId(u128::from_str_radix(CLUSTER, 16).unwrap()), base, full: true, ..Head::default() };
    let file = data.join(names::snapshot(LogIndex(5)).as_str());
    std::fs::write(&file, encode(head, &[(Part::Machine, b"state")])).unwrap();
    let text = good(&wal("verify", &data));
    assert!(text.contains("snapshot-0000000000000005.ksn: of entry 5 of term 1"), "{text}");
    flip(&file, 100);
    let line = bad(&wal("verify", &data), 1);
    assert!(line.contains("snapshot-0000000000000005.ksn"), "{line}");
}

/// What keeps a replica from starting, or is no use to it, is told by who reads the directory for it.
#[test]
fn what_a_start_refuses_or_passes_over_is_told() {
    let (mut servers, data) = log();
    let base = Base { index: LogIndex(5), term: Term(1), ..Base::default() };
    let ours = Head { cluster: ClusterId(u128::from_str_radix(CLUSTER, 16).unwrap()), base, full: true, ..Head::default() };
    let bytes = encode(ours, &[(Part::Machine, b"state")]);
    let put = |name: &str, bytes: &[u8]| std::fs::write(data.join(name), bytes).unwrap();
    put("backup.ksn", &bytes);
    let text = good(&wal("verify", &data));
    assert!(text.contains("backup.ksn is passed over: a replica takes it under the name snapshot-0000000000000005.ksn"), "{text}");
    put("snapshot-0000000000000006.ksn", &bytes);
    let line = bad(&wal("verify", &data), 1);
    assert!(line.contains("snapshot-0000000000000006.ksn") && line.contains("index"), "{line}");
    std::fs::remove_file(data.join("snapshot-0000000000000006.ksn")).unwrap();
    std::fs::create_dir(data.join("snapshot-0000000000000006.ksn")).unwrap();
    let line = bad(&wal("verify", &data), 1);
    assert!(line.contains("snapshot-0000000000000006.ksn is a directory"), "{line}");

    put("snapshot-0000000000000005.ksn", &encode(Head { cluster: ClusterId(1), ..ours }, &[(Part::Machine, b"state")]));
    let line = bad(&wal("verify", &data), 1);
    let told = "snapshot-0000000000000005.ksn belongs to another cluster or group";
    assert!(line.contains(told) && line.contains("does not start"), "{line}");
    servers.spawn(1);
    assert_eq!(servers.wait_ended(1), Some(1));
    let log = servers.log(1);
    assert!(log.contains(told) && log.contains("move it to another directory") && log.contains(&data.display().to_string()), "{log}");
}

/// A sole replica whose snapshots are gone: reader and start say what brings it back, and that does.
#[test]
fn a_sole_replica_without_its_snapshots_comes_back_with_a_backup() {
    let mut servers = Servers::start_with(1, "retention_bytes = 4194304\n");
    let (to, value) = (servers.to(), "v".repeat(4000));
    let dir = servers.dir.path().to_path_buf();
    let hex = |index: u64| format!("snapshot-{index:016x}.ksn");
    common::until("the log has forgotten its beginning", || {
        good(&run(&["bench", "--to", &to, "--entry-bytes", "4000", "--seconds", "0.3", "--warmup", "0.1"]));
        good(&run(&["snapshot", "--to", &to]));
        !servers.data(1).join("log-0000000000000001.seg").exists()
    });
    good(&run(&["put", "last", &value, "--to", &to]));
    let backup = dir.join("backup");
    good(&run(&["backup", "--to", &to, backup.to_str().unwrap()]));
    servers.signal(1, Signal::TERM);
    assert_eq!(servers.wait_ended(1), Some(0), "{}", servers.log(1));
    let data = servers.data(1);
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "ksn") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let line = bad(&wal("verify", &data), 1);
    assert!(line.contains("no intact snapshot here") && line.contains("kontiki snapshot verify"), "{line}");
    servers.spawn(1);
    assert_eq!(servers.wait_ended(1), Some(1));
    assert!(servers.log(1).contains("Put a backup of this replica, as of entry "), "{}", servers.log(1));

    let text = good(&run(&["snapshot", "verify", backup.to_str().unwrap()]));
    let name = text.lines().find_map(|line| line.strip_prefix("a replica takes it under the name ")).unwrap();
    let index = text.split("entry ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!(name, hex(index));
    std::fs::copy(&backup, data.join(name)).unwrap();
    assert!(good(&wal("verify", &data)).ends_with("intact\n"));
    servers.spawn(1);
    assert!(servers.wait_answering(1));
    servers.wait_leader();
    assert!(good(&run(&["get", "last", "--to", &to])).contains(&value));
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let (_servers, data) = log();
    let segment = data.join("log-0000000000000001.seg");
    let dump = good(&wal("dump", &data));
    let offset: u64 =
        dump.lines().filter_map(|l| l.trim().strip_prefix("offset ")).nth(4).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    // Stamp, sealed header, an entry: each is under a checksum.
    for at in [16, 100, 200] {
        flip(&segment, offset + at);
        let output = wal("verify", &data);
        let line = bad(&output, 1);
        assert!(
            line.contains("damage") && line.contains(&format!("offset {offset}")) && line.contains("log-0000000000000001.seg"),
            "{line}"
        );
        assert!(stdout(&output).contains("log-0000000000000001.seg"), "the segments are named all the same");
        flip(&segment, offset + at);
    }
    good(&wal("verify", &data));
}

#[test]
fn a_damaged_hard_state_is_found() {
    let (_servers, data) = log();
    flip(&data.join("hard-state"), 40);
    let output = wal("verify", &data);
    assert!(bad(&output, 1).contains("hard state"), "{}", stdout(&output));
}

#[test]
fn what_is_no_log_and_what_is_in_use_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    assert!(bad(&wal("verify", empty.path()), 1).contains("not a log"));
    assert!(bad(&wal("verify", &empty.path().join("missing")), 1).contains("missing"));
    let pipe = empty.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    for (path, what) in [(pipe.as_path(), "a pipe"), (Path::new("/dev/null"), "a device"), (Path::new("/etc/hostname"), "a file")] {
        assert!(bad(&wal("verify", path), 1).contains(&format!("it is {what}, and a directory is needed")));
    }
    let servers = Servers::start(1);
    assert!(bad(&wal("verify", &servers.data(1)), 1).contains("in use"));
}

/// What has a segment's name and is no file is none of the log's: a replica passes it over, and so does who reads the
/// log for it.
#[test]
fn what_is_no_file_is_passed_over() {
    let (_servers, data) = log();
    rustix::fs::mknodat(rustix::fs::CWD, data.join("log-0000000000000007.seg"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    std::fs::create_dir(data.join("log-0000000000000008.seg")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", data.join("log-0000000000000009.seg")).unwrap();
    std::fs::remove_file(data.join("kontiki.lock")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, data.join("kontiki.lock"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert!(good(&wal("verify", &data)).ends_with("intact\n"));
}

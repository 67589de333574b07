//! Administrative requests to running replicas: `snapshot --to`, `backup`, and from where they are taken.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use common::wire::{Between, Fate, liar};
use common::{Servers, bad, good, run, stdout};
use kontiki::client::{ClientOptions, SnapshotClient};
use kontiki_core::{Base, ClusterId, LogIndex, NodeId, Subterm, Term};
use kontiki_net::SnapshotId;
use kontiki_snapshot::offline::verify;
use kontiki_snapshot::{Head, Info, Part, encode};
use rustix::process::{Pid, Signal, kill_process};

const CHUNK: u64 = 64 << 10;

/// A replica whose state takes several chunks.
fn filled() -> Servers {
    let servers = Servers::start(1);
    for n in 0..100 {
        put(&servers, &format!("key-{n}"));
    }
    servers
}

fn put(servers: &Servers, key: &str) {
    good(&run(&["put", key, &key.repeat(400), "--to", &servers.to()]));
}

fn backup(to: &str, file: &Path, more: &[&str]) -> std::process::Output {
    run(&[&["backup", "--to", to, file.to_str().unwrap()], more].concat())
}

fn part(file: &Path) -> PathBuf {
    file.with_extension("ksn.part")
}

/// The digest that `snapshot verify` finds.
fn verified(file: &Path) -> String {
    let text = good(&run(&["snapshot", "verify", file.to_str().unwrap()]));
    text.lines().find_map(|line| line.strip_prefix("digest ")).unwrap().to_owned()
}

#[test]
fn every_replica_makes_a_snapshot_when_it_is_asked() {
    let mut servers = Servers::start(3);
    put(&servers, "city");
    let config = servers.config(2);
    for arguments in [["snapshot", "--to", &servers.to()], ["snapshot", "--all", config.to_str().unwrap()]] {
        let text = good(&run(&arguments));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        for (id, line) in (1..).zip(lines) {
            assert!(line.starts_with(&format!("node {id} at {}: a full one, as of entry ", servers.addr(id))), "{line}");
            let index: u64 = line.split("entry ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
            let file = servers.data(id).join(format!("snapshot-{index:016x}.ksn"));
            assert!(line.ends_with(&format!("digest {}", verified(&file))), "{line}");
        }
    }
    servers.kill(2);
    let output = run(&["snapshot", "--to", &servers.to()]);
    let line = bad(&output, 1);
    assert_eq!(stdout(&output).lines().count(), 2, "the others have one");
    assert!(line.starts_with("kontiki: no snapshot: ") && line.contains(&servers.addr(2)) && !line.contains(&servers.addr(1)), "{line}");
}

/// The same requests are refused from elsewhere, in words that say what would allow them, and leave nothing behind.
#[test]
fn other_machines_are_refused_unless_any_is_written() {
    // Nothing is sent: only the way there is looked up.
    let local = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9").and(socket.local_addr()));
    let Some(own) = local.ok().map(|addr| addr.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified()) else {
        return println!("skipped: this machine has no address but loopback");
    };
    let mut servers = Servers::start(1);
    put(&servers, "city");
    let port = servers.addrs[0].port();
    let (text, elsewhere) = (fs::read_to_string(servers.config(1)).unwrap(), SocketAddr::from((own, port)).to_string());
    let file = servers.dir.path().join("copy.ksn");
    for (admin, allowed) in [("", false), ("admin = \"loopback\"\n", false), ("admin = \"any\"\n", true)] {
        servers.kill(1);
        fs::write(servers.config(1), format!("listen = \"0.0.0.0:{port}\"\n{admin}{text}")).unwrap();
        servers.spawn(1);
        assert!(servers.wait_answering(1));
        servers.wait_leader();
        for output in [run(&["snapshot", "--to", &elsewhere]), backup(&elsewhere, &file, &[])] {
            if allowed {
                good(&output);
            } else {
                let line = bad(&output, 1);
                assert!(line.contains(&elsewhere) && line.contains("admin = \"any\""), "{line}");
            }
        }
        assert_eq!(file.exists(), allowed);
        assert!(!part(&file).exists());
        good(&run(&["snapshot", "--to", &servers.to()]));
    }
}

#[test]
fn a_copy_is_whole_and_takes_the_place_of_nothing_unless_it_is_told_to() {
    let servers = filled();
    let file = servers.dir.path().join("copy.ksn");
    let first = good(&backup(&servers.to(), &file, &[]));
    let digest = verified(&file);
    assert!(first.contains(&digest) && first.contains("copy.ksn") && fs::metadata(&file).unwrap().len() > 2 * CHUNK, "{first}");
    assert!(!part(&file).exists());

    put(&servers, "more");
    let before = fs::read(&file).unwrap();
    let line = bad(&backup(&servers.to(), &file, &[]), 2);
    assert!(line.contains("--force") && line.contains("copy.ksn"), "{line}");
    assert!(fs::read(&file).unwrap() == before && !part(&file).exists());
    // The newest is the one that was made for the first copy; one made now holds what was written since.
    good(&backup(&servers.to(), &file, &["--force", "--newest"]));
    assert!(fs::read(&file).unwrap() == before);
    good(&backup(&servers.to(), &file, &["--force"]));
    assert_ne!(verified(&file), digest);

    assert!(bad(&backup(&servers.to(), servers.dir.path(), &["--force"]), 2).contains("directory"));
    assert!(bad(&backup(&servers.to(), Path::new("/dev/null"), &["--force"]), 2).contains("device"));
    assert!(bad(&backup(&servers.to(), Path::new(".."), &[]), 2).contains("no file"));
    let link = servers.dir.path().join("link.ksn");
    std::os::unix::fs::symlink(&file, part(&link)).unwrap();
    let before = fs::read(&file).unwrap();
    let line = bad(&backup(&servers.to(), &link, &[]), 2);
    assert!(line.contains("link.ksn.part is a symbolic link: remove it"), "{line}");
    assert!(fs::read(&file).unwrap() == before, "nothing is written through a link");
    let nowhere = servers.dir.path().join("missing").join("copy.ksn");
    assert!(bad(&backup(&servers.to(), &nowhere, &[]), 1).contains("missing"));
    assert!(bad(&backup("127.0.0.1:1", &part(&file), &[]), 1).contains("127.0.0.1:1"));
    assert!(!part(&part(&file)).exists(), "nothing is left of what never began");
}

/// What somebody else keeps under the part's name is not written over, whatever it is, nor removed; --force does both.
#[test]
fn what_is_there_under_the_parts_name_and_is_none_stays() {
    let servers = filled();
    let file = servers.dir.path().join("copy.ksn");
    let others = part(&file);
    let whole = servers.dir.path().join("other.ksn");
    good(&backup(&servers.to(), &whole, &[]));
    put(&servers, "more");
    good(&run(&["snapshot", "--to", &servers.to()]));
    for (held, what, newest) in [
        (b"my notes".to_vec(), "no part of a snapshot", false),
        (b"my notes".repeat(20_000), "no part of a snapshot", true),
        (fs::read(&whole).unwrap(), "a whole snapshot", false),
        (fs::read(&whole).unwrap(), "a whole snapshot", true),
    ] {
        fs::write(&others, &held).unwrap();
        let more: &[&str] = if newest { &["--newest"] } else { &[] };
        let line = bad(&backup(&servers.to(), &file, more), 2);
        assert!(line.contains(what) && line.contains("copy.ksn.part") && line.contains("--force"), "{line}");
        bad(&backup("127.0.0.1:1", &file, &["--force"]), 1);
        assert!(fs::read(&others).unwrap() == held && !file.exists(), "it is as it was: {what}");
    }
    good(&backup(&servers.to(), &file, &["--force"]));
    assert!(!others.exists());
    verified(&file);
}

/// Where there is no room for the copy, that is said before any of it comes; what a failing disk has taken is named, so that
/// it can be removed.
#[test]
fn a_copy_without_room_is_told_so_and_what_has_come_is_named() {
    let servers = filled();
    let file = servers.dir.path().join("copy.ksn");
    let program = format!("{} backup --to {} ", env!("CARGO_BIN_EXE_kontiki"), servers.to());
    let sh = |script: String| std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    // In units of 512 or 1024 bytes, as the shell has it: one chunk, or three, of five.
    let line = bad(&sh(format!("ulimit -f 200; exec {program}{}", file.display())), 1);
    let had = fs::metadata(part(&file)).unwrap().len();
    assert!(had >= CHUNK, "{line}");
    assert!(line.contains("cannot write") && line.contains("copy.ksn.part holds the first ") && line.contains("may be removed"), "{line}");

    let small = servers.dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted =
        format!("unshare -Urm sh -c 'mount -t tmpfs -o size=128k none {0} || exit 77; {program}{0}/copy.ksn; code=$?;", small.display());
    let output = sh(format!("{mounted} ls {}; exit $code'", small.display()));
    assert!(stdout(&output).is_empty(), "nothing is left there: {}", stdout(&output));
    if !common::stderr(&output).contains("kontiki: ") {
        return println!("skipped in part: nothing can be mounted here: {}", common::stderr(&output));
    }
    let line = bad(&output, 1);
    assert!(line.contains("no room: ") && line.contains("131,072 free") && line.contains("copy.ksn.part"), "{line}");
}

/// Whatever stands in the way of the part is named by its kind, and so is what to do.
#[test]
fn what_is_no_file_under_the_parts_name_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copy.ksn");
    let check = |what: &str| {
        let line = bad(&backup("127.0.0.1:1", &file, &["--force"]), 2);
        assert!(line.contains(&format!("copy.ksn.part is {what}: remove it, or name another file")), "{line}");
    };
    std::os::unix::fs::symlink("nowhere", part(&file)).unwrap();
    check("a symbolic link");
    fs::remove_file(part(&file)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, part(&file), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    check("a pipe");
    fs::remove_file(part(&file)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(part(&file)).unwrap());
    check("a socket");
    fs::remove_file(part(&file)).unwrap();
    fs::create_dir(part(&file)).unwrap();
    check("a directory");
    let line = bad(&backup("127.0.0.1:1", Path::new("-"), &[]), 2);
    assert!(line.contains("standard output"), "{line}");
}

/// One at a time: the second is told so; and a replica that has none does not make one up.
#[test]
fn one_copy_at_a_time_and_none_of_nothing() {
    let servers = Servers::start(1);
    put(&servers, "city");
    let file = servers.dir.path().join("copy.ksn");
    assert!(bad(&backup(&servers.to(), &file, &["--newest"]), 1).contains("no snapshot"));
    let first = SnapshotClient::connect(servers.addrs[0], ClientOptions::default()).unwrap();
    assert!(bad(&backup(&servers.to(), &file, &[]), 1).contains("one at a time"));
    assert!(!file.exists() && !part(&file).exists());
    drop(first);
    common::until("its place is free again", || backup(&servers.to(), &file, &[]).status.success());
}

/// Whatever breaks on the way, the copy is the same in the end, and little comes twice.
#[test]
fn a_copy_goes_on_over_broken_connections_and_damage() {
    let servers = filled();
    let file = servers.dir.path().join("copy.ksn");
    let fates = [Fate::Cut(CHUNK + CHUNK / 2), Fate::Spoilt(CHUNK + 5_000), Fate::Cut(100), Fate::Whole];
    let between = Between::new(servers.addrs[0], &fates);
    good(&backup(&between.addr.to_string(), &file, &[]));
    assert!(!part(&file).exists());
    let digest = verified(&file);
    good(&backup(&servers.to(), &file, &["--force", "--newest"]));
    assert_eq!(verified(&file), digest);
}

/// A copy that is broken off for good leaves no file under its name, and its part is gone on with, if it is one of the same
/// snapshot.
#[test]
fn what_was_broken_off_is_gone_on_with_and_nothing_else_is() {
    let servers = filled();
    let file = servers.dir.path().join("copy.ksn");
    let between = Between::new(servers.addrs[0], &[Fate::Cut(3 * CHUNK)]);
    let line = bad(&backup(&between.addr.to_string(), &file, &[]), 1);
    assert!(line.contains("broken off") && line.contains("copy.ksn.part") && line.contains("--newest"), "{line}");
    assert!(!file.exists());
    let had = fs::metadata(part(&file)).unwrap().len();
    assert_eq!(had, 2 * CHUNK, "what had come whole");
    let left = fs::read(part(&file)).unwrap();

    let between = Between::new(servers.addrs[0], &[Fate::Whole]);
    good(&backup(&between.addr.to_string(), &file, &["--newest"]));
    let (digest, bytes) = (verified(&file), fs::metadata(&file).unwrap().len());
    assert!(between.bytes() < bytes, "{} bytes came, of {bytes}: not all of it again", between.bytes());

    // What is damaged in it does not count, nor anything behind that; of another snapshot it is of no use.
    let mut spoilt = left.clone();
    spoilt[CHUNK as usize + 100] ^= 1;
    put(&servers, "more");
    for (part_of_it, newest) in [(&spoilt, "--newest"), (&b"no snapshot".to_vec(), "--newest"), (&left, "--force")] {
        fs::write(part(&file), part_of_it).unwrap();
        good(&backup(&servers.to(), &file, &["--force", newest][usize::from(newest == "--force")..]));
        assert_eq!(verified(&file) == digest, newest == "--newest");
        assert!(!part(&file).exists());
    }
}

/// One process writes a part, and what ends in the middle of it leaves that alone.
#[test]
fn an_interrupted_copy_leaves_its_part_alone() {
    let servers = filled();
    let file = servers.dir.path().join("copy.ksn");
    let between = Between::new(servers.addrs[0], &[Fate::Stalled(3 * CHUNK), Fate::Whole]);
    let to = between.addr.to_string();
    let first = common::kontiki(&["backup", "--to", &to, file.to_str().unwrap()]).spawn().unwrap();
    common::until("some of it has come", || fs::metadata(part(&file)).is_ok_and(|part| part.len() == 2 * CHUNK));
    assert!(bad(&backup(&servers.to(), &file, &[]), 1).contains("another backup is writing"));
    // (SIGINT is ignored where a shell has put the tests into the background.)
    kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    assert!(!common::wait(first).success());
    assert!(!file.exists() && fs::metadata(part(&file)).unwrap().len() == 2 * CHUNK);
    common::until("its place is free again", || backup(&servers.to(), &file, &["--newest"]).status.success());
    verified(&file);
}

/// A file that cannot be written any further: that is said, nothing gets the name, and the part is good to go on with.
#[test]
fn a_copy_that_finds_no_room_is_gone_on_with_once_there_is_some() {
    let servers = filled();
    let file = servers.dir.path().join("copy.ksn");
    // In blocks of 512 or 1024 bytes, as the shell has it: less than the copy, and more than a chunk.
    let limited = "ulimit -f 256; exec \"$0\" backup --to \"$1\" \"$2\"";
    let arguments = ["-c", limited, env!("CARGO_BIN_EXE_kontiki"), &servers.to(), file.to_str().unwrap()];
    let line = bad(&std::process::Command::new("sh").args(arguments).output().unwrap(), 1);
    assert!(line.contains("cannot write") && line.contains("copy.ksn.part"), "{line}");
    assert!(!file.exists() && fs::metadata(part(&file)).unwrap().len() >= CHUNK);
    let between = Between::new(servers.addrs[0], &[Fate::Whole]);
    good(&backup(&between.addr.to_string(), &file, &["--newest"]));
    verified(&file);
    let bytes = fs::metadata(&file).unwrap().len();
    assert!(between.bytes() < bytes, "{} bytes came, of {bytes}", between.bytes());
}

/// Another snapshot than was said, or not all of one: whatever each chunk looks like, it gets no name.
#[test]
fn what_is_not_what_it_was_said_to_be_gets_no_name() {
    let base = Base { index: LogIndex(9), term: Term(2), subterm: Subterm(0) };
    let state = vec![7; 200_000];
    let bytes = encode(Head { cluster: ClusterId(1), base, full: true, ..Head::default() }, &[(Part::Machine, &state)]);
    let mut rest = &bytes[..];
    let info: Info = verify(|into| std::io::Read::read(&mut rest, into), |_| {}).unwrap();
    let id = SnapshotId { source: NodeId(3), index: base.index, term: base.term, digest: info.digest.0 };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copy.ksn");
    let length = bytes.len() as u64;
    for (what, id, length) in [
        ("digest", SnapshotId { digest: 5, ..id }, length),
        ("index", SnapshotId { index: LogIndex(10), ..id }, length),
        ("term", SnapshotId { term: Term(1), ..id }, length),
        ("not all of it", id, length - CHUNK),
    ] {
        let line = bad(&backup(&liar(id, length, bytes.clone()).to_string(), &file, &[]), 1);
        assert!(line.contains("another snapshot") && line.contains("node 3"), "{what}: {line}");
        assert!(!file.exists() && !part(&file).exists(), "{what}");
    }
    let mut spoilt = bytes.clone();
    spoilt[70_000] ^= 1;
    let line = bad(&backup(&liar(id, length, spoilt).to_string(), &file, &[]), 1);
    assert!(line.contains("damaged") && !file.exists(), "{line}");
    fs::remove_file(part(&file)).unwrap();
    good(&backup(&liar(id, length, bytes.clone()).to_string(), &file, &[]));
    assert!(fs::read(&file).unwrap() == bytes);
}

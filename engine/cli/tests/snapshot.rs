//! `snapshot verify` on good files, and on everything else.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{bad, good, run, stdout};
use kontiki_core::{Base, ClusterId, LogIndex, Subterm, Term};
use kontiki_snapshot::{Head, Part, encode};

fn verify(file: &Path) -> std::process::Output {
    run(&["snapshot", "verify", file.to_str().unwrap()])
}

/// A snapshot of 200,000 bytes of state: five chunks with head, foot, and three of the machine's.
fn snapshot(dir: &Path) -> (PathBuf, Vec<u8>) {
    let base = Base { index: LogIndex(1000), term: Term(3), subterm: Subterm(0) };
    let state: Vec<u8> = (0..196_000u32).map(|n| (n ^ n >> 8) as u8).collect();
    let bytes = encode(Head { cluster: ClusterId(0xc1), base, full: true, ..Head::default() }, &[(Part::Machine, &state)]);
    let file = dir.join("snapshot-00000000000003e8.ksn");
    std::fs::write(&file, &bytes).unwrap();
    (file, bytes)
}

#[test]
fn a_good_one_is_intact_and_says_of_what() {
    let dir = tempfile::tempdir().unwrap();
    let (file, bytes) = snapshot(dir.path());
    let text = good(&verify(&file));
    for part in [
        "under the name snapshot-00000000000003e8.ksn\n",
        "at 1970-01-01 00:00:00 UTC",
        "entry 1000 of term 3",
        "000000000000000000000000000000c1",
        "196,000",
        "digest ",
        "full",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.ends_with("intact\n"), "{text}");
    assert!(std::fs::read(&file).unwrap() == bytes, "nothing is changed");
}

#[test]
fn damage_is_found_and_its_place_named() {
    let dir = tempfile::tempdir().unwrap();
    let (file, bytes) = snapshot(dir.path());
    for (at, chunk) in [(100, 0), (65_536 + 9, 1), (150_000, 2), (bytes.len() - 1, 4)] {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 2;
        std::fs::write(&file, &spoilt).unwrap();
        let output = verify(&file);
        let line = bad(&output, 1);
        if chunk == 0 {
            assert!(line.contains("no snapshot"), "{line}");
        } else {
            assert!(line.contains(&format!("chunk {chunk}, at byte {}", chunk * 65_536)), "{line}");
            assert!(stdout(&output).contains("entry 1000"), "what it is of is told all the same");
        }
    }
    for (what, len) in [("nothing", 0), ("a part of a chunk", 70_000), ("no foot", bytes.len() - 65_536)] {
        std::fs::write(&file, &bytes[..len]).unwrap();
        assert!(bad(&verify(&file), 1).contains("it ends before its end"), "{what}");
    }
    std::fs::write(&file, [&bytes[..], b"more"].concat()).unwrap();
    assert!(bad(&verify(&file), 1).contains("more behind its end"));
}

#[test]
fn what_is_none_or_is_not_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    assert!(bad(&verify(&dir.path().join("missing")), 1).contains("missing"));
    let text = dir.path().join("text");
    std::fs::write(&text, "no snapshot at all\n".repeat(10_000)).unwrap();
    assert!(bad(&verify(&text), 1).contains("no snapshot"));
    assert!(bad(&verify(dir.path()), 1).contains("it is a directory, and a file is needed"));
    assert!(bad(&verify(Path::new("/dev/zero")), 1).contains("it is a device"));
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert!(bad(&verify(&pipe), 1).contains("it is a pipe"));
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(bad(&verify(&socket), 1).contains("it is a socket"));
}

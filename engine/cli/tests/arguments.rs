//! What the program says of itself, and of arguments and configurations that cannot be.
#![allow(clippy::unwrap_used)]

mod common;

use common::{bad, config, free_addrs, good, run};

#[test]
fn help_names_every_command_and_hides_what_is_internal() {
    let help = good(&run(&["--help"]));
    for command in ["demo", "serve", "put", "get", "status", "bench", "wal", "snapshot", "backup"] {
        assert!(help.contains(&format!("  {command} ")), "{command}");
        assert!(good(&run(&[command, "--help"])).contains("Usage: kontiki"), "{command}");
    }
    for hidden in ["bench-node", "bench-client", "bench-floor"] {
        assert!(!help.contains(hidden), "{hidden}");
    }
    assert!(!good(&run(&["serve", "--help"])).contains("ledger"));
}

#[test]
fn unknown_commands_and_values_are_usage_errors() {
    for arguments in [
        &["fly"][..],
        &[],
        &["serve"],
        &["demo", "--replicas", "10"],
        &["demo", "--entry-bytes", "15"],
        &["demo", "--seconds", "soon"],
        &["bench", "--entry-bytes", "0"],
        &["put", "key"],
        &["get", "key"],
        &["get", "key", "--to", "nowhere"],
        &["wal", "mend", "/"],
        &["snapshot"],
        &["snapshot", "--to", "nowhere"],
        &["snapshot", "--to", "node1:1", "--all", "node.toml"],
        &["snapshot", "--to", "node1:1", "verify", "file"],
        &["backup", "file"],
        &["backup", "--to", "node1:1"],
        &["backup", "--to", "node1:1,node2:1", "file"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_bad_setting_is_named_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("plot.svg");
    for (set, name) in [("heartbeat_ms=0", "heartbeat_ms"), ("colour=blue", "colour"), ("id=3", "id"), ("medium", "KEY=VALUE")] {
        let output = run(&["demo", "--plot", plot.to_str().unwrap(), "--dir", dir.path().to_str().unwrap(), "--set", set]);
        let line = common::stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.contains(name), "{set}: {line}");
    }
}

#[test]
fn a_bad_configuration_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let good = config(common::CLUSTER, 1, &free_addrs(1), &dir.path().join("data"));
    for (from, to, name) in [
        ("id = 1\ndir", "id = 7\ndir", "`id`"),
        ("cluster = \"0000", "cluster = \"", "cluster"),
        ("max_frame_bytes = 65536", "max_frame_bytes = 65537", "max_frame_bytes"),
        ("ring_bytes", "ring_bites", "ring_bites"),
        ("ring_bytes", "admin = \"all\"\nring_bytes", "`loopback` or `any`"),
        ("[[members]]", "[[members]", "members"),
    ] {
        assert!(good.contains(from));
        std::fs::write(&path, good.replace(from, to)).unwrap();
        let output = run(&["serve", "--config", path.to_str().unwrap()]);
        bad(&output, 2);
        let text = common::stderr(&output);
        assert!(text.starts_with("kontiki: configuration") && text.contains(name), "{name}: {text}");
    }
    assert!(!dir.path().join("data").exists(), "nothing was made");
    let output = run(&["serve", "--config", "/does/not/exist.toml"]);
    assert!(bad(&output, 2).contains("/does/not/exist.toml"));
}

#[test]
fn the_example_configuration_is_accepted() {
    let example = good(&run(&["serve", "--example-config"]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    // Accepted up to the directory, which cannot be made: so nothing starts.
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    std::fs::write(&path, example.replace("\"kontiki-data-1\"", &format!("{:?}", file.join("data")))).unwrap();
    let line = bad(&run(&["serve", "--config", path.to_str().unwrap()]), 1);
    assert!(line.contains("file/data"), "{line}");
}

/// Help is output like any other: where it cannot be written, that is a failure, and said.
#[test]
fn help_that_cannot_be_written_is_a_failure() {
    for arguments in
        [&["--help"][..], &["--version"], &["put", "--help"], &["completions", "bash"], &["man"], &["serve", "--example-config"]]
    {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = common::kontiki(arguments).stdout(full).output().unwrap();
        assert!(bad(&output, 1).contains("cannot write"), "{arguments:?}");
    }
}

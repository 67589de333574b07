//! Starts that must be refused, each with one line that says why.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use common::{CLUSTER, Servers, bad, config, free_addrs, good, run};
use rustix::process::Signal;

/// Tries to serve and expects exit code 1: the last line of standard error.
fn refused(dir: &Path, text: &str) -> String {
    let path = dir.join("refused.toml");
    std::fs::write(&path, text).unwrap();
    let line = bad(&run(&["serve", "--config", path.to_str().unwrap()]), 1);
    assert!(line.starts_with("kontiki: cannot start: "), "{line}");
    line
}

#[test]
fn a_port_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr: SocketAddr = taken.local_addr().unwrap();
    let line = refused(dir.path(), &config(CLUSTER, 1, &[addr], &dir.path().join("data")));
    assert!(line.contains(&addr.to_string()), "{line}");
}

#[test]
fn a_directory_in_use_by_another_replica() {
    let servers = Servers::start(1);
    let line = refused(servers.dir.path(), &config(CLUSTER, 1, &free_addrs(1), &servers.data(1)));
    assert!(line.contains("in use by another process"), "{line}");
    // The replica that has it is not disturbed.
    good(&run(&["put", "k", "v", "--to", &servers.to()]));
}

#[test]
fn the_directory_of_another_cluster_or_node() {
    let mut servers = Servers::start(1);
    good(&run(&["put", "k", "v", "--to", &servers.to()]));
    servers.signal(1, Signal::TERM);
    assert_eq!(servers.wait_ended(1), Some(0));

    let other = "0000000000000000000000000000beef";
    let line = refused(servers.dir.path(), &config(other, 1, &free_addrs(1), &servers.data(1)));
    assert!(line.contains(other) && line.contains(CLUSTER), "{line}");
    let line = refused(servers.dir.path(), &config(CLUSTER, 2, &free_addrs(2), &servers.data(1)));
    assert!(line.contains("node 1") && line.contains("node 2"), "{line}");

    // Nothing was changed by the attempts.
    servers.spawn(1);
    assert!(servers.wait_answering(1));
    assert_eq!(good(&run(&["get", "k", "--to", &servers.to()])), "v\n");
}

#[test]
fn a_directory_that_cannot_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(data.join("probe"), "").is_ok() {
        // Permissions do not bind this user (root): there is nothing to see here.
        return;
    }
    let line = refused(dir.path(), &config(CLUSTER, 1, &free_addrs(1), &data));
    assert!(line.contains("permission") || line.contains("write"), "{line}");
}

#[test]
fn a_directory_that_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::write(&data, "").unwrap();
    let line = refused(dir.path(), &config(CLUSTER, 1, &free_addrs(1), &data));
    assert!(line.contains("data"), "{line}");
}

/// A configuration that is another file, or a device without an end: named, and not read to an end that never comes.
#[test]
fn a_configuration_that_is_none() {
    for (path, says) in [("/dev/zero", "longer than 1048576 bytes"), ("/tmp", "directory"), ("/dev/null", "`cluster` is missing")] {
        let line = bad(&run(&["serve", "--config", path]), 2);
        assert!(line.contains(path) && line.contains(says), "{line}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    let text = config(CLUSTER, 1, &free_addrs(1), &dir.path().join("data"));
    for (more, says) in [("heartbeat_ms = 149\n", "three times heartbeat_ms"), ("medium = \"flash\"\n", "`safe` or `lossy`")] {
        std::fs::write(&path, format!("{more}{text}")).unwrap();
        let output = run(&["serve", "--config", path.to_str().unwrap()]);
        bad(&output, 2);
        assert!(common::stderr(&output).contains(says) && common::stderr(&output).contains("node.toml"), "{}", common::stderr(&output));
    }
}

//! Short runs of `demo` and `bench`: the program proves something, these tests see that it does.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Stdio;

use common::{Servers, good, kontiki, run, until, wait};
use rustix::process::{Pid, Signal, kill_process};

/// A short demo with its files in a directory of its own; the plot stays for a look.
fn demo(extra: &[&str]) -> (String, tempfile::TempDir) {
    demo_of("killed with SIGKILL", extra)
}

/// The same, and it says this on its way.
fn demo_of(said: &str, extra: &[&str]) -> (String, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (path, plot) = (dir.path().to_str().unwrap(), dir.path().join("plot.svg"));
    let base = ["demo", "--seconds", "1.5", "--dir", path, "--plot", plot.to_str().unwrap()];
    let output = good(&run(&[&base[..], extra].concat()));
    assert!(output.contains("No acknowledged write is lost"), "{output}");
    assert!(output.contains(said), "{output}");
    assert!(std::fs::read_to_string(&plot).unwrap().contains("kill"));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["plot.svg"], "the replicas' directories are removed");
    (output, dir)
}

#[test]
fn three_replicas_lose_their_leader() {
    let (output, _) = demo(&[]);
    assert!(output.contains("restarted (its start number 2)"), "{output}");
}

#[test]
fn one_replica_is_killed_and_comes_back() {
    demo(&["--replicas", "1", "--entry-bytes", "1000", "--in-flight", "7"]);
}

#[test]
fn all_replicas_are_killed_twice() {
    let (output, _) = demo(&["--kill", "all", "--kills", "2", "--resume"]);
    assert_eq!(output.matches("all 3 replicas killed").count(), 2, "{output}");
}

/// The long form is in `docs/testing.md`.
#[test]
fn random_replicas_are_killed_on_both_backends() {
    for backend in ["backend=auto", "backend=portable"] {
        let (output, _) = demo_of("kill 6: ", &["--kill", "random", "--kills", "6", "--resume", "--in-flight", "16", "--set", backend]);
        assert!(!output.contains("kill 7: "), "{output}");
    }
}

#[test]
fn an_interrupted_demo_leaves_nothing_but_what_was_there() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::KILL] {
        let dir = tempfile::tempdir().unwrap();
        let (path, plot) = (dir.path().to_str().unwrap(), dir.path().join("plot.svg"));
        std::fs::write(&plot, "the last plot").unwrap();
        let child = kontiki(&["demo", "--seconds", "600", "--dir", path, "--plot", plot.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Interrupted once it has made a directory for its replicas, wherever it is then.
        let left = || std::fs::read_dir(dir.path()).unwrap().count();
        until("the demo does not begin", || left() == 2);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = wait(child);
        if signal != Signal::KILL {
            assert_eq!(status.code(), Some(130), "{signal:?}: {status:?}");
        }
        until("the replicas' directories stay", || left() == 1);
        assert_eq!(std::fs::read_to_string(&plot).unwrap(), "the last plot", "{signal:?}");
    }
}

fn json(output: &str) -> serde_json::Value {
    assert_eq!(output.lines().count(), 1, "{output}");
    serde_json::from_str(output).unwrap()
}

#[test]
fn bench_measures_its_own_cluster() {
    for replicas in ["1", "3"] {
        let output = good(&run(&[
            "bench",
            "--replicas",
            replicas,
            "--entry-bytes",
            "16",
            "--in-flight",
            "64",
            "--seconds",
            "0.5",
            "--warmup",
            "0.1",
            "--json",
        ]));
        let report = json(&output);
        for key in ["entries_per_s", "p50_us", "p99_us", "p999_us", "cpu_us_per_entry", "rss_bytes"] {
            assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {output}");
        }
        assert!(report["p50_us"].as_f64() <= report["p999_us"].as_f64());
    }
}

#[test]
fn bench_measures_a_cluster_that_runs() {
    let servers = Servers::start(1);
    servers.wait_leader();
    let output = good(&run(&[
        "bench",
        "--to",
        &servers.to(),
        "--callers",
        "2",
        "--in-flight",
        "16",
        "--seconds",
        "0.5",
        "--warmup",
        "0.1",
        "--json",
    ]));
    assert!(json(&output)["entries_per_s"].as_f64().unwrap() > 0.0, "{output}");
    let table = good(&run(&["bench", "--to", &servers.to(), "--seconds", "0.2", "--warmup", "0.1"]));
    assert!(table.contains("throughput"), "{table}");
}

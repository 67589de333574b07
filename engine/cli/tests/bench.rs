//! Short runs of `bench` in each of its forms: that it measures, not what.
#![allow(clippy::unwrap_used)]

mod common;

use common::{good, run};

/// A run of a moment; its report.
fn bench(extra: &[&str]) -> serde_json::Value {
    let base = ["bench", "--entry-bytes", "64", "--seconds", "0.4", "--warmup", "0.1", "--json"];
    let output = good(&run(&[&base[..], extra].concat()));
    assert_eq!(output.lines().count(), 1, "{output}");
    serde_json::from_str(&output).unwrap()
}

fn number(report: &serde_json::Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {report}"))
}

#[test]
fn the_floor_has_all_that_it_is_compared_in() {
    for replicas in ["1", "3"] {
        let floor = bench(&["--floor", "--replicas", replicas, "--in-flight", "32"]);
        for key in ["entries_per_s", "p50_us", "p999_us", "cpu_us_per_entry", "rss_bytes", "leader_flushes_per_1000", "entries_per_frame"] {
            assert!(number(&floor, key) > 0.0, "{key}: {floor}");
        }
        assert_eq!(floor["processes"].as_array().unwrap().len().to_string(), replicas);
        // 32 entries of 64 bytes go in blocks of 4 KiB, here and in the log of each.
        assert!(number(&floor, "leader_written_per_payload_byte") >= 1.0);
    }
}

#[test]
fn every_way_to_apply_and_to_call() {
    for extra in [
        &["--apply", "thread", "--callers", "4", "--in-flight", "32"][..],
        &["--apply", "inline", "--in-flight", "1"],
        &["--apply", "driven", "--in-flight", "32"],
    ] {
        let report = bench(extra);
        assert!(number(&report, "entries") > 0.0 && number(&report, "p50_us") > 0.0, "{report}");
        assert_eq!(report["apply"], extra[1]);
        let processes = report["processes"].as_array().unwrap();
        assert!(processes.len() == 3 && processes.iter().all(|p| p["peak_rss_bytes"].as_u64().unwrap() > 0), "{report}");
    }
    assert_eq!(run(&["bench", "--apply", "driven", "--callers", "2"]).status.code(), Some(2));
}

#[test]
fn an_open_loop_proposes_what_is_due_and_no_more() {
    for extra in [&["--apply", "inline"][..], &["--apply", "driven"], &["--clients", "2"]] {
        let report = bench(&[extra, &["--rate", "500"]].concat());
        let due = 0.4 * 500.0;
        let (entries, missed) = (number(&report, "entries"), number(&report, "missed"));
        assert!(entries > 0.0 && entries + missed >= due - 2.0 && entries <= due + 2.0, "{report}");
    }
}

#[test]
fn clients_from_outside_are_processes_of_their_own() {
    let report = bench(&["--clients", "3", "--in-flight", "48"]);
    assert!(number(&report, "entries") > 0.0);
    let names: Vec<&str> = report["processes"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["replica 1", "replica 2", "replica 3", "client 1", "client 2", "client 3"]);
}

#[test]
fn a_report_has_figures_text_and_plots() {
    let dir = tempfile::tempdir().unwrap();
    let (into, files) = (dir.path().join("report"), dir.path().join("files"));
    let arguments = ["bench", "--quick", "--only", "grid,clients,recovery", "--log-mib", "40", "--report"];
    good(&run(&[&arguments[..], &[into.to_str().unwrap(), "--dir", files.to_str().unwrap()]].concat()));
    let text = std::fs::read_to_string(into.join("report.md")).unwrap();
    for part in
        ["## Where", "Entry sizes and proposals in flight", "16 B x 1 ", "Clients from outside", "## Recovery", "throughput-p50.svg"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(into.join("report.json")).unwrap()).unwrap();
    let cell = &json["groups"][0]["cells"][0];
    assert_eq!((cell["engine"].as_array().unwrap().len(), cell["floor"].as_array().unwrap().len()), (1, 1));
    assert!(json["recovery"][0]["open_s"][0].as_f64().unwrap() > 0.0 && json["environment"]["kernel"].is_string());
    for line in text.lines().filter_map(|line| line.strip_prefix("![")) {
        let file = line.split_once("](").unwrap().1.trim_end_matches(')');
        assert!(std::fs::read_to_string(into.join(file)).unwrap().starts_with("<svg"), "{file}");
    }
    assert_eq!(std::fs::read_dir(&files).unwrap().count(), 0, "the replicas' directories are removed");
}

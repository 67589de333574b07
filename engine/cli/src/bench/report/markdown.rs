//! The report as Markdown, for whoever owns such a machine.

use std::fmt::Write as _;

use super::grid::Group;
use super::spread::Spread;
use super::{Drawn, Measured, Rounds, Whole};
use crate::bench::result::Report;
use crate::table::{bytes, count};

/// The text.
pub(super) fn text(whole: &Whole, drawn: &[Drawn]) -> String {
    let mut out = String::from("# Kontiki, measured\n\n");
    if whole.quick {
        out.push_str("**A quick run, to see that everything works: one round of a moment each. Not figures.**\n\n");
    }
    let rounds = match whole.rounds {
        1 => "One round".into(),
        n => format!("Medians of {n} rounds, least and greatest in parentheses"),
    };
    out.push_str(&format!(
        "{rounds}; engine and floor run in turns. *Floor*: the same processes, files and sockets without consensus. *Of the floor*: the engine's \
         figure as a part of the floor's in the same round.\n\n## Where\n\n| | |\n|---|---|\n"
    ));
    let rows = whole.environment.rows().into_iter().chain(whole.probe.iter().flat_map(|probe| probe.rows()));
    for (name, value) in rows {
        row(&mut out, &[name.into(), value]);
    }
    if !whole.set.is_empty() {
        row(&mut out, &["settings".into(), whole.set.join(", ")]);
    }
    for group in &whole.groups {
        section(&mut out, group);
    }
    recovery(&mut out, whole);
    if !drawn.is_empty() {
        out.push_str("\n## Plots\n");
        for plot in drawn {
            let file = plot.file.display();
            // Writing to a string does not fail.
            let _ = write!(out, "\n![{caption}]({file})\n\n{caption}\n", caption = plot.caption);
        }
    }
    out
}

fn section(out: &mut String, group: &Measured) {
    heading(out, group.group);
    if group.group == Group::Open {
        head(out, &["", "answered/s", "p50, us", "p99, us", "p99.9, us", "longest, us", "due, not proposed"]);
        for cell in &group.cells {
            let missed = cell.engine(|r| Some(r.missed as f64));
            row(
                out,
                &[
                    cell.name.clone(),
                    per_s(cell, false),
                    us(cell, |r| r.latency.p50_us),
                    us(cell, |r| r.latency.p99_us),
                    us(cell, |r| r.latency.p999_us),
                    us(cell, |r| r.latency.max_us),
                    shown(missed, |v| count(v as u64)),
                ],
            );
        }
        return;
    }
    let has_floor = group.cells.iter().any(|cell| !cell.floor.is_empty());
    if has_floor {
        head(out, &["", "entries/s", "floor", "of the floor", "p50, us", "floor", "p99, us", "floor", "p99.9, us", "longest, us"]);
    } else {
        head(out, &["", "entries/s", "p50, us", "p99, us", "p99.9, us", "longest, us"]);
    }
    for cell in &group.cells {
        let floor_us = |of: fn(&Report) -> f64| shown(cell.floor(|r| Some(of(r))), whole_us);
        let mut cells = vec![cell.name.clone(), per_s(cell, false)];
        if has_floor {
            cells.extend([per_s(cell, true), shown(cell.ratio(|r| r.entries_per_s), |v| format!("{v:.2}"))]);
        }
        cells.push(us(cell, |r| r.latency.p50_us));
        if has_floor {
            cells.push(floor_us(|r| r.latency.p50_us));
        }
        cells.push(us(cell, |r| r.latency.p99_us));
        if has_floor {
            cells.push(floor_us(|r| r.latency.p99_us));
        }
        cells.extend([us(cell, |r| r.latency.p999_us), us(cell, |r| r.latency.max_us)]);
        row(out, &cells);
    }
    out.push_str("\nWhat it takes:\n\n");
    head(
        out,
        &[
            "",
            "processor, us/entry, all processes",
            "floor",
            "memory of a replica under load",
            "the ring counted once",
            "written per byte of payload",
            "floor",
            "flushes per 1,000 entries",
            "floor",
            "entries per batch",
        ],
    );
    for cell in &group.cells {
        let two = |v: f64| format!("{v:.2}");
        let three = |v: f64| format!("{v:.3}");
        let both = |of: fn(&Report) -> Option<f64>, show: fn(f64) -> String| [shown(cell.engine(of), show), shown(cell.floor(of), show)];
        let [cpu, floor_cpu] = both(|r| r.cpu_us_per_entry, three);
        let [written, floor_written] = both(|r| r.written_per_payload_byte, two);
        let [flushes, floor_flushes] = both(|r| r.leader_flushes_per_1000, two);
        let memory = shown(cell.engine(|r| r.rss_bytes.map(|b| b as f64)), mib);
        let pss =
            shown(cell.engine(|r| r.processes.iter().take(r.replicas).filter_map(|p| p.memory.pss_bytes).max().map(|b| b as f64)), mib);
        let batch = shown(cell.engine(|r| r.entries_per_frame), |v| format!("{v:.1}"));
        row(out, &[cell.name.clone(), cpu, floor_cpu, memory, pss, written, floor_written, flushes, floor_flushes, batch]);
    }
}

fn recovery(out: &mut String, whole: &Whole) {
    if whole.recovery.is_empty() {
        return;
    }
    heading(out, Group::Recovery);
    head(out, &["log", "opened in, s", "MB/s", "read and checksummed in, s", "recovery's speed, of reading's"]);
    for log in &whole.recovery {
        let speed = log.open().map_or("-".into(), |open| count((log.bytes as f64 / 1e6 / open.median.max(1e-9)) as u64));
        let seconds = |spread: Option<Spread>| shown(spread, |v| format!("{v:.2}"));
        row(out, &[bytes(log.bytes), seconds(log.open()), speed, seconds(log.read()), seconds(log.ratio())]);
    }
}

fn heading(out: &mut String, group: Group) {
    let _ = write!(out, "\n## {}\n\n{}\n\n", group.title(), group.explanation());
}

fn head(out: &mut String, cells: &[&str]) {
    row(out, &cells.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>());
    out.push_str("|---|");
    out.push_str(&"---:|".repeat(cells.len().saturating_sub(1)));
    out.push('\n');
}

fn row(out: &mut String, cells: &[String]) {
    for cell in cells {
        let _ = write!(out, "| {} ", cell.replace('|', "/"));
    }
    out.push_str("|\n");
}

fn shown(spread: Option<Spread>, show: impl Fn(f64) -> String) -> String {
    spread.map_or_else(|| "-".into(), |spread| spread.show(show))
}

fn per_s(cell: &Rounds, floor: bool) -> String {
    let of = |r: &Report| Some(r.entries_per_s);
    shown(if floor { cell.floor(of) } else { cell.engine(of) }, |v| count(v as u64))
}

fn us(cell: &Rounds, of: fn(&Report) -> f64) -> String {
    shown(cell.engine(|r| Some(of(r))), whole_us)
}

fn whole_us(value: f64) -> String {
    count(value.round() as u64)
}

fn mib(value: f64) -> String {
    format!("{:.1} MiB", value / f64::from(1 << 20))
}

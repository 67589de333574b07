//! One table of medians.

use comfy_table::{CellAlignment, Table, presets};
use peer_common::report::Report;

use crate::contestant::KONTIKI;

/// One run, for whoever watches.
pub(crate) fn line(r: &Report) -> String {
    format!(
        "{} B, {} in flight, {}: {}/s, p50 {} us, p99 {} us, {:.2} us of processor an entry",
        r.entry_bytes,
        r.in_flight,
        r.peer,
        count(r.per_s),
        r.p50_us,
        r.p99_us,
        r.cpu_us_per_entry
    )
}

/// A load and an engine.
type Place<'a> = (usize, usize, &'a str);

fn place(r: &Report) -> Place<'_> {
    (r.entry_bytes, r.in_flight, &r.peer)
}

/// All runs: a row for each load and engine, in the order in which they first ran.
pub(crate) fn markdown(runs: &[Report]) -> Table {
    let mut places: Vec<Place<'_>> = Vec::new();
    for run in runs {
        if !places.contains(&place(run)) {
            places.push(place(run));
        }
    }
    // By load; engines stay in order.
    places.sort_by_key(|(entry_bytes, in_flight, _)| (*entry_bytes, *in_flight));
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "entry, B",
        "in flight",
        "engine",
        "entries/s",
        "least to most",
        "p50, us",
        "p99, us",
        "processor, us an entry",
        "memory, MiB",
        "Kontiki to it",
    ]);
    for at in places {
        let of = |at: Place<'_>, value: fn(&Report) -> f64| Values::new(runs.iter().filter(|r| place(r) == at).map(value));
        let speed = of(at, |r| r.per_s);
        let ours = of((at.0, at.1, KONTIKI), |r| r.per_s);
        table.add_row([
            at.0.to_string(),
            at.1.to_string(),
            at.2.to_owned(),
            count(speed.median()),
            format!("{} to {}", count(speed.least()), count(speed.most())),
            format!("{:.0}", of(at, |r| r.p50_us).median()),
            format!("{:.0}", of(at, |r| r.p99_us).median()),
            format!("{:.2}", of(at, |r| r.cpu_us_per_entry).median()),
            format!("{:.0}", of(at, |r| r.rss_bytes as f64).median() / f64::from(1 << 20)),
            if at.2 == KONTIKI || ours.0.is_empty() { "".into() } else { format!("{:.2}", ours.median() / speed.median()) },
        ]);
    }
    for column in table.column_iter_mut().filter(|c| c.index != 2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What the runs of one place found, in order.
struct Values(Vec<f64>);

impl Values {
    fn new(values: impl Iterator<Item = f64>) -> Values {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Values(values)
    }

    fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        let n = self.0.len();
        match n % 2 {
            _ if n == 0 => f64::NAN,
            0 => f64::midpoint(self.0[n / 2 - 1], self.0[n / 2]),
            _ => self.0[n / 2],
        }
    }
}

/// A number that is easy to compare: thousands apart.
fn count(n: f64) -> String {
    let digits = format!("{n:.0}");
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|c| std::str::from_utf8(c).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(peer: &str, per_s: f64) -> Report {
        Report {
            peer: peer.into(),
            version: String::new(),
            entry_bytes: 16,
            in_flight: 4,
            seconds: 1.0,
            per_s,
            p50_us: 10.0,
            p99_us: 20.0,
            p999_us: 30.0,
            cpu_us_per_entry: 1.0,
            rss_bytes: 3 << 20,
            flushes: None,
            applied: None,
            durable_on: None,
        }
    }

    #[test]
    fn medians_and_spread_and_the_ratio_to_kontiki() {
        let runs = [run(KONTIKI, 3000.0), run("other", 900.0), run("other", 1000.0), run(KONTIKI, 5000.0), run("other", 1_300_000.0)];
        let text = markdown(&runs).to_string();
        let cells = |name: &str| -> Vec<String> {
            let row = text.lines().find(|l| l.contains(name) && !l.contains("engine")).unwrap();
            row.split('|').map(|c| c.trim().to_owned()).collect()
        };
        assert_eq!(cells("other")[3..6], ["other", "1,000", "900 to 1,300,000"]);
        assert_eq!(cells("other")[10], "4.00");
        assert_eq!(cells(KONTIKI)[4], "4,000");
    }
}

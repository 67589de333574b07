//! The report's plots.

use std::collections::BTreeMap;
use std::path::Path;

use plotters::prelude::*;

use super::grid::Group;
use super::recovery::Recovered;
use super::spread::Spread;
use super::{Drawn, Rounds, Whole};
use crate::bench::result::Report;
use crate::error::Error;
use crate::plot::{Notes, Target};

const SIZE: (u32, u32) = (1000, 560);
const COLOURS: [RGBColor; 4] = [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];
/// Parts of all answers that a curve of percentiles shows.
const QUANTILES: [f64; 13] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999];

/// One line of a plot.
struct Line {
    label: String,
    colour: RGBColor,
    /// The floor's lines are lighter.
    faint: bool,
    points: Vec<(f64, f64)>,
}

/// Draws everything there are figures for.
///
/// # Errors
/// A file cannot be written.
pub(super) fn write(into: &Path, whole: &Whole) -> Result<Vec<Drawn>, Error> {
    let mut drawn = Vec::new();
    let mut draw = |name: &str, caption: &str, (x, y): (&str, &str), lines: Vec<Line>| {
        let lines: Vec<Line> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let path = into.join(name);
        let mut svg = String::new();
        // Drawing into memory fails only by a mistake of ours, or of the drawing library.
        chart(&mut svg, caption, (x, y), &lines).map_err(|e| Error::Finding(format!("cannot draw a plot: {e}")))?;
        std::fs::write(&path, svg).map_err(Error::file("cannot write the plot", &path))?;
        drawn.push(Drawn { file: name.into(), caption: caption.into() });
        Ok::<(), Error>(())
    };
    let grid = whole.groups.iter().find(|group| group.group == Group::Grid).map_or(&[][..], |group| &group.cells);
    for (file, which, of) in
        [("throughput-p50.svg", "p50", (|r| r.latency.p50_us) as fn(&Report) -> f64), ("throughput-p99.svg", "p99", |r| r.latency.p99_us)]
    {
        let caption = format!("Throughput and latency ({which}), one point for each number in flight; the floor is faint");
        draw(file, &caption, ("entries per second", "latency"), against_throughput(grid, of))?;
    }
    for cell in grid.iter().filter(|cell| [1, 256].contains(&cell.setup.load.in_flight)) {
        let name = format!("percentiles-{}x{}.svg", cell.setup.load.entry_bytes, cell.setup.load.in_flight);
        let caption = format!("Latency by percentile, {}, all rounds; the floor is faint", cell.name);
        draw(&name, &caption, ("one answer in so many took longer", "latency"), percentiles(cell))?;
    }
    for (group, file, x, of) in [
        (Group::Replicas, "replicas.svg", "replicas", (|c: &Rounds| f64::from(c.setup.replicas)) as fn(&Rounds) -> f64),
        (Group::Callers, "callers.svg", "callers", |c| f64::from(c.setup.load.callers)),
        (Group::Sizes, "sizes.svg", "bytes of an entry", |c| f64::from(c.setup.load.entry_bytes)),
    ] {
        let cells = whole.groups.iter().find(|measured| measured.group == group).map_or(&[][..], |measured| &measured.cells);
        let caption = format!("Latency (p50) by {x}; the floor is faint");
        draw(file, &caption, (x, "latency"), against(cells, of))?;
    }
    let caption = "Opening a log again by its size; only reading it, with a checksum, is faint";
    draw("recovery.svg", caption, ("MiB of log", "time"), recovery(&whole.recovery))?;
    for cell in grid.iter().filter(|cell| cell.setup.load.in_flight == 256) {
        for (who, rounds) in [("engine", &cell.engine), ("floor", &cell.floor)] {
            if let Some(round) = rounds.last() {
                let name = format!("time-{}x{}-{who}.svg", cell.setup.load.entry_bytes, cell.setup.load.in_flight);
                let caption = format!("The last round over time, {}, {who}", cell.name);
                Target::check(&into.join(&name))?.write(&caption, &round.timeline, &Notes::default())?;
                drawn.push(Drawn { file: name.into(), caption });
            }
        }
    }
    Ok(drawn)
}

/// A line for each entry size: throughput to the right, latency upwards.
fn against_throughput(cells: &[Rounds], of: fn(&Report) -> f64) -> Vec<Line> {
    let mut sizes: BTreeMap<u32, Vec<&Rounds>> = BTreeMap::new();
    for cell in cells {
        sizes.entry(cell.setup.load.entry_bytes).or_default().push(cell);
    }
    let line = |((size, cells), colour): ((u32, Vec<&Rounds>), &RGBColor)| {
        let engine = cells.iter().filter_map(|c| Some((c.engine(|r| Some(r.entries_per_s))?.median, c.engine(|r| Some(of(r)))?.median)));
        let floor = cells.iter().filter_map(|c| Some((c.floor(|r| Some(r.entries_per_s))?.median, c.floor(|r| Some(of(r)))?.median)));
        pair(&format!("{size} B"), *colour, engine.collect(), floor.collect())
    };
    sizes.into_iter().zip(COLOURS.iter().cycle()).flat_map(line).collect()
}

/// A line for each number in flight: something to the right, p50 upwards.
fn against(cells: &[Rounds], x: fn(&Rounds) -> f64) -> Vec<Line> {
    let mut numbers: BTreeMap<u32, Vec<&Rounds>> = BTreeMap::new();
    for cell in cells {
        numbers.entry(cell.setup.load.in_flight).or_default().push(cell);
    }
    let line = |((in_flight, cells), colour): ((u32, Vec<&Rounds>), &RGBColor)| {
        let p50 = |r: &Report| Some(r.latency.p50_us);
        let engine = cells.iter().filter_map(|c| Some((x(c), c.engine(p50)?.median)));
        let floor = cells.iter().filter_map(|c| Some((x(c), c.floor(p50)?.median)));
        pair(&format!("{in_flight} in flight"), *colour, engine.collect(), floor.collect())
    };
    numbers.into_iter().zip(COLOURS.iter().cycle()).flat_map(line).collect()
}

/// Sizes of logs to the right, in MiB; the time they take upwards.
fn recovery(logs: &[Recovered]) -> Vec<Line> {
    let points = |of: fn(&Recovered) -> Option<Spread>| {
        let micros = |log: &Recovered| Some(((log.bytes >> 20) as f64, of(log)?.median * 1e6));
        logs.iter().filter_map(micros).collect()
    };
    let line = |label: &str, faint, points| Line { label: label.into(), colour: COLOURS[0], faint, points };
    vec![line("recovery", false, points(Recovered::open)), line("reading", true, points(Recovered::read))]
}

/// The curve of each round's percentiles together.
fn percentiles(cell: &Rounds) -> Vec<Line> {
    let curve = |rounds: &[Report]| {
        let mut rounds = rounds.iter().map(|round| &round.timeline);
        let mut all = rounds.next().cloned()?;
        rounds.for_each(|round| all.add(round));
        Some(QUANTILES.iter().map(|&q| (1.0 / (1.0 - q), all.quantile(q).as_nanos() as f64 / 1000.0)).collect())
    };
    let line =
        |label: &str, faint, rounds| Line { label: label.into(), colour: COLOURS[0], faint, points: curve(rounds).unwrap_or_default() };
    vec![line("engine", false, &cell.engine), line("floor", true, &cell.floor)]
}

fn pair(label: &str, colour: RGBColor, engine: Vec<(f64, f64)>, floor: Vec<(f64, f64)>) -> [Line; 2] {
    [
        Line { label: label.to_owned(), colour, faint: false, points: engine },
        Line { label: format!("{label}, floor"), colour, faint: true, points: floor },
    ]
}

/// Durations upwards, in microseconds; both axes logarithmic.
fn chart(svg: &mut String, caption: &str, (x, y): (&str, &str), lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let range = |values: &dyn Fn() -> Vec<f64>| {
        let least = values().into_iter().fold(f64::MAX, f64::min).max(0.01);
        let greatest = values().into_iter().fold(0.0, f64::max).max(least);
        least * 0.8..greatest * 1.25
    };
    let (across, up) = (range(&|| all().map(|p| p.0).collect()), range(&|| all().map(|p| p.1).collect()));
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(76)
        .build_cartesian_2d(across.log_scale(), up.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&|v| crate::table::count(*v as u64))
        .y_label_formatter(&|us| crate::table::duration(std::time::Duration::from_micros(*us as u64)))
        .light_line_style(WHITE)
        .draw()?;
    for line in lines {
        let style = line.colour.mix(if line.faint { 0.35 } else { 1.0 }).stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(3))?
            .label(&line.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()?;
    drop((chart, area));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_chart_names_its_lines() {
        let mut svg = String::new();
        let [engine, floor] = pair("16 B", COLOURS[0], vec![(1000.0, 200.0), (1e6, 900.0)], vec![(2000.0, 150.0)]);
        chart(&mut svg, "a caption", ("entries per second", "latency"), &[engine, floor]).unwrap();
        for text in ["a caption", "16 B", "16 B, floor", "entries per second"] {
            assert!(svg.contains(text), "{text}");
        }
    }
}

//! Latency and throughput over time, as an SVG.

use std::path::Path;
use std::time::Duration;

use plotters::prelude::*;

use crate::error::Error;
use crate::timeline::Timeline;

/// Something that happened during the run, to be marked in the plot.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// When, since the start of the run.
    pub(crate) at: Duration,
    /// What, in a few words.
    pub(crate) label: String,
}

const SIZE: (u32, u32) = (1000, 640);
const THROUGHPUT_HEIGHT: u32 = 220;
const SERIES: [(&str, RGBColor); 3] =
    [("p50", RGBColor(31, 119, 180)), ("p99", RGBColor(255, 127, 14)), ("longest", RGBColor(214, 39, 40))];

/// Writes the plot to `path`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(path: &Path, title: &str, timeline: &Timeline, marks: &[Mark]) -> Result<(), Error> {
    let mut svg = String::new();
    // Drawing into memory fails only by a mistake of ours, or of the drawing library; the plot is then lost, not the run.
    draw(&mut svg, title, timeline, marks).map_err(|e| Error::Finding(format!("cannot draw the plot: {e}")))?;
    std::fs::write(path, svg).map_err(Error::file("cannot write the plot", path))
}

fn draw(svg: &mut String, title: &str, timeline: &Timeline, marks: &[Mark]) -> Result<(), Box<dyn std::error::Error>> {
    let points: Vec<_> = timeline.points().collect();
    let end = points.last().map_or(1.0, |p| p.at.as_secs_f64()).max(0.001);
    let slowest = points.iter().filter_map(|p| p.latency_us).map(|l| l[2]).max().unwrap_or(1).max(1);
    let fastest = points.iter().filter_map(|p| p.latency_us).map(|l| l[0]).min().unwrap_or(1).max(1);
    let most = points.iter().map(|p| p.per_second).fold(1.0, f64::max);
    let low = 10f64.powf((fastest as f64).log10().floor());
    let high = 10f64.powf((slowest as f64).log10().ceil()).max(low * 10.0);

    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (upper, lower) = area.split_vertically(SIZE.1 - THROUGHPUT_HEIGHT);

    let mut latency = ChartBuilder::on(&upper)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(24)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..end, (low..high).log_scale())?;
    latency
        .configure_mesh()
        .y_desc("latency")
        .y_label_formatter(&|us| crate::table::duration(Duration::from_micros(*us as u64)))
        .light_line_style(WHITE)
        .draw()?;
    for (which, (name, colour)) in SERIES.into_iter().enumerate() {
        // A gap in the answers is a gap in the line.
        for run in points.split(|p| p.latency_us.is_none()).filter(|run| !run.is_empty()) {
            let line = run.iter().filter_map(|p| Some((p.at.as_secs_f64(), *p.latency_us?.get(which)? as f64)));
            let drawn: Vec<(f64, f64)> = line.collect();
            latency.draw_series(drawn.iter().map(|&at| Circle::new(at, 1, colour.filled())))?;
            latency.draw_series(LineSeries::new(drawn, &colour))?;
        }
        latency
            .draw_series(std::iter::empty::<Circle<(f64, f64), i32>>())?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    for (n, mark) in marks.iter().enumerate() {
        let x = mark.at.as_secs_f64();
        latency.draw_series([PathElement::new([(x, low), (x, high)], BLACK.mix(0.5))])?;
        // Labels of marks close together stand below each other.
        let y = high / 10f64.powf((high / low).log10() * 0.045 * (n % 6) as f64);
        latency.draw_series([Text::new(format!(" {}", mark.label), (x, y), ("sans-serif", 13))])?;
    }
    latency
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE.mix(0.8))
        .draw()?;

    let mut throughput =
        ChartBuilder::on(&lower).margin(12).x_label_area_size(36).y_label_area_size(72).build_cartesian_2d(0.0..end, 0.0..most * 1.05)?;
    throughput
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("acknowledged per second")
        .y_label_formatter(&|n| crate::table::count(*n as u64))
        .light_line_style(WHITE)
        .draw()?;
    throughput.draw_series(LineSeries::new(points.iter().map(|p| (p.at.as_secs_f64(), p.per_second)), &RGBColor(44, 160, 44)))?;
    for mark in marks {
        let x = mark.at.as_secs_f64();
        throughput.draw_series([PathElement::new([(x, 0.0), (x, most * 1.05)], BLACK.mix(0.5))])?;
    }
    area.present()?;
    drop((latency, throughput, upper, lower));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plot_has_its_marks_and_an_empty_one_is_no_error() {
        let mut timeline = Timeline::new(Duration::from_secs(1), 20);
        for ms in (0..300).chain(600..1000) {
            timeline.record(Duration::from_millis(ms), Duration::from_micros(100 + ms));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        write(&path, "a title", &timeline, &[Mark { at: Duration::from_millis(300), label: "leader killed".into() }]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("leader killed") && svg.contains("a title"));
        write(&path, "nothing", &Timeline::new(Duration::from_secs(1), 20), &[]).unwrap();
    }
}

//! Latency and throughput over time, as an SVG.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plotters::prelude::*;

use crate::error::Error;
use crate::timeline::{Point, Timeline};

/// Something that happened during the run, to be marked in the plot.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// When, since the start of the run.
    pub(crate) at: Duration,
    /// What, in a few words.
    pub(crate) label: String,
}

/// A part of the run in which nothing was acknowledged, to be shaded in the plot.
#[derive(Clone, Debug)]
pub(crate) struct Gap {
    /// From when, since the start of the run.
    pub(crate) from: Duration,
    /// Until when.
    pub(crate) to: Duration,
    /// Why, in a few words.
    pub(crate) label: String,
    /// Whether the run itself brought it about.
    pub(crate) expected: bool,
}

/// What is shown besides the curves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// Moments.
    pub(crate) marks: Vec<Mark>,
    /// Gaps.
    pub(crate) gaps: Vec<Gap>,
}

const SIZE: (u32, u32) = (1000, 640);
const THROUGHPUT_HEIGHT: u32 = 220;
/// Name, colour, width of the line, and which latency of a slot; drawn in this order, so that p99 lies on top.
const SERIES: [(&str, RGBColor, u32, usize); 3] =
    [("longest", RGBColor(240, 160, 160), 1, 2), ("p50", RGBColor(31, 119, 180), 2, 0), ("p99", RGBColor(225, 100, 0), 2, 1)];
const OUTAGE: RGBColor = RGBColor(214, 39, 40);
const STALL: RGBColor = RGBColor(120, 120, 120);

/// What is said where a plot cannot be written: it only tells, and nothing else of a run depends on it.
pub(crate) const CANNOT_WRITE: &str = "cannot write the plot";

/// Where a plot is to go, known to be writable. Nothing is written there before [`Target::write`]: what stood there
/// survives a run that ends early.
#[derive(Debug)]
pub(crate) struct Target(PathBuf);

impl Target {
    /// Looks whether a plot can be written to `path`.
    ///
    /// # Errors
    /// It cannot.
    pub(crate) fn check(path: &Path) -> Result<Target, Error> {
        let told = || Error::file(CANNOT_WRITE, path);
        // A link is followed: the file behind it is replaced, and not the link.
        let real = if path.exists() { path.canonicalize().map_err(told())? } else { path.to_owned() };
        if real.exists() {
            std::fs::File::options().append(true).open(&real).map_err(told())?;
        }
        if !real.exists() || real.is_file() {
            tempfile::tempfile_in(parent(&real)).map_err(told())?;
        }
        Ok(Target(real))
    }

    /// Writes the plot, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, title: &str, timeline: &Timeline, notes: &Notes) -> Result<(), Error> {
        let mut svg = String::new();
        // Drawing into memory fails only by a mistake of ours, or of the drawing library; the plot is then lost, not the run.
        draw(&mut svg, title, timeline, notes).map_err(|e| Error::Finding(format!("cannot draw the plot: {e}")))?;
        self.put(svg.as_bytes()).map_err(Error::file(CANNOT_WRITE, &self.0))
    }

    fn put(&self, bytes: &[u8]) -> std::io::Result<()> {
        if self.0.exists() && !self.0.is_file() {
            return std::fs::write(&self.0, bytes);
        }
        let mut file = tempfile::Builder::new().permissions(permissions(&self.0)).tempfile_in(parent(&self.0))?;
        file.write_all(bytes)?;
        file.persist(&self.0)?;
        Ok(())
    }
}

/// Those of the file that is replaced, or what a new file gets.
fn permissions(path: &Path) -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).map_or_else(|_| std::fs::Permissions::from_mode(0o666), |found| found.permissions())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn draw(svg: &mut String, title: &str, timeline: &Timeline, notes: &Notes) -> Result<(), Box<dyn std::error::Error>> {
    let points: Vec<Point> = timeline.points().collect();
    let end = points.last().map_or(1.0, |p| p.at.as_secs_f64()).max(0.001);
    let slowest = points.iter().filter_map(|p| p.latency_us).map(|l| l[2]).max().unwrap_or(1).max(1);
    let fastest = points.iter().filter_map(|p| p.latency_us).map(|l| l[0]).min().unwrap_or(1).max(1);
    let most = points.iter().map(|p| p.per_second).fold(1.0, f64::max) * 1.05;
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
    for gap in &notes.gaps {
        let (from, to) = (gap.from.as_secs_f64(), gap.to.as_secs_f64().min(end));
        latency.draw_series([Rectangle::new([(from, low), (to, high)], shade(gap))])?;
        latency.draw_series([Text::new(format!(" {}", gap.label), (from, low * (high / low).powf(0.05)), ("sans-serif", 13))])?;
    }
    for (name, colour, width, which) in SERIES {
        let style = colour.stroke_width(width);
        // A gap in the answers is a gap in the line.
        for run in points.split(|p| p.latency_us.is_none()).filter(|run| !run.is_empty()) {
            let line = run.iter().filter_map(|p| Some((p.at.as_secs_f64(), *p.latency_us?.get(which)? as f64)));
            let drawn: Vec<(f64, f64)> = line.collect();
            latency.draw_series(drawn.iter().map(|&at| Circle::new(at, width, colour.filled())))?;
            latency.draw_series(LineSeries::new(drawn, style))?;
        }
        latency
            .draw_series(std::iter::empty::<Circle<(f64, f64), i32>>())?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    for (n, mark) in notes.marks.iter().enumerate() {
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
        ChartBuilder::on(&lower).margin(12).x_label_area_size(36).y_label_area_size(72).build_cartesian_2d(0.0..end, 0.0..most)?;
    throughput
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("acknowledged per second")
        .y_label_formatter(&|n| crate::table::count(*n as u64))
        .light_line_style(WHITE)
        .draw()?;
    for gap in &notes.gaps {
        let corners = [(gap.from.as_secs_f64(), 0.0), (gap.to.as_secs_f64().min(end), most)];
        throughput.draw_series([Rectangle::new(corners, shade(gap))])?;
    }
    throughput.draw_series(LineSeries::new(points.iter().map(|p| (p.at.as_secs_f64(), p.per_second)), &RGBColor(44, 160, 44)))?;
    for mark in &notes.marks {
        let x = mark.at.as_secs_f64();
        throughput.draw_series([PathElement::new([(x, 0.0), (x, most)], BLACK.mix(0.5))])?;
    }
    area.present()?;
    drop((latency, throughput, upper, lower));
    Ok(())
}

fn shade(gap: &Gap) -> ShapeStyle {
    if gap.expected { OUTAGE.mix(0.15).filled() } else { STALL.mix(0.25).filled() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn timeline() -> Timeline {
        let mut timeline = Timeline::new(Duration::from_secs(1), 20);
        for ms in (0..300).chain(600..1000) {
            timeline.record(Duration::from_millis(ms), Duration::from_micros(100 + ms));
        }
        timeline
    }

    #[test]
    fn a_plot_has_its_marks_and_gaps_and_an_empty_one_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        let target = Target::check(&path).unwrap();
        let ms = Duration::from_millis;
        let notes = Notes {
            marks: vec![Mark { at: ms(300), label: "leader killed".into() }],
            gaps: vec![Gap { from: ms(300), to: ms(600), label: "no writes".into(), expected: true }],
        };
        target.write("a title", &timeline(), &notes).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg") && ["leader killed", "no writes", "a title", "p99"].iter().all(|part| svg.contains(part)));
        target.write("nothing", &Timeline::new(Duration::from_secs(1), 20), &Notes::default()).unwrap();
    }

    #[test]
    fn what_stood_there_stays_until_the_plot_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("plot.svg"), dir.path().join("link.svg"));
        std::fs::write(&path, "the last one").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let target = Target::check(&link).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "the last one");
        target.write("a title", &timeline(), &Notes::default()).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("a title"));
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing beside them");
        Target::check(Path::new("/dev/null")).unwrap().write("a title", &timeline(), &Notes::default()).unwrap();
        assert!(Target::check(&dir.path().join("no/such/dir.svg")).is_err());
        assert!(Target::check(dir.path()).is_err(), "a directory is no file");
    }
}

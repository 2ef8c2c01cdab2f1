//! The charts of `cargo xtask bench`.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow};
use bench_support::measurement::Measurement;
use plotters::{coord::Shift, prelude::*};

use super::report::{is_ourselves, thread_counts};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Ours, and colours for the peers.
const OURS: RGBColor = RGBColor(0x1b, 0x4f, 0x8c);
const THEIRS: [RGBColor; 14] = [
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xa5),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x8a, 0x8a, 0x8a),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x7a, 0x52, 0xa8),
    RGBColor(0x00, 0x80, 0x60),
    RGBColor(0xb0, 0x30, 0x50),
    RGBColor(0x60, 0x60, 0x20),
    RGBColor(0x2b, 0x8c, 0xd6),
    RGBColor(0x9a, 0xcd, 0x32),
    RGBColor(0xa0, 0x52, 0x2d),
    RGBColor(0xf0, 0x80, 0x80),
    RGBColor(0x40, 0x40, 0x40),
];

/// Room for the legend of `ratios.svg`, in groups of bars.
const LEGEND: f64 = 2.5;

/// Draws `roofline.svg` and `ratios.svg`: a panel for each number of threads. False if there is nothing to draw: then those of an
/// earlier run go.
pub fn draw_all(dir: &Path, measurements: &[Measurement]) -> Result<bool> {
    let others: Vec<Measurement> = measurements.iter().filter(|m| !is_ourselves(m)).cloned().collect();
    let threads = thread_counts(&others);
    let widest = threads.iter().map(|&t| shapes(&of(&others, t)).len()).max().unwrap_or(0) as u32;
    let [roofs, bars] = [dir.join("roofline.svg"), dir.join("ratios.svg")];
    if threads.is_empty() {
        for path in [roofs, bars].iter().filter(|path| path.exists()) {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        return Ok(false);
    }
    draw(&roofs, (1200, 620), &others, &threads, roofline)?;
    draw(&bars, (300 + 110 * widest.max(6), 520), &others, &threads, ratios)?;
    Ok(true)
}

fn draw(
    path: &Path,
    (width, height): (u32, u32),
    measurements: &[Measurement],
    threads: &[usize],
    panel: impl for<'a> Fn(&Area<'a>, usize, &[&Measurement]) -> Drawn<'a>,
) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("cannot draw {}: {error}", path.display());
    let area = SVGBackend::new(path, (width, height * threads.len() as u32)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    for (&threads, area) in threads.iter().zip(area.split_evenly((threads.len(), 1))) {
        panel(&area, threads, &of(measurements, threads)).map_err(|error| failed(&error))?;
    }
    area.present().map_err(|error| failed(&error))
}

fn of(measurements: &[Measurement], threads: usize) -> Vec<&Measurement> {
    measurements.iter().filter(|m| m.threads == threads).collect()
}

/// Those that other libraries gave, each once, in the order of the measurements; bounds of the hardware are not among them.
fn peers<'a>(measurements: &[&'a Measurement]) -> Vec<&'a str> {
    let mut all = Vec::new();
    for measurement in measurements {
        let peer = measurement.peer.as_str();
        if !peer.starts_with("ceiling") && !peer.starts_with("vector sum") && !all.contains(&peer) {
            all.push(peer);
        }
    }
    all
}

/// Each product once, from the smallest to the largest.
fn shapes(measurements: &[&Measurement]) -> Vec<(usize, usize, usize)> {
    let mut all: Vec<_> = measurements.iter().map(|m| (m.m, m.k, m.n)).collect();
    all.sort_by_key(|&(m, k, n)| (m * k * n, m, k));
    all.dedup();
    all
}

fn macs(measurement: &Measurement) -> f64 {
    measurement.m as f64 * measurement.k as f64 * measurement.n as f64
}

/// Rates against the size of the product, under the ceiling of the instruction.
fn roofline<'a>(area: &Area<'a>, threads: usize, measurements: &[&Measurement]) -> Drawn<'a> {
    let ceiling = measurements.iter().filter_map(|m| m.ceiling_gmacs).fold(0.0, f64::max);
    let fastest = measurements.iter().map(|m| m.ours_gmacs.max(m.peer_gmacs)).fold(ceiling, f64::max);
    let sizes = measurements.iter().map(|m| macs(m));
    let (least, most) = (sizes.clone().fold(f64::MAX, f64::min), sizes.fold(1.0, f64::max));
    // Whole decades, and room for the legend on the left.
    let (left, right) = (10f64.powf(least.log10().floor() - 2.0), 10f64.powf(most.log10().ceil()));
    let mut chart = ChartBuilder::on(area)
        .caption(format!("10^9 multiply-adds a second, {}", in_words(threads)), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(60)
        .build_cartesian_2d((left..right).log_scale(), 0.0..fastest * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("M x K x N")
        .y_desc("GMAC/s")
        .x_label_formatter(&|x| format!("10^{:.0}", x.log10()))
        .light_line_style(WHITE)
        .label_style(("sans-serif", 14))
        .draw()?;
    if ceiling > 0.0 {
        let line = PathElement::new([(left, ceiling), (right, ceiling)], BLACK);
        chart.draw_series([line])?.label("instruction alone").legend(|(x, y)| line_of((x, y), BLACK));
    }
    for (peer, colour) in peers(measurements).into_iter().zip(THEIRS) {
        let points = measurements.iter().filter(|m| m.peer == peer);
        let points = points.map(|m| Circle::new((macs(m), m.peer_gmacs), 4, colour.filled()));
        chart.draw_series(points)?.label(label(peer, measurements)).legend(move |at| dot(at, colour));
    }
    let ours = measurements.iter().map(|m| TriangleMarker::new((macs(m), m.ours_gmacs), 6, OURS.filled()));
    chart
        .draw_series(ours)?
        .label("i8gemm")
        .legend(|(x, y)| TriangleMarker::new((x + 6, y), 6, OURS.filled()));
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

/// Our rate by each peer's, product by product; of several operations of a peer, that which it does best.
fn ratios<'a>(area: &Area<'a>, threads: usize, measurements: &[&Measurement]) -> Drawn<'a> {
    let peers = peers(measurements);
    let with_peers: Vec<&Measurement> =
        measurements.iter().filter(|m| peers.contains(&m.peer.as_str())).copied().collect();
    let shapes = shapes(&with_peers);
    let (least, most) = (0.4, 100.0);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("i8gemm's rate by each peer's, {}", in_words(threads)), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..shapes.len() as f64 + LEGEND, (least..most).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc("times")
        .light_line_style(WHITE)
        .label_style(("sans-serif", 14))
        .draw()?;
    let width = 0.9 / peers.len().max(1) as f64;
    for ((place, peer), colour) in peers.iter().enumerate().zip(THEIRS) {
        let bars = shapes.iter().enumerate().filter_map(|(group, shape)| {
            let of = with_peers.iter().filter(|m| m.peer == *peer && *shape == (m.m, m.k, m.n));
            let m = of.min_by(|a, b| a.ratio.total_cmp(&b.ratio))?;
            let left = group as f64 + 0.05 + place as f64 * width;
            let top = m.ratio.clamp(least, most);
            Some(Rectangle::new([(left, 1.0), (left + 0.9 * width, top)], colour.filled()))
        });
        chart.draw_series(bars)?.label(label(peer, measurements)).legend(move |at| dot(at, colour));
    }
    chart.draw_series([PathElement::new([(0.0, 1.0), (shapes.len() as f64, 1.0)], BLACK)])?;
    // Names stand below the axis: by pixels, for coordinates end there.
    for (i, (m, k, n)) in shapes.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(i as f64 + 0.05, least));
        let (left, above) = area.get_base_pixel();
        area.draw(&Text::new(format!("{m}x{k}x{n}"), (x - left, y - above + 8), ("sans-serif", 13)))?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

/// A peer's name, and whether its sums are not the exact ones.
fn label(peer: &str, measurements: &[&Measurement]) -> String {
    let wrong = measurements.iter().any(|m| m.peer == peer && m.agrees == Some(false));
    if wrong { format!("{peer} (inexact)") } else { peer.into() }
}

fn in_words(threads: usize) -> String {
    if threads == 1 { "one thread".into() } else { format!("{threads} threads") }
}

fn dot((x, y): (i32, i32), colour: RGBColor) -> Circle<(i32, i32), i32> {
    Circle::new((x + 6, y), 4, colour.filled())
}

fn line_of((x, y): (i32, i32), colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + 12, y)], colour)
}

fn legend<'a, T: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, T>,
    position: SeriesLabelPosition,
) -> Drawn<'a> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()
}

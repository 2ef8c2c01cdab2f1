//! A chart of a tensor: one panel for each width, with the histogram and where each method clips.

use anyhow::Result;
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    report::{Row, Table, short},
    tensor::Tensor,
};

/// All sizes are in pixels.
const WIDTH: i32 = 1290;
const TITLE: i32 = 40;
const PANEL: i32 = 360;
/// The legend stands to the right of the plot.
const PLOT: i32 = 780;
const MARGIN: i32 = 20;
/// Where the legend's columns start (the first) or end, and how far apart its lines are.
const COLUMNS: [i32; 6] = [PLOT + 40, PLOT + 235, PLOT + 310, PLOT + 385, PLOT + 450, PLOT + 490];
const LINE: i32 = 22;

const BINS: usize = 128;
const FILL: RGBColor = RGBColor(216, 216, 216);
const OUTLINE: RGBColor = RGBColor(150, 150, 150);
/// Told apart by people of any colour vision, the first seven after M. Okabe and K. Ito; then all over again.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(204, 121, 167),
    RGBColor(120, 70, 20),
    RGBColor(110, 60, 170),
    RGBColor(130, 140, 0),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Distinct for every number, and harmless in every file system: also not too long.
pub fn file_name(number: usize, tensor: &str) -> String {
    let stem = std::path::Path::new(tensor).file_stem().unwrap_or_default().to_string_lossy();
    let words = stem.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let name: String = words.collect::<Vec<_>>().join("-").chars().take(60).collect();
    format!("{number}-{name}.svg")
}

pub fn svg(tensor: &Tensor, tables: &[Table]) -> Result<String> {
    let mut svg = String::new();
    {
        let height = TITLE + PANEL * tables.len() as i32;
        let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        // As much of a long path as fits: its end.
        let title = tensor.to_string();
        let skip = title.chars().count().saturating_sub(110);
        let dots = if skip > 0 { "..." } else { "" };
        let title: String = dots.chars().chain(title.chars().skip(skip)).collect();
        text(&root, &title, (MARGIN, TITLE / 2), HPos::Left, 20)?;
        for (i, table) in tables.iter().enumerate() {
            let top = TITLE + PANEL * i as i32;
            plot(&root, top, tensor, table)?;
            legend(&root, top, table)?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// The histogram, and the lines on it.
fn plot(root: &Area, top: i32, tensor: &Tensor, table: &Table) -> Result<()> {
    let (min, max) = (f64::from(tensor.range.min), f64::from(tensor.range.max));
    let counts = tensor.histogram.counts(BINS)?;
    let most = counts.iter().copied().max().unwrap_or(1) as f64;
    // A constant has a range of no width.
    let room = if min < max { 0.02 * (max - min) } else { 0.5 * min.abs().max(1e-9) };
    // Below one value there is nothing: half of one is the ground.
    let ground = 0.5;
    let area = root.clone().shrink((0, top), (PLOT, PANEL));
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(min - room..max + room, (ground..most * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_label_formatter(&|x| trimmed(*x))
        .y_label_formatter(&|y| count(*y))
        .y_desc("values in a bin")
        .label_style(("sans-serif", 15))
        .draw()?;
    let outline = counts.iter().enumerate().flat_map(|(i, &count)| {
        let edge = |i: usize| min + (max - min) * i as f64 / BINS as f64;
        let height = (count as f64).max(ground);
        [(edge(i), height), (edge(i + 1), height)]
    });
    chart.draw_series(AreaSeries::new(outline, ground, FILL).border_style(OUTLINE))?;
    let plane = chart.plotting_area();
    let mut lines = Vec::new();
    for (row, colour) in table.rows.iter().zip(COLOURS.iter().cycle()) {
        let ends = [row.range.min, row.range.max].map(f64::from).into_iter();
        // Where there are no values nothing is clipped.
        for end in ends.filter(|end| (min - room..=max + room).contains(end)) {
            lines.push((plane.map_coordinate(&(end, 1.0)).0, colour));
        }
    }
    clipping_lines(root, lines, plane.get_pixel_range().1)
}

/// Vertical lines. Those that coincide share the height: dashes of each colour in turn.
fn clipping_lines(root: &Area, mut lines: Vec<(i32, &RGBColor)>, y: std::ops::Range<i32>) -> Result<()> {
    const DASH: i32 = 9;
    const STROKE: i32 = 2;
    lines.sort_by_key(|(x, _)| *x);
    while let Some(&(first, _)) = lines.first() {
        let rest = lines.split_off(lines.partition_point(|(x, _)| *x <= first + STROKE));
        let count = lines.len() as i32;
        for (i, (x, colour)) in lines.into_iter().enumerate() {
            let dash = if count == 1 { y.end - y.start } else { DASH };
            for start in (y.start + dash * i as i32..y.end).step_by((dash * count) as usize) {
                let ends = vec![(x, start), (x, (start + dash).min(y.end))];
                root.draw(&PathElement::new(ends, colour.stroke_width(STROKE as u32)))?;
            }
        }
        lines = rest;
    }
    Ok(())
}

fn legend(root: &Area, top: i32, table: &Table) -> Result<()> {
    let line = |number: usize| top + MARGIN + LINE * number as i32;
    let cells = |y: i32, cells: [&str; 6], size: i32| -> Result<()> {
        for (i, (cell, x)) in cells.into_iter().zip(COLUMNS).enumerate() {
            text(root, cell, (x, y), if i == 0 { HPos::Left } else { HPos::Right }, size)?;
        }
        Ok(())
    };
    cells(line(0), [&table.title, "", "", "", "", ""], 18)?;
    cells(line(1), ["", "min", "max", "SQNR, dB", "clipped", ""], 15)?;
    for (i, (row, colour)) in table.rows.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let (Row { method, range, quality, best, .. }, y) = (row, line(i + 2));
        let swatch = vec![(PLOT + 10, y), (COLUMNS[0] - 6, y)];
        root.draw(&PathElement::new(swatch, colour.stroke_width(3)))?;
        let noise = format!("{:.2}", quality.sqnr_db);
        let clipped = format!("{:.3} %", 100.0 * quality.clipped);
        let (min, max) = (short(range.min), short(range.max));
        let mark = if *best { "best" } else { "" };
        cells(y, [&method.to_string(), &min, &max, &noise, &clipped, mark], 15)?;
    }
    Ok(())
}

fn text(root: &Area, text: &str, at: (i32, i32), side: HPos, size: i32) -> Result<()> {
    let style = ("sans-serif", size).into_text_style(root).pos(Pos::new(side, VPos::Center));
    Ok(root.draw(&Text::new(text, at, style))?)
}

/// For the horizontal axis: no zeros at the end.
fn trimmed(x: f64) -> String {
    let text = short(x);
    let (digits, exponent) = text.split_at(text.find('e').unwrap_or(text.len()));
    if !digits.contains('.') {
        return text;
    }
    digits.trim_end_matches('0').trim_end_matches('.').to_string() + exponent
}

/// For the vertical axis: of few values every count is marked, too many for a label each.
fn count(y: f64) -> String {
    let text = y.to_string();
    if text.starts_with(['1', '2', '5']) { text } else { String::new() }
}

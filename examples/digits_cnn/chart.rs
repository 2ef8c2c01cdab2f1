//! Accuracy against bits, as SVG: quantized after training beside quantized in training.

use anyhow::Result;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::report::BitsRow;

/// In pixels; the legend stands to the right of the plot.
const SIZE: (u32, u32) = (860, 400);
const PLOT: i32 = 620;
/// Told apart by people of any colour vision, after M. Okabe and K. Ito.
const AFTER: RGBColor = RGBColor(230, 159, 0);
const DURING: RGBColor = RGBColor(0, 114, 178);

pub fn svg(real: f64, rows: &[BitsRow]) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let area = root.clone().shrink((0, 0), (PLOT as u32, SIZE.1));
        let mut chart = ChartBuilder::on(&area)
            .caption("Integer networks on digits held out", ("sans-serif", 20))
            .margin(15)
            .x_label_area_size(45)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..rows.len() as f64, 0.0..107.0)?;
        // A label in the middle of each group: an odd number of halves from the left.
        let bits = |x: f64| if x.fract() == 0.5 { rows.get(x as usize).map(|row| row.bits) } else { None };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(2 * rows.len() + 1)
            .x_label_formatter(&|&x| bits(x).map_or(String::new(), |bits| bits.to_string()))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .x_desc("bits of weights; activations have 8")
            .y_desc("accuracy, %")
            .label_style(("sans-serif", 15))
            .draw()?;
        // Inside the bars: above them is the line.
        let label = ("sans-serif", 15).into_text_style(&root).pos(Pos::new(HPos::Center, VPos::Top));
        let bars = rows.iter().enumerate().flat_map(|(i, row)| {
            let middle = i as f64 + 0.5;
            [(middle - 0.35, row.after, AFTER, BLACK), (middle, row.integer, DURING, WHITE)]
        });
        for (left, value, colour, ink) in bars {
            let right = left + 0.35;
            let bar = Rectangle::new([(left + 0.01, 0.0), (right - 0.01, value)], colour.filled());
            chart.plotting_area().draw(&bar)?;
            let text = Text::new(format!("{value:.1}"), (0, 8), label.color(&ink));
            chart.plotting_area().draw(&(EmptyElement::at((0.5 * (left + right), value)) + text))?;
        }
        let level = [(0.0, real), (rows.len() as f64, real)];
        chart.draw_series(DashedLineSeries::new(level, 6, 4, BLACK.into()))?;

        let legend = [
            (format!("f32: {real:.1}"), BLACK, 1),
            ("quantized after training".into(), AFTER, 12),
            ("quantized in training".into(), DURING, 12),
        ];
        let style = ("sans-serif", 15).into_text_style(&root).pos(Pos::new(HPos::Left, VPos::Center));
        for (i, (name, colour, stroke)) in legend.into_iter().enumerate() {
            let y = 70 + 26 * i as i32;
            root.draw(&PathElement::new([(PLOT + 10, y), (PLOT + 34, y)], colour.stroke_width(stroke)))?;
            root.draw(&Text::new(name, (PLOT + 44, y), style.clone()))?;
        }
        root.present()?;
    }
    Ok(svg)
}

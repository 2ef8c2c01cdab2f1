//! Accuracy against bits, as SVG.

use anyhow::Result;
use plotters::prelude::*;

use crate::report::BitsRow;

/// In pixels.
const SIZE: (u32, u32) = (720, 440);
/// Told apart by people of any colour vision, after M. Okabe and K. Ito.
const AFTER: RGBColor = RGBColor(213, 94, 0);
const DURING: RGBColor = RGBColor(0, 114, 178);

pub fn svg(real: f64, rows: &[BitsRow]) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut rows: Vec<&BitsRow> = rows.iter().collect();
        rows.sort_by_key(|row| row.bits);
        let all = rows.iter().flat_map(|row| [row.after, row.integer]);
        let least = all.fold(real, f64::min);
        // A tenth of room below, and the top at 100 or just above.
        let room = 0.1 * (100.0 - least).max(1.0);
        let (low, high) = ((least - room).max(0.0), 100.0 + 0.3 * room);
        let mut chart = ChartBuilder::on(&root)
            .caption("Digits held out: accuracy of integer networks", ("sans-serif", 20))
            .margin(15)
            .x_label_area_size(45)
            .y_label_area_size(60)
            .build_cartesian_2d(1.5..8.5, low..high)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(8)
            .x_label_formatter(&|x: &f64| if x.fract() == 0.0 { x.to_string() } else { String::new() })
            .y_label_formatter(&|y| format!("{y:.0}"))
            .x_desc("bits of weights; activations have 8")
            .y_desc("%")
            .label_style(("sans-serif", 15))
            .draw()?;
        chart
            .draw_series(DashedLineSeries::new([(1.5, real), (8.5, real)], 6, 4, BLACK.into()))?
            .label(format!("f32, {real:.1} %"))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLACK));
        let series = [
            ("quantized after training", AFTER, &(|row: &BitsRow| row.after) as &dyn Fn(&BitsRow) -> f64),
            ("quantized in training", DURING, &|row| row.integer),
        ];
        for (name, colour, value) in series {
            let points: Vec<_> = rows.iter().map(|row| (f64::from(row.bits), value(row))).collect();
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(3)).point_size(4))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3)));
            chart.draw_series(points.into_iter().map(|(x, y)| {
                EmptyElement::at((x, y))
                    + Text::new(format!("{y:.1}"), (8, 8), ("sans-serif", 14).into_font())
            }))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 15))
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}

//! The chart of `cargo xtask mca`: for each kernel and core, the loop of its largest tile beside those of its
//! peers.

use std::{collections::HashMap, path::Path};

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde::Deserialize;

use super::{
    Figure,
    cores::CORES,
    tiles::{KERNELS, Kernel},
};

#[derive(Deserialize)]
struct Peers {
    loops: Vec<Peer>,
}

/// A loop of another library on the same models.
#[derive(Deserialize)]
struct Peer {
    #[serde(rename = "loop")]
    name: String,
    kernel: String,
    mac_per_cycle: HashMap<String, f64>,
    /// Where the library has another loop for the core.
    #[serde(default)]
    in_order: HashMap<String, f64>,
}

const PEERS: &str = include_str!("../../data/arm-peers.json");

const WIDTH: u32 = 1200;
/// Of the panel of one kernel.
const HEIGHT: u32 = 350;
const OURS: RGBColor = RGBColor(0x1b, 0x4f, 0x8c);
const THEIRS: [RGBColor; 4] = [
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xa5),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xa0, 0xa0, 0xa0),
];

pub fn draw(path: &Path, figures: &[Figure]) -> Result<()> {
    let peers = serde_json::from_str::<Peers>(PEERS)?.loops;
    let failed = |error: &dyn std::fmt::Display| anyhow!("cannot draw {}: {error}", path.display());
    // Schedules of one kernel share a panel, as they share a CPU's choice.
    let family = |name: &str| KERNELS.iter().find(|kernel| kernel.name == name).map(Kernel::family);
    let panels: Vec<&str> =
        KERNELS.iter().filter(|kernel| kernel.name == kernel.family()).map(|kernel| kernel.name).collect();
    let area = SVGBackend::new(path, (WIDTH, HEIGHT * panels.len() as u32)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    for (kernel, area) in panels.iter().zip(area.split_evenly((panels.len(), 1))) {
        let peers: Vec<&Peer> = peers.iter().filter(|peer| peer.kernel == *kernel).collect();
        let figures: Vec<&Figure> =
            figures.iter().filter(|figure| family(&figure.kernel) == Some(kernel)).collect();
        panel(&area, kernel, &figures, &peers).map_err(|error| failed(&error))?;
    }
    area.present().map_err(|error| failed(&error))
}

/// The bars of one kernel: for each core that it runs on, its own and its peers'; a line at the peak.
fn panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    kernel: &str,
    figures: &[&Figure],
    peers: &[&Peer],
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    // The largest tile does most of the work, in the schedule that is best for the core.
    let rows = |figure: &Figure| figure.tile.split('x').next().and_then(|rows| rows.parse::<u32>().ok());
    let largest = figures.iter().map(|figure| rows(figure)).max().flatten();
    let best = |core: &str| {
        let of_core = figures.iter().filter(|figure| figure.core == core && rows(figure) == largest);
        of_core.max_by(|a, b| a.mac_per_cycle.total_cmp(&b.mac_per_cycle))
    };
    let groups: Vec<_> = CORES.iter().filter_map(|core| Some((core.name, best(core.name)?))).collect();
    let top = groups.iter().map(|(_, figure)| figure.peak).fold(0.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{kernel}: MAC/cycle of the loop, predicted"), ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..groups.len() as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .y_desc("MAC/cycle")
        .label_style(("sans-serif", 14))
        .draw()?;
    let width = 0.9 / (1 + peers.len()) as f64;
    let bar = |group: usize, place: usize, height: f64, colour: RGBColor| {
        let left = group as f64 + 0.05 + place as f64 * width;
        Rectangle::new([(left, 0.0), (left + width * 0.92, height)], colour.filled())
    };
    let own = groups.iter().enumerate().map(|(i, (_, figure))| bar(i, 0, figure.mac_per_cycle, OURS));
    chart.draw_series(own)?.label("i8gemm").legend(|at| swatch(at, OURS));
    for (place, (peer, colour)) in peers.iter().zip(THEIRS).enumerate() {
        let height = |core: &str| peer.in_order.get(core).or(peer.mac_per_cycle.get(core)).copied();
        let bars = groups
            .iter()
            .enumerate()
            .filter_map(|(i, (core, _))| Some(bar(i, place + 1, height(core)?, colour)));
        chart.draw_series(bars)?.label(&peer.name).legend(move |at| swatch(at, colour));
    }
    let peak =
        |i: usize, peak: f64| PathElement::new([(i as f64 + 0.02, peak), (i as f64 + 0.98, peak)], BLACK);
    let peaks = groups.iter().enumerate().map(|(i, (_, figure))| peak(i, figure.peak));
    chart.draw_series(peaks)?.label("peak").legend(|(x, y)| PathElement::new([(x, y), (x + 12, y)], BLACK));
    let text = |style: i32| ("sans-serif", style).into_font();
    chart.draw_series(groups.iter().enumerate().map(|(i, (_, figure))| {
        let at = (i as f64 + 0.05, figure.mac_per_cycle + top * 0.07);
        Text::new(format!("{:.1}", figure.mac_per_cycle), at, text(13))
    }))?;
    // Names stand below the axis: by pixels, for coordinates end there.
    for (i, (core, _)) in groups.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(i as f64 + 0.05, 0.0));
        let (left, above) = area.get_base_pixel();
        area.draw(&Text::new(*core, (x - left, y - above + 8), text(15)))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()
}

fn swatch((x, y): (i32, i32), colour: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_those_of_kernels_and_cores_that_exist() {
        for peer in serde_json::from_str::<Peers>(PEERS).unwrap().loops {
            assert!(KERNELS.iter().any(|kernel| kernel.name == peer.kernel), "{}", peer.kernel);
            for core in peer.mac_per_cycle.keys().chain(peer.in_order.keys()) {
                assert!(CORES.iter().any(|known| known.name == core), "{core}");
            }
        }
    }
}

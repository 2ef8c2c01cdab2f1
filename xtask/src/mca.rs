//! `cargo xtask mca`: what the ARM kernels would reach on cores that are not at hand.

mod calls;
mod chart;
mod cores;
mod record;
mod slots;
mod tiles;
mod weighed;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::{
    debian,
    loops::{self, Target},
    run::{Log, Progress, Workspace},
};
use cores::{CORES, Speed};
use tiles::Tile;

/// What the analysis needs besides Debian's toolchain.
pub const PACKAGES: &[&str] = &["llvm-22"];

#[derive(clap::Args)]
pub struct Args {
    /// Count the instructions of whole calls under QEMU instead, and weigh them: cycles as predicted of cores
    #[arg(long)]
    calls: bool,
    /// Of the calls, only those of this kernel or shape (M x K x N as `1x1024x1024`)
    #[arg(long, value_name = "TEXT", requires = "calls")]
    only: Option<String>,
    /// What the calls compute: `i32`, which has limits, or `i8` (bias, scales and a zero point)
    #[arg(long, value_name = "TYPE", default_value = "i32", value_parser = ["i8", "i32"], requires = "calls")]
    output: String,
    /// Print JSON lines instead of a table
    #[arg(long)]
    json: bool,
    /// Print the loops whose kernel and tile contain this, such as `neon 4x4`
    #[arg(long, value_name = "TEXT", conflicts_with = "calls")]
    listing: Option<String>,
    /// Make these figures those that the test holds the loops to
    #[arg(long, conflicts_with = "calls")]
    record: bool,
    /// Where the chart goes [default: target/xtask/mca.svg]
    #[arg(long, value_name = "FILE", conflicts_with = "calls")]
    chart: Option<PathBuf>,
}

/// One loop on one core.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Figure {
    pub kernel: String,
    pub tile: String,
    pub core: String,
    pub mac_per_cycle: f64,
    pub peak: f64,
    pub spills: usize,
}

/// The loop of one tile: of the functions that have it, the worst of each figure.
struct Row {
    kernel: &'static str,
    tile: String,
    instructions_per_mac: f64,
    loads_per_multiply: f64,
    spills: usize,
    /// By core.
    speeds: Vec<Option<f64>>,
}

pub fn main(args: &Args) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    if args.calls {
        return calls::main(&workspace, args.only.as_deref(), &args.output, args.json);
    }
    let log = Log::create(&workspace, "mca")?;
    step("packages", || debian::install(&workspace, &log, PACKAGES))?;
    let tiles = step("build for ARM, find the loops", || arm_tiles(&workspace, &log))?;
    if let Some(text) = &args.listing {
        return list(&tiles, text);
    }
    let (rows, figures) = step("predict", || predict(&workspace, &log, &tiles))?;
    let chart = args.chart.clone().unwrap_or_else(|| workspace.target.join("xtask/mca.svg"));
    chart::draw(&chart, &figures)?;
    let mut out = program::stdout();
    if args.json {
        write!(out, "{}", json_lines(&figures)?)?;
    } else {
        writeln!(
            out,
            "{}\n\nMAC/cycle; a peak is what the arithmetic of the kernel's loops alone would reach.",
            table(&rows, &figures)
        )?;
    }
    writeln!(program::stderr(), "chart: {}", chart.display())?;
    if args.record {
        record::write(&workspace, &figures)?;
        return Ok(ExitCode::SUCCESS);
    }
    let worse = record::compare(&workspace, &figures, None)?;
    write!(program::stderr(), "{worse}")?;
    Ok(if worse.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The stages of `cargo xtask test`: of the loops in a library or program for one target none spills, and no figure is below
/// its record.
pub fn check(workspace: &Workspace, log: &Log, file: &Path, target: &'static Target) -> Result<()> {
    debian::install(workspace, log, PACKAGES)?;
    let tiles = tiles::find(&loops::disassemble(log, file, target)?, target)?;
    let (_, figures) = predict(workspace, log, &tiles)?;
    let worse = record::compare(workspace, &figures, Some(target))?;
    ensure!(worse.is_empty(), "{worse}");
    Ok(())
}

/// A step that takes a while, with a line that says so.
fn step<T>(name: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let progress = Progress::start(name.into())?;
    let result = action();
    progress.finish(if result.is_ok() { "done" } else { "FAILED" })?;
    result
}

/// The loops of 64- and of 32-bit ARM.
fn arm_tiles(workspace: &Workspace, log: &Log) -> Result<Vec<Tile>> {
    let archive = debian::aarch64_library(workspace, log)?;
    let mut all = tiles::find(&loops::disassemble(log, &archive, &loops::AARCH64)?, &loops::AARCH64)?;
    let archive = debian::armv7_library(workspace, log)?;
    all.extend(tiles::find(&loops::disassemble(log, &archive, &loops::ARMV7)?, &loops::ARMV7)?);
    Ok(all)
}

/// What every loop reaches on every core.
fn predict(workspace: &Workspace, log: &Log, tiles: &[Tile]) -> Result<(Vec<Row>, Vec<Figure>)> {
    let by_core = CORES.iter().map(|core| core.speeds(workspace, log, tiles)).collect::<Result<Vec<_>>>()?;
    let mut rows: Vec<Row> = Vec::new();
    for (i, tile) in tiles.iter().enumerate() {
        let of_tile = |row: &Row| row.kernel == tile.kernel.name && row.tile == tile.name;
        let speeds = by_core.iter().map(|speeds| speeds[i].map(|speed| speed.loops));
        if let Some(row) = rows.iter_mut().find(|row| of_tile(row)) {
            row.instructions_per_mac = row.instructions_per_mac.max(tile.instructions_per_mac());
            row.loads_per_multiply = row.loads_per_multiply.max(tile.loads_per_multiply());
            row.spills = row.spills.max(tile.spills());
            row.speeds
                .iter_mut()
                .zip(speeds)
                .for_each(|(all, one)| *all = all.zip(one).map(|(a, b)| a.min(b)));
        } else {
            rows.push(Row {
                kernel: tile.kernel.name,
                tile: tile.name.clone(),
                instructions_per_mac: tile.instructions_per_mac(),
                loads_per_multiply: tile.loads_per_multiply(),
                spills: tile.spills(),
                speeds: speeds.collect(),
            });
        }
    }
    let mut figures = Vec::new();
    for row in &rows {
        for (core, speeds) in CORES.iter().zip(&by_core) {
            let of_kernel = tiles.iter().zip(speeds).filter(|(tile, _)| tile.kernel.name == row.kernel);
            let best = |speed: &Speed| speed.loops.max(speed.arithmetic);
            let peak = of_kernel.filter_map(|(_, speed)| speed.as_ref().map(best)).fold(0.0, f64::max);
            let own = row.speeds[CORES.iter().position(|other| other.name == core.name).unwrap_or_default()];
            figures.extend(own.map(|own| Figure {
                kernel: row.kernel.into(),
                tile: row.tile.clone(),
                core: core.name.into(),
                mac_per_cycle: hundredths(own),
                peak: hundredths(peak),
                spills: row.spills,
            }));
        }
    }
    Ok((rows, figures))
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// A row for each tile, and one for each kernel's peak.
fn table(rows: &[Row], figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let cores = CORES.iter().map(|core| core.name.split_once('-').map_or(core.name, |(_, name)| name));
    let header = ["kernel", "tile", "instr/MAC", "loads/mul", "spills"];
    table.set_header(header.into_iter().chain(cores));
    let cell = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
    for (i, row) in rows.iter().enumerate() {
        let mut cells = vec![
            row.kernel.to_owned(),
            row.tile.clone(),
            format!("{:.4}", row.instructions_per_mac),
            format!("{:.2}", row.loads_per_multiply),
            row.spills.to_string(),
        ];
        cells.extend(row.speeds.iter().map(|speed| cell(*speed)));
        table.add_row(cells);
        if rows.get(i + 1).is_none_or(|next| next.kernel != row.kernel) {
            let peak = |core: &str| {
                figures.iter().find(|f| f.kernel == row.kernel && f.core == core).map(|f| f.peak)
            };
            let cells = [row.kernel, "peak", "", "", ""].map(str::to_owned).into_iter();
            table.add_row(cells.chain(CORES.iter().map(|core| cell(peak(core.name)))));
        }
    }
    for column in 2..header.len() + CORES.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints the loops that the text names.
fn list(tiles: &[Tile], text: &str) -> Result<ExitCode> {
    let named = |tile: &&Tile| format!("{} {}", tile.kernel.name, tile.name).contains(text);
    let mut chosen = tiles.iter().filter(named).peekable();
    ensure!(chosen.peek().is_some(), "no loop's kernel and tile contain `{text}`");
    let mut out = program::stdout();
    for tile in chosen {
        writeln!(out, "{}, {} MAC a turn: {}", tile.name, tile.macs(), tile.function)?;
        tile.body.iter().try_for_each(|text| writeln!(out, "    {text}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn json_lines(items: &[impl Serialize]) -> Result<String> {
    items.iter().map(|item| Ok(serde_json::to_string(item)? + "\n")).collect()
}

/// A data file of this program.
fn data(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.root.join("xtask/data").join(name)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

//! The tables of `cargo xtask bench`, in the terminal and as files.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context, Result};
use bench_support::measurement::Measurement;
use comfy_table::{CellAlignment, Table, presets};
use i8gemm::Kernel;
use serde::Serialize;

/// What `report.json` holds.
#[derive(Serialize)]
struct Report<'a> {
    machine: String,
    measurements: &'a [Measurement],
    left_out: &'a [String],
}

/// Writes `report.json` and `report.md`.
pub fn write(dir: &Path, measurements: &[Measurement], skipped: &[String]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let report = Report { machine: machine(), measurements, left_out: skipped };
    let files = [
        ("report.json", serde_json::to_string_pretty(&report)?),
        ("report.md", markdown(measurements, skipped)),
    ];
    for (name, text) in files {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Prints the tables.
pub fn print(measurements: &[Measurement], skipped: &[String]) -> io::Result<()> {
    write!(program::stdout(), "{}", markdown(measurements, skipped))
}

/// The CPU, as far as the crate knows it, and who built the crate.
fn machine() -> String {
    let kernels: Vec<_> = Kernel::available().map(|kernel| kernel.name()).collect();
    format!("{}; kernels: {}", crate::run::cpu_name(), kernels.join(", "))
}

fn markdown(measurements: &[Measurement], skipped: &[String]) -> String {
    let mut text = format!("# i8gemm side by side\n\n{}\n", machine());
    text += "\nMedians of pairs measured in turn; rates in 10^9 multiply-adds a second; ours by theirs: above 1 is faster.\n\
             Inexact: the sums of its i32 output were not the product's.\n";
    for threads in thread_counts(measurements) {
        let of = |ourselves: bool| {
            let chosen = move |m: &&Measurement| m.threads == threads && is_ourselves(m) == ourselves;
            measurements.iter().filter(chosen)
        };
        let plural = if threads == 1 { "thread" } else { "threads" };
        section(&mut text, &format!("Against others, {threads} {plural}"), of(false));
        section(&mut text, &format!("Against itself, {threads} {plural}"), of(true));
    }
    for why in skipped {
        // Writing to a string does not fail.
        let _ = write!(text, "\nLeft out: {why}\n");
    }
    text
}

/// A comparison with another product of this crate.
pub fn is_ourselves(measurement: &Measurement) -> bool {
    measurement.peer.starts_with("i8gemm ")
}

pub fn thread_counts(measurements: &[Measurement]) -> Vec<usize> {
    let mut all: Vec<usize> = measurements.iter().map(|m| m.threads).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn section<'a>(text: &mut String, title: &str, measurements: impl Iterator<Item = &'a Measurement>) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "M x K x N",
        "lhs x rhs -> out",
        "kernel",
        "us",
        "ours",
        "of ceiling",
        "against",
        "theirs",
        "ratio",
    ]);
    let mut last = String::new();
    for measurement in measurements {
        let Measurement { m, k, n, op, kernel, ours_gmacs, peer, peer_gmacs, ratio, .. } = measurement;
        let micros = *m as f64 * *k as f64 * *n as f64 / ours_gmacs / 1e3;
        let share =
            measurement.ceiling_gmacs.map_or("-".into(), |c| format!("{:.0} %", 100.0 * ours_gmacs / c));
        let product = format!("{m}x{k}x{n}");
        let wrong = if measurement.agrees == Some(false) { " (inexact)" } else { "" };
        // A product is named once.
        let shown = if product == last { String::new() } else { product.clone() };
        last = product;
        let (ours, theirs) = (format!("{ours_gmacs:.1}"), format!("{peer_gmacs:.1}"));
        let cells = [shown, op.clone(), kernel.clone(), format!("{micros:.2}"), ours, share];
        table.add_row(cells.into_iter().chain([format!("{peer}{wrong}"), theirs, format!("{ratio:.2}")]));
    }
    if table.is_empty() {
        return;
    }
    for column in [3, 4, 5, 7, 8] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // Writing to a string does not fail.
    let _ = write!(text, "\n## {title}\n\n{table}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_what_was_measured() {
        let measurement = Measurement {
            m: 1,
            k: 64,
            n: 64,
            op: "i8 x i8 -> i32".into(),
            kernel: "avx2".into(),
            threads: 1,
            ours_gmacs: 40.96,
            peer: "tract-linalg".into(),
            peer_gmacs: 20.48,
            ratio: 2.0,
            ceiling_gmacs: Some(81.92),
            agrees: Some(false),
        };
        let text = markdown(std::slice::from_ref(&measurement), &["torch: not found".into()]);
        for part in
            ["1x64x64", "0.10", "50 %", "tract-linalg (inexact)", "2.00", "Left out: torch", "1 thread"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("itself"));
        let ours = Measurement { peer: "i8gemm 1x64x64 i8 x i8 -> i32, 1 thread".into(), ..measurement };
        assert!(markdown(&[ours], &[]).contains("itself"));
    }
}

//! The tables of `cargo xtask bench`, in the terminal and as files.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use bench_support::measurement::Measurement;
use comfy_table::{CellAlignment, Table, presets};
use i8gemm::Kernel;
use serde::{Deserialize, Serialize};

/// What `report.json` holds.
#[derive(Serialize, Deserialize)]
pub struct Report {
    machine: String,
    /// What a reader should know of peers.
    pub notes: Vec<String>,
    pub measurements: Vec<Measurement>,
    /// What was not measured, and why.
    pub left_out: Vec<String>,
}

impl Report {
    /// Of this machine.
    pub fn new() -> Self {
        Self { machine: machine(), notes: Vec::new(), measurements: Vec::new(), left_out: Vec::new() }
    }

    /// Writes `report.json` and `report.md`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        for (name, text) in
            [("report.json", serde_json::to_string_pretty(self)?), ("report.md", self.markdown())]
        {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// The name of the CPU.
    pub fn cpu(&self) -> &str {
        self.machine.split(KERNELS).next().unwrap_or_default()
    }

    /// The tables.
    pub fn markdown(&self) -> String {
        let mut text = format!("# i8gemm side by side\n\n{}\n", self.machine);
        text += "\nMedians of pairs measured in turn; rates in 10^9 multiply-adds a second; ours by theirs: above 1 is faster, and where 1 \
                 lies between the quartiles of the pairs, which stand behind it, the two are on a par.\n\
                 Inexact: the sums of its i32 output were not the product's. ~: the quartiles lie more than 10 % apart, after as many \
                 attempts as are made.\n";
        let measurements = &self.measurements;
        for threads in thread_counts(measurements) {
            let of = |ourselves: bool| {
                let chosen = move |m: &&Measurement| m.threads == threads && is_ourselves(m) == ourselves;
                measurements.iter().filter(chosen)
            };
            let plural = if threads == 1 { "thread" } else { "threads" };
            section(&mut text, &format!("Against others, {threads} {plural}"), of(false));
            section(&mut text, &format!("Against itself, {threads} {plural}"), of(true));
        }
        let notes = self.notes.iter().map(|note| ("Note", note));
        for (what, why) in notes.chain(self.left_out.iter().map(|why| ("Left out", why))) {
            // Writing to a string does not fail.
            let _ = write!(text, "\n{what}: {why}\n");
        }
        text
    }
}

/// Stands between the CPU and its kernels.
const KERNELS: &str = "; kernels: ";

/// The CPU, as far as the crate knows it, and who built the crate.
fn machine() -> String {
    let kernels: Vec<_> = Kernel::available().map(|kernel| kernel.name()).collect();
    format!("{}{KERNELS}{}", crate::run::cpu_name(), kernels.join(", "))
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

/// The spread above which a row says so.
const RESTLESS: f64 = 0.1;

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
        "quartiles",
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
        let [low, high] = measurement.ratio_quartiles;
        let restless = if measurement.spread() > RESTLESS { " ~" } else { "" };
        let ratios = [format!("{ratio:.2}"), format!("{low:.2}-{high:.2}{restless}")];
        table.add_row(cells.into_iter().chain([format!("{peer}{wrong}"), theirs]).chain(ratios));
    }
    if table.is_empty() {
        return;
    }
    for column in [3, 4, 5, 7, 8, 9] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // Writing to a string does not fail.
    let _ = write!(text, "\n## {title}\n\n{table}\n");
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Of a product.
    pub fn measurement() -> Measurement {
        Measurement {
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
            ratio_quartiles: [1.75, 2.25],
            attempts: 3,
            ceiling_gmacs: Some(81.92),
            agrees: Some(false),
        }
    }

    #[test]
    fn the_table_names_what_was_measured() {
        let mut report = Report::new();
        report.measurements.push(measurement());
        report.left_out.push("torch: not found".into());
        report.notes.push("held".into());
        let text = report.markdown();
        for part in [
            "1x64x64",
            "0.10",
            "50 %",
            "tract-linalg (inexact)",
            "2.00",
            "1.75-2.25 ~",
            "Left out: torch",
            "Note: held",
            "1 thread",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("itself"));
        let peer = "i8gemm 1x64x64 i8 x i8 -> i32, 1 thread".into();
        report.measurements = vec![Measurement { peer, ratio_quartiles: [1.96, 2.04], ..measurement() }];
        let text = report.markdown();
        assert!(text.contains("itself") && text.contains("1.96-2.04") && !text.contains("2.04 ~"));
    }
}

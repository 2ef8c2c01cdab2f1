//! What became slower since an earlier report.

use std::{fs, io::Read, path::Path};

use anyhow::{Context, Result, ensure};
use bench_support::measurement::Measurement;
use comfy_table::{Table, presets};

use super::report::Report;

/// Changes of a ratio up to this are never called one: medians of quiet runs move by as much.
const LEAST: f64 = 0.02;

/// The largest report that is read: one row takes some 500 bytes.
const MOST_BYTES: u64 = 1 << 26;

/// Reads a `report.json`.
pub fn read(path: &Path) -> Result<Report> {
    let mut text = String::new();
    let file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let read = file.take(MOST_BYTES + 1).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(text.len() as u64 <= MOST_BYTES, "{} is too long for a report", path.display());
    let report: Report = serde_json::from_str(&text)
        .with_context(|| format!("{} is no report of this command", path.display()))?;
    let sound = |m: &Measurement| {
        let [low, high] = m.ratio_quartiles;
        // Not a number is refused too.
        low > 0.0 && m.ratio >= low && high >= m.ratio && high.is_finite()
    };
    let wrong = report.measurements.iter().position(|m| !sound(m));
    ensure!(
        wrong.is_none(),
        "{}: row {} has no order in its ratios",
        path.display(),
        wrong.unwrap_or_default()
    );
    Ok(report)
}

/// A row of both reports.
struct Change<'a> {
    old: &'a Measurement,
    new: &'a Measurement,
}

impl Change<'_> {
    /// How the ratio to the peer changed: below 1 is slower.
    fn times(&self) -> f64 {
        self.new.ratio / self.old.ratio
    }

    /// What chance alone may change: the larger spread of the two.
    fn spread(&self) -> f64 {
        self.old.spread().max(self.new.spread()).max(LEAST)
    }

    fn is_slower(&self) -> bool {
        self.times() < 1.0 - self.spread()
    }
}

/// What the comparison says.
pub struct Comparison {
    pub text: String,
    pub slower: usize,
}

/// Compares ratios to peers, which stay as they are where a whole machine is slower than before. Rows are the same if shape, operation,
/// kernel, threads and peer are.
pub fn compare(old: &[Measurement], new: &[Measurement]) -> Result<Comparison> {
    let changes: Vec<Change> = new
        .iter()
        .filter_map(|new| Some(Change { old: old.iter().find(|old| is_same(old, new))?, new }))
        .collect();
    ensure!(!changes.is_empty(), "the two reports have no row in common");
    let slower: Vec<_> = changes.iter().filter(|change| change.is_slower()).collect();
    let mut text =
        format!("{} rows in common, {} slower by more than their spread\n", changes.len(), slower.len());
    if !slower.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "M x K x N",
            "lhs x rhs -> out",
            "kernel",
            "threads",
            "against",
            "was",
            "is",
            "spread",
        ]);
        for change in &slower {
            let Measurement { m, k, n, op, kernel, threads, peer, .. } = change.new;
            let [was, is] = [change.old, change.new].map(|m| format!("{:.2}", m.ratio));
            let names =
                [format!("{m}x{k}x{n}"), op.clone(), kernel.clone(), threads.to_string(), peer.clone()];
            table.add_row(names.into_iter().chain([was, is, format!("{:.0} %", 100.0 * change.spread())]));
        }
        text += &format!("\n{table}\n");
    }
    Ok(Comparison { text, slower: slower.len() })
}

fn is_same(a: &Measurement, b: &Measurement) -> bool {
    let key = |m: &Measurement| (m.m, m.k, m.n, m.threads);
    key(a) == key(b) && a.op == b.op && a.kernel == b.kernel && a.peer == b.peer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::measurement;

    fn row(ratio: f64, spread: f64) -> Measurement {
        let ratio_quartiles = [ratio * (1.0 - spread / 2.0), ratio * (1.0 + spread / 2.0)];
        Measurement { ratio, ratio_quartiles, ..measurement() }
    }

    #[test]
    fn slower_is_slower_by_more_than_the_spread() {
        let slower = |old, new| compare(&[old], &[new]).unwrap().slower;
        assert_eq!(slower(row(1.0, 0.01), row(0.9, 0.01)), 1);
        assert_eq!(slower(row(1.0, 0.01), row(1.1, 0.01)), 0);
        // Either spread may hide it.
        assert_eq!(slower(row(1.0, 0.12), row(0.9, 0.01)), 0);
        assert_eq!(slower(row(1.0, 0.01), row(0.9, 0.12)), 0);
        // Two quiet runs differ by a hundredth.
        assert_eq!(slower(row(1.0, 0.0), row(0.99, 0.0)), 0);
        assert_eq!(slower(row(1.0, 0.0), row(0.97, 0.0)), 1);
    }

    #[test]
    fn rows_are_found_by_what_they_measure() {
        let old = [row(2.0, 0.01), Measurement { threads: 2, ..row(1.0, 0.01) }];
        let new = [Measurement { threads: 2, ..row(0.5, 0.01) }, Measurement { m: 77, ..row(0.1, 0.01) }];
        let comparison = compare(&old, &new).unwrap();
        assert_eq!(comparison.slower, 1);
        for part in ["1 rows in common", "1.00", "0.50", "tract-linalg"] {
            assert!(comparison.text.contains(part), "{part} in\n{}", comparison.text);
        }
        assert!(compare(&old, &new[1..]).is_err());
        for other in [
            Measurement { op: "u8 x i8 -> i32".into(), ..row(1.0, 0.0) },
            Measurement { kernel: "avx_vnni".into(), ..row(1.0, 0.0) },
            Measurement { peer: "gemmkit".into(), ..row(1.0, 0.0) },
        ] {
            assert!(compare(&old, &[other]).is_err());
        }
    }
}

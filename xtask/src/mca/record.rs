//! The figures that the test holds the loops to.

use std::{fs, io::Write};

use anyhow::{Context, Result};

use super::{Figure, data, json_lines, read, tiles::KERNELS};
use crate::{loops::Target, run::Workspace};

/// A figure for each line, as `--json` prints them.
const FILE: &str = "mca.jsonl";

/// How far a figure may drop below its record.
const MARGIN: f64 = 0.03;

pub fn write(workspace: &Workspace, figures: &[Figure]) -> Result<()> {
    let path = data(workspace, FILE);
    fs::write(&path, json_lines(figures)?).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(writeln!(program::stderr(), "recorded: {}", path.display())?)
}

/// What is worse than recorded, a line each; of one target, if the figures are.
pub fn compare(workspace: &Workspace, figures: &[Figure], target: Option<&Target>) -> Result<String> {
    let path = data(workspace, FILE);
    let parse =
        |line: &str| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()));
    let mut recorded = read(&path)?.lines().map(parse).collect::<Result<Vec<Figure>>>()?;
    if let Some(target) = target {
        let kernel = |figure: &Figure| KERNELS.iter().find(|kernel| kernel.name == figure.kernel);
        recorded.retain(|figure| kernel(figure).is_none_or(|kernel| std::ptr::eq(kernel.target(), target)));
    }
    Ok(worse(&recorded, figures))
}

fn worse(recorded: &[Figure], figures: &[Figure]) -> String {
    let mut lines = String::new();
    let same = |a: &Figure, b: &Figure| (&a.kernel, &a.tile, &a.core) == (&b.kernel, &b.tile, &b.core);
    let mut line = |figure: &Figure, what: String| {
        lines += &format!("{} {} on {}: {what}\n", figure.kernel, figure.tile, figure.core);
    };
    for figure in figures {
        if figure.spills > 0 {
            line(figure, format!("{} spills in the loop", figure.spills));
        }
        match recorded.iter().find(|record| same(record, figure)) {
            Some(record) if figure.mac_per_cycle < record.mac_per_cycle * (1.0 - MARGIN) => {
                line(
                    figure,
                    format!("{} MAC/cycle, {} recorded", figure.mac_per_cycle, record.mac_per_cycle),
                );
            }
            Some(_) => {}
            None => line(figure, "not recorded: `cargo xtask mca --record`".into()),
        }
    }
    for record in recorded {
        if !figures.iter().any(|figure| same(figure, record)) {
            line(record, "recorded, but there is no such loop: `cargo xtask mca --record`".into());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_a_spill_and_a_missing_loop_are_worse() {
        let figure = |tile: &str, mac_per_cycle, spills| Figure {
            kernel: "neon".into(),
            tile: tile.into(),
            core: "cortex-a53".into(),
            mac_per_cycle,
            peak: 5.33,
            spills,
        };
        let recorded = [figure("4x4", 4.0, 0)];
        assert_eq!(worse(&recorded, &[figure("4x4", 3.9, 0)]), "");
        assert!(worse(&recorded, &[figure("4x4", 3.87, 0)]).contains("3.87 MAC/cycle, 4 recorded"));
        assert!(worse(&recorded, &[figure("4x4", 4.0, 1)]).contains("1 spills"));
        assert!(worse(&recorded, &[]).contains("no such loop"));
        assert!(worse(&[], &[figure("4x4", 4.0, 0)]).contains("not recorded"));
    }
}

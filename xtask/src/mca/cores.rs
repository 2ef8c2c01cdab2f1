//! The cores that loops are compared on, and what a loop takes on each: by llvm-mca where its model can be
//! trusted, else by issue slots.
//!
//! Figures of one core are compared with each other only. llvm-mca's Neoverse N1 is a little pessimistic; its
//! Cortex-A76 is really the A57, its Apple M1 an older Apple core with three vector units.

use std::{collections::HashMap, fmt::Write, fs};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{
    slots,
    tiles::{Feature, LABEL, Tile},
};
use crate::run::{Log, Workspace};

const LLVM_MCA: &str = "llvm-mca-22";

/// Turns of the loop in two runs: their difference is free of what happens before the loop is steady.
const TURNS: [u32; 2] = [200, 600];

pub struct Core {
    pub name: &'static str,
    /// The best of what it has.
    pub feature: Feature,
    model: Model,
}

enum Model {
    /// 64-bit code, and 32-bit code too where the model is said to have it: that of the others is of 64-bit code alone.
    LlvmMca {
        armv7: bool,
    },
    Slots(slots::Core),
}

pub static CORES: &[Core] = &[
    Core { name: "cortex-a53", feature: Feature::Neon, model: Model::Slots(slots::Core::A53) },
    Core { name: "cortex-a55", feature: Feature::Dotprod, model: Model::Slots(slots::Core::A55) },
    Core { name: "cortex-a57", feature: Feature::Neon, model: Model::LlvmMca { armv7: true } },
    Core { name: "cortex-a72", feature: Feature::Neon, model: Model::LlvmMca { armv7: true } },
    Core { name: "cortex-a510", feature: Feature::I8mm, model: Model::LlvmMca { armv7: false } },
    Core { name: "neoverse-n1", feature: Feature::Dotprod, model: Model::LlvmMca { armv7: false } },
    Core { name: "neoverse-n2", feature: Feature::I8mm, model: Model::LlvmMca { armv7: false } },
    Core { name: "neoverse-v1", feature: Feature::I8mm, model: Model::LlvmMca { armv7: false } },
    Core { name: "neoverse-v2", feature: Feature::I8mm, model: Model::LlvmMca { armv7: false } },
    Core { name: "apple-m1", feature: Feature::Dotprod, model: Model::LlvmMca { armv7: false } },
];

/// What a loop reaches on a core, in products a cycle.
#[derive(Clone, Copy)]
pub struct Speed {
    pub loops: f64,
    /// The same without loads and counting.
    pub arithmetic: f64,
}

impl Core {
    /// The speed of each tile; none of those whose instructions the core, or its model, lacks.
    pub fn speeds(&self, workspace: &Workspace, log: &Log, tiles: &[Tile]) -> Result<Vec<Option<Speed>>> {
        // Of one target at a time.
        let (v7, v8): (Vec<_>, Vec<_>) = (0..tiles.len()).partition(|&i| tiles[i].kernel.is_armv7());
        let mut all = vec![None; tiles.len()];
        for (triple, indices) in [("armv7", v7), ("aarch64", v8)] {
            let of_target: Vec<&Tile> = indices.iter().map(|&i| &tiles[i]).collect();
            let speeds = self.speeds_of(workspace, log, triple, &of_target)?;
            indices.into_iter().zip(speeds).for_each(|(i, speed)| all[i] = speed);
        }
        Ok(all)
    }

    /// Cycles of pieces of any 64-bit code. What a model lacks, such as system calls, is left out.
    pub fn cycles(&self, workspace: &Workspace, log: &Log, bodies: &[Vec<&str>]) -> Result<Vec<f64>> {
        const ANY_CODE: &[&str] =
            &["--mattr=+i8mm,+dotprod,+fullfp16", "--skip-unsupported-instructions=any"];
        llvm_mca(workspace, log, self.name, "aarch64", bodies, ANY_CODE)
    }

    fn runs(&self, tile: &Tile) -> bool {
        // The rules of issue slots are those of 64-bit code.
        let has_model = !tile.kernel.is_armv7() || matches!(self.model, Model::LlvmMca { armv7: true });
        has_model && tile.kernel.feature() <= self.feature
    }

    fn speeds_of(
        &self,
        workspace: &Workspace,
        log: &Log,
        triple: &str,
        tiles: &[&Tile],
    ) -> Result<Vec<Option<Speed>>> {
        let mut bodies: Vec<Vec<&str>> = Vec::new();
        for tile in tiles.iter().filter(|tile| self.runs(tile)) {
            bodies.push(tile.body.iter().map(String::as_str).collect());
            bodies.push(tile.arithmetic().collect());
        }
        if bodies.is_empty() {
            return Ok(vec![None; tiles.len()]);
        }
        let mut cycles = match self.model {
            Model::Slots(core) => {
                let cycles = |body: &Vec<&str>| f64::from(slots::cycles(core, body.iter().copied()));
                bodies.iter().map(cycles).collect()
            }
            Model::LlvmMca { .. } => llvm_mca(workspace, log, self.name, triple, &bodies, &[])?,
        }
        .into_iter();
        let mut speed = |tile: &Tile| {
            let macs = f64::from(tile.macs());
            Some(Speed { loops: macs / cycles.next()?, arithmetic: macs / cycles.next()? })
        };
        Ok(tiles.iter().map(|tile| if self.runs(tile) { speed(tile) } else { None }).collect())
    }
}

/// What is read of llvm-mca's report.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    code_regions: Vec<Region>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Region {
    summary_view: Summary,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    total_cycles: u32,
}

/// Cycles of a turn of each loop, once it is steady. Equal loops are simulated once.
fn llvm_mca(
    workspace: &Workspace,
    log: &Log,
    core: &str,
    triple: &str,
    bodies: &[Vec<&str>],
    options: &[&str],
) -> Result<Vec<f64>> {
    let comment = if triple == "armv7" { "@" } else { "#" };
    let mut source = String::new();
    let mut regions = HashMap::new();
    for body in bodies {
        let next = regions.len();
        if *regions.entry(body).or_insert(next) == next {
            let text = body.join("\n").replace(LABEL, &format!("{LABEL}{next}"));
            writeln!(source, "{comment} LLVM-MCA-BEGIN\n{LABEL}{next}:\n{text}\n{comment} LLVM-MCA-END")?;
        }
    }
    let file = workspace.target.join("xtask").join(format!("mca-{triple}-{core}.s"));
    fs::write(&file, source).with_context(|| format!("cannot write {}", file.display()))?;
    let mut cycles = Vec::new();
    for turns in TURNS {
        let mut command = workspace.command(LLVM_MCA);
        command.args([
            &format!("--mtriple={triple}"),
            "--json",
            "--resource-pressure=false",
            "--instruction-info=false",
        ]);
        command.args([format!("--mcpu={core}"), format!("--iterations={turns}")]).args(options);
        let text = log.check(command.arg(&file))?;
        // Warnings come before it, some with braces of their own: of lists of registers.
        let json = &text[text.find("{\n").context("llvm-mca printed no report")?..];
        let report: Report =
            serde_json::from_str(json).context("llvm-mca's report does not read as expected")?;
        ensure!(
            report.code_regions.len() == regions.len(),
            "llvm-mca left out a loop: see {}",
            file.display()
        );
        cycles.push(report.code_regions.iter().map(|r| r.summary_view.total_cycles).collect::<Vec<_>>());
    }
    let steady = |i: usize| f64::from(cycles[1][i] - cycles[0][i]) / f64::from(TURNS[1] - TURNS[0]);
    Ok(bodies.iter().map(|body| steady(regions[body])).collect())
}

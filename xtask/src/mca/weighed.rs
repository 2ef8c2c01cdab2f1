//! What whole calls take on a core: every block of instructions that was executed, as often as it was, weighed by llvm-mca as if it were
//! a loop by itself.
//!
//! It ranks calls on one core, and is no time: caches always have everything, branches are always foreseen, and a block neither overlaps
//! with those around it nor waits for them. Blocks that are seldom executed are not simulated: their instructions count as the others'.

use std::{cmp::Reverse, collections::HashMap};

use anyhow::Result;

use super::cores::{CORES, Core};
use crate::{
    loops::Instruction,
    mca::tiles::{Kernel, without_destination},
    run::{Log, Workspace},
};

/// Cores whose models can be trusted with more than loops.
const NAMES: [&str; 5] = ["cortex-a57", "cortex-a510", "neoverse-n1", "neoverse-n2", "neoverse-v2"];

/// The share of a call's instructions whose blocks are simulated.
const COVER: f64 = 0.995;

/// How often blocks were executed, by the address of the first instruction and how many there are.
pub type Blocks = HashMap<(u64, u64), u64>;

/// The cores that figures are of, in their order.
pub fn cores() -> impl Iterator<Item = &'static Core> {
    CORES.iter().filter(|core| NAMES.contains(&core.name))
}

/// Cycles of blocks that were simulated before: calls have most in common.
#[derive(Default)]
pub struct Weights(HashMap<&'static str, HashMap<Vec<String>, f64>>);

impl Weights {
    /// Cycles of a kernel's call on each of [`cores`]; none where the core lacks its instructions, or its model knows none of them.
    pub fn cycles(
        &mut self,
        workspace: &Workspace,
        log: &Log,
        kernel: &Kernel,
        blocks: &Blocks,
        instructions: &HashMap<u64, Instruction>,
    ) -> Result<Vec<Option<f64>>> {
        let executed = |(&(_, length), &count): (&(u64, u64), &u64)| length * count;
        let all: u64 = blocks.iter().map(executed).sum();
        let mut most: Vec<_> = blocks.iter().collect();
        most.sort_by_key(|block| (Reverse(executed(*block)), *block.0));
        // Those of the most, and how often.
        let mut bodies: Vec<(Vec<String>, u64)> = Vec::new();
        let mut covered = 0;
        for block in most {
            if covered as f64 >= COVER * all as f64 {
                break;
            }
            let (&(first, length), &count) = block;
            let body = (0..length).map(|i| instructions.get(&(first + 4 * i)));
            // What is not in the disassembly is not of the program.
            if let Some(body) = body.map(|i| Some(without_destination(i?.text))).collect::<Option<_>>() {
                covered += executed(block);
                bodies.push((body, count));
            }
        }
        let whole = all as f64 / covered.max(1) as f64;
        let weigh = |core: &'static Core| {
            if kernel.is_armv7() || kernel.feature() > core.feature {
                return Ok(None);
            }
            let known = self.0.entry(core.name).or_default();
            let new: Vec<_> =
                bodies.iter().map(|(body, _)| body).filter(|body| !known.contains_key(*body)).collect();
            let texts: Vec<Vec<&str>> =
                new.iter().map(|body| body.iter().map(String::as_str).collect()).collect();
            let cycles = if texts.is_empty() { Vec::new() } else { core.cycles(workspace, log, &texts)? };
            known.extend(new.into_iter().cloned().zip(cycles));
            let sum: f64 = bodies.iter().map(|(body, count)| known[body] * *count as f64).sum();
            Ok(Some(sum * whole))
        };
        cores().map(weigh).collect()
    }
}

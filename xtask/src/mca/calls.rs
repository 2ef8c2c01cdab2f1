//! Whole calls: instructions for each product, counted under QEMU, with what surrounds the loops.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{
    json_lines, read, step,
    tiles::{self, KERNELS, Kernel, Tile},
    weighed::{self, Blocks, Weights},
};
use crate::{
    debian,
    loops::{self, Instruction, Target, functions},
    run::{Log, Progress, Workspace},
};

/// The emulator that is linked dynamically: the static one takes no plugins.
const PACKAGES: &[&str] = &["qemu-user", "llvm-22"];

/// M, K, N and how many times the bare loop's instructions for each product a call with i32 output may take, where there is a
/// limit.
const SHAPES: [([u64; 3], Option<f64>); 20] = [
    ([1, 1024, 1024], Some(1.3)),
    ([2, 1024, 1024], None),
    ([3, 1024, 1024], None),
    ([4, 1024, 1024], None),
    ([5, 1024, 1024], None),
    ([7, 1024, 1024], None),
    ([512, 512, 1], None),
    ([512, 512, 8], None),
    ([12544, 27, 32], None),
    ([32, 32, 32], None),
    ([1, 4096, 4096], None),
    ([8, 1024, 1024], None),
    ([49, 960, 160], None),
    ([196, 512, 512], None),
    ([128, 768, 768], Some(1.12)),
    ([128, 768, 3072], None),
    ([512, 512, 512], None),
    ([1024, 1024, 1024], None),
    ([3136, 64, 64], Some(1.45)),
    ([784, 1152, 128], None),
];

/// What a call took.
#[derive(Serialize)]
struct Call {
    kernel: &'static str,
    shape: String,
    output: String,
    instructions: u64,
    instructions_per_mac: f64,
    /// The loop that did most of the work.
    tile: String,
    /// Its instructions for each product.
    bare_loop: f64,
    ratio: f64,
    at_most: Option<f64>,
    /// Predicted of cores, by [`weighed::cores`]; none where they lack the kernel's instructions.
    cycles_per_mac: Vec<Option<f64>>,
    parts: Parts,
    /// The functions that take most instructions outside of loops, and how many of the call's, in percent.
    #[serde(skip)]
    outside: Vec<(String, f64)>,
}

/// Where the instructions went, in percent.
#[derive(Serialize)]
struct Parts {
    loops: f64,
    /// Before and after the loops: sums cleared, then made into outputs.
    tiles: f64,
    packing: f64,
    rest: f64,
}

/// The program whose calls are counted.
struct Program {
    target: &'static Target,
    binary: PathBuf,
    disassembly: String,
    tiles: Vec<Tile>,
    /// Where its entry point is, before it is loaded.
    entry: u64,
}

pub fn main(workspace: &Workspace, only: Option<&str>, output: &str, json: bool) -> Result<ExitCode> {
    let log = Log::create(workspace, "calls")?;
    step("packages", || debian::install(workspace, &log, PACKAGES))?;
    let plugin = step("build the counter", || {
        log.check(workspace.cargo().args(["build", "-p", "count-instructions", "--release"]))?;
        Ok(workspace.target.join("release/libcount_instructions.so"))
    })?;
    let calls = KERNELS.iter().flat_map(|kernel| SHAPES.iter().map(move |shape| (kernel, shape)));
    let calls = calls.map(|(kernel, (shape, at_most))| {
        let at_most = at_most.filter(|_| output == "i32");
        (kernel, *shape, shape.map(|d| d.to_string()).join("x"), at_most)
    });
    let chosen =
        |kernel: &Kernel, name: &str| only.is_none_or(|only| only == kernel.name || name.contains(only));
    let calls: Vec<_> = calls.filter(|(kernel, _, name, _)| chosen(kernel, name)).collect();
    ensure!(!calls.is_empty(), "no kernel is `{}` and no shape contains it", only.unwrap_or_default());
    // Kernels of one target stand together.
    let mut program: Option<Program> = None;
    let mut weights = Weights::default();
    let mut results = Vec::new();
    for (i, (kernel, shape, name, at_most)) in calls.iter().enumerate() {
        let program = match program.take().filter(|program| std::ptr::eq(program.target, kernel.target())) {
            Some(built) => program.insert(built),
            None => program.insert(Program::build(workspace, &log, kernel)?),
        };
        let progress = Progress::start(format!("[{}/{}] {}, {name}", i + 1, calls.len(), kernel.name))?;
        // The difference of two runs is free of start-up and of packing the weights.
        let count = |calls| program.count(workspace, &log, &plugin, kernel.name, shape, output, calls);
        let counts = count(1).and_then(|one| Ok((one, count(2)?)));
        progress.finish(if counts.is_ok() { "done" } else { "FAILED" })?;
        let (one, two) = counts?;
        let macs: u64 = shape.iter().product();
        let blocks = difference(&one, &two);
        let cycles = weights.cycles(workspace, &log, kernel, &blocks, &program.instructions())?;
        let cycles = cycles.into_iter().map(|cycles| cycles.map(|cycles| cycles / macs as f64)).collect();
        results.push(program.call(
            kernel.name,
            name,
            output,
            *at_most,
            macs,
            cycles,
            &by_instruction(&blocks),
        )?);
    }
    if json {
        write!(program::stdout(), "{}", json_lines(&results)?)?;
    } else {
        writeln!(
            program::stdout(),
            "{}\n\nBelow the cores: predicted cycles for each product.",
            table(&results)
        )?;
    }
    let missed = |call: &&Call| call.at_most.is_some_and(|limit| call.ratio > limit);
    let mut err = program::stderr();
    for call in results.iter().filter(missed) {
        let limit = call.at_most.unwrap_or_default();
        writeln!(
            err,
            "{} {}: {:.3} times the bare loop, above {limit}; outside:",
            call.kernel, call.shape, call.ratio
        )?;
        call.outside
            .iter()
            .try_for_each(|(function, percent)| writeln!(err, "{percent:7.1} %  {function}"))?;
    }
    Ok(if results.iter().any(|call| missed(&call)) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Program {
    /// The program for the target of a kernel.
    fn build(workspace: &Workspace, log: &Log, kernel: &Kernel) -> Result<Self> {
        let name = if kernel.is_armv7() { "ARMv7" } else { "aarch64" };
        let build = if kernel.is_armv7() { debian::armv7_program } else { debian::aarch64_program };
        let binary = step(&format!("build the calls for {name}"), || build(workspace, log, "one-call"))?;
        let target = kernel.target();
        let disassembly = loops::disassemble(log, &binary, target)?;
        let tiles = tiles::find(&disassembly, target)?;
        let elf = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
        let entry = entry(&elf).context("the program has no ELF header")?;
        Ok(Self { target, binary, disassembly, tiles, entry })
    }

    /// Every instruction by its address.
    fn instructions(&self) -> HashMap<u64, Instruction<'_>> {
        functions(&self.disassembly).into_iter().flatten().map(|i| (i.address, i)).collect()
    }

    /// How often each block is executed in a run of so many calls.
    #[allow(clippy::too_many_arguments, reason = "what is run, and what runs it")]
    fn count(
        &self,
        workspace: &Workspace,
        log: &Log,
        plugin: &Path,
        kernel: &str,
        shape: &[u64; 3],
        output: &str,
        calls: u32,
    ) -> Result<Blocks> {
        let out = workspace.target.join("xtask/calls.counts");
        let armv7 = std::ptr::eq(self.target, &loops::ARMV7);
        let mut qemu = workspace.command(if armv7 { "qemu-arm" } else { "qemu-aarch64" });
        qemu.args(["-cpu", "max", "-plugin"])
            .arg(format!("{},out={}", plugin.display(), out.display()))
            .arg(&self.binary);
        qemu.arg(kernel).args(shape.map(|d| d.to_string())).args([output, &calls.to_string()]);
        log.check(&mut qemu)?;
        blocks(&read(&out)?, self.entry).context("the counter's file does not read as expected")
    }

    /// What a call takes, from how often each instruction is executed.
    #[allow(clippy::too_many_arguments, reason = "most are copied to the result")]
    fn call(
        &self,
        kernel: &'static str,
        shape: &str,
        output: &str,
        at_most: Option<f64>,
        macs: u64,
        cycles_per_mac: Vec<Option<f64>>,
        counts: &HashMap<u64, u64>,
    ) -> Result<Call> {
        let executed = |address: &u64| counts.get(address).copied().unwrap_or(0);
        let instructions: u64 = counts.values().sum();
        let turns = |tile: &&Tile| executed(&tile.addresses[0]) * u64::from(tile.macs());
        // A schedule has the tiles of the kernel it is another schedule of, where it has none of its own.
        let family = KERNELS.iter().find(|other| other.name == kernel).map(Kernel::family);
        let of_family = |tile: &&Tile| Some(tile.kernel.family()) == family;
        let tile = self.tiles.iter().filter(of_family).max_by_key(turns);
        let tile = tile
            .filter(|tile| turns(tile) > 0)
            .with_context(|| format!("no loop of {kernel} was executed"))?;
        let loops: HashSet<u64> = self.tiles.iter().flat_map(|tile| &tile.addresses).copied().collect();
        let in_loops: u64 = loops.iter().map(executed).sum();
        let (mut in_tiles, mut packing) = (0, 0);
        let mut by_function = Vec::new();
        for function in functions(&self.disassembly) {
            let Some(name) = function.first().map(|first| first.function) else { continue };
            let outside = function.iter().filter(|i| !loops.contains(&i.address));
            let count: u64 = outside.map(|i| executed(&i.address)).sum();
            // A loop may have been moved into the function that goes through the tiles.
            let of_tiles =
                self.tiles.iter().any(|tile| tile.function == name && !name.ends_with("::multiply"));
            // 32-bit ARM: sums are made into outputs by functions of their own.
            if of_tiles || ["::arm::ends::", "::arm::neon::tile"].iter().any(|part| name.contains(part)) {
                in_tiles += count;
            } else if ["pack_", "::pack::", "row_sums", "tail_block"].iter().any(|part| name.contains(part)) {
                packing += count;
            }
            by_function.push((name, count));
        }
        by_function.sort_by_key(|(_, count)| Reverse(*count));
        let percent = |part: u64| 100.0 * part as f64 / instructions as f64;
        let parts = Parts {
            loops: percent(in_loops),
            tiles: percent(in_tiles),
            packing: percent(packing),
            rest: percent(instructions - in_loops - in_tiles - packing),
        };
        let outside = by_function.iter().take(4).filter(|(_, count)| *count > 0);
        let outside = outside.map(|(name, count)| ((*name).to_owned(), percent(*count))).collect();
        let instructions_per_mac = instructions as f64 / macs as f64;
        let bare_loop = tile.instructions_per_mac();
        Ok(Call {
            kernel,
            shape: shape.into(),
            output: output.into(),
            instructions,
            instructions_per_mac,
            tile: tile.name.clone(),
            bare_loop,
            ratio: instructions_per_mac / bare_loop,
            at_most,
            cycles_per_mac,
            parts,
            outside,
        })
    }
}

/// `e_entry` of a little-endian ELF file of 32 or 64 bits.
fn entry(elf: &[u8]) -> Option<u64> {
    match elf.get(4)? {
        1 => Some(u32::from_le_bytes(elf.get(24..28)?.try_into().ok()?).into()),
        _ => Some(u64::from_le_bytes(elf.get(24..32)?.try_into().ok()?)),
    }
}

/// The counts of blocks, as the counter writes them, by the addresses of a program whose entry point is there.
fn blocks(text: &str, entry: u64) -> Result<Blocks> {
    let mut lines = text.lines();
    let loaded: u64 = lines.next().context("it is empty")?.parse()?;
    let mut counts = Blocks::new();
    for line in lines {
        let words = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let &[address, instructions, count] = words.as_slice() else { bail!("{line}") };
        *counts.entry((address.wrapping_sub(loaded).wrapping_add(entry), instructions)).or_default() += count;
    }
    Ok(counts)
}

/// What the second run executed more often.
fn difference(one: &Blocks, two: &Blocks) -> Blocks {
    let more = |(block, count): (&(u64, u64), &u64)| {
        (*block, count.saturating_sub(one.get(block).copied().unwrap_or_default()))
    };
    two.iter().map(more).filter(|(_, count)| *count > 0).collect()
}

/// The counts of blocks, spread over their instructions.
fn by_instruction(blocks: &Blocks) -> HashMap<u64, u64> {
    let mut counts = HashMap::new();
    for (&(first, instructions), &count) in blocks {
        // Of 4 bytes each: Thumb code, which is the C library's alone, adds to the whole but is not told apart.
        for i in 0..instructions {
            *counts.entry(first + 4 * i).or_default() += count;
        }
    }
    counts
}

fn table(calls: &[Call]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let header = [
        "kernel",
        "M x K x N",
        "output",
        "instr/MAC",
        "loop",
        "loop's",
        "ratio",
        "at most",
        "loops %",
        "tiles %",
        "packing %",
        "rest %",
    ];
    let cores = weighed::cores().map(|core| core.name.split_once('-').map_or(core.name, |(_, name)| name));
    table.set_header(header.into_iter().chain(cores));
    for call in calls {
        let mut cells = vec![
            call.kernel.to_owned(),
            call.shape.clone(),
            call.output.clone(),
            format!("{:.4}", call.instructions_per_mac),
            call.tile.clone(),
            format!("{:.4}", call.bare_loop),
            format!("{:.3}", call.ratio),
            call.at_most.map_or_else(|| "-".into(), |limit| format!("{limit}")),
        ];
        let parts = [call.parts.loops, call.parts.tiles, call.parts.packing, call.parts.rest];
        cells.extend(parts.map(|part| format!("{part:.1}")));
        let cycles = call.cycles_per_mac.iter();
        cells.extend(cycles.map(|cycles| cycles.map_or_else(|| "-".into(), |cycles| format!("{cycles:.4}"))));
        table.add_row(cells);
    }
    for column in (3..header.len() + weighed::cores().count()).filter(|column| *column != 4) {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_overlap_add_up() {
        let two = blocks("1000\n1008 2 5\n1012 1 3\n", 100).unwrap();
        assert_eq!(by_instruction(&two), HashMap::from([(108, 5), (112, 8)]));
        let one = blocks("2000\n2008 2 4\n2012 1 3\n", 100).unwrap();
        assert_eq!(difference(&one, &two), Blocks::from([((108, 2), 1)]));
        assert!(blocks("", 100).is_err());
        assert!(blocks("1000\n1008 2\n", 100).is_err());
    }
}

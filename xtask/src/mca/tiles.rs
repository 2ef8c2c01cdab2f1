//! The loops of the ARM kernels: which there are, where they are found in the disassembly, what they consist
//! of.

use anyhow::{Context, Result, ensure};
use i8gemm::KernelInfo;

use super::slots::loaded_bits;
use crate::loops::{self, Instruction, Target, functions, inner_loops, name};

/// What a kernel asks of a CPU; each has what those before it have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    Neon,
    Dotprod,
    I8mm,
}

/// A kernel whose loops are looked at: where the disassembly has them. What else there is to know, the library's list says. Its tiles are
/// found: see [`find`].
pub struct Kernel {
    pub name: &'static str,
    /// What the symbols of its tiles contain.
    symbol: &'static str,
    /// Columns of its tiles.
    columns: u32,
}

impl Kernel {
    const fn new(name: &'static str, symbol: &'static str, columns: u32) -> Self {
        Self { name, symbol, columns }
    }

    /// What the library says of it; of a kernel that it does not have, the tests here say so.
    fn info(&self) -> &'static KernelInfo {
        let info = i8gemm::Kernel::catalog().iter().find(|info| info.name == self.name);
        info.expect("every kernel here is one of the library")
    }

    /// The kernel that it is another schedule of, or itself: one panel of the chart.
    pub fn family(&self) -> &'static str {
        self.info().in_order_of.unwrap_or(self.name)
    }

    /// The best of what it asks of a CPU.
    pub fn feature(&self) -> Feature {
        let has = |feature| self.info().features.contains(&feature);
        match (has("i8mm"), has("dotprod")) {
            (true, _) => Feature::I8mm,
            (false, true) => Feature::Dotprod,
            (false, false) => Feature::Neon,
        }
    }

    pub fn is_armv7(&self) -> bool {
        self.info().arch == Some("arm")
    }

    pub fn target(&self) -> &'static Target {
        if self.is_armv7() { &loops::ARMV7 } else { &loops::AARCH64 }
    }
}

/// The kernels for ARM. A loop that multiplies and belongs to none of them is an error; where modules are shared, the first takes it.
pub static KERNELS: &[Kernel] = &[
    Kernel::new("neon_i8mm", "kernels::aarch64::i8mm::", 8),
    // The rows that it has no tiles of its own for are those of the next one.
    Kernel::new("neon_dotprod_a55", "kernels::aarch64::dotprod::tile_a55", 8),
    Kernel::new("neon_dotprod", "kernels::aarch64::dotprod::", 8),
    Kernel::new("neon_a53", "kernels::aarch64::neon::tile_a53", 4),
    Kernel::new("neon", "kernels::aarch64::neon::", 4),
    Kernel::new("armv7_neon", "kernels::arm::tiles::", 4),
];

/// Where a loop's last instruction goes.
pub const LABEL: &str = ".Lloop";

/// The steady-state loop of one tile in one of its functions, which differ in what becomes of the sums.
pub struct Tile {
    pub kernel: &'static Kernel,
    pub rows: u32,
    /// Rows and columns; the schedule, if it is not the kernel's only one.
    pub name: String,
    pub function: String,
    pub addresses: Vec<u64>,
    /// The instructions, the last of which branches to [`LABEL`].
    pub body: Vec<String>,
}

impl Tile {
    /// Products of a turn that the tile wants.
    pub fn macs(&self) -> u32 {
        let macs: u32 = self.body.iter().map(|text| (self.kernel.target().macs)(text)).sum();
        // `smmla` multiplies two rows by two columns: of one row, half of its products are wanted.
        if self.kernel.feature() == Feature::I8mm && self.rows == 1 { macs / 2 } else { macs }
    }

    pub fn instructions_per_mac(&self) -> f64 {
        self.body.len() as f64 / f64::from(self.macs())
    }

    /// Registers loaded, for each instruction that multiplies.
    pub fn loads_per_multiply(&self) -> f64 {
        let registers: usize = self.body.iter().map(|text| loaded_registers(text)).sum();
        let multiplies = self.body.iter().filter(|text| (self.kernel.target().macs)(text) > 0).count();
        registers as f64 / multiplies as f64
    }

    /// Stores: the loop multiplies and adds, and what it puts away is a sum that found no register.
    pub fn spills(&self) -> usize {
        self.body.iter().filter(|text| (self.kernel.target().stores)(text)).count()
    }

    /// The instructions that multiply and add: what the loop would be if loads and counting were free.
    pub fn arithmetic(&self) -> impl Iterator<Item = &str> {
        let adds = |text: &str| ["sadalp", "uadalp", "vpadal"].iter().any(|add| text.starts_with(add));
        self.body
            .iter()
            .map(String::as_str)
            .filter(move |text| (self.kernel.target().macs)(text) > 0 || adds(text))
    }
}

/// The steady-state loops in a disassembly: of each function of a kernel, the loop that multiplies most in a
/// turn.
///
/// A tile is told by its function's name: the first number among its generic parameters, or in a symbol of
/// assembly, says its rows; what follows `tile` in the name says the schedule. Where the compiler moved a
/// tile into the loops around it, the rows are those that go with what the loop loads and multiplies.
pub fn find(disassembly: &str, target: &'static Target) -> Result<Vec<Tile>> {
    let mut tiles: Vec<Tile> = Vec::new();
    for function in functions(disassembly) {
        let mut bodies = inner_loops(&function, target);
        let most = bodies.iter().map(|body| macs(body, target)).max().unwrap_or_default();
        bodies.retain(|body| most > 0 && macs(body, target) == most);
        let Some(first) = bodies.first() else {
            continue;
        };
        let symbol = first[0].function;
        // Depthwise convolution is no product of matrices: it has no tiles of rows.
        if symbol.ends_with("::run") {
            continue;
        }
        let kernel = KERNELS.iter().find(|kernel| symbol.contains(kernel.symbol));
        let Some(kernel) = kernel else {
            // Other functions have loops that the compiler vectorized: those of the portable kernel, and
            // other libraries'.
            let by_hand =
                ["kernels::aarch64::", "kernels::arm::"].iter().any(|module| symbol.contains(module));
            ensure!(!by_hand, "no kernel in the list of loops is that of {symbol}");
            continue;
        };
        let (rows, schedule) = tile_name(symbol, kernel);
        // More than one if the compiler made copies.
        for body in bodies {
            let rows = rows.or_else(|| rows_by_loads(body, kernel));
            let rows = rows.with_context(|| format!("cannot tell how many rows the loop of {symbol} has"))?;
            tiles.push(Tile {
                kernel,
                rows,
                name: format!("{rows}x{}{schedule}", kernel.columns),
                function: symbol.to_owned(),
                addresses: body.iter().map(|i| i.address).collect(),
                body: body.iter().map(|i| without_destination(i.text)).collect(),
            });
        }
    }
    for kernel in KERNELS.iter().filter(|kernel| std::ptr::eq(kernel.target(), target)) {
        ensure!(
            tiles.iter().any(|tile| tile.kernel.name == kernel.name),
            "no loop of {} was found",
            kernel.name
        );
    }
    let order = |tile: &Tile| KERNELS.iter().position(|kernel| kernel.name == tile.kernel.name);
    tiles.sort_by(|a, b| (order(a), b.rows, &a.name).cmp(&(order(b), a.rows, &b.name)));
    Ok(tiles)
}

/// Vector registers, on 32-bit ARM q registers, that an instruction loads.
fn loaded_registers(text: &str) -> usize {
    match name(text) {
        // `{d0-d3}`: one q register for every two of d.
        name if name.starts_with("vld1") => {
            if text.contains('-') {
                vld1_registers(text).div_ceil(2)
            } else {
                1
            }
        }
        name if name.starts_with("ldp") => 2,
        name if name.starts_with("ld") => 1,
        _ => 0,
    }
}

/// The d registers of the list of a `vld1`, as objdump prints it: `{d0-d3}`.
fn vld1_registers(text: &str) -> usize {
    let list = text.split(['{', '}']).nth(1).unwrap_or_default();
    let mut ends = list.split('-').filter_map(|d| d.trim_start_matches('d').parse::<usize>().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) => last.saturating_sub(first) + 1,
        _ => 1,
    }
}

fn macs(body: &[Instruction], target: &Target) -> u32 {
    body.iter().map(|i| (target.macs)(i.text)).sum()
}

/// A tile's rows, if its symbol says them, and the words that name its schedule: see [`find`].
fn tile_name(symbol: &str, kernel: &Kernel) -> (Option<u32>, String) {
    let (_, symbol) = symbol.split_once(kernel.symbol).unwrap_or_default();
    let (function, generics) = symbol.split_once("::<").unwrap_or((symbol, ""));
    let mut numbers = generics.trim_end_matches('>').split(", ").chain(function.split('_'));
    let rows = numbers.find_map(|number| if number == "one" { Some(1) } else { number.parse().ok() });
    let is_schedule =
        |word: &&str| !["", "tile", "one", "row", "multiply"].contains(word) && word.parse::<u32>().is_err();
    (rows, function.split('_').filter(is_schedule).map(|word| format!(" {word}")).collect())
}

/// Rows of a loop that loads its rows and columns once: `k` bytes of each, for `rows * columns * k` products.
fn rows_by_loads(body: &[Instruction], kernel: &Kernel) -> Option<u32> {
    let bytes = body.iter().map(|i| loaded_bits(i.text)).sum::<u32>() / 8;
    let all = macs(body, kernel.target());
    // Of one row, `smmla` multiplies twice as much as is wanted.
    [all, all / 2].into_iter().find_map(|macs| {
        let k = (bytes / kernel.columns).checked_sub(macs / kernel.columns.pow(2)).filter(|k| *k > 0)?;
        let rows = macs / (k * kernel.columns);
        (rows > 0 && rows * k * kernel.columns == macs && k * (rows + kernel.columns) == bytes)
            .then_some(rows)
    })
}

/// An instruction that goes to [`LABEL`] rather than to an address, as objdump names it: `b.ne 8c
/// <tile+0x8c>`.
pub fn without_destination(text: &str) -> String {
    match text.split_once(" <") {
        Some((text, _)) => {
            let end = text.rfind([' ', '\t']).map_or(0, |space| space + 1);
            format!("{}{LABEL}", &text[..end])
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kernel_for_arm_is_looked_at() {
        let arm =
            i8gemm::Kernel::catalog().iter().filter(|info| matches!(info.arch, Some("aarch64" | "arm")));
        let listed: BTreeSet<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
        assert_eq!(listed, arm.map(|info| info.name).collect());
    }

    #[test]
    fn tiles_are_told_by_their_symbols() {
        let name = |kernel: usize, symbol: &str| tile_name(symbol, &KERNELS[kernel]);
        let path = "i8gemm::kernels::aarch64";
        let end = "i8gemm::kernels::product::ends::EndI32";
        assert_eq!(name(0, &format!("{path}::i8mm::tile::<{end}, 12, 6>")), (Some(12), String::new()));
        assert_eq!(name(0, &format!("{path}::i8mm::one_row::<{end}>")), (Some(1), String::new()));
        assert_eq!(name(0, &format!("{path}::i8mm::multiply")), (None, String::new()));
        let in_order = format!("{path}::dotprod::tile_in_order::<{end}, 8>");
        assert_eq!(name(2, &in_order), (Some(8), " in order".into()));
        assert_eq!(name(3, &format!("{path}::neon::tile_a53::<{end}>")), (None, String::new()));
        assert_eq!(name(4, &format!("{path}::neon::tile_a53_4")), (Some(4), " a53".into()));
        let armv7 = "i8gemm::kernels::arm::tiles";
        assert_eq!(name(5, &format!("{armv7}::tile_1")), (Some(1), String::new()));
        assert_eq!(name(5, &format!("{armv7}::tile::<4>")), (Some(4), String::new()));
    }

    #[test]
    fn registers_that_are_loaded() {
        let counts = [
            ("vld1.8\t{d0-d3}, [r1], ip", 2),
            ("vld1.8\t{d4-d5}, [r4]!", 1),
            ("vld1.8\t{d4}, [r4]!", 1),
            ("ldp\tq2, q3, [x1, #64]", 2),
            ("ldr\tq1, [x0], #16", 1),
            ("vmull.s8\tq4, d4, d0", 0),
        ];
        for (text, count) in counts {
            assert_eq!(loaded_registers(text), count, "{text}");
        }
    }

    /// Two steps of one row by `smmla`: half of the products are of values that do not belong together.
    #[test]
    fn products_that_no_one_wants_do_not_count() {
        let loop_of = |module: &str, name: &str, body: &str| {
            let label = format!("kernels::aarch64::{module}::{name}");
            format!(
                "0000000000000000 <{label}>:\n   0:\t{body}\n  30:\tb.ne\t0 <{label}>  // b.any\n  34:\tret\n"
            )
        };
        let others = loop_of("dotprod", "tile::<End, 4>", "sdot\tv0.4s, v1.16b, v2.4b[0]")
            + &loop_of("dotprod", "tile_a55::<End, 8>", "sdot\tv0.4s, v1.16b, v2.4b[0]")
            + &loop_of("neon", "tile::<End, 4>", "smull\tv0.8h, v1.8b, v2.8b")
            + &loop_of("neon", "tile_a53::<End, 4>", "smull\tv0.8h, v1.8b, v2.8b");
        let one = "ldr\tq1, [x0], #16\n   4:\tldp\tq2, q3, [x1]\n   8:\tldp\tq4, q5, [x1, #32]\n  \
                   c:\tldp\tq2, q3, [x1, #64]\n  10:\tldp\tq4, q5, [x1, #96]";
        let smmla: String =
            (0..8).map(|i| format!("\n  {}:\tsmmla\tv0.4s, v1.16b, v2.16b", 14 + i)).collect();
        let tiles = |name: &str| {
            find(&(loop_of("i8mm", name, &(one.to_owned() + &smmla)) + &others), &loops::AARCH64)
        };
        for name in ["one_row::<End>", "multiply"] {
            let tile = &tiles(name).unwrap()[0];
            assert_eq!((tile.name.as_str(), tile.rows, tile.macs()), ("1x8", 1, 128));
        }
        let two = &tiles("tile::<End, 2, 1>").unwrap()[0];
        assert_eq!((two.macs(), two.loads_per_multiply(), two.spills()), (256, 9.0 / 8.0, 0));
        assert_eq!(two.body[13], "b.ne\t.Lloop");
        // A sum is put away wherever it goes, not only beside the stack pointer.
        let stored = one.to_owned() + &smmla + "\n  2c:\tstr\tq9, [x0, #-16]";
        let tiles =
            find(&(loop_of("i8mm", "tile::<End, 2, 1>", &stored) + &others), &loops::AARCH64).unwrap();
        assert_eq!(tiles[0].spills(), 1);
        let alone = loop_of("i8mm", "tile::<End, 2, 1>", &(one.to_owned() + &smmla));
        assert!(find(&alone, &loops::AARCH64).is_err(), "loops of the others are missing");
        assert!(
            find(&loop_of("sve", "tile", "sdot\tv0.4s, v1.16b, v2.16b"), &loops::AARCH64).is_err(),
            "not listed"
        );
    }
}

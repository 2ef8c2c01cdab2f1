//! The loops of the ARM kernels: which there are, where they are found in the disassembly, what they consist of.

use anyhow::{Result, ensure};

use crate::loops::{self, Instruction, Target, functions, inner_loops, name};

/// What a kernel asks of a CPU; each has what those before it have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    Neon,
    Dotprod,
    I8mm,
}

/// A kernel whose loops are looked at. Its tiles are found: see [`find`].
pub struct Kernel {
    pub name: &'static str,
    /// What the symbols of its tiles contain.
    symbol: &'static str,
    /// Columns of its tiles.
    columns: u32,
    pub feature: Feature,
    target: &'static Target,
}

/// The one list of kernels. A loop that multiplies and belongs to none of them is an error.
pub static KERNELS: &[Kernel] = &[
    Kernel {
        name: "neon_i8mm",
        symbol: "kernels::aarch64::i8mm::",
        columns: 8,
        feature: Feature::I8mm,
        target: &loops::AARCH64,
    },
    Kernel {
        name: "neon_dotprod",
        symbol: "kernels::aarch64::dotprod::",
        columns: 8,
        feature: Feature::Dotprod,
        target: &loops::AARCH64,
    },
    Kernel {
        name: "neon",
        symbol: "kernels::aarch64::neon::",
        columns: 4,
        feature: Feature::Neon,
        target: &loops::AARCH64,
    },
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
        let macs: u32 = self.body.iter().map(|text| (self.kernel.target.macs)(text)).sum();
        // `smmla` multiplies two rows by two columns: of one row, half of its products are wanted.
        if self.kernel.feature == Feature::I8mm && self.rows == 1 { macs / 2 } else { macs }
    }

    pub fn instructions_per_mac(&self) -> f64 {
        self.body.len() as f64 / f64::from(self.macs())
    }

    /// Registers loaded, for each instruction that multiplies.
    pub fn loads_per_multiply(&self) -> f64 {
        let loads = self.body.iter().filter(|text| name(text).starts_with("ld"));
        let registers: usize = loads.map(|text| 1 + usize::from(name(text).starts_with("ldp"))).sum();
        let multiplies = self.body.iter().filter(|text| (self.kernel.target.macs)(text) > 0).count();
        registers as f64 / multiplies as f64
    }

    /// Stores to the stack.
    pub fn spills(&self) -> usize {
        self.body.iter().filter(|text| (self.kernel.target.spills)(text)).count()
    }

    /// The instructions that multiply and add: what the loop would be if loads and counting were free.
    pub fn arithmetic(&self) -> impl Iterator<Item = &str> {
        let adds = |text: &str| ["sadalp", "uadalp", "vpadal"].iter().any(|add| text.starts_with(add));
        self.body
            .iter()
            .map(String::as_str)
            .filter(move |text| (self.kernel.target.macs)(text) > 0 || adds(text))
    }
}

/// The steady-state loops in a disassembly: of each function of a kernel, the loop that multiplies most in a turn.
///
/// A tile is told by its function's name: the first number among its generic parameters, or at the end of a symbol of
/// assembly, says its rows (none: one row); what follows `tile` in the name says the schedule.
pub fn find(disassembly: &str, target: &'static Target) -> Result<Vec<Tile>> {
    let mut tiles: Vec<Tile> = Vec::new();
    for function in functions(disassembly) {
        let Some(body) = inner_loops(&function, target).into_iter().max_by_key(|body| macs(body, target))
        else {
            continue;
        };
        if macs(body, target) == 0 {
            continue;
        }
        let symbol = body[0].function;
        let kernel = KERNELS.iter().find(|kernel| symbol.contains(kernel.symbol));
        let Some(kernel) = kernel else {
            // Other functions have loops that the compiler vectorized: those of the portable kernel, and other libraries'.
            let by_hand = ["kernels::aarch64::", "kernels::arm::"].iter().any(|module| symbol.contains(module));
            ensure!(!by_hand, "no kernel in the list of loops is that of {symbol}");
            continue;
        };
        let (rows, name) = tile_name(symbol, kernel);
        tiles.push(Tile {
            kernel,
            rows,
            name,
            function: symbol.to_owned(),
            addresses: body.iter().map(|i| i.address).collect(),
            body: body.iter().map(|i| without_destination(i.text)).collect(),
        });
    }
    for kernel in KERNELS.iter().filter(|kernel| std::ptr::eq(kernel.target, target)) {
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

fn macs(body: &[Instruction], target: &Target) -> u32 {
    body.iter().map(|i| (target.macs)(i.text)).sum()
}

/// A tile's rows and name: see [`find`].
fn tile_name(symbol: &str, kernel: &Kernel) -> (u32, String) {
    let (_, symbol) = symbol.split_once(kernel.symbol).unwrap_or_default();
    let (function, generics) = symbol.split_once("::<").unwrap_or((symbol, ""));
    let mut numbers = generics.trim_end_matches('>').split(", ").chain(function.split('_'));
    let rows = numbers.find_map(|number| number.parse().ok()).unwrap_or(1);
    let schedule = function.trim_start_matches("tile").trim_start_matches("one_row");
    let words = schedule.split('_').filter(|word| !word.is_empty() && word.parse::<u32>().is_err());
    let size = format!("{rows}x{}", kernel.columns);
    (rows, std::iter::once(size.as_str()).chain(words).collect::<Vec<_>>().join(" "))
}

/// An instruction that goes to [`LABEL`] rather than to an address, as objdump names it: `b.ne 8c <tile+0x8c>`.
fn without_destination(text: &str) -> String {
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
    use super::*;

    #[test]
    fn tiles_are_told_by_their_symbols() {
        let name = |kernel: usize, symbol: &str| tile_name(symbol, &KERNELS[kernel]);
        let path = "i8gemm::kernels::aarch64";
        let end = "i8gemm::kernels::epilogue::EndI32";
        assert_eq!(name(0, &format!("{path}::i8mm::tile::<{end}, 12, 6>")), (12, "12x8".into()));
        assert_eq!(name(0, &format!("{path}::i8mm::one_row::<{end}>")), (1, "1x8".into()));
        assert_eq!(
            name(1, &format!("{path}::dotprod::tile_in_order::<{end}, 8>")),
            (8, "8x8 in order".into())
        );
        assert_eq!(name(2, &format!("{path}::neon::tile_a53_4")), (4, "4x4 a53".into()));
    }

    /// Two steps of one row by `smmla`: half of the products are of values that do not belong together.
    #[test]
    fn products_that_no_one_wants_do_not_count() {
        let function = "i8gemm::kernels::aarch64::i8mm";
        let text = |name: &str| {
            format!(
                "0000000000000000 <{function}::{name}>:\n   0:\tldr\tq1, [x0], #16\n   \
                 4:\tsmmla\tv0.4s, v1.16b, v2.16b\n   8:\tb.ne\t0 <tile+0x0>  // b.any\n   c:\tret\n"
            )
        };
        let others = "0000000000000000 <kernels::aarch64::dotprod::tile>:\n   0:\tsdot\tv0.4s, v1.16b, v2.4b[0]\n   \
                      4:\tcbnz\tx1, 0 <tile>\n0000000000000000 <kernels::aarch64::neon::tile>:\n   \
                      0:\tsmull\tv0.8h, v1.8b, v2.8b\n   4:\tcbnz\tx1, 0 <tile>\n";
        let tiles = |name: &str| find(&(text(name) + others), &loops::AARCH64).unwrap();
        assert_eq!(tiles("one_row::<End>")[0].macs(), 16);
        let two = &tiles("tile::<End, 2, 1>")[0];
        assert_eq!((two.macs(), two.loads_per_multiply(), two.spills()), (32, 1.0, 0));
        assert_eq!(two.body[2], "b.ne\t.Lloop");
        assert!(
            find(&text("tile::<End, 2, 1>"), &loops::AARCH64).is_err(),
            "loops of the others are missing"
        );
    }
}

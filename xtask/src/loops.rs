//! Reading the disassembly of the loops that multiply: a sum that is stored to the stack and loaded again in every turn
//! costs half the speed, and a new compiler can bring that about without a word.

use std::{collections::HashMap, fmt::Write, path::Path, process::Command};

use anyhow::{Result, ensure};

use crate::run::Log;

/// How one target's disassembly reads.
pub struct Target {
    pub objdump: &'static str,
    /// Products that an instruction adds up, if it multiplies 8- or 16-bit values.
    pub macs: fn(&str) -> u32,
    branches: fn(&str) -> bool,
    pub spills: fn(&str) -> bool,
    /// Any store: loops that do nothing but multiply have none, wherever it may go.
    pub stores: fn(&str) -> bool,
    /// Functions whose loops read all weights of one row, and in how many loops of at least four multiplies: the processor's
    /// prefetching follows load instructions, so that each copy of such a loop begins anew.
    pub one_row: &'static [(&'static str, usize)],
}

/// x86-64, AT&T syntax: a vector register stored relative to the stack or frame pointer.
pub static X86_64: Target = Target {
    objdump: "objdump",
    macs: |text| {
        let bytes = if text.contains("%zmm") { 64 } else { 32 };
        match name(text) {
            "vpmaddwd" => bytes / 2,
            "vpdpbusd" => bytes,
            _ => 0,
        }
    },
    branches: |text| text.starts_with('j'),
    spills: |text| {
        let store = text.starts_with("vmov") && text.contains("mm") && text.ends_with(')');
        store && (text.contains("(%rsp") || text.contains("(%rbp"))
    },
    stores: |text| text.starts_with("vmov") && text.contains("mm") && text.ends_with(')'),
    // Of weights that lie near, and far.
    one_row: &[("avx512_row::multiply", 2)],
};

/// 64-bit ARM.
pub static AARCH64: Target = Target {
    objdump: "aarch64-linux-gnu-objdump",
    macs: |text| {
        let lanes = match operands(text).split(',').next().and_then(|first| first.split_once('.')) {
            Some((_, "8h")) => 8,
            Some((_, "4s")) => 4,
            Some((_, "2s")) => 2,
            _ => return 0,
        };
        // Signed, unsigned or mixed; of the low or high half of the registers.
        match name(text).trim_start_matches(['s', 'u']).trim_end_matches('2') {
            "dot" => 4 * lanes,
            "mmla" => 8 * lanes,
            "mull" | "mlal" | "mlsl" if lanes > 2 => lanes,
            _ => 0,
        }
    },
    branches: |text| {
        ["b.", "b\t", "cbz", "cbnz", "tbz", "tbnz"].iter().any(|branch| text.starts_with(branch))
    },
    spills: |text| AARCH64_STORES(text) && (text.contains("[sp") || text.contains("[x29")),
    stores: AARCH64_STORES,
    one_row: &[],
};

/// 32-bit ARM.
pub static ARMV7: Target = Target {
    objdump: "arm-linux-gnueabihf-objdump",
    macs: |text| match name(text) {
        "vmull.s8" | "vmlal.s8" | "vmlsl.s8" => 8,
        _ => 0,
    },
    branches: |text| {
        let name = name(text).split('.').next().unwrap_or_default();
        let conditions =
            ["", "eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le"];
        name.strip_prefix('b').is_some_and(|condition| conditions.contains(&condition))
    },
    spills: |text| ARMV7_STORES(text) && text.contains("[sp") || name(text).contains("push"),
    stores: |text| ARMV7_STORES(text) || name(text).contains("push"),
    one_row: &[],
};

const AARCH64_STORES: fn(&str) -> bool = |text| text.starts_with("st");
const ARMV7_STORES: fn(&str) -> bool = |text| ["st", "vst"].iter().any(|store| text.starts_with(store));

/// An instruction, as objdump prints it without its comment.
pub struct Instruction<'a> {
    pub address: u64,
    pub text: &'a str,
    pub function: &'a str,
}

/// The mnemonic.
pub fn name(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// What follows the mnemonic.
pub fn operands(text: &str) -> &str {
    text[name(text).len()..].trim_start()
}

/// The disassembly of a file.
pub fn disassemble(log: &Log, file: &Path, target: &Target) -> Result<String> {
    let mut objdump = Command::new(target.objdump);
    log.check(objdump.args(["--disassemble", "--demangle", "--no-show-raw-insn"]).arg(file))
}

/// The archive has loops that multiply, and none of them stores to the stack; and no intrinsic is a function of its own, called because
/// its caller was compiled without the feature.
pub fn no_spills(log: &Log, archive: &Path, target: &Target) -> Result<()> {
    let text = disassemble(log, archive, target)?;
    let (mut loops, mut spilling) = (0, String::new());
    // What the compiler makes of plain Rust is its own: the promise is of the kernels written by hand. Weights are packed once: the
    // multiplications there only add up columns.
    let promised = |function: &[Instruction]| {
        function
            .first()
            .is_none_or(|i| !["::portable::", "::pack::"].iter().any(|path| i.function.contains(path)))
    };
    for function in functions(&text).iter().filter(|function| promised(function)) {
        for body in inner_loops(function, target) {
            let multiplies = body.iter().filter(|i| (target.macs)(i.text) > 0).count();
            if multiplies == 0 {
                continue;
            }
            loops += 1;
            let spills = body.iter().filter(|i| (target.spills)(i.text)).count();
            if spills > 0 {
                let (count, name) = (body.len(), body[0].function);
                writeln!(spilling, "{spills} of {count} instructions spill ({multiplies} multiply): {name}")?;
            }
        }
    }
    ensure!(loops > 0, "no loop that multiplies was found in {}", archive.display());
    ensure!(spilling.is_empty(), "loops with spills:\n{spilling}");
    let called = intrinsics(&text);
    ensure!(called.is_empty(), "intrinsics that are not inlined:\n{}", called.join("\n"));
    let copied = copies(&text, target);
    ensure!(copied.is_empty(), "loops over the weights of one row that stand more often:\n{copied}");
    Ok(())
}

/// The functions of [`Target::one_row`] that have not as many loops as are named there, all copies of a function taken together.
fn copies(text: &str, target: &Target) -> String {
    let mut found = String::new();
    let functions = functions(text);
    for &(name, count) in target.one_row {
        let named = functions.iter().filter(|f| f.first().is_some_and(|i| i.function.contains(name)));
        let multiplies =
            |body: &&[Instruction]| body.iter().filter(|i| (target.macs)(i.text) > 0).count() >= 4;
        let loops: usize =
            named.map(|f| inner_loops(f, target).iter().filter(|body| multiplies(body)).count()).sum();
        if loops != count {
            found += &format!("{name}: {loops}, not {count}\n");
        }
    }
    found
}

/// Intrinsics that are functions.
fn intrinsics(text: &str) -> Vec<&str> {
    let names = text.lines().filter_map(|line| line.strip_suffix(">:")?.split_once(" <"));
    names.map(|(_, name)| name).filter(|name| name.starts_with("core::core_arch::")).collect()
}

/// The instructions of each function.
pub fn functions(text: &str) -> Vec<Vec<Instruction<'_>>> {
    let mut all = Vec::new();
    let mut current: Vec<Instruction> = Vec::new();
    let mut function = "";
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|l| l.split_once(" <")) {
            all.push(std::mem::take(&mut current));
            function = name.1;
        } else if let Some((address, text)) = line.trim_start().split_once(":\t")
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            // `//` of 64-bit ARM, `@` of 32-bit ARM.
            let text = ["//", "@ "]
                .iter()
                .fold(text, |text, comment| text.split_once(comment).map_or(text, |(text, _comment)| text));
            current.push(Instruction { address, text: text.trim(), function });
        }
    }
    all.push(current);
    all
}

/// Bodies that end in a branch back to their start and hold no other branch.
pub fn inner_loops<'a>(function: &'a [Instruction<'a>], target: &Target) -> Vec<&'a [Instruction<'a>]> {
    let index: HashMap<u64, usize> = function.iter().enumerate().map(|(i, ins)| (ins.address, i)).collect();
    let mut loops = Vec::new();
    for (end, instruction) in function.iter().enumerate() {
        if !(target.branches)(instruction.text) {
            continue;
        }
        let mut words = operands(instruction.text).split([' ', ',']);
        let destination = words.find_map(|word| u64::from_str_radix(word, 16).ok());
        if let Some(&start) = destination.and_then(|address| index.get(&address))
            && start < end
            && !function[start..end].iter().any(|i| (target.branches)(i.text))
        {
            loops.push(&function[start..=end]);
        }
    }
    loops
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop as objdump prints it; `store` stands inside.
    fn disassembly(store: &str) -> String {
        format!(
            "0000000000000010 <kernel::tile>:\n  10:\txor    %eax,%eax\n  12:\tvpmaddwd %ymm1,%ymm2,%ymm3\n  \
             16:\t{store}\n  1a:\tdec    %rax\n  1d:\tjne    12 <kernel::tile+0x2>\n  20:\tret\n"
        )
    }

    fn spills(text: &str) -> Vec<usize> {
        let functions = functions(text);
        let loops = functions.iter().flat_map(|function| inner_loops(function, &X86_64));
        loops.map(|body| body.iter().filter(|i| (X86_64.spills)(i.text)).count()).collect()
    }

    #[test]
    fn products_are_counted() {
        let aarch64 = |text| (AARCH64.macs)(text);
        assert_eq!(aarch64("sdot\tv30.4s, v10.16b, v9.4b[0]"), 16);
        assert_eq!(aarch64("usmmla\tv30.4s, v10.16b, v9.16b"), 32);
        assert_eq!(aarch64("smull\tv1.8h, v2.8b, v3.8b"), 8);
        assert_eq!(aarch64("smlsl2\tv1.8h, v2.16b, v3.16b"), 8);
        assert_eq!(aarch64("umlal\tv1.4s, v2.4h, v3.h[1]"), 4);
        for other in ["smull\tv1.2d, v2.2s, v3.2s", "smull\tx1, w2, w3", "sadalp\tv1.4s, v2.8h", "ret"] {
            assert_eq!(aarch64(other), 0, "{other}");
        }
        assert_eq!((ARMV7.macs)("vmlsl.s8\tq4, d5, d1"), 8);
        for other in ["vmull.s16\tq4, d5, d1", "vpadal.s16\tq8, q4", "vmla.i32\tq0, q1, q2"] {
            assert_eq!((ARMV7.macs)(other), 0, "{other}");
        }
        assert_eq!((X86_64.macs)("vpdpbusd (%rax),%zmm1,%zmm2"), 64);
        assert_eq!((X86_64.macs)("vpmaddwd %ymm1,%ymm2,%ymm3"), 16);
    }

    #[test]
    fn a_spill_is_found_and_an_output_is_none() {
        assert_eq!(spills(&disassembly("vmovdqa %ymm3,0x40(%rsp)")), [1]);
        assert_eq!(spills(&disassembly("vmovdqu %ymm3,0x40(%rdi)")), [0]);
        assert_eq!(spills(&disassembly("vmovdqa 0x40(%rsp),%ymm3")), [0]);
        // A branch inside makes it an outer loop, which is not looked at.
        assert!(spills(&disassembly("jne    20 <kernel::tile+0x10>")).is_empty());
    }

    #[test]
    fn a_second_copy_of_a_row_is_found() {
        let (name, count) = X86_64.one_row[0];
        let steps: String = (2..6).map(|i| format!("  1{i}:\tvpdpbusd (%rax),%zmm1,%zmm2\n")).collect();
        let one =
            format!("0000000000000010 <kernels::{name}>:\n{steps}  1d:\tjne    12 <f+0x2>\n  20:\tret\n");
        assert_eq!(copies(&one.repeat(count), &X86_64), "");
        let wrong = copies(&one.repeat(count + 1), &X86_64);
        assert_eq!(wrong, format!("{name}: {}, not {count}\n", count + 1));
    }

    #[test]
    fn an_intrinsic_that_is_a_function_is_found() {
        let text = "0000000000000000 <core::core_arch::x86::avx2::_mm256_add_epi64>:\n   0:\tret\n";
        assert_eq!(intrinsics(text), ["core::core_arch::x86::avx2::_mm256_add_epi64"]);
        assert!(
            intrinsics(&disassembly("call   20 <core::core_arch::x86::avx2::_mm256_add_epi64>")).is_empty()
        );
    }

    /// 32-bit ARM: the comment after `@`, what is stored to the stack, a call that is no branch.
    #[test]
    fn loops_of_armv7() {
        let text = |store: &str| {
            format!(
                "00000010 <tile>:\n  10:\tbl\t80 <f>\n  14:\tvmull.s8\tq4, d4, d0\n  18:\t{store}\n  \
                 1c:\tsubs\tr6, r6, #1\n  20:\tbne\t14 <tile+0x4>\t@ imm = #-20\n"
            )
        };
        let spilling = ["vst1.8\t{d0-d1}, [sp]", "vpush\t{d8-d9}", "strd\tr0, [sp, #8]"];
        for (stores, count) in [(&spilling[..], 1), (&["vst1.8\t{d0-d1}, [r2], r3", "vldr\td0, [sp]"], 0)] {
            for store in stores {
                let text = text(store);
                let functions = functions(&text);
                let found = inner_loops(&functions[1], &ARMV7);
                assert_eq!((found.len(), found[0].len()), (1, 4));
                assert_eq!(found[0][3].text, "bne\t14 <tile+0x4>");
                assert_eq!(found[0].iter().filter(|i| (ARMV7.spills)(i.text)).count(), count, "{store}");
            }
        }
    }
}

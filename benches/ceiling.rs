//! How much of its multiply instruction each kernel reaches: `cargo bench --bench ceiling [-- M K N]`.
//!
//! The ceiling is the instruction alone, in registers, in enough independent chains; product and ceiling are measured in
//! turn (A B A B) and the median of the ratios is printed, because a shared machine's speed drifts.

mod common;

use common::{median, now};
use i8gemm::{Gemm, Kernel, Lhs, MatMut, MatRef, Output, PackedRhs};

/// Pairs of measurements.
const PAIRS: usize = 201;

fn main() {
    let sizes: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let shapes = match sizes[..] {
        [m, k, n] => vec![(m, k, n)],
        _ => vec![(512, 512, 512)],
    };
    println!("one core, i8 x i8 -> i32, packed weights, lhs zero point; medians of {PAIRS} pairs\n");
    println!(
        "{:<14} {:<24} {:>16} {:>9} {:>9} {:>7}",
        "kernel", "instruction", "M x K x N", "GMAC/s", "ceiling", "ratio"
    );
    for (m, k, n) in shapes {
        for kernel in Kernel::available() {
            measure(kernel, m, k, n);
        }
    }
}

fn measure(kernel: Kernel, m: usize, k: usize, n: usize) {
    let values =
        |len: usize| -> Vec<i8> { (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as i8).collect() };
    let (x, w) = (values(m * k), values(k * n));
    let weights = PackedRhs::pack_for(kernel, MatRef::row_major(&w, k, n).unwrap()).unwrap();
    let gemm = Gemm::new(&weights, Output::i32()).unwrap();
    let mut scratch = gemm.workspace(m).unwrap();
    let mut out = vec![0i32; m * n];
    let macs = (m * k * n) as f64;
    let mut product = || {
        let lhs = Lhs::new(MatRef::row_major(&x, m, k).unwrap()).zero_point(3);
        gemm.run(lhs, MatMut::row_major(&mut out, m, n).unwrap(), &mut scratch).unwrap();
    };
    let repeat = (2e7 / macs).ceil() as usize;
    let mut rates = Vec::new();
    let mut ratios = Vec::new();
    let mut ceilings = Vec::new();
    for _ in 0..PAIRS {
        let start = now();
        (0..repeat).for_each(|_| product());
        let rate = macs * repeat as f64 / (now() - start).as_secs_f64();
        rates.push(rate);
        if let Some(ceiling) = bare_instruction(kernel.name()) {
            ceilings.push(ceiling);
            ratios.push(rate / ceiling);
        }
    }
    let shape = format!("{m} x {k} x {n}");
    print!(
        "{:<14} {:<24} {shape:>16} {:>9.1}",
        kernel.name(),
        kernel.instruction(),
        median(&mut rates) / 1e9
    );
    if ratios.is_empty() {
        println!("{:>9} {:>7}", "-", "-");
        return;
    }
    let ratio = median(&mut ratios);
    let bar = "#".repeat((ratio * 40.0).round() as usize);
    println!(" {:>9.1} {:>6.1}%  {bar}", median(&mut ceilings) / 1e9, ratio * 100.0);
}

/// Multiply-adds a second of a kernel's instruction in registers, or `None` where it has no single one.
#[cfg(target_arch = "x86_64")]
fn bare_instruction(kernel: &str) -> Option<f64> {
    const LOOPS: usize = 200_000;
    /// Times a loop of the given instructions, which must read and write vector registers only.
    macro_rules! time {
        ($macs:expr, $($line:literal)*) => {{
            let start = now();
            // SAFETY: the kernel is available, so its instructions are; they touch registers that are declared as
            // clobbered below, and no memory.
            unsafe {
                std::arch::asm!(
                    "2:", $($line,)* "dec {count}", "jnz 2b",
                    count = inout(reg) LOOPS => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack)
                )
            }
            Some((LOOPS * $macs) as f64 / (now() - start).as_secs_f64())
        }};
    }
    match kernel {
        "avx2" => time!(12 * 16,
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm0, ymm0, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm1, ymm1, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm2, ymm2, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm3, ymm3, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm4, ymm4, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm5, ymm5, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm6, ymm6, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm7, ymm7, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm8, ymm8, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm9, ymm9, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm10, ymm10, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm11, ymm11, ymm13"),
        "avx_vnni" => time!(12 * 32,
            "{{vex}} vpdpbusd ymm0, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm1, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm2, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm3, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm4, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm5, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm6, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm7, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm8, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm9, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm10, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm11, ymm14, ymm15"),
        // Fourteen chains hide a latency of 4 or 5 cycles at two instructions a cycle.
        "avx512_vnni" => time!(14 * 64,
            "vpdpbusd zmm0, zmm14, zmm15"
            "vpdpbusd zmm1, zmm14, zmm15"
            "vpdpbusd zmm2, zmm14, zmm15"
            "vpdpbusd zmm3, zmm14, zmm15"
            "vpdpbusd zmm4, zmm14, zmm15"
            "vpdpbusd zmm5, zmm14, zmm15"
            "vpdpbusd zmm6, zmm14, zmm15"
            "vpdpbusd zmm7, zmm14, zmm15"
            "vpdpbusd zmm8, zmm14, zmm15"
            "vpdpbusd zmm9, zmm14, zmm15"
            "vpdpbusd zmm10, zmm14, zmm15"
            "vpdpbusd zmm11, zmm14, zmm15"
            "vpdpbusd zmm12, zmm14, zmm15"
            "vpdpbusd zmm13, zmm14, zmm15"),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn bare_instruction(_: &str) -> Option<f64> {
    None
}

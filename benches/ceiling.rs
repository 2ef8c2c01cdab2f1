//! How much of its multiply instruction each kernel reaches: `cargo bench --bench ceiling [-- M K N]`.
//!
//! The ceiling is the instruction alone, in registers, in enough independent chains; product and ceiling are measured in
//! turn (A B A B) and the median of the ratios is printed, because a shared machine's speed drifts.

use bench_support::{instruction, median, now};
use i8gemm::{Gemm, Kernel, Lhs, MatMut, MatRef, Output, PackedRhs};

/// Pairs of measurements.
const PAIRS: usize = 201;
/// Runs of the bare instruction in a pair: as long as a product of 512 cubed, about.
const CEILING_RUNS: usize = 20;

fn main() {
    // Cargo adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let sizes: Vec<usize> = arguments.iter().filter_map(|arg| arg.parse().ok()).collect();
    let (m, k, n) = match sizes[..] {
        [] if arguments.is_empty() => (512, 512, 512),
        [m, k, n] if arguments.len() == 3 && m.min(k).min(n) > 0 => (m, k, n),
        _ => {
            eprintln!("expected three sizes above 0, M K N, and not {:?}", arguments.join(" "));
            std::process::exit(2);
        }
    };
    println!("one core, i8 x i8 -> i32, packed weights, lhs zero point; medians of {PAIRS} pairs\n");
    println!(
        "{:<14} {:<24} {:>16} {:>9} {:>9} {:>7}",
        "kernel", "instruction", "M x K x N", "GMAC/s", "ceiling", "ratio"
    );
    for kernel in Kernel::available() {
        measure(kernel, m, k, n);
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
        if let Some(macs) = instruction::macs(kernel.name()) {
            let start = now();
            (0..CEILING_RUNS).for_each(|_| instruction::run(kernel.name()));
            let ceiling = macs * CEILING_RUNS as f64 / (now() - start).as_secs_f64();
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

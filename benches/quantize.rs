//! Quantizing against the memory: `cargo bench --bench quantize`.
//!
//! Each row is measured in turn (A B A B) with a plain copy of the same traffic: one that reads as many bytes and writes as
//! many, with nothing to compute. The median of the ratios is printed, because a shared machine's speed drifts.

use std::hint::black_box;

use bench_support::{median, now};
use i8gemm::{
    Kernel, MatRef,
    quant::{DynamicQuantizer, Grouping, Levels, QParams, Quantizer, Rounding},
};

/// Pairs of measurements.
const PAIRS: usize = 41;
/// Values: 64 MiB of f32, beyond any cache.
const LEN: usize = 16 << 20;

fn main() {
    let values = |i: usize| ((i.wrapping_mul(2_654_435_761) >> 7) as i32 % 20_000) as f32 * 1e-3 - 10.0;
    let x: Vec<f32> = (0..LEN).map(values).collect();
    let (mut q, mut copied) = (vec![0i8; LEN], vec![0u8; LEN]);
    let mut y = vec![0f32; LEN];
    let params = QParams::affine(Levels::I8, -10.0, 10.0).unwrap();
    println!("one core, {} Mi values; medians of {PAIRS} pairs of ours and a copy\n", LEN >> 20);
    println!("{:<14} {:<44} {:>8} {:>8} {:>7}", "kernel", "", "GB/s", "copy", "ratio");
    for kernel in Kernel::available() {
        let quantizer = Quantizer::<i8>::per_tensor(params).kernel(kernel);
        let mut quantize = |name: &str, quantizer: Quantizer<i8>| {
            let ours = || quantizer.quantize(&x, &mut q).unwrap();
            report(kernel, name, 5 * LEN, ours, || narrow(&x, &mut copied));
        };
        quantize("quantize f32 -> i8, divide", quantizer);
        quantize("quantize f32 -> i8, multiply", quantizer.reciprocal());
        quantize("quantize f32 -> i8, half away", quantizer.rounding(Rounding::HalfAway));
        quantize("quantize f32 -> i8, stochastic", quantizer.rounding(Rounding::Stochastic { seed: 1 }));
        let groups = Grouping::per_group(&[LEN], 0, 64).unwrap();
        let scales = vec![params.scale; groups.count()];
        quantize("quantize f32 -> i8, groups of 64", Quantizer::new(groups, &scales, 3).kernel(kernel));
        for k in [256, 1024, 4096] {
            let rows = MatRef::row_major(&x, LEN / k, k).unwrap();
            let dynamic = DynamicQuantizer::per_row().kernel(kernel);
            let (mut scales, mut zeros) = (vec![0.0; LEN / k], vec![0; LEN / k]);
            let mut sums = vec![0; LEN / k];
            let ours = || {
                dynamic.quantize_into(rows, &mut q, &mut scales, &mut zeros, &mut sums).unwrap();
            };
            report(kernel, &format!("dynamic, rows of {k}"), 5 * LEN, ours, || narrow(&x, &mut copied));
        }
        let ours = || quantizer.dequantize(&q, &mut y).unwrap();
        let mut widened = vec![0f32; LEN];
        report(kernel, "dequantize i8 -> f32", 5 * LEN, ours, || widen(&copied, &mut widened));
        println!();
    }
}

/// Measures in turn and prints a row.
fn report(kernel: Kernel, name: &str, bytes: usize, mut ours: impl FnMut(), mut copy: impl FnMut()) {
    let (mut rates, mut copies, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first calls touch pages for the first time.
    ours();
    copy();
    for _ in 0..PAIRS {
        let (a, b) = (time(&mut ours), time(&mut copy));
        rates.push(bytes as f64 / a);
        copies.push(bytes as f64 / b);
        ratios.push(b / a);
    }
    let ratio = median(&mut ratios);
    let bar = "#".repeat((ratio * 30.0).round() as usize);
    let (rate, copy) = (median(&mut rates) / 1e9, median(&mut copies) / 1e9);
    println!("{:<14} {name:<44} {rate:>8.2} {copy:>8.2} {:>6.1}%  {bar}", kernel.name(), ratio * 100.0);
}

/// Reads every byte of the source and writes a quarter as many.
fn narrow(source: &[f32], out: &mut [u8]) {
    let source: &[[[u8; 32]; 4]] = bytemuck::cast_slice(source);
    let out: &mut [[u8; 32]] = bytemuck::cast_slice_mut(out);
    for (out, parts) in out.iter_mut().zip(source) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = parts[0][i] | parts[1][i] | parts[2][i] | parts[3][i];
        }
    }
    black_box(out);
}

/// Reads every byte of the source and writes four times as many.
fn widen(source: &[u8], out: &mut [f32]) {
    let source: &[[u8; 32]] = bytemuck::cast_slice(source);
    let out: &mut [[[u8; 32]; 4]] = bytemuck::cast_slice_mut(out);
    for (out, bytes) in out.iter_mut().zip(source) {
        *out = [*bytes; 4];
    }
    black_box(out);
}

fn time(mut work: impl FnMut()) -> f64 {
    let start = now();
    work();
    (now() - start).as_secs_f64()
}

//! A model as large as those of word-level benchmarks, with random weights: time and size.

use std::{hint::black_box, io::Write, time::Instant};

use anyhow::Result;
use i8gemm_examples::language_model::{
    float::Float,
    int8::Int8,
    model::{Model, Weights},
};
use pulp::Arch;

use crate::evaluate::median;

const WORDS: usize = 33_278;
const FEATURES: usize = 512;
const LAYERS: usize = 5;
const HIDDEN: usize = 256;
/// Words of a sequence.
const STEPS: usize = 25;
const ROUNDS: usize = 21;
/// Microseconds a word that PyTorch takes for the same model in f32, in sequences of 25, and where: f32 here is not the fastest there is.
const TORCH: (f64, &str) = (534.0, "PyTorch 2.15, one core of an AMD Zen 5, 2026-11-23");

pub fn run(threads: usize, bits: u32, seed: u64) -> Result<()> {
    let weights = Weights::random(WORDS, FEATURES, LAYERS, HIDDEN, seed);
    let (mut float, mut int8) = (Float::new(&weights, threads), Int8::new(&weights, bits, threads)?);
    let ids: Vec<u32> = (0..STEPS as u32).map(|i| i * 1327 % WORDS as u32).collect();
    let mut scores = vec![0.0; STEPS * WORDS];
    // As many bytes as int8 reads for each word.
    let bytes = vec![1u8; int8.bytes_read()];

    let mut times = [const { Vec::new() }; 5];
    let mut ratios = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let now = [
            microseconds(|| float.forward(&ids, &mut scores))?,
            microseconds(|| int8.forward(&ids, &mut scores))?,
            microseconds(|| one_at_a_time(&mut float, &ids, &mut scores))?,
            microseconds(|| one_at_a_time(&mut int8, &ids, &mut scores))?,
            microseconds(|| {
                for _ in &ids {
                    black_box(sum(black_box(&bytes)));
                }
                Ok(())
            })?,
        ];
        times.iter_mut().zip(now).for_each(|(times, now)| times.push(now / STEPS as f64));
        let pairs = [now[0] / now[1], now[2] / now[3], now[3] / now[4]];
        ratios.iter_mut().zip(pairs).for_each(|(ratios, now)| ratios.push(now));
    }
    let [f32_all, int8_all, f32_one, int8_one, read] = times.map(|mut times| median(&mut times));
    let [all, one, reading] = ratios.map(|mut ratios| median(&mut ratios));
    let mut out = program::stdout();
    writeln!(
        out,
        "{WORDS} words, {FEATURES} inputs, {LAYERS} layers of {HIDDEN} units; medians of {ROUNDS} rounds"
    )?;
    writeln!(out, "  {:<34}{:>10}{:>10}{:>10}", "", "f32", "int8", "f32/int8")?;
    let mut row =
        |what: &str, a: f64, b: f64, ratio: f64| writeln!(out, "  {what:<34}{a:>10.1}{b:>10.1}{ratio:>10.2}");
    let [a, b] = [float.bytes(), int8.bytes()].map(|bytes| bytes as f64 / 1e6);
    row("size, MB", a, b, a / b)?;
    row("us per word, sequences of 25", f32_all, int8_all, all)?;
    row("us per word, one at a time", f32_one, int8_one, one)?;
    let (torch, source) = TORCH;
    writeln!(
        out,
        "  f32 is this example's own; sequences of {STEPS} in f32 elsewhere: {torch} us per word ({source})"
    )?;
    writeln!(
        out,
        "  reading the {:.1} MB that int8 reads for a word takes {read:.1} us:",
        bytes.len() as f64 / 1e6
    )?;
    writeln!(out, "  int8, one word at a time, is {reading:.2} times that")?;
    Ok(())
}

fn one_at_a_time(model: &mut dyn Model, ids: &[u32], scores: &mut [f32]) -> Result<()> {
    let words = model.words();
    ids.iter().try_for_each(|id| model.forward(std::slice::from_ref(id), &mut scores[..words]))
}

/// Of the second of two calls: the first puts into the caches what the others have driven out.
fn microseconds(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let start = Instant::now();
    call()?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

/// A plain sum with the widest vectors that this CPU has: words, for bytes would have to be widened.
fn sum(bytes: &[u8]) -> u32 {
    let (_, words, _) = bytemuck::pod_align_to::<u8, u32>(bytes);
    Arch::new().dispatch(|| words.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word)))
}

//! Handwritten digits, classified in f32 and in int8 on whichever kernel this CPU has.
//!
//! `cargo run --release -p i8gemm-examples --example quickstart`; with `I8GEMM_KERNEL=portable` (or another name) on a kernel
//! of your choice.
//!
//! A small trained network of three linear layers is quantized after training: weights symmetric, one scale for each output
//! channel; activations to u8 as they come, one scale and zero point for each image (dynamic quantization).

use std::{io::Write, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;
use i8gemm::{
    Gemm, Kernel, MatMut, MatRef, Output, PackedRhs, Workspace,
    quant::{DynamicBuffers, DynamicQuantizer, Grouping, Levels, ParamList, QParams, Scheme},
};
use i8gemm_examples::digits::{self, Digits, Layer, linear::Linear};

/// Classify handwritten digits in f32 and in int8, and compare accuracy, size and speed; I8GEMM_KERNEL chooses the kernel.
#[derive(Parser)]
#[command(name = "quickstart")]
struct Cli {}

/// A linear layer with i8 weights, packed for the kernel that runs it.
struct QuantizedLinear {
    weights: PackedRhs<'static>,
    /// One for each output channel.
    scales: Vec<f32>,
    bias: Vec<f32>,
    relu: bool,
}

impl QuantizedLinear {
    fn new(layer: &Layer) -> Result<Self, i8gemm::Error> {
        let channels = Grouping::per_channel(&[layer.outputs, layer.inputs], 0)?;
        let params = ParamList::fit(channels, Levels::I8.narrow(), Scheme::Symmetric, &layer.weights)?;
        let mut quantized = vec![0i8; layer.weights.len()];
        params.quantizer(channels).quantize(&layer.weights, &mut quantized)?;
        // The file holds outputs x inputs, N x K: a transposed view of what the product wants.
        let weights = MatRef::col_major(&quantized, layer.inputs, layer.outputs)?;
        let (weights, scales) = (PackedRhs::pack(weights)?, params.scales);
        Ok(Self { weights, scales, bias: layer.bias.clone(), relu: layer.relu })
    }

    /// `rows` images through the layer: quantize the activations, multiply, and come back to f32.
    fn forward(&self, x: &[f32], rows: usize, buffers: &mut Buffers) -> Result<Vec<f32>, i8gemm::Error> {
        let (k, n) = (self.weights.k(), self.weights.n());
        let low = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let output = Output::f32(&self.scales).bias_f32(&self.bias).clamp(low, f32::INFINITY);
        let gemm = Gemm::new(&self.weights, output)?;
        let lhs =
            DynamicQuantizer::per_row().quantize(MatRef::row_major(x, rows, k)?, &mut buffers.quantized)?;
        let mut y = vec![0.0; rows * n];
        buffers.scratch.grow(gemm.workspace_size(rows)?)?;
        gemm.run(lhs, MatMut::row_major(&mut y, rows, n)?, &mut buffers.scratch)?;
        Ok(y)
    }

    fn bytes(&self) -> usize {
        self.weights.bytes() + 4 * (self.scales.len() + self.bias.len())
    }
}

/// What a forward pass reuses.
#[derive(Default)]
struct Buffers {
    quantized: DynamicBuffers<u8>,
    scratch: Workspace,
}

fn argmax(scores: &[f32]) -> u8 {
    let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    best.map_or(0, |index| index as u8)
}

/// Share of images whose best score is their label, in percent.
fn accuracy(scores: &[f32], labels: &[u8]) -> f64 {
    let classes = scores.len() / labels.len();
    let right = scores.chunks(classes).zip(labels).filter(|(s, label)| argmax(s) == **label).count();
    100.0 * right as f64 / labels.len() as f64
}

/// Median microseconds of two functions, called in turn because the machine may be busy with other things.
fn time_in_turn(repeats: usize, mut a: impl FnMut(), mut b: impl FnMut()) -> (f64, f64) {
    let (mut times_a, mut times_b) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        for (f, times) in [(&mut a as &mut dyn FnMut(), &mut times_a), (&mut b, &mut times_b)] {
            let start = Instant::now();
            f();
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    (median(times_a), median(times_b))
}

/// A worked example: the range -2..=6 as i8.
fn worked_example(out: &mut impl Write) -> Result<()> {
    let params = QParams::affine(Levels::I8, -2.0, 6.0)?;
    let q: i8 = params.quantize(0.28);
    writeln!(out, "Worked example: the range [-2, 6] as int8")?;
    writeln!(out, "  S = 8/255 = {:.8}, Z = {}", params.scale, params.zero_point)?;
    writeln!(out, "  Q(0.28) = {q}, back to {:.5}\n", params.dequantize(q))?;
    Ok(())
}

fn main() -> ExitCode {
    program::main(|_: &Cli| run())
}

fn run() -> Result<()> {
    let mut out = program::stdout();
    worked_example(&mut out)?;

    let kernel = Kernel::best()?;
    let available: Vec<_> = Kernel::available().map(|kernel| kernel.name()).collect();
    writeln!(out, "Kernel: {kernel} ({}); available: {}\n", kernel.instruction(), available.join(", "))?;

    let Digits { pixels, labels } = digits::digits();
    let (images, labels) = (&pixels[digits::TRAIN * 64..], &labels[digits::TRAIN..]);
    let count = labels.len();
    let layers = digits::network();
    let linear: Vec<_> = layers.iter().map(Linear::new).collect();
    let quantized = layers.iter().map(QuantizedLinear::new).collect::<Result<Vec<_>, _>>()?;

    let f32_pass =
        |x: &[f32], rows: usize| linear.iter().fold(x.to_vec(), |x, layer| layer.forward(&x, rows));
    let int8_pass = |x: &[f32], rows: usize, buffers: &mut Buffers| {
        quantized.iter().try_fold(x.to_vec(), |x, layer| layer.forward(&x, rows, buffers))
    };

    let mut buffers = Buffers::default();
    let f32_scores = f32_pass(images, count);
    let int8_scores = int8_pass(images, count, &mut buffers)?;
    let agree =
        f32_scores.chunks(10).zip(int8_scores.chunks(10)).filter(|(a, b)| argmax(a) == argmax(b)).count();
    let (f32_batch, int8_batch) = time_in_turn(
        101,
        || drop(f32_pass(images, count)),
        || int8_pass(images, count, &mut buffers).map(drop).expect("the same call has succeeded above"),
    );
    let mut buffers = Buffers::default();
    let (f32_one, int8_one) = time_in_turn(
        2001,
        || drop(f32_pass(&images[..64], 1)),
        || int8_pass(&images[..64], 1, &mut buffers).map(drop).expect("the same call has succeeded above"),
    );

    let f32_bytes: usize = layers.iter().map(|layer| 4 * (layer.weights.len() + layer.bias.len())).sum();
    let int8_bytes: usize = quantized.iter().map(QuantizedLinear::bytes).sum();
    let shape: Vec<_> = layers.iter().map(|layer| layer.inputs.to_string()).collect();
    writeln!(out, "{count} held-out digits, network {}-10, one thread, medians", shape.join("-"))?;
    writeln!(out, "  {:<34}{:>10}{:>10}", "", "f32", "int8")?;
    let mut row = |what: &str, a: f64, b: f64, digits: usize| {
        writeln!(out, "  {what:<34}{a:>10.digits$}{b:>10.digits$}")
    };
    row("accuracy, %", accuracy(&f32_scores, labels), accuracy(&int8_scores, labels), 1)?;
    row("weights, KiB", f32_bytes as f64 / 1024.0, int8_bytes as f64 / 1024.0, 1)?;
    row("us per image, all at once", f32_batch / count as f64, int8_batch / count as f64, 3)?;
    row("us per image, one at a time", f32_one, int8_one, 3)?;
    writeln!(out, "  the same answer on {agree} of {count} images")?;
    Ok(())
}

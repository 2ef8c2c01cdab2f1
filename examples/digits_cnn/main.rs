//! A convolutional network on handwritten digits: quantized after training, and with quantization in its training.
//!
//! `cargo run --release -p i8gemm-examples --example digits_cnn -- --help`
//!
//! The digits are those of the quickstart, with its split, which was fixed before there was a network: the first 1,297 are
//! trained on and calibrated with, the last 500, written by other people, are only measured. Widths, rates and numbers of epochs
//! were chosen without them: `--tune` holds out the last 260 of the training part instead.

mod chart;
mod layer;
mod learned;
mod model;
mod norm;
mod ops;
mod param;
mod quantize;
mod report;
#[cfg(test)]
mod tests;
mod train;

use std::{fs, io::Write, ops::Range, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use i8gemm::{
    Kernel,
    quant::{Calibrator, Histogram, Levels},
};
use i8gemm_examples::digits::{self, Digits};
use indicatif::{ProgressBar, ProgressStyle};
use model::Model;
use rand::{SeedableRng, rngs::StdRng};
use report::{BitsRow, CalibratorRow, accuracy, agreement};
use train::{Images, Schedule, train};

/// Pixels of an image.
const SIZE: usize = 64;
const CLASSES: usize = 10;
/// The least share of equal answers of the integer network and the fake-quantized one, in percent.
const AGREEMENT: f64 = 99.5;

/// Train a small convolutional network on digits in f32, quantize it after training by every calibrator, then train it further
/// with fake quantization at several widths and run it in integers.
#[derive(Parser)]
#[command(name = "digits_cnn")]
struct Cli {
    /// Another seed, another network
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Times that all images are trained on in f32
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    epochs: u16,
    /// Times that all images are trained on with fake quantization, for each width
    #[arg(long, value_name = "EPOCHS", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    qat_epochs: u16,
    /// Widths of weights, 2 to 8 bits; activations have 8
    #[arg(long, value_delimiter = ',', default_value = "8,4,2", value_parser = clap::value_parser!(u32).range(2..=8))]
    bits: Vec<u32>,
    /// Hold out the end of the training part instead of the test part
    #[arg(long)]
    tune: bool,
    /// Where the chart goes
    #[arg(long, value_name = "DIR", default_value = "target/digits_cnn")]
    output: PathBuf,
}

fn main() -> ExitCode {
    program::main(run)
}

fn run(cli: &Cli) -> Result<()> {
    let mut out = program::stdout();
    let digits = digits::digits();
    let digits = Split::new(&digits, cli.tune);
    let kernel = Kernel::best()?;
    let (first, held_out) = (digits.training.labels.len(), digits.held_out.labels.len());
    writeln!(
        out,
        "{first} digits to train on, {held_out} held out; kernel: {kernel} ({})\n",
        kernel.instruction()
    )?;

    let mut random = StdRng::seed_from_u64(cli.seed);
    let mut model = Model::new(8, [16, 32, 32], CLASSES, &mut random);
    let schedule = Schedule { epochs: cli.epochs.into(), rate: 0.05, decay: 1e-4 };
    train_with_bar("f32", &mut model, &digits, schedule, &mut random)?;
    let real = accuracy(&model.folded()?.scores(digits.held_out.pixels)?, digits.held_out.labels);
    report::calibrators(&mut out, real, &after_training(&model, real, &digits)?)?;
    let rows = in_training(&model, &digits, cli)?;
    report::widths(&mut out, &rows, first + held_out)?;

    fs::create_dir_all(&cli.output).with_context(|| format!("cannot create {}", cli.output.display()))?;
    let path = cli.output.join("accuracy.svg");
    fs::write(&path, chart::svg(real, &rows)?).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(out, "{}", path.display())?;
    ensure!(rows.iter().all(|row| row.agreement >= AGREEMENT), "integers answer otherwise than training did");
    Ok(())
}

/// The digits, in order.
struct Split<'a> {
    training: Images<'a>,
    held_out: Images<'a>,
    /// Both.
    all: Images<'a>,
}

impl<'a> Split<'a> {
    fn new(digits: &'a Digits, tune: bool) -> Self {
        let (first, end) =
            if tune { (digits::TRAIN - 260, digits::TRAIN) } else { (digits::TRAIN, digits.labels.len()) };
        let part = |range: Range<usize>| Images {
            pixels: &digits.pixels[range.start * SIZE..range.end * SIZE],
            labels: &digits.labels[range],
        };
        Self { training: part(0..first), held_out: part(first..end), all: part(0..end) }
    }
}

/// Every calibrator, 8 bits.
fn after_training(model: &Model, real: f64, digits: &Split) -> Result<Vec<CalibratorRow>> {
    let Images { pixels, labels } = digits.held_out;
    let (network, _) = model.network()?;
    let mut rows = Vec::new();
    for (name, params) in quantize::calibrations(&network, digits.training.pixels)? {
        let quantized = network.convert(&params, quantize::config())?;
        let accuracy = accuracy(&quantize::scores(&quantized, pixels)?, labels);
        rows.push(CalibratorRow::new(name, accuracy, real, &quantized.report(&network, pixels)?));
    }
    Ok(rows)
}

/// Every width: quantized after training, then trained further with fake quantization. Normalizations are folded before, and so
/// frozen.
fn in_training(model: &Model, digits: &Split, cli: &Cli) -> Result<Vec<BitsRow>> {
    let (network, nodes) = model.network()?;
    let mse = Histogram::new(Calibrator::Mse);
    let params = quantize::calibrate(&network, digits.training.pixels, &mse)?;
    let schedule = Schedule { epochs: cli.qat_epochs.into(), rate: 0.01, decay: 1e-4 };
    let (labels, first) = (digits.held_out.labels, digits.training.labels.len());
    let mut rows = Vec::new();
    for &bits in &cli.bits {
        let mut model = quantize::prepared(&model.folded()?, &params, &nodes, Levels::signed(bits)?)?;
        let after = quantize::scores(&quantize::converted(&model)?, digits.held_out.pixels)?;
        let mut random = StdRng::seed_from_u64(cli.seed);
        train_with_bar(&format!("{bits} bits"), &mut model, digits, schedule, &mut random)?;
        let fake = model.scores(digits.all.pixels)?;
        let integer = quantize::scores(&quantize::converted(&model)?, digits.all.pixels)?;
        rows.push(BitsRow {
            bits,
            after: accuracy(&after, labels),
            fake: accuracy(&fake[first * CLASSES..], labels),
            integer: accuracy(&integer[first * CLASSES..], labels),
            agreement: agreement(&fake, &integer, CLASSES),
        });
    }
    Ok(rows)
}

fn train_with_bar(
    what: &str,
    model: &mut Model,
    digits: &Split,
    schedule: Schedule,
    random: &mut StdRng,
) -> Result<()> {
    let style = ProgressStyle::with_template("{prefix:>8} [{bar:40}] {pos}/{len} batches, {elapsed}, {msg}")?;
    let bar = ProgressBar::new(train::batches(digits.training, schedule.epochs)).with_style(style);
    let bar = bar.with_prefix(what.to_string());
    train(model, digits.training, schedule, random, &bar)?;
    bar.finish_and_clear();
    Ok(())
}

//! A convolutional network on handwritten digits: quantized after training, and with quantization in its training.
//!
//! `cargo run --release --example digits_cnn -- --help`
//!
//! The digits are those of the quickstart, with its split, which was fixed before there was a network: the first 1,297 are
//! trained on and calibrated with, the last 500, written by other people, are only measured. Widths, rates and numbers of epochs
//! were chosen without them: `--tune` holds out the last 260 of the training part instead.

mod chart;
#[path = "../quickstart/data.rs"]
#[expect(dead_code, reason = "the network is trained here")]
mod data;
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

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use i8gemm::{
    Kernel,
    quant::{Calibrator, Histogram, Levels},
};
use indicatif::{ProgressBar, ProgressStyle};
use model::Model;
use rand::{SeedableRng, rngs::StdRng};
use report::{BitsRow, CalibratorRow, accuracy, agreement};
use train::{Images, Schedule, train};

/// Pixels of an image.
const SIZE: usize = 64;
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

fn main() -> Result<()> {
    let cli = Cli::parse();
    let data::Digits { pixels, labels } = data::digits();
    let (first, end) = if cli.tune { (data::TRAIN - 260, data::TRAIN) } else { (data::TRAIN, labels.len()) };
    let part = |range: std::ops::Range<usize>| Images {
        pixels: &pixels[range.start * SIZE..range.end * SIZE],
        labels: &labels[range],
    };
    let (training, held_out, all) = (part(0..first), part(first..end), part(0..end));
    let kernel = Kernel::best()?;
    println!(
        "{first} digits to train on, {} held out; kernel: {kernel} ({})\n",
        end - first,
        kernel.instruction()
    );

    let mut random = StdRng::seed_from_u64(cli.seed);
    let mut model = Model::new(8, [16, 32, 32], 10, &mut random);
    let schedule = Schedule { epochs: cli.epochs.into(), rate: 0.05, decay: 1e-4 };
    let bar = bar("f32", train::batches(training, schedule.epochs))?;
    train(&mut model, training, schedule, &mut random, &bar)?;
    bar.finish_and_clear();

    // From here on normalizations are folded: training with fake quantization leaves them as they are.
    let folded = model.folded()?;
    let real = accuracy(&folded.scores(held_out.pixels)?, held_out.labels);
    let (network, nodes) = model.network()?;
    let mut rows = Vec::new();
    for (name, params) in quantize::calibrations(&network, training.pixels)? {
        let quantized = network.convert(&params, quantize::config())?;
        let scores = quantize::scores(&quantized, held_out.pixels)?;
        let report = quantized.report(&network, held_out.pixels)?;
        rows.push(CalibratorRow::new(name, accuracy(&scores, held_out.labels), real, &report));
    }
    report::calibrators(real, &rows);

    let params = quantize::calibrate(&network, training.pixels, &Histogram::new(Calibrator::Mse))?;
    let mut rows = Vec::new();
    for &bits in &cli.bits {
        let mut model = quantize::prepared(&folded, &params, &nodes, Levels::signed(bits)?)?;
        let after = quantize::scores(&quantize::converted(&model)?, held_out.pixels)?;
        let schedule = Schedule { epochs: cli.qat_epochs.into(), rate: 0.01, decay: 1e-4 };
        let bar = self::bar(&format!("{bits} bits"), train::batches(training, schedule.epochs))?;
        train(&mut model, training, schedule, &mut random, &bar)?;
        bar.finish_and_clear();
        let fake = model.scores(all.pixels)?;
        let integer = quantize::scores(&quantize::converted(&model)?, all.pixels)?;
        let [fake_held, integer_held] = [&fake, &integer].map(|scores| &scores[first * 10..]);
        rows.push(BitsRow {
            bits,
            after: accuracy(&after, held_out.labels),
            fake: accuracy(fake_held, held_out.labels),
            integer: accuracy(integer_held, held_out.labels),
            agreement: agreement(&fake, &integer, 10),
        });
    }
    report::widths(&rows, end);

    fs::create_dir_all(&cli.output).with_context(|| format!("cannot create {}", cli.output.display()))?;
    let path = cli.output.join("accuracy.svg");
    fs::write(&path, chart::svg(real, &rows)?).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    ensure!(rows.iter().all(|row| row.agreement >= AGREEMENT), "integers answer otherwise than training did");
    Ok(())
}

fn bar(what: &str, batches: u64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{prefix:>8} [{bar:40}] {pos}/{len} batches, {elapsed}, {msg}")?;
    Ok(ProgressBar::new(batches).with_style(style).with_prefix(what.to_string()))
}

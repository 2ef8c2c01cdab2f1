//! What every calibrator makes of the activations of a network, and of arrays of your own.
//!
//! `cargo run --release -p i8gemm-examples --example calibrate -- --help`
//!
//! The activations are those of the quickstart network on the digits it was trained on. The affine scheme quantizes to
//! unsigned integers, as the quickstart does with activations, the symmetric one to signed.

mod chart;
mod npy;
mod report;
mod tensor;

use std::{fs, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{
    Parser,
    builder::{PossibleValuesParser, TypedValueParser},
    value_parser,
};
use i8gemm::quant::{Calibrator, NonFinite, Scheme};
use i8gemm_examples::digits::{self, linear::Linear};
use indicatif::{ProgressBar, ProgressStyle};
use report::Table;
use tensor::Tensor;

/// Calibrate the activations of the quickstart network, and arrays of yours, by every method: prints range, scale, zero
/// point, signal to noise and share of clipped values, and draws histograms with each method's clipping values.
#[derive(Parser)]
#[command(name = "calibrate")]
struct Cli {
    /// Arrays to calibrate as well: .npy, of floats, integers or booleans, of any shape; values are taken as f32
    #[arg(value_name = "FILE.npy")]
    files: Vec<PathBuf>,
    /// Widths to quantize to, 2 to 8
    #[arg(long, value_delimiter = ',', default_value = "8,4", value_parser = value_parser!(u32).range(2..=8))]
    bits: Vec<u32>,
    /// Affine: to unsigned integers, with a zero point; symmetric: to signed integers, zero point 0
    #[arg(
        long,
        default_value = "affine",
        value_parser = PossibleValuesParser::new(["affine", "symmetric"]).map(|name| match name.as_str() {
            "symmetric" => Scheme::Symmetric,
            _ => Scheme::Affine,
        })
    )]
    scheme: Scheme,
    /// A percentile to try as well; may be given more than once
    #[arg(long = "percentile", value_name = "PERCENT")]
    percentiles: Vec<f64>,
    /// Leave out NaN and infinities (also what is infinite as f32) instead of refusing the file
    #[arg(long)]
    ignore_non_finite: bool,
    /// Where the charts go, one SVG for each array
    #[arg(long, value_name = "DIR", default_value = "target/calibrate")]
    output: PathBuf,
}

impl Cli {
    /// Every calibrator, and the percentiles asked for.
    fn methods(&self) -> Vec<Calibrator> {
        let mut methods = Calibrator::ALL.to_vec();
        for &percent in &self.percentiles {
            let method = Calibrator::Percentile(percent);
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        methods
    }

    /// Everything to calibrate.
    fn tensors(&self) -> Result<Vec<Tensor>> {
        let non_finite = if self.ignore_non_finite { NonFinite::Ignore } else { NonFinite::Error };
        let open = |file: &PathBuf| {
            let name = file.display().to_string();
            Ok(npy::open(file, non_finite).with_context(|| name.clone())?.named(name))
        };
        // The files first, for they may be wrong.
        let files = self.files.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(activations()?.into_iter().chain(files).collect())
    }

    fn run(&self) -> Result<()> {
        let mut out = program::stdout();
        let (tensors, methods) = (self.tensors()?, self.methods());
        let bar = ProgressBar::new((tensors.len() * self.bits.len() * methods.len()) as u64)
            .with_style(ProgressStyle::with_template("[{pos}/{len}] {msg}")?);
        let mut charts = Vec::new();
        for tensor in &tensors {
            let tables = self.bits.iter().map(|&bits| {
                Table::new(&tensor.histogram, bits, self.scheme, &methods, |method| {
                    bar.set_message(format!("{}, {bits} bits, {method}", tensor.name));
                    bar.inc(1);
                })
            });
            let tables: Vec<_> = tables.collect::<Result<_, _>>().with_context(|| tensor.name.clone())?;
            charts.push((chart::file_name(charts.len() + 1, &tensor.name), chart::svg(tensor, &tables)?));
            bar.suspend(|| {
                writeln!(out, "{tensor}")?;
                tables.iter().try_for_each(|table| writeln!(out, "{table}"))
            })?;
        }
        bar.finish_and_clear();
        // Only now: whatever is wrong with the input leaves no files.
        let dir = &self.output;
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        for (name, svg) in &charts {
            let path = dir.join(name);
            fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(out, "{}", path.display())?;
        }
        Ok(())
    }
}

/// What flows through the quickstart network while it classifies the digits it was trained on.
fn activations() -> Result<Vec<Tensor>> {
    let mut x = digits::digits().pixels;
    x.truncate(digits::TRAIN * 64);
    let mut tensors = vec![Tensor::of("digits, input of layer 1", &x)?];
    for (i, layer) in digits::network().iter().enumerate() {
        x = Linear::new(layer).forward(&x, digits::TRAIN);
        let what =
            if layer.relu { "output of layer {} after ReLU" } else { "output of layer {}, the scores" };
        tensors.push(Tensor::of(what.replace("{}", &(i + 1).to_string()), &x)?);
    }
    Ok(tensors)
}

fn main() -> ExitCode {
    program::main(Cli::run)
}

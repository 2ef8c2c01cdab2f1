//! A word-level language model of LSTMs, quantized after training: size, loss and speed beside the same model in f32.
//!
//! `cargo run --release -p i8gemm-examples --example language_model -- --help`
//!
//! Embedding, LSTM layers and decoder become int8 with dynamically quantized activations. README.md beside this file says
//! where the text and the weights come from; `train.py` makes them anew. The f32 side is plain Rust: products of the `gemm` crate, for
//! one row a dot-product loop that keeps up with memory, and vectorized gates (see `float.rs`). It is not the fastest
//! there is: `--full-size` prints PyTorch's time beside it.

mod corpus;
mod evaluate;
mod full_size;

use std::{io::Write, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Parser, builder::PossibleValuesParser, builder::TypedValueParser};
use corpus::Corpus;
use i8gemm::Kernel;
use i8gemm_examples::language_model::{
    float::Float,
    int8::Int8,
    model::{Model, Weights},
};
use rand::{SeedableRng, rngs::StdRng};

/// Measure a language model in f32 and in int8 on text that it has not seen, then let the int8 model write.
#[derive(Parser)]
#[command(name = "language_model")]
struct Cli {
    /// Words to write
    #[arg(long, default_value_t = 60)]
    words: usize,
    /// Above 1 more daring, below 1 more predictable
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Another seed, another text
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that both models may use
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Bits of a value of the embedding
    #[arg(
        long,
        default_value = "8",
        value_parser = PossibleValuesParser::new(["8", "4"]).map(|bits| if bits == "4" { 4u32 } else { 8 })
    )]
    bits: u32,
    /// Words of the test text to measure with, instead of all
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Time a model of full size instead, with random weights: 33,278 words, 512 inputs, 5 layers of 256 units
    #[arg(long, conflicts_with_all = ["words", "temperature", "limit"])]
    full_size: bool,
}

fn main() -> ExitCode {
    program::main(run)
}

fn run(cli: &Cli) -> Result<()> {
    ensure!(cli.temperature > 0.0 && cli.temperature.is_finite(), "--temperature must be above 0");
    let threads = usize::from(cli.threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let kernel = Kernel::best()?;
    writeln!(program::stdout(), "Kernel: {kernel} ({}); threads: {threads}", kernel.instruction())?;
    pool.install(|| if cli.full_size { full_size::run(threads, cli.bits, cli.seed) } else { trained(cli) })
}

/// The trained model: measured, then writing.
fn trained(cli: &Cli) -> Result<()> {
    let corpus = Corpus::vendored();
    let weights = Weights::from_safetensors(include_bytes!("model.safetensors"))?;
    ensure!(corpus.words().len() == weights.words, "the vocabulary is not that of the weights");
    let threads = usize::from(cli.threads);
    let mut f32_model = Float::new(&weights, threads);
    let mut int8_model = Int8::new(&weights, cli.bits, threads)?;
    let text = corpus.test_ids();
    // The first word is the context of the second.
    let text = &text[..text.len().min(cli.limit.map_or(usize::MAX, |limit| limit.saturating_add(1)))];
    ensure!(text.len() > 1, "--limit must be above 0");

    let [f32_score, int8_score] = evaluate::measure([&mut f32_model, &mut int8_model], text)?;
    let mut out = program::stdout();
    writeln!(
        out,
        "{} words that were not trained on\n  {:<26}{:>10}{:>10}",
        text.len() - 1,
        "",
        "f32",
        "int8"
    )?;
    let mut row = |what: &str, a: f64, b: f64, digits: usize| {
        writeln!(out, "  {what:<26}{a:>10.digits$}{b:>10.digits$}")
    };
    let mb = |bytes: usize| bytes as f64 / 1e6;
    row("size, MB", mb(f32_model.bytes()), mb(int8_model.bytes()), 3)?;
    row("loss, nats per word", f32_score.loss, int8_score.loss, 4)?;
    row("perplexity", f32_score.loss.exp(), int8_score.loss.exp(), 2)?;
    row("seconds", f32_score.seconds, int8_score.seconds, 3)?;
    let rate = |seconds: f64| (text.len() - 1) as f64 / seconds;
    row("words per second", rate(f32_score.seconds), rate(int8_score.seconds), 0)?;
    writeln!(
        out,
        "  int8: {:.1} % of the size, {:.2} times the speed of this example's own f32, loss {:+.4}\n",
        100.0 * int8_model.bytes() as f64 / f32_model.bytes() as f64,
        int8_score.speed_up,
        int8_score.loss - f32_score.loss,
    )?;

    if cli.bits == 8 && cli.limit.is_none() {
        let difference = int8_score.loss - f32_score.loss;
        ensure!(difference.abs() <= 0.01, "the loss differs by {difference:+.4}, more than 0.01");
    }

    let mut random = StdRng::seed_from_u64(cli.seed);
    let ids = evaluate::write(&mut int8_model, cli.words, cli.temperature, &mut random)?;
    writeln!(out, "{}", corpus.text(&ids))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_predicts_as_f32_does() -> Result<()> {
        let weights = Weights::from_safetensors(include_bytes!("model.safetensors"))?;
        let (mut float, mut int8) = (Float::new(&weights, 1), Int8::new(&weights, 8, 1)?);
        let text = &Corpus::vendored().test_ids()[..60];
        let (mut a, mut b) = (vec![0.0; weights.words], vec![0.0; weights.words]);
        let mut losses = [0.0; 2];
        for pair in text.windows(2) {
            float.forward(&pair[..1], &mut a)?;
            int8.forward(&pair[..1], &mut b)?;
            losses[0] += evaluate::loss(&mut a, pair[1]);
            losses[1] += evaluate::loss(&mut b, pair[1]);
        }
        let [a, b] = losses.map(|loss| loss / (text.len() - 1) as f64);
        // Guessing at random is 8.3.
        assert!(a < 4.5 && (a - b).abs() < 0.05, "{a} and {b} nats per word");
        assert!(int8.bytes() * 100 <= float.bytes() * 28);
        Ok(())
    }
}

//! Measures this crate and what users would pick instead, in pairs, and says each result in a line of JSON.
//!
//! `cargo xtask bench` runs this and turns the lines into tables and charts.

#[path = "../../../benches/common/mod.rs"]
mod common;
mod hardware;
mod in_process;
mod layers;
#[path = "../../src/bench/measurement.rs"]
mod measurement;
mod ours;
mod pairs;
mod plan;
mod python;
#[path = "../../../benches/common/layers.rs"]
mod real;

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use i8gemm::Kernel;

use hardware::{Ceiling, VectorSum};
use in_process::{GemmF32, Gemmkit, InProcess, Rten, Tract};
use layers::{LAYERS, Layer};
use measurement::{Measurement, Message};
use ours::Operands;
use pairs::{Contender, Effort};
use plan::{Opponent, Row};
use python::Python;

#[derive(Parser)]
struct Args {
    /// Fewer and shorter samples, and no product that takes seconds
    #[arg(long)]
    quick: bool,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// The kernel to measure, instead of the one that the crate would choose
    #[arg(long)]
    kernel: Option<String>,
    /// Only products such as 512x512x512
    #[arg(long, value_name = "MxKxN")]
    shape: Vec<String>,
    /// Only peers whose name contains this
    #[arg(long, value_name = "TEXT")]
    peer: Option<String>,
    /// The Python that has torch, onnxruntime and onnx
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let best = match &args.kernel {
        Some(name) => Kernel::by_name(name)?,
        None => Kernel::best()?,
    };
    let mut rows = plan::rows(best, &args.threads, args.quick);
    let wanted = |opponent: &Opponent| {
        args.peer
            .as_ref()
            .is_none_or(|text| name(opponent, best).to_lowercase().contains(&text.to_lowercase()))
    };
    for row in &mut rows {
        row.opponents.retain(wanted);
    }
    let chosen =
        |(m, k, n): ours::Shape| args.shape.is_empty() || args.shape.contains(&format!("{m}x{k}x{n}"));
    rows.retain(|row| chosen(row.shape) && !row.opponents.is_empty());
    let layers = LAYERS.into_iter().filter(|layer| args.threads.contains(&1) && chosen(layer.shape()));
    let layers: Vec<Layer> = layers.filter(|_| wanted(&Opponent::GemmF32)).collect();
    say(&Message::Planned(rows.iter().map(|row| row.opponents.len()).sum::<usize>() + layers.len()))?;
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let mut ring = Ring { effort, python: start_python(&args, &rows)?, skipped: Vec::new() };
    for row in &rows {
        // Peers that take their threads from rayon find as many as they are to have; with one, all runs on that thread.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(row.threads).build()?;
        pool.install(|| ring.row(row))?;
    }
    layers.into_iter().try_for_each(|layer| ring.layer(layer, best))
}

fn say(message: &Message) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, message)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// The interpreter, if a row needs one and there is one.
fn start_python(args: &Args, rows: &[Row]) -> Result<Option<Python>> {
    if !rows.iter().flat_map(|row| &row.opponents).any(|opponent| matches!(opponent, Opponent::Python(_))) {
        return Ok(None);
    }
    match Python::start(&args.python) {
        Ok(python) => Ok(Some(python)),
        Err(error) => {
            say(&Message::Skipped(format!("torch and ONNX Runtime: {error:#}")))?;
            Ok(None)
        }
    }
}

/// A name for the report.
fn name(opponent: &Opponent, kernel: Kernel) -> String {
    use in_process::Product;
    match *opponent {
        Opponent::Ceiling => format!("ceiling ({})", kernel.instruction()),
        Opponent::VectorSum => "vector sum of the weights".into(),
        Opponent::Rten => Rten::NAME.into(),
        Opponent::Gemmkit => Gemmkit::NAME.into(),
        Opponent::Tract => Tract::NAME.into(),
        Opponent::GemmF32 => GemmF32::NAME.into(),
        Opponent::Python(name) => name.into(),
        Opponent::Ourselves { shape: (m, k, n), op, threads } => {
            let threads = if threads == 1 { "1 thread".into() } else { format!("{threads} threads") };
            format!("i8gemm {m}x{k}x{n} {op}, {threads}")
        }
    }
}

struct Ring {
    effort: Effort,
    python: Option<Python>,
    /// Peers that failed: said once.
    skipped: Vec<String>,
}

impl Ring {
    fn row(&mut self, row: &Row) -> Result<()> {
        let operands = Operands::new(row.shape);
        let ceiling = self.ceiling(row)?;
        ours::with(&operands, row.op, row.kernel, row.threads, |ours| {
            for opponent in &row.opponents {
                let peer = name(opponent, row.kernel);
                let (m, k, n) = row.shape;
                say(&Message::Measuring(format!("{m}x{k}x{n} {}, {peer}", row.op)))?;
                match self.against(row, &operands, *opponent, ours) {
                    Ok(Some((pairs, agrees))) => say(&Message::Measured(Measurement {
                        m,
                        k,
                        n,
                        op: row.op.to_string(),
                        kernel: row.kernel.name().into(),
                        threads: row.threads,
                        ours_gmacs: pairs.ours / 1e9,
                        peer,
                        peer_gmacs: pairs.peer / 1e9,
                        ratio: pairs.ratio,
                        ceiling_gmacs: ceiling,
                        agrees,
                    }))?,
                    Ok(None) => {}
                    Err(error) => self.skip(format!("{peer}: {error:#}"))?,
                }
            }
            Ok(())
        })
    }

    /// A layer or block beside its f32 form, whose products are the `gemm` crate's.
    fn layer(&mut self, layer: Layer, kernel: Kernel) -> Result<()> {
        let ((m, k, n), peer) = (layer.shape(), name(&Opponent::GemmF32, kernel));
        say(&Message::Measuring(format!("{m}x{k}x{n} {}, {peer}", layer.op)))?;
        let pairs = layers::with(layer, kernel, |ours, theirs| pairs::pairs(self.effort, 1, ours, theirs))?;
        say(&Message::Measured(Measurement {
            m,
            k,
            n,
            op: layer.op.into(),
            kernel: kernel.name().into(),
            threads: 1,
            ours_gmacs: pairs.ours / 1e9,
            peer,
            peer_gmacs: pairs.peer / 1e9,
            ratio: pairs.ratio,
            ceiling_gmacs: None,
            agrees: None,
        }))
    }

    fn skip(&mut self, why: String) -> Result<()> {
        if self.skipped.contains(&why) {
            return Ok(());
        }
        say(&Message::Skipped(why.clone()))?;
        self.skipped.push(why);
        Ok(())
    }

    /// The instruction's rate just before the row, in 10^9 multiply-adds a second.
    fn ceiling(&self, row: &Row) -> Result<Option<f64>> {
        let Some(mut ceiling) = Ceiling::new(row.kernel, row.threads) else { return Ok(None) };
        let clock = pairs::Clock::of(row.threads);
        let mut rates = Vec::new();
        for _ in 0..self.effort.pairs {
            rates.push(10.0 * ceiling.work() / ceiling.seconds(10, clock)? / 1e9);
        }
        Ok(Some(common::median(&mut rates)))
    }

    /// Measures one pair; none if there is nothing to measure against on this machine.
    fn against(
        &mut self,
        row: &Row,
        operands: &Operands,
        opponent: Opponent,
        ours: &mut dyn Contender,
    ) -> Result<Option<(pairs::Pairs, Option<bool>)>> {
        let (effort, threads) = (self.effort, row.threads);
        let mut meet = |peer: &mut dyn Contender| -> Result<Option<(pairs::Pairs, Option<bool>)>> {
            let pairs = pairs::pairs(effort, threads, ours, peer)?;
            let agrees = match peer.sums()? {
                Some((zero, sums)) => Some(ours::expected(operands, row.op, zero)? == sums),
                None => None,
            };
            Ok(Some((pairs, agrees)))
        };
        match opponent {
            Opponent::Ceiling => match Ceiling::new(row.kernel, threads) {
                Some(mut ceiling) => meet(&mut ceiling),
                None => Ok(None),
            },
            Opponent::VectorSum => meet(&mut VectorSum::new(operands)),
            Opponent::Rten => meet(&mut InProcess::new(operands, Rten::new(operands))),
            Opponent::Gemmkit => meet(&mut InProcess::new(operands, Gemmkit::new(operands, threads))),
            Opponent::Tract => meet(&mut InProcess::new(operands, Tract::new(operands, threads)?)),
            Opponent::GemmF32 => meet(&mut InProcess::new(operands, GemmF32::new(operands, threads))),
            Opponent::Python(name) => match &mut self.python {
                Some(python) => meet(&mut python.prepare(name, row.shape, threads)?),
                None => Ok(None),
            },
            Opponent::Ourselves { shape, op, threads } => {
                let other = Operands::new(shape);
                ours::with(&other, op, row.kernel, threads, |peer| meet(peer)).context("of this crate")
            }
        }
    }
}

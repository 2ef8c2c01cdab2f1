//! Measures this crate and what users would pick instead, in pairs, and says each result in a line of JSON.
//!
//! `cargo xtask bench` runs this and turns the lines into tables and charts.

mod cores;
mod hardware;
mod in_process;
mod language;
mod layers;
mod onednn;
mod ours;
mod pairs;
mod plan;
mod python;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use bench_support::{
    measurement::{Measurement, Message},
    median,
};
use clap::Parser;
use i8gemm::Kernel;

use hardware::{Ceiling, VectorSum};
use in_process::{GemmF32, Gemmkit, InProcess, Product as _, Rten, Tract};
use language::{Models, TEXTS, Text};
use layers::{LAYERS, Layer};
use onednn::{Dnnl, OneDnn};
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
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2], value_parser = clap::value_parser!(u16).range(1..))]
    threads: Vec<u16>,
    /// The kernel to measure, instead of the one that the crate would choose
    #[arg(long)]
    kernel: Option<String>,
    /// Only products such as 512x512x512
    #[arg(long, value_name = "MxKxN", value_parser = shape)]
    shape: Vec<ours::Shape>,
    /// Only peers whose name contains this
    #[arg(long, value_name = "TEXT")]
    peer: Option<String>,
    /// The Python that has torch, onnxruntime and onnx
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

fn shape(text: &str) -> Result<ours::Shape> {
    let sizes: Vec<usize> = text.split('x').map(str::parse).collect::<Result<_, _>>()?;
    let [m, k, n] = sizes[..] else { bail!("three sizes are wanted, as in 512x512x512") };
    ensure!(m > 0 && k > 0 && n > 0, "sizes are above 0");
    Ok((m, k, n))
}

fn main() -> ExitCode {
    program::main(|args: &Args| {
        let Err(error) = measure(args) else { return Ok(ExitCode::SUCCESS) };
        // It is the reader of the lines who talks to people.
        say(&Message::Failed(format!("{error:#}")))?;
        Ok(ExitCode::FAILURE)
    })
}

fn measure(args: &Args) -> Result<()> {
    let best = match &args.kernel {
        Some(name) => Kernel::by_name(name)?,
        None => Kernel::best()?,
    };
    let mut threads: Vec<usize> = args.threads.iter().copied().map(usize::from).collect();
    threads.sort_unstable();
    threads.dedup();
    let known = LAYERS.map(Layer::shape).into_iter().chain(TEXTS.map(Text::shape));
    let mut rows = plan::rows(best, &threads, args.quick, &args.shape, &known.collect::<Vec<_>>());
    let wanted = |opponent: &Opponent| {
        args.peer
            .as_ref()
            .is_none_or(|text| name(opponent, best).to_lowercase().contains(&text.to_lowercase()))
    };
    for row in &mut rows {
        row.opponents.retain(wanted);
    }
    let chosen = |shape: ours::Shape| args.shape.is_empty() || args.shape.contains(&shape);
    rows.retain(|row| chosen(row.shape) && !row.opponents.is_empty());
    let single = threads.contains(&1);
    let layers = LAYERS.into_iter().map(|layer| (layer, layer.shape(), layer.opponents()));
    let layers = with_opponents(layers.filter(|(_, shape, _)| single && chosen(*shape)), wanted);
    let texts = TEXTS.into_iter().map(|text| (text, text.shape(), text.opponents()));
    let texts = with_opponents(texts.filter(|(_, shape, _)| single && chosen(*shape)), wanted);
    let opponents = rows.iter().map(|row| &row.opponents);
    let opponents =
        opponents.chain(layers.iter().map(|(_, all)| all)).chain(texts.iter().map(|(_, all)| all));
    let opponents: Vec<Opponent> = opponents.flatten().copied().collect();
    say(&Message::Planned(opponents.len()))?;
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let mut python = start_python(args, &opponents)?;
    let dnnl = open_dnnl(python.as_mut(), &opponents)?;
    let mut ring = Ring { effort, python, dnnl, skipped: Vec::new() };
    for row in &rows {
        // Peers that take their threads from rayon find as many as they are to have; with one, all runs on that thread.
        pool(row.threads)?.install(|| ring.row(row))?;
    }
    for (layer, opponents) in layers {
        ring.layer(layer, &opponents, best)?;
    }
    ring.language(&texts, best)
}

/// So many threads; several, each on a core of its own.
fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    Ok(if threads == 1 { pool } else { pool.start_handler(cores::pin) }.build()?)
}

/// Things that have an opponent left.
fn with_opponents<T>(
    all: impl Iterator<Item = (T, ours::Shape, Vec<Opponent>)>,
    wanted: impl Fn(&Opponent) -> bool,
) -> Vec<(T, Vec<Opponent>)> {
    all.map(|(thing, _, mut opponents)| {
        opponents.retain(&wanted);
        (thing, opponents)
    })
    .filter(|(_, opponents)| !opponents.is_empty())
    .collect()
}

fn say(message: &Message) -> Result<()> {
    let mut out = program::stdout();
    writeln!(out, "{}", serde_json::to_string(message)?)?;
    Ok(out.flush()?)
}

/// The interpreter, if a row needs one and there is one.
fn start_python(args: &Args, opponents: &[Opponent]) -> Result<Option<Python>> {
    if !opponents.iter().any(|opponent| matches!(opponent, Opponent::Python(_) | Opponent::OneDnn)) {
        return Ok(None);
    }
    match Python::start(&args.python) {
        Ok(python) => Ok(Some(python)),
        Err(error) => {
            say(&Message::Skipped(format!("oneDNN, ONNX Runtime and PyTorch: {error:#}")))?;
            Ok(None)
        }
    }
}

/// oneDNN's library, where a row needs it and the interpreter has its package.
fn open_dnnl(python: Option<&mut Python>, opponents: &[Opponent]) -> Result<Option<Dnnl>> {
    let Some(python) = python.filter(|_| opponents.contains(&Opponent::OneDnn)) else { return Ok(None) };
    let opened =
        python.onednn().and_then(|path| Dnnl::open(&path).with_context(|| path.display().to_string()));
    match opened {
        Ok(dnnl) => {
            say(&Message::Noted(format!("oneDNN is {}", dnnl.version()?)))?;
            Ok(Some(dnnl))
        }
        Err(error) => {
            say(&Message::Skipped(format!("{}: {error:#}", OneDnn::NAME)))?;
            Ok(None)
        }
    }
}

/// A name for the report.
fn name(opponent: &Opponent, kernel: Kernel) -> String {
    match *opponent {
        Opponent::Ceiling => format!("ceiling ({})", kernel.instruction()),
        Opponent::VectorSum => "vector sum of the weights".into(),
        Opponent::Rten => Rten::NAME.into(),
        Opponent::Gemmkit => Gemmkit::NAME.into(),
        Opponent::Tract => Tract::NAME.into(),
        Opponent::GemmF32 => GemmF32::NAME.into(),
        Opponent::OneDnn => OneDnn::NAME.into(),
        Opponent::Python(name) => name.into(),
        Opponent::Depthwise(channels) => format!("i8gemm depthwise3x3, {channels} channels"),
        Opponent::Ourselves { shape: (m, k, n), op, threads } => {
            let threads = if threads == 1 { "1 thread".into() } else { format!("{threads} threads") };
            format!("i8gemm {m}x{k}x{n} {op}, {threads}")
        }
    }
}

/// A measurement on one thread, without a ceiling.
fn measurement(
    (m, k, n): ours::Shape,
    op: String,
    kernel: Kernel,
    peer: String,
    pairs: pairs::Pairs,
) -> Measurement {
    Measurement {
        m,
        k,
        n,
        op,
        kernel: kernel.name().into(),
        threads: 1,
        ours_gmacs: pairs.ours / 1e9,
        peer,
        peer_gmacs: pairs.peer / 1e9,
        ratio: pairs.ratio,
        ratio_quartiles: pairs.quartiles,
        attempts: pairs.attempts,
        ceiling_gmacs: None,
        agrees: None,
    }
}

/// Multiply-adds up to which ours is compared with the portable kernel's product before it is measured.
const CHECKED: f64 = (1u64 << 31) as f64;

struct Ring {
    effort: Effort,
    python: Option<Python>,
    dnnl: Option<Dnnl>,
    /// Peers that failed: said once.
    skipped: Vec<String>,
}

impl Ring {
    fn row(&mut self, row: &Row) -> Result<()> {
        let operands = Operands::new(row.shape);
        let ceiling = self.ceiling(row)?;
        ours::with(&operands, row.op, row.kernel, row.threads, |ours| {
            if ours::macs(row.shape) <= CHECKED
                && let Some((zero, sums)) = ours.sums()?
            {
                let exact = ours::expected(&operands, row.op, zero)? == sums;
                ensure!(exact, "{}: wrong sums of {}", row.kernel, row.op);
            }
            for opponent in &row.opponents {
                let peer = name(opponent, row.kernel);
                self.say_measuring(row.shape, &row.op.to_string(), &peer)?;
                match self.against(row, &operands, *opponent, ours) {
                    Ok(Some((pairs, agrees))) => say(&Message::Measured(Measurement {
                        threads: row.threads,
                        ceiling_gmacs: ceiling,
                        agrees,
                        ..measurement(row.shape, row.op.to_string(), row.kernel, peer, pairs)
                    }))?,
                    Ok(None) => {}
                    Err(error) => self.skip(format!("{peer}: {error:#}"))?,
                }
            }
            Ok(())
        })
    }

    /// A layer or block beside its f32 form, whose products are the `gemm` crate's, and beside its product alone.
    fn layer(&mut self, layer: Layer, opponents: &[Opponent], kernel: Kernel) -> Result<()> {
        for opponent in opponents {
            let peer = name(opponent, kernel);
            self.say_measuring(layer.shape(), layer.op, &peer)?;
            let effort = self.effort;
            let pairs = layers::with(layer, kernel, |ours, float| match *opponent {
                Opponent::Ourselves { shape, op, threads } => {
                    let operands = Operands::new(shape);
                    ours::with(&operands, op, kernel, threads, |product| {
                        pairs::pairs(effort, 1, ours, product)
                    })
                }
                Opponent::Depthwise(channels) => {
                    let other = Layer::depthwise(channels);
                    layers::with(other, kernel, |other, _| pairs::pairs(effort, 1, ours, other))
                }
                _ => pairs::pairs(effort, 1, ours, float),
            })?;
            say(&Message::Measured(measurement(layer.shape(), layer.op.into(), kernel, peer, pairs)))?;
        }
        Ok(())
    }

    /// The language model of full size, on one thread.
    fn language(&mut self, texts: &[(Text, Vec<Opponent>)], kernel: Kernel) -> Result<()> {
        if texts.is_empty() {
            return Ok(());
        }
        let mut models = Models::new()?;
        for (text, opponents) in texts {
            for opponent in opponents {
                let peer = name(opponent, kernel);
                self.say_measuring(text.shape(), Text::OP, &peer)?;
                let (effort, python) = (self.effort, &mut self.python);
                match models.meet(*text, *opponent, effort, python) {
                    Ok(Some(pairs)) => {
                        let op = Text::OP.into();
                        say(&Message::Measured(measurement(text.shape(), op, models.kernel(), peer, pairs)))?;
                    }
                    Ok(None) => {}
                    Err(error) => self.skip(format!("{peer}: {error:#}"))?,
                }
            }
        }
        Ok(())
    }

    fn say_measuring(&self, (m, k, n): ours::Shape, op: &str, peer: &str) -> Result<()> {
        say(&Message::Measuring(format!("{m}x{k}x{n} {op}, {peer}")))
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
        Ok(Some(median(&mut rates)))
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
                // Of another product perhaps, and checked in a row of its own.
                _ if matches!(opponent, Opponent::Ourselves { .. }) => None,
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
            Opponent::VectorSum => {
                let bytes: &[u8] = bytemuck::cast_slice(&operands.rhs);
                meet(&mut VectorSum { bytes, work: bytes.len() as f64 })
            }
            Opponent::Rten => meet(&mut InProcess::new(operands, Rten::new(operands))),
            Opponent::Gemmkit => meet(&mut InProcess::new(operands, Gemmkit::new(operands, threads))),
            Opponent::Tract => {
                // Its threads are started here.
                let product = cores::unpinned(|| Tract::new(operands, threads))?;
                meet(&mut InProcess::new(operands, product))
            }
            Opponent::GemmF32 => meet(&mut InProcess::new(operands, GemmF32::new(operands, threads))),
            Opponent::OneDnn => {
                let Some(dnnl) = &self.dnnl else { return Ok(None) };
                meet(&mut InProcess::new(operands, OneDnn::new(dnnl, operands, row.op, threads)?))
            }
            Opponent::Python(name) => match &mut self.python {
                Some(python) => meet(&mut python.prepare(name, row.shape, threads)?),
                None => Ok(None),
            },
            Opponent::Depthwise(_) => Ok(None),
            Opponent::Ourselves { shape, op, threads } => {
                let other = Operands::new(shape);
                ours::with(&other, op, row.kernel, threads, |peer| meet(peer)).context("of this crate")
            }
        }
    }
}

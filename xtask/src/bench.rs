//! `cargo xtask bench`: this crate and what users would pick instead, side by side on this machine.
//!
//! A program of its own measures (`xtask/peers`), so that nothing else here has to build the peers; this shows how it gets on,
//! and makes tables and charts of what it says.

mod chart;
mod report;

use std::{
    io::{BufRead, BufReader, IsTerminal, Write},
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use bench_support::measurement::{Measurement, Message};
use i8gemm::Kernel;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::run::{Log, Progress, Workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Under a minute: fewer and shorter samples, and no product that takes seconds
    #[arg(long)]
    quick: bool,
    /// One JSON object on each line instead of tables; reports and charts are written all the same
    #[arg(long)]
    json: bool,
    /// Numbers of threads, such as 1,2
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    threads: Vec<u16>,
    /// The kernel to measure, instead of the one that the crate would choose
    #[arg(long)]
    kernel: Option<String>,
    /// Only this product, such as 512x512x512, be it one of the usual ones or not; may be repeated
    #[arg(long, value_name = "MxKxN", value_parser = shape)]
    shape: Vec<String>,
    /// Only peers whose name contains this
    #[arg(long, value_name = "TEXT")]
    peer: Option<String>,
    /// The Python that has torch, onnxruntime and onnx: their rows are left out where they are missing
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

impl Args {
    /// The kernel to measure: as for every user, one that is pinned is taken or refused.
    fn kernel(&self) -> Result<Kernel, i8gemm::Error> {
        self.kernel.as_deref().map_or_else(Kernel::best, Kernel::by_name)
    }

    /// The arguments of the measuring program.
    fn forward(&self, kernel: Kernel) -> Vec<String> {
        let mut all = vec!["--python".into(), self.python.display().to_string()];
        all.extend(["--kernel".into(), kernel.name().into()]);
        if self.quick {
            all.push("--quick".into());
        }
        all.extend(self.peer.iter().flat_map(|peer| ["--peer".into(), peer.clone()]));
        all.extend(self.threads.iter().flat_map(|threads| ["--threads".into(), threads.to_string()]));
        all.extend(self.shape.iter().flat_map(|shape| ["--shape".into(), shape.clone()]));
        all
    }
}

/// The most elements of a matrix: peers hold each of the three as f32, some of them twice.
const MOST: u64 = 1 << 28;

/// Checks that a shape is three sizes; the measuring program reads them.
fn shape(text: &str) -> Result<String, String> {
    let sizes: Result<Vec<u32>, _> = text.split('x').map(str::parse).collect();
    let sizes = sizes.ok().and_then(|sizes| <[u32; 3]>::try_from(sizes).ok());
    let Some([m, k, n]) = sizes.filter(|sizes| !sizes.contains(&0)).map(|sizes| sizes.map(u64::from)) else {
        return Err("three sizes above 0 are wanted, as in 512x512x512".into());
    };
    let largest = (m * k).max(k * n).max(m * n);
    if largest > MOST {
        Err(format!("a matrix of {largest} elements; {MOST} are the most"))
    } else {
        Ok(text.into())
    }
}

/// Measures, and leaves `report.json`, `report.md` and the charts in `target/bench/`.
pub fn main(args: &Args) -> Result<ExitCode> {
    // Before minutes are spent on building.
    let kernel = args.kernel()?;
    let workspace = Workspace::find()?;
    let log = Log::create(&workspace, "bench")?;
    let progress = Progress::start("building the peers".into())?;
    let built = log.check(workspace.cargo().args(["build", "--release", "-p", "peers"]));
    progress.finish(if built.is_ok() { "done" } else { "FAIL" })?;
    built?;

    let (measurements, skipped) = measure(&workspace, args, kernel)?;
    ensure!(!measurements.is_empty(), "nothing was measured: no peer is named so");
    let dir = workspace.target.join("bench");
    report::write(&dir, &measurements, &skipped)?;
    let charts = chart::draw_all(&dir, &measurements)?;
    if !args.json {
        report::print(&measurements, &skipped)?;
        let charts = if charts { ", roofline.svg, ratios.svg" } else { "" };
        let mut out = program::stdout();
        writeln!(out, "\nwritten to {}: report.json, report.md{charts}", dir.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the measuring program; with `--json` its results go on as they come.
fn measure(workspace: &Workspace, args: &Args, kernel: Kernel) -> Result<(Vec<Measurement>, Vec<String>)> {
    let program = workspace.target.join("release").join(format!("peers{}", std::env::consts::EXE_SUFFIX));
    let mut child = workspace
        .command(&program)
        .args(args.forward(kernel))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let Some(output) = child.stdout.take() else { bail!("the measuring program has no output") };
    let bar = progress_bar()?;
    let (mut measurements, mut skipped) = (Vec::new(), Vec::new());
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line?)? {
            Message::Planned(count) => bar.set_length(count as u64),
            Message::Measuring(what) => bar.set_message(what),
            Message::Skipped(why) => {
                bar.suspend(|| writeln!(program::stderr(), "left out: {why}"))?;
                skipped.push(why);
            }
            Message::Measured(measurement) => {
                bar.inc(1);
                let line = args.json.then(|| serde_json::to_string(&measurement)).transpose()?;
                measurements.push(measurement);
                let said = line.map_or(Ok(()), |line| bar.suspend(|| writeln!(program::stdout(), "{line}")));
                if let Err(error) = said {
                    child.kill()?;
                    child.wait()?;
                    return Err(error.into());
                }
            }
            Message::Failed(why) => {
                bar.finish_and_clear();
                child.wait()?;
                bail!(why);
            }
        }
    }
    bar.finish_and_clear();
    ensure!(child.wait()?.success(), "the measuring program failed");
    Ok((measurements, skipped))
}

fn progress_bar() -> Result<ProgressBar> {
    let live = std::io::stderr().is_terminal();
    let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
    Ok(ProgressBar::with_draw_target(Some(0), target).with_style(style))
}

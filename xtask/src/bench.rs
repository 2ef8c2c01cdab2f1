//! `cargo xtask bench`: this crate and what users would pick instead, side by side on this machine.
//!
//! A program of its own measures (`xtask/peers`), so that nothing else here has to build the peers; this shows how it gets on,
//! and makes tables and charts of what it says.

mod chart;
mod compare;
mod hold;
mod python;
mod report;

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use bench_support::measurement::Message;
use i8gemm::Kernel;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::run::{Log, Progress, Workspace};
use report::Report;

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
    /// Fetch PyTorch too, for FBGEMM and its language model: gigabytes on Linux
    #[arg(long, conflicts_with = "python")]
    pytorch: bool,
    /// A Python of yours with numpy, onednn-cpu-gomp, onnx, onnxruntime and torch, instead of one made in target/bench/python; what
    /// it lacks is left out
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// An earlier report.json: show what became slower since by more than its spread, and end with status 3 if something did
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Measure nothing: tables, charts and the comparison of this report.json
    #[arg(long, value_name = "REPORT.json", conflicts_with_all = ["quick", "threads", "kernel", "shape", "peer", "pytorch", "python"])]
    from: Option<PathBuf>,
}

/// The status that says that something became slower: 1 and 2 are for errors.
const SLOWER: u8 = 3;

impl Args {
    /// The kernel to measure: as for every user, one that is pinned is taken or refused.
    fn kernel(&self) -> Result<Kernel, i8gemm::Error> {
        self.kernel.as_deref().map_or_else(Kernel::best, Kernel::by_name)
    }

    /// The arguments of the measuring program.
    fn forward(&self, kernel: Kernel, python: &Path) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec!["--python".into(), python.into()];
        all.extend(["--kernel", kernel.name()].map(Into::into));
        if self.quick {
            all.push("--quick".into());
        }
        let mut add = |name: &str, value: String| all.extend([name, &value].map(OsString::from));
        self.peer.iter().for_each(|peer| add("--peer", peer.clone()));
        self.threads.iter().for_each(|threads| add("--threads", threads.to_string()));
        self.shape.iter().for_each(|shape| add("--shape", shape.clone()));
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
    let old = args.compare.as_deref().map(compare::read).transpose()?;
    let workspace = Workspace::find()?;
    let report = match &args.from {
        Some(path) => compare::read(path)?,
        None => measured(&workspace, args)?,
    };
    ensure!(!report.measurements.is_empty(), "nothing was measured: no peer is named so");
    let dir = workspace.target.join("bench");
    report.write(&dir)?;
    let charts = chart::draw_all(&dir, &report.measurements)?;
    let mut out = program::stdout();
    if !args.json {
        let charts = if charts { ", roofline.svg, ratios.svg" } else { "" };
        write!(out, "{}", report.markdown())?;
        writeln!(out, "\nwritten to {}: report.json, report.md{charts}", dir.display())?;
    }
    let Some(old) = old else { return Ok(ExitCode::SUCCESS) };
    ensure!(old.cpu() == report.cpu(), "the reports are of two CPUs: {} and {}", old.cpu(), report.cpu());
    let comparison = compare::compare(&old.measurements, &report.measurements)?;
    // Lines of JSON stay lines of JSON.
    if args.json {
        write!(program::stderr(), "{}", comparison.text)?;
    } else {
        write!(out, "\n{}", comparison.text)?;
    }
    Ok(if comparison.slower > 0 { ExitCode::from(SLOWER) } else { ExitCode::SUCCESS })
}

/// Builds and runs the measuring program.
fn measured(workspace: &Workspace, args: &Args) -> Result<Report> {
    let kernel = args.kernel()?;
    let log = Log::create(workspace, "bench")?;
    let progress = Progress::start("building the peers".into())?;
    let built = log.check(workspace.cargo().args(["build", "--release", "-p", "peers"]));
    progress.finish(if built.is_ok() { "done" } else { "FAIL" })?;
    built?;
    let python = match &args.python {
        Some(python) => python.clone(),
        None => {
            let progress = Progress::start("Python's peers".into())?;
            let made = python::environment(workspace, &log, args.pytorch);
            progress.finish(if made.is_ok() { "done" } else { "FAIL" })?;
            made.unwrap_or_else(|error| {
                // The measuring program leaves them out, and says so.
                let _ = writeln!(program::stderr(), "Python's peers: {error:#}");
                "python3".into()
            })
        }
    };
    let mut report = Report::new();
    let hold = args.kernel.as_ref().and_then(|_| hold::to(kernel.name()));
    report.notes.extend(hold.as_ref().map(|hold| hold.note(kernel.name())));
    let environment = hold.map_or(&[][..], |hold| hold.environment);
    measure(workspace, args, &args.forward(kernel, &python), environment, &mut report)?;
    Ok(report)
}

/// Runs the measuring program; with `--json` its results go on as they come.
fn measure(
    workspace: &Workspace,
    args: &Args,
    forward: &[OsString],
    environment: &[(&str, &str)],
    report: &mut Report,
) -> Result<()> {
    let program = workspace.target.join("release").join(format!("peers{}", std::env::consts::EXE_SUFFIX));
    let mut child = workspace
        .command(&program)
        .args(forward)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let Some(output) = child.stdout.take() else { bail!("the measuring program has no output") };
    let bar = progress_bar()?;
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line?)? {
            Message::Planned(count) => bar.set_length(count as u64),
            Message::Measuring(what) => bar.set_message(what),
            Message::Skipped(why) => {
                bar.suspend(|| writeln!(program::stderr(), "left out: {why}"))?;
                report.left_out.push(why);
            }
            Message::Noted(note) => report.notes.push(note),
            Message::Measured(measurement) => {
                bar.inc(1);
                let line = args.json.then(|| serde_json::to_string(&measurement)).transpose()?;
                report.measurements.push(measurement);
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
    Ok(())
}

fn progress_bar() -> Result<ProgressBar> {
    let live = std::io::stderr().is_terminal();
    let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
    Ok(ProgressBar::with_draw_target(Some(0), target).with_style(style))
}

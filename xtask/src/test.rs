//! `cargo xtask test`: every check of the project, one row each.

mod stages;

use std::{collections::HashMap, io::Write, process::ExitCode};

use anyhow::{Result, ensure};
use comfy_table::{CellAlignment, Table, presets};

use crate::run::{Log, Progress, Workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Keep to this machine and its toolchain: no other targets, no QEMU, no question to the registry
    #[arg(long)]
    quick: bool,
    /// Run only the stages whose name contains this (and those they need)
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Name the stages instead of running them
    #[arg(long)]
    list: bool,
}

/// What a stage does; what goes wrong is an error.
type Action = Box<dyn Fn(&Workspace, &mut Log) -> Result<()>>;

/// One check: a row of the table.
struct Stage {
    /// The name of its log, and what `--only` looks at.
    id: String,
    name: String,
    kernel: String,
    cpu: String,
    /// The stage that must have passed before.
    needs: Option<&'static str>,
    action: Action,
}

impl Stage {
    fn new(
        id: impl Into<String>,
        name: impl Into<String>,
        action: impl Fn(&Workspace, &mut Log) -> Result<()> + 'static,
    ) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            kernel: "-".into(),
            cpu: "-".into(),
            needs: None,
            action: Box::new(action),
        }
    }

    fn on(mut self, kernel: impl Into<String>, cpu: impl Into<String>) -> Self {
        self.kernel = kernel.into();
        self.cpu = cpu.into();
        self
    }

    fn needs(mut self, id: &'static str) -> Self {
        self.needs = Some(id);
        self
    }

    fn line(&self) -> String {
        let words = [&self.name, &self.kernel, &self.cpu];
        words.into_iter().filter(|word| *word != "-").cloned().collect::<Vec<_>>().join(", ")
    }
}

/// How a stage ended.
struct Row {
    passed: bool,
    cells: [String; 6],
}

/// Runs the stages that the arguments choose; success if all of them passed.
pub fn main(args: &Args) -> Result<ExitCode> {
    let stages = chosen(stages::all(args.quick), args.only.as_deref())?;
    if args.list {
        let mut out = program::stdout();
        stages.iter().try_for_each(|stage| writeln!(out, "{:32} {}", stage.id, stage.line()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = run_all(&Workspace::find()?, &stages)?;
    summarize(&stages, &rows)
}

/// The stages whose id contains the text, and those they need.
fn chosen(mut stages: Vec<Stage>, only: Option<&str>) -> Result<Vec<Stage>> {
    let Some(only) = only else { return Ok(stages) };
    let mut keep: Vec<bool> = stages.iter().map(|stage| stage.id.contains(only)).collect();
    // What a stage needs stands before it, so one pass from the end finds all.
    for i in (0..stages.len()).rev().filter(|i| stages[*i].needs.is_some()) {
        if keep[i] {
            stages
                .iter()
                .zip(&mut keep)
                .for_each(|(stage, keep)| *keep |= stages[i].needs == Some(&stage.id));
        }
    }
    let mut keep = keep.into_iter();
    stages.retain(|_| keep.next() == Some(true));
    ensure!(!stages.is_empty(), "no stage's name contains `{only}`: see --list");
    Ok(stages)
}

/// Runs every stage, whatever became of the ones before, so that the table shows all that is wrong.
fn run_all(workspace: &Workspace, stages: &[Stage]) -> Result<Vec<Row>> {
    let mut passed = HashMap::new();
    let mut rows = Vec::new();
    for (i, stage) in stages.iter().enumerate() {
        let failed_need = stage.needs.filter(|need| passed.get(need) == Some(&false));
        let position = format!("[{}/{}] {}", i + 1, stages.len(), stage.line());
        let row = match failed_need {
            Some(need) => not_run(stage, position, need)?,
            None => run_one(workspace, stage, position)?,
        };
        passed.insert(stage.id.as_str(), row.passed);
        rows.push(row);
    }
    Ok(rows)
}

fn not_run(stage: &Stage, position: String, need: &str) -> Result<Row> {
    let result = format!("FAIL (not run: {need} failed)");
    writeln!(program::stderr(), "{position}: {result}")?;
    Ok(row(stage, false, result, None, "-".into()))
}

fn run_one(workspace: &Workspace, stage: &Stage, position: String) -> Result<Row> {
    let mut log = Log::create(workspace, &stage.id)?;
    let progress = Progress::start(position)?;
    let outcome = (stage.action)(workspace, &mut log);
    let passed = outcome.is_ok();
    let result = if passed { "pass" } else { "FAIL" };
    let time = progress.finish(result)?;
    if let Err(error) = outcome {
        let mut err = program::stderr();
        writeln!(err, "{}  {error:#}\n  log: {}", log.tail(40), log.path().display())?;
    }
    Ok(row(stage, passed, result.into(), log.tests, format!("{:.1}", time.as_secs_f64())))
}

fn row(stage: &Stage, passed: bool, result: String, tests: Option<u64>, seconds: String) -> Row {
    let tests = tests.map_or_else(|| "-".into(), |n| n.to_string());
    let cells = [stage.name.clone(), stage.kernel.clone(), stage.cpu.clone(), result, tests, seconds];
    Row { passed, cells }
}

/// Prints the table and, last, the count.
fn summarize(stages: &[Stage], rows: &[Row]) -> Result<ExitCode> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["stage", "kernel", "CPU", "result", "tests passed", "seconds"]);
    table.add_rows(rows.iter().map(|row| &row.cells));
    for column in [4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out = program::stdout();
    writeln!(out, "\n{table}\n")?;
    if let Some(note) = stages::lacking(stages) {
        writeln!(out, "{note}\n")?;
    }
    let passed = rows.iter().filter(|row| row.passed).count();
    writeln!(out, "{passed} passed, {} failed", rows.len() - passed)?;
    Ok(if passed == rows.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_stage_brings_what_it_needs() {
        let stage = |id: &str| Stage::new(id, id, |_, _| Ok(()));
        let all = || vec![stage("a"), stage("b").needs("a"), stage("c"), stage("d").needs("b")];
        let ids = |only| -> Vec<String> {
            chosen(all(), only).unwrap().into_iter().map(|stage| stage.id).collect()
        };
        assert_eq!(ids(None), ["a", "b", "c", "d"]);
        assert_eq!(ids(Some("d")), ["a", "b", "d"]);
        assert_eq!(ids(Some("c")), ["c"]);
        assert!(chosen(all(), Some("e")).is_err());
    }

    #[test]
    fn stages_have_distinct_names_and_need_earlier_ones() {
        let all = stages::all(false);
        for (i, stage) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other.id != stage.id), "{}", stage.id);
            if let Some(need) = stage.needs {
                assert!(all[..i].iter().any(|other| other.id == need), "{}", stage.id);
            }
        }
    }
}

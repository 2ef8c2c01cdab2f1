//! Running commands: the workspace they run in, the log of a stage, the line that shows how it goes.

use std::{
    env, fmt,
    fs::{self, File, OpenOptions},
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// The checkout that commands run in.
pub struct Workspace {
    pub root: PathBuf,
    /// Where the native builds go. Other toolchains get directories of their own below it.
    pub target: PathBuf,
}

impl Workspace {
    /// The checkout this program belongs to: `cargo run` says where its manifest is.
    pub fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").context("run it as `cargo xtask`")?;
        let root = Path::new(&manifest).parent().context("xtask has no parent directory")?.to_path_buf();
        let target = root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
        Ok(Self { root, target })
    }

    /// The cargo that runs this program.
    pub fn cargo(&self) -> Command {
        self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// A command in the root of the checkout, without what `cargo run` put into the environment about *this* package
    /// and without a pin of the caller's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env_remove("I8GEMM_KERNEL");
        remove_env(&mut command, &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]);
        // Nothing here is compiled a second time after a change, which is what incremental compilation is slower for.
        command.env("CARGO_INCREMENTAL", "0");
        // Output is read back from a log: no colours, and libtest's full lines.
        command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_QUIET", "false");
        command
    }
}

/// Removes the variables that start with one of the prefixes.
pub fn remove_env(command: &mut Command, prefixes: &[&str]) {
    for (key, _) in env::vars_os() {
        if prefixes.iter().any(|prefix| key.to_string_lossy().starts_with(prefix)) {
            command.env_remove(key);
        }
    }
}

/// What a command did.
pub struct Output {
    pub success: bool,
    /// Both of its outputs, in the order they were written.
    pub text: String,
}

/// The log file of one stage, and the tests counted in it.
pub struct Log {
    path: PathBuf,
    /// Tests passed, once a command that runs tests has said so.
    pub tests: Option<u64>,
}

impl Log {
    /// An empty log `target/xtask/<id>.log`.
    pub fn create(workspace: &Workspace, id: &str) -> Result<Self> {
        let dir = workspace.target.join("xtask");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let path = dir.join(format!("{id}.log"));
        File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, tests: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a command, both outputs appended to the log. A failure of the command is no error here.
    pub fn run(&self, command: &mut Command) -> Result<Output> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        writeln!(file, "$ {}", Shown(command))?;
        let start = usize::try_from(file.metadata()?.len())?;
        let status = command
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let text = String::from_utf8_lossy(&fs::read(&self.path)?[start..]).into_owned();
        Ok(Output { success: status.success(), text })
    }

    /// Runs a command that must succeed.
    pub fn check(&self, command: &mut Command) -> Result<String> {
        let output = self.run(command)?;
        ensure!(output.success, "failed, see {}: {}", self.path.display(), Shown(command));
        Ok(output.text)
    }

    /// Runs libtest binaries, which must run at least one test and pass them all; counts the tests.
    pub fn check_tests(&mut self, command: &mut Command) -> Result<String> {
        let output = self.run(command)?;
        self.tests = tests_passed(&output.text);
        ensure!(output.success, "failed, see {}: {}", self.path.display(), Shown(command));
        ensure!(self.tests.is_some_and(|n| n > 0), "no test ran: {}", Shown(command));
        Ok(output.text)
    }

    /// The last lines of the log.
    pub fn tail(&self, lines: usize) -> String {
        let text = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let skip = text.lines().count().saturating_sub(lines);
        text.lines().skip(skip).map(|line| format!("    {line}\n")).collect()
    }
}

/// The sum over libtest's summaries, `test result: ok. 3 passed; 0 failed; ..`; none if there is no summary.
fn tests_passed(output: &str) -> Option<u64> {
    output
        .lines()
        .filter_map(|line| {
            let (_, counts) = line.trim_start().strip_prefix("test result: ")?.split_once(". ")?;
            counts.split_once(" passed")?.0.parse().ok()
        })
        .reduce(|a: u64, b| a + b)
}

/// A command as one would type it.
struct Shown<'a>(&'a Command);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |word: &std::ffi::OsStr| {
            let word = word.to_string_lossy();
            if word.contains([' ', '*', '$']) { format!("'{word}'") } else { word.into_owned() }
        };
        for (key, value) in self.0.get_envs() {
            // What was removed, and the two settings that every command gets, say nothing about this one.
            let Some(value) = value.filter(|_| !key.to_string_lossy().starts_with("CARGO_TERM_")) else {
                continue;
            };
            write!(f, "{}={} ", key.display(), quoted(value))?;
        }
        let program = self.0.get_program();
        let own_cargo = env::var_os("CARGO").is_some_and(|cargo| cargo == program);
        write!(f, "{}", if own_cargo { "cargo".into() } else { quoted(program) })?;
        self.0.get_args().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

/// The model of this CPU, or at least its architecture.
pub fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| env::consts::ARCH.into(), |(_, name)| name.trim().into())
}

/// The line of a running stage: a live one on a terminal, plain lines elsewhere.
pub struct Progress {
    line: String,
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Progress {
    pub fn start(line: String) -> Result<Self> {
        let live = std::io::stderr().is_terminal() && env::var_os("CI").is_none_or(|ci| ci.is_empty());
        let bar = live.then(|| spinner(&line));
        if !live {
            writeln!(program::stderr(), "{line} ...")?;
        }
        Ok(Self { line, bar, start: Instant::now() })
    }

    /// Ends the line with the result; says how long it took.
    pub fn finish(self, result: &str) -> Result<Duration> {
        let time = self.start.elapsed();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        writeln!(program::stderr(), "{}: {result} ({:.1} s)", self.line, time.as_secs_f64())?;
        Ok(time)
    }
}

fn spinner(line: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(line.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{msg} {spinner} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_added_up() {
        let output = "test a ... ok\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\
                      test result: FAILED. 12 passed; 1 failed; 0 ignored\n";
        assert_eq!(tests_passed(output), Some(15));
        assert_eq!(tests_passed("Finished\n"), None);
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("cargo");
        command.env("A", "b c").env_remove("D").args(["test", "--lib"]);
        assert_eq!(Shown(&command).to_string(), "A='b c' cargo test --lib");
    }
}

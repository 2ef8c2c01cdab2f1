//! The Python that has the peers reached from there: an environment of their own in `target/bench/python`, made once.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::run::{Log, Workspace};

/// Small enough to be fetched unasked: some 150 MB.
const PACKAGES: [&str; 4] = ["numpy", "onednn-cpu-gomp", "onnx", "onnxruntime"];

/// FBGEMM and PyTorch's language model. On Linux its package brings gigabytes for GPUs.
const PYTORCH: &str = "torch";

/// The interpreter, with its packages installed.
pub fn environment(workspace: &Workspace, log: &Log, pytorch: bool) -> Result<PathBuf> {
    let dir = workspace.target.join("bench").join("python");
    let python = interpreter(&dir, cfg!(windows));
    let mut wanted = PACKAGES.to_vec();
    wanted.extend(pytorch.then_some(PYTORCH));
    // Names those that have been installed.
    let list = dir.join("i8gemm-peers.txt");
    let installed = fs::read_to_string(&list).unwrap_or_default();
    let missing = missing(&wanted, &installed);
    if missing.is_empty() {
        return Ok(python);
    }
    if !python.exists() {
        let base = if cfg!(windows) { "python" } else { "python3" };
        log.check(workspace.command(base).args(["-m", "venv"]).arg(&dir))?;
    }
    let mut pip = workspace.command(&python);
    log.check(
        without_path(&mut pip)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(&missing),
    )?;
    let all: Vec<&str> = installed.lines().chain(missing).collect();
    fs::write(&list, all.join("\n")).with_context(|| format!("cannot write {}", list.display()))?;
    Ok(python)
}

/// Modules of elsewhere would stand in front of the environment's.
fn without_path(command: &mut Command) -> &mut Command {
    for name in ["PYTHONPATH", "PYTHONHOME"] {
        if env::var_os(name).is_some() {
            command.env_remove(name);
        }
    }
    command
}

/// Of an environment.
fn interpreter(dir: &Path, windows: bool) -> PathBuf {
    if windows { dir.join("Scripts").join("python.exe") } else { dir.join("bin").join("python3") }
}

/// Packages that are not in the list of those installed.
fn missing<'a>(wanted: &[&'a str], installed: &str) -> Vec<&'a str> {
    wanted.iter().copied().filter(|package| !installed.lines().any(|line| line == *package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_not_installed_again() {
        assert_eq!(missing(&["numpy", "torch"], ""), ["numpy", "torch"]);
        assert_eq!(missing(&["numpy", "torch"], "numpy\nonnx"), ["torch"]);
        assert_eq!(missing(&["onnx"], "onnxruntime"), ["onnx"]);
        assert!(missing(&["numpy", "torch"], "torch\nnumpy").is_empty());
    }
}

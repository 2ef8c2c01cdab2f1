//! Builds that users really make, with code generated and not only checked: for a CPU by name, for size, without optimization,
//! in one unit. What this CPU can run proves itself exact.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, Result, ensure};

use super::Stage;
use crate::{
    debian,
    run::{Log, Workspace, cpu_name},
};

/// Builds for a target get the flags alone: build scripts and procedural macros are made once for all of them.
const X86_64: &str = "x86_64-unknown-linux-gnu";
/// The exact tests run on those that this CPU can stand in for.
const X86_64_CPUS: [&str; 3] = ["native", "x86-64-v3", "x86-64-v4"];
/// Less than any CPU with a kernel for it: the library alone.
const X86_64_BELOW: &str = "x86-64-v2";
const AARCH64_CPUS: [&str; 4] = ["neoverse-n1", "neoverse-v2", "cortex-a53", "apple-m1"];
const ARMV7_CPUS: [&str; 2] = ["cortex-a7", "cortex-a15"];

/// Names of settings of the profile, and the settings: for the exact tests, and for the library alone where another is close or,
/// with `panic=abort`, their harness has to unwind.
const TESTED: [(&str, &[&str]); 3] = [
    ("opt-level-0", &["opt-level=0"]),
    ("opt-level-s", &["opt-level='s'"]),
    ("fat-lto", &["lto='fat'", "codegen-units=1"]),
];
const BUILT: [(&str, &[&str]); 2] = [("opt-level-1", &["opt-level=1"]), ("panic-abort", &["panic='abort'"])];

const LIBRARY: [&str; 4] = ["--release", "-p", "i8gemm", "--lib"];
/// The exact tests, without the assertions that would make code other than what users run, and more of it.
const EXACT: [&str; 4] = ["--profile", "emulated", "-p", "exact"];

/// On this machine.
pub fn native() -> Vec<Stage> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Vec::new();
    }
    let below = library(X86_64_BELOW, X86_64_BELOW, &[]);
    let core = library("native-core", "native", &["--no-default-features"]);
    let cpus = X86_64_CPUS.into_iter().map(for_cpu).chain([below, core]);
    let tested = TESTED.into_iter().map(|(name, settings)| {
        stage(name, name, move |w, log| {
            exact(log, cargo(w, "test", "").args(of_profile("emulated", settings)))
        })
        .on("all", cpu_name())
    });
    let built = BUILT.into_iter().map(|(name, settings)| {
        stage(name, name, move |w, log| {
            log.check(cargo(w, "build", "").args(LIBRARY).args(of_profile("release", settings))).map(drop)
        })
    });
    cpus.chain(tested).chain(built).collect()
}

/// The library for other CPUs, by Debian's toolchain.
pub fn cross() -> impl Iterator<Item = Stage> {
    let aarch64 = AARCH64_CPUS.into_iter().map(|cpu| {
        stage(cpu, format!("aarch64, target-cpu={cpu}"), move |w, log| {
            let mut command = debian::cargo(w, "build", debian::AARCH64);
            log.check(debian::tune(&mut command, cpu).args(LIBRARY)).map(drop)
        })
    });
    let armv7 = ARMV7_CPUS.into_iter().map(|cpu| {
        stage(cpu, format!("ARMv7, target-cpu={cpu}"), move |w, log| {
            // Without `std`, which would take most of the time.
            let mut command = debian::cargo_build_std(w, "build", debian::ARMV7, "core,alloc");
            let features = ["--no-default-features", "--features", "alloc"];
            log.check(debian::tune(&mut command, cpu).args(LIBRARY).args(features)).map(drop)
        })
    });
    aarch64.chain(armv7).map(|stage| stage.needs("debian"))
}

fn stage(
    id: &str,
    name: impl Into<String>,
    action: impl Fn(&Workspace, &mut Log) -> Result<()> + 'static,
) -> Stage {
    Stage::new(format!("flags-{id}"), format!("build, {}", name.into()), action)
}

/// The library for a CPU.
fn library(id: &str, cpu: &'static str, features: &'static [&'static str]) -> Stage {
    let name = [&[&*format!("target-cpu={cpu}")], features].concat().join(" ");
    stage(id, name, move |w, log| {
        let mut command = cargo(w, "build", &format!("-C target-cpu={cpu}"));
        log.check(command.args(LIBRARY).args(features)).map(drop)
    })
}

/// The exact tests for a CPU, or the library where they could not run.
fn for_cpu(cpu: &'static str) -> Stage {
    stage(cpu, format!("target-cpu={cpu}"), move |w, log| {
        let flags = format!("-C target-cpu={cpu}");
        if features(w, cpu)?.is_subset(&features(w, "native")?) {
            return exact(log, &mut cargo(w, "test", &flags));
        }
        log.check(cargo(w, "build", &flags).args(LIBRARY)).map(drop)
    })
    .on("all", cpu_name())
}

/// Runs the exact tests, with every kernel that this CPU has. Fewer random cases than elsewhere; the fixed ones all run.
fn exact(log: &mut Log, command: &mut Command) -> Result<()> {
    log.check_tests(command.args(EXACT).env("QUICKCHECK_TESTS", "20")).map(drop)
}

/// This machine's cargo, in a directory of these stages' own: flags of the compiler are part of what names its products.
fn cargo(workspace: &Workspace, subcommand: &str, flags: &str) -> Command {
    let mut command = workspace.cargo();
    command.args([subcommand, "--target", X86_64, "--target-dir"]).arg(workspace.target.join("flags"));
    command.env("RUSTFLAGS", flags);
    command
}

/// Arguments of cargo that change a profile.
fn of_profile<'a>(profile: &'a str, settings: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    settings.iter().flat_map(move |setting| ["--config".into(), format!("profile.{profile}.{setting}")])
}

/// What the compiler takes a CPU to have.
fn features(workspace: &Workspace, cpu: &str) -> Result<BTreeSet<String>> {
    let mut command = workspace.command("rustc");
    let output = command
        .args(["--print", "cfg", "--target", X86_64, "-C", &format!("target-cpu={cpu}")])
        .output()
        .context("cannot start rustc")?;
    ensure!(output.status.success(), "rustc knows no CPU {cpu}");
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_prefix("target_feature=")).map(str::to_owned).collect())
}

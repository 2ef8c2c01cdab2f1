//! The stages of `cargo xtask test`, in the order they run.

mod flags;
mod sizes;
mod targets;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use i8gemm::{Kernel, KernelInfo};

use super::Stage;
use crate::{
    debian, loops, mca,
    run::{Log, Workspace, cpu_name},
};

/// The environment variable that pins a kernel, and the test that fails unless the pinned kernel runs.
const PIN: &str = "I8GEMM_KERNEL";
const PIN_TEST: &str = "pinned_kernel_is_available";

const PACKAGE: &[&str] = &["-p", "i8gemm", "--all-features"];
/// The crate as it is tested on an emulated CPU.
const EMULATED: &[&str] = &["--profile", "emulated", "-p", "i8gemm", "--all-features"];
const TARGETS: &[&str] = &["--lib", "--tests"];
/// What the tests of the crate and those of its examples are built with. The latter, once on this machine.
const WITH_EXAMPLES: &[&str] =
    &["-p", "i8gemm", "-p", "i8gemm-examples", "--all-features", "--lib", "--tests", "--examples"];
const WITHOUT_EXAMPLES: &[&str] = WITH_EXAMPLES.split_last().unwrap().1;
/// Those tests that differ between kernels. The others ran on this machine, and run once for each emulated architecture.
const KERNEL_TARGETS: &[&str] = &[
    "--lib", "--test", "exact", "--test", "formats", "--test", "bounds", "--test", "defects", "--test",
    "dispatch", "--test", "conv", "--test", "layers", "--test", "nn", "--test", "batch", "--test", "stored",
];

/// Features of the two builds without `std`.
const NO_STD: [(&str, &[&str]); 2] =
    [("alloc", &["--no-default-features", "--features", "alloc"]), ("core", &["--no-default-features"])];

/// The emulated CPUs, the plainest first, and the features that each has of those that kernels ask for. Written down rather than asked
/// for, so that a feature which detection misses is a failed pin.
const AARCH64_CPUS: [(&str, &[&str]); 3] =
    [("cortex-a53", &["neon"]), ("cortex-a76", &["neon", "dotprod"]), ("max", &["neon", "dotprod", "i8mm"])];

/// Where every test runs; the others get those that differ between kernels.
const AARCH64_WHOLE: (&str, &str) = ("max", "neon_i8mm");

/// What each emulated CPU gets without a pin: schedules for in-order cores where all cores are.
const AARCH64_CHOICES: [(&str, &str); 3] =
    [("cortex-a53", "neon_a53"), ("cortex-a76", "neon_dotprod"), ("max", "neon_i8mm")];

/// Fails unless the kernel chosen without a pin is the one that the environment names.
const CHOICE_TEST: &str = "the_kernel_chosen_is_the_expected_one";

/// Emulated 32-bit CPUs with and without NEON.
const ARMV7_CPU: &str = "cortex-a15";
const ARMV7_CPU_WITHOUT_NEON: &str = "cortex-a15,neon=off";

/// Every stage; without those that need Debian's toolchain if `quick`.
pub fn all(quick: bool) -> Vec<Stage> {
    let mut stages = lints();
    stages.extend(native());
    stages.push(wrong_pin());
    stages.extend(docs());
    stages.extend(no_std());
    stages.extend(spills_native());
    stages.extend(sizes::native());
    if !quick {
        stages.push(package());
        stages.push(Stage::new("debian", "Debian's toolchain and QEMU", |w, log| {
            debian::install(w, log, mca::PACKAGES)
        }));
        stages.extend(unsaved_x86());
        stages.extend(emulated_x86());
        stages.extend(flags::native());
        stages.extend(flags::cross());
        stages.extend(targets::stages());
        stages.extend(sizes::firmware());
        stages.extend(aarch64());
        stages.extend(armv7());
    }
    stages
}

/// The kernels of this architecture that neither this CPU nor an emulated one tries, in words.
pub fn lacking(stages: &[Stage]) -> Option<String> {
    let names: Vec<_> = Kernel::all()
        .filter(|kernel| !kernel.is_available())
        .map(|kernel| kernel.name())
        .filter(|name| stages.iter().all(|stage| stage.kernel != *name))
        .collect();
    (!names.is_empty()).then(|| format!("Not run, for this CPU lacks them: {}", names.join(", ")))
}

/// A stage that is one command of this machine's cargo.
fn cargo(id: &str, name: &str, args: &[&'static str]) -> Stage {
    let args = args.to_vec();
    Stage::new(id, name, move |w, log| log.check(w.cargo().args(&args)).map(drop))
}

fn lints() -> Vec<Stage> {
    let all = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    let core = ["clippy", "-p", "i8gemm", "--lib", "--no-default-features", "--", "-D", "warnings"];
    vec![
        cargo("format", "formatting", &["fmt", "--all", "--check"]),
        cargo("clippy", "clippy", &all),
        cargo("clippy-core", "clippy, no default features", &core),
    ]
}

/// The tests on this machine: with each kernel that it has, and with the one that the crate chooses.
fn native() -> Vec<Stage> {
    let build = |w: &Workspace, log: &mut Log| {
        log.check(w.cargo().arg("test").args(WITH_EXAMPLES).arg("--no-run")).map(drop)
    };
    let cpu = cpu_name();
    let mut stages = vec![
        Stage::new("xtask", "tests of xtask", |w, log| {
            // In the profile this program was built in, so that its dependencies are there already.
            log.check_tests(w.cargo().args(["test", "-p", "xtask", "-p", "program", "--profile", "dev"]))
                .map(drop)
        }),
        Stage::new("build", "build the tests", build),
    ];
    let kernels = Kernel::all().filter(|kernel| kernel.is_available()).map(|kernel| Some(kernel.name()));
    stages.extend(kernels.chain([None]).map(|kernel| {
        let name = kernel.unwrap_or("unpinned");
        Stage::new(format!("native-{name}"), "native tests", move |w, log| {
            // Examples too with the kernel that they get. Of the same packages, or all would be built with other features again.
            let targets = if kernel.is_none() { WITH_EXAMPLES } else { WITHOUT_EXAMPLES };
            run_pinned(log, w.cargo().arg("test").args(targets), kernel)
        })
        .on(name, &cpu)
        .needs("build")
    }));
    stages
}

/// Runs `cargo test ..` with a kernel pinned. The tests must have seen the pin: passing without it shows nothing.
fn run_pinned(log: &mut Log, command: &mut Command, kernel: Option<&str>) -> Result<()> {
    if let Some(kernel) = kernel {
        command.env(PIN, kernel);
    }
    let output = log.check_tests(command.arg("--no-fail-fast"))?;
    ensure!(output.contains(&format!("test {PIN_TEST} ... ok")), "the test {PIN_TEST} did not run");
    Ok(())
}

/// A kernel of another architecture, pinned: an error that names the variable, never another kernel.
fn wrong_pin() -> Stage {
    let elsewhere = |info: &&KernelInfo| info.arch.is_some_and(|arch| arch != std::env::consts::ARCH);
    let kernel = Kernel::catalog().iter().find(elsewhere).map_or("", |info| info.name);
    let action = move |w: &Workspace, log: &mut Log| {
        let mut command = w.cargo();
        command.env(PIN, kernel).arg("test").args(WITHOUT_EXAMPLES);
        expect_refused(log, &mut command, kernel)
    };
    Stage::new("wrong-pin", "a pin that must fail", action).on(kernel, cpu_name()).needs("build")
}

/// Runs `cargo test ..` with a kernel pinned that cannot run there.
fn expect_refused(log: &mut Log, command: &mut Command, kernel: &str) -> Result<()> {
    let output = log.run(command.args(["--no-fail-fast", PIN_TEST]))?;
    ensure!(!output.success, "a pin to {kernel} was accepted");
    ensure!(output.text.contains(&format!("test {PIN_TEST} ... FAILED")), "{PIN_TEST} did not run");
    ensure!(output.text.contains(PIN), "the error does not name {PIN}");
    Ok(())
}

fn docs() -> Vec<Stage> {
    vec![
        Stage::new("doctests", "doc tests", |w, log| {
            log.check_tests(w.cargo().arg("test").args(PACKAGE).arg("--doc")).map(drop)
        }),
        Stage::new("rustdoc", "rustdoc", |w, log| {
            let mut command = w.cargo();
            command.env("RUSTDOCFLAGS", "-D warnings").arg("doc").args(PACKAGE).arg("--no-deps");
            log.check(&mut command).map(drop)
        }),
    ]
}

/// What would be published, without publishing it: built from what the package holds. This asks the registry.
fn package() -> Stage {
    // In the root, as whoever publishes does; a change is tested before it is committed.
    cargo("package", "the package to publish", &["publish", "--dry-run", "--allow-dirty"])
}

/// Without `std` on this machine: checked, for the stages of microcontrollers generate the code.
fn no_std() -> impl Iterator<Item = Stage> {
    NO_STD.into_iter().map(|(name, features)| {
        Stage::new(format!("no-std-{name}"), format!("no_std check, {name}"), move |w, log| {
            log.check(w.cargo().args(["check", "-p", "i8gemm", "--lib"]).args(features)).map(drop)
        })
    })
}

/// The library in release mode, as users build it: the loops that multiply keep their sums in registers.
fn spills_native() -> Option<Stage> {
    let action = |w: &Workspace, log: &mut Log| {
        log.check(w.cargo().args(["build", "-p", "i8gemm", "--release", "--lib"]))?;
        loops::no_spills(log, &w.target.join("release/libi8gemm.rlib"), &loops::X86_64)
    };
    cfg!(target_arch = "x86_64").then(|| Stage::new("spills", "no spills in the loops", action))
}

/// As [`spills_native`], for aarch64.
fn spills_aarch64() -> Stage {
    let action = |w: &Workspace, log: &mut Log| {
        let archive = debian::aarch64_library(w, log)?;
        loops::no_spills(log, &archive, &loops::AARCH64)
    };
    Stage::new("aarch64-spills", "no spills in the loops, aarch64", action).needs("debian")
}

/// The loops on cores that are not at hand: none slower than recorded.
fn predicted_aarch64() -> Stage {
    let action = |w: &Workspace, log: &mut Log| {
        let archive = debian::aarch64_library(w, log)?;
        mca::check(w, log, &archive, &loops::AARCH64)
    };
    Stage::new("aarch64-mca", "predicted speed of the loops, aarch64", action).needs("debian")
}

/// The tests for aarch64, built once and run on each emulated CPU with each kernel that it has.
fn aarch64() -> Vec<Stage> {
    let lint = |w: &Workspace, log: &mut Log| {
        let mut command = debian::clippy(w, debian::AARCH64);
        // What a target has of its own is in the library.
        log.check(command.args(PACKAGE).args(["--lib", "--", "-D", "warnings"])).map(drop)
    };
    let mut stages = vec![
        Stage::new("aarch64-clippy", "clippy, aarch64", lint).needs("debian"),
        Stage::new("aarch64-build", "build the tests, aarch64", |w, log| {
            log.check(aarch64_tests(w, TARGETS).arg("--no-run")).map(drop)
        })
        .needs("debian"),
        spills_aarch64(),
        predicted_aarch64(),
    ];
    for (cpu, kernel) in aarch64_pairs() {
        stages.push(aarch64_run(cpu, kernel, (cpu, kernel) == AARCH64_WHOLE));
    }
    stages.push(aarch64_choices());
    stages
}

/// The emulated CPUs and kernels that are tried together: a kernel on the plainest CPU that has its features. What one CPU has shown
/// another need not repeat.
fn aarch64_pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    let here = |info: &KernelInfo| info.arch.is_none_or(|arch| arch == "aarch64");
    AARCH64_CPUS.iter().enumerate().flat_map(move |(at, (cpu, _))| {
        let tried = move |info: &&KernelInfo| {
            let has = |(_, features): &(_, &[&str])| info.features.iter().all(|f| features.contains(f));
            let plainest = AARCH64_CPUS.iter().position(has);
            here(info) && plainest == Some(at)
        };
        Kernel::catalog().iter().filter(tried).map(|info| (*cpu, info.name))
    })
}

fn aarch64_choices() -> Stage {
    Stage::new("aarch64-choices", "the kernel that each core gets, aarch64", |w, log| {
        for (cpu, kernel) in AARCH64_CHOICES {
            let mut command = aarch64_tests(w, KERNEL_TARGETS);
            debian::emulate(&mut command, cpu).env("I8GEMM_EXPECT_KERNEL", kernel).env_remove(PIN);
            let output = log.check_tests(command.arg(CHOICE_TEST))?;
            ensure!(
                output.contains(&format!("test {CHOICE_TEST} ... ok")),
                "{CHOICE_TEST} did not run on {cpu}"
            );
        }
        Ok(())
    })
    .needs("aarch64-build")
}

fn aarch64_tests(workspace: &Workspace, targets: &[&str]) -> Command {
    let mut command = debian::cargo(workspace, "test", debian::AARCH64);
    command.args(EMULATED).args(targets);
    command
}

fn aarch64_run(cpu: &'static str, kernel: &'static str, whole: bool) -> Stage {
    Stage::new(format!("aarch64-{cpu}-{kernel}"), "aarch64 tests under QEMU", move |w, log| {
        let mut command = aarch64_tests(w, if whole { TARGETS } else { KERNEL_TARGETS });
        // An emulated CPU is some ten times slower: fewer random cases. The fixed ones all run.
        debian::emulate(&mut command, cpu).env("QUICKCHECK_TESTS", "20");
        run_pinned(log, &mut command, Some(kernel))
    })
    .on(kernel, cpu)
    .needs("aarch64-build")
}

/// The tests for ARMv7, built once, with a standard library from source, and run with and without NEON.
fn armv7() -> Vec<Stage> {
    // An emulated CPU is slow: fewer random cases. The fixed ones all run.
    let tests = |w: &Workspace, cpu: &str| {
        let mut command = debian::cargo_build_std(w, "test", debian::ARMV7, "std,panic_abort");
        command.args(EMULATED).args(KERNEL_TARGETS);
        debian::emulate(&mut command, cpu).env("QUICKCHECK_TESTS", "20");
        command
    };
    let build = move |w: &Workspace, log: &mut Log| log.check(tests(w, ARMV7_CPU).arg("--no-run")).map(drop);
    let with_neon =
        move |w: &Workspace, log: &mut Log| run_pinned(log, &mut tests(w, ARMV7_CPU), Some("armv7_neon"));
    // In a test that is built anyway: the loops are assembly, the same in every profile.
    let predicted = move |w: &Workspace, log: &mut Log| {
        let output = log.check(tests(w, ARMV7_CPU).arg("--no-run"))?;
        let program = executable(&output, "tests/exact.rs").context("cargo named no program of the tests")?;
        mca::check(w, log, &w.root.join(program), &loops::ARMV7)
    };
    // The build holds the kernel; detection finds that the CPU cannot run it.
    let without_neon = move |w: &Workspace, log: &mut Log| {
        // The portable kernel is tried on other CPUs: here the choice is what matters.
        run_pinned(log, tests(w, ARMV7_CPU_WITHOUT_NEON).env("QUICKCHECK_TESTS", "2"), None)?;
        let mut command = tests(w, ARMV7_CPU_WITHOUT_NEON);
        expect_refused(log, command.env(PIN, "armv7_neon"), "armv7_neon")
    };
    vec![
        Stage::new("armv7-build", "build the tests, ARMv7", build).needs("debian"),
        Stage::new("armv7-mca", "predicted speed of the loops, ARMv7", predicted).needs("armv7-build"),
        Stage::new("armv7-neon", "ARMv7 tests under QEMU", with_neon)
            .on("armv7_neon", ARMV7_CPU)
            .needs("armv7-build"),
        Stage::new("armv7-without-neon", "ARMv7 tests under QEMU", without_neon)
            .on("portable", ARMV7_CPU_WITHOUT_NEON)
            .needs("armv7-build"),
    ]
}

/// The program that `cargo test --no-run` says it built of a source file: `Executable tests/exact.rs (PROGRAM)`.
fn executable<'a>(output: &'a str, source: &str) -> Option<&'a str> {
    let line = output
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("Executable ")?.strip_prefix(source))?;
    line.trim().strip_prefix('(')?.strip_suffix(')')
}

/// Kernels that this x86 CPU lacks, with their instruction executed in software: `avx_vnni` on a CPU that has AVX2.
///
/// The tests are built for a CPU that has the feature, so that detection says yes, and run with a library that catches the
/// illegal instruction. `avx512_vnni` is not among them: there all of AVX-512 would have to be caught; [`lacking`] names it.
fn emulated_x86() -> Option<Stage> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let has = |name| Kernel::all().any(|kernel| kernel.name() == name && kernel.is_available());
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) || has("avx_vnni") || !has("avx2") {
        return None;
    }
    let action = |w: &Workspace, log: &mut Log| {
        log.check(w.cargo().args(["build", "-p", "emulate-vnni", "--release"]))?;
        let library = w.target.join("release/libemulate_vnni.so");
        let mut command = w.cargo();
        // Flags for a target leave build scripts and procedural macros as the native builds have made them.
        command.arg("test").args(EMULATED).args(KERNEL_TARGETS).args(["--target", TARGET]);
        command.env("RUSTFLAGS", "-C target-feature=+avxvnni");
        command.env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
            format!("env LD_PRELOAD={}", library.display()),
        );
        // A trap for each instruction is slow: fewer random cases. The fixed ones all run.
        command.env("QUICKCHECK_TESTS", "5");
        run_pinned(log, &mut command, Some("avx_vnni"))
    };
    Some(Stage::new("emulated-avx_vnni", "tests, vpdpbusd in software", action).on("avx_vnni", cpu_name()))
}

/// Without `std` the crate itself asks whether the operating system saves the registers of AVX2 and AVX-512. The kernel that it then
/// finds must be the one that the standard library's detection finds here, and on an emulated CPU whose CPUID names AVX2 while nobody
/// saves its registers, the best that does without them, which runs.
fn unsaved_x86() -> Option<Stage> {
    const RUNNER: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";
    let unsaved = |kernel: &&KernelInfo| {
        kernel.arch.is_none_or(|arch| arch == "x86_64")
            && !kernel.features.iter().any(|feature| feature.starts_with("avx"))
    };
    // Every target has the last of them.
    let plain = Kernel::catalog().iter().find(unsaved).map_or("portable", |kernel| kernel.name);
    let build = |w: &Workspace| {
        let mut command = w.cargo();
        command.args(["test", "-p", "i8gemm", "--no-default-features", "--features", "alloc"]);
        command.args(["--test", "dispatch", "--test", "exact"]);
        command
    };
    let chosen = move |w: &Workspace, log: &mut Log, kernel: &str, cpu: Option<&str>| {
        let mut command = build(w);
        if let Some(cpu) = cpu {
            command.env(RUNNER, format!("qemu-x86_64-static -cpu {cpu}"));
        }
        command.env("I8GEMM_EXPECT_KERNEL", kernel);
        let output = log.check_tests(command.arg(CHOICE_TEST))?;
        ensure!(output.contains(&format!("test {CHOICE_TEST} ... ok")), "{CHOICE_TEST} did not run");
        Ok(())
    };
    let action = move |w: &Workspace, log: &mut Log| {
        chosen(w, log, Kernel::best()?.name(), None)?;
        chosen(w, log, "avx2", Some("max"))?;
        chosen(w, log, plain, Some(UNSAVED))?;
        // It runs: an instruction that nobody saves for would end the program here.
        let mut command = build(w);
        command.env(RUNNER, format!("qemu-x86_64-static -cpu {UNSAVED}")).env("QUICKCHECK_TESTS", "2");
        log.check_tests(command.args(["--", "--skip", "environment"])).map(drop)
    };
    cfg!(all(target_arch = "x86_64", target_os = "linux")).then(|| {
        Stage::new("unsaved", "registers that nobody saves, no std", action)
            .on(plain, UNSAVED)
            .needs("debian")
    })
}

/// A CPU whose CPUID names AVX2 under an operating system that has not heard of it.
const UNSAVED: &str = "max,-xsave";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_a_stage() {
        let stages = all(false);
        for info in Kernel::catalog() {
            // This machine's own are asked for; `lacking` names what no CPU here has.
            let native = info.arch == Some(std::env::consts::ARCH);
            let tried = stages.iter().any(|stage| stage.kernel == info.name);
            assert!(native || info.arch == Some("x86_64") || tried, "no stage tries {}", info.name);
        }
    }

    #[test]
    fn programs_are_told_by_their_source() {
        let output = "    Finished `test` profile\n  Executable unittests src/lib.rs (deps/i8gemm-1)\n  \
                      Executable tests/exact.rs (deps/exact-2)\n";
        assert_eq!(executable(output, "tests/exact.rs"), Some("deps/exact-2"));
        assert_eq!(executable(output, "tests/bounds.rs"), None);
    }
}

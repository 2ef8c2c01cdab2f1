//! Debian's own Rust toolchain, which has the cross targets that a stable rustup toolchain lacks: installing it, and
//! commands that use it and no other.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::run::{Log, Workspace, remove_env};

/// The compiler of Debian's security suite, its standard library as source, and the emulator of programs.
const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-clippy", "rust-web-src", "qemu-user-static"];
/// The emulator of boards, package and program. Where it is not installed it is unpacked below `target/`: a machine may have other parts
/// of QEMU, of a version beside which this one cannot be installed.
const BOARDS: &str = "qemu-system-arm";
/// Linker and C library of 32-bit ARM Linux. The linker is also that of firmware.
const ARMV7_PACKAGES: &[&str] = &["gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross"];
/// What an x86-64 machine needs besides, to build for aarch64 Linux.
const CROSS_PACKAGES: &[&str] =
    &["libstd-rust-web-dev:arm64", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

/// Index downloads fail now and then while a mirror is being updated.
const ATTEMPTS: u64 = 5;

/// Static: under QEMU 7.2 a dynamically linked program hangs as soon as it makes a thread.
/// Warnings are errors here too: no other toolchain of the run sees this target's code.
/// Symbols of version 0 say which instance of a generic function they are: the rows of a tile.
const LINUX_FLAGS: &str = "-D warnings -C target-feature=+crt-static -C symbol-mangling-version=v0";

/// Where `rust-web-src` puts the standard library.
const STD_SOURCE: &str = "/usr/lib/rustlib/src/rust/library";

pub const AARCH64: &str = "aarch64-unknown-linux-gnu";
/// A Cortex-M4 or M7 with floating point.
pub const CORTEX_M4: &str = "thumbv7em-none-eabihf";
/// Its standard library is no package: see [`cargo_build_std`].
pub const ARMV7: &str = "armv7-unknown-linux-gnueabihf";

/// Installs the packages that are missing, those of the toolchain and `more`, or says what to install.
pub fn install(workspace: &Workspace, log: &Log, more: &[&'static str]) -> Result<()> {
    install_packages(workspace, log, missing(more))?;
    if is_installed(BOARDS) || unpacked(workspace).exists() {
        return Ok(());
    }
    let dir = workspace.target.join("debian").join(BOARDS);
    // One that was not unpacked to its end is of no use.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    log.check(apt_get(workspace).args(["download", BOARDS]).current_dir(&dir))?;
    let package = fs::read_dir(&dir)?.next().context("apt-get downloaded nothing")??.path();
    let depends = log.check(workspace.command("dpkg-deb").arg("--field").arg(&package).arg("Depends"))?;
    install_packages(workspace, log, libraries(&depends).filter(|package| !is_installed(package)).collect())?;
    log.check(workspace.command("dpkg-deb").arg("--extract").arg(&package).arg(&dir))?;
    Ok(())
}

/// The libraries among what a package depends on.
fn libraries(depends: &str) -> impl Iterator<Item = &str> {
    let names = depends.split(',').filter_map(|package| package.split_whitespace().next());
    names.filter(|name| name.starts_with("lib"))
}

/// The emulator of boards, if it is not installed.
fn unpacked(workspace: &Workspace) -> PathBuf {
    workspace.target.join("debian").join(BOARDS).join("usr/bin").join(BOARDS)
}

fn install_packages(workspace: &Workspace, log: &Log, missing: Vec<&str>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    if !(is_root() && Path::new("/usr/bin/apt-get").exists()) {
        bail!("this needs Debian 12, and as root: {}", by_hand(&missing));
    }
    if missing.iter().any(|package| package.ends_with(":arm64")) {
        log.check(workspace.command("dpkg").args(["--add-architecture", "arm64"]))?;
    }
    for attempt in 1..=ATTEMPTS {
        // The install decides: an index that failed to download need not be one of those it takes.
        log.run(apt_get(workspace).arg("update"))?;
        if log.run(apt_get(workspace).args(INSTALL).args(&missing))?.success {
            return Ok(());
        }
        if attempt < ATTEMPTS {
            thread::sleep(Duration::from_secs(15 * attempt));
        }
    }
    bail!("apt-get failed {ATTEMPTS} times; by hand, on Debian 12: {}", by_hand(&missing))
}

/// `--no-remove`: a machine's own packages are not ours to exchange.
const INSTALL: &[&str] = &["install", "--yes", "--no-install-recommends", "--no-remove"];

fn apt_get(workspace: &Workspace) -> Command {
    let mut command = workspace.command("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "Acquire::Retries=3"]);
    command
}

fn by_hand(packages: &[&str]) -> String {
    let arm64 = if is_cross() { "dpkg --add-architecture arm64 && " } else { "" };
    format!("{arm64}apt-get update && apt-get install --no-install-recommends {}", packages.join(" "))
}

fn is_cross() -> bool {
    !cfg!(target_arch = "aarch64")
}

fn missing(more: &[&'static str]) -> Vec<&'static str> {
    let cross = if is_cross() { CROSS_PACKAGES } else { &["gcc", "libc6-dev"] };
    PACKAGES
        .iter()
        .chain(ARMV7_PACKAGES)
        .chain(cross)
        .chain(more)
        .copied()
        .filter(|package| !is_installed(package))
        .collect()
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Debian's cargo for a target, with a directory of its own below `target/`.
pub fn cargo(workspace: &Workspace, subcommand: &str, target: &str) -> Command {
    let mut command = toolchain(workspace, "/usr/bin/cargo");
    command.arg(subcommand);
    for_target(command, workspace, target)
}

/// The library for aarch64 in release mode, as users build it.
pub fn aarch64_library(workspace: &Workspace, log: &Log) -> Result<PathBuf> {
    log.check(cargo(workspace, "build", AARCH64).args(["-p", "i8gemm", "--release", "--lib"]))?;
    Ok(aarch64_release(workspace).join("libi8gemm.rlib"))
}

/// The library for ARMv7 in release mode. Its kernels need no `std`, which would take a minute to build.
pub fn armv7_library(workspace: &Workspace, log: &Log) -> Result<PathBuf> {
    let mut command = cargo_build_std(workspace, "build", ARMV7, "core");
    log.check(command.args(["-p", "i8gemm", "--release", "--lib", "--no-default-features"]))?;
    Ok(armv7_release(workspace).join("libi8gemm.rlib"))
}

/// A program of the workspace for aarch64 in release mode.
pub fn aarch64_program(workspace: &Workspace, log: &Log, name: &str) -> Result<PathBuf> {
    log.check(cargo(workspace, "build", AARCH64).args(["-p", name, "--release"]))?;
    Ok(aarch64_release(workspace).join(name))
}

/// A program of the workspace for ARMv7 in release mode.
pub fn armv7_program(workspace: &Workspace, log: &Log, name: &str) -> Result<PathBuf> {
    let mut command = cargo_build_std(workspace, "build", ARMV7, "std,panic_abort");
    log.check(command.args(["-p", name, "--release"]))?;
    Ok(armv7_release(workspace).join(name))
}

/// A firmware of the checkout, a workspace of its own, for a Cortex-M4 in release mode.
pub fn firmware(workspace: &Workspace, log: &Log, manifest: &str, name: &str) -> Result<PathBuf> {
    let mut command = cargo_build_std(workspace, "build", CORTEX_M4, "core");
    command.env("RUSTFLAGS", "-D warnings");
    log.check(command.args(["--release", "--manifest-path", manifest]))?;
    Ok(workspace.target.join("debian").join(CORTEX_M4).join("release").join(name))
}

/// Runs a firmware on a board with a Cortex-M4 until it ends by itself, successfully; what it printed.
pub fn run_firmware(workspace: &Workspace, log: &Log, program: &Path) -> Result<String> {
    // One that hangs shall not hold up everything else.
    let mut command = workspace.command("timeout");
    let unpacked = unpacked(workspace);
    command.arg("60").arg(if unpacked.exists() { unpacked } else { BOARDS.into() });
    command.args(["-cpu", "cortex-m4", "-machine", "mps2-an386", "-nographic"]);
    log.check(command.args(["-semihosting-config", "enable=on,target=native", "-kernel"]).arg(program))
}

fn armv7_release(workspace: &Workspace) -> PathBuf {
    workspace.target.join("debian").join(ARMV7).join("release")
}

fn aarch64_release(workspace: &Workspace) -> PathBuf {
    workspace.target.join("debian").join(AARCH64).join("release")
}

/// Debian's clippy for a target. Started by its path: `cargo clippy` would look into rustup's directory first.
pub fn clippy(workspace: &Workspace, target: &str) -> Command {
    let mut command = toolchain(workspace, "/usr/bin/cargo-clippy");
    command.arg("clippy");
    for_target(command, workspace, target)
}

/// Debian's cargo, building the standard library's `crates` from source: for targets whose library no package has.
pub fn cargo_build_std(workspace: &Workspace, subcommand: &str, target: &str, crates: &str) -> Command {
    let mut command = cargo(workspace, subcommand, target);
    // The flag is unstable. The crate itself is also built by the stable compiler, so it uses nothing unstable.
    command.env("RUSTC_BOOTSTRAP", "1").args(["-Z", &format!("build-std={crates}")]);
    command
}

/// Checks the standard library's `package` and what it is made of, from source: in less than half the time that building it takes,
/// and also for targets whose linker and system libraries are not at hand. What [`cargo_check`] finds there cannot be linked.
pub fn check_std(workspace: &Workspace, log: &Log, package: &str, targets: &[&str]) -> Result<()> {
    let dir = checked(workspace);
    let mut command = toolchain(workspace, "/usr/bin/cargo");
    command.args(["check", "--locked", "--package", package, "--manifest-path"]);
    command.arg(format!("{STD_SOURCE}/std/Cargo.toml")).arg("--target-dir").arg(&dir);
    command.args(targets.iter().flat_map(|target| ["--target", target]));
    // Its crates may use what is unstable, and those that use them may not.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Z force-unstable-if-unmarked");
    // Without it, `std` does not find the crate that unwinds.
    if package == "std" {
        command.args(["--features", "panic-unwind"]);
    }
    log.check(&mut command)?;
    for target in targets {
        let library = sysroot(workspace).join("lib/rustlib").join(target).join("lib");
        fs::create_dir_all(&library).with_context(|| format!("cannot create {}", library.display()))?;
        for file in fs::read_dir(dir.join(target).join("debug/deps"))? {
            let file = file?;
            if file.path().extension().is_some_and(|extension| extension == "rmeta") {
                fs::copy(file.path(), library.join(file.file_name()))?;
            }
        }
    }
    Ok(())
}

/// `cargo check` with a standard library of [`check_std`]; warnings are errors.
pub fn cargo_check(workspace: &Workspace, target: &str) -> Command {
    with_checked_std(workspace, cargo(workspace, "check", target))
}

/// [`clippy`] with a standard library of [`check_std`]; warnings are errors.
pub fn clippy_checked(workspace: &Workspace, target: &str) -> Command {
    with_checked_std(workspace, clippy(workspace, target))
}

fn with_checked_std(workspace: &Workspace, mut command: Command) -> Command {
    // Encoded, for the directory may have spaces in its name.
    let flags = format!("-Dwarnings\x1f--sysroot\x1f{}", sysroot(workspace).display());
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    command
}

/// Where [`check_std`] works, and where rustc is to look for what it leaves.
fn checked(workspace: &Workspace) -> PathBuf {
    workspace.target.join("debian-std")
}

fn sysroot(workspace: &Workspace) -> PathBuf {
    checked(workspace).join("sysroot")
}

/// Code for a CPU by name, from a command of this toolchain.
pub fn tune<'a>(command: &'a mut Command, cpu: &str) -> &'a mut Command {
    command.env("RUSTFLAGS", format!("{LINUX_FLAGS} -C target-cpu={cpu}"))
}

/// Runs the target's programs as the given CPU model.
pub fn emulate<'a>(command: &'a mut Command, cpu: &str) -> &'a mut Command {
    command
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", format!("qemu-aarch64-static -cpu {cpu}"))
        .env("CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_RUNNER", format!("qemu-arm-static -cpu {cpu}"))
        // For programs that a test starts, where the kernel runs foreign binaries by itself.
        .env("QEMU_CPU", cpu)
}

/// A program of Debian's toolchain: everything that would lead it to another compiler, or to the flags of one, goes.
fn toolchain(workspace: &Workspace, program: &str) -> Command {
    let mut command = workspace.command(program);
    remove_env(&mut command, &["RUST", "CARGO_BUILD_", "CARGO_ENCODED_", "CARGO_TARGET_"]);
    // What the tests read comes back.
    for name in ["RUST_BACKTRACE", "RUST_TEST_THREADS"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env_remove("LD_LIBRARY_PATH")
        .env("CARGO", "/usr/bin/cargo")
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTDOC", "/usr/bin/rustdoc");
    command
}

fn for_target(mut command: Command, workspace: &Workspace, target: &str) -> Command {
    for target in ["AARCH64_UNKNOWN_LINUX_GNU", "ARMV7_UNKNOWN_LINUX_GNUEABIHF"] {
        command.env(format!("CARGO_TARGET_{target}_RUSTFLAGS"), LINUX_FLAGS);
    }
    command.env("CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER", "arm-linux-gnueabihf-gcc");
    command.env("CARGO_TARGET_THUMBV7EM_NONE_EABIHF_LINKER", "arm-linux-gnueabihf-ld");
    if is_cross() {
        command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
    }
    command.args(["--target", target]).arg("--target-dir").arg(workspace.target.join("debian"));
    command
}

//! The library for targets that no test runs on: warnings are errors there too, for no other stage sees what only they have.

use super::{NO_STD, Stage};
use crate::debian;

/// Checked with the standard library.
const WITH_STD: [&str; 11] = [
    "x86_64-unknown-linux-musl",
    "x86_64-pc-windows-gnu",
    "i686-unknown-linux-gnu",
    "aarch64-linux-android",
    "aarch64-apple-ios",
    "aarch64-apple-darwin",
    "armv7-linux-androideabi",
    "riscv64gc-unknown-linux-gnu",
    // Big-endian.
    "s390x-unknown-linux-gnu",
    "wasm32-unknown-unknown",
    "wasm32-wasip1",
];

/// Checked with `core` and `alloc`, which are all they have.
const WITHOUT_STD: [&str; 4] = [
    "aarch64-unknown-none",
    "riscv32imac-unknown-none-elf",
    "thumbv7m-none-eabi",
    "thumbv8m.main-none-eabihf",
];
const ALLOC_FEATURES: &[&str] = &["--no-default-features", "--features", "alloc,half,serde,safetensors"];

/// Not only checked but built: Cortex-M0, without atomic read-modify-write, which `alloc` must do without; and Cortex-M4F/M7.
/// One of [`NO_STD`] each.
const BUILT: [&str; 2] = ["thumbv6m-none-eabi", "thumbv7em-none-eabihf"];

pub fn stages() -> impl Iterator<Item = Stage> {
    // A library for itself takes longer to check than what is checked with it: all at once keep every core busy.
    let libraries = Stage::new("checked-std", "standard libraries to check with", |w, log| {
        debian::check_std(w, log, "std", &WITH_STD)?;
        debian::check_std(w, log, "alloc", &WITHOUT_STD)
    });
    let with = WITH_STD.into_iter().map(|target| check(target, "std", &["--all-features"]));
    let without = WITHOUT_STD.into_iter().map(|target| check(target, "alloc", ALLOC_FEATURES));
    [libraries.needs("debian")].into_iter().chain(with).chain(without).chain(built())
}

fn check(target: &'static str, what: &str, features: &'static [&'static str]) -> Stage {
    Stage::new(format!("check-{target}"), format!("check, {what}, {target}"), move |w, log| {
        let mut command = debian::cargo_check(w, target);
        log.check(command.args(["-p", "i8gemm", "--lib"]).args(features)).map(drop)
    })
    .needs("checked-std")
}

/// Builds without `std` for machines that have none: here a forgotten `std` fails.
fn built() -> impl Iterator<Item = Stage> {
    let build = |target: &'static str, (name, features): (&'static str, &'static [&'static str])| {
        Stage::new(format!("{target}-{name}"), format!("no_std build, {name}, {target}"), move |w, log| {
            let crates = if name == "alloc" { "core,alloc" } else { "core" };
            let mut command = debian::cargo_build_std(w, "build", target, crates);
            command.env("RUSTFLAGS", "-D warnings");
            log.check(command.args(["-p", "i8gemm", "--lib"]).args(features)).map(drop)
        })
        .needs("debian")
    };
    BUILT.into_iter().zip(NO_STD).map(move |(target, features)| build(target, features))
}

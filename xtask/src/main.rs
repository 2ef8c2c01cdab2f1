//! Developer commands of `i8gemm`: `cargo xtask --help` lists them.

mod bench;
mod debian;
mod loops;
mod mca;
mod run;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of i8gemm")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check everything: formatting, lints, every kernel natively and under emulation, docs, no_std builds
    Test(test::Args),
    /// Measure the crate side by side with what users would pick instead
    Bench(bench::Args),
    /// Predict the speed of the ARM kernels' loops on cores that are not at hand
    Mca(mca::Args),
}

fn main() -> ExitCode {
    program::main(|cli: &Cli| match &cli.command {
        Command::Test(args) => test::main(args),
        Command::Bench(args) => bench::main(args),
        Command::Mca(args) => mca::main(args),
    })
}

//! Developer commands of `i8gemm`: `cargo xtask --help` lists them.

mod debian;
mod loops;
mod run;
mod test;

use std::process::ExitCode;

use anyhow::Result;
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
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Test(args) => test::main(&args),
    }
}
